"""One file restored into another: everything that is not a pixel of the picture goes along, and nothing is lost."""

from __future__ import annotations

from collections.abc import Container, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from .. import __version__, frames, images
from ..config import MAX_PIXELS, is_of_mosaics
from ..errors import DaglError, ImageError
from ..files import Entry
from ..frames import Pages
from ..images import raw
from ..store import weights
from .device import is_out_of_memory
from .picture import Case, Outcome, PictureRestorer, case_of
from .restorer import find_model
from .sequence import foreseen_frames, restore_frames
from .steps import Steps, finished
from .tiling import Tick


class FileRestorer(PictureRestorer):
    """A `PictureRestorer` for files.

    Args:
        strip_metadata: leave EXIF, DPI and the record out of the results.
        max_pixels: larger images are refused before they are decoded.
        stream_format: what streams get, a name in `images.FORMATS`; None: their source's format.
        command: what results say they were made with, beside the settings: no path, no name of a person.
        pages: those of a file of several that are wanted, as '1-10' (`frames.Pages`); None: all.
    """

    def __init__(
        self,
        task: str,
        *,
        strip_metadata: bool = False,
        max_pixels: int = MAX_PIXELS,
        stream_format: str | None = None,
        command: str | None = None,
        pages: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(task, **settings)
        self.strip_metadata, self.max_pixels = strip_metadata, max_pixels
        self.stream_format, self.command = stream_format, command
        self.pages = Pages(pages) if pages is not None else None

    def __call__(
        self,
        source: Path | bytes | BinaryIO,
        target: Path | BinaryIO,
        *,
        name: str | None = None,
        overwrite: bool = False,
        inputs: Container[Entry] = frozenset(),
        progress: Tick | None = None,
    ) -> Outcome:
        """Read, restore and write one file; nothing is written unless all of it went well.

        source: a path, or the bytes of a file or a stream of them (`name` is for messages). target: a path, whose
        folder is made if it is missing, or a binary stream, which gets the source's format. An image that needs
        nothing is copied byte for byte where that is possible. Pixels that are wholly transparent stay as they are.
        A camera raw file, known by its suffix, is demosaiced and developed to 16-bit sRGB (a stream gets a TIFF).
        inputs: names that are never replaced, see `files.write`.
        Raises UsageError or WeightsError for what no file can be restored with, else another DaglError.
        """
        steps = self.steps(source, target, name=name, overwrite=overwrite, inputs=inputs, progress=progress)
        return finished(steps)

    def steps(
        self,
        source: Path | bytes | BinaryIO,
        target: Path | BinaryIO,
        *,
        name: str | None = None,
        overwrite: bool = False,
        inputs: Container[Entry] = frozenset(),
        progress: Tick | None = None,
    ) -> Steps[Outcome]:
        """`__call__` in steps: reading, judging and encoding may be done aside, but for files of frames."""
        with _told_of_memory(), ExitStack() as stack:
            whole: Path | bytes
            whole, sequence = yield partial(self._looked_into, source, name)
            if sequence:
                stack.callback(sequence.close)
                outcome = self._sequence(sequence, target, overwrite, inputs, progress)
                outcome.note = "; ".join(filter(None, [outcome.note, _before(images.record(whole))])) or None
                return outcome
            case: Case = yield partial(self._read, whole, name)
            if self.task != "restore":  # what no file can be restored with ends the batch, before anything is written
                self.restorer(case.pixels.shape[-1])
            if isinstance(target, Path):
                make_folder(target.parent)
            format = self._format(case.picture, target)
            images.check_target(
                case.picture, target, format=format, overwrite=overwrite, strip_metadata=self.strip_metadata
            )
            found = yield partial(self.examined, case)
            if any(not finding.nothing for finding in found.values()):  # so the file itself will not be copied
                case.picture = replace(case.picture, encoded=b"")
            outcome, picture = self.treated(case, progress, found)
        restored = outcome.status == "restored"
        written = replace(picture, record=self._record(outcome)) if restored else self._unchanged(case, target)
        notes: list[str] = []
        left_out: list[str] = []
        if isinstance(written, images.Image):
            left_out = case.picture.notes
            how: dict[str, Any] = {"format": format, "overwrite": overwrite, "strip_metadata": self.strip_metadata}
            written, notes = yield partial(images.file_of, written, target, **how)
        images.put(written, target, overwrite=overwrite, inputs=inputs)
        said = [outcome.note, _before(case.picture.record), *left_out, *notes]
        outcome.note = "; ".join(filter(None, said)) or None
        return outcome

    def examine(self, source: Path | bytes | BinaryIO, target: Path | BinaryIO, *, name: str | None = None) -> Outcome:
        """What `__call__` would do, and its errors, without restoring and without writing anything."""
        with _told_of_memory(), ExitStack() as stack:
            source, sequence = self._looked_into(source, name)
            if sequence:
                stack.callback(sequence.close)
                return foreseen_frames(self, sequence, target, self._suffix(sequence, target))
            case = self._read(source, name)
            if self.task != "restore":
                self.described(case.pixels.shape[-1])
            new = isinstance(target, Path) and not target.parent.exists()
            images.check_target(
                case.picture,
                target,
                format=self._format(case.picture, target),
                overwrite=True,
                strip_metadata=self.strip_metadata,
                new_folder=new,
            )
            return self.foreseen(case)

    def _looked_into(
        self, source: Path | bytes | BinaryIO, name: str | None
    ) -> tuple[Path | bytes, frames.Sequence | None]:
        """The source, a stream read to its end, and the frames that it is made of, if it is; to be closed."""
        if not isinstance(source, (Path, bytes)):
            source = images.load(source, name=name or "the image", max_pixels=self.max_pixels)
        if isinstance(source, Path) and raw.is_raw_path(source):
            return source, None
        return source, frames.find(source, name=name, pages=self.pages, max_pixels=self.max_pixels)

    def _sequence(
        self,
        sequence: frames.Sequence,
        target: Path | BinaryIO,
        overwrite: bool,
        inputs: Container[Entry],
        progress: Tick | None,
    ) -> Outcome:
        if isinstance(target, Path):
            make_folder(target.parent)
        return restore_frames(
            self,
            sequence,
            target,
            self._suffix(sequence, target),
            strip_metadata=self.strip_metadata,
            overwrite=overwrite,
            inputs=inputs,
            recorded=lambda picture, outcome: replace(picture, record=self._record(outcome)),
            progress=progress,
        )

    def _read(self, source: Path | bytes | BinaryIO, name: str | None) -> Case:
        negative = None
        if isinstance(source, Path) and raw.is_raw_path(source):
            if self.task != "restore" and not is_of_mosaics(self.task):
                raise ImageError(f"{source} is a camera raw file: run `dagl restore` or `dagl demosaic` on it")
            negative = raw.read(source, max_pixels=self.max_pixels)
            picture = images.Image(negative.mosaic[..., None], depth=16, format=images.SUFFIXES[raw.RESULT_SUFFIX])
            picture = replace(picture, exif=images.raw_exif(source), icc=images.srgb_profile())
        else:
            picture = images.read(source, name=name, max_pixels=self.max_pixels)
        return case_of(picture, self.task, self.pattern, negative)

    def _suffix(self, sequence: frames.Sequence, target: Path | BinaryIO) -> str:
        """What the name of a result of frames ends in, or would if it had one."""
        if isinstance(target, Path):
            return target.suffix.lower()
        return images.FORMATS[self.stream_format].suffixes[0] if self.stream_format else sequence.suffixes[0]

    def _format(self, picture: images.Image, target: Path | BinaryIO) -> str | None:
        """What the target is to be; None: its name does not say."""
        if isinstance(target, Path):
            return images.SUFFIXES.get(target.suffix.lower())
        return self.stream_format or picture.format

    def _record(self, outcome: Outcome) -> dict[str, str]:
        """How a picture was restored, for its file: nothing of where it lay, and by whom."""
        values: dict[str, str | float | None] = {"version": __version__, "command": self.command}
        values |= {"model": outcome.model, "sha256": outcome.digest, "sigma": outcome.sigma, "quality": outcome.quality}
        values |= {"precision": outcome.precision, "backend": outcome.backend}
        values |= {key: value for key, value in self.settings().items() if value is not None}
        return {key: _text(value) for key, value in values.items() if value is not None}

    def settings(self) -> dict[str, str | float | None]:
        """What was asked for, as it is recorded in results; None where the picture or the model decides."""
        how = {key: getattr(self.options, key) for key in ("strength", "luma", "chroma")}
        return {"task": self.task, "sigma": self.sigma} | ({} if is_of_mosaics(self.task) else how)

    def made_otherwise(self, target: Path) -> str | None:
        """What an existing result was made with, as far as it was asked for otherwise this time."""
        found = images.record(target)
        other = [
            f"`{key}` {found[key]}" if key != "task" else f"the task {found[key]}"
            for key, value in self.settings().items()
            if value is not None and found.get(key, _text(value)) != _text(value)
        ]
        if self.model and "sha256" in found and self._digest() not in (None, *found["sha256"].split(" + ")):
            other.append(f"another `model` ({found.get('model', 'unnamed')})")
        return f"it was made with {' and '.join(other)}" if other else None

    def _digest(self) -> str | None:
        """SHA-256 of the model that was asked for, if it is here."""
        with suppress(DaglError):
            return weights.sha256(find_model(self.task, 3, self.model, offline=True))
        return None

    def _unchanged(self, case: Case, target: Path | BinaryIO) -> images.Image | bytes:
        """The file itself where that is possible: no JPEG is encoded again for nothing."""
        picture = case.picture
        if self._format(picture, target) != picture.format:
            return picture
        if not self.strip_metadata:
            return picture.encoded
        stripped = images.FORMATS[picture.format].stripped
        return stripped(picture.encoded) if stripped and picture.orientation == 1 else picture


@contextmanager
def _told_of_memory() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise DaglError("out of memory: close other programs, or make the image smaller") from None


def _before(record: dict[str, str]) -> str | None:
    """That a picture is itself a result of dagl, if its file says so."""
    if not record:
        return None
    how = record.get("command") or record.get("task")
    return f"dagl has restored it before ({how})" if how else "dagl has restored it before"


def _text(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def make_folder(folder: Path) -> None:
    """With those above it. Raises ImageError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImageError(f"cannot make the folder {folder}: {error.strerror}") from None
