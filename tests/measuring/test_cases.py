"""What is measured: the paper's tables as they are printed, and the user's own images and pairs."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import benchmark, measured_rows, saved, shared, tiny, toy_picture

from dagl_cli import images
from dagl_cli.measuring import cases, datasets, measure, tables
from dagl_cli.measuring.measure import Procedure
from dagl_cli.measuring.methods import OURS, Method, Settings

pytestmark = pytest.mark.usefixtures("one_thread")


def test_published_figures_are_the_papers() -> None:
    tables = json.loads(shared("paper/tables.json").read_text())
    count = 0
    for row in cases.PUBLISHED["table 1"].rows:
        assert row["methods"] == tables["table1"][row["dataset"]][f"{row['level']:g}"]
        count += 1
    for row in cases.PUBLISHED["table 3"].rows:
        cell = tables["table3"][row["dataset"]][f"{row['level']:g}"]
        assert row["methods"] == {name: pair for name, pair in cell.items() if pair}
        count += 1
    for row in cases.PUBLISHED["table 4"].rows:
        assert row["methods"] == tables["table4"][row["dataset"].removesuffix("-color")]
        count += 1
    assert count == 9 + 8 + 3
    five = {row["variant"]: row["methods"]["DAGL"][0] for row in cases.PUBLISHED["table 5"].rows}
    assert five == {name: value for name, value in tables["table5"].items() if name != "title"}
    six = {row["variant"]: row["methods"]["DAGL"][0] for row in cases.PUBLISHED["table 6"].rows}
    assert six == {str(row[0]): row[-1] for row in tables["table6"]["rows"]}
    two = {name: tuple(pair) for name, pair in cases.PUBLISHED["table 2"].rows[0]["methods"].items()}
    assert two == {row[0]: (row[3], row[4]) for row in tables["table2"]["rows"]}
    for number in ("5", "8"):
        (row,) = cases.PUBLISHED[f"figure {number}"].rows
        assert row["methods"] == {k: v for k, v in tables[f"figure{number}"].items() if k != "title"}


def test_a_set_prints_what_is_published_for_it_and_where() -> None:
    (case,) = cases.cases_for([datasets.dataset("CC15")], "real", [None])
    method = Method(OURS, lambda bad, level: bad, Settings("a function"))
    row = measure.measure(case, method, Procedure(shared("testsets"), limit=1))
    columns, ((_, *cells),) = tables.summary([case], [row])
    assert dict(zip(columns[1:], cells))["TWSC"] == "37.81"
    assert any("CBDNet/issues/22" in note for note in tables.notes([row]))
    assert not any("published" in note for note in tables.notes([replace(row, case=replace(case, source=""))]))


def test_every_published_case_can_be_measured() -> None:
    for name in cases.PUBLISHED:
        if name != "table 2":
            for case in cases.cases_of(name):
                assert case.samples(), case


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    images.write(images.Image(pixels.astype(np.float32), depth=16 if "16" in path.stem else 8), path)
    return path


def test_own_images_of_all_kinds(sets: Path, model: Path, tmp_path: Path) -> None:
    """Gray and colour, 8 and 16 bits, of any sizes, in subfolders; hidden files and other files are left out."""
    own = tmp_path / "own"
    gray = toy_picture(40, 48, 1) / 255
    save(own / "a.png", gray)
    save(own / "below/b16.tif", toy_picture(56, 32, 1) / 255 + 0.001)
    save(own / ".hidden.png", gray)
    (own / "notes.txt").write_text("no image")
    (row,) = measured_rows(benchmark("--dataset", own, "--sigma", 33, "--model", model, "--json"))
    assert (row["dataset"], row["level"], row["images"]) == ("own", 33, 2)
    assert [image["name"] for image in row["per_image"]] == ["a.png", "below/b16.tif"]
    loaded = datasets.load(datasets.own(own), datasets.own(own).samples[1], tmp_path)
    assert loaded.depth == 16
    assert loaded.clean[0, 0, 0] == pytest.approx(toy_picture(56, 32, 1)[0, 0, 0] / 255 + 0.001, abs=1 / 65535)
    save(own / "c.png", toy_picture(40, 40, 3) / 255)
    assert datasets.own(own).channels == 3, "one in colour makes the set one in colour"
    (row,) = measured_rows(benchmark("--dataset", own, "--sigma", 33, "--gray", "--model", model, "--json"))
    assert row["images"] == 3


def test_a_set_is_the_same_under_another_name(sets: Path, model: Path) -> None:
    """An own folder of the same images gives the same figures; nothing is published for it."""
    published = measured_rows(
        benchmark("--dataset", "Toy", "--sigma", 25, "--model", model, "--data-dir", sets, "--json")
    )
    own = measured_rows(benchmark("--dataset", sets / "Toy", "--sigma", 25, "--model", model, "--json"))
    assert own[0]["psnr"] == published[0]["psnr"]
    assert (own[0]["published"], own[0]["difference_psnr"]) == ({}, None)


@pytest.mark.parametrize("task", ["dejpeg", "demosaic", "real"])
def test_own_images_in_every_task(sets: Path, tmp_path: Path, task: str) -> None:
    save(tmp_path / "own/a16.png", toy_picture(40, 48, 3) / 255)
    model = saved(tmp_path / "m.safetensors", tiny(task, 3, graph=False))
    levels: dict[str, list[object]] = {
        "dejpeg": ["--quality", 37],
        "demosaic": ["--pattern", "BGGR"],
        "real": ["--task", "real"],
    }
    (row,) = measured_rows(benchmark("--dataset", tmp_path / "own", *levels[task], "--model", model, "--json"))
    assert (row["task"], row["level"]) == (task, 37 if task == "dejpeg" else None)
    assert row["psnr"] == pytest.approx(row["input_psnr"]), "this network changes nothing"
    assert ("BGGR" in row["degradation"]) == (task == "demosaic")


def pair(folder: Path, names: tuple[str, str], clean: np.ndarray, degraded: np.ndarray) -> None:
    for name, pixels in zip(names, (degraded, clean)):
        save(folder / name, pixels)


def noisy(clean: np.ndarray, sigma: float = 20) -> np.ndarray:
    return (clean + np.random.default_rng(0).normal(0, sigma / 255, clean.shape)).clip(0, 1)


@pytest.mark.parametrize(
    ("names", "patterns"),
    [
        (("{}_real.png", "{}_mean.png"), ("pairs/*_real.png", "pairs/*_mean.png")),
        (("noisy/{}.tif", "clean/{}.png"), ("pairs/noisy", "pairs/clean")),
        (("{}/NOISY.png", "{}/GT.png"), ("pairs/*/NOISY.png", "pairs/*/GT.png")),
    ],
)
def test_pairs(
    sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, str], patterns: tuple[str, str]
) -> None:
    monkeypatch.chdir(tmp_path)
    clean = toy_picture(48, 40, 3) / 255
    for star in ("b[1]", "a"):
        pair(tmp_path / "pairs", (names[0].format(star), names[1].format(star)), clean, noisy(clean))
    model = saved(tmp_path / "m.safetensors", tiny("real", 3, graph=False))
    (row,) = measured_rows(benchmark("--pairs", *patterns, "--model", model, "--json"))
    assert (row["dataset"], row["task"], row["level"], row["degradation"]) == ("pairs", "real", None, "as in the files")
    assert [image["name"] for image in row["per_image"]] == ["a", "b[1]"]
    assert row["input_psnr"] == pytest.approx(-20 * np.log10(20 / 255), abs=0.4)
    blind = saved(tmp_path / "d.safetensors", tiny("denoise", 3, graph=False))
    (told,) = measured_rows(benchmark("--pairs", *patterns, "--sigma", 20, "--model", blind, "--json"))
    assert (told["task"], told["level"]) == ("denoise", 20)
    (estimated,) = measured_rows(benchmark("--pairs", *patterns, "--task", "denoise", "--model", blind, "--json"))
    assert estimated["level"] is None


def test_pairs_of_a_registry(sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry with `pairs` is all that a published set of pairs needs."""
    clean = toy_picture(48, 40, 3) / 255
    pair(sets / "Cameras", ("1_real.png", "1_mean.png"), clean, noisy(clean))
    files = [
        {"path": path.name, "bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in (sets / "Cameras").iterdir()
    ]
    entry = {"note": "", "channels": 3, "repository": "some/body", "commit": "0" * 40, "folder": "x", "files": files}
    registry = tmp_path / "registry.json"
    registry.write_text(json.dumps({"Cameras": entry | {"pairs": ["*_real.png", "*_mean.png"]}}))
    monkeypatch.setitem(datasets.DATASETS, "Cameras", datasets.registry(registry)["Cameras"])
    model = saved(tmp_path / "m.safetensors", tiny("real", 3, graph=False))
    (row,) = measured_rows(benchmark("--dataset", "Cameras", "--model", model, "--data-dir", sets, "--json"))
    assert (row["task"], row["images"], row["of"]) == ("real", 1, 1)


def shifted(pixels: np.ndarray) -> np.ndarray:
    return np.roll(pixels, -1, axis=1)


@pytest.mark.parametrize(
    ("spoil", "said", "code"),
    [
        (lambda folder: None, "--pairs: {}/1_real.png has no partner: complete the pairs", 2),
        (lambda folder: (folder / "1_mean.png").write_bytes(b"?"), "cannot read {}/1_mean.png: it is not a PNG", 1),
        (lambda folder: save(folder / "1_mean.png", toy_picture(80, 80, 3) / 255),
         "pairs/1: the degraded image is 80x96, the clean one 80x80: crop one", 1),
        (lambda folder: save(folder / "1_mean.png", shifted(toy_picture(96, 80, 3) / 255)),
         "pairs/1: the degraded image lies 1 pixel to the right: align the pair", 1),
    ],
)  # fmt: skip
def test_pairs_that_are_none(sets: Path, tmp_path: Path, spoil: Any, said: str, code: int) -> None:
    folder, clean = tmp_path / "pairs", toy_picture(96, 80, 3) / 255
    for star in "12":
        pair(folder, (f"{star}_real.png", f"{star}_mean.png"), clean, noisy(clean))
    (folder / "1_mean.png").unlink()
    spoil(folder)
    model = saved(tmp_path / "m.safetensors", tiny("real", 3, graph=False))
    failed = benchmark("--pairs", folder / "*_real.png", folder / "*_mean.png", "--model", model, "-q")
    assert failed.exit_code == code, failed.output
    assert failed.stderr.count("\n") == 1
    assert said.format(folder) in failed.stderr


def test_images_that_would_be_their_own_partners(tmp_path: Path) -> None:
    save(tmp_path / "1.png", toy_picture(32, 32, 3) / 255)
    failed = benchmark("--pairs", tmp_path, f"{tmp_path}/*.png", "-q")
    assert failed.exit_code == 2
    assert "1.png would be its own partner" in failed.stderr


def test_an_image_that_cannot_be_measured_is_named(tmp_path: Path) -> None:
    for name, side in (("fine", 32), ("speck", 4)):
        save(tmp_path / f"own/{name}.png", toy_picture(side, side, 3) / 255)
    model = saved(tmp_path / "m.safetensors", tiny("denoise", 3, graph=False))
    failed = benchmark("--dataset", tmp_path / "own", "--sigma", 25, "--model", model, "-q")
    assert failed.exit_code == 1
    assert "own/speck.png: an image of 4 x 4 pixels is too small" in failed.stderr


@pytest.mark.parametrize("sigma", [1, 25, 50])
def test_noise_alone_is_no_shift(sets: Path, sigma: float) -> None:
    """Neither strong noise nor noise that is the same along a row makes a pair look shifted."""
    clean = toy_picture(64, 64, 1) / 255
    random = np.random.default_rng(1)
    rows = np.repeat(random.normal(0, sigma / 255, (64, 32, 1)), 2, axis=1)
    for bad in (noisy(clean, sigma), clean + rows):
        assert measure.pair_shift(bad.astype(np.float32), clean.astype(np.float32)) is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--dataset", "empty"], "--dataset empty holds no images: give a folder of PNG"),
        (["--dataset", "nowhere"], "--dataset nowhere is unknown: choose one of Toy, Toy-color, Real, a folder of"),
        (["--dataset", "own", "--dataset", "other/own"], "--dataset: two sets are called own: rename a folder"),
        (["--dataset", "own", "--task", "demosaic"], "--dataset own is gray: --task demosaic needs a colour one"),
        (["--dataset", "own", "--image", "b.png"], "--image b.png is not in own: choose a.png"),
        (["--dataset", "Toy", "--gray"], "--gray is for images of your own"),
        (["--dataset", "own", "--pattern", "GGGG"], "--pattern GGGG is unknown: choose one of RGGB, BGGR, GRBG, GBRG"),
        (["--dataset", "own", "--pattern", "RGGB", "--task", "denoise"], "--pattern is for --task demosaic"),
        (["--pairs", "own/a.png", "own/*"], "--pairs own/a.png: write a folder, or a pattern with one *"),
        (["--pairs", "own/*_a.png", "own/*_b.png"], "no two images with the same text for the *"),
        (["--pairs", "own", "other/own", "--quality", 10], "pairs are measured as they are: leave out --quality"),
        (["--pairs", "own", "other/own", "--table", 1], "--pairs: not for the paper's own --table"),
        (["--dataset", "own", "--seed", ""], "--seed"),
        (["--dataset", "own", "--quality", 10, "--seed", 1, "--seed", 2], "nothing is random here"),
    ],
)
def test_wrong_sets_are_one_line(
    sets: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[object], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for folder in ("own", "other/own"):
        save(tmp_path / folder / "a.png", toy_picture(40, 40, 1) / 255)
    failed = benchmark(*arguments, "--model", model, "--data-dir", sets)
    assert failed.exit_code == 2, failed.output
    assert failed.stderr.count("\n") == 1
    assert said in failed.stderr


def test_a_name_alone_says_the_task() -> None:
    """Table 3's sets are for JPEG artifacts; levels say it too; everything else is denoising."""
    sets = {name: datasets.dataset(name) for name in ("Classic5", "LIVE1", "Set12", "Urban100", "Kodak24")}
    assert cases.implied_task([sets["Classic5"], sets["LIVE1"]]) == "dejpeg"
    assert cases.implied_task([sets["Classic5"]], sigma=True) == "denoise"
    assert cases.implied_task([sets["Set12"]], quality=True) == "dejpeg"
    for names in (["Set12"], ["Urban100"], ["Kodak24"], ["Classic5", "Set12"]):
        assert cases.implied_task([sets[name] for name in names]) == "denoise"
