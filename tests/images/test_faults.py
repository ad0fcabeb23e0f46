"""Files from real life, hostile and odd: nothing lost, nothing let in. Some lie in `data/faults`."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import imagecodecs
import numpy as np
import PIL.Image
import pytest
import tifffile

from dagl_cli.errors import ImageError
from dagl_cli.images import FORMATS, Image, Resolution, exif, is_image_path, read, srgb_profile, write

FAULTS = Path(__file__).parents[1] / "data" / "faults"
TEXT = "© 2024 Café Zürich"
LEVELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)


def saved(image: Image, format: str) -> tuple[bytes, list[str]]:
    stream = io.BytesIO()
    notes = write(image, stream, format=format)
    return stream.getvalue(), notes


def refusal(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        read(data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def outcome(data: bytes) -> str:
    """The error of a file that may be refused."""
    try:
        read(data)
    except ImageError as error:
        return str(error)
    return ""


def tiff(levels: np.ndarray = LEVELS, **options: object) -> bytes:
    stream = io.BytesIO()
    settings: dict[str, object] = {"photometric": "rgb" if levels.ndim == 3 else "minisblack", "metadata": None}
    tifffile.imwrite(stream, levels, **(settings | {"software": False} | options))
    return stream.getvalue()


def pillow(format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    PIL.Image.fromarray(LEVELS).save(stream, format, **options)
    return stream.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(*chunks: bytes) -> bytes:
    data = pillow("PNG")
    return data[:33] + b"".join(chunks) + data[33:]


def tags(block: bytes | None) -> exif.Directory:
    assert block is not None
    structure = exif.Tiff.of(block)
    assert structure is not None
    return structure.everything(structure.first)


def entries(*rows: tuple[int, int, bytes], order: str = "<", big: bool = False) -> bytes:
    """An EXIF block, or with `big` a BigTIFF's start: (tag, type, value) each."""
    directory = {tag: exif.Entry(kind, data) for tag, kind, data in rows}
    start = {"<": b"II", ">": b"MM"}[order]
    start += struct.pack(order + "HHHQ", 43, 8, 0, 16) if big else struct.pack(order + "HI", 42, 8)
    return start + exif._packed(directory, len(start), order, big)


# --- text, tags and orientation --------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["TIFF", "JPEG", "PNG", "WEBP", "AVIF", "JPEGXL", "JPEG2000"])
def test_text_in_exif_stays_byte_for_byte(format: str) -> None:
    data, notes = saved(read(FAULTS / "exif-text-utf8.tif"), format)
    found = tags(read(data).exif)
    assert [found[tag].data for tag in (270, 315, 33432)] == [TEXT.encode() + b"\0"] * 3
    assert notes == []
    assert TEXT.encode() in data
    if format in ("JPEGXL", "JPEG2000"):  # which Pillow does not read, or finds no EXIF in
        return
    with PIL.Image.open(io.BytesIO(data)) as other:
        assert other.getexif()[315].encode("latin-1").decode().rstrip("\0") == TEXT


@pytest.mark.parametrize("text", ["unit=µm".encode(), "unit=µm".encode("latin-1"), "写真 ñ".encode(), b"a\0b\xff\xfe"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_any_text_in_any_encoding(text: bytes, order: str) -> None:
    described = tiff(byteorder=order, extratags=[(270, 2, len(text) + 1, text + b"\0", True)])
    data, _ = saved(read(described), "TIFF")
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        assert file.pages[0].tags[270].count == len(text) + 1
    assert tags(read(data).exif)[270].data == text + b"\0"


def test_descriptions_of_ome_and_imagej_stay() -> None:
    ome = tiff(description='<OME><Pixels PhysicalSizeXUnit="µm"/></OME>'.encode())
    data, _ = saved(read(ome), "TIFF")
    assert tags(read(data).exif)[270].data == '<OME><Pixels PhysicalSizeXUnit="µm"/></OME>\0'.encode()


@pytest.mark.parametrize("format", ["TIFF", "JPEG", "PNG", "WEBP", "AVIF", "JPEGXL", "JPEG2000"])
@pytest.mark.parametrize("name", ["bigtiff-orientation6.tif", "exif-make-is-double.tif", "exif-make-is-double.jpg"])
def test_one_odd_tag_costs_neither_the_orientation_nor_the_others(name: str, format: str) -> None:
    image = read(FAULTS / name)
    assert (image.orientation, image.pixels.shape) == (6, (224, 160, 3))
    data, notes = saved(image, format)
    again = read(data)
    assert (again.orientation, again.pixels.shape, image.notes, notes) == (1, (224, 160, 3), [], [])
    found = tags(again.exif)
    if format != "AVIF":  # which has a place of its own for it
        assert found[274].numbers("<" if again.exif and again.exif[:2] == b"II" else ">") == [1]
    if name.startswith("bigtiff"):
        assert found[315].data == b"Atel\0"
    else:
        assert found[271].kind == 12


ODD = [(1, "B"), (3, "H"), (4, "I"), (6, "b"), (8, "h"), (9, "i"), (11, "f"), (12, "d")]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("kind", "code"), ODD)
def test_an_orientation_of_any_type_is_applied(kind: int, code: str, order: str) -> None:
    block = entries((271, 2, b"Maker\0"), (274, kind, struct.pack(order + code, 8)), order=order)
    for image in (read(pillow("JPEG", exif=b"Exif\0\0" + block)), read(png(chunk(b"eXIf", block)))):
        assert (image.orientation, image.pixels.shape) == (8, (40, 24, 3))
        assert tags(image.exif)[271].data == b"Maker\0"
        assert read(saved(image, "TIFF")[0]).orientation == 1
    flat = read(tiff(bigtiff=True, byteorder=order, extratags=[(274, kind, 1, 8, True)]))
    assert (flat.orientation, flat.pixels.shape) == (8, (40, 24, 3))


def test_a_tag_that_points_out_of_the_file_is_named_and_the_others_stay() -> None:
    data = bytearray(tiff(extratags=[(271, 2, 6, b"Maker\0", True), (315, 2, 8, b"Someone\0", True)]))
    structure = exif.Tiff.of(data)
    assert structure is not None
    *places, _ = structure.entries(structure.first)
    place = next(p for p in places if data[p : p + 2] == struct.pack("<H", 271))
    struct.pack_into("<I", data, place + 8, len(data) + 5)
    image = read(bytes(data))
    assert image.notes == ["damaged tags are left out: Make"]
    assert tags(image.exif)[315].data == b"Someone\0"
    assert np.array_equal(np.rint(image.pixels * 255), LEVELS)


def test_exif_that_cannot_all_go_into_a_tiff_says_what_stays_behind() -> None:
    block = bytearray(entries((271, 2, b"Maker long enough\0"), (315, 2, b"Someone here\0")))
    struct.pack_into("<I", block, 8 + 2 + 8, 70000)
    image = read(pillow("JPEG", exif=b"Exif\0\0" + block))
    data, notes = saved(image, "TIFF")
    assert notes == ["damaged tags are left out: Make"]
    assert tags(read(data).exif)[315].data == b"Someone here\0"
    assert saved(image, "JPEG")[1] == []  # there it is the block that it was


@pytest.mark.parametrize("kind", [2, 7])
def test_bytes_where_a_number_belongs_cost_nothing_else(kind: int) -> None:
    block = entries((274, kind, b"6"), (315, 2, b"Someone here\0"), (34665, kind, b"abc\0"), (34853, kind, b"abc\0"))
    image = read(pillow("JPEG", exif=b"Exif\0\0" + block))
    data, notes = saved(image, "TIFF")
    assert sorted(notes[0].removeprefix("damaged tags are left out: ").split(", ")) == ["ExifOffset", "GPSInfo"]
    assert tags(read(data).exif)[315].data == b"Someone here\0"
    tagged = tiff(extratags=[(282, 2, 4, b"abc\0", True), (283, 2, 4, b"abc\0", True), (315, 2, 4, b"Ann\0", True)])
    assert tags(read(tagged).exif)[315].data == b"Ann\0"


def test_exif_that_points_to_itself_loses_the_pointer_only() -> None:
    block = entries((315, 2, b"Someone here\0"), (34665, 4, struct.pack("<I", 8)))
    data, notes = saved(read(pillow("JPEG", exif=b"Exif\0\0" + block)), "TIFF")
    assert notes == ["damaged tags are left out: ExifOffset"]
    assert tags(read(data).exif)[315].data == b"Someone here\0"


def test_bigtiff_with_directories_below() -> None:
    below = {33434: exif.Entry(5, struct.pack("<II", 1, 250)), 37510: exif.Entry(7, b"ASCII\0\0\0note")}
    directory = {274: exif.Entry(16, struct.pack("<Q", 3)), 34665: exif.Entry(4, b"", below)}
    block = b"II" + struct.pack("<HHHQ", 43, 8, 0, 16) + exif._packed(directory, 16, "<", True)
    structure = exif.Tiff.of(block)
    assert structure is not None
    found = tags(exif.of_tiff(structure, structure.first))
    assert (found[274].kind, found[274].data) == (4, struct.pack("<I", 3))
    assert found[34665].below == below


# --- resolution ------------------------------------------------------------------------------------------------------


def test_imagej_keeps_its_pixel_size() -> None:
    image = read(FAULTS / "imagej-pixel-size.tif")
    with tifffile.TiffFile(io.BytesIO(saved(image, "TIFF")[0])) as file:
        page = file.pages[0]
        assert [page.tags[tag].value for tag in (282, 283, 296)] == [(20, 13), (20, 13), 1]
        assert "unit=um" in page.tags[270].value
    for format in ("PNG", "JPEG"):
        assert "pixel size" in "".join(saved(Image(image.pixels, resolution=image.resolution), format)[1])


@pytest.mark.parametrize("format", ["TIFF", "JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("source", ["TIFF", "JPEG", "PNG"])
def test_the_shape_of_pixels_stays(source: str, format: str) -> None:
    image = Image(np.full((8, 8, 3), 0.5, np.float32), resolution=Resolution(Fraction(4), Fraction(3), "none"))
    first = read(saved(image, source)[0])
    assert first.resolution == Resolution(Fraction(4), Fraction(3), "none")
    assert read(saved(first, format)[0]).resolution == first.resolution


@pytest.mark.parametrize("format", ["TIFF", "JPEG", "WEBP"])
def test_centimetres_stay_centimetres(format: str) -> None:
    image = Image(np.full((8, 8, 3), 0.5, np.float32), resolution=Resolution(Fraction(118), Fraction(59), "cm"))
    assert read(saved(image, format)[0]).resolution == image.resolution


def test_webp_gets_the_resolution_into_its_exif() -> None:
    image = read(tiff(resolution=(300, 300), resolutionunit="INCH", extratags=[(315, 2, 8, b"Someone\0", True)]))
    again = read(saved(image, "WEBP")[0])
    assert again.resolution == Resolution(Fraction(300), Fraction(300), "inch")
    assert tags(again.exif)[315].data == b"Someone\0"


# --- chunks and segments ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"), [("iccp-no-zero", "iCCP"), ("itxt-xmp-malformed", "iTXt"), ("phys-short", "pHYs")]
)
def test_a_malformed_chunk_is_dropped_and_named(name: str, kind: str) -> None:
    image = read(FAULTS / f"png-{name}.png")
    assert image.notes == [f"its {kind} chunk is malformed: left out"]
    assert read(saved(image, "PNG")[0]).notes == []


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (b"pHYs", b""), (b"pHYs", bytes(20)), (b"iCCP", b"name"), (b"iCCP", b"name\0\1x"), (b"iCCP", b"name\0\0x"),
        (b"acTL", b"\0"), (b"iTXt", b"XML:com.adobe.xmp\0"), (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0x"),
        (b"tEXt", b"no end"), (b"zTXt", b"Raw profile type exif\0\0x"), (b"tEXt", b"Raw profile type exif\0\n\n\nzz"),
    ],
)  # fmt: skip
def test_other_malformed_chunks(kind: bytes, content: bytes) -> None:
    good = chunk(b"tEXt", b"Author\0Someone")
    image = read(png(chunk(kind, content), good))
    assert len(image.notes) == 1
    assert f"its {kind.decode()} chunk is malformed" in image.notes[0]
    assert image.png_text == [(b"tEXt", b"Author\0Someone")]
    assert np.array_equal(np.rint(image.pixels * 255), LEVELS)


def test_a_wrong_checksum_costs_only_what_the_pixels_do_not_need() -> None:
    broken = chunk(b"tEXt", b"Author\0Someone")[:-1] + b"!"
    image = read(png(broken))
    assert image.notes == ["its tEXt chunk is malformed: left out"]
    data = bytearray(png())
    data[60] ^= 1
    assert "checksum" in refusal(bytes(data))


def test_only_the_first_of_many_profiles_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(1 << 24), 9))
    inflaters = iter([zlib.decompressobj()])
    monkeypatch.setattr(zlib, "decompressobj", lambda: next(inflaters))  # one, no more
    image = read(png(*[bomb] * 200))
    assert image.notes[0] == "its iCCP chunk is there more than once: all but the first are left out"


def test_a_jpeg_with_malformed_segments() -> None:
    def segment(marker: int, content: bytes) -> bytes:
        return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content

    data = pillow("JPEG", comment=b"kept")
    bad = (
        segment(0xE1, b"Exif\0\0II")
        + segment(0xE2, b"ICC_PROFILE\0\2\3x")
        + segment(0xE2, b"MPF\0MM")
        + segment(0xED, b"Photoshop 3.0\x008BIM")
    )
    image = read(data[:2] + bad + data[2:])
    assert sorted(image.notes) == ["its EXIF is damaged: left out", "its ICC profile is incomplete: left out"]
    assert b"kept" in image.jpeg_segments


# --- what is not in the picture --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "gone"), [("motion-photo.jpg", b"MotionPhoto"), ("ultra-hdr.jpg", b"hdrgm"), ("ultra-hdr.jpg", b"GainMap")]
)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_xmp_promises_nothing_that_is_gone(name: str, gone: bytes, format: str) -> None:
    image = read(FAULTS / name)
    assert any("XMP promises" in note for note in image.notes)
    data, _ = saved(image, format)
    assert gone not in data
    again = read(data)
    assert again.xmp is not None
    assert not any("XMP" in note for note in again.notes)


def packet(content: str, namespaces: str = "") -> bytes:
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/" {namespaces} {content}</rdf:RDF></x:xmpmeta>'
    ).encode()


@pytest.mark.parametrize(
    ("content", "namespaces", "gone", "kept"),
    [
        ('note:HasExtendedXMP="AB" dc:a="1"/>', 'xmlns:note="http://ns.adobe.com/xmp/note/"', "Extended", 'dc:a="1"'),
        (
            "><q:MotionPhoto>1</q:MotionPhoto><dc:b>ü</dc:b></rdf:Description>",
            "xmlns:q='http://ns.google.com/photos/1.0/camera/'", "MotionPhoto", "<dc:b>ü</dc:b>",
        ),
        (
            '><g:Data>x<g:Data g:v="1"/>y</g:Data><dc:b g:w="2">1</dc:b></rdf:Description>',
            'xmlns:g="http://ns.google.com/photos/1.0/depthmap/"', "g:", "<dc:b>1</dc:b>",
        ),
        (  # attributes without a namespace are usual in old packets
            'about="" o:MotionPhotoOwner="oplus" dc:a="1"/>',
            'xmlns:o="http://ns.oplus.com/photos/1.0/camera/"', "MotionPhoto", 'about=""',
        ),
    ],
)  # fmt: skip
def test_other_promises(content: str, namespaces: str, gone: str, kept: str) -> None:
    image = read(pillow("JPEG", xmp=packet(content, namespaces)))
    assert image.xmp is not None
    assert gone not in image.xmp.decode()
    assert kept in image.xmp.decode()
    assert len(image.notes) == 1


def test_xmp_without_promises_stays_byte_for_byte_even_if_malformed() -> None:
    for text in (packet('dc:a="1"/>'), b"<x:xmpmeta>no end", b"\xff\xfe<\0"):
        image = read(pillow("JPEG", xmp=text))
        assert (image.xmp, image.notes) == (text, [])


def test_a_second_picture_behind_the_first_is_mentioned() -> None:
    image = read(pillow("JPEG") + pillow("JPEG"))
    assert image.notes == ["what follows it in the file (another picture, a video) is not kept"]
    assert read(pillow("JPEG") + bytes(100)).notes == []


def test_what_a_format_cannot_hold_is_said() -> None:
    image = read(
        pillow("JPEG", exif=b"Exif\0\0" + entries((315, 2, b"Someone\0")), comment=b"note", xmp=packet('dc:a="1"/>'))
    )
    assert saved(image, "BMP")[1] == ["BMP holds no EXIF and no XMP and no IPTC or comments: left out"]
    assert saved(image, "JPEG")[1] == []


# --- sizes -----------------------------------------------------------------------------------------------------------

BIG = np.zeros((3000, 3000, 3), np.uint8)
CODECS: dict[str, tuple[int, Callable[[np.ndarray], bytes]]] = {
    "JPEG": (7, lambda x: bytes(imagecodecs.jpeg_encode(x))),
    "JPEG2000": (34712, lambda x: bytes(imagecodecs.jpeg2k_encode(x, codecformat="j2k"))),
    "JPEG2000 in boxes": (33005, lambda x: bytes(imagecodecs.jpeg2k_encode(x, codecformat="jp2"))),
    "WEBP": (50001, lambda x: bytes(imagecodecs.webp_encode(x, lossless=True))),
    "JPEGXL": (50002, lambda x: bytes(imagecodecs.jpegxl_encode(x, lossless=True, effort=1))),
    "JPEGXL in boxes": (
        50002,
        lambda x: bytes(imagecodecs.jpegxl_encode(x, lossless=True, effort=1, usecontainer=True)),
    ),
    "LERC": (34887, lambda x: bytes(imagecodecs.lerc_encode(x))),
    "PNG": (34933, lambda x: bytes(imagecodecs.png_encode(x))),
}


def coded_tiff(compression: int, segment: bytes, width: int, height: int) -> bytes:
    """One strip, whatever is in it."""
    rows = [
        (256, 4, struct.pack("<I", width)), (257, 4, struct.pack("<I", height)), (258, 3, struct.pack("<3H", 8, 8, 8)),
        (259, 3, struct.pack("<H", compression)), (262, 3, struct.pack("<H", 2)), (273, 4, bytes(4)),
        (277, 3, struct.pack("<H", 3)), (278, 4, struct.pack("<I", height)), (279, 4, struct.pack("<I", len(segment))),
        (284, 3, struct.pack("<H", 1)),
    ]  # fmt: skip
    if compression == 34887:
        rows.append((50674, 4, struct.pack("<II", 4, 0)))
    length = len(entries(*rows))
    rows[5] = (273, 4, struct.pack("<I", length))
    return entries(*rows) + segment


@pytest.mark.parametrize("codec", CODECS)
def test_codecs_in_a_tiff_are_asked_for_their_size_first(codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compression, encode = CODECS[codec]
    honest = read(coded_tiff(compression, encode(LEVELS), 40, 24))
    assert np.abs(honest.pixels * 255 - LEVELS).max() <= (0.01 if codec != "JPEG" else 255)
    bomb = coded_tiff(compression, encode(BIG), 64, 64)
    monkeypatch.setattr(tifffile.TiffPage, "asarray", None)
    assert "data is 3000x3000, not 64x64" in refusal(bomb)
    assert "damaged" in refusal(coded_tiff(compression, b"\xff\xd8" + bytes(60), 64, 64))


def test_a_codec_whose_size_is_not_known_is_refused() -> None:
    assert "JPEGXR_NDPI, which dagl does not read" in refusal(
        coded_tiff(22610, bytes(imagecodecs.jpegxr_encode(LEVELS)), 40, 24)
    )


def test_the_jpeg_of_30000_pixels_in_a_tiff_of_64_takes_no_memory() -> None:
    data = (FAULTS / "tiff-header-64-jpeg-30000.tif").read_bytes()
    tracemalloc.start()
    assert "30000x30000, not 64x64" in refusal(data)
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


def test_a_huge_tile_and_missing_strips_are_refused() -> None:
    data = bytearray(tiff(tile=(16, 16)))
    structure = exif.Tiff.of(data)
    assert structure is not None
    *places, _ = structure.entries(structure.first)
    for tag in (322, 323):
        place = next(p for p in places if data[p : p + 2] == struct.pack("<H", tag))
        struct.pack_into("<HHII", data, place, tag, 4, 1, 2**24)
    assert "more than the limit" in refusal(bytes(data))
    data = bytearray(tiff(rowsperstrip=8))
    *places, _ = structure.entries(structure.first)
    place = next(p for p in places if data[p : p + 2] == struct.pack("<H", 257))
    struct.pack_into("<HHII", data, place, 257, 4, 1, 100_000)
    assert "incomplete" in refusal(bytes(data))


def test_pages_in_a_circle_and_pages_without_end() -> None:
    assert "circle" in refusal((FAULTS / "tiff-ifd-loop.tif").read_bytes())
    page = entries((254, 4, bytes(4)))[8:]
    for order, later in (("forward", 1), ("to itself", 0)):
        body = b"".join(
            page[:-4] + struct.pack("<I", 8 + len(page) * (i + later)) for i in range(60_000 if later else 1)
        )
        message = refusal(b"II*\0\x08\0\0\0" + body)
        assert ("1,000 or more" if later else "circle") in message, order


def test_a_stack_of_imagej_with_one_directory() -> None:
    text = b"ImageJ=1.11a\nimages=30\nslices=30\n\0"
    assert "30 frames" in refusal(tiff(LEVELS[..., 0], extratags=[(270, 2, len(text), text, True)]))


def test_a_stream_without_end_is_left_at_its_signature() -> None:
    class Endless(io.RawIOBase):
        taken = 0

        def read(self, size: int = -1) -> bytes:
            assert size >= 0
            self.taken += size
            return bytes(size)

    stream = Endless()
    with pytest.raises(ImageError, match="not a PNG"):
        read(stream)  # type: ignore[arg-type]
    assert stream.taken <= 32
    assert np.array_equal(np.rint(read(io.BytesIO(pillow("PNG"))).pixels * 255), LEVELS)
    long = io.BytesIO(pillow("PNG") + bytes(2**20))
    assert read(long).pixels.shape == LEVELS.shape


# --- kinds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        ((FAULTS / "jpeg-12-bit.jpg").read_bytes(), "a 12-bit JPEG"),
        (bytes(imagecodecs.ljpeg_encode(LEVELS[..., 0])), "a lossless JPEG"),
        (bytes(imagecodecs.jpegls_encode(LEVELS)), "a JPEG-LS"),
    ],
)
def test_intact_files_of_other_kinds_say_what_they_are(data: bytes, kind: str) -> None:
    message = refusal(data)
    assert f"it is {kind}, which dagl does not read: convert it to 16-bit PNG or TIFF" in message
    assert "damaged" not in message


@pytest.mark.parametrize(("marker", "kind"), [(0xC9, "an arithmetically coded"), (0xC5, "a hierarchical")])
def test_other_processes_of_jpeg(marker: int, kind: str) -> None:
    data = pillow("JPEG").replace(b"\xff\xc0", bytes([0xFF, marker]), 1)
    assert f"it is {kind} JPEG, which" in refusal(data)


@pytest.mark.parametrize("planes", ["contig", "separate"])
@pytest.mark.parametrize("kind", ["unspecified", None])
def test_two_channels_are_two_pictures(planes: str, kind: str | None) -> None:
    levels = LEVELS[..., :2] if planes == "contig" else np.moveaxis(LEVELS[..., :2], -1, 0)
    options = {} if kind is None else {"extrasamples": [kind]}
    message = refusal(tiff(levels, photometric="minisblack", planarconfig=planes, **options))
    assert "two channels are two pictures" in message
    alpha = read(tiff(levels, photometric="minisblack", planarconfig=planes, extrasamples=["unassalpha"])).alpha
    assert alpha is not None


@pytest.mark.parametrize("name", ["a.JFIF", "a.jpe", "a.jif", "a.dib"])
def test_other_names_of_jpeg_and_bmp(name: str, tmp_path: Path) -> None:
    assert is_image_path(name)
    write(read(pillow("PNG")), tmp_path / name)
    assert read(tmp_path / name).format == ("BMP" if name.endswith("dib") else "JPEG")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "BMP", "WEBP"])
def test_what_decoders_say_does_not_leak(format: str, capfd: pytest.CaptureFixture[str]) -> None:
    data = saved(read(pillow("PNG")), format)[0]
    middle = len(data) // 2
    for broken in (data[:middle] + bytes(middle), data[:40] + b"\xff" * 40, data[: middle // 2]):
        message = outcome(broken).lower()
        assert not any(word in message for word in ("libpng", "tifffile", "pillow", "decoder", "error"))
    assert capfd.readouterr() == ("", "")


def test_the_file_is_kept_as_it_was_read(tmp_path: Path) -> None:
    data = pillow("JPEG") + pillow("JPEG")
    (tmp_path / "a.jpg").write_bytes(data)
    image = read(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes(b"changed")
    assert image.encoded == data
    assert set(FORMATS) >= {"PNG", "JPEG", "TIFF", "BMP", "WEBP"}


@pytest.mark.parametrize(
    "stream",
    [zlib.compress(bytes(20) + b"more"), zlib.compress(bytes(20)) + b"more", zlib.compress(bytes(19))],
    ids=["too many pixels", "more behind them", "too few"],
)
def test_libpng_says_nothing_whatever_the_pixels_are(stream: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    header = struct.pack(">IIBBBBB", 4, 4, 8, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"PLTE", bytes(9)), chunk(b"tRNS", bytes(7)), chunk(b"IDAT", stream)]
    data = pillow("PNG")[:8] + b"".join(parts) + chunk(b"IEND", b"")
    assert outcome(data) in ("", "cannot read the image: it is damaged or truncated: get an intact copy of it")
    assert capfd.readouterr() == ("", "")


def test_threads_that_read_leave_the_terminal_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    data = pillow("PNG")
    with ThreadPoolExecutor(8) as pool:
        assert len({image.pixels.tobytes() for image in pool.map(read, [data] * 100)}) == 1
    os.write(2, b"still here")
    assert capfd.readouterr().err == "still here"


def test_a_jpeg_with_too_little_data_for_its_size_is_refused() -> None:
    """libjpeg would fill the rest with gray, gigabytes of it."""
    data = bytearray(pillow("JPEG"))
    start = data.index(b"\xff\xc0") + 5
    struct.pack_into(">HH", data, start, 14000, 14000)
    assert "truncated" in refusal(bytes(data))
    flat = io.BytesIO()
    PIL.Image.new("L", (2000, 2000)).save(flat, "JPEG", optimize=True)
    assert read(flat.getvalue()).pixels.shape == (2000, 2000, 1)


@pytest.mark.parametrize("bits", [1, 4, 12])
@pytest.mark.parametrize("inverted", [False, True])
def test_odd_depths_are_spread_over_the_range(bits: int, inverted: bool) -> None:
    levels = np.arange(2**bits, dtype=np.uint8 if bits < 9 else np.uint16).reshape(-1, min(64, 2**bits))
    width = levels.shape[1]
    samples = np.unpackbits(levels.astype(">u2").view(np.uint8).reshape(-1, 2), axis=1)[:, -bits:]
    rows = np.packbits(samples.reshape(len(levels), -1), axis=1).tobytes()
    photometric = 0 if inverted else 1
    fields = [
        (256, 4, struct.pack("<I", width)), (257, 4, struct.pack("<I", len(levels))), (258, 3, struct.pack("<H", bits)),
        (259, 3, struct.pack("<H", 1)), (262, 3, struct.pack("<H", photometric)), (273, 4, bytes(4)),
        (277, 3, struct.pack("<H", 1)), (278, 4, struct.pack("<I", len(levels))),
        (279, 4, struct.pack("<I", len(rows))),
    ]  # fmt: skip
    fields[5] = (273, 4, struct.pack("<I", len(entries(*fields))))
    image = read(entries(*fields) + rows)
    expected = levels.astype(np.float64) / (2**bits - 1)
    top = 2**image.depth - 1
    found = image.pixels[..., 0].astype(np.float64)
    assert image.depth == (8 if bits <= 8 else 16)
    assert np.abs(found - (1 - expected if inverted else expected)).max() <= 0.5 / top + 1e-6


@pytest.mark.parametrize("format", ["TIFF", "JPEG", "PNG", "WEBP", "BMP"])
@pytest.mark.parametrize("unit", ["none", "inch", "cm"])
@pytest.mark.parametrize(
    ("x", "y"), [(10**12, 1), (1, 10**12), (Fraction(1, 2**32), Fraction(2**32)), (10**12, 10**12)]
)
def test_an_absurd_resolution_costs_nothing_else(format: str, unit: str, x: int, y: int) -> None:
    image = Image(np.full((8, 8, 3), 0.5, np.float32), resolution=Resolution(Fraction(x), Fraction(y), unit))
    assert read(saved(image, format)[0]).pixels.shape == (8, 8, 3)


# --- faults that cost what they spoil, no more -----------------------------------------------------------------------


@pytest.mark.parametrize("count", [4, 65535])
@pytest.mark.parametrize("cut", [0, 6, 13, 20])
@pytest.mark.parametrize("format", ["TIFF", "JPEG", "WEBP", "PNG", "JPEGXL"])
def test_an_orientation_before_the_end_of_a_truncated_directory_counts(format: str, cut: int, count: int) -> None:
    entries = struct.pack("<HHII", 274, 3, 1, 6) + struct.pack("<HHII", 272, 2, 4, 0x434241) + bytes(16)
    block = b"II*\0\x08\0\0\0" + struct.pack("<H", count) + entries[: 12 + cut]
    image = read(pillow("JPEG", exif=b"Exif\0\0" + block))
    data, notes = saved(image, format)
    assert image.pixels.shape == (40, 24, 3)
    again = read(data)
    assert (again.pixels.shape, again.orientation) == ((40, 24, 3), 1)
    if format == "TIFF":
        assert notes == ["damaged tags are left out: those behind its end"]
        assert (b"ABC\0" in data) == (cut >= 12)


def test_an_orientation_of_no_known_type_costs_nothing() -> None:
    block = b"II*\0\x08\0\0\0" + struct.pack("<HHHIII", 1, 274, 99, 1, 6, 0)
    assert read(pillow("JPEG", exif=b"Exif\0\0" + block)).orientation == 1


def test_exif_with_damaged_tags_is_not_rebuilt_for_a_resolution() -> None:
    block = b"II*\0\x08\0\0\0" + struct.pack("<HHHII", 2, 272, 2, 4, 0x434241)
    image = read(pillow("PNG", exif=block, dpi=(300, 300)))
    data, notes = saved(image, "WEBP")
    assert notes == ["its resolution is left out, which WebP holds in EXIF only"]
    assert read(data).exif == image.exif


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (b"pHYs", struct.pack(">IIB", 0, 0, 1)), (b"pHYs", struct.pack(">IIB", 9, 0, 0)),
        (b"pHYs", struct.pack(">IIB", 9, 8, 9)), (b"pHYs", struct.pack(">IIB", 2**31, 8, 1)),
        (b"gAMA", b""), (b"gAMA", bytes(4)), (b"gAMA", bytes([1] * 5)), (b"gAMA", b"\xff" * 4),
        (b"cHRM", bytes(31)), (b"cHRM", b"\xff" * 32), (b"sRGB", b""), (b"sRGB", b"\4"), (b"sRGB", b"\0\0"),
        (b"cICP", b"\1\1\0"), (b"cICP", b"\1\1\1\1"), (b"cICP", b"\1\1\0\2"), (b"eXIf", b""),
        (b"tEXt", b"\0no keyword"), (b"tEXt", b"k" * 80 + b"\0x"), (b"zTXt", b"k\0"), (b"zTXt", b"k\0\1x"),
        (b"iTXt", b"k\0\2\0\0\0x"), (b"iTXt", b"k\0\0\1\0\0x"), (b"iTXt", b"k\0\0\0x"),
    ],
)  # fmt: skip
def test_chunks_with_impossible_values_are_dropped_and_named(kind: bytes, content: bytes) -> None:
    image = read(png(chunk(kind, content)))
    assert image.notes == [f"its {kind.decode()} chunk is malformed: left out"]
    assert kind not in saved(image, "PNG")[0]


def test_chunks_with_possible_values_stay() -> None:
    chunks = [
        chunk(b"gAMA", struct.pack(">I", 45455)), chunk(b"sRGB", b"\3"), chunk(b"cICP", b"\x09\x10\0\1"),
        chunk(b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)),
        chunk(b"iTXt", b"k\0\0\0de\0Wort\0x"), chunk(b"zTXt", b"k\0\0" + zlib.compress(b"x")),
        chunk(b"pHYs", struct.pack(">IIB", 3000, 2000, 1)),
    ]  # fmt: skip
    image = read(png(*chunks))
    assert image.notes == []
    data = saved(image, "PNG")[0]
    assert all(piece in data for piece in chunks)


@pytest.mark.parametrize("profile", [b"hello", bytes(300), srgb_profile()[:100]])
@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_a_profile_that_is_none_is_left_out_and_named(format: str, profile: bytes) -> None:
    image = read(pillow(format, icc_profile=profile))
    assert image.icc is None
    assert image.notes == ["its ICC profile is malformed: left out"]


@pytest.mark.parametrize("kind", [b"iCCP", b"gAMA", b"tEXt"])
def test_a_fault_that_a_file_has_twenty_times_is_said_once(kind: bytes) -> None:
    image = read(png(*[chunk(kind, b"x")] * 20))
    more = f"its {kind.decode()} chunk is there more than once: all but the first are left out"
    assert image.notes == [f"its {kind.decode()} chunk is malformed: left out"] + [more] * (kind != b"tEXt")


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
@pytest.mark.parametrize(("before", "said"), [(b"\n", "1 byte stands"), (b"\xef\xbb\xbf", "3 bytes stand")])
def test_bytes_before_the_signature_are_named(before: bytes, said: str, format: str) -> None:
    assert f"{said} before the {format} image in it" in refusal(before + pillow(format))


def test_a_jpeg_whose_height_comes_later() -> None:
    data = bytearray(pillow("JPEG"))
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 7] = bytes(2)
    assert "leaves its height open" in refusal(bytes(data))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_a_bitmap_without_a_file_header(mode: str) -> None:
    stream = io.BytesIO()
    picture = PIL.Image.fromarray(LEVELS).convert(mode)
    picture.save(stream, "DIB", dpi=(300, 150))
    image = read(stream.getvalue())
    expected = np.asarray(picture.convert("RGB" if mode in ("P", "RGB") else "L"))
    assert np.array_equal(np.rint(image.pixels * 255).squeeze(), expected)
    assert image.format == "BMP"
    assert image.resolution is not None
    assert [round(float(v)) for v in image.resolution[:2]] == [300, 150]
