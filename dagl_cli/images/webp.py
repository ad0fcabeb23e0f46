"""WebP (RFC 9649). Pixels go through libwebp, the container's chunks are ours."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import suppress

import imagecodecs
import numpy as np
import PIL.Image

from ..errors import ImageError
from .exif import holding_resolution, resolution_of
from .image import Metadata, check_size, refuse_frames


def decode(data: bytes, max_pixels: int) -> tuple[np.ndarray, Metadata]:
    """Levels, (H, W, 3 or 4) uint8, and the rest. Raises ImageError."""
    metadata, frames = described(data, max_pixels)
    refuse_frames(frames)
    return imagecodecs.webp_decode(data), metadata


def described(data: bytes, max_pixels: int) -> tuple[Metadata, int]:
    """What a file says beside its pixels, and how many frames it has if it is an animation. Raises ImageError."""
    metadata, frames = Metadata(), 0
    for kind, content in chunks(data):
        if found := size(kind, content):
            check_size(*found, max_pixels)
        frames += kind == b"ANMF"
        if kind == b"ICCP":
            metadata.icc = bytes(content)
        elif kind == b"EXIF":
            metadata.exif = bytes(content)
        elif kind == b"XMP ":
            metadata.xmp = bytes(content)
    metadata.resolution = resolution_of(metadata.exif)
    return metadata, frames


def chunks(data: bytes | memoryview) -> Iterator[tuple[bytes, memoryview]]:
    view = memoryview(data)
    end = 8 + int.from_bytes(data[4:8], "little")
    position = 12
    while position < end:
        kind, length = bytes(data[position : position + 4]), int.from_bytes(data[position + 4 : position + 8], "little")
        content = view[position + 8 : position + 8 + length]
        if len(content) < length or len(kind) < 4:
            raise ImageError("it is truncated: get a complete copy of it")
        yield kind, content
        position += 8 + len(content) + len(content) % 2


def size(kind: bytes, content: memoryview) -> tuple[int, int] | None:
    """(width, height) in a chunk: of the canvas, or of one of the two kinds of coded pictures."""
    with suppress(struct.error):
        if kind == b"VP8X":
            return int.from_bytes(content[4:7], "little") + 1, int.from_bytes(content[7:10], "little") + 1
        if kind == b"VP8 ":
            width, height = struct.unpack_from("<HH", content, 6)
            return width & 0x3FFF, height & 0x3FFF
        if kind == b"VP8L":
            (bits,) = struct.unpack_from("<I", content, 1)
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return None


def encode(levels: np.ndarray, metadata: Metadata) -> bytes:
    """levels: (H, W, 3 or 4) uint8. Lossless, with the colours under transparent pixels.

    WebP holds a resolution in EXIF only: it gets one where there is none.
    """
    exif = holding_resolution(metadata, "WebP")
    options = {"icc_profile": metadata.icc, "exif": exif, "xmp": metadata.xmp}
    buffer = io.BytesIO()
    given = {key: value for key, value in options.items() if value}
    PIL.Image.fromarray(levels).save(buffer, "WEBP", lossless=True, exact=True, **given)
    return buffer.getvalue()
