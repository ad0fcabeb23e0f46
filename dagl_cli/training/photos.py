"""Training data: folders of images in memory, random crops, flips and turns, and each task's degradation."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .. import degrade
from .. import images as image
from ..errors import ImageError, UsageError
from ..files import visible
from ..measuring.datasets import known_images, known_pictures
from . import camera

HELD_OUT = 8
"""Photos that are decoded for validation."""
SAME_PICTURE = 24
"""Bits, of 256, in which the hashes of one picture may differ: other files of one differ in under 10, other pictures
in 60 and more."""
GRID = 8
"""JPEG's blocks: crops of compressed pictures start anywhere on them."""


@dataclass
class Photos:
    """Decoded images and what they were made of."""

    images: list[np.ndarray] = field(default_factory=list)
    """(H, W, channels) each, all uint8, or all uint16 if one of the files has 16 bits. Smaller copies come last."""
    names: list[str] = field(default_factory=list)
    """Of the photos themselves."""
    fingerprint: str = ""
    """SHA-256 over names and pixels."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Name -> why a file is not used; of the training photos, held-out ones and folders too."""


def picture_hash(pixels: np.ndarray) -> int:
    """256 bits that tell a picture, whatever its format, size and compression (a difference hash).

    pixels: (H, W, C) float in [0, 1]. Each bit: is one of 16x17 even areas brighter than the next.
    """
    gray = PIL.Image.fromarray(_to_channels(pixels, 1)[..., 0].astype(np.float32))
    small = np.asarray(gray.resize((17, 16), PIL.Image.Resampling.BOX))
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes(), "big")


def split(paths: list[Path]) -> tuple[list[Path], list[Path]]:
    """(training, validation): about one photo in forty is held out, by a hash of its name.

    Crops of one photo, `name_0`, `name_1`, stay together; where that leaves one photo, as in a folder of `photo_1` to
    `photo_39`, each file is one. Of eight photos and more, at least one is held out, and never all.
    """

    def photos(crop: str) -> dict[Path, bytes]:
        return {path: hashlib.sha256(_bytes(re.sub(crop, "", path.stem))).digest() for path in paths}

    digests = photos(r"_\d{1,2}$")
    if len(set(digests.values())) == 1:
        digests = photos(r"$")
    held_out = {d for d in digests.values() if d[0] % 40 == 0}
    if not held_out and len(set(digests.values())) >= 8:
        held_out = {min(digests.values())}
    if held_out == set(digests.values()):
        held_out = set()
    return [p for p in paths if digests[p] not in held_out], [p for p in paths if digests[p] in held_out]


def load_photos(
    folders: list[Path], channels: int, smallest: int, *,
    depth: int = 16, scales: Sequence[float] = (), known: dict[str, str] | None = None,
) -> tuple[Photos, Photos]:  # fmt: skip
    """Every image below the folders, split into training and (up to `HELD_OUT`) validation photos.

    Images smaller than `smallest` pixels on a side, unreadable ones and unreadable folders are left out; where that
    leaves nothing of the photos held out, others are. depth: 8 rounds 16-bit files.
    scales: sizes at which each training photo is there once more, where it stays large enough.
    known: SHA-256 -> name of the images that must not be trained on; those of the test sets by default.
    Raises UsageError for test images, whatever file they are in, and when nothing is left.
    """
    if missing := [f for f in folders if not f.is_dir()]:
        what = "a file, give the folder that holds it" if missing[0].exists() else "no such folder"
        raise UsageError(f"--data {missing[0]}: {what}")
    left_out: dict[str, str] = {}
    paths = sorted({path for folder in folders for path in candidates(folder, left_out)})
    hashes, pictures = (known_images() if known is None else known), list(known_pictures().items())

    def decode(path: Path) -> np.ndarray | str:
        try:
            data = path.read_bytes()
            test = hashes.get(hashlib.sha256(data).hexdigest())
            decoded = image.read(data, name=str(path))
        except ImageError as error:
            return str(error)
        except OSError as error:
            return error.strerror or str(error)
        own = picture_hash(decoded.pixels)
        test = test or next((name for name, other in pictures if (own ^ other).bit_count() <= SAME_PICTURE), None)
        if test:
            raise UsageError(f"--data {path} is the test image {test}: take it out, or results on it mean nothing")
        height, width = decoded.pixels.shape[:2]
        if min(height, width) < smallest:
            return f"{width}x{height} is smaller than {smallest}x{smallest}"
        wide = decoded.depth > 8 and depth > 8
        levels = np.rint(_to_channels(decoded.pixels, channels) * (65535 if wide else 255))
        return levels.astype(np.uint16 if wide else np.uint8)

    def photos(paths: list[Path], most: int | None = None, scales: Sequence[float] = ()) -> Photos:
        result, digest, copies = Photos(), hashlib.sha256(), list[np.ndarray]()
        with ThreadPoolExecutor(min(8, torch.get_num_threads())) as pool:
            for path, pixels in zip(paths, pool.map(decode, paths)):
                if isinstance(pixels, str):
                    result.left_out[path.name] = pixels
                    continue
                digest.update(_bytes(path.name))
                digest.update(pixels.tobytes())
                result.images.append(pixels)
                result.names.append(path.name)
                smaller = (_smaller(pixels, scale) for scale in scales)
                copies += [copy for copy in smaller if min(copy.shape[:2]) >= smallest]
                if len(result.images) == most:
                    break
            pool.shutdown(cancel_futures=True)
        result.fingerprint = digest.hexdigest()
        result.images += copies
        if len({pixels.dtype for pixels in result.images}) > 1:  # 255 * 257 = 65535
            wide = [p if p.dtype == np.uint16 else p.astype(np.uint16) * np.uint16(257) for p in result.images]
            result.images = wide
        return result

    training, validation = split(paths)
    while not (held_out := photos(validation, HELD_OUT)).images and validation:  # none of them can be used
        left_out |= held_out.left_out
        training, validation = split(training)
    found = photos(training, scales=scales)
    found.left_out = left_out | held_out.left_out | found.left_out
    if not found.images:
        first = next(iter(found.left_out.items()), None)
        why = f" (of {len(found.left_out)} left out: {first[0]}, {first[1]})" if first else ""
        raise UsageError(
            f"--data {folders[0]}: no images of at least {smallest}x{smallest} pixels to train on{why}: "
            "add photos, or lower --crop"
        )
    if scales and len(found.images) == len(found.names):
        given, least = " ".join(map(str, scales)), f"{smallest}x{smallest}"
        raise UsageError(f"--scales {given}: no photo is {least} or larger at that size: lower --crop")
    return found, held_out


def candidates(folder: Path, left_out: dict[str, str]) -> Iterator[Path]:
    """The files below a folder that have an image's suffix; nothing hidden, as everywhere.

    left_out: gets the folders that cannot be read, and why.
    """

    def unreadable(error: OSError) -> None:
        left_out[Path(error.filename).name] = error.strerror or str(error)

    for root, names in visible(folder, unreadable):
        for path in (Path(root, name) for name in names if image.is_image_path(name)):
            if os.path.isfile(path):
                yield path


def _bytes(name: str) -> bytes:
    """A file name for hashing, also one that is not UTF-8."""
    return name.encode("utf-8", "surrogateescape")


def _smaller(levels: np.ndarray, scale: float) -> np.ndarray:
    """(H, W, C) integers -> the same at `scale` of the size, by Lanczos."""
    height, width, highest = *(round(n * scale) for n in levels.shape[:2]), np.iinfo(levels.dtype).max
    size = (max(1, width), max(1, height))

    def resized(plane: np.ndarray) -> np.ndarray:
        return np.asarray(PIL.Image.fromarray(plane.astype(np.float32)).resize(size, PIL.Image.Resampling.LANCZOS))

    planes = np.stack([resized(plane) for plane in levels.transpose(2, 0, 1)], -1)
    return np.rint(planes).clip(0, highest).astype(levels.dtype)


def _to_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """(H, W, 1 or 3) -> (H, W, channels): luma (ITU-R BT.601) of colours; gray three times."""
    if pixels.shape[-1] == 3 and channels == 1:
        return pixels @ np.array([[0.299], [0.587], [0.114]], pixels.dtype)
    return np.broadcast_to(pixels, (*pixels.shape[:2], channels))


class Crops(Dataset[tuple[Tensor, ...]]):
    """Training batches by number. Batch i is the same on every machine, in every process and after every resume:
    all of its randomness comes from (seed, i).

    A batch is made in two halves. `crops[i]` cuts, and encodes JPEGs, in levels: in worker processes if these are to
    be ahead of the training. `degraded` makes floats of them and adds noise or a mosaic, on the device of the training.

    Args:
        photos: what to cut from; kept as one tensor on `device`.
        task: a key of `config.TASKS`.
        size: side of the square crops, even.
        batch: crops per step, of all processes together.
        rows: which of them this process makes.
        sigma: the noise level for denoise; None: uniform in 0-75.
        sigma_error: half of the levels that `degraded` gives (real: the noise's RMS) are off by up to this share.
    """

    def __init__(
        self, photos: Photos, task: str, size: int, batch: int, seed: int, *,
        rows: slice = slice(None), sigma: float | None = None, sigma_error: float = 0.0,
        device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        self.task, self.size, self.batch, self.seed, self.rows = task, size, batch, seed, rows
        self.sigma, self.sigma_error = sigma, sigma_error
        shapes = np.array([pixels.shape[:2] for pixels in photos.images])
        areas = shapes.prod(1)
        self.odds = np.cumsum(areas / areas.sum())
        self.heights, self.widths = shapes.T
        self.starts = np.cumsum(areas) - areas
        flat = np.concatenate([pixels.reshape(-1, pixels.shape[-1]) for pixels in photos.images])
        self.highest = np.iinfo(flat.dtype).max
        # torch cannot gather uint16 everywhere: the same bits as int16
        self.store = torch.from_numpy(flat.view(np.int16) if flat.dtype == np.uint16 else flat).to(device)
        self.side = size + (GRID if task == "dejpeg" else 0)  # so that the 8x8 grid can lie anywhere

    def __getitem__(self, step: int) -> tuple[Tensor, ...]:
        """(clean,) or (clean, degraded): levels, (B, size, size, C) each, B the number of `rows`."""
        random = np.random.default_rng([self.seed, step])
        n = self.batch
        photo = np.minimum(np.searchsorted(self.odds, random.random(n)), len(self.odds) - 1)
        top = (random.random(n) * (self.heights[photo] - self.side + 1)).astype(np.int64)
        left = (random.random(n) * (self.widths[photo] - self.side + 1)).astype(np.int64)
        turn = random.integers(8, size=n)
        clean = (self._slice if self.store.device.type == "cpu" else self._gather)(photo, top, left, turn)
        if self.task == "dejpeg":
            return self._compressed(clean, random)
        return self._photographed(clean, step) if self.task == "real" else (clean,)

    def degraded(self, levels: tuple[Tensor, ...], step: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """degraded (B, C, size, size), clean (the same), sigma (B,) or None; float32, range [0, 1].

        levels: batch `step`, on any device.
        """
        clean, *encoded = (self._to_float(t) for t in levels)
        if self.task == "dejpeg":
            return encoded[0], clean, None
        if self.task == "demosaic":
            return degrade.bayer_mosaic(clean), clean, None
        generator = self._generator(step, clean.device)
        if self.task == "real":
            chance = torch.rand(2, self.batch, generator=generator, device=clean.device)[:, self.rows]
            level = 255 * (encoded[0] - clean).square().mean((1, 2, 3)).sqrt()
            return encoded[0], clean, level * self._told(*chance)
        # noise for the whole batch, so that the rows get the same whatever the number of processes
        noise = torch.randn(self.batch, *clean.shape[1:], generator=generator, device=clean.device)[self.rows]
        chance = torch.rand(4, self.batch, generator=generator, device=clean.device)[:, self.rows]
        sigma = chance[0] * 75 if self.sigma is None else torch.full_like(chance[0], self.sigma)
        noisy = torch.addcmul(clean, noise, sigma.view(-1, 1, 1, 1) / 255)
        if self.sigma is None:  # a quarter as an 8-bit file would have it
            file = (noisy.clamp(0, 1) * 255).round() / 255
            noisy = torch.where((chance[1] < 0.25).view(-1, 1, 1, 1), file, noisy)
        return noisy, clean, sigma * self._told(chance[2], chance[3])

    def _told(self, half: Tensor, chance: Tensor) -> Tensor:
        """What the levels given are times the true ones: half are off by up to `sigma_error`. Both uniform in 0-1."""
        return 1 + torch.where(half < 0.5, self.sigma_error * (2 * chance - 1), 0)

    def ahead(self, start: int, workers: int = 0) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
        """(step, levels) from step `start` on, endlessly; worker processes keep four batches ahead each."""
        steps = range(start, 2**62)
        if not workers:
            return ((step, self[step]) for step in steps)
        loader = DataLoader(
            self, batch_size=None, sampler=steps, num_workers=workers, prefetch_factor=4,
            pin_memory=torch.cuda.is_available(),
        )  # fmt: skip
        return zip(steps, loader)

    def _generator(self, step: int, device: torch.device) -> torch.Generator:
        seed = int(np.random.SeedSequence([self.seed, step]).generate_state(1, np.uint64)[0] >> np.uint64(1))
        return torch.Generator(device).manual_seed(seed)

    def _to_float(self, levels: Tensor) -> Tensor:
        """(B, H, W, C) levels -> (B, C, H, W) float32 in [0, 1]."""
        if levels.dtype == torch.int16:
            levels = levels.int() & 0xFFFF
            return levels.permute(0, 3, 1, 2).float().div_(65535)
        return levels.permute(0, 3, 1, 2).float().div_(255)

    def _slice(self, photo: np.ndarray, top: np.ndarray, left: np.ndarray, turn: np.ndarray) -> Tensor:
        """The crops at (top, left), flipped and turned: levels, (B, side, side, C). Faster on a CPU than `_gather`."""
        levels, crops = self.store.numpy(), []
        for p, y, x, t in zip(*(a[self.rows].tolist() for a in (photo, top, left, turn))):
            height, width, start = self.heights[p], self.widths[p], self.starts[p]
            image = levels[start : start + height * width].reshape(height, width, -1)
            crop = image[y : y + self.side, x : x + self.side]
            crop = crop.swapaxes(0, 1) if t >= 4 else crop
            crops.append(crop[:: -1 if t & 1 else 1, :: -1 if t & 2 else 1])
        return torch.from_numpy(np.stack(crops))

    def _gather(self, photo: np.ndarray, top: np.ndarray, left: np.ndarray, turn: np.ndarray) -> Tensor:
        """`_slice`, all crops at once, for photos in the memory of a GPU."""
        width = self.widths[photo]
        starts, steps, turns = (
            torch.from_numpy(a[self.rows]).to(self.store.device).view(-1, 1, 1)
            for a in (self.starts[photo] + top * width + left, width, turn)
        )
        along = torch.arange(self.side, device=self.store.device)
        # how far one row and one column of the crop lie apart in memory; swapping them transposes it
        down, right = torch.where(turns >= 4, 1, steps), torch.where(turns >= 4, steps, 1)
        rows = torch.where(turns & 1 == 1, along.flip(0).view(-1, 1), along.view(-1, 1))
        columns = torch.where(turns & 2 == 2, along.flip(0), along)
        index = starts + rows * down + columns * right  # (B, side, side)
        return self.store.index_select(0, index.flatten()).view(*index.shape, -1)

    def _compressed(self, crops: Tensor, random: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Crops and their JPEGs, by Pillow: quality 5-95, more often low than high, 4:2:0 or 4:4:4; one in ten was
        compressed before, on a shifted grid."""
        n, size = self.batch, self.size
        small = random.random(n) < 0.6
        quality = (5 + 90 * random.random(n) ** 2).astype(int)
        again, first_quality = random.random(n) < 0.1, random.integers(30, 96, n)
        shifts, places = random.integers(GRID, size=(n, 2)), random.integers(GRID, size=(n, 2))
        pairs = []
        for crop, i in zip(crops.numpy(), range(n)[self.rows]):
            subsampling = "4:2:0" if small[i] else "4:4:4"
            pixels = crop.squeeze(-1) if crop.shape[-1] == 1 else crop
            if again[i]:
                shift = tuple(shifts[i])
                first = degrade.jpeg(np.roll(pixels, shift, (0, 1)), int(first_quality[i]), subsampling)
                pixels = np.roll(first, (-shift[0], -shift[1]), (0, 1))
            compressed = degrade.jpeg(pixels, int(quality[i]), subsampling).reshape(crop.shape)
            y, x = places[i]
            pairs.append([p[y : y + size, x : x + size] for p in (crop, compressed)])
        clean, compressed = (torch.from_numpy(np.stack(part)) for part in zip(*pairs))
        return clean, compressed

    def _photographed(self, scenes: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """What a camera would have saved of the crops without and with noise: `camera.noisy_pair`, as 8-bit files."""
        pairs = []
        for scene, i in zip(self._to_float(scenes), range(self.batch)[self.rows]):
            noisy, clean = camera.noisy_pair(scene, np.random.default_rng([self.seed, step, i]))
            pairs.append([(x * 255).round().byte().permute(1, 2, 0) for x in (clean, noisy)])
        clean, noisy = (torch.stack(part).contiguous() for part in zip(*pairs))
        return clean, noisy
