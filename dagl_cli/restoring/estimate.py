"""What is wrong with a picture: its noise, the quality of its JPEG, its blocks.

Pictures are (H, W) or (H, W, C) float in [0, 1].
"""

from __future__ import annotations

import functools
import io
import math

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

ROUGH = 2.5
"""What neighbours differ by, in levels, where nothing is nearly even."""
LEAST_BLOCKS = 4
"""So many are looked at in any case."""


def estimate_sigma(pixels: np.ndarray) -> float | None:
    """The level of white noise in an image, on the 0-255 scale; None for images with a side under 8 pixels.

    pixels: (H, W) or (H, W, C) float in [0, 1], clipped or not; channels are averaged.

    From at most 1024 blocks of 32x32 pixels spread over the image, the flattest are taken. In their small patches
    noise fills all dimensions evenly and structure only a few, so the largest eigenvalues of the patches' covariance
    are dropped until the rest has its mean at its median, which is the noise's variance (Chen et al., ICCV 2015). Where
    a share of a block was clipped to black or white, what that took from the variance is added again. Mean absolute
    error on Kodak24 (colour) and BSD68 (gray), clipped to 8 bit: 0.19 and 0.34 at sigma 5 (medians 0.12: a few images
    are texture all over), 0.19 and 0.34 at 10, 0.37 and 0.35 at 25, 0.53 and 0.55 at 50; not clipped about the same
    (`tests/studies/quality.py estimate`). Film grain and fine texture count as noise; correlated noise (cameras,
    JPEG) is underestimated. Blocks that are perfectly even tell nothing (bars, burnt-out skies), nor do those at their
    rims, a part of which is even; drawings, pages and screenshots, where most of the others are even in places too,
    have none.
    """
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    height, width, channels = pixels.shape
    side = min(32, height, width)
    if side < 8:
        return None
    spacing = max(side // 2, math.ceil(math.sqrt(height * width / 1024)))
    planes = (pixels[..., channel].astype(np.float64) for channel in range(channels))
    return 255 * float(np.mean([_plane_sigma(plane, side, spacing) for plane in planes]))


def _plane_sigma(plane: np.ndarray, side: int, spacing: int) -> float:
    """The noise level of (H, W) on its own scale, by its blocks of so many pixels a side, as far apart as `spacing`."""
    if spacing > side:  # the blocks side by side: what lies between them is not looked at
        parts = sliding_window_view(plane, (side, side))[::spacing, ::spacing]
        plane, spacing = parts.swapaxes(1, 2).reshape(len(parts) * side, -1), side

    def blocks(x: np.ndarray) -> np.ndarray:
        """What each block has of the plane, or of what was made of its neighbouring pixels: (N, side or less, ...)."""
        parts = sliding_window_view(x, [side - whole + rest for whole, rest in zip(plane.shape, x.shape)])
        parts = parts[::spacing, ::spacing]
        return parts.reshape(-1, *parts.shape[2:])

    down, right = np.diff(plane, axis=0), np.diff(plane, axis=1)
    roughness = blocks(down**2).mean((1, 2)) + blocks(right**2).mean((1, 2))
    columns = (down[:-1] == 0) & (down[1:] == 0)  # where 3 pixels below each other are equal
    rows = (right[:, :-1] == 0) & (right[:, 1:] == 0)
    # where 3x3 pixels are equal: noise leaves next to none, not even where it was clipped
    even = blocks(columns[:, :-2] & columns[:, 1:-1] & columns[:, 2:] & rows[:-2]).mean((1, 2))
    told = np.flatnonzero(even < 1)
    if not len(told) or np.median(even[told]) > 0.1:
        return 0.0
    black, white = (blocks(np.abs(plane - end) < 0.5 / 255).mean((1, 2))[told] for end in (0, 1))
    clipped = black + white
    usable = clipped <= max(0.6, np.quantile(clipped, 0.1))
    # of a block at the rim of a frame, a bar or a caption a part is even and the rest is not even nearly
    apart = (even[told] > 0.05) & (roughness[told] > (ROUGH / 255) ** 2 * (1 - even[told]))
    if (usable & ~apart).sum() >= LEAST_BLOCKS:
        usable &= ~apart
    variance = (variance_kept(black) * variance_kept(white))[usable]
    told = told[usable]
    flattest = np.argsort(roughness[told] / variance)
    per_row = (plane.shape[1] - side) // spacing + 1
    patch = min(6, side // 4)

    def level(share: float) -> float:
        few = flattest[: max(LEAST_BLOCKS, round(share * len(flattest)))]
        few = few[:: math.ceil(len(few) / 128)]
        corners = (spacing * place for place in divmod(told[few], per_row))
        some = sliding_window_view(plane, (side, side))[tuple(corners)]  # (n, side, side)
        means = some.mean((1, 2), keepdims=True)
        some = means + (some - means) / np.sqrt(variance[few])[:, None, None]  # as if nothing had been clipped
        patches = sliding_window_view(some, (patch, patch), axis=(1, 2))[:, ::2, ::2]
        eigenvalues = np.linalg.eigvalsh(np.cov(patches.reshape(-1, patch**2), rowvar=False))  # ascending
        for kept in range(len(eigenvalues), 0, -1):
            mean = eigenvalues[:kept].mean()
            if (eigenvalues[:kept] > mean).sum() >= (eigenvalues[:kept] < mean).sum():
                break
        return math.sqrt(max(float(mean), 0.0))

    # The flattest few hold the least texture, but were chosen for weak noise too, which makes up to a tenth: take more
    # of them as noise grows, and what is above that is texture.
    lowest = level(0.01)
    return min(level(min(max(2.55 * lowest, 0.01), 0.5)), 1.08 * lowest)


def variance_kept(share: np.ndarray) -> np.ndarray:
    """What Gaussian noise keeps of its variance when `share` of it, 0-1, is clipped at one end of the range."""
    share = share.clip(1e-9, 0.99)  # beyond, next to nothing is kept, and the end of the range is not to be found
    end = -torch.special.ndtri(torch.from_numpy(share)).numpy()  # in standard deviations from the mean
    density = np.exp(-(end**2) / 2) / math.sqrt(2 * math.pi)
    mean = end * share - density
    return 1 - share - end * density + end**2 * share - mean**2


def estimate_jpeg_quality(tables: dict[int, list[int]] | None) -> int | None:
    """The quality 1-100 that a JPEG was saved with, from Pillow's `Image.quantization`; None without tables.

    Exact for the standard tables of libjpeg (Annex K of the JPEG standard, scaled by quality), which Pillow,
    cameras' and browsers' encoders and the paper's test sets use; otherwise the quality whose tables are nearest
    in mean relative step size, so a number of the same meaning.
    """
    if not tables:
        return None
    found = [np.log(np.maximum(tables[key], 1)) for key in sorted(tables)[:2]]  # luminance, then colour if any
    standard = np.log(_standard_tables())[:, : len(found)]  # (100, 1 or 2, 64)
    return 1 + int(np.abs(standard - found).mean((1, 2)).argmin())


def jpeg_blockiness(pixels: np.ndarray) -> float | None:
    """How much steeper an image is across the borders of 8x8 blocks than elsewhere; None below 72 pixels a side.

    pixels: (H, W) or (H, W, C) float in [0, 1]. The grid may lie anywhere. Of the cross differences |a - b - c + d| of
    neighbours, the mean root is taken for each row and column of pixels, as a share of those of its 8; for each of the
    8 in a grid the median of all grids counts, as blocks are everywhere and what is drawn on such a grid (frames, lines
    of text, thumbnails) is not. The result is by what share the highest is above the mean of the other 7, for rows or
    columns, whichever is less. Measured: on images that were never compressed (Kodak24, McMaster18, LIVE1, Set12) 0.036
    at most, median 0.004; the same after quality 80 0.096 at least, median 0.28 (BSD68, whose originals are JPEGs:
    median 0.05). An image enlarged 2 or 4 times has such steps too, but also 4 pixels further: the one there counts
    where it is above that mean. Large images are judged by their middle.
    """
    height, width = pixels.shape[:2]
    if min(height, width) < 72:
        return None
    top, left = max(0, height - 2048) // 2, max(0, width - 2048) // 2
    middle = pixels[top : top + 2048, left : left + 2048]
    gray = middle if middle.ndim == 2 else middle.mean(2)
    cross = np.abs(gray[:-1, :-1] - gray[:-1, 1:] - gray[1:, :-1] + gray[1:, 1:])
    cross = np.sqrt(np.minimum(cross, 40 / 255))  # what edges do counts little

    def excess(means: np.ndarray) -> float:
        grids = means[: len(means) // 8 * 8].reshape(-1, 8)
        grids = grids[grids.any(1)]
        if not len(grids):
            return 0.0
        shares = np.median(grids / grids.mean(1, keepdims=True), 0)
        highest = shares.argmax()
        others = max((shares.sum() - shares[highest]) / 7, shares[(highest + 4) % 8])
        return float(shares[highest] / others - 1) if others > 0 else 0.0

    return min(excess(cross.mean(1)), excess(cross.mean(0)))


@functools.cache
def _standard_tables() -> np.ndarray:
    """libjpeg's quantisation tables for quality 1-100, asked of libjpeg itself: (100, 2, 64)."""
    tables = []
    for quality in range(1, 101):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8)).save(buffer, "JPEG", quality=quality)
        buffer.seek(0)
        quantization = JpegImageFile(buffer).quantization
        tables.append([quantization[0], quantization[1]])
    return np.array(tables, dtype=np.float64)
