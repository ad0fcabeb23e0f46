"""Several works at once, each in steps: what is done aside, in which order things end, and what errors cost."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from helpers import dagl, picture

from dagl_cli.restoring import batch
from dagl_cli.restoring.steps import Steps, finished, overlapped

pytestmark = pytest.mark.usefixtures("one_thread", "here")


def place() -> int:
    return threading.get_ident()


def run(steps: dict[int, Steps[str]], threads: int = 3, most: int = 100, size: int = 1) -> Iterator[tuple[int, str]]:
    for number, result, seconds in overlapped(steps, steps.__getitem__, lambda number: size, threads, most):
        assert seconds >= 0
        yield number, result


def test_what_is_yielded_is_done_meanwhile_and_all_else_place() -> None:
    """Each aside waits for that of the other work, so they must run at once."""
    both, places = threading.Barrier(2), []

    def steps(number: int) -> Steps[str]:
        for _ in range(3):
            places.append((place(), (yield place)))
            yield partial(both.wait, 60)
        return f"result {number}"

    assert list(run({1: steps(1), 2: steps(2)})) == [(1, "result 1"), (2, "result 2")]
    assert {inside == place() for inside, _ in places} == {True}
    assert place() not in {aside for _, aside in places}
    assert finished(once("alone")) == "alone"


def once(result: str) -> Steps[str]:
    yield place
    return result


def test_works_end_in_their_order_and_without_any_step() -> None:
    second_ended = threading.Event()

    def slow() -> Steps[str]:
        yield partial(second_ended.wait, 60)
        return "slow"

    def quick() -> Steps[str]:
        yield place
        second_ended.set()
        return "quick"

    def none() -> Steps[str]:
        yield from ()
        return "none"

    assert list(run({0: slow(), 1: quick(), 2: none()})) == [(0, "slow"), (1, "quick"), (2, "none")]


@pytest.mark.parametrize(("threads", "most", "at_once"), [(3, 100, 3), (8, 20, 2), (8, 9, 1), (1, 100, 1)])
def test_no_more_are_begun_than_there_is_room_for(threads: int, most: int, at_once: int) -> None:
    begun, seen = set(), []

    def steps(number: int) -> Steps[str]:
        begun.add(number)
        seen.append(len(begun))
        yield place
        begun.discard(number)
        return ""

    assert len(list(run({n: steps(n) for n in range(20)}, threads, most, size=10))) == 20
    assert max(seen) == at_once


def test_an_error_aside_is_the_steps_own() -> None:
    def steps() -> Steps[str]:
        try:
            yield partial(int, "no number")
        except ValueError:
            return (yield lambda: "mended")
        return "?"

    assert list(run({0: steps(), 1: once("other")})) == [(0, "mended"), (1, "other")]
    assert finished(steps()) == "mended"


def test_an_error_comes_in_its_turn() -> None:
    """After what was begun before it, which nothing is lost of; nothing more is begun."""
    failed, begun = threading.Event(), []

    def slow() -> Steps[str]:
        yield partial(failed.wait, 60)
        return "slow"

    def failing() -> Steps[str]:
        yield place
        failed.set()
        raise ArithmeticError

    def late() -> Steps[str]:
        begun.append("late")
        yield place
        return ""

    results = run({0: slow(), 1: failing(), 2: late(), 3: late()}, threads=2)
    assert next(results) == (0, "slow")
    with pytest.raises(ArithmeticError):
        next(results)
    assert not begun


@pytest.mark.parametrize("aside", [False, True])
def test_what_is_not_mended_closes_all(aside: bool) -> None:
    closed, done = [], threading.Event()

    def waiting(number: int) -> Steps[str]:
        try:
            yield partial(done.wait, 60)
        finally:
            closed.append(number)
        return ""

    def stopping() -> Steps[str]:
        yield place
        if aside:
            yield partial(exec, "raise KeyboardInterrupt")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(run({0: waiting(0), 1: stopping(), 2: waiting(2)}))
    done.set()
    assert sorted(closed) == [0, 2]


# --- files ---


def test_a_folder_and_its_files_alone_become_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    for number, suffix in enumerate(2 * [".png", ".jpg", ".tif", ".webp", ".bmp"]):
        picture(f"in/{number}{suffix}", 40 + 10 * number, size=(40 + number, 30))
    Path("in/broken.png").write_bytes(b"nothing")
    command = "dejpeg", "in", "--force", "--json"
    reports = [json.loads(dagl(*command, "-o", "at-once", code=3)[0])]
    monkeypatch.setattr(batch, "MOST_PIXELS", 1)  # one after the other
    reports.append(json.loads(dagl(*command, "-o", "in-turn", code=3)[0]))
    names = [Path(row["input"]).name for row in reports[0]["files"]]
    assert names == [Path(row["input"]).name for row in reports[1]["files"]] == sorted(os.listdir("in"))
    names.remove("broken.png")
    assert [row["status"] for row in reports[0]["files"]] == 10 * ["restored"] + ["failed"]
    for name in names:
        dagl("dejpeg", f"in/{name}", f"alone-{name}", "--force")
        assert Path("at-once", name).read_bytes() == Path("in-turn", name).read_bytes(), name
        assert Path("at-once", name).read_bytes() == Path(f"alone-{name}").read_bytes(), name
