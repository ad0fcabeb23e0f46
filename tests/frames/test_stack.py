"""TIFFs of several pages: every page like a file of its own, and what programs say of all of them."""

from __future__ import annotations

import errno
import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tifffile
from helpers import SHIFT, dagl, refused, tree

from dagl_cli import images
from dagl_cli.errors import ImageError
from dagl_cli.restoring import guard

pytestmark = pytest.mark.usefixtures("one_thread", "here")

UP8, UP16 = SHIFT, SHIFT * 257
RANDOM = np.random.default_rng(0)


def levels(*shape: int, dtype: Any = np.uint16) -> np.ndarray:
    return RANDOM.integers(30, 200, shape).astype(dtype) * (257 if dtype == np.uint16 else 1)


def scan(path: str) -> list[np.ndarray]:
    """Pages of different sizes, depths and channels, the last one with alpha."""
    pages = [levels(20, 30, dtype=np.uint8), levels(16, 24, 3), levels(9, 11), levels(12, 12, 4, dtype=np.uint8)]
    with tifffile.TiffWriter(path) as file:
        for number, page in enumerate(pages):
            photometric = "rgb" if page.ndim == 3 else "minisblack"
            options: dict[str, Any] = dict(photometric=photometric, metadata=None, description=f"page {number}")
            if page.ndim == 3 and page.shape[2] == 4:
                options["extrasamples"] = ["unassalpha"]
            compression = {2: "lzw", 3: "zlib"}.get(number)
            file.write(page, compression=compression, resolution=(300, 300), resolutionunit="inch", **options)
    return pages


def imagej(path: str = "in.tif", order: str = ">") -> np.ndarray:
    stack = levels(3, 2, 16, 20)
    about = {"axes": "ZCYX", "unit": "um", "spacing": 0.5, "Labels": list("abcdef"), "Info": "hello"}
    tifffile.imwrite(path, stack, imagej=True, resolution=(3.0, 3.0), metadata=about, byteorder=order)
    return stack


def large_imagej(path: str, stack: np.ndarray) -> None:
    """As ImageJ writes stacks over 4 GB: one directory for all images."""
    text = b"ImageJ=1.53\nimages=%d\nslices=%d\n\0" % (len(stack), len(stack))
    height, width = stack.shape[1:]
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 16 << 16), (259, 3, 1, 1 << 16),
               (262, 3, 1, 1 << 16), (270, 2, len(text), 8 + 2 + 120 + 4), (273, 4, 1, 134 + len(text)),
               (277, 3, 1, 1 << 16), (278, 4, 1, height), (279, 4, 1, 2 * width * height)]  # fmt: skip
    table = b"".join(struct.pack(">HHII", *entry) for entry in entries)
    header = struct.pack(">2sHIH", b"MM", 42, 8, len(entries))
    Path(path).write_bytes(header + table + bytes(4) + text + stack.astype(">u2").tobytes())


def test_every_page_keeps_its_own() -> None:
    pages = scan("in.tif")
    _, stderr = dagl("denoise", "--sigma", 25, "in.tif")
    assert "in_denoised.tif: restored (4 pages; " in stderr
    with tifffile.TiffFile("in_denoised.tif") as file:
        assert [page.compression.name for page in file.pages] == ["NONE", "NONE", "LZW", "ADOBE_DEFLATE"]
        for number, (page, given) in enumerate(zip(file.pages, pages, strict=True)):
            found, up = page.asarray(), UP8 if given.dtype == np.uint8 else UP16
            assert (found.dtype, found.shape) == (given.dtype, given.shape)
            colours = slice(None, 3) if given.ndim == 3 else slice(None)
            assert np.abs(found[..., colours].astype(int) - given[..., colours] - up).max() <= 1
            assert (page.description, page.tags[282].value) == (f"page {number}", (300, 1))
        assert np.array_equal(file.pages[3].asarray()[..., 3], pages[3][..., 3])
    assert images.record("in_denoised.tif")["model"] == "denoise-gray"


@pytest.mark.parametrize("order", "<>")
def test_imagej_stays_imagej(order: str) -> None:
    stack = imagej(order=order)
    dagl("denoise", "--sigma", 25, "in.tif", "out.tif")
    with tifffile.TiffFile("out.tif") as file, tifffile.TiffFile("in.tif") as given:
        assert file.imagej_metadata == given.imagej_metadata
        assert (file.byteorder, file.series[0].axes, file.series[0].shape) == (order, "ZCYX", stack.shape)
        assert np.abs(file.asarray().astype(int) - stack - UP16).max() <= 1
        starts = [page.dataoffsets[0] for page in file.pages]
        assert set(np.diff(starts)) == {stack[0, 0].nbytes}  # ImageJ looks for them there, whatever directories say


def test_imagej_with_one_directory() -> None:
    stack = levels(4, 12, 10)
    large_imagej("in.tif", stack)
    dagl("denoise", "--sigma", 25, "in.tif", "out.tif")
    with tifffile.TiffFile("out.tif") as file:
        assert np.abs(file.asarray().astype(int) - stack - UP16).max() <= 1
        assert file.imagej_metadata["images"] == 4
    Path("cut.tif").write_bytes(Path("in.tif").read_bytes()[:-300])
    _, stderr = dagl("denoise", "--sigma", 25, "cut.tif", code=3)
    assert "page 3 of cut.tif: it is truncated" in stderr
    assert len(tifffile.imread("cut_denoised.tif")) == 2


def test_some_pages_of_imagej() -> None:
    stack = imagej()
    _, stderr = dagl("denoise", "--sigma", 25, "--pages", "2,4-5", "in.tif", "out.tif")
    assert "3 pages; ImageJ's labels and overlays are of all pages: left out" in stderr
    with tifffile.TiffFile("out.tif") as file:
        about = file.imagej_metadata
        assert (about["images"], about["unit"], about["spacing"], "channels" in about) == (3, "um", 0.5, False)
        assert np.abs(file.asarray().astype(int) - stack.reshape(6, 16, 20)[[1, 3, 4]] - UP16).max() <= 1


def test_ome_xml_is_kept_for_all_pages_and_left_out_for_some() -> None:
    stack = levels(3, 2, 16, 20)
    tifffile.imwrite("in.ome.tif", stack, metadata={"axes": "ZCYX", "PhysicalSizeX": 0.3}, compression="zlib")
    dagl("denoise", "--sigma", 25, "in.ome.tif", "out.ome.tif")
    with tifffile.TiffFile("out.ome.tif") as file, tifffile.TiffFile("in.ome.tif") as given:
        assert file.ome_metadata == given.ome_metadata
        assert np.abs(file.asarray().astype(int) - stack - UP16).max() <= 1
    _, stderr = dagl("denoise", "--sigma", 25, "--pages", "1-2", "in.ome.tif", "part.tif")
    assert "its OME-XML is that of all pages: left out" in stderr
    with tifffile.TiffFile("part.tif") as file:
        assert not file.is_ome
        assert len(file.pages) == 2


@pytest.mark.parametrize("channels", [2, 5])
@pytest.mark.parametrize("planes", ["contig", "separate"])
def test_channels_are_pictures(channels: int, planes: str) -> None:
    given = levels(14, 18, channels, dtype=np.uint8)
    stored = given if planes == "contig" else np.moveaxis(given, -1, 0)
    unnamed = ["unspecified"] * (channels - 1)
    tifffile.imwrite(
        "in.tif", stored, photometric="minisblack", planarconfig=planes, extrasamples=unnamed, metadata=None
    )
    dagl("denoise", "--sigma", 25, "in.tif", "out.tif")
    with tifffile.TiffFile("out.tif") as file:
        page = file.pages[0]
        assert (page.samplesperpixel, page.extrasamples, page.planarconfig.name.lower()) == (
            channels,
            (0,) * (channels - 1),
            planes,
        )
        assert np.array_equal(page.asarray(), stored + UP8)
    assert images.record("out.tif")["command"] == "dagl denoise --sigma 25"
    (row,) = json.loads(dagl("denoise", "--sigma", 25, "--json", "in.tif", "same.tif")[0])["files"]
    assert row["sha256"] == images.record("out.tif")["sha256"]
    assert row["precision"]
    assert "its channels are pictures of their own" in refused("denoise", "--sigma", 25, "in.tif", "out.png", code=1)


def test_of_two_descriptions_the_first_stays() -> None:
    with tifffile.TiffWriter("in.tif") as file:
        for words in ("one", "two"):
            file.write(levels(12, 10), description=words)  # tifffile adds a description of its own
    dagl("denoise", "--sigma", 25, "in.tif", "out.tif")
    with tifffile.TiffFile("out.tif") as file:
        assert [page.description for page in file.pages] == ["one", "two"]


def test_one_page_may_become_any_picture() -> None:
    pages = scan("in.tif")
    dagl("denoise", "--sigma", 25, "--pages", "2", "in.tif", "out.png")
    found = images.levels(images.read("out.png"))
    assert found.dtype == np.uint16
    assert np.abs(found.astype(int) - pages[1] - UP16).max() <= 1
    message = refused("denoise", "--sigma", 25, "in.tif", "all.png", code=1)
    assert "4 pages of a TIFF do not go into .png: choose .tif or .tiff, or one page (--pages)" in message
    assert "4 pages of a TIFF do not go into .xyz: choose .tif or .tiff\n" in refused(
        "denoise", "in.tif", "a.xyz", code=1
    )


def test_pages_of_one_picture() -> None:
    PIL.Image.fromarray(levels(9, 9, dtype=np.uint8)).save("one.tif")
    dagl("denoise", "--sigma", 25, "--pages", "1", "one.tif", "out.tif")
    assert "it has 1 page, and --pages 2- asks for page 2" in refused(
        "denoise", "--pages", "2-", "one.tif", "x.tif", code=1
    )
    assert "--pages 0 is not understood" in refused("denoise", "--pages", "0", "one.tif", "x.tif")


def test_a_truncated_stack_gives_the_pages_before_the_fault() -> None:
    pages = [PIL.Image.fromarray(levels(40, 40, dtype=np.uint8)) for _ in range(4)]
    pages[0].save("bad.tif", save_all=True, append_images=pages[1:], compression="tiff_deflate")
    whole = Path("bad.tif").read_bytes()
    Path("bad.tif").write_bytes(whole[: len(whole) * 7 // 10])
    pages[0].save("good.tif")
    _, stderr = dagl("denoise", "--sigma", 25, "bad.tif", "good.tif", "-o", "out", code=3)
    assert "Error: bad.tif -> out/bad.tif: partial (cannot read page 3 of bad.tif: it is" in stderr
    assert stderr.endswith("1 restored, 1 partial\n")
    assert np.array_equal(tifffile.imread("out/bad.tif"), np.stack([np.asarray(page) for page in pages[:2]]) + UP8)
    assert (
        '"status": "partial"' in dagl("denoise", "--sigma", 25, "bad.tif", "-o", "x.tif", "--json", code=3)[0].decode()
    )
    Path("bad.tif").write_bytes(whole[:200])
    assert refused("denoise", "--sigma", 25, "bad.tif", "y.tif", code=1).startswith("Error: cannot read ")


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()], ids=repr)
def test_nothing_partial_is_left(monkeypatch: pytest.MonkeyPatch, failure: BaseException) -> None:
    scan("in.tif")
    encode = images.encoded

    def fail(picture: images.Image, *arguments: Any) -> Any:
        if picture.pixels.shape[:2] == (9, 11):  # the third page
            raise failure
        return encode(picture, *arguments)

    monkeypatch.setattr(images, "encoded", fail)
    _, stderr = dagl(
        "denoise", "--sigma", 25, "in.tif", "out.tif", code=130 if isinstance(failure, KeyboardInterrupt) else 1
    )
    assert list(tree()) == ["in.tif"]
    if isinstance(failure, OSError):
        assert stderr == "Error: cannot write out.tif: No space left on device: free some space\n"


def test_what_needs_nothing_is_copied() -> None:
    scan("in.tif")
    before = Path("in.tif").read_bytes()
    _, stderr = dagl("denoise", "--sigma", 0, "in.tif", "out.tif")
    assert "unchanged (4 pages; no noise to remove: left as it is" in stderr
    assert Path("out.tif").read_bytes() == before


def test_through_pipes() -> None:
    pages = scan("in.tif")
    stdout, _ = dagl("denoise", "--sigma", 25, "-", "-", stdin=Path("in.tif").read_bytes())
    Path("out.tif").write_bytes(stdout)
    with tifffile.TiffFile("out.tif") as file:
        assert [page.shape for page in file.pages] == [page.shape for page in pages]


def test_the_level_is_found_once_for_a_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Levels of 5 frames each; the median of a channel is what all of its frames are restored with."""
    imagej()
    estimates = iter([30.0, 10.0, 20.0, 6.0, 4.0, 5.0])
    monkeypatch.setattr(guard, "noise", lambda pixels, iso=None: guard.Finding(sigma=next(estimates), task="denoise"))
    stdout, _ = dagl("denoise", "in.tif", "out.tif", "--json")
    assert b"levels from 5.0 to 20.0" in stdout
    assert next(estimates, None) is None


def test_pages_that_nothing_makes_a_series_are_looked_at_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = [PIL.Image.fromarray(levels(40, 40, dtype=np.uint8)) for _ in range(3)]
    pages[0].save("in.tif", save_all=True, append_images=pages[1:])
    found = [
        guard.Finding(sigma=9.0, task="denoise"),
        guard.Finding(nothing="a page"),
        guard.Finding(sigma=30.0, task="denoise"),
    ]
    order = [round(float(np.asarray(page).mean() / 255), 5) for page in pages]
    number = lambda pixels: order.index(round(float(pixels.mean()), 5))  # noqa: E731
    monkeypatch.setattr(guard, "noise", lambda pixels, iso=None: found[number(pixels)])
    _, stderr = dagl("denoise", "in.tif", "out.tif")
    assert "restored (sigma 19.5 (estimated); 3 pages; 1 left as they are; levels from 9.0 to 30.0" in stderr
    found = [guard.Finding(sigma=level, task="denoise") for level in (9.0, 10.0, 11.0)]  # one scene, as it seems
    stdout, _ = dagl("denoise", "in.tif", "-o", "same.tif", "--json")
    assert b'"sigma": 10.0' in stdout
    assert b"levels from" not in stdout


def test_a_circle_of_pages_ends() -> None:
    scan("in.tif")
    data = bytearray(Path("in.tif").read_bytes())
    (first,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, first)
    struct.pack_into("<I", data, first + 2 + 12 * count, first)
    Path("in.tif").write_bytes(data)
    assert "its pages form a circle" in refused("denoise", "in.tif", "out.tif", code=1)


def test_more_pages_than_are_counted_elsewhere() -> None:
    tifffile.imwrite("in.tif", levels(1200, 2, 3, dtype=np.uint8), photometric="minisblack")
    with pytest.raises(ImageError, match="1,000 or more frames"):
        images.read("in.tif")
    dagl("denoise", "--sigma", 25, "--pages", "1100-", "in.tif", "out.tif")
    assert tifffile.imread("out.tif").shape == (101, 2, 3)
    dagl("denoise", "--dry-run", "in.tif", "out2.tif")
