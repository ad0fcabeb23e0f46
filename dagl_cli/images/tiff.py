"""TIFF and BigTIFF. Pixels go through tifffile and imagecodecs, directories are also read by us (`exif`).

Pillow reads 16-bit colour as 8-bit and says nothing.
"""

from __future__ import annotations

import io
import logging
import math
import re
import struct
from contextlib import suppress
from typing import Any

import numpy as np
import tifffile

from ..errors import ImageError
from . import exif
from .headers import IN_TIFF
from .image import Metadata, check_size, refuse_frames, spread, unpremultiplied

logging.getLogger("tifffile").addHandler(logging.NullHandler())

RAW_REMEDY = "give its path, with its own suffix (.dng, .nef ...), to `dagl restore` or `dagl demosaic`"
_KEPT = {"NONE": None, "LZW": "lzw", "PACKBITS": "packbits", "ZSTD": "zstd"}
"""Compressions that a result keeps. Any other becomes deflate, which is lossless and read everywhere."""
_ICC, _XMP, _DNG_VERSION = 34675, 700, 50706
_PLAIN = {"NONE", "LZW", "PACKBITS", "ADOBE_DEFLATE", "DEFLATE", "LZMA", "ZSTD", "CCITTRLE", "CCITTFAX3", "CCITTFAX4"}
"""Compressions of bytes, which tifffile stops at the size of a strip or tile."""
_LARGE_TILE = 1 << 24
_PADDING = 16
"""Pixels that codecs may fill up a side with, to whole blocks."""
_REDUCED = 1
"""The bit of NewSubfileType (tag 254) that says: a smaller copy of another page."""

IMAGEJ_COUNT = re.compile(rb"^images=(\d{1,9})\s*$", re.MULTILINE)
"""ImageJ's large stacks have one directory for all images."""


def decode(data: bytes, max_pixels: int) -> tuple[np.ndarray, Metadata]:
    """Levels, (H, W) or (H, W, C) uint8, uint16, float16 or float32, and the rest. Raises ImageError."""
    structure = structure_of(data)
    number, position = _only_page(structure)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        return decode_page(file.pages[number], structure, position, max_pixels)


def structure_of(data: bytes | memoryview) -> exif.Tiff:
    """Raises ImageError where there is none."""
    structure = exif.Tiff.of(data)
    if not structure:
        raise ImageError("it is damaged (its header makes no sense): get an intact copy of it")
    return structure


def decode_page(
    page: Any,
    structure: exif.Tiff,
    position: int,
    max_pixels: int,
    *,
    samples: np.ndarray | None = None,
    apart: bool = False,
) -> tuple[np.ndarray, Metadata]:
    """As `decode`, for one page of a file.

    page: as tifffile has it. position: where its directory is. samples: those of the page, where the caller has them.
    apart: the channels are pictures of their own (`channels_apart`): (H, W, C) levels without colours or alpha.
    """
    check_size(page.imagewidth, page.imagelength, max_pixels)
    alpha = _check(page, apart)
    if samples is None:
        _check_segments(page, structure.data, max_pixels)
    levels = _levels(page, alpha, page.asarray() if samples is None else samples)
    kept = "unspecified" if alpha == "UNSPECIFIED" else "unassalpha"
    metadata = Metadata(tiff={"compression": _KEPT.get(page.compression.name, "zlib"), "extrasamples": kept})
    if apart:
        planes = "separate" if page.planarconfig == 2 else "contig"
        metadata.tiff |= {"photometric": "minisblack", "planarconfig": planes}
    lost = len(structure.lost)
    metadata.exif = exif.of_tiff(structure, position)
    metadata.resolution = exif.resolution(structure, position)
    for tag, entry in structure.directory(position, {_ICC, _XMP}).items():
        setattr(metadata, "icc" if tag == _ICC else "xmp", entry.data)
    if len(structure.lost) > lost:
        metadata.notes.append(exif.note(structure.lost[lost:]))
    return levels, metadata


def channels_apart(page: Any) -> bool:
    """Whether the channels of a page are neither colours nor an alpha channel: as of microscopes and scanners."""
    channels = page.samplesperpixel
    unnamed = all(kind == 0 for kind in page.extrasamples)
    return page.photometric.name in ("MINISBLACK", "MINISWHITE") and channels > 1 and (channels > 2 or unnamed)


def _only_page(structure: exif.Tiff) -> tuple[int, int]:
    """Number and position of the one directory that is no preview. Raises ImageError for several, or none."""
    positions = structure.pages()
    full = [number for number, position in enumerate(positions) if not is_reduced(structure, position)]
    refuse_frames(len(full))
    if not full:
        raise ImageError(f"it holds only a preview, as camera raw files do: {RAW_REMEDY}")
    position = positions[full[0]]
    description = structure.directory(position, {270}).get(270)
    if description and description.data.startswith(b"ImageJ=") and (many := IMAGEJ_COUNT.search(description.data)):
        refuse_frames(int(many[1]))
    return full[0], position


def is_reduced(structure: exif.Tiff, position: int) -> bool:
    with suppress(struct.error, KeyError, ValueError, ArithmeticError):
        kind = structure.directory(position, {254})[254]
        return bool(int(kind.numbers(structure.order)[0]) & _REDUCED)
    return False


def _check(page: Any, apart: bool = False) -> str | None:
    """Refuses what would lose information. Returns the kind of the alpha channel, if there is one."""
    bits, colours = page.bitspersample, page.photometric.name
    if colours == "CFA" and _DNG_VERSION in page.tags:
        raise ImageError(f"it is a camera raw file: {RAW_REMEDY}")
    floats = page.sampleformat == 3
    if floats and bits not in (16, 32):
        raise ImageError(f"its samples are {bits}-bit floating-point: convert it to 32-bit floats")
    if not floats and (page.sampleformat != 1 or not isinstance(bits, int) or not 1 <= bits <= 16):
        kind = {2: "signed", 5: "complex integer", 6: "complex"}.get(page.sampleformat, "integer")
        raise ImageError(f"its samples are {bits}-bit {kind}: convert it to 16-bit unsigned integers")
    if floats and colours not in ("MINISBLACK", "RGB"):
        raise ImageError(f"its colours are {colours} in floats: convert it to RGB or gray")
    readable = colours == "YCBCR" and page.compression.name == "JPEG"
    readable |= colours == "CFA" and page.samplesperpixel == 1
    if colours not in ("MINISBLACK", "MINISWHITE", "PALETTE", "RGB") and not readable:
        raise ImageError(f"its colours are {colours}: convert it to RGB or gray")
    extra = 0 if apart else page.samplesperpixel - (3 if colours in ("RGB", "YCBCR") else 1)
    if page.axes not in ("YX", "YXS", "SYX") or extra not in (0, 1) or (extra and colours == "PALETTE"):
        raise ImageError(f"{page.samplesperpixel} channels are not supported: convert it to RGB or gray")
    if extra and bits not in (8, 16, 32):
        raise ImageError(f"{bits}-bit samples with alpha are not supported: convert it to 16-bit")
    kind = page.extrasamples[0].name if page.extrasamples else "UNSPECIFIED"
    if extra and page.samplesperpixel == 2 and kind == "UNSPECIFIED":
        raise ImageError("its two channels are two pictures, and neither is an alpha channel: save each as one file")
    return kind if extra else None


def _check_segments(page: Any, data: bytes | bytearray | memoryview, max_pixels: int) -> None:
    """Refuses what would take more memory than the page's size tells: codecs have sizes of their own."""
    compression = page.compression.name
    if compression not in _PLAIN and compression not in IN_TIFF:
        raise ImageError(f"its compression is {compression}, which dagl does not read: save it with deflate")
    width, height = (page.tilewidth, page.tilelength) if page.is_tiled else (page.imagewidth, page.rowsperstrip)
    if page.is_tiled:
        check_size(width, height, max(max_pixels, _LARGE_TILE))
    if len(page.dataoffsets) < math.prod(page.chunked) or 0 in page.databytecounts:
        raise ImageError("it is incomplete (parts have no data): get a complete copy of it")
    size_of = IN_TIFF.get(compression)
    for offset, count in zip(page.dataoffsets, page.databytecounts):
        if offset + count > len(data):
            raise ImageError("it is truncated: get a complete copy of it")
        if size_of:
            size = size_of(bytes(data[offset : offset + count]))
            if not size:
                raise ImageError(f"its {compression} data is damaged: get an intact copy of it")
            if size[0] > width + _PADDING or size[1] > height + _PADDING or size[2] > max(3, page.samplesperpixel):
                raise ImageError(
                    f"its {compression} data is {size[0]}x{size[1]}, not {width}x{height}: get an intact copy"
                )


def _levels(page: Any, alpha: str | None, levels: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, C) of the file's type: palette, inversion, odd depths and premultiplication undone.

    levels: as the page holds them.
    """
    if page.axes == "SYX":
        levels = np.moveaxis(levels, 0, -1)
    bits, colours = page.bitspersample, page.photometric.name
    if colours == "PALETTE":
        return (page.colormap >> 8).astype(np.uint8).T[levels]
    levels = levels if levels.dtype.kind == "f" else spread(levels, bits)
    if colours == "MINISWHITE":
        colour = np.invert(levels[..., :1] if alpha else levels)
        levels = np.concatenate([colour, levels[..., 1:]], -1) if alpha else colour
    return unpremultiplied(levels) if alpha == "ASSOCALPHA" else levels


def encode(levels: np.ndarray, metadata: Metadata) -> memoryview:
    """levels: (H, W) or (H, W, C) uint8, uint16, float16 or float32; C over 4 only for channels that are apart.

    EXIF tags that cannot be kept are added to the metadata's notes.
    """
    compression = metadata.tiff.get("compression", "zlib")
    options: dict[str, Any] = {"compression": compression}
    if compression in ("lzw", "zlib", "zstd"):
        options["predictor"] = True
    apart = "photometric" in metadata.tiff and levels.ndim == 3
    if apart:
        options["extrasamples"] = ["unspecified"] * (levels.shape[2] - 1)
    elif levels.ndim == 3 and levels.shape[2] % 2 == 0:
        options["extrasamples"] = [metadata.tiff.get("extrasamples", "unassalpha")]
    if levels.ndim == 3:
        options["planarconfig"] = metadata.tiff.get("planarconfig", "contig")
    if metadata.resolution:
        x, y, unit = metadata.resolution
        units = {"none": "NONE", "inch": "INCH", "cm": "CENTIMETER"}
        options |= {"resolution": tuple(map(exif.rational, (x, y))), "resolutionunit": units[unit]}
    if metadata.xmp:
        options["extratags"] = [(_XMP, "B", len(metadata.xmp), metadata.xmp, True)]
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        np.moveaxis(levels, -1, 0) if options.get("planarconfig") == "separate" else levels,
        byteorder=metadata.tiff.get("byteorder", "<"),
        photometric="rgb" if levels.ndim == 3 and levels.shape[2] > 2 and not apart else "minisblack",
        iccprofile=metadata.icc,
        metadata=None,
        software=False,
        **options,
    )
    if metadata.exif and (lost := exif.add_to_tiff(buffer, metadata.exif)):
        metadata.notes.append(exif.note(lost))
    return buffer.getbuffer()
