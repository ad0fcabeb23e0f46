"""What other packages print is not seen, and what dagl prints is, whatever threads do meanwhile."""

from __future__ import annotations

import os
import sys
import threading
import warnings

import pytest

from dagl_cli import silence


def test_messages_are_seen_while_another_thread_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    inside, over = threading.Event(), threading.Event()

    def reading() -> None:
        with silence.silent():
            os.write(2, b"a library")
            inside.set()
            over.wait(60)
            os.write(2, b"again")

    thread = threading.Thread(target=reading)
    thread.start()
    assert inside.wait(60)
    with silence.heard():
        os.write(2, b"dagl, ")
    os.write(2, b"unheard")
    over.set()
    thread.join()
    os.write(2, b"as ever")
    assert capfd.readouterr().err == "dagl, as ever"


def test_stdout_waits_for_a_package_that_prints_in_python(capsys: pytest.CaptureFixture[str]) -> None:
    inside = threading.Event()

    def reading() -> None:
        with silence.mute():
            inside.set()
            print("a package")

    thread = threading.Thread(target=reading)
    thread.start()
    assert inside.wait(60)
    with silence.heard():
        print("data", file=sys.stdout)
    thread.join()
    assert capsys.readouterr().out == "data\n"


def test_warnings_are_as_before_when_the_last_thread_leaves() -> None:
    before = list(warnings.filters)
    first_over, second_inside = threading.Event(), threading.Event()

    def second() -> None:
        with silence.quiet():
            second_inside.set()
            first_over.wait(60)

    thread = threading.Thread(target=second)
    with silence.quiet():
        thread.start()
        assert second_inside.wait(60)
        assert list(warnings.filters) != before
    first_over.set()
    thread.join()
    assert list(warnings.filters) == before
