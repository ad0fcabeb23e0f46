"""Float pictures: what a network sees of them, that nothing of their range is lost, and the formats that hold them."""

from __future__ import annotations

import builtins
import io
import struct
from typing import Any

import imagecodecs
import numpy as np
import OpenEXR
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from dagl_cli.errors import ImageError
from dagl_cli.images import Image, levels, read, srgb_profile, write
from dagl_cli.images.colour import is_linear
from dagl_cli.images.tone import tone_of


def tiff(values: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, values, **({"metadata": None, "photometric": "minisblack"} | options))
    return stream.getvalue()


def exr(channels: dict[str, np.ndarray], **header: Any) -> bytes:
    stream = io.BytesIO()
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage} | header
    OpenEXR.File(header, channels).write(stream)
    return stream.getvalue()


def written(image: Image, name: str) -> bytes:
    stream = io.BytesIO()
    write(image, stream, format=name)
    return stream.getvalue()


def linear_profile() -> bytes:
    """sRGB's, with straight curves in place of its own."""
    profile = bytearray(srgb_profile())
    for number in range(struct.unpack_from(">I", profile, 128)[0]):
        tag, offset = struct.unpack_from(">4sI", profile, 132 + 12 * number)
        if tag in (b"rTRC", b"gTRC", b"bTRC"):
            profile[offset : offset + 12] = b"curv\0\0\0\0\0\0\0\0"
    return bytes(profile)


@settings(max_examples=40, deadline=None)
@given(
    scale=st.sampled_from([1e-4, 1.0, 30.0, 4096.0, 1e6]), low=st.sampled_from([0.0, -0.1, -1.0]), light=st.booleans(),
    odd=st.lists(st.sampled_from([np.nan, np.inf, -np.inf, 1e30, -1e30]), max_size=3), seed=st.integers(0, 99),
)  # fmt: skip
def test_every_value_comes_back(scale: float, low: float, light: bool, odd: list[float], seed: int) -> None:
    values = (scale * np.random.default_rng(seed).uniform(low, 1, (9, 40, 3))).astype(np.float32)
    values.reshape(-1)[: len(odd)] = odd
    tone = tone_of(values, light)
    pixels = tone.encode(values)
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    back = tone.decode(pixels, values.dtype)
    assert np.array_equal(back.reshape(-1)[: len(odd)], values.reshape(-1)[: len(odd)], equal_nan=True)
    assert back.reshape(-1)[len(odd) :] == pytest.approx(values.reshape(-1)[len(odd) :], rel=1e-4, abs=2e-6 * scale)


def test_the_tone_of_ordinary_pictures_is_none() -> None:
    values = np.linspace(0, 1, 600, dtype=np.float32).reshape(20, 30, 1)
    assert np.array_equal(read(tiff(values[..., 0])).pixels, values)
    assert np.array_equal(levels(read(tiff(values[..., 0]))), values)
    gray = np.full((4, 4), 0.5, np.float16)
    assert read(exr({"Y": gray})).pixels == pytest.approx(0.7354, abs=1e-3)  # sRGB's code of half of the light


def test_a_linear_profile_makes_a_tiff_light() -> None:
    assert is_linear(linear_profile())
    assert not is_linear(srgb_profile())
    assert not is_linear(linear_profile()[:150])
    values = np.full((4, 4, 3), 0.5, np.float32)
    pixels = read(tiff(values, photometric="rgb", iccprofile=linear_profile())).pixels
    assert pixels == pytest.approx(0.7354, abs=1e-3)


def test_one_bright_pixel_leaves_the_others_their_range() -> None:
    values = np.random.default_rng(0).uniform(0, 1, (40, 40, 3)).astype(np.float32)
    usual = tone_of(values, True).encode(values)
    values[3, 3] = 1e6
    tone = tone_of(values, True)
    assert tone.encode(values)[10:].max() > 0.6 * usual.max()
    assert tone.decode(tone.encode(values), values.dtype)[3, 3].tolist() == [1e6] * 3


def test_what_is_no_number_is_known_and_kept() -> None:
    values = np.full((6, 8, 3), 0.5, np.float32)
    values[1, 2, 0], values[4, 5] = np.nan, np.inf
    image = read(exr({"RGB": values}))
    missing = image.missing()
    assert missing is not None
    assert np.argwhere(missing).tolist() == [[1, 2], [4, 5]]
    back = levels(read(written(image, "EXR")))
    assert back[np.isfinite(values)] == pytest.approx(0.5, abs=1e-6)
    assert np.array_equal(back[~np.isfinite(values)], values[~np.isfinite(values)], equal_nan=True)
    with pytest.raises(ImageError, match="not finite"):
        written(image, "HDR")
    nothing = read(tiff(np.full((4, 4), np.nan, np.float32)))
    assert nothing.missing() is not None
    assert np.isnan(levels(read(written(nothing, "TIFF")))).all()


# --- OpenEXR ---------------------------------------------------------------------------------------------------------

RGB = np.random.default_rng(1).random((20, 30, 3)).astype(np.float16)


def test_channels_and_attributes_of_openexr_go_along() -> None:
    window = (np.array([5, 6], np.int32), np.array([34, 25], np.int32))
    other = {"Z": np.full((20, 30), 7, np.float32), "id": np.full((20, 30), 9, np.uint32)}
    source = exr(
        {"RGB": RGB, **other}, owner="Someone", dataWindow=window, compression=OpenEXR.PIZ_COMPRESSION,
        chromaticities=(0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.31, 0.33),
    )  # fmt: skip
    back = OpenEXR.File(io.BytesIO(written(read(source), "EXR")), separate_channels=True)
    for name, plane in other.items():
        assert np.array_equal(back.channels()[name].pixels, plane)
    assert np.array_equal(back.channels()["G"].pixels, RGB[..., 1])
    header, before = back.header(), OpenEXR.File(io.BytesIO(source)).header()
    for name in ("owner", "chromaticities", "compression", "displayWindow", "dataWindow"):
        assert str(header[name]) == str(before[name])
    lossy = read(exr({"RGB": RGB}, compression=OpenEXR.DWAA_COMPRESSION))
    assert OpenEXR.File(io.BytesIO(written(lossy, "EXR"))).header()["compression"] == OpenEXR.ZIP_COMPRESSION


def test_alpha_of_openexr_is_multiplied_in() -> None:
    alpha = np.linspace(0, 1, 600, dtype=np.float16).reshape(20, 30)
    source = exr({"RGBA": np.dstack([RGB * alpha[..., None], alpha])})
    image = read(source)
    assert levels(image)[5:, :, :3] == pytest.approx(RGB[5:], abs=3e-3)
    back = OpenEXR.File(io.BytesIO(written(image, "EXR")), separate_channels=True).channels()
    assert back["R"].pixels == pytest.approx(RGB[..., 0] * alpha, abs=2e-3)
    assert np.array_equal(back["A"].pixels, alpha)


@pytest.mark.parametrize(
    ("channels", "reason"),
    [
        ({"Z": RGB[..., 0], "N": RGB[..., 1]}, "the channels N, Z, and none of R, G and B or Y"),
        ({"Y": RGB[..., 0], "RY": RGB[..., 1]}, "luminance and chroma"),
        ({"Y": np.zeros((4, 4), np.uint32)}, "integers"),
    ],
)
def test_openexr_that_is_no_picture(channels: dict[str, np.ndarray], reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        read(exr(channels))


def test_parts_of_openexr_are_counted(capfd: pytest.CaptureFixture[str]) -> None:
    stream = io.BytesIO()
    parts = [OpenEXR.Part({"type": OpenEXR.scanlineimage}, {"RGB": RGB}, name) for name in ("left", "right")]
    OpenEXR.File(parts).write(stream)
    with pytest.raises(ImageError, match="2 frames or pages"):
        read(stream.getvalue())
    with pytest.raises(ImageError, match="truncated"):
        read(exr({"RGB": RGB})[:-3])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "data"), [("OpenEXR", b"v/1\x01" + bytes(60)), ("pillow_heif", b"\0\0\0\x18ftypheic" + bytes(60))]
)
def test_a_missing_package_names_its_extra(name: str, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    ordinary = builtins.__import__

    def without(module: str, *rest: Any) -> Any:
        if module == name:
            raise ImportError(module)
        return ordinary(module, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImageError, match=r"pip install 'dagl\[(exr|heic)\]'"):
        read(data)


def test_stripping_leaves_what_the_samples_mean() -> None:
    wide = (0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.31, 0.33)
    image = read(exr({"RGB": RGB, "Z": RGB[..., 0]}, owner="Someone", chromaticities=wide))
    image.hdr, image.header_lines = [b"EXPOSURE=2.5"], [b"# by hand"]
    stream = io.BytesIO()
    write(image, stream, format="EXR", strip_metadata=True)
    header = OpenEXR.File(io.BytesIO(stream.getvalue()), separate_channels=True)
    assert "owner" not in header.header()
    assert header.header()["chromaticities"][0] == pytest.approx(0.68)
    assert header.channels().keys() == {"R", "G", "B", "Z"}
    stream = io.BytesIO()
    write(image, stream, format="HDR", strip_metadata=True)
    assert stream.getvalue().startswith(b"#?RADIANCE\nEXPOSURE=2.5\nFORMAT=")


# --- Radiance and PFM ------------------------------------------------------------------------------------------------


def test_lines_and_turns_of_radiance() -> None:
    values = np.ldexp(np.random.default_rng(2).integers(128, 256, (6, 9, 3)).astype(np.float32), -8)
    pixels = bytes(imagecodecs.rgbe_encode(values, header=False))
    head = b"#?RADIANCE\n# by hand\nEXPOSURE=2.5\nFORMAT=32-bit_rle_rgbe\n\n%cY 6 %cX 9\n"
    image = read(head % (b"-", b"+") + pixels)
    assert levels(image) == pytest.approx(values, rel=1e-6)
    assert (image.hdr, image.header_lines) == ([b"EXPOSURE=2.5"], [b"# by hand"])
    assert written(image, "HDR").startswith(b"#?RADIANCE\nEXPOSURE=2.5\n# by hand\nFORMAT=")
    assert np.array_equal(imagecodecs.rgbe_decode(written(image, "HDR")), values)
    assert levels(read(head % (b"+", b"-") + pixels)) == pytest.approx(values[::-1, ::-1], rel=1e-6)


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"#?RADIANCE\nFORMAT=32-bit_rle_xyze\n\n-Y 1 +X 1\n", "XYZ"),
        (b"#?RADIANCE\n\n+X 1 -Y 1\n", "column by column"),
        (b"#?RADIANCE\n\nnonsense\n", "header"),
        (b"#?RADIANCE\n-Y 1 +X 1\n", "header"),
        (b"#?RADIANCE\n\n-Y 99999999 +X 99999999\n", "limit"),
        (b"PF\n99999999 99999999\n-1\n", "limit"),
        (b"PF\n2 2\n0\n", "header"),
        (b"Pf\n2 2\n-1\n1234", "truncated"),
    ],
)
def test_damaged_headers(head: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        read(head)


def test_pfm_of_either_byte_order() -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    for order, scale in (("<", b"-1.0"), (">", b"1.0")):
        data = b"Pf\n3 2\n" + scale + b"\n" + values[::-1].astype(order + "f4").tobytes()
        assert levels(read(data))[..., 0] == pytest.approx(values, abs=1e-6)
