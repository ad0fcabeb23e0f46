"""OpenVINO gives what torch gives, is converted once, and takes over only where it pays."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import dagl, saved, tiny
from PIL import Image

from dagl_cli import images
from dagl_cli.config import ModelConfig, Options
from dagl_cli.errors import UsageError
from dagl_cli.nn.model import DAGL
from dagl_cli.restoring import openvino
from dagl_cli.restoring.restorer import Restorer, load_model

ASKED = Options(backend="openvino")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Networks that one test converts are there for the next."""
    folder = tmp_path_factory.mktemp("openvino")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openvino, "folder", lambda: folder)
        yield folder


def small(path: Path, **shape: Any) -> Path:
    """A network whose every part shows in its result."""
    torch.manual_seed(1)
    usual = {"scale": 2, "features": 8, "blocks": 2, "stages": 0, "heads": 0, "noise_map": True}
    return saved(path, DAGL(ModelConfig(**usual | shape)))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small(tmp_path_factory.mktemp("weights") / "small.safetensors")


def loaded(weights: Path, task: str = "denoise", channels: int = 1, **options: Any) -> Restorer:
    return load_model(task, channels, model=weights, options=replace(ASKED, **options))


def test_its_results_are_torchs_with_the_same_tiles(weights: Path) -> None:
    x = torch.rand(1, 150, 131)
    how: dict[str, Any] = {"tile": 64, "overlap": 8, "precision": "fp32"}
    mine, torchs = loaded(weights, **how), loaded(weights, backend="torch", **how)
    assert (mine(x, 25) - torchs(x, 25)).abs().max() < openvino.TOLERANCE
    assert (mine.backend, torchs.backend) == ("openvino", "torch")
    assert (torchs(x, 25) - x).abs().max() > 1e-3, "the network does something"


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 3, 50), (1, 31, 31)])
def test_narrow_pictures_are_torchs(weights: Path, shape: tuple[int, ...]) -> None:
    x, mine = torch.rand(shape), loaded(weights, precision="bf16" if "BF16" in openvino.capabilities() else "fp32")
    assert torch.equal(mine(x, 25), loaded(weights, backend="torch", precision="fp32")(x, 25))
    assert (mine.backend, mine.precision(side=min(shape[1:]))) == ("torch", "fp32")


NETWORKS: dict[str, dict[str, Any]] = {
    "raw": {"task": "raw", "channels": 3},
    "demosaic": {"task": "demosaic", "channels": 3, "noise_map": False, "outer_blocks": 1},
    "denoise": {"stages": 1, "heads": 1, "head_features": 4, "embedding": 6, "key_stride": 2},
}


@pytest.mark.parametrize("task", NETWORKS)
def test_mosaics_and_graphs(task: str, tmp_path: Path) -> None:
    path, channels = small(tmp_path / "m.safetensors", **NETWORKS[task]), NETWORKS[task].get("channels", 1)
    level = {"raw": torch.rand(67, 90) * 20, "demosaic": None, "denoise": 25.0}[task]
    x = torch.rand(1, 67, 90)
    found, expected = (
        loaded(path, task, channels, backend=backend, ensemble=task == "raw")(x, level)
        for backend in ("openvino", "torch")
    )
    assert (found - expected).abs().max() < openvino.TOLERANCE


def test_bfloat16_keeps_what_torch_keeps_exact(weights: Path) -> None:
    """The difference that it makes is no larger than with torch, where the processor has it at all."""
    if "BF16" not in openvino.capabilities():
        with pytest.raises(UsageError, match="no instructions for it here"):
            loaded(weights, precision="bf16")
        return
    x = torch.rand(1, 64, 64)
    exact = loaded(weights, backend="torch", precision="fp32")(x, 25)
    mine, torchs = (
        (loaded(weights, backend=backend, precision="bf16")(x, 25) - exact).abs().mean()
        for backend in ("openvino", "torch")
    )
    assert 0 < mine < 1.1 * torchs


def test_a_network_is_converted_once(weights: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.rand(1, 40, 40)
    expected = loaded(weights)(x, 25)
    monkeypatch.setattr(openvino, "made", lambda *_: pytest.fail("converted again"))
    assert torch.equal(loaded(weights)(x, 25), expected)
    assert all(path.suffix == ".safetensors" or path.name == ".lock" for path in cache.iterdir())


@pytest.mark.parametrize("damage", ["truncated", "a byte", "of another processor", "text"])
def test_a_damaged_one_is_made_anew(weights: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.rand(1, 40, 40)
    expected, path = loaded(weights)(x, 25), openvino.place_of(load_model("denoise", 1, model=weights).digest or "")
    whole, known = path.read_bytes(), openvino.found(path)
    assert known
    blobs = {precision: openvino.compiled(path, known, precision) for precision in known.digests}
    monkeypatch.setattr(openvino, "made", lambda *_: (known, blobs))
    changed = bytearray(whole)
    changed[-100] ^= 1
    other = whole.replace(known.processor.encode(), b"?" * len(known.processor))
    damaged = {"truncated": whole[:-50], "a byte": bytes(changed), "of another processor": other, "text": b"x"}[damage]
    path.write_bytes(damaged)
    assert all(torch.equal(loaded(weights, precision=precision)(x, 25), expected) for precision in ("auto", "fp32"))
    for precision in known.digests:
        loaded(weights, precision=precision)(x, 25)
    assert path.read_bytes() == whole


def test_processors_with_other_instructions_look_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of a shared folder's machines may have no bfloat16."""
    here = openvino.place_of("a")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    assert openvino.place_of("a") != here


def timed(torchs: float, mine: float, change: float = 0.0) -> openvino.Converted:
    seconds = {"torch fp32": torchs, "torch bf16": torchs, "openvino fp32": mine, "openvino bf16": mine / 2}
    return openvino.Converted(openvino.processor(), {}, seconds, change)


def choice(known: openvino.Converted | None, monkeypatch: pytest.MonkeyPatch) -> openvino.OpenVINO:
    """With `backend` auto, and nothing that could run."""
    monkeypatch.setattr(openvino, "found", lambda path: known)
    monkeypatch.setattr(
        openvino.OpenVINO, "_network", lambda self, precision: self._networks.setdefault(precision, None)
    )
    sample = np.zeros((1, 1, 8, 8), np.float32), None
    return openvino.OpenVINO(tiny(), "0" * 64, Options(), 1, sample, lambda precision: sample[0])


def test_auto_takes_it_where_more_is_saved_than_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    its = choice(timed(torchs=2e-6, mine=1e-6), monkeypatch)
    assert not its.takes(300_000, "fp32", exact=True), "0.3 seconds are less than it takes to load"
    assert its.takes(300_000, "fp32", exact=True), "and with these it pays"
    assert its.takes(1, "fp32", exact=True), "once it is there"
    slower = choice(timed(torchs=1e-6, mine=1.1e-6), monkeypatch)
    assert not any(slower.takes(10**9, "fp32", exact=True) for _ in range(3))
    assert slower.takes(10**9, "fp32", exact=False), "in bfloat16 it is faster"


def test_auto_converts_once_torch_has_worked_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    its = choice(None, monkeypatch)
    monkeypatch.setattr(openvino.OpenVINO, "_convert", lambda self: timed(torchs=2e-6, mine=1e-6))
    assert not its.takes(10**9, "fp32", exact=True)
    its.worked(openvino.CONVERTING + 1)
    assert its.takes(10**9, "fp32", exact=True)


@pytest.mark.parametrize(("mine", "change", "expected"), [(1.0, 0.001, "bf16"), (1.0, 0.003, "fp32")])
def test_bfloat16_must_not_show(monkeypatch: pytest.MonkeyPatch, mine: float, change: float, expected: str) -> None:
    its = choice(timed(2.0, mine, change), monkeypatch)
    assert (its.precision(exact=False), its.precision(exact=True)) == (expected, "fp32")


def test_auto_goes_on_without_it(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(openvino, "folder", lambda: tmp_path / "file" / "openvino")
    monkeypatch.setattr(openvino, "CONVERTING", -1.0)
    said: list[str] = []
    restorer = load_model("denoise", 1, model=weights, warn=said.append)
    restorer(torch.rand(1, 40, 40), 25)
    assert restorer.backend == "torch"
    assert len(said) == 1
    assert "set XDG_CACHE_HOME" in said[0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--device", "cuda"], "--backend openvino is for the CPU, not for --device cuda"),
        (["--precision", "fp16"], "--precision fp16: --backend openvino computes this model in fp32 or bf16"),
        (["--backend", "onnx"], "--backend onnx is unknown: choose one of auto, torch, openvino"),
        (["--threads", "0"], "'--threads'"),
    ],
)
def test_what_it_does_not_serve(weights: Path, tmp_path: Path, flags: list[str], message: str) -> None:
    source = tmp_path / "in.png"
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(source)
    for more in ([], ["--dry-run"]):
        *_, said = dagl(
            "denoise", "--sigma", 9, "--model", weights, "--backend", "openvino", *flags, *more, source, code=2
        )
        assert message in " ".join(said.split())
    assert [path.name for path in tmp_path.iterdir()] == ["in.png"]


@pytest.mark.parametrize("graph", ["gated", "nonlocal"])
def test_graphs_without_an_export(graph: str) -> None:
    config = ModelConfig(graph=graph, stages=1, heads=1, patch=8 if graph == "gated" else 7)
    with pytest.raises(UsageError, match=f"cannot take graph '{graph}' .*: use `backend` torch"):
        openvino.check(config, ASKED)


def test_without_the_package(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'dagl\[openvino\]'"):
        loaded(weights)
    assert load_model("denoise", 1, model=weights).backend == "torch"


def test_a_package_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str, remedy: str) -> None:
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(openvino, "needed", broken)
    with pytest.raises(UsageError, match="no such instruction"):
        openvino.core.__wrapped__()


def test_reports_and_results_say_it(weights: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "in.png", tmp_path / "out.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40), np.uint8)).save(source)
    flags = ["--sigma", 25, "--model", weights, "--backend", "openvino", "--threads", 1, "--precision", "fp32"]
    stdout, _ = dagl("denoise", *flags, "--json", source, target)
    row = json.loads(stdout)["files"][0]
    assert (row["backend"], row["precision"]) == ("openvino", "fp32")
    record = images.record(target)
    assert (record["backend"], record["precision"]) == ("openvino", "fp32")
    assert "--backend openvino" in record["command"]
