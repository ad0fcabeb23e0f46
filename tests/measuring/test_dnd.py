"""Table 2's submission, on a small set in the benchmark's own layout that the tests make."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import saved, tiny
from scipy.io import loadmat
from typer.testing import CliRunner

from dagl_cli.cli import app
from dagl_cli.errors import DaglError, UsageError
from dagl_cli.measuring import dnd

h5py = pytest.importorskip("h5py", reason="needs the extra 'dnd'")

BOXES = [[(1, 1, 16, 24), (5, 11, 20, 34)], [(3, 2, 18, 25), (25, 17, 40, 40)]]
"""Of two images: top, left, bottom, right, counted from 1, ends included, as MATLAB has them."""
HEIGHT, WIDTH = 40, 50


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """MATLAB 7.3 keeps arrays turned, and cells as references."""
    folder = tmp_path / "data"
    (folder / "images_srgb").mkdir(parents=True)
    with h5py.File(folder / "info.mat", "w") as file:
        info = file.create_group("info")
        references = info.create_dataset("boundingboxes", (1, len(BOXES)), h5py.ref_dtype)
        for i, boxes in enumerate(BOXES):
            references[0, i] = info.create_dataset(f"boxes{i}", data=np.array(boxes, np.float64).T).ref
    for i in range(len(BOXES)):
        with h5py.File(folder / "images_srgb" / f"{i + 1:04d}.mat", "w") as file:
            file["InoisySRGB"] = noisy(i).T
    return folder


def noisy(image: int) -> np.ndarray:
    return np.random.default_rng(image).random((HEIGHT, WIDTH, 3)).astype(np.float32)


def test_the_package_holds_every_crop_in_its_place(data: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, ...]] = []

    def restore(crop: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(crop.shape))
        return crop * 2 - 0.5  # leaves [0, 1]

    files = dnd.submit(data, tmp_path / "out", restore, {"weights": "a"})
    assert [path.name for path in files] == ["0001.mat", "0002.mat"]
    assert seen == [(3, bottom - top + 1, right - left + 1) for boxes in BOXES for top, left, bottom, right in boxes]
    for i, path in enumerate(files):
        content = loadmat(path)
        assert content["eval_version"] == ["1.0"]
        assert content["israw"] == 0
        assert content["Idenoised"].shape == (1, 2)
        for cell, (top, left, bottom, right) in zip(content["Idenoised"][0], BOXES[i]):
            expected = (noisy(i)[top - 1 : bottom, left - 1 : right] * 2 - 0.5).clip(0, 1)
            assert cell.dtype == np.float32
            np.testing.assert_array_equal(cell, expected)


def test_it_goes_on_with_the_same_settings_alone(data: Path, tmp_path: Path) -> None:
    calls: list[int] = []

    def broken(crop: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 4:  # the second image's last crop
            raise KeyboardInterrupt
        return crop

    with pytest.raises(KeyboardInterrupt):
        dnd.submit(data, tmp_path / "out", broken, {"weights": "a"})
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0001.mat", "settings.json"]
    calls.clear()

    def counted(crop: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return crop

    dnd.submit(data, tmp_path / "out", counted, {"weights": "a"})
    assert len(calls) == 2, "the first image is done"
    with pytest.raises(UsageError, match="another model or setting"):
        dnd.submit(data, tmp_path / "out", lambda crop: crop, {"weights": "b"})
    (tmp_path / "out/settings.json").unlink()
    with pytest.raises(UsageError, match=r"holds \.mat files already"):
        dnd.submit(data, tmp_path / "out", lambda crop: crop, {"weights": "a"})


def test_data_that_is_none_is_named(data: Path, tmp_path: Path) -> None:
    def run() -> None:
        dnd.submit(data, tmp_path / "out", lambda crop: crop, {})

    with h5py.File(data / "images_srgb/0002.mat", "w") as file:
        file["InoisySRGB"] = np.zeros((3, 20, 20), np.float32)
    with pytest.raises(DaglError, match=r"0002\.mat: its size does not fit"):
        run()
    with h5py.File(data / "images_srgb/0002.mat", "w") as file:
        file["Inoisy"] = 1
    with pytest.raises(DaglError, match=r"0002\.mat: no InoisySRGB"):
        run()
    (data / "images_srgb/0002.mat").write_bytes(b"MATLAB 5.0 MAT-file")
    with pytest.raises(DaglError, match=r"0002\.mat: not a readable MATLAB 7\.3 file"):
        run()
    (data / "images_srgb/0002.mat").unlink()
    with pytest.raises(DaglError, match=r"0002\.mat: no such file"):
        run()
    with h5py.File(data / "info.mat", "w") as file:
        file["other"] = 1
    with pytest.raises(DaglError, match=r"info\.mat: no bounding boxes"):
        run()


def test_the_command(data: Path, tmp_path: Path) -> None:
    model = saved(tmp_path / "real.safetensors", tiny("real", 3, graph=False))
    gray = saved(tmp_path / "gray.safetensors", tiny(graph=False))

    def dagl(*arguments: object) -> Any:
        common = ["benchmark", "--table", "2", "--dnd", str(data), "-o", str(tmp_path / "out")]
        return CliRunner().invoke(app, [*common, *map(str, arguments)])

    done = dagl("--model", model, "--limit", 1)
    assert done.exit_code == 0, done.stderr
    assert json.loads((tmp_path / "out/settings.json").read_text())["weights"] == "real"
    crop = loadmat(tmp_path / "out/0001.mat")["Idenoised"][0, 1]
    np.testing.assert_allclose(crop, noisy(0)[4:20, 10:34], atol=1e-6)  # this network changes nothing
    assert dagl("--model", model).exit_code == 0
    assert (tmp_path / "out/0002.mat").is_file()
    assert dagl("--model", gray).exit_code == 2
