"""What noise a picture has: its RMS and how far it is correlated.

Estimators for white noise look at the finest detail, where camera noise hardly is: on photographs of high ISO they find
a tenth to a third of it. The network that removes camera noise knows it from structure far better. It is told two
levels on four parts of the picture, and what it takes away, by scale and by how busy the place is, goes through eight
small networks (18,000 parameters, `tests/studies/noise_meter.py` trains them), which have seen simulated cameras, white
noise and pictures without noise.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from ..nn.model import DAGL
from ..store import weights
from .device import has_bfloat16

NETWORK = "real-color-fast"
"""The bundled network that is looked through."""
TILE = 128
"""Pixels of a side of the parts that the network sees."""
QUANTILES = (0.0, 0.33, 0.67, 1.0)
"""Of the picture's parts, ordered by their detail: which are looked at."""
TOLD = (4.0, 10.0)
"""Noise levels that the network is told."""
FAINTER = 0.25
"""Noise far beyond those levels passes for structure. So what may hold it is looked at once more, with the contrast of
picture and noise so much weaker."""
STRONG = 16.0
"""From this level on the second look counts; below it fine cloth passes for noise there (McMaster18 17: 12 to 15)."""
BLOCK = 16
"""Pixels of a side of the blocks."""
BANDS = (2, 4, 8, 16)
"""Sides in pixels of the means whose differences are the bands."""
MEMBERS = 8
"""Networks whose mean counts: one alone is off by a third where it has seen little like a picture."""
FLOOR = 0.1
"""Variance, in squared 8-bit levels, that is added before taking logarithms: what rounding alone makes."""
LARGEST = 1024
"""Of larger pictures the middle is looked at."""
_YCC = np.array([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]], np.float32)


@dataclass(frozen=True)
class Noise:
    rms: float
    """Deviation from the picture without it, over all channels, on the 0-255 scale, if there is noise at all."""
    correlation: float
    """Of neighbouring samples: 0 for white noise, 0.2 to 0.8 for camera noise."""
    likelihood: float
    """That there is noise of at least `LEAST` levels: 0 to 1."""


LEAST = 1.4
"""Noise below this is not told from fine texture."""


class NoiseMeter(nn.Module):
    """`features` (B, F) -> (B, 3): logarithm of the noise's variance + `FLOOR`, its correlation, the logit of its
    likelihood."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.deviation = nn.Buffer(torch.zeros(COUNT)), nn.Buffer(torch.ones(COUNT))
        self.members = nn.ModuleList(
            nn.Sequential(nn.Linear(COUNT, 24), nn.SiLU(), nn.Linear(24, 24), nn.SiLU(), nn.Linear(24, 3))
            for _ in range(MEMBERS)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.each(x).mean(0)

    def each(self, x: Tensor) -> Tensor:
        """(MEMBERS, B, 3): what every member says."""
        return torch.stack([member((x - self.mean) / self.deviation) for member in self.members])


COUNT = len(TOLD) * (2 * (3 * len(BANDS) + 3) + 3)
"""Numbers that `features` gives."""


def features(seen: np.ndarray, left: np.ndarray) -> np.ndarray:
    """(COUNT,) float32 of `parts` (N, side, side, 3) and `denoised`, what the network leaves of them.

    For each level told, of what is taken away, of its luma and its colour differences: each band's median energy in the
    third of the blocks with the least structure, in the middle one and in the busiest; the correlation at distances 1,
    2 and 4. Then how much structure is left. Energies are logarithms of squared levels.
    """
    luma = blocks(_row(seen @ _YCC.T)[..., 0]).mean(1)
    varied = np.ptp(blocks(_row(seen).sum(-1)), 1) > 0  # frames, bars and captions tell nothing
    usable = (luma > 8) & (luma < 245) & varied
    usable = usable if usable.mean() > 0.05 else np.ones_like(usable)
    found: list[float] = []
    for one in left:
        taken, kept = _row((seen - one) @ _YCC.T), _row(one @ _YCC.T)
        structure = blocks(((kept - local_mean(kept)) ** 2).sum(-1)).mean(1)[usable]
        order = np.argsort(structure)
        thirds = [third if len(third) else order for third in np.array_split(order, 3)]
        for planes in (taken[..., :1], taken[..., 1:]):
            energies = np.stack([blocks((band**2).mean(-1)).mean(1)[usable] for band in detail(planes)])
            for third in thirds:
                found += np.log(np.median(energies[:, third], axis=1) + FLOOR).tolist()
            energy = (planes**2).mean() + FLOOR
            found += [float((planes[:, d:] * planes[:, :-d]).mean() / energy) for d in (1, 2, 4)]
        found += np.log(np.quantile(structure, (0.1, 0.5, 0.9)) + FLOOR).tolist()
    return np.array(found, np.float32)


def denoised(seen: np.ndarray, denoiser: DAGL) -> np.ndarray:
    """`parts` (N, side, side, 3) -> what the network leaves of them, each level told: (len(TOLD), N, side, side, 3)."""
    # by its instructions, not by a clock: a picture's level is the same in every process
    x = torch.from_numpy(seen).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last) / 255
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16()):
        left = [denoiser(x, level).float().clamp(0, 1).permute(0, 2, 3, 1).numpy() for level in TOLD]
    return 255 * np.stack(left)


def parts(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 1 or 3) in [0, 1] -> (N, side, side, 3) in levels, at most four, from the flattest to the busiest of those
    that are not of one colour."""
    levels = 255 * pixels.astype(np.float32)
    side = min(TILE, *(n // BLOCK * BLOCK for n in levels.shape[:2]))
    rows, columns = (min(n, LARGEST) // side for n in levels.shape[:2])
    top, left = ((n - count * side) // 2 for n, count in zip(levels.shape, (rows, columns)))
    middle = np.broadcast_to(
        levels[top : top + rows * side, left : left + columns * side], (rows * side, columns * side, 3)
    )
    luma = middle.mean(-1, keepdims=True)
    energy = ((luma - local_mean(luma)) ** 2).reshape(rows, side, columns, side).mean((1, 3)).ravel()
    order = np.argsort(energy, kind="stable")[min((energy < 1e-4).sum(), len(energy) - 1) :]
    chosen = order[[round(q * (len(order) - 1)) for q in QUANTILES]]
    tiles = middle.reshape(rows, side, columns, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)
    return np.ascontiguousarray(tiles[list(dict.fromkeys(chosen.tolist()))])


def _row(tiles: np.ndarray) -> np.ndarray:
    """(N, side, side, C) -> (side, N * side, C)"""
    return np.concatenate(list(tiles), 1)


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
    """The noise of a picture, (H, W, 1 or 3) float in [0, 1]; None with a side under 2 `BLOCK`, or without the
    network."""
    denoiser = _denoiser(weights.folder() / f"{NETWORK}.safetensors")
    if min(pixels.shape[:2]) < 2 * BLOCK or denoiser is None:
        return None
    seen = parts(pixels)
    if seen.std((1, 2)).mean(-1).min() > max(TOLD):
        fainter = _look(127.5 + FAINTER * (seen - 127.5), denoiser)
        if fainter.rms > FAINTER * STRONG:
            return replace(fainter, rms=fainter.rms / FAINTER)
    return _look(seen, denoiser)


def _look(seen: np.ndarray, denoiser: DAGL) -> Noise:
    with torch.inference_mode():
        x = torch.from_numpy(features(seen, denoised(seen, denoiser)))
        variance, correlation, logit = _meter()(x[None])[0].tolist()
    rms = math.sqrt(max(0.0, math.exp(min(variance, 10.0)) - FLOOR))
    return Noise(rms, correlation, 1 / (1 + math.exp(-max(logit, -30.0))))


@functools.cache
def _denoiser(path: Path) -> DAGL | None:
    """The network that is looked through, on the CPU; None where there is none that is told a level."""
    if not path.is_file():
        return None
    network, _ = weights.load(path)
    return network.eval() if network.config.noise_map else None


@functools.cache
def _meter() -> NoiseMeter:
    meter = NoiseMeter().float()  # whatever type of numbers torch was told to take
    stored = safetensors.torch.load_file(Path(__file__).with_name("noise.safetensors"))
    meter.load_state_dict({name: value.float() for name, value in stored.items()})
    return meter.eval()
