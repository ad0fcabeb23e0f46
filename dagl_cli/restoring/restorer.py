"""A network on a device that restores images of any size: tiles, memory, mosaics. Knows no files."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import (
    BAYER_PATTERNS,
    LUMA,
    PAPER_PATTERN,
    SMALLEST_TILE,
    TASKS,
    ModelConfig,
    Options,
    check_pattern,
    is_of_mosaics,
)
from ..degrade import bayer_masks, bayer_mosaic
from ..errors import DaglError, UsageError, unknown
from ..nn.model import DAGL
from ..store import weights
from . import openvino, tiling
from .device import (
    DTYPES,
    HALF_LEVEL,
    MOST_AT_ONCE,
    bfloat16_is_faster,
    full,
    is_out_of_memory,
    memory_of,
    pick_device,
    pick_dtype,
    seconds,
    sent,
)
from .openvino import OpenVINO
from .tiling import Tick

NAMES = {dtype: name for name, dtype in DTYPES.items()}
COMPILING = 40.0
"""Seconds that compiling a network takes, about."""
Warn = Callable[[str], None]
"""Called with one line that the user should know of."""


def unsaid(line: str) -> None:
    """The `Warn` where nobody is to know."""


NARROW = 32
"""Pictures with a side below this, in pixels, are computed in float32 by torch on a CPU, whatever was asked for: in
bfloat16 oneDNN's convolutions read beyond feature maps that are 1 to 3 wide, and what lies there can be no number; and
an ONNX network always mirrors at its edges, for which these can be too small."""
_changes = WeakKeyDictionary[DAGL, float]()
"""Network -> what bfloat16 changes (`Restorer._change`). One that is kept is tried once, whoever runs it."""
Kept = dict[Path, tuple[DAGL, str]]
"""Weight files -> network and SHA-256, as they were loaded."""


class Restorer:
    """A network on a device, ready to restore images of any size.

    Args:
        model: a DAGL in eval mode.
        options: how to run it.
        name: what to call the weights in messages.
        warn: called with one line when tiles must shrink or the CPU take over.
        digest: SHA-256 of the file with the weights; None: they came from none.
    """

    def __init__(
        self,
        model: DAGL,
        options: Options = Options(),
        name: str = "model",
        warn: Warn = unsaid,
        digest: str | None = None,
    ) -> None:
        self.config, self.name, self.options, self.warn, self.digest = model.config, name, options, warn, digest
        check_options(self.config, options)
        self.tile, self.overlap = first_tile(self.config, options)
        if options.threads:
            torch.set_num_threads(min(options.threads, os.cpu_count() or 1))  # beyond, they only wait for each other
        wanted = "cpu" if options.backend == "openvino" else options.device
        self.device = pick_device(wanted)
        if self.device.type == "cpu" and wanted == "auto" and torch.cuda.is_available():
            warn("the GPU has no free memory, other programs have it: going on with `device` cpu")
        try:
            self.model = model.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        except RuntimeError as error:
            if self.device.type == "cpu" or not is_out_of_memory(error):
                raise
            raise full(self.device) from None
        self.memory = memory_of(self.device)
        self.most = MOST_AT_ONCE
        self._one: dict[tuple[int, ...], int] = {}
        self.forward = Forward(self.model)
        self.backend = "torch"
        """What ran the last picture, or runs all: one of `BACKENDS`."""
        self._openvino = self._alternative()
        if self._openvino and options.backend == "openvino":
            self.backend = "openvino"

    def __call__(
        self,
        x: Tensor,
        sigma: float | Tensor | None = None,
        pattern: str = PAPER_PATTERN,
        progress: Tick | None = None,
        depth: int = 16,
    ) -> Tensor:
        """Restore one image, tile by tile.

        x: (C, H, W) float32 on the CPU, range [0, 1], C as the model's. For demosaicing x is (1, H, W), the
        sensor's mosaic, or (3, H, W), of which the samples that `pattern` measures are used.
        sigma: noise level on the 0-255 scale, of mosaics a number or a map, (H, W); only and always for models with
        a noise map.
        depth: bits that the result will be rounded to, see `dtype`.
        Returns (C_out, H, W) float32, clipped to [0, 1]. Out of memory, the tiles shrink, then the CPU takes over,
        for this and all later images. Raises what `check_input` raises.
        """
        check_input(self.config, self.name, x, sigma, pattern)
        start = time.perf_counter()
        if self._openvino:
            side = min(x.shape[-2:])
            torchs = NAMES[self._torchs(depth, side)]
            takes = side >= NARROW and self._openvino.takes(x[0].numel(), torchs, self._is_exact(depth))
            self.backend = "openvino" if takes else "torch"
        restored = self._restored(x, sigma, pattern, progress, depth)
        if self._openvino and self.backend == "torch":
            self._openvino.worked(time.perf_counter() - start)
        return restored

    def _restored(
        self, x: Tensor, sigma: float | Tensor | None, pattern: str, progress: Tick | None, depth: int
    ) -> Tensor:
        if is_of_mosaics(self.config.task):
            mosaic = bayer_mosaic(x.expand(3, -1, -1)[None], pattern)[0]
            if sigma is not None:
                mosaic = torch.cat((mosaic, torch.as_tensor(sigma, dtype=x.dtype).expand(1, *x.shape[-2:])))
            return self._mosaic(mosaic, pattern, progress, depth)
        assert not isinstance(sigma, Tensor)
        network = self._network(sigma, depth)
        run = tiling.ensemble_x8(network) if self.options.ensemble else network
        return blended(x, self._tiled(run, x, progress), self.options).clamp_(0, 1)

    def _mosaic(self, mosaic: Tensor, pattern: str, progress: Tick | None, depth: int) -> Tensor:
        """(3, H, W) with the samples that were not measured at 0, and their noise level below them, if the model is
        told one; with the ensemble in its 8 turns."""
        if not self.options.ensemble:
            return self._demosaic(mosaic, pattern, progress, depth)
        total = torch.zeros_like(mosaic[:3])
        height, width = mosaic.shape[-2:]
        colours = bayer_masks(height, width, pattern).int().argmax(0)  # (H, W): 0, 1, 2 for R, G, B
        for i in range(8):  # a turned mosaic has another pattern: each is restored as what it is
            turned = tiling.turn(mosaic, i)
            seen = "".join("RGB"[c] for c in tiling.turn(colours, i)[:2, :2].flatten())
            step = None if progress is None else lambda d, n, i=i: progress(i * n + d, 8 * n)
            total += tiling.turn_back(self._demosaic(turned, seen, step, depth), i)
        return total / 8

    def _demosaic(self, mosaic: Tensor, pattern: str, progress: Tick | None, depth: int) -> Tensor:
        """Any pattern becomes the trained one, on whole cells, by mirroring a row or column on the outside."""
        height, width = mosaic.shape[-2:]
        left, top = pattern in ("RGGB", "GBRG"), pattern in ("BGGR", "GBRG")
        sides = (int(left), (width + left) % 2, int(top), (height + top) % 2)  # mirroring keeps the colours' places
        padded = F.pad(mosaic[None], sides, mode="reflect")[0]
        restored = self._tiled(self._network(None, depth), padded, progress).clamp_(0, 1)
        return restored[:, int(top) : int(top) + height, int(left) : int(left) + width]

    def _network(self, sigma: float | None, depth: int) -> tiling.Network:
        def run(batch: Tensor) -> Tensor:
            side = min(batch.shape[-2:])
            if serving := self._serving(side):
                return torch.from_numpy(serving(*self._told(batch, sigma), self.precision(depth, side)))
            return self._run(batch, sigma, self._torchs(depth, side))

        return run

    def _run(self, batch: Tensor, sigma: float | None, dtype: torch.dtype) -> Tensor:
        """sigma: None where the model takes none, and where the last channel of the batch is the level."""
        self.model.to(self.device)  # where another restorer of the same network ran out of memory, it is elsewhere
        batch = sent(batch, self.device)
        level: float | Tensor | None = sigma
        if self.config.noise_map and sigma is None:
            batch, level = batch[:, :-1], batch[:, -1:]
        with torch.inference_mode(), torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            return self.forward(batch, level).float()

    def at_once(self, run: tiling.Network, x: Tensor, side: int) -> int:
        """How many tiles of at most `side` pixels: as many as free memory holds, by what one of them takes."""
        if self.memory is None:
            return 1
        one = x[:, :side, :side]
        if one.shape not in self._one:
            self._one[one.shape] = max(1, self.memory.taken_by(lambda: run(one[None])))
        return max(1, min(self.most, int(0.8 * self.memory.free()) // self._one[one.shape]))

    def dtype(self, depth: int = 16, side: int = NARROW) -> torch.dtype:
        """What the network computes in; weights and results stay float32.

        depth: bits of the result's samples. For 8, 'auto' is bfloat16 on a CPU too, if that is faster there and hardly
        a value of a test picture changes by half a level. side: the picture's shorter one, in pixels.
        """
        if serving := self._serving(side):
            return DTYPES[serving.precision(self._is_exact(depth))]
        return self._torchs(depth, side)

    def precision(self, depth: int = 16, side: int = NARROW) -> str:
        """`dtype` as in `PRECISIONS`."""
        return NAMES[self.dtype(depth, side)]

    def _serving(self, side: int) -> OpenVINO | None:
        """OpenVINO, where it has the picture at hand and this side of it, or of a tile, is wide enough."""
        return self._openvino if self.backend == "openvino" and side >= NARROW else None

    def _torchs(self, depth: int, side: int) -> torch.dtype:
        """What torch would compute in."""
        if self.device.type == "cpu" and side < NARROW:
            return torch.float32
        if self.options.precision != "auto" or self.device.type != "cpu" or self._is_exact(depth):
            return pick_dtype(self.options.precision, self.device)
        if not bfloat16_is_faster():
            return torch.float32
        if self.model not in _changes:
            try:
                _changes[self.model] = self._change()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                return torch.float32  # the tiles themselves shrink, or say it
        return torch.bfloat16 if _changes[self.model] < HALF_LEVEL else torch.float32

    def _is_exact(self, depth: int) -> bool:
        """Whether the result must be: at 41 dB bfloat16 costs 0.014 dB (Kodak24), else 0.001."""
        return depth > 8 or self.config.task == "demosaic"

    def _change(self) -> float:
        """What bfloat16 changes in a test picture: exceeded by one value in a thousand."""
        noisy, sigma = self._sample(64)
        exact, quick = (self._run(noisy, sigma, dtype) for dtype in (torch.float32, torch.bfloat16))
        return float((exact - quick).abs().flatten().quantile(0.999))

    def _sample(self, side: int) -> tuple[Tensor, float | None]:
        """A noisy picture of edges and waves, (1, C, side, side), and its level: one that the task's pictures have."""
        level = 10.0 if self.config.task == "real" else 25.0
        y, x = torch.meshgrid(*(torch.linspace(-1, 1, side, dtype=torch.float32),) * 2, indexing="ij")
        picture = 0.5 + 0.2 * torch.sin(40 * x * y) + 0.25 * torch.sign(x + 0.3 * y) * (y > 0)
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(1, self.config.channels, side, side, generator=generator, dtype=torch.float32)
        noisy = picture + noise * level / 255
        noisy = noisy.clamp(0, 1)
        if is_of_mosaics(self.config.task):
            noisy = bayer_mosaic(noisy, PAPER_PATTERN)
        return noisy, level if self.config.noise_map else None

    def _alternative(self) -> OpenVINO | None:
        """OpenVINO, where it could run this network. Raises UsageError where it should, and could not."""
        asked = self.options.backend == "openvino"
        if self.options.backend == "torch" or (self.device.type != "cpu" and not asked):
            return None
        try:
            openvino.check(self.config, self.options)
            if self.digest is None:
                raise UsageError("`backend` openvino is for weight files, and this network came from none")
        except UsageError:
            if asked:
                raise
            return None
        noisy, sigma = self._sample(192)

        def by_torch(precision: str) -> np.ndarray:
            return self._run(noisy, sigma, DTYPES[precision]).numpy()

        return OpenVINO(
            self.model, self.digest, self.options, torch.get_num_threads(), self._told(noisy, sigma), by_torch,
            lambda line: self.warn(f"{self.name}: {line}"),
        )  # fmt: skip

    def _told(self, batch: Tensor, sigma: float | None) -> tuple[np.ndarray, np.ndarray | None]:
        """What `_run` takes, as OpenVINO takes it."""
        if self.config.noise_map and sigma is None:
            return batch[:, :-1].contiguous().numpy(), batch[:, -1:].contiguous().numpy()
        level = None if sigma is None else np.full(len(batch), sigma, np.float32)
        if level is not None and self.config.by_sample:
            level = np.broadcast_to(level[:, None, None, None], (len(batch), 1, *batch.shape[2:])).copy()
        return batch.contiguous().numpy(), level

    def _tiled(self, run: tiling.Network, x: Tensor, progress: Tick | None) -> Tensor:
        while True:
            batch = 1
            try:
                if self.options.tiling == "whole":
                    return tiling.whole(run, x, progress=progress)
                margin = 12 if is_of_mosaics(self.config.task) else 24
                batch = self.at_once(run, x, 100 if self.options.tiling == "chop" else self.tile)
                start = time.perf_counter()
                if self.options.tiling == "chop":
                    restored = tiling.chop(run, x, margin=margin, batch=batch, progress=progress)
                else:
                    overlap, multiple = min(self.overlap, self.tile // 2), self.config.multiple
                    restored = tiling.overlap_blend(
                        run, x, self.tile, overlap, multiple, batch=batch, progress=progress
                    )
                if self.device.type == "cuda":
                    self.forward.worked(time.perf_counter() - start)
                return restored
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            if batch > 1:
                self.most = batch // 2
            else:
                self._need_less_memory()

    def _need_less_memory(self) -> None:
        """Smaller tiles, or else the CPU. Raises DaglError when there is nothing left to try."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.options.tiling != "blend":
            raise DaglError(f"out of memory on {self.device}: `tiling` blend takes less")
        if self.tile > SMALLEST_TILE:
            self.tile = max(SMALLEST_TILE, self.tile // 2)
            self.warn(f"out of memory on {self.device}: trying again with `tile` {self.tile}")
        elif self.device.type != "cpu":
            self.device, self.memory = torch.device("cpu"), None
            self.model = self.model.to("cpu")
            self.forward = Forward(self.model)
            self.tile, _ = first_tile(self.config, self.options)
            self.warn("out of memory even with small tiles: going on with `device` cpu")
        else:
            raise DaglError("out of memory with the smallest tiles on the CPU: close other programs")


class Forward:
    """A network, and its compiled form once that pays: as much time was spent without it as compiling takes, and it is
    faster, which is measured.

    So no more than twice the least possible time is spent, whatever follows. Only the most frequent shape is compiled.

    compile: as `torch.compile`. measure: as `device.seconds`.
    """

    def __init__(
        self,
        model: DAGL,
        compile: Callable[[DAGL], Any] = partial(torch.compile, dynamic=False),
        measure: Callable[[dict[str, Callable[[], object]]], dict[str, float]] = seconds,
    ) -> None:
        self.model, self._compile, self._measure = model, compile, measure
        self._shapes = Counter[torch.Size]()
        self._seconds = 0.0
        self._compiled: tuple[torch.Size, Any] | None = None
        self._pays: bool | None = None

    def __call__(self, batch: Tensor, sigma: float | Tensor | None) -> Tensor:
        self._shapes[batch.shape] += 1
        if self._compiled and self._compiled[0] == batch.shape:
            # a number would be compiled in
            level = batch.new_full((len(batch),), sigma) if isinstance(sigma, (int, float)) else sigma
            try:
                if self._pays is None:
                    self._pays = self._is_faster(batch, level)
                if self._pays:
                    return self._compiled[1](batch, level)
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                self._pays = False  # no C compiler, or a GPU that it does not know
        return self.model(batch, sigma)

    def _is_faster(self, batch: Tensor, level: Tensor | None) -> bool:
        """Compiles, and compares with the network as it is."""
        assert self._compiled

        def run(network: Callable[..., Tensor]) -> None:
            network(batch, level)
            if batch.device.type == "cuda":
                torch.cuda.synchronize(batch.device)

        run(self._compiled[1])
        spent = self._measure({"compiled": partial(run, self._compiled[1]), "plain": partial(run, self.model)})
        return spent["compiled"] < spent["plain"]

    def worked(self, seconds: float) -> None:
        """Tells how long some batches took."""
        self._seconds += seconds
        if self._seconds > COMPILING and not self._compiled:
            self._compiled = self._shapes.most_common(1)[0][0], self._compile(self.model)


def blended(x: Tensor, restored: Tensor, options: Options) -> Tensor:
    """As much of the restored picture as the user wants, of its luma and of its colours. Both (C, H, W)."""
    if not options.blends:
        return restored
    change = restored - x
    luma = change if len(x) == 1 else (change * torch.tensor(LUMA).view(3, 1, 1)).sum(0, keepdim=True)
    return x + options.strength * (options.luma * luma + options.chroma * (change - luma))


def first_tile(config: ModelConfig, options: Options) -> tuple[int, int]:
    """(tile, overlap) in pixels, as the user or else the model says."""
    return options.tile or config.tile[0], config.tile[1] if options.overlap is None else options.overlap


def check_options(config: ModelConfig, options: Options) -> None:
    """Raises UsageError for options that do not go with a model."""
    if is_of_mosaics(config.task) and options.strength != 1:
        raise UsageError("`strength` is not for demosaicing: a mosaic is no image that could be blended in")
    tile, overlap = first_tile(config, options)
    if options.overlap is not None and overlap > tile // 2:
        raise UsageError(f"`overlap` {overlap} must be at most half of `tile`, which is {tile}")
    if options.backend == "openvino":
        openvino.check(config, options)


def check_input(config: ModelConfig, name: str, x: Tensor, sigma: float | Tensor | None, pattern: str) -> None:
    """Raises UsageError for a sigma that the model lacks or does not take, or an unknown pattern; DaglError for an
    image of other channels, or a mosaic whose zeros are those of another pattern. x: (C, H, W)."""
    if (sigma is None) == config.noise_map:
        raise UsageError(f"{name} {'needs' if config.noise_map else 'takes no'} `sigma`")
    if isinstance(sigma, Tensor) and (not is_of_mosaics(config.task) or sigma.shape[-2:] != x.shape[-2:]):
        found = f"`sigma` is a map of shape {tuple(sigma.shape)}"
        raise UsageError(f"{found}: {name} takes a number, or for a mosaic a map of its size")
    if not is_of_mosaics(config.task):
        if x.shape[0] != config.channels:
            kind = {1: "gray", 3: "colour"}[config.channels]
            found = f"{name} is a model for {kind} images, this one has {x.shape[0]} channel(s)"
            raise DaglError(f"{found}: choose another `model`")
        return
    check_pattern(pattern)
    height, width = x.shape[-2:]
    if height < 2 or width < 2:
        raise DaglError(f"a mosaic of {width}x{height} pixels does not hold a whole Bayer cell: give 2x2 or more")
    if x.shape[0] == 1 or torch.equal(bayer_mosaic(x[None], pattern)[0], x):
        return
    for other in BAYER_PATTERNS:  # a whole picture is taken, but not one that is masked by another pattern
        if torch.equal(bayer_mosaic(x[None], other)[0], x):
            raise DaglError(f"`pattern` {pattern} is not this mosaic's: its zeros say `pattern` {other}")


def load_model(
    task: str = "denoise",
    channels: int = 3,
    *,
    model: str | Path | None = None,
    options: Options = Options(),
    warn: Warn = unsaid,
    kept: Kept | None = None,
) -> Restorer:
    """A model by task, by bundled name, or from a weight file.

    Args:
        task: 'denoise', 'real', 'dejpeg', 'demosaic' or 'raw'.
        channels: 1 for gray, 3 for colour; 'demosaic' and 'raw' have colour models only.
        model: a path, a bundled or imported name (see `dagl weights list`), or `hub:OWNER/REPO[@REVISION][:FILE]`;
            None: the best bundled one for task and channels.
        options: device, precision, tiles.
        warn: called with one line when another model stands in, tiles must shrink, or the CPU takes over.
        kept: what is in it is not loaded again, and what is loaded is put there.

    As long as there is no model for 'real', the Gaussian denoiser stands in for it.
    Raises UsageError for an unknown task, WeightsError (exit code 4) when no weights fit.
    """
    path = find_model(task, channels, model, offline=options.offline, warn=warn)
    kept = {} if kept is None else kept
    if path not in kept:
        network, _ = weights.load(path)
        kept[path] = network, weights.sha256(path)
    network, digest = kept[path]
    check_task(network.config.task, task, str(path))
    return Restorer(network, options, path.stem, warn, digest)


def find_model(
    task: str, channels: int, model: str | Path | None, *, offline: bool = False, warn: Warn = unsaid
) -> Path:
    """The weight file that `load_model` loads."""
    if task not in TASKS:
        raise unknown("task", task, TASKS)
    if channels not in (1, 3):
        raise UsageError(f"`channels` must be 1 (gray) or 3 (colour), not {channels}")
    if task == "real" and model is None:  # colour models take gray pictures too, in three equal channels
        names = {weights.default_name(task, kind): kind for kind in (channels, 3)}
        there = [kind for name, kind in names.items() if (weights.folder() / f"{name}.safetensors").is_file()]
        if there:
            channels = there[0]
        else:
            warn("there is no camera-noise model yet: the Gaussian denoiser runs at the estimated noise level")
            task = "denoise"

    def fetching(name: str, done: int, total: int | None) -> None:
        if done == 0:
            warn(f"fetching {name} from the Hub" + (f" ({total / 1e6:.1f} MB)" if total else ""))

    wanted = None if model is None else str(model)
    channels = max(channels, min(TASKS[task].channels))
    return weights.resolve(wanted, task, channels, offline=offline, progress=fetching)


def can_do(made_for: str, task: str) -> bool:
    """Whether a model for one task can do another: those for white and for camera noise can."""
    return made_for == task or {made_for, task} == {"denoise", "real"}


def check_task(made_for: str, task: str, name: str) -> None:
    """Raises UsageError unless `can_do`."""
    if not can_do(made_for, task):
        raise UsageError(f"`model` {name}: made for {made_for}, not for {task}: see `dagl weights list`")
