"""What is measured on the cases: dagl models, other methods, other programs' checkpoints, functions of the user's."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config import PAPER_PATTERN, Options, is_of_mosaics
from ..errors import DaglError, UsageError, WeightsError, one_line, unknown
from ..restoring import tiling
from ..restoring.api import restore
from ..restoring.device import pick_device
from ..restoring.restorer import Restorer, load_model
from ..store import weights
from . import peers

OURS = "ours"
"""The name of the model that a table is about."""
CALLABLE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""module:function"""
AUTHORS = re.compile(r"release-(denoise|real|dejpeg|demosaic)-(?:gray|color)")
"""The names of the authors' models where `dagl weights import` puts them."""
Warn = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """All that decides a method's results, as rows state it."""

    network: str
    """What it is."""
    weights: str | None = None
    """The name of the weight file."""
    sha256: str | None = None
    """Of the weight file, or of the source of a user's function."""
    tiling: str = "its own"
    tile: int | None = None
    overlap: int | None = None
    ensemble: str = "none"
    device: str = "cpu"
    precision: str = "float32"


@dataclass(frozen=True)
class Method:
    """Something that restores, and all that decides its results."""

    name: str
    run: peers.Run
    settings: Settings
    work: Callable[[int, int], float] = lambda height, width: height * width
    """(height, width) of an image -> what it costs, in any unit: tiles that overlap are more pixels than the image."""
    released: bool = False
    """Whether these are the authors' weights, which must give the paper's figures."""


def ours(
    task: str,
    channels: int,
    model: str | None,
    options: Options,
    warn: Warn = lambda line: None,
    *,
    name: str = OURS,
    pattern: str = PAPER_PATTERN,
) -> Method:
    """A dagl model; model: as --model, or the folder of a training run. Raises UsageError, WeightsError."""
    try:
        path = weights.resolve(of_run(model), task, channels, offline=options.offline)
    except WeightsError as error:
        if model is not None and (named := AUTHORS.fullmatch(model)):
            raise WeightsError(
                f"`model` {model}: not here: `dagl weights import --task {named[1]}` fetches it"
            ) from None
        raise error
    if options.backend == "auto":  # which may change its mind within a row
        options = replace(options, backend="torch")
    restorer = load_model(task, channels, model=path, options=options, warn=warn)
    if restorer.config.channels != channels:
        kinds = {1: "gray", 3: "colour"}
        raise UsageError(
            f"`model` {path.stem} is for {kinds[restorer.config.channels]} images, these are {kinds[channels]}"
        )
    stated = restorer.tile, restorer.device

    def run(bad: Tensor, level: float | None) -> Tensor:
        if level is None and restorer.config.noise_map:  # estimated, as a user's command does
            result = restore(bad, task, pattern=pattern, model=restorer)
            assert isinstance(result, Tensor)
        else:
            result = restorer(bad, level if restorer.config.noise_map else None, pattern)
        if (restorer.tile, restorer.device) != stated:  # it helped itself, as a user's command should
            raise UsageError(f"out of memory on {stated[1]}: measure with a smaller `tile`, or with `device` cpu")
        return result

    info = weights.describe(path)[1]
    return Method(name, run, settings(restorer, path), _work(restorer), "git_blob" in info)


def of_run(model: str | None) -> str | None:
    """The weight file in the folder of a training run; anything else is returned as it is."""
    file = None if model is None else Path(model) / "model.safetensors"
    return str(file) if file is not None and file.is_file() else model


def settings(restorer: Restorer, path: Path) -> Settings:
    """What decides a model's results; path: its weight file."""
    options, blend = restorer.options, restorer.options.tiling == "blend"
    return Settings(
        network="DAGL" if restorer.config.stages and restorer.config.heads else "residual, no graph",
        weights=restorer.name,
        sha256=weights.sha256(path),
        tiling=options.tiling,
        tile=restorer.tile if blend else None,
        overlap=min(restorer.overlap, restorer.tile // 2) if blend else None,
        ensemble="x8" if options.ensemble else "none",
        device=f"{restorer.device}, OpenVINO" if restorer.backend == "openvino" else str(restorer.device),
        precision=str(restorer.dtype()).removeprefix("torch."),
    )


def _work(restorer: Restorer) -> Callable[[int, int], float]:
    """Pixels that the network sees of an image, every tile of it counted."""

    def work(height: int, width: int) -> float:
        seen = 0

        def count(tile: Tensor) -> Tensor:
            nonlocal seen
            seen += tile.numel()
            return tile

        image = torch.empty(1, height, width)
        if restorer.options.tiling == "whole":
            return height * width
        if restorer.options.tiling == "chop":
            tiling.chop(count, image, margin=12 if is_of_mosaics(restorer.config.task) else 24)
        else:
            overlap = min(restorer.overlap, restorer.tile // 2)
            tiling.overlap_blend(count, image, restorer.tile, overlap, restorer.config.multiple)
        return seen

    return work


def other(
    name: str,
    task: str,
    channels: int,
    options: Options,
    warn: Warn = lambda line: None,
    *,
    pattern: str = PAPER_PATTERN,
    parameter: str = "compare",
) -> Method:
    """What `--compare`, or a further `--model`, names, from the first of these that there is:

    1. another method (`peers.PEERS`);
    2. a dagl model: a weight file, the folder of a training run, or a bundled or imported name;
    3. a checkpoint of another program, that spandrel loads;
    4. a function of the user's, `module:function`.

    parameter: which of the two it is. Raises UsageError for what is none of these or does not fit the task,
    WeightsError, DaglError.
    """
    try:
        return _other(name, task, channels, options, warn, pattern)
    except DaglError as error:
        raise type(error)(re.sub("`(model|compare)`", f"`{parameter}`", str(error))) from None


def _other(name: str, task: str, channels: int, options: Options, warn: Warn, pattern: str) -> Method:
    if name in peers.PEERS:
        peer = peers.peer(name, task, pattern)
        return Method(name, peer.run, Settings(peer.summary))
    if _is_dagl(path := of_run(name) or name):
        return ours(task, channels, path, options, warn, name=label(name), pattern=pattern)
    if os.path.isfile(name):
        chosen = pick_device(options.device)
        peer = peers.checkpoint(Path(name), task, channels, chosen)
        own = Settings(peer.summary, label(name), weights.sha256(Path(name)), device=str(chosen))
        return Method(label(name), peer.run, own)
    if CALLABLE.fullmatch(name):
        return _function(name)
    models = [path.stem for path in (*weights.bundled(), *weights.imported())]
    raise unknown("compare", name, [*peers.PEERS, *models, "a weight file", "a checkpoint", "module:function"])


def label(name: str) -> str:
    """What a method that `--compare` or a further `--model` names is called in tables."""
    if name in peers.PEERS:
        return name
    if CALLABLE.fullmatch(name) and not os.path.exists(name):
        return name.partition(":")[2]
    path = Path(name)
    return (
        path.stem
        if path.suffix in (".safetensors", ".pth", ".pt", ".ckpt")
        else path.resolve().name
        if path.is_dir()
        else name
    )


def _is_dagl(name: str) -> bool:
    """Whether it names a weight file of dagl's own, by path or as `weights.find` knows it."""
    path = weights.find(name)
    if path is None:
        return name.startswith("hub:")
    if path.suffix != ".safetensors":
        return False
    with suppress(DaglError):
        weights.describe(path)
        return True
    return not os.path.isfile(name)  # a damaged bundled one is said to be so, a foreign file goes to spandrel


def _function(name: str) -> Method:
    """`module:function` from the current folder or what is installed, called with (image, level).

    image: NumPy (H, W), or (H, W, 3) for colour, float32 in [0, 1], noise not clipped; level: sigma, JPEG quality or
    None. It returns the restored image in the same shape, as floats in [0, 1]. Raises UsageError, and
    DaglError where it fails.
    """
    module_name, _, function_name = name.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever a user's module raises
        raise UsageError(f"`compare` {name}: importing {module_name} fails ({one_line(error)})") from None
    finally:
        sys.path.remove(os.getcwd())
    function = getattr(module, function_name, None)
    if not callable(function):
        raise UsageError(f"`compare` {name}: {module_name} has no function {function_name}")

    def run(bad: Tensor, level: float | None) -> Tensor:
        image = bad.permute(1, 2, 0).numpy().copy()
        image = image[..., 0] if image.shape[-1] == 1 else image
        try:
            returned = np.asarray(function(image, level))
            restored = returned.astype(np.float32)
        except (Exception, SystemExit) as error:
            raise DaglError(f"`compare` {name} fails: {type(error).__name__}: {one_line(error)}") from None
        if restored.shape != image.shape:
            raise DaglError(f"`compare` {name} returns {restored.shape} for {image.shape}: the shapes must be equal")
        if not np.issubdtype(returned.dtype, np.floating) or not np.isfinite(restored).all():
            what = returned.dtype if np.isfinite(restored).all() else "NaN or infinity"
            raise DaglError(f"`compare` {name} returns {what}: it must return floats in [0, 1]")
        return torch.from_numpy(restored.reshape(*restored.shape[:2], -1).copy()).permute(2, 0, 1)

    with suppress(OSError, TypeError):
        source = inspect.getsource(module).encode()
        digest = hashlib.sha256(source).hexdigest()
        return Method(function_name, run, Settings(f"a Python function, {name}", module_name, digest))
    return Method(function_name, run, Settings(f"a Python function, {name}"))


def variants_below(folder: Path, table: str, tell: Callable[[str], None] = lambda line: None) -> dict[str, Path]:
    """Variant -> weight file of an ablation's networks below a folder; the newest where there are several.

    Which case a file belongs to is in its training settings: preset 'table5:NAME' or 'table6:CASE'. tell: is told of
    those whose training has not had its length. Raises UsageError.
    """
    if not folder.is_dir():
        raise UsageError(f"`models` {folder}: no such folder")
    preset, found, unfinished = table.replace(" ", ""), {}, {}
    for path in sorted(folder.rglob("*.safetensors"), key=lambda path: path.stat().st_mtime):
        with suppress(DaglError):  # some other program's file
            info = weights.describe(path)[1]
            training: dict[str, Any] = info.get("training", {})
            kind, _, variant = str(training.get("preset")).partition(":")
            if kind == preset and variant:
                found[variant], unfinished[variant] = path, _unfinished(info, training)
    if not found:
        raise UsageError(
            f"`models` {folder}: no networks of {table} in it; `dagl train --preset {preset}:...` makes them"
        )
    for variant, had in unfinished.items():
        if had:
            tell(f"{found[variant]}: its training was interrupted after {had}: `resume` gives it its length")
    return found


def _unfinished(info: Mapping[str, Any], training: Mapping[str, Any]) -> str | None:
    """'3 of 400 steps' or '0.5 of 60 minutes', where a run has had less than was set for it."""
    steps, minutes = training.get("steps"), training.get("minutes")
    if steps and info["step"] < steps:
        return f"{info['step']:,} of {steps:,} steps"
    if minutes and info["minutes"] + 0.01 < minutes:  # which is written rounded
        return f"{info['minutes']:g} of {minutes:g} minutes"
    return None
