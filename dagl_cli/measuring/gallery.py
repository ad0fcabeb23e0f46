"""Before and after: the files of a run and what became of them, to be looked at before anything is deleted."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from .. import frames, images
from ..errors import DaglError
from ..images import raw
from .report import Cell, Picture, Table, html

PICTURES = 24
"""A report shows so many files, those that changed most."""
SIDE = 800
"""Pixels: longer pictures are shown smaller, ..."""
PART = 448
"""... and beside it a square at full size, where the change is largest."""
_BAND = 256
_COLUMNS = ("file", "status", "change", "sigma", "quality", "model", "seconds", "message")


@dataclass
class Gallery:
    """Files are added as they are finished; only what will be shown is kept.

    max_pixels: larger files are not read again. pages: those that are restored; of a file of frames the first is shown.
    """

    max_pixels: int
    pages: str | None = None
    _changes: dict[str, float] = field(default_factory=dict, init=False)
    _shown: list[tuple[float, int, list[Picture]]] = field(default_factory=list, init=False)
    """A heap, the smallest change first; the number is the file's."""

    def add(self, source: Path, target: Path) -> None:
        """What cannot be read, or does not fit its result, has no picture in the report."""
        try:
            before, after = _levels(source, self.max_pixels, self.pages), _levels(target, self.max_pixels)
        except (DaglError, MemoryError):
            return
        if before.shape[:2] != after.shape[:2]:
            return
        change, corner = _change(before, after)
        self._changes[str(source)] = change
        place = change, -len(self._changes)
        if len(self._shown) < PICTURES:
            heapq.heappush(self._shown, (*place, _pictures(str(source), before, after, corner)))
        elif place > self._shown[0][:2]:
            heapq.heapreplace(self._shown, (*place, _pictures(str(source), before, after, corner)))

    def page(self, title: str, notes: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
        """HTML. rows: one a file, as `--json` of the command line has them, told in order of the run."""
        lines: list[list[Cell]] = []
        for row in rows:
            of = {"file": row["input"], "change": self._changes.get(row["input"])}
            lines.append([of.get(column, row.get(column)) for column in _COLUMNS])
        notes = [*notes, "The change is the root mean square of the differences, on the 0-255 scale."]
        if len(self._changes) > len(self._shown):
            notes.append(f"{len(self._shown)} of {len(self._changes):,} are shown, those that changed most.")
        ordered = sorted(self._shown, key=lambda shown: -shown[1])
        pictures = [picture for _, _, of_file in ordered for picture in of_file]
        return html(title, notes, [Table("Files", list(_COLUMNS), lines)] if lines else [], pictures=pictures)


def _levels(path: Path, max_pixels: int, pages: str | None = None) -> np.ndarray:
    """(H, W, 1 or 3) uint8, upright. Of a raw file a rough development, of frames the first. Raises DaglError."""
    if raw.is_raw_path(path):
        negative = raw.read(path, max_pixels=max_pixels)
        pixels = raw.develop(_rough(negative), negative)
    elif sequence := frames.find(path, pages=frames.Pages(pages) if pages else None, max_pixels=max_pixels):
        with closing(sequence):
            pixels = next(sequence.frames()).picture.pixels
    else:
        pixels = images.read(path, max_pixels=max_pixels).pixels
    levels = np.empty(pixels.shape, np.uint8)
    for row in range(0, len(pixels), _BAND):  # bounds the memory for float copies
        levels[row : row + _BAND] = np.rint(pixels[row : row + _BAND].clip(0, 1) * 255)
    return levels


def _rough(negative: raw.Raw) -> np.ndarray:
    """(H, W, 3): every pixel has the colours of its Bayer cell."""
    height, width = negative.mosaic.shape
    mosaic = np.pad(negative.mosaic, ((0, height % 2), (0, width % 2)), mode="reflect")  # which keeps the pattern
    samples: dict[str, list[np.ndarray]] = {colour: [] for colour in "RGB"}
    for place, colour in enumerate(negative.pattern):
        samples[colour].append(mosaic[place // 2 :: 2, place % 2 :: 2])
    cells = np.stack([np.mean(samples[colour], 0) for colour in "RGB"], -1)
    return cells.repeat(2, 0).repeat(2, 1)[:height, :width]


def _change(before: np.ndarray, after: np.ndarray) -> tuple[float, tuple[int, int]]:
    """Root mean square of the differences, and the top left corner of the `PART` that changed most."""
    height, width = before.shape[:2]
    rows, columns = (np.arange(0, max(1, side - PART // 2), PART // 2) for side in (height, width))
    squares = np.empty((height, len(columns)))
    for row in range(0, height, _BAND):
        band = before[row : row + _BAND].astype(np.int16) - after[row : row + _BAND]
        squares[row : row + _BAND] = np.add.reduceat(np.square(band, dtype=np.int32).mean(-1), columns, 1)
    halves = np.add.reduceat(squares, rows, 0)  # of a part in each direction
    sums = np.pad(halves, ((0, 1), (0, 1)))
    parts = sums[:-1, :-1] + sums[1:, :-1] + sums[:-1, 1:] + sums[1:, 1:]
    last = parts.size - 1 - parts[::-1, ::-1].argmax()  # of equal ones, as the last row and column may be longer
    top, left = np.unravel_index(last, parts.shape)
    corner = min(int(top) * (PART // 2), max(0, height - PART)), min(int(left) * (PART // 2), max(0, width - PART))
    return math.sqrt(halves.sum() / (height * width)), corner


def _pictures(name: str, before: np.ndarray, after: np.ndarray, corner: tuple[int, int]) -> list[Picture]:
    """The whole, and a part at full size where the whole had to be made smaller."""
    height, width = before.shape[:2]
    if max(height, width) <= SIDE:
        return [Picture(name, {"input": _shown(before), "result": _shown(after)})]
    part = tuple(slice(start, start + PART) for start in corner)
    scale = SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = {
        label: np.asarray(
            PIL.Image.fromarray(_shown(levels)).resize(size, PIL.Image.Resampling.LANCZOS, reducing_gap=3)
        )
        for label, levels in (("input", before), ("result", after))
    }
    return [
        Picture(name, small, quality=85),
        Picture(f"{name}, a part at full size", {"input": _shown(before[part]), "result": _shown(after[part])}),
    ]


def _shown(levels: np.ndarray) -> np.ndarray:
    return levels[..., 0] if levels.shape[-1] == 1 else levels
