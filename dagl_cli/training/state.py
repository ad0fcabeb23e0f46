"""What a run carries from step to step, and `state.pt`, which carries it from one process to the next."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from ..errors import DaglError, UsageError, one_line
from ..nn.model import DAGL
from .muon import Muon
from .presets import TrainConfig, as_paths, checked

FREE_ON_RESUME = {
    "data", "output", "minutes", "steps", "micro_batch", "compile", "device", "threads", "workers", "log_minutes",
    "save_minutes", "tensorboard",
}  # fmt: skip
"""Settings that a resumed run may change: how long and how it is computed, not what. `data` is checked by content."""

Saved = dict[str, Any]
"""The content of `state.pt`, checked: `State` as plain values."""

_DIGITS = 2 * hashlib.sha256().digest_size
_KINDS: dict[str, tuple[type, ...]] = {
    "model": (dict,), "average": (dict,), "optimizers": (list,), "step": (int,), "elapsed": (int, float),
    "skipped": (int,), "data": (str,), "settings": (dict,), "command": (str,),
}  # fmt: skip


@dataclass
class State:
    """Everything of a run that lasts."""

    config: TrainConfig
    model: DAGL
    average: DAGL
    """The moving average of the model's weights: the result."""
    optimizers: list[torch.optim.Optimizer]
    data: str
    """The training photos' fingerprint."""
    command: str = ""
    """Those that made the run, joined by '&&'."""
    step: int = 0
    elapsed: float = 0.0
    """Seconds."""
    skipped: int = 0
    """Steps whose gradients were not finite."""

    def to_bytes(self) -> bytes:
        """As `state.pt` has it: what torch.save writes, with its SHA-256 as the archive's comment."""
        buffer = io.BytesIO()
        torch.save(
            {
                "model": self.model.state_dict(), "average": self.average.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                "step": self.step, "elapsed": self.elapsed, "skipped": self.skipped, "data": self.data,
                "settings": plain(self.config), "command": self.command,
            },
            buffer,
        )  # fmt: skip
        return sealed(buffer.getvalue())

    def take(self, saved: Saved) -> None:
        """Go on where `saved` was saved; the commands of both are kept. Raises UsageError for another network's."""
        where = f"`output` {self.config.output}"
        try:
            self.model.load_state_dict(saved["model"])
            self.average.load_state_dict(saved["average"])
        except RuntimeError:
            raise UsageError(
                f"{where} holds a run of another version's '{self.config.variant}', a network of another shape: start "
                "a new run"
            ) from None
        try:
            for optimizer, old in zip(self.optimizers, saved["optimizers"], strict=True):
                _take(optimizer, old["state"])
        except (ValueError, LookupError, TypeError, AttributeError, RuntimeError):
            raise DaglError(
                f"{where}: the optimizers of its state.pt are not those of the run: start a new run"
            ) from None
        self.step, self.elapsed, self.skipped = saved["step"], float(saved["elapsed"]), saved["skipped"]
        if saved["command"].endswith(self.command):
            self.command = saved["command"]
        else:
            self.command = " && ".join(c for c in (saved["command"], self.command) if c)


def _take(optimizer: torch.optim.Optimizer, state: Mapping[int, Mapping[str, Any]]) -> None:
    """Momenta and counts; the settings are those of the run. Raises ValueError where they do not fit, and others."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    names = {"momentum"} if isinstance(optimizer, Muon) else {"step", "exp_avg", "exp_avg_sq"}
    for number, values in state.items():
        shapes = {name: () if name == "step" else parameters[number].shape for name in names}
        if {name: value.shape for name, value in values.items()} != shapes:
            raise ValueError
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def plain(config: TrainConfig) -> dict[str, Any]:
    """The settings without types of this package, as `state.pt` holds them."""
    return asdict(config) | {"data": [str(folder) for folder in config.data], "output": str(config.output)}


def sealed(archive: bytes) -> bytes:
    """A zip archive without a comment -> the same with the SHA-256 of all that comes before it as its comment."""
    body = archive[:-2] + _DIGITS.to_bytes(2, "little")
    return body + hashlib.sha256(body).hexdigest().encode()


def read_state(output: Path, resume: bool) -> Saved | None:
    """The checkpoint to resume from; None for a new run. Raises UsageError, DaglError."""
    path = output / "state.pt"
    if path.exists() != resume:
        hint = "holds a run already: `resume` continues it" if not resume else "holds no run to `resume`"
        raise UsageError(f"`output` {output} {hint}")
    if not resume:
        return None
    content = path.read_bytes()
    if hashlib.sha256(content[:-_DIGITS]).hexdigest().encode() != content[-_DIGITS:]:
        raise DaglError(
            f"{path}: not a checkpoint of this version (or damaged: its SHA-256 is not the one inside): start a new "
            f"run; `init_from` {output / 'model.safetensors'} takes its weights along"
        )
    try:
        saved = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
        _check(saved)
    except MemoryError:
        raise
    except Exception as error:  # a file that was made up fails in many ways
        why = f"{type(error).__name__}: {one_line(error)[:200]}"
        raise DaglError(f"{path}: not a checkpoint of this version ({why}): start a new run") from None
    return saved


def _check(saved: Saved) -> None:
    """Raises one of many exceptions unless these are the values of a `State`."""
    for name, kinds in _KINDS.items():
        if type(saved[name]) not in kinds and not (dict in kinds and isinstance(saved[name], dict)):
            raise TypeError(f"{name} is of type {type(saved[name]).__name__}")
    if not (saved["step"] >= 0 and saved["skipped"] >= 0 and 0 <= saved["elapsed"] < math.inf):
        raise ValueError("step, skipped or elapsed is below 0 or endless")
    settings = saved["settings"]
    if differing := settings.keys() ^ {f.name for f in fields(TrainConfig)}:
        raise KeyError(", ".join(sorted(map(str, differing))))
    own = settings | {"data": as_paths(settings["data"]), "output": as_paths(settings["output"])}
    TrainConfig(**checked(own, TrainConfig, "its settings:"))


def continued(config: TrainConfig, saved: Saved) -> TrainConfig:
    """config, to resume the run that `saved` is of. Raises UsageError if it would go another way, or not on."""
    former = saved["settings"]
    if config.precision == "auto":
        config = replace(config, precision=former["precision"])
    new = plain(config)
    for name, value in former.items():
        if name not in FREE_ON_RESUME and new[name] != value:
            raise UsageError(
                f"`{name}` {_as_given(new[name])} differs from the run in {config.output} "
                f"({_as_given(value)}): leave it out to resume, or start a new run"
            )
    for name, reached in (("steps", saved["step"]), ("minutes", saved["elapsed"] / 60)):
        if new[name] is not None and new[name] != former[name] and new[name] <= reached:
            raise UsageError(
                f"`{name}` {new[name]:g}: the run in {config.output} has had {reached:.4g} {name} already: give more"
            )
    return config


def _as_given(value: Any) -> Any:
    """A setting as it is given on the command line."""
    if value is None:
        return "not given"
    return ", ".join(f"{k}={v}" for k, v in value.items()) or "nothing" if isinstance(value, dict) else value
