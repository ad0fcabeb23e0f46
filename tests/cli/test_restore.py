"""`dagl` as its users meet it: paths, pipes, messages, exit codes, and files that are never lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile
import torch
from helpers import SHIFT, dagl, noting, picture, refused, tree
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dagl_cli import config
from dagl_cli import images as image
from dagl_cli.nn.model import DAGL
from dagl_cli.restoring.file import FileRestorer
from dagl_cli.store import weights

pytestmark = pytest.mark.usefixtures("one_thread", "here")


def value(path: str | Path | bytes) -> int:
    return round(float(image.read(path).pixels.mean()) * 255)


def names() -> list[str]:
    return [name for name in tree() if Path(name).is_file()]


# --- paths -----------------------------------------------------------------------------------------------------------


def test_one_image() -> None:
    picture("in.png")
    stdout, stderr = dagl("denoise", "--sigma", 25, "in.png", "out.png")
    assert value("out.png") == 100 + SHIFT
    assert stdout == b""
    assert stderr.startswith("in.png -> out.png: restored (")
    dagl("denoise", "--sigma", 25, "in.png")
    dagl("dejpeg", "in.png")
    dagl("dejpeg", "in.png", "--suffix", "-x")
    dagl("demosaic", "in.png")
    dagl("dejpeg", "in.png", "-o", "named.png")
    dagl("dejpeg", "in.png", "new/deep")
    dagl("dejpeg", "in.png", "other/deep/out.tif")
    (Path("there.png")).mkdir()
    dagl("dejpeg", "in.png", "there.png")
    assert names() == sorted(
        ["in.png", "out.png", "in_denoised.png", "in_dejpeg.png", "in-x.png", "in_rgb.png", "named.png",
         "new/deep/in.png", "other/deep/out.tif", "there.png/in.png"]
    )  # fmt: skip
    assert value("in.png") == 100


def test_many_images_need_a_folder() -> None:
    picture("a.png")
    picture("sub/b.tif")
    picture("folder/c/d.png")
    assert "several inputs need -o" in refused("dejpeg", "a.png", "sub/b.tif", "folder")
    for output in ("a.png", "new.png", "-"):
        message = refused("dejpeg", "a.png", "sub/b.tif", "-o", output)
        assert "folder" in message
        assert "folder" in refused("dejpeg", "folder", output)
    dagl("dejpeg", "a.png", "sub/b.tif", "folder", "-o", "out")
    assert names() == ["a.png", "folder/c/d.png", "out/a.png", "out/b.tif", "out/folder/c/d.png", "sub/b.tif"]


def test_a_folder_is_mirrored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.png", "b/c.TIFF", "b/d e/ñ 写真 [x].png", "[b]/f.png", ".hidden.png", ".git/g.png"):
        picture(f"photos/{name}")
    Path("photos/notes.txt").write_text("hello")
    Path("photos/empty").mkdir()
    _, stderr = dagl("dejpeg", "photos")
    wanted = ["[b]/f.png", "a.png", "b/c.TIFF", "b/d e/ñ 写真 [x].png"]
    assert [n for n in names() if n.startswith("photos_dejpeg")] == [f"photos_dejpeg/{name}" for name in wanted]
    assert all(f"photos/{name} -> photos_dejpeg/{name}: restored" in stderr for name in wanted)
    assert stderr.endswith("4 restored\n")
    monkeypatch.chdir("photos/b")
    for here in (".", "./", "../b", "d e/.."):
        dagl("denoise", "--sigma", 5, here, "--overwrite")
    monkeypatch.chdir("../..")
    assert [n for n in names() if "denoised" in n] == [
        "photos/b_denoised/c.TIFF",
        "photos/b_denoised/d e/ñ 写真 [x].png",
    ]


def test_a_link_to_a_folder_is_mirrored_beside_the_link() -> None:
    picture("card/photos/a.png")
    Path("photos").symlink_to("card/photos")
    dagl("dejpeg", "photos")
    assert value("photos_dejpeg/a.png") == 110
    assert not Path("card/photos_dejpeg").exists()


def test_names_that_look_like_flags() -> None:
    picture("./--sigma.png")
    dagl("dejpeg", "--", "--sigma.png", "-o.png")
    assert value("./-o.png") == 110


def test_names_that_are_not_unicode() -> None:
    name = os.fsdecode(b"caf\xe9\xff.png")
    picture("in.png")
    try:
        os.rename("in.png", name)
    except OSError:
        pytest.skip("the file system takes Unicode names only")
    stdout, _ = dagl("dejpeg", name, "--json")
    assert json.loads(stdout)["files"][0]["input"] == name
    assert value(os.fsdecode(b"caf\xe9\xff_dejpeg.png")) == 110


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\0\\"), min_size=1, max_size=40),
        min_size=1,
        max_size=3,
        unique_by=str.casefold,
    )
)
def test_any_name(tmp_path_factory: pytest.TempPathFactory, stems: list[str]) -> None:
    folder = tmp_path_factory.mktemp("names")
    for number, stem in enumerate(stems):
        picture(folder / "in" / f"x{stem}.png", 50 + number)
    stdout, _ = dagl("dejpeg", folder / "in", folder / "out", "--json")
    rows = json.loads(stdout)["files"]
    assert {row["input"] for row in rows} == {str(folder / "in" / f"x{stem}.png") for stem in stems}
    for number, stem in enumerate(stems):
        assert value(folder / "out" / f"x{stem}.png") == 50 + number + SHIFT


def test_existing_outputs_are_skipped_and_counted() -> None:
    picture("in/a.png")
    picture("in/b.png")
    Path("out").mkdir()
    Path("out/a.png").write_bytes(b"precious")
    Path("out/b.png").symlink_to("nowhere")
    _, stderr = dagl("dejpeg", "in", "out")
    assert "in/a.png -> out/a.png: skipped (the output exists: --overwrite replaces it)" in stderr
    assert stderr.endswith("2 skipped\n")
    assert Path("out/a.png").read_bytes() == b"precious"
    _, stderr = dagl("dejpeg", "in", "out", "--overwrite")
    assert stderr.endswith("2 restored\n")
    assert value("out/a.png") == value("out/b.png") == 110


@pytest.mark.parametrize("flags", [[], ["--overwrite"]])
def test_an_input_is_never_overwritten(flags: list[str]) -> None:
    picture("d/in.png")
    Path("link.png").symlink_to("d/in.png")
    Path("folder").symlink_to("d")
    Path("loop.png").symlink_to("loop.png")
    for arguments in (
        ["d/in.png", "d/in.png"], ["d/in.png", "./d/../d/in.png"], ["d/in.png", "link.png"], ["link.png", "d/in.png"],
        ["d/in.png", "folder"], ["d", "folder"], ["d", "d"], ["d/in.png", "-o", "d"], ["d/in.png", "--suffix", ""],
    ):  # fmt: skip
        assert "is an input and is never overwritten" in refused("dejpeg", *arguments, *flags)
    assert "must not name a folder" in refused("dejpeg", "d/in.png", "--suffix", "/../x", *flags)
    assert "cannot read loop.png" in refused("dejpeg", "loop.png", "out.png", *flags, code=1)
    os.link("d/in.png", "hard.png")
    dagl("dejpeg", "d/in.png", "hard.png", "--overwrite")
    assert (value("d/in.png"), value("hard.png")) == (100, 110)


def test_two_inputs_never_become_one_output() -> None:
    picture("a/x.png")
    picture("b/x.png")
    assert "a/x.png and b/x.png would both become out/x.png" in refused("dejpeg", "a/x.png", "b/x.png", "-o", "out")


def test_a_file_that_is_named_twice_is_taken_once() -> None:
    picture("a/x.png")
    picture("b/y.png")
    _, stderr = dagl("dejpeg", "a/x.png", "b/y.png", "./b/../a/x.png", "-o", "out")
    assert stderr.count("restored (") == 2
    assert names() == ["a/x.png", "b/y.png", "out/x.png", "out/y.png"]


def test_results_inside_the_input_are_not_inputs() -> None:
    picture("in/a.png")
    picture("other/b.png")
    for arguments in (["in", "in/out"], ["in", "other", "-o", "in/both"]):
        dagl("dejpeg", *arguments)
        before = names()
        dagl("dejpeg", *arguments, "--overwrite")
        assert names() == before
        for name in before:
            if "/out" in name or "/both" in name:
                Path(name).unlink()
    assert before == ["in/a.png", "in/both/in/a.png", "in/both/other/b.png", "other/b.png"]


def test_output_folders_that_cannot_be() -> None:
    picture("in/a.png")
    picture("in/b.png")
    Path("file").write_text("hello")
    assert "file is not a folder" in refused("dejpeg", "in", "file")
    before = tree()
    _, stderr = dagl("dejpeg", "in", "file/below", code=1)
    assert "Error: cannot make the folder file/below: Not a directory" in stderr
    assert tree() == before


# --- pipes, reports, variables ---------------------------------------------------------------------------------------


def test_pipes() -> None:
    data = picture("in.png").read_bytes()
    for arguments in (["-", "-"], ["-"]):
        stdout, stderr = dagl("dejpeg", *arguments, stdin=data)
        assert value(stdout) == 110
        assert stderr.startswith("- -> -: restored")
    stdout, stderr = dagl("dejpeg", "in.png", "-", "--quiet")
    assert (value(stdout), stderr) == (110, "")
    dagl("dejpeg", "-", "out.png", stdin=data)
    assert value("out.png") == 110
    assert names() == ["in.png", "out.png"]
    assert "--json and an image cannot both go to stdout" in refused("dejpeg", "in.png", "-", "--json")
    assert "cannot be mixed" in refused("dejpeg", "-", "in.png", "-o", "out")
    for broken in (b"", b"hello", data[:-9]):
        stdout, stderr = dagl("dejpeg", "-", "-", stdin=broken, code=1)
        assert stdout == b""
        assert stderr.startswith("Error: cannot read stdin: ")


def test_json() -> None:
    picture("in/a.png", size=(8, 8))
    picture("in/b.png")
    Path("in/c.png").write_text("hello")
    picture("out/b.png")
    stdout, stderr = dagl("denoise", "in", "out", "--json", code=3)
    report = json.loads(stdout)
    assert report["counts"] == {"unchanged": 1, "skipped": 1, "failed": 1}
    a, b, c = report["files"]
    assert a | {"seconds": 0} == {
        "input": "in/a.png", "output": "out/a.png", "status": "unchanged", "seconds": 0, "sigma": 0.0,
        "quality": None, "model": None, "sha256": None, "precision": None, "backend": None,
        "message": "no white or camera noise found: left as it is; --sigma decides otherwise",
    }  # fmt: skip
    assert (b["status"], c["status"]) == ("skipped", "failed")
    assert c["message"] == f"cannot read in/c.png: it is not a {image.NAMES} image: convert it to one"
    assert "Error: cannot read in/c.png" in stderr
    report = json.loads(dagl("denoise", "in/a.png", "--sigma", 5, "--json", "-q")[0])
    assert report["counts"] == {"restored": 1}
    assert report["files"][0]["model"] == "denoise-gray"


def test_what_was_estimated_is_printed() -> None:
    rng = np.random.default_rng(0)
    PIL.Image.fromarray((100 + rng.normal(0, 20, (64, 64))).astype(np.uint8)).save("in.png")
    stderr = dagl("denoise", "in.png")[1]
    sigma = float(stderr.split("sigma ")[1].split(" (estimated)")[0])
    assert abs(sigma - 20) < 4
    PIL.Image.open("in.png").save("in.jpg", quality=35)
    assert "JPEG quality 35 (estimated)" in dagl("dejpeg", "in.jpg")[1]
    assert "no camera-noise model yet: the Gaussian denoiser runs" in dagl("denoise", "--real", "in.png", "r.png")[1]


def test_quiet() -> None:
    picture("in/a.png")
    Path("in/b.png").touch()
    _, stderr = dagl("dejpeg", "in", "--quiet", code=3)
    assert stderr == "Error: cannot read in/b.png: it is empty (0 bytes): get an intact copy of it\n"


def test_dry_run_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    picture("in/a.png")
    picture("in/b.png")
    picture("in_dejpeg/b.png")
    before = tree()
    monkeypatch.setattr(weights, "load", lambda *_: pytest.fail("loaded weights"))
    _, stderr = dagl("dejpeg", "in", "--dry-run")
    assert "in/a.png -> in_dejpeg/a.png: planned\n" in stderr
    assert stderr.endswith("1 skipped, 1 planned\n")
    assert json.loads(dagl("dejpeg", "in", "--dry-run", "--json", "--overwrite")[0])["counts"] == {"planned": 2}
    assert tree() == before
    assert "cannot read no.png: there is no such file" in refused("dejpeg", "no.png", "--dry-run", code=1)
    assert "--strength" in refused("dejpeg", "in", "--dry-run", "--strength", 3)


def test_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    picture("in.png")
    monkeypatch.setenv("DAGL_SUFFIX", "_env")
    monkeypatch.setenv("DAGL_STRENGTH", "0.5")
    dagl("dejpeg", "in.png")
    assert value("in_env.png") == 105
    dagl("dejpeg", "in.png", "out.png", "--strength", 1)
    assert value("out.png") == 110
    for name, bad in (
        ("STRENGTH", "x"), ("TILE", "x"), ("OVERLAP", "x"), ("DEVICE", "x"), ("PRECISION", "x"), ("MAX_PIXELS", "x"),
    ):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setenv(f"DAGL_{name}", bad)
            assert f"--{name.lower().replace('_', '-')}" in refused("dejpeg", "in.png", "new.png")
    monkeypatch.setenv("DAGL_MODEL", "nothing")
    assert "--model nothing" in refused("dejpeg", "in.png", "new.png", code=4)
    monkeypatch.setenv("DAGL_PATTERN", "XXXX")
    assert "--pattern XXXX" in refused("demosaic", "in.png", "new.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipes_in_a_folder_are_left_out() -> None:
    picture("in/a.png")
    os.mkfifo("in/b.png")
    assert json.loads(dagl("denoise", "in", "--json")[0])["counts"] == {"unchanged": 1}


def test_variables_give_way_where_they_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    picture("in.png")
    for name, setting in (("SIGMA", "25"), ("JSON", "1"), ("TILE", "128"), ("OVERLAP", "8"), ("DEVICE", "x")):
        monkeypatch.setenv(f"DAGL_{name}", setting)
    assert json.loads(dagl("denoise", "--real", "in.png", "out.png", "--device", "cpu")[0])["files"][0]["sigma"] is None
    assert "--json and an image" in refused("dejpeg", "in.png", "-", "--json", "--device", "cpu")
    dagl("dejpeg", "in.png", "-", "--device", "cpu")
    assert "--dataset, --table or --figure" in refused("benchmark", "--device", "cpu")  # and nothing about tiles
    assert "--tile and --overlap" in refused("benchmark", "--dataset", "Set12", "--tile", 64, "--device", "cpu")
    assert "--table 2 needs --dnd" in dagl("benchmark", "--table", 2, "--device", "cpu", code=2)[1]
    toml = Path("run.toml")
    toml.write_text('task = "denoise"\ndata = ["."]\noutput = "run"\nsteps = 1\ndevice = "cpu"\n')
    assert "no images of at least" in refused("train", "--config", toml)  # not: --device x


def test_patterns() -> None:
    picture("in.png", 100)
    for pattern, corner in (("RGGB", 0), ("BGGR", 2), ("grbg", 1), ("GBRG", 1)):
        dagl("demosaic", "in.png", f"{pattern}.png", "--pattern", pattern)
        levels = np.rint(image.read(f"{pattern}.png").pixels[0, 0] * 255)
        assert [level == 100 + SHIFT for level in levels] == [c == corner for c in range(3)]


def test_max_pixels_is_known_before_torch() -> None:
    assert config.MAX_PIXELS == 200_000_000
    picture("in.png")
    assert "raise --max-pixels" in refused("dejpeg", "in.png", "out.png", "--max-pixels", 47, code=1)
    dagl("dejpeg", "in.png", "out.png", "--max-pixels", 48)


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags",
    [
        ["--sigma", "-1"], ["--sigma", "76"], ["--sigma", "abc"], ["--sigma", "nan"], ["--sigma", "inf"],
        ["--tile", "abc"], ["--tile", "0"], ["--tile", "-5"], ["--tile", "63"], ["--tile", "1e3"],
        ["--overlap", "-3"], ["--overlap", "9999"], ["--overlap", "x"], ["--device", "foo"], ["--device", "meta"],
        ["--device", "cuda:77"], ["--precision", "foo"], ["--strength", "2"], ["--strength", "nan"],
        ["--max-pixels", "0"], ["--suffix", "a/b"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_flags_that_make_no_sense(flags: list[str]) -> None:
    picture("in/a.png", 90)
    picture("in/b.png", 90)
    given = flags if flags[0] == "--sigma" else ["--sigma", "5", *flags]
    assert flags[0] in refused("denoise", *given, "in")


def test_more_usage() -> None:
    picture("in.png")
    assert "--pattern XXXX is unknown: choose one of RGGB" in refused("demosaic", "--pattern", "XXXX", "in.png")
    assert "Missing argument" in refused("dejpeg")
    assert "made for demosaic, not for dejpeg" in refused("dejpeg", "--model", "demosaic-color", "in.png")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--foo", "No such option: --foo (see "),
        ("denois in.png", "No such command 'denois'"),
        ("dejpeg --sigma 5 in.png", "No such option: --sigma"),
        ("denoise in.png --sigma", "Option '--sigma' requires an argument (see root denoise --help)"),
        ("denoise in.png --:heart:", "No such option: --:heart:"),
        ("denoise --sigm 5 in.png", "--sigma"),
        ("weights lst", "No such command 'lst'"),
        ("weights list in.png", "in.png"),
    ],
)
def test_a_mistyped_command_line_is_one_line(line: str, said: str) -> None:
    picture("in.png")
    assert said in refused(*line.split())


def test_an_empty_name_is_not_the_current_folder() -> None:
    picture("in.png")
    for line in ([""], ["in.png", ""], ["in.png", "-o", ""]):
        assert "a name is empty" in refused("dejpeg", *line)


def test_names_are_printed_as_they_are() -> None:
    assert "cannot read a:heart:b.png" in refused("dejpeg", "a:heart:b.png", code=1)


def test_no_arguments_print_the_help() -> None:
    stdout, stderr = dagl(code=2)
    assert "demosaic" in stdout.decode() + stderr
    stdout, stderr = dagl("weights", code=2)
    assert "manifest" in stdout.decode() + stderr


def test_weights_that_are_not_there() -> None:
    picture("in/a.png")
    PIL.Image.new("RGB", (8, 8), (200, 10, 10)).save("in/b.png")
    assert "--model nothing: no such file or bundled model" in refused("dejpeg", "in", "--model", "nothing", code=4)
    Path("text.pt").write_text("hello")
    torch.save({"a": torch.ones(2)}, "model.pt")
    for name in ("text.pt", "model.pt", "in/a.png"):
        assert f"{name}: not a readable safetensors file" in refused("dejpeg", "in", "--model", name, code=4)
    _, stderr = dagl("dejpeg", "in", code=4)
    assert stderr.endswith("bundled model (bundled: dejpeg-gray, demosaic-color, denoise-color, denoise-gray)\n")
    assert value("in_dejpeg/a.png") == 110, "what went well before is kept"


def truncated(name: str) -> Callable[[], object]:
    def make() -> None:
        levels = np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8)
        PIL.Image.fromarray(levels).save(name)
        Path(name).write_bytes(Path(name).read_bytes()[:-200])

    return make


def bomb() -> None:
    import struct
    import zlib

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    body = b"".join(struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks)
    Path("bad.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)


BROKEN: dict[str, tuple[str, Callable[[], object], str]] = {
    "truncated PNG": ("bad.png", truncated("bad.png"), "truncated"),
    "truncated JPEG": ("bad.jpg", truncated("bad.jpg"), "truncated"),
    "truncated TIFF": ("bad.tif", truncated("bad.tif"), "truncated"),
    "truncated BMP": ("bad.bmp", truncated("bad.bmp"), "truncated"),
    "text": ("bad.png", lambda: Path("bad.png").write_text("hello"), "it is not a PNG"),
    "zero bytes": ("bad.png", lambda: Path("bad.png").touch(), "0 bytes"),
    "bomb": ("bad.png", bomb, "--max-pixels"),
    "CMYK JPEG": ("bad.jpg", lambda: PIL.Image.new("CMYK", (9, 9)).save("bad.jpg"), "CMYK: convert"),
    "CMYK TIFF": ("bad.tif", lambda: PIL.Image.new("CMYK", (9, 9)).save("bad.tif"), "SEPARATED: convert"),
    "float TIFF": ("bad.tif", lambda: tifffile.imwrite("bad.tif", np.zeros((9, 9), "f8")), "64-bit floating-point"),
    "missing": ("bad.png", lambda: None, "there is no such file"),
    "a dangling link": ("bad.png", lambda: Path("bad.png").symlink_to("nowhere"), "there is no such file"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_one_line_and_the_batch_goes_on(name: str) -> None:
    bad, make, reason = BROKEN[name]
    make()
    message = refused("dejpeg", bad, f"out{Path(bad).suffix}", code=1)
    assert message.startswith(f"Error: cannot read {bad}: ")
    assert reason in message
    picture("z.png")
    _, stderr = dagl("dejpeg", bad, "z.png", "-o", "out", code=3)
    assert value("out/z.png") == 110
    assert reason in stderr
    assert stderr.endswith("1 restored, 1 failed\n")


def test_all_broken() -> None:
    for name in ("in/a.png", "in/b.png"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    _, stderr = dagl("dejpeg", "in", code=1)
    assert stderr.count("\n") == 4
    assert stderr.endswith("Failed: in/a.png, in/b.png\n2 failed\n")


def test_no_images() -> None:
    Path("in").mkdir()
    Path("in/a.txt").touch()
    assert "in: no images in this folder" in refused("dejpeg", "in", code=1)


def test_a_format_that_cannot_hold_the_result() -> None:
    image.write(image.Image(np.zeros((9, 9, 1), np.float32), depth=16), "deep.png")
    assert "cannot write out.jpg: the image has 16 bits" in refused("dejpeg", "deep.png", "out.jpg", code=1)
    assert "cannot write out.gif: '.gif' is not a format" in refused("dejpeg", "deep.png", "out.gif", code=1)


def test_a_model_for_other_images_costs_only_those() -> None:
    picture("in/a.png")
    PIL.Image.new("RGB", (8, 8), (200, 10, 10)).save("in/b.png")
    _, stderr = dagl("dejpeg", "in", "--model", "dejpeg-gray", code=3)
    said = "dejpeg-gray is a model for gray images, this one has 3 channel(s): choose another --model"
    assert f"Error: in/b.png: {said}\n" in stderr
    assert value("in_dejpeg/a.png") == 110


def test_a_colour_model_for_a_gray_picture_says_what_it_leaves() -> None:
    picture("in.png")
    _, stderr = dagl("denoise", "--sigma", 5, "--model", "denoise-color", "in.png")
    assert "a model for colour leaves much of a gray picture's noise" in stderr
    _, stderr = dagl("denoise", "--sigma", 5, "in.png", "--overwrite")
    assert "leaves" not in stderr


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_unreadable_files_and_folders(here: Path, bundle: Path) -> None:
    for name in ("in/a.png", "in/b.png", "in/locked/c.png"):
        picture(name)
    Path("in/b.png").chmod(0)
    Path("in/locked").chmod(0)
    nobody = os.geteuid() == 0
    folders = [bundle, here, *here.parents] if nobody else []
    modes = [folder.stat().st_mode for folder in folders]
    try:
        for folder in folders:
            if "pytest" in str(folder):
                folder.chmod(0o777)
        if nobody:
            os.seteuid(65534)  # root may read everything
        stdout, stderr = dagl("dejpeg", "in", "--json", code=3)
        assert refused_line("in/locked", stderr) == "cannot read in/locked: Permission denied: make it readable"
        assert "cannot read in/b.png: permission denied: make the file readable" in stderr
        assert json.loads(stdout)["counts"] == {"restored": 1, "failed": 2}
        _, stderr = dagl("dejpeg", "in/locked", code=1)
        assert stderr.count("\n") == 1
        dagl("dejpeg", "in/locked/c.png", code=1)
    finally:
        if nobody:
            os.seteuid(0)
        for folder, mode in zip(folders, modes):
            folder.chmod(mode)
        Path("in/locked").chmod(0o755)


def refused_line(name: str, stderr: str) -> str:
    return next(line for line in stderr.splitlines() if name in line).removeprefix("Error: ")


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("in/a.png", "in/b.png", "in/c.png"):
        picture(name)
    sync, calls = os.fsync, []

    def full(file: int) -> None:
        calls.append(file)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        sync(file)

    monkeypatch.setattr(os, "fsync", full)
    _, stderr = dagl("dejpeg", "in", code=3)
    outputs = {f"in_dejpeg/{name}.png" for name in "abc"}
    lost = {
        name for name in outputs if f"Error: cannot write {name}: No space left on device: free some space\n" in stderr
    }
    assert len(lost) == 1, "files are written while others are restored, in any order"
    assert {n for n in tree() if "in_" in n} == {"in_dejpeg"} | (outputs - lost)


def test_a_mistake_of_ours_does_not_cost_the_other_files(monkeypatch: pytest.MonkeyPatch) -> None:
    picture("in/a.png", 10)
    picture("in/b.png", 90)
    forward = DAGL.forward

    def odd(self: DAGL, x: torch.Tensor, sigma: float | None = None) -> torch.Tensor:
        if x.mean() < 0.2:
            raise RuntimeError("two\nlines")
        return forward(self, x, sigma)

    monkeypatch.setattr(DAGL, "forward", odd)
    _, stderr = dagl("dejpeg", "in", code=3)
    assert "Error: in/a.png: RuntimeError: two lines: please report this\n" in stderr
    assert value("in_dejpeg/b.png") == 100


def test_out_of_memory_is_told_and_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    picture("in.png", 100, (150, 150))
    forward = DAGL.forward

    def small(self: DAGL, x: torch.Tensor, sigma: float | None = None) -> torch.Tensor:
        if x.shape[-1] > 140:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, x, sigma)

    monkeypatch.setattr(DAGL, "forward", small)
    _, stderr = dagl("dejpeg", "--force", "in.png", "out.png", "--device", "cpu", "--tile", 200)
    assert stderr.startswith("Note: out of memory on cpu: trying again with --tile 100\nin.png -> out.png: restored")
    assert value("out.png") == 110


# --- interruptions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["network", "sync", "rename"])
def test_an_interrupted_folder_run_is_finished_by_the_next(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        picture(f"in/{name}.png")
    owner, function = {"network": (DAGL, "forward"), "sync": (os, "fsync"), "rename": (os, "link")}[where]
    original, calls = getattr(owner, function), []

    def interrupted(*arguments: object, **more: object) -> object:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*arguments, **more)

    monkeypatch.setattr(owner, function, interrupted)
    _, stderr = dagl("dejpeg", "in", code=130)
    assert stderr.endswith("Interrupted: finished files are kept, running the command again does the rest.\n")
    there = [Path(n).name for n in tree() if "in_dejpeg/" in n]
    assert set(there) < {"a.png", "b.png", "c.png"}, "whole results, and nothing hidden"
    _, stderr = dagl("dejpeg", "in")
    assert stderr.endswith(f"{3 - len(there)} restored" + (f", {len(there)} skipped\n" if there else "\n"))
    assert [value(f"in_dejpeg/{name}.png") for name in "abc"] == [110] * 3


HANGING = """
import os, sys, time
from pathlib import Path
from dagl_cli.cli import main
place, model = sys.argv.pop(1), sys.argv.pop(1)
sync = os.fsync
def hang(file):
    if len(list(Path('in_dejpeg').glob('[!.]*'))) == 1:
        print('now', flush=True)
        time.sleep(60)
    sync(file)
os.fsync = hang
sys.argv += ['--model', model]
main()
"""


def not_ignored() -> None:
    """The signals as a terminal's commands have them: not as nohup and shells in the background leave them."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL], ids=lambda s: s.name)
def test_signals(number: int, bundle: Path) -> None:
    """After a kill -9 nobody can clean up: what is left is hidden, no input, and in nobody's way."""
    for name in "abc":
        picture(f"in/{name}.png")
    process = subprocess.Popen(
        [sys.executable, "-c", HANGING, "x", str(bundle / "dejpeg-gray.safetensors"), "dejpeg", "in"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=not_ignored,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "now\n"
    start = time.monotonic()
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert time.monotonic() - start < 30
    left = sorted(p.name for p in Path("in_dejpeg").iterdir())
    if number == signal.SIGKILL:
        assert process.returncode == -9
        assert {Path(name).suffix for name in left} == {".claim", ".part", ".png"}
    else:
        assert process.returncode == 130
        assert stderr.splitlines()[-1].startswith("Interrupted: finished files are kept")
        assert left in (["a.png"], ["b.png"], ["c.png"])
    assert dagl("dejpeg", "in")[1].endswith("2 restored, 1 skipped\n")
    assert sorted(p.name for p in Path("in_dejpeg").iterdir()) == ["a.png", "b.png", "c.png"]
    assert dagl("dejpeg", "in_dejpeg", "again")[1].endswith("3 restored\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_stdout_that_takes_nothing(bundle: Path) -> None:
    picture("in.png")
    command = [sys.executable, "-m", "dagl_cli", "dejpeg", "-q", "--model", str(bundle / "dejpeg-gray.safetensors")]
    with open("/dev/full", "wb") as full:
        result = subprocess.run([*command, "in.png", "-"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (result.returncode, result.stderr) == (1, "Error: cannot write to stdout: No space left on device\n")
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run([*command, "in.png", "out.png", "--json"], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (result.returncode, result.stderr) == (1, ""), "whoever read has gone: nothing to say"


def test_the_default_model_of_a_task_is_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []
    load = weights.load
    monkeypatch.setattr(weights, "load", lambda path: noting(loads, path.stem, load(path)))
    for name in "abc":
        picture(f"in/{name}.png")
    dagl("dejpeg", "in")
    assert loads == ["dejpeg-gray"]
    assert FileRestorer("dejpeg").restorer(1).name == "dejpeg-gray"
