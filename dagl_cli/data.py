"""Training crops: folders of images in memory, random crops, flips, and each task's degradation."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from . import degrade
from .errors import UsageError
from .image import is_image_path


@dataclass
class Photos:
    """Decoded images, uint8 (H, W, channels), and what they were made of."""

    images: list[np.ndarray]
    names: list[str]
    fingerprint: str
    """SHA-256 over names and pixels."""


def load_photos(folders: list[Path], channels: int, smallest: int) -> tuple[Photos, Photos]:
    """Every image below the folders, split into training and validation photos.

    About one photo in forty is held out, by a hash of its name; crops of one photo, `name_0`, `name_1`, stay together.
    Images smaller than `smallest` pixels on a side are left out. Raises UsageError when nothing is left.
    """
    paths = sorted(p for folder in folders for p in folder.rglob("*") if is_image_path(p))
    if missing := [f for f in folders if not f.is_dir()]:
        raise UsageError(f"--data {missing[0]}: no such folder")
    split: tuple[list[tuple[str, np.ndarray]], list[tuple[str, np.ndarray]]] = ([], [])
    for path in paths:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
        if min(pixels.shape[:2]) < smallest:
            continue
        photo = re.sub(r"_\d+$", "", path.stem)
        held_out = hashlib.sha256(photo.encode()).digest()[0] % 40 == 0
        split[held_out].append((path.name, pixels.reshape(*pixels.shape[:2], channels)))
    if not split[0]:
        raise UsageError(f"--data {folders[0]}: no images of at least {smallest}x{smallest} pixels to train on")

    def photos(items: list[tuple[str, np.ndarray]]) -> Photos:
        digest = hashlib.sha256()
        for name, pixels in items:
            digest.update(name.encode())
            digest.update(pixels.tobytes())
        return Photos([p for _, p in items], [n for n, _ in items], digest.hexdigest())

    return photos(split[0]), photos(split[1])


class Crops:
    """An endless source of training batches; everything random comes from one seed.

    Args:
        photos: what to cut from.
        task: a key of `config.TASKS`.
        size: side of the square crops, even.
    """

    def __init__(self, photos: Photos, task: str, size: int, batch: int, seed: int) -> None:
        self.photos, self.task, self.size, self.batch_size = photos, task, size, batch
        self.random = np.random.default_rng(seed)
        self.generator = torch.Generator().manual_seed(seed)
        areas = np.array([im.shape[0] * im.shape[1] for im in photos.images], float)
        self.odds = np.cumsum(areas / areas.sum())

    def batch(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """degraded (B, C, size, size), clean (the same), sigma (B,) or None; float32, range [0, 1]."""
        pairs = [self._pair() for _ in range(self.batch_size)]
        clean = _to_tensor([c for c, _ in pairs])
        if self.task == "dejpeg":
            return _to_tensor([d for _, d in pairs]), clean, None
        if self.task == "demosaic":
            return degrade.bayer_mosaic(clean), clean, None
        if self.task == "real":
            return self._camera(clean), clean, None
        sigma = torch.rand(self.batch_size, generator=self.generator) * 75
        noisy = degrade.gaussian_noise(clean, sigma.view(-1, 1, 1, 1), self.generator)
        # a quarter as an 8-bit file would have it
        as_file = (torch.rand(self.batch_size, generator=self.generator) < 0.25).view(-1, 1, 1, 1)
        noisy = torch.where(as_file, (noisy.clamp(0, 1) * 255).round() / 255, noisy)
        return noisy, clean, sigma

    def _pair(self) -> tuple[np.ndarray, np.ndarray]:
        """One clean crop, flipped and turned, and for JPEG its compressed twin; uint8 (size, size, C)."""
        image = self.photos.images[int(np.searchsorted(self.odds, self.random.random()))]
        margin = 8 if self.task == "dejpeg" else 0  # so that the 8x8 grid can lie anywhere
        side = self.size + margin
        top = self.random.integers(image.shape[0] - side + 1)
        left = self.random.integers(image.shape[1] - side + 1)
        crop = image[top : top + side, left : left + side]
        crop = np.rot90(crop, int(self.random.integers(4)))
        if self.random.random() < 0.5:
            crop = crop[:, ::-1]
        if self.task != "dejpeg":
            return crop, crop
        compressed = self._compress(np.ascontiguousarray(crop.squeeze(-1) if crop.shape[-1] == 1 else crop))
        y, x = self.random.integers(margin, size=2)
        window = slice(y, y + self.size), slice(x, x + self.size)
        return crop[window], compressed.reshape(crop.shape)[window]

    def _camera(self, clean: Tensor) -> Tensor:
        """Camera noise at a random ISO, as an 8-bit file; half of the files JPEGs of quality 75-98."""
        shot, read = degrade.camera_noise_levels(len(clean), self.generator)
        pattern = degrade.BAYER_PATTERNS[self.random.integers(4)]
        noisy = degrade.camera_noise(clean, shot, read, pattern, self.generator)
        files = list((noisy * 255).round().byte().permute(0, 2, 3, 1).numpy())
        for i in range(0, len(files), 2):
            files[i] = degrade.jpeg(np.ascontiguousarray(files[i]), int(self.random.integers(75, 99)))
        return _to_tensor(files)

    def _compress(self, pixels: np.ndarray) -> np.ndarray:
        """Quality 5-95, more often low than high; one in ten compressed twice on shifted grids."""
        subsampling = "4:2:0" if self.random.random() < 0.6 else "4:4:4"
        quality = int(5 + 90 * self.random.random() ** 2)
        if self.random.random() < 0.1:
            shift = tuple(self.random.integers(8, size=2))
            first = degrade.jpeg(np.roll(pixels, shift, (0, 1)), int(self.random.integers(30, 96)), subsampling)
            pixels = np.roll(first, (-shift[0], -shift[1]), (0, 1))
        return degrade.jpeg(pixels, quality, subsampling)


def _to_tensor(pixels: list[np.ndarray]) -> Tensor:
    """uint8 (H, W, C) each -> float32 (B, C, H, W) in [0, 1]."""
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float().div_(255)
