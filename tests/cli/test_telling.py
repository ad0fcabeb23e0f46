"""What a run tells while it goes on and in the end: JSON lines, a log, how long it takes, a summary."""

from __future__ import annotations

import base64
import errno
import io
import json
import os
import re
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import PIL.Image
import pytest
import tifffile
from helpers import SHIFT, dagl, interrupted_after, picture, refused

from dagl_cli import images
from dagl_cli.cli import console
from dagl_cli.cli.progress import Progress, duration
from dagl_cli.images import raw
from dagl_cli.measuring import gallery
from dagl_cli.measuring import report as reports
from dagl_cli.restoring.batch import MOST_FILES, Job
from dagl_cli.restoring.file import FileRestorer
from dagl_cli.restoring.picture import Case, Outcome

pytestmark = pytest.mark.usefixtures("one_thread", "here")


def lines(stdout: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stdout.splitlines()]


# --- JSON lines ---


def test_a_json_line_for_every_file_as_soon_as_it_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [*(f"a{number}" for number in range(11)), "ñ"]
    for name in names:
        picture(f"in/{name}.png")
    Path("in/c.png").write_text("hello")
    treated, seen = FileRestorer.treated, []

    def watching(self: FileRestorer, case: Case, *more: Any) -> tuple[Outcome, images.Image]:
        seen.append(len(cast(Any, sys.stdout).buffer.getvalue().splitlines()))
        return treated(self, case, *more)

    monkeypatch.setattr(FileRestorer, "treated", watching)
    stdout, stderr = dagl("dejpeg", "in", "--json-lines", code=3)
    rows = lines(stdout)
    assert stdout.isascii()
    ended = {f"in/{name}.png": "restored" for name in names} | {"in/c.png": "failed"}
    assert [(row["input"], row["status"]) for row in rows] == sorted(ended.items())
    assert seen[0] == 0
    assert seen[-1] >= len(rows) - MOST_FILES, "so many are in work at once at most"
    assert stderr.endswith("12 restored, 1 failed\n")
    report = json.loads(dagl("dejpeg", "in", "--json", code=3)[0])
    assert [set(row) for row in report["files"]] == [set(row) for row in rows]


def test_json_lines_share_stdout_with_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    picture("in.png")
    assert "--json-lines and an image" in refused("dejpeg", "in.png", "-", "--json-lines")
    assert "--json and --json-lines" in refused("dejpeg", "in.png", "--json", "--json-lines")
    monkeypatch.setenv("DAGL_JSON", "1")
    assert lines(dagl("dejpeg", "in.png", "--json-lines")[0])[0]["output"] == "in_dejpeg.png"


# --- the log ---


def test_a_log_has_all_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    picture("in/a.png")
    Path("in/b\n.png").write_text("hello")
    Path("in/notes.txt").touch()
    _, stderr = dagl("dejpeg", "in", "--log", "run.log", "--quiet", code=3)
    assert stderr.count("\n") == 1
    first = Path("run.log").read_text(encoding="utf-8").splitlines()
    texts = [re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (.*)", line)[1] for line in first]  # type: ignore[index]
    assert texts[0].startswith("dagl 0")
    assert texts[1].startswith("in/a.png -> in_dejpeg/a.png: restored")
    assert texts[2].startswith("Error: cannot read in/b?.png: it is not a")
    assert texts[3:] == [
        "Left out: 1 file of other kinds, such as in/notes.txt", "Failed: in/b?.png", "1 restored, 1 failed",
    ]  # fmt: skip
    monkeypatch.setattr(FileRestorer, "treated", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    dagl("dejpeg", "in", "--log", "run.log", "--overwrite", code=130)
    both = Path("run.log").read_text(encoding="utf-8").splitlines()
    assert both[: len(first)] == first
    assert any(line.endswith(" Stopped: interrupted") for line in both[len(first) :])


def test_logs_that_cannot_be() -> None:
    picture("in.png")
    Path("folder").mkdir()
    for name, said in (
        ("in.png", "is the name of a picture"), ("in_dejpeg.png", "is the name of a picture"),
        ("other.nef", "is the name of a picture"), ("folder", "is a folder"), ("-", "is stdout"),
        ("no/run.log", "create it first"),
    ):  # fmt: skip
        assert said in refused("dejpeg", "in.png", "--log", name)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_log_that_takes_nothing_costs_a_note() -> None:
    picture("in/a.png")
    picture("in/b.png")
    _, stderr = dagl("dejpeg", "in", "--log", "/dev/full")
    assert stderr.startswith("Note: cannot write /dev/full: No space left on device: going on without it\n")
    assert stderr.count("Note") == 1
    assert stderr.endswith("2 restored\n")


# --- the summary ---


def test_the_summary_says_what_was_left_alone_and_why() -> None:
    for name in "abcd":
        picture(f"in/{name}.png", size=(8, 8))
    picture("out/d.png")
    for number in range(7):
        Path(f"in/x{number}.png").write_text("hello")
    _, stderr = dagl("denoise", "in", "out", code=3)
    assert stderr.splitlines()[-4:] == [
        "Left alone: 3 files, such as in/a.png: no white or camera noise found: left as it is; "
        "--sigma decides otherwise",
        "Skipped: in/d.png: the output exists: --overwrite replaces it",
        "Failed: in/x0.png, in/x1.png, in/x2.png, in/x3.png, in/x4.png and 2 more",
        "3 unchanged, 1 skipped, 7 failed",
    ]


# --- how far it is ---


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def jobs() -> list[Job]:
    """Eight files of 8x6 pixels and two of 16x6."""
    paths = [picture(f"in/{i}.png", size=(8, 6 if i < 8 else 12)) for i in range(10)]
    return [Job(path, Path("out", path.name), str(path)) for path in paths]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(console.errors, "print", lambda line, **how: found.append(line))
    return found


def test_an_estimate_from_the_first_tiles_and_a_line_a_minute(jobs: list[Job], said: list[str]) -> None:
    clock = Clock()
    with Progress(jobs, overwrite=False, quiet=False, clock=clock) as progress:
        for number, job in enumerate(jobs):
            tiles = 4 if number < 8 else 8
            for tile in range(tiles):
                clock.now += 15 if number or tile else 500  # the first one loads the network
                progress.tick(job, tile + 1, tiles)
            progress.end(job, skipped=False)
    # 48 tiles in all, one done when the clock starts; the estimate comes with the next one
    assert said[0] == "0 of 10 files done."
    assert said[1] == "About 11 min for 10 files, judged by the first tiles."
    minutes = [float(line.split("about ")[1].split()[0]) for line in said[2:] if "min left" in line]
    assert minutes == sorted(minutes, reverse=True)
    assert len(set(minutes)) > 6
    assert said[2] == "1 of 10 files done, about 10 min left."
    assert all(re.fullmatch(r"\d+ of 10 files done, about \d+ (min|s) left\.", line) for line in said[2:])


def test_what_is_there_already_is_no_work(jobs: list[Job], said: list[str]) -> None:
    clock = Clock()
    for job in jobs[1:8]:
        picture(str(job.target))
    with Progress(jobs, overwrite=False, quiet=False, clock=clock) as progress:
        for tile in range(1, 4):
            progress.tick(jobs[0], tile, 4)
            clock.now += 10
        left = progress.left()
    assert left is not None
    assert 150 < left < 300  # 255: 7 of the 9 files that are left are there


def test_files_that_are_in_work_at_once(jobs: list[Job], said: list[str]) -> None:
    """The second one has been through the network before the first is written."""
    clock = Clock()
    with Progress(jobs[:4], overwrite=False, quiet=False, clock=clock) as progress:
        for number in range(2):
            for tile in range(1, 3):
                progress.tick(jobs[number], tile, 2)
                clock.now += 10
        assert progress.left() == pytest.approx(2 * 2 * 40 / 3)  # three tiles in 40 s, and two files to come
        progress.end(jobs[0], skipped=False)
        assert progress.left() == pytest.approx(2 * 2 * 40 / 3)
        progress.end(jobs[1], skipped=False)
        assert progress.left() == pytest.approx(2 * 2 * 40 / 3)


@pytest.mark.parametrize("quiet", [False, True])
def test_short_runs_get_no_estimate(jobs: list[Job], said: list[str], quiet: bool) -> None:
    clock = Clock()
    with Progress(jobs, overwrite=False, quiet=quiet, clock=clock) as progress:
        for job in jobs:
            progress.tick(job, 1, 1)
            clock.now += 4 + 40 * quiet
            progress.end(job, skipped=False)
    assert said == []


def test_sources_of_unknown_size(said: list[str]) -> None:
    clock = Clock()
    job = Job(b"", Path("x.png"), "x")
    with Progress([job], overwrite=False, quiet=False, clock=clock) as progress:
        progress.tick(job, 1, 100)
        assert progress.left() is None
        clock.now += 60
        progress.tick(job, 2, 100)
    assert said == ["About 1 h 38 min, judged by the first tiles.", "2 of 100 tiles done, about 1 h 38 min left."]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59, "59 s"), (61, "1 min"), (3599, "1 h 0 min"), (12000, "3 h 20 min"), (190000, "2 d 4 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# --- the report ---


def page(path: str) -> tuple[str, dict[str, Any]]:
    """HTML, and the data of its pictures."""
    text = Path(path).read_text(encoding="utf-8")
    data = re.search(r'<script type="application/json" id="data">(.*)</script>', text)
    assert data
    return text, json.loads(data[1])


def decoded(uri: str) -> np.ndarray:
    return np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB"), np.int16)


def test_a_report_shows_inputs_and_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "PICTURES", 3)
    for name in ("a", "b<i>", "c", "d"):
        picture(f"in/{name}.png")
    Path("in/e.png").write_text("hello")
    picture("out/a.png", 50)
    picture("out/c.png", 103, size=(3, 3))
    picture("out/d.png", 103)
    _, stderr = dagl("dejpeg", "in", "out", "--report", "r.html", code=3)
    assert "Report: r.html\n" in stderr
    text, data = page("r.html")
    assert [shown["name"] for shown in data["pictures"]] == ["in/a.png", "in/b<i>.png", "in/d.png"]
    before, after = (decoded(uri) for uri in data["pictures"][1]["sources"])
    assert np.array_equal(after - before, np.full((8, 6, 3), SHIFT))
    assert "in/b&lt;i&gt;.png" in text
    assert "<i>.png</td>" not in text
    for change in ("50", "10", "3"):
        assert f'data-value="{change}.0"' in text
    assert "cannot read in/e.png: it is not a" in text
    dagl("dejpeg", "in", "out", "--report", "r.html", "--overwrite", code=3)  # a report may be replaced
    text, data = page("r.html")
    assert [shown["name"] for shown in data["pictures"]] == [f"in/{n}.png" for n in ("a", "b<i>", "c")]
    assert "3 of 4 are shown, those that changed most." in text


def test_large_pictures_are_shown_smaller_and_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "SIDE", 40)
    monkeypatch.setattr(gallery, "PART", 16)
    before = np.full((60, 100, 1), 0.4, np.float32)
    after = before.repeat(3, 2)
    after[50:, 90:, 1] = 1
    images.write(images.Image(before), "in.png")
    images.write(images.Image(after), "out.png")
    shown = gallery.Gallery(10_000)
    shown.add(Path("in.png"), Path("out.png"))
    Path("r.html").write_text(shown.page("t", [], [{"input": "in.png"}]), encoding="utf-8")
    whole, part = page("r.html")[1]["pictures"]
    assert (whole["width"], whole["height"], part["width"], part["height"]) == (40, 24, 16, 16)
    changed = decoded(part["sources"][1]) - decoded(part["sources"][0])
    assert changed[6:, 6:, 1].min() == changed.max() == 153
    assert not changed[:6].any()
    shown = gallery.Gallery(5999)
    shown.add(Path("in.png"), Path("out.png"))
    assert 'data-value="' not in shown.page("t", [], [{"input": "in.png"}])


def test_of_frames_the_first_wanted_one_is_shown() -> None:
    levels = np.full((3, 12, 16), 50, np.uint8) + np.arange(0, 90, 30, dtype=np.uint8)[:, None, None]
    tifffile.imwrite("in.tif", levels, photometric="minisblack")
    tifffile.imwrite("out.tif", levels[1:] + 5, photometric="minisblack")
    shown = gallery.Gallery(1000, "2-3")
    shown.add(Path("in.tif"), Path("out.tif"))
    Path("r.html").write_text(shown.page("t", [], []), encoding="utf-8")
    before, after = (decoded(source) for source in page("r.html")[1]["pictures"][0]["sources"])
    assert abs(before - 80).max() <= 1
    assert abs(after - 85).max() <= 1


def test_raw_files_are_shown_roughly_developed(monkeypatch: pytest.MonkeyPatch) -> None:
    mosaic = np.full((7, 9), 0.6, np.float32)
    mosaic[::2, 1::2], mosaic[1::2, ::2] = 0.2, 0.8  # GRBG
    picture("out.png", 153, size=(9, 7))
    monkeypatch.setattr(raw, "read", lambda path, max_pixels: raw.Raw(mosaic, "GRBG", np.eye(3), 6, "turned"))
    shown = gallery.Gallery(100)
    shown.add(Path("in.dng"), Path("out.png"))
    Path("r.html").write_text(shown.page("t", [], []), encoding="utf-8")
    before = decoded(page("r.html")[1]["pictures"][0]["sources"][0])
    assert before.shape == (9, 7, 3)
    assert abs(before - [51, 153, 204]).max() <= 1


def test_a_stopped_run_has_its_report(monkeypatch: pytest.MonkeyPatch) -> None:
    picture("in/a.png")
    picture("in/b.png")
    interrupted_after(Path("in_dejpeg/a.png"), monkeypatch)
    dagl("dejpeg", "in", "--report", "r.htm", code=130)
    assert [shown["name"] for shown in page("r.htm")[1]["pictures"]] == ["in/a.png"]


def test_a_report_that_cannot_be_written_costs_no_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    picture("in/a.png")
    picture("in/b.png")

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(reports, "write", full)
    stdout, stderr = dagl("dejpeg", "in", "--report", "r.html", "--json", code=1)
    why = "Error: the report: cannot write r.html: No space left on device: choose another file or folder\n"
    assert stderr.endswith(why)
    assert json.loads(stdout)["counts"] == {"restored": 2}
    _, stderr = dagl("dejpeg", "in", "--report", "r.html", "--overwrite", code=1)
    assert stderr.endswith(why + "2 restored\n")
    Path("in/c.png").write_bytes(b"nothing")
    _, stderr = dagl("dejpeg", "in", "--report", "r.html", "--overwrite", code=3)
    assert why in stderr, "and the failed file decides"
    for path in Path("in_dejpeg").iterdir():
        path.unlink()
    interrupted_after(Path("in_dejpeg/a.png"), monkeypatch)
    _, stderr = dagl("dejpeg", "in", "--report", "r.html", code=130)
    assert why in stderr


def test_reports_that_cannot_be() -> None:
    picture("in.png")
    Path("mine.html").write_text("<html>precious</html>")
    Path("folder.html").mkdir()
    for name, said in (
        ("mine.html", "exists and is no report"), ("folder.html", "is a folder"), ("r.txt", "name it .html"),
        ("no/r.html", "create it first"), ("in.png", "is the name of a picture"),
    ):  # fmt: skip
        assert said in refused("dejpeg", "in.png", "--report", name)
    assert "--dry-run makes none" in refused("dejpeg", "in.png", "--report", "r.html", "--dry-run")
    dagl("dejpeg", "-", "out.png", "--report", "r.html", stdin=Path("in.png").read_bytes())
    assert page("r.html")[1]["pictures"] == []
