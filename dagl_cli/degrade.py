"""Degradations, applied. Tensors are float, (B, C, H, W), range [0, 1]; sigma is on the 0-255 scale."""

from __future__ import annotations

import io
import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .config import LUMA, PAPER_PATTERN, TASKS, check_pattern
from .errors import UsageError, unknown
from .images.colour import srgb_decode, srgb_encode

FIXED_CAMERA_NOISE = 0.004, 1e-4
"""`camera_noise`'s shot and read noise where one level has to stand for all of `camera_noise_levels`."""


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


def degraded(
    clean: Tensor, task: str, level: float | None = None, seed: int = 1, pattern: str = PAPER_PATTERN
) -> Tensor:
    """An image as the fixed test of a task has it: in the benchmark's tables and at the validation of a training run.

    clean: (C, H, W) in [0, 1]; so is what is returned, but for noise, which is not clipped.
    level: sigma for 'denoise' (`paper_noise`, Table 1), quality for 'dejpeg' (Pillow on 8-bit levels, Table 3), None
    for 'demosaic' (`pattern`, Table 4), 'raw' and 'real' (`FIXED_CAMERA_NOISE`; no table). seed: of the noise.
    Raises UsageError for an unknown task or pattern, and where the level is missing.
    """
    if task == "demosaic":
        return bayer_mosaic(clean[None], pattern)[0]
    if task == "raw":
        generator = torch.Generator().manual_seed(seed)
        return raw_noise(clean[None], *FIXED_CAMERA_NOISE, pattern, generator)[0]
    if task == "real":
        colour = clean[None].expand(1, 3, -1, -1)
        noisy = camera_noise(colour, *FIXED_CAMERA_NOISE, generator=torch.Generator().manual_seed(seed))[0]
        return noisy if len(clean) == 3 else (noisy * torch.tensor(LUMA).view(3, 1, 1)).sum(0, keepdim=True)
    if task not in ("denoise", "dejpeg"):
        raise unknown("task", task, TASKS)
    if level is None:
        raise UsageError(f"`task` {task} needs `{'sigma' if task == 'denoise' else 'quality'}`")
    if task == "denoise":
        return paper_noise(clean[None], level, seed)[0]
    levels = (clean * 255).round().byte().permute(1, 2, 0).numpy()  # (H, W, C)
    compressed = jpeg(levels.squeeze(-1) if levels.shape[-1] == 1 else levels, int(level)).reshape(levels.shape)
    return torch.from_numpy(compressed.copy()).permute(2, 0, 1).to(clean.dtype) / 255


def bayer_masks(height: int, width: int, pattern: str = PAPER_PATTERN) -> Tensor:
    """Which samples a Bayer sensor measures: (3, height, width) bool, one True per pixel."""
    check_pattern(pattern)
    masks = torch.zeros(3, height, width, dtype=torch.bool)
    for position, colour in enumerate(pattern):
        masks["RGB".index(colour), position // 2 :: 2, position % 2 :: 2] = True
    return masks


def bayer_mosaic(x: Tensor, pattern: str = PAPER_PATTERN) -> Tensor:
    """x (B, 3, H, W) with the samples that a Bayer sensor does not measure set to 0 (Table 4)."""
    return x * bayer_masks(x.shape[-2], x.shape[-1], pattern).to(x.device)


def raw_noise(
    x: Tensor, shot: float, read: float, pattern: str = PAPER_PATTERN, generator: torch.Generator | None = None
) -> Tensor:
    """x (B, 3, H, W), sRGB, as a sensor without a colour matrix measures it: a noisy mosaic, as of `bayer_mosaic`.

    Every sample gets Gaussian noise of variance shot * light + read (Brooks et al., CVPR 2019, equation 1).
    """
    light = srgb_decode(x)
    noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    return bayer_mosaic(srgb_encode((light + noise * (light * shot + read).sqrt()).clamp(0, 1)), pattern)


def camera_noise(
    x: Tensor,
    shot: float | Tensor,
    read: float | Tensor,
    pattern: str = "RGGB",
    generator: torch.Generator | None = None,
    *,
    gains: Tensor | None = None,
    tone: bool = False,
) -> Tensor:
    """x (B, 3, H, W), sRGB, with the noise that a camera's raw file would have put there, clipped to [0, 1].

    The light is made linear, every Bayer sample gets Gaussian noise of variance shot * light + read (linear, full
    scale 1; Brooks et al., CVPR 2019, equation 1), the noise is demosaiced bilinearly, which spreads and correlates
    it, and added; then back to sRGB. Only the noise goes through the demosaicing: the image stays as sharp as it
    was, so the clean x is what a denoiser should return. No colour matrix.

    shot, read: numbers, or tensors (B, 1, 1, 1) for one level per image; see `camera_noise_levels`.
    gains: white balance, (B, 3, 1, 1): the sensor saw each colour that many times darker, so its noise is amplified.
    tone: whether the camera applied the S curve 3x² - 2x³ after gamma (Brooks et al., section 3.1).
    Raises UsageError for an unknown pattern.
    """
    flat = 0.5 - ((1 - 2 * x.clamp(0, 1)).asin() / 3).sin() if tone else x
    linear = srgb_decode(flat)
    # Two pixels more on each side keep the pattern's phase and give the borders measured neighbours.
    light = F.pad(linear if gains is None else linear / gains, (2, 2, 2, 2), mode="replicate")  # (B, 3, H + 4, W + 4)
    masks = bayer_masks(light.shape[-2], light.shape[-1], pattern).to(x.device)
    deviation = (light.clamp(0, 1) * shot + read).sqrt()
    noise = torch.randn(light[:, :1].shape, generator=generator, device=x.device, dtype=x.dtype) * deviation * masks
    cross = torch.tensor([[0.0, 1, 0], [1, 4, 1], [0, 1, 0]]) / 4
    square = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 4
    kernel = torch.stack([square, cross, square])[:, None].to(x)  # (3, 1, 3, 3)
    spread = F.conv2d(noise, kernel, groups=3)[..., 1:-1, 1:-1]  # (B, 3, H, W)
    linear = (linear + (spread if gains is None else spread * gains)).clamp(0, 1)
    gamma = srgb_encode(linear)
    return gamma.square() * (3 - 2 * gamma) if tone else gamma


def camera_noise_levels(batch: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Random (shot, read) for `camera_noise`, each (batch, 1, 1, 1): the levels of cameras at common ISO settings.

    Brooks et al., CVPR 2019, equation 2, fitted there to the DND cameras: log shot uniform over
    log 0.0001 ... log 0.012; log read = 2.18 log shot + 1.2, normally scattered by 0.26.
    """
    low, high = math.log(1e-4), math.log(0.012)
    log_shot = low + (high - low) * torch.rand(batch, 1, 1, 1, generator=generator)
    log_read = 2.18 * log_shot + 1.2 + 0.26 * torch.randn(batch, 1, 1, 1, generator=generator)
    return log_shot.exp(), log_read.exp()
