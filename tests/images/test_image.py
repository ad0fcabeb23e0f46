"""What dagl must never lose: bits, alpha, colours, metadata, and the files that are already there."""

from __future__ import annotations

import errno
import io
import logging
import os
import struct
import zlib
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import PIL.Image
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dagl_cli.errors import ImageError
from dagl_cli.images import NAMES, SUFFIXES, Image, Resolution, is_image_path, read, result_suffix, write, writing

ICC = b"\0" * 16 + b"RGB " + bytes(16) + b"acsp" + bytes(range(256)) * 2
GRAY_ICC = b"\0" * 16 + b"GRAY" + bytes(16) + b"acsp" + bytes(200)
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6" xmp:Rating="4"/></x:xmpmeta>'


def per_inch(x: int, y: int) -> Resolution:
    return Resolution(Fraction(x), Fraction(y), "inch")


def dpi(image: Image) -> tuple[float, float]:
    assert image.resolution is not None
    x, y, unit = image.resolution.to("inch")
    assert unit == "inch"
    return float(x), float(y)


def alpha_of(image: Image) -> np.ndarray:
    assert image.alpha is not None
    return image.alpha


def levels_of(image: Image) -> np.ndarray:
    return np.rint(image.pixels.astype(np.float64) * (2**image.depth - 1)).astype(np.int64)


def random_levels(shape: tuple[int, ...], depth: int = 8, seed: int = 0) -> np.ndarray:
    dtype = np.uint8 if depth == 8 else np.uint16
    return np.random.default_rng(seed).integers(0, 2**depth, shape, dtype)


def picture(
    height: int = 6, width: int = 9, channels: int = 3, depth: int = 8, alpha: bool = False, seed: int = 0
) -> Image:
    levels = random_levels((height, width, channels), depth, seed)
    mask = random_levels((height, width), depth, seed + 1) if alpha else None
    return Image((levels / (2**depth - 1)).astype(np.float32), mask, depth)


def saved(image: Image, format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    write(image, stream, format=format, **options)
    return stream.getvalue()


def png(levels: np.ndarray) -> bytes:
    return bytes(imagecodecs.png_encode(levels))


def with_pillow(array: np.ndarray | PIL.Image.Image, format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture = array if isinstance(array, PIL.Image.Image) else PIL.Image.fromarray(array)
    picture.save(stream, format, **options)
    return stream.getvalue()


def with_tifffile(array: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, **({"metadata": None} | options))
    return stream.getvalue()


def exif_block(orientation: int = 1) -> bytes:
    exif = PIL.Image.Exif()
    exif[271], exif[274], exif[315] = "Maker", orientation, "Someone"
    exif.get_ifd(34665)[33434] = 0.004
    exif.get_ifd(34665)[37500] = b"maker note with offsets"
    exif.get_ifd(34853)[1] = "N"
    return exif.tobytes()[6:]


def parsed(block: bytes | None) -> PIL.Image.Exif:
    exif = PIL.Image.Exif()
    assert block is not None
    exif.load(block)
    return exif


def png_with(data: bytes, kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return data[:33] + struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body)) + data[33:]


def refusal(source: Path | bytes, **options: Any) -> str:
    with pytest.raises(ImageError) as caught:
        read(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("cannot read ")
    return message


# --- round trips -----------------------------------------------------------------------------------------------------

KINDS = [
    (suffix, depth, channels, alpha)
    for suffix, depths, alphas in [
        (".png", (8, 16), (False, True)),
        (".tif", (8, 16), (False, True)),
        (".bmp", (8,), (False,)),
        (".webp", (8,), (False, True)),
    ]
    for depth in depths
    for alpha in alphas
    for channels in (1, 3)
]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(KINDS),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    stem=st.sampled_from(["a", "two words", "ñandú", "写真", "фото 1", "שלום", "a.b", "-x"]),
    seed=st.integers(0, 1000),
)
def test_lossless_formats_return_every_level(
    tmp_path: Path, kind: tuple[str, int, int, bool], height: int, width: int, stem: str, seed: int
) -> None:
    suffix, depth, channels, alpha = kind
    image = picture(height, width, channels, depth, alpha, seed)
    if alpha:
        alpha_of(image)[0, 0] = 0  # a fully opaque alpha channel is one that WebP does not store
    path = tmp_path / (stem + suffix)
    write(image, path, overwrite=True)
    back = read(path)
    expected = levels_of(image)
    if suffix == ".webp":  # no gray in WebP
        expected = np.broadcast_to(expected, (height, width, 3))
    assert back.pixels.dtype == np.float32
    assert back.pixels.flags.c_contiguous
    assert (back.format, back.depth) == (SUFFIXES[suffix], depth)
    assert np.array_equal(levels_of(back), expected)
    assert (back.alpha is None) == (not alpha)
    if alpha:
        assert alpha_of(back).dtype == alpha_of(image).dtype
        assert np.array_equal(alpha_of(back), alpha_of(image))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_low_bits_of_16_survive(tmp_path: Path, suffix: str, channels: int) -> None:
    levels = np.array([0, 1, 255, 256, 257, 32767, 32768, 65534, 65535], np.uint16)
    image = Image(np.repeat(levels.reshape(3, 3, 1), channels, 2).astype(np.float32) / 65535, depth=16)
    write(image, tmp_path / f"x{suffix}")
    assert np.array_equal(levels_of(read(tmp_path / f"x{suffix}"))[..., 0].ravel(), levels)
    other = tifffile.imread(tmp_path / "x.tif") if suffix == ".tif" else imagecodecs.imread(tmp_path / "x.png")
    assert other.dtype == np.uint16
    assert np.array_equal(other.reshape(9, -1)[:, 0], levels)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("alpha", [False, True])
def test_tall_narrow_png(depth: int, channels: int, alpha: bool) -> None:
    for height in (100, 300, 1000, 20000):
        for width in (1, 2, 5):
            image = picture(height, width, channels, depth, alpha)
            back = read(saved(image, "PNG"))
            assert np.array_equal(levels_of(back), levels_of(image)), (height, width)
            assert np.array_equal(alpha_of(back), alpha_of(image)) if alpha else back.alpha is None


def test_every_level_survives_the_float() -> None:
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert np.array_equal(levels_of(read(png(ramp)))[..., 0], ramp)
    assert np.array_equal(imagecodecs.png_decode(saved(read(png(ramp)), "PNG")), ramp)


def test_values_are_rounded_and_clipped() -> None:
    pixels = np.array([-0.5, 0.4 / 255, 0.6 / 255, 99.6 / 255, 254.6 / 255, 1.5], np.float32).reshape(1, 6, 1)
    image = Image(pixels)
    assert levels_of(read(saved(image, "PNG"))).ravel().tolist() == [0, 0, 1, 100, 255, 255]
    assert image.pixels is pixels
    assert pixels[0, 0, 0] == -0.5


def test_colour_under_full_transparency_is_kept() -> None:
    image = replace(picture(), alpha=np.zeros((6, 9), np.uint8))
    for format in ("PNG", "TIFF", "WEBP"):
        assert np.array_equal(levels_of(read(saved(image, format))), levels_of(image)), format


# --- kinds of input --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "options", "channels", "alpha"),
    [
        ("1", {}, 1, False),
        ("1", {"transparency": 1}, 1, True),
        ("L", {}, 1, False),
        ("L", {"transparency": 90}, 1, True),
        ("LA", {}, 1, True),
        ("P", {}, 3, False),
        ("P", {"bits": 4}, 3, False),
        ("P", {"transparency": 3}, 3, True),
        ("P", {"transparency": bytes([0, 128, 7])}, 3, True),
        ("RGB", {"transparency": (1, 2, 3)}, 3, True),
        ("RGBA", {}, 3, True),
    ],
)
def test_png_modes(mode: str, options: dict[str, Any], channels: int, alpha: bool) -> None:
    source = PIL.Image.fromarray(random_levels((7, 5, 3)))
    source.putpixel((0, 0), (1, 2, 3))
    source = source.convert(mode, colors=16 if "bits" in options else 256)
    if mode in ("L", "P"):  # one pixel of each transparent level
        source.putpixel((0, 0), 90 if mode == "L" else 3)
        source.putpixel((1, 0), 1)
    if mode in ("LA", "RGBA"):
        source.putalpha(PIL.Image.fromarray(random_levels((7, 5))))
    data = with_pillow(source, "PNG", **options)
    image = read(data)
    reference = np.asarray(PIL.Image.open(io.BytesIO(data)).convert("RGBA"))
    assert image.pixels.shape == (7, 5, channels)
    assert image.depth == 8
    assert np.array_equal(levels_of(image), reference[..., :channels])
    assert (image.alpha is not None) == alpha
    if alpha:
        assert np.array_equal(alpha_of(image), reference[..., 3])
        assert len(np.unique(alpha_of(image))) > 1


def test_16_bit_png_with_a_transparent_colour() -> None:
    levels = random_levels((4, 5, 3), 16)
    image = read(png_with(png(levels), b"tRNS", struct.pack(">HHH", *map(int, levels[1, 2]))))
    assert image.depth == 16
    assert np.array_equal(levels_of(image), levels)
    assert alpha_of(image).dtype == np.uint16
    assert alpha_of(image)[1, 2] == 0
    assert alpha_of(image)[0, 0] == 65535


@pytest.mark.parametrize("depth", [8, 16])
def test_interlaced_png(depth: int) -> None:
    """Adam7, written by hand: seven small images in one."""
    levels = random_levels((11, 13, 3), depth)
    rows = b""
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    for y, x, dy, dx in passes:
        for row in levels[y::dy, x::dx]:
            rows += b"\0" + row.astype(row.dtype.newbyteorder(">")).tobytes() if row.size else b""
    header = struct.pack(">IIBBBBB", 13, 11, depth, 2, 0, 0, 1)
    body = b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    )
    image = read(b"\x89PNG\r\n\x1a\n" + body)
    assert image.depth == depth
    assert np.array_equal(levels_of(image), levels)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"byteorder": ">"},
        {"compression": "lzw", "predictor": True},
        {"compression": "zlib", "tile": (16, 16)},
        {"planarconfig": "separate"},
        {"rowsperstrip": 3, "byteorder": ">", "compression": "packbits"},
        {"bigtiff": True},
    ],
    ids=str,
)
def test_tiff_layouts(channels: int, depth: int, options: dict[str, Any]) -> None:
    levels = random_levels((20, 33, channels), depth)
    extra: dict[str, Any] = {"extrasamples": ["unassalpha"]} if channels % 2 == 0 else {}
    if channels == 1:
        options = {k: v for k, v in options.items() if k != "planarconfig"}
    elif "planarconfig" not in options:
        extra["planarconfig"] = "contig"
    stored = np.moveaxis(levels, -1, 0) if "planarconfig" in options else levels[..., 0] if channels == 1 else levels
    photometric = "rgb" if channels > 2 else "minisblack"
    image = read(with_tifffile(stored, photometric=photometric, **options, **extra))
    colours = 3 if channels > 2 else 1
    assert image.depth == depth
    assert np.array_equal(levels_of(image), levels[..., :colours])
    assert image.alpha is None if channels % 2 else np.array_equal(alpha_of(image), levels[..., -1])
    names = {"lzw": "LZW", "zlib": "ADOBE_DEFLATE", "packbits": "PACKBITS", None: "NONE"}
    with tifffile.TiffFile(io.BytesIO(saved(image, "TIFF"))) as file:
        expected = names[options.get("compression")]
        assert file.pages[0].compression.name == expected


def test_tiff_palette_bilevel_inverted_and_jpeg() -> None:
    source = PIL.Image.fromarray(random_levels((16, 24, 3)))
    for mode in ("1", "P", "L"):
        expected = np.asarray(source.convert(mode).convert("L" if mode != "P" else "RGB"))
        image = read(with_pillow(source.convert(mode), "TIFF"))
        assert image.depth == 8
        assert np.array_equal(levels_of(image).squeeze(), expected), mode
    for depth in (8, 16):
        levels = random_levels((5, 6), depth)
        image = read(with_tifffile(levels, photometric="miniswhite"))
        assert np.array_equal(levels_of(image)[..., 0], 2**depth - 1 - levels.astype(int))
    data = with_pillow(source, "TIFF", compression="jpeg")
    difference = levels_of(read(data)) - np.asarray(PIL.Image.open(io.BytesIO(data))).astype(int)
    assert abs(difference).max() <= 3
    assert read(data).tiff["compression"] == "zlib"


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("planes", ["contig", "separate"])
def test_alpha_of_an_inverted_tiff_is_not_inverted(depth: int, planes: str) -> None:
    levels = random_levels((5, 6, 2), depth)
    stored = levels if planes == "contig" else np.moveaxis(levels, -1, 0)
    data = with_tifffile(stored, photometric="miniswhite", planarconfig=planes, extrasamples=["unassalpha"])
    image = read(data)
    assert np.array_equal(alpha_of(image), levels[..., 1])
    assert np.array_equal(levels_of(image)[..., 0], 2**depth - 1 - levels[..., 0].astype(int))


def test_a_mosaic_tiff_is_gray() -> None:
    levels = random_levels((6, 8), 16)
    pattern = [(33421, "H", 2, (2, 2), True), (33422, "B", 4, bytes([0, 1, 1, 2]), True)]
    image = read(with_tifffile(levels, photometric="cfa", extratags=pattern))
    assert (image.depth, image.alpha) == (16, None)
    assert np.array_equal(levels_of(image)[..., 0], levels)
    dng = [*pattern, (50706, "B", 4, bytes([1, 4, 0, 0]), True)]
    assert "camera raw file: give its path" in refusal(with_tifffile(levels, photometric="cfa", extratags=dng))


def test_premultiplied_tiff_is_divided_by_alpha() -> None:
    levels = np.array([[[60, 30, 0, 120], [0, 0, 0, 0], [9, 8, 7, 255]]], np.uint8)
    image = read(with_tifffile(levels, photometric="rgb", extrasamples=["assocalpha"]))
    assert levels_of(image).tolist() == [[[128, 64, 0], [0, 0, 0], [9, 8, 7]]]
    assert alpha_of(image).tolist() == [[120, 0, 255]]


def test_tiff_keeps_an_extra_channel_that_is_not_alpha() -> None:
    levels = random_levels((4, 5, 4))
    image = read(with_tifffile(levels, photometric="rgb", extrasamples=["unspecified"]))
    data = saved(image, "TIFF")
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        assert file.pages[0].extrasamples[0].name == "UNSPECIFIED"
        assert np.array_equal(file.asarray(), levels)


def test_jpeg_input_and_output() -> None:
    smooth = np.add.outer(np.arange(40), np.arange(50))[..., None] * np.array([2, 1, 0]) + np.array([0, 9, 80])
    data = with_pillow(smooth.astype(np.uint8), "JPEG", quality=80)
    image = read(data)
    with PIL.Image.open(io.BytesIO(data)) as reference:
        assert np.array_equal(levels_of(image), np.asarray(reference))
        assert image.jpeg_tables == reference.quantization
    with PIL.Image.open(io.BytesIO(saved(image, "JPEG"))) as result:
        assert (result.layer[0][1:3], result.layer[1][1:3]) == ((1, 1), (1, 1))  # 4:4:4
        assert max(result.quantization[0]) <= 12  # quality 95
    gray = read(with_pillow(random_levels((8, 8)), "JPEG"))
    assert gray.pixels.shape == (8, 8, 1)
    assert read(saved(gray, "JPEG")).pixels.shape == (8, 8, 1)


@pytest.mark.parametrize(("mode", "channels"), [("1", 1), ("L", 1), ("P", 3), ("RGB", 3)])
def test_bmp_modes(mode: str, channels: int) -> None:
    source = PIL.Image.fromarray(random_levels((7, 5, 3))).convert(mode)
    image = read(with_pillow(source, "BMP"))
    assert np.array_equal(levels_of(image), np.asarray(source.convert("RGB"))[..., :channels])


def test_format_comes_from_the_content(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(with_pillow(random_levels((8, 8, 3)), "JPEG"))
    assert read(path).format == "JPEG"


def test_image_paths() -> None:
    assert is_image_path("a/B.TIFF")
    assert is_image_path(Path("x.jpeg"))
    assert not is_image_path("a.gif")
    names = ["a.J2K", "a.apng", "a.pbm", "a.ome.btf", "a.JPEG", "a.txt"]
    assert [result_suffix(Path(name)) for name in names] == [".jp2", ".png", ".pnm", ".tif", ".JPEG", ".txt"]
    assert not is_image_path("png")


# --- metadata --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["PNG", "TIFF", "JPEG", "WEBP"])
@pytest.mark.parametrize("target", ["PNG", "TIFF", "JPEG", "WEBP"])
def test_metadata_travels_between_formats(source: str, target: str) -> None:
    image = replace(picture(), icc=ICC, exif=exif_block(), xmp=XMP, resolution=per_inch(300, 150))
    image = read(saved(read(saved(image, source)), target))
    assert image.icc == ICC
    assert image.xmp == XMP
    exif = parsed(image.exif)
    assert (exif[271], exif[315], exif[274]) == ("Maker", "Someone", 1)
    assert float(exif.get_ifd(34665)[33434]) == pytest.approx(0.004)
    assert exif.get_ifd(34665)[37500] == b"maker note with offsets"
    assert exif.get_ifd(34853)[1] == "N"
    if "WEBP" not in (source, target):
        assert dpi(image) == pytest.approx((300, 150), abs=0.02)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "JPEG", "WEBP", "BMP"])
def test_resolution_alone(format: str) -> None:
    assert dpi(read(saved(replace(picture(), resolution=per_inch(240, 240)), format))) == pytest.approx(
        (240, 240), abs=0.02
    )
    if format != "BMP":
        assert read(saved(picture(), format)).resolution is None


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_keeps_metadata_that_others_can_read(format: str, channels: int) -> None:
    alpha = (format, channels) != ("TIFF", 1)  # which Pillow, the witness here, cannot open
    image = replace(
        picture(depth=16, channels=channels, alpha=alpha), icc=ICC, exif=exif_block(), resolution=per_inch(300, 300)
    )
    with PIL.Image.open(io.BytesIO(saved(image, format))) as other:
        assert other.info["icc_profile"] == ICC
        assert other.info["dpi"] == pytest.approx((300, 300), abs=0.02)
        assert other.getexif()[271] == "Maker"
        assert float(other.getexif().get_ifd(34665)[33434]) == pytest.approx(0.004)


def test_little_endian_exif_reaches_a_tiff() -> None:
    exif = parsed(exif_block())
    exif.endian = "<"
    image = read(saved(replace(picture(depth=16), exif=exif.tobytes()[6:]), "TIFF"))
    assert parsed(image.exif)[315] == "Someone"
    assert np.array_equal(levels_of(image), levels_of(picture(depth=16)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_orientation_is_applied_once(orientation: int, format: str) -> None:
    source = replace(picture(5, 8, depth=16, alpha=True), xmp=XMP, resolution=per_inch(300, 150))
    data = saved(replace(source, exif=exif_block(orientation)), format)
    image = read(data)
    transpose = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}.get(orientation)  # PIL.Image.Transpose, as exif_transpose

    def turned(plane: np.ndarray) -> np.ndarray:
        picture = PIL.Image.fromarray(plane.astype(np.int32))
        return np.asarray(picture if transpose is None else picture.transpose(PIL.Image.Transpose(transpose)))

    assert np.array_equal(alpha_of(image), turned(alpha_of(source)))
    for channel in range(3):
        assert np.array_equal(levels_of(image)[..., channel], turned(levels_of(source)[..., channel]))
    assert parsed(image.exif)[274] == 1
    assert image.orientation == orientation
    assert parsed(image.exif)[271] == "Maker"
    assert dpi(image) == pytest.approx((150, 300) if orientation > 4 else (300, 150), abs=0.02)
    assert image.xmp is not None
    assert (b'Orientation="1"' in image.xmp) == (orientation > 1)
    again = read(saved(image, format))
    assert again.orientation == 1
    assert np.array_equal(levels_of(again), levels_of(image))


def test_orientation_of_a_jpeg_agrees_with_pillow() -> None:
    from PIL import ImageOps

    data = with_pillow(random_levels((16, 24, 3)), "JPEG", exif=b"Exif\0\0" + exif_block(6))
    with PIL.Image.open(io.BytesIO(data)) as reference:
        assert np.array_equal(levels_of(read(data)), np.asarray(ImageOps.exif_transpose(reference)))


def test_thumbnail_is_unlinked_and_the_rest_stays_in_place() -> None:
    block = bytearray(exif_block(6))
    assert block[:2] == b"MM"
    end = 8 + 2 + 12 * struct.unpack_from(">H", block, 8)[0]
    struct.pack_into(">I", block, end, len(block))
    image = read(saved(replace(picture(), exif=bytes(block)), "PNG"))
    assert image.exif is not None
    assert struct.unpack_from(">I", image.exif, end) == (0,)
    assert len(image.exif) == len(block)


def test_damaged_exif_does_not_cost_the_image() -> None:
    for block in (b"", b"garbage", b"II*\0\xff\xff\xff\x7f", exif_block(3)[:30], b"MM\0*\0\0\0\x08\xff\xff"):
        with_exif = png_with(png(random_levels((4, 4))), b"eXIf", block)
        assert read(with_exif).pixels.shape == (4, 4, 1), block
        assert read(with_pillow(random_levels((4, 4)), "JPEG", exif=b"Exif\0\0" + block)).pixels.shape == (4, 4, 1)


def test_strip_metadata_keeps_the_colours_only() -> None:
    image = replace(picture(), icc=ICC, exif=exif_block(), xmp=XMP, resolution=per_inch(300, 300))
    image.png_colours = [(b"gAMA", struct.pack(">I", 100000))]
    image.png_text = [(b"tEXt", b"Author\0Someone")]
    for format in ("PNG", "TIFF", "JPEG", "WEBP"):
        data = saved(image, format, strip_metadata=True)
        back = read(data)
        assert (back.icc, back.exif, back.xmp, back.resolution) == (ICC, None, None, None), format
        assert b"Someone" not in data
    assert read(saved(image, "PNG", strip_metadata=True)).png_colours == image.png_colours
    assert read(saved(image, "PNG", strip_metadata=True)).png_text == []
    assert read(saved(image, "PNG")).png_text == image.png_text


def test_iptc_and_comment_go_from_jpeg_to_jpeg() -> None:
    caption = b"\x1c\x02\x78\0\x04Text"
    block = b"Photoshop 3.0\x008BIM\x04\x04\0\0" + struct.pack(">I", len(caption)) + caption + b"\0"
    segment = b"\xff\xed" + struct.pack(">H", len(block) + 2) + block
    data = with_pillow(random_levels((8, 8, 3)), "JPEG", extra=segment, comment=b"a comment")
    image = replace(read(data), icc=ICC, exif=exif_block(), xmp=XMP)
    with PIL.Image.open(io.BytesIO(saved(image, "JPEG"))) as result:
        assert dict(result.applist)["APP13"] == block
        assert result.info["comment"] == b"a comment"
        assert (result.info["icc_profile"], result.info["xmp"]) == (ICC, XMP)
    for format in ("PNG", "TIFF", "WEBP", "BMP"):
        assert b"8BIM" not in saved(image, format)
    stripped = saved(image, "JPEG", strip_metadata=True)
    assert b"8BIM" not in stripped
    assert b"a comment" not in stripped


def test_gray_profile_is_not_given_to_rgb() -> None:
    assert read(saved(replace(picture(channels=1), icc=GRAY_ICC), "PNG")).icc == GRAY_ICC
    for format in ("PNG", "TIFF", "JPEG"):
        assert read(saved(replace(picture(), icc=GRAY_ICC), format)).icc is None
    assert read(saved(replace(picture(channels=1), icc=GRAY_ICC), "WEBP")).icc is None


def test_imagemagick_exif_in_png_text() -> None:
    text = f"\nexif\n{len(exif_block(3)) + 6:8}\n{(b'Exif' + bytes(2) + exif_block(3)).hex()}\n"
    content = b"Raw profile type exif\0\0" + zlib.compress(text.encode())
    levels = random_levels((4, 5))
    image = read(png_with(png(levels), b"zTXt", content))
    assert parsed(image.exif)[271] == "Maker"
    assert image.png_text == []
    assert np.array_equal(levels_of(image)[..., 0], levels[::-1, ::-1])


# --- what is refused -------------------------------------------------------------------------------------------------

COMPLETE = {
    "png": png(random_levels((32, 32, 3))),
    "png16": png(random_levels((32, 32, 3), 16)),
    "jpeg": with_pillow(random_levels((32, 32, 3)), "JPEG"),
    "progressive": with_pillow(random_levels((32, 32, 3)), "JPEG", progressive=True),
    "tiff": with_tifffile(random_levels((32, 32, 3), 16), photometric="rgb"),
    "lzw": with_tifffile(random_levels((32, 32, 3)), photometric="rgb", compression="lzw"),
    "bmp": with_pillow(random_levels((32, 32, 3)), "BMP"),
    "webp": with_pillow(random_levels((32, 32, 3)), "WEBP", lossless=True),
}


@pytest.mark.parametrize("kind", COMPLETE)
def test_truncated_files_are_refused(kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = COMPLETE[kind]
    read(data)
    path = tmp_path / "cut.img"
    for keep in (*range(0, 64, 3), *range(64, len(data), len(data) // 40), len(data) - 3, len(data) - 1):
        path.write_bytes(data[:keep])
        assert str(path) in refusal(path)
    assert capfd.readouterr() == ("", "")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(sorted(COMPLETE)), place=st.integers(0, 1 << 20), value=st.integers(0, 255))
def test_damaged_bytes_give_an_image_or_one_line(
    capfd: pytest.CaptureFixture[str], kind: str, place: int, value: int
) -> None:
    data = bytearray(COMPLETE[kind])
    data[place % min(len(data), 400)] = value
    try:
        assert read(bytes(data), max_pixels=1 << 20).pixels.dtype == np.float32
    except ImageError as error:
        message = str(error)
        assert "\n" not in message
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("place", "value"), [(8, 3), (9, 1), (9, 3), (10, 1), (11, 1), (12, 2)])
def test_an_impossible_png_header_is_one_line(capfd: pytest.CaptureFixture[str], place: int, value: int) -> None:
    body = bytearray(b"IHDR" + COMPLETE["png16"][16:29])
    body[4 + place] = value
    start = b"\0\0\0\r" + body + struct.pack(">I", zlib.crc32(body))
    assert "header" in refusal(COMPLETE["png16"][:8] + start + COMPLETE["png16"][33:])
    assert capfd.readouterr() == ("", "")


def test_one_wrong_bit_in_a_png_is_noticed() -> None:
    data = bytearray(COMPLETE["png16"])
    data[-100] ^= 1
    assert "damaged" in refusal(bytes(data))


def test_not_images(tmp_path: Path) -> None:
    path = tmp_path / "text.png"
    path.write_text("hello")
    assert str(path) in refusal(path)
    assert f"not a {NAMES} image" in refusal(path)
    path.write_bytes(b"")
    assert "empty" in refusal(path)
    assert "folder" in refusal(tmp_path)
    assert "no such file" in refusal(tmp_path / "missing.png")
    assert "GIF is not supported: convert it" in refusal(with_pillow(random_levels((4, 4)), "GIF"))
    assert refusal(b"", name="standard input").startswith("cannot read standard input: it is empty")
    assert "null" in refusal(Path("a\0b.png")).replace("NUL", "null")


def test_permission_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("builtins.open", denied)  # root, who runs the tests in containers, may read everything
    assert "permission denied" in refusal(tmp_path / "a.png")


def test_several_frames_are_refused() -> None:
    frames = [PIL.Image.fromarray(random_levels((8, 8, 3), seed=seed)) for seed in range(3)]
    for format in ("PNG", "WEBP", "TIFF"):
        data = with_pillow(frames[0], format, save_all=True, append_images=frames[1:])
        assert "3 frames or pages" in refusal(data), format


def test_a_reduced_copy_in_a_tiff_is_no_second_page() -> None:
    levels = random_levels((8, 8, 3))
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as file:
        file.write(levels, photometric="rgb", metadata=None)
        file.write(levels[::2, ::2], photometric="rgb", metadata=None, subfiletype=1)
    assert np.array_equal(levels_of(read(stream.getvalue())), levels)
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as file:
        file.write(levels, photometric="rgb", metadata=None, subfiletype=1)
    assert "preview" in refusal(stream.getvalue())


def test_samples_and_colours_that_would_be_lost_are_refused() -> None:
    cmyk = PIL.Image.new("CMYK", (8, 8))
    assert "CMYK" in refusal(with_pillow(cmyk, "JPEG"))
    assert "convert" in refusal(with_pillow(cmyk, "JPEG"))
    assert "convert" in refusal(with_pillow(cmyk, "TIFF"))
    assert "CIELAB" in refusal(with_pillow(PIL.Image.new("LAB", (8, 8)), "TIFF"))
    floats = np.zeros((8, 8, 3), np.float64)
    assert "64-bit floating-point: convert it to 32-bit" in refusal(with_tifffile(floats, photometric="rgb"))
    assert "32-bit integer" in refusal(with_tifffile(np.zeros((8, 8), np.uint32)))
    assert "signed" in refusal(with_tifffile(np.zeros((8, 8), np.int16)))
    assert "channels" in refusal(with_tifffile(np.zeros((8, 8, 6), np.uint8), photometric="rgb"))


@pytest.mark.parametrize("kind", COMPLETE)
def test_the_limit_is_checked_by_the_header(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for decoder in (
        "PIL.ImageFile.ImageFile.load",
        "imagecodecs.png_decode",
        "imagecodecs.webp_decode",
        "tifffile.TiffPage.asarray",
    ):
        monkeypatch.setattr(decoder, None)
    message = refusal(COMPLETE[kind], name="big.img", max_pixels=1023)
    assert "big.img" in message
    assert "`max_pixels`" in message
    assert "1,024" in message
    assert "1,023" in message


def test_a_bomb_is_refused_and_a_large_image_is_not_warned_about(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    start = b"\0\0\0\rIHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    bomb = COMPLETE["png"][:8] + start + COMPLETE["png"][33:]
    assert "`max_pixels`" in refusal(bomb)
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 900)
    for kind in COMPLETE:
        assert read(COMPLETE[kind]).pixels.shape == (32, 32, 3)
    assert not recwarn.list
    assert PIL.Image.MAX_IMAGE_PIXELS == 900


def test_out_of_memory_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(imagecodecs, "png_decode", full)
    assert "memory" in refusal(COMPLETE["png"])


def test_nothing_is_logged(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    with caplog.at_level(logging.CRITICAL):
        refusal(COMPLETE["tiff"][:40])
    assert capfd.readouterr() == ("", "")
    assert any(isinstance(handler, logging.NullHandler) for handler in logging.getLogger("tifffile").handlers)


# --- writing ---------------------------------------------------------------------------------------------------------


def rejection(image: Image, target: Path | io.BytesIO, **options: Any) -> str:
    with pytest.raises(ImageError) as caught:
        write(image, target, **options)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("cannot write ")
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".jpg", ".bmp", ".webp"])
def test_depth_is_never_reduced(tmp_path: Path, suffix: str) -> None:
    assert "16 bits" in rejection(picture(depth=16), tmp_path / f"x{suffix}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".jpg", ".bmp"])
def test_alpha_is_never_dropped(tmp_path: Path, suffix: str) -> None:
    assert "alpha" in rejection(picture(alpha=True), tmp_path / f"x{suffix}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused(tmp_path: Path, value: int) -> None:
    image = picture()
    image.pixels[3, 4, 1] = value
    assert "not numbers" in rejection(image, tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []


def test_targets_that_cannot_be_written(tmp_path: Path) -> None:
    assert ".png, .jpg" in rejection(picture(), tmp_path / "x.gif")
    assert ".png, .jpg" in rejection(picture(), tmp_path / "x")
    assert str(tmp_path / "no") in rejection(picture(), tmp_path / "no" / "x.png")
    (tmp_path / "d.png").mkdir()
    assert "folder" in rejection(picture(), tmp_path / "d.png", overwrite=True)
    assert "16383" in rejection(picture(1, 16384), tmp_path / "x.webp")
    assert "too long" in rejection(replace(picture(), exif=exif_block() + bytes(70000)), tmp_path / "x.jpg")
    assert "shape" in rejection(replace(picture(), pixels=np.zeros((4, 4, 2), np.float32)), tmp_path / "x.png")
    assert "alpha" in rejection(replace(picture(), alpha=np.zeros((6, 9), np.uint16)), tmp_path / "x.png")


def test_an_existing_file_is_kept_unless_told(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(b"precious")
    path.chmod(0o640)
    assert "exists: use `overwrite`" in rejection(picture(), path)
    assert path.read_bytes() == b"precious"
    write(picture(), path, overwrite=True)
    assert np.array_equal(levels_of(read(path)), levels_of(picture()))
    assert path.stat().st_mode & 0o777 == 0o640 or os.name == "nt"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    path = tmp_path / "x.png"
    encode = writing.encoded

    def slowly(*arguments: Any) -> bytes | memoryview:
        path.write_bytes(b"precious")
        return encode(*arguments)

    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(writing, "encoded", slowly)
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    assert "`overwrite`" in rejection(picture(), path)
    assert path.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    write(picture(), tmp_path / "x.png")
    assert read(tmp_path / "x.png").format == "PNG"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("stage", ["fsync", "replace", "link"])
@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_nothing_partial_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool, stage: str, failure: BaseException
) -> None:
    path = tmp_path / "x.png"
    if overwrite:
        path.write_bytes(b"precious")

    def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(os, stage, fail)
    if stage == "link" and isinstance(failure, OSError):  # then it falls back to a replace
        monkeypatch.setattr(os, "replace", fail)
    used = stage == "fsync" or (stage == "replace") == overwrite or (stage == "link" and isinstance(failure, OSError))
    if not used:
        write(picture(), path, overwrite=overwrite)
        return
    with pytest.raises((ImageError, KeyboardInterrupt)) as caught:
        write(picture(), path, overwrite=overwrite)
    if isinstance(failure, OSError):
        assert str(caught.value) == f"cannot write {path}: No space left on device: free some space"
    assert [p.read_bytes() for p in tmp_path.iterdir()] == ([b"precious"] if overwrite else [])


@pytest.mark.parametrize(
    ("code", "text", "remedy"),
    [
        (errno.EACCES, "Permission denied", ": choose a folder you may write to"),
        (errno.EROFS, "Read-only file system", ": choose a folder you may write to"),
        (errno.ELOOP, "Too many levels of symbolic links", ""),
    ],
)
def test_the_system_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, text: str, remedy: str) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, text)

    monkeypatch.setattr(os, "fsync", refuse)
    path = tmp_path / "x.png"
    assert rejection(picture(), path) == f"cannot write {path}: {text}{remedy}"


def test_streams() -> None:
    stream = io.BytesIO()
    write(replace(picture(), format="TIFF"), stream)
    assert read(stream.getvalue()).format == "TIFF"

    class Closed(io.BytesIO):
        name = "<stdout>"

        def write(self, _: Any) -> int:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    assert rejection(picture(), Closed()) == "cannot write <stdout>: Broken pipe"


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_a_new_file_has_the_usual_permissions(tmp_path: Path) -> None:
    write(picture(), tmp_path / "x.png")
    (tmp_path / "y").touch()
    assert (tmp_path / "x.png").stat().st_mode == (tmp_path / "y").stat().st_mode


def test_large_images_do_not_cost_float64_copies() -> None:
    import tracemalloc

    levels = np.zeros((1000, 1000, 3), np.uint8)
    data = with_pillow(levels, "JPEG")
    tracemalloc.start()
    image = read(data)
    _, reading = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    write(image, io.BytesIO(), format="PNG")
    _, writing = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert reading < 12e6 + 3 * 3e6 + 1e6  # float32, and the decoder's bytes
    assert writing < 12e6 + 3e6 + 10e6  # float32, levels, bands
