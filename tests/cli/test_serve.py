"""`dagl serve --stdin`: a job a line, an answer a line, whatever is in the lines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, SHIFT, dagl, noting, picture, refused, tree

from dagl_cli import images
from dagl_cli.restoring.file import FileRestorer
from dagl_cli.store import weights

pytestmark = pytest.mark.usefixtures("one_thread", "here")


def value(path: str | Path) -> int:
    return round(float(images.read(path).pixels.mean()) * 255)


def served(*jobs: object) -> list[dict[str, Any]]:
    """An answer for each job; text and bytes are lines as they are."""
    lines = [job if isinstance(job, bytes) else json.dumps(job).encode() for job in jobs]
    stdout, _ = dagl("serve", "--stdin", stdin=b"\n".join(lines) + b"\n")
    answers = [json.loads(line) for line in stdout.splitlines()]
    assert len(answers) == len(jobs)
    return answers


def denoise(**more: object) -> dict[str, object]:
    return {"command": "denoise", "input": "in.png", "sigma": 25} | more


def test_jobs_are_done_with_networks_that_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    picture("in.png")
    picture("sub/b.tif", 50)
    loaded: list[object] = []
    load = weights.load
    monkeypatch.setattr(weights, "load", lambda path: noting(loaded, path, load(path)))
    first, *others = served(
        denoise(id=1, output="a.png"),
        denoise(id="two", input="sub/b.tif", output="new/b.png", strength=0.5),
        denoise(id=[3], sigma=5, output=None),
        denoise(id={"n": 4}, output="e.jpg", ensemble=True, luma=1, overwrite=True, strip_metadata=False),
        {"command": "dejpeg", "input": "in.png", "format": "tif", "force": True, "max_pixels": 48},
    )
    assert first == {
        "id": 1, "input": "in.png", "output": "a.png", "status": "restored", "seconds": first["seconds"], "sigma": None,
        "quality": None, "model": "denoise-gray", "message": None, "sha256": first["sha256"],
        "precision": "fp32", "backend": "torch",
    }  # fmt: skip
    assert [(row["id"], row["output"], row["status"]) for row in others] == [
        ("two", "new/b.png", "restored"), ([3], "in_denoised.png", "restored"), ({"n": 4}, "e.jpg", "restored"),
        (None, "in_dejpeg.tif", "restored"),
    ]  # fmt: skip
    made = [value(row["output"]) for row in (first, *others)]
    assert made == [100 + SHIFT, 50 + SHIFT // 2, 100 + SHIFT, 100 + SHIFT, 100 + SHIFT]
    assert len(loaded) == 2


@pytest.mark.parametrize(
    ("job", "said"),
    [
        (b"hello", "line 1 is no JSON"), (b"\xff\xfe{}", "line 1 is no JSON"), (b"[1]", "line 1 is no JSON object"),
        (b"[" * 100000, "line 1 is no JSON"), (b"null", "line 1 is no JSON object"),
        (b"{}", "command None is none of denoise"),
        ({"command": "train", "input": "in.png"}, "command train is none of"),
        ({"command": ["denoise"], "input": "in.png"}, "is none of"),
        ({"command": "denoise"}, "must be names of files"), (denoise(input=3), "must be names of files"),
        (denoise(output=["o.png"]), "must be names of files"), (denoise(input=""), "a name is empty"),
        (denoise(input="-"), "stdin and stdout are for jobs"), (denoise(output="-"), "stdin and stdout are for jobs"),
        (denoise(input="folder"), "a job is one file"), (denoise(input="*.png"), "a job is one file"),
        (denoise(sigmma=3), "sigmma is no setting of denoise"), (denoise(quiet=True), "quiet is no setting"),
        (denoise(help=True), "help is no setting"), (denoise(sigma="x"), "--sigma"),
        (denoise(sigma=-1), "--sigma -1 must be between 0 and 75"), (denoise(sigma=float("nan")), "--sigma nan"),
        (denoise(sigma=[25]), "must be a number or a text"), (denoise(sigma=True), "must be a number or a text"),
        (denoise(real=1), "real must be true or false"), (denoise(tile="auto", overlap=9999), "--overlap 9999"),
        (denoise(input="no.png"), "cannot read no.png: there is no such file"),
        (denoise(input="a\0.png"), "must be names of files"), (denoise(output="\ud800.png"), "must be names of files"),
        (denoise(input="broken.png"), "it is not a"),
        (denoise(output="in.png"), "is an input and is never overwritten"),
        (denoise(output="o.xyz"), "is not a format"),
        (denoise(model="nothing"), "no such file or bundled model"), (denoise(device="cuda:77"), "cuda:77"),
        (denoise(output="in.png/x/o.png"), "cannot make the folder"),
    ],
)  # fmt: skip
def test_a_bad_job_is_answered_and_the_next_one_done(job: object, said: str) -> None:
    picture("in.png")
    picture("other.png")
    Path("folder").mkdir()
    Path("broken.png").write_text("hello")
    before = tree()
    bad, good = served(job, denoise(output="good.png"))
    assert (bad["status"], bad["seconds"] < 5) == ("failed", True)
    assert said in bad["message"]
    assert good["status"] == "restored"
    assert set(bad) == set(good)
    assert {name: data for name, data in tree().items() if name != "good.png"} == before


def test_a_mistake_of_ours_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    picture("in.png")
    monkeypatch.setattr(FileRestorer, "__init__", lambda *_, **__: 1 / 0)
    (row,) = served(denoise())
    assert row["message"] == "line 1: ZeroDivisionError: division by zero: please report this"


def test_empty_lines_are_no_jobs_and_existing_results_stay() -> None:
    picture("in.png")
    picture("out.png", 7)
    lines = json.dumps(denoise(output="out.png")).encode()
    stdout, _ = dagl("serve", "--stdin", stdin=b"\n  \n" + lines)  # without a line end, too
    (row,) = map(json.loads, stdout.splitlines())
    assert (row["status"], value("out.png")) == ("skipped", 7)
    assert dagl("serve", "--stdin", stdin=b"")[0] == b""
    assert "say --stdin" in refused("serve")


def test_variables_for_terminals_do_not_reach_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    picture("in.png")
    monkeypatch.setenv("DAGL_JSON", "1")
    monkeypatch.setenv("DAGL_SUFFIX", "_env")
    assert served(denoise())[0]["output"] == "in_env.png"


def test_an_answer_comes_before_the_next_job(bundle: Path) -> None:
    """As a program uses it: write a line, read a line."""
    picture("in.png")
    job = {"command": "dejpeg", "input": "in.png", "model": str(bundle / "dejpeg-gray.safetensors"), "force": True}
    command = [sys.executable, "-m", "dagl_cli", "serve", "--stdin"]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as service:
        assert service.stdin
        assert service.stdout
        for name in ("a.png", "b.png"):
            service.stdin.write(json.dumps(job | {"output": name}) + "\n")
            service.stdin.flush()
            assert json.loads(service.stdout.readline())["status"] == "restored"
            assert value(name) == 100 + SHIFT
        service.stdin.close()
        assert service.wait(60) == 0
