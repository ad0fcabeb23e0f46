"""HEIF with HEVC inside (HEIC, ISO/IEC 23008-12), read only, through pillow-heif, loaded when a file is read."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import ImageError
from .boxes import boxes
from .colour import cicp
from .exif import resolution_of, upright
from .image import Metadata, check_size, refuse_frames, unpremultiplied

BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
"""What files of the family call themselves."""


def package() -> Any:
    """Raises ImageError when it is not installed."""
    try:
        import pillow_heif
    except ImportError:
        raise ImageError("HEIC files need the package pillow-heif: pip install 'dagl[heic]'") from None
    return pillow_heif


def decode(data: bytes, max_pixels: int) -> tuple[np.ndarray, Metadata]:
    """Levels, (H, W) or (H, W, C) uint8 or uint16, upright, and the rest. Raises ImageError."""
    heif = package()
    if any(brand in (b"avif", b"avis") for brand in _brands(data)):
        raise ImageError("it is an AVIF that calls itself HEIF: save it anew as AVIF")
    try:
        file = heif.open_heif(data, convert_hdr_to_8bit=False)
        check_size(file.size[0], file.size[1], max_pixels)
        refuse_frames(len(file))
        picture = file[0]
        if not picture.mode.startswith(("L", "I;16", "RGB")):
            raise ImageError(f"its colours are {picture.mode}: convert it to RGB or gray")
        levels = np.asarray(picture)
    except (ValueError, SyntaxError, RuntimeError, EOFError):
        raise ImageError("it is damaged or truncated: get an intact copy of it") from None
    bits = int(picture.info.get("bit_depth", 8))
    if bits > 8:  # the upper bits of 16
        levels = levels | levels >> bits
    metadata = Metadata(xmp=picture.info.get("xmp"), icc=picture.info.get("icc_profile"))
    if not metadata.icc and (numbers := picture.info.get("nclx_profile")):
        metadata.png_colours = cicp(numbers["color_primaries"], numbers["transfer_characteristics"])
    if exif := picture.info.get("exif"):  # turned as the file says; its EXIF does not count
        metadata.exif, _ = upright(exif)
    if any(picture.info.get(kind) for kind in ("depth_images", "aux")):
        metadata.notes.append("what goes with it in the file (a depth or gain map) is not kept")
    metadata.resolution = resolution_of(metadata.exif)
    return unpremultiplied(levels) if picture.premultiplied_alpha else levels, metadata


def _brands(data: bytes) -> list[bytes]:
    _, content = next(boxes(data), (b"", memoryview(b"")))
    return [bytes(content[i : i + 4]) for i in (0, *range(8, len(content), 4))]
