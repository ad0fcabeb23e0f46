"""Pixels and a model brought together: gray and colour, levels and floats."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from .restorer import Restorer
from .tiling import Tick


def is_gray(pixels: np.ndarray) -> bool:
    """Whether (H, W, C) holds one channel, or three that are equal: then a gray model restores it best."""
    return all(np.array_equal(pixels[..., 0], pixels[..., channel]) for channel in range(1, pixels.shape[-1]))


def run(restorer: Restorer, pixels: Tensor, sigma: float | None, pattern: str, progress: Tick | None = None) -> Tensor:
    """Fit the image's channels to the model's: gray runs through a colour model as three equal channels."""
    if sigma == 0 and restorer.config.noise_map:  # there is nothing to remove; the network would still change a little
        return pixels.clamp(0, 1)
    if restorer.config.task != "demosaic" and pixels.shape[0] < restorer.config.channels:
        return restorer(pixels.expand(3, -1, -1).contiguous(), sigma, pattern, progress).mean(0, keepdim=True)
    return restorer(pixels, sigma, pattern, progress)
