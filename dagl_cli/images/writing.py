"""An `Image` to a file."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .. import files
from ..errors import ImageError, one_line
from ..silence import quiet
from . import xmp
from .formats import FORMATS, INSTEAD, SUFFIXES
from .image import Image, Metadata

_REMEDIES = {
    errno.ENOSPC: ": free some space",
    errno.EACCES: ": choose a folder you may write to",
    errno.EROFS: ": choose a folder you may write to",
}
_CONTENTS = {
    "icc": "ICC profile", "exif": "EXIF", "xmp": "XMP", "resolution": "resolution", "png_text": "text of PNG's",
    "jpeg_segments": "IPTC or comments", "exr_channels": "channels beside colour and alpha",
    "exr_attributes": "attributes of OpenEXR", "header_lines": "lines of text in its header",
}  # fmt: skip
"""Fields of `Metadata`, as messages call them."""
_COLOURS = ("icc", "tiff", "png_colours", "exr", "exr_channels", "hdr")
"""Those that stay when metadata is stripped: without them the samples would mean something else."""


def write(
    image: Image | bytes,
    target: Path | str | BinaryIO,
    *,
    format: str | None = None,
    strip_metadata: bool = False,
    overwrite: bool = False,
    inputs: Container[files.Entry] = frozenset(),
) -> list[str]:
    """Writes a file, all of it or nothing, or writes its bytes to an open binary stream.

    Levels are clipped and rounded to nearest; float values are what they were before the tone. JPEG is quality 95
    without chroma subsampling, so that a restored image gets no new artifacts; WebP is lossless; TIFF keeps its
    compression if that is lossless. How dagl made it (`Image.record`) goes into XMP or a text of the format's own.

    Not kept: thumbnails and further pictures; PNG text in other formats; Photoshop and IPTC blocks and comments,
    except from JPEG to JPEG; tags of a TIFF that are neither EXIF nor XMP nor ICC; EXIF, XMP and ICC in BMP.

    image: what to encode; or the bytes of a file, which are written as they are.
    target: a path, whose folder exists. The data goes to a temporary file beside it, which is then renamed.
    format: a name in `FORMATS`; by default the target's suffix decides, for a stream `image.format`.
    strip_metadata: leaves out EXIF, XMP, IPTC, text and resolution. What defines the colours (ICC) always stays.
    overwrite: without it an existing target is an error, even if it appears at the last moment.
    inputs: names that are never replaced, see `files.write`.
    Returns what the format could not keep, a line each.
    Raises ImageError: the format cannot hold the bit depth or the alpha channel, the pixels are not finite, the
    target exists, or the system refuses to write.
    """
    notes: list[str] = []
    data: bytes | memoryview
    if isinstance(image, bytes):
        data = image
    else:
        data, notes = file_of(image, target, format=format, strip_metadata=strip_metadata, overwrite=overwrite)
    put(data, target, overwrite=overwrite, inputs=inputs)
    return notes


def file_of(
    image: Image,
    target: Path | str | BinaryIO,
    *,
    format: str | None = None,
    strip_metadata: bool = False,
    overwrite: bool = False,
) -> tuple[bytes | memoryview, list[str]]:
    """The bytes that `write` would write, and what it would return. Raises ImageError."""
    notes: list[str] = []
    with write_errors(target):
        format = _checked_format(image, target, format, overwrite, strip_metadata)
        with quiet():
            return encoded(image, format, strip_metadata, notes), notes


def put(
    data: bytes | memoryview,
    target: Path | str | BinaryIO,
    *,
    overwrite: bool = False,
    inputs: Container[files.Entry] = frozenset(),
) -> None:
    """Writes a file's bytes as `write` does. Raises ImageError."""
    with write_errors(target):
        if isinstance(target, (str, Path)):
            files.write(Path(target), data, overwrite=overwrite, inputs=inputs)
        else:
            target.write(data)


@contextmanager
def opened(
    target: Path | BinaryIO, *, overwrite: bool = False, inputs: Container[files.Entry] = frozenset()
) -> Iterator[BinaryIO]:
    """A file to be filled by the block, all of it or nothing (`files.writing`), and then at the target.

    target: a path, or a binary stream, which gets the data at the end. Raises ImageError for what the system refuses.
    """
    try:
        if isinstance(target, Path):
            with files.writing(target, overwrite=overwrite, inputs=inputs) as file:
                yield file
        else:
            with tempfile.TemporaryFile() as file:
                yield file
                file.seek(0)
                shutil.copyfileobj(file, target)
    except OSError as error:
        with write_errors(target):
            raise error


def check_target(
    image: Image,
    target: Path | str | BinaryIO,
    *,
    format: str | None = None,
    overwrite: bool = False,
    strip_metadata: bool = False,
    new_folder: bool = False,
) -> None:
    """Raises now what `write` would raise for this image's format, depth, alpha or size, or for this target.

    new_folder: the target's folder is yet to be made.
    """
    with write_errors(target):
        _checked_format(image, target, format, overwrite, strip_metadata, new_folder)


@contextmanager
def write_errors(target: Path | str | BinaryIO) -> Iterator[None]:
    """Turns every failure into one ImageError that names the target."""
    name = str(target if isinstance(target, (str, Path)) else getattr(target, "name", "the stream"))
    try:
        yield
    except ImageError as error:
        raise ImageError(f"cannot write {name}: {error}") from None
    except FileExistsError as error:
        raise ImageError(f"cannot write {name}: it exists: use `overwrite` to replace it") from error
    except OSError as error:
        raise ImageError(f"cannot write {name}: {one_line(error)}{_REMEDIES.get(error.errno or 0, '')}") from error
    except MemoryError as error:
        raise ImageError(f"cannot write {name}: it does not fit into memory: make it smaller") from error
    except Exception as error:
        raise ImageError(f"cannot write {name}: {one_line(error)}: choose .png or .tif") from error


def _checked_format(
    image: Image,
    target: Path | str | BinaryIO,
    name: str | None,
    overwrite: bool,
    strip_metadata: bool,
    new_folder: bool = False,
) -> str:
    """The format to write, if target and format can take the image. `files.write` checks again without a race."""
    if isinstance(target, (str, Path)):
        path = Path(target)
        if path.is_dir():
            raise ImageError("it is a folder: name a file")
        if not new_folder and not path.parent.is_dir():
            raise ImageError(f"the folder {path.parent} does not exist: create it first")
        if not overwrite and os.path.lexists(path):
            raise FileExistsError
        name = name or SUFFIXES.get(path.suffix.lower(), path.suffix)
    name = name if name is not None else image.format
    if name in FORMATS and FORMATS[name].encode is None:
        name = INSTEAD
    if name not in FORMATS:
        raise ImageError(f"'{name}' is not a format that dagl writes: choose one of {', '.join(SUFFIXES)}")
    format = FORMATS[name]
    if image.depth not in (format.depths if image.tone is None else format.floats):
        has = f"{image.depth} bits per sample" if image.tone is None else f"{image.depth}-bit float samples"
        remedy = "choose .png or .tif" if image.tone is None else "choose .tif or .exr"
        raise ImageError(f"the image has {has} and {name} holds {format.holds()}: {remedy}")
    if image.alpha is not None and not format.alpha:
        raise ImageError(f"the image has an alpha channel and {name} holds none: choose .png, .tif or .webp")
    if max(image.pixels.shape[:2]) > format.longest_side:
        raise ImageError(f"{name} holds at most {format.longest_side} pixels a side: choose .png or .tif")
    if not strip_metadata and max(len(image.exif or b""), len(image.xmp or b"")) > format.longest_block:
        raise ImageError(f"its EXIF or XMP is too long for {name}: choose .png or .tif, or give `strip_metadata`")
    return name


def encoded(
    image: Image, name: str, strip_metadata: bool, notes: list[str], samples: np.ndarray | None = None
) -> bytes | memoryview:
    """A file's bytes.

    name: of the format. samples: (H, W, C) what to encode instead of the image's own. What is not kept is added to the
    notes.
    """
    samples, format = levels(image) if samples is None else samples, FORMATS[name]
    kept = _COLOURS if strip_metadata else [f.name for f in fields(Metadata) if f.name != "notes"]
    metadata = Metadata(**{name: getattr(image, name) for name in kept})
    if metadata.record and "xmp" in format.keeps:
        packet = xmp.with_record(metadata.xmp, metadata.record)
        if len(packet) <= format.longest_block and xmp.record(packet):
            metadata.xmp = packet
        else:
            notes.append("how it was made is not recorded: its XMP is damaged, or has no room for it")
    if samples.shape[2] < 3 and not format.gray:
        samples = np.concatenate([samples[..., :1]] * 3 + [samples[..., 1:]], 2)
    if metadata.icc and samples.shape[2] >= 3 and metadata.icc[16:20] == b"GRAY":  # says nothing about RGB
        metadata.icc = None
    lost = [what for field, what in _CONTENTS.items() if field not in format.keeps and getattr(metadata, field)]
    if lost:
        notes.append(f"{name} holds no {' and no '.join(lost)}: left out")
    if "png_colours" not in format.keeps and any(kind == b"cICP" for kind, _ in metadata.png_colours):
        notes.append(f"{name} is not told what its colours are (as PQ, HLG): choose .png to keep that")
    assert format.encode is not None
    data = format.encode(samples[..., 0] if samples.shape[2] == 1 else samples, metadata)
    notes += metadata.notes
    return data


def levels(image: Image) -> np.ndarray:
    """The image as a file holds it: (H, W, C) of its `dtype`, alpha last. Rounded, not truncated."""
    pixels, top, dtype = image.pixels, 2**image.depth - 1, image.dtype
    if (
        image.depth not in ((8, 16) if image.tone is None else (16, 32))
        or pixels.ndim != 3
        or pixels.shape[2] not in (1, 3)
        or pixels.size == 0
    ):
        raise ImageError(f"pixels of shape {pixels.shape} at {image.depth} bits are not an image")
    if image.alpha is not None and (image.alpha.shape != pixels.shape[:2] or image.alpha.dtype != dtype):
        raise ImageError(
            f"alpha is {image.alpha.dtype} {image.alpha.shape}: it must be {image.depth}-bit {pixels.shape[:2]}"
        )
    if not (np.isfinite(pixels.min()) and np.isfinite(pixels.max())):
        raise ImageError("the result has values that are not numbers: try `precision` fp32, and report this")
    found = np.empty((*pixels.shape[:2], pixels.shape[2] + (image.alpha is not None)), dtype)
    if image.tone is not None:
        found[..., : pixels.shape[2]] = image.tone.decode(pixels, dtype)
    for row in range(0, len(pixels) if image.tone is None else 0, 256):  # bounds the memory for float copies
        band = np.clip(pixels[row : row + 256], 0, 1) * np.float32(top)
        found[row : row + 256, :, : pixels.shape[2]] = np.rint(band, out=band)
    if image.alpha is not None:
        found[..., -1] = image.alpha
    return found
