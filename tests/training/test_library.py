"""Photographs that are fetched for those who bring none, from a mirror in a folder."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import zipfile
from pathlib import Path

import pytest
from helpers import dagl, refused, scene
from PIL import Image

from dagl_cli.errors import DaglError
from dagl_cli.measuring.datasets import Dataset, File
from dagl_cli.store import weights
from dagl_cli.training import library
from dagl_cli.training.library import Archive

QUICK = ("--preset", "trunk", "--set", "features=8", "--set", "blocks=2", "--crop", 24, "--batch", 2, "--threads", 1)


def described(path: str, content: bytes) -> File:
    return File(path, len(content), hashlib.sha256(content).hexdigest())


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the network: toy sets of nine pictures, file by file and as an archive."""
    pictures = {}
    for i in range(9):
        buffer = io.BytesIO()
        Image.fromarray(scene(i)).save(buffer, "PNG")
        pictures[f"{i:04}.png"] = buffer.getvalue()
    root = tmp_path / "mirror"
    folder = root / "some/body" / ("0" * 40) / "img"
    folder.mkdir(parents=True)
    for name, content in pictures.items():
        (folder / name).write_bytes(content)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as members:
        for name, content in pictures.items():
            members.writestr(f"HR/{name}", content)
        members.writestr("../0001.png", b"elsewhere")
        members.writestr("HR/readme.txt", b"not a picture")
    (root / "Zipped").mkdir()
    (root / "Zipped/HR.zip").write_bytes(archive.getvalue())
    files = tuple(described(*picture) for picture in pictures.items())
    zipped = (described("HR.zip", archive.getvalue()),)
    monkeypatch.setattr(
        library,
        "SETS",
        {
            "CQ100": Dataset("CQ100", "nine toys", 3, files, "some/body", "0" * 40, "img"),
            "Zipped": Archive(
                "Zipped", "a zip of toys", 3, zipped, address="https://x", pictures=r"HR/(\d{4}\.png)", members=9
            ),
        },
    )
    for name, value in (
        ("DAGL_DATASETS_URL", root.as_uri()), ("XDG_CACHE_HOME", str(tmp_path / "cache")), ("DAGL_DEVICE", "cpu"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("DAGL_DATA_DIR", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return root


def test_the_library_pins_every_file() -> None:
    assert list(library.SETS) == ["CQ100", "DIV2K"]
    for entry in library.SETS.values():
        for file in entry.files:
            assert re.fullmatch("[0-9a-f]{64}", file.sha256)
            assert file.bytes > 0
    photographs = library.SETS["CQ100"]
    assert re.fullmatch("[0-9a-f]{40}", photographs.commit)
    assert photographs.url(photographs.files[0]).endswith("/img/CQ100/metadata.csv")
    assert [library.count(entry) for entry in library.SETS.values()] == [77, 800]


def test_as_typed(mirror: Path) -> None:
    """--task alone; the length only because 40 minutes are too long for a test."""
    _, text = dagl("train", "--task", "demosaic", *QUICK, "--steps", 1)
    chosen = [line for line in text.splitlines() if line.startswith("Not given, so chosen: ")]
    assert "--data CQ100, nine toys" in chosen[0]
    (run,) = Path("runs").iterdir()
    assert re.fullmatch(r"demosaic-\d{4}-\d\d-\d\d", run.name)
    assert chosen[1].endswith(f"--output {run}")
    assert weights.describe(run / "model.safetensors")[1]["training"]["data"] == ["CQ100"]
    shutil.rmtree(mirror)  # fetched once
    dagl("train", "--task", "demosaic", *QUICK, "--steps", 1, "-q")
    assert sorted(path.name for path in Path("runs").iterdir()) == [run.name, f"{run.name}-2"]
    dagl("train", "-o", run, "--resume", "--steps", 2, "-q")
    assert weights.describe(run / "model.safetensors")[1]["step"] == 2


def test_without_the_network_it_says_what_is_missing_at_once(mirror: Path) -> None:
    shutil.rmtree(mirror)
    _, text = dagl("train", "--task", "demosaic", *QUICK, code=1)
    assert "--minutes 40, in which" in text
    assert text.splitlines()[-1].endswith("; or give --data, a folder of your own photographs")
    assert not Path("runs").exists()


def test_a_set_by_its_name(mirror: Path) -> None:
    data = ("--data", "Zipped", "--task", "denoise", "--steps", 1, "-q")
    for output in ("first", "again"):
        dagl("train", *data, *QUICK, "-o", output)
    folder = Path("../cache/dagl/datasets/Zipped")
    assert sorted(path.name for path in folder.rglob("*")) == sorted(["pictures", *(f"{i:04}.png" for i in range(9))])
    Path("Zipped").mkdir()
    assert "--data Zipped: no images" in refused(
        "train", *data, *QUICK, "-o", "own"
    )  # a folder of that name comes first


def test_an_archive_that_cannot_be_unpacked_is_one_line(mirror: Path, tmp_path: Path) -> None:
    entry = library.SETS["Zipped"]
    (tmp_path / "Zipped").mkdir()
    (tmp_path / "Zipped/HR.zip").write_bytes(b"no archive")
    with pytest.raises(DaglError, match=r"HR\.zip: cannot be unpacked \(File is not a zip file\)"):
        library.photographs(entry, tmp_path)
    assert [path.name for path in (tmp_path / "Zipped").iterdir()] == ["HR.zip"]


def test_a_task_is_needed(mirror: Path) -> None:
    assert refused("train") == "Error: give --task: one of denoise, real, dejpeg, demosaic, raw\n"
    assert "--task paint is unknown: choose one of denoise" in refused("train", "--task", "paint")
    assert "give exactly one" in refused("train", "--task", "denoise", "--minutes", 1, "--steps", 1)


def test_dagl_datasets_knows_what_is_trained_on(mirror: Path, tmp_path: Path) -> None:
    """`list`, `download` and `verify` take them by name; in another folder too, where `train` finds them."""
    where = ("--data-dir", tmp_path / "copies")

    def listed() -> dict[str, tuple[str, int, int]]:
        rows = json.loads(dagl("datasets", "list", *where, "--json")[0])["datasets"]
        return {row["name"]: (row["for"], row["images"], row["here"]) for row in rows}

    assert listed()["Set12"] == ("tests", 12, 0)
    assert (listed()["CQ100"], listed()["Zipped"]) == (("training", 9, 0), ("training", 9, 0))
    _, text = dagl("datasets", "download", "CQ100", "Zipped", *where)
    assert [line.partition(" in ")[0] for line in text.splitlines()] == [
        "CQ100: complete", "Zipped: complete"
    ]  # fmt: skip
    shutil.rmtree(mirror)
    dagl("datasets", "download", "CQ100", "Zipped", *where)  # what is here is not requested
    assert (listed()["CQ100"][2], listed()["Zipped"][2]) == (9, 1)
    assert dagl("datasets", "verify", *where)[1].splitlines() == [
        "CQ100: 9 of 9 files as published", "Zipped: 1 of 1 files as published"
    ]  # fmt: skip
    dagl("train", "--task", "denoise", "--data", "Zipped", *where, *QUICK, "--steps", 1, "-q", "-o", "run")
    assert not (tmp_path / "cache/dagl/datasets").exists()
    (tmp_path / "copies/Zipped/pictures/0003.png").unlink()
    assert dagl("datasets", "verify", "Zipped", *where, code=1)[1].endswith("fetches them\n")
    assert "Zipped is incomplete" in dagl("datasets", "download", "Zipped", *where, code=1)[1]
    assert "unknown: choose one of" in refused("datasets", "download", "Set13")
