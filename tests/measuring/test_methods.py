"""Everything that can be measured runs on the same inputs."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from helpers import TOY_SIZES, benchmark, measured_rows, saved, tiny, toy_picture

from dagl_cli.restoring import tiling

pytestmark = pytest.mark.usefixtures("one_thread")


def test_others_run_on_the_same_inputs(sets: Path, model: Path, tmp_path: Path) -> None:
    report = tmp_path / "r.html"
    others = [word for name in ("input", "nlm", "tv") for word in ("--compare", name)]
    common = ["--dataset", "Toy", "--sigma", 25, "--model", model, "--data-dir", sets, *others]
    lines = tmp_path / "r.csv"
    found = {
        row["method"]: row for row in measured_rows(benchmark(*common, "--json", "--report", report, "--csv", lines))
    }
    with lines.open() as file:
        assert [line["method"] for line in csv.DictReader(file)] == list(found)
    assert list(found) == ["input", "nlm", "tv", "ours"]
    assert found["input"]["psnr"] == found["input"]["input_psnr"]
    assert len({row["input_psnr"] for row in found.values()}) == 1
    for name in ("nlm", "tv"):
        assert found[name]["psnr"] > found[name]["input_psnr"] + 3
        assert (found[name]["tiling"], found[name]["sha256"]) == ("its own", None)
    assert '"labels": ["input", "ours", "clean", "nlm", "tv"]' in report.read_text(), "before and after come first"
    unknown = benchmark(*common, "--compare", "bm4d")
    assert unknown.exit_code == 2
    assert "--compare bm4d" in unknown.stderr


def test_tiles_that_shrank_are_not_measured(sets: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*arguments: object, **options: object) -> None:
        raise MemoryError

    blend = tiling.overlap_blend
    monkeypatch.setattr(
        tiling,
        "overlap_blend",
        lambda run, x, tile, *rest, **options: (blend if tile < 512 else out_of_memory)(run, x, tile, *rest, **options),
    )
    failed = benchmark("--dataset", "Toy", "--sigma", 25, "--model", model, "--data-dir", sets, "--tiling", "blend")
    assert failed.exit_code == 2
    assert "out of memory on cpu: measure with a smaller --tile" in failed.stderr


def test_variants_are_found_by_their_preset(sets: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    saved(folder / "a.safetensors", tiny(noise_map=False, shift=0.01, graph=False), training={"preset": "table6:2"})
    saved(folder / "b.safetensors", tiny(noise_map=False, graph=False), training={"preset": "table5:NL"})
    (folder / "c.safetensors").write_bytes(b"nothing")
    result = benchmark("--table", 6, "--models", folder, "--data-dir", sets, "--json")
    (row,) = measured_rows(result)
    assert (row["variant"], row["weights"]) == ("2", "a")
    shown = benchmark("--table", 6, "--models", folder, "--data-dir", sets).stdout
    assert "Toy σ 25 (1)" in shown, "a case without a network keeps its published figure"
    nothing = benchmark("--table", 6, "--models", sets, "--data-dir", sets)
    assert nothing.exit_code == 2
    assert "no networks of table 6" in nothing.stderr


def test_one_s_own_models(sets: Path, tmp_path: Path) -> None:
    """Run folders, further models and a bundled name stand under their names; the first is ours."""
    runs = []
    for name, shift in (("first", 0.01), ("second", 0.02), ("third", 0.03)):
        runs.append(tmp_path / "runs" / name)
        runs[-1].mkdir(parents=True)
        saved(runs[-1] / "model.safetensors", tiny(shift=shift, graph=False))
    common = ["--dataset", "Toy", "--sigma", 25, "--data-dir", sets, "--limit", 1, "--json", "-q"]
    found = measured_rows(
        benchmark(*common, "--model", runs[0], "--model", runs[1], "--compare", runs[2], "--compare", "denoise-gray")
    )
    assert [row["method"] for row in found] == ["third", "denoise-gray", "second", "ours"]
    assert len({row["psnr"] for row in found}) == 4
    alone = measured_rows(benchmark(*common, "--model", runs[1] / "model.safetensors"))
    assert alone[0]["psnr"] == found[2]["psnr"]


FUNCTIONS = """
import numpy as np

def median(image, level):
    assert image.dtype == np.float32 and image.ndim == (3 if image.shape[-1] == 3 else 2), image.shape
    assert level == 25
    image[:] = 0.5
    return image.astype(float)

def transposed(image, level):
    return image.T

def broken(image, level):
    raise ZeroDivisionError("two\\nlines")

def leaving(image, level):
    raise SystemExit(7)

def undefined(image, level):
    return image * float("nan")

def levels(image, level):
    return (image * 255).astype("uint8")

nothing = None
"""


@pytest.mark.parametrize("dataset", ["Toy", "Toy-color"])
def test_a_function_of_the_user_s(sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: str) -> None:
    (tmp_path / f"mine_{dataset[3:].strip('-')}.py").write_text(FUNCTIONS)
    monkeypatch.chdir(tmp_path)
    name = f"mine_{dataset[3:].strip('-')}"
    channels = 3 if "color" in dataset else 1
    model = saved(tmp_path / "m.safetensors", tiny(channels=channels, graph=False))
    common = ["--dataset", dataset, "--sigma", 25, "--model", model, "--data-dir", sets, "--limit", 1, "-q"]
    row = measured_rows(benchmark(*common, "--compare", f"{name}:median", "--json"))[0]
    clean = toy_picture(*TOY_SIZES[0], channels) / 255
    assert row["method"] == "median"
    assert row["psnr"] == pytest.approx(-10 * np.log10(np.mean((clean - 0.5) ** 2)), abs=1e-3)
    assert row["sha256"], "another source is another method"
    for function, code, said in (
        ("transposed", 1, f"--compare {name}:transposed returns "),
        ("broken", 1, f"--compare {name}:broken fails: ZeroDivisionError: two lines"),
        ("leaving", 1, f"--compare {name}:leaving fails: SystemExit: 7"),
        ("undefined", 1, f"--compare {name}:undefined returns NaN or infinity: it must return floats in [0, 1]"),
        ("levels", 1, f"--compare {name}:levels returns uint8: it must return floats"),
        ("nothing", 2, f"--compare {name}:nothing: {name} has no function nothing"),
    ):
        failed = benchmark(*common, "--compare", f"{name}:{function}")
        assert failed.exit_code == code, failed.output
        assert said in failed.stderr
    failed = benchmark(*common, "--compare", "no_such_module:f")
    assert failed.exit_code == 2
    assert "--compare no_such_module:f: importing no_such_module fails" in failed.stderr
    (tmp_path / f"leaves_{name}.py").write_text("raise SystemExit(3)")
    failed = benchmark(*common, "--compare", f"leaves_{name}:f")
    assert failed.exit_code == 2
    assert "fails (3)" in failed.stderr


def test_a_model_of_the_wrong_task_or_colours(sets: Path, tmp_path: Path) -> None:
    common = ["--dataset", "Toy", "--sigma", 25, "--data-dir", sets, "-q"]
    jpeg = saved(tmp_path / "jpeg.safetensors", tiny("dejpeg", graph=False))
    colour = saved(tmp_path / "colour.safetensors", tiny(channels=3, graph=False))
    for arguments, said in (
        (["--model", jpeg], "made for dejpeg, not for denoise"),
        (["--model", colour], "--model colour is for colour images, these are gray"),
        (["--compare", jpeg], "made for dejpeg, not for denoise"),
        (["--compare", tmp_path], f"--compare {tmp_path} is unknown: choose one of input, nlm"),
    ):
        failed = benchmark(*common, *arguments)
        assert failed.exit_code == 2, failed.output
        assert said in failed.stderr
        assert failed.stderr.count("\n") == 1
