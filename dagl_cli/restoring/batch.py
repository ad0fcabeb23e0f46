"""Many files: an error costs its own file, never the others, and several processes share the work. Prints nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO

import torch

from .. import images
from ..errors import DaglError, ImageError, UsageError, WeightsError, one_line
from ..files import Entry, claim_of, claimed, clean, entries, version
from .file import FileRestorer, make_folder
from .picture import Outcome
from .steps import Steps, finished, overlapped

EXISTS = "the output exists: `overwrite` replaces it"
MEANWHILE = "another run made it meanwhile"
MOST_FILES = 8
"""So many are in work at once, but never more than the processor has cores, and one."""
MOST_PIXELS = 32_000_000
"""Of all that are in work: two photographs of 16 megapixels, or a single larger one."""


@dataclass(frozen=True)
class Job:
    """One file to make."""

    source: Path | bytes | BinaryIO
    target: Path | BinaryIO
    name: str
    """What errors call the source."""

    def waits_for_nobody(self) -> bool:
        """Whether the source is a file, and no stream or pipe, which may have nobody at its other end."""
        return isinstance(self.source, Path) and self.source.is_file()

    def size(self) -> int:
        """About how many pixels are in memory while it is in work, by the file's header and its length."""
        if not isinstance(self.source, Path):
            return MOST_PIXELS
        with suppress(OSError):
            return max(images.pixels_of(self.source) or 0, os.stat(self.source).st_size // 2)
        return 0


JobTick = Callable[[Job, int, int], None]
"""Called with a job and its (pieces done, pieces in all) after every batch, and before the first where it is alone."""


@dataclass
class Batch:
    """Jobs to be done by one restorer, each at most once, whoever else works at the same folders.

    overwrite: replace existing targets, which are skipped otherwise. Never an input of the batch, even where a link
    or a mount leads to one, and no target that another run replaced since this one began.
    dry_run: only say what would be done.
    """

    restorer: FileRestorer
    jobs: Sequence[Job]
    overwrite: bool = False
    dry_run: bool = False
    _inputs: set[Entry] = field(default_factory=set, init=False)
    _before: dict[Path, tuple[int, int] | None] = field(default_factory=dict, init=False)
    _folders: list[Path] = field(default_factory=list, init=False)
    """Those that this batch made."""
    _cleaned: set[Path] = field(default_factory=set, init=False)

    def run(
        self, progress: JobTick | None = None, dealt: Iterable[Job] | None = None, at_once: int | None = None
    ) -> Iterator[tuple[Job, Outcome]]:
        """Each job and what became of it, in their order.

        dealt: those of the jobs that this batch is to do, where several share them. at_once: so many jobs are in work
        at the same time, see `overlapped`; None: by the processor.
        Raises UsageError or WeightsError for what no file can be restored with.
        """
        for job in self.jobs:
            if isinstance(job.source, Path):
                self._inputs.update(entries(job.source))
            if isinstance(job.target, Path) and self.overwrite:
                self._before[job.target] = version(job.target)
        try:
            for job, outcome, seconds in self._done(progress, self.jobs if dealt is None else dealt, at_once):
                if outcome.status != "skipped" and not self.dry_run:
                    outcome.seconds = round(seconds, 3)
                yield job, outcome
        finally:
            self.tidy()

    def _done(
        self, progress: JobTick | None, jobs: Iterable[Job], at_once: int | None
    ) -> Iterator[tuple[Job, Outcome, float]]:
        def steps(job: Job) -> Steps[Outcome]:
            return _caught_steps(job.name, self._job(job, progress))

        if len(self.jobs) > 1:
            usual = max(3, min(MOST_FILES, torch.get_num_threads() + 1))
            yield from overlapped(jobs, steps, Job.size, at_once or usual, MOST_PIXELS)
            return
        for job in jobs:
            if progress:
                progress(job, 0, 1)
            start = time.perf_counter()
            yield job, finished(steps(job)), time.perf_counter() - start

    def tidy(self) -> None:
        """Removes the folders that were made and of which nothing came."""
        for folder in reversed(self._folders):
            with suppress(OSError):
                folder.rmdir()

    def _job(self, job: Job, progress: JobTick | None) -> Steps[Outcome]:
        target = job.target
        if isinstance(target, Path) and not self.overwrite and os.path.lexists(target):
            otherwise = self.restorer.made_otherwise(target)
            return Outcome("skipped", note="; ".join(filter(None, [EXISTS, otherwise])))
        if self.dry_run:
            examined: Outcome = yield partial(self.restorer.examine, job.source, target, name=job.name)
            return examined
        tick = partial(progress, job) if progress else None
        if not isinstance(target, Path):
            return (yield from self.restorer.steps(job.source, target, name=job.name, progress=tick))
        with self._claimed(target) as mine:
            if not mine:
                return Outcome("skipped", note="another run is making it")
            if os.path.lexists(target) and not (self.overwrite and version(target) == self._before[target]):
                return Outcome("skipped", note=MEANWHILE)
            steps = self.restorer.steps(
                job.source, target, name=job.name, overwrite=self.overwrite, inputs=self._inputs, progress=tick
            )
            try:
                return (yield from steps) if job.waits_for_nobody() else finished(steps)
            except ImageError as error:
                if isinstance(error.__cause__, FileExistsError):  # where the file system has no locks
                    return Outcome("skipped", note=MEANWHILE)
                raise

    @contextmanager
    def _claimed(self, target: Path) -> Iterator[bool]:
        """The claim on a target, in its folder, which is made if it is missing. Raises ImageError."""
        folder = target.parent
        missing = [above for above in (folder, *folder.parents) if not above.exists()]
        make_folder(folder)
        self._folders += reversed(missing)
        if folder not in self._cleaned:
            self._cleaned.add(folder)
            clean(folder)
        with ExitStack() as stack:
            try:
                mine = stack.enter_context(claimed(target))
            except PermissionError as error:
                writable = os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids)
                if not (writable and os.path.lexists(claim_of(target))):
                    remedy = "choose a folder you may write to"
                    raise ImageError(f"cannot write {target}: {one_line(error)}: {remedy}") from None
                mine = False  # it is another user's
            except OSError:
                mine = True  # what is wrong with the disk, writing will say
            yield mine


def caught(name: str, make: Callable[[], Outcome]) -> Outcome:
    """An error of one file is its outcome. Raises UsageError or WeightsError, which concern all."""
    try:
        return make()
    except Exception as error:
        return _failed(name, error)


def _caught_steps(name: str, steps: Steps[Outcome]) -> Steps[Outcome]:
    """As `caught`."""
    try:
        return (yield from steps)
    except Exception as error:
        return _failed(name, error)


def _failed(name: str, error: Exception) -> Outcome:
    if isinstance(error, (UsageError, WeightsError)):
        raise error
    if isinstance(error, ImageError):  # names the file
        return Outcome("failed", note=str(error))
    if isinstance(error, DaglError):
        return Outcome("failed", note=f"{name}: {error}")
    # a mistake of ours: it must not cost the other files
    return Outcome("failed", note=f"{name}: {type(error).__name__}: {one_line(error)}: please report this")
