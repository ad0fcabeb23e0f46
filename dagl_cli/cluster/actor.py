"""What a worker of a cluster does: files that it reads, restores and writes, wherever they lie."""

from __future__ import annotations

import pickle
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from .. import images
from ..errors import ImageError, UsageError, WeightsError
from ..files import entries, version
from ..restoring.batch import MEANWHILE, Job, caught
from ..restoring.file import FileRestorer, make_folder
from ..restoring.picture import Outcome
from ..restoring.restorer import load_model
from . import places


class Actor:
    """Holds the model. Two files may be begun at once: one is restored while the other is read or written.

    Args:
        settings: of `FileRestorer`.
        weights: name and bytes of the file that `model` means, for machines that lack it.
        overwrite, dry_run: as for `Batch`.
    """

    def __init__(
        self, settings: dict[str, Any], weights: tuple[str, bytes] | None, overwrite: bool, dry_run: bool
    ) -> None:
        self._warnings: list[str] = []
        self._lock = threading.Lock()
        self._restorer = FileRestorer(**settings | {"model": None}, warn=self._warnings.append)
        self._overwrite, self._dry_run = overwrite, dry_run
        if weights:
            name, data = weights
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, name)
                path.write_bytes(data)
                how = {"options": settings["options"], "warn": self._warnings.append}
                self._restorer.use(load_model(settings["task"], 3, model=path, **how))

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """The outcome of a job, what it warned of, and the error that concerns all files, if there was one."""
        job, before = pickle.loads(row["job"])
        outcome, stop = None, None
        with tempfile.TemporaryDirectory(prefix="dagl-") as scratch:
            here = Path(scratch)
            try:
                outcome = caught(job.name, lambda: self._made(job, before, here))
            except (UsageError, WeightsError) as error:
                stop = error
            else:
                for folder, meant in ((here / "in", job.source.parent), (here / "out", job.target.parent)):
                    outcome.note = outcome.note and outcome.note.replace(str(folder), places.shown(meant))
        return {"number": row["number"], "outcome": pickle.dumps((outcome, self._warnings, stop))}

    def _made(self, job: Job, before: tuple[int, int] | None, scratch: Path) -> Outcome:
        assert isinstance(job.source, Path)
        assert isinstance(job.target, Path)
        start = time.perf_counter()
        source, result = job.source, scratch / "out" / job.target.name
        if places.uri(source):
            data, source = places.read(source), scratch / "in" / source.name
            source.parent.mkdir()
            source.write_bytes(data)
        read = time.perf_counter() - start
        with self._lock:
            start = time.perf_counter()
            if self._dry_run:
                return self._restorer.examine(source, result if places.uri(job.target) else job.target, name=job.name)
            outcome = self._restorer(source, result, name=job.name)
        if not self._written(job.target, result.read_bytes(), before, source):
            return Outcome("skipped", note=MEANWHILE)
        outcome.seconds = round(read + time.perf_counter() - start, 3)
        return outcome

    def _written(self, target: Path, data: bytes, before: tuple[int, int] | None, source: Path) -> bool:
        """False: another run has made it. What a worker of this run wrote before it was killed is as good as ours."""
        if places.uri(target):
            try:
                places.write(target, data, overwrite=self._overwrite)
            except ImageError as error:
                if not isinstance(error.__cause__, FileExistsError):
                    raise
                return places.read(target) == data
            return True
        make_folder(target.parent)
        try:
            if self._overwrite and version(target) != before:
                raise FileExistsError
            images.write(data, target, overwrite=self._overwrite, inputs=set(entries(source)))
        except (FileExistsError, ImageError) as error:
            if not isinstance(error, FileExistsError) and not isinstance(error.__cause__, FileExistsError):
                raise
            return target.read_bytes() == data
        return True
