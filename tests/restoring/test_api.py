"""`dagl_cli.restore`: what goes in comes out, restored; the guards of the commands by a parameter."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tifffile
import torch
from helpers import dagl, picture, tiny

import dagl_cli
from dagl_cli import DaglError, ImageError, UsageError, images, restore, restore_iter
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
    [None, 3, [1, 2], [[np.zeros((4, 4))]], {"a": 1}, b"bytes", np.zeros((2, 4, 4, 3)), torch.zeros(0, 3, 4, 4),
     torch.zeros(1, 2, 3, 4, 4), PIL.Image.new("CMYK", (4, 4)), PIL.Image.new("F", (4, 4)),
     PIL.Image.new("L", (0, 4))],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_is_no_picture_is_a_dagl_error(bad: Any) -> None:
    with pytest.raises(UsageError):
        restore(bad, "dejpeg")
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


def test_lists_and_batches_are_restored_picture_by_picture() -> None:
    levels = [np.full(shape, 100, np.uint8) for shape in ((9, 12, 3), (16, 8, 3))]
    PIL.Image.fromarray(levels[0]).save("a.png")
    model = adding(10, 3)
    for given in (levels, tuple(map(PIL.Image.fromarray, levels))):
        results = restore(given, "dejpeg", model=model)
        assert [type(r) for r in results] == [type(g) if isinstance(g, np.ndarray) else PIL.Image.Image for g in given]
        for result, before in zip(results, levels, strict=True):
            assert np.array_equal(np.asarray(result), before + 10)
    assert np.array_equal(restore(["a.png"], "dejpeg", model=model)[0], levels[0] + 10)
    assert restore([], "dejpeg") == []
    batch = torch.rand(2, 3, 9, 12, dtype=torch.float64) / 2
    result = restore(batch, "dejpeg", model=model)
    assert (result.shape, result.dtype) == (batch.shape, batch.dtype)
    torch.testing.assert_close(result, batch + 10 / 255, atol=1e-6, rtol=0)
    whole = (batch * 255).round().byte()  # as torchvision reads pictures
    assert torch.equal(restore(whole, "dejpeg", model=model), whole + 10)
    mosaics = restore(torch.rand(2, 1, 8, 8), "demosaic")
    assert mosaics.shape == (2, 3, 8, 8)


def test_what_is_wrong_in_a_batch_is_numbered() -> None:
    for channels, remedy in ((5, r"of torch\.float32\Z"), (4, "take alpha off first")):
        with pytest.raises(UsageError, match=rf"^image\[0\]: .*{remedy}"):
            restore(torch.zeros(2, channels, 8, 8), "dejpeg")
    good = np.zeros((16, 16, 3), np.uint8)
    with pytest.raises(UsageError, match=r"^image\[1\]: .*take alpha off first"):
        restore([good, np.zeros((16, 16, 4), np.uint8)], "dejpeg")
    with pytest.raises(ImageError, match=r"^image\[1\]: cannot read no\.png"):
        restore([picture("a.png"), Path("no.png")], "dejpeg")
    with pytest.raises(UsageError, match="give several as a list"):
        restore(np.zeros((2, 64, 96, 3)), "dejpeg")
    with pytest.raises(UsageError, match="take alpha off first"):
        restore(np.zeros((64, 96, 4)), "dejpeg")


def test_pictures_one_after_the_other_with_progress() -> None:
    told: list[tuple[float, int | None]] = []
    taken: list[int] = []

    def pictures() -> Iterator[np.ndarray]:
        for number in range(3):
            taken.append(number)
            yield np.full((100, 70, 3), 100, np.uint8) if number < 2 else np.zeros((4, 4, 4))

    model = Restorer(tiny("dejpeg", 3, 10 / 255, graph=False), Options("cpu", tile=64))
    results = restore_iter(pictures(), "dejpeg", model=model, progress=lambda *seen: told.append(seen))
    assert taken == [], "nothing is done before it is asked for"
    assert next(results)[0, 0].tolist() == [110] * 3
    assert taken == [0]
    assert (told[0], told[-1]) == ((0, None), (1, None))
    assert 0 < told[1][0] < 1, "tiles count"
    assert next(results).shape == (100, 70, 3)
    with pytest.raises(UsageError, match=r"^image\[2\]: .*take alpha off first"):
        next(results)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    listed = [np.zeros((8, 8), np.uint8)] * 2
    told.clear()
    assert len(list(restore_iter(listed, "dejpeg", guarded=True, progress=lambda *seen: told.append(seen)))) == 2
    assert {total for _, total in told} == {2}
    bad: Any
    for bad in ("a.png", Path("a.png"), 3):
        with pytest.raises(UsageError, match="`images` is a"):
            restore_iter(bad)
    with pytest.raises(UsageError, match="`sigma` 99"):  # at once
        restore_iter(listed, sigma=99)
    with pytest.raises(UsageError, match="`task` restore is unknown"):  # but with `guarded`
        restore_iter(listed, "restore")


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_pil_images_keep_what_is_known_of_them(suffix: str) -> None:
    exif = PIL.Image.Exif()
    exif[271], exif[274] = "Camera", 6
    profile = images.srgb_profile()
    pixels = np.random.default_rng(0).integers(0, 200, (9, 12, 3), np.uint8)
    PIL.Image.fromarray(pixels).save(f"in.{suffix}", exif=exif, icc_profile=profile, dpi=(300, 300))
    with PIL.Image.open(f"in.{suffix}") as image:
        image.load()
        before = dict(image.info)
        result = restore(image, "dejpeg", model=adding(10, 3))
        assert image.info == before
    result.save("out.png", exif=result.info["exif"])
    with PIL.Image.open("out.png") as again:
        assert dict(again.getexif()) == {271: "Camera"} | ({} if suffix == "tif" else {274: 6})  # Pillow turns TIFFs
        assert again.info["icc_profile"] == profile
    assert before.items() <= result.info.items()


def test_what_is_no_longer_true_is_not_kept() -> None:
    palette = PIL.Image.fromarray(np.eye(12, dtype=np.uint8)).convert("P")
    palette.info |= {"transparency": 1, "background": 1, "comment": b"kept"}
    assert restore(palette, "dejpeg").info == {"comment": b"kept"}
    mosaic = PIL.Image.fromarray(np.eye(12, dtype=np.uint8) * 99)
    mosaic.info |= {"icc_profile": b"of gray", "dpi": (300, 300)}
    assert restore(mosaic, "demosaic").info == {"dpi": (300, 300)}


@pytest.mark.parametrize(
    ("name", "value"),
    [("sigma", "20"), ("sigma", [5]), ("sigma", float("nan")), ("sigma", np.array([5, 6])), ("sigma", True),
     ("task", ["denoise"]), ("task", None), ("task", "dehaze"), ("pattern", 3), ("pattern", np.zeros(4)),
     ("model", 3), ("model", b"lite"), ("model", torch.nn.Identity()), ("options", {"device": "cpu"})],
)  # fmt: skip
@pytest.mark.parametrize("guarded", [False, True])
def test_parameters_of_other_types_are_named(name: str, value: Any, guarded: bool) -> None:
    with pytest.raises(UsageError, match=rf"^`{name}` .+\Z"):
        restore(np.zeros((16, 16)), guarded=guarded, **{name: value})


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


def test_a_float_file_gives_its_values(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((16, 24, 3), np.float32) * 3
    values[2, 3] = np.nan
    tifffile.imwrite(tmp_path / "in.tif", values, photometric="rgb")
    result = dagl_cli.restore(tmp_path / "in.tif", sigma=0)
    assert result.dtype == np.float32
    assert result == pytest.approx(values, rel=1e-4, abs=1e-5, nan_ok=True)
