"""PNG (W3C PNG specification, third edition). Pixels go through libpng, chunks are ours.

Pillow reads 16-bit colour as 8-bit and says nothing, and libpng prints its complaints about chunks, so it sees only
those that the pixels need.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction

import imagecodecs
import numpy as np

from ..errors import ImageError
from ..silence import silent
from .image import Metadata, Resolution, check_size, refuse_frames

_BITS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""Colour types: gray, RGB, palette, gray with alpha, RGB with alpha -> the bit depths they come in."""
_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_ANIMATED = (b"acTL", b"fcTL", b"fdAT")
_PALETTE = 3
_COLOURS = (b"cHRM", b"gAMA", b"sRGB", b"cICP")
_TEXT = (b"tEXt", b"zTXt", b"iTXt")
_ONCE = (b"iCCP", b"eXIf", b"pHYs", b"acTL", *_COLOURS)
_XMP_KEYWORD = b"XML:com.adobe.xmp"
_EXIF_KEYWORD = b"Raw profile type exif"
_MOST_INFLATED = 1 << 26
"""Bytes: no ICC profile or text is longer, so a small file cannot fill the memory through one."""
_END_OF_NUMBERS = 2**31
"""PNG's four-byte numbers are below it."""
_MOST_CHUNKS = 1_000_000


def decode(data: bytes, max_pixels: int) -> tuple[np.ndarray, Metadata]:
    """Levels, (H, W) or (H, W, C) uint8 or uint16, and the rest. Raises ImageError."""
    metadata = Metadata()
    pixels: dict[bytes, list[memoryview]] = {kind: [] for kind in _PIXELS}
    seen: set[bytes] = set()
    for kind, content, chunk in chunks(data):
        if kind == b"IHDR" or not pixels[b"IHDR"]:
            _check_header(kind, content, max_pixels)
        if kind in _PIXELS:
            pixels[kind].append(chunk)
            continue
        _take(kind, content, chunk, metadata, seen)
    _drop_unused(pixels, metadata)
    essential: list[bytes | memoryview] = [data[:8], *(chunk for chunks in pixels.values() for chunk in chunks)]
    with silent():
        return imagecodecs.png_decode(b"".join(essential)), metadata


def described(data: bytes | memoryview) -> Metadata:
    """What an animation says beside its frames, as far as the file goes."""
    metadata, seen = Metadata(), set[bytes]()
    with suppress(ImageError):
        for kind, content, chunk in chunks(data):
            if kind not in (*_PIXELS, *_ANIMATED):
                _take(kind, content, chunk, metadata, seen)
    return metadata


def _take(kind: bytes, content: memoryview, chunk: memoryview, metadata: Metadata, seen: set[bytes]) -> None:
    """What a chunk says, or what is wrong with it. seen: the kinds that were there before."""
    name = kind.decode("ascii", "backslashreplace")
    if kind in seen:
        metadata.notes.append(f"its {name} chunk is there more than once: all but the first are left out")
        return
    try:
        if zlib.crc32(chunk[4:-4]) != struct.unpack(">I", chunk[-4:])[0]:
            raise ValueError("a wrong checksum")
        _understand(kind, bytes(content), metadata)
    except (ValueError, IndexError, struct.error, zlib.error):
        metadata.notes.append(f"its {name} chunk is malformed: left out")
    if kind in _ONCE:
        seen.add(kind)


def _drop_unused(pixels: dict[bytes, list[memoryview]], metadata: Metadata) -> None:
    """Palettes of pictures that have none, and transparent colours that cannot be: libpng prints what it thinks."""
    colours = pixels[b"IHDR"][0][8 + 9]
    if colours != _PALETTE:
        pixels[b"PLTE"] = []
    elif len(pixels[b"PLTE"]) != 1 or len(pixels[b"PLTE"][0]) % 3 or not 15 <= len(pixels[b"PLTE"][0]) <= 780:
        raise ImageError("it is damaged (its palette makes no sense): get an intact copy of it")
    lengths = {0: (2,), 2: (6,), _PALETTE: range(1, len(b"".join(pixels[b"PLTE"])) // 3 - 3)}.get(colours, ())
    if pixels[b"tRNS"] and (len(pixels[b"tRNS"]) > 1 or len(pixels[b"tRNS"][0]) - 12 not in lengths):
        metadata.notes.append("its tRNS chunk is malformed: left out")
        pixels[b"tRNS"] = []


def _check_header(kind: bytes, content: memoryview, max_pixels: int) -> None:
    if kind != b"IHDR" or len(content) != 13:
        raise ImageError("it is damaged (it does not begin with a header): get an intact copy of it")
    width, height, bits, colours, *methods, interlace = struct.unpack(">IIBBBBB", content)
    check_size(width, height, max_pixels)
    if bits not in _BITS.get(colours, ()) or any(methods) or interlace > 1:
        raise ImageError("it is damaged (its header makes no sense): get an intact copy of it")


def chunks(data: bytes | memoryview) -> Iterator[tuple[bytes, memoryview, memoryview]]:
    """(type, content, whole chunk) of each, to the end that every complete PNG has.

    The checksums of those that the pixels need are right.
    """
    position, kind = 8, b""
    view = memoryview(data)
    for _ in range(_MOST_CHUNKS):
        if kind == b"IEND":
            return
        if position + 12 > len(data):
            raise ImageError("it is truncated: get a complete copy of it")
        length, kind = struct.unpack_from(">I4s", data, position)
        chunk = view[position : position + 12 + length]
        if len(chunk) < 12 + length:
            raise ImageError("it is truncated: get a complete copy of it")
        if kind not in _PIXELS and kind[:1].isupper():
            raise ImageError("it is damaged (it has chunks that PNG does not know): get an intact copy of it")
        if kind in _PIXELS and zlib.crc32(chunk[4:-4]) != struct.unpack(">I", chunk[-4:])[0]:
            raise ImageError("it is damaged (a checksum is wrong): get an intact copy of it")
        yield kind, chunk[8:-4], chunk
        position += 12 + length
    raise ImageError("it is damaged (over a million chunks): get an intact copy of it")


def _understand(kind: bytes, content: bytes, metadata: Metadata) -> None:
    """What a chunk says goes where it goes in other formats too. Raises ValueError and others for malformed ones."""
    keyword, separator, text = content.partition(b"\0")
    if kind == b"acTL":
        refuse_frames(struct.unpack_from(">I", content)[0])
    elif kind == b"iCCP":
        if not separator or text[:1] != b"\0":
            raise ValueError
        metadata.icc = _inflate(text[1:])
    elif kind == b"eXIf":
        if not content:
            raise ValueError
        metadata.exif = content
    elif kind == b"pHYs":
        x, y, unit = struct.unpack(">IIB", content)
        if not (0 < x < _END_OF_NUMBERS and 0 < y < _END_OF_NUMBERS and unit <= 1):
            raise ValueError
        if unit == 1 or x != y:
            scale = Fraction(254, 10000) if unit == 1 else 1
            metadata.resolution = Resolution(Fraction(x) * scale, Fraction(y) * scale, "inch" if unit == 1 else "none")
    elif kind in _TEXT:
        if not separator or not 1 <= len(keyword) <= 79:
            raise ValueError
        if (kind == b"zTXt" and text[0]) or (kind == b"iTXt" and (text[0] > 1 or text[1] or text.count(0, 2) < 2)):
            raise ValueError
        if kind == b"iTXt" and keyword == _XMP_KEYWORD:
            packet = text[2:].split(b"\0", 2)[2]
            packet = _inflate(packet) if text[0] else packet
            metadata.xmp = metadata.xmp or packet
        elif keyword == _EXIF_KEYWORD:
            lines = (_inflate(text[1:]) if kind == b"zTXt" else text).split(b"\n")[3:]
            metadata.exif = metadata.exif or bytes.fromhex(b"".join(lines).decode("ascii"))
        else:
            metadata.png_text.append((kind, content))
    elif kind in _COLOURS:
        if not _is_colour(kind, content):
            raise ValueError
        metadata.png_colours.append((kind, content))


def _is_colour(kind: bytes, content: bytes) -> bool:
    """Whether a chunk that says what the levels mean has the length and the values that PNG gives it."""
    if kind == b"sRGB":
        return len(content) == 1 and content[0] <= 3
    if kind == b"cICP":  # the matrix is that of RGB, the range full or not
        return len(content) == 4 and content[2] == 0 and content[3] <= 1
    numbers = np.frombuffer(content, ">u4") if len(content) == (4 if kind == b"gAMA" else 32) else np.zeros(0)
    return numbers.size > 0 and bool(numbers.max() < _END_OF_NUMBERS) and (kind != b"gAMA" or bool(numbers[0] > 0))


def _inflate(data: bytes) -> bytes:
    inflater = zlib.decompressobj()
    inflated = inflater.decompress(data, _MOST_INFLATED)
    if not inflater.eof:
        raise ValueError("truncated, or too long to be true")
    return inflated


def encode(levels: np.ndarray, metadata: Metadata) -> bytes:
    """levels: (H, W) or (H, W, C) uint8 or uint16."""
    more = metadata.png_colours + metadata.png_text
    if metadata.icc:
        more.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.icc)))
    if metadata.exif:
        more.append((b"eXIf", metadata.exif))
    if metadata.xmp:
        more.append((b"iTXt", _XMP_KEYWORD + b"\0\0\0\0\0" + metadata.xmp))
    if metadata.resolution and metadata.resolution.is_bare():
        metadata.notes.append("its pixel size is left out, which PNG holds with a unit only")
    elif metadata.resolution:
        more.append((b"pHYs", _density(metadata.resolution)))
    filtered = levels.nbytes + len(levels)  # a byte more for each row
    # by default the buffer is too small for narrow images; this is over zlib's bound and the chunks' own bytes
    png = imagecodecs.png_encode(levels, out=filtered + filtered // 6 + 4096)
    header = 8 + 25  # signature, IHDR
    return b"".join([png[:header], *(packed(*chunk) for chunk in more), memoryview(png)[header:]])


def packed(kind: bytes, content: bytes | memoryview) -> bytes:
    """A chunk."""
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def _density(resolution: Resolution) -> bytes:
    """In pixels per metre; without a unit, as whole numbers of the same relation."""
    if resolution.unit == "none":
        return struct.pack(">IIB", *resolution.relation(2**31 - 1), 0)
    x, y = (min(2**31 - 1, max(1, round(v * 100))) for v in resolution.to("cm")[:2])
    return struct.pack(">IIB", x, y, 1)
