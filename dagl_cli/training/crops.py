"""Batches by number: random crops of the photos, flipped, turned and degraded."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import torch
from torch import Tensor

from ..errors import DaglError, one_line
from . import world
from .degradations import DRAWN, ENCODED, MARGINS, Chance, Degraded, Wanted, to_float
from .photos import Photos

AHEAD = 4
"""Batches that each worker process is ahead of the training."""

Levels = tuple[Tensor, ...]
"""A batch before it is floats: (clean,), (clean, degraded) or (clean, degraded, the level told)."""


class Crops:
    """Training batches by number. Batch i is the same on every machine, in every process and after every resume:
    all of its randomness comes from (seed, i).

    A batch is made in two halves. `crops[i]` cuts, and encodes files, in levels: in worker processes if these are to
    be ahead of the training. `degraded` makes floats of them and adds noise or a mosaic, on the device of the training.

    Args:
        photos: what to cut from; kept as one tensor on `device`.
        task: a key of `config.TASKS`.
        size: side of the square crops, even.
        batch: crops per step, of all processes together.
        rows: which of them this process makes.
        sigma, sigma_error: see `degradations.Wanted`.
    """

    def __init__(
        self, photos: Photos, task: str, size: int, batch: int, seed: int, *,
        rows: slice = slice(None), sigma: float | None = None, sigma_error: float = 0.0,
        device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        self.task, self.seed = task, seed
        self.wanted = Wanted(batch, rows, size, sigma, sigma_error)
        self.side = size + MARGINS.get(task, 0)
        shapes = np.array([pixels.shape[:2] for pixels in photos.images])
        areas = shapes.prod(1)
        self.odds = np.cumsum(areas / areas.sum())
        self.heights, self.widths = shapes.T
        self.starts = np.cumsum(areas) - areas
        flat = np.concatenate([pixels.reshape(-1, pixels.shape[-1]) for pixels in photos.images])
        # torch cannot gather uint16 everywhere: the same bits as int16
        self.store = torch.from_numpy(flat.view(np.int16) if flat.dtype == np.uint16 else flat).to(device)

    def __getitem__(self, step: int) -> Levels:
        """Levels, (B, size, size, C) each, B the number of `rows`; see `Levels`."""
        chance = Chance(self.seed, step)
        random, n = chance.batch, self.wanted.batch
        photo = np.minimum(np.searchsorted(self.odds, random.random(n)), len(self.odds) - 1)
        top = (random.random(n) * (self.heights[photo] - self.side + 1)).astype(np.int64)
        left = (random.random(n) * (self.widths[photo] - self.side + 1)).astype(np.int64)
        turn = random.integers(8, size=n)
        clean = (self._slice if self.store.device.type == "cpu" else self._gather)(photo, top, left, turn)
        if self.task not in ENCODED:
            return (clean,)
        degraded, clean, told = ENCODED[self.task](clean, self.wanted, chance)
        return (clean, degraded) if told is None else (clean, degraded, told)

    def degraded(self, levels: Levels, step: int) -> Degraded:
        """degraded (B, C, size, size), clean (the same), sigma (B,) or None; float32, range [0, 1].

        levels: batch `step`, on any device.
        """
        clean, *encoded = levels
        if encoded:
            degraded, *told = encoded
            return to_float(degraded), to_float(clean), told[0] if told else None
        return DRAWN[self.task](to_float(clean), self.wanted, Chance(self.seed, step))

    def ahead(
        self, start: int, workers: int = 0, stop: threading.Event | None = None
    ) -> Generator[tuple[int, Levels], None, None]:
        """(step, levels) from step `start` on, endlessly; worker processes keep `AHEAD` batches ahead each.

        They send batches through pipes: shared memory is what containers have little of, and a worker that finds it
        full says nothing to anyone. stop: set where the run is told to end: then workers, told the same, may end first.
        Raises DaglError when the workers cannot start, or end.
        """
        steps = itertools.count(start)
        if not workers:
            yield from ((step, self[step]) for step in steps)
        coming: deque[Future[list[np.ndarray]]] = deque()
        cuda = torch.cuda.is_available()
        context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
        others = multiprocessing.active_children()
        try:
            pool = ProcessPoolExecutor(workers, context, _work_for, (self,))
            coming.extend(pool.submit(_batch, step) for step in range(start, start + AHEAD * workers))
        except (OSError, ImportError, NotImplementedError) as error:
            for child in multiprocessing.active_children():
                if child not in others:  # Python would wait for it at its end
                    child.terminate()
            raise DaglError(f"`workers` {workers}: they cannot start ({one_line(error)}): use `workers` 0") from None
        try:
            for step in steps:
                levels = [torch.from_numpy(array) for array in coming.popleft().result()]
                coming.append(pool.submit(_batch, step + AHEAD * workers))
                yield step, tuple(level.pin_memory() if cuda else level for level in levels)
        except BrokenProcessPool:
            if not (stop and stop.is_set()):
                raise DaglError(
                    f"`workers` {workers}: one of them has ended, killed or out of memory: use `workers` 0"
                ) from None
            yield step, self[step]
        finally:
            pool.shutdown(cancel_futures=True)

    def _slice(self, photo: np.ndarray, top: np.ndarray, left: np.ndarray, turn: np.ndarray) -> Tensor:
        """The crops at (top, left), flipped and turned: levels, (B, side, side, C). Faster on a CPU than `_gather`."""
        levels, crops = self.store.numpy(), []
        for p, y, x, t in zip(*(a[self.wanted.rows].tolist() for a in (photo, top, left, turn))):
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
            torch.from_numpy(a[self.wanted.rows]).to(self.store.device).view(-1, 1, 1)
            for a in (self.starts[photo] + top * width + left, width, turn)
        )
        along = torch.arange(self.side, device=self.store.device)
        # how far one row and one column of the crop lie apart in memory; swapping them transposes it
        down, right = torch.where(turns >= 4, 1, steps), torch.where(turns >= 4, steps, 1)
        rows = torch.where(turns & 1 == 1, along.flip(0).view(-1, 1), along.view(-1, 1))
        columns = torch.where(turns & 2 == 2, along.flip(0), along)
        index = starts + rows * down + columns * right  # (B, side, side)
        return self.store.index_select(0, index.flatten()).view(*index.shape, -1)


_crops: Crops
"""In a worker process: what it makes batches of."""


def _work_for(crops: Crops) -> None:
    """A worker process begins. Signals are for the training, which ends its workers; if it is killed, they end too."""
    global _crops
    _crops = crops
    torch.set_num_threads(1)
    for number in world.STOPS:
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _batch(step: int) -> list[np.ndarray]:
    return [level.numpy() for level in _crops[step]]
