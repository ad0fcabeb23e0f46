"""All cases of a table: one budget, in turn, and on from wherever they were stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import dagl, run_config, same_weights

from dagl_cli.errors import UsageError
from dagl_cli.measuring.methods import variants_below
from dagl_cli.store import weights
from dagl_cli.training.presets import ABLATIONS, PRESETS, TrainConfig, cases, resolve
from dagl_cli.training.series import train_all


def series(photos: Path, output: Path, **settings: Any) -> TrainConfig:
    return run_config(photos, output, preset="table5:all", steps=1, **settings)


def test_the_cases_are_the_presets(tmp_path: Path) -> None:
    """Each of a table's cases has the settings that its own preset has, all in folders of their own."""
    for table, every in ABLATIONS.items():
        given: dict[str, Any] = dict(data=[tmp_path], output=tmp_path / "runs")
        for case, run in zip(every, cases(resolve(given | {"preset": f"{table}:all"})), strict=True):
            assert run == replace(resolve(given | {"preset": f"{table}:{case}"}), output=run.output)
            assert run.output.parent == tmp_path / "runs"
    alone = resolve(given | {"preset": "table5:NL"})
    assert cases(alone) == [alone]
    assert set(PRESETS) >= {"table5:all", "table6:all"}
    for setting in ("heads", "stages"):
        with pytest.raises(UsageError, match=f"`model` {setting} is what `preset` table6:all varies"):
            cases(resolve(given | {"preset": "table6:all", "model": {setting: 2}}))


def test_a_series_goes_on_where_it_was_stopped(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All cases compute in the precision that was measured once: speeds near each other must not decide for each."""
    faster = iter(["bf16", *["fp32"] * 9])
    monkeypatch.setattr("dagl_cli.training.loop.faster_precision", lambda *shape: next(faster))
    whole, part = (series(photos, tmp_path / name, precision="auto") for name in ("whole", "part"))
    said: list[dict[str, Any]] = []
    train_all(whole, report=said.append)
    assert [row["case"] for row in said if "case" in row] == [f"table5:{case}" for case in ABLATIONS["table5"]]
    assert {torch.load(p)["settings"]["precision"] for p in (tmp_path / "whole").glob("*/state.pt")} == {"bf16"}
    with pytest.raises(UsageError, match="holds no run to `resume`"):
        train_all(part, resume=True)
    faster = iter(["bf16", *["fp32"] * 9])

    def stop(row: dict[str, Any]) -> None:
        if row.get("number") == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_all(part, report=stop)
    with pytest.raises(UsageError, match="NL holds a run already: `resume` continues it"):
        train_all(part)
    said.clear()
    shares: list[float] = []
    train_all(part, resume=True, report=said.append, progress=lambda step, done: shares.append(done))
    assert [row["number"] for row in said if "case" in row] == [3, 4, 5]
    assert shares == [0.6, 0.8, 1.0]
    found = variants_below(tmp_path / "part", "table 5")
    assert list(found) == list(ABLATIONS["table5"])
    for path in found.values():
        assert same_weights(path.parent, tmp_path / "whole" / path.parent.name)
    states = {name: path.stat().st_mtime_ns for name, path in found.items()}
    train_all(part, resume=True)  # nothing is left to do
    assert states == {name: path.stat().st_mtime_ns for name, path in found.items()}


def test_a_network_whose_training_was_cut_short_is_told(photos: Path, tmp_path: Path) -> None:
    """A table of it is measured, but not in silence."""
    train_all(series(photos, tmp_path))
    lines: list[str] = []
    variants_below(tmp_path, "table 5", lines.append)
    assert lines == []
    for name, changes in (("NL", {"steps": 400}), ("MHNL", {"steps": None, "minutes": 60.0})):
        path = variants_below(tmp_path, "table 5")[name]
        network, info = weights.load(path)
        weights.save(path, network.state_dict(), network.config, info | {"training": info["training"] | changes})
    variants_below(tmp_path, "table 5", lines.append)
    assert sorted(line.partition(": ")[2].partition(":")[0] for line in lines) == [
        f"its training was interrupted after {info['minutes']:g} of 60 minutes",
        "its training was interrupted after 1 of 400 steps",
    ]


def test_the_command(photos: Path, tmp_path: Path) -> None:
    """The longer length of a resumed series is that of each of its runs."""
    network = ("features=8", "blocks=2", "stages=1", "heads=1", "head_features=4", "embedding=4")
    quick = ("--data", photos, "--crop", 16, "--batch", 2, "--threads", 1, "--precision", "fp32", "--device", "cpu")
    flags = [word for setting in network for word in ("--set", setting)]
    output = tmp_path / "runs"
    _, text = dagl("train", "--preset", "table5:all", *quick, *flags, "--steps", 1, "-o", output)
    assert text.startswith("5 networks, one after the other, 1 step each\ntable5:NL: 1 of 5\n")
    assert text.count("Weights: ") == 5
    again = ("train", "-o", output, "--resume")
    assert "table5:" not in dagl(*again)[1]  # all are finished
    for wrong, message in ((("--lr", 0.5), "--lr 0.5 differs"), (("--steps", 0), "--steps must be at least 1")):
        assert message in dagl(*again, *wrong, code=2)[1]
    assert "table5:" not in dagl(*again)[1]  # nothing came of the mistakes
