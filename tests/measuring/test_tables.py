"""Columns, labels, and how sure the figures are."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import benchmark, measured_rows

from dagl_cli.errors import UsageError
from dagl_cli.measuring import cases, datasets, measure, tables
from dagl_cli.measuring.cases import Case
from dagl_cli.measuring.measure import Procedure
from dagl_cli.measuring.methods import OURS, Method, Settings

pytestmark = pytest.mark.usefixtures("one_thread")


def test_half_a_set_has_no_difference(sets: Path, model: Path) -> None:
    common = ["--table", 1, "--sigma", 15, "--model", model, "--data-dir", sets, "--limit", 2]
    (row,) = measured_rows(benchmark(*common, "--json"))
    assert (row["images"], row["of"]) == (2, 3)
    assert row["difference_psnr"] is None
    text = benchmark(*common).stdout
    assert "difference" not in text
    assert "the first 2 of 3 images" in " ".join(text.split())


def test_a_measured_method_never_takes_a_published_column(sets: Path) -> None:
    case = cases.cases_for([datasets.dataset("Toy")], "denoise", [25.0])[0]
    rows = [
        measure.measure(case, Method(name, lambda bad, level: bad, Settings("a function")), Procedure(sets))
        for name in ("BM3D", "difference", OURS)
    ]
    columns = tables.grid([case], rows)
    assert columns["BM3D"] == [(2, 0.2)]
    assert columns["BM3D (measured)"] == columns["difference (measured)"] == columns[OURS]
    assert columns["difference"][0][0] == pytest.approx(rows[-1].mean("psnr") - 3)


def test_a_part_of_a_set_is_called_so(sets: Path) -> None:
    case = cases.cases_for([datasets.dataset("Toy")], "denoise", [25.0])[0]
    method = Method(OURS, lambda bad, level: bad, Settings("a function"))
    assert (
        tables.summary([case], [measure.measure(case, method, Procedure(sets, limit=2))])[1][0][0]
        == "Toy σ 25, first 2"
    )
    assert tables.summary([case], [measure.measure(case, method, Procedure(sets))])[1][0][0] == "Toy σ 25"


def constant(name: str, value: float) -> Method:
    """A method that is always wrong by the same."""
    return Method(name, lambda bad, level: torch.full_like(bad, value), Settings(f"a {name} & 100_%"))


def toy_case() -> Case:
    return cases.cases_for([datasets.dataset("Toy")], "denoise", [25.0])[0]


def test_latex(sets: Path) -> None:
    """Booktabs, best in bold, second underlined, and no name that LaTeX would stumble over."""
    case = toy_case()
    found = [measure.measure(case, constant(name, value), Procedure(sets))
             for name, value in (("a_b&c$%#{}~^\\", 0.5), ("other", 0.55), (OURS, 0.45))]  # fmt: skip
    text = tables.latex([case], found)
    head, line = (line for line in text.splitlines() if "&" in line and not line.startswith("%"))
    assert head.split(" & ")[3] == r"a\_b\&c\$\%\#\{\}\textasciitilde{}\textasciicircum{}\textbackslash{}"
    cells = line.removesuffix(" \\\\").split(" & ")
    assert cells[0] == r"Toy $\sigma$ 25"
    psnrs = [row.mean("psnr") for row in found]
    best, second = sorted(psnrs, reverse=True)[:2]
    assert cells[3 + psnrs.index(best)].startswith(f"\\textbf{{{best:.2f}}}")
    assert cells[3 + psnrs.index(second)].startswith(f"\\underline{{{second:.2f}}}")
    assert all(f"\\{rule}rule" in text for rule in ("top", "mid", "bottom"))
    assert text.startswith("% a_b&c"), "what is stated is a comment"
    part = tables.latex([case], [measure.measure(case, constant(OURS, 0.5), Procedure(sets, limit=2))])
    assert "3.00" not in part, "published figures are of whole sets"


def test_equal_figures_share_their_rank() -> None:
    assert tables._ranks([31.391, 31.39, None, 30.0, math.nan], "psnr") == [1, 1, 0, 2, 0]
    assert tables._ranks([0.91234, 0.91236, 0.9], "ssim") == [2, 1, 3]
    assert tables._ranks([0.1, 0.05, 0.05004], "lpips") == [2, 1, 1], "less is better"


def test_how_sure_a_mean_is(sets: Path) -> None:
    """Student's t by hand: over images, and of the images' own differences."""
    case = toy_case()
    rows = [
        measure.measure(case, constant(name, value), Procedure(sets)) for name, value in (("other", 0.6), (OURS, 0.5))
    ]
    values = np.array([image.psnr for image in rows[1].images])
    others = np.array([image.psnr for image in rows[0].images])
    t = 4.302652729911275  # 97.5 %, two degrees of freedom
    assert rows[1].interval("psnr") == pytest.approx(t * values.std(ddof=1) / math.sqrt(3))
    (gain,) = (d for d in tables.differences(rows) if d.other == "other")
    assert gain.mean == pytest.approx((values - others).mean())
    assert gain.interval == pytest.approx(t * (values - others).std(ddof=1) / math.sqrt(3))
    assert str(gain).startswith("Toy σ 25: ours - other ")
    assert measure.half_interval([1.0]) is None
    assert measure.half_interval([1.0, math.inf]) is None
    assert measure.measure(case, constant(OURS, 0.5), Procedure(sets, limit=1)).interval("psnr") is None


def test_an_ablation_is_compared_with_its_simplest_network(sets: Path) -> None:
    rows = [
        measure.measure(replace(toy_case(), variant=name), constant(OURS, value), Procedure(sets))
        for name, value in (("NL", 0.6), ("DAGL", 0.5))
    ]
    found = {str(d).partition(" dB")[0].rpartition(" ")[0]: d.mean for d in tables.differences(rows)}
    gain = rows[1].mean("psnr") - rows[0].mean("psnr")
    assert found.pop("Toy σ 25 (DAGL): ours - NL") == pytest.approx(gain)
    assert list(found) == ["Toy σ 25 (NL): ours - input", "Toy σ 25 (DAGL): ours - input"]


def test_several_seeds(sets: Path, model: Path, tmp_path: Path) -> None:
    common = ["--dataset", "Toy", "--sigma", 25, "--model", model, "--data-dir", sets, "--json"]
    (both,) = measured_rows(benchmark(*common, "--seed", 1, "--seed", 5, "--images-csv", tmp_path / "images.csv"))
    singles = [measured_rows(benchmark(*common, "--seed", seed))[0] for seed in (1, 5)]
    assert both["psnr"] == pytest.approx(np.mean([row["psnr"] for row in singles]))
    assert both["psnr_deviation"] == pytest.approx(np.std([row["psnr"] for row in singles], ddof=1))
    assert singles[0]["psnr_deviation"] is None
    assert (both["images"], both["seeds"], len(both["per_image"])) == (3, [1, 5], 6)
    assert both["degradation"] == "Gaussian noise, seeds 1, 5 for every image, not clipped"
    with (tmp_path / "images.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["image"], line["seed"]) for line in lines][:3] == [("1.png", "1"), ("1.png", "5"), ("2.png", "1")]
    assert [float(line["psnr"]) for line in lines] == [image["psnr"] for image in both["per_image"]]
    with pytest.raises(UsageError, match="`seed` is empty"):
        measure.measure(toy_case(), constant(OURS, 0.5), Procedure(sets, seeds=[]))
