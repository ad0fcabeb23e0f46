"""One file restored into another: everything that is not a pixel of the picture goes along, and nothing is lost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from .. import images
from ..config import BAYER_PATTERNS, DEFAULT_PATTERN, MAX_PIXELS, ModelConfig, Options, check_pattern, check_sigma
from ..errors import DaglError, ImageError
from ..images import raw
from . import guard, kind
from .device import is_out_of_memory
from .guard import Finding
from .pixels import is_gray, run
from .rawnoise import noise_rms
from .restorer import Restorer, Warn, load_model
from .tiling import Tick

CLEAN_PROFILE = 1.0
"""Noise of a raw file below this, on the 0-255 scale of the developed picture, is not worth removing."""
MILD = 75
"""JPEGs above this quality that have camera noise are left to its model, which knows them from its training."""


@dataclass
class Outcome:
    """What happened to one file."""

    status: str
    """'restored', or 'unchanged' where the image needs nothing; from `batch` also 'skipped' (the output exists),
    'failed' and 'planned' (nothing was to be done yet)."""
    sigma: float | None = None
    """The estimated noise level, where it was estimated."""
    quality: int | None = None
    """The estimated quality of a JPEG."""
    model: str | None = None
    note: str | None = None
    seconds: float = 0.0


@dataclass
class Case:
    """A picture that was read."""

    picture: images.Image
    pixels: np.ndarray
    """What a network is to see: (H, W, C), one channel where all are equal."""
    pattern: str
    """Bayer pattern, for a mosaic."""
    negative: raw.Raw | None = None
    """How to develop a camera raw file, whose picture is a mosaic."""


class FileRestorer:
    """Restores files of one task; loads each model once, when the first file needs it.

    Args:
        task, model, options, warn: as for `load_model`; or the task 'restore', which finds out what each file needs:
            a mosaic is demosaiced, then JPEG artifacts removed, then noise.
        sigma: noise level, None: estimated for every file, and so is its kind where the task is 'denoise'.
        pattern: Bayer pattern, for demosaicing; camera raw files have their own.
        force: remove JPEG artifacts where none are seen, too.
        denoise: after demosaicing, remove camera noise.
        strip_metadata: leave EXIF and DPI out of the results.
        max_pixels: larger images are refused before they are decoded.
    """

    def __init__(
        self,
        task: str,
        *,
        model: str | None = None,
        sigma: float | None = None,
        pattern: str = DEFAULT_PATTERN,
        force: bool = False,
        denoise: bool = False,
        options: Options = Options(),
        strip_metadata: bool = False,
        max_pixels: int = MAX_PIXELS,
        warn: Warn = lambda line: None,
    ) -> None:
        if sigma is not None:
            check_sigma(sigma)
        check_pattern(pattern)
        self.task, self.model, self.sigma, self.pattern, self.options = task, model, sigma, pattern, options
        self.force, self.denoise, self.strip_metadata = force, denoise, strip_metadata
        self.max_pixels, self.warn = max_pixels, warn
        self._restorers: dict[tuple[str, int], Restorer] = {}

    def restorer(self, channels: int, task: str | None = None) -> Restorer:
        """The model for gray (1) or colour (3) images."""
        task = task or self.task
        channels = 3 if task == "demosaic" else channels
        if (task, channels) not in self._restorers:
            model = self.model if task == self.task else None
            self._restorers[task, channels] = load_model(
                task, channels, model=model, options=self._options(task), warn=self.warn
            )
        return self._restorers[task, channels]

    def _options(self, task: str) -> Options:
        whole = task == "demosaic" and self.task != "demosaic"  # of several steps: a blend is of pictures only
        return replace(self.options, strength=1.0) if whole else self.options

    def __call__(
        self,
        source: Path | bytes,
        target: Path | BinaryIO,
        *,
        name: str | None = None,
        overwrite: bool = False,
        progress: Tick | None = None,
    ) -> Outcome:
        """Read, restore and write one file; nothing is written unless all of it went well.

        source: a path, or the bytes of a file (`name` is for messages). target: a path, whose folder is made if it is
        missing, or a binary stream, which gets the source's format. An image that needs nothing is copied byte for
        byte where that is possible. A camera raw file, known by its suffix, is demosaiced and developed to 16-bit
        sRGB (a stream gets a TIFF).
        Raises UsageError or WeightsError for what no file can be restored with, else another DaglError.
        """
        case = self._read(source, name)
        if self.task != "restore":  # what no file can be restored with ends the batch, before anything is written
            self.restorer(case.pixels.shape[-1])
        if isinstance(target, Path):
            _make_folder(target.parent)
        images.check_target(case.picture, target, overwrite=overwrite, strip_metadata=self.strip_metadata)
        try:
            outcome, result = self._treated(case, progress)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise DaglError("out of memory: close other programs, or make the image smaller") from None
        written = self._unchanged(case, target) if outcome.status == "unchanged" else result
        notes = images.write(written, target, strip_metadata=self.strip_metadata, overwrite=overwrite)
        if not isinstance(written, bytes):  # what was left out of the file
            outcome.note = "; ".join(filter(None, [outcome.note, *case.picture.notes, *notes])) or None
        return outcome

    def _read(self, source: Path | bytes, name: str | None) -> Case:
        negative, mosaics = None, self.task in ("demosaic", "restore")
        if isinstance(source, Path) and raw.is_raw_path(source):
            if not mosaics:
                raise ImageError(f"{source} is a camera raw file: run `dagl restore` or `dagl demosaic` on it")
            negative = raw.read(source, max_pixels=self.max_pixels)
            picture = images.Image(negative.mosaic[..., None], depth=16, format=images.SUFFIXES[raw.RESULT_SUFFIX])
            picture = replace(picture, exif=images.raw_exif(source), icc=images.srgb_profile())
        else:
            picture = images.read(source, name=name, max_pixels=self.max_pixels)
        pixels = picture.pixels
        if self.task != "demosaic" and is_gray(pixels):
            pixels = pixels[..., :1]
        return Case(picture, pixels, negative.pattern if negative else self.pattern, negative)

    def _treated(self, case: Case, progress: Tick | None) -> tuple[Outcome, images.Image]:
        """What was done, and the picture with it done: step by step, each on the result of the one before."""
        outcome, notes, models = Outcome("unchanged"), [], []
        for task in self._tasks(case):
            finding = self._examine(case, task)
            notes.append(finding.nothing or finding.note)
            outcome.sigma = finding.sigma if finding.sigma is not None else outcome.sigma
            outcome.quality = finding.quality if finding.quality is not None else outcome.quality
            if finding.nothing:
                continue
            restorer = self.restorer(case.pixels.shape[-1], finding.task or task)
            told = finding.level if restorer.config.noise_map else None
            level = self.sigma if self.sigma is not None else told
            if restorer.config.task == "denoise" and case.pixels.shape[-1] < restorer.config.channels:
                notes.append("a model for colour leaves much of a gray picture's noise: leave `model` out")
            x = torch.from_numpy(case.pixels).permute(2, 0, 1)
            pixels = run(restorer, x, level, case.pattern, progress).permute(1, 2, 0).numpy()
            if task == "demosaic" and case.negative:
                pixels = raw.develop(pixels, case.negative)
            case = replace(case, pixels=pixels)
            models.append(restorer.name)
            outcome.status = "restored"
        if outcome.status == "restored" and len(notes) > 1:  # of several steps only what was done is told
            notes = [note for note in notes if note and "left as it is" not in note]
        outcome.model, outcome.note = " + ".join(models) or None, "; ".join(filter(None, notes)) or None
        channels = max(case.picture.pixels.shape[-1], case.pixels.shape[-1])
        pixels = case.pixels if case.pixels.shape[-1] == channels else case.pixels.repeat(channels, -1)
        return outcome, replace(case.picture, pixels=pixels)

    def _tasks(self, case: Case) -> list[str]:
        """What is looked for, in this order."""
        if self.task == "demosaic":
            return ["demosaic", "real"] if self.denoise else ["demosaic"]
        if self.task != "restore":
            return [self.task]
        if case.negative:
            return ["demosaic", "real"]
        pattern = kind.mosaic_pattern(case.pixels)
        if pattern is None:
            return ["dejpeg", "denoise"]
        if pattern in BAYER_PATTERNS:
            case.pattern = pattern
        return ["demosaic", "real"]

    def _examine(self, case: Case, task: str) -> Finding:
        """What the picture needs from a model of a task."""
        if task == "demosaic":
            return self._examine_mosaic(case)
        if task == "dejpeg":
            found = guard.compression(case.pixels, case.picture.jpeg_tables)
            several = self.task == "restore" and found.nothing is None and kind.drawing(case.pixels) is None
            if several and (found.quality or 100) > MILD and guard.noise(case.pixels).task == "real":
                return Finding(quality=found.quality, nothing="left to the model of camera noise: left as it is")
            found.nothing = None if self.force else found.nothing
            return found
        config = self.restorer(case.pixels.shape[-1], task).config if self.model and task == self.task else None
        if self.sigma == 0:
            return Finding(nothing="no noise to remove: left as it is")
        if self.sigma is not None or (config and not config.noise_map):
            return self._blind(case, config)
        iso = images.iso_setting(case.picture.exif)
        if task == "real" or (config and config.task == "real"):
            found = guard.camera_noise(case.pixels, iso)
            if case.negative and case.negative.noise is not None:
                found = self._profiled(case, found)
            return replace(found, task=task)
        found = guard.noise(case.pixels, iso)
        return replace(found, task=task) if config else found

    def _blind(self, case: Case, config: ModelConfig | None) -> Finding:
        """For a level that the user gives, or a model that takes none."""
        if self.sigma is None and config and config.task == "real":
            return Finding(nothing=guard.camera_noise(case.pixels).nothing)
        return Finding()

    def _profiled(self, case: Case, found: Finding) -> Finding:
        """The level that a raw file's own noise profile gives, instead of the one estimated."""
        assert case.negative is not None
        rms = noise_rms(case.negative, self.restorer(3, "demosaic"))
        if rms < CLEAN_PROFILE:
            return Finding(rms, nothing="no noise by the file's noise profile: left as it is")
        return Finding(rms, note="level from the file's noise profile", task=found.task)

    def _examine_mosaic(self, case: Case) -> Finding:
        if case.picture.orientation != 1:
            turned = f"a mosaic with EXIF orientation {case.picture.orientation} is turned"
            raise DaglError(f"{turned}: save it without that tag")
        if case.negative:
            return Finding(note=case.negative.summary)
        found = guard.mosaic(case.pixels)
        if found.nothing:
            raise DaglError(f"{found.nothing}: `dagl restore` finds out what it needs")
        return Finding(note=f"a Bayer mosaic, {case.pattern}" if self.task == "restore" else None)

    def _unchanged(self, case: Case, target: Path | BinaryIO) -> images.Image | bytes:
        """The file itself where that is possible: no JPEG is encoded again for nothing."""
        same_format = not isinstance(target, Path) or images.SUFFIXES[target.suffix.lower()] == case.picture.format
        return case.picture.encoded if same_format and not self.strip_metadata else case.picture


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImageError(f"cannot make the folder {folder}: {error.strerror}") from None
