"""Every bundled model restores a photograph that none of them was trained on: a floor under its PSNR."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import DATA, ROOT
from PIL import Image
from torch import Tensor

from dagl_cli import Options, load_model
from dagl_cli.degrade import FIXED_CAMERA_NOISE, degraded
from dagl_cli.measuring.metrics import psnr
from dagl_cli.restoring.rawnoise import level_map
from dagl_cli.store import onnx, weights

FLOORS = {
    "dejpeg-color": 22.16,
    "dejpeg-color-fast": 22.04,
    "dejpeg-color-lite": 22.02,
    "dejpeg-gray": 23.98,
    "dejpeg-gray-fast": 23.74,
    "dejpeg-gray-lite": 23.67,
    "demosaic-color": 31.65,
    "demosaic-color-fast": 29.66,
    "demosaic-color-lite": 29.71,
    "denoise-color": 27.43,
    "denoise-color-fast": 26.95,
    "denoise-color-lite": 26.93,
    "denoise-gray": 25.75,
    "denoise-gray-fast": 25.46,
    "denoise-gray-lite": 25.44,
    "raw-color": 25.13,
    "real-color": 30.23,
    "real-color-fast": 30.02,
}
"""dB on the middle of `cords.png`: sigma 25, quality 10, float32; 0.03 dB less than was measured."""


def test_every_bundled_model_has_a_floor() -> None:
    assert FLOORS.keys() == {path.stem for path in weights.bundled()}


def photograph(channels: int) -> Tensor:
    """(channels, 128, 128) in [0, 1]."""
    with Image.open(DATA / "cords.png") as file:
        pixels = np.asarray(file.convert("L" if channels == 1 else "RGB"))[32:160, 32:160]
    return torch.from_numpy(pixels.copy()).view(128, 128, channels).permute(2, 0, 1) / 255


@pytest.mark.parametrize("name", FLOORS)
def test_floor(name: str) -> None:
    task, colours = name.split("-")[:2]
    model = load_model(task, 1 if colours == "gray" else 3, model=name, options=Options(precision="fp32"))
    clean = photograph(model.config.channels)
    bad = degraded(clean, task, {"denoise": 25, "dejpeg": 10}.get(task))
    level: float | Tensor = 255 * float((bad - clean).square().mean().sqrt())
    if task == "raw":
        level = level_map(bad.sum(0), np.full((2, 2, 2), FIXED_CAMERA_NOISE))
    assert psnr(model(bad, level if model.config.noise_map else None), clean) > FLOORS[name]


@pytest.mark.parametrize("name", ["denoise-color", "denoise-gray", "real-color"])
@pytest.mark.parametrize(("level", "told"), [(10, 1), (20, 2), (40, 2)])
def test_noise_never_grows(name: str, level: float, told: float) -> None:
    """However wrong the level that is told: the flattest blocks of a picture may have the least of it."""
    model = load_model(name.split("-")[0], 1 if name.endswith("gray") else 3, model=name)
    clean = photograph(model.config.channels)
    noisy = (clean + torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)) * level / 255).clamp(0, 1)
    assert psnr(model(noisy, told), clean) > psnr(noisy, clean)


@pytest.mark.parametrize("name", ["denoise-color", "real-color"])
def test_the_graphs_of_defaults_are_found_the_same_in_onnx(name: str, tmp_path: Path) -> None:
    """Neighbours that are as near change places there: a few nodes differ, not the network."""
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package)
    assert onnx.export(weights.folder() / f"{name}.safetensors", tmp_path / "m.onnx") < 1e-5


def test_whatever_type_of_numbers_torch_was_told_to_take() -> None:
    """`torch.set_default_dtype` is of a program's own tensors. In a process of its own: what was loaded stays."""
    program = """
import numpy as np, torch
from dagl_cli import restore
torch.set_default_dtype(torch.float64)
noisy = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
for task in ("denoise", "real", "dejpeg", "restore"):
    restore(noisy, task, guarded=True)
    restore(noisy, task if task != "restore" else "raw")
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
