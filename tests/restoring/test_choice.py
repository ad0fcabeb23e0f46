"""What `denoise`, `demosaic` and `restore` decide for a file, with networks that add a known shift."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, saved, tiny
from PIL import Image

from dagl_cli.config import TASKS, Options
from dagl_cli.errors import DaglError, UsageError, WeightsError
from dagl_cli.restoring import estimate, guard
from dagl_cli.restoring.file import FileRestorer
from dagl_cli.restoring.noise import Noise
from dagl_cli.restoring.restorer import Restorer
from dagl_cli.store import weights

SHIFTS = {"denoise": 1, "real": 2, "dejpeg": 4, "demosaic": 8, "raw": 16}
"""Levels that each task's network adds, so that the sum tells which ones ran."""


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    for task, shift in SHIFTS.items():
        for name, channels in (("gray", 1), ("color", 3)):
            if channels in TASKS[task].channels:
                saved(folder / f"{task}-{name}.safetensors", tiny(task, channels, shift / 255, graph=False))
    monkeypatch.setattr(weights, "folder", lambda: folder)


def photo(size: int = 96) -> np.ndarray:
    with Image.open(ROOT / "tests/data/cords.png") as image:
        return np.asarray(image)[:size, :size] // 2 + 40


def write(path: Path, levels: np.ndarray, **options: object) -> Path:
    Image.fromarray(levels).save(path, **options)  # type: ignore[arg-type]
    return path


def measured(
    monkeypatch: pytest.MonkeyPatch, rms: float, correlation: float, white: float = 0.2, likelihood: float = 1.0
) -> None:
    monkeypatch.setattr(guard, "measure", lambda pixels: Noise(rms, correlation, likelihood * (rms > 1)))
    monkeypatch.setattr(estimate, "estimate_sigma", lambda pixels: white)


def added(source: Path, target: Path) -> int:
    with Image.open(source) as before, Image.open(target) as after:
        return round(float((np.asarray(after).astype(int) - np.asarray(before).astype(int)).mean()))


@pytest.mark.parametrize(
    ("rms", "correlation", "white", "shift", "words"),
    [
        (6.0, 0.6, 0.5, SHIFTS["real"], "camera noise"),
        (6.0, 0.05, 6.0, SHIFTS["denoise"], "white noise"),
        (6.0, 0.3, 2.0, SHIFTS["real"], "camera noise"),  # less correlated, but sure
        (
            6.0,
            0.6,
            5.0,
            SHIFTS["denoise"],
            "taken for white noise",
        ),  # an estimate for white noise finds nearly all of it
        (0.8, 0.6, 0.3, 0, "no white or camera noise found"),
    ],
)
def test_denoise_tells_the_kinds_of_noise_apart(
    rms: float,
    correlation: float,
    white: float,
    shift: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured(monkeypatch, rms, correlation, white)
    source, target = write(tmp_path / "in.png", photo()), tmp_path / "out.png"
    outcome = FileRestorer("denoise")(source, target)
    assert added(source, target) == shift
    assert words in str(outcome.note)
    assert outcome.status == ("restored" if shift else "unchanged")
    assert (target.read_bytes() == source.read_bytes()) == (not shift)


def test_an_iso_setting_makes_a_camera_s_noise_likelier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, 6.0, 0.3, 3.0, likelihood=0.6)
    exif = Image.Exif()
    exif[272] = "camera"
    exif.get_ifd(34665)[34855] = 3200
    plain, shot = write(tmp_path / "a.png", photo()), write(tmp_path / "b.png", photo(), exif=exif)
    assert FileRestorer("denoise")(plain, tmp_path / "a2.png").model == "denoise-color"
    outcome = FileRestorer("denoise")(shot, tmp_path / "b2.png")
    assert (outcome.model, "ISO 3200" in str(outcome.note)) == ("real-color", True)


def test_real_leaves_clean_pictures_alone_and_takes_a_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "in.jpg", photo(), quality=95)
    measured(monkeypatch, 0.5, 0.5)
    outcome = FileRestorer("real")(source, tmp_path / "a.jpg")
    assert outcome.status == "unchanged"
    assert (tmp_path / "a.jpg").read_bytes() == source.read_bytes()
    assert FileRestorer("real", sigma=5)(source, tmp_path / "b.png").model == "real-color"
    measured(monkeypatch, 5.0, 0.05, 5.0)
    assert FileRestorer("real")(source, tmp_path / "c.png").model == "real-color", "it was said to be camera noise"


def test_gray_photographs_have_camera_noise_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, 6.0, 0.6)
    source = write(tmp_path / "in.png", photo().mean(-1).astype(np.uint8))
    assert FileRestorer("denoise")(source, tmp_path / "out.png").model == "real-gray"
    assert added(source, tmp_path / "out.png") == SHIFTS["real"]


def test_restore_does_what_each_file_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def models_of(path: Path) -> str | None:
        outcome = FileRestorer("restore")(path, tmp_path / f"{path.stem}-out.png")
        assert outcome.status == ("restored" if outcome.model else "unchanged")
        return outcome.model

    measured(monkeypatch, 0.5, 0.5)
    clean = write(tmp_path / "clean.png", photo())
    harmed = write(tmp_path / "harmed.jpg", photo(), quality=10)
    mosaic = np.zeros_like(photo())
    mosaic[0::2, 0::2, 0], mosaic[0::2, 1::2, 1] = photo()[0::2, 0::2, 0], photo()[0::2, 1::2, 1]
    mosaic[1::2, 0::2, 1], mosaic[1::2, 1::2, 2] = photo()[1::2, 0::2, 1], photo()[1::2, 1::2, 2]
    assert models_of(clean) is None
    assert (tmp_path / "clean-out.png").read_bytes() == clean.read_bytes()
    assert models_of(harmed) == "dejpeg-color"
    assert models_of(write(tmp_path / "mosaic.png", mosaic)) == "demosaic-color"
    measured(monkeypatch, 6.0, 0.6)
    (tmp_path / "clean-out.png").unlink()
    assert models_of(clean) == "real-color"
    assert models_of(write(tmp_path / "noisy.jpg", photo(), quality=92)) == "real-color"
    assert models_of(write(tmp_path / "noisy-harmed.jpg", photo(), quality=10)) == "dejpeg-color + real-color"


def test_demosaic_refuses_ordinary_pictures(tmp_path: Path) -> None:
    for name, levels in (("a.jpg", photo()), ("b.png", photo()), ("c.png", photo()[..., 1])):
        with pytest.raises(DaglError, match="an ordinary picture, not a Bayer mosaic"):
            FileRestorer("demosaic")(write(tmp_path / name, levels), tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()


def test_a_mosaic_of_a_finished_picture_is_denoised_after_demosaicing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, 6.0, 0.6)
    mosaic = np.random.default_rng(0).integers(60, 70, (96, 96), np.uint8)
    mosaic[0::2, 0::2] += 100
    source = write(tmp_path / "in.png", mosaic)
    assert FileRestorer("raw")(source, tmp_path / "a.png").model == "demosaic-color + real-color"
    assert FileRestorer("demosaic")(source, tmp_path / "b.png").model == "demosaic-color"
    named = FileRestorer("raw", model="raw-color")(source, tmp_path / "c.png")
    assert named.model == "raw-color"
    assert named.sigma == pytest.approx(100 / 12**0.5 / 10, rel=0.3)


def test_luma_and_chroma_share_the_change() -> None:

    x = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.2
    model = tiny("dejpeg", 3, graph=False)
    bias = model.conv_out.get_parameter("bias")
    torch.nn.init.zeros_(bias)
    torch.nn.init.constant_(bias[: len(bias) // 3], 0.1)  # red grows

    def change(luma: float = 1.0, chroma: float = 1.0) -> torch.Tensor:
        return (Restorer(model, Options(luma=luma, chroma=chroma))(x) - x).mean((1, 2))

    weights_of_luma = torch.tensor([0.299, 0.587, 0.114])
    whole = change()
    assert float(whole.abs().max()) > 0.05
    assert torch.allclose(change(luma=0, chroma=0), torch.zeros(3), atol=1e-6)
    gray = change(chroma=0)
    assert torch.allclose(gray, (whole @ weights_of_luma).expand(3), atol=1e-6)
    assert abs(float(change(luma=0) @ weights_of_luma)) < 1e-6
    assert torch.allclose(gray + change(luma=0), whole, atol=1e-6)
    with pytest.raises(UsageError, match="`chroma` 2 must be between 0 and 1"):
        Options(chroma=2)


def test_bytes_of_a_picture_are_treated_as_files_are(monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, 6.0, 0.6)
    buffer, result = io.BytesIO(), io.BytesIO()
    Image.fromarray(photo()).save(buffer, "PNG")
    assert FileRestorer("restore")(buffer.getvalue(), result, name="stdin").model == "real-color"


def test_restore_takes_a_model_for_the_step_that_it_is_made_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, 0.0, 0.0, white=9.0)
    noisy, other = (
        write(tmp_path / "noisy.png", photo()),
        saved(tmp_path / "other.safetensors", tiny("denoise", 3, 0.2)),
    )
    monkeypatch.setattr(estimate, "jpeg_blockiness", lambda pixels: 0.0)
    outcome = FileRestorer("restore", model=str(other))(noisy, tmp_path / "a.png")
    assert outcome.model == "other"
    compressed = write(tmp_path / "a.jpg", photo(), quality=30)
    assert FileRestorer("restore", model=str(other))(compressed, tmp_path / "b.png").model == "dejpeg-color + other"
    with pytest.raises(WeightsError, match="`model` nothing: no such file or bundled model"):
        FileRestorer("restore", model="nothing")(noisy, tmp_path / "c.png")


def test_restore_names_no_flags_of_other_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, 0.0, 0.0)
    monkeypatch.setattr(estimate, "jpeg_blockiness", lambda pixels: 0.0)
    clean = write(tmp_path / "clean.png", photo())
    outcome = FileRestorer("restore")(clean, tmp_path / "a.png")
    assert (outcome.status, outcome.note) == (
        "unchanged",
        "no JPEG blocks found, no white or camera noise found: left as it is",
    )
    assert FileRestorer("restore").examine(clean, tmp_path / "b.png").note == outcome.note


def test_an_ordinary_picture_is_one_whatever_its_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    turned = write(tmp_path / "turned.jpg", photo(), exif=exif)
    with pytest.raises(DaglError, match="an ordinary picture, not a Bayer mosaic: `dagl restore`"):
        FileRestorer("demosaic")(turned, tmp_path / "a.png")
