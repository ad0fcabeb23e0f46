"""The estimators against known truth."""

from __future__ import annotations

import io

import numpy as np
import pytest
from helpers import ROOT, shared
from PIL import Image, ImageDraw
from PIL.JpegImagePlugin import JpegImageFile

from dagl_cli.degrade import jpeg
from dagl_cli.restoring import guard
from dagl_cli.restoring.estimate import estimate_jpeg_quality, estimate_sigma, jpeg_blockiness

DATA = ROOT / "tests/data"


def sigma_of(pixels: np.ndarray) -> float:
    found = estimate_sigma(pixels)
    assert found is not None
    return found


def tables(file: bytes) -> dict[int, list[int]]:
    with JpegImageFile(io.BytesIO(file)) as image:
        return dict(image.quantization)


@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize("sigma", [10, 25, 50])
@pytest.mark.parametrize(("dataset", "mode"), [("Kodak24", "RGB"), ("BSD68", "L")])
def test_estimate_sigma_is_close_on_average(dataset: str, mode: str, sigma: int, clipped: bool) -> None:
    errors = []
    for path in sorted(shared(f"testsets/{dataset}").glob("*.png"))[::6]:
        clean = np.asarray(Image.open(path).convert(mode), np.float32) / 255
        noisy = clean + np.random.default_rng(0).normal(0, sigma / 255, clean.shape).astype(np.float32)
        if clipped:
            noisy = np.clip(np.round(noisy * 255), 0, 255).astype(np.float32) / 255
        errors.append(abs(sigma_of(noisy) - sigma) / sigma)
    assert np.mean(errors) < (0.08 if sigma == 10 else 0.03)


def test_estimate_sigma_is_low_on_clean_photographs() -> None:
    estimates = [
        sigma_of(np.asarray(Image.open(path).convert("L"), np.float32) / 255)
        for path in sorted(shared("testsets/BSD68").glob("*.png"))[::6]
    ]
    assert np.median(estimates) < 2.5


@pytest.mark.parametrize("sigma", [0, 1, 5, 20, 60])
@pytest.mark.parametrize("shape", [(16, 200), (40, 40, 1), (70, 90, 3), (900, 1200)])
def test_estimate_sigma_of_noise_on_a_slope(shape: tuple[int, ...], sigma: int) -> None:
    slope = np.linspace(0.3, 0.7, shape[1]).reshape(-1, *[1] * (len(shape) - 2))
    noisy = slope + np.random.default_rng(1).normal(0, sigma / 255, shape)
    assert estimate_sigma(noisy.astype(np.float32)) == pytest.approx(sigma, rel=0.15, abs=0.01)


@pytest.mark.parametrize("border", [(0.0,) * 3, (1.0,) * 3, (0.5,) * 3, (0.1, 0.2, 0.6)])
@pytest.mark.parametrize(("down", "across"), [(40, 0), (23, 23)])
def test_a_frame_changes_nothing_of_the_noise_inside(border: tuple[float, ...], down: int, across: int) -> None:
    """Bars above and below, and frames: letterboxed pictures, slides, mounts."""
    noisy = np.asarray(Image.open(DATA / "osprey-noisy.png").convert("RGB"), np.float32)[:256, :256] / 255
    noisy = np.clip(noisy + np.random.default_rng(0).normal(0, 20 / 255, noisy.shape), 0, 1)
    inside = noisy[down : 256 - down, across : 256 - across]
    framed = np.broadcast_to(np.array(border, np.float32), noisy.shape).copy()
    framed[down : 256 - down, across : 256 - across] = inside
    assert sigma_of(framed) == pytest.approx(sigma_of(inside), rel=0.06)
    found, alone = (guard.noise(x.astype(np.float32)) for x in (framed, inside))
    assert (found.task, found.nothing) == (alone.task, alone.nothing) == ("denoise", None)


def test_a_page_of_pictures_on_a_grid_has_no_jpeg_blocks() -> None:
    """Thumbnails, as web pages align them, have edges on every eighth row and column, but not everywhere."""
    photo = np.asarray(Image.open(DATA / "cords.png").convert("RGB"), np.uint8)
    page = np.full((400, 400, 3), 240, np.uint8)
    for place in range(9):
        top, left = 16 + 128 * (place // 3), 16 + 128 * (place % 3)
        page[top : top + 112, left : left + 112] = photo[10 * place :, 9 * place :][:112, :112]
    clean, coded = (jpeg_blockiness(x / 255) for x in (page, np.asarray(jpeg(page, 80))))
    assert clean is not None
    assert coded is not None
    assert clean < guard.CLEAN_BLOCKINESS < coded


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 500, 1), (7, 7), (8, 8, 3)])
def test_estimate_sigma_takes_any_size(shape: tuple[int, ...]) -> None:
    assert estimate_sigma(np.full(shape, 0.5, np.float32)) == (0.0 if min(shape[:2]) >= 8 else None)


def test_estimate_sigma_sees_no_noise_in_a_drawing() -> None:
    page = np.ones((300, 400), np.float32)
    page[40:60, 30:350:3] = page[100:200, 50:52] = 0
    assert estimate_sigma(page) == 0.0


@pytest.mark.parametrize("pitch", [12, 20])
def test_estimate_sigma_tells_a_page_from_noise_on_a_page(pitch: int) -> None:
    page = Image.new("L", (400, 400), 255)
    for row in range(4, 390, pitch):
        ImageDraw.Draw(page).text((4, row), "Rest: the quick brown fox jumps over the lazy dog, twice; 0123456789")
    clean = np.asarray(page, np.float32) / 255
    assert estimate_sigma(clean) == 0.0
    for sigma in (5, 25):
        noisy = (clean + np.random.default_rng(0).normal(0, sigma / 255, clean.shape)).clip(0, 1)
        estimate = estimate_sigma(np.rint(noisy * 255).astype(np.float32) / 255)
        assert estimate == pytest.approx(sigma, rel=0.3)


@pytest.mark.parametrize("end", [0, 1])
@pytest.mark.parametrize("beyond", [-1.0, -0.5, 0.0, 0.2])
def test_estimate_sigma_of_noise_that_was_clipped(end: int, beyond: float) -> None:
    """An even picture whose level is so many standard deviations beyond black or white."""
    sigma = 20
    level = end + beyond * sigma / 255 * (1 if end else -1)
    noisy = level + np.random.default_rng(0).normal(0, sigma / 255, (200, 200))
    assert estimate_sigma(np.rint(noisy.clip(0, 1) * 255).astype(np.float32) / 255) == pytest.approx(sigma, rel=0.1)


@pytest.mark.parametrize("specks", [0.002, 0.01])
def test_estimate_sigma_is_a_number_for_two_levels(specks: float) -> None:
    """A dither with blocks that are black but for a few specks: beyond what noise that was clipped leaves."""
    dither = np.random.default_rng(0).random((256, 256)) < 0.5
    dither[:64] = np.random.default_rng(1).random((64, 256)) < specks
    assert np.isfinite(sigma_of(dither.astype(np.float32)))


@pytest.mark.parametrize("bars", [0.3, 0.7])
def test_estimate_sigma_looks_past_even_bars(bars: float) -> None:
    noisy = 0.5 + np.random.default_rng(0).normal(0, 20 / 255, (300, 400)).astype(np.float32)
    noisy[:, : round(400 * bars)] = 0
    assert estimate_sigma(noisy) == pytest.approx(20, rel=0.1)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_estimate_jpeg_quality_is_exact_for_standard_tables(mode: str) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)).convert(mode)
    for quality in range(1, 101):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        assert estimate_jpeg_quality(tables(buffer.getvalue())) == quality


def test_estimate_jpeg_quality_reads_the_authors_files() -> None:
    for quality in (10, 20, 30, 40):
        path = shared(f"testsets/Classic5/lr_{quality}/lena.jpeg")
        assert estimate_jpeg_quality(tables(path.read_bytes())) == quality


def test_estimate_jpeg_quality_of_other_tables_is_the_nearest() -> None:
    # Annex K's luminance table, row 0, is 16 11 10 16 24 40 51 61: quality 50 by definition.
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "JPEG", quality=50)
    standard = tables(buffer.getvalue())[0]
    assert list(standard[:8]) == [16, 11, 10, 16, 24, 40, 51, 61]
    assert estimate_jpeg_quality({0: [step + 1 for step in standard]}) in range(46, 50)
    flat = [estimate_jpeg_quality({0: [step] * 64, 1: [step] * 64}) or 0 for step in (200, 60, 17, 5, 1)]
    assert flat == sorted(set(flat))  # finer steps, higher quality
    assert flat[-1] == 100
    assert estimate_jpeg_quality({2: standard}) == 50
    assert estimate_jpeg_quality({}) is None
    assert estimate_jpeg_quality(None) is None
