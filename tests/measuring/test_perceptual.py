"""LPIPS and DISTS, on networks with random weights: the trained ones cannot be fetched everywhere."""

from __future__ import annotations

import csv
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import benchmark, measured_rows
from PIL import Image

from dagl_cli.errors import DaglError, ImageError, UsageError
from dagl_cli.measuring import perceptual
from dagl_cli.packages import load


@pytest.fixture
def random_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's networks with random weights, and the layers alone that are used."""
    models, dists = load("torchvision.models"), load("torchmetrics.functional.image.dists")

    def features(make: Callable[..., torch.nn.Module]) -> SimpleNamespace:
        with torch.device("meta"):
            layers = make(weights=None).features
        assert isinstance(layers, torch.nn.Module)
        torch.manual_seed(1)
        for parameter in layers.to_empty(device="cpu").parameters():
            torch.nn.init.normal_(parameter, std=0.05)
        return SimpleNamespace(features=layers)

    monkeypatch.setattr(models, "alexnet", lambda weights, make=models.alexnet: features(make))
    monkeypatch.setattr(dists, "vgg16", lambda weights: features(models.vgg16))
    monkeypatch.setattr(perceptual, "provide", lambda *weights: None)


def pictures(noise: float, channels: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    clean = torch.rand(1, 3, 8, 8, generator=torch.manual_seed(0))[:, :channels]
    clean = torch.nn.functional.interpolate(clean, (64, 80), mode="bicubic").clamp(0, 1)[0]
    return (clean + noise * torch.randn(clean.shape, generator=torch.manual_seed(1))), clean


@pytest.mark.parametrize("name", perceptual.METRICS)
def test_what_differs_more_has_more(random_networks: None, name: str) -> None:
    metric = perceptual.metric(name)
    values = [metric(*pictures(noise)) for noise in (0.0, 0.05, 0.2)]
    assert values[0] == pytest.approx(0, abs=1e-5)
    assert values[0] < values[1] < values[2]
    assert metric(*pictures(0.05)) == values[1]  # nothing is left of one call in the next
    gray, clean = pictures(0.05, 1)
    assert metric(gray, clean) == pytest.approx(metric(gray.repeat(3, 1, 1), clean.repeat(3, 1, 1)))
    with pytest.raises(ImageError, match=f"64 x 63 pixels is too small for `metric` {name}: 64 x 64"):
        metric(gray[..., :63], clean[..., :63])


def test_their_columns(random_networks: None, here: Path, tmp_path: Path) -> None:
    """In JSON, CSV, LaTeX, where less is better, and on the screen; a second run takes them from the first."""
    Path("own").mkdir()
    for i in range(2):
        noisy, _ = pictures(0.01 * (i + 1), 1)
        Image.fromarray((noisy[0].clamp(0, 1) * 255).round().byte().numpy()).save(f"own/{i}.png")
    what = ("--dataset", "own", "--sigma", 25, "--compare", "tv", "--metric", "lpips")
    (tv, ours), again = (measured_rows(benchmark(*what, "--json")) for _ in range(2))
    assert again == [tv, ours]
    assert 0 < tv["lpips"] != ours["lpips"] > 0
    assert ours["dists"] is None
    assert ours["lpips"] == pytest.approx(sum(image["lpips"] for image in ours["per_image"]) / 2)
    assert ours["lpips_interval"] > 0
    result = benchmark(*what, "--images-csv", "images.csv", "--latex", "table.tex", "--report", "report.html")
    assert f"{ours['lpips']:.4f}" in result.stdout
    assert "LPIPS 0.1 (AlexNet)" in result.stdout
    with open("images.csv") as file:
        lines = list(csv.DictReader(file))
    assert float(lines[-1]["lpips"]) == ours["per_image"][-1]["lpips"]
    table = Path("table.tex").read_text()
    assert "\nPSNR/SSIM/LPIPS & " in table
    best = min(tv["lpips"], ours["lpips"])
    assert f"/\\textbf{{{best:.4f}}}" in table
    assert "LPIPS" in Path("report.html").read_text()


def test_weights_are_fetched_once_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    content = b"weights" * 1000
    name = f"net-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    (tmp_path / name).write_bytes(content)
    weights = SimpleNamespace(url=(tmp_path / name).as_uri(), meta={"_file_size": 0.007})
    said: list[str] = []

    def provide(offline: bool = False) -> None:
        perceptual.provide(weights, "lpips", offline, said.append)

    with pytest.raises(DaglError, match=rf"^`metric` lpips needs {name} \(1 MB\) in .*hub.checkpoints, and `offline`"):
        provide(offline=True)
    provide()
    (tmp_path / name).unlink()
    provide()
    provide(offline=True)
    assert len(said) == 1
    here = tmp_path / "hub/checkpoints" / name
    here.write_bytes(content[1:])
    with pytest.raises(DaglError, match=f"{name} is damaged .*: remove it"):
        provide()
    here.unlink()
    with pytest.raises(DaglError, match=r"which cannot be fetched \(.*\): put file:"):
        provide()
    (tmp_path / name).write_bytes(content[1:])
    with pytest.raises(DaglError, match=r"which cannot be fetched \(invalid hash value"):
        provide()
    assert not here.exists()


def test_what_is_missing_is_named(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="`metric` fid is unknown: choose one of lpips, dists"):
        perceptual.metric("fid")
    for module in ("torchmetrics", "torchmetrics.image", "torchmetrics.image.lpip"):
        monkeypatch.setitem(sys.modules, module, None)
    result = benchmark("--dataset", "Set12", "--metric", "dists", "--offline")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: --metric dists needs torchmetrics")
    assert result.stderr.endswith("pip install 'dagl[perceptual]'\n")
