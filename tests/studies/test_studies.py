"""The scripts that measure how the models behave keep up with the package."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers import shared


@pytest.mark.parametrize(
    ("what", "model", "column"),
    [("clean", "dejpeg-gray", "guard: left alone"), ("attention", "denoise-gray-lite", "% edges pruned"),
     ("estimate", None, "8 bit: error")],
)  # fmt: skip
def test_quality_runs(what: str, model: str | None, column: str) -> None:
    command = [sys.executable, Path(__file__).with_name("quality.py"), what, "--limit", "1"]
    command += ["--data-dir", shared("testsets"), *(["--model", model] if model else [])]
    result = subprocess.run(command, text=True, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr
    assert column in result.stdout
