"""One file restored into another: everything that is not a pixel of the picture goes along, and nothing is lost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from .. import images
from ..config import DEFAULT_PATTERN, MAX_PIXELS, ModelConfig, Options, check_pattern, check_sigma
from ..errors import DaglError, ImageError
from ..images import raw
from . import guard
from .device import is_out_of_memory
from .guard import Finding
from .pixels import is_gray, run
from .restorer import Restorer, Warn, load_model
from .tiling import Tick


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
        task, model, options, warn: as for `load_model`.
        sigma: noise level, None: estimated for every file.
        pattern: Bayer pattern, for demosaicing; camera raw files have their own.
        force: remove JPEG artifacts where none are seen, too.
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
        options: Options = Options(),
        strip_metadata: bool = False,
        max_pixels: int = MAX_PIXELS,
        warn: Warn = lambda line: None,
    ) -> None:
        if sigma is not None:
            check_sigma(sigma)
        check_pattern(pattern)
        self.task, self.model, self.sigma, self.pattern, self.options = task, model, sigma, pattern, options
        self.force, self.strip_metadata, self.max_pixels, self.warn = force, strip_metadata, max_pixels, warn
        self._restorers: dict[int, Restorer] = {}

    def restorer(self, channels: int) -> Restorer:
        """The model for gray (1) or colour (3) images."""
        if self.task == "demosaic":
            channels = 3
        if channels not in self._restorers:
            self._restorers[channels] = load_model(
                self.task, channels, model=self.model, options=self.options, warn=self.warn
            )
        return self._restorers[channels]

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
        restorer = self.restorer(case.pixels.shape[-1])
        if isinstance(target, Path):
            _make_folder(target.parent)
        images.check_target(case.picture, target, overwrite=overwrite, strip_metadata=self.strip_metadata)
        try:
            finding = self._examine(case, restorer.config)
            outcome = Outcome("restored", finding.sigma, finding.quality, restorer.name, finding.note)
            result: images.Image | bytes
            if finding.nothing:
                outcome = replace(outcome, status="unchanged", model=None, note=finding.nothing)
                result = self._unchanged(case, target)
            else:
                result = self._restored(case, restorer, finding, progress)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise DaglError("out of memory: close other programs, or make the image smaller") from None
        notes = images.write(result, target, strip_metadata=self.strip_metadata, overwrite=overwrite)
        if not isinstance(result, bytes):  # what was left out of the file
            outcome.note = "; ".join(filter(None, [outcome.note, *case.picture.notes, *notes])) or None
        return outcome

    def _read(self, source: Path | bytes, name: str | None) -> Case:
        negative = None
        if isinstance(source, Path) and raw.is_raw_path(source):
            if self.task != "demosaic":
                raise ImageError(f"{source} is a camera raw file: run `dagl demosaic` on it first")
            negative = raw.read(source, max_pixels=self.max_pixels)
            picture = images.Image(negative.mosaic[..., None], depth=16, format=images.SUFFIXES[raw.RESULT_SUFFIX])
            picture = replace(picture, exif=images.raw_exif(source), icc=images.srgb_profile())
        else:
            picture = images.read(source, name=name, max_pixels=self.max_pixels)
        if self.task == "demosaic" and picture.orientation != 1:
            raise DaglError(f"a mosaic with EXIF orientation {picture.orientation} is turned: save it without that tag")
        pixels = picture.pixels
        if self.task != "demosaic" and is_gray(pixels):
            pixels = pixels[..., :1]
        return Case(picture, pixels, negative.pattern if negative else self.pattern, negative)

    def _examine(self, case: Case, config: ModelConfig) -> Finding:
        """What the picture needs from a model."""
        gray_in_colour = config.noise_map and case.pixels.shape[-1] < config.channels
        if config.noise_map and self.sigma == 0:
            found = Finding(nothing="no noise to remove: left as it is")
        elif config.noise_map and self.sigma is None:
            found = guard.noise(case.pixels)
        elif self.task == "dejpeg":
            found = guard.compression(case.pixels, case.picture.jpeg_tables)
            found.nothing = None if self.force else found.nothing
        else:
            found = Finding()
        if case.negative:
            found.note = case.negative.summary
        elif self.task == "demosaic" and (case.pixels > 0).sum(-1, dtype=np.uint8).max() > 1:
            found.note = f"a whole picture, not a mosaic: of each pixel only the sample of {case.pattern} was used"
        elif gray_in_colour and not found.note:
            found.note = "a model for colour leaves much of a gray picture's noise: leave `model` out"
        return found

    def _restored(self, case: Case, restorer: Restorer, finding: Finding, progress: Tick | None) -> images.Image:
        level = self.sigma if self.sigma is not None else finding.level
        x = torch.from_numpy(case.pixels).permute(2, 0, 1)
        pixels = run(restorer, x, level, case.pattern, progress).permute(1, 2, 0).numpy()
        if case.negative:
            pixels = raw.develop(pixels, case.negative)
        if pixels.shape[-1] < case.picture.pixels.shape[-1]:
            pixels = pixels.repeat(case.picture.pixels.shape[-1], -1)
        return replace(case.picture, pixels=pixels)

    def _unchanged(self, case: Case, target: Path | BinaryIO) -> images.Image | bytes:
        """The file itself where that is possible: no JPEG is encoded again for nothing."""
        same_format = not isinstance(target, Path) or images.SUFFIXES[target.suffix.lower()] == case.picture.format
        return case.picture.encoded if same_format and not self.strip_metadata else case.picture


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImageError(f"cannot make the folder {folder}: {error.strerror}") from None
