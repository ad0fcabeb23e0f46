"""Weight files: safetensors with the configuration inside, so that a file is enough to build its network."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from .config import ModelConfig
from .errors import DaglError, WeightsError
from .model import DAGL, load_strictly

FORMAT = "dagl-1"


def folder() -> Path:
    """Where the bundled weights lie: inside the installed package, or beside it in a checkout."""
    installed = Path(__file__).parent / "weights"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "weights"


def bundled() -> list[Path]:
    """The bundled weight files, by name."""
    return sorted(folder().glob("*.safetensors"))


def resolve(model: str | None, task: str, channels: int) -> Path:
    """The weight file for --model: a path, a bundled name, or (None) the default of the task.

    The default file is named `TASK-gray` or `TASK-color`, and carries the variant that restores best.
    Raises WeightsError when there is none.
    """
    if model is None:
        name = f"{task}-{'gray' if channels == 1 else 'color'}"
    elif os.path.isfile(model):
        return Path(model)
    else:
        name = model.removesuffix(".safetensors")
    path = folder() / f"{name}.safetensors"
    if not os.path.isfile(path):
        names = ", ".join(p.stem for p in bundled()) or "none"
        where = f"--model {model}" if model else f"no bundled model for {task} with {channels} channel(s)"
        raise WeightsError(f"{where}: no such file or bundled model (bundled: {names})")
    return path


def describe(path: Path) -> tuple[ModelConfig, dict[str, Any], int]:
    """(configuration, info, parameters) of a weight file, without building the network. Raises WeightsError."""
    config, state, info = _read(path)
    return config, info, sum(t.numel() for t in state.values())


def save(path: Path, state: dict[str, Tensor], config: ModelConfig, info: dict[str, Any]) -> None:
    """Write a weight file atomically. `info` is free: how the weights were made, and results."""
    metadata = {"format": FORMAT, "config": json.dumps(config.to_dict()), "info": json.dumps(info)}
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_bytes(serialize({k: v.detach().contiguous().cpu() for k, v in state.items()}, metadata))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path) -> tuple[DAGL, dict[str, Any]]:
    """The network (float32, CPU, eval mode) and its info.

    Raises WeightsError when the file is missing, not a dagl weight file, or does not fit its configuration.
    """
    config, state, info = _read(path)
    try:
        with torch.device("meta"):
            model = DAGL(config)
        model = model.to_empty(device="cpu")
    except (RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: its configuration is not a network ({_one_line(error)})") from None
    load_strictly(model, state, str(path))
    return model.eval(), info


def _read(path: Path) -> tuple[ModelConfig, dict[str, Tensor], dict[str, Any]]:
    if not os.path.isfile(path):
        raise WeightsError(f"{path}: no such weight file; `dagl weights list` shows the bundled ones")
    if not os.access(path, os.R_OK):
        raise WeightsError(f"{path}: permission denied: make it readable")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        reason = _one_line(error)
        raise WeightsError(f"{path}: not a readable safetensors file ({reason}); download or train it again") from None
    if metadata.get("format") != FORMAT:
        raise WeightsError(f"{path}: not a dagl weight file (its metadata lacks format {FORMAT})")
    try:
        config = ModelConfig.from_dict(json.loads(metadata["config"]))
        return config, state, dict(json.loads(metadata.get("info", "{}")))
    except (KeyError, ValueError, TypeError, DaglError) as error:
        raise WeightsError(f"{path}: its configuration cannot be read ({_one_line(error)})") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
