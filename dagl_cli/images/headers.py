"""Width, height and channels from the first bytes of coded pictures, so that no memory is taken for absurd ones.

All take bytes and return (width, height, channels), channels 0 where the header does not tell; None: not understood.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress

from ..errors import ImageError
from . import jpeg, jpegxl, webp
from .boxes import boxes

Size = tuple[int, int, int]


def jpeg_size(data: bytes) -> Size | None:
    header = jpeg.frame(data)
    return (header.width, header.height, header.channels) if header else None


def jpeg2000_size(data: bytes) -> Size | None:
    """Of a codestream, alone or in JP2's boxes (ITU-T T.800, A.5.1)."""
    start = data.find(b"\xff\x4f\xff\x51")
    with suppress(struct.error):
        if start >= 0:
            right, bottom, left, top = struct.unpack_from(">4I", data, start + 8)
            (channels,) = struct.unpack_from(">H", data, start + 40)
            return right - left, bottom - top, channels
    return None


def webp_size(data: bytes) -> Size | None:
    sizes = [webp.size(kind, content) for kind, content in webp.chunks(data)]
    found = [size for size in sizes if size]
    return (max(w for w, _ in found), max(h for _, h in found), 0) if found else None


def png_size(data: bytes) -> Size | None:
    with suppress(struct.error):
        width, height = struct.unpack_from(">II", data, 16)
        return width, height, 0
    return None


def jpegxl_size(data: bytes) -> Size | None:
    """Of a codestream, alone or in boxes (ISO/IEC 18181-1, SizeHeader)."""
    if data[4:8] == b"JXL ":
        streams = [content[4 * (kind == b"jxlp") :] for kind, content in boxes(data) if kind in (b"jxlc", b"jxlp")]
        data = bytes(streams[0][:16]) if streams else b""
    with suppress(ImageError):
        if data[:2] == b"\xff\x0a":
            return (*jpegxl.Bits(data[2:16]).size(), 0)
    return None


def lerc_size(data: bytes) -> Size | None:
    """Of Esri's LERC, version 2 and later."""
    with suppress(struct.error):
        if data[:6] == b"Lerc2 ":
            (version,) = struct.unpack_from("<i", data, 6)
            height, width, channels = struct.unpack_from("<3i", data, 14 if version >= 3 else 10)
            return width, height, channels if version >= 4 else 0
    return None


IN_TIFF: dict[str, Callable[[bytes], Size | None]] = {
    "JPEG": jpeg_size, "OJPEG": jpeg_size, "ALT_JPEG": jpeg_size, "JPEG_LOSSY": jpeg_size,
    "JPEG2000": jpeg2000_size, "JPEG_2000_LOSSY": jpeg2000_size, "APERIO_JP2000_YCBC": jpeg2000_size,
    "APERIO_JP2000_RGB": jpeg2000_size, "WEBP": webp_size, "WEBP_DEPRECATED": webp_size, "PNG": png_size,
    "JPEGXL": jpegxl_size, "JPEGXL_DNG": jpegxl_size, "LERC": lerc_size,
}  # fmt: skip
"""tifffile's names of compressions."""
