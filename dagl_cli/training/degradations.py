"""What the training makes of clean crops: one function for each task, with random levels.

The one fixed degradation of a task, which validations and benchmarks measure on, is `degrade.degraded`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .. import degrade
from ..restoring.rawnoise import level_map
from . import camera

GRID = 8
"""JPEG's blocks: crops of compressed pictures start anywhere on them."""

Degraded = tuple[Tensor, Tensor, Tensor | None]
"""degraded, clean, the level that the network is told, (B,) or for raw (B, 1, size, size), or None."""


@dataclass(frozen=True)
class Wanted:
    """Which crops of a batch are made, and how."""

    batch: int
    """Crops of all processes; those of this one are B below."""
    rows: slice
    """Those of this process."""
    size: int
    """Side of the crops in the end; those that are given may be larger (`MARGINS`)."""
    sigma: float | None = None
    """The noise level for denoise; None: uniform in 0-75."""
    sigma_error: float = 0.0
    """Half of the levels that are told are off by up to this share, either way (real: of the noise's RMS)."""

    def told(self, sigma: Tensor, half: Tensor, chance: Tensor) -> Tensor:
        """What the network is told of the true levels. half, chance: uniform in 0-1. (B,) all."""
        return sigma * (1 + torch.where(half < 0.5, self.sigma_error * (2 * chance - 1), 0))


class Chance:
    """The randomness of batch `step`: of (seed, step) alone. What is drawn for a whole batch gives a crop the same
    whatever the number of processes; so does what is drawn for each crop."""

    def __init__(self, seed: int, step: int) -> None:
        self.seed, self.step = seed, step
        self.batch = np.random.default_rng([seed, step])
        """For the batch."""

    def of_crop(self, i: int) -> np.random.Generator:
        """For crop i of the batch."""
        return np.random.default_rng([self.seed, self.step, i])

    def on(self, device: torch.device | str) -> torch.Generator:
        """For the batch, where it is computed."""
        seed = int(np.random.SeedSequence([self.seed, self.step]).generate_state(1, np.uint64)[0] >> np.uint64(1))
        return torch.Generator(device).manual_seed(seed)


def to_float(levels: Tensor) -> Tensor:
    """(B, H, W, C) levels, uint8 or the bits of uint16 as int16 -> (B, C, H, W) float32 in [0, 1]."""
    if levels.dtype == torch.int16:
        return (levels.int() & 0xFFFF).permute(0, 3, 1, 2).float().div_(65535)
    return levels.permute(0, 3, 1, 2).float().div_(255)


def noisy(clean: Tensor, wanted: Wanted, random: Chance) -> Degraded:
    """White Gaussian noise, not clipped; of random levels, a quarter is as an 8-bit file would have it."""
    generator = random.on(clean.device)
    noise = torch.randn(wanted.batch, *clean.shape[1:], generator=generator, device=clean.device)[wanted.rows]
    chance = torch.rand(4, wanted.batch, generator=generator, device=clean.device)[:, wanted.rows]
    sigma = chance[0] * 75 if wanted.sigma is None else torch.full_like(chance[0], wanted.sigma)
    degraded = torch.addcmul(clean, noise, sigma.view(-1, 1, 1, 1) / 255)
    if wanted.sigma is None:
        file = (degraded.clamp(0, 1) * 255).round() / 255
        degraded = torch.where((chance[1] < 0.25).view(-1, 1, 1, 1), file, degraded)
    return degraded, clean, wanted.told(sigma, chance[2], chance[3])


def mosaicked(clean: Tensor, wanted: Wanted, random: Chance) -> Degraded:
    """The paper's Bayer mosaic."""
    return degrade.bayer_mosaic(clean), clean, None


def compressed(clean: Tensor, wanted: Wanted, random: Chance) -> Degraded:
    """JPEGs by Pillow: quality 5-95, more often low than high, 4:2:0 or 4:4:4; one in ten was compressed before, on a
    shifted grid."""
    n, size, draw = wanted.batch, wanted.size, random.batch
    small = draw.random(n) < 0.6
    quality = (5 + 90 * draw.random(n) ** 2).astype(int)
    again, first_quality = draw.random(n) < 0.1, draw.integers(30, 96, n)
    shifts, places = draw.integers(GRID, size=(n, 2)), draw.integers(GRID, size=(n, 2))
    pairs = []
    for crop, i in zip(clean.numpy(), range(n)[wanted.rows]):
        subsampling = "4:2:0" if small[i] else "4:4:4"
        pixels = crop.squeeze(-1) if crop.shape[-1] == 1 else crop
        if again[i]:
            shift = tuple(shifts[i])
            first = degrade.jpeg(np.roll(pixels, shift, (0, 1)), int(first_quality[i]), subsampling)
            pixels = np.roll(first, (-shift[0], -shift[1]), (0, 1))
        decoded = degrade.jpeg(pixels, int(quality[i]), subsampling).reshape(crop.shape)
        y, x = places[i]
        pairs.append([p[y : y + size, x : x + size] for p in (decoded, crop)])
    degraded, clean = (torch.from_numpy(np.stack(part)) for part in zip(*pairs))
    return degraded, clean, None


def photographed(scenes: Tensor, wanted: Wanted, random: Chance) -> Degraded:
    """What a camera would have saved of the crops with noise and without: `camera.noisy_pair`, as 8-bit files."""
    pairs = []
    for scene, i in zip(to_float(scenes), range(wanted.batch)[wanted.rows]):
        pair = camera.noisy_pair(scene, random.of_crop(i))
        pairs.append([(x * 255).round().byte().permute(1, 2, 0) for x in pair])
    degraded, clean = (torch.stack(part).contiguous() for part in zip(*pairs))
    level = 255 * (to_float(degraded) - to_float(clean)).square().mean((1, 2, 3)).sqrt()
    half, chance = torch.rand(2, wanted.batch, generator=random.on("cpu"))[:, wanted.rows]
    return degraded, clean, wanted.told(level, half, chance)


def exposed(scenes: Tensor, wanted: Wanted, random: Chance) -> Degraded:
    """Raw files of the crops, as `images.raw` reads them, in 16 bits: `camera.negative`, told its sensor's noise."""
    mosaics, pictures, maps = [], [], []
    for scene, i in zip(to_float(scenes), range(wanted.batch)[wanted.rows]):
        draw = random.of_crop(i)
        mosaic, picture, profile = camera.negative(scene, camera.Camera.random(draw), draw)
        maps.append(level_map(mosaic, profile))
        mosaics.append(degrade.bayer_mosaic(mosaic.expand(1, 3, -1, -1))[0])
        pictures.append(picture)
    degraded, clean = (
        (torch.stack(part) * 65535).round().int().short().permute(0, 2, 3, 1).contiguous()
        for part in (mosaics, pictures)
    )
    half, chance = torch.rand(2, wanted.batch, generator=random.on("cpu"))[:, wanted.rows]
    share = wanted.told(torch.ones(len(half)), half, chance)
    return degraded, clean, torch.stack(maps)[:, None] * share.view(-1, 1, 1, 1)


ENCODED = {"dejpeg": compressed, "real": photographed, "raw": exposed}
"""Tasks whose files are made on the CPU, ahead of the training if there are workers. From and to levels,
(B, side, side, C) uint8 or int16 (`to_float`)."""
DRAWN = {"denoise": noisy, "demosaic": mosaicked}
"""Tasks that are computed where the training is. From and to floats, (B, C, size, size) in [0, 1]."""
MARGINS = {"dejpeg": GRID}
"""Pixels that a task's crops are larger by, so that JPEG's grid can lie anywhere in them."""
