"""Which files are of frames."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dagl_cli.frames import find, is_frames_path, result_suffix
from dagl_cli.frames.pages import Pages


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_nothing_is_taken_from_a_pipe() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"GIF89a and more")
    assert find(Path(f"/dev/fd/{reader}"), pages=Pages("1")) is None
    assert os.read(reader, 6) == b"GIF89a"
    os.close(reader)
    os.close(writer)


def test_what_is_not_there_is_left_to_be_told(tmp_path: Path) -> None:
    assert find(tmp_path / "nowhere.gif") is None
    assert find(tmp_path) is None
    assert find(tmp_path / "nul\0.mp4") is None
    assert find(b"") is None


def test_names() -> None:
    assert [is_frames_path(name) for name in ("a.GIF", "a.mp4", "a.MTS", "a.png", "a.ts", "a")] == [True] * 3 + [
        False
    ] * 3
    assert [result_suffix(suffix) for suffix in (".MP4", ".avi", ".png", ".gif")] == [".MP4", ".mkv", ".png", ".gif"]
