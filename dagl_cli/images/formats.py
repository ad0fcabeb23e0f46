"""The table of formats: what each is called, how it is known, read and written, and what it keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import ImageError
from . import avif, bmp, exr, hdr, heif, jpeg, jpeg2000, jpegxl, pfm, png, pnm, tiff, webp
from .image import Metadata


@dataclass(frozen=True)
class Format:
    """One row of the table."""

    suffixes: tuple[str, ...]
    """In lower case; the first is the usual one."""
    signatures: tuple[bytes, ...]
    """What its files begin with; a full stop stands for any byte."""
    decode: Callable[[bytes, int], tuple[np.ndarray, Metadata]]
    """A file's bytes and the largest number of pixels -> (H, W) or (H, W, C) levels, alpha last, and the rest."""
    encode: Callable[[np.ndarray, Metadata], bytes | memoryview] | None
    """Levels and the rest -> a file's bytes. None: it is read only."""
    keeps: frozenset[str]
    """Fields of `Metadata` that its files can hold."""
    depths: tuple[int, ...] = (8,)
    """Bits of the integers that it is written with."""
    floats: tuple[int, ...] = ()
    """Bits of the floats that it is written with."""
    light: bool = False
    """Floats are proportional to light."""
    alpha: bool = True
    gray: bool = True
    also: tuple[str, ...] = ()
    """Endings that files are read under, whose results have the usual one."""
    pages: bool = False
    """Its files of several pictures are restored picture by picture (`frames`); those of others are refused."""
    stripped: Callable[[bytes], bytes] | None = None
    """A file's bytes -> the same picture without metadata, where encoding it again would lose something."""
    longest_side: int = 2**31 - 1
    longest_block: int = 2**32 - 1
    """Bytes of EXIF or XMP."""

    def holds(self) -> str:
        """What it is written with, for messages: '8 or 16 bits'."""
        kinds = ((self.depths, "{} bits"), (self.floats, "{}-bit floats"))
        return " or ".join(text.format(" or ".join(map(str, bits))) for bits, text in kinds if bits)


_ALL = frozenset({"icc", "exif", "xmp", "resolution"})

FORMATS = {
    "PNG": Format(
        (".png",), (b"\x89PNG\r\n\x1a\n",), png.decode, png.encode, _ALL | {"png_text", "png_colours"}, depths=(8, 16),
        also=(".apng",), pages=True,
    ),
    "JPEG": Format(
        (".jpg", ".jpeg", ".jpe", ".jfif", ".jif"), (b"\xff\xd8\xff",), jpeg.decode, jpeg.encode,
        _ALL | {"jpeg_segments"}, alpha=False, stripped=jpeg.stripped, longest_side=65500, longest_block=65500,
    ),
    "TIFF": Format(
        (".tif", ".tiff"), (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), tiff.decode, tiff.encode, _ALL | {"tiff"},
        depths=(8, 16), floats=(16, 32), also=(".tf2", ".tf8", ".btf"), pages=True,
    ),
    "BMP": Format((".bmp", ".dib"), (b"BM", *bmp.DIB), bmp.decode, bmp.encode, frozenset({"resolution"}), alpha=False),
    "WEBP": Format(
        (".webp",), (b"RIFF....WEBP",), webp.decode, webp.encode, _ALL, gray=False, pages=True, longest_side=16383,
    ),
    "JPEG2000": Format(
        (".jp2",), (jpeg2000.START, jpeg2000.CODESTREAM), jpeg2000.decode, jpeg2000.encode, _ALL, depths=(8, 16),
        also=(".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    ),
    "PNM": Format(
        (".pnm", ".ppm", ".pgm"), tuple(b"P%d" % number for number in range(1, 7)), pnm.decode, pnm.encode,
        frozenset({"header_lines", "record"}), depths=(8, 16), alpha=False, also=(".pbm",),
    ),
    "AVIF": Format(
        (".avif",), (b"....ftypavif", b"....ftypavis"), avif.decode, avif.encode, _ALL, gray=False, longest_side=16384,
    ),
    "JPEGXL": Format(
        (".jxl",), (jpegxl.CODESTREAM, jpegxl.BOXES), jpegxl.decode, jpegxl.encode, _ALL - {"icc"}, depths=(8, 16),
    ),
    "EXR": Format(
        (".exr",), (exr.START,), exr.decode, exr.encode,
        frozenset({"resolution", "exr", "exr_channels", "exr_attributes", "record"}), depths=(), floats=(16, 32),
        light=True,
    ),
    "HDR": Format(
        (".hdr",), (b"#?RADIANCE", b"#?RGBE"), hdr.decode, hdr.encode,
        frozenset({"resolution", "hdr", "header_lines", "record"}), depths=(), floats=(16, 32), light=True, alpha=False,
        gray=False,
    ),
    "PFM": Format((".pfm",), (b"PF", b"Pf"), pfm.decode, pfm.encode, frozenset(), depths=(), floats=(32,), alpha=False),
    "HEIF": Format(
        (".heic", ".heif", ".hif"), tuple(b"....ftyp" + brand for brand in heif.BRANDS), heif.decode, None, _ALL,
        depths=(8, 16),
    ),
}  # fmt: skip
SUFFIXES = {suffix: name for name, format in FORMATS.items() if format.encode for suffix in format.suffixes}
"""What `write` makes of a file name (in lower case). `read` looks at the content instead."""
INSTEAD = "PNG"
"""What pictures become whose format is only read."""
_READ = {suffix: name for name, format in FORMATS.items() for suffix in (*format.suffixes, *format.also)}
NAMES = "PNG, JPEG, TIFF, BMP, WebP, PNM, AVIF, JPEG 2000, JPEG XL, EXR, HDR, PFM or HEIF"
"""For messages."""
_UNREAD = {b"GIF8": "GIF"}
"""Signatures of what is worth naming in a refusal."""


def is_image_path(path: Path | str) -> bool:
    """Whether the name ends like an image that dagl can read."""
    return Path(path).suffix.lower() in _READ


def result_suffix(path: Path) -> str:
    """The ending of a result where the user gives none: the image's own, unless files are only read under it."""
    format = FORMATS.get(_READ.get(path.suffix.lower(), ""))
    if format is None or path.suffix.lower() in SUFFIXES:
        return path.suffix
    return (format if format.encode else FORMATS[INSTEAD]).suffixes[0]


def format_of(head: bytes) -> str:
    """The format of a file by its first 16 bytes or more. Raises ImageError."""
    if not head:
        raise ImageError("it is empty (0 bytes): get an intact copy of it")
    for name, format in FORMATS.items():
        for signature in format.signatures:
            if len(head) >= len(signature) and all(s in (b, ord(".")) for s, b in zip(signature, head)):
                return name
    for signature, name in _UNREAD.items():
        if head.startswith(signature):
            raise ImageError(f"{name} is not supported: convert it to PNG")
    for signature in FORMATS["PNG"].signatures + FORMATS["JPEG"].signatures:
        if (position := head.find(signature)) > 0:
            stray = "1 byte stands" if position == 1 else f"{position} bytes stand"
            raise ImageError(f"{stray} before the {format_of(head[position:])} image in it: cut off what is there")
    raise ImageError(f"it is not a {NAMES} image: convert it to one")
