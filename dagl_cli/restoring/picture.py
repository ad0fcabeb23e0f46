"""One picture and what is done to it, step by step: the same for files and for Python."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from ..config import (
    DEFAULT_PATTERN,
    TASKS,
    ModelConfig,
    Options,
    check_pattern,
    check_sigma,
    is_of_mosaics,
    model_config,
)
from ..degrade import bayer_mosaic
from ..errors import DaglError, WeightsError
from ..images import Image, iso_setting
from ..images.raw import Raw, develop
from ..store import weights
from . import guard, kind
from .device import pick_device
from .guard import Finding
from .rawnoise import estimated_profile, level_map
from .restorer import (
    Kept,
    Restorer,
    Warn,
    blended,
    can_do,
    check_input,
    check_options,
    check_task,
    find_model,
    load_model,
    unsaid,
)
from .tiling import Tick

MILD = 75
"""JPEGs above this quality that have camera noise are left to its model, which knows them from its training."""
UNSEEN = f"nothing of it can be seen (alpha is 0, or no value is a number): {guard.LEFT}"


@dataclass
class Outcome:
    """What happened to one picture."""

    status: str
    """'restored', or 'unchanged' where the image needs nothing; 'partial' where only the frames before a damaged
    one could be restored; from `batch` also 'skipped' (the output exists), 'failed' and 'planned' (it would be
    restored)."""
    sigma: float | None = None
    """The estimated noise level, where it was estimated."""
    quality: int | None = None
    """The estimated quality of a JPEG."""
    model: str | None = None
    digest: str | None = None
    """SHA-256 of the model's file."""
    precision: str | None = None
    """What the network computed in, one of `PRECISIONS`."""
    backend: str | None = None
    """What ran it, one of `BACKENDS`."""
    note: str | None = None
    seconds: float = 0.0


@dataclass
class Case:
    """A picture that is to be restored, as far as it is."""

    picture: Image
    """As it came."""
    pixels: np.ndarray
    """What a network is to see: (H, W, C), one channel where all are equal, hidden pixels filled."""
    pattern: str
    """Bayer pattern, for a mosaic."""
    hidden: np.ndarray | None = None
    """(H, W) bool: pixels that are wholly transparent or no numbers, if there are any."""
    gain: float = 1.0
    """What a noise level that the user gives becomes here, where the picture is a plane of one."""
    negative: Raw | None = None
    """How to develop a camera raw file, whose picture is a mosaic."""

    def seen(self) -> np.ndarray:
        """What is to be judged by: the picture, or of a cut-out a large rectangle without hidden pixels."""
        return self.pixels if self.hidden is None else self.pixels[largest_rectangle(~self.hidden)]

    def result(self) -> Image:
        """The picture as it is now, with the channels that it came with or more; what is hidden stays as it was."""
        channels = max(self.picture.pixels.shape[-1], self.pixels.shape[-1])
        pixels = self.pixels if self.pixels.shape[-1] == channels else self.pixels.repeat(channels, -1)
        if self.hidden is not None:
            pixels = np.where(self.hidden[..., None], self.picture.pixels, pixels)
        return replace(self.picture, pixels=pixels)


def case_of(picture: Image, task: str, pattern: str, negative: Raw | None = None) -> Case:
    """A picture with what is hidden filled, and as gray where it is."""
    pixels, hidden = picture.pixels, picture.missing()
    if picture.alpha is not None and not picture.alpha.all() and not is_of_mosaics(task):
        hidden = (picture.alpha == 0) | (False if hidden is None else hidden)
    if hidden is not None and not hidden.all():
        pixels = filled(pixels, hidden)
    if not is_of_mosaics(task) and is_gray(pixels):
        pixels = pixels[..., :1]
    return Case(picture, pixels, negative.pattern if negative else pattern, hidden, negative=negative)


def is_gray(pixels: np.ndarray) -> bool:
    """Whether (H, W, C) holds one channel, or three that are equal: then a gray model restores it best."""
    return all(np.array_equal(pixels[..., 0], pixels[..., channel]) for channel in range(1, pixels.shape[-1]))


def filled(pixels: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """(H, W, C) whose hidden pixels have the colour of the nearest one that is seen. hidden: (H, W) bool, not all."""
    from scipy.ndimage import distance_transform_edt

    rows, columns = distance_transform_edt(hidden, return_distances=False, return_indices=True)
    return np.ascontiguousarray(pixels[rows, columns])


def largest_rectangle(seen: np.ndarray) -> tuple[slice, slice]:
    """Of (H, W) bool a large rectangle that is all true, on a grid of at most 32x32 cells; all where it is small."""
    cell = max(16, -(-max(seen.shape) // 32))
    rows, columns = (n // cell for n in seen.shape)
    cells = np.logical_and.reduce(seen[: rows * cell, : columns * cell].reshape(rows, cell, columns, cell), (1, 3))
    best, area = (slice(None), slice(None)), 15  # fewer cells tell too little
    for top in range(rows):
        for bottom in range(top + 1, rows + 1):
            ends = np.flatnonzero(np.diff(np.pad(np.logical_and.reduce(cells[top:bottom]), 1)))
            for left, right in ends.reshape(-1, 2):
                if (right - left) * (bottom - top) > area:
                    best = slice(top * cell, bottom * cell), slice(left * cell, right * cell)
                    area = (right - left) * (bottom - top)
    return best


def run(
    restorer: Restorer,
    pixels: np.ndarray,
    sigma: float | Tensor | None,
    pattern: str,
    depth: int,
    progress: Tick | None = None,
) -> np.ndarray:
    """(H, W, C) -> the same, C fitted to the model's: gray runs through a colour model as three equal channels.

    depth: bits that the result will be rounded to.
    """
    x, mosaic, config = torch.from_numpy(pixels).permute(2, 0, 1), is_of_mosaics(restorer.config.task), restorer.config
    if not mosaic and sigma == 0 and config.noise_map:  # nothing to remove; the network would still change a little
        restored = x.clamp(0, 1)
    elif not mosaic and len(x) < config.channels:
        colour = x.expand(config.channels, -1, -1).contiguous()
        restored = restorer(colour, sigma, pattern, progress, depth).mean(0, keepdim=True)
    else:
        restored = restorer(x, sigma, pattern, progress, depth)
    return restored.permute(1, 2, 0).numpy()


@dataclass
class MosaicNoise:
    """What noise a mosaic's samples have."""

    levels: Tensor
    """(H, W): the deviation of every sample, on the 0-255 scale."""
    source: str
    """Where this is from, in words."""

    @property
    def rms(self) -> float:
        return float(self.levels.square().mean().sqrt())


def mosaic_noise(case: Case) -> MosaicNoise | None:
    """By the profile of a raw file, or else as it is estimated; None for mosaics that are too small for that."""
    x = torch.from_numpy(case.pixels).permute(2, 0, 1)
    samples = bayer_mosaic(x.expand(3, -1, -1)[None], case.pattern)[0].sum(0).clamp(0, 1)
    profile, source = (case.negative.noise if case.negative else None), "the file's noise profile"
    if profile is None:
        gains = case.negative.gains if case.negative else np.ones((2, 2))
        profile, source = estimated_profile(samples.numpy(), case.pattern, gains), "an estimate"
    return None if profile is None else MosaicNoise(level_map(samples, profile), source)


class PictureRestorer:
    """Restores pictures of one task; loads each model once, when the first picture needs it.

    Args:
        task, model, options, warn, kept: as for `load_model`; or the task 'restore', which finds out what each picture
            needs: a raw file is demosaiced without its noise, a mosaic first demosaiced, then without noise; of
            pictures JPEG artifacts are removed, then noise.
        sigma: noise level, None: estimated for every picture, and so is its kind where the task is 'denoise'.
        pattern: Bayer pattern, for demosaicing; camera raw files have their own.
        force: remove JPEG artifacts where none are seen, too.
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
        warn: Warn = unsaid,
        kept: Kept | None = None,
    ) -> None:
        if sigma is not None:
            check_sigma(sigma)
        check_pattern(pattern)
        self.task, self.model, self.sigma, self.pattern, self.options = task, model, sigma, pattern, options
        self.force, self.warn, self.kept = force, warn, kept
        self._restorers: dict[tuple[str, int], Restorer] = {}

    def restorer(self, channels: int, task: str | None = None) -> Restorer:
        """The model for gray (1) or colour (3) images."""
        task = task or self.task
        channels = 3 if is_of_mosaics(task) else channels
        if (task, channels) not in self._restorers:
            self._restorers[task, channels] = load_model(
                task, channels, model=self._model_for(task), options=self._options(task), warn=self.warn, kept=self.kept
            )
        return self._restorers[task, channels]

    def use(self, restorer: Restorer) -> None:
        """Takes a loaded model for its task. Raises UsageError for one of another task."""
        check_task(restorer.config.task, self.task, restorer.name)
        self.model = restorer.name
        for channels in (1, 3):
            self._restorers[self.task, channels] = restorer

    def described(self, channels: int, task: str | None = None) -> tuple[ModelConfig, str]:
        """Configuration and name of the model for gray (1) or colour (3) images, without loading or fetching it."""
        task = task or self.task
        channels = 3 if is_of_mosaics(task) else channels
        if (task, channels) in self._restorers:
            return self._restorers[task, channels].config, self._restorers[task, channels].name
        model = self._model_for(task)
        try:
            path = find_model(task, channels, model, offline=True)
        except WeightsError:
            on_hub = (model or "").startswith("hub:") or weights.repository() is not None
            if self.options.offline or not on_hub:
                raise
            return model_config("lite", task, max(channels, min(TASKS[task].channels))), str(model)
        config, _, _ = weights.describe(path)
        check_task(config.task, task, str(path))
        check_options(config, self._options(task))
        return config, path.stem

    def _model_for(self, task: str) -> str | None:
        """The model that was given, where it is for this task: of the steps of 'restore' for the one it is made for."""
        if self.model is None or task == self.task:
            return self.model
        return self.model if self.task == "restore" and can_do(self._made_for, task) else None

    @functools.cached_property
    def _made_for(self) -> str:
        """The task of the model that was given to 'restore'."""
        return weights.describe(find_model("denoise", 3, self.model, offline=self.options.offline))[0].task

    def _options(self, task: str) -> Options:
        whole = is_of_mosaics(task) and self.task in ("restore", "raw")  # a blend is of pictures only
        return replace(self.options, strength=1.0) if whole else self.options

    def examined(self, case: Case) -> dict[str, Finding]:
        """What a picture needs, by task, as far as no network has to do anything before."""
        found: dict[str, Finding] = {}
        for task in () if case.hidden is not None and case.hidden.all() else self._tasks(case):
            found[task] = self._examine(case, task)
            if not found[task].nothing:
                break
        return found

    def treated(
        self, case: Case, progress: Tick | None = None, found: Mapping[str, Finding] = MappingProxyType({})
    ) -> tuple[Outcome, Image]:
        """What was done, and the picture with it done: step by step, each on the result of the one before.

        found: what is known of what the picture needs, by task (`agreed`, `examined`). The rest is found out.
        """
        if case.hidden is not None and case.hidden.all():
            return Outcome("unchanged", note=UNSEEN), case.picture
        models: list[Restorer] = []
        outcome, notes, left = Outcome("unchanged"), list[str | None](), list[Finding]()
        precisions: list[str] = []
        backends: list[str] = []
        for task in self._tasks(case):
            finding = found[task] if task in found else self._examine(case, task)
            outcome.sigma = finding.sigma if finding.sigma is not None else outcome.sigma
            outcome.quality = finding.quality if finding.quality is not None else outcome.quality
            if finding.nothing:
                left.append(finding)
                continue
            notes.append(finding.note)
            restorer = self.restorer(case.pixels.shape[-1], finding.task or task)
            if restorer.config.task == "denoise" and case.pixels.shape[-1] < restorer.config.channels:
                notes.append("a model for colour leaves much of a gray picture's noise: leave `model` out")
            case = self._done(case, task, finding, progress)
            models.append(restorer)
            precisions.append(restorer.precision(case.picture.depth, min(case.pixels.shape[:2])))
            backends.append(restorer.backend)
            outcome.status = "restored"
        if not models:  # of several steps only what was done is told
            notes.append(self.left(left))
        outcome.precision = " + ".join(dict.fromkeys(precisions)) or None
        outcome.backend = " + ".join(dict.fromkeys(backends)) or None
        outcome.model = " + ".join(restorer.name for restorer in models) or None
        outcome.digest = " + ".join(restorer.digest for restorer in models if restorer.digest) or None
        outcome.note = "; ".join(filter(None, notes)) or None
        return outcome, case.result()

    def _done(self, case: Case, task: str, finding: Finding, progress: Tick | None = None) -> Case:
        """A picture after one step."""
        restorer = self.restorer(case.pixels.shape[-1], finding.task or task)
        pixels = run(
            restorer,
            case.pixels,
            self._level(finding, restorer.config, case),
            case.pattern,
            case.picture.depth,
            progress,
        )
        if restorer.config.task == "raw" and self.options.blends:  # with the noisy picture
            noisy = run(self.restorer(3, "demosaic"), case.pixels, None, case.pattern, case.picture.depth)
            whole, clean = (torch.from_numpy(x).permute(2, 0, 1) for x in (noisy, pixels))
            pixels = blended(whole, clean, self.options).clamp_(0, 1).permute(1, 2, 0).numpy()
        if is_of_mosaics(task) and case.negative:
            pixels = develop(pixels, case.negative)
        return replace(case, pixels=pixels)

    def agreed(self, cases: Sequence[Case], alike: bool = True) -> dict[str, Finding]:
        """What all pictures of a sequence need, by task, found out on some of them; empty where they differ.

        alike: they show the same scene, so what most of them need is done to all.
        """
        seen = [case for case in cases if case.hidden is None or not case.hidden.all()]
        found: dict[str, Finding] = {}
        for task in self._tasks(seen[0]) if seen else []:
            finding = guard.agreed([self._examine(case, task) for case in seen], alike)
            if finding is None:
                return {}
            found[task] = finding
            if not finding.nothing and task != self._tasks(seen[0])[-1]:
                seen = [self._done(case, task, finding) for case in seen]
        return found

    def foreseen(self, case: Case) -> Outcome:
        """What `treated` would do, and its errors, without restoring; of several steps, up to the first one needed.

        Weights that would come from the Hub are not looked at.
        """
        pick_device(self.options.device)
        if case.hidden is not None and case.hidden.all():
            return Outcome("unchanged", note=UNSEEN)
        left: list[Finding] = []
        for task in self._tasks(case):
            finding = self._examine(case, task)
            if finding.nothing:
                left.append(finding)
                continue
            config, name = self.described(case.pixels.shape[-1], finding.task or task)
            x = torch.from_numpy(case.pixels).permute(2, 0, 1)
            x = x.expand(config.channels, -1, -1) if len(x) < config.channels and not is_of_mosaics(task) else x
            check_input(config, name, x, self._level(finding, config, case), case.pattern)
            return Outcome("planned", finding.sigma, finding.quality, name, note=finding.note)
        return Outcome("unchanged", finding.sigma, finding.quality, note=self.left(left))

    def left(self, findings: Sequence[Finding]) -> str:
        """Why a picture is left as it is, in a line. What decides otherwise are other commands' flags in 'restore'."""
        if self.task == "restore":
            return f"{', '.join(dict.fromkeys(str(finding.nothing) for finding in findings))}: {guard.LEFT}"
        return "; ".join(finding.left for finding in findings)

    def _level(self, finding: Finding, config: ModelConfig, case: Case) -> float | Tensor | None:
        """The noise level that a network is told."""
        if self.sigma is not None:
            return self.sigma * case.gain
        return (finding.level if finding.levels is None else finding.levels) if config.noise_map else None

    def _tasks(self, case: Case) -> list[str]:
        """What is looked for, in this order."""
        if case.negative and self.task == "restore":
            return ["raw"]
        if self.task == "raw" and not (case.negative or self.model):
            return ["demosaic", "real"]  # the colours of finished pictures, which the model for raw files has not seen
        if self.task != "restore":
            return [self.task]
        patterns = () if case.picture.tone else kind.mosaic_patterns(case.pixels)
        if len(patterns) == 2 and kind.drawing(case.pixels):  # dots of a dither alternate too
            patterns = ()
        if len(patterns) == 1:
            (case.pattern,) = patterns
        return ["demosaic", "real"] if patterns else ["dejpeg", "denoise"]

    def _examine(self, case: Case, task: str) -> Finding:
        """What the picture needs from a model of a task."""
        if is_of_mosaics(task):
            found = self._examine_mosaic(case)
            return self._noise_of_mosaic(case, found) if task == "raw" else found
        if task == "dejpeg":
            found = guard.compression(case.seen(), case.picture.jpeg_tables)
            several = self.task == "restore" and found.nothing is None and kind.drawing(case.seen()) is None
            if several and (found.quality or 100) > MILD and guard.noise(case.seen()).task == "real":
                return Finding(quality=found.quality, nothing="left to the model of camera noise")
            found.nothing = None if self.force else found.nothing
            return found
        named = self._model_for(task)
        config = self.described(case.pixels.shape[-1], task)[0] if named else None
        if self.sigma == 0:
            return Finding(nothing="no noise to remove")
        if self.sigma is not None or (config and not config.noise_map):
            return self._blind(case, config)
        iso = iso_setting(case.picture.exif)
        if task == "real" or (config and config.task == "real"):
            asked = self.task == "real" or bool(config)
            return replace(guard.camera_noise(case.seen(), iso, asked), task=task)
        found = guard.noise(case.seen(), iso)
        return replace(found, task=task) if config else found

    def _blind(self, case: Case, config: ModelConfig | None) -> Finding:
        """For a level that the user gives, or a model that takes none."""
        if self.sigma is None and config and config.task == "real":
            found = guard.camera_noise(case.seen())
            return Finding(nothing=found.nothing, decides=found.decides)
        return Finding()

    def _noise_of_mosaic(self, case: Case, found: Finding) -> Finding:
        """With its noise: which model it needs, and what that is told. found: what else there is to say."""
        if self.sigma is not None:
            return found
        measured = mosaic_noise(case)
        if measured is None:
            task, said = "demosaic", "too small or too dark to find noise in: demosaiced only"
        else:
            task, said = "raw", f"noise of the samples by {measured.source}"
            found = replace(found, sigma=measured.rms, levels=measured.levels)
        return replace(found, task=task, note="; ".join(filter(None, [found.note, said])))

    def _examine_mosaic(self, case: Case) -> Finding:
        found = Finding() if case.negative or case.picture.tone else guard.mosaic(case.pixels, case.pattern)
        if found.nothing:
            remedy = "give its `pattern`" if found.decides else "`dagl restore` finds out what it needs"
            raise DaglError(f"{found.nothing}: {remedy}")
        if case.picture.orientation != 1:
            turned = f"a mosaic with EXIF orientation {case.picture.orientation} is turned"
            raise DaglError(f"{turned}: save it without that tag")
        if case.negative:
            return Finding(note=case.negative.summary)
        if case.picture.tone:
            raise DaglError("its samples are floating-point, and a mosaic's are integers: save it as a 16-bit TIFF")
        if case.pixels.shape[-1] == 1:
            return Finding(note=f"a Bayer mosaic, taken for {case.pattern}; `pattern` decides otherwise")
        return Finding(note=f"a Bayer mosaic, {case.pattern}" if self.task == "restore" else None)
