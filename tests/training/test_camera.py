"""The simulated camera: each step does what it is named after, and all of them leave a clean picture clean."""

import dataclasses

import numpy as np
import pytest
import scipy.ndimage
import torch

from dagl_cli.config import BAYER_PATTERNS
from dagl_cli.degrade import bayer_masks
from dagl_cli.training import camera, noise_reduction

PLAIN = dataclasses.replace(
    camera.Camera.random(np.random.default_rng(0)), shot=1e-4, read=1e-6, row=0.0, pixel_gain=0.0, exposure=1.0,
    gains=(2.0, 1.6), tone=0.0, luma=(0.0,) * 3, chroma=(0.0,) * 3, sharpening=(1.0, 0.0), scale=1.0, qualities=(),
)  # fmt: skip


def smooth(side: int = 64) -> torch.Tensor:
    """(3, side, side): a soft colourful picture."""
    noise = torch.from_numpy(np.random.default_rng(1).standard_normal((3, side, side), np.float32))
    return (0.5 + 1.2 * noise_reduction.blur(noise, 6.0)).clamp(0.1, 0.9)


def correlation(noise: torch.Tensor) -> float:
    noise = noise - noise.mean((1, 2), keepdim=True)
    return float((noise[..., 1:] * noise[..., :-1]).mean() / noise.square().mean())


@pytest.mark.parametrize("pattern", BAYER_PATTERNS)
@pytest.mark.parametrize("method", ["bilinear", "malvar", "directed"])
def test_demosaicing_keeps_even_colours_and_measured_samples(method: str, pattern: str) -> None:
    colour = torch.tensor([0.2, 0.5, 0.7]).view(3, 1, 1).expand(3, 12, 14)
    masks = bayer_masks(12, 14, pattern)
    result = camera.demosaic((colour * masks).sum(0)[None, None], pattern, method)[0]
    assert torch.allclose(result, colour, atol=1e-6)
    picture = torch.rand(3, 12, 14, generator=torch.Generator().manual_seed(0))
    result = camera.demosaic((picture * masks).sum(0)[None, None], pattern, method)[0]
    assert torch.allclose(result[masks], picture[masks], atol=1e-6)


def test_malvar_is_the_published_one() -> None:
    published = pytest.importorskip("colour_demosaicing").demosaicing_CFA_Bayer_Malvar2004
    mosaic = np.random.default_rng(0).random((20, 24)).astype(np.float32)
    ours = camera.demosaic(torch.from_numpy(mosaic)[None, None], "GRBG", "malvar")[0].permute(1, 2, 0).numpy()
    theirs = published(mosaic.astype(np.float64), "GRBG")
    assert np.abs(ours - theirs)[3:-3, 3:-3].max() < 1e-5


def test_the_sensor_has_the_variance_it_is_given() -> None:
    light = torch.full((1, 400, 400), 0.3)
    noise = camera.expose(light, dataclasses.replace(PLAIN, shot=0.001, read=1e-4, bits=14), np.random.default_rng(0))
    assert float(noise.var()) == pytest.approx(0.001 * 0.3 + 1e-4, rel=0.02)
    rows = camera.expose(light, dataclasses.replace(PLAIN, read=1e-4, row=0.5), np.random.default_rng(0)).mean(-1)
    assert float(rows.std()) == pytest.approx(0.005, rel=0.2)


def test_without_noise_the_picture_is_the_clean_one() -> None:
    camera_without = dataclasses.replace(PLAIN, shot=0.0, read=0.0, demosaicing="malvar")
    noisy, clean = camera.photograph(smooth(), camera_without, np.random.default_rng(0))
    assert (noisy - clean).abs().max() < 1.5 / 255  # the raw file's rounding
    assert (clean - smooth()).abs()[:, 4:-4, 4:-4].mean() < 0.01  # and develops to the scene


@pytest.mark.parametrize("method", ["bands", "wavelet", "bilateral", "non-local"])
def test_noise_reduction_takes_fine_noise_and_leaves_edges(method: str) -> None:
    clean = torch.zeros(3, 64, 64) + torch.where(torch.arange(64) < 32, 0.3, 0.7)
    white = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 64, 64), np.float32)) * 0.03
    strong = dataclasses.replace(
        PLAIN, reduction=method, luma=(0.9, 0.5, 0.0), chroma=(1.0, 0.9, 0.5), radius=1.0, threshold=5.0
    )
    after = camera.reduce_noise(torch.stack([clean + white, clean]), strong)
    left = (after[0] - after[1])[:, :, :24]
    assert left.std() < 0.6 * white.std()
    assert correlation(left) > 0.3 > correlation(white) + 0.25
    assert (after[1] - clean).abs().max() < 0.1


def test_noise_reduction_is_what_it_is_named_after() -> None:
    """Where nothing is alike but the pixel itself nothing changes, and where all is, every method is a plain mean."""
    random = np.random.default_rng(0)
    picture = torch.from_numpy(random.random((3, 24, 24), np.float32))
    noise, weak, strong = torch.full((3, 1, 1), 0.1), torch.full((3, 1, 1), 1e-6), torch.full((3, 1, 1), 1e4)
    for method in (noise_reduction.bilateral, noise_reduction.non_local):
        alone = method(picture, picture, noise, weak, 2)
        assert torch.allclose(alone[:, 4:-4, 4:-4], picture[:, 4:-4, 4:-4], atol=1e-5)  # a mirrored patch is alike
    mean = scipy.ndimage.uniform_filter(picture.numpy(), (0, 5, 5), mode="mirror")
    assert np.abs(noise_reduction.non_local(picture, picture, noise, strong, 2).numpy() - mean).max() < 1e-5
    limits = [torch.zeros(3, 1, 1)] * 4
    assert torch.allclose(noise_reduction.wavelet(picture, picture, limits), picture)
    coarse = noise_reduction.wavelet(picture, picture, [torch.full((3, 1, 1), 9.0)])
    assert torch.allclose(coarse, noise_reduction.blur(picture, 0.8), atol=1e-6)


def test_a_level_of_the_sensor_is_one_of_the_picture() -> None:
    def rms(shot: float) -> float:
        noisy, clean = camera.photograph(smooth(), dataclasses.replace(PLAIN, shot=shot), np.random.default_rng(0))
        return float((noisy - clean).square().mean().sqrt())

    assert rms(0.004) == pytest.approx(2 * rms(0.001), rel=0.1)


def test_saving_again_and_again_changes_only_what_is_noisy() -> None:
    picture = smooth()
    noisy, clean = camera.saved((picture, picture), (60, 75), "4:2:0", np.random.default_rng(0))
    assert (clean - picture).abs().mean() < 2 / 255 < 2 * (noisy - picture).abs().mean()


def test_filtered_noise_has_the_statistics_of_photographs() -> None:
    random = np.random.default_rng(0)
    noises = [noisy - clean for noisy, clean in (camera.filtered_noise(smooth(), random) for _ in range(30))]
    assert 0.4 < np.median([correlation(noise) for noise in noises]) < 0.8
    levels = [255 * float(noise.square().mean().sqrt()) for noise in noises]
    assert 1 < min(levels) < 4 < max(levels) < 16


@pytest.mark.parametrize("channels", [1, 3])
def test_pairs_are_files_and_the_same_again_from_the_same_seed(channels: int) -> None:
    scene = torch.rand(3, 32, 32)[:channels]
    for seed in range(6):
        noisy, clean = camera.noisy_pair(scene, np.random.default_rng(seed))
        again, _ = camera.noisy_pair(scene, np.random.default_rng(seed))
        assert noisy.shape == clean.shape == scene.shape
        assert torch.equal(noisy, again)
        for picture in (noisy, clean):
            assert torch.allclose(255 * picture, (255 * picture).round(), atol=1e-3)
            assert picture.min() >= 0
            assert picture.max() <= 1


def test_blur_is_a_gaussian() -> None:
    picture = torch.rand(2, 40, 50, generator=torch.Generator().manual_seed(0))
    expected = scipy.ndimage.gaussian_filter(picture.numpy(), (0, 1.7, 1.7), truncate=4)
    assert np.abs(noise_reduction.blur(picture, 1.7).numpy() - expected)[:, 8:-8, 8:-8].max() < 1e-3
