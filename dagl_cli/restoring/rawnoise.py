"""The noise of a sensor's samples: the deviation of each, from the file's profile or from the mosaic itself."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..degrade import bayer_masks
from ..images.colour import srgb_decode, srgb_encode
from .estimate import variance_kept

BLOCK = 12
"""Side in pixels of the blocks in which noise is looked for."""
QUIETEST, OF_VARIANCE = 0.01, 0.46
"""Of the blocks, the share that holds least texture, and what part of the noise's variance its noisiest block has
(by simulation of noise alone)."""
FEWEST = 16
"""Blocks that are needed."""
LARGEST = 2048
"""Of larger mosaics the middle is looked at."""
DETAIL = torch.tensor([[0, 0, 1, 0, 0], [0, -2, 0, -2, 0], [1, 0, 4, 0, 1], [0, -2, 0, -2, 0], [0, 0, 1, 0, 0]]) / 6
"""Takes slopes and diagonal lines from green samples and leaves white noise its variance (the kernel of Immerkær, CVIU
1996, turned by 45 degrees, as the green samples lie)."""


def level_map(mosaic: Tensor, profile: np.ndarray) -> Tensor:
    """The noise's deviation at every sample on the 0-255 scale, (H, W): what a network for raw files is told.

    mosaic: (H, W), in sRGB's curve; profile: its (shot, read) as in `images.raw.Raw.noise`. The light is the mean over
    the 3x3 nearest samples of a sample's own colour; the curve and what it clips are met half a deviation on each side.
    """
    levels = torch.empty_like(mosaic)
    for row in (0, 1):
        for column in (0, 1):
            shot, read = profile[row, column].tolist()
            light = srgb_decode(mosaic[row::2, column::2])[None]
            light = F.avg_pool2d(light, 3, 1, 1, count_include_pad=False)[0]
            deviation = (shot * light + read).sqrt()
            high, low = (srgb_encode((light + side * deviation).clamp(0, 1)) for side in (1, -1))
            levels[row::2, column::2] = 255 * (high - low) / 2
    return levels


def typical_read(shot: float) -> float:
    """The read noise of cameras with this photon noise (Brooks et al., CVPR 2019, equation 2)."""
    return math.exp(2.18 * math.log(shot) + 1.2)


def estimated_profile(mosaic: np.ndarray, pattern: str, gains: np.ndarray) -> np.ndarray | None:
    """(2, 2, 2): (shot, read) of each place of the Bayer cell, as in `images.raw.Raw.noise`; None: too small or dark.

    mosaic: (H, W) in [0, 1], in sRGB's curve; gains: (2, 2), the white balance that the places were given. The sensor
    is taken for a typical one, with noise so strong that the green samples of the quietest blocks have theirs.
    """
    height, width = (min(n, LARGEST) // BLOCK * BLOCK for n in mosaic.shape)
    top, left = ((n - side) // 4 * 2 for n, side in zip(mosaic.shape, (height, width)))
    part = mosaic[top : top + height, left : left + width]
    green = bayer_masks(height, width, pattern)[1].numpy()
    light = srgb_decode(part)
    padded = F.pad(torch.from_numpy(light)[None, None].float(), (2, 2, 2, 2), mode="reflect")
    detail = F.conv2d(padded, DETAIL[None, None])[0, 0].square().numpy()

    def means(plane: np.ndarray) -> np.ndarray:
        """Of the green samples of each block."""
        sums = (plane * green).reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK).sum((1, 3))
        return (sums / (BLOCK * BLOCK / 2)).ravel()

    black, white = means(part <= 0), means(part >= 1)
    usable = (black < 0.6) & (white < 0.05)
    brightness, variance = means(light)[usable], (means(detail) / variance_kept(black))[usable]
    if len(brightness) < FEWEST:
        return None
    gain = float(gains.ravel()[pattern.index("G")])

    def excess(shot: float) -> float:
        """How much noisier the quietest blocks are than they were with this noise."""
        expected = math.exp(shot) * gain * brightness + typical_read(math.exp(shot)) * gain**2
        return float(np.quantile(variance / expected, QUIETEST)) / OF_VARIANCE - 1

    low, high = math.log(1e-8), math.log(0.2)
    for _ in range(12):  # halves: to within half a percent
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    level = math.exp((low + high) / 2)
    return np.stack([level * gains, typical_read(level) * gains**2], -1)
