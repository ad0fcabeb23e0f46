"""The table of formats: every cell of it is what really survives, read by dagl and, where it can, by somebody else."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import PIL.Image
import PIL.ImageCms
import pytest

import dagl_cli
from dagl_cli import frames
from dagl_cli.errors import ImageError
from dagl_cli.images import FORMATS, Image, Resolution, jpegxl, levels, read, srgb_profile, write
from dagl_cli.images.colour import is_linear
from dagl_cli.images.exif import Entry, Tiff, _block
from dagl_cli.images.tone import tone_of

WRITTEN = [name for name, format in FORMATS.items() if format.encode]
CELLS = [(name, kind) for name in WRITTEN for kind in ("uint8", "uint16", "float16", "float32")]
LOSSY = {"JPEG", "AVIF"}
WHAT = ("icc", "exif", "xmp", "resolution", "png_text", "jpeg_segments", "header_lines", "record")
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a/></x:xmpmeta>'


def picture(channels: int = 3, kind: str = "uint8", alpha: bool = False) -> Image:
    """Smooth, so that lossy formats come near it. Floats reach from below 0 to above 4 times white."""
    y, x = np.mgrid[:24, :40] / 40
    values = np.stack([x, y, 1 - x], -1)[..., :channels]
    dtype = np.dtype(kind)
    mask = (np.arange(24 * 40).reshape(24, 40) % 251).astype(dtype) if alpha else None
    if dtype.kind == "f":
        values = (3 * values - 0.25).astype(dtype)
        values[3, 4], values[5, 6] = 50, -7
        mask = None if mask is None else mask / dtype.type(256)
        tone = tone_of(values, light=True)
        return Image(tone.encode(values), mask, 8 * dtype.itemsize, tone=tone)
    top = np.iinfo(dtype).max
    return Image((np.rint(values * top) / top).astype(np.float32), mask, 8 * dtype.itemsize)


def fitting(name: str) -> Image:
    """A picture that a format can hold."""
    format = FORMATS[name]
    return picture(kind=f"uint{format.depths[0]}" if format.depths else f"float{format.floats[-1]}")


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
@pytest.mark.parametrize(("name", "kind"), CELLS)
def test_depth_and_alpha(name: str, kind: str, alpha: bool, channels: int) -> None:
    image, format = picture(channels, kind, alpha), FORMATS[name]
    held = image.depth in (format.depths if image.tone is None else format.floats)
    if not held or (alpha and not format.alpha):
        with pytest.raises(ImageError, match="alpha" if held else "bits? per sample|float samples"):
            through(image, name)
        return
    back, notes = through(image, name)
    said = ["HDR holds no values below 0: they are 0"] if name == "HDR" else []
    assert (back.format, back.alpha is not None, notes) == (name, alpha, said)
    assert back.dtype == ("float32" if name == "HDR" else kind)
    wanted, found = levels(image), levels(back)
    if not format.gray:
        wanted = np.concatenate([wanted[..., :1]] * (3 if channels == 1 else 1) + [wanted[..., 1:]], 2)
    assert found.shape == wanted.shape
    if name == "HDR":  # 8 bits beside the largest of the three
        wanted = wanted.clip(0)
        assert (np.abs(found - wanted) <= wanted.max(-1, keepdims=True) / 255).all()
    elif image.tone:
        assert found == pytest.approx(wanted, rel=1e-3 if kind == "float16" else 3e-6, abs=1e-5)
        assert np.array_equal(found[3, 4], wanted[3, 4])
    else:
        assert np.abs(found.astype(int) - wanted).max() <= (4 if name in LOSSY else 0)


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("what", [*WHAT, "exr_channels", "exr_attributes"])
def test_metadata(name: str, what: str) -> None:
    value: Any = {
        "icc": srgb_profile(), "exif": exif_block(), "xmp": XMP, "png_text": [(b"tEXt", b"Author\0Someone")],
        "resolution": Resolution(Fraction(300), Fraction(150), "inch"), "jpeg_segments": b"\xff\xfe\0\x06note",
        "header_lines": [b"# VIEW= -vtv"], "record": {"task": "denoise", "model": 'a "b" <c>\n'},
        "exr_channels": {"Z": np.ones((24, 40), np.float16)}, "exr_attributes": {"owner": "Someone"},
    }[what]  # fmt: skip
    image = fitting(name)
    setattr(image, what, value)
    back, notes = through(image, name)
    notes = [note for note in notes if "below 0" not in note]
    kept = what in FORMATS[name].keeps or (what == "record" and "xmp" in FORMATS[name].keeps)
    if what == "record" and not kept:  # it was no part of the picture
        assert (back.record, notes) == ({}, [])
        return
    if not kept:
        assert not getattr(back, what)
        assert len(notes) == 1
        assert notes[0].startswith(f"{name} holds no ")
        return
    if (name, what) == ("HDR", "resolution"):
        assert back.resolution == Resolution(Fraction(2), Fraction(1), "none")
        assert notes == ["its resolution is left out, of which HDR holds the shape of a pixel only"]
        return
    assert notes == []
    if what == "resolution":
        assert back.resolution is not None
        assert [float(v) for v in back.resolution.to("inch")[:2]] == pytest.approx([300, 150], abs=0.02)
    elif what == "exr_channels":
        assert np.array_equal(back.exr_channels["Z"], value["Z"])
    else:
        assert getattr(back, what) == value


@pytest.mark.parametrize("name", WRITTEN)
def test_a_truncated_file_is_refused(name: str) -> None:
    stream = io.BytesIO()
    write(fitting(name), stream, format=name)
    data = stream.getvalue()
    for keep in range(0, len(data) - 2, max(1, len(data) // 30)):
        with pytest.raises(ImageError):
            read(data[:keep])


@pytest.mark.parametrize("name", WRITTEN)
def test_the_limit_is_asked_first(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO()
    write(fitting(name), stream, format=name)
    for decoder in ("png", "webp", "jpeg2k", "avif", "jpegxl", "rgbe"):
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
    deep = np.arange(24 * 40 * 3, dtype=np.uint16).reshape(24, 40, 3) % 1024
    linear = read(bytes(imagecodecs.jpegxl_encode(deep, bitspersample=10, lossless=True, usecontainer=boxed)))
    assert (linear.depth, is_linear(linear.icc or b"")) == (16, True)  # as imagecodecs calls it
    assert np.abs(linear.pixels * 1023 - deep).max() < 0.02
    lossy = read(bytes(imagecodecs.jpegxl_encode(np.full((24, 40, 3), 99, np.uint8), distance=1, usecontainer=boxed)))
    assert lossy.pixels == pytest.approx(99 / 255, abs=2 / 255)
    with pytest.raises(ImageError, match="floating-point"):
        read(bytes(imagecodecs.jpegxl_encode(np.zeros((24, 40, 3), np.float32), usecontainer=boxed)))
    frames = np.zeros((3, 24, 40, 3), np.uint8)
    with pytest.raises(ImageError, match="animation"):
        read(bytes(imagecodecs.jpegxl_encode(frames, usecontainer=boxed)))


def test_numbered_colours_of_avif_go_into_a_png_and_are_missed_elsewhere() -> None:
    stream = io.BytesIO()
    write(picture(), stream, format="AVIF")
    data = stream.getvalue()
    place = data.index(b"colrnclx") + 8
    assert read(data).png_colours == []
    image = read(data[:place] + bytes([0, 9, 0, 16]) + data[place + 4 :])  # BT.2020, PQ
    assert image.png_colours == [(b"cICP", bytes([9, 16, 0, 1]))]
    assert through(image, "PNG")[0].png_colours == image.png_colours
    assert through(image, "AVIF")[1] == ["AVIF is not told what its colours are (as PQ, HLG): choose .png to keep that"]


def stepped(number: int) -> list[tuple[int, int]]:
    """A chromaticity's number as JPEG XL codes it: (bits, value) of the way and of the rest."""
    for way, (bits, start) in reversed([*enumerate(jpegxl._STEPS)]):
        if number >= start:
            return [(2, way), (bits, number - start)]
    raise ValueError(number)


P3_LINEAR = [(2, 1), (2, 2), (4, 9), (1, 0), (2, 2), (4, 6)]
"""D65, P3's primaries, no gamma, the linear curve: (bits, value) of each number and of the way that it is coded in."""
GAMMA = [(2, 1), (2, 1), (1, 1), (24, 4_545_455)]
"""D65, sRGB's primaries, gamma 1 / 2.2."""
ADOBE = [
    (2, 2), (4, 0), *stepped(625_400), *stepped(658_000), (2, 2), (4, 0),
    *(pair for number in (1_280_000, 660_000, 420_000, 1_420_000, 300_000, 120_000) for pair in stepped(number)),
    (1, 0), (2, 2), (4, 11),
]  # fmt: skip
"""Adobe RGB's white and primaries as numbers of their own, sRGB's curve."""
PQ = [(2, 1), (2, 2), (4, 7), (1, 0), (2, 2), (4, 14)]


def coloured(numbers: list[tuple[int, int]]) -> bytes:
    """A JPEG XL codestream of 8 bits in these colours: the header of an sRGB one is written anew."""
    plain = bytes(imagecodecs.jpegxl_encode(np.full((24, 40, 3), 99, np.uint8), lossless=True, usecontainer=False))
    bits = jpegxl.Bits(plain[2:])
    bits.size()
    bits.take(1)
    jpegxl._channels(bits)
    start = bits.used
    assert (bits.take(1), bits.take(2), bits.take(1)) == (1, 0, 1)  # sRGB, no extensions, the usual transform
    pixels = plain[2 + (bits.used + 7) // 8 :]
    head, length = int.from_bytes(plain[2:], "little") & (1 << start) - 1, start
    for count, value in [(1, 0), (1, 0), (2, 0), *numbers, (2, 1), (2, 0), (1, 1)]:  # the intent: relative
        head, length = head | value << length, length + count
    return plain[:2] + head.to_bytes((length + 7) // 8, "little") + pixels


@pytest.mark.parametrize(
    ("numbers", "green", "straight"),
    [(P3_LINEAR, (0.2846, 0.6746), True), (GAMMA, (0.3212, 0.5979), False), (ADOBE, (0.2302, 0.7015), False)],
)
def test_numbered_colours_of_jpeg_xl_become_a_profile(
    numbers: list[tuple[int, int]], green: tuple[float, float], straight: bool
) -> None:
    """green: the chromaticity that it has in the white of profiles, D50."""
    image = read(coloured(numbers))
    assert np.array_equal(levels(image), np.full((24, 40, 3), 99))
    assert image.icc is not None
    assert is_linear(image.icc) == straight
    colorant = PIL.ImageCms.ImageCmsProfile(io.BytesIO(image.icc)).profile.green_colorant
    assert colorant is not None
    x, y, z = colorant[0]
    assert (x / (x + y + z), y / (x + y + z)) == pytest.approx(green, abs=2e-3)
    assert read(coloured(numbers)).icc == image.icc
    stream = io.BytesIO()
    assert write(image, stream, format="JPEGXL") == ["JPEGXL holds no ICC profile: left out"]


def test_colours_of_jpeg_xl_without_a_profile_are_refused() -> None:
    with pytest.raises(ImageError, match="PQ, HLG"):
        read(coloured(PQ))


@pytest.mark.parametrize("name", WRITTEN)
def test_pages(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{FORMATS[name].suffixes[0]}"
    if FORMATS[name].pages:
        first, *more = [PIL.Image.new("RGB", (9, 8), colour) for colour in ("red", "green")]
        first.save(path, save_all=True, append_images=more)
        found = frames.find(path)
        assert found is not None
        found.close()
    else:
        write(fitting(name), path)
        assert frames.find(path) is None


def formats_table() -> str:
    """What the rows of `FORMATS` say, whose cells the tests above try."""

    def cell(value: object) -> str:
        return value if isinstance(value, str) else "yes" if value else "–"

    lines = ["| format | endings | integers | floats | alpha | gray | ICC | EXIF | XMP | resolution | pages | record |"]
    lines.append("|---|" + "---|" * 11)
    for name, format in FORMATS.items():
        bits = [", ".join(map(str, kinds)) for kinds in (format.depths, format.floats)]
        kept = [what in format.keeps for what in ("icc", "exif", "xmp", "resolution")]
        record = bool(format.encode) and bool(format.keeps & {"xmp", "record"})
        title = name if format.encode else f"{name}, read only"
        cells = [title, " ".join(format.suffixes), *bits, format.alpha, format.gray, *kept, format.pages, record]
        lines.append(f"| {' | '.join(map(cell, cells))} |")
    return "\n".join(lines) + "\n"


def test_the_table_in_the_documents_is_this_one() -> None:
    text = (Path(dagl_cli.__file__).parent / "README.md").read_text(encoding="utf-8")
    assert f"<!-- formats -->\n{formats_table()}<!-- end of formats -->" in text
