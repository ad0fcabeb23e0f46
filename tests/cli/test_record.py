"""What a result says of how it was made, in every format; what it never says; and what a second run makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile
from helpers import DATA, SHIFT, dagl, picture, saved, tiny

from dagl_cli import __version__, images
from dagl_cli.images.tone import tone_of
from dagl_cli.restoring.restorer import find_model
from dagl_cli.store import weights

pytestmark = pytest.mark.usefixtures("one_thread", "here")


def sample(name: str, size: tuple[int, int] = (24, 16)) -> Path:
    """A noisy picture that the format of the name can hold."""
    format = images.FORMATS[images.SUFFIXES[Path(name).suffix]]
    values = np.random.default_rng(0).random((size[1], size[0], 3)).astype(np.float32)
    tone = None if format.depths else tone_of(values, format.light)
    path = Path(name)
    path.parent.mkdir(exist_ok=True)
    images.write(images.Image(values, depth=format.depths[0] if format.depths else format.floats[-1], tone=tone), path)
    return path


@pytest.mark.parametrize("name", [name for name, format in images.FORMATS.items() if format.encode])
def test_a_result_says_how_it_was_made(name: str) -> None:
    format = images.FORMATS[name]
    source, target = sample(f"jane/in{format.suffixes[0]}"), Path(f"jane/out{format.suffixes[0]}")
    model = find_model("denoise", 3, None)
    _, stderr = dagl(
        "denoise", "--sigma", 25, "--strength", 0.9, "--precision", "fp32", "--backend", "torch", source, "-o", target
    )
    assert "restored" in stderr
    found = images.record(target)
    if not format.keeps & {"xmp", "record"}:
        assert found == {}
        return
    assert found == {
        "version": __version__, "task": "denoise",
        "command": "dagl denoise --sigma 25 --strength 0.9 --precision fp32 --backend torch",
        "model": model.stem, "sha256": weights.sha256(model), "sigma": "25", "strength": "0.9", "luma": "1",
        "chroma": "1", "backend": "torch", "precision": "fp32",
    }  # fmt: skip
    assert found == images.read(target).record
    content = target.read_bytes()
    assert b"jane" not in content
    assert str(Path.cwd()).encode() not in content
    _, stderr = dagl("denoise", "--sigma", 25, target, "-o", f"again{format.suffixes[0]}")
    assert (
        "dagl has restored it before (dagl denoise --sigma 25 --strength 0.9 --precision fp32 --backend torch)"
        in stderr
    )
    assert images.record(f"again{format.suffixes[0]}")["command"] == "dagl denoise --sigma 25"  # in its place
    dagl("denoise", "--sigma", 25, target, "-o", f"bare{format.suffixes[0]}", "--strip-metadata")
    assert images.record(f"bare{format.suffixes[0]}") == {}


def test_the_record_of_a_large_file_is_found() -> None:
    sample("in.tif", (400, 300))
    dagl("denoise", "--sigma", 0.5, "in.tif", "-o", "out.tif")
    assert Path("out.tif").stat().st_size > 1 << 18
    assert images.record("out.tif")["sigma"] == "0.5"


def test_a_second_run_knows_another_model() -> None:
    sample("in.png")
    for name, shift in (("one", 0.1), ("two", 0.2)):
        saved(Path(f"{name}.safetensors"), tiny("denoise", 3, shift=shift))
    dagl("denoise", "--sigma", 25, "--model", "one.safetensors", "in.png", "-o", "out.png")
    assert images.record("out.png")["model"] == "one"
    _, stderr = dagl("denoise", "--sigma", 25, "--model", "one.safetensors", "in.png", "-o", "out.png")
    assert "made with" not in stderr
    _, stderr = dagl("denoise", "--sigma", 25, "--model", "two.safetensors", "in.png", "-o", "out.png")
    assert "it was made with another --model (one)" in stderr


def test_an_xmp_without_room_is_said() -> None:
    source = sample("in.jpg")
    image = images.read(source)
    image.xmp = b"<not really xmp>"
    images.write(image, source, overwrite=True)
    _, stderr = dagl("denoise", "--sigma", 25, "in.jpg", "-o", "out.jpg")
    assert "how it was made is not recorded" in stderr


def test_floats_are_restored_and_what_is_no_number_stays() -> None:
    random = np.random.default_rng(0)
    clean = np.broadcast_to(np.linspace(0.5, 60, 96, dtype=np.float32), (64, 96))
    values = clean + random.normal(0, 3, clean.shape).astype(np.float32)
    values[5, 6], values[7, 8], values[9, 10] = np.nan, -np.inf, 1e7
    tifffile.imwrite("in.tif", values, photometric="minisblack")
    _, stderr = dagl("denoise", "in.tif", "-o", "out.tif")
    assert "restored" in stderr
    assert "2 of its values are not finite: left as before" in stderr
    result = tifffile.imread("out.tif")
    assert result.dtype == np.float32
    assert np.isnan(result[5, 6])
    assert (result[7, 8], result[9, 10]) == (-np.inf, 1e7)
    ordinary = np.isfinite(values) & (values < 1e6)
    tone = tone_of(values[..., None], light=False)
    shifted = tone.decode(tone.encode(values[..., None]) + np.float32(SHIFT / 255), values.dtype)[..., 0]
    assert result[ordinary] == pytest.approx(shifted[ordinary], rel=1e-4)
    assert result[ordinary].max() > 50
    _, stderr = dagl("demosaic", "in.tif", "-o", "rgb.tif", code=1)
    assert "a mosaic's are integers" in stderr
    _, stderr = dagl("denoise", "--sigma", 25, "in.tif", "-o", "out.png", code=1)
    assert "32-bit float samples and PNG holds 8 or 16 bits: choose .tif or .exr" in stderr


def test_heic_becomes_png() -> None:
    import pillow_heif

    picture("a.png", size=(64, 64))
    pixels = images.levels(images.read("a.png"))
    pillow_heif.from_bytes(mode="RGB", size=(64, 64), data=pixels.repeat(3 // pixels.shape[2], 2).tobytes()).save(
        "a.heic"
    )
    Path("a.png").unlink()
    dagl("denoise", "--sigma", 25, ".", "-o", "out")
    assert images.read("out/a.png").format == "PNG"


def test_a_jpeg_that_is_left_alone_keeps_its_samples_without_its_metadata() -> None:
    """Encoded again it would lose some: the segments are left out instead."""
    exif = PIL.Image.Exif()
    exif[0x010E] = "by somebody"
    with PIL.Image.open(DATA / "cords.png") as file:
        file.convert("RGB").save(
            "in.jpg", quality=97, exif=exif, comment=b"at home", dpi=(300, 300), icc_profile=images.srgb_profile()
        )
    stdout, _ = dagl("denoise", "in.jpg", "out.jpg", "--sigma", 0, "--strip-metadata", "--json")
    assert json.loads(stdout)["files"][0]["status"] == "unchanged"
    with PIL.Image.open("in.jpg") as before, PIL.Image.open("out.jpg") as after:
        assert np.array_equal(before, after)
        assert not after.getexif()
        assert not {"comment", "dpi"} & after.info.keys()
        assert after.info["icc_profile"] == before.info["icc_profile"]
