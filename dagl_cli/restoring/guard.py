"""Whether a picture needs anything: what is estimated of it, and what speaks against touching it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from ..config import HIGHEST_SIGMA
from . import estimate, kind
from .noise import Noise, measure

CLEAN_SIGMA = 0.7
"""An estimated noise level below this is none (8-bit rounding alone is 0.29): the image is left as it is."""
CLEAN_QUALITY = 94
"""From this estimated quality on the models harm too many JPEGs (3 of 18 colour images at 94, 6 at 95): the file is
left as it is, unless it shows the blocks of an earlier JPEG."""
EARLIER_BLOCKINESS = 0.2
"""A JPEG of such a quality whose `estimate.jpeg_blockiness` is at least this was compressed harder before."""
CLEAN_BLOCKINESS = 0.04
"""Any other file whose `estimate.jpeg_blockiness` is below this was never compressed, and is left as it is."""


SURE = 0.98
"""Noise that is so likely is no texture."""
UNCORRELATED = 0.2
"""Samples whose correlation is below this are taken for independent."""
LIMITS = ((0.93, 0.4), (SURE, UNCORRELATED))
"""Camera noise is what is so likely, and whose neighbouring samples are correlated so much: either pair will do. Strict
limits, as fine texture looks alike and clean pictures are to stay."""
TEXTURE_SIGMA = 7.0
"""Above this what an estimate for white noise finds is no texture, which the colours have in common too."""
COMMON = 0.5
"""Noise is common to the colours if their difference has less than this share of what it had if each had its own."""
WHITE_SHARE = 0.6
"""And an estimate for white noise finds less than this share of it.

One of 329 pictures without camera noise is then taken for such: Kodak24, McMaster18, Set12 and LIVE1 as they are, and
of every second one JPEGs of quality 95 and 75 and Gaussian noise of 3, 5, 15 and 50 levels
(`tests/studies/noise_guard.py`). All 15 of CC15 are found, and of 310 simulated pictures with camera noise of 2.5 to 14
levels 62 %, of 183 without any one (`noise_meter.py --judge`). Texture all over a picture passes for noise, too."""
SURE_SIGMA = 2.5
"""White noise above this is no fine texture: it is removed where it was said to be a camera's."""
SOFT_DITHER_SIGMA = 40
"""A dither that was blurred a little passes for noise above this (44 to 93 levels, by 0.4 and 0.5 pixels)."""
TRAINED_RMS = 20.0
"""Of a hundred crops that the models of camera noise are trained on (`camera.noisy_pair`) one has more."""
HIGH_ISO = 800
"""From this setting on, if EXIF tells it, noise is expected, and these hold instead:"""
LIMITS_AT_HIGH_ISO = ((0.4, 0.25),)

LEFT = "left as it is"
NO_NOISE = "no white or camera noise found"


@dataclass
class Finding:
    """What is wrong with a picture. `sigma` and `quality` are None where they were not estimated."""

    sigma: float | None = None
    quality: int | None = None
    nothing: str | None = None
    """Why the picture is to be left as it is."""
    decides: str | None = None
    """The parameter by which it is restored all the same."""
    note: str | None = None
    task: str | None = None
    """Whose model it needs, where that was to be found out."""
    levels: Tensor | None = None
    """(H, W): the noise level of each sample of a mosaic."""

    @property
    def left(self) -> str:
        """That it is left as it is, and why; of one that is."""
        return f"{self.nothing}: {LEFT}" + (f"; `{self.decides}` decides otherwise" if self.decides else "")

    @property
    def level(self) -> float | None:
        """The estimated noise level as the models take it."""
        return None if self.sigma is None else min(self.sigma, HIGHEST_SIGMA)


ALIKE = 1.5
"""Noise levels that differ by a larger factor are not those of one sequence."""


def agreed(findings: Sequence[Finding], alike: bool = True) -> Finding | None:
    """What several pictures need, so that all are treated the same: what most of them do, at the median level.

    alike: False: only if all need the same; None where they do not.
    """
    kinds = Counter((finding.nothing is None, finding.task) for finding in findings)
    most, count = kinds.most_common(1)[0]
    same = [finding for finding in findings if (finding.nothing is None, finding.task) == most]
    levels = [finding.sigma for finding in same if finding.sigma is not None]
    if not alike and (count < len(findings) or (most[0] and levels and max(levels) > ALIKE * min(levels))):
        return None
    qualities = [finding.quality for finding in same if finding.quality is not None]
    return replace(
        same[len(same) // 2],
        sigma=float(np.median(levels)) if levels else None,
        quality=round(float(np.median(qualities))) if qualities else None,
    )


def noise(pixels: np.ndarray, iso: int | None = None) -> Finding:
    """White noise, camera noise or none, and its level. pixels: (H, W, 1 or 3) float in [0, 1].

    iso: the setting that EXIF tells, if it does.
    """
    found = Finding(sigma=estimate.estimate_sigma(pixels), task="denoise")
    if drawn := _drawn(pixels, found.sigma):
        return Finding(nothing=drawn, decides="sigma", task="denoise")
    measured = measure(pixels)
    if measured and is_camera_noise(measured, found.sigma or 0.0, iso):
        return _camera(measured, iso)
    if found.sigma is None:
        found.nothing, found.decides = "too small to find noise in", "sigma"
    elif found.sigma < CLEAN_SIGMA:
        found.nothing, found.decides = NO_NOISE, "sigma"
    elif found.sigma > HIGHEST_SIGMA:
        found.note = f"more than the model was made for: restored with `sigma` {HIGHEST_SIGMA:g}"
    elif found.sigma > TEXTURE_SIGMA and _is_gray_noise(pixels, found.sigma):
        return replace(found, note="white noise, the same in all colours", task="real")
    elif measured and measured.correlation >= UNCORRELATED:
        found.note = "taken for white noise"
    else:
        found.note = "white noise: its neighbours are not correlated"
    return found


def _is_gray_noise(pixels: np.ndarray, white: float) -> bool:
    """Whether the colours have their noise in common, as editors' monochromatic noise and scans of gray prints: a model
    that takes each colour's for independent would leave it. white: its level."""
    if pixels.shape[-1] == 1:
        return False
    between = estimate.estimate_sigma((pixels[..., 0] - pixels[..., 1]) / 2 + 0.5)  # of independent noise white / √2
    return between is not None and between < COMMON * white / math.sqrt(2)


def _drawn(pixels: np.ndarray, white: float | None) -> str | None:
    """As `kind.drawing`, and dithers that pass for strong noise. white: as for `is_camera_noise`."""
    soft = white is not None and white > SOFT_DITHER_SIGMA and kind.is_soft_dither(pixels)
    return kind.drawing(pixels) or ("two tones, blurred, as in scans of dithers" if soft else None)


def is_camera_noise(measured: Noise, white: float, iso: int | None) -> bool:
    """white: the level that an estimate for white noise finds."""
    limits = LIMITS_AT_HIGH_ISO if iso is not None and iso >= HIGH_ISO else LIMITS
    within = any(measured.likelihood >= likely and measured.correlation >= least for likely, least in limits)
    return within and white < WHITE_SHARE * measured.rms


def camera_noise(pixels: np.ndarray, iso: int | None = None, asked: bool = True) -> Finding:
    """For a model of camera noise, whatever kind there is: its level, or that there is nothing to remove.

    asked: by the user, and not by what was done before.
    """
    white = estimate.estimate_sigma(pixels)
    if drawn := _drawn(pixels, white):
        return Finding(nothing=drawn, decides="sigma", task="real")
    measured = measure(pixels)
    if white is None:
        return Finding(nothing="too small to find noise in", decides="sigma", task="real")
    seen = measured is not None and is_camera_noise(measured, white, iso)
    if not seen and white < (CLEAN_SIGMA if measured is None else SURE_SIGMA):
        return Finding(white, nothing=NO_NOISE, decides="sigma", task="real")
    if measured and seen:
        return _camera(measured, iso)
    correlated = measured is not None and measured.correlation >= UNCORRELATED
    level = measured.rms if measured and correlated else white
    return Finding(level, note="taken for camera noise" + (", as was asked" if asked else ""), task="real")


def _camera(measured: Noise, iso: int | None) -> Finding:
    said = f"camera noise: its neighbours are correlated, {measured.correlation:.2f}" + (f"; ISO {iso}" if iso else "")
    if measured.rms > TRAINED_RMS:
        said += "; more than the model was made for"
    return Finding(sigma=measured.rms, note=said, task="real")


def mosaic(pixels: np.ndarray, pattern: str) -> Finding:
    """For demosaicing by a pattern. pixels: as the file has them."""
    possible = kind.mosaic_patterns(pixels)
    if len(possible) == 2 and pattern not in possible:
        lie = f"a Bayer mosaic whose greens lie as in {' and '.join(possible)}, not as in {pattern}"
        return Finding(nothing=lie, decides="pattern")
    if possible:
        return Finding()
    one = pixels[..., 0]
    if pixels.shape[-1] == 3 or (min(one.shape) >= 16 and kind.steps(one) < kind.ORDINARY_STEPS):
        return Finding(nothing="an ordinary picture, not a Bayer mosaic")
    return Finding()


def compression(pixels: np.ndarray, jpeg_tables: dict[int, list[int]] | None = None) -> Finding:
    """For removing JPEG artifacts. pixels: (H, W, C) float in [0, 1]; jpeg_tables: those of the file, if it is one."""
    found = Finding(quality=estimate.estimate_jpeg_quality(jpeg_tables))
    fine = found.quality is not None and found.quality >= CLEAN_QUALITY
    if found.quality is None and kind.has_few_levels(kind.levels_of(pixels)):
        found.nothing, found.decides = "a few levels only, which no JPEG has", "force"
    elif (fine or found.quality is None) and (why := _without_blocks(pixels, fine)):  # any other JPEG is restored
        found.nothing, found.decides = why, "force"
    return found


def _without_blocks(pixels: np.ndarray, fine: bool) -> str | None:
    """Why JPEG artifacts are not to be looked for; None: blocks are seen. fine: a JPEG of `CLEAN_QUALITY`."""
    blockiness = estimate.jpeg_blockiness(pixels)
    if blockiness is not None and blockiness >= (EARLIER_BLOCKINESS if fine else CLEAN_BLOCKINESS):
        return None
    if fine:
        return "too fine to improve, no blocks of an earlier JPEG found"
    return "no JPEG blocks found" if blockiness is not None else "too small to find JPEG blocks in"
