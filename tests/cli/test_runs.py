"""What went wrong once: outputs that are inputs, streams that take nothing, several runs at one folder."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE
from typing import Any

import numpy as np
import PIL.Image
import pytest
from helpers import SHIFT, dagl, interrupted_after, picture, refused, shared
from typer.testing import CliRunner

from dagl_cli import files, images
from dagl_cli.cli import app
from dagl_cli.cli.console import plain
from dagl_cli.errors import ImageError
from dagl_cli.restoring.batch import Batch, Job
from dagl_cli.restoring.file import FileRestorer
from dagl_cli.restoring.picture import Case, Outcome, largest_rectangle

pytestmark = pytest.mark.usefixtures("one_thread", "here")


def value(path: str | Path) -> int:
    return round(float(images.read(path).pixels.mean()) * 255)


def noisy(path: str | Path, sigma: float = 20, size: tuple[int, int] = (64, 64), seed: int = 0) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = 100 + np.random.default_rng(seed).normal(0, sigma, size)
    PIL.Image.fromarray(levels.clip(0, 255).round().astype(np.uint8)).save(path)
    return path


def command(bundle: Path, *arguments: object) -> list[str]:
    model = bundle / "dejpeg-gray.safetensors"
    return [sys.executable, "-m", "dagl_cli", "dejpeg", "--force", "--model", str(model), *map(str, arguments)]


# --- inputs stay ---


def test_two_pictures_that_the_shell_expanded() -> None:
    picture("a.png", 90)
    picture("b.png", 100)
    assert "b.png is an image: if it is the output to overwrite, say -o b.png" in refused(
        "dejpeg", "a.png", "b.png", "--overwrite"
    )
    dagl("dejpeg", "a.png", "-o", "b.png", "--overwrite")
    assert value("b.png") == 90 + SHIFT


def test_an_output_folder_that_becomes_a_link_to_the_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the planning, in the middle of the run: then the input is still not overwritten."""
    picture("in/a.png", 100)
    picture("in/b.png", 100)
    Path("out").mkdir()
    treated = FileRestorer.treated

    def turned(self: FileRestorer, case: Case, *more: Any) -> tuple[Outcome, images.Image]:
        if Path("out").is_dir() and not Path("out").is_symlink():
            for path in Path("out").iterdir():
                path.unlink()
            Path("out").rmdir()
            Path("out").symlink_to("in")
        return treated(self, case, *more)

    monkeypatch.setattr(FileRestorer, "treated", turned)
    _, stderr = dagl("dejpeg", "in", "-o", "out", "--overwrite", code=1)
    assert "cannot write out/a.png: it is an input and is never overwritten: choose another output" in stderr
    assert value("in/a.png") == value("in/b.png") == 100
    assert sorted(os.listdir("in")) == ["a.png", "b.png"]


def test_an_output_folder_that_is_a_bind_mount_of_the_input() -> None:
    picture("in/a.png", 100)
    Path("out").mkdir()
    if subprocess.run(["mount", "--bind", "in", "out"], capture_output=True).returncode:
        pytest.skip("bind mounts are not allowed here")
    try:
        assert "out/a.png is an input and is never overwritten" in refused("dejpeg", "in", "-o", "out", "--overwrite")
    finally:
        subprocess.run(["umount", "out"], check=True)
    assert value("in/a.png") == 100


def test_results_of_an_earlier_run_are_not_inputs() -> None:
    picture("photos/x.png")
    dagl("dejpeg", "photos/x.png")
    picture("photos/trip/y.png")
    dagl("dejpeg", "photos/trip")
    assert sorted(p.name for p in Path("photos").iterdir()) == ["trip", "trip_dejpeg", "x.png", "x_dejpeg.png"]
    stdout, stderr = dagl("dejpeg", "photos", "-o", "out", "--json")
    report = json.loads(stdout)
    assert [row["input"] for row in report["files"]] == ["photos/x.png", "photos/trip/y.png"]
    assert report["left_out"] == [
        {
            "why": "results of an earlier run",
            "count": 2,
            "files": ["photos/x_dejpeg.png", "photos/trip_dejpeg/y.png"],
        }
    ]
    _, stderr = dagl("dejpeg", "photos/x.png", "photos/x_dejpeg.png", "-o", "both")
    assert os.listdir("both") == ["x.png"]
    assert "Left out: 1 result of an earlier run, such as photos/x_dejpeg.png" in stderr
    dagl("dejpeg", "photos/x_dejpeg.png", "again.png")  # it is meant where it is named alone
    assert value("again.png") == 100 + 2 * SHIFT


def test_what_is_left_out_is_counted_and_named() -> None:
    picture("in/a.png")
    picture("in/c.jfif")
    for name in ("notes.txt", "b.psd", "drawing.svg", "d.nef"):
        Path("in", name).touch()
    stdout, _ = dagl("dejpeg", "in", "--json")
    report = json.loads(stdout)
    assert [row["input"] for row in report["files"]] == ["in/a.png", "in/c.jfif"]
    assert {of["why"]: of["count"] for of in report["left_out"]} == {
        "files of other kinds": 3,
        "camera raw files, which `dagl restore` takes": 1,
    }
    _, stderr = dagl("dejpeg", "in")
    assert "Left out: 3 files of other kinds, such as in/b.psd\n" in stderr
    assert "Left out: 1 camera raw file, which `dagl restore` takes, such as in/d.nef\n" in stderr
    assert stderr.endswith("2 skipped\n")
    (Path("in") / "a.png").unlink()
    (Path("in") / "c.jfif").unlink()
    assert "such as in/b.psd" in refused("dejpeg", "in", code=1)


# --- several runs ---


def test_what_another_run_is_making_is_left_to_it() -> None:
    picture("in/a.png")
    picture("in/b.png")
    Path("out").mkdir()
    with files.claimed(Path("out/a.png")) as mine:
        assert mine
        stdout, _ = dagl("dejpeg", "in", "-o", "out", "--json")
    a, b = json.loads(stdout)["files"]
    assert (a["status"], a["message"], b["status"]) == ("skipped", "another run is making it", "restored")
    assert dagl("dejpeg", "in", "-o", "out")[1].endswith("1 restored, 1 skipped\n")
    assert sorted(os.listdir("out")) == ["a.png", "b.png"]


def test_where_no_claim_can_be_made_nobody_else_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that says it is writable and is not (a security module, /proc): no other run is making the file."""
    picture("a.png")
    Path("out").mkdir()

    def denied(path: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("dagl_cli.restoring.batch.claimed", denied)
    line = "cannot write out/a.png: Permission denied: choose a folder you may write to"
    assert line in refused("dejpeg", "a.png", "-o", "out", code=1)
    files.claim_of(Path("out/a.png")).touch()  # another user's, which cannot be removed
    monkeypatch.setattr("dagl_cli.restoring.batch.clean", lambda folder: None)
    assert "another run is making it" in dagl("dejpeg", "a.png", "-o", "out")[1]


def test_shards_share_all_and_a_new_file_moves_no_other() -> None:
    """Whatever the folder is called on a machine: what its names are decides."""
    for number in range(12):
        picture(f"in/{number % 3}/{number}.png")
    Path("in/notes.txt").touch()
    Path("in/broken.png").write_bytes(b"hello")

    def shares(source: str) -> dict[int, set[str]]:
        found = {}
        for index in (1, 2, 3):
            arguments = ["dejpeg", source, "-o", "out", "--shard", f"{index}/3", "--dry-run", "--json"]
            report = json.loads(CliRunner().invoke(app, arguments).stdout)
            found[index] = {str(Path(row["input"]).relative_to(source)) for row in report["files"]}
            found[index] |= {Path(name).name for left in report["left_out"] for name in left["files"]}
        return found

    first = shares("in")
    assert all(len(share) > 1 for share in first.values())
    assert sorted(name for share in first.values() for name in share) == sorted(
        [*(f"{number % 3}/{number}.png" for number in range(12)), "notes.txt", "broken.png"]
    )
    shutil.copytree("in", "elsewhere")
    picture("elsewhere/0/00.png")
    second = shares("elsewhere")
    assert all(first[index] <= second[index] for index in first)
    assert sum(map(len, second.values())) == 15
    dagl("dejpeg", "in/0/0.png", "in/1/1.png", "in/2/2.png", "in/0/3.png", "-o", "out", "--shard", "1/2")
    dagl("dejpeg", "in/0/0.png", "in/1/1.png", "in/2/2.png", "in/0/3.png", "-o", "rest", "--shard", "2/2")
    assert sorted(os.listdir("out") + os.listdir("rest")) == ["0.png", "1.png", "2.png", "3.png"]
    assert os.listdir("out")
    assert os.listdir("rest")


def test_a_shard_that_is_none_or_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    picture("in/a.png")
    for shard in ("0/4", "5/4", "1", "a/b", "1/0", "-1/4", "1/" + "9" * 5000):
        message = refused("dejpeg", "in", f"--shard={shard}")
        assert "is no part of the files: write I/N, from 1/N to N/N" in message
    assert "--shard is for files and folders" in refused("dejpeg", "-", "out.png", "--shard", "1/2")
    shares = [dagl("dejpeg", "in", "--shard", f"{index}/4") for index in (1, 2, 3, 4)]
    empty = [stderr == f"None of the files is in shard {i}/4.\n" for i, (_, stderr) in enumerate(shares, 1)]
    assert empty.count(True) == 3
    monkeypatch.setenv("DAGL_SHARD", f"{empty.index(True) + 1}/4")
    assert dagl("dejpeg", "in", "-o", "out")[1].startswith("None of the files")
    assert dagl("dejpeg", "-", "out.png", stdin=Path("in/a.png").read_bytes())[1].startswith("- -> out.png: restored")


def test_two_processes_make_every_file_of_a_folder_once(bundle: Path) -> None:
    """Both begin at about the same moment; where they meet at a file, one has its claim."""
    for number in range(16):
        noisy(f"in/{number:02}.png", seed=number)
    code = """
import sys, torch
from dagl_cli.cli import app
from dagl_cli.restoring import file
torch.set_num_threads(1)
print("ready", flush=True)
sys.stdin.readline()
app(sys.argv[1:])
"""
    arguments = command(bundle, "in", "-o", "out", "--json")[3:]
    other = subprocess.Popen([sys.executable, "-c", code, *arguments], stdin=PIPE, stdout=PIPE, text=True)
    with other:
        assert other.stdin
        assert other.stdout
        assert other.stdout.readline() == "ready\n"
        other.stdin.write("\n")
        other.stdin.flush()
        reports = [json.loads(dagl(*arguments)[0]), json.loads(other.stdout.read())]
    assert other.returncode == 0
    made = [[row["input"] for row in report["files"] if row["status"] == "restored"] for report in reports]
    assert sorted(made[0] + made[1]) == [f"in/{number:02}.png" for number in range(16)]
    assert sorted(os.listdir("out")) == [f"{number:02}.png" for number in range(16)]


def test_what_another_run_replaced_meanwhile_is_not_made_again() -> None:
    picture("in/a.png")
    picture("in/b.png")
    picture("out/a.png", 7)
    picture("out/b.png", 7)
    jobs = [Job(Path("in", name), Path("out", name), name) for name in ("a.png", "b.png")]

    def dealt() -> Iterator[Job]:
        yield jobs[0]
        files.write(Path("out/b.png"), Path("in/b.png").read_bytes())
        yield jobs[1]

    batch = Batch(FileRestorer("dejpeg", force=True), jobs, overwrite=True)
    assert [outcome.status for _, outcome in batch.run(dealt=dealt())] == ["restored", "skipped"]
    assert (value("out/a.png"), value("out/b.png")) == (110, 100)


def test_without_locks_the_first_result_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system without locks two runs may make one file; the second is no failure."""
    picture("in/a.png")
    treated = FileRestorer.treated

    def late(self: FileRestorer, case: Case, *more: Any) -> tuple[Outcome, images.Image]:
        Path("out/a.png").write_bytes(b"the other run's")
        return treated(self, case, *more)

    monkeypatch.setattr(FileRestorer, "treated", late)
    assert "skipped (another run made it meanwhile)" in dagl("dejpeg", "in", "-o", "out")[1]
    assert Path("out/a.png").read_bytes() == b"the other run's"


def test_a_stale_claim_is_taken_over_and_what_killed_runs_left_is_removed() -> None:
    picture("in/a.png")
    Path("out").mkdir()
    code = """
import os, signal
from pathlib import Path
from dagl_cli import files
with files.claimed(Path("out/a.png")):
    os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)
    files.write(Path("out/a.png"), b"half")
"""
    killed = subprocess.run([sys.executable, "-c", code])
    assert killed.returncode == -signal.SIGKILL
    assert sorted(Path(name).suffix for name in os.listdir("out")) == [".claim", ".part"]
    assert dagl("dejpeg", "in", "-o", "out")[1].startswith("in/a.png -> out/a.png: restored")
    assert os.listdir("out") == ["a.png"]


def test_a_second_run_with_another_level_says_what_it_skips() -> None:
    for suffix in (".png", ".jpg", ".tif", ".webp"):
        noisy(f"in/a{suffix}")
    dagl("denoise", "in", "-o", "out", "--sigma", 25)
    stdout, _ = dagl("denoise", "in", "-o", "out", "--sigma", 10, "--json")
    for row in json.loads(stdout)["files"]:
        assert row["message"] == "the output exists: --overwrite replaces it; it was made with --sigma 25", row["input"]
    stdout, _ = dagl("denoise", "in", "-o", "out", "--sigma", 25, "--json")
    assert all(row["message"] == "the output exists: --overwrite replaces it" for row in json.loads(stdout)["files"])
    dagl("denoise", "in/a.png", "plain.png", "--sigma", 25, "--strip-metadata")
    assert images.record("plain.png") == {}


# --- reports ---


def test_a_stopped_run_reports_what_was_done(monkeypatch: pytest.MonkeyPatch) -> None:
    picture("in/a.png")
    picture("in/b.png")
    interrupted_after(Path("in_dejpeg/a.png"), monkeypatch)
    report = json.loads(dagl("dejpeg", "in", "--json", code=130)[0])
    assert (report["counts"], report["stopped"]) == ({"restored": 1}, "interrupted")
    assert [row["input"] for row in report["files"]] == ["in/a.png"]


def test_a_dry_run_says_what_would_really_happen() -> None:
    noisy("in/a.png")
    picture("in/flat.png", size=(64, 64))
    Path("in/broken.png").write_bytes(b"hello")
    images.write(images.Image(np.full((64, 64, 1), 0.5, np.float32), depth=16), "deep.png")
    stdout, _ = dagl("denoise", "in", "-o", "out", "--dry-run", "--json", code=3)
    assert [row["status"] for row in json.loads(stdout)["files"]] == ["planned", "failed", "unchanged"]
    assert not Path("out").exists()
    assert "16 bits" in refused("denoise", "deep.png", "new/out.jpg", "--sigma", 5, "--dry-run", code=1)
    assert "no such file" in refused("denoise", "in/a.png", "--model", "nothing", "--dry-run", code=4)
    real = json.loads(dagl("denoise", "in", "-o", "out", "--json", code=3)[0])
    assert [row["status"] for row in real["files"]] == ["restored", "failed", "unchanged"]


# --- streams ---


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_messages_that_nobody_takes_do_not_end_a_batch(bundle: Path) -> None:
    for name in ("in/a.png", "in/b.png"):
        picture(name)
    with open("/dev/full", "wb") as full:
        assert subprocess.run(command(bundle, "in", "-o", "full"), stderr=full).returncode == 0
    closed = subprocess.run(["sh", "-c", 'exec "$@" 2>&-', "sh", *command(bundle, "in", "-o", "closed")])
    assert closed.returncode == 0
    assert sorted(os.listdir("full")) == sorted(os.listdir("closed")) == ["a.png", "b.png"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_stdout_that_takes_nothing_is_one_line(bundle: Path) -> None:
    picture("in.png")
    with open("/dev/full", "wb") as full:
        for arguments in (["--help"], ["--version"], ["denoise", "--help"]):
            shown = [sys.executable, "-m", "dagl_cli", *arguments]
            result = subprocess.run(shown, stdout=full, stderr=subprocess.PIPE, text=True)
            assert (result.returncode, result.stderr) == (
                1, "Error: cannot write to stdout: No space left on device\n",
            )  # fmt: skip
    closed = ["sh", "-c", 'exec "$@" < in.png >&-', "sh", *command(bundle, "-", "-q")]
    result = subprocess.run(closed, stderr=subprocess.PIPE, text=True)
    assert (result.returncode, result.stderr) == (1, "Error: cannot write to stdout: Bad file descriptor\n")


@pytest.mark.parametrize("arguments", [["datasets", "list"], ["train", "--help"], ["--help"]], ids=" ".join)
def test_a_stdout_that_is_not_utf8(arguments: list[str]) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    shown = [sys.executable, "-m", "dagl_cli", *arguments]
    result = subprocess.run(shown, capture_output=True, env=environment)
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.isascii()


def test_nohup_stays() -> None:
    """A SIGHUP that is ignored when dagl starts stays so."""
    code = """
import signal, sys
signal.signal(signal.SIGHUP, signal.SIG_IGN)
sys.argv = ["dagl", "--version"]
from dagl_cli.cli import main
try:
    main()
except SystemExit:
    print(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.endswith("True\n"), result.stderr


class Endless(io.RawIOBase):
    """Never ends; fails the test when too much of it is read."""

    def __init__(self, head: bytes) -> None:
        self.head, self.taken = head, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        data = (self.head[self.taken : self.taken + len(view)] or bytes(len(view)))[: len(view)]
        view[: len(data)] = data
        self.taken += len(data)
        assert self.taken < 2 * 10**9
        return len(data)


def test_endless_input_ends() -> None:
    text = Endless(b"hello")
    restorer = FileRestorer("dejpeg", max_pixels=1000)
    with pytest.raises(ImageError, match="is not a PNG"):
        restorer(io.BufferedReader(text), io.BytesIO(), name="stdin")
    assert text.taken <= io.DEFAULT_BUFFER_SIZE


# --- pictures ---


def test_the_outside_of_a_cut_out_does_not_show_inside() -> None:
    """The same cut-out over black and over the photograph: equal where it is seen, unchanged where it is not."""
    made = {}
    for name in ("cutout-black", "cutout-photo-kept"):
        source = shared(f"faults/{name}.png")
        dagl("denoise", "--sigma", 25, source, "-o", f"{name}.png")
        made[name] = images.read(source), images.read(f"{name}.png")
    (black, black_made), (_, photo_made) = made.values()
    assert black.alpha is not None
    hidden = black.alpha == 0
    assert np.abs(black_made.pixels - photo_made.pixels)[~hidden].max() <= 1 / 255
    for before, after in made.values():
        assert np.array_equal(before.pixels[hidden], after.pixels[hidden])
        assert before.alpha is not None
        assert after.alpha is not None
        assert np.array_equal(before.alpha, after.alpha)


def test_hidden_pixels_do_not_reach_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = np.full((20, 20, 4), 90, np.uint8)
    levels[:, 10:] = 255, 0, 7, 0
    levels[:, 9] = 30, 60, 90, 1
    PIL.Image.fromarray(levels).save("in.png")
    seen: list[np.ndarray] = []
    treated = FileRestorer.treated

    def watching(self: FileRestorer, case: Case, *more: Any) -> tuple[Outcome, images.Image]:
        seen.append(np.rint(case.pixels * 255))
        return treated(self, case, *more)

    monkeypatch.setattr(FileRestorer, "treated", watching)
    dagl("denoise", "--sigma", 25, "in.png", "out.png")
    assert np.array_equal(seen[0][:, 10:], np.broadcast_to([30, 60, 90], (20, 10, 3)))
    out = np.asarray(PIL.Image.open("out.png"))
    assert np.array_equal(out[:, 10:], levels[:, 10:])
    assert np.array_equal(out[:, :9, :3], levels[:, :9, :3] + SHIFT)


def test_what_cannot_be_seen_at_all_is_left_alone() -> None:
    levels = np.random.default_rng(0).integers(0, 255, (40, 40, 4), np.uint8)
    levels[..., 3] = 0
    PIL.Image.fromarray(levels).save("in.png")
    assert "nothing of it can be seen" in dagl("denoise", "--sigma", 25, "in.png", "out.png")[1]
    assert Path("out.png").read_bytes() == Path("in.png").read_bytes()


def dithers() -> Iterator[tuple[str, PIL.Image.Image]]:
    """Dithers of a photograph-like slope: with 2, 4 and 16 grays, and with a palette of 16 and of 200 colours."""
    y, x = np.mgrid[0:160, 0:200]
    slope = np.stack([x * 255 / 199, y * 255 / 159, (x + y) * 255 / 358], -1).astype(np.uint8)
    colour = PIL.Image.fromarray(slope)
    gray = np.asarray(colour.convert("L"), float)
    for count in (2, 4, 16):
        step = 255 / (count - 1)
        noise = np.random.default_rng(0).uniform(-0.5, 0.5, gray.shape)
        yield (
            f"{count} grays",
            PIL.Image.fromarray((np.rint((gray / step + noise).clip(0, count - 1)) * step).astype(np.uint8)),
        )
    for count in (16, 200):
        yield f"{count} colours", colour.quantize(count, dither=PIL.Image.Dither.FLOYDSTEINBERG).convert("RGB")


@pytest.mark.parametrize(("what", "dither"), [pytest.param(*one, id=one[0]) for one in dithers()])
def test_pictures_of_few_levels_are_left_alone(what: str, dither: PIL.Image.Image) -> None:
    dither.save("in.png")
    _, stderr = dagl("denoise", "in.png", "out.png")
    assert "left as it is; --sigma decides otherwise" in stderr, stderr
    assert Path("out.png").read_bytes() == Path("in.png").read_bytes()
    assert "restored" in dagl("denoise", "--sigma", 20, "in.png", "told.png")[1]


@pytest.mark.parametrize(
    ("name", "tasks"), [("dither-bayer", ["denoise", "dejpeg", "restore"]), ("dither-newspage", ["denoise"])]
)
def test_dithers_are_left_alone(name: str, tasks: list[str]) -> None:
    source = shared(f"faults/{name}.png")
    for task in tasks:
        assert "left as it is" in dagl(task, source, "-o", f"{task}.png")[1]
        assert Path(f"{task}.png").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("sigma", [1.5, 5, 25, 60])
@pytest.mark.parametrize("channels", [1, 3])
def test_noise_on_an_even_picture_is_no_dither(sigma: float, channels: int) -> None:
    levels = 120 + np.random.default_rng(0).normal(0, sigma, (128, 128, channels))
    PIL.Image.fromarray(levels.clip(0, 255).round().astype(np.uint8).squeeze()).save("in.png")
    assert "-> out.png: restored" in dagl("denoise", "in.png", "out.png")[1]


def test_a_large_rectangle_is_found() -> None:
    seen = np.zeros((200, 300), bool)
    seen[16:120, 32:200] = True
    rows, columns = largest_rectangle(seen)
    assert (rows.start, rows.stop, columns.start, columns.stop) == (16, 112, 32, 192)
    assert largest_rectangle(np.zeros((200, 300), bool)) == (slice(None), slice(None))


# --- text ---


@pytest.mark.parametrize("character", ["\x1b", "\x9b", "\x07", "\n", "\u202e", "\u2066", "\u200f", "\udcff"])
def test_text_from_files_cannot_steer_the_terminal(character: str) -> None:
    assert plain(f"a{character}b ñ 写真") == "a?b ñ 写真"
