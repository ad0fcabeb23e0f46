"""Many files: an error costs its own file, never the others. Prints nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..errors import DaglError, ImageError, UsageError, WeightsError, one_line
from .file import FileRestorer, Outcome
from .tiling import Tick


@dataclass(frozen=True)
class Job:
    """One file to make."""

    source: Path | bytes
    target: Path | BinaryIO
    name: str
    """What errors call the source."""


def restore_files(
    restorer: FileRestorer,
    jobs: Iterable[Job],
    *,
    overwrite: bool = False,
    dry_run: bool = False,
    begin: Callable[[Job], None] = lambda job: None,
    progress: Tick | None = None,
) -> Iterator[tuple[Job, Outcome]]:
    """Each job and what became of it, one after the other.

    overwrite: replace existing targets, which are skipped otherwise.
    dry_run: only say what would be done.
    begin: called with a job before it is begun. progress: as for `FileRestorer`.
    Raises UsageError or WeightsError for what no file can be restored with.
    """
    for job in jobs:
        begin(job)
        yield job, _restore(restorer, job, overwrite, dry_run, progress)


def _restore(restorer: FileRestorer, job: Job, overwrite: bool, dry_run: bool, progress: Tick | None) -> Outcome:
    start = time.perf_counter()
    if isinstance(job.target, Path) and not overwrite and os.path.lexists(job.target):
        return Outcome("skipped", note="the output exists: `overwrite` replaces it")
    if dry_run:
        missing = isinstance(job.source, Path) and not os.path.isfile(job.source)
        note = f"cannot read {job.source!s}: there is no such file" if missing else None
        return Outcome("failed" if missing else "planned", note=note)
    try:
        outcome = restorer(job.source, job.target, name=job.name, overwrite=overwrite, progress=progress)
    except (UsageError, WeightsError):
        raise
    except ImageError as error:  # names the file
        outcome = Outcome("failed", note=str(error))
    except DaglError as error:
        outcome = Outcome("failed", note=f"{job.name}: {error}")
    except Exception as error:  # a mistake of ours: it must not cost the other files
        outcome = Outcome("failed", note=f"{job.name}: {type(error).__name__}: {one_line(error)}: please report this")
    outcome.seconds = round(time.perf_counter() - start, 3)
    return outcome
