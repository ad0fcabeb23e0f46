"""Which files are taken, and what their results are called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import dagl, picture, refused, tree

from dagl_cli import images
from dagl_cli.cli.inputs import fits

pytestmark = pytest.mark.usefixtures("one_thread", "here")


def value(source: str | Path | bytes) -> int:
    return round(float(images.read(source).pixels.mean()) * 255)


def planned(*arguments: object, code: int = 0, stdin: bytes | None = None) -> dict[str, str]:
    """Input -> output of what would be restored."""
    stdout, _ = dagl(*arguments, "--dry-run", "--json", code=code, stdin=stdin)
    report: dict[str, Any] = json.loads(stdout)
    return {row["input"]: row["output"] for row in report["files"] if row["status"] == "planned"}


# --- names ---


def test_a_pattern_names_results() -> None:
    picture("in/a.png")
    picture("in/sub/b.tif")
    line = ["denoise", "--sigma", 7.5, "in"]
    assert planned(*line, "--name", "{stem}_dn{sigma}{suffix}") == {
        "in/a.png": "in_denoised/a_dn7.5.png",
        "in/sub/b.tif": "in_denoised/sub/b_dn7.5.tif",
    }
    assert planned(*line, "out", "--name", "{sigma:04.1f} {folder} {{{stem}}}{suffix}") == {
        "in/a.png": "out/07.5 in {a}.png",
        "in/sub/b.tif": "out/sub/07.5 sub {b}.tif",
    }
    assert planned("dejpeg", "in/a.png", "--name", "{stem}.tiff") == {"in/a.png": "in/a.tiff"}
    assert planned("dejpeg", "in/a.png", "in/sub/b.tif", "-o", "out", "--name", "x {stem}.png", "--format", "png") == {
        "in/a.png": "out/x a.png",
        "in/sub/b.tif": "out/x b.png",
    }


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("{stem", "a brace that stands alone"), ("stem}{suffix}", "a brace that stands alone"),
        ("{}{suffix}", "unknown field"), ("{0}{suffix}", "unknown field"), ("{size}{suffix}", "unknown field"),
        ("{stem.__class__}{suffix}", "unknown field"), ("{stem[0]}{suffix}", "unknown field"),
        ("{stem!r}{suffix}", "cannot be written so"), ("{stem:{suffix}}", "cannot be written so"),
        ("{stem:>999999999}{suffix}", "cannot be written so"), ("{stem:d}{suffix}", "is no way to write"),
        ("{sigma}{stem}{suffix}", "give --sigma"), ("../{stem}{suffix}", "is no name"),
        ("{folder}/{stem}.png", "is no name"),
        ("{suffix}", "is no name"),
        ("", "is no name"), ("..", "is no name"), ("{stem}", "ends in no format"), ("{stem}.exe", "ends in no format"),
        ("same{suffix}", "would both become in_dejpeg/same.png"),
    ],
)  # fmt: skip
def test_patterns_that_give_no_names_are_refused_before_the_work(pattern: str, said: str) -> None:
    picture("in/a.png")
    picture("in/b.png")
    message = refused("dejpeg", "in", "--name", pattern)
    assert said in message
    assert "--name" in message


def test_a_pattern_is_for_names_that_are_not_given() -> None:
    picture("in.png")
    assert "out.png is a whole name" in refused("dejpeg", "in.png", "out.png", "--name", "{stem}{suffix}")
    assert "stdout has no name" in refused("dejpeg", "-", "--name", "{stem}{suffix}")
    assert "is an input and is never overwritten" in refused("dejpeg", "in.png", "--name", "{stem}{suffix}")


def test_two_inputs_of_one_result_are_refused() -> None:
    picture("in/a.png")
    picture("in/a.tif")
    assert "in/a.png and in/a.tif would both become in_dejpeg/a.png" in refused("dejpeg", "in", "--format", "png")
    picture("b/a.png")
    assert "choose another --name" in refused("dejpeg", "in/a.png", "b/a.png", "-o", "o", "--name", "{stem}{suffix}")
    line = ["dejpeg", "in/a.png", "b/a.png", "-o", "o", "--name", "{folder}-{stem}{suffix}"]
    assert planned(*line) == {"in/a.png": "o/in-a.png", "b/a.png": "o/b-a.png"}


def test_results_of_an_earlier_run_under_a_pattern_are_not_inputs() -> None:
    picture("in/a.png")
    for line in (["in/a.png", "--name", "dn {stem}{suffix}"], ["in/a.png", "--name", "{stem} dn.tif"]):
        dagl("dejpeg", *line)
        stdout, _ = dagl("dejpeg", "in", "o", *line[1:], "--exclude", "dn *", "--dry-run", "--json")
        assert [row["input"] for row in json.loads(stdout)["files"]] == ["in/a.png"]
    assert planned("dejpeg", "in/a.png", "in/dn a.png", "-o", "o", "--name", "dn {stem}{suffix}") == {
        "in/a.png": "o/dn a.png"
    }


# --- formats ---


def test_results_in_another_format() -> None:
    picture("in/a.png")
    picture("in/B.JPG")
    assert planned("dejpeg", "in", "--format", "JPG", "--force") == {
        "in/a.png": "in_dejpeg/a.jpg",
        "in/B.JPG": "in_dejpeg/B.JPG",
    }
    dagl("dejpeg", "in/a.png", "--format", ".jxl")
    assert images.read("in/a_dejpeg.jxl").format == "JPEGXL"
    assert "--format bmpp is unknown: choose one of png, jpg" in refused("dejpeg", "in", "--format", "bmpp")
    assert "out.png and --format tif are two formats" in refused("dejpeg", "in/a.png", "out.png", "--format", "tif")
    assert "another format than --format tif" in refused("dejpeg", "in", "--format", "tif", "--name", "{stem}.png")


@pytest.mark.parametrize("flags", [[], ["--sigma", "20"]], ids=["left alone", "restored"])
def test_stdout_in_another_format_than_stdin(flags: list[str]) -> None:
    data = picture("in.png", size=(32, 32)).read_bytes()
    for ending, format in (("tif", "TIFF"), ("jpg", "JPEG"), ("png", "PNG")):
        stdout, _ = dagl("denoise", *flags, "-", "-", "--format", ending, stdin=data)
        assert images.read(stdout).format == format
        assert value(stdout) == 100 + 10 * bool(flags)
    assert stdout == data or flags
    images.write(images.Image(np.full((9, 9, 1), 0.5, np.float32), depth=16), "deep.png")
    deep = Path("deep.png").read_bytes()
    for more in ([], ["--dry-run"]):
        _, stderr = dagl("denoise", "--sigma", 5, "-", "-", "--format", "jpg", *more, stdin=deep, code=1)
        assert "16 bits per sample and JPEG holds 8" in stderr


# --- which files ---


@pytest.mark.parametrize(
    ("pattern", "path", "wanted"),
    [
        ("*.jpg", "a/b/IMG.JPG", True), ("*.jpg", "a.jpg/b.png", True), ("*.jpg", "a.jpeg", False),
        ("old", "old/a.png", True), ("old", "a/old/b.png", True), ("old", "older/a.png", False),
        ("2024/*", "2024/a/b.png", True), ("2024/*", "x/2024/a.png", False), ("a/b", "a/b/c.png", True),
        ("a/", "a/b.png", True), ("/a", "a/b.png", True), ("[ab].png", "b.png", True), ("", "a.png", False),
    ],
)  # fmt: skip
def test_what_a_pattern_fits(pattern: str, path: str, wanted: bool) -> None:
    assert fits(Path(path), pattern) is wanted


def test_include_and_exclude() -> None:
    for name in ("a.png", "b.tif", "old/c.png", "new/old/d.png", "new/e.png"):
        picture(f"in/{name}")
    Path("in/notes.txt").touch()
    assert set(planned("dejpeg", "in", "--include", "*.PNG", "--exclude", "old")) == {"in/a.png", "in/new/e.png"}
    assert set(planned("dejpeg", "in", "--include", "new/*", "--include", "b.*")) == {
        "in/b.tif", "in/new/e.png", "in/new/old/d.png",
    }  # fmt: skip
    assert set(planned("dejpeg", "in/a.png", "in/b.tif", "-o", "o", "--exclude", "*.tif")) == {"in/a.png"}
    stdout, _ = dagl("dejpeg", "in", "--exclude", "old", "--dry-run", "--json")
    why = "files that --include or --exclude leaves out"
    left_out = {of["why"]: of["files"] for of in json.loads(stdout)["left_out"]}
    assert left_out == {why: ["in/new/old/d.png", "in/old/c.png"], "files of other kinds": ["in/notes.txt"]}
    message = refused("dejpeg", "in", "--include", "*.pgn", code=1)
    assert "no images in this folder" in message
    assert "6 files that --include or --exclude leaves out, such as in/" in message
    assert "1 file that --include" in refused("dejpeg", "in/a.png", "--include", "*.pgn", code=1)
    nothing = "cannot read in/nothing.png: there is no such file"
    assert nothing in refused("dejpeg", "in/nothing.png", "-o", "o", "--include", "a*", code=1)
    assert nothing in dagl("dejpeg", "in", "in/nothing.png", "-o", "o", "--include", "a*", code=3)[1]


def test_lists_of_files() -> None:
    for name in ("a.png", "b c.png", "ñ\n.png", "sub/d.png"):
        picture(f"in/{name}")
    both = {"in/a.png": "in/a_dejpeg.png", "in/b c.png": "in/b c_dejpeg.png"}
    lines = [b"in/a.png\nin/b c.png", b"in/a.png\r\n\r\nin/b c.png\r\n", b"\xef\xbb\xbfin/a.png\nin/b c.png\n"]
    for data in (*lines, b"in/a.png\0in/b c.png\0", "in/a.png\nin/b c.png".encode("utf-16")):
        Path("list").write_bytes(data)
        assert planned("dejpeg", "--files-from", "list") == both
        assert planned("dejpeg", "--files-from", "-", stdin=data) == both
    odd = "in/ñ\n.png\0in/sub\0".encode()
    assert planned("dejpeg", "--files-from", "-", "-o", "out", stdin=odd) == {
        "in/ñ\n.png": "out/ñ\n.png",
        "in/sub/d.png": "out/sub/d.png",
    }
    _, stderr = dagl("dejpeg", "--files-from", "-", "-o", "out", stdin=b"in/a.png\nno.png\n[x].png\n", code=3)
    assert "Error: cannot read no.png: there is no such file" in stderr
    assert value("out/a.png") == 110


def test_lists_that_are_none() -> None:
    picture("a.png")
    assert "--files-from no: No such file or directory: name a list" in refused("dejpeg", "--files-from", "no")
    Path("empty").write_bytes(b"\n\n")
    assert "--files-from empty names no files" in refused("dejpeg", "--files-from", "empty")
    Path("dash").write_bytes(b"a.png\n-\n")
    assert "cannot be in a list" in refused("dejpeg", "--files-from", "dash")
    assert "a.png is one more" in refused("dejpeg", "--files-from", "empty", "a.png")
    Path("two").write_bytes(b"a.png\nb.png\n")
    assert "several images cannot go to stdout" in refused("dejpeg", "--files-from", "two", "-o", "-")


def test_patterns_that_the_shell_did_not_expand() -> None:
    for name in ("a.png", "b.png", "sub/c.png", "[x].png", ".hidden.png"):
        picture(f"in/{name}")
    assert planned("dejpeg", "in/?.png") == {"in/a.png": "in/a_dejpeg.png", "in/b.png": "in/b_dejpeg.png"}
    assert set(planned("dejpeg", "in/**/*.png", "out")) == {f"in/{n}.png" for n in ("a", "b", "sub/c", "[x]")}
    assert planned("dejpeg", "in/[x].png", "out.png") == {"in/[x].png": "out.png"}
    assert "is not a folder" in refused("dejpeg", "in/?.png", "out.png")
    assert "cannot read *.tif: there is no such file" in refused("dejpeg", "*.tif", code=1)
    assert planned("dejpeg", "s*", "in/s*", "-o", "out", code=3) == {"in/sub/c.png": "out/sub/c.png"}


def test_nothing_is_made_where_names_are_refused() -> None:
    picture("in/a.png")
    picture("in/b.png")
    before = tree()
    refused("dejpeg", "in", "--name", "one.png", "--overwrite")
    assert tree() == before
