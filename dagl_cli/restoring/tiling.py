"""Restore an image of any size piece by piece: `overlap_blend`, the paper's `chop`, or `whole`; and `ensemble_x8`.

A *network* maps (B, C_in, h, w) to (B, C_out, h, w) on the device it is given; C_in may hold a noise map. Images
are (C, H, W) on the CPU and are never written to; results are new CPU tensors of the image's dtype. Nothing here
knows a model or draws a progress bar.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise, product
from typing import TypeVar

import torch
from torch import Tensor

from ..errors import UsageError
from .device import fetched

T = TypeVar("T")
Network = Callable[[Tensor], Tensor]
Tick = Callable[[int, int], None]
"""Called with (pieces done, pieces in all) after every batch."""

CHOP_GRID = 4
"""The release rounds half a side down to a multiple of this before it adds the margin."""


@dataclass(frozen=True)
class Span:
    """One piece along one axis: read start..stop, keep the part keep_start..keep_stop, times weight."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int
    weight: Tensor
    """(keep_stop - keep_start,), float32 or float64. At every pixel the weights of all spans add up to 1."""


def whole(
    restore: Network, image: Tensor, device: torch.device | str | None = None, progress: Tick | None = None
) -> Tensor:
    """The image in one piece: (C_in, H, W) -> (C_out, H, W)."""
    return _stitch(restore, image, _one(image.shape[-2]), _one(image.shape[-1]), device, 1, progress)


def overlap_blend(
    restore: Network,
    image: Tensor,
    tile: int,
    overlap: int,
    multiple: int = 1,
    device: torch.device | str | None = None,
    batch: int = 1,
    progress: Tick | None = None,
) -> Tensor:
    """The image in square tiles that fade into each other: (C_in, H, W) -> (C_out, H, W).

    Tiles start at multiples of `multiple`, so graph nodes and Bayer phases stay in place, and neighbours share at
    least `overlap` pixels. As few tiles as `tile` permits, all of one size, and no larger than they need be: 512
    pixels with tile 256 and overlap 32 are three tiles of 192. Those at the right and bottom edge can be up to
    `multiple` - 1 pixels shorter. Weights are raised cosines over the overlaps and sum to 1 at every pixel.

    batch: how many tiles of equal size the network gets at once.
    Memory: the result and two batches; the weights are separable and known beforehand, so there is no weight canvas.
    Raises UsageError if tile, overlap and multiple leave no step.
    """
    rows = _blend_spans(image.shape[-2], tile, overlap, multiple)
    columns = _blend_spans(image.shape[-1], tile, overlap, multiple)
    return _stitch(restore, image, rows, columns, device, batch, progress)


def chop(
    restore: Network,
    image: Tensor,
    margin: int = 24,
    max_pixels: int = 10_000,
    device: torch.device | str | None = None,
    batch: int = 1,
    progress: Tick | None = None,
) -> Tensor:
    """The image as the release cuts it (`forward_chop`), bit for bit: (C_in, H, W) -> (C_out, H, W).

    Four quadrants, each (half a side, rounded down to 4) + margin long, recursively until a piece has fewer than
    `max_pixels`; then cut hard at the middles. At least one cut, however small the image. The release takes margin
    24, for demosaicing 12. All pieces of one level have one size, so rows and columns are cut independently.

    Beyond the release: it crashes on sides under 44 pixels (margin 12: under 20) and never ends when max_pixels is
    smaller than its smallest piece; here a side that cannot shrink is left whole. Pieces of which nothing is kept
    are not computed.
    """
    if margin < CHOP_GRID:
        raise UsageError(f"a chop margin of {margin} leaves gaps: use at least {CHOP_GRID}")
    height, width = image.shape[-2:]
    row_spans, column_spans = [(0, height, 0, height)], [(0, width, 0, width)]
    while True:
        before = height, width
        row_spans, column_spans = _halve(row_spans, margin), _halve(column_spans, margin)
        height, width = _piece(height, margin), _piece(width, margin)
        if height * width < max_pixels or (height, width) == before:
            break
    rows, columns = ([Span(*s, torch.ones(s[3] - s[2])) for s in spans] for spans in (row_spans, column_spans))
    return _stitch(restore, image, rows, columns, device, batch, progress)


def ensemble_x8(restore: Network) -> Network:
    """A network that averages over the 8 flips and rotations of its input (the release's `test_x8`).

    All channels turn together, so a noise map stays in place. A flipped or turned Bayer mosaic has another
    pattern: the release averages over those too (it trains on them), so this is the paper's ensemble for
    demosaicing as well, but wrong for a network that knows one pattern only. The caller decides.
    """

    def restore_x8(x: Tensor) -> Tensor:
        total: Tensor | None = None
        for i in range(8):
            y = turn_back(restore(turn(x, i).contiguous()), i)
            total = y if total is None else total + y
        assert total is not None
        return total / 8

    return restore_x8


def turn(x: Tensor, i: int) -> Tensor:
    """The i-th (0-7) of the flips and rotations of the last two dimensions."""
    return torch.rot90(x.flip(-1) if i >= 4 else x, i % 4, (-2, -1))


def turn_back(x: Tensor, i: int) -> Tensor:
    """Undoes `turn`."""
    x = torch.rot90(x, -(i % 4), (-2, -1))
    return x.flip(-1) if i >= 4 else x


def _stitch(
    restore: Network,
    image: Tensor,
    rows: list[Span],
    columns: list[Span],
    device: torch.device | str | None,
    batch: int,
    progress: Tick | None,
) -> Tensor:
    """Cut, restore and add up: the one place that touches pixels. Every (row, column) pair of spans is a piece."""
    if batch < 1:
        raise UsageError(f"a batch of {batch} tiles is none: use at least 1")
    canvas: Tensor | None = None
    done, total = 0, len(rows) * len(columns)

    def begun() -> Iterator[tuple[list[tuple[Span, Span]], Callable[[], Tensor]]]:
        for group in _batches(product(rows, columns), batch):
            pieces = torch.stack([image[:, r.start : r.stop, c.start : c.stop] for r, c in group])  # (B, C_in, h, w)
            yield group, fetched(restore(pieces.to(device) if device is not None else pieces).detach(), image.dtype)

    for group, wait in one_ahead(begun()):
        restored = wait()  # (B, C_out, h, w)
        if canvas is None:
            canvas = torch.zeros(restored.shape[1], *image.shape[-2:], dtype=image.dtype)
        for y, (r, c) in zip(restored, group):
            kept = y[:, r.keep_start - r.start : r.keep_stop - r.start, c.keep_start - c.start : c.keep_stop - c.start]
            weight = (r.weight[:, None] * c.weight).to(image.dtype)
            canvas[:, r.keep_start : r.keep_stop, c.keep_start : c.keep_stop] += kept * weight
        done += len(group)
        if progress is not None:
            progress(done, total)
    assert canvas is not None
    return canvas


def one_ahead(items: Iterable[T]) -> Iterator[T]:
    """Each item once the one behind it is begun: a device works at that one meanwhile."""
    items = iter(items)
    before = next(items)
    for item in items:
        yield before
        before = item
    yield before


def _batches(pieces: Iterable[tuple[Span, Span]], batch: int) -> Iterator[list[tuple[Span, Span]]]:
    """Groups of up to `batch` pieces of equal size (there are at most four sizes)."""
    waiting: dict[tuple[int, int], list[tuple[Span, Span]]] = {}
    for piece in pieces:
        row, column = piece
        group = waiting.setdefault((row.stop - row.start, column.stop - column.start), [])
        group.append(piece)
        if len(group) == batch:
            yield group.copy()
            group.clear()
    yield from (group for group in waiting.values() if group)


def _one(size: int) -> list[Span]:
    return [Span(0, size, 0, size, torch.ones(size))]


def _blend_spans(size: int, tile: int, overlap: int, multiple: int) -> list[Span]:
    """As few spans as the overlap permits, evenly spread over `size` pixels, with their weights."""
    aligned = tile // multiple * multiple
    step = (aligned - overlap) // multiple * multiple
    if overlap < 0 or step < 1:
        raise UsageError(
            f"`tile` {tile} with `overlap` {overlap} does not fit: this model needs tiles at least "
            f"{multiple} pixels larger than an overlap of 0 or more, in multiples of {multiple}"
        )
    if size <= tile:
        return _one(size)
    steps = math.ceil((size - aligned) / step)
    # no larger than so many tiles need to be: what is beyond the overlap is computed twice for nothing
    even = math.ceil((size + steps * overlap) / (steps + 1) / multiple) * multiple
    for length in range(even, aligned + 1, multiple):
        last = math.ceil((size - length) / multiple) * multiple
        starts = [i * last // (steps * multiple) * multiple for i in range(steps + 1)]
        if all(start + length - following >= overlap for start, following in pairwise(starts)):
            aligned = length
            break
    stops = [min(start + aligned, size) for start in starts]

    weights, total = [], torch.zeros(size, dtype=torch.float64)
    for i, (start, stop) in enumerate(zip(starts, stops)):
        weight = torch.ones(stop - start, dtype=torch.float64)
        if i > 0 and (shared := stops[i - 1] - start) > 0:
            weight[:shared] *= _fade(shared)
        if i < steps and (shared := stop - starts[i + 1]) > 0:
            weight[-shared:] *= _fade(shared).flip(0)
        weights.append(weight)
        total[start:stop] += weight
    return [Span(s, e, s, e, weight / total[s:e]) for s, e, weight in zip(starts, stops, weights)]


def _fade(length: int) -> Tensor:
    """(length,) float64, a raised cosine from near 0 to near 1; with its mirror image it sums to 1."""
    return torch.sin((torch.arange(length, dtype=torch.float64) + 0.5) * (math.pi / 2 / length)) ** 2


def _piece(size: int, margin: int) -> int:
    """The length of the release's two pieces of a side."""
    return min(size, size // 2 // CHOP_GRID * CHOP_GRID + margin)


def _halve(spans: list[tuple[int, int, int, int]], margin: int) -> list[tuple[int, int, int, int]]:
    """One level of the chop along one axis; spans are (start, stop, keep_start, keep_stop)."""
    halves = []
    for start, stop, keep_start, keep_stop in spans:
        size = _piece(stop - start, margin)
        if size == stop - start:  # both halves would be this very piece
            halves.append((start, stop, keep_start, keep_stop))
            continue
        middle = start + (stop - start) // 2
        halves.append((start, start + size, keep_start, min(keep_stop, middle)))
        halves.append((stop - size, stop, max(keep_start, middle), keep_stop))
    return [span for span in halves if span[2] < span[3]]
