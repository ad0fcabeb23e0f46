"""What kind of picture it is: a photograph, a drawing, a mosaic. Pictures are (H, W, 1 or 3) float in [0, 1]."""

from __future__ import annotations

import numpy as np
import scipy.ndimage

from ..config import BAYER_PATTERNS, LUMA

SMALLEST = 32
"""Side in pixels below which a picture's kind is not judged."""
ORDINARY_STEPS = 0.85
"""In pictures neighbours differ by less than this share of what the next but one do (Set12, BSD68, LIVE1, Classic5,
Kodak24, McMaster18: 0.56 to 0.82); in Bayer mosaics of Kodak24 and McMaster18 by 0.95 to 7.7 times that."""
MOSAIC_STEPS = 1.03
"""Above this a picture of one channel is a mosaic: white noise alone gives 1."""


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
        ink = gray < (mode - 40) / 255
        if ink.any() and scipy.ndimage.binary_opening(ink, np.ones((9, 9))).sum() < 0.3 * ink.sum():  # strokes are thin
            return "a page: text or line art on paper"
    levels = (255 * pixels + 0.5).astype(np.uint8)
    inside = np.any(levels > 2, -1) & np.any(levels < 253, -1)  # what is burnt out or black is even in photographs too
    even = (np.all(levels[:, 1:] == levels[:, :-1], -1) & inside[:, 1:]).sum() / max(1, inside[:, 1:].sum())
    return "a drawing or screenshot: even areas" if even > 0.6 else None


def steps(gray: np.ndarray) -> float:
    """What neighbours of (H, W) differ by, as a share of what the next but one do; along rows or columns, the less."""

    def ratio(x: np.ndarray) -> float:
        near, far = np.abs(np.diff(x, axis=1)).mean(), np.abs(x[:, 2:] - x[:, :-2]).mean()
        return float(near / far) if far > 0 else 0.0

    return min(ratio(gray), ratio(gray.T)) if min(gray.shape) > 2 else 0.0


def mosaic_pattern(pixels: np.ndarray) -> str | None:
    """The Bayer pattern of a mosaic in three channels, by its zeros; '?' for one in one channel; None: no mosaic."""
    if pixels.shape[-1] == 1:
        return "?" if steps(pixels[..., 0]) > MOSAIC_STEPS else None
    if (pixels[: len(pixels) // 2 * 2] > 0).sum(-1).max(initial=0) > 1:
        return None
    for pattern in BAYER_PATTERNS:
        sites = {(i // 2, i % 2): "RGB".index(colour) for i, colour in enumerate(pattern)}
        if all(not np.delete(pixels[y::2, x::2], colour, -1).any() for (y, x), colour in sites.items()):
            return pattern if pixels.any() else None
    return None
