"""The scripts that measure how the models behave keep up with the package."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, shared


@pytest.mark.parametrize(
    ("what", "model", "column"),
    [("clean", "dejpeg-gray", "guard: left alone"), ("attention", "denoise-gray-lite", "% edges pruned"),
     ("estimate", None, "8 bit: error")],
)  # fmt: skip
def test_quality_runs(what: str, model: str | None, column: str) -> None:
    command = [sys.executable, str(Path(__file__).with_name("quality.py")), what, "--limit", "1"]
    command += ["--data-dir", str(shared("testsets")), *(["--model", model] if model else [])]
    result = subprocess.run(command, text=True, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr
    assert column in result.stdout


def test_pictures(tmp_path: Path) -> None:
    """The README's figures come out again."""
    command = [sys.executable, str(Path(__file__).with_name("pictures.py")), "-o", str(tmp_path)]
    result = subprocess.run(command, text=True, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    told = [[float(x) for x in figures] for figures in re.findall(r"([\d.]+) → ([\d.]+) dB", readme)]
    rows = [line.strip("| ").split(" | ") for line in result.stdout.splitlines()[2:]]
    for name, *figures in rows:
        assert (tmp_path / f"{name}.jpg").stat().st_size > 10_000
        assert name == "real" or [float(x) for x in figures] in [pytest.approx(pair, abs=0.02) for pair in told]
    assert [name for name, *_ in rows] == ["denoise", "real", "dejpeg", "demosaic"]
