"""The benchmark on tiny sets and networks: what a row holds, resuming, outputs, gates; and the paper's own figures."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from helpers import saved, shared, tiny
from typer.testing import CliRunner

from dagl_cli.cli import app
from dagl_cli.degrade import paper_noise
from dagl_cli.errors import DaglError
from dagl_cli.measuring import cases, datasets, gates, measure, tables
from dagl_cli.measuring.cases import Case, Published
from dagl_cli.measuring.methods import OURS, Method, Settings
from dagl_cli.measuring.metrics import psnr, ssim_gaussian
from dagl_cli.restoring import tiling
from dagl_cli.store import weights

SIZES = [(48, 40), (32, 56), (40, 40)]


def picture(height: int, width: int, channels: int) -> np.ndarray:
    y, x, c = np.mgrid[:height, :width, :channels]
    return (127 + 90 * np.sin(x / 5 + c) * np.cos(y / 7)).astype(np.uint8)


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the sets 'Toy' (gray) and 'Toy-color' in the registry's place, and an empty cache."""
    entries = {}
    for name, channels in (("Toy", 1), ("Toy-color", 3)):
        files = []
        for i, size in enumerate(SIZES, 1):
            buffer = io.BytesIO()
            PIL.Image.fromarray(picture(*size, channels).squeeze()).save(buffer, "PNG")
            path = tmp_path / "sets" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(buffer.getvalue())
            digest = hashlib.sha256(buffer.getvalue()).hexdigest()
            files.append(datasets.File(path.name, path.stat().st_size, digest))
        entries[name] = datasets.Dataset(name, "a toy", channels, tuple(files), "some/body", "0" * 40, name)
    entries["Real"] = replace(entries["Toy-color"], name="Real", clean=False)
    monkeypatch.setattr(datasets, "DATASETS", entries)
    levels = (
        {"dataset": "Toy", "task": "denoise", "level": s, "methods": {"BM3D": [2, 0.2], "DAGL": [3, 0.3]}}
        for s in (15.0, 25.0)
    )
    ablation = [
        {"dataset": "Toy", "task": "denoise", "level": 25.0, "variant": v, "methods": {"DAGL": [3, None]}} for v in "12"
    ]
    empty = Published("nothing", [])
    monkeypatch.setattr(
        cases,
        "PUBLISHED",
        {
            "table 1": Published("Toys", list(levels)), "table 3": empty, "table 4": empty,
            "table 6": Published("Heads", ablation),
        },
    )  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("DAGL_DATASETS_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(datasets, "WAITS", ())
    return tmp_path / "sets"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return saved(tmp_path / "toy.safetensors", tiny(shift=0.01, graph=False))


pytestmark = pytest.mark.usefixtures("one_thread")


def dagl(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["benchmark", *map(str, arguments)])


def rows(result: Any) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)["rows"]


def test_a_row_is_what_the_paper_measures(sets: Path, model: Path) -> None:
    """Seed 1 for every image, noise not clipped, the release's chop, floats, Gaussian SSIM: all by hand here."""
    found = rows(dagl("--dataset", "Toy", "--sigma", 25, "--model", model, "--data-dir", sets, "--json"))
    network, _ = weights.load(model)
    scores = []
    for size in SIZES:
        clean = torch.from_numpy(picture(*size, 1)).permute(2, 0, 1).float() / 255
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
    (paper,), (practical,) = rows(dagl(*common)), rows(dagl(*common, "--protocol", "practical"))
    assert (practical["tiling"], practical["rounding"]) == ("blend", "results clipped, rounded to 8 bits")
    assert practical["tile"] == 512
    assert practical["psnr"] != paper["psnr"]
    assert practical["psnr"] == pytest.approx(paper["psnr"], abs=0.05)
    (whole,) = rows(dagl(*common, "--tiling", "whole", "-x"))
    assert (whole["tiling"], whole["ensemble"], whole["protocol"]) == ("whole", "x8", "paper")


@pytest.mark.parametrize(("task", "dataset", "levels"), [("dejpeg", "Toy", 4), ("demosaic", "Toy-color", 1)])
def test_every_task_has_its_levels(sets: Path, tmp_path: Path, task: str, dataset: str, levels: int) -> None:
    channels = 3 if task == "demosaic" else 1
    model = saved(tmp_path / "m.safetensors", tiny(task, channels, graph=False))
    found = rows(dagl("--task", task, "--dataset", dataset, "--model", model, "--data-dir", sets, "--json"))
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
        assert dagl(*common).exit_code == 130
    with measure.cache_path().open("ab") as file:
        file.write(b'\n{"key": "cut o')  # as a power cut leaves it
    with monkeypatch.context() as patch:
        names = counted(patch)
        first = rows(dagl(*common))
        assert len(names) == 1
        assert rows(dagl(*common)) == first, "the second time nothing is measured"
        assert len(names) == 1
        rows(dagl(*common, "--no-cache"))
        assert len(names) == 4
    fresh = rows(dagl(*common, "--no-cache"))
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
    rows(dagl(*common, "--sigma", 25))
    names = counted(monkeypatch)
    rows(dagl(*common, *(change if "--sigma" in change else ["--sigma", 25, *change])))
    assert len(names) == 1


def test_other_weights_under_the_same_name_are_measured_anew(
    sets: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ["--dataset", "Toy", "--sigma", 25, "--model", model, "--data-dir", sets, "--limit", 1, "--json"]
    before = rows(dagl(*common))
    saved(model, tiny(shift=0.02, graph=False))
    after = rows(dagl(*common))
    assert before[0]["sha256"] != after[0]["sha256"]
    assert before[0]["psnr"] != after[0]["psnr"]


def test_results_that_cannot_be_kept_are_one_line(sets: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"")  # a file where the folder should be
    failed = dagl("--dataset", "Toy", "--sigma", 25, "--model", model, "--data-dir", sets)
    assert failed.exit_code == 1
    assert "--no-cache" in failed.stderr
    assert rows(dagl("--dataset", "Toy", "--sigma", 25, "--model", model, "--data-dir", sets, "--no-cache", "--json"))


def test_the_table_and_its_files(sets: Path, model: Path, tmp_path: Path) -> None:
    files = {kind: tmp_path / f"out.{kind}" for kind in ("csv", "markdown", "report")}
    flags = [word for kind, path in files.items() for word in (f"--{kind}", path)]
    result = dagl("--table", 1, "--model", model, "--data-dir", sets, *flags)
    assert result.exit_code == 0, result.stderr
    for text in ("Toys", "BM3D", "DAGL (paper)", "ours", "difference", "Toy σ 15", "3.00", "0.3000", "tiling chop"):
        assert text in result.stdout
    table = files["markdown"].read_text().splitlines()
    assert table[0].startswith("|  | BM3D | DAGL (paper) | input | ours | difference |")
    assert table[2].startswith("| Toy σ 15 | 2.00 / 0.2000 | 3.00 / 0.3000 |")
    assert any(line.startswith("* ours (toy ") for line in table)
    with files["csv"].open() as file:
        lines = list(csv.DictReader(file))
    assert [line["level"] for line in lines] == ["15.0", "25.0"]
    assert all(float(line["difference_psnr"]) == pytest.approx(float(line["psnr"]) - 3) for line in lines)
    page = files["report"].read_text()
    assert page.count('class=open data-picture="0"') >= 1, "the per-image table opens the pictures"
    for name in ("Toy/1.png σ 15", "Toy/3.png σ 25"):
        assert name in page


def test_others_run_on_the_same_inputs(sets: Path, model: Path, tmp_path: Path) -> None:
    report = tmp_path / "r.html"
    others = [word for name in ("input", "nlm", "tv") for word in ("--compare", name)]
    common = ["--dataset", "Toy", "--sigma", 25, "--model", model, "--data-dir", sets, *others]
    lines = tmp_path / "r.csv"
    found = {row["method"]: row for row in rows(dagl(*common, "--json", "--report", report, "--csv", lines))}
    with lines.open() as file:
        assert [line["method"] for line in csv.DictReader(file)] == list(found)
    assert list(found) == ["input", "nlm", "tv", "ours"]
    assert found["input"]["psnr"] == found["input"]["input_psnr"]
    assert len({row["input_psnr"] for row in found.values()}) == 1
    for name in ("nlm", "tv"):
        assert found[name]["psnr"] > found[name]["input_psnr"] + 3
        assert (found[name]["tiling"], found[name]["sha256"]) == ("its own", None)
    assert '"labels": ["input", "ours", "clean", "nlm", "tv"]' in report.read_text(), "before and after come first"
    unknown = dagl(*common, "--compare", "bm4d")
    assert unknown.exit_code == 2
    assert "--compare bm4d" in unknown.stderr


def test_a_model_or_folder_that_is_not_there_is_said_once(sets: Path, model: Path) -> None:
    absent = dagl("--table", 1, "--model", "absent", "--data-dir", sets)
    assert absent.exit_code == 4
    assert absent.stderr.count("absent") == 1
    absent = dagl("--table", 1, "--model", model, "--data-dir", sets / "no")
    assert absent.exit_code == 2
    assert "no such folder" in absent.stderr


def test_tiles_that_shrank_are_not_measured(sets: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*arguments: object, **options: object) -> None:
        raise MemoryError

    blend = tiling.overlap_blend
    monkeypatch.setattr(
        tiling,
        "overlap_blend",
        lambda run, x, tile, *rest, **options: (blend if tile < 512 else out_of_memory)(run, x, tile, *rest, **options),
    )
    failed = dagl("--dataset", "Toy", "--sigma", 25, "--model", model, "--data-dir", sets, "--tiling", "blend")
    assert failed.exit_code == 2
    assert "out of memory on cpu: measure with a smaller --tile" in failed.stderr


def test_a_perfect_result_is_no_broken_json(sets: Path) -> None:
    case = Case(datasets.dataset("Toy-color"), "demosaic")
    clean = torch.from_numpy(picture(*SIZES[0], 3)).permute(2, 0, 1).float() / 255
    oracle = Method(OURS, lambda x, level: clean, Settings("an oracle"))
    row = measure.measure(case, oracle, sets, limit=1)
    assert json.loads(json.dumps(row.to_dict(), allow_nan=False))["psnr"] is None
    assert "inf" in tables.summary([case], [row])[1][0][2]
    assert "∞" in tables.page("an oracle", [case], [row], lambda case: [oracle], sets)


def test_offline_asks_for_nothing(sets: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "download", None)
    failed = dagl("--dataset", "Toy", "--model", model, "--offline")
    assert failed.exit_code == 1
    assert failed.stderr.count("\n") == 1, "once, however many levels there are"
    assert failed.stderr.startswith("Error: Toy: not in ")
    assert "give your copy by --data-dir, or run `dagl datasets download Toy`" in failed.stderr


def test_a_result_of_another_shape_is_refused() -> None:
    turned = Method("turned", lambda x, level: x.mT, Settings("a function"))
    with pytest.raises(DaglError, match="nothing to measure"):
        measure.restored(turned, torch.zeros(1, 8, 9), None, "paper")


def test_half_a_set_has_no_difference(sets: Path, model: Path) -> None:
    common = ["--table", 1, "--sigma", 15, "--model", model, "--data-dir", sets, "--limit", 2]
    (row,) = rows(dagl(*common, "--json"))
    assert (row["images"], row["of"]) == (2, 3)
    assert row["difference_psnr"] is None
    text = dagl(*common).stdout
    assert "difference" not in text
    assert "the first 2 of 3 images" in " ".join(text.split())


def test_variants_are_found_by_their_preset(sets: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    saved(folder / "a.safetensors", tiny(noise_map=False, shift=0.01, graph=False), training={"preset": "table6:2"})
    saved(folder / "b.safetensors", tiny(noise_map=False, graph=False), training={"preset": "table5:NL"})
    (folder / "c.safetensors").write_bytes(b"nothing")
    result = dagl("--table", 6, "--models", folder, "--data-dir", sets, "--json")
    (row,) = rows(result)
    assert (row["variant"], row["weights"]) == ("2", "a")
    shown = dagl("--table", 6, "--models", folder, "--data-dir", sets).stdout
    assert "Toy σ 25 (1)" in shown, "a case without a network keeps its published figure"
    nothing = dagl("--table", 6, "--models", sets, "--data-dir", sets)
    assert nothing.exit_code == 2
    assert "no networks of table 6" in nothing.stderr


def test_tolerance_is_a_gate(sets: Path, model: Path, tmp_path: Path) -> None:
    common = ["--dataset", "Toy", "--sigma", 25, "--model", model, "--data-dir", sets]
    assert dagl(*common, "--tolerance", 0).exit_code == 0, "the published 3 dB are easy"
    text = dagl(*common, "--json").stdout
    reference = tmp_path / "before.json"
    reference.write_text(text)
    assert dagl(*common, "--tolerance", 0, "--reference", reference).exit_code == 0
    better = json.loads(text)
    better["rows"][0]["psnr"] += 0.3
    reference.write_text(json.dumps(better))
    assert dagl(*common, "--tolerance", 0.4, "--reference", reference).exit_code == 0
    short = dagl(*common, "--tolerance", 0.2, "--reference", reference)
    assert short.exit_code == 5
    assert "Toy σ 25:" in short.stderr
    assert "is 0.30 below the reference" in short.stderr
    for broken, said in (
        (["--limit", 1], "1 images, its reference on 3"),
        (["--seed", 2], "has no row for Toy σ 25 with protocol paper, tiling chop, ensemble none, seed 2"),
        (["--ensemble"], "ensemble x8, seed 1: measure both in the same way"),
        (["--tiling", "whole"], "tiling whole"),
        (["--sigma", 15], "has no row for Toy σ 15"),
    ):
        result = dagl(*common, "--tolerance", 0.2, "--reference", reference, *broken)
        assert result.exit_code == 2
        assert said in " ".join(result.stderr.split())
    better["rows"][0]["psnr"] = "high"
    for text in ("[]", json.dumps(better)):
        reference.write_text(text)
        refused = dagl(*common, "--tolerance", 0.2, "--reference", reference)
        assert refused.exit_code == 2
        assert "not the output of `dagl benchmark --json`" in refused.stderr
    assert dagl(*common, "--tolerance", 0.2, "--reference", reference).exit_code == 2


def test_a_broken_network_does_not_pass_the_gate(sets: Path) -> None:
    case = cases.cases_for([datasets.dataset("Toy")], "denoise", [25.0])[0]
    broken = Method(OURS, lambda bad, level: bad * math.nan, Settings("a function"))
    row = measure.measure(case, broken, sets)
    assert math.isnan(row.mean("psnr")), "not infinite"
    short, compared = gates.below([row], 1, None)
    assert (len(short), compared) == (1, 1)


def test_outputs_never_take_the_place_of_anything_else(sets: Path, model: Path, tmp_path: Path) -> None:
    common = ["--dataset", "Toy", "--sigma", 25, "--model", model, "--data-dir", sets, "-q"]
    before = model.read_bytes()
    for arguments, said in (
        (["--report", model], "exists and is no .html file: choose another name"),
        (["--csv", sets / "new.csv"], "is in --data-dir, where nothing is written"),
        (["--csv", tmp_path / "x", "--markdown", tmp_path / "x"], "--csv, --markdown name one file"),
    ):
        result = dagl(*common, *arguments)
        assert result.exit_code == 2
        assert said in " ".join(result.stderr.split())
    assert model.read_bytes() == before
    for _ in range(2):  # an earlier output is replaced
        assert dagl(*common, "--csv", tmp_path / "rows.csv").exit_code == 0


def test_a_damaged_copy_is_not_accepted_because_results_are_known(sets: Path, model: Path) -> None:
    common = ["--dataset", "Toy", "--sigma", 25, "--model", model, "--data-dir", sets, "-q", "--json"]
    assert dagl(*common).exit_code == 0
    (sets / "Toy/2.png").write_bytes(b"?")
    damaged = dagl(*common, "--tolerance", 0, "--reference", model)
    assert damaged.exit_code == 2, "a reference that is none comes first"
    damaged = dagl(*common)
    assert damaged.exit_code == 1
    assert "2.png is not the published file" in damaged.stderr


def test_a_measured_method_never_takes_a_published_column(sets: Path) -> None:
    case = cases.cases_for([datasets.dataset("Toy")], "denoise", [25.0])[0]
    rows = [
        measure.measure(case, Method(name, lambda bad, level: bad, Settings("a function")), sets)
        for name in ("BM3D", "difference", OURS)
    ]
    columns = tables.grid([case], rows)
    assert columns["BM3D"] == [(2, 0.2)]
    assert columns["BM3D (measured)"] == columns["difference (measured)"] == columns[OURS]
    assert columns["difference"][0][0] == pytest.approx(rows[-1].mean("psnr") - 3)


def test_a_part_of_a_set_is_called_so(sets: Path) -> None:
    case = cases.cases_for([datasets.dataset("Toy")], "denoise", [25.0])[0]
    method = Method(OURS, lambda bad, level: bad, Settings("a function"))
    assert tables.summary([case], [measure.measure(case, method, sets, limit=2)])[1][0][0] == "Toy σ 25, first 2"
    assert tables.summary([case], [measure.measure(case, method, sets)])[1][0][0] == "Toy σ 25"


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak can be reset on Linux only")
def test_peak_memory_is_of_the_image_at_hand(sets: Path) -> None:
    case = cases.cases_for([datasets.dataset("Toy")], "denoise", [25.0])[0]

    def peak(megabytes: int) -> float:
        def run(bad: torch.Tensor, level: float | None) -> torch.Tensor:
            return bad + torch.ones(megabytes * 250_000)[:1]

        return measure.measure(case, Method(OURS, run, Settings("a function")), sets, limit=1).peak_mb or 0

    large = peak(400)
    assert peak(1) < large - 300


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--dataset, --table or --figure"),
        (["--table", 1, "--figure", 5], "--dataset, --table or --figure"),
        (["--figure", 7], "--figure 7 is unknown"),
        (["--table", 1, "--task", "demosaic"], "--task demosaic: --table 1 is about denoise"),
        (["--table", 2, "--json"], "--json: not for --table 2"),
        (["--table", 2, "--tolerance", 1, "--dataset", "Toy"], "--dataset, --tolerance: not for --table 2"),
        (["--table", 6, "--models", ".", "--model", "x"], "--model is not for --table 6"),
        (["--dataset", "Toy", "--tile", 64], "--tile and --overlap are for --tiling blend, not for chop"),
        (["--dataset", "Tpy"], "Tpy is unknown: choose one of Toy"),
        (["--dataset", "Real", "--task", "demosaic"], "no clean images"),
        (["--dataset", "Toy", "--task", "demosaic"], "needs a colour one"),
        (["--dataset", "Toy", "--task", "real"], "--task real needs a colour one"),
        (["--dataset", "Toy", "--task", "dehaze"], "no benchmark"),
        (["--dataset", "Toy", "--protocol", "own"], "--protocol own"),
        (["--dataset", "Toy", "--tiling", "own"], "choose one of blend, whole, chop"),
        (["--dataset", "Toy", "--sigma", 99], "--sigma 99"),
        (["--dataset", "Toy", "--sigma", "nan"], "--sigma nan"),
        (["--dataset", "Toy", "--task", "denoise", "--quality", 10], "--quality for --task dejpeg"),
        (["--dataset", "Toy", "--sigma", 10, "--quality", 10], "--quality for --task dejpeg"),
        (["--dataset", "Toy", "--task", "dejpeg", "--quality", 0], "--quality 0"),
        (["--dataset", "Toy", "--compare", "nlm", "--compare", "nlm"], "two methods are called nlm"),
        (["--dataset", "Toy", "--compare", "runs/ours.pth"], "two methods are called ours"),
        (["--dataset", "Toy", "--models", "."], "--models is for"),
        (["--dataset", "Toy", "--dnd", "."], "--dnd is for"),
        (["--dataset", "Toy", "--reference", "a.json"], "--reference needs --tolerance"),
        (["--table", 6], "--table 6 needs --models"),
        (["--table", 2], "--table 2 needs --dnd"),
        (["--table", 1, "--sigma", 40], "no row of it"),
        (["--table", 1, "--dataset", "Tpy"], "Tpy is unknown: choose one of Toy"),
        (["--table", 1, "--quality", 15], "--quality is for dejpeg, --table 1 is about denoise"),
        (["--dataset", "Toy", "--csv", "no/such/folder.csv"], "a folder that exists"),
        (["--dataset", "Toy", "--report", "."], "a folder that exists"),
        (["--dataset", "Toy", "--limit", 0], "limit"),
    ],
)
def test_wrong_flags_are_one_line(sets: Path, model: Path, arguments: list[object], said: str) -> None:
    cases.PUBLISHED["table 2"] = Published("Real", [{"methods": {"DAGL": [39.83, 0.957]}}])
    result = dagl(*arguments, "--model", model, "--data-dir", sets)
    assert result.exit_code == 2, result.output
    assert said in " ".join(result.stderr.split())


def test_missing_and_damaged_images_are_named_and_the_rest_is_measured(sets: Path, model: Path) -> None:
    (sets / "Toy/1.png").write_bytes(b"no image")
    failed = dagl("--dataset", "Toy", "--sigma", 25, "--model", model, "--data-dir", sets)
    assert failed.exit_code == 1
    assert "1.png is not the published file" in failed.stderr
    colour = ["--dataset", "Toy-color", "--sigma", 25, "--data-dir", sets, "--json"]
    both = dagl("--dataset", "Toy", *colour, "--limit", 1)
    assert both.exit_code == 1
    assert [row["dataset"] for row in json.loads(both.stdout)["rows"]] == ["Toy-color"]


def test_missing_sets_are_fetched(sets: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    common = ["--dataset", "Toy", "--sigma", 25, "--model", model, "--limit", 1]
    failed = dagl(*common)
    assert failed.exit_code == 1
    assert "cannot reach http://127.0.0.1:9" in failed.stderr
    mirror = tmp_path / "mirror" / "some/body" / ("0" * 40)
    mirror.mkdir(parents=True)
    (sets / "Toy").rename(mirror / "Toy")
    monkeypatch.setenv("DAGL_DATASETS_URL", (tmp_path / "mirror").as_uri())
    assert rows(dagl(*common, "--json"))[0]["images"] == 1
    assert sorted(path.name for path in (datasets.default_folder() / "Toy").iterdir()) == ["1.png"], (
        "no more than needed"
    )


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


def test_every_published_case_can_be_measured() -> None:
    for name in cases.PUBLISHED:
        if name != "table 2":
            for case in cases.cases_of(name):
                assert case.samples(), case


def test_figure_5_s_noisy_image(tmp_path: Path) -> None:
    """The published 20.60 / 0.5748, through the benchmark itself."""
    (case,) = cases.cases_of("figure 5")
    identity = Method("input", lambda x, level: x, Settings("a function"))
    row = measure.measure(case, identity, shared("testsets"))
    assert [round(row.mean("input_psnr"), 2), round(row.mean("input_ssim"), 4)] == list(case.published["Noisy"])
    assert row.mean("psnr") == row.mean("input_psnr"), "results are clipped as the paper's are"
