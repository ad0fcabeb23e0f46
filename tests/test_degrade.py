"""Degradations against the authors' own pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import shared
from PIL import Image

from dagl_cli.config import BAYER_PATTERNS
from dagl_cli.degrade import (
    bayer_masks,
    bayer_mosaic,
    camera_noise,
    camera_noise_levels,
    jpeg,
    paper_noise,
)
from dagl_cli.errors import UsageError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- applied ---


@pytest.mark.parametrize("quality", [10, 20, 30, 40])
@pytest.mark.parametrize("dataset", ["Classic5", "LIVE1"])
def test_jpeg_gives_the_authors_pixels(dataset: str, quality: int) -> None:
    paths = sorted(shared(f"testsets/{dataset}").glob("*.bmp"))
    assert len(paths) == {"Classic5": 5, "LIVE1": 29}[dataset]
    for path in paths:
        theirs = np.asarray(Image.open(shared(f"testsets/{dataset}/lr_{quality}/{path.stem}.jpeg")).convert("L"))
        assert np.array_equal(jpeg(np.asarray(Image.open(path)), quality), theirs), path.name


def test_paper_noise_is_the_release_s_draw() -> None:
    """torch.manual_seed(1), then torch.FloatTensor(1, 1, H, W).normal_(0, sigma / 255), and the seed is left alone."""
    torch.manual_seed(1)
    expected = torch.FloatTensor(1, 1, 20, 30).normal_(0, 25 / 255)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    assert torch.equal(paper_noise(torch.zeros(1, 1, 20, 30), 25), expected)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("pattern", BAYER_PATTERNS)
def test_bayer_mosaic_keeps_one_colour_per_pixel_in_the_named_order(pattern: str) -> None:
    x = torch.rand(2, 3, 5, 7) + 0.1
    mosaic = bayer_mosaic(x, pattern)
    for row in range(5):
        for column in range(7):
            colour = "RGB".index(pattern[row % 2 * 2 + column % 2])
            assert torch.equal(mosaic[:, colour, row, column], x[:, colour, row, column])
            assert mosaic[:, :, row, column].count_nonzero() == 2  # one of three, in both images
    with pytest.raises(UsageError, match="RGBG"):
        bayer_masks(4, 4, "RGBG")


# --- camera noise ---


def to_linear(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def test_camera_noise_without_noise_is_the_image() -> None:
    x = torch.rand(2, 3, 9, 12, generator=seeded())
    torch.testing.assert_close(camera_noise(x, 0.0, 0.0), x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pattern", BAYER_PATTERNS)
@pytest.mark.parametrize("light", [0.2, 0.5])
def test_camera_noise_has_the_raw_variance_where_a_sample_was_measured(light: float, pattern: str) -> None:
    """Linear variance shot * light + read at measured samples; half (red, blue) or a quarter next to them."""
    shot, read = 4e-3, 1e-4
    srgb = 1.055 * light ** (1 / 2.4) - 0.055
    noise = to_linear(camera_noise(torch.full((1, 3, 400, 400), srgb), shot, read, pattern, seeded())) - light
    masks = bayer_masks(400, 400, pattern)
    variance = shot * light + read
    for colour in range(3):
        measured = noise[0, colour][masks[colour]]
        assert measured.var().item() == pytest.approx(variance, rel=0.05)
        assert abs(measured.mean().item()) < 4 * (variance / measured.numel()) ** 0.5
    between_greens = noise[0, 1][~masks[1]]  # mean of four measured neighbours
    assert between_greens.var().item() == pytest.approx(variance / 4, rel=0.05)
    diagonal_of_reds = noise[0, 0][masks[2]]  # likewise
    assert diagonal_of_reds.var().item() == pytest.approx(variance / 4, rel=0.05)


def test_camera_noise_is_seeded_clipped_and_correlated() -> None:
    x = torch.rand(4, 3, 64, 64, generator=seeded())
    shot, read = camera_noise_levels(4, seeded(3))
    noisy = camera_noise(x, shot, read, generator=seeded(5))
    assert noisy.shape == x.shape
    assert 0 <= noisy.min() < noisy.max() <= 1
    assert torch.equal(noisy, camera_noise(x, shot, read, generator=seeded(5)))
    assert not torch.equal(noisy, camera_noise(x, shot, read, generator=seeded(6)))
    flat = torch.full((1, 3, 200, 200), 0.5)
    red = (camera_noise(flat, 0.01, 0.0, generator=seeded()) - flat)[0, 0]
    neighbours = torch.corrcoef(torch.stack([red[:, :-1].flatten(), red[:, 1:].flatten()]))[0, 1]
    assert neighbours > 0.4


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 3)])
def test_camera_noise_takes_any_size(size: tuple[int, int]) -> None:
    noisy = camera_noise(torch.full((2, 3, *size), 0.5), 0.01, 1e-4, generator=seeded())
    assert noisy.shape == (2, 3, *size)
    assert (noisy != 0.5).all()  # every colour gets noise, also where its samples lie outside


def test_camera_noise_levels_follow_the_published_line() -> None:
    shot, read = camera_noise_levels(4000, seeded())
    assert shot.shape == read.shape == (4000, 1, 1, 1)
    assert 1e-4 <= shot.min() < 1.1e-4
    assert 0.0115 < shot.max() <= 0.012
    residual = read.log() - (2.18 * shot.log() + 1.2)
    assert abs(residual.mean()) < 0.02
    assert residual.std().item() == pytest.approx(0.26, rel=0.05)


def test_camera_noise_behind_white_balance_and_tone_curve() -> None:
    """Without noise both are undone exactly; gains amplify the noise of their colour."""
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    gains = torch.tensor([2.0, 1.0, 1.5]).view(1, 3, 1, 1)
    torch.testing.assert_close(camera_noise(x, 0, 0, gains=gains, tone=True), x, rtol=0, atol=1e-5)
    flat = torch.full((1, 3, 128, 128), 0.5)
    deviations = [
        (camera_noise(flat, 0, 1e-4, generator=torch.Generator().manual_seed(1), gains=g) - flat).std((0, 2, 3))
        for g in (None, gains)
    ]
    torch.testing.assert_close(deviations[1] / deviations[0], gains.flatten(), rtol=0.05, atol=0)
