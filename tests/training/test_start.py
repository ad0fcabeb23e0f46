"""Weights to start from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import TINY_NETWORK, log_of, run_config

from dagl_cli.config import ModelConfig
from dagl_cli.errors import WeightsError
from dagl_cli.nn.model import DAGL
from dagl_cli.store import weights
from dagl_cli.training.loop import train


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    return weights.load(path)[0].state_dict()


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
