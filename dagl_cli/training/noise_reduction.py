"""A camera's own noise reduction, four ways: what each leaves is coarser than what it was given, and more near edges.

Pictures are luma and colour differences, (..., 3, H, W). What is taken from a picture is decided on a `guide`,
(3, H, W): the noisy picture itself. Done to a picture without noise too, as in the mean of many shots, it says what the
camera would have saved without noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

NEAR = 12
"""Deviation in pixels of the Gaussian over which noise has one level, where a level is local."""


def bands(pair: Tensor, share: Tensor, radius: float, threshold: float) -> Tensor:
    """Bands of detail, each twice as coarse, attenuated where they hold little more than noise.

    pair: (2, 3, H, W), the guide and the picture without noise; share (bands, 3, 1, 1): how much is taken, of every
    band. Bands: differences of Gaussians. A band's gain is 1 - share * exp(-excess / threshold²), where excess is its
    local energy beyond its noise's, in units of it, as in Lee's filter (IEEE TPAMI 1980); cameras know their noise from
    calibration.
    """
    result = torch.zeros_like(pair)
    for band, taken in enumerate(share):
        coarser = blur(pair, radius * 2**band)
        detail = pair - coarser
        noise = (detail[0] - detail[1]).square().mean((-2, -1), keepdim=True) + 1e-9  # (3, 1, 1)
        excess = (blur(detail[0].square(), 1.5) / noise - 1).clamp(min=0)
        result += detail * (1 - taken * torch.exp(-excess / threshold**2))
        pair = coarser
    return result + pair


def wavelet(picture: Tensor, guide: Tensor, limits: list[Tensor]) -> Tensor:
    """Soft thresholds (Donoho, IEEE TIT 1995) in bands of detail: limits, (3, H or 1, W or 1) of each, finest first."""
    for detail, own, limit in zip(list(pyramid(picture)), pyramid(guide), limits):
        picture = picture - detail * (limit / (own.abs() + 1e-9)).clamp(max=1)
    return picture


def bilateral(picture: Tensor, guide: Tensor, noise: Tensor, strength: Tensor, radius: int) -> Tensor:
    """Means over near pixels that differ by little (Tomasi and Manduchi, ICCV 1998), within a square of that radius.

    noise (3, H or 1, W or 1): its deviation; strength (3, 1, 1): by how many of them pixels may differ.
    """

    def alike(other: Tensor, apart: int) -> Tensor:
        return torch.exp(-(((other - guide) / (strength * noise)) ** 2) / 2 - apart / (2 * (radius / 1.5) ** 2))

    return _mean(picture, guide, radius, alike)


def non_local(picture: Tensor, guide: Tensor, noise: Tensor, strength: Tensor, radius: int) -> Tensor:
    """Means over near pixels whose patches of 5x5 differ by little (Buades et al., CVPR 2005); as `bilateral`."""
    down, across = (_weights(size, lambda apart: apart <= 2) for size in guide.shape[-2:])

    def alike(other: Tensor, apart: int) -> Tensor:
        patches = down @ ((other - guide) / noise).square() @ across.T
        return torch.exp(-(patches - 2).clamp(min=0) / (strength / 3) ** 2)

    return _mean(picture, guide, radius, alike)


def _mean(picture: Tensor, guide: Tensor, radius: int, alike: Callable[[Tensor, int], Tensor]) -> Tensor:
    total, weight = torch.zeros_like(picture), torch.zeros_like(guide)
    for (other, _), (of_guide, apart) in zip(around(picture, radius), around(guide, radius)):
        share = alike(of_guide, apart)
        total, weight = total + share * other, weight + share
    return total / weight


def around(x: Tensor, radius: int) -> Iterator[tuple[Tensor, int]]:
    """x (..., 3, H, W) moved by each offset within a square, and the squares of the distances."""
    height, width = x.shape[-2:]
    padded = F.pad(x.reshape(-1, 3, height, width), (radius,) * 4, mode="reflect")
    padded = padded.view(*x.shape[:-2], *padded.shape[-2:])
    for down in range(2 * radius + 1):
        for right in range(2 * radius + 1):
            apart = (down - radius) ** 2 + (right - radius) ** 2
            yield padded[..., down : down + height, right : right + width], apart


def deviation(noise: Tensor, local: bool = True) -> Tensor:
    """(3, H, W), or (3, 1, 1) if not local, of a sample of noise (3, H, W)."""
    variance = noise.square()
    return (blur(variance, NEAR) if local else variance.mean((1, 2), keepdim=True)).sqrt() + 1e-3


def pyramid(x: Tensor) -> Iterator[Tensor]:
    """Four bands of detail, each twice as coarse."""
    for band in range(4):
        coarser = blur(x, 0.8 * 2**band)
        yield x - coarser
        x = coarser


def blur(x: Tensor, radius: float) -> Tensor:
    """x (..., H, W) blurred by a Gaussian of that deviation in pixels; at the borders, over what is there."""

    def gaussian(apart: Tensor) -> Tensor:
        return torch.where(apart < 4 * radius, torch.exp(-0.5 * (apart / radius) ** 2), 0)

    down, across = (_weights(size, gaussian) for size in x.shape[-2:])
    return down @ x @ across.T  # as matrices: the fastest form for crops


def _weights(size: int, kernel: Callable[[Tensor], Tensor]) -> Tensor:
    """(size, size): in each row what pixels so far apart along a line count for one of them, 1 in all."""
    places = torch.arange(size)
    weights = kernel(places.float())[(places - places[:, None]).abs()].float()
    return weights / weights.sum(1, keepdim=True)
