"""What a run is judged by while it goes on: photos that it never trains on, under its task's fixed degradation."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import degrade
from ..measuring import metrics
from ..nn.model import DAGL
from ..restoring import tiling
from ..restoring.rawnoise import level_map
from . import camera
from .log import LogRow
from .photos import Photos

SIDE = 192
"""Of the crops, in pixels."""
QUALITY = 10
"""Of JPEGs."""
SIGMA = 25.0
"""Where a run trains for all noise levels."""


class HeldOut(NamedTuple):
    """The middle of a photo that is held out."""

    degraded: Tensor
    """(C, H, W) in [0, 1]; noise is not clipped."""
    clean: Tensor
    level: float | Tensor | None
    """What the network is told: a number, or for raw a map, (1, H, W)."""


def held_out_crops(photos: Photos, task: str, sigma: float | None) -> list[HeldOut]:
    """One of each photo, at most `SIDE` pixels a side. sigma: the one that is trained for; None: all."""
    crops = []
    told: float | Tensor | None
    for i, levels in enumerate(photos.images):
        top, left = ((s - min(SIDE, s)) // 2 // 2 * 2 for s in levels.shape[:2])
        levels = levels[top : top + SIDE, left : left + SIDE]
        clean = torch.from_numpy((levels / np.iinfo(levels.dtype).max).astype(np.float32)).permute(2, 0, 1)
        if task == "real":  # a camera's clean picture is another one than the scene
            degraded, clean = camera.noisy_pair(clean, np.random.default_rng(i))
            told = 255 * float((degraded - clean).square().mean().sqrt())
        elif task == "raw":
            random = np.random.default_rng(i)
            mosaic, clean, profile = camera.negative(clean, camera.Camera.random(random), random)
            degraded, told = degrade.bayer_mosaic(mosaic.expand(1, 3, -1, -1))[0], level_map(mosaic, profile)[None]
        else:
            level = (SIGMA if sigma is None else sigma) if task == "denoise" else None
            degraded = degrade.degraded(clean, task, QUALITY if task == "dejpeg" else level)
            told = level
        crops.append(HeldOut(degraded, clean, told))
    return crops


def restored(model: DAGL, crop: HeldOut, device: torch.device) -> Tensor:
    """(C, H, W) in [0, 1], on the CPU."""
    shape, seen = model.config, crop.degraded
    level = crop.level if shape.noise_map else None
    if isinstance(level, Tensor):  # a map goes into the tiles with the picture
        seen = torch.cat((seen, level))

    def run(tile: Tensor) -> Tensor:
        result: Tensor = model(tile[:, :-1], tile[:, -1:]) if isinstance(level, Tensor) else model(tile, level)
        return result

    whole = tiling.overlap_blend(run, seen, *shape.tile, shape.multiple, device)
    return whole.float().clamp(0, 1).cpu()


def validate(model: DAGL, crops: list[HeldOut], device: torch.device) -> tuple[LogRow, list[Tensor]]:
    """Mean 'psnr' and 'ssim' over the crops, None where they are not finite, and the restored crops.

    Nothing without crops.
    """
    with torch.no_grad():
        results = [restored(model, crop, device) for crop in crops]
    ssim = metrics.SSIM[model.config.task]
    quality = [(metrics.psnr(y, crop.clean), ssim(y, crop.clean)) for y, crop in zip(results, crops)]
    if not quality:
        return {}, []
    means = [round(float(v), 4) if np.isfinite(v) else None for v in np.mean(quality, 0)]  # JSON has no NaN
    return dict(zip(("psnr", "ssim"), means)), results
