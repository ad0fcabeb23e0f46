"""HEIC, which is read only: made here by the package that reads it, whose encoder loses a little."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import numpy as np
import PIL.Image
import pillow_heif
import pytest

from dagl_cli.errors import ImageError
from dagl_cli.images import Resolution, is_image_path, levels, read, result_suffix, srgb_profile, write

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a/></x:xmpmeta>'


def heic(bits: int = 8, alpha: bool = False, **options: object) -> bytes:
    """64 x 40, darker to the right."""
    top = 255 if bits == 8 else 65535
    ramp = np.broadcast_to(np.linspace(0, top, 64).round(), (40, 64))
    planes = np.stack([ramp, top - ramp, ramp, *([top - ramp] if alpha else [])], -1)
    mode = ("RGBA" if alpha else "RGB") + (";16" if bits > 8 else "")
    data = planes.astype(np.uint8 if bits == 8 else np.uint16).tobytes()
    stream = io.BytesIO()
    pillow_heif.from_bytes(mode=mode, size=(64, 40), data=data).save(stream, quality=95, chroma=444, **options)
    return stream.getvalue()


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("alpha", [False, True])
def test_depth_and_alpha(bits: int, alpha: bool) -> None:
    image = read(heic(bits, alpha))
    assert (image.format, image.depth, image.alpha is not None) == ("HEIF", 8 if bits == 8 else 16, alpha)
    ramp = np.broadcast_to(np.linspace(0, 1, 64), (40, 64))
    assert np.abs(image.pixels[..., 0] - ramp).max() < 0.03
    assert levels(image).max() == 2**image.depth - 1
    if bits > 8:
        assert (levels(image) % 257).any()  # more than 8 bits have
    stream = io.BytesIO()
    assert write(image, stream) == []  # a PNG
    assert np.array_equal(levels(read(stream.getvalue())), levels(image))


def test_metadata_is_carried_and_the_picture_is_upright() -> None:
    exif = PIL.Image.Exif()
    exif[271], exif[274], exif[282], exif[283], exif[296] = "Maker", 6, 300.0, 300.0, 2
    image = read(heic(exif=exif.tobytes(), xmp=XMP, icc_profile=srgb_profile(), icc_profile_type="prof"))
    assert image.pixels.shape == (64, 40, 3)  # turned, once
    assert image.pixels[0, :, 0].max() < 0.1
    assert image.xmp == XMP
    assert image.icc == srgb_profile()
    assert image.resolution is not None
    assert image.resolution == Resolution(Fraction(300), Fraction(300), "inch")
    back = PIL.Image.Exif()
    back.load(image.exif or b"")
    assert (back[271], back[274]) == ("Maker", 1)


def test_files_that_are_refused() -> None:
    data = heic()
    with pytest.raises(ImageError, match="limit of 2,559"):
        read(data, max_pixels=2559)
    for keep in range(20, len(data) - 1, len(data) // 9):
        with pytest.raises(ImageError, match="damaged or truncated"):
            read(data[:keep])
    stream = io.BytesIO()
    several = pillow_heif.from_pillow(PIL.Image.new("RGB", (64, 64)))
    several.add_from_pillow(PIL.Image.new("RGB", (64, 64), "red"))
    several.save(stream)
    with pytest.raises(ImageError, match="2 frames"):
        read(stream.getvalue())
    with pytest.raises(ImageError, match="AVIF that calls itself HEIF"):
        read(b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif" + bytes(40))


def test_gray() -> None:
    ramp = np.broadcast_to(np.linspace(0, 255, 64).round().astype(np.uint8), (40, 64))
    stream = io.BytesIO()
    pillow_heif.from_bytes(mode="L", size=(64, 40), data=ramp.tobytes()).save(stream, quality=95)
    assert read(stream.getvalue()).pixels.shape == (40, 64, 1)


def test_wide_colours_without_a_profile_go_into_the_png() -> None:
    profile: dict[str, object] = {
        "color_primaries": 9,
        "transfer_characteristics": 16,
        "matrix_coefficients": 9,
        "full_range_flag": 1,
    }
    image = read(heic(10, False, **profile))
    assert image.png_colours == [(b"cICP", bytes([9, 16, 0, 1]))]
    assert read(heic()).png_colours == []


def test_names() -> None:
    assert is_image_path("IMG_1.HEIC")
    assert result_suffix(Path("a/IMG_1.HEIC")) == ".png"
    with pytest.raises(ImageError, match="not a format that dagl writes"):
        write(read(heic()), Path("x.heic"))
