"""Training: repeatable, resumable to the same result in every way, and it learns."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import averaged, log_of, run_config, same_weights, train_elsewhere

from dagl_cli.config import TASKS
from dagl_cli.errors import DaglError, UsageError
from dagl_cli.measuring import metrics
from dagl_cli.nn.model import DAGL
from dagl_cli.store import weights
from dagl_cli.training import loop, presets
from dagl_cli.training.crops import Crops
from dagl_cli.training.loop import train
from dagl_cli.training.photos import Photos
from dagl_cli.training.start import initialise


def test_same_seed_same_weights(photos: Path, tmp_path: Path) -> None:
    for name, seed in (("1", 0), ("2", 0), ("3", 1)):
        train(run_config(photos, tmp_path / name, seed=seed))
    assert same_weights(tmp_path / "1", tmp_path / "2")
    assert not same_weights(tmp_path / "1", tmp_path / "3")


@pytest.mark.parametrize("task", ["denoise", "real", "dejpeg", "demosaic", "raw"])
def test_a_run_that_fails_resumes_to_the_same_result(photos: Path, tmp_path: Path, task: str) -> None:
    channels = max(TASKS[task].channels) if task != "denoise" else 1
    train(run_config(photos, tmp_path / "whole", task=task, channels=channels))

    def fail(row: dict[str, object]) -> None:
        if row.get("step") == 3:
            raise RuntimeError("power cut")

    part = run_config(photos, tmp_path / "part", task=task, channels=channels)
    with pytest.raises(RuntimeError, match="power cut"):
        train(part, report=fail)
    assert weights.describe(part.output / "model.safetensors")[1]["step"] == 3
    train(part, resume=True)
    assert same_weights(tmp_path / "whole", part.output)
    assert [r["step"] for r in log_of(part.output) if "step" in r] == [1, 2, 3, 4, 5, 6]


def test_sigkill_loses_nothing(photos: Path, tmp_path: Path) -> None:
    part = run_config(photos, tmp_path / "part", steps=40, micro_batch=1)
    process = train_elsewhere(photos, part.output, steps=40, micro_batch=1)
    try:
        while not (part.output / "log.jsonl").exists() or len(log_of(part.output)) < 5:
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        process.kill()
        process.communicate()
    step = torch.load(part.output / "state.pt", weights_only=True)["step"]
    assert 0 < step < 40
    train(part, resume=True)
    train(run_config(photos, tmp_path / "whole", steps=40, micro_batch=1))
    assert same_weights(tmp_path / "whole", part.output)
    assert [r["step"] for r in log_of(part.output)] == sorted({r["step"] for r in log_of(part.output)})


def test_gradients_of_parts_add_up(photos: Path, tmp_path: Path) -> None:
    train(run_config(photos, tmp_path / "whole", batch=5))
    train(run_config(photos, tmp_path / "parts", batch=5, micro_batch=2))
    for name, value in averaged(tmp_path / "whole").items():
        torch.testing.assert_close(averaged(tmp_path / "parts")[name], value, rtol=1e-4, atol=1e-6)


def test_it_learns(photos: Path, tmp_path: Path) -> None:
    train(run_config(photos, tmp_path / "run", steps=150, log_minutes=0, save_minutes=0.01, lr=3e-3, ema=0.9))
    losses = [row["loss"] for row in log_of(tmp_path / "run")]
    third = len(losses) // 3
    assert np.mean(losses[-third:]) < np.mean(losses[:third]) - 0.2
    train(run_config(photos, tmp_path / "young", steps=1))
    quality = [[row["psnr"] for row in log_of(tmp_path / name) if "psnr" in row][-1] for name in ("young", "run")]
    assert quality[1] > quality[0] + 0.5
    page = (tmp_path / "run/report.html").read_text()
    assert "PSNR of held-out photos" in page
    assert "held out 1" in page


def test_the_average_forgets_the_initial_weights(photos: Path, tmp_path: Path) -> None:
    train(run_config(photos, tmp_path / "run", steps=40, ema=0.9999, lr=1e-2, warmup=0, schedule="step"))
    saved = torch.load(tmp_path / "run/state.pt", weights_only=True)
    torch.manual_seed(0)
    start = DAGL(run_config(photos, tmp_path).model_config())
    initialise(start)
    name = "conv_in.weight"
    moved = (saved["model"][name] - start.state_dict()[name]).norm()
    assert (saved["average"][name] - start.state_dict()[name]).norm() > 0.3 * moved


def test_bad_batches_are_skipped_and_counted(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Crops.degraded

    def degraded(self, levels, step):  # type: ignore[no-untyped-def]
        noisy, clean, sigma = honest(self, levels, step)
        return noisy * (float("nan") if step in bad else 1), clean, sigma

    monkeypatch.setattr(Crops, "degraded", degraded)
    bad = {1, 4}
    train(run_config(photos, tmp_path / "run"))
    assert log_of(tmp_path / "run")[-1]["skipped"] == 2
    assert all(v.isfinite().all() for v in averaged(tmp_path / "run").values())
    bad = {5}
    train(run_config(photos, tmp_path / "the last one"))
    bad = {3, 4, 5}
    with pytest.raises(DaglError, match=r"no loss is finite any more \(3 steps\)"):
        train(run_config(photos, tmp_path / "the last half"))
    bad = set(range(500))
    monkeypatch.setattr(loop, "MOST_BAD_BATCHES", 3)
    with pytest.raises(DaglError, match="`lr` below"):
        train(run_config(photos, tmp_path / "all"))


def test_the_level_that_is_told_decides_the_weights(photos: Path, tmp_path: Path) -> None:
    for name, error in (("1", 0.0), ("2", 0.0), ("3", 0.5)):
        train(run_config(photos, tmp_path / name, sigma_error=error))
    assert same_weights(tmp_path / "1", tmp_path / "2")
    assert not same_weights(tmp_path / "1", tmp_path / "3")


def test_a_failed_write_is_one_line_and_keeps_the_checkpoint(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_config(photos, tmp_path / "run", steps=2)
    train(run)
    before = (run.output / "state.pt").read_bytes()

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DaglError, match=r"`output` .*No space left"):
        train(run_config(photos, tmp_path / "run", steps=4), resume=True)
    assert (run.output / "state.pt").read_bytes() == before
    assert not list(run.output.glob(".dagl-*.part"))


def test_weights_say_how_they_were_made_and_nothing_of_the_machine(photos: Path, tmp_path: Path) -> None:
    path = train(run_config(photos, tmp_path / "run", steps=1, preset="lite"), command="dagl train ...")
    info = weights.describe(path)[1]
    assert info["training"]["preset"] == "lite"
    assert info["training"]["data"] == ["photos"]
    assert info["command"] == "dagl train ..."
    assert info["device"] == "cpu"
    assert len(info["data_sha256"]) == 64
    assert str(tmp_path) not in json.dumps(info)
    again = presets.read_toml(tmp_path / "run/run.toml")
    assert presets.resolve(again) == run_config(photos, tmp_path / "run", steps=1, preset="lite")


def test_compilation_falls_back(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(model: torch.nn.Module) -> torch.nn.Module:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", refuse)
    train(run_config(photos, tmp_path / "run", compile="on", steps=2))
    train(run_config(photos, tmp_path / "eager", steps=2))
    assert "not compiled" in str(log_of(tmp_path / "run")[0]["warning"])
    assert same_weights(tmp_path / "run", tmp_path / "eager")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": None}, "`minutes` and `steps`"),
        ({"minutes": 1.0}, "`minutes` and `steps`"),
        ({"crop": 15}, "`crop`"),
        ({"data": [Path("nowhere")]}, "`data` nowhere"),
        ({"task": "paint"}, "paint"),
        ({"crop": 512}, "no images of at least"),
        ({"loss": "perceptual"}, "`loss`"),
        ({"batch": 0}, "`batch`"),
        ({"ema": 1.0}, "`ema`"),
        ({"lr": float("nan")}, "`lr`"),
        ({"task": "dejpeg", "sigma": 5.0}, "`sigma`"),
        ({"model": {"wings": 2}}, "wings"),
        ({"model": {"features": "many"}}, "features must be int"),
        ({"model": {"features": 0}}, "`model` features must be 1-1024, not 0"),
        ({"model": {"scale": 0}}, "`model` scale must be 1-1024, not 0"),
        ({"model": {"stage_blocks": -1}}, "`model` stage_blocks must be 0-1024"),
        ({"model": {"channels": 3}}, "`model` channels is not a setting of the network alone: use `channels`"),
        ({"model": {"task": "dejpeg"}}, "`model` task"),
        ({"task": "dejpeg", "model": {"noise_map": True}}, "`task` dejpeg gives no noise level"),
        ({"task": "dehaze"}, "`task` dehaze is unknown: choose one of denoise"),
        ({"variant": "tiny"}, "`variant` tiny is unknown: choose one of paper, lite"),
        ({"optimizer": "sgd"}, "`optimizer` sgd is unknown: choose one of muon, adam"),
        ({"lr": float("inf")}, "`lr` must be at least 0 and finite, not inf"),
        ({"batch": 10**9}, "`batch` must be at most 65536"),
        ({"threads": 100_000}, "`threads` must be at most 1024"),
        ({"variant": "lite", "model": {"features": 127}}, "`model` features must be even where there are outer_blocks"),
        ({"model": {"heads": 0, "stages": 1}}, "`model` heads must be at least 1"),
        ({"task": "demosaic", "channels": 1}, "choose colour"),
        ({"init_from": ""}, "`init_from` is empty"),
        ({"seed": 2**63}, "`seed`"),
        ({"init_from": "nobody"}, "`init_from` nobody"),
    ],
)
def test_mistakes_are_named(photos: Path, tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(DaglError, match=message):
        train(run_config(photos, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_mends_the_weights_and_keeps_its_first_command(photos: Path, tmp_path: Path) -> None:
    run = run_config(photos, tmp_path / "run", steps=2)
    path = train(run, command="dagl train --steps 2")
    path.unlink()
    for _ in range(2):
        train(run, resume=True, command="dagl train --resume")
        info = weights.describe(path)[1]
        assert (info["step"], info["command"]) == (2, "dagl train --steps 2 && dagl train --resume")


def test_photos_that_a_gpu_has_no_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    photos = Photos([np.zeros((10, 10, 1), np.uint8)])
    assert loop.fits(photos, torch.device("cpu"))
    for free, wanted in ((200, True), (199, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 1000))
        assert loop.fits(photos, torch.device("cuda")) == wanted


def test_one_run_at_a_time_in_a_folder(photos: Path, tmp_path: Path) -> None:
    run = run_config(photos, tmp_path / "run", steps=1)
    run.output.mkdir()
    with loop.alone(run.output), pytest.raises(UsageError, match="another process"):
        train(run)
    train(run)
    before = (run.output / "state.pt").read_bytes()
    longer = replace(run, steps=2)
    with loop.alone(run.output), pytest.raises(UsageError, match="another process"):
        train(longer, resume=True)
    assert (run.output / "state.pt").read_bytes() == before


def test_long_validations_do_not_stop_the_training(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """save_minutes=0 asks for one after each step; one of 0.3 s is due every 6 s."""
    right = metrics.psnr

    def slow(a: torch.Tensor, b: torch.Tensor) -> float:
        time.sleep(0.3)
        return right(a, b)

    monkeypatch.setattr(metrics, "psnr", slow)
    run = run_config(photos, tmp_path / "run", steps=12)
    train(run)
    found = log_of(run.output)
    validated = [row["step"] for row in found if "psnr" in row]
    assert validated[-1] == 12
    assert len(validated) < 6, "12 without a limit"
    assert len([row for row in found if "step" in row]) == 12


def test_weights_that_are_not_finite_are_never_saved(photos: Path, tmp_path: Path) -> None:
    run = run_config(
        photos, tmp_path / "run", steps=30, lr=1e30, warmup=0, clip=0.0, optimizer="adam", save_minutes=1e6
    )
    with pytest.raises(DaglError, match=r"no loss is finite any more.*: start again with `lr` below 1e\+30"):
        train(run)
    assert all(tensor.isfinite().all() for tensor in weights.load(run.output / "model.safetensors")[0].parameters())
