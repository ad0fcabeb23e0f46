"""How far a run is: bars on a terminal, a line a minute elsewhere, and an estimate before the long part."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from .console import bars, errors, plain, say

if TYPE_CHECKING:
    from ..restoring.batch import Job

EVERY = 60.0
"""Seconds from line to line."""
LONG = 60.0
"""What takes this many seconds and more is worth an estimate ..."""
ENOUGH = 3.0
"""... which is made after so many seconds of work, from the first tile on: loading the network is no measure."""
SAMPLE = 100
"""So many files are looked at, evenly over all, to know how large they are."""


class Progress:
    """Of a batch. To be entered; then `tick` and `end` are called as it goes on.

    overwrite: existing results are work, too. clock: seconds.
    """

    def __init__(
        self, jobs: Sequence[Job], *, overwrite: bool, quiet: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.jobs, self.overwrite, self.quiet, self.clock = jobs, overwrite, quiet, clock
        text = TextColumn("{task.description}", markup=False)
        self._bars = bars(text, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), quiet=quiet)
        self._files = self._bars.add_task("files", total=len(jobs), visible=len(jobs) > 1)
        self._tiles = self._bars.add_task("tiles", total=None)
        self._lock = threading.Lock()
        """Several devices tell of their files, each in its own thread."""
        self._now: Job | None = None
        self._ended, self._tile = 0, (0, 1)
        self._begun: dict[Job, tuple[float, float]] = {}
        """Files at work, of which there can be several: their pixels, and the share of them that is done."""
        self._mean = 1.0
        """Pixels of all files on average."""
        self._done = 0.0
        """Pixels of finished files."""
        self._first: tuple[float, float] | None = None
        """When the first tile was finished, and the pixels that were done by then."""
        self._told = self.clock()
        self._judged = False

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._bars.stop()

    def tick(self, job: Job, done: int, total: int) -> None:
        """After every batch of tiles of a file; with 0 where its first one is awaited."""
        with self._lock:
            if job != self._now:
                self._now = job
                self._bars.reset(self._tiles, description=plain(Path(job.name).name))
            if not done:
                return
            self._bars.update(self._tiles, completed=done, total=total)
            size, _ = self._begun.get(job) or (_pixels_of(job) or self._mean, 0.0)
            self._begun[job], self._tile = (size, done / total), (done, total)
            if self._first is None:
                self._mean = self._measured(size)
                self._first = self.clock(), self._pixels()
            self._tell()

    def end(self, job: Job, skipped: bool) -> None:
        """After every file."""
        with self._lock:
            self._bars.advance(self._files)
            size, _ = self._begun.pop(job, (self._mean, 0.0))
            if not skipped:
                self._done += size
            self._ended, self._tile = self._ended + 1, (0, 1)
            self._tell()

    def left(self) -> float | None:
        """Seconds that the rest takes; None: too early to say."""
        if self._first is None or (spent := self.clock() - self._first[0]) < ENOUGH:
            return None
        if (done := self._pixels() - self._first[1]) <= 0:
            return None
        here = sum(size * (1 - share) for size, share in self._begun.values())
        rest = self._mean * (len(self.jobs) - self._ended - len(self._begun)) + here
        return rest * spent / done

    def _pixels(self) -> float:
        return self._done + sum(size * share for size, share in self._begun.values())

    def _measured(self, size: float) -> float:
        """Mean of the pixels that a file has to be restored, as far as their headers tell. size: if none does."""
        some = self.jobs[:: max(1, len(self.jobs) // SAMPLE)]
        known = [pixels for job in some if (pixels := _pixels_of(job))]
        share = mean(self.overwrite or not _is_there(job) for job in some)
        return (mean(known) if known else size) * (share or 1.0)

    def _tell(self) -> None:
        left, now = self.left(), self.clock()
        if left is not None and not self._judged:
            self._judged = True
            if left >= LONG:
                what = f" for {len(self.jobs):,} files" if len(self.jobs) > 1 else ""
                say(f"About {duration(left)}{what}, judged by the first tiles.", quiet=self.quiet)
        if now - self._told >= EVERY:
            self._told = now
            several = len(self.jobs) > 1
            done, total, unit = (self._ended, len(self.jobs), "files") if several else (*self._tile, "tiles")
            rest = "" if left is None else f", about {duration(left)} left"
            say(f"{done:,} of {total:,} {unit} done{rest}.", quiet=self.quiet or errors.is_terminal)


def _pixels_of(job: Job) -> int | None:
    from ..images import pixels_of

    return pixels_of(job.source) if isinstance(job.source, Path) and job.waits_for_nobody() else None


def _is_there(job: Job) -> bool:
    return isinstance(job.target, Path) and os.path.lexists(job.target)


def duration(seconds: float) -> str:
    """'45 s', '12 min', '3 h 20 min', '2 d 4 h'."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"
