"""JPEG 2000 (ITU-T T.800). Pixels go through OpenJPEG without loss, the boxes of JP2 are ours."""

from __future__ import annotations

import math
import struct
from fractions import Fraction
from typing import NamedTuple

import imagecodecs
import numpy as np

from ..errors import ImageError
from ..silence import silent
from .boxes import boxes
from .image import Metadata, Resolution, check_size, spread

START = b"\0\0\0\x0cjP  \r\n\x87\n"
CODESTREAM = b"\xff\x4f\xff\x51"
_XMP = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
_EXIF = b"JpgTiffExif->JP2"
_COLOURS = {12: "CMYK", 14: "CIELAB", 18: "YCbCr"}
"""Numbered colour spaces that are refused."""
_SRGB, _GRAY, _ALPHA = 16, 17, 1


class _Header(NamedTuple):
    """SIZ, the first segment of a codestream."""

    width: int
    height: int
    bits: list[int]
    """Per channel; 128 more: signed."""
    steps: set[int]
    """Distances of samples; other than 1 where colours are subsampled."""


def decode(data: bytes, max_pixels: int) -> tuple[np.ndarray, Metadata]:
    """Levels, (H, W) or (H, W, C) uint8 or uint16, and the rest. Raises ImageError."""
    metadata = Metadata()
    start = data.find(CODESTREAM)
    header = _header(data, start)
    check_size(header.width, header.height, max_pixels)
    channels, bits = len(header.bits), header.bits[0]
    alpha = channels == 4
    for kind, content in boxes(data) if data.startswith(START) else ():
        if kind == b"jp2h":
            alpha = _understand(content, metadata) or alpha
        elif kind == b"uuid" and content[:16] == _XMP:
            metadata.xmp = bytes(content[16:])
        elif kind == b"uuid" and content[:16] == _EXIF:
            metadata.exif = bytes(content[16:])
    if header.steps != {1} or len(set(header.bits)) > 1 or channels > 4:
        raise ImageError("its channels differ in size or depth, or are too many: convert it to RGB or gray")
    if bits > 16:
        raise ImageError(f"its samples are {bits & 127}-bit{' signed' * (bits > 127)}: convert it to 16-bit")
    if channels == 2 and not alpha:
        raise ImageError("its two channels are two pictures, and neither is an alpha channel: save each as one file")
    with silent():
        levels = imagecodecs.jpeg2k_decode(data)
    return spread(levels, bits), metadata


def _header(data: bytes, start: int) -> _Header:
    try:
        right, bottom, left, top = struct.unpack_from(">4I", data, start + 8)
        (channels,) = struct.unpack_from(">H", data, start + 40)
        table = struct.unpack_from(f">{3 * channels}B", data, start + 42)
    except struct.error:
        raise ImageError("it is truncated: get a complete copy of it") from None
    if start < 0 or not channels:
        raise ImageError("it is damaged (its header makes no sense): get an intact copy of it")
    return _Header(right - left, bottom - top, [b + 1 for b in table[::3]], {*table[1::3], *table[2::3]})


def _understand(content: memoryview, metadata: Metadata) -> bool:
    """What the header box says; whether one of the channels is alpha."""
    alpha = False
    for kind, inner in boxes(content):
        try:
            if kind == b"colr" and inner[0] == 1:
                (number,) = struct.unpack_from(">I", inner, 3)
                if number in _COLOURS:
                    raise ImageError(f"its colours are {_COLOURS[number]}: convert it to RGB or gray")
            elif kind == b"colr" and inner[0] in (2, 3):
                metadata.icc = metadata.icc or bytes(inner[3:])
            elif kind == b"pclr":
                raise ImageError("it has a palette: convert it to RGB or gray")
            elif kind == b"cdef":
                alpha = any(typ == _ALPHA for _, typ, _ in struct.iter_unpack(">3H", inner[2:]))
            elif kind == b"res ":
                for _, numbers in boxes(inner):
                    a, b, c, d, down, across = struct.unpack_from(">4H2b", numbers)
                    y, x = Fraction(a, b) * Fraction(10) ** down, Fraction(c, d) * Fraction(10) ** across
                    metadata.resolution = Resolution(x / 100, y / 100, "cm").to("inch") if x and y else None
        except (struct.error, IndexError, ArithmeticError):
            metadata.notes.append(f"its {kind.decode('ascii', 'backslashreplace').strip()} box is malformed: left out")
    return alpha


def encode(levels: np.ndarray, metadata: Metadata) -> bytes:
    """levels: (H, W) or (H, W, C) uint8 or uint16. Without loss."""
    height, width, channels = (*levels.shape, 1)[:3]
    bits = 8 * levels.dtype.itemsize
    colours = 3 if channels > 2 else 1
    parts = [
        _box(b"ihdr", struct.pack(">IIHBBBB", height, width, channels, bits - 1, 7, 0, 0)),
        _box(
            b"colr",
            b"\2\0\0" + metadata.icc
            if metadata.icc
            else struct.pack(">3BI", 1, 0, 0, _SRGB if colours == 3 else _GRAY),
        ),
    ]
    if channels > colours:
        rows = [(number, 0, number + 1) for number in range(colours)] + [(colours, _ALPHA, 0)]
        parts.append(_box(b"cdef", struct.pack(">H", channels) + b"".join(struct.pack(">3H", *row) for row in rows)))
    if metadata.resolution and metadata.resolution.unit == "none":
        metadata.notes.append("its pixel size is left out, which JPEG 2000 holds with a unit only")
    elif metadata.resolution:
        x, y, _ = metadata.resolution.to("cm")
        numbers = [n for v in (y, x) for n in _ratio(100 * v)]
        parts.append(_box(b"res ", _box(b"resc", struct.pack(">4H2b", *numbers, 0, 0))))
    whole = [START, _box(b"ftyp", b"jp2 \0\0\0\0jp2 "), _box(b"jp2h", b"".join(parts))]
    whole += [_box(b"uuid", _XMP + metadata.xmp)] if metadata.xmp else []
    whole += [_box(b"uuid", _EXIF + metadata.exif)] if metadata.exif else []
    stream = imagecodecs.jpeg2k_encode(levels, codecformat="j2k", reversible=True)
    return b"".join([*whole, struct.pack(">I4s", 8 + len(stream), b"jp2c"), stream])


def _ratio(number: Fraction) -> tuple[int, int]:
    """In 16 bits each."""
    most = 2**16 - 1
    number = min(max(number, Fraction(1, most)), Fraction(most))
    return number.limit_denominator(most // max(1, math.ceil(number))).as_integer_ratio()


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content
