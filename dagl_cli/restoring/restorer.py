"""The pipeline, read top to bottom: model and device -> tiles -> network -> stitched image -> file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .. import images
from ..config import TASKS
from ..degrade import (
    BAYER_PATTERNS,
    PAPER_PATTERN,
    bayer_masks,
    bayer_mosaic,
    estimate_jpeg_quality,
    estimate_sigma,
    jpeg_blockiness,
)
from ..errors import DaglError, ImageError, UsageError
from ..images import raw
from ..nn.model import DAGL
from ..store import weights
from . import tiling

Progress = Callable[[int, int], None]
Warn = Callable[[str], None]

SMALLEST_TILE = 64
"""After running out of memory the tile is halved down to this; then the CPU takes over."""
HIGHEST_SIGMA = 75.0
"""The models are trained on noise levels from 0 to this."""
DEFAULT_PATTERN = "RGGB"
"""Of the mosaics that users bring: most cameras' pattern."""
RANGES = {"uint8": 255, "uint16": 65535}
"""Highest level of the integer types that `restore` takes."""
CLEAN_SIGMA = 0.7
"""An estimated noise level below this is none (8-bit rounding alone is 0.29): the image is left as it is."""
CLEAN_QUALITY = 94
"""From this estimated quality on the models harm too many JPEGs (3 of 18 colour images at 94, 6 at 95): the file is
left as it is, unless it shows the blocks of an earlier JPEG."""
EARLIER_BLOCKINESS = 0.2
"""A JPEG of such a quality whose `degrade.jpeg_blockiness` is at least this was compressed harder before."""
CLEAN_BLOCKINESS = 0.04
"""Any other file whose `degrade.jpeg_blockiness` is below this was never compressed, and is left as it is."""


@dataclass(frozen=True)
class Options:
    """How to run a model. The defaults serve any image on any machine."""

    device: str = "auto"
    """'auto', 'cpu', 'cuda' (or 'cuda:1'), 'mps'."""
    precision: str = "auto"
    """'fp32', 'bf16', 'fp16', or 'auto': bf16 on CUDA and fp32 elsewhere."""
    tile: int | None = None
    """Largest side of the tiles in pixels; None: what the model advises (`ModelConfig.tile`)."""
    overlap: int | None = None
    """Pixels that neighbouring tiles share at least, up to half a tile; None: what the model advises."""
    ensemble: bool = False
    """Average over the 8 flips and rotations: better by about 0.1 dB, 8 times slower."""
    strength: float = 1.0
    """1: the restored image; 0: the input; between: a blend of the two."""
    tiling: str = "blend"
    """'blend', 'whole', or 'chop' (as the paper's release cuts)."""
    offline: bool = False
    """Request nothing from the network: weights are bundled, imported, or in the Hub's cache."""

    def __post_init__(self) -> None:
        if self.precision not in ("auto", "fp32", "bf16", "fp16"):
            raise UsageError(f"--precision {self.precision} is unknown: choose auto, fp32, bf16 or fp16")
        if self.tile is not None and self.tile < SMALLEST_TILE:
            raise UsageError(f"--tile {self.tile} is too small: use at least {SMALLEST_TILE}")
        if self.overlap is not None and self.overlap < 0:
            raise UsageError(f"--overlap {self.overlap} must be 0 or more")
        if not 0 <= self.strength <= 1:
            raise UsageError(f"--strength {self.strength} must be between 0 and 1")
        if self.tiling not in ("blend", "whole", "chop"):
            raise UsageError(f"tiling '{self.tiling}' is unknown: choose blend, whole or chop")


class Restorer:
    """A network on a device, ready to restore images of any size.

    Args:
        model: a DAGL in eval mode.
        options: how to run it.
        name: what to call the weights in messages.
        warn: called with one line when tiles must shrink or the CPU take over.
    """

    def __init__(
        self, model: DAGL, options: Options = Options(), name: str = "model", warn: Warn = lambda line: None
    ) -> None:
        self.config, self.name, self.options, self.warn = model.config, name, options, warn
        if self.config.task == "demosaic" and options.strength != 1:
            raise UsageError("--strength is not for demosaicing: a mosaic is no image that could be blended in")
        self.tile = self._first_tile
        self.overlap = self.config.tile[1] if options.overlap is None else options.overlap
        if options.overlap is not None and self.overlap > self.tile // 2:
            raise UsageError(f"--overlap {self.overlap} must be at most half of --tile, which is {self.tile}")
        self.device = pick_device(options.device)
        self.model = model.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def __call__(
        self,
        x: Tensor,
        sigma: float | None = None,
        pattern: str = PAPER_PATTERN,
        progress: Progress | None = None,
    ) -> Tensor:
        """Restore one image, tile by tile.

        x: (C, H, W) float32 on the CPU, range [0, 1], C as the model's. For demosaicing x is (1, H, W), the
        sensor's mosaic, or (3, H, W), of which the samples that `pattern` measures are used; DaglError if the zeros
        there are those of another pattern.
        sigma: noise level on the 0-255 scale; only and always for models with a noise map.
        Returns (C_out, H, W) float32, clipped to [0, 1]. Out of memory, the tiles shrink, then the CPU takes over,
        for this and all later images.
        """
        if (sigma is None) == self.config.noise_map:
            raise UsageError(f"{self.name} {'needs' if self.config.noise_map else 'takes no'} --sigma")
        if self.config.task != "demosaic":
            if x.shape[0] != self.config.channels:
                kind = {1: "gray", 3: "colour"}[self.config.channels]
                found = f"{self.name} is a model for {kind} images, this one has {x.shape[0]} channel(s)"
                raise DaglError(f"{found}: choose another --model")
            run = tiling.ensemble_x8(self._network(sigma)) if self.options.ensemble else self._network(sigma)
            restored = self._tiled(run, x, progress)
            return (x.lerp(restored, self.options.strength) if self.options.strength < 1 else restored).clamp_(0, 1)
        if pattern not in BAYER_PATTERNS:
            raise UsageError(f"--pattern {pattern} is unknown: choose one of {', '.join(BAYER_PATTERNS)}")
        mosaic = bayer_mosaic(x.expand(3, -1, -1)[None], pattern)[0]
        if x.shape[0] == 3 and not torch.equal(mosaic, x):  # a whole picture, or masked by another pattern
            for other in BAYER_PATTERNS:
                if torch.equal(bayer_mosaic(x[None], other)[0], x):
                    raise DaglError(f"--pattern {pattern} is not this mosaic's: its zeros say --pattern {other}")
        if not self.options.ensemble:
            return self._demosaic(mosaic, pattern, progress)
        total = torch.zeros_like(mosaic)
        height, width = mosaic.shape[-2:]
        colours = bayer_masks(height, width, pattern).int().argmax(0)  # (H, W): 0, 1, 2 for R, G, B
        for i in range(8):  # a turned mosaic has another pattern: each is restored as what it is
            turned = tiling.turn(mosaic, i)
            seen = "".join("RGB"[c] for c in tiling.turn(colours, i)[:2, :2].flatten())
            step = None if progress is None else lambda d, n, i=i: progress(i * n + d, 8 * n)
            total += tiling.turn_back(self._demosaic(turned, seen, step), i)
        return total / 8

    def _demosaic(self, mosaic: Tensor, pattern: str, progress: Progress | None) -> Tensor:
        """Any pattern becomes the trained one, on whole cells, by mirroring a row or column on the outside."""
        height, width = mosaic.shape[-2:]
        left, top = pattern in ("RGGB", "GBRG"), pattern in ("BGGR", "GBRG")
        if height < 2 or width < 2:
            raise DaglError(f"a mosaic of {width}x{height} pixels does not hold a whole Bayer cell: give 2x2 or more")
        sides = (int(left), (width + left) % 2, int(top), (height + top) % 2)  # mirroring keeps the colours' places
        padded = F.pad(mosaic[None], sides, mode="reflect")[0]
        restored = self._tiled(self._network(None), padded, progress).clamp_(0, 1)
        return restored[:, int(top) : int(top) + height, int(left) : int(left) + width]

    def _network(self, sigma: float | None) -> tiling.Restorer:
        def run(batch: Tensor) -> Tensor:
            batch = batch.to(self.device, memory_format=torch.channels_last)
            dtype = self.dtype
            with torch.inference_mode(), torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
                return self.model(batch, sigma).float()

        return run

    @property
    def dtype(self) -> torch.dtype:
        """What the network computes in; weights and results stay float32."""
        auto = "bf16" if self.device.type == "cuda" else "fp32"
        chosen = auto if self.options.precision == "auto" else self.options.precision
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[chosen]

    @property
    def _first_tile(self) -> int:
        return self.options.tile or self.config.tile[0]

    def _tiled(self, run: tiling.Restorer, x: Tensor, progress: Progress | None) -> Tensor:
        while True:
            try:
                if self.options.tiling == "whole":
                    return tiling.whole(run, x, progress=progress)
                if self.options.tiling == "chop":
                    return tiling.chop(run, x, margin=12 if self.config.task == "demosaic" else 24, progress=progress)
                overlap = min(self.overlap, self.tile // 2)
                return tiling.overlap_blend(run, x, self.tile, overlap, self.config.multiple, progress=progress)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            self._need_less_memory()

    def _need_less_memory(self) -> None:
        """Smaller tiles, or else the CPU. Raises DaglError when there is nothing left to try."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.options.tiling != "blend":
            raise DaglError(f"out of memory on {self.device}: --tiling blend takes less")
        if self.tile > SMALLEST_TILE:
            self.tile = max(SMALLEST_TILE, self.tile // 2)
            self.warn(f"out of memory on {self.device}: trying again with --tile {self.tile}")
        elif self.device.type != "cpu":
            self.device = torch.device("cpu")
            self.model = self.model.to("cpu")
            self.tile = self._first_tile
            self.warn("out of memory even with small tiles: going on with --device cpu")
        else:
            raise DaglError("out of memory with the smallest tiles on the CPU: close other programs")


def is_out_of_memory(error: BaseException) -> bool:
    """CUDA, MPS, cuDNN and the CPU allocator each say it in their own way; numpy raises MemoryError."""
    said = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, MemoryError) or any(words in str(error) for words in said)


def pick_device(name: str) -> torch.device:
    """'auto' is CUDA, then MPS, then the CPU. Raises UsageError for a device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type in ("cpu", "cuda", "mps"):
            torch.empty(1, device=device)
            return device
    except (RuntimeError, AssertionError, NotImplementedError):
        pass
    raise UsageError(f"--device {name} is not available on this machine: use --device auto or cpu")


def load_model(
    task: str = "denoise",
    channels: int = 3,
    *,
    model: str | Path | None = None,
    options: Options = Options(),
    warn: Warn = lambda line: None,
) -> Restorer:
    """A model by task, by bundled name, or from a weight file.

    Args:
        task: 'denoise', 'real', 'dejpeg' or 'demosaic'.
        channels: 1 for gray, 3 for colour; 'real' and 'demosaic' have colour models only.
        model: a path, a bundled or imported name (see `dagl weights list`), or `hub:OWNER/REPO[@REVISION][:FILE]`;
            None: the best bundled one for task and channels.
        options: device, precision, tiles.
        warn: called with one line when another model stands in, tiles must shrink, or the CPU takes over.

    As long as there is no model for 'real', the Gaussian denoiser stands in for it.
    Raises UsageError for an unknown task, WeightsError (exit code 4) when no weights fit.
    """
    if task not in TASKS:
        raise UsageError(f"task '{task}' is unknown: choose one of {', '.join(TASKS)}")
    if channels not in (1, 3):
        raise UsageError(f"channels must be 1 (gray) or 3 (colour), not {channels}")
    if task == "real" and model is None and not (weights.folder() / "real-color.safetensors").is_file():
        warn("there is no camera-noise model yet: the Gaussian denoiser runs at the estimated noise level")
        task = "denoise"

    def fetching(name: str, done: int, total: int | None) -> None:
        if done == 0:
            warn(f"fetching {name} from the Hub" + (f" ({total / 1e6:.1f} MB)" if total else ""))

    wanted = None if model is None else str(model)
    channels = max(channels, min(TASKS[task].channels))
    path = weights.resolve(wanted, task, channels, offline=options.offline, progress=fetching)
    network, _ = weights.load(path)
    _check_task(network.config.task, task, str(path))
    return Restorer(network, options, path.stem, warn)


def restore(
    image: np.ndarray | Tensor,
    task: str = "denoise",
    *,
    sigma: float | None = None,
    pattern: str = DEFAULT_PATTERN,
    model: str | Path | Restorer | None = None,
    options: Options = Options(),
) -> np.ndarray | Tensor:
    """Restore one image in memory; what comes in as an array or a tensor goes out as one.

    Args:
        image: NumPy array (H, W), (H, W, 1) or (H, W, 3), uint8, uint16 (0-65535) or float in [0, 1]; or torch tensor
            (1, H, W) or (3, H, W), float in [0, 1]. It is not changed.
        task: 'denoise', 'real', 'dejpeg' or 'demosaic'.
        sigma: noise level on the 0-255 scale whatever the dtype; None: estimated. Only for 'denoise' and 'real'.
        pattern: Bayer pattern of a mosaic, read from the top left: 'RGGB', 'BGGR', 'GRBG' or 'GBRG'.
        model: a name, a path, or what `load_model` returned (then `options` is not used).

    Returns the same kind, dtype and range, clipped to it; (H, W, 3) or (3, H, W) for demosaicing.
    Raises UsageError for NaN, wrong shapes or ranges.
    """
    pixels = _to_tensor(image)
    if sigma is not None:
        check_sigma(sigma)
    channels = len(pixels)
    if task != "demosaic" and _is_gray(pixels.permute(1, 2, 0).numpy()):
        pixels = pixels[:1]
    if isinstance(model, Restorer):
        restorer = model
        _check_task(restorer.config.task, task, restorer.name)
    else:
        restorer = load_model(task, pixels.shape[0], model=model, options=options)
    if sigma is None and restorer.config.noise_map:
        sigma = min(estimate_sigma(pixels.permute(1, 2, 0).numpy()) or 0.0, HIGHEST_SIGMA)
    restored = _run(restorer, pixels, sigma, pattern, None)
    if len(restored) < channels:
        restored = restored.repeat(channels, 1, 1)

    if isinstance(image, Tensor):
        return restored.to(image.device, image.dtype)
    array = restored.permute(1, 2, 0).numpy()
    array = array if task == "demosaic" else array.reshape(image.shape)
    top = RANGES.get(image.dtype.name)
    return array.astype(image.dtype) if top is None else np.rint(array * top).astype(image.dtype)


def _to_tensor(image: np.ndarray | Tensor) -> Tensor:
    """(C, H, W) float32 on the CPU, from what `restore` takes. Raises UsageError."""
    shape = tuple(image.shape)
    if 0 in shape:
        raise UsageError(f"an image of shape {shape} has no pixels")
    if isinstance(image, Tensor):
        if len(shape) != 3 or shape[0] not in (1, 3) or not image.is_floating_point():
            raise UsageError(f"a tensor must be (1, H, W) or (3, H, W) of floats, not {shape} of {image.dtype}")
        pixels = image.detach().to("cpu", torch.float32)
    else:
        if len(shape) not in (2, 3) or (*shape, 1)[2] not in (1, 3):
            raise UsageError(f"an array must be (H, W), (H, W, 1) or (H, W, 3), not {shape}: take alpha off first")
        top = RANGES.get(image.dtype.name)
        if top is None and not np.issubdtype(image.dtype, np.floating):
            raise UsageError(f"an array must be uint8, uint16 or float in [0, 1], not {image.dtype}")
        floats = np.ascontiguousarray(image, np.float32) / np.float32(top or 1)
        pixels = torch.from_numpy(floats.reshape(*shape[:2], -1)).permute(2, 0, 1)
    if not bool(((pixels >= -0.5) & (pixels <= 1.5)).all()):
        raise UsageError("pixel values must be finite and in [0, 1] (a little beyond is fine for noise)")
    return pixels


def check_sigma(sigma: float) -> None:
    """Raises UsageError unless sigma is in the range that the models are trained on."""
    if not 0 <= sigma <= HIGHEST_SIGMA:
        raise UsageError(f"--sigma {sigma:g} must be between 0 and {HIGHEST_SIGMA:g} (on the 0-255 scale)")


def _check_task(made_for: str, task: str, name: str) -> None:
    if made_for != task and (made_for, task) != ("denoise", "real"):
        raise UsageError(f"--model {name}: made for {made_for}, not for {task}: see `dagl weights list`")


def _is_gray(pixels: np.ndarray) -> bool:
    """Whether (H, W, C) holds one channel, or three that are equal: then a gray model restores it best."""
    return all(np.array_equal(pixels[..., 0], pixels[..., channel]) for channel in range(1, pixels.shape[-1]))


def _run(restorer: Restorer, pixels: Tensor, sigma: float | None, pattern: str, progress: Progress | None) -> Tensor:
    """Fit the image's channels to the model's: gray runs through a colour model as three equal channels."""
    if sigma == 0 and restorer.config.noise_map:  # there is nothing to remove; the network would still change a little
        return pixels.clamp(0, 1)
    if restorer.config.task != "demosaic" and pixels.shape[0] < restorer.config.channels:
        return restorer(pixels.expand(3, -1, -1).contiguous(), sigma, pattern, progress).mean(0, keepdim=True)
    return restorer(pixels, sigma, pattern, progress)


@dataclass
class Report:
    """What happened to one file."""

    status: str
    """'restored', or 'unchanged' where the image needs nothing."""
    model: str | None = None
    sigma: float | None = None
    quality: int | None = None
    note: str | None = None


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
        max_pixels: int = images.MAX_PIXELS,
        warn: Warn = lambda line: None,
    ) -> None:
        if sigma is not None:
            check_sigma(sigma)
        if pattern not in BAYER_PATTERNS:
            raise UsageError(f"--pattern {pattern} is unknown: choose one of {', '.join(BAYER_PATTERNS)}")
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
        progress: Progress | None = None,
    ) -> Report:
        """Read, restore and write one file; nothing is written unless all of it went well.

        source: a path, or the bytes of a file (`name` is for messages). target: a path, whose folder is made if it is
        missing, or a binary stream, which gets the source's format. An image that needs nothing is copied byte for
        byte where that is possible. A camera raw file, known by its suffix, is demosaiced and developed to 16-bit
        sRGB (a stream gets a TIFF).
        Raises UsageError or WeightsError for what no file can be restored with, else another DaglError.
        """
        picture, negative = self._read(source, name)
        if self.task == "demosaic" and picture.orientation != 1:
            raise DaglError(f"a mosaic with EXIF orientation {picture.orientation} is turned: save it without that tag")
        channels = picture.pixels.shape[-1]
        if self.task != "demosaic" and _is_gray(picture.pixels):
            picture = replace(picture, pixels=picture.pixels[..., :1])
        restorer = self.restorer(picture.pixels.shape[-1])
        if isinstance(target, Path):
            _make_folder(target.parent)
        images.check_target(picture, target, overwrite=overwrite)
        try:
            pattern = negative.pattern if negative else self.pattern
            report, restored = self._restore(restorer, picture, pattern, progress)
            if negative:
                restored, report.note = raw.develop(restored, negative), negative.summary
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise DaglError("out of memory: close other programs, or make the image smaller") from None
        if restored.shape[-1] < channels:
            restored = restored.repeat(channels, -1)
        result: images.Image | bytes = replace(picture, pixels=restored)
        same_format = not isinstance(target, Path) or images.SUFFIXES[target.suffix.lower()] == picture.format
        again = isinstance(source, bytes) or source.is_file()  # a pipe cannot be read twice
        if report.status == "unchanged" and same_format and again and not self.strip_metadata:
            result = source if isinstance(source, bytes) else source.read_bytes()
        images.write(result, target, strip_metadata=self.strip_metadata, overwrite=overwrite)
        return report

    def _read(self, source: Path | bytes, name: str | None) -> tuple[images.Image, raw.Raw | None]:
        """The image in a file, and for a camera raw file, whose image is a mosaic, how to develop it."""
        if isinstance(source, bytes) or not raw.is_raw_path(source):
            return images.read(source, name=name, max_pixels=self.max_pixels), None
        if self.task != "demosaic":
            raise ImageError(f"{source} is a camera raw file: run `dagl demosaic` on it first")
        negative = raw.read(source, max_pixels=self.max_pixels)
        picture = images.Image(negative.mosaic[..., None], depth=16, format=images.SUFFIXES[raw.RESULT_SUFFIX])
        return replace(picture, exif=images.raw_exif(source), icc=images.srgb_profile()), negative

    def _restore(
        self, restorer: Restorer, picture: images.Image, pattern: str, progress: Progress | None
    ) -> tuple[Report, np.ndarray]:
        report, sigma, nothing = Report("restored"), self.sigma, None
        if sigma == 0 and restorer.config.noise_map:
            nothing = "no noise to remove: left as it is"
        elif sigma is None and restorer.config.noise_map:
            report.sigma = estimate_sigma(picture.pixels)
            if report.sigma is None:
                nothing = "too small to find noise in: left as it is; --sigma decides otherwise"
            elif report.sigma < CLEAN_SIGMA:
                nothing = "no noise found: left as it is; --sigma decides otherwise"
            elif report.sigma > HIGHEST_SIGMA:
                report.note = f"more than the model was made for: restored with --sigma {HIGHEST_SIGMA:g}"
            sigma = min(report.sigma or 0.0, HIGHEST_SIGMA)
        elif self.task == "dejpeg":
            report.quality = estimate_jpeg_quality(picture.jpeg_tables)
            fine = report.quality is not None and report.quality >= CLEAN_QUALITY
            looks = not self.force and (fine or report.quality is None)  # any other JPEG is restored
            if looks and (why := _without_blocks(picture.pixels, fine)):
                nothing = f"{why}: left as it is; --force decides otherwise"
        if nothing:
            report.status, report.note = "unchanged", nothing
            return report, picture.pixels
        report.model = restorer.name
        if self.task == "demosaic" and (picture.pixels > 0).sum(-1, dtype=np.uint8).max() > 1:
            report.note = f"a whole picture, not a mosaic: of each pixel only the sample of {pattern} was used"
        if restorer.config.noise_map and picture.pixels.shape[-1] < restorer.config.channels and not report.note:
            report.note = "a model for colour leaves much of a gray picture's noise: leave --model out"
        pixels = torch.from_numpy(picture.pixels).permute(2, 0, 1)
        restored = _run(restorer, pixels, sigma, pattern, progress)
        return report, restored.permute(1, 2, 0).numpy()


def _without_blocks(pixels: np.ndarray, fine: bool) -> str | None:
    """Why JPEG artifacts are not to be looked for; None: blocks are seen. fine: a JPEG of `CLEAN_QUALITY`."""
    blockiness = jpeg_blockiness(pixels)
    if blockiness is not None and blockiness >= (EARLIER_BLOCKINESS if fine else CLEAN_BLOCKINESS):
        return None
    if fine:
        return "too fine to improve, no blocks of an earlier JPEG found"
    return "no JPEG blocks found" if blockiness is not None else "too small to find JPEG blocks in"


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImageError(f"cannot make the folder {folder}: {error.strerror}") from None
