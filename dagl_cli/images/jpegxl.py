"""JPEG XL (ISO/IEC 18181). Pixels go through libjxl without loss; the boxes are ours, and so is a look at the header.

The decoder at hand gives pixels and nothing else, so pictures in other colours than sRGB are refused: their profile
would be lost. It also turns pictures upright by itself.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import imagecodecs
import numpy as np

from ..errors import ImageError
from .boxes import boxes
from .exif import holding_resolution, resolution_of, upright
from .image import Metadata, check_size, unpremultiplied

CODESTREAM, BOXES = b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"
_START = BOXES + b"\0\0\0\x14ftypjxl \0\0\0\0jxl "
_MOST_INFLATED = 1 << 26
_ENUMERATED = ((0, 0), (0, 1), (4, 2), (6, 18))
"""Ways to code a number (U32 of 18181-1, B.2.3): bits to read, and what to add to them."""
_SRGB, _D65, _SRGB_CURVE = 1, 1, 13
_ALPHA = 0


@dataclass
class Bits:
    """A stream of bits, the lowest first."""

    data: bytes
    used: int = 0

    def take(self, count: int) -> int:
        start, self.used = self.used, self.used + count
        if self.used > 8 * len(self.data):
            raise ImageError("it is truncated: get a complete copy of it")
        return int.from_bytes(self.data[start // 8 : self.used // 8 + 1], "little") >> start % 8 & (1 << count) - 1

    def number(self, ways: tuple[tuple[int, int], ...]) -> int:
        count, offset = ways[self.take(2)]
        return self.take(count) + offset

    def size(self) -> tuple[int, int]:
        """Width and height."""
        small = self.take(1)

        def side() -> int:
            return 8 * (self.take(5) + 1) if small else self.number(((9, 1), (13, 1), (18, 1), (30, 1)))

        height = side()
        across, down = ((0, 0), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[self.take(3)]
        return (height * across // down if across else side()), height

    def depth(self) -> int:
        """Bits per sample. Raises ImageError for floating-point."""
        if self.take(1):
            raise ImageError("its samples are floating-point: convert it to 16-bit unsigned integers")
        return self.number(((0, 8), (0, 10), (0, 12), (6, 1)))


def decode(data: bytes, max_pixels: int) -> tuple[np.ndarray, Metadata]:
    """Levels, (H, W) or (H, W, C) uint8 or uint16, and the rest. Raises ImageError."""
    metadata = Metadata()
    stream = b"" if data.startswith(BOXES) else data
    for kind, content in boxes(data) if data.startswith(BOXES) else ():
        if kind == b"brob":
            kind, content = (
                bytes(content[:4]),
                memoryview(imagecodecs.brotli_decode(bytes(content[4:]), out=_MOST_INFLATED)),
            )
        if kind in (b"jxlc", b"jxlp"):
            stream = stream or bytes(content[4 * (kind == b"jxlp") :][:4096])
        elif kind == b"Exif" and len(content) > 4:
            start = 4 + int.from_bytes(content[:4], "big")
            metadata.exif, _ = upright(bytes(content[start:]))
        elif kind == b"xml ":
            metadata.xmp = bytes(content)
    premultiplied = _check(Bits(stream[2:4096]), max_pixels)
    levels = imagecodecs.jpegxl_decode(data)
    metadata.resolution = resolution_of(metadata.exif)
    return unpremultiplied(levels) if premultiplied else levels, metadata


def _check(bits: Bits, max_pixels: int) -> bool:
    """Refuses by the header what would lose information. Returns whether colours are multiplied with alpha."""
    check_size(*bits.size(), max_pixels)
    if bits.take(1):
        return False
    if bits.take(1):
        bits.take(3)  # the orientation
        if bits.take(1):
            bits.size()
        if bits.take(2):  # preview, animation
            raise ImageError("it is an animation or has a preview: convert it to a single picture")
    premultiplied = False
    if bits.depth() > 16:
        raise ImageError("its samples have more than 16 bits: convert it to 16-bit")
    bits.take(1)
    extra = bits.number(((0, 0), (0, 1), (4, 2), (12, 1)))
    if extra and not bits.take(1):
        kind = bits.number(_ENUMERATED)
        bits.depth()
        bits.number(((0, 0), (0, 3), (0, 4), (3, 1)))
        bits.take(8 * bits.number(((0, 0), (4, 0), (5, 16), (10, 48))))
        if kind != _ALPHA:
            raise ImageError("it has a channel that is neither colour nor alpha: convert it to RGB or gray")
        premultiplied = bool(bits.take(1))
    if extra > 1:
        raise ImageError(f"it has {extra} channels beside its colours: convert it to RGB or gray")
    bits.take(1)
    if not bits.take(1) and not _is_srgb(bits):
        raise ImageError("its colours are not sRGB, and what they are would be lost: convert it to PNG or TIFF")
    return premultiplied


def _is_srgb(bits: Bits) -> bool:
    """Whether the numbers of a colour encoding mean sRGB, or gray with its curve."""
    if bits.take(1):
        return False  # an ICC profile
    space = bits.number(_ENUMERATED)
    if space > 1 or bits.number(_ENUMERATED) != _D65 or (space == 0 and bits.number(_ENUMERATED) != _SRGB):
        return False
    return not bits.take(1) and bits.number(_ENUMERATED) == _SRGB_CURVE


def encode(levels: np.ndarray, metadata: Metadata) -> bytes:
    """levels: (H, W) or (H, W, C) uint8: 16 bits would be called linear. Without loss; a resolution goes into EXIF."""
    exif = holding_resolution(metadata, "JPEG XL")
    stream = bytes(imagecodecs.jpegxl_encode(levels, lossless=True, usecontainer=False))
    parts = [(b"Exif", bytes(4) + exif)] if exif else []
    parts += [(b"xml ", metadata.xmp)] if metadata.xmp else []
    parts.append((b"jxlc", stream))
    return _START + b"".join(struct.pack(">I4s", 8 + len(content), kind) + content for kind, content in parts)
