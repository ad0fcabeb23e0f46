"""What is known of a run while it goes on: `log.jsonl`, `report.html`, TensorBoard's events."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import __version__
from ..errors import UsageError
from ..files import write
from ..measuring import metrics
from ..measuring import report as pages
from .presets import TrainConfig

LogRow = dict[str, Any]
"""One line of `log.jsonl`. With 'step' it is a point of the learning curves, without it a message."""


class Counters:
    """What the steps since the last row came to; on the device: reading it every step would make the host wait."""

    def __init__(self, step: int, skipped: int, device: torch.device) -> None:
        self.step, self.skipped_before = step, skipped
        self.loss, self.good, self.bad, self.bad_in_a_row = (torch.zeros((), device=device) for _ in range(4))

    def add(self, loss: Tensor, wrong: Tensor) -> None:
        """wrong: 1 where the step was left out, else 0."""
        self.loss += torch.where(wrong > 0, torch.zeros_like(loss), loss)
        self.good += 1 - wrong
        self.bad += wrong
        self.bad_in_a_row = (self.bad_in_a_row + wrong) * wrong

    @property
    def skipped(self) -> int:
        """Steps that were left out since the run began."""
        return self.skipped_before + int(self.bad)

    def read(self, step: int) -> tuple[int, float | None]:
        """(steps, their mean loss) since the last time."""
        steps, mean = step - self.step, round(float(self.loss / self.good), 4) if self.good else None
        self.step = step
        self.loss.zero_()
        self.good.zero_()
        return steps, mean


class Log:
    """`log.jsonl`, `report.html` and, if wanted, TensorBoard's events.

    Args:
        report: called with each row; None: this process writes nothing.
        step: where the run goes on.
    """

    def __init__(self, config: TrainConfig, report: Callable[[LogRow], None] | None, step: int) -> None:
        self.config, self.report, self.step = config, report, step
        self.path = config.output / "log.jsonl"
        self.crops: list[tuple[Tensor, Tensor, Tensor]] = []
        """(degraded, clean, restored) of the last validation, (C, H, W) each."""
        self.board = None
        if config.tensorboard and report:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise UsageError("`tensorboard` needs a package: pip install 'dagl[tensorboard]'") from None
            self.board = SummaryWriter(str(config.output))

    def rows(self) -> list[LogRow]:
        """All rows that are whole, and such as were written here."""
        lines = self.path.read_bytes().splitlines() if self.path.exists() else []
        return [row for row in map(_parsed, lines) if row is not None]

    def clean(self) -> None:
        """Drops what a killed run logged after its last checkpoint, and what is damaged."""
        rows = [json.dumps(row) + "\n" for row in self.rows() if row.get("step", 0) <= self.step]
        write(self.path, "".join(rows).encode())

    def write(self, row: LogRow, *, page: bool = False) -> None:
        """page: make `report.html` anew."""
        if not self.report:
            return
        self.config.output.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if self.board and "step" in row:
            for name in row.keys() - {"step"}:
                if row[name] is not None:
                    self.board.add_scalar(name, row[name], row["step"])
        if page:
            pages.save(self.config.output / "report.html", learning_page(self.config, self.rows(), self.crops))
        self.report(row)

    def close(self) -> None:
        if self.board:
            self.board.close()


def _parsed(line: bytes) -> LogRow | None:
    """A line of the log; None if it was cut off by a kill, or is none of ours."""
    try:
        row = json.loads(line)
        numbers = [row[name] for name in ("step", "loss", "psnr", "ssim") if row.get(name) is not None]
        if isinstance(row.get("step", 0), int) and all(math.isfinite(n) and type(n) in (int, float) for n in numbers):
            return row
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        pass
    return None


def learning_page(config: TrainConfig, log: list[LogRow], crops: list[tuple[Tensor, Tensor, Tensor]]) -> str:
    """`report.html`: learning curves, settings, before and after. crops: see `Log.crops`; the first four are shown."""
    rows = [row for row in log if "step" in row]

    def curve(title: str, unit: str, key: str) -> pages.Curve:
        points = [(float(row["step"]), float(row[key])) for row in rows if row.get(key) is not None]
        return pages.Curve(title, "step", unit, {key: points})

    units = {"psnr": "mean of ln MSE", "mse": "MSE", "l1": "mean absolute error"}
    settings: list[list[pages.Cell]] = [[k, str(v)] for k, v in config.named().items() if v is not None]
    return pages.html(
        f"Training: {config.task}, {config.output.resolve().name}",
        notes=[f"dagl {__version__}; step {rows[-1]['step']:,}; held-out crops, averaged weights"] if rows else [],
        tables=[pages.Table("Settings", ["setting", "value"], settings)],
        curves=[curve("PSNR of held-out photos", "dB", "psnr"), curve("Loss", units[config.loss], "loss")],
        pictures=[_picture(f"held out {i}", config.task, *crop) for i, crop in enumerate(crops[:4], 1)],
    )


def _picture(name: str, task: str, degraded: Tensor, clean: Tensor, restored: Tensor) -> pages.Picture:
    versions = {"degraded": degraded.clamp(0, 1), "restored": restored, "original": clean}
    ssim = metrics.SSIM[task]
    return pages.Picture(
        name,
        {k: (v.permute(1, 2, 0) * 255).round().byte().numpy().squeeze() for k, v in versions.items()},
        {k: {"PSNR": metrics.psnr(v, clean), "SSIM": ssim(v, clean)} for k, v in versions.items() if k != "original"},
    )
