"""`dagl compare`: what it measures, what it refuses, and its report."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import PIL.Image
import pytest
import tifffile
from helpers import dagl, refused

from dagl_cli.errors import DaglError
from dagl_cli.measuring import compare
from dagl_cli.measuring.metrics import psnr

pytestmark = pytest.mark.usefixtures("here")

rng = np.random.default_rng(0)
A = rng.integers(0, 250, (24, 20, 3), np.uint8)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("no-weights")


def write(path: str, pixels: np.ndarray, **options: Any) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    if pixels.dtype == np.uint16:
        Path(path).write_bytes(imagecodecs.png_encode(pixels))
    else:
        PIL.Image.fromarray(pixels).save(path, **options)
    return path


def measured(*arguments: object, code: int = 0) -> dict[str, Any]:
    stdout, _ = dagl("compare", *arguments, "--json", code=code)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(stdout, parse_constant=refuse)


def test_two_images() -> None:
    b = A.copy()
    b[3, 4, 1] += 5
    (row,) = measured(write("a.png", A), write("b.bmp", b))["images"]
    assert (row["name"], row["width"], row["height"], row["channels"], row["depth"]) == ("a.png, b.bmp", 20, 24, 3, 8)
    assert row["max_difference"] == 5
    assert row["mean_difference"] == pytest.approx(5 / A.size)
    assert row["psnr"] == pytest.approx(10 * math.log10(255**2 / (25 / A.size)))
    assert 0.99 < row["ssim"] < 1
    assert row["identical"] is False
    stdout, stderr = dagl("compare", "a.png", "b.bmp")
    assert f"{row['psnr']:.2f}".encode() in stdout
    assert stderr == ""


def test_identical_images() -> None:
    (row,) = measured(write("a.png", A), write("b.tif", A))["images"]
    assert row["identical"] is True
    assert row["psnr"] is None
    assert row["max_difference"] == row["mean_difference"] == 0
    assert b"identical" in dagl("compare", "a.png", "a.png")[0]


def test_16_bits_are_compared_at_16_bits() -> None:
    deep = A.astype(np.uint16) * 257
    write("a.png", deep)
    (row,) = measured("a.png", write("eight.png", A))["images"]
    assert row["identical"] is True
    assert row["notes"] == ["16 against 8 bits per sample"]
    deep[0, 0, 0] += 1
    (row,) = measured("a.png", write("b.png", deep))["images"]
    assert (row["depth"], row["max_difference"], row["identical"]) == (16, 1, False)
    assert row["psnr"] == pytest.approx(10 * math.log10(65535**2 * A.size), abs=0.01)


def test_alpha_is_told() -> None:
    b = np.dstack([A, np.full(A.shape[:2], 255, np.uint8)])
    write("opaque.png", b)
    b[5, 5, 3] = 55
    (row,) = measured(write("a.png", A), write("b.png", b))["images"]
    assert (row["identical"], row["max_alpha_difference"]) == (True, None)
    assert row["notes"] == ["only B has alpha, which is ignored"]
    (row,) = measured("opaque.png", "b.png")["images"]
    assert (row["identical"], row["max_alpha_difference"]) == (True, 200)
    assert "differs by up to 200 of 255" in dagl("compare", "opaque.png", "b.png")[1]


def test_colour_profiles_are_told() -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    write("a.png", A)
    assert "profiles differ" in dagl("compare", "a.png", write("b.png", A, icc_profile=profile))[1]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (A[:-1], "a.png is 20x24 and b.png is 20x23: crop or scale"),
        (A[..., 0], "a.png is colour and b.png is gray: convert"),
    ],
)
def test_what_does_not_fit_is_refused_by_both_names(other: np.ndarray, message: str) -> None:
    write("a.png", A)
    write("b.png", other)
    assert message in refused("compare", "a.png", "b.png", code=1)
    assert message in refused("compare", "a.png", "a.png", "--reference", "b.png", code=1)


def test_bad_paths_and_flags() -> None:
    write("a.png", A)
    write("folder/a.png", A)
    Path("bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    Path("old.html").write_text("mine")
    Path("dir.html").mkdir()
    assert "cannot read none.png: there is no such file" in refused("compare", "a.png", "none.png", code=1)
    assert "cannot read bad.png" in refused("compare", "bad.png", "a.png", code=1)
    assert "folder is a folder and a.png is a file" in refused("compare", "a.png", "folder")
    assert "folder is a folder and none is not there" in refused("compare", "folder", "none")
    assert "is a file: give" in refused("compare", "folder", "folder", "--reference", "a.png")
    assert "480 pixels are more than the limit of 9" in refused("compare", "a.png", "a.png", "--max-pixels", 9, code=1)
    for output, message in [
        ("r.png", "name it .html"),
        ("old.html", "--overwrite replaces it"),
        ("dir.html", "is a folder"),
        ("none/r.html", "the folder none does not exist"),
    ]:
        assert message in refused("compare", "a.png", "a.png", "-o", output)
    dagl("compare", "a.png", "a.png", "-o", "old.html", "--overwrite")
    assert Path("old.html").read_text().startswith("<!doctype html>")


def test_a_picture_with_the_name_of_the_report_is_kept() -> None:
    write("a.png", A)
    Path("a.png").rename("a.html")
    assert "is an input" in refused("compare", "a.html", "a.html", "-o", "a.html", "--overwrite")


def test_folders() -> None:
    b = np.minimum(A + 4, 255)
    for name in ("one.png", "sub/two.png", "sub/same.png", "size.png", "only-a.png", ".hidden.png"):
        write(f"a/{name}", A)
    for name, pixels in (
        ("one.png", b),
        ("sub/two.tif", b),
        ("sub/same.png", A),
        ("size.png", A[1:]),
        ("only-b.png", A),
    ):
        write(f"b/{name}", pixels)
    stdout, stderr = dagl("compare", "a", "b", "-o", "r.html", code=3)
    assert [line.split(" ", 1)[0] for line in stderr.splitlines()] == ["Error:"] * 3 + ["Report:"]
    assert "a/only-a.png has no counterpart in b" in stderr
    assert "b/only-b.png has no counterpart in a" in stderr
    assert "a/size.png is 20x24 and b/size.png is 20x23" in stderr
    assert b"identical" in stdout
    found = measured("a", "b", code=3)
    assert [row["name"] for row in found["images"]] == ["one.png", "sub/same.png", "sub/two.png"]
    assert [row["b"] for row in found["images"]] == ["b/one.png", "b/sub/same.png", "b/sub/two.tif"]
    assert len(found["problems"]) == 3
    page = Path("r.html").read_text()
    assert page.count('data-picture="') == 3
    assert "only-a.png" in page
    write("c/other.png", A)
    assert "no images of the same names" in refused("compare", "a", "c", code=1)


def test_results_inside_the_first_folder_are_not_its_images() -> None:
    write("a/one.png", A)
    write("a/restored/one.png", A)
    assert [row["name"] for row in measured("a", "a/restored")["images"]] == ["one.png"]


def test_against_a_reference() -> None:
    clean = A.astype(int)
    for name, error in (("a", 4), ("b", 2), ("c", 0)):
        write(f"{name}/x.png", (clean + error).astype(np.uint8))
    write("a/y.png", A)
    write("b/y.png", A)
    found = measured("a", "b", "--reference", "c", "-o", "r.html", code=3)
    assert found["problems"] == ["a/y.png has no counterpart in c: it is left out"]
    (row,) = found["images"]
    assert row["reference"] == "c/x.png"
    assert row["a_psnr"] == pytest.approx(psnr((clean + 4) / 255, clean / 255))
    assert row["b_psnr"] == pytest.approx(psnr((clean + 2) / 255, clean / 255))
    (row,) = measured("a/x.png", "c/x.png", "--reference", "c/x.png")["images"]
    assert (row["b_psnr"], row["b_ssim"]) == (None, 1)
    assert '"labels": ["A", "B", "reference"]' in Path("r.html").read_text()


def test_tiny_images_have_no_ssim() -> None:
    write("a.png", A[:5, :5])
    (row,) = measured("a.png", "a.png")["images"]
    assert row["ssim"] is None
    dagl("compare", "a.png", "a.png", "-o", "r.html")


def test_hostile_names() -> None:
    name = "<b>[red]\n'\"\u202e" + "x" * 60 + ".png"
    write(f"a/{name}", A)
    write(f"b/{name}", A)
    stdout, _ = dagl("compare", "a", "b", "-o", "r.html")
    assert b"[red]" in stdout.replace(b"\n", b"").replace(b" ", b"")
    assert "<b>" not in Path("r.html").read_text()


def test_a_report_holds_what_a_browser_can_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "PIXELS", 3 * 2 * A[..., 0].size)
    for i in range(5):
        write(f"a/{i}.png", A)
        write(f"b/{i}.png", np.roll(A, 1, 0) if i == 3 else (A + i).astype(np.uint8))
    dagl("compare", "a", "b", "-o", "r.html")
    page = Path("r.html").read_text()
    assert page.count('data-picture="') == 3
    assert "The pictures are the 3 pairs of 5 that differ most." in page
    monkeypatch.setattr(compare, "PIXELS", 2 * 16 * 16)
    dagl("compare", "a/3.png", "b/3.png", "-o", "r.html", "--overwrite")
    page = Path("r.html").read_text()
    assert "only the middle is shown, 16 x 16 pixels" in page
    assert '"width": 16' in page


def test_files_are_matched_by_path_then_by_stem() -> None:
    a = [Path(p) for p in ("x.png", "y.png", "d/z.png", "two.png", "two.jpg", "lone.png")]
    b = [Path(p) for p in ("x.png", "x.tif", "y.tif", "d/z.webp", "z.png", "two.tif")]
    pairs, only_a, only_b = compare.match(a, b)
    assert [(str(x), str(y)) for x, y in pairs] == [("d/z.png", "d/z.webp"), ("x.png", "x.png"), ("y.png", "y.tif")]
    assert [str(x) for x in only_a] == ["two.png", "two.jpg", "lone.png"]
    assert [str(y) for y in only_b] == ["x.tif", "z.png", "two.tif"]


def test_floats_are_compared_in_one_curve(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((32, 24, 3), np.float32) * 5
    for name, array in (("a.tif", values), ("b.tif", values.copy()), ("c.tif", values + 1)):
        tifffile.imwrite(tmp_path / name, array, photometric="rgb")
    same = compare.compare(compare.Pair("x", tmp_path / "a.tif", tmp_path / "b.tif"))
    assert (same.identical, same.psnr) == (True, None)
    other = compare.compare(compare.Pair("x", tmp_path / "a.tif", tmp_path / "c.tif"))
    assert other.psnr is not None
    assert other.mean_difference > 1000  # of 65535, and not hidden by a curve of its own
    assert "floats are compared in the curve that a network gets of A, at 16 bits" in other.notes
    tifffile.imwrite(tmp_path / "d.tif", values.astype(np.uint16), photometric="rgb")
    with pytest.raises(DaglError, match="floats and integers"):
        compare.compare(compare.Pair("x", tmp_path / "a.tif", tmp_path / "d.tif"))
