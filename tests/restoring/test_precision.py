"""bfloat16 on the CPU: only where it is faster and next to nothing changes, and never for 16 bits."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import ROOT, dagl, noting, saved, tiny
from PIL import Image

from dagl_cli.config import Options
from dagl_cli.nn import model as nn_model
from dagl_cli.restoring import device, restorer
from dagl_cli.restoring.api import restore
from dagl_cli.restoring.device import HALF_LEVEL
from dagl_cli.restoring.restorer import Restorer, load_model
from dagl_cli.store import weights

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restorer, "bfloat16_is_faster", lambda: True)


@pytest.fixture
def asked_anew() -> Iterator[None]:
    device.bfloat16_is_faster.cache_clear()
    yield
    device.bfloat16_is_faster.cache_clear()


def rough() -> Restorer:
    """A network that bfloat16 changes by many levels."""
    model = tiny(graph=False)
    torch.manual_seed(0)
    for layer in (model.conv_in, model.conv_out):
        torch.nn.init.normal_(layer.weight, std=1)
    for block in model.blocks:
        torch.nn.init.normal_(block.get_parameter("conv2.weight"), std=1)
    return Restorer(model)


@pytest.mark.usefixtures("asked_anew")
def test_a_processor_without_its_instructions_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True, "amx_bf16": False})
    monkeypatch.setattr(device, "seconds", lambda candidates: pytest.fail("measured"))
    assert not device.bfloat16_is_faster()


@pytest.mark.usefixtures("asked_anew")
@pytest.mark.parametrize(("bf16", "expected"), [(0.7, True), (0.9, False)])
def test_it_must_be_faster(monkeypatch: pytest.MonkeyPatch, bf16: float, expected: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setattr(device, "seconds", lambda candidates: {"fp32": 1.0, "bf16": bf16})
    assert device.bfloat16_is_faster() == expected


@pytest.mark.usefixtures("faster")
def test_only_where_little_changes_and_for_8_bits() -> None:
    calm = Restorer(tiny(graph=False))
    assert (calm.precision(8), calm.precision(16), calm.precision()) == ("bf16", "fp32", "fp32")
    assert [Restorer(tiny(), Options(precision=p)).precision(8) for p in ("fp32", "bf16")] == ["fp32", "bf16"]
    assert Restorer(tiny("demosaic", 3, graph=False)).precision(8) == "fp32", "it shows there"
    assert rough()._change() > HALF_LEVEL
    assert rough().precision(8) == "fp32"


@pytest.mark.usefixtures("faster")
def test_a_network_that_is_kept_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Restorer] = []
    change = Restorer._change
    monkeypatch.setattr(Restorer, "_change", lambda self: noting(tried, self, change(self)))
    kept = tiny(graph=False)
    assert [Restorer(kept).precision(8) for _ in range(3)] == 3 * ["bf16"]
    assert len(tried) == 1
    assert rough().precision(8) == "fp32"
    assert len(tried) == 2, "another one is another"


@pytest.mark.parametrize("shape", [(1, 17), (7, 48), (31, 31)])
def test_narrow_pictures_are_numbers(shape: tuple[int, int]) -> None:
    model = load_model("denoise", 1, model=str(ROOT / "weights/denoise-gray-fast.safetensors"))
    quick, x = Restorer(model.model, Options(precision="bf16")), torch.rand(1, *shape)
    assert torch.equal(quick(x, 25), model(x, 25))
    assert quick.precision(side=min(shape)) == "fp32"


def test_a_slow_processor_keeps_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restorer, "bfloat16_is_faster", lambda: False)
    assert Restorer(tiny(graph=False)).precision(8) == "fp32"


@pytest.mark.parametrize("name", ["denoise-gray", "denoise-color", "dejpeg-color", "demosaic-color", "real-color"])
def test_bundled_models_change_by_less_than_half_a_level(name: str) -> None:
    network, _ = weights.load(ROOT / f"weights/{name}.safetensors")
    assert 0 < Restorer(network)._change() < HALF_LEVEL


def test_the_ends_are_computed_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    x = 0.5 + 0.1 * torch.randn(1, 64, 64)
    exact, quick = (
        load_model(
            "denoise", 1, model=str(ROOT / "weights/denoise-gray-fast.safetensors"), options=Options(precision=p)
        )
        for p in ("fp32", "bf16")
    )
    expected, found = exact(x, 25), quick(x, 25)
    monkeypatch.setattr(nn_model, "exact", lambda layer, features: layer(features))
    assert 0 < (found - expected).abs().mean() < 0.7 * (quick(x, 25) - expected).abs().mean()


@pytest.mark.usefixtures("faster")
def test_the_report_says_which(tmp_path: Path) -> None:
    model = saved(tmp_path / "tiny.safetensors", tiny(shift=0.1, graph=False))
    levels = np.random.default_rng(0).integers(0, 256, (40, 48), np.uint8)
    Image.fromarray(levels).save(tmp_path / "a.png")
    Image.fromarray(levels.astype(np.uint16) * 257).save(tmp_path / "b.png")
    rows: dict[str, Any] = {}
    for name, flags in (("a", []), ("b", []), ("b", ["--precision", "bf16"])):
        output = tmp_path / f"{len(rows)}.png"
        source = tmp_path / f"{name}.png"
        stdout, _ = dagl("denoise", "--sigma", 25, "--model", model, source, output, "--json", *flags)
        said = json.loads(stdout)
        rows[f"{name} {flags}"] = said["files"][0]["precision"]
    assert list(rows.values()) == ["bf16", "fp32", "bf16"]


@pytest.mark.usefixtures("faster")
@pytest.mark.parametrize(("kind", "expected"), [("uint8", "bf16"), ("uint16", "fp32"), ("float32", "fp32")])
def test_arrays(monkeypatch: pytest.MonkeyPatch, kind: str, expected: str) -> None:
    model = Restorer(tiny(graph=False))
    used: list[torch.dtype] = []
    run = model._run
    monkeypatch.setattr(model, "_run", lambda x, sigma, dtype: noting(used, dtype, run(x, sigma, dtype)))
    restore(np.ones((40, 40), kind), sigma=25, model=model)
    assert used[-1] == device.DTYPES[expected]
