"""`dagl benchmark` on tiny sets and networks: outputs, downloads, and what is refused."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from helpers import benchmark, measured_rows

from dagl_cli.measuring import cases, datasets
from dagl_cli.measuring.cases import Published

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_table_and_its_files(sets: Path, model: Path, tmp_path: Path) -> None:
    files = {kind: tmp_path / f"out.{kind}" for kind in ("csv", "markdown", "report")}
    flags = [word for kind, path in files.items() for word in (f"--{kind}", path)]
    result = benchmark("--table", 1, "--model", model, "--data-dir", sets, *flags)
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


def test_a_model_or_folder_that_is_not_there_is_said_once(sets: Path, model: Path) -> None:
    absent = benchmark("--table", 1, "--model", "absent", "--data-dir", sets)
    assert absent.exit_code == 4
    assert absent.stderr.count("absent") == 1
    absent = benchmark("--table", 1, "--model", model, "--data-dir", sets / "no")
    assert absent.exit_code == 2
    assert "no such folder" in absent.stderr


def test_offline_asks_for_nothing(sets: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "download", None)
    failed = benchmark("--dataset", "Toy", "--model", model, "--offline")
    assert failed.exit_code == 1
    assert failed.stderr.count("\n") == 1, "once, however many levels there are"
    assert failed.stderr.startswith("Error: Toy: not in ")
    assert "give your copy by --data-dir, or run `dagl datasets download Toy`" in failed.stderr


def test_outputs_never_take_the_place_of_anything_else(sets: Path, model: Path, tmp_path: Path) -> None:
    common = ["--dataset", "Toy", "--sigma", 25, "--model", model, "--data-dir", sets, "-q"]
    before = model.read_bytes()
    for arguments, said in (
        (["--report", model], "exists and is no .html file: choose another name"),
        (["--csv", sets / "new.csv"], "is in --data-dir, where nothing is written"),
        (["--csv", tmp_path / "x", "--markdown", tmp_path / "x"], "--csv, --markdown name one file"),
    ):
        result = benchmark(*common, *arguments)
        assert result.exit_code == 2
        assert said in " ".join(result.stderr.split())
    assert model.read_bytes() == before
    for _ in range(2):  # an earlier output is replaced
        assert benchmark(*common, "--csv", tmp_path / "rows.csv").exit_code == 0


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
    result = benchmark(*arguments, "--model", model, "--data-dir", sets)
    assert result.exit_code == 2, result.output
    assert said in " ".join(result.stderr.split())


@pytest.mark.parametrize("flag", ["--compare", "--model"])
def test_a_model_that_does_not_fit_is_told_by_its_own_flag(sets: Path, model: Path, flag: str) -> None:
    """Toy is gray."""
    other = {"--compare": ["--compare", "denoise-color"], "--model": ["--model", "denoise-color"]}[flag]
    result = benchmark("--dataset", "Toy", "--sigma", 25, "--data-dir", sets, "--model", model, *other)
    assert result.exit_code == 2
    assert f"Error: {flag} denoise-color is for colour images, these are gray" in result.stderr


def test_missing_and_damaged_images_are_named_and_the_rest_is_measured(sets: Path, model: Path) -> None:
    (sets / "Toy/1.png").write_bytes(b"no image")
    failed = benchmark("--dataset", "Toy", "--sigma", 25, "--model", model, "--data-dir", sets)
    assert failed.exit_code == 1
    assert "1.png is not the published file" in failed.stderr
    colour = ["--dataset", "Toy-color", "--sigma", 25, "--data-dir", sets, "--json"]
    both = benchmark("--dataset", "Toy", *colour, "--limit", 1)
    assert both.exit_code == 1
    assert [row["dataset"] for row in json.loads(both.stdout)["rows"]] == ["Toy-color"]


def test_missing_sets_are_fetched(sets: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    common = ["--dataset", "Toy", "--sigma", 25, "--model", model, "--limit", 1]
    failed = benchmark(*common)
    assert failed.exit_code == 1
    assert "cannot reach http://127.0.0.1:9" in failed.stderr
    mirror = tmp_path / "mirror" / "some/body" / ("0" * 40)
    mirror.mkdir(parents=True)
    (sets / "Toy").rename(mirror / "Toy")
    monkeypatch.setenv("DAGL_DATASETS_URL", (tmp_path / "mirror").as_uri())
    assert measured_rows(benchmark(*common, "--json"))[0]["images"] == 1
    assert sorted(path.name for path in (datasets.default_folder() / "Toy").iterdir()) == ["1.png"], (
        "no more than needed"
    )


def test_hostile_names_are_only_shown(sets: Path, model: Path, tmp_path: Path) -> None:
    """Markup, escapes and the signs of tables in the name of a file and of a folder."""
    name = "[bold] \x1b]0;owned\x07|a_b&\n% \u202e"
    hostile = tmp_path / f"{name}.safetensors"
    hostile.write_bytes(model.read_bytes())
    own = tmp_path / name
    own.mkdir()
    (own / "[b]\x1b[31m.png").write_bytes((sets / "Toy/1.png").read_bytes())
    files = {flag: tmp_path / f"out.{flag}" for flag in ("csv", "images-csv", "markdown", "latex", "report")}
    flags = [word for flag, path in files.items() for word in (f"--{flag}", path)]
    result = benchmark("--dataset", own, "--sigma", 25, "--model", model, "--compare", hostile, *flags)
    assert result.exit_code == 0, result.output
    for text in (result.stdout, result.stderr):
        assert not {"\x1b", "\x07", "\u202e"} & set(text)
        assert "[bold]" in text
    table = [line for line in files["markdown"].read_text().splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    assert len(table) == 3
    latex = [line for line in files["latex"].read_text().splitlines() if not line.startswith("%")]
    assert sum(line.count(r"\\") for line in latex) == 2
    assert r"a\_b\&" in "".join(latex)
    with files["images-csv"].open(newline="") as file:
        assert {line["image"] for line in csv.DictReader(file)} == {"[b]\x1b[31m.png"}


def test_the_model_of_the_environment(sets: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGL_MODEL", str(model))
    (row,) = measured_rows(benchmark("--dataset", "Toy", "--sigma", 25, "--data-dir", sets, "--json"))
    assert row["weights"] == "toy"
