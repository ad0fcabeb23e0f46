"""Files are whole or not there, and processes do not get into each other's way."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
from contextlib import suppress
from pathlib import Path

import pytest

from dagl_cli.files import cache_folder, clean, locked, replacing, visible, write


def no_links(*_: object, **__: object) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("links", [True, False])
def test_an_existing_file_is_kept_unless_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    path = tmp_path / "a"
    write(path, b"one", overwrite=False)
    with pytest.raises(FileExistsError):
        write(path, b"two", overwrite=False)
    assert path.read_bytes() == b"one"
    write(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("at", ["link", "replace", "fsync"])
def test_a_kill_at_any_moment_leaves_nothing_that_looks_done(tmp_path: Path, links: bool, at: str) -> None:
    """And the next run removes what it leaves: file systems without hard links too."""
    code = f"""
    import os, signal
    from pathlib import Path
    from dagl_cli import files

    def no_links(*_, **__):
        raise OSError(1, "Operation not permitted")

    if not {links}:
        os.link = no_links
    setattr(os, {at!r}, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
    files.write(Path("out.png"), b"data", overwrite=False)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, env=environment())
    killed = done.returncode == -signal.SIGKILL
    assert killed == ((at, links) != ("replace", True))
    if killed:
        assert not (tmp_path / "out.png").exists()
        assert len(list(tmp_path.iterdir())) == 1
        clean(tmp_path)
        assert list(tmp_path.iterdir()) == []


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}


@pytest.mark.skipif(os.name == "nt", reason="locks of files that are open")
def test_a_part_that_is_being_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = os.fsync

    def meanwhile(number: int) -> None:
        clean(tmp_path)
        sync(number)

    monkeypatch.setattr(os, "fsync", meanwhile)
    write(tmp_path / "a", b"data")
    assert (tmp_path / "a").read_bytes() == b"data"


def test_replacing_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with suppress(KeyError), replacing(path) as name:
        name.write_bytes(b"half")
        raise KeyError
    assert path.read_bytes() == b"old"
    with replacing(path) as name:
        name.write_bytes(b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_lock_is_one_process_s(tmp_path: Path) -> None:
    code = f"""
    from pathlib import Path
    from dagl_cli.files import locked
    with locked(Path({str(tmp_path / "lock")!r}), wait=0) as ours:
        print(ours)
    """
    other = [sys.executable, "-c", textwrap.dedent(code)]
    with locked(tmp_path / "lock") as ours:
        assert ours
        assert subprocess.check_output(other, text=True, env=environment()) == "False\n"
    assert subprocess.check_output(other, text=True, env=environment()) == "True\n"


@pytest.mark.parametrize("error", [NotImplementedError(), OSError(errno.ENOLCK, "No locks available")], ids=repr)
def test_without_locks_the_work_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("filelock.FileLock.acquire", fail)
    with locked(tmp_path / "lock") as ours:
        assert ours


def test_visible_files_only(tmp_path: Path) -> None:
    for name in ("b/2", "b/1", "a", ".hidden", "b/.dagl-1.part", ".folder/c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = list(visible(tmp_path, unreadable=print))
    assert found == [(str(tmp_path), ["a"]), (str(tmp_path / "b"), ["1", "2"])]


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "dagl"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder().is_absolute()
    assert "dagl" in cache_folder().parts
