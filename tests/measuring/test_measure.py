"""What a row holds, resuming, the cache; and the paper's own noisy figure."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import TOY_SIZES, benchmark, measured_rows, saved, shared, tiny, toy_picture

from dagl_cli import images
from dagl_cli.degrade import paper_noise
from dagl_cli.errors import DaglError
from dagl_cli.measuring import cases, datasets, measure, tables
from dagl_cli.measuring.cases import Case
from dagl_cli.measuring.measure import Procedure
from dagl_cli.measuring.methods import OURS, Method, Settings
from dagl_cli.measuring.metrics import psnr, ssim_gaussian
from dagl_cli.restoring import tiling
from dagl_cli.store import weights

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_row_is_what_the_paper_measures(sets: Path, model: Path) -> None:
    """Seed 1 for every image, noise not clipped, the release's chop, floats, Gaussian SSIM: all by hand here."""
    found = measured_rows(benchmark("--dataset", "Toy", "--sigma", 25, "--model", model, "--data-dir", sets, "--json"))
    network, _ = weights.load(model)
    scores = []
    for size in TOY_SIZES:
        clean = torch.from_numpy(toy_picture(*size, 1)).permute(2, 0, 1).float() / 255
        noisy = paper_noise(clean[None], 25)[0]
        with torch.inference_mode():
            result = tiling.chop(lambda x: network(x, 25.0), noisy).clamp(0, 1)
        scores.append([f(x, clean) for x in (result, noisy.clamp(0, 1)) for f in (psnr, ssim_gaussian)])
    (row,) = found
    means = np.mean(scores, 0)
    assert [row[key] for key in ("psnr", "ssim", "input_psnr", "input_ssim")] == pytest.approx(means, abs=1e-5)
    assert [image["psnr"] for image in row["per_image"]] == pytest.approx([s[0] for s in scores], abs=1e-5)
    assert row["published"]["DAGL"] == [3, 0.3]
    assert row["difference_psnr"] == pytest.approx(means[0] - 3)
    stated = {
        "dataset": "Toy", "task": "denoise", "level": 25, "method": "ours", "images": 3, "protocol": "paper",
        "degradation": "Gaussian noise, seed 1 for every image, not clipped", "seed": 1,
        "network": "residual, no graph",
        "rounding": "results clipped, not rounded", "ssim_window": "gaussian", "tiling": "chop", "ensemble": "none",
        "device": "cpu", "precision": "float32", "weights": "toy", "sha256": weights_hash(model),
    }  # fmt: skip
    assert {key: row[key] for key in stated} == stated
    assert row["seconds_per_megapixel"] > 0
    assert row["peak_mb"] is None or row["peak_mb"] > 10


def weights_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_practical_measures_what_a_file_would_hold(sets: Path, model: Path) -> None:
    common = ["--dataset", "Toy", "--sigma", 25, "--model", model, "--data-dir", sets, "--json"]
    (paper,), (practical,) = (
        measured_rows(benchmark(*common)),
        measured_rows(benchmark(*common, "--protocol", "practical")),
    )
    assert (practical["tiling"], practical["rounding"]) == ("blend", "results clipped, rounded to 8 bits")
    assert practical["tile"] == 512
    assert practical["psnr"] != paper["psnr"]
    assert practical["psnr"] == pytest.approx(paper["psnr"], abs=0.05)
    (whole,) = measured_rows(benchmark(*common, "--tiling", "whole", "-x"))
    assert (whole["tiling"], whole["ensemble"], whole["protocol"]) == ("whole", "x8", "paper")


@pytest.mark.parametrize(("task", "dataset", "levels"), [("dejpeg", "Toy", 4), ("demosaic", "Toy-color", 1)])
def test_every_task_has_its_levels(sets: Path, tmp_path: Path, task: str, dataset: str, levels: int) -> None:
    channels = 3 if task == "demosaic" else 1
    model = saved(tmp_path / "m.safetensors", tiny(task, channels, graph=False))
    found = measured_rows(
        benchmark("--task", task, "--dataset", dataset, "--model", model, "--data-dir", sets, "--json")
    )
    assert len(found) == levels
    assert {row["ssim_window"] for row in found} == {"uniform8" if task == "dejpeg" else "gaussian"}
    assert all(row["psnr"] == pytest.approx(row["input_psnr"]) for row in found), "this network changes nothing"


def counted(monkeypatch: pytest.MonkeyPatch, stop_after: int | None = None) -> list[str]:
    """The names of images that are measured from now on; KeyboardInterrupt after so many."""
    names: list[str] = []
    measure_image = measure._measure_image

    def counting(*arguments: Any) -> Any:
        if len(names) == stop_after:
            raise KeyboardInterrupt
        names.append(str(arguments[0]))
        return measure_image(*arguments)

    monkeypatch.setattr(measure, "_measure_image", counting)
    return names


def test_an_interrupted_run_goes_on_where_it_stopped(sets: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    common = ["--dataset", "Toy", "--sigma", 25, "--model", model, "--data-dir", sets, "--json"]
    with monkeypatch.context() as patch:
        assert len(counted(patch, stop_after=2)) == 0
        assert benchmark(*common).exit_code == 130
    with measure.cache_path().open("ab") as file:
        file.write(b'\n{"key": "cut o')  # as a power cut leaves it
    with monkeypatch.context() as patch:
        names = counted(patch)
        first = measured_rows(benchmark(*common))
        assert len(names) == 1
        assert measured_rows(benchmark(*common)) == first, "the second time nothing is measured"
        assert len(names) == 1
        measured_rows(benchmark(*common, "--no-cache"))
        assert len(names) == 4
    fresh = measured_rows(benchmark(*common, "--no-cache"))
    assert [image["psnr"] for image in fresh[0]["per_image"]] == [image["psnr"] for image in first[0]["per_image"]]


@pytest.mark.parametrize(
    "change",
    [
        ["--seed", 2],
        ["--sigma", 15],
        ["--tiling", "whole"],
        ["--protocol", "practical"],
        ["-x"],
        ["--precision", "bf16"],
    ],
)
def test_whatever_decides_a_result_makes_it_new(
    sets: Path, model: Path, monkeypatch: pytest.MonkeyPatch, change: list[object]
) -> None:
    common = ["--dataset", "Toy", "--model", model, "--data-dir", sets, "--limit", 1, "--json"]
    measured_rows(benchmark(*common, "--sigma", 25))
    names = counted(monkeypatch)
    measured_rows(benchmark(*common, *(change if "--sigma" in change else ["--sigma", 25, *change])))
    assert len(names) == 1


def test_other_weights_under_the_same_name_are_measured_anew(
    sets: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ["--dataset", "Toy", "--sigma", 25, "--model", model, "--data-dir", sets, "--limit", 1, "--json"]
    before = measured_rows(benchmark(*common))
    saved(model, tiny(shift=0.02, graph=False))
    after = measured_rows(benchmark(*common))
    assert before[0]["sha256"] != after[0]["sha256"]
    assert before[0]["psnr"] != after[0]["psnr"]


def test_results_that_cannot_be_kept_are_one_line(sets: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"")  # a file where the folder should be
    failed = benchmark("--dataset", "Toy", "--sigma", 25, "--model", model, "--data-dir", sets)
    assert failed.exit_code == 1
    assert "--no-cache" in failed.stderr
    assert measured_rows(
        benchmark("--dataset", "Toy", "--sigma", 25, "--model", model, "--data-dir", sets, "--no-cache", "--json")
    )


def test_a_perfect_result_is_no_broken_json(sets: Path) -> None:
    case = Case(datasets.dataset("Toy-color"), "demosaic")
    clean = torch.from_numpy(toy_picture(*TOY_SIZES[0], 3)).permute(2, 0, 1).float() / 255
    oracle = Method(OURS, lambda x, level: clean, Settings("an oracle"))
    row = measure.measure(case, oracle, Procedure(sets, limit=1))
    assert json.loads(json.dumps(row.to_dict(), allow_nan=False))["psnr"] is None
    assert "inf" in tables.summary([case], [row])[1][0][2]
    assert "∞" in tables.page("an oracle", [case], [row], lambda case: [oracle], sets)


def test_a_result_of_another_shape_is_refused() -> None:
    turned = Method("turned", lambda x, level: x.mT, Settings("a function"))
    with pytest.raises(DaglError, match="nothing to measure"):
        measure.restored(turned, torch.zeros(1, 8, 9), None, "paper")


def test_a_damaged_copy_is_not_accepted_because_results_are_known(sets: Path, model: Path) -> None:
    common = ["--dataset", "Toy", "--sigma", 25, "--model", model, "--data-dir", sets, "-q", "--json"]
    assert benchmark(*common).exit_code == 0
    (sets / "Toy/2.png").write_bytes(b"?")
    damaged = benchmark(*common, "--tolerance", 0, "--reference", model)
    assert damaged.exit_code == 2, "a reference that is none comes first"
    damaged = benchmark(*common)
    assert damaged.exit_code == 1
    assert "2.png is not the published file" in damaged.stderr


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak can be reset on Linux only")
def test_peak_memory_is_of_the_image_at_hand(sets: Path) -> None:
    case = cases.cases_for([datasets.dataset("Toy")], "denoise", [25.0])[0]

    def peak(megabytes: int) -> float:
        def run(bad: torch.Tensor, level: float | None) -> torch.Tensor:
            return bad + torch.ones(megabytes * 250_000)[:1]

        return measure.measure(case, Method(OURS, run, Settings("a function")), Procedure(sets, limit=1)).peak_mb or 0

    large = peak(400)
    assert peak(1) < large - 300


def test_figure_5_s_noisy_image(tmp_path: Path) -> None:
    """The published 20.60 / 0.5748, through the benchmark itself."""
    (case,) = cases.cases_of("figure 5")
    identity = Method("input", lambda x, level: x, Settings("a function"))
    row = measure.measure(case, identity, Procedure(shared("testsets")))
    assert [round(row.mean("input_psnr"), 2), round(row.mean("input_ssim"), 4)] == list(case.published["Noisy"])
    assert row.mean("psnr") == row.mean("input_psnr"), "results are clipped as the paper's are"


@pytest.mark.parametrize(
    "line",
    ['{"key": "KEY", "result": "30 dB"}', '{"key": "KEY", "result": {"psnr": 30}}', '{"key": "KEY"}', "[]", '"KEY"',
     "null",
     '{"key": "KEY", "result": {"psnr": "30", "ssim": 1, "input_psnr": 1, "input_ssim": 1, "seconds": 1, '
     '"megapixels": 1, "peak_mb": 1}}',
     '{"key": "KEY", "result": {"psnr": null, "ssim": 1, "input_psnr": 1, "input_ssim": 1, "seconds": 1, '
     '"megapixels": 1, "peak_mb": 1}}', "[" * 100_000],
)  # fmt: skip
def test_what_another_version_kept_is_measured_again(sets: Path, model: Path, line: str) -> None:
    common = ["--dataset", "Toy", "--sigma", 25, "--model", model, "--data-dir", sets, "--limit", 1, "--json"]
    (before,) = measured_rows(benchmark(*common))
    kept = measure.cache_path()
    key = json.loads(kept.read_text().strip().splitlines()[-1])["key"]
    kept.write_text(line.replace("KEY", key) + "\n")
    (after,) = measured_rows(benchmark(*common))
    assert after["psnr"] == before["psnr"]


def test_it_says_what_it_will_cost(sets: Path, model: Path) -> None:
    common = ["--dataset", "Toy", "--model", model, "--data-dir", sets]
    first = benchmark(*common, "--compare", "input")
    assert re.match(r"To measure: 18 images, 0\.0 megapixels, about \d+ s on cpu", first.stderr)
    again = benchmark(*common)
    assert again.stderr.startswith("Nothing to measure: all of it is known")
    assert benchmark(*common, "-q", "--no-cache").stderr == ""


def test_work_counts_the_tiles(sets: Path, tmp_path: Path) -> None:
    """The release's chop of 512 x 512 is 256 pieces of 76 x 76 (5.6 times the pixels)."""
    from dagl_cli.config import Options
    from dagl_cli.measuring import methods

    model = saved(tmp_path / "m.safetensors", tiny(graph=False))
    work = {tiling: methods.ours("denoise", 1, str(model), Options(tiling=tiling)).work(512, 512)
            for tiling in ("whole", "blend", "chop")}  # fmt: skip
    assert work == {"whole": 512**2, "blend": 512**2, "chop": 256 * 76**2}


def test_results_are_saved_as_images(sets: Path, model: Path, tmp_path: Path) -> None:
    common = ["--dataset", "Toy", "--sigma", 25, "--model", model, "--data-dir", sets, "--compare", "input", "-q"]
    folder = tmp_path / "saved"
    for _ in range(2):  # also where all figures are known
        assert benchmark(*common, "--save-images", folder).exit_code == 0
        files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))
        assert files == [f"Toy-sigma25/{method}/{i}.png" for method in ("input", "ours") for i in (1, 2, 3)]
        (folder / files[0]).unlink()
    ours = images.read(folder / "Toy-sigma25/ours/1.png").pixels
    noisy = paper_noise(torch.from_numpy(toy_picture(*TOY_SIZES[0], 1)).permute(2, 0, 1)[None].float() / 255, 25)[0]
    wanted = (noisy + 0.01).clamp(0, 1).permute(1, 2, 0).numpy()
    assert np.abs(ours - wanted).max() <= 0.5 / 255 + 1e-6
    for place in (sets / "Toy", sets / "new", model):
        refused = benchmark(*common, "--save-images", place)
        assert refused.exit_code == 2
        assert refused.stderr.startswith(f"Error: --save-images {place} is ")
