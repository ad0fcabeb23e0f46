"""ONNX networks give what PyTorch's give, whatever the size and within tiles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import saved
from typer.testing import CliRunner

from dagl_cli.cli import app
from dagl_cli.config import ModelConfig
from dagl_cli.errors import WeightsError
from dagl_cli.nn.model import DAGL
from dagl_cli.restoring import tiling
from dagl_cli.store import onnx, weights


def network(**settings: object) -> DAGL:
    """Random, with features of some size everywhere, so that all of it shows in the output."""
    torch.manual_seed(1)
    return DAGL(ModelConfig(**{"features": 8, "blocks": 2, "head_features": 4, "embedding": 6} | settings))  # type: ignore[arg-type]


NETWORKS: dict[str, dict[str, Any]] = {
    "trunk": dict(scale=2, noise_map=True, activation="relu", stages=0, heads=0),
    "raw": dict(scale=2, noise_map=True, activation="relu", stages=0, heads=0, task="raw", channels=3),
    "lite": dict(scale=2, noise_map=True, activation="relu", stages=1, heads=1, key_stride=2),
    "paper": dict(stage_blocks=1, stages=2, heads=2),
    "equations": dict(graph="paper", stages=1, heads=1),
    "gated": dict(
        graph="gated",
        scale=2,
        noise_map=True,
        stages=1,
        heads=2,
        patch=8,
        window=32,
        channels=3,
        activation="relu",
        local_noise=True,
    ),
    "u-net": dict(scale=2, outer_blocks=1, stages=1, heads=1, key_stride=2, task="demosaic", channels=3),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_onnx(name: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = network(**NETWORKS[name])
    path = saved(tmp_path / "m.safetensors", model)
    result = CliRunner().invoke(app, ["weights", "export", str(tmp_path / "onnx"), "--model", str(path), "--onnx"])
    assert result.exit_code == 0, (result.stderr, result.exception)
    assert [p.name for p in (tmp_path / "onnx").iterdir()] == ["m.onnx"]
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "m.onnx", providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    assert int(about["dagl.multiple"]) == model.config.multiple
    image = torch.rand(model.config.channels, 70, 90)
    reference = weights.load(path)[0]
    level = 25.0 if model.config.noise_map else None

    def by_torch(x: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return reference(x, level)

    def by_onnx(x: torch.Tensor) -> torch.Tensor:
        told = (len(x), 1, *x.shape[2:]) if model.config.by_sample else len(x)
        inputs = {"image": x.numpy()} | ({"sigma": np.full(told, level, np.float32)} if level else {})
        return torch.from_numpy(session.run(None, inputs)[0])

    multiple = int(about["dagl.multiple"])
    expected, found = (
        tiling.overlap_blend(run, image, tile=48, overlap=16, multiple=multiple) for run in (by_torch, by_onnx)
    )
    assert (found - expected).abs().max() < 1e-4, "an edge at its threshold may fall to either side"
    assert (expected - image).abs().max() > 1e-3, "the network does something"


@pytest.mark.parametrize("graph", ["nonlocal", "equations"])
def test_onnx_of_what_has_none(graph: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "m.safetensors", network(graph=graph, stages=1, heads=1))
    with pytest.raises(WeightsError, match=f"graph '{graph}' has no ONNX export"):
        onnx.export(path, tmp_path / "m.onnx")
