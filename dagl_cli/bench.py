"""Dataset x task -> rows, under the paper's protocol: seeds, clipping and which SSIM (Tables 1, 3 and 4)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from . import degrade
from .errors import DaglError, UsageError
from .metrics import psnr, ssim_gaussian, ssim_uniform8
from .pipeline import Restorer


@dataclass(frozen=True)
class Dataset:
    """A test set of the paper: a folder of clean images."""

    pattern: str
    channels: int


DATASETS: dict[str, Dataset] = {
    "Set12": Dataset("*.png", 1),
    "BSD68": Dataset("*.png", 1),
    "Urban100": Dataset("*.png", 1),
    "Classic5": Dataset("*.bmp", 1),
    "LIVE1": Dataset("*.bmp", 1),
    "McMaster18": Dataset("*.tif", 3),
    "Kodak24": Dataset("*.png", 3),
}


@dataclass
class Row:
    """One dataset under one degradation: means over its images."""

    dataset: str
    task: str
    level: float | None
    """sigma, JPEG quality, or None (demosaic)."""
    protocol: str
    images: int = 0
    input_psnr: float = 0.0
    input_ssim: float = 0.0
    psnr: float = 0.0
    ssim: float = 0.0
    seconds_per_megapixel: float = 0.0
    per_image: dict[str, float] = field(default_factory=dict)


def clean_images(folder: Path, dataset: str, limit: int | None) -> Iterator[tuple[str, np.ndarray]]:
    """(name, uint8 (H, W, C)) of a dataset's images, in order. Raises UsageError, DaglError."""
    if dataset not in DATASETS:
        raise UsageError(f"--dataset {dataset} is unknown: choose one of {', '.join(DATASETS)}")
    paths = sorted((folder / dataset).glob(DATASETS[dataset].pattern))[:limit]
    if not paths:
        raise DaglError(f"--data-dir {folder}: no {dataset}/{DATASETS[dataset].pattern} in it")
    for path in paths:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("L" if DATASETS[dataset].channels == 1 else "RGB"))
        yield path.name, pixels.reshape(*pixels.shape[:2], -1)


def degraded(pixels: np.ndarray, task: str, level: float | None) -> tuple[Tensor, Tensor]:
    """(clean, degraded), each (C, H, W) in [0, 1], by the paper's protocol of the task.

    pixels: uint8 (H, W, C). level: sigma for 'denoise' (Table 1, not clipped), quality for 'dejpeg' (Table 3).
    """
    clean = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255
    if task == "demosaic":
        return clean, degrade.bayer_mosaic(clean[None])[0]
    if level is None:
        raise UsageError(f"--task {task} needs --sigma or --quality")
    if task == "dejpeg":
        flat = pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels
        compressed = degrade.jpeg(flat, int(level)).reshape(pixels.shape)
        return clean, torch.from_numpy(compressed.copy()).permute(2, 0, 1).float() / 255
    return clean, degrade.paper_noise(clean[None], level)[0]


DEGRADATIONS = {
    "denoise": "Gaussian noise, seed 1, not clipped",
    "dejpeg": "JPEG by Pillow",
    "demosaic": "GRBG mosaic",
}


def protocol(restorer: Restorer, ssim: str) -> str:
    """Everything that was decided for a row, in one line."""
    options, tile = restorer.options, restorer.options.tile or restorer.config.tile[0]
    return "; ".join(
        (
            f"paper: {DEGRADATIONS[restorer.config.task]}",
            "output clipped, not rounded",
            f"tiling {options.tiling}" + (f" {tile}" if options.tiling == "blend" else ""),
            f"ensemble {'x8' if options.ensemble else 'none'}",
            f"{restorer.device}, {restorer.dtype}",
            ssim,
        )
    )


def evaluate(
    restorer: Restorer,
    folder: Path,
    dataset: str,
    level: float | None,
    limit: int | None = None,
    progress: Callable[[str, float], None] = lambda name, value: None,
) -> Row:
    """PSNR and SSIM of a model on a dataset. progress: called with every image's name and PSNR."""
    task = restorer.config.task
    ssim = ssim_uniform8 if task == "dejpeg" else ssim_gaussian
    row = Row(dataset, task, level, protocol(restorer, ssim.__name__))
    seconds = pixels_total = 0.0
    for name, pixels in clean_images(folder, dataset, limit):
        clean, bad = degraded(pixels, task, level)
        start = time.perf_counter()
        restored = restorer(bad, level if restorer.config.noise_map else None)
        seconds += time.perf_counter() - start
        pixels_total += clean.shape[-1] * clean.shape[-2]
        shown = bad.clamp(0, 1)
        row.per_image[name] = psnr(restored, clean)
        row.images += 1
        row.psnr += row.per_image[name]
        row.ssim += ssim(restored, clean)
        row.input_psnr += psnr(shown, clean)
        row.input_ssim += ssim(shown, clean)
        progress(name, row.per_image[name])
    for key in ("psnr", "ssim", "input_psnr", "input_ssim"):
        setattr(row, key, getattr(row, key) / row.images)
    row.seconds_per_megapixel = seconds / pixels_total * 1e6
    return row
