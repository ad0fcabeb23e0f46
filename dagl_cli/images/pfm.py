"""PFM, the portable float map (pauldebevec.com/Research/HDR/PFM): three lines, then floats from the last row up."""

from __future__ import annotations

import re

import numpy as np

from ..errors import ImageError
from .image import Metadata, check_size

_HEADER = re.compile(rb"(PF|Pf)\s+(\d{1,9})\s+(\d{1,9})\s+([-+0-9.eE]{1,30})\s")


def decode(data: bytes, max_pixels: int) -> tuple[np.ndarray, Metadata]:
    """(H, W) or (H, W, 3) float32, and nothing else. Raises ImageError."""
    found = _HEADER.match(data)
    try:
        scale = float(found[4]) if found else 0.0
    except ValueError:
        scale = 0.0
    if not found or not scale:
        raise ImageError("it is damaged (its header makes no sense): get an intact copy of it")
    width, height = int(found[2]), int(found[3])
    check_size(width, height, max_pixels)
    shape = (height, width, 3) if found[1] == b"PF" else (height, width)
    body = memoryview(data)[found.end() :]
    if len(body) < 4 * int(np.prod(shape)):
        raise ImageError("it is truncated: get a complete copy of it")
    levels = np.frombuffer(body[: 4 * int(np.prod(shape))], "<f4" if scale < 0 else ">f4").reshape(shape)[::-1]
    return levels.astype(np.float32), Metadata()


def encode(levels: np.ndarray, metadata: Metadata) -> bytes:
    """levels: (H, W) or (H, W, 3) float32."""
    header = b"%s\n%d %d\n-1.0\n" % (b"Pf" if levels.ndim == 2 else b"PF", levels.shape[1], levels.shape[0])
    return header + levels[::-1].astype("<f4").tobytes()
