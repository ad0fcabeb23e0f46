"""Radiance HDR (radsite.lbl.gov/radiance/refer/filefmts.pdf): lines of text, then pixels of imagecodecs' RGBE.

A pixel has 8 bits for each colour and an exponent for all three. Values are light.
"""

from __future__ import annotations

import re
from fractions import Fraction

import imagecodecs
import numpy as np

from ..errors import ImageError
from . import xmp
from .image import Metadata, Resolution, check_size

_COLOURS = (b"EXPOSURE=", b"COLORCORR=", b"PRIMARIES=")
_SIZE = re.compile(rb"([-+])Y (\d{1,9}) ([-+])X (\d{1,9})")
_FORMAT = b"FORMAT=32-bit_rle_rgbe"
_LONGEST_HEADER = 1 << 20


def decode(data: bytes, max_pixels: int) -> tuple[np.ndarray, Metadata]:
    """(H, W, 3) float32, and the rest. Raises ImageError."""
    metadata = Metadata()
    end = data.find(b"\n\n", 0, _LONGEST_HEADER)
    line = data[end + 2 : end + 100].partition(b"\n")[0]
    found = _SIZE.fullmatch(line)
    if end < 0 or not found:
        turned = re.fullmatch(rb"[-+]X \d+ [-+]Y \d+", line)
        if end >= 0 and turned:
            raise ImageError("its pixels are stored column by column: save it anew")
        raise ImageError("it is damaged or truncated (its header makes no sense): get an intact copy of it")
    check_size(int(found[4]), int(found[2]), max_pixels)
    for text in data[:end].split(b"\n")[1:]:
        if text.startswith(b"FORMAT=") and text != _FORMAT:
            raise ImageError("its colours are XYZ, not RGB: convert it to RGB")
        if text.startswith(_COLOURS):
            metadata.hdr.append(text)
        elif record := xmp.record(text):
            metadata.record = record
        elif text.startswith(b"PIXASPECT=") and (ratio := _number(text[10:])):
            metadata.resolution = Resolution(ratio, Fraction(1), "none")  # height of a pixel by its width
        elif not text.startswith(b"FORMAT="):
            metadata.header_lines.append(text)
    pixels = data[end + 2 + len(line) + 1 :]
    try:
        levels = imagecodecs.rgbe_decode(b"#?RADIANCE\n%s\n\n-Y %b +X %b\n" % (_FORMAT, found[2], found[4]) + pixels)
    except imagecodecs.RgbeError:
        raise ImageError("it is damaged or truncated: get an intact copy of it") from None
    return levels[:: -1 if found[1] == b"+" else 1, :: -1 if found[3] == b"-" else 1], metadata


def _number(text: bytes) -> Fraction | None:
    try:
        return Fraction(float(text)).limit_denominator(10000) or None
    except (ValueError, OverflowError):
        return None


def encode(levels: np.ndarray, metadata: Metadata) -> bytes:
    """levels: (H, W, 3) float. Rounded to the 8 bits of a colour; values below 0 become 0. Raises ImageError."""
    levels = levels.astype(np.float32)
    if not np.isfinite(levels).all():
        raise ImageError("some values are not finite, and HDR holds none of these: choose .exr or .tif")
    if levels.min() < 0:
        metadata.notes.append("HDR holds no values below 0: they are 0")
    levels = _rounded(np.maximum(levels, 0))
    lines = [*metadata.hdr, *metadata.header_lines]
    lines += [b"# " + xmp.element(metadata.record)] if metadata.record else []
    if metadata.resolution and metadata.resolution.x != metadata.resolution.y:
        lines.append(b"PIXASPECT=%f" % float(metadata.resolution.x / metadata.resolution.y))
    if metadata.resolution and metadata.resolution.unit != "none":
        metadata.notes.append("its resolution is left out, of which HDR holds the shape of a pixel only")
    header = b"\n".join([b"#?RADIANCE", *lines, _FORMAT, b"", b"-Y %d +X %d\n" % levels.shape[:2]])
    return header + bytes(imagecodecs.rgbe_encode(levels, header=False))


def _rounded(levels: np.ndarray) -> np.ndarray:
    """The nearest values that a pixel can have: the encoder truncates."""
    for _ in range(2):  # what is rounded up to the next power of two has a coarser step
        _, exponent = np.frexp(levels.max(-1, keepdims=True))
        levels = np.ldexp(np.rint(np.ldexp(levels, 8 - exponent)), exponent - 8)
    return levels
