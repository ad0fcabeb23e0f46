"""The noise that is measured against the noise that was added."""

from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage

from dagl_cli.restoring import guard, noise
from dagl_cli.store import weights


def photo(size: int = 256) -> np.ndarray:
    """(size, size, 3): a scene of soft slopes, edges and a textured part."""
    y, x = np.mgrid[:size, :size] / size
    scene = np.stack([0.3 + 0.4 * x, 0.25 + 0.4 * y, 0.6 - 0.3 * x * y], -1)
    for i in range(6):
        inside = (x - 0.15 * i) ** 2 + (y - (0.37 * i) % 1) ** 2 < 0.008 * (i + 1)
        scene[inside] = np.array([0.2 + 0.1 * i, 0.7 - 0.1 * i, 0.3 + 0.05 * i])
    texture = np.random.default_rng(9).normal(0, 0.15, (size // 4, size, 1))
    scene[: size // 4] += scipy.ndimage.gaussian_filter(texture, (1, 1, 0))
    return scipy.ndimage.gaussian_filter(scene, (0.8, 0.8, 0)).clip(0, 1).astype(np.float32)


def in_file(pixels: np.ndarray) -> np.ndarray:
    return (np.rint(255 * pixels.clip(0, 1)) / 255).astype(np.float32)


def noisy(rms: float, blur: float, seed: int = 0) -> np.ndarray:
    """The photo with noise of an RMS in levels, blurred by so many pixels."""
    white = np.random.default_rng(seed).standard_normal(photo().shape)
    grain = scipy.ndimage.gaussian_filter(white, (blur, blur, 0)) if blur else white
    return in_file(photo() + rms / 255 * grain / grain.std())


@pytest.mark.parametrize(("rms", "blur"), [(5.0, 0.8), (8.0, 0.8), (8.0, 1.2), (25.0, 0.8), (35.0, 1.0), (8.0, 0.0),
                                            (20.0, 0.0)])  # fmt: skip
def test_the_level_and_the_correlation_of_added_noise(rms: float, blur: float) -> None:
    found = noise.measure(noisy(rms, blur))
    assert found is not None
    assert found.rms == pytest.approx(rms, rel=0.35)
    assert (found.correlation > 0.4) == (blur > 0)


def test_the_kinds_are_told_apart() -> None:
    assert guard.noise(noisy(8.0, 0.9)).task == "real"
    assert guard.noise(noisy(15.0, 0.0)).task == "denoise"
    assert (
        guard.noise(in_file(photo())).left == "no white or camera noise found: left as it is; `sigma` decides otherwise"
    )
    assert guard.camera_noise(in_file(photo())).nothing


@pytest.mark.parametrize("shape", [(32, 32, 1), (33, 200, 3), (300, 40, 1)])
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_even_pictures_have_none(shape: tuple[int, int, int], value: float) -> None:
    found = noise.measure(np.full(shape, value, np.float32))
    assert found is not None
    assert found.likelihood < guard.LIMITS_AT_HIGH_ISO[0][0]


def test_noise_that_all_colours_have_in_common() -> None:
    """Editors' monochromatic noise: the Gaussian model would take most of it for the picture."""
    common = np.random.default_rng(0).standard_normal((*photo().shape[:2], 1)) * 12 / 255
    found = guard.noise(in_file(photo() + common))
    assert (found.task, found.note) == ("real", "white noise, the same in all colours")
    assert found.sigma == pytest.approx(12, rel=0.2)
    assert guard.noise(in_file((photo() + common).mean(-1, keepdims=True))).task == "denoise", "gray: there is one"


def test_what_is_said_is_so() -> None:
    """Of noise beyond what the models were trained on, and of white noise under `--real`."""
    assert "more than the model was made for" in (guard.noise(noisy(35.0, 1.0)).note or "")
    assert "more than" not in (guard.noise(noisy(8.0, 0.8)).note or "")
    white = guard.camera_noise(noisy(15.0, 0.0))
    assert white.note == "taken for camera noise, as was asked"
    assert white.sigma == pytest.approx(15, rel=0.2)
    assert guard.camera_noise(noisy(15.0, 0.0), asked=False).note == "taken for camera noise"


def test_too_small_to_be_measured() -> None:
    assert noise.measure(np.zeros((31, 500, 3), np.float32)) is None


def test_without_the_network_nothing_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "folder", lambda: tmp_path)
    assert noise.measure(noisy(8.0, 0.9)) is None
    assert guard.noise(noisy(15.0, 0.0)).task == "denoise"


def test_the_parts_go_from_the_flattest_to_the_busiest() -> None:
    pixels = np.full((300, 400, 1), 0.5, np.float32)
    pixels[:150, ::2] += 0.2
    pixels[:150, :200:2] += 0.2
    seen = noise.parts(pixels)
    assert seen.shape == (4, noise.TILE, noise.TILE, 3)
    detail = seen.std((1, 2, 3))
    assert (np.diff(detail) >= 0).all()
    assert (detail[0], detail[-1]) == (0, pytest.approx(255 * 0.2, rel=0.1))
    assert noise.parts(pixels[:40, :70]).shape == (2, 32, 32, 3)


def test_gray_is_measured_like_three_equal_channels() -> None:
    gray = noisy(8.0, 0.9).mean(-1, keepdims=True)
    assert noise.measure(gray) == noise.measure(gray.repeat(3, -1))


@pytest.mark.parametrize("shape", [(32, 48, 1), (64, 80, 2)])
def test_means_are_those_of_a_library(shape: tuple[int, int, int]) -> None:
    planes = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)

    def mean(side: int) -> np.ndarray:
        return scipy.ndimage.uniform_filter(planes, (side, side, 0), mode="mirror")

    np.testing.assert_allclose(noise.local_mean(planes), mean(2 * noise.BLOCK - 1), atol=1e-3)
    coarsest = planes - sum(noise.detail(planes))
    np.testing.assert_allclose(coarsest, mean(16), atol=1e-3)
    np.testing.assert_allclose(noise.detail(planes)[1], mean(2) - mean(4), atol=1e-3)
