"""A file to an `Image`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL.Image

from ..config import MAX_PIXELS
from ..errors import ImageError
from ..silence import quiet
from . import colour, exif, xmp
from .formats import FORMATS, format_of
from .image import Image, Metadata, Resolution
from .tone import tone_of

_MOST_BESIDE_PIXELS = 1 << 28
"""Bytes: metadata and further pictures in a file, beside 8 bytes for each pixel that is allowed."""


def read(source: Path | str | bytes | BinaryIO, *, name: str | None = None, max_pixels: int = MAX_PIXELS) -> Image:
    """The image in a file, in the bytes of one, or in a stream. Its format is found from the content, not the name.

    Pixels are the file's levels / 255 or / 65535; those of a float file are what `tone` makes of its values, and
    the way back is in `Image.tone`. Palette images become RGB, 1-bit images gray. Orientation is
    applied and reset; a premultiplied TIFF is divided by its alpha; the EXIF thumbnail is unlinked. A TIFF with
    the colours CFA (a Bayer mosaic) is gray. Metadata that is malformed, or promises what is not in the picture, is
    left out and said in `Image.notes`. The file is read once; its bytes stay in `Image.encoded`.

    Not noticed: damage inside the compressed data of a JPEG or a lossy WebP that leaves their structure whole, since
    these formats have no checksums and their decoders carry on. Not read: any picture of a JPEG after the first
    (MPO: a second view, a depth or gain map).

    name: what errors call the image; the path, unless given.
    max_pixels: larger images are refused by their header, before anything is decoded.
    Raises ImageError: not there, not an image, damaged, truncated, too large, or of a kind whose content would be
    lost (several frames, signed or 32-bit integers, CMYK); or the package that reads it is not there.
    """
    name = name or (str(source) if isinstance(source, (Path, str)) else "the image")
    with read_errors(name):
        format, data = _load(source, 8 * max_pixels + _MOST_BESIDE_PIXELS)
        levels, metadata = FORMATS[format].decode(data, max_pixels)
        return assembled(levels, metadata, format, data)


@contextmanager
def read_errors(name: str) -> Iterator[None]:
    """Turns every failure into one ImageError that names the image."""
    try:
        with quiet():
            yield
    except ImageError as error:
        raise ImageError(f"cannot read {name}: {error}") from None
    except MemoryError as error:
        raise ImageError(f"cannot read {name}: it does not fit into memory: crop it or make it smaller") from error
    except OSError as error:
        if error.strerror:
            raise ImageError(f"cannot read {name}: {error.strerror}") from error
        raise ImageError(f"cannot read {name}: {DAMAGED}") from error
    except Exception as error:  # whatever a decoder says of damaged data
        raise ImageError(f"cannot read {name}: {DAMAGED}") from error


DAMAGED = "it is damaged or truncated: get an intact copy of it"


def pixels_of(path: Path) -> int | None:
    """Of a picture by its header, as far as Pillow knows it."""
    try:
        with quiet(), PIL.Image.open(path) as image:
            return image.width * image.height
    except Exception:  # what is wrong with a file, reading it will say
        return None


def load(stream: BinaryIO, *, name: str, max_pixels: int = MAX_PIXELS) -> bytes:
    """What `read` would read of a stream, and GIF. Raises ImageError for what is no image."""
    with read_errors(name):
        return _load_stream(stream, 8 * max_pixels + _MOST_BESIDE_PIXELS, also=(b"GIF8",))[1]


def record(source: Path | str | bytes) -> dict[str, str]:
    """How dagl made a file, as far as its XMP says so (`xmp.with_record`), near its beginning or end; else empty."""
    if isinstance(source, bytes):
        return xmp.record(source[:_NEAR]) or xmp.record(source[-_NEAR:])
    with suppress(OSError), open(source, "rb") as file:
        head = file.read(_NEAR)
        file.seek(max(len(head), file.seek(0, os.SEEK_END) - _NEAR))
        return xmp.record(head) or xmp.record(file.read(_NEAR))
    return {}


_NEAR = 1 << 17


def _load(source: Path | str | bytes | BinaryIO, most: int) -> tuple[str, bytes]:
    """Format and content. What is no image is not read to its end, nor is what has none."""
    if isinstance(source, bytes):
        return format_of(source[:32]), source
    if not isinstance(source, (Path, str)):
        return _load_stream(source, most)
    if Path(source).is_dir():
        raise ImageError("it is a folder, not an image")
    try:
        with open(source, "rb") as file:
            return _load_stream(file, most)
    except FileNotFoundError:
        raise ImageError("there is no such file") from None
    except PermissionError:
        raise ImageError("permission denied: make the file readable") from None
    except ValueError:
        raise ImageError("its name has a null character in it") from None


def _load_stream(stream: BinaryIO, most: int, also: tuple[bytes, ...] = ()) -> tuple[str, bytes]:
    """Format and content. also: how what else is wanted begins, which has no format here."""
    head = b""
    while len(head) < 32 and (more := stream.read(32 - len(head))):
        head += more
    format = "" if head.startswith(also) else format_of(head)
    data = head + stream.read(most)
    if len(data) > most:
        raise ImageError(
            f"it is over {most:,} bytes long, more than `max_pixels` pixels need: raise it if that is right"
        )
    return format, data


def assembled(levels: np.ndarray, metadata: Metadata, format: str, data: bytes) -> Image:
    """An `Image` of what a format's `decode` gives, made upright.

    levels: (H, W) or (H, W, C) unsigned or float, C = 1 to 4, the last one alpha if C is even. data: the file.
    """
    orientation = 1
    if metadata.exif:
        metadata.exif, orientation = exif.upright(metadata.exif)
        if metadata.exif is None:
            metadata.notes.append("its EXIF is damaged: left out")
    if metadata.icc is not None and not colour.is_profile(metadata.icc):
        metadata.icc = None
        metadata.notes.append("its ICC profile is malformed: left out")
    if metadata.xmp:
        metadata.record = xmp.record(metadata.xmp)
        metadata.xmp, gone = xmp.truthful(metadata.xmp)
        if gone:
            metadata.notes.append(f"its XMP promises {' and '.join(gone)}, which dagl does not keep: left out")
    if orientation > 1:
        levels = exif.turned(levels, orientation)
        metadata.xmp = metadata.xmp and xmp.upright(metadata.xmp)
    if orientation > 4 and metadata.resolution:
        x, y, unit = metadata.resolution
        metadata.resolution = Resolution(y, x, unit)
    metadata.notes = list(dict.fromkeys(metadata.notes))  # a file may have the same fault many times
    levels = levels[..., None] if levels.ndim == 2 else levels
    channels = 3 if levels.shape[2] > 2 else 1
    alpha = np.ascontiguousarray(levels[..., -1]) if levels.shape[2] > channels else None
    depth, tone = 8 * levels.dtype.itemsize, None
    if levels.dtype.kind == "f":
        light = FORMATS[format].light or (metadata.icc is not None and colour.is_linear(metadata.icc))
        tone = tone_of(levels[..., :channels], light)
        pixels = tone.encode(levels[..., :channels])
        if odd := int((~np.isfinite(tone.kept)).sum()):
            metadata.notes.append(f"{odd:,} of its values {'is' if odd == 1 else 'are'} not finite: left as before")
    else:
        pixels = np.divide(levels[..., :channels], np.iinfo(levels.dtype).max, dtype=np.float32, order="C")
    return Image(pixels, alpha, depth, format, orientation, data, tone, **vars(metadata))
