"""Weights to start from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import TINY_NETWORK, log_of, run_config

from dagl_cli.config import ModelConfig
from dagl_cli.errors import UsageError, WeightsError
from dagl_cli.nn.model import DAGL
from dagl_cli.store import weights
from dagl_cli.training.loop import train


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    return weights.load(path)[0].state_dict()


def test_freeze_trains_the_stages_only(photos: Path, tmp_path: Path) -> None:
    start = train(run_config(photos, tmp_path / "start", steps=1))
    end = train(run_config(photos, tmp_path / "end", steps=2, init_from=str(start), freeze=True, ema=0.0))
    before, after = tensors_of(start), tensors_of(end)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("stages.") for name in changed)
    with pytest.raises(UsageError, match="`freeze` leaves nothing to train"):
        run_config(photos, tmp_path / "x", model=TINY_NETWORK | {"stages": 0}, freeze=True)


def test_a_graph_on_the_pilot_learns(photos: Path, tmp_path: Path) -> None:
    """Every parameter of it gets gradients, and the rest begins as it is."""
    shape = TINY_NETWORK | dict(graph="gated", patch=8, stage_blocks=1, heads=2, stages=1, neighbours=4, noise_map=True)
    start = train(run_config(photos, tmp_path / "start", steps=1, lr=0.0, ema=0.0, model=shape, crop=32))
    end = train(run_config(photos, tmp_path / "end", steps=4, ema=0.0, warmup=0, model=shape, crop=32))
    before, after = tensors_of(start), tensors_of(end)
    assert all(not torch.equal(before[name], after[name]) for name in before if name.startswith("stages."))


def test_init_from_takes_what_fits(photos: Path, tmp_path: Path) -> None:
    gray = train(run_config(photos, tmp_path / "gray", steps=2))
    train(run_config(photos, tmp_path / "color", steps=1, channels=3, init_from=str(gray), lr=0.0, ema=0.0))
    color = tensors_of(tmp_path / "color/model.safetensors")
    assert torch.equal(color["blocks.0.conv1.weight"], tensors_of(gray)["blocks.0.conv1.weight"])
    row = log_of(tmp_path / "color")[0]
    assert row["channels differ"] == ["conv_in.weight", "conv_out.bias", "conv_out.weight"]
    assert row["fresh"] == row["unused"] == []
    train(run_config(photos, tmp_path / "plain", steps=1, model=TINY_NETWORK | {"stages": 0}, init_from=str(gray)))
    assert all(name.startswith("stages.0.") for name in log_of(tmp_path / "plain")[0]["unused"])
    other = tmp_path / "other.safetensors"
    weights.save(other, DAGL(shape := ModelConfig(features=4, blocks=2, stages=0)).state_dict(), shape, {})
    with pytest.raises(WeightsError, match="no tensor fits"):
        train(run_config(photos, tmp_path / "x", init_from=str(other)))
