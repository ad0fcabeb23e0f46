"""AVIF, through Pillow's libavif (8 bits) and that of imagecodecs (10 and 12 bits, which are read only)."""

from __future__ import annotations

import io
from typing import Any

import imagecodecs
import numpy as np
import PIL.Image
from PIL import features
from PIL.AvifImagePlugin import AvifImageFile

from ..errors import ImageError
from .boxes import boxes
from .colour import cicp
from .exif import holding_resolution, resolution_of, without_orientation
from .image import Metadata, check_size, refuse_frames, spread

_CONTAINERS = {b"meta": 4, b"iprp": 0, b"ipco": 0}
"""Boxes to look into, and the bytes that come before what is in them."""


def decode(data: bytes, max_pixels: int) -> tuple[np.ndarray, Metadata]:
    """Levels, (H, W) or (H, W, C) uint8 or uint16, and the rest. Raises ImageError."""
    properties = _properties(memoryview(data))
    for content in properties.get(b"ispe", []):
        check_size(int.from_bytes(content[4:8], "big"), int.from_bytes(content[8:12], "big"), max_pixels)
    bits = max((max(content[5:], default=8) for content in properties.get(b"pixi", [])), default=8)
    if not features.check("avif"):
        raise ImageError("this installation of Pillow reads no AVIF: install Pillow's own wheel")
    with AvifImageFile(io.BytesIO(data)) as file:  # turned as the file says; what is left to turn is in its EXIF
        check_size(file.width, file.height, max_pixels)
        refuse_frames(getattr(file, "n_frames", 1))
        info: dict[str, Any] = file.info
        metadata = Metadata(icc=info.get("icc_profile"), exif=info.get("exif"), xmp=info.get("xmp"))
        if bits <= 8:
            levels = np.asarray(file)
    if bits > 8:
        levels = imagecodecs.avif_decode(data)
        if levels.dtype != np.uint16 or int(levels.max()) >= 2**bits:
            raise ImageError("its depth is not what it says: get an intact copy of it")
        levels = spread(levels, bits)
    for content in properties.get(b"colr", []) if not metadata.icc else ():
        if bytes(content[:4]) == b"nclx" and len(content) >= 8:
            numbers = (int.from_bytes(content[place : place + 2], "big") for place in (4, 6))
            metadata.png_colours = metadata.png_colours or cicp(*numbers)
    metadata.resolution = resolution_of(metadata.exif)
    return levels, metadata


def _properties(data: memoryview) -> dict[bytes, list[memoryview]]:
    """The properties of the pictures in a file (ISO/IEC 23008-12), by type."""
    found: dict[bytes, list[memoryview]] = {}
    for kind, content in boxes(data):
        if kind in _CONTAINERS:
            for inner, contents in _properties(content[_CONTAINERS[kind] :]).items():
                found.setdefault(inner, []).extend(contents)
        else:
            found.setdefault(kind, []).append(content)
    return found


def encode(levels: np.ndarray, metadata: Metadata) -> bytes:
    """levels: (H, W, 3 or 4) uint8. Quality 100 without chroma subsampling; a resolution goes into the EXIF."""
    exif = holding_resolution(metadata, "AVIF")
    exif = exif and without_orientation(exif)  # for which Pillow would write the block anew
    options = {"icc_profile": metadata.icc, "exif": exif, "xmp": metadata.xmp}
    buffer = io.BytesIO()
    given = {key: value for key, value in options.items() if value}
    PIL.Image.fromarray(levels).save(buffer, "AVIF", quality=100, subsampling="4:4:4", **given)
    return buffer.getvalue()
