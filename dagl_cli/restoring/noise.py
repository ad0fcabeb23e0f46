"""What noise a picture has: its RMS and how far it is correlated.

Estimators for white noise look at the finest detail, where camera noise hardly is: on photographs of high ISO they find
a tenth to a third of it. Here the energy of four bands of detail is measured in blocks, from the flattest to the
busiest, and eight small networks (25,000 parameters, `tests/studies/noise_meter.py` trains them), which have seen
simulated camera noise, white noise and pictures without noise, tell from these numbers what of it is noise.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

BLOCK = 16
"""Pixels of a side of the blocks."""
BANDS = (2, 4, 8, 16)
"""Sides in pixels of the means whose differences are the bands."""
SHARES = (0.02, 0.1, 0.25, 0.5, 0.9)
"""Of the blocks, ordered by energy: at which the energies are read."""
GROUP_SHARES = (0.1, 0.4)
"""The same in the dark, the middle and the bright third of the blocks: noise depends on the light."""
MEMBERS = 8
"""Networks whose mean counts: one alone is off by a third where it has seen little like a picture."""
FLATTEST = 0.1
"""Share of the blocks in which the correlation is measured."""
FLOOR = 0.1
"""Variance, in squared 8-bit levels, that is added before taking logarithms: what rounding alone makes."""
LARGEST = 1024
"""Of larger pictures the middle is looked at."""
_YCC = np.array([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]], np.float32)


@dataclass(frozen=True)
class Noise:
    rms: float
    """Deviation from the picture without it, over all channels, on the 0-255 scale."""
    correlation: float
    """Of neighbouring samples: 0 for white noise, 0.2 to 0.8 for camera noise."""


class NoiseMeter(nn.Module):
    """`features` (B, F) -> (B, 2): logarithm of the noise's variance + `FLOOR`, and its correlation."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.deviation = nn.Buffer(torch.zeros(COUNT)), nn.Buffer(torch.ones(COUNT))
        self.members = nn.ModuleList(
            nn.Sequential(nn.Linear(COUNT, 24), nn.SiLU(), nn.Linear(24, 24), nn.SiLU(), nn.Linear(24, 2))
            for _ in range(MEMBERS)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.each(x).mean(0)

    def each(self, x: Tensor) -> Tensor:
        """(MEMBERS, B, 2): what every member says."""
        return torch.stack([member((x - self.mean) / self.deviation) for member in self.members])


COUNT = 2 * len(BANDS) * (len(SHARES) + 3 * len(GROUP_SHARES)) + 2 * 3 + 4
"""Numbers that `features` gives."""


def features(pixels: np.ndarray) -> np.ndarray:
    """(COUNT,) float32 of a picture (H, W, 1 or 3), sides of at least 2 `BLOCK`: logarithms of energies in levels.

    Of luma and of the colour differences: each band's energy in blocks, at `SHARES` of them and at `GROUP_SHARES` of
    each third by brightness; the correlation at distances 1, 2 and 4 in the flattest blocks; at last the thirds'
    brightness, and the share of blocks that are not burnt out or black.
    """
    height, width = (min(n, LARGEST) // BLOCK * BLOCK for n in pixels.shape[:2])
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    part = 255 * pixels[top : top + height, left : left + width].astype(np.float32)
    part = np.broadcast_to(part, (height, width, 3)) @ _YCC.T
    luma = blocks(part[..., 0]).mean(1)
    usable = (luma > 8) & (luma < 245)
    usable = usable if usable.mean() > 0.05 else np.ones_like(usable)
    order = np.argsort(luma[usable])
    thirds = [third if len(third) else order for third in np.array_split(order, 3)]
    found: list[float] = []
    for planes in (part[..., :1], part[..., 1:]):
        bands = detail(planes)
        energies = np.stack([blocks(over_channels(band**2)).mean(1)[usable] for band in bands])  # (bands, blocks)
        for part_of, shares in [(energies, SHARES), *((energies[:, third], GROUP_SHARES) for third in thirds)]:
            found += np.log(np.quantile(part_of, shares, axis=1) + FLOOR).T.ravel().tolist()
        energy_of = energies.sum(0)
        flat = energy_of <= np.quantile(energy_of, FLATTEST)
        fine = planes - local_mean(planes)
        energy = blocks(over_channels(fine**2)).mean(1)[usable][flat].mean() + FLOOR
        for distance in (1, 2, 4):
            product = over_channels(fine * np.roll(fine, distance, 1))
            product[:, :distance] = 0
            found.append(float(blocks(product).mean(1)[usable][flat].mean() / energy))
    brightness = [luma[usable][third].mean() / 128 - 1 for third in thirds]
    return np.array([*found, *brightness, usable.mean()], np.float32)


def over_channels(planes: np.ndarray) -> np.ndarray:
    """(H, W, C) -> (H, W): the mean. NumPy's own takes 4 times as long where C is small."""
    return sum(planes[..., i] for i in range(planes.shape[-1])) / np.float32(planes.shape[-1])


def detail(planes: np.ndarray) -> list[np.ndarray]:
    """(H, W, C) -> its bands, each a difference of means over squares of `BANDS` pixels."""
    height, width, margin = *planes.shape[:2], BANDS[-1] // 2
    sums, means = mirrored(planes, margin), [planes]
    for side in BANDS:  # each from the one before: four sums of half the side
        half = side // 2
        sums = sums[:-half] + sums[half:]
        sums = sums[:, :-half] + sums[:, half:]
        first = margin - half
        means.append(sums[first : first + height, first : first + width] / np.float32(side * side))
    return [fine - coarse for fine, coarse in itertools.pairwise(means)]


def local_mean(planes: np.ndarray) -> np.ndarray:
    """(H, W, C) -> the mean over the square of 2 `BLOCK` - 1 pixels around each."""
    for axis in (0, 1):
        padded = sums = np.moveaxis(mirrored(planes, BLOCK - 1), axis, 0)
        half = 1
        while half < BLOCK:
            sums = sums[:-half] + sums[half:]
            half *= 2
        own = padded[BLOCK - 1 : 1 - BLOCK]  # the sums to its left and to its right both hold it
        means = (sums[: len(own)] + sums[BLOCK - 1 :] - own) / np.float32(2 * BLOCK - 1)
        other = slice(BLOCK - 1, 1 - BLOCK)
        planes = np.moveaxis(means[:, other], 0, axis)
    return planes


def mirrored(planes: np.ndarray, margin: int) -> np.ndarray:
    """(H, W, C) with so many rows and columns more on every side."""
    return np.pad(planes, ((margin, margin), (margin, margin), (0, 0)), mode="reflect")


def blocks(plane: np.ndarray) -> np.ndarray:
    """(H, W), sides multiples of `BLOCK` -> (number of blocks, BLOCK²)."""
    rows, columns = (n // BLOCK for n in plane.shape)
    return plane.reshape(rows, BLOCK, columns, BLOCK).swapaxes(1, 2).reshape(rows * columns, -1)


def measure(pixels: np.ndarray) -> Noise | None:
    """The noise of a picture, (H, W, 1 or 3) float in [0, 1]; None with a side under 2 `BLOCK`."""
    if min(pixels.shape[:2]) < 2 * BLOCK:
        return None
    with torch.inference_mode():
        variance, correlation = _meter()(torch.from_numpy(features(pixels))[None])[0].tolist()
    return Noise(math.sqrt(max(0.0, math.exp(min(variance, 10.0)) - FLOOR)), correlation)


@functools.cache
def _meter() -> NoiseMeter:
    meter = NoiseMeter()
    stored = safetensors.torch.load_file(Path(__file__).with_name("noise.safetensors"))
    meter.load_state_dict({name: value.float() for name, value in stored.items()})
    return meter.eval()
