"""The noise of a camera raw file in the picture that is developed from it."""

from __future__ import annotations

import numpy as np
import torch

from ..images import raw
from ..images.colour import srgb_decode, srgb_encode
from .restorer import Restorer

PART = 512
"""Side in pixels of the middle, on which the level is measured."""


def noise_rms(negative: raw.Raw, demosaic: Restorer) -> float:
    """RMS of the noise after demosaicing and development, on the 0-255 scale, from the file's own noise profile.

    Demosaicing and colours spread and mix the noise in ways that no formula has: noise of the profile is added to the
    middle of the mosaic once more, and what comes out of both is compared. negative: with `noise`.
    """
    assert negative.noise is not None
    height, width = (min(PART, n) // 2 * 2 for n in negative.mosaic.shape)
    top, left = ((n - side) // 4 * 2 for n, side in zip(negative.mosaic.shape, (height, width)))
    mosaic = negative.mosaic[top : top + height, left : left + width]
    light = srgb_decode(mosaic)
    cells = np.tile(negative.noise, (height // 2, width // 2, 1))  # (height, width, 2)
    deviation = np.sqrt(cells[..., 0] * light + cells[..., 1])
    again = light + deviation * np.random.default_rng(0).standard_normal(light.shape)
    noisy = srgb_encode(again.clip(0, 1)).astype(np.float32)
    first, second = (
        raw.develop(
            demosaic(torch.from_numpy(m.copy())[None], pattern=negative.pattern).permute(1, 2, 0).numpy(), negative
        )
        for m in (mosaic, noisy)
    )
    return 255 * float(np.sqrt(np.square(first - second).mean()))
