"""PSNR and the paper's two SSIMs. Images are floats in [0, 1], (H, W) or (C, H, W), numpy arrays or tensors.

Nothing is clipped or rounded here: that is part of a protocol, and the caller's choice.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.ndimage import uniform_filter
from skimage.metrics import structural_similarity
from torch import Tensor

from ..errors import ImageError

Image = np.ndarray | Tensor


def psnr(a: Image, b: Image, crop: int = 0) -> float:
    """Peak signal-to-noise ratio in dB over all channels (Tables 1 to 4); infinite for equal images, NaN for NaN.

    crop: how many pixels to leave out at each of the four borders.
    Raises ImageError if the sizes differ or nothing is left.
    """
    a, b = _pair(a, b, crop)
    error = np.mean((a - b) ** 2)
    return math.inf if error == 0 else -10 * math.log10(error)


def ssim_gaussian(a: Image, b: Image, crop: int = 0) -> float:
    """Structural similarity as in Wang 2004: 11x11 Gaussian window, sigma 1.5, biased covariance, where the window
    fits; the mean over channels (Tables 1 and 4).

    Raises ImageError if the sizes differ or a side is under 11 pixels.
    """
    a, b = _pair(a, b, crop, window=11)
    return float(
        structural_similarity(
            a, b, channel_axis=0, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
    )


def ssim_uniform8(a: Image, b: Image, crop: int = 0) -> float:
    """Structural similarity with an 8x8 uniform window, biased covariance, where the window fits; the mean over
    channels. The paper does not say so, but this is what Table 3 holds.

    Raises ImageError if the sizes differ or a side is under 8 pixels.
    """
    a, b = _pair(a, b, crop, window=8)

    def mean(x: np.ndarray) -> np.ndarray:  # (C, H, W) -> (C, H - 7, W - 7)
        return np.asarray(uniform_filter(x, size=(1, 8, 8)))[:, 4:-3, 4:-3]

    mean_a, mean_b = mean(a), mean(b)
    variance_a, variance_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return float(np.mean(luminance * (2 * covariance + c2) / (variance_a + variance_b + c2)))


SSIM: dict[str, Callable[[Image, Image], float]] = {
    "denoise": ssim_gaussian,
    "real": ssim_gaussian,
    "dejpeg": ssim_uniform8,
    "demosaic": ssim_gaussian,
    "raw": ssim_gaussian,
}
"""Which of the two the paper's table of a task holds (Tables 1, 3 and 4; Table 2, real, comes from a server)."""


def _pair(a: Image, b: Image, crop: int, window: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Both images as (C, H, W) float64, cropped; (H, W) and (1, H, W) are the same image."""
    arrays = []
    for image in (a, b):
        array = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
        array = array[None] if array.ndim == 2 else array
        arrays.append(array[:, crop : array.shape[1] - crop, crop : array.shape[2] - crop].astype(np.float64))
    if arrays[0].shape != arrays[1].shape:
        sizes = (" x ".join(map(str, array.shape)) for array in arrays)
        raise ImageError("images of different size cannot be compared (channels x rows x columns): " + ", ".join(sizes))
    if min(arrays[0].shape[1:]) < window:
        size = " x ".join(map(str, arrays[0].shape[1:]))
        raise ImageError(f"an image of {size} pixels is too small for this measure: it needs {window} x {window}")
    return arrays[0], arrays[1]
