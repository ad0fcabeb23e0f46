"""`dagl train`: flags, TOML, exit codes, one line for each mistake."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dagl_cli.cli import app
from dagl_cli.cli.train import _last_name
from dagl_cli.store import weights


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


@pytest.mark.parametrize(
    ("argument", "kept"),
    [("/home/me/photos", "photos"), ("--data=/home/me/a=b", "--data=a=b"), ("-o/home/me/run", "-orun"),
     ("--minutes=3", "--minutes=3"), ("relative/run", "relative/run"), ("-o", "-o")],
)  # fmt: skip
def test_the_saved_command_tells_no_folders(argument: str, kept: str) -> None:
    assert _last_name(argument) == kept
