"""Photographs, drawings and mosaics are told apart."""

from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import torch
from helpers import ROOT, shared
from PIL import Image, ImageDraw

from dagl_cli.config import BAYER_PATTERNS, PAPER_PATTERN
from dagl_cli.degrade import bayer_mosaic
from dagl_cli.restoring import guard, kind

PHOTO = ROOT / "tests/data/cords.png"


def pixels_of(image: Image.Image | Path) -> np.ndarray:
    with Image.open(image) if isinstance(image, Path) else image as opened:
        levels = np.asarray(opened.convert("L" if opened.mode in ("1", "L") else "RGB"))
    return (levels.reshape(*levels.shape[:2], -1) / 255).astype(np.float32)


def page() -> Image.Image:
    image = Image.new("L", (400, 300), 235)
    draw = ImageDraw.Draw(image)
    for y in range(20, 280, 18):
        draw.text((20, y), "the quick brown fox jumps over the lazy dog " * 2, fill=30)
    return image


def screen() -> Image.Image:
    image = Image.new("RGB", (400, 300), (60, 90, 150))
    draw = ImageDraw.Draw(image)
    draw.rectangle((40, 40, 360, 260), fill=(245, 245, 245))
    draw.text((60, 60), "File  Edit  View", fill=(0, 0, 0))
    return image


def test_dithers_pages_and_screens_are_no_photographs() -> None:
    with Image.open(PHOTO) as photo:
        dithered = photo.convert("1")
    assert "two tones" in str(kind.drawing(pixels_of(dithered)))
    grain = np.random.default_rng(0).normal(0, 3 / 255, (300, 400, 1)).astype(np.float32)
    assert "a page" in str(kind.drawing((pixels_of(page()) + grain).clip(0, 1)))
    assert "even areas" in str(kind.drawing(pixels_of(screen())))
    assert "black" in str(kind.drawing(np.zeros((64, 64, 3), np.float32) + 0.01))


def test_the_dithers_that_were_smeared_are_left_alone() -> None:
    for name in ("dither-bayer.png", "dither-newspage.png"):
        found = guard.noise(pixels_of(shared("faults") / name))
        assert found.nothing
        assert "two tones" in found.nothing


def test_a_scanned_dither_is_no_noise() -> None:
    """And strong noise on a photograph is no dither, nor where that is nearly two tones or was sharpened."""
    photo = pixels_of(PHOTO)
    with Image.open(PHOTO) as opened:
        dithered = pixels_of(opened.convert("1"))
    soft = scipy.ndimage.gaussian_filter(dithered, (0.4, 0.4, 0))
    for examine in (guard.noise, guard.camera_noise):
        assert "two tones, blurred" in str(examine(soft).nothing)
    bimodal = np.where(photo.mean(-1, keepdims=True) > 0.5, 0.8, 0.2) * np.ones(3)
    generator = np.random.default_rng(0)
    for picture in (photo, photo.mean(-1, keepdims=True), bimodal):
        for sigma in (15, 50, 75):
            noisy = np.round(255 * (picture + generator.normal(0, sigma / 255, picture.shape)).clip(0, 1)) / 255
            assert not kind.is_soft_dither(noisy.astype(np.float32))
            sharpened = noisy + 0.7 * (noisy - scipy.ndimage.gaussian_filter(noisy, (1, 1, 0)))
            assert not kind.is_soft_dither(sharpened.clip(0, 1).astype(np.float32))


def test_photographs_are_photographs() -> None:
    for path in (PHOTO, ROOT / "tests/data/osprey-noisy.png"):
        pixels = pixels_of(path)
        assert kind.drawing(pixels) is None
        assert kind.drawing(pixels.mean(-1, keepdims=True)) is None
        assert kind.mosaic_patterns(pixels) == ()
        assert kind.mosaic_patterns(pixels.mean(-1, keepdims=True)) == ()


def test_an_all_noise_frame_is_no_drawing() -> None:
    noise = np.random.default_rng(0).random((64, 64, 3), np.float32)
    assert kind.drawing(noise) is None
    assert kind.mosaic_patterns(noise) == ()
    assert kind.mosaic_patterns(noise[..., :1]) == ()


@pytest.mark.parametrize("pattern", BAYER_PATTERNS)
def test_a_mosaic_is_known_by_its_zeros_or_its_steps(pattern: str) -> None:
    photo = torch.from_numpy(pixels_of(PHOTO)).permute(2, 0, 1)[:, :64, :64] * 0.9 + 0.05
    mosaic = bayer_mosaic(photo[None], pattern)[0].permute(1, 2, 0).numpy()
    assert kind.mosaic_patterns(mosaic) == (pattern,)
    green = torch.tensor([0.4, 1.0, 0.5]).view(3, 1, 1)  # as sensors see it
    one = bayer_mosaic((photo * green)[None], pattern)[0].sum(0)[..., None].numpy()
    alike = ("RGGB", "BGGR") if pattern in ("RGGB", "BGGR") else ("GRBG", "GBRG")  # the greens lie on one diagonal
    assert kind.mosaic_patterns(one) == tuple(p for p in BAYER_PATTERNS if p in alike)
    for told in BAYER_PATTERNS:
        assert (guard.mosaic(one, told).nothing is None) == (told in alike)
        assert guard.mosaic(mosaic, told).nothing is None


@pytest.mark.parametrize("blur", [0.3, 0.4])
def test_a_dither_is_no_mosaic(blur: float) -> None:
    """Its dots alternate as a mosaic's samples do, but none of the four places of a cell is alike another."""
    with Image.open(PHOTO) as image:
        dots = np.asarray(image.convert("L").resize((200, 150)).convert("1"), np.float32)
    soft = scipy.ndimage.gaussian_filter(dots, blur)[..., None]
    noisy = (0.4 + 0.2 * soft + np.random.default_rng(0).normal(0, 0.01, soft.shape)).astype(np.float32)
    for pixels in (soft, noisy):
        assert kind.steps(pixels[..., 0]) > kind.MOSAIC_STEPS
        assert kind.mosaic_patterns(pixels) == ()


def test_ordinary_pictures_are_not_to_be_demosaiced() -> None:
    photo = pixels_of(PHOTO)
    for pixels in (photo, photo.mean(-1, keepdims=True), photo.mean(-1, keepdims=True).repeat(3, -1)):
        assert guard.mosaic(pixels, PAPER_PATTERN).nothing == "an ordinary picture, not a Bayer mosaic"
