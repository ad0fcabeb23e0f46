"""`dagl_cli.restore`: what goes in comes out, restored; the guards of the commands by a parameter."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from helpers import dagl, tiny

import dagl_cli
from dagl_cli import DaglError, ImageError, UsageError, images, restore
from dagl_cli.config import Options
from dagl_cli.restoring import estimate
from dagl_cli.restoring.estimate import jpeg_blockiness
from dagl_cli.restoring.restorer import Restorer

pytestmark = pytest.mark.usefixtures("one_thread", "here")


def adding(levels: int, channels: int) -> Restorer:
    return Restorer(tiny("dejpeg", channels, levels / 255, graph=False), Options("cpu"))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P"])
def test_pil_images(mode: str) -> None:
    levels = np.random.default_rng(0).integers(0, 200, (9, 12, 4), np.uint8)
    image = PIL.Image.fromarray(levels).convert(mode)
    kept = image.copy()
    result = restore(image, "dejpeg", model=adding(10, 1 if mode[:1] in "1L" else 3))
    assert isinstance(result, PIL.Image.Image)
    assert (result.mode, result.size) == ({"1": "L", "P": "RGB"}.get(mode, mode), (12, 9))
    before = np.asarray(image.convert(result.mode)).reshape(9, 12, -1).astype(int)
    after = np.asarray(result).reshape(9, 12, -1)
    colours = before.shape[-1] - (mode in ("LA", "RGBA"))
    hidden = before[..., -1:] == 0 if colours < before.shape[-1] else np.zeros((9, 12, 1), bool)
    expected = np.where(hidden, before, np.minimum(before + 10, 255))[..., :colours]
    assert np.array_equal(after[..., :colours], expected)
    assert np.array_equal(after[..., colours:], before[..., colours:]), "alpha passes through"
    assert np.array_equal(np.asarray(image), np.asarray(kept)), "not changed"


def test_pil_images_of_16_bits_and_mosaics() -> None:
    levels = np.random.default_rng(0).integers(0, 60000, (8, 8), np.uint16)
    result = restore(PIL.Image.fromarray(levels), "dejpeg", model=adding(0, 1))
    assert result.mode == "I;16"
    assert np.array_equal(np.asarray(result), levels)
    assert restore(PIL.Image.fromarray((levels >> 8).astype(np.uint8)), "demosaic").mode == "RGB"


@pytest.mark.parametrize("kind", [str, Path])
def test_paths_give_the_levels_of_the_file(kind: type) -> None:
    exif = PIL.Image.Exif()
    exif[274] = 6
    upright = np.random.default_rng(0).integers(0, 200, (6, 9, 3), np.uint8)
    PIL.Image.fromarray(np.rot90(upright)).save("turned.png", exif=exif)
    result = restore(kind("turned.png"), "dejpeg", model=adding(10, 3))
    assert result.dtype == np.uint8
    assert np.array_equal(result, upright + 10)
    deep = images.Image(np.full((5, 4, 1), 1000 / 65535, np.float32), np.full((5, 4), 7, np.uint16), depth=16)
    images.write(deep, "deep.tif")
    result = restore(kind("deep.tif"), "dejpeg", model=adding(0, 1))
    assert (result.dtype, result.shape) == (np.uint16, (5, 4, 2))
    assert result[0, 0].tolist() == [1000, 7]
    with pytest.raises(ImageError, match=r"cannot read no\.png: there is no such file"):
        restore(kind("no.png"))


@pytest.mark.parametrize(
    "bad",
    [None, 3, [1, 2], [np.zeros((4, 4))], (np.zeros((4, 4)),), b"bytes", np.zeros((2, 4, 4, 3)),
     torch.zeros(2, 3, 4, 4), PIL.Image.new("CMYK", (4, 4)), PIL.Image.new("F", (4, 4)), PIL.Image.new("L", (0, 4))],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_is_no_single_picture_is_a_dagl_error(bad: object) -> None:
    with pytest.raises(UsageError):
        restore(bad, "dejpeg")  # type: ignore[arg-type]
    assert issubclass(UsageError, DaglError)


@pytest.mark.parametrize("load_first", [False, True])
def test_pil_images_without_their_pixels_are_image_errors(load_first: bool) -> None:
    levels = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    PIL.Image.fromarray(levels).save("whole.png")
    Path("short.png").write_bytes(Path("whole.png").read_bytes()[:2000])
    closed = PIL.Image.open("whole.png")
    if load_first:
        closed.load()
    closed.close()
    with PIL.Image.open("short.png") as lazy:
        for image in (lazy, closed):
            with pytest.raises(ImageError, match="`image` cannot be read: it is closed, damaged or truncated"):
                restore(image, "dejpeg")


@pytest.mark.parametrize("tensor", [torch.rand(1, 8, 8).to_sparse(), torch.rand(1, 8, 8, device="meta")])
def test_tensors_without_their_pixels_are_usage_errors(tensor: torch.Tensor) -> None:
    with pytest.raises(UsageError, match="a tensor must be dense and hold its values"):
        restore(tensor, "dejpeg")


@pytest.mark.parametrize("batch", [np.zeros((2, 64, 96, 3)), torch.zeros(2, 3, 64, 96)])
def test_of_a_batch_one_picture_at_a_time_is_asked_for(batch: object) -> None:
    with pytest.raises(UsageError, match="give one picture at a time"):
        restore(batch, "dejpeg")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="take alpha off first"):
        restore(np.zeros((64, 96, 4)), "dejpeg")


@pytest.mark.parametrize(
    ("name", "value"),
    [("sigma", "20"), ("sigma", [5]), ("sigma", float("nan")), ("sigma", np.array([5, 6])), ("sigma", True),
     ("task", ["denoise"]), ("task", None), ("task", "dehaze"), ("pattern", 3), ("pattern", np.zeros(4)),
     ("model", 3), ("model", b"lite"), ("model", torch.nn.Identity()), ("options", {"device": "cpu"})],
)  # fmt: skip
@pytest.mark.parametrize("guarded", [False, True])
def test_parameters_of_other_types_are_named(name: str, value: object, guarded: bool) -> None:
    with pytest.raises(UsageError, match=rf"^`{name}` .+\Z"):
        restore(np.zeros((16, 16)), guarded=guarded, **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("task", ["denoise", "dejpeg", "restore"])
def test_the_guards_are_those_of_the_commands(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same pictures are left alone and restored, to the same pixels."""
    monkeypatch.setattr(estimate, "jpeg_blockiness", jpeg_blockiness)  # the fixture sees blocks everywhere
    generator = np.random.default_rng(0)
    slope = np.add.outer(np.arange(96), np.arange(96)) / 2 + 60
    pictures = {
        "flat": np.full((96, 96), 90.0),
        "noisy": slope + generator.normal(0, 20, slope.shape),
        "dither": 255.0 * (slope + generator.uniform(-60, 60, slope.shape) > 110),
    }
    for name, levels in pictures.items():
        pixels = levels.clip(0, 255).round().astype(np.uint8)
        PIL.Image.fromarray(pixels).save(f"{task}-{name}.png")
        stdout, _ = dagl(task, f"{task}-{name}.png", "-o", f"{task}-{name}-out.png", "--json", "--device", "cpu")
        status = json.loads(stdout)["files"][0]["status"]
        result = restore(pixels, task, guarded=True)
        assert np.array_equal(result, np.asarray(PIL.Image.open(f"{task}-{name}-out.png"))), name
        assert np.array_equal(result, pixels) == (status == "unchanged"), name
        if name == "dither":
            assert status == "unchanged"
    assert "guarded" in (dagl_cli.restore.__doc__ or "")
