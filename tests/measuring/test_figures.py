"""A figure shows the places that were asked for, and replaces nothing but an earlier figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from helpers import TOY_SIZES, benchmark, toy_picture

from dagl_cli.measuring.figures import CELL, COLOURS, FONT, GAP

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_place_is_enlarged(sets: Path, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "fig.png"
    common = ["--dataset", "Toy", "--sigma", 25, "--model", model, "--data-dir", sets, "-q", "-o", path]
    arguments = [*common, "--image", "1.png", "--compare", "nlm", "--figure-at", "8,10,16,12"]
    for _ in range(2):  # an earlier figure is replaced
        result = benchmark(*arguments)
        assert result.exit_code == 0, result.output
    with PIL.Image.open(path) as image:
        page, info = np.asarray(image), image.info
    high = round(CELL * 12 / 16)
    assert page.shape[0] == 2 * (high + 2 * (FONT + 3)) + GAP, "two rows of crops"
    left = page.shape[1] - 2 * CELL - GAP
    crop = page[high // 24 : high : high // 12, left + CELL // 32 : left + CELL : CELL // 16, 0][1:-1, 1:-1]
    wanted = toy_picture(*TOY_SIZES[0], 1)[10:22, 8:24, 0][1:-1, 1:-1]
    assert np.abs(crop[:10, :14].astype(int) - wanted).max() <= 40, "the clean place, enlarged"
    frame = tuple(bytes.fromhex(COLOURS[0][1:]))
    assert tuple(page[0, left]) == frame
    assert info["Software"].startswith("dagl ")
    assert "Gaussian noise, seed 1" in info["Description"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--figure-at", "1,2,3"], "--figure-at 1,2,3: write X,Y,W,H in pixels"),
        (["--figure-at", "-1,0,16,16"], "--figure-at -1,0,16,16: X and Y must be 0 or more"),
        (["--figure-at", "0,0,4,16"], "W and H at least 8"),
        (["--figure-at", "30,0,16,16"], "--figure-at 30,0,16,16 is not inside the image, which is 40x48"),
        (["--figure-at", "0,0,16,16", "-o", "fig.jpg"], "--output fig.jpg: a figure is a PNG"),
        (["--figure-at", "0,0,16,16", "-o", "no/fig.png"], "--output no/fig.png cannot be written"),
        (["--figure-at", "0,0,16,16", "-o", "photo.png"], "--output photo.png exists and is no figure of dagl's"),
        (["--figure-at", "0,0,16,16", "--sigma", "15"], "--figure-at shows one image at one level"),
        ([], "--output is for --figure-at and --table 2"),
    ],
)
def test_wrong_figures_are_one_line(
    sets: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    PIL.Image.new("L", (8, 8)).save("photo.png")
    before = Path("photo.png").read_bytes()
    output = [] if "-o" in arguments else ["-o", "fig.png"]
    common = ["--dataset", "Toy", "--sigma", 25, "--image", "1.png", "--model", model, "--data-dir", sets, "-q"]
    failed = benchmark(*common, *output, *arguments)
    assert failed.exit_code == 2, failed.output
    assert failed.stderr.count("\n") == 1
    assert said in failed.stderr
    assert Path("photo.png").read_bytes() == before
    assert not Path("fig.png").exists()


def test_a_figure_needs_a_file(sets: Path, model: Path) -> None:
    common = ["--dataset", "Toy", "--sigma", 25, "--image", "1.png", "--model", model, "--data-dir", sets]
    failed = benchmark(*common, "--figure-at", "0,0,16,16")
    assert failed.exit_code == 2
    assert "--figure-at needs -o" in failed.stderr
