"""Losses and learning rates."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import run_config

from dagl_cli.training.optimise import LOSSES, learning_rate


def test_learning_rates(tmp_path: Path) -> None:
    cosine = run_config(tmp_path, tmp_path, lr=1.0, warmup=10)
    assert [round(learning_rate(cosine, step, done), 3) for step, done in ((0, 0), (9, 0), (50, 0.5), (99, 1))] == [
        0.1, 1.0, 0.5, 0.0,
    ]  # fmt: skip
    slow = run_config(tmp_path, tmp_path, lr=1.0, warmup=1000)  # few steps in the time given
    assert learning_rate(slow, 0, 0.0) == 0.001
    assert learning_rate(slow, 2, 0.05) == pytest.approx(0.5, abs=0.01)
    assert learning_rate(slow, 5, 0.1) > 0.97
    steps = run_config(tmp_path, tmp_path, lr=1.0, warmup=0, schedule="step", halve_every=100)
    assert [learning_rate(steps, step, 0) for step in (0, 99, 100, 250)] == [1.0, 1.0, 0.5, 0.25]
    flat = run_config(tmp_path, tmp_path, lr=1.0, warmup=0, schedule="flat")
    assert [round(learning_rate(flat, 9, done), 3) for done in (0, 0.5, 0.85, 0.925, 1)] == [1, 1, 1, 0.5, 0]


@pytest.mark.parametrize("loss", ["psnr", "mse", "l1"])
def test_losses_fall_with_the_error(loss: str) -> None:
    clean = torch.zeros(2, 1, 4, 4)
    near, far = (LOSSES[loss](clean + error, clean) for error in (0.1, 0.2))
    assert near < far
