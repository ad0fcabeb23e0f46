"""The metrics against definitions, and against the degraded columns that the paper prints."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers import shared
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

from dagl_cli.degrade import bayer_mosaic, jpeg, paper_noise
from dagl_cli.errors import ImageError
from dagl_cli.measuring.metrics import Image as Pixels
from dagl_cli.measuring.metrics import psnr, ssim_gaussian, ssim_uniform8


def test_metrics_reproduce_figure_5_noisy() -> None:
    """Urban100 img_006 at sigma 25: the noise of Table 1, clipped."""
    published = json.loads(shared("paper/tables.json").read_text())["figure5"]["Noisy"]
    clean = np.asarray(Image.open(shared("testsets/Urban100/img_006.png")).convert("L"), np.float32) / 255
    noisy = paper_noise(torch.from_numpy(clean)[None, None], 25).clamp(0, 1)[0]
    assert [round(psnr(clean, noisy), 2), round(ssim_gaussian(clean, noisy), 4)] == published


@pytest.mark.parametrize("quality", [10, 20, 30, 40])
@pytest.mark.parametrize("dataset", ["Classic5", "LIVE1"])
def test_metrics_reproduce_the_jpeg_column_of_table_3(dataset: str, quality: int) -> None:
    published = json.loads(shared("paper/tables.json").read_text())["table3"][dataset][str(quality)]["JPEG"]
    scores = []
    for path in sorted(shared(f"testsets/{dataset}").glob("*.bmp")):
        clean = np.asarray(Image.open(path))
        pair = clean / 255, jpeg(clean, quality) / 255
        scores.append((psnr(*pair), ssim_uniform8(*pair)))
    assert len(scores) == {"Classic5": 5, "LIVE1": 29}[dataset]
    mean_psnr, mean_ssim = np.mean(scores, axis=0)
    assert [f"{mean_psnr:.2f}", f"{mean_ssim:.4f}"] == [f"{published[0]:.2f}", f"{published[1]:.4f}"]


@pytest.mark.parametrize("dataset", ["McMaster18", "Kodak24"])
def test_metrics_reproduce_the_mosaic_row_of_table_4(dataset: str) -> None:
    """Kodak's six portraits stay upright (768 rows): turned to landscape they give SSIM 0.0696 instead of 0.0682."""
    published = json.loads(shared("paper/tables.json").read_text())["table4"][dataset]["Mosaic"]
    scores = []
    for path in sorted(path for path in shared(f"testsets/{dataset}").iterdir() if path.is_file()):
        pixels = np.asarray(Image.open(path).convert("RGB"))
        clean = torch.from_numpy(pixels / 255).permute(2, 0, 1)
        mosaic = bayer_mosaic(clean[None])[0]
        scores.append((psnr(clean, mosaic), ssim_gaussian(clean, mosaic)))
    assert len(scores) == {"McMaster18": 18, "Kodak24": 24}[dataset]
    mean_psnr, mean_ssim = np.mean(scores, axis=0)
    assert [f"{mean_psnr:.2f}", f"{mean_ssim:.4f}"] == [f"{published[0]:.2f}", f"{published[1]:.4f}"]


def ssim_by_definition(a: np.ndarray, b: np.ndarray, window: np.ndarray) -> float:
    """Wang 2004, equation 13, window by window."""
    side = window.shape[0]
    weights = window / window.sum()
    scores = []
    for p, q in zip(
        sliding_window_view(a, (side, side)).reshape(-1, side, side),
        sliding_window_view(b, (side, side)).reshape(-1, side, side),
        strict=True,
    ):
        mean_p, mean_q = (weights * p).sum(), (weights * q).sum()
        variance_p, variance_q = (weights * (p - mean_p) ** 2).sum(), (weights * (q - mean_q) ** 2).sum()
        covariance = (weights * (p - mean_p) * (q - mean_q)).sum()
        scores.append(
            (2 * mean_p * mean_q + 1e-4)
            * (2 * covariance + 9e-4)
            / ((mean_p**2 + mean_q**2 + 1e-4) * (variance_p + variance_q + 9e-4))
        )
    return float(np.mean(scores))


def test_ssims_follow_the_definition() -> None:
    random = np.random.default_rng(0)
    a = random.random((3, 19, 23))
    b = np.clip(a + random.normal(0, 0.2, a.shape), 0, 1)
    bell = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    for measure, window in ((ssim_gaussian, np.outer(bell, bell)), (ssim_uniform8, np.ones((8, 8)))):
        expected = np.mean([ssim_by_definition(p, q, window) for p, q in zip(a, b, strict=True)])
        assert measure(a, b) == pytest.approx(expected, abs=1e-9)


def test_psnr_by_hand() -> None:
    a, b = np.zeros((4, 6)), np.full((4, 6), 0.1)
    assert psnr(a, b) == pytest.approx(20)
    b[1:-1, 1:-1] = 0.01  # only the border is far off
    assert psnr(a, b, crop=1) == pytest.approx(40)
    assert psnr(a, b) < 23


Metric = Callable[[Pixels, Pixels], float]


@pytest.mark.parametrize("metric", [psnr, ssim_gaussian, ssim_uniform8])
def test_metrics_agree_on_arrays_and_tensors(metric: Metric) -> None:
    a, b = torch.rand(2, 3, 16, 14)
    score = metric(a, b)
    assert metric(a.numpy(), b) == score
    assert metric(b, a) == pytest.approx(score)
    assert metric(a[0], b[:1]) == metric(a[:1], b[0])
    assert metric(a, a) == (math.inf if metric is psnr else pytest.approx(1))


@pytest.mark.parametrize(("metric", "side"), [(psnr, 1), (ssim_gaussian, 11), (ssim_uniform8, 8)])
def test_metrics_need_their_window_and_equal_sizes(metric: Metric, side: int) -> None:
    assert math.isfinite(metric(np.zeros((side, side)), np.ones((side, side))))
    with pytest.raises(ImageError, match="too small"):
        metric(np.zeros((side, side - 1)), np.ones((side, side - 1)))
    with pytest.raises(ImageError, match="different size"):
        metric(np.zeros((20, 20)), np.zeros((20, 21)))
    with pytest.raises(ImageError, match="different size"):
        metric(np.zeros((3, 20, 20)), np.zeros((20, 20)))


def test_an_image_of_nothing_is_not_perfect() -> None:
    assert math.isnan(psnr(np.full((16, 16), np.nan), np.zeros((16, 16))))
