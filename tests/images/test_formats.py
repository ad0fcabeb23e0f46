"""The table of formats: every cell of it is what really survives, read by dagl and, where it can, by somebody else."""

from __future__ import annotations

import io
from fractions import Fraction

import imagecodecs
import numpy as np
import PIL.Image
import pytest

from dagl_cli.errors import ImageError
from dagl_cli.images import FORMATS, Image, Resolution, read, srgb_profile, write
from dagl_cli.images.exif import Entry, Tiff, _block

CELLS = [(name, depth) for name, format in FORMATS.items() for depth in (8, 16)]
LOSSY = {"JPEG", "AVIF"}
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a/></x:xmpmeta>'


def picture(channels: int = 3, depth: int = 8, alpha: bool = False) -> Image:
    """Smooth, so that lossy formats come near it."""
    y, x = np.mgrid[:24, :40] / 40
    levels = np.rint(np.stack([x, y, 1 - x], -1)[..., :channels] * (2**depth - 1))
    mask = np.arange(24 * 40).reshape(24, 40).astype(np.uint8 if depth == 8 else np.uint16) if alpha else None
    return Image((levels / (2**depth - 1)).astype(np.float32), mask, depth)


def exif_block() -> bytes:
    tiff = Tiff(b"", "<", False, 0)
    block = _block(tiff, {271: Entry(2, b"Maker\0"), 315: Entry(2, "Zoë\0".encode())})
    assert block is not None
    return block


def through(image: Image, name: str) -> tuple[Image, list[str]]:
    stream = io.BytesIO()
    notes = write(image, stream, format=name)
    return read(stream.getvalue()), notes


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize(("name", "depth"), CELLS)
def test_depth_and_alpha(name: str, depth: int, alpha: bool, channels: int) -> None:
    image, format = picture(channels, depth, alpha), FORMATS[name]
    if depth not in format.depths or (alpha and not format.alpha):
        with pytest.raises(ImageError, match="bits per sample" if depth not in format.depths else "alpha"):
            through(image, name)
        return
    back, notes = through(image, name)
    assert (back.format, back.depth, back.alpha is not None, notes) == (name, depth, alpha, [])
    wanted = np.broadcast_to(image.pixels, (24, 40, 3)) if not format.gray else image.pixels
    assert back.pixels.shape == wanted.shape
    assert np.abs(back.pixels - wanted).max() <= (4 / 255 if name in LOSSY else 1e-7)
    if image.alpha is not None and back.alpha is not None:
        assert np.abs(back.alpha.astype(int) - image.alpha).max() <= (4 if name in LOSSY else 0)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("what", ["icc", "exif", "xmp", "resolution", "png_text", "jpeg_segments"])
def test_metadata(name: str, what: str) -> None:
    value = {
        "icc": srgb_profile(), "exif": exif_block(), "xmp": XMP, "png_text": [(b"tEXt", b"Author\0Someone")],
        "resolution": Resolution(Fraction(300), Fraction(150), "inch"), "jpeg_segments": b"\xff\xfe\0\x06note",
    }[what]  # fmt: skip
    image = picture()
    setattr(image, what, value)
    back, notes = through(image, name)
    if what not in FORMATS[name].keeps:
        assert not getattr(back, what)
        assert len(notes) == 1
        assert notes[0].startswith(f"{name} holds no ")
        return
    assert notes == []
    if what == "resolution":
        assert back.resolution is not None
        assert [float(v) for v in back.resolution.to("inch")[:2]] == pytest.approx([300, 150], abs=0.02)
    else:
        assert getattr(back, what) == value


@pytest.mark.parametrize("name", FORMATS)
def test_a_truncated_file_is_refused(name: str) -> None:
    stream = io.BytesIO()
    write(picture(), stream, format=name)
    data = stream.getvalue()
    for keep in range(0, len(data) - 2, max(1, len(data) // 30)):
        with pytest.raises(ImageError):
            read(data[:keep])


@pytest.mark.parametrize("name", FORMATS)
def test_the_limit_is_asked_first(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO()
    write(picture(), stream, format=name)
    for decoder in ("png", "webp", "jpeg2k", "avif", "jpegxl"):
        monkeypatch.setattr(imagecodecs, f"{decoder}_decode", None)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)
    monkeypatch.setattr("tifffile.TiffPage.asarray", None)
    with pytest.raises(ImageError, match="40x24 = 960 pixels are more than the limit of 959"):
        read(stream.getvalue(), max_pixels=959)


@pytest.mark.parametrize("name", ["JPEG2000", "AVIF", "PNM"])
@pytest.mark.parametrize("channels", [1, 3])
def test_others_read_it_too(name: str, channels: int) -> None:
    stream = io.BytesIO()
    write(picture(channels), stream, format=name)
    with PIL.Image.open(stream) as other:
        levels = np.asarray(other.convert("L" if channels == 1 else "RGB")).reshape(24, 40, channels)
    assert np.abs(levels / 255 - picture(channels).pixels).max() <= (4 / 255 if name in LOSSY else 1e-7)


def test_deep_avif_is_read_at_its_depth() -> None:
    levels = np.arange(24 * 40 * 3, dtype=np.uint16).reshape(24, 40, 3) % 1024
    image = read(bytes(imagecodecs.avif_encode(levels, bitspersample=10)))
    assert image.depth == 16
    assert np.abs(image.pixels * 1023 - levels).max() < 0.02


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"P1\n# a comment\n3 1\n0 10", [[1, 0, 1]]),
        (b"P4 3 1\n\x40", [[1, 0, 1]]),
        (b"P2 3 1 4\n0 2 4\n", [[0, 128 / 255, 1]]),
        (b"P5\n3 1\n# depth\n255\n\0\x80\xff", [[0, 128 / 255, 1]]),
        (b"P2 3 1 65535\n0 257 65535\n", [[0, 257 / 65535, 1]]),
        (b"P5 2 1 1023\n\0\0\3\xff", [[0, 1]]),
        (b"P3 1 1 255 255 0 51", [[[1, 0, 0.2]]]),
    ],
)
def test_kinds_of_pnm(data: bytes, expected: list[object]) -> None:
    assert read(data).pixels.squeeze(-1 if data[1:2] != b"3" else ()) == pytest.approx(np.array(expected), abs=1e-6)


@pytest.mark.parametrize(
    "data", [b"P5 3 1 255\n\0\0", b"P5 x", b"P2 2 1 9\n1 10", b"P5 2 1 70000\n\0\0\0\0", b"P3 1 1 9\n1 -1 1"]
)
def test_damaged_pnm(data: bytes) -> None:
    with pytest.raises(ImageError):
        read(data)


@pytest.mark.parametrize("boxed", [False, True])
def test_jpeg_xl_of_others(boxed: bool) -> None:
    deep = np.arange(24 * 40 * 3, dtype=np.uint16).reshape(24, 40, 3)
    with pytest.raises(ImageError, match="not sRGB"):  # imagecodecs calls it linear
        read(bytes(imagecodecs.jpegxl_encode(deep, bitspersample=10, lossless=True, usecontainer=boxed)))
    lossy = read(bytes(imagecodecs.jpegxl_encode(np.full((24, 40, 3), 99, np.uint8), distance=1, usecontainer=boxed)))
    assert lossy.pixels == pytest.approx(99 / 255, abs=2 / 255)
    with pytest.raises(ImageError, match="floating-point"):
        read(bytes(imagecodecs.jpegxl_encode(np.zeros((24, 40, 3), np.float32), usecontainer=boxed)))
    frames = np.zeros((3, 24, 40, 3), np.uint8)
    with pytest.raises(ImageError, match="animation"):
        read(bytes(imagecodecs.jpegxl_encode(frames, usecontainer=boxed)))
