"""What dagl holds in memory: one picture and everything that is written back with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from ..errors import ImageError
from .tone import Tone


class Resolution(NamedTuple):
    """Pixels per unit of length."""

    x: Fraction
    y: Fraction
    unit: str
    """'inch', 'cm', or 'none': then the two only say how x and y relate, or a program's own text has the unit."""

    def is_bare(self) -> bool:
        """For formats that hold only the relation of x and y then: there is none to tell."""
        return self.unit == "none" and self.x == self.y

    def relation(self, most: int) -> tuple[int, int]:
        """Of x and y, in whole numbers from 1 to `most`."""
        flipped = self.x > self.y
        ratio = (self.y / self.x if flipped else self.x / self.y).limit_denominator(most)
        small, large = max(1, ratio.numerator), ratio.denominator
        return (large, small) if flipped else (small, large)

    def to(self, unit: str) -> Resolution:
        """In another unit of length. What has no unit keeps none."""
        if self.unit in (unit, "none"):
            return self
        factor = Fraction(100, 254) if unit == "cm" else Fraction(254, 100)
        return Resolution(self.x * factor, self.y * factor, unit)


@dataclass(kw_only=True, eq=False)
class Metadata:
    """What a file says beside its pixels."""

    icc: bytes | None = None
    exif: bytes | None = None
    """A TIFF structure without the 'Exif' prefix. In an `Image` its orientation is 1."""
    xmp: bytes | None = None
    resolution: Resolution | None = None
    jpeg_tables: dict[int, list[int]] | None = None
    """Quantization tables of a JPEG input (Pillow's `quantization`); the encoder's quality can be read from them."""
    png_colours: list[tuple[bytes, bytes]] = field(default_factory=list)
    """(type, content) of a PNG input's gAMA, cHRM, sRGB and cICP chunks; written to PNG only."""
    png_text: list[tuple[bytes, bytes]] = field(default_factory=list)
    """(type, content) of a PNG input's tEXt, zTXt and iTXt chunks, but for XMP; written to PNG only."""
    tiff: dict[str, Any] = field(default_factory=dict)
    """How a TIFF input is stored, as arguments of `tifffile.imwrite`; used for TIFF only."""
    jpeg_segments: bytes = b""
    """The Photoshop (IPTC) and comment segments of a JPEG input, markers included; written to JPEG only."""
    exr: dict[str, Any] = field(default_factory=dict)
    """How an OpenEXR input is stored and what its colours are, as attributes; used for OpenEXR only."""
    exr_channels: dict[str, np.ndarray] = field(default_factory=dict)
    """(H, W) each: those of an OpenEXR input beside colour and alpha; written to OpenEXR only."""
    exr_attributes: dict[str, Any] = field(default_factory=dict)
    """The other attributes of an OpenEXR input; written to OpenEXR only."""
    hdr: list[bytes] = field(default_factory=list)
    """Lines of a Radiance input's header that say what its colours are; written to Radiance only."""
    header_lines: list[bytes] = field(default_factory=list)
    """The other lines of text in the header of a PNM or Radiance input; written to these only."""
    record: dict[str, str] = field(default_factory=dict)
    """How dagl made it, as XMP or a text of the format's own says it (`xmp.element`)."""
    notes: list[str] = field(default_factory=list)
    """What of the file was left out and why, a line each: 'its pHYs chunk is malformed: left out'."""


@dataclass(eq=False)
class Image(Metadata):
    """One picture, upright, with everything that is written back with it."""

    pixels: np.ndarray
    """(H, W, C) float32 in [0, 1]; C is 1 (gray) or 3 (RGB). Not premultiplied with alpha."""
    alpha: np.ndarray | None = None
    """(H, W) of the type `dtype`. Passes through untouched."""
    depth: int = 8
    """Bits per sample: 8 or 16, of a float file 16 or 32."""
    format: str = "PNG"
    """The file's kind: a name in `FORMATS`."""
    orientation: int = 1
    """EXIF orientation that the file had, applied to pixels and alpha by `read`. `write` does not use it."""
    encoded: bytes = field(default=b"", repr=False)
    """The file as it was read, once: who wants to copy it copies what was looked at."""
    tone: Tone | None = None
    """How the values of a float file became `pixels`."""

    @property
    def dtype(self) -> np.dtype:
        """Of the file's samples."""
        return np.dtype(f"{'uint' if self.tone is None else 'float'}{self.depth}")

    def missing(self) -> np.ndarray | None:
        """(H, W) bool: the pixels of a float file that are not finite numbers, if there are any."""
        if self.tone is None or not len(places := self.tone.places[~np.isfinite(self.tone.kept)]):
            return None
        mask = np.zeros(self.pixels.shape[:2], bool)
        mask.reshape(-1)[places // self.pixels.shape[2]] = True
        return mask


def spread(levels: np.ndarray, bits: int) -> np.ndarray:
    """Unsigned levels of 1 to 16 bits -> uint8 or uint16 over the whole range."""
    depth = 8 if bits <= 8 else 16
    if bits == depth:
        return levels
    table = np.rint(np.linspace(0, 2**depth - 1, 2**bits)).astype(np.uint8 if depth == 8 else np.uint16)
    return table[levels.view(np.uint8) if levels.dtype == bool else levels]


def unpremultiplied(levels: np.ndarray) -> np.ndarray:
    """(H, W, C + 1) unsigned or float, with the colour divided by alpha, the last channel; where it is 0, as it is."""
    if levels.dtype.kind == "f":
        alpha = levels[..., -1:].astype(np.float32)
        colour = levels[..., :-1] / np.where(alpha > 0, alpha, 1)
        return np.concatenate([colour.astype(levels.dtype), levels[..., -1:]], -1)
    top = np.iinfo(levels.dtype).max
    alpha = levels[..., -1:].astype(np.float32)
    colour = levels[..., :-1] * (top / np.maximum(alpha, 1))
    return np.concatenate([np.rint(np.minimum(colour, top)).astype(levels.dtype), levels[..., -1:]], -1)


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raises ImageError. To be asked of a file's header, before anything is decoded."""
    if width <= 0 or height <= 0:
        raise ImageError(f"it has no pixels ({width}x{height})")
    if width * height > max_pixels:
        size = f"{width}x{height} = {width * height:,} pixels"
        raise ImageError(f"{size} are more than the limit of {max_pixels:,}: raise `max_pixels` if this is no mistake")


def refuse_frames(count: int) -> None:
    """Raises ImageError for more than one."""
    if count > 1:
        many = f"{count:,}" if count < MANY_FRAMES else f"{MANY_FRAMES:,} or more"
        raise ImageError(f"it has {many} frames or pages, and one picture is wanted here: split it into single images")


MANY_FRAMES = 1000
"""Frames are not counted further."""
