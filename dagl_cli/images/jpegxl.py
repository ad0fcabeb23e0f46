"""JPEG XL (ISO/IEC 18181). Pixels go through libjxl without loss; the boxes are ours, and so is a look at the header.

The codec at hand gives and takes pixels and nothing else: numbered colours are read as the ICC profile that they mean,
pictures with a profile of their own are refused, and 16 bits, which it calls linear, are called sRGB by us. It also
turns pictures upright by itself.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import imagecodecs
import numpy as np

from ..errors import ImageError
from .boxes import boxes
from .colour import srgb_decode, undated
from .exif import holding_resolution, resolution_of, upright
from .image import Metadata, check_size, spread, unpremultiplied

CODESTREAM, BOXES = b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"
_START = BOXES + b"\0\0\0\x14ftypjxl \0\0\0\0jxl "
_MOST_INFLATED = 1 << 26
_ENUMERATED = ((0, 0), (0, 1), (4, 2), (6, 18))
"""Ways to code a number (U32 of 18181-1, B.2.3): bits to read, and what to add to them."""
_GRAY, _CUSTOM, _LINEAR, _SRGB_CURVE = 1, 2, 8, 13
_WHITES = {1: (0.3127, 0.3290), 10: (1 / 3, 1 / 3), 11: (0.314, 0.351)}
"""D65, E and DCI, as chromaticities (18181-1, table E.5)."""
_PRIMARIES = {
    1: (0.64, 0.33, 0.30, 0.60, 0.15, 0.06), 9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}  # fmt: skip
"""sRGB's, ITU-R BT.2100's and P3's (table E.6)."""
_STEPS = ((19, 0), (19, 1 << 19), (20, 1 << 20), (21, 1 << 21))
"""Ways to code a chromaticity, in millionths, its sign in the lowest bit (E.3)."""
_GAMMAS = {_LINEAR: 1.0, 17: 2.6}
"""The curves of light itself and of DCI (table E.7)."""
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

    def chromaticities(self, count: int) -> tuple[float, ...]:
        """x and y of so many colours."""
        numbers = [self.number(_STEPS) for _ in range(2 * count)]
        return tuple((-(n + 1) // 2 if n % 2 else n // 2) / 1e6 for n in numbers)

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
    bits = Bits(stream[2:4096])
    check_size(*bits.size(), max_pixels)
    premultiplied, depth = False, 8
    if not bits.take(1):
        premultiplied, depth = _channels(bits)
        metadata.icc = _profile(bits)
    levels = spread(imagecodecs.jpegxl_decode(data), depth)
    metadata.resolution = resolution_of(metadata.exif)
    return unpremultiplied(levels) if premultiplied else levels, metadata


def _channels(bits: Bits) -> tuple[bool, int]:
    """Refuses by the header what would lose information; reads up to the encoding of the colours.

    Returns whether colours are multiplied with alpha, and the bits per sample.
    """
    if bits.take(1):
        bits.take(3)  # the orientation
        if bits.take(1):
            bits.size()
        if bits.take(2):  # preview, animation
            raise ImageError("it is an animation or has a preview: convert it to a single picture")
    premultiplied = False
    if (depth := bits.depth()) > 16:
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
    return premultiplied, depth


def _profile(bits: Bits) -> bytes | None:
    """What the numbers of a colour encoding mean, as an ICC profile; None: sRGB, or gray with its curve."""
    if bits.take(1):
        return None
    if bits.take(1):
        raise ImageError("it has an ICC profile, which would be lost: convert it to PNG or TIFF")
    space, white = bits.number(_ENUMERATED), bits.number(_ENUMERATED)
    if space > _GRAY:
        raise ImageError("its colours are neither RGB nor gray: convert it to one of these")
    at = bits.chromaticities(1) if white == _CUSTOM else _WHITES.get(white)
    primaries = 1 if space == _GRAY else bits.number(_ENUMERATED)
    colours = bits.chromaticities(3) if primaries == _CUSTOM else _PRIMARIES.get(primaries)
    coded = bits.take(1)
    curve = 0 if coded else bits.number(_ENUMERATED)
    gamma = 1e7 / max(1, bits.take(24)) if coded else _GAMMAS.get(curve)
    if (white, primaries, curve) == (1, 1, _SRGB_CURVE):
        return None
    if at is None or colours is None or (gamma is None and curve != _SRGB_CURVE):
        raise ImageError("its colours are not those of an ICC profile (PQ, HLG ...): convert it to PNG or TIFF")
    light = np.rint(65535 * srgb_decode(np.linspace(0, 1, 1024))).astype(np.uint16)
    shape = {"gamma": gamma} if gamma else {"transferfunction": light}
    kind, places = ("gray", None) if space == _GRAY else ("rgb", colours)
    return undated(bytes(imagecodecs.cms_profile(kind, whitepoint=at, primaries=places, **shape)))


def encode(levels: np.ndarray, metadata: Metadata) -> bytes:
    """levels: (H, W) or (H, W, C) uint8 or uint16. Without loss; a resolution goes into EXIF."""
    exif = holding_resolution(metadata, "JPEG XL")
    coded = bytes(imagecodecs.jpegxl_encode(levels, lossless=True, usecontainer=False))
    deep = [(kind, bytes(content)) for kind, content in boxes(coded) if kind in (b"jxll", b"jxlc")]
    parts = [part for part in deep if part[0] == b"jxll"]  # the level of the standard that 16 bits need
    parts += [(b"Exif", bytes(4) + exif)] if exif else []
    parts += [(b"xml ", metadata.xmp)] if metadata.xmp else []
    parts.append((b"jxlc", _called_srgb(deep[-1][1]) if deep else coded))
    return _START + b"".join(struct.pack(">I4s", 8 + len(content), kind) + content for kind, content in parts)


def _called_srgb(stream: bytes) -> bytes:
    """A codestream with a linear curve in its header with sRGB's there: its number takes the same four bits."""
    bits = Bits(stream[2:4096])
    bits.size()
    bits.take(1)
    _channels(bits)
    bits.take(2)  # neither sRGB nor a profile
    gray = bits.number(_ENUMERATED) == _GRAY
    for _ in range(1 if gray else 2):  # white, primaries
        bits.number(_ENUMERATED)
    if bits.take(1) or bits.number(_ENUMERATED) != _LINEAR:
        raise ImageError("this version of imagecodecs writes other colours: choose .png")
    place = 16 + bits.used - 4
    number = int.from_bytes(stream[place // 8 : place // 8 + 2], "little")
    number ^= ((_LINEAR - 2) ^ (_SRGB_CURVE - 2)) << place % 8
    return stream[: place // 8] + number.to_bytes(2, "little") + stream[place // 8 + 2 :]
