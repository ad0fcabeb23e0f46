"""A run fails where its rows are not as good as they have to be."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from helpers import TOY_SIZES, benchmark, saved, tiny, toy_picture

from dagl_cli.measuring import cases, datasets, gates, measure
from dagl_cli.measuring.cases import Case
from dagl_cli.measuring.measure import Procedure
from dagl_cli.measuring.methods import OURS, Method, Settings

pytestmark = pytest.mark.usefixtures("one_thread")


def test_tolerance_is_a_gate(sets: Path, model: Path, tmp_path: Path) -> None:
    common = ["--dataset", "Toy", "--sigma", 25, "--model", model, "--data-dir", sets]
    assert benchmark(*common, "--tolerance", 0).exit_code == 0, "the published 3 dB are easy"
    text = benchmark(*common, "--json").stdout
    reference = tmp_path / "before.json"
    reference.write_text(text)
    assert benchmark(*common, "--tolerance", 0, "--reference", reference).exit_code == 0
    better = json.loads(text)
    better["rows"][0]["psnr"] += 0.3
    reference.write_text(json.dumps(better))
    assert benchmark(*common, "--tolerance", 0.4, "--reference", reference).exit_code == 0
    short = benchmark(*common, "--tolerance", 0.2, "--reference", reference)
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
        result = benchmark(*common, "--tolerance", 0.2, "--reference", reference, *broken)
        assert result.exit_code == 2
        assert said in " ".join(result.stderr.split())
    better["rows"][0]["psnr"] = "high"
    for text in ("[]", json.dumps(better)):
        reference.write_text(text)
        refused = benchmark(*common, "--tolerance", 0.2, "--reference", reference)
        assert refused.exit_code == 2
        assert "not the output of `dagl benchmark --json`" in refused.stderr
    assert benchmark(*common, "--tolerance", 0.2, "--reference", reference).exit_code == 2


def test_a_broken_network_does_not_pass_the_gate(sets: Path) -> None:
    case = cases.cases_for([datasets.dataset("Toy")], "denoise", [25.0])[0]
    broken = Method(OURS, lambda bad, level: bad * math.nan, Settings("a function"))
    row = measure.measure(case, broken, Procedure(sets))
    assert math.isnan(row.mean("psnr")), "not infinite"
    short, compared = gates.below([row], 1, None)
    assert (len(short), compared) == (1, 1)


CLEAN = [torch.from_numpy(toy_picture(*size, 1)).permute(2, 0, 1).float() / 255 for size in TOY_SIZES]


def released(psnr: float) -> Method:
    """Something that says it has the authors' weights, and is always wrong by the same."""

    def run(bad: torch.Tensor, level: float | None) -> torch.Tensor:
        clean = next((clean for clean in CLEAN if clean.shape == bad.shape), bad)
        error = 10 ** (-psnr / 20)
        return torch.where(clean > 0.5, clean - error, clean + error)

    return Method(OURS, run, Settings("DAGL", tiling="chop"), released=True)


@pytest.mark.parametrize(("psnr", "right"), [(31, True), (31.019, True), (30.981, True), (31.03, False), (30.9, False)])
def test_the_authors_weights_must_give_the_paper_s_figures(sets: Path, psnr: float, right: bool) -> None:
    """Above is wrong too: then something is not measured as the paper did."""
    case = Case(datasets.dataset("Toy"), "denoise", 25.0, published={"DAGL": (31.0, 0.9)})
    row = measure.measure(case, released(psnr), Procedure(sets))
    assert row.mean("psnr") == pytest.approx(psnr, abs=0.001)
    good, bad = gates.released([row])
    assert (len(good), len(bad)) == ((1, 0) if right else (0, 1))


def test_the_level_that_a_checkpoint_was_trained_for_counts(sets: Path) -> None:
    """The authors trained a denoiser for each level: far off at the others it is still right."""
    toy, published = datasets.dataset("Toy"), {15.0: 34, 25.0: 31}
    rows = [
        measure.measure(Case(toy, "denoise", level, published={"DAGL": (psnr, 0.9)}), released(31), Procedure(sets))
        for level, psnr in published.items()
    ]
    right, wrong = gates.released(rows)
    assert [line.split(":")[0] for line in right] == ["Toy σ 25"]
    assert wrong == []
    assert gates.released(rows[:1])[0] == []


def test_the_release_check_fails_loudly(sets: Path, tmp_path: Path) -> None:
    """A file that says it is the authors' and does not give their figures ends with 5; with other settings it is not
    compared, and a model of one's own never is."""
    authors = saved(tmp_path / "release.safetensors", tiny(noise_map=False, graph=False), git_blob="5bc8f7")
    common = ["--table", 1, "--data-dir", sets]
    failed = benchmark(*common, "--model", authors)
    assert failed.exit_code == 5, failed.output
    assert "the paper has 3.00 (+" in failed.stderr
    assert "1 of 1 rows of the authors' weights differ by more than 0.02 dB from the paper's" in failed.stderr
    assert "--ensemble" in failed.stderr
    for other in (["--tiling", "blend"], ["--protocol", "practical"], ["--limit", 1], ["--seed", 2]):
        assert benchmark(*common, "--model", authors, *other).exit_code == 0
    own = saved(tmp_path / "own.safetensors", tiny(noise_map=False, graph=False))
    assert benchmark(*common, "--model", own).exit_code == 0


def test_the_authors_weights_that_are_not_here(sets: Path) -> None:
    failed = benchmark("--table", 1, "--model", "release-denoise-gray", "--data-dir", sets)
    assert failed.exit_code == 4
    said = "--model release-denoise-gray: not here: `dagl weights import --task denoise` fetches it"
    assert failed.stderr == f"Error: {said}\n"
