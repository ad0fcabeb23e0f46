"""The Python interface: one picture in memory, restored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..config import DEFAULT_PATTERN, HIGHEST_SIGMA, Options, check_sigma
from ..errors import UsageError
from . import estimate, guard
from .pixels import is_gray, run
from .restorer import Restorer, check_task, load_model

RANGES = {"uint8": 255, "uint16": 65535}
"""Highest level of the integer types that `restore` takes."""


def restore(
    image: np.ndarray | Tensor,
    task: str = "denoise",
    *,
    sigma: float | None = None,
    pattern: str = DEFAULT_PATTERN,
    model: str | Path | Restorer | None = None,
    options: Options = Options(),
) -> np.ndarray | Tensor:
    """Restore one image in memory; what comes in as an array or a tensor goes out as one.

    Args:
        image: NumPy array (H, W), (H, W, 1) or (H, W, 3), uint8, uint16 (0-65535) or float in [0, 1]; or torch tensor
            (1, H, W) or (3, H, W), float in [0, 1]. It is not changed.
        task: 'denoise', 'real', 'dejpeg' or 'demosaic'.
        sigma: noise level on the 0-255 scale whatever the dtype; None: estimated. Only for 'denoise' and 'real'.
        pattern: Bayer pattern of a mosaic, read from the top left: 'RGGB', 'BGGR', 'GRBG' or 'GBRG'.
        model: a name, a path, or what `load_model` returned (then `options` is not used).

    Returns the same kind, dtype and range, clipped to it; (H, W, 3) or (3, H, W) for demosaicing.
    Raises UsageError for NaN, wrong shapes or ranges.
    """
    pixels = _to_tensor(image)
    if sigma is not None:
        check_sigma(sigma)
    channels = len(pixels)
    if task != "demosaic" and is_gray(pixels.permute(1, 2, 0).numpy()):
        pixels = pixels[:1]
    if isinstance(model, Restorer):
        restorer = model
        check_task(restorer.config.task, task, restorer.name)
    else:
        restorer = load_model(task, pixels.shape[0], model=model, options=options)
    if sigma is None and restorer.config.noise_map:
        sigma = _estimated(pixels.permute(1, 2, 0).numpy(), task)
    restored = run(restorer, pixels, sigma, pattern)
    if len(restored) < channels:
        restored = restored.repeat(channels, 1, 1)

    if isinstance(image, Tensor):
        return restored.to(image.device, image.dtype)
    array = restored.permute(1, 2, 0).numpy()
    array = array if task == "demosaic" else array.reshape(image.shape)
    top = RANGES.get(image.dtype.name)
    return array.astype(image.dtype) if top is None else np.rint(array * top).astype(image.dtype)


def _estimated(pixels: np.ndarray, task: str) -> float:
    """The noise level that a model is told; 0 where there is no noise."""
    if task == "real":
        found = guard.camera_noise(pixels)
        return 0.0 if found.nothing else found.level or 0.0
    return min(estimate.estimate_sigma(pixels) or 0.0, HIGHEST_SIGMA)


def _to_tensor(image: np.ndarray | Tensor) -> Tensor:
    """(C, H, W) float32 on the CPU, from what `restore` takes. Raises UsageError."""
    shape = tuple(image.shape)
    if 0 in shape:
        raise UsageError(f"an image of shape {shape} has no pixels")
    if isinstance(image, Tensor):
        if len(shape) != 3 or shape[0] not in (1, 3) or not image.is_floating_point():
            raise UsageError(f"a tensor must be (1, H, W) or (3, H, W) of floats, not {shape} of {image.dtype}")
        pixels = image.detach().to("cpu", torch.float32)
    else:
        if len(shape) not in (2, 3) or (*shape, 1)[2] not in (1, 3):
            raise UsageError(f"an array must be (H, W), (H, W, 1) or (H, W, 3), not {shape}: take alpha off first")
        top = RANGES.get(image.dtype.name)
        if top is None and not np.issubdtype(image.dtype, np.floating):
            raise UsageError(f"an array must be uint8, uint16 or float in [0, 1], not {image.dtype}")
        floats = np.ascontiguousarray(image, np.float32) / np.float32(top or 1)
        pixels = torch.from_numpy(floats.reshape(*shape[:2], -1)).permute(2, 0, 1)
    if not bool(((pixels >= -0.5) & (pixels <= 1.5)).all()):
        raise UsageError("pixel values must be finite and in [0, 1] (a little beyond is fine for noise)")
    return pixels
