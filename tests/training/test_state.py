"""What a run carries: who may go on with it, and what damaged checkpoints end in."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import TINY_NETWORK, run_config, small_photos

from dagl_cli.config import VARIANTS, ModelConfig
from dagl_cli.errors import DaglError, UsageError
from dagl_cli.store import weights
from dagl_cli.training import loop
from dagl_cli.training.loop import train
from dagl_cli.training.state import read_state, sealed


def test_a_run_is_never_overwritten(photos: Path, tmp_path: Path) -> None:
    run = run_config(photos, tmp_path / "run", steps=1)
    with pytest.raises(UsageError, match="`resume`"):
        train(run, resume=True)
    train(run)
    with pytest.raises(UsageError, match="`resume`"):
        train(run)


def test_a_resumed_run_keeps_its_settings_but_may_go_on_longer(photos: Path, tmp_path: Path) -> None:
    train(run_config(photos, tmp_path / "run", steps=2))
    for changes, message in (
        ({"lr": 0.5}, "`lr` 0.5"),
        ({"model": TINY_NETWORK | {"features": 4}}, "`model`"),
        ({"seed": 3}, "`seed`"),
        ({"steps": 1}, r"`steps` 1: the run in .*run has had 2 steps already: give more"),
    ):
        with pytest.raises(UsageError, match=message):
            train(run_config(photos, tmp_path / "run", **changes), resume=True)
    train(run_config(photos, tmp_path / "run", steps=4), resume=True)
    assert weights.describe(tmp_path / "run/model.safetensors")[1]["step"] == 4
    (photos / "b.png").unlink()
    with pytest.raises(UsageError, match="`data`"):
        train(run_config(photos, tmp_path / "run", steps=4), resume=True)
    (tmp_path / "run/state.pt").write_bytes(b"damaged")
    with pytest.raises(DaglError, match=r"state\.pt: not a checkpoint"):
        train(run_config(photos, tmp_path / "run", steps=4), resume=True)


def test_a_run_of_another_shape_is_not_resumed(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an update in which the variant's name means another network."""
    run = run_config(photos, tmp_path / "run", steps=1)
    train(run)
    before = {path.name: path.read_bytes() for path in run.output.iterdir()}
    monkeypatch.setitem(VARIANTS, "half", ModelConfig(scale=2))
    with pytest.raises(UsageError, match="holds a run of another version's 'half'"):
        train(replace(run, steps=2), resume=True)
    assert {path.name: path.read_bytes() for path in run.output.iterdir()} == before


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The state.pt of a run of one step, on photographs like those of the fixture `photos`."""
    folder = tmp_path_factory.mktemp("checkpoint")
    small_photos(folder / "photos")
    train(run_config(folder / "photos", folder / "run", steps=1))
    return (folder / "run/state.pt").read_bytes()


def test_a_checkpoint_is_still_torchs(checkpoint: bytes) -> None:
    assert torch.load(io.BytesIO(checkpoint), weights_only=True)["step"] == 1


def test_one_flipped_bit_is_refused(checkpoint: bytes, tmp_path: Path) -> None:
    """Wherever it lies: in a tensor, in the archive's directory, in the digest or its length."""
    bits = np.random.default_rng(0).integers(0, 8 * len(checkpoint), 40).tolist()
    bits += [8 * (len(checkpoint) - 1), 8 * (len(checkpoint) - 64), 8 * (len(checkpoint) - 65), 8 * 5]
    (tmp_path / "state.pt").write_bytes(checkpoint)
    assert read_state(tmp_path, resume=True)
    for bit in bits:
        damaged = bytearray(checkpoint)
        damaged[bit // 8] ^= 1 << bit % 8
        (tmp_path / "state.pt").write_bytes(damaged)
        with pytest.raises(
            DaglError, match=r"state\.pt: not a checkpoint of this version \(or damaged.*new run"
        ) as told:
            read_state(tmp_path, resume=True)
        assert told.value.exit_code == 1
    for cut in (b"", checkpoint[:-1], checkpoint[: len(checkpoint) // 2], b"\0" * 64):
        (tmp_path / "state.pt").write_bytes(cut)
        with pytest.raises(DaglError, match="or damaged"):
            read_state(tmp_path, resume=True)


def changed(**values: object) -> Callable[[dict[str, Any]], None]:
    return lambda saved: saved.update(values)


def lost(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda saved: saved.pop(name)


def setting(name: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda saved: saved["settings"].update({name: value})


def momentum(value: object) -> Callable[[dict[str, Any]], None]:
    return lambda saved: next(iter(saved["optimizers"][0]["state"].values())).update(momentum=value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lost("optimizers"), "not a checkpoint of this version"),
        (lambda saved: saved["settings"].pop("optimizer"), "not a checkpoint of this version"),
        (setting("speed", 3), "not a checkpoint of this version .*speed"),
        (setting("lr", "fast"), "lr must be float"),
        (setting("data", "photos"), "not a checkpoint"),
        (setting("variant", "huge"), "`variant` huge is unknown"),
        (setting("precision", None), "not a checkpoint"),
        (changed(step="one"), "step is of type str"),
        (changed(step=-3), "below 0"),
        (changed(step=True), "step is of type bool"),
        (changed(elapsed=float("nan")), "not a checkpoint"),
        (changed(elapsed=float("inf")), "not a checkpoint"),
        (changed(skipped=1.5), "skipped is of type float"),
        (changed(command=["dagl"]), "command is of type list"),
        (changed(data=7), "data is of type int"),
        (changed(settings=None), "settings is of type NoneType"),
        (changed(model=[1, 2]), "model is of type list"),
        (changed(model={}), "another version's 'half'"),
        (lambda saved: saved["model"].update({"conv_in.weight": 3}), "another version's 'half'"),
        (lambda saved: saved["average"].update({"conv_in.weight": torch.zeros(2)}), "another version's 'half'"),
        (changed(optimizers=[]), "optimizers"),
        (changed(optimizers=[{"state": {}}, None]), "optimizers"),
        (changed(optimizers=[1, 2]), "optimizers"),
        (momentum(torch.zeros(3)), "optimizers"),
        (momentum("fast"), "optimizers"),
        (lambda saved: saved["optimizers"][1]["state"][0].pop("exp_avg"), "optimizers"),
        (lambda saved: saved["optimizers"][1]["state"].update({99: {}}), "optimizers"),
    ],
)
def test_plausible_but_wrong_checkpoints_are_one_line(
    checkpoint: bytes, photos: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    """With a right digest: as another version, or somebody's script, would have written them."""
    saved = torch.load(io.BytesIO(checkpoint), weights_only=True)
    change(saved)
    buffer = io.BytesIO()
    torch.save(saved, buffer)
    run = run_config(photos, tmp_path / "run", steps=2)
    run.output.mkdir()
    (run.output / "state.pt").write_bytes(sealed(buffer.getvalue()))
    with pytest.raises(DaglError, match=message) as told:
        train(run, resume=True)
    assert "start a new run" in str(told.value)
    assert str(told.value).count("\n") == 0
    assert not (run.output / "model.safetensors").exists()


def test_the_settings_of_the_optimizers_are_the_runs(checkpoint: bytes, photos: Path, tmp_path: Path) -> None:
    saved = torch.load(io.BytesIO(checkpoint), weights_only=True)
    for optimizer in saved["optimizers"]:
        optimizer["param_groups"] = [{"lr": "fast"}]
    buffer = io.BytesIO()
    torch.save(saved, buffer)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/state.pt").write_bytes(sealed(buffer.getvalue()))
    train(run_config(photos, tmp_path / "other", steps=2), resume=True)


def test_what_a_kill_left_half_written_is_removed(photos: Path, tmp_path: Path) -> None:
    run = run_config(photos, tmp_path / "run", steps=1)
    train(run)
    (run.output / ".dagl-0123456789abcdef.part").write_bytes(b"half")
    train(replace(run, steps=2), resume=True)
    assert not list(run.output.glob("*.part"))


def test_the_lock_is_taken_before_the_checkpoint_is_read(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a resumed run could start from what another process is about to write over."""
    run = run_config(photos, tmp_path / "run", steps=1)
    train(run)
    held: list[bool] = []

    def watched(output: Path, resume: bool) -> dict[str, object] | None:
        try:
            with loop.alone(output):
                held.append(False)
        except UsageError:
            held.append(True)
        return read_state(output, resume)

    monkeypatch.setattr(loop, "read_state", watched)
    train(replace(run, steps=2), resume=True)
    assert held == [True]
