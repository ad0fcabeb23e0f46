"""The scripts that measure how the models behave keep up with the package."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, shared


def run(script: str, *arguments: object) -> str:
    """What a script of this folder prints."""
    command = [sys.executable, str(Path(__file__).with_name(script)), *map(str, arguments)]
    result = subprocess.run(command, text=True, capture_output=True, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize(
    ("what", "arguments", "column"),
    [
        ("clean", ["--model", "dejpeg-gray"], "guard: left alone"),
        ("attention", ["--model", "denoise-gray-lite"], "% edges pruned"),
        ("graph", ["--model", "denoise-gray", "--dataset", "Set12"], "shuffling costs"),
        ("estimate", [], "8 bit: error"),
        ("shift", [], "found, 300x300"),
    ],
)
def test_quality_runs(what: str, arguments: list[str], column: str) -> None:
    assert column in run("quality.py", what, "--limit", 1, "--data-dir", shared("testsets"), *arguments)


@pytest.mark.parametrize(
    ("arguments", "row"),
    [
        (["network", "--size", 64], "| ours, lite, bf16 | "),
        (["memory", "--megapixels", 0.02], "| 0.02 | "),
        (["batch", "--sides", 16], "| 16x16, bf16 | "),
        (["start", "--steps", 1], "| dagl denoise | "),
        (["folder", "--files", 2, "--rounds", 1, "--size", 40], "| now | "),
    ],
)
def test_speed_runs(arguments: list[object], row: str) -> None:
    assert row in run("speed.py", *arguments)


def test_gpu_runs_on_a_cpu() -> None:
    printed = run("gpu.py", "--device", "cpu", "--sizes", 24, "--crops", 1, "--repeat", 1)
    assert "| paper, fp32, kernel | " in printed
    assert all(f"| {name} | " in printed for name in ("ours, paper, fp32, torch", "at most 16", "bf16"))


def test_pictures(tmp_path: Path) -> None:
    """The README's figures come out again."""
    printed = run("pictures.py", "-o", tmp_path)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    told = [[float(x) for x in figures] for figures in re.findall(r"([\d.]+) → ([\d.]+) dB", readme)]
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines()[2:]]
    for name, *figures in rows:
        assert (tmp_path / f"{name}.jpg").stat().st_size > 10_000
        assert name == "real" or [float(x) for x in figures] in [pytest.approx(pair, abs=0.02) for pair in told]
    assert [name for name, *_ in rows] == ["denoise", "real", "dejpeg", "demosaic"]


def test_damaged_files() -> None:
    assert run("fuzz.py", "--count", 60).count(" 60 damaged, ") == 3


def test_fuzz_images_runs() -> None:
    assert "40 files, 0 faults" in run("fuzz_images.py", "--files", 40)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_kills() -> None:
    assert run("kills.py", "--kills", 4).endswith("no input and no result damaged\n")
