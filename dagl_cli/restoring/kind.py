"""What kind of picture it is: a photograph, a drawing, a mosaic. Pictures are (H, W, 1 or 3) float in [0, 1]."""

from __future__ import annotations

import math

import numpy as np

from ..config import BAYER_PATTERNS, LUMA

SMALLEST = 32
"""Side in pixels below which a picture's kind is not judged."""
ORDINARY_STEPS = 0.85
"""In pictures neighbours differ by less than this share of what the next but one do (Set12, BSD68, LIVE1, Classic5,
Kodak24, McMaster18: 0.56 to 0.82); in Bayer mosaics of Kodak24 and McMaster18 by 0.95 to 7.7 times that."""
MOSAIC_STEPS = 1.03
"""Above this a picture of one channel may be a mosaic: white noise alone gives 1."""
AGREEING_GREENS = 0.75
"""In mosaics the samples of one diagonal, green ones, differ by less than this share of what those of the other do: of
40 photographs, with noise of up to 30 levels, by 0.05 to 0.58; in Floyd-Steinberg dithers of them, blurred, by 0.95."""

TWO_TONES = 0.84
"""Share of the variance that lies between the darker and the brighter pixels, parted where it is greatest."""
ALTERNATING = -0.1
"""Correlation of neighbours, in detail, below which light and dark alternate.

By both, of 150 photographs none is a blurred dither, nor are Kodak24 and BSD68 and crops of them with noise of 0, 15,
50 and 75 levels, clipped to 8 bit; as Floyd-Steinberg dithers blurred by 0.4 pixels (sigma) all 150 are, by 0.5 pixels
141.
"""


def drawing(pixels: np.ndarray) -> str | None:
    """What a picture is instead of a photograph: black, two tones, a page or a drawing, in a few words; None.

    Their grain is meant (dithers, halftones), or paper's; a denoiser would smear it.
    """
    if min(pixels.shape[:2]) < SMALLEST:
        return None
    gray = pixels[..., 0] if pixels.shape[-1] == 1 else pixels @ np.array(LUMA, np.float32)
    share = np.bincount((255 * gray.clip(0, 1) + 0.5).astype(np.uint8).ravel(), minlength=256) / gray.size
    black, white = share[:13].sum(), share[-13:].sum()
    if black > 0.98:
        return "a black frame"
    if black + white > 0.85 and min(black, white) > 0.02:
        return "two tones, as in dithers, line art and halftones"
    mode = int(share.argmax())
    if mode >= 180 and share[max(0, mode - 12) : mode + 13].sum() > 0.6:
        import scipy.ndimage  # takes longer to load than all that is looked at here

        ink = gray < (mode - 40) / 255
        if ink.any() and scipy.ndimage.binary_opening(ink, np.ones((9, 9))).sum() < 0.3 * ink.sum():  # strokes are thin
            return "a page: text or line art on paper"
    levels = levels_of(pixels)
    if has_few_levels(levels):
        return "a few levels, as in dithers and prints"
    inside = np.any(levels > 2, -1) & np.any(levels < 253, -1)  # what is burnt out or black is even in photographs too
    even = (np.all(levels[:, 1:] == levels[:, :-1], -1) & inside[:, 1:]).sum() / max(1, inside[:, 1:].sum())
    return "a drawing or screenshot: even areas" if even > 0.6 else None


def is_soft_dither(pixels: np.ndarray) -> bool:
    """Whether two tones alternate from pixel to pixel, in every channel, blurred as in scans."""
    return all(_alternates(pixels[..., channel]) for channel in range(pixels.shape[-1]))


def _alternates(plane: np.ndarray) -> bool:
    levels = levels_of(plane)
    share = np.bincount(levels.ravel(), minlength=256) / levels.size
    below, moment = share.cumsum(), (share * np.arange(256)).cumsum()
    inner = (below > 0) & (below < 1 - 1e-9)
    if not inner.any():
        return False
    mean = moment[-1]
    between = (mean * below - moment)[inner] ** 2 / (below * (1 - below))[inner]  # Otsu (1979), Eq. 18
    if between.max() < TWO_TONES * (share * (np.arange(256) - mean) ** 2).sum():
        return False
    import scipy.ndimage

    detail = plane - scipy.ndimage.gaussian_filter(plane, 2)
    along = min((detail[:, 1:] * detail[:, :-1]).mean(), (detail[1:] * detail[:-1]).mean())
    return bool(along < ALTERNATING * (detail**2).mean())


def levels_of(pixels: np.ndarray) -> np.ndarray:
    """Floats in [0, 1], or beyond, as uint8."""
    return (255 * pixels.clip(0, 1) + 0.5).astype(np.uint8)


def has_few_levels(levels: np.ndarray) -> bool:
    """Whether nine tenths of the pixels have one of 16 levels, or 256 colours, that lie far apart.

    levels: (H, W, 1 or 3) uint8. Noise fills the levels between those of a picture.
    """
    channels = levels.shape[-1]
    codes = levels.reshape(-1, channels)[:: math.ceil(levels.size / 2**20)] @ np.array([1, 256, 65536][:channels])
    found, counts = np.unique(codes, return_counts=True)
    frequent = found[np.argsort(-counts, kind="stable")[: 16 if channels == 1 else 256]]
    few = counts[np.isin(found, frequent)].sum() >= 0.9 * len(codes)
    if not few or not 1 < len(frequent) <= len(codes) / 64:
        return False
    colours = (frequent[:, None] // np.array([1, 256, 65536][:channels])) % 256  # (N, channels)
    distances = np.abs(colours[:, None] - colours).max(-1) + 256 * np.eye(len(colours), dtype=int)
    return float(np.median(distances.min(1))) >= (8 if channels == 1 else 4)


def steps(gray: np.ndarray) -> float:
    """What neighbours of (H, W) differ by, as a share of what the next but one do; along rows or columns, the less."""

    def ratio(x: np.ndarray) -> float:
        near, far = np.abs(np.diff(x, axis=1)).mean(), np.abs(x[:, 2:] - x[:, :-2]).mean()
        return float(near / far) if far > 0 else 0.0

    return min(ratio(gray), ratio(gray.T)) if min(gray.shape) > 2 else 0.0


def by_its_greens(gray: np.ndarray) -> tuple[str, ...]:
    """The two Bayer patterns that a mosaic (H, W) can have: of the places of a 2x2 cell two on a diagonal, the greens,
    are alike and the other two are not; none where that is not so."""
    import scipy.ndimage

    height, width = (n // 2 * 2 for n in gray.shape)
    places = [scipy.ndimage.uniform_filter(gray[y:height:2, x:width:2], 4) for y in (0, 1) for x in (0, 1)]
    falling, rising = (float(np.square(places[a] - places[b]).mean()) ** 0.5 for a, b in ((0, 3), (1, 2)))
    if min(falling, rising) >= AGREEING_GREENS * max(falling, rising):
        return ()
    first = "G" if falling < rising else "RB"  # top left
    return tuple(pattern for pattern in BAYER_PATTERNS if pattern[0] in first)


def mosaic_patterns(pixels: np.ndarray) -> tuple[str, ...]:
    """The Bayer patterns that a mosaic can have: one in three channels, by its zeros; two in one channel, by its
    greens; none: no mosaic."""
    if pixels.shape[-1] == 1:
        one = pixels[..., 0]
        alternates = min(one.shape) >= SMALLEST and steps(one) > MOSAIC_STEPS
        return by_its_greens(one) if alternates and not is_soft_dither(pixels) else ()
    if (pixels[: len(pixels) // 2 * 2] > 0).sum(-1).max(initial=0) > 1:
        return ()
    for pattern in BAYER_PATTERNS:
        sites = {(i // 2, i % 2): "RGB".index(colour) for i, colour in enumerate(pattern)}
        if all(not np.delete(pixels[y::2, x::2], colour, -1).any() for (y, x), colour in sites.items()):
            return (pattern,) if pixels.any() else ()
    return ()
