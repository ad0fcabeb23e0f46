"""Degradations, applied and estimated. Tensors are float, (B, C, H, W), range [0, 1]; sigma is on the 0-255 scale."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .errors import UsageError

BAYER_PATTERNS = ("RGGB", "BGGR", "GRBG", "GBRG")
PAPER_PATTERN = "GRBG"
"""Row 0: G R; row 1: B G (Table 4, the released mosaics)."""


def gaussian_noise(x: Tensor, sigma: float | Tensor, generator: torch.Generator | None = None) -> Tensor:
    """x plus white Gaussian noise, not clipped.

    sigma: a number, or a tensor that broadcasts to x, (B, 1, 1, 1) for one level per image.
    """
    noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    return x + noise * (sigma / 255)


def paper_noise(x: Tensor, sigma: float, seed: int = 1) -> Tensor:
    """Table 1's noise to the bit: the seed is set anew for every image, the noise drawn on the CPU, not clipped.

    x: (1, C, H, W) float32.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.empty(x.shape, dtype=torch.float32).normal_(0, sigma / 255, generator=generator)
    return x + noise.to(x.device)


def jpeg(pixels: np.ndarray, quality: int, subsampling: str = "4:2:0") -> np.ndarray:
    """pixels through a real JPEG encoder (Pillow's libjpeg), as Table 3 does.

    pixels: (H, W) or (H, W, 3) uint8; quality 1-100; subsampling '4:4:4', '4:2:2' or '4:2:0' (colour only).
    """
    buffer = io.BytesIO()
    options = {"subsampling": subsampling} if pixels.ndim == 3 else {}
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, **options)
    return np.asarray(Image.open(buffer))


def bayer_masks(height: int, width: int, pattern: str = PAPER_PATTERN) -> Tensor:
    """Which samples a Bayer sensor measures: (3, height, width) bool, one True per pixel."""
    if pattern not in BAYER_PATTERNS:
        raise UsageError(f"--pattern {pattern} is unknown: choose one of {', '.join(BAYER_PATTERNS)}")
    masks = torch.zeros(3, height, width, dtype=torch.bool)
    for position, colour in enumerate(pattern):
        masks["RGB".index(colour), position // 2 :: 2, position % 2 :: 2] = True
    return masks


def bayer_mosaic(x: Tensor, pattern: str = PAPER_PATTERN) -> Tensor:
    """x (B, 3, H, W) with the samples that a Bayer sensor does not measure set to 0 (Table 4)."""
    return x * bayer_masks(x.shape[-2], x.shape[-1], pattern).to(x.device)
