"""XMP packets: carried as they are, but for what is no longer true of the picture (XMP specification, part 1)."""

from __future__ import annotations

import html
import re
from xml.parsers import expat

_PROMISES = {
    "http://ns.google.com/photos/1.0/camera/": "a motion photo's video",
    "http://ns.oplus.com/photos/1.0/camera/": "a motion photo's video",
    "http://ns.google.com/photos/1.0/container/": "pictures or a video behind it",
    "http://ns.google.com/photos/1.0/container/item/": "pictures or a video behind it",
    "http://ns.google.com/photos/1.0/depthmap/": "a depth map",
    "http://ns.google.com/photos/dd/1.0/device/": "a depth map",
    "http://ns.google.com/photos/1.0/image/": "a second picture",
    "http://ns.google.com/photos/1.0/audio/": "a recording",
    "http://ns.adobe.com/hdr-gain-map/1.0/": "a gain map",
    "http://ns.apple.com/HDRGainMap/1.0/": "a gain map",
    "http://ns.adobe.com/xmp/note/": "extended XMP",
}
"""Namespaces of properties about data that lies elsewhere in the file and is not carried -> what that is."""

_OURS = "urn:dagl:restored:1.0/"
_RECORD = re.compile(rb'<rdf:Description rdf:about="" xmlns:dagl="%s"[^<>]*/>' % re.escape(_OURS.encode()))
_PACKET = (
    b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">%s</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)
LINE = str.maketrans({"\n": "&#10;", "\r": "&#13;", "\t": "&#9;"})
"""Attributes in one line."""


def upright(packet: bytes) -> bytes:
    """With the orientation that the picture has once it is turned."""
    return re.sub(rb'(tiff:Orientation(?:="|>))[2-8]', rb"\g<1>1", packet)


def truthful(packet: bytes) -> tuple[bytes | None, list[str]]:
    """Without the properties that promise what is not carried, and what that was; None where nothing can be saved.

    Every other byte stays as it is.
    """
    if not any(uri.encode() in packet for uri in _PROMISES):
        return packet, []
    finder = _Finder(packet)
    try:
        finder.parser.Parse(packet.rstrip(b"\0"), True)
    except expat.ExpatError:
        return None, ["what is not there"]
    kept, position = bytearray(), 0
    for start, end in sorted(finder.cuts):
        kept += packet[position:start]
        position = max(position, end)
    return bytes(kept + packet[position:]), list(dict.fromkeys(finder.gone))


def with_record(packet: bytes | None, values: dict[str, str]) -> bytes:
    """With how dagl made the picture, in place of an earlier such record, as properties of `_OURS`.

    A packet that is no RDF stays as it is.
    """
    record = element(values)
    if packet is None:
        return _PACKET % record
    packet = without_record(packet)
    end = packet.rfind(b"</rdf:RDF>")
    return packet if end < 0 else packet[:end] + record + packet[end:]


def element(values: dict[str, str]) -> bytes:
    """How dagl made a picture, in one line, which formats without XMP hold as a text."""
    properties = "".join(f' dagl:{name}="{html.escape(value).translate(LINE)}"' for name, value in values.items())
    return f'<rdf:Description rdf:about="" xmlns:dagl="{_OURS}"{properties}/>'.encode()


def without_record(text: bytes) -> bytes:
    """Without every `element`."""
    return _RECORD.sub(b"", text)


def record(data: bytes) -> dict[str, str]:
    """What is in an `element` anywhere in data (XMP, or a file that holds it as it is); empty: there is none."""
    found = _RECORD.search(data)
    pairs = re.findall(r' dagl:(\w+)="([^"]*)"', found[0].decode(errors="replace")) if found else ()
    return {name: html.unescape(value) for name, value in pairs}


class _Finder:
    """Where in a packet the elements, attributes and declarations of the namespaces in `_PROMISES` are."""

    def __init__(self, packet: bytes) -> None:
        self.packet, self.depth, self.start = packet, 0, 0
        self.cuts: list[tuple[int, int]] = []
        self.gone: list[str] = []
        self.declared: list[str] = []
        self.parser = expat.ParserCreate(namespace_separator=" ")
        self.parser.namespace_prefixes = True
        self.parser.StartNamespaceDeclHandler = lambda prefix, uri: self.declared.append(f"{uri} {prefix or ''} xmlns")
        self.parser.StartElementHandler = self.element
        self.parser.EndElementHandler = self.end

    def element(self, name: str, attributes: dict[str, str]) -> None:
        """Names are 'namespace local prefix', or have fewer parts."""
        declared, self.declared = self.declared, []
        if self.depth or name.split(" ")[0] in _PROMISES:
            if not self.depth:
                self.start = self.parser.CurrentByteIndex
                self.gone.append(_PROMISES[name.split(" ")[0]])
            self.depth += 1
            return
        for attribute in [*declared, *attributes]:
            uri, local, prefix = (*attribute.split(" "), "", "")[:3]  # old packets have a plain `about`
            if uri in _PROMISES and prefix:
                pattern = rf"\s+{re.escape(prefix)}:{re.escape(local)}\s*=\s*(?:\"[^\"]*\"|'[^']*')"
                if found := re.compile(pattern.encode()).search(self.packet, self.parser.CurrentByteIndex):
                    self.cuts.append(found.span())
                if prefix != "xmlns":
                    self.gone.append(_PROMISES[uri])

    def end(self, name: str) -> None:
        if self.depth == 1:  # at the closing tag, or behind a tag that closes itself
            index = self.parser.CurrentByteIndex
            closing = self.packet.startswith(b"</", index)
            self.cuts.append((self.start, self.packet.index(b">", index) + 1 if closing else index))
        self.depth = max(0, self.depth - 1)
