"""Files to float arrays and back. Owns bit depth, alpha, ICC, EXIF, XMP, resolution and rounding. Loads no torch.

PNG goes through libpng (imagecodecs) and TIFF through tifffile, because Pillow reads 16-bit colour as 8-bit and says
nothing. JPEG, WebP and BMP, which hold 8 bits only, go through Pillow. Every failure is one `ImageError`.
"""

from __future__ import annotations

import errno
import io
import logging
import math
import os
import re
import secrets
import shutil
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
import PIL.Image
import tifffile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageCms import ImageCmsProfile, createProfile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.WebPImagePlugin import WebPImageFile

from ..config import MAX_PIXELS
from ..errors import ImageError

logging.getLogger("tifffile").addHandler(logging.NullHandler())

SUFFIXES = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".webp": "WEBP",
}
"""What `write` makes of a file name (in lower case). `read` looks at the content instead."""

_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"BM": "BMP",
    b"GIF8": "GIF",
}
_PLUGINS: dict[str, Any] = {"JPEG": JpegImageFile, "WEBP": WebPImageFile, "BMP": BmpImageFile}
"""Used directly: `PIL.Image.open` has its own, global, pixel limit."""
_PILLOW_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True, "exact": True},
    "BMP": {},
}
_LONGEST_SIDE = {"PNG": 2**31 - 1, "JPEG": 65500, "TIFF": 2**31 - 1, "BMP": 2**31 - 1, "WEBP": 16383}
_PNG_BITS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""PNG's colour types: gray, RGB, palette, gray with alpha, RGB with alpha -> the bit depths they come in."""
_COLOUR_CHUNKS = (b"cHRM", b"gAMA", b"sRGB", b"cICP")
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
_XMP_KEYWORD = b"XML:com.adobe.xmp\0"
_MOST_INFLATED = 1 << 26
"""Bytes: no ICC profile or text is longer, so a small file cannot fill the memory through one."""
_EXIF_TAGS = {270, 271, 272, 274, 305, 306, 315, 316, 18246, 18249, 33432, 34665, 34853, *range(40091, 40096)}
"""The tags of a TIFF's directory that are EXIF: what was photographed, by whom, with what, when and where."""
_ORIENTATION = 274
_EXIF_DIRECTORY = 34665
_RAW_ONLY_TAGS = {37500, 40961, 40962, 40963, 41730}
"""Maker notes, which break when they are moved; colour space, width, height and Bayer pattern of the raw image."""
_FLIPS = {1: (1, 1), 2: (1, -1), 3: (-1, -1), 4: (-1, 1), 5: (1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}
"""EXIF orientation -> row and column step; from 5 on, rows and columns are swapped first."""
_TIFF_COMPRESSIONS = {"NONE": None, "LZW": "lzw", "PACKBITS": "packbits", "ZSTD": "zstd"}
"""What a TIFF result keeps. Any other compression becomes deflate, which is lossless and read everywhere."""
_DNG_VERSION = 50706
_RAW_REMEDY = "give its path, with its own suffix (.dng, .nef ...), to `dagl demosaic`"
_JPEG_MARKERS = {"APP13": 0xFFED, "COM": 0xFFFE}
"""Pillow's names of the segments that go from JPEG to JPEG as they are."""
_REMEDIES = {
    errno.ENOSPC: ": free some space",
    errno.EACCES: ": choose a folder you may write to",
    errno.EROFS: ": choose a folder you may write to",
}


@dataclass(eq=False)
class Image:
    """One picture, upright, with everything that is written back with it."""

    pixels: np.ndarray
    """(H, W, C) float32 in [0, 1]; C is 1 (gray) or 3 (RGB). Not premultiplied with alpha."""
    alpha: np.ndarray | None = None
    """(H, W) uint8 or uint16, as `depth` says. Passes through untouched."""
    depth: int = 8
    """Bits per sample, 8 or 16."""
    format: str = "PNG"
    """The file's kind: one of the values of `SUFFIXES`."""
    icc: bytes | None = None
    exif: bytes | None = None
    """A TIFF structure without the 'Exif' prefix; its orientation is 1."""
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    """Horizontal, vertical."""
    jpeg_tables: dict[int, list[int]] | None = None
    """Quantization tables of a JPEG input (Pillow's `quantization`); the encoder's quality can be read from them."""
    png_chunks: list[tuple[bytes, bytes]] = field(default_factory=list)
    """(type, content) of a PNG input's colour chunks (gAMA, cHRM, sRGB, cICP) and text; written to PNG only."""
    tiff: dict[str, Any] = field(default_factory=dict)
    """How a TIFF input is stored, as arguments of `tifffile.imwrite`; used for TIFF only."""
    jpeg_segments: bytes = b""
    """The Photoshop (IPTC) and comment segments of a JPEG input, markers included; written to JPEG only."""
    orientation: int = 1
    """EXIF orientation that the file had, applied to pixels and alpha by `read`. `write` does not use it."""


def is_image_path(path: Path | str) -> bool:
    """Whether the name ends like an image that dagl can write (and read)."""
    return Path(path).suffix.lower() in SUFFIXES


def read(source: Path | str | bytes, *, name: str | None = None, max_pixels: int = MAX_PIXELS) -> Image:
    """The image in a file, or in the bytes of one. Its format is found from the content, never from the name.

    Pixels are the file's levels / 255 or / 65535. Palette images become RGB, 1-bit images gray. Orientation is
    applied and reset; a premultiplied TIFF is divided by its alpha; the EXIF thumbnail is unlinked. A TIFF with
    the colours CFA (a Bayer mosaic) is gray.

    Not noticed: damage inside the compressed data of a JPEG or a lossy WebP that leaves their structure whole, since
    these formats have no checksums and their decoders carry on. Not read: any picture of a JPEG after the first
    (MPO: a second view, a depth or gain map).

    name: what errors call the image; the path, unless given.
    max_pixels: larger images are refused by their header, before anything is decoded.
    Raises ImageError: not there, not an image, damaged, truncated, too large, or of a kind whose content would be
    lost (several frames, float or 32-bit samples, CMYK).
    """
    name = name or ("the image" if isinstance(source, bytes) else str(source))
    try:
        with _quiet():
            format, data = _load(source)
            if format == "PNG":
                levels, values = _decode_png(data, max_pixels)
            elif format == "TIFF":
                levels, values = _decode_tiff(data, max_pixels)
            else:
                levels, values = _decode_with_pillow(data, format, max_pixels)
            return _assemble(levels, values, format)
    except ImageError as error:
        raise ImageError(f"cannot read {name}: {error}") from None
    except MemoryError as error:
        raise ImageError(f"cannot read {name}: it does not fit into memory: crop it or make it smaller") from error
    except Exception as error:
        raise ImageError(f"cannot read {name}: {_damage(error)}") from error


def content(path: Path | str) -> bytes:
    """The bytes of a file, for `read`; of one that does not begin as an image only the first. Raises ImageError."""
    try:
        return _load(path)[1]
    except ImageError as error:
        raise ImageError(f"cannot read {path}: {error}") from None
    except MemoryError as error:
        raise ImageError(f"cannot read {path}: it does not fit into memory: crop it or make it smaller") from error
    except OSError as error:
        raise ImageError(f"cannot read {path}: {_damage(error)}") from error


def write(
    image: Image | bytes,
    target: Path | str | BinaryIO,
    *,
    format: str | None = None,
    strip_metadata: bool = False,
    overwrite: bool = False,
) -> None:
    """Writes a file, all of it or nothing, or writes its bytes to an open binary stream.

    Levels are clipped and rounded to nearest. JPEG is quality 95 without chroma subsampling, so that a restored
    image gets no new artifacts; WebP is lossless; TIFF keeps its compression if that is lossless.

    Not kept: thumbnails and further pictures; PNG text in other formats; Photoshop and IPTC blocks and comments,
    except from JPEG to JPEG; tags of a TIFF that are neither EXIF nor XMP nor ICC; EXIF, XMP and ICC in BMP.

    image: what to encode; or the bytes of a file, which are written as they are.
    target: a path, whose folder exists. The data goes to a temporary file beside it, which is then renamed.
    format: one of the values of `SUFFIXES`; by default the target's suffix decides, for a stream `image.format`.
    strip_metadata: leaves out EXIF, XMP, IPTC, text and resolution. What defines the colours (ICC) always stays.
    overwrite: without it an existing target is an error, even if it appears at the last moment.
    Raises ImageError: the format cannot hold the bit depth or the alpha channel, the pixels are not finite, the
    target exists, or the system refuses to write.
    """
    with _write_errors(target):
        data: bytes | memoryview
        if isinstance(image, bytes):
            data = image
        else:
            format = _checked_format(image, target, format, overwrite)
            with _quiet():
                data = _encode(image, format, strip_metadata)
        if isinstance(target, (str, Path)):
            _write_file(Path(target), data, overwrite)
        else:
            target.write(data)


def check_target(image: Image, target: Path | str | BinaryIO, *, overwrite: bool = False) -> None:
    """Raises now what `write` would raise for this image's format, depth, alpha or size, or for this target."""
    with _write_errors(target):
        _checked_format(image, target, None, overwrite)


def raw_exif(path: Path | str) -> bytes | None:
    """The EXIF of a camera raw file, for the upright picture made of it, without maker notes.

    None where there is none, or where the file is not built as a TIFF is (CR3, RAF, RW2, ORF and others).
    """
    with open(path, "rb") as file:
        return _tiff_exif(file, developed=True)


def srgb_profile() -> bytes:
    """An ICC profile of sRGB; the same bytes every time."""
    profile = ImageCmsProfile(createProfile("sRGB")).tobytes()
    return profile[:24] + struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + profile[36:]  # the date when it was made


# --- reading ---------------------------------------------------------------------------------------------------------


def _load(source: Path | str | bytes) -> tuple[str, bytes]:
    """Format and content. A file that is no image is not read to its end."""
    if isinstance(source, bytes):
        return _format(source), source
    if Path(source).is_dir():
        raise ImageError("it is a folder, not an image")
    try:
        with open(source, "rb") as file:
            format = _format(file.peek(16))
            return format, file.read()
    except FileNotFoundError:
        raise ImageError("there is no such file") from None
    except PermissionError:
        raise ImageError("permission denied: make the file readable") from None


def _format(head: bytes) -> str:
    if not head:
        raise ImageError("it is empty (0 bytes): get an intact copy of it")
    found = "WEBP" if head[:4] == b"RIFF" and head[8:12] == b"WEBP" else None
    for signature, format in _SIGNATURES.items():
        if head.startswith(signature):
            found = format
    if found == "GIF":
        raise ImageError("GIF is not supported: convert it to PNG")
    if not found:
        raise ImageError("it is not a PNG, JPEG, TIFF, BMP or WebP image: convert it to one")
    return found


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width <= 0 or height <= 0:
        raise ImageError(f"it has no pixels ({width}x{height})")
    if width * height > max_pixels:
        size = f"{width}x{height} = {width * height:,} pixels"
        raise ImageError(f"{size} are more than the limit of {max_pixels:,}: raise --max-pixels if this is no mistake")


def _refuse_frames(count: int) -> None:
    if count > 1:
        raise ImageError(f"it has {count} frames or pages, and all but one would be lost: split it into single images")


def _decode_png(data: bytes, max_pixels: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Levels, (H, W) or (H, W, C) uint8 or uint16, and the fields of `Image` that the file sets."""
    values: dict[str, Any] = {"png_chunks": []}
    essential: list[bytes | memoryview] = [data[:8]]
    for kind, content, chunk in _png_chunks(data):
        if kind == b"IHDR":
            width, height, bits, colours, *methods, interlace = struct.unpack(">IIBBBBB", content)
            _check_size(width, height, max_pixels)
            if bits not in _PNG_BITS.get(colours, ()) or any(methods) or interlace > 1:
                raise ImageError("it is damaged (its header makes no sense): get an intact copy of it")
        elif kind == b"acTL":
            _refuse_frames(struct.unpack_from(">I", content)[0])
        elif kind == b"iCCP":
            with suppress(zlib.error):
                values["icc"] = _inflate(bytes(content).split(b"\0", 1)[1][1:])
        elif kind == b"eXIf":
            values["exif"] = bytes(content)
        elif kind == b"pHYs" and content[8] == 1:
            values["dpi"] = tuple(count * 0.0254 for count in struct.unpack_from(">II", content))
        elif kind in _COLOUR_CHUNKS or kind in _TEXT_CHUNKS:
            _keep_png_text(kind, bytes(content), values)
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            essential.append(chunk)
    # libpng prints its complaints about the other chunks, so it does not see them
    return imagecodecs.png_decode(b"".join(essential)), values


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview, memoryview]]:
    """(type, content, whole chunk) of each, to the end that every complete PNG has."""
    position, kind = 8, b""
    view = memoryview(data)
    while kind != b"IEND":
        if position + 12 > len(data):
            raise ImageError("it is truncated: get a complete copy of it")
        length, kind = struct.unpack_from(">I4s", data, position)
        chunk = view[position : position + 12 + length]
        if len(chunk) < 12 + length:
            raise ImageError("it is truncated: get a complete copy of it")
        if zlib.crc32(chunk[4:-4]) != struct.unpack(">I", chunk[-4:])[0]:
            raise ImageError("it is damaged (a checksum is wrong): get an intact copy of it")
        yield kind, chunk[8:-4], chunk
        position += 12 + length


def _keep_png_text(kind: bytes, content: bytes, values: dict[str, Any]) -> None:
    """XMP and ImageMagick's EXIF are text chunks as well; they go where those of other formats go."""
    keyword, _, text = content.partition(b"\0")
    if kind == b"iTXt" and keyword + b"\0" == _XMP_KEYWORD:
        packet = text[2:].split(b"\0", 2)[2]
        values["xmp"] = _inflate(packet) if text[0] else packet
    elif kind in _TEXT_CHUNKS and keyword == b"Raw profile type exif":
        lines = (_inflate(text[1:]) if kind == b"zTXt" else text).split(b"\n")[3:]
        values.setdefault("exif", bytes.fromhex(b"".join(lines).decode("ascii")))
    else:
        values["png_chunks"].append((kind, content))


def _inflate(data: bytes) -> bytes:
    return zlib.decompressobj().decompress(data, _MOST_INFLATED)


def _decode_tiff(data: bytes, max_pixels: int) -> tuple[np.ndarray, dict[str, Any]]:
    """As `_decode_png`."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        pages: list[Any] = [page for page in file.pages if not page.is_reduced]
        _refuse_frames(len(pages))
        if not pages:
            raise ImageError(f"it holds only a preview, as camera raw files do: {_RAW_REMEDY}")
        page = pages[0]
        _check_size(page.imagewidth, page.imagelength, max_pixels)
        alpha = _check_tiff(page)
        if any(o + n > len(data) for o, n in zip(page.dataoffsets, page.databytecounts)):
            raise ImageError("it is truncated: get a complete copy of it")
        levels = page.asarray()
        if page.axes == "SYX":
            levels = np.moveaxis(levels, 0, -1)
        bits, colours = page.bitspersample, page.photometric.name
        if colours == "PALETTE":
            levels, bits = (page.colormap >> 8).astype(np.uint8).T[levels], 8
        if colours == "MINISWHITE":
            levels = levels.astype(np.uint16)
            gray = levels[..., :1] if alpha else levels
            np.subtract(2**bits - 1, gray, out=gray)
        depth = 8 if bits <= 8 else 16
        if bits != depth:
            levels = np.rint(levels * ((2**depth - 1) / (2**bits - 1)))
        levels = levels.astype(np.uint8 if depth == 8 else np.uint16, copy=False)
        if alpha == "ASSOCALPHA":
            levels = _unpremultiply(levels)
        compression = _TIFF_COMPRESSIONS.get(page.compression.name, "zlib")
        kept = "unspecified" if alpha == "UNSPECIFIED" else "unassalpha"
        values = {
            "tiff": {"compression": compression, "extrasamples": kept},
            "icc": page.iccprofile,
            "exif": _tiff_exif(io.BytesIO(data)),
            "xmp": page.tags.valueof(700),
            "dpi": _dpi(*(page.tags.valueof(tag) for tag in (282, 283, 296))),
        }
        return levels, values


def _check_tiff(page: Any) -> str | None:
    """Refuses what would lose information. Returns the kind of the alpha channel, if there is one."""
    bits, colours = page.bitspersample, page.photometric.name
    if colours == "CFA" and _DNG_VERSION in page.tags:
        raise ImageError(f"it is a camera raw file: {_RAW_REMEDY}")
    if page.sampleformat != 1 or not isinstance(bits, int) or not 1 <= bits <= 16:
        kind = {2: "signed", 3: "floating-point"}.get(page.sampleformat, "integer")
        raise ImageError(f"its samples are {bits}-bit {kind}: convert it to 16-bit unsigned integers")
    readable = colours == "YCBCR" and page.compression.name == "JPEG"
    readable |= colours == "CFA" and page.samplesperpixel == 1
    if colours not in ("MINISBLACK", "MINISWHITE", "PALETTE", "RGB") and not readable:
        raise ImageError(f"its colours are {colours}: convert it to RGB or gray")
    extra = page.samplesperpixel - (3 if colours in ("RGB", "YCBCR") else 1)
    if page.axes not in ("YX", "YXS", "SYX") or extra not in (0, 1) or (extra and colours == "PALETTE"):
        raise ImageError(f"{page.samplesperpixel} channels are not supported: convert it to RGB or gray")
    if extra and bits not in (8, 16):
        raise ImageError(f"{bits}-bit samples with alpha are not supported: convert it to 16-bit")
    return None if not extra else page.extrasamples[0].name if page.extrasamples else "UNSPECIFIED"


def _unpremultiply(levels: np.ndarray) -> np.ndarray:
    """(H, W, C + 1) unsigned, with the colour divided by alpha, the last channel."""
    top = np.iinfo(levels.dtype).max
    alpha = levels[..., -1:].astype(np.float32)
    colour = levels[..., :-1] * (top / np.maximum(alpha, 1))
    return np.concatenate([np.rint(np.minimum(colour, top)).astype(levels.dtype), levels[..., -1:]], -1)


def _tiff_exif(file: BinaryIO, developed: bool = False) -> bytes | None:
    """The EXIF part of a TIFF's directory; damaged EXIF, or that of a BigTIFF, is left out.

    developed: of a raw file whose picture was made anew, so what described the file's own pixels is left out.
    """
    with suppress(Exception):
        exif = PIL.Image.Exif()
        exif.load_from_fp(file)
        for tag in set(exif) - _EXIF_TAGS:
            del exif[tag]
        if developed:
            exif[_ORIENTATION] = 1
            details = exif.get_ifd(_EXIF_DIRECTORY) if _EXIF_DIRECTORY in exif else {}
            for tag in details.keys() & _RAW_ONLY_TAGS:
                del details[tag]
        return exif.tobytes()[6:] if exif else None
    return None


def _decode_with_pillow(data: bytes, format: str, max_pixels: int) -> tuple[np.ndarray, dict[str, Any]]:
    """As `_decode_png`, for what has 8 bits: JPEG, WebP, BMP."""
    try:
        file = _PLUGINS[format](io.BytesIO(data))
    except PIL.Image.DecompressionBombError:
        raise ImageError(f"it is too large for {format} (over 178 million pixels): convert it to TIFF") from None
    with file:
        _check_size(file.size[0], file.size[1], max_pixels)
        _refuse_frames(getattr(file, "n_frames", 1))
        values = {
            "icc": file.info.get("icc_profile"),
            "exif": file.info.get("exif"),
            "xmp": file.info.get("xmp"),
            "dpi": file.info.get("dpi"),
            "jpeg_tables": getattr(file, "quantization", None),
            "jpeg_segments": b"".join(
                struct.pack(">HH", _JPEG_MARKERS[kind], len(content) + 2) + content
                for kind, content in getattr(file, "applist", ())
                if kind in _JPEG_MARKERS
            ),
        }
        modes = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB", "RGBA": "RGBA"}
        if file.mode not in modes:
            raise ImageError(f"its colours are {file.mode}: convert it to RGB or gray")
        levels = np.asarray(file.convert(modes[file.mode]))
    if format == "WEBP" and values["exif"]:
        with suppress(Exception):
            exif = PIL.Image.Exif()
            exif.load(values["exif"])
            values["dpi"] = _dpi(exif.get(282), exif.get(283), exif.get(296))
    return levels, values


def _dpi(x: Any, y: Any, unit: int | None) -> tuple[float, float] | None:
    """Of TIFF's resolution tags. unit: 1 none, 2 inch (also if missing), 3 cm."""
    with suppress(TypeError, ZeroDivisionError, ValueError, OverflowError):
        numbers = [float(v[0] / v[1]) if isinstance(v, tuple) else float(v) for v in (x, y)]
        if unit != 1 and all(math.isfinite(v) and v > 0 for v in numbers):
            return numbers[0] * (2.54 if unit == 3 else 1), numbers[1] * (2.54 if unit == 3 else 1)
    return None


def _assemble(levels: np.ndarray, values: dict[str, Any], format: str) -> Image:
    """levels: (H, W) or (H, W, C) unsigned, C = 1 to 4, the last one alpha if C is even."""
    if values.get("exif"):
        values["exif"], values["orientation"] = _upright(values["exif"])
        orientation = values["orientation"]
        rows, columns = _FLIPS[orientation]
        levels = (levels.swapaxes(0, 1) if orientation > 4 else levels)[::rows, ::columns]
        if orientation > 1 and values.get("xmp"):
            values["xmp"] = re.sub(rb'(tiff:Orientation(?:="|>))[2-8]', rb"\g<1>1", values["xmp"])
        if orientation > 4 and values.get("dpi"):
            values["dpi"] = values["dpi"][::-1]
    levels = levels[..., None] if levels.ndim == 2 else levels
    channels = 3 if levels.shape[2] > 2 else 1
    alpha = np.ascontiguousarray(levels[..., -1]) if levels.shape[2] > channels else None
    top = np.iinfo(levels.dtype).max
    pixels = np.divide(levels[..., :channels], top, dtype=np.float32, order="C")
    return Image(pixels, alpha, depth=8 if top == 255 else 16, format=format, **values)


def _upright(exif: bytes) -> tuple[bytes | None, int]:
    """EXIF with orientation 1 and no thumbnail, and the orientation it had.

    It is patched in place, so that unknown tags and the offsets in maker notes stay as they are.
    """
    block = bytearray(re.sub(rb"^(Exif\0\0){1,2}", b"", exif[:12]) + exif[12:])
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(bytes(block[:4]))
    if not order:
        return None, 1
    orientation = 1
    with suppress(struct.error):
        (start,) = struct.unpack_from(order + "I", block, 4)
        (count,) = struct.unpack_from(order + "H", block, start)
        end = start + 2 + 12 * count
        for entry in range(start + 2, end, 12):
            tag, kind = struct.unpack_from(order + "HH", block, entry)
            if tag == _ORIENTATION and kind in (3, 4):
                number = order + ("H" if kind == 3 else "I")
                (orientation,) = struct.unpack_from(number, block, entry + 8)
                struct.pack_into(number, block, entry + 8, 1)
        struct.pack_into(order + "I", block, end, 0)
    return bytes(block), orientation if orientation in _FLIPS else 1


# --- writing ---------------------------------------------------------------------------------------------------------


@contextmanager
def _write_errors(target: Path | str | BinaryIO) -> Iterator[None]:
    """Turns every failure into one ImageError that names the target."""
    name = str(target if isinstance(target, (str, Path)) else getattr(target, "name", "the stream"))
    try:
        yield
    except ImageError as error:
        raise ImageError(f"cannot write {name}: {error}") from None
    except FileExistsError as error:
        raise ImageError(f"cannot write {name}: it exists: use --overwrite to replace it") from error
    except OSError as error:
        raise ImageError(f"cannot write {name}: {_one_line(error)}{_REMEDIES.get(error.errno or 0, '')}") from error
    except MemoryError as error:
        raise ImageError(f"cannot write {name}: it does not fit into memory: make it smaller") from error
    except Exception as error:
        raise ImageError(f"cannot write {name}: {_one_line(error)}: choose .png or .tif") from error


def _checked_format(image: Image, target: Path | str | BinaryIO, format: str | None, overwrite: bool) -> str:
    """The format to write, if target and format can take the image. `_write_file` checks again without a race."""
    if isinstance(target, (str, Path)):
        path = Path(target)
        if path.is_dir():
            raise ImageError("it is a folder: name a file")
        if not path.parent.is_dir():
            raise ImageError(f"the folder {path.parent} does not exist: create it first")
        if not overwrite and os.path.lexists(path):
            raise FileExistsError
        format = format or SUFFIXES.get(path.suffix.lower(), path.suffix)
    format = format if format is not None else image.format
    if format not in _LONGEST_SIDE:
        raise ImageError(f"'{format}' is not a format that dagl writes: choose one of {', '.join(SUFFIXES)}")
    if image.depth == 16 and format not in ("PNG", "TIFF"):
        raise ImageError(f"the image has 16 bits per sample and {format} holds 8: choose .png or .tif")
    if image.alpha is not None and format in ("JPEG", "BMP"):
        raise ImageError(f"the image has an alpha channel and {format} holds none: choose .png, .tif or .webp")
    if max(image.pixels.shape[:2]) > _LONGEST_SIDE[format]:
        raise ImageError(f"{format} holds at most {_LONGEST_SIDE[format]} pixels a side: choose .png or .tif")
    return format


def _encode(image: Image, format: str, strip_metadata: bool) -> bytes | memoryview:
    levels = _levels(image)
    if format == "WEBP" and levels.shape[2] < 3:  # WebP has no gray
        levels = np.concatenate([levels[..., :1]] * 3 + [levels[..., 1:]], 2)
    icc = image.icc
    if icc and levels.shape[2] >= 3 and icc[16:20] == b"GRAY":  # a gray profile says nothing about RGB
        icc = None
    dpi, exif, xmp = (None, None, None) if strip_metadata else (image.dpi, image.exif, image.xmp)
    levels = levels[..., 0] if levels.shape[2] == 1 else levels
    if format == "PNG":
        dropped = _TEXT_CHUNKS if strip_metadata else ()
        return _encode_png(levels, icc, exif, xmp, dpi, [c for c in image.png_chunks if c[0] not in dropped])
    if format == "TIFF":
        return _encode_tiff(levels, icc, exif, xmp, dpi, image.tiff)
    if format == "JPEG" and max(len(exif or b""), len(xmp or b"")) > 65500:
        raise ImageError("its EXIF or XMP is too long for JPEG: choose .png or .tif, or give --strip-metadata")
    if format == "WEBP" and dpi and not exif:  # WebP holds a resolution in EXIF only
        tags = PIL.Image.Exif()
        tags.update({282: dpi[0], 283: dpi[1], 296: 2})
        exif = tags.tobytes()[6:]
    metadata = {"icc_profile": icc, "exif": exif and b"Exif\0\0" + exif, "xmp": xmp, "dpi": dpi}
    options: dict[str, Any] = {key: value for key, value in metadata.items() if value}
    options |= _PILLOW_OPTIONS[format]
    if format == "JPEG" and not strip_metadata:
        options["extra"] = image.jpeg_segments
    buffer = io.BytesIO()
    PIL.Image.fromarray(levels).save(buffer, format, **options)
    return buffer.getbuffer()


def _levels(image: Image) -> np.ndarray:
    """The image as a file holds it: (H, W, C) uint8 or uint16, alpha last. Rounded, not truncated."""
    pixels, top = image.pixels, 2**image.depth - 1
    dtype = np.uint8 if image.depth == 8 else np.uint16
    if image.depth not in (8, 16) or pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or pixels.size == 0:
        raise ImageError(f"pixels of shape {pixels.shape} at {image.depth} bits are not an image")
    if image.alpha is not None and (image.alpha.shape != pixels.shape[:2] or image.alpha.dtype != dtype):
        raise ImageError(
            f"alpha is {image.alpha.dtype} {image.alpha.shape}: it must be {image.depth}-bit {pixels.shape[:2]}"
        )
    if not (np.isfinite(pixels.min()) and np.isfinite(pixels.max())):
        raise ImageError("the result has values that are not numbers: try --precision fp32, and report this")
    levels = np.empty((*pixels.shape[:2], pixels.shape[2] + (image.alpha is not None)), dtype)
    for row in range(0, len(pixels), 256):  # bounds the memory for float copies
        band = np.clip(pixels[row : row + 256], 0, 1) * np.float32(top)
        levels[row : row + 256, :, : pixels.shape[2]] = np.rint(band, out=band)
    if image.alpha is not None:
        levels[..., -1] = image.alpha
    return levels


def _encode_png(
    levels: np.ndarray,
    icc: bytes | None,
    exif: bytes | None,
    xmp: bytes | None,
    dpi: tuple[float, float] | None,
    chunks: list[tuple[bytes, bytes]],
) -> bytes:
    chunks = list(chunks)
    if icc:
        chunks.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(icc)))
    if exif:
        chunks.append((b"eXIf", exif))
    if xmp:
        chunks.append((b"iTXt", _XMP_KEYWORD + b"\0\0\0\0" + xmp))
    if dpi:
        chunks.append((b"pHYs", struct.pack(">IIB", *(round(v / 0.0254) for v in dpi), 1)))
    filtered = levels.nbytes + len(levels)  # a byte more for each row
    # by default the buffer is too small for narrow images; this is over zlib's bound and the chunks' own bytes
    png = imagecodecs.png_encode(levels, out=filtered + filtered // 6 + 4096)
    header = 8 + 25  # signature, IHDR
    extra = [
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    ]
    return b"".join([png[:header], *extra, memoryview(png)[header:]])


def _encode_tiff(
    levels: np.ndarray,
    icc: bytes | None,
    exif: bytes | None,
    xmp: bytes | None,
    dpi: tuple[float, float] | None,
    stored: dict[str, Any],
) -> memoryview:
    compression = stored.get("compression", "zlib")
    options: dict[str, Any] = {"compression": compression}
    if compression in ("lzw", "zlib", "zstd"):
        options["predictor"] = True
    if levels.ndim == 3:
        options["planarconfig"] = "contig"
    if levels.ndim == 3 and levels.shape[2] % 2 == 0:
        options["extrasamples"] = [stored.get("extrasamples", "unassalpha")]
    if dpi:
        options |= {"resolution": dpi, "resolutionunit": "INCH"}
    if xmp:
        options["extratags"] = [(700, "B", len(xmp), xmp, True)]
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        levels,
        byteorder="<",
        photometric="rgb" if levels.ndim == 3 and levels.shape[2] > 2 else "minisblack",
        iccprofile=icc,
        metadata=None,
        software=False,
        **options,
    )
    if exif:
        _add_exif(buffer, exif)
    return buffer.getbuffer()


def _add_exif(tiff: io.BytesIO, exif: bytes) -> None:
    """Gives a little-endian TIFF a new directory: its own entries and those of the EXIF block, sub-directories too."""
    tags = PIL.Image.Exif()
    tags.load(exif)
    for tag in set(tags) - _EXIF_TAGS:
        del tags[tag]
    tags.endian = "<"
    own = tiff.getvalue()
    position = len(own) + len(own) % 2
    block = tags.tobytes(offset=position)[6 + 8 :]
    (start,) = struct.unpack_from("<I", own, 4)
    entries = [
        data[first + 12 * i : first + 12 * (i + 1)]
        for data, first in ((own, start + 2), (block, 2))
        for i in range(struct.unpack_from("<H", data, first - 2)[0])
    ]
    entries.sort(key=lambda entry: int.from_bytes(entry[:2], "little"))
    tiff.seek(position)
    tiff.write(block + b"\0" * (len(block) % 2))
    directory = tiff.tell()
    tiff.write(struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<I", 0))
    tiff.seek(4)
    tiff.write(struct.pack("<I", directory))


def _write_file(path: Path, data: bytes | memoryview, overwrite: bool) -> None:
    """All or nothing: under another name first. Raises OSError; FileExistsError if the path is taken."""
    temporary = path.with_name(f".dagl-{secrets.token_hex(8)}.part")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            with suppress(FileNotFoundError):
                shutil.copymode(path, temporary)
            os.replace(temporary, path)
        else:
            _rename_if_free(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _rename_if_free(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)  # atomic, and unlike a rename it never replaces
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: take the name first, then put the data there
        open(path, "xb").close()
        try:
            os.replace(temporary, path)
        except BaseException:
            path.unlink()
            raise


# --- both ------------------------------------------------------------------------------------------------------------


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Pillow's warnings, about odd metadata mostly, from being printed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _damage(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"it is damaged or truncated ({_one_line(error)}): get an intact copy of it"


def _one_line(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
