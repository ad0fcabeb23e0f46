"""What is published of weights: manifest, cards, a folder for the Hub (round trip)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, saved, tiny
from local_hub import COMMIT, Hub, environment
from PIL import Image
from typer.testing import CliRunner
from typer.testing import Result as Outcome

from dagl_cli.cli import app
from dagl_cli.errors import UsageError
from dagl_cli.store import card, weights
from dagl_cli.store.manifest import FORMAT, Manifest, Result, read

BENCHMARK = {
    "dataset": "Set12", "task": "denoise", "level": 25.0, "image": None, "variant": None, "method": "ours", "of": 12,
    "protocol": "paper", "rounding": "results clipped, not rounded", "tiling": "blend", "tile": 512,
    "ensemble": "none", "device": "cpu", "precision": "float32", "images": 12, "input_psnr": 20.321, "psnr": 30.1512,
    "input_ssim": 0.4, "ssim": 0.85711, "seconds_per_megapixel": 1.0, "per_image": [],
    "published": {"DAGL": [30.93, 0.872], "NLRN": [30.8, 0.8689], "BM3D": [29.96, 0.85]},
}  # fmt: skip


def dagl(*arguments: object) -> Outcome:
    return CliRunner().invoke(app, ["weights", *map(str, arguments)])


def results(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text(json.dumps(rows))
    return path


def test_the_manifest_says_what_the_files_are(tmp_path: Path) -> None:
    model = tiny()
    settings = {"variant": "lite", "device": "auto"}
    info = {"step": 7, "minutes": 2.5, "training": settings, "photos": 3, "device": "cuda", "command": "dagl train x"}
    path = saved(tmp_path / "denoise-gray.safetensors", model, **info)
    rows = results(tmp_path / "b.json", BENCHMARK | {"weights": "denoise-gray", "sha256": weights.sha256(path)[:12]})
    (tmp_path / "manifest.json").write_text(
        json.dumps({"format": FORMAT, "licence": "MIT", "training_data": "Three photos.", "files": {}})
    )
    assert dagl("manifest", tmp_path, "--results", rows).exit_code == 0
    entry = read(tmp_path / "manifest.json").files[path.name]
    parameters = sum(p.numel() for p in model.parameters())
    expected = {
        "sha256": weights.sha256(path), "bytes": path.stat().st_size, "task": "denoise", "channels": 1,
        "variant": None, "network": "DAGL", "parameters": parameters, "licence": "MIT",
        "training_data": "Three photos.",
    }  # fmt: skip
    assert {key: getattr(entry, key) for key in expected} == expected
    assert (entry.training.steps, entry.training.minutes, entry.training.device) == (7, 2.5, "cuda")
    (row,) = entry.results
    assert (row.dataset, row.level, row.psnr, row.ssim) == ("Set12", 25.0, 30.1512, 0.8571)
    text = (tmp_path / "README.md").read_text()
    assert "| Set12 | 25 | 12 | blend 512, float32 | 20.32 | **30.15** | 0.8571 | 30.93 | 30.80 (NLRN) |" in text
    assert "7 steps, 2.5 minutes, cuda" in text
    assert "`dagl train x`" in text
    assert entry.sha256 in text


def test_the_manifest_forgets_what_was_of_another_file(tmp_path: Path) -> None:
    path = saved(tmp_path / "denoise-gray.safetensors", tiny())
    manifest = tmp_path / "manifest.json"
    by_name = results(tmp_path / "b.json", BENCHMARK | {"weights": "denoise-gray"}, BENCHMARK | {"weights": "other"})
    dagl("manifest", tmp_path, "--results", by_name)
    content = json.loads(manifest.read_text())
    content["files"][path.name] |= {"note": "A note.", "runs": [{"name": "r", "flags": "-", "minutes": 1, "steps": 2}]}
    manifest.write_text(json.dumps(content))
    before = manifest.read_text()
    assert dagl("manifest", tmp_path).exit_code == 0
    kept = json.loads(manifest.read_text())["files"][path.name]
    assert kept["note"] == "A note."
    assert len(kept["results"]) == 1
    assert json.loads(before)["files"][path.name] == kept
    dagl(
        "manifest",
        tmp_path,
        "--results",
        results(tmp_path / "c.json", BENCHMARK | {"weights": "denoise-gray", "psnr": 31.0}),
    )
    (row,) = json.loads(manifest.read_text())["files"][path.name]["results"]
    assert row["psnr"] == 31.0, "the newer result of the same measurement"
    old = weights.sha256(path)
    saved(path, tiny(shift=0.5))
    told = dagl("manifest", tmp_path, "--results", results(tmp_path / "d.json", BENCHMARK | {"sha256": old}))
    assert "--results: 1 of 1 rows are of other weights or methods and were left out" in told.stderr
    new = json.loads(manifest.read_text())["files"][path.name]
    assert new["results"] == [], "measured on another file"
    assert "note" not in new
    assert "runs" not in new


@pytest.mark.parametrize(
    "content",
    [
        "hello", "[1]", '{"a": 1}', '{"rows": 1}', '[{"dataset": "Set12"}]', '[{"dataset": "A", "psnr": 30.5}]',
        json.dumps([BENCHMARK | {"images": "12"}]), json.dumps([BENCHMARK | {"ssim": None}]),
        json.dumps([BENCHMARK | {"published": {"DAGL": 30}}]),
    ],
)  # fmt: skip
def test_what_is_no_benchmark(content: str, tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text(content)
    with pytest.raises(UsageError, match=r"`results` .*b\.json: not an output of `dagl benchmark --json`"):
        card.read_results([tmp_path / "b.json"])
    with pytest.raises(UsageError, match="Set12 with 3 of its 12 images"):
        card.read_results([results(tmp_path / "b.json", BENCHMARK | {"images": 3})])
    with pytest.raises(UsageError, match="No such file"):
        card.read_results([tmp_path / "c.json"])


def test_the_device_is_not_called_auto(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.safetensors", tiny(), step=7, training={"device": "auto"})
    assert "device" not in card.entry(path, Manifest()).to_dict()["training"]


@pytest.mark.parametrize(
    "change",
    [
        {"results": [{}]}, {"results": 5}, {"results": [BENCHMARK | {"level": "25"}]}, {"runs": "x"},
        {"runs": [{"name": "r"}]}, {"note": 5}, {"licence": ["MIT"]},
    ],
)  # fmt: skip
def test_a_malformed_manifest_is_one_line(change: dict[str, object], tmp_path: Path) -> None:
    """Also one from the Hub, which anybody may have written."""
    path = saved(tmp_path / "m.safetensors", tiny())
    made = card.manifest([path]).to_dict()
    made["files"][path.name] |= change
    (tmp_path / "manifest.json").write_text(json.dumps(made))
    commands: list[list[str | Path]] = [
        ["info", path],
        ["manifest", tmp_path],
        ["export", tmp_path / "out", "--model", path],
    ]
    for arguments in commands:
        result = dagl(*arguments)
        assert result.exit_code == 4, result.exception
        assert "not a manifest of dagl weights" in result.stderr


def test_the_bundled_cards_are_made_from_the_manifest() -> None:
    manifest = read(weights.folder() / "manifest.json")
    text = (weights.folder() / "README.md").read_text(encoding="utf-8")
    assert text == card.card(manifest), "`dagl weights manifest weights` makes both again"
    assert set(manifest.files) == {path.name for path in weights.bundled()}
    for path in weights.bundled():
        entry = manifest.files[path.name]
        weights.check(path, entry.sha256)
        assert card.entry(path, manifest) == entry
        assert entry.licence
        assert entry.training_data


def test_the_round_trip(tmp_path: Path) -> None:
    """Exported, served by a Hub, downloaded, and used to restore an image: then once more without the Hub."""
    source = saved(tmp_path / "denoise-gray.safetensors", tiny(shift=0.25))
    folder = tmp_path / "hub"
    rows = results(tmp_path / "b.json", BENCHMARK | {"weights": "denoise-gray"})
    result = dagl("export", folder, "--model", source, "--results", rows)
    assert result.exit_code == 0, result.stderr
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md", "config.json", "denoise-gray.safetensors", "manifest.json",
    ]  # fmt: skip
    again = dagl("export", folder, "--model", source)
    assert again.exit_code == 2
    assert "exists: --overwrite replaces it" in again.stderr

    pixels = np.full((20, 30), 100, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in.png")
    server = Hub()
    server.add("me/dagl", folder)
    env = environment(tmp_path / "home", server.url, PYTHONPATH=str(ROOT))

    def denoise(out: str, *more: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-m",
            "dagl_cli",
            "denoise",
            "--sigma",
            "25",
            "--model",
            "hub:me/dagl",
            "in.png",
            out,
        ]
        return subprocess.run([*command, *more], env=env, cwd=tmp_path, text=True, capture_output=True, check=False)

    first = denoise("out.png")
    assert first.returncode == 0, first.stderr
    assert "fetching denoise-gray.safetensors from the Hub" in " ".join(first.stderr.split())
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out.png")), pixels + 64)
    server.shutdown()
    server.server_close()
    second = denoise("again.png", "--offline")
    assert second.returncode == 0, second.stderr
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "out.png").read_bytes()
    assert COMMIT in next((tmp_path / "home").rglob("denoise-gray.safetensors")).parts


def test_the_front_matter(tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    first, second = (
        saved(tmp_path / "denoise-gray.safetensors", tiny()),
        saved(tmp_path / "b.safetensors", tiny("dejpeg")),
    )
    about = Manifest(licence="MIT", training_data="Photos.", training_sets=("CID22",))
    made = card.manifest([first, second], about, [Result.from_dict(BENCHMARK | {"weights": "denoise-gray"})])
    data = ModelCard(card.front_matter(made) + card.card(made)).data.to_dict()
    assert (data["library_name"], data["pipeline_tag"], data["license"]) == ("dagl", "image-to-image", "mit")
    assert (data["datasets"], data["metrics"]) == (["CID22"], ["psnr", "ssim"])
    assert {"denoise", "dejpeg"} <= set(data["tags"])
    (model,) = data["model-index"]
    assert model["name"] == "denoise-gray"
    assert model["results"][0]["dataset"] == {"name": "Set12 sigma 25", "type": "Set12"}
    values = {metric["type"]: metric["value"] for metric in model["results"][0]["metrics"]}
    assert values == {"psnr": 30.15, "ssim": 0.8571}


def test_imported_weights_are_not_for_publishing(tmp_path: Path) -> None:
    path = saved(tmp_path / "own.safetensors", tiny(), licence="none stated by the authors: for your own use only")
    result = dagl("export", tmp_path / "out", "--model", path)
    assert "Do not publish it: own.safetensors" in " ".join(result.stderr.split())
    assert "hf upload" not in result.stderr
    assert "license: other" in (tmp_path / "out" / "README.md").read_text()


def test_a_licence_is_not_taken_from_another_folder(tmp_path: Path) -> None:
    theirs, mine = tmp_path / "theirs", tmp_path / "mine"
    theirs.mkdir()
    mine.mkdir()
    first = saved(theirs / "denoise-gray.safetensors", tiny())
    second = saved(mine / "model.safetensors", tiny(shift=0.5))
    about = {"licence": "MIT", "training_data": "Photos.", "training_sets": ["CID22"], "files": {}}
    (theirs / "manifest.json").write_text(json.dumps({"format": FORMAT} | about))
    for models in ([first, second], [second, first]):
        result = dagl("export", tmp_path / "out", "--overwrite", *(f"--model={path}" for path in models))
        assert result.exit_code == 0
        assert "model.safetensors: no licence is stated" in " ".join(result.stderr.split())
        assert "hf upload" not in result.stderr
        made = read(tmp_path / "out" / "manifest.json")
        assert {name: (e.licence, e.training_data) for name, e in made.files.items()} == {
            "denoise-gray.safetensors": ("MIT", "Photos."), "model.safetensors": (None, None),
        }  # fmt: skip
        assert made.licence is None
        assert made.training_sets == ("CID22",)
        assert "license: other\nlicense_name: mit-and-not-stated\n" in (tmp_path / "out" / "README.md").read_text()
    assert dagl("manifest", mine).exit_code == 0
    content = json.loads((mine / "manifest.json").read_text())
    (mine / "manifest.json").write_text(json.dumps(content | {"licence": "CC0-1.0"}))
    result = dagl("export", tmp_path / "own", "--model", second)
    assert "Publish it: hf upload" in result.stderr
    assert "license: cc0-1.0\n" in (tmp_path / "own" / "README.md").read_text()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.safetensors", tiny())
    for more in ([], ["--onnx"]):
        result = dagl("export", path / "out", "--model", path, *more)
        assert result.exit_code == 1
        assert result.stderr.count("\n") == 1
        assert "choose another folder" in result.stderr


def test_a_manifest_that_cannot_be_written(tmp_path: Path) -> None:
    saved(tmp_path / "m.safetensors", tiny())
    (tmp_path / "README.md").mkdir()
    result = dagl("manifest", tmp_path)
    assert result.exit_code == 1
    assert result.stderr == f"Error: {tmp_path}: Is a directory: make it writable, or make room\n"
