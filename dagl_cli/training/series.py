"""One run, or those of a whole table of the paper, one after the other under the same settings."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..errors import DaglError, UsageError, one_line
from ..files import write
from . import presets
from .log import LogRow
from .loop import train
from .presets import TrainConfig
from .state import continued, read_state
from .world import processes


def train_all(
    config: TrainConfig, *, resume: bool = False, command: str = "",
    report: Callable[[LogRow], None] = lambda row: None,
    progress: Callable[[int, float], None] = lambda step, done: None,
) -> list[Path]:  # fmt: skip
    """`train` for each of `presets.cases(config)`; the weights' paths.

    A series leaves its settings in `output/run.toml`, and `resume` goes on with it: cases that have had their steps or
    minutes are left alone, the one that was interrupted continues, the others follow. All compute in the precision
    that the first one found to be faster. report: also told which case begins, {"case": ...}. progress: the share is
    that of the series. Raises as `train` does.
    """
    runs = presets.cases(config)
    if len(runs) == 1:
        return [train(runs[0], resume=resume, command=command, report=report, progress=progress)]
    finished = [_finished(run, resume) for run in runs]  # before anything is written: all must be able to go on
    if int(os.environ.get("RANK", 0)) == 0:
        _open(config, resume)
    with processes(config.device):  # once: they cannot part and meet again
        for i, run in enumerate(runs):
            if finished[i]:
                continue

            def of_all(step: int, done: float, before: int = i) -> None:
                progress(step, (before + min(done, 1.0)) / len(runs))

            first = runs[0].output / "run.toml"
            if run.precision == "auto" and i and first.exists():
                run = replace(run, precision=presets.read_toml(first)["precision"])
            report({"case": run.preset, "number": i + 1, "of": len(runs)})
            begun = (run.output / "state.pt").exists()
            train(run, resume=begun, command=command, report=report, progress=of_all)
    return [run.output / "model.safetensors" for run in runs]


def _open(config: TrainConfig, resume: bool) -> None:
    """The folder of a series, with its settings. Raises UsageError where there is none to resume, DaglError."""
    settings = config.output / "run.toml"
    if resume and not settings.exists():
        raise UsageError(f"`output` {config.output} holds no run to `resume`")
    try:
        config.output.mkdir(parents=True, exist_ok=True)
        write(settings, presets.to_toml(config).encode())
    except OSError as error:
        raise DaglError(f"`output` {config.output}: {one_line(error)}: make room, or choose another folder") from None


def _finished(run: TrainConfig, resume: bool) -> bool:
    """Whether the run has had its length. Raises UsageError where it cannot go on, DaglError for a damaged one."""
    saved = read_state(run.output, resume and (run.output / "state.pt").exists())
    if saved is None:
        return False
    continued(run, saved)
    return bool(saved["step"] >= run.steps if run.steps else saved["elapsed"] >= 60 * (run.minutes or 0))
