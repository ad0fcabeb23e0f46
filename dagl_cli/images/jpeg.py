"""JPEG (ITU-T T.81). Pixels go through Pillow's libjpeg, which sees only the segments that they need."""

from __future__ import annotations

import io
import math
import re
import struct
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import PIL.Image
from PIL.JpegImagePlugin import JpegImageFile

from ..errors import ImageError
from .exif import resolution_of
from .image import Metadata, Resolution, check_size

LONGEST_SEGMENT = 65533
"""Bytes of content."""
_EXIF, _XMP, _MORE_XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"http://ns.adobe.com/xmp/extension/\0"
_ICC = b"ICC_PROFILE\0"
_UNITS = {0: "none", 1: "inch", 2: "cm"}
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""What ends a scan: neither a stuffed 255, nor a restart, nor filling."""
_PICTURE_OR_VIDEO = re.compile(rb"\xff\xd8\xff|....ftyp", re.DOTALL)
_START_OF_SCAN, _END = 0xDA, 0xD9
_APPLICATION = {*range(0xE0, 0xF0), 0xFE}
"""Segments that programs put there, and comments."""
_MOST_SCANS = 100
"""Each costs time for the whole picture; an encoder makes about ten."""
_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
"""Markers of headers, one for each process of coding (table B.1; 0xF7: ITU-T T.87)."""
_UNREADABLE = {
    0xC3: "lossless", 0xC5: "hierarchical", 0xC6: "hierarchical", 0xC7: "lossless hierarchical",
    0xC9: "arithmetically coded", 0xCA: "arithmetically coded", 0xCB: "lossless, arithmetically coded",
    0xCD: "hierarchical", 0xCE: "hierarchical", 0xCF: "lossless hierarchical", 0xF7: "JPEG-LS",
}  # fmt: skip
_COLOURS = {1: "gray", 3: "colour", 4: "CMYK"}


class Frame(NamedTuple):
    """The header of a coded picture."""

    marker: int
    bits: int
    height: int
    width: int
    channels: int


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start and end of the content) of each segment; of a scan, where its data ends.

    Raises ImageError: it is truncated, or there is no end.
    """
    position = 2
    while position + 2 <= len(data):
        if data[position] != 0xFF:
            raise ImageError("it is damaged (segments do not follow each other): get an intact copy of it")
        marker = data[position + 1]
        if marker == 0xFF:  # filling
            position += 1
            continue
        if marker == _END:
            yield marker, position + 2, position + 2
            return
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # no content
            position += 2
            continue
        if position + 4 > len(data):
            break
        start, end = position + 4, position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if end < start or end > len(data):
            break
        if marker == _START_OF_SCAN:
            found = _MARKER.search(data, end)
            if not found:
                break
            end = found.start()
        yield marker, start, end
        position = end
    raise ImageError("it is truncated: get a complete copy of it")


def frame(data: bytes) -> Frame | None:
    """The header, wherever the data ends."""
    try:
        for marker, start, _ in segments(data):
            if marker in _FRAMES:
                return Frame(marker, *struct.unpack_from(">BHHB", data, start))
            if marker == _START_OF_SCAN:
                break
    except (ImageError, struct.error):
        pass
    return None


def decode(data: bytes, max_pixels: int) -> tuple[np.ndarray, Metadata]:
    """Levels, (H, W) or (H, W, 3) uint8, and the rest. Raises ImageError."""
    metadata = Metadata()
    essential: list[bytes] = [data[:2]]
    profile: dict[int, bytes] = {}
    scans, coded, blocks, end = 0, 0, 0, 0
    for marker, start, end in segments(data):
        content = data[start:end]
        if marker in _FRAMES:
            header = Frame(marker, *struct.unpack_from(">BHHB", content))
            _check(header, max_pixels)
            blocks = max(blocks, math.ceil(header.width / 8) * math.ceil(header.height / 8))
        scans += marker == _START_OF_SCAN
        coded += len(content) if marker == _START_OF_SCAN else 0
        if scans > _MOST_SCANS:
            raise ImageError(f"it is damaged (over {_MOST_SCANS} scans): get an intact copy of it")
        if marker in _APPLICATION:
            _understand(marker, content, metadata, profile)
        if marker not in _APPLICATION or content.startswith((b"Adobe", b"JFIF\0")):  # these define the colours
            essential.append(_as_it_is(data, marker, start, end))
    if 8 * coded < blocks:  # each takes a bit at least, but libjpeg makes up what is missing
        raise ImageError("it is truncated: get a complete copy of it")
    if profile and all(number in profile for number in range(1, len(profile) + 1)):
        metadata.icc = b"".join(profile[number] for number in sorted(profile))
    elif profile:
        metadata.notes.append("its ICC profile is incomplete: left out")
    if _PICTURE_OR_VIDEO.search(data, end):
        metadata.notes.append("what follows it in the file (another picture, a video) is not kept")
    metadata.resolution = metadata.resolution or resolution_of(metadata.exif)
    with JpegImageFile(io.BytesIO(b"".join(essential))) as file:
        metadata.jpeg_tables = file.quantization
        levels = np.asarray(file.convert("L" if file.mode == "L" else "RGB"))
    return levels, metadata


def _check(header: Frame, max_pixels: int) -> None:
    kind = _UNREADABLE.get(header.marker)
    if not kind and header.bits != 8:
        kind = f"{header.bits}-bit"
    if kind:
        name = kind if kind.startswith("JPEG") else f"{kind} JPEG"
        article = "an" if name[0] in "a" else "a"
        raise ImageError(f"it is {article} {name}, which dagl does not read: convert it to 16-bit PNG or TIFF")
    if not header.height:
        raise ImageError(
            "its header leaves its height open (a DNL segment may have it), which dagl does not read: save it anew"
        )
    check_size(header.width, header.height, max_pixels)
    if header.channels not in (1, 3):
        raise ImageError(f"its colours are {_COLOURS.get(header.channels, 'unusual')}: convert it to RGB or gray")


def _understand(marker: int, content: bytes, metadata: Metadata, profile: dict[int, bytes]) -> None:
    """What a segment of a program says. What is malformed is left out and named."""
    if marker == 0xE0 and content.startswith(b"JFIF\0"):
        if len(content) < 12:
            metadata.notes.append("its JFIF segment is malformed: left out")
        else:
            unit, x, y = struct.unpack_from(">BHH", content, 7)
            if x and y and (unit or x != y):
                metadata.resolution = Resolution(Fraction(x), Fraction(y), _UNITS.get(unit, "none"))
    elif marker == 0xE1 and content.startswith(_EXIF):
        metadata.exif = (metadata.exif or b"") + content[len(_EXIF) :]
    elif marker == 0xE1 and content.startswith(_XMP):
        metadata.xmp = metadata.xmp or content[len(_XMP) :]
    elif marker == 0xE2 and content.startswith(_ICC) and len(content) > len(_ICC) + 2:
        profile.setdefault(content[len(_ICC)], content[len(_ICC) + 2 :])
    elif marker in (0xED, 0xFE):  # Photoshop's (IPTC), comments
        metadata.jpeg_segments += _segment(marker, content)


def _as_it_is(data: bytes, marker: int, start: int, end: int) -> bytes:
    """What `segments` found, with its marker."""
    return data[end - 2 : end] if marker == _END else data[start - 4 : end]


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def stripped(data: bytes) -> bytes:
    """The same picture, sample by sample, without what programs say of it but its colours."""
    kept = [data[:2]]
    for marker, start, end in segments(data):
        content = data[start:end]
        if marker == 0xE0 and content.startswith(b"JFIF\0"):  # without a size and a small picture
            kept.append(_segment(marker, content[:7].ljust(7, b"\1") + struct.pack(">BHHBB", 0, 1, 1, 0, 0)))
        elif marker not in _APPLICATION or content.startswith((b"Adobe", _ICC)):
            kept.append(_as_it_is(data, marker, start, end))
    return b"".join(kept)


def encode(levels: np.ndarray, metadata: Metadata) -> bytes:
    """levels: (H, W) or (H, W, 3) uint8. Quality 95 without chroma subsampling, so that no new artifacts come in."""
    options = {
        "icc_profile": metadata.icc,
        "exif": metadata.exif and _EXIF + metadata.exif,
        "xmp": metadata.xmp,
        "extra": metadata.jpeg_segments,
    }
    buffer = io.BytesIO()
    given = {key: value for key, value in options.items() if value}
    PIL.Image.fromarray(levels).save(buffer, "JPEG", quality=95, subsampling=0, **given)
    if metadata.resolution and metadata.resolution.is_bare():
        metadata.notes.append("its pixel size is left out, which JPEG holds with a unit only")
    elif metadata.resolution:
        buffer.seek(13)  # of the JFIF segment, which comes first
        buffer.write(_density(metadata.resolution))
    return buffer.getvalue()


def _density(resolution: Resolution) -> bytes:
    """As JFIF has it: whole numbers; without a unit, such of the same relation."""
    if resolution.unit == "none":
        return struct.pack(">BHH", 0, *resolution.relation(2**16 - 1))
    x, y = (min(2**16 - 1, max(1, round(v))) for v in resolution[:2])
    return struct.pack(">BHH", 1 if resolution.unit == "inch" else 2, x, y)
