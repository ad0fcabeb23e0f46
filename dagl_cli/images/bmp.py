"""BMP, with its file header or without (DIB), through Pillow."""

from __future__ import annotations

import io
import struct
from contextlib import suppress
from fractions import Fraction

import numpy as np
import PIL.Image
from PIL.BmpImagePlugin import BmpImageFile, DibImageFile

from ..errors import ImageError
from .image import Metadata, Resolution, check_size

_HIGHEST_DPI = 5e7
"""In pixels per metre they have 31 bits."""
DIB = tuple(struct.pack("<I", length) for length in (12, 40, 52, 56, 64, 108, 124))
"""What a DIB begins with: the length of its header."""
_MODES = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB", "RGBA": "RGBA"}


def decode(data: bytes, max_pixels: int) -> tuple[np.ndarray, Metadata]:
    """Levels, (H, W) or (H, W, C) uint8, and the rest. Raises ImageError."""
    metadata = Metadata()
    start = 14 if data.startswith(b"BM") else 0
    opened = BmpImageFile if start else DibImageFile  # not `PIL.Image.open`, which has its own, global, pixel limit
    with opened(io.BytesIO(data)) as file:
        check_size(file.width, file.height, max_pixels)
        if file.mode not in _MODES:
            raise ImageError(f"its colours are {file.mode}: convert it to RGB or gray")
        levels = np.asarray(file.convert(_MODES[file.mode]))
    with suppress(struct.error):
        header, x, y = *struct.unpack_from("<I", data, start), *struct.unpack_from("<ii", data, start + 24)
        if header >= 40 and x > 0 and y > 0:  # in pixels per metre
            metadata.resolution = Resolution(Fraction(x, 100), Fraction(y, 100), "cm").to("inch")
        if header >= 124 and data[start + 56 : start + 60] == b"DEBM":  # "MBED", little-endian: an embedded profile
            offset, length = struct.unpack_from("<II", data, start + 112)
            metadata.icc = data[start + offset : start + offset + length] or None
    return levels, metadata


def encode(levels: np.ndarray, metadata: Metadata) -> bytes:
    """levels: (H, W) or (H, W, 3) uint8."""
    buffer = io.BytesIO()
    resolution = metadata.resolution.to("inch") if metadata.resolution else None
    dpi = (
        {"dpi": tuple(min(float(v), _HIGHEST_DPI) for v in resolution[:2])}
        if resolution and resolution.unit == "inch"
        else {}
    )
    PIL.Image.fromarray(levels).save(buffer, "BMP", **dpi)
    return buffer.getvalue()
