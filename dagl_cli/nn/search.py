"""The candidates of the gated graph: the nearest keys in each query's window.

Two forms of the same: `_by_block` for CPUs, whose caches hold the distances of one block of queries, and `at_once` for
GPUs, where every operator has to be launched, and for export.
"""

from __future__ import annotations

import functools
import math
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from ..config import BLOCK

Result = TypeVar("Result")

GROUP = 16
"""Keys of a window whose nearest stands for them in `largest`."""
MOST = 2**26
"""Distances that `at_once` holds at a time on a GPU."""
FAR = 1e30
"""Beyond all distances."""


@dataclass(frozen=True)
class Grid:
    """Where the nodes lie in an image: queries (rows, columns) every `stride` pixels, keys (h, w) at every pixel."""

    queries: tuple[int, int]
    keys: tuple[int, int]
    stride: int
    window: int

    @classmethod
    def of(cls, height: int, width: int, patch: int, stride: int, window: int) -> Grid:
        rows, columns = ((side - patch) // stride + 1 for side in (height, width))
        return cls((rows, columns), (height - patch + 1, width - patch + 1), stride, window)

    def windows(self, axis: int) -> list[tuple[int, int]]:
        """Of each block of queries: the first and the last row (axis 0) or column of the keys that it sees, around
        it, but inside the image."""
        side, keys = self.stride * BLOCK, self.keys[axis]
        seen = min(self.window, keys)
        middles = range((side - self.stride) // 2, self.queries[axis] * self.stride + side, side)
        starts = [min(max(middle - seen // 2, 0), keys - seen) for middle in middles]
        return [(start, start + seen) for start in starts[: -(-self.queries[axis] // BLOCK)]]


def search(embedded: Tensor, grid: Grid, count: int) -> Tensor:
    """The candidates: the `count` nearest keys in each query's window, itself among them.

    embedded: (B, h, w, D), compared by Euclidean distance. Returns (B, rows, columns, E) places, counted row by row.
    """
    if embedded.device.type == "cpu":
        return _by_block(embedded, grid, count)
    rows, columns = (
        Axis.of(keys, queries, grid.stride, grid.window).to(embedded.device)
        for keys, queries in zip(grid.keys, grid.queries)
    )
    one = len(embedded) * BLOCK**2 * rows.window.shape[1] * columns.window.numel()  # distances of a row of blocks
    parts = [at_once(embedded, some, columns, count) for some in rows.split(max(1, MOST // one))]
    return torch.cat(parts, 1)[:, : grid.queries[0], : grid.queries[1]]


def _by_block(embedded: Tensor, grid: Grid, count: int) -> Tensor:
    """`search`, block after block of queries: on a CPU their distances stay in its cache."""
    rows, columns = grid.queries
    windows = [grid.windows(axis) for axis in (0, 1)]
    count = min(count, math.prod(stop - start for start, stop in (windows[0][0], windows[1][0])))
    queries = embedded[:, :: grid.stride, :: grid.stride][:, :rows, :columns]
    lengths = torch.linalg.vector_norm(embedded, dim=-1).square() / -2

    def found(image: int, down: int) -> Tensor:
        """Of a row of blocks of an image, (its rows, columns, E)."""
        (top, bottom), parts = windows[0][down], []
        # column by column: the keys of each window lie together
        band, offset = (plane[image, top:bottom].transpose(0, 1).contiguous() for plane in (embedded, lengths))
        for across, (left, right) in enumerate(windows[1]):
            block = slice(down * BLOCK, (down + 1) * BLOCK), slice(across * BLOCK, (across + 1) * BLOCK)
            asking, seen = queries[image][block], band[left:right]
            # |q - k|² = |q|² - 2 (q k - |k|² / 2)
            nearness = torch.addmm(offset[left:right].flatten(), asking.flatten(0, 1), seen.flatten(0, 1).T)
            nearness = nearness.view(-1, *seen.shape[:2])
            # a node is always its own neighbour, however many others are the same
            down_, across_ = (torch.arange(n, device=embedded.device) for n in asking.shape[:2])
            y, x = (n * grid.stride + part.start * grid.stride - first
                    for n, part, first in zip((down_, across_), block, (top, left)))  # fmt: skip
            nearness.view(len(y), len(x), *seen.shape[:2])[down_[:, None], across_, x, y[:, None]] = math.inf
            best = largest(nearness, count)
            best = (best % (bottom - top) + top) * grid.keys[1] + best // (bottom - top) + left
            parts.append(best.view(*asking.shape[:2], count))
        return torch.cat(parts, 1)

    blocks = list(product(range(len(embedded)), range(len(windows[0]))))
    return torch.cat(spread(found, blocks, embedded.device)).unflatten(0, (-1, rows))


class Axis(NamedTuple):
    """Along one axis of R blocks of queries, as `Grid.windows` has them: each one's first key, (R,), the keys that it
    sees, (R, n), and its queries, (R, `BLOCK`), of which the last one's may repeat."""

    starts: Tensor
    window: Tensor
    queries: Tensor

    @classmethod
    def of(cls, keys: Any, queries: Any, stride: int, window: int) -> Axis:
        """Of so many keys and queries: numbers, or tensors where they are traced."""
        keys, queries = torch.as_tensor(keys), torch.as_tensor(queries)
        side = stride * BLOCK
        seen = torch.clamp(keys, max=window)
        blocks = (queries + BLOCK - 1) // BLOCK
        middles = _count(blocks) * side + (side - stride) // 2
        starts = torch.minimum((middles - seen // 2).clamp_min(0), keys - seen)
        places = torch.minimum(_count(blocks * BLOCK), queries - 1) * stride
        return cls(starts, starts[:, None] + _count(seen), places.view(-1, BLOCK))

    def to(self, device: torch.device) -> Axis:
        return Axis(*(part.to(device) for part in self))

    def split(self, blocks: int) -> list[Axis]:
        """So many at a time."""
        return [Axis(*parts) for parts in zip(*(part.split(blocks) for part in self))]


def at_once(embedded: Tensor, rows: Axis, columns: Axis, count: int) -> Tensor:
    """`search` for R x S blocks, of M = `BLOCK`² queries and N keys each: (B, R * `BLOCK`, S * `BLOCK`, E), with those
    queries that repeat."""
    batch, width, device = embedded.shape[0], embedded.shape[2], embedded.device
    keys = _taken(embedded, rows.window, columns.window)  # (B, R, S, N, D)
    queries = _taken(embedded, rows.queries, columns.queries)  # (B, R, S, M, D)
    down, across = rows.window.shape[1], columns.window.shape[1]
    distance = keys.square().sum(-1)[:, :, :, None] - 2 * (queries @ keys.transpose(3, 4))  # (B, R, S, M, N)
    # a node is always its own neighbour, however many others are the same
    own = (rows.queries - rows.starts[:, None])[:, None, :, None] * across
    own = (own + (columns.queries - columns.starts[:, None])[None, :, None]).flatten(2)
    own = own[None, ..., None].expand(batch, -1, -1, -1, -1)
    distance = distance.scatter(4, own, torch.full_like(own, -FAR, dtype=distance.dtype))
    # two steps, as in `largest`, on whole groups
    blocks = rows.window.shape[0], columns.window.shape[0]
    distance = F.pad(distance.flatten(4), (0, (-down % GROUP) * across), value=FAR)
    groups = distance.view(batch, *blocks, BLOCK * BLOCK, -1, GROUP, across).amin(5).flatten(4)
    few: Any = torch.clamp(torch.as_tensor(groups.shape[4]), max=count)
    best = groups.topk(few, 4, largest=False, sorted=False).indices
    first = best // across * (GROUP * across) + best % across
    members = (first[..., None] + torch.arange(GROUP, device=device) * across).flatten(4)
    few = torch.clamp(torch.as_tensor(down * across), max=count)
    best = distance.gather(4, members).topk(few, 4, largest=False, sorted=False).indices
    best = members.gather(4, best)
    top, left = rows.starts[:, None, None, None], columns.starts[:, None, None]
    found = (best // across + top) * width + best % across + left
    found = found.view(batch, *blocks, BLOCK, BLOCK, -1).permute(0, 1, 3, 2, 4, 5)
    return found.reshape(batch, blocks[0] * BLOCK, blocks[1] * BLOCK, -1)


def _taken(nodes: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Of (B, h, w, D) those at (R, m) rows and (S, n) columns: (B, R, S, m n, D)."""
    taken = nodes.index_select(1, rows.flatten()).index_select(2, columns.flatten())
    taken = taken.view(nodes.shape[0], *rows.shape, *columns.shape, nodes.shape[3])
    return taken.permute(0, 1, 3, 2, 4, 5).flatten(3, 4)


def _count(number: Any) -> Tensor:
    """0, 1 ... number - 1; a tensor of no dimensions, or a number."""
    return torch.arange(number)


def spread(work: Callable[..., Result], parts: Sequence[tuple[Any, ...]], device: torch.device) -> list[Result]:
    """[work(*part) for part in parts]. On a CPU as many threads as torch has do a part each, where no gradient is
    wanted: the operators are too small to be done by several. Not where operators are exported or counted, which a
    thread of its own would escape."""
    threads, inference = torch.get_num_threads(), torch.is_inference_mode_enabled()
    watched = torch.compiler.is_compiling() or _get_current_dispatch_mode() is not None
    if device.type != "cpu" or torch.is_grad_enabled() or watched or threads == 1 or len(parts) < 2:
        return [work(*part) for part in parts]

    def one(part: tuple[Any, ...]) -> Result:
        with torch.inference_mode() if inference else torch.no_grad():
            return work(*part)

    return list(_pool(threads, os.getpid()).map(one, parts))


@functools.cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """So many threads, in each of which torch has one. process: the one whose they are, as a fork has none of them."""
    ready = threading.Barrier(threads + 1)

    def begin() -> None:
        torch.set_num_threads(1)
        ready.wait()

    pool = ThreadPoolExecutor(threads)
    for _ in range(threads):
        pool.submit(begin)
    ready.wait()
    torch.set_num_threads(threads)  # what a thread sets for itself torch takes for all that begin later
    return pool


def largest(nearness: Tensor, count: int) -> Tensor:
    """(Q, n, m) -> (Q, count), where the largest of each query lie, in the order of memory.

    In two steps, for speed: they lie in those groups along n whose own largest are largest.
    """
    n, m = nearness.shape[1:]
    flat = nearness.flatten(1)
    if n % GROUP or flat.shape[1] // GROUP < count:
        return flat.topk(count, -1, sorted=False).indices
    groups = nearness.unflatten(1, (-1, GROUP)).amax(2).flatten(1).topk(count, -1, sorted=False).indices
    first = (groups // m) * (GROUP * m) + groups % m
    members = (first[..., None] + torch.arange(GROUP, device=flat.device) * m).flatten(1)
    best = flat.gather(1, members).topk(count, -1, sorted=False).indices
    return members.gather(1, best)
