"""Two images, or two folders of them, against each other: metrics, and the report's tables and pictures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .. import images
from ..config import MAX_PIXELS
from ..errors import DaglError
from .metrics import psnr, ssim_gaussian
from .report import Cell, Picture, Table

PICTURES = 24
"""A report holds at most so many pairs ..."""
PIXELS = 48_000_000
"""... and so many pixels in all versions, so that a browser can open it."""
_SSIM_WINDOW = 11


@dataclass(frozen=True)
class Pair:
    """What is compared. `name` is what both have in common."""

    name: str
    a: Path
    b: Path
    reference: Path | None = None


@dataclass(frozen=True)
class Comparison:
    """How two images differ. No value is infinite: PSNR is None where there is no difference."""

    name: str
    a: str
    b: str
    width: int
    height: int
    channels: int
    depth: int
    """Bits per sample of the deeper of the two; both are compared at this depth."""
    identical: bool
    """Every colour sample is equal; alpha and metadata are not looked at."""
    psnr: float | None
    """dB, over all channels; None: identical."""
    ssim: float | None
    """Gaussian window; None: a side is under 11 pixels."""
    max_difference: int
    """In levels of `depth` bits."""
    mean_difference: float
    max_alpha_difference: int | None
    """None where not both have alpha."""
    reference: str | None = None
    a_psnr: float | None = None
    """Against the reference; None: identical to it, or no reference."""
    a_ssim: float | None = None
    b_psnr: float | None = None
    b_ssim: float | None = None
    notes: tuple[str, ...] = ()


def match(a: Sequence[Path], b: Sequence[Path]) -> tuple[list[tuple[Path, Path]], list[Path], list[Path]]:
    """Pairs of relative paths, first those that are equal, then those that are but for the suffix; and the rest.

    A path whose partner by stem is not the only one stays without a partner.
    """
    common = set(a) & set(b)
    pairs = [(path, path) for path in a if path in common]

    def by_stem(paths: Iterable[Path]) -> dict[Path, list[Path]]:
        stems: dict[Path, list[Path]] = {}
        for path in paths:
            if path not in common:
                stems.setdefault(path.with_suffix(""), []).append(path)
        return stems

    stems_a, stems_b = by_stem(a), by_stem(b)
    for stem, paths in stems_a.items():
        others = stems_b.get(stem, [])
        if len(paths) == len(others) == 1:
            pairs.append((paths[0], others[0]))
    matched_a, matched_b = {x for x, _ in pairs}, {y for _, y in pairs}
    return sorted(pairs), [x for x in a if x not in matched_a], [y for y in b if y not in matched_b]


def compare(pair: Pair, max_pixels: int = MAX_PIXELS) -> Comparison:
    """Read and compare. Raises ImageError for unreadable files, DaglError if they cannot be compared."""
    a, b, reference = _read(pair, max_pixels)
    depth = min(16, max(a.depth, b.depth))
    levels_a, levels_b = _levels(a, depth), _levels(b, depth)
    difference = np.abs(levels_a - levels_b)
    most, mean = int(difference.max()), float(difference.mean())
    del levels_a, levels_b, difference
    notes = []
    if a.tone:
        notes.append("floats are compared in the curve that a network gets of A, at 16 bits")
    elif a.depth != b.depth:
        notes.append(f"{a.depth} against {b.depth} bits per sample")
    if a.icc != b.icc:
        notes.append("the colour profiles differ: levels are compared, not colours")
    alpha = None
    if a.alpha is not None and b.alpha is not None:
        alpha = int(np.abs(_alpha(a, depth) - _alpha(b, depth)).max())
        if alpha:
            notes.append(f"alpha, which is in no other number, differs by up to {alpha} of {2**depth - 1}")
    elif a.alpha is not None or b.alpha is not None:
        notes.append(f"only {'A' if a.alpha is not None else 'B'} has alpha, which is ignored")
    height, width, channels = a.pixels.shape
    return Comparison(
        pair.name, str(pair.a), str(pair.b), width, height, channels, depth, most == 0,
        *_metrics(a, b), most, mean, alpha,
        None if reference is None else str(pair.reference),
        *((None, None) if reference is None else _metrics(a, reference)),
        *((None, None) if reference is None else _metrics(b, reference)),
        tuple(notes),
    )  # fmt: skip


def table(rows: Sequence[Comparison]) -> Table:
    """One line for each pair: A against B, then each against the reference. An infinite PSNR means identical."""
    depths = {row.depth for row in rows}
    of = f" (of {2 ** depths.pop() - 1})" if len(depths) == 1 else ""
    columns = ["image", "PSNR", "SSIM", f"max{of}", f"mean{of}"] + ([] if of else ["of"])
    if any(row.reference for row in rows):
        columns += ["A PSNR", "A SSIM", "B PSNR", "B SSIM"]
    lines: list[list[Cell]] = []
    for row in rows:
        lines.append([row.name, _decibels(row.psnr), row.ssim, row.max_difference, row.mean_difference])
        lines[-1] += [] if of else [2**row.depth - 1]
        if row.reference:
            lines[-1] += [_decibels(row.a_psnr), row.a_ssim, _decibels(row.b_psnr), row.b_ssim]
    return Table("Differences", columns, lines)


def pictures(pairs: Sequence[Pair], rows: Sequence[Comparison]) -> tuple[list[Picture], list[str]]:
    """The pairs that differ most, as many as a browser can take, in the order of `rows`; and what is not shown.

    pairs and rows correspond. Pictures have 8 bits per sample; of one that is too large, the middle is taken.
    """
    worst = sorted(range(len(rows)), key=lambda i: _decibels(rows[i].psnr))
    chosen: list[int] = []
    room = PIXELS
    for i in worst[:PICTURES]:
        room -= rows[i].width * rows[i].height * (2 if pairs[i].reference is None else 3)
        if room < 0 and chosen:
            break
        chosen.append(i)
    found, notes = [], []
    for i in sorted(chosen):
        found.append(_picture(pairs[i], rows[i]))
        height, width = next(iter(found[-1].versions.values())).shape[:2]
        if (height, width) != (rows[i].height, rows[i].width):
            notes.append(f"{rows[i].name}: only the middle is shown, {width} x {height} pixels")
    if any(rows[i].depth > 8 for i in chosen):
        notes.append("The pictures and difference maps of 16-bit files show 8 bits; the numbers use all 16.")
    if len(chosen) < len(rows):
        notes.append(f"The pictures are the {len(chosen)} pairs of {len(rows)} that differ most.")
    return found, notes


def _picture(pair: Pair, row: Comparison) -> Picture:
    a, b, reference = _read(pair, row.width * row.height)
    shown = {"A": a, "B": b} | ({} if reference is None else {"reference": reference})
    values = {"B": ("PSNR to A", row.psnr, "SSIM to A", row.ssim)}
    if reference is not None:
        values = {"A": ("PSNR", row.a_psnr, "SSIM", row.a_ssim), "B": ("PSNR", row.b_psnr, "SSIM", row.b_ssim)}
    metrics = {
        label: {psnr_name: _decibels(decibels)} | ({} if ssim is None else {ssim_name: ssim})
        for label, (psnr_name, decibels, ssim_name, ssim) in values.items()
    }
    crop: tuple[slice, ...] = ()
    if row.width * row.height * len(shown) > PIXELS:
        side = math.isqrt(PIXELS // len(shown))
        top, left = max(0, (row.height - side) // 2), max(0, (row.width - side) // 2)
        crop = slice(top, top + side), slice(left, left + side)
    versions = {}
    for label, version in shown.items():
        levels = _levels(version, 8)[crop].astype(np.uint8)
        versions[label] = levels[..., 0] if levels.shape[2] == 1 else levels
    return Picture(pair.name, versions, metrics)


def _decibels(value: float | None) -> float:
    return math.inf if value is None else value


def _read(pair: Pair, max_pixels: int) -> tuple[images.Image, images.Image, images.Image | None]:
    """A, B and the reference, which all fit together. Raises DaglError naming the two that do not."""
    a = images.read(pair.a, max_pixels=max_pixels)
    b = images.read(pair.b, max_pixels=max_pixels)
    reference = None if pair.reference is None else images.read(pair.reference, max_pixels=max_pixels)
    for path, other in ((pair.b, b), (pair.reference, reference)):
        if other is None:
            continue
        if a.pixels.shape[:2] != other.pixels.shape[:2]:
            sizes = [f"{x.pixels.shape[1]}x{x.pixels.shape[0]}" for x in (a, other)]
            raise DaglError(f"{pair.a} is {sizes[0]} and {path} is {sizes[1]}: crop or scale one of them")
        if a.pixels.shape[2] != other.pixels.shape[2]:
            kinds = ["gray" if x.pixels.shape[2] == 1 else "colour" for x in (a, other)]
            raise DaglError(f"{pair.a} is {kinds[0]} and {path} is {kinds[1]}: convert one of them")
        if (a.tone is None) != (other.tone is None):
            raise DaglError(f"{pair.a} and {path} are floats and integers: convert one of them")
    return a, _in_tone(b, a), None if reference is None else _in_tone(reference, a)


def _in_tone(image: images.Image, of: images.Image) -> images.Image:
    """Floats in the curve of another picture, so that equal values are equal pixels."""
    if image.tone is None or of.tone is None or image.tone.same_curve(of.tone):
        return image
    colours = image.pixels.shape[2]
    return replace(image, pixels=of.tone.encode(images.levels(image)[..., :colours]), tone=of.tone)


def _metrics(a: images.Image, b: images.Image) -> tuple[float | None, float | None]:
    """PSNR, None if infinite, and SSIM, None if the images are too small."""
    x, y = np.moveaxis(a.pixels, -1, 0), np.moveaxis(b.pixels, -1, 0)
    decibels = psnr(x, y)
    ssim = ssim_gaussian(x, y) if min(x.shape[1:]) >= _SSIM_WINDOW else None
    return None if math.isinf(decibels) else decibels, ssim


def _levels(image: images.Image, depth: int) -> np.ndarray:
    return np.rint(image.pixels * np.float32(2**depth - 1)).astype(np.int32)


def _alpha(image: images.Image, depth: int) -> np.ndarray:
    assert image.alpha is not None
    if image.alpha.dtype.kind == "f":
        return np.rint(image.alpha.clip(0, 1) * (2**depth - 1)).astype(np.int32)
    return image.alpha.astype(np.int32) * ((2**depth - 1) // (2**image.depth - 1))
