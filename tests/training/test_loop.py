"""Training: repeatable, resumable to the same result in every way, and it learns."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from dagl_cli.cli import app
from dagl_cli.cli.train import _last_name
from dagl_cli.config import VARIANTS, ModelConfig
from dagl_cli.errors import DaglError, UsageError, WeightsError
from dagl_cli.nn.model import DAGL
from dagl_cli.store import weights
from dagl_cli.training import loop as training
from dagl_cli.training import presets
from dagl_cli.training.loop import learning_rate, train
from dagl_cli.training.presets import TrainConfig

TINY = dict(features=8, blocks=2, stages=1, heads=1, head_features=4, embedding=4)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Nine smooth colour photographs, 64x72, one of which has two crops."""
    folder = tmp_path / "photos"
    folder.mkdir()
    y, x = np.mgrid[0:64, 0:72] / 64
    for i, name in enumerate(["a_0", "a_1", *"bcdefghi"]):
        pixels = np.stack([np.sin(3 * x + i), np.cos(4 * y * x + i), x - y], -1) * 100 + 128
        Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8)).save(folder / f"{name}.png")
    return folder


def config(photos: Path, output: Path, **changes: object) -> TrainConfig:
    settings = dict(
        task="denoise", data=[photos], output=output, channels=1, variant="half", model=TINY, steps=6, batch=4, crop=16,
        precision="fp32", device="cpu", threads=1, warmup=2, save_minutes=0.0, log_minutes=0.0,
    )  # fmt: skip
    return TrainConfig(**(settings | changes))  # type: ignore[arg-type]


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return weights.load(path)[0].state_dict()


def state(output: Path) -> dict[str, torch.Tensor]:
    """The averaged weights, not rounded to float16."""
    return torch.load(output / "state.pt", weights_only=True)["average"]


def equal(a: Path, b: Path) -> bool:
    return all(torch.equal(v, state(b)[k]) for k, v in state(a).items())


def rows(output: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


def test_same_seed_same_weights(photos: Path, tmp_path: Path) -> None:
    for name, seed in (("1", 0), ("2", 0), ("3", 1)):
        train(config(photos, tmp_path / name, seed=seed))
    assert equal(tmp_path / "1", tmp_path / "2")
    assert not equal(tmp_path / "1", tmp_path / "3")


@pytest.mark.parametrize("task", ["denoise", "real", "dejpeg", "demosaic"])
def test_a_run_that_fails_resumes_to_the_same_result(photos: Path, tmp_path: Path, task: str) -> None:
    channels = 3 if task in ("demosaic", "real") else 1
    train(config(photos, tmp_path / "whole", task=task, channels=channels))

    def fail(row: dict[str, object]) -> None:
        if row.get("step") == 3:
            raise RuntimeError("power cut")

    part = config(photos, tmp_path / "part", task=task, channels=channels)
    with pytest.raises(RuntimeError, match="power cut"):
        train(part, report=fail)
    assert weights.describe(part.output / "model.safetensors")[1]["step"] == 3
    train(part, resume=True)
    assert equal(tmp_path / "whole", part.output)
    assert [r["step"] for r in rows(part.output) if "step" in r] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_step_at_hand(photos: Path, tmp_path: Path, number: int) -> None:
    train(config(photos, tmp_path / "whole"))
    part = config(photos, tmp_path / "part", save_minutes=1e6, log_minutes=1e6)
    with pytest.raises(KeyboardInterrupt):
        train(part, progress=lambda step, done: os.kill(os.getpid(), number) if step == 4 else None)
    assert weights.describe(part.output / "model.safetensors")[1]["step"] == 4
    train(part, resume=True)
    assert equal(tmp_path / "whole", part.output)


COMMAND = """
import sys, warnings
from pathlib import Path
import torch
torch.set_num_threads(1)
from dagl_cli.training.loop import TrainConfig, train
tiny = dict(features=8, blocks=2, stages=1, heads=1, head_features=4, embedding=4)
train(TrainConfig(task="denoise", data=[Path(sys.argv[1])], output=Path(sys.argv[2]), channels=1,
    variant="half", model=tiny, steps=int(sys.argv[3]), batch=4, crop=16, precision="fp32", device="cpu",
    warmup=2, save_minutes=0.0, log_minutes=0.0, micro_batch=1))
"""


def test_sigkill_loses_nothing(photos: Path, tmp_path: Path) -> None:
    part = config(photos, tmp_path / "part", steps=40, micro_batch=1)
    process = subprocess.Popen([sys.executable, "-c", COMMAND, photos, part.output, "40"])
    try:
        while not (part.output / "log.jsonl").exists() or len(rows(part.output)) < 5:
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    step = torch.load(part.output / "state.pt", weights_only=True)["step"]
    assert 0 < step < 40
    train(part, resume=True)
    train(config(photos, tmp_path / "whole", steps=40, micro_batch=1))
    assert equal(tmp_path / "whole", part.output)
    assert [r["step"] for r in rows(part.output)] == sorted({r["step"] for r in rows(part.output)})  # type: ignore[type-var]


def test_two_processes_are_one(photos: Path, tmp_path: Path) -> None:
    """What torchrun starts: two processes over gloo, each with half of every batch."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", COMMAND, photos, tmp_path / "two", "6"],
            env=os.environ | dict(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
                                  MASTER_PORT=str(port)),
        )
        for rank in range(2)
    ]  # fmt: skip
    assert [process.wait(60) for process in both] == [0, 0]
    train(config(photos, tmp_path / "one"))
    for name, value in state(tmp_path / "one").items():
        torch.testing.assert_close(state(tmp_path / "two")[name], value, rtol=1e-4, atol=1e-6)
    assert weights.describe(tmp_path / "two/model.safetensors")[1]["processes"] == 2


def test_gradients_of_parts_add_up(photos: Path, tmp_path: Path) -> None:
    train(config(photos, tmp_path / "whole", batch=5))
    train(config(photos, tmp_path / "parts", batch=5, micro_batch=2))
    for name, value in state(tmp_path / "whole").items():
        torch.testing.assert_close(state(tmp_path / "parts")[name], value, rtol=1e-4, atol=1e-6)


def test_it_learns(photos: Path, tmp_path: Path) -> None:
    train(config(photos, tmp_path / "run", steps=150, log_minutes=0, save_minutes=0.01, lr=3e-3, ema=0.9))
    losses = [row["loss"] for row in rows(tmp_path / "run")]
    third = len(losses) // 3
    assert np.mean(losses[-third:]) < np.mean(losses[:third]) - 0.2
    train(config(photos, tmp_path / "young", steps=1))
    quality = [[row["psnr"] for row in rows(tmp_path / name) if "psnr" in row][-1] for name in ("young", "run")]
    assert quality[1] > quality[0] + 0.5
    page = (tmp_path / "run/report.html").read_text()
    assert "PSNR of held-out photos" in page
    assert "held out 1" in page


def test_the_average_forgets_the_initial_weights(photos: Path, tmp_path: Path) -> None:
    train(config(photos, tmp_path / "run", steps=40, ema=0.9999, lr=1e-2, warmup=0, schedule="step"))
    saved = torch.load(tmp_path / "run/state.pt", weights_only=True)
    torch.manual_seed(0)
    start = DAGL(config(photos, tmp_path).model_config())
    training.initialise(start)
    name = "conv_in.weight"
    moved = (saved["model"][name] - start.state_dict()[name]).norm()
    assert (saved["average"][name] - start.state_dict()[name]).norm() > 0.3 * moved


def test_bad_batches_are_skipped_and_counted(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = training.Crops.degraded

    def degraded(self, levels, step):  # type: ignore[no-untyped-def]
        noisy, clean, sigma = honest(self, levels, step)
        return noisy * (float("nan") if step in bad else 1), clean, sigma

    monkeypatch.setattr(training.Crops, "degraded", degraded)
    bad = {1, 4}
    train(config(photos, tmp_path / "run"))
    assert rows(tmp_path / "run")[-1]["skipped"] == 2
    assert all(v.isfinite().all() for v in state(tmp_path / "run").values())
    bad = {5}
    train(config(photos, tmp_path / "the last one"))
    bad = {3, 4, 5}
    with pytest.raises(DaglError, match=r"no loss is finite any more \(3 steps\)"):
        train(config(photos, tmp_path / "the last half"))
    bad = set(range(500))
    monkeypatch.setattr(training, "MOST_BAD_BATCHES", 3)
    with pytest.raises(DaglError, match="--lr below"):
        train(config(photos, tmp_path / "all"))


def test_the_level_that_is_told_decides_the_weights(photos: Path, tmp_path: Path) -> None:
    for name, error in (("1", 0.0), ("2", 0.0), ("3", 0.5)):
        train(config(photos, tmp_path / name, sigma_error=error))
    assert equal(tmp_path / "1", tmp_path / "2")
    assert not equal(tmp_path / "1", tmp_path / "3")


def test_a_run_is_never_overwritten(photos: Path, tmp_path: Path) -> None:
    run = config(photos, tmp_path / "run", steps=1)
    with pytest.raises(UsageError, match="--resume"):
        train(run, resume=True)
    train(run)
    with pytest.raises(UsageError, match="--resume"):
        train(run)


def test_a_resumed_run_keeps_its_settings_but_may_go_on_longer(photos: Path, tmp_path: Path) -> None:
    train(config(photos, tmp_path / "run", steps=2))
    for changes, message in (
        ({"lr": 0.5}, "--lr 0.5"),
        ({"model": TINY | {"features": 4}}, "--set"),
        ({"seed": 3}, "--seed"),
        ({"steps": 1}, r"--steps 1: the run in .*run has had 2 steps already: give more"),
    ):
        with pytest.raises(UsageError, match=message):
            train(config(photos, tmp_path / "run", **changes), resume=True)
    train(config(photos, tmp_path / "run", steps=4), resume=True)
    assert weights.describe(tmp_path / "run/model.safetensors")[1]["step"] == 4
    (photos / "b.png").unlink()
    with pytest.raises(UsageError, match="--data"):
        train(config(photos, tmp_path / "run", steps=4), resume=True)
    (tmp_path / "run/state.pt").write_bytes(b"damaged")
    with pytest.raises(DaglError, match=r"state\.pt: not a checkpoint"):
        train(config(photos, tmp_path / "run", steps=4), resume=True)


def test_a_failed_write_is_one_line_and_keeps_the_checkpoint(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = config(photos, tmp_path / "run", steps=2)
    train(run)
    before = (run.output / "state.pt").read_bytes()

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(training.os, "fsync", full)
    with pytest.raises(DaglError, match=r"-o .*No space left"):
        train(config(photos, tmp_path / "run", steps=4), resume=True)
    assert (run.output / "state.pt").read_bytes() == before
    assert not list(run.output.glob("*.tmp"))


def test_weights_say_how_they_were_made_and_nothing_of_the_machine(photos: Path, tmp_path: Path) -> None:
    path = train(config(photos, tmp_path / "run", steps=1, preset="lite"), command="dagl train ...")
    info = weights.describe(path)[1]
    assert info["training"]["preset"] == "lite"
    assert info["training"]["data"] == ["photos"]
    assert info["command"] == "dagl train ..."
    assert info["device"] == "cpu"
    assert len(info["data_sha256"]) == 64
    assert str(tmp_path) not in json.dumps(info)
    again = presets.read_toml(tmp_path / "run/run.toml")
    assert presets.resolve(again) == config(photos, tmp_path / "run", steps=1, preset="lite")


def test_init_from_takes_what_fits(photos: Path, tmp_path: Path) -> None:
    gray = train(config(photos, tmp_path / "gray", steps=2))
    train(config(photos, tmp_path / "color", steps=1, channels=3, init_from=str(gray), lr=0.0, ema=0.0))
    color = tensors(tmp_path / "color/model.safetensors")
    assert torch.equal(color["blocks.0.conv1.weight"], tensors(gray)["blocks.0.conv1.weight"])
    row = rows(tmp_path / "color")[0]
    assert row["channels differ"] == ["conv_in.weight", "conv_out.bias", "conv_out.weight"]
    assert row["fresh"] == row["unused"] == []
    train(config(photos, tmp_path / "plain", steps=1, model=TINY | {"stages": 0}, init_from=str(gray)))
    assert all(name.startswith("stages.0.") for name in rows(tmp_path / "plain")[0]["unused"])  # type: ignore[union-attr, attr-defined]
    other = tmp_path / "other.safetensors"
    weights.save(other, DAGL(shape := ModelConfig(features=4, blocks=2, stages=0)).state_dict(), shape, {})
    with pytest.raises(WeightsError, match="no tensor fits"):
        train(config(photos, tmp_path / "x", init_from=str(other)))


def test_compilation_falls_back(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(model: torch.nn.Module) -> torch.nn.Module:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", refuse)
    train(config(photos, tmp_path / "run", compile="on", steps=2))
    train(config(photos, tmp_path / "eager", steps=2))
    assert "not compiled" in str(rows(tmp_path / "run")[0]["warning"])
    assert equal(tmp_path / "run", tmp_path / "eager")


def test_tensorboard(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    train(config(photos, tmp_path / "run", steps=2, tensorboard=True))
    assert list((tmp_path / "run").glob("events.out.tfevents.*"))


def test_learning_rates(tmp_path: Path) -> None:
    cosine = config(tmp_path, tmp_path, lr=1.0, warmup=10)
    assert [round(learning_rate(cosine, step, done), 3) for step, done in ((0, 0), (9, 0), (50, 0.5), (99, 1))] == [
        0.1, 1.0, 0.5, 0.0,
    ]  # fmt: skip
    slow = config(tmp_path, tmp_path, lr=1.0, warmup=1000)  # few steps in the time given
    assert learning_rate(slow, 0, 0.0) == 0.001
    assert learning_rate(slow, 2, 0.05) == pytest.approx(0.5, abs=0.01)
    assert learning_rate(slow, 5, 0.1) > 0.97
    steps = config(tmp_path, tmp_path, lr=1.0, warmup=0, schedule="step", halve_every=100)
    assert [learning_rate(steps, step, 0) for step in (0, 99, 100, 250)] == [1.0, 1.0, 0.5, 0.25]


@pytest.mark.parametrize("loss", ["psnr", "mse", "l1"])
def test_losses_fall_with_the_error(loss: str) -> None:
    clean = torch.zeros(2, 1, 4, 4)
    near, far = (training.LOSSES[loss](clean + error, clean) for error in (0.1, 0.2))
    assert near < far


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": None}, "--minutes and --steps"),
        ({"minutes": 1.0}, "--minutes and --steps"),
        ({"crop": 15}, "--crop"),
        ({"data": [Path("nowhere")]}, "--data nowhere"),
        ({"task": "paint"}, "paint"),
        ({"crop": 512}, "no images of at least"),
        ({"loss": "perceptual"}, "--loss"),
        ({"batch": 0}, "--batch"),
        ({"ema": 1.0}, "--ema"),
        ({"lr": float("nan")}, "--lr"),
        ({"task": "dejpeg", "sigma": 5.0}, "--sigma"),
        ({"model": {"wings": 2}}, "wings"),
        ({"model": {"features": "many"}}, "features must be int"),
        ({"model": {"features": 0}}, "--set features must be 1-1024, not 0"),
        ({"model": {"scale": 0}}, "--set scale must be 1-1024, not 0"),
        ({"model": {"stage_blocks": -1}}, "--set stage_blocks must be 0-1024"),
        ({"model": {"channels": 3}}, "--set channels is not a setting of the network alone: use --gray or --color"),
        ({"model": {"task": "dejpeg"}}, "--set task"),
        ({"task": "dejpeg", "model": {"noise_map": True}}, "--task dejpeg gives no noise level"),
        ({"task": "dehaze"}, "--task dehaze is unknown: choose one of denoise"),
        ({"variant": "tiny"}, "--variant tiny is unknown: choose one of paper, lite"),
        ({"optimizer": "sgd"}, "--optimizer sgd is unknown: choose one of muon, adam"),
        ({"lr": float("inf")}, "--lr must be at least 0 and finite, not inf"),
        ({"batch": 10**9}, "--batch must be at most 65536"),
        ({"threads": 100_000}, "--threads must be at most 1024"),
        ({"variant": "lite", "model": {"features": 127}}, "--set features must be even where there are outer_blocks"),
        ({"model": {"heads": 0, "stages": 1}}, "--set heads must be at least 1"),
        ({"task": "demosaic", "channels": 1}, "use --color"),
        ({"init_from": ""}, "--init-from is empty"),
        ({"seed": 2**63}, "--seed"),
        ({"init_from": "nobody"}, "--init-from nobody"),
    ],
)
def test_mistakes_are_named(photos: Path, tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(DaglError, match=message):
        train(config(photos, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_the_command(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flags, a TOML file, --resume: exit codes, the command in the weights, one line for each mistake."""
    monkeypatch.setenv("DAGL_DEVICE", "cpu")
    (tmp_path / "own.toml").write_text("batch = 2\nsteps = 2\ncrop = 16\n[model]\nfeatures = 8\nblocks = 2\n")

    def dagl(*arguments: object) -> tuple[int, str]:
        command = ["train", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", ["/somewhere/bin/dagl", *command])
        result = CliRunner().invoke(app, command)
        return result.exit_code, result.stderr

    output = ("-o", tmp_path / "run")
    new = ("--task", "denoise", "--gray", "--preset", "trunk", "--data", photos, "--config", tmp_path / "own.toml")
    assert dagl(*new, *output, "--precision", "fp32", "--threads", 1, "--crop", 24)[0] == 0
    info = weights.describe(tmp_path / "run/model.safetensors")[1]
    assert info["command"].startswith("dagl train --task denoise --gray --preset trunk --data photos --config own.toml")
    assert (info["training"]["crop"], info["training"]["batch"], info["step"]) == (24, 2, 2)
    code, text = dagl(*output, "--resume", "--steps", 3)
    assert code == 0
    assert "step 3" in text
    assert weights.describe(tmp_path / "run/model.safetensors")[1]["training"]["model"]["features"] == 8
    for arguments, message in (
        ((*output, "--resume", "--lr", 0.5), "--lr 0.5 differs"),
        ((*new, *output), "--resume continues it"),
        (("--resume",), "give --output"),
        (("--resume", "-o", tmp_path / "none"), "holds no run"),
        ((*new, "-o", tmp_path / "x", "--preset", "nope"), "--preset nope"),
        ((*new, "-o", tmp_path / "x", "--preset", ""), "--preset  is unknown"),
        ((*new, "-o", ""), "a name is empty"),
        ((*new, "-o", tmp_path / "own.toml" / "x"), "own.toml is a file, give a folder"),
        ((*output, "--resume", "--set", "blocks=4"), "--set features=8, blocks=4 differs from"),
    ):
        code, text = dagl(*arguments)
        assert (code, text.count("\n")) == (2, 1)
        assert message in text
    source = ("--init-from", tmp_path / "run/model.safetensors")
    assert "11 of 14 tensors; 3 differ in channels" in dagl(*new, *source, "--color", "-o", tmp_path / "colour")[1]
    assert "too few for the same shape" in dagl(*new, *source, "--set", "features=12", "-o", tmp_path / "wide")[1]


def test_a_run_of_another_shape_is_not_resumed(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an update in which the variant's name means another network."""
    run = config(photos, tmp_path / "run", steps=1)
    train(run)
    before = {path.name: path.read_bytes() for path in run.output.iterdir()}
    monkeypatch.setitem(VARIANTS, "half", ModelConfig(scale=2))
    with pytest.raises(UsageError, match="holds a run of another version's 'half'"):
        train(replace(run, steps=2), resume=True)
    assert {path.name: path.read_bytes() for path in run.output.iterdir()} == before


def test_few_photos_still_make_a_report(photos: Path, tmp_path: Path) -> None:
    for name in "cdefghi":
        (photos / f"{name}.png").unlink()
    train(config(photos, tmp_path / "run", steps=2))
    assert "no photo is held out" in str(rows(tmp_path / "run")[0]["warning"])
    assert (tmp_path / "run/report.html").stat().st_size > 1000


def test_a_resumed_run_mends_the_weights_and_keeps_its_first_command(photos: Path, tmp_path: Path) -> None:
    run = config(photos, tmp_path / "run", steps=2)
    path = train(run, command="dagl train --steps 2")
    path.unlink()
    for _ in range(2):
        train(run, resume=True, command="dagl train --resume")
        info = weights.describe(path)[1]
        assert (info["step"], info["command"]) == (2, "dagl train --steps 2 && dagl train --resume")


def test_photos_that_a_gpu_has_no_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    photos = training.Photos([np.zeros((10, 10, 1), np.uint8)])
    assert training.fits(photos, torch.device("cpu"))
    for free, wanted in ((200, True), (199, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 1000))
        assert training.fits(photos, torch.device("cuda")) == wanted


def test_one_run_at_a_time_in_a_folder(photos: Path, tmp_path: Path) -> None:
    run = config(photos, tmp_path / "run", steps=1)
    run.output.mkdir()
    with training.alone(run.output), pytest.raises(UsageError, match="another process"):
        train(run)
    train(run)
    before = (run.output / "state.pt").read_bytes()
    longer = replace(run, steps=2)
    with training.alone(run.output), pytest.raises(UsageError, match="another process"):
        train(longer, resume=True)
    assert (run.output / "state.pt").read_bytes() == before


def test_the_lock_is_taken_before_the_checkpoint_is_read(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a resumed run could start from what another process is about to write over."""
    run = config(photos, tmp_path / "run", steps=1)
    train(run)
    held: list[bool] = []
    right = training.read_state

    def read_state(output: Path, resume: bool) -> dict[str, object] | None:
        try:
            with training.alone(output):
                held.append(False)
        except UsageError:
            held.append(True)
        return right(output, resume)

    monkeypatch.setattr(training, "read_state", read_state)
    train(replace(run, steps=2), resume=True)
    assert held == [True]


@pytest.mark.parametrize("drop", ["optimizers", "settings"])
def test_a_checkpoint_of_another_version_is_one_line(photos: Path, tmp_path: Path, drop: str) -> None:
    run = config(photos, tmp_path / "run", steps=1)
    train(run)
    saved = torch.load(run.output / "state.pt", weights_only=True)
    if drop == "settings":
        del saved["settings"]["optimizer"]
    else:
        del saved[drop]
    torch.save(saved, run.output / "state.pt")
    with pytest.raises(DaglError, match=r"not a checkpoint of this version .*: start a new run"):
        train(replace(run, steps=2), resume=True)


def test_long_validations_do_not_stop_the_training(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """save_minutes=0 asks for one after each step; one of 0.3 s is due every 6 s."""
    right = training.metrics.psnr

    def slow(*arguments: torch.Tensor) -> float:
        time.sleep(0.3)
        return right(*arguments)

    monkeypatch.setattr(training.metrics, "psnr", slow)
    run = config(photos, tmp_path / "run", steps=12)
    train(run)
    found = rows(run.output)
    validated = [row["step"] for row in found if "psnr" in row]
    assert validated[-1] == 12
    assert len(validated) < 6, "12 without a limit"
    assert len([row for row in found if "step" in row]) == 12


def test_weights_that_are_not_finite_are_never_saved(photos: Path, tmp_path: Path) -> None:
    run = config(photos, tmp_path / "run", steps=30, lr=1e30, warmup=0, clip=0.0, optimizer="adam", save_minutes=1e6)
    with pytest.raises(DaglError, match=r"no loss is finite any more.*: start again with --lr below 1e\+30"):
        train(run)
    assert all(tensor.isfinite().all() for tensor in tensors(run.output / "model.safetensors").values())


@pytest.mark.parametrize(
    ("argument", "kept"),
    [("/home/me/photos", "photos"), ("--data=/home/me/a=b", "--data=a=b"), ("-o/home/me/run", "-orun"),
     ("--minutes=3", "--minutes=3"), ("relative/run", "relative/run"), ("-o", "-o")],
)  # fmt: skip
def test_the_saved_command_tells_no_folders(argument: str, kept: str) -> None:
    assert _last_name(argument) == kept
