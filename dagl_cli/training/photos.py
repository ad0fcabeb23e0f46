"""The photographs that a run trains on and those it holds out: which files, and decoded into memory."""

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

from .. import images
from ..errors import ImageError, UsageError, one_line
from ..files import visible
from ..measuring.datasets import known_images, known_pictures
from .library import SETS

HELD_OUT = 8
"""Photos that are decoded for validation."""
SAME_PICTURE = 24
"""Bits, of 256, in which the hashes of one picture may differ: other files of one differ in under 10, other pictures
in 60 and more."""


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


def hold_out(paths: list[Path], one_in: int = 40) -> tuple[list[Path], list[Path]]:
    """(training, validation): about one photo in so many is held out, by a hash of its name.

    Crops of one photo, `name_0`, `name_1`, stay together; where that leaves one photo, as in a folder of `photo_1` to
    `photo_39`, each file is one. Of eight photos and more, at least one is held out, and never all.
    """

    def photos(crop: str) -> dict[Path, bytes]:
        return {path: hashlib.sha256(_bytes(re.sub(crop, "", path.stem))).digest() for path in paths}

    digests = photos(r"_\d{1,2}$")
    if len(set(digests.values())) == 1:
        digests = photos(r"$")
    held_out = {d for d in digests.values() if d[0] % one_in == 0}
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
        what = f"no such folder, and not one of the sets that are fetched, {' and '.join(SETS)}"
        what = "a file, give the folder that holds it" if missing[0].exists() else what
        raise UsageError(f"`data` {missing[0]}: {what}")
    decoder = _Decoder(channels, smallest, depth, known_images() if known is None else known)
    left_out: dict[str, str] = {}
    training, validation = hold_out(sorted({path for folder in folders for path in candidates(folder, left_out)}))
    while not (held_out := decoder.photos(validation, HELD_OUT)).images and validation:  # none of them can be used
        left_out |= held_out.left_out
        training, validation = hold_out(training)
    found = decoder.photos(training, scales=scales)
    found.left_out = left_out | held_out.left_out | found.left_out
    if not found.images:
        first = next(iter(found.left_out.items()), None)
        why = f" (of {len(found.left_out)} left out: {first[0]}, {first[1]})" if first else ""
        raise UsageError(
            f"`data` {folders[0]}: no images of at least {smallest}x{smallest} pixels to train on{why}: "
            "add photos, or lower `crop`"
        )
    if scales and len(found.images) == len(found.names):
        given, least = " ".join(map(str, scales)), f"{smallest}x{smallest}"
        raise UsageError(f"`scales` {given}: no photo is {least} or larger at that size: lower `crop`")
    return found, held_out


@dataclass(frozen=True)
class _Decoder:
    """Reads photos as levels, and refuses test images."""

    channels: int
    smallest: int
    depth: int
    known: dict[str, str]
    pictures: dict[str, int] = field(default_factory=known_pictures)

    def photos(self, paths: list[Path], most: int | None = None, scales: Sequence[float] = ()) -> Photos:
        """The first `most` that can be used, and their copies at other sizes. Raises UsageError for test images."""
        result, digest, copies = Photos(), hashlib.sha256(), list[np.ndarray]()
        with ThreadPoolExecutor(min(8, torch.get_num_threads())) as pool:
            for path, levels in zip(paths, pool.map(self.levels, paths)):
                if isinstance(levels, str):
                    result.left_out[path.name] = levels
                    continue
                digest.update(_bytes(path.name))
                digest.update(levels.tobytes())
                result.images.append(levels)
                result.names.append(path.name)
                smaller = (_smaller(levels, scale) for scale in scales)
                copies += [copy for copy in smaller if min(copy.shape[:2]) >= self.smallest]
                if len(result.images) == most:
                    break
            pool.shutdown(cancel_futures=True)
        result.fingerprint = digest.hexdigest()
        result.images += copies
        if len({levels.dtype for levels in result.images}) > 1:  # 255 * 257 = 65535
            wide = [p if p.dtype == np.uint16 else p.astype(np.uint16) * np.uint16(257) for p in result.images]
            result.images = wide
        return result

    def levels(self, path: Path) -> np.ndarray | str:
        """(H, W, channels) uint8 or uint16, or why there are none. Raises UsageError for a test image."""
        try:
            data = path.read_bytes()
            test = self.known.get(hashlib.sha256(data).hexdigest())
            decoded = images.read(data, name=str(path))
        except ImageError as error:
            return str(error)
        except OSError as error:
            return one_line(error)
        own = picture_hash(decoded.pixels)
        near = (name for name, other in self.pictures.items() if (own ^ other).bit_count() <= SAME_PICTURE)
        if test := test or next(near, None):
            raise UsageError(f"`data` {path} is the test image {test}: take it out, or results on it mean nothing")
        height, width = decoded.pixels.shape[:2]
        if min(height, width) < self.smallest:
            return f"{width}x{height} is smaller than {self.smallest}x{self.smallest}"
        wide = decoded.depth > 8 and self.depth > 8
        pixels = np.rint(_to_channels(decoded.pixels, self.channels) * (65535 if wide else 255))
        return pixels.astype(np.uint16 if wide else np.uint8)


def candidates(folder: Path, left_out: dict[str, str]) -> Iterator[Path]:
    """The files below a folder that have an image's suffix; nothing hidden, as everywhere.

    left_out: gets the folders that cannot be read, and why.
    """

    def unreadable(error: OSError) -> None:
        left_out[Path(error.filename).name] = one_line(error)

    for root, names in visible(folder, unreadable):
        for path in (Path(root, name) for name in names if images.is_image_path(name)):
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
