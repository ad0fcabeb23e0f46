"""Files: those of a folder, written whole or not at all, locks between processes, and the folder for caches."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import platformdirs
from filelock import FileLock, Timeout


def visible(
    folder: Path, unreadable: Callable[[OSError], None], left_out: str | None = None
) -> Iterator[tuple[str, list[str]]]:
    """(folder, the names of its files) for a folder and all below it, sorted; nothing hidden, no linked folders.

    unreadable: called for a folder that cannot be listed. left_out: the real path of one to pass over.
    """
    for root, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(
            f
            for f in folders
            if not f.startswith(".") and (left_out is None or os.path.realpath(os.path.join(root, f)) != left_out)
        )
        yield root, sorted(n for n in names if not n.startswith("."))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new name beside `path` to write to. It takes the place of `path` if the block ends well, else it is removed.

    The name is hidden and nobody else's, so that writers of one file at the same time do not meet. Raises OSError.
    """
    with _temporary(path, "tmp") as temporary:
        yield temporary
        _put(temporary, path, overwrite=True)


def write(path: Path, data: bytes | memoryview, *, overwrite: bool = True) -> None:
    """All of it or nothing; on the disk when this returns. A file that is replaced passes its permissions on.

    The data goes to a hidden part beside the path first. It is locked while it is written, so that `remove_parts`
    can tell it from what a killed process left behind.

    overwrite: False: a file that is there, even if only since a moment ago, is kept and FileExistsError raised.
    Raises OSError.
    """
    with _temporary(path, "part") as temporary:
        with open(temporary, "xb") as file:
            _lock(file)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            if os.name != "nt":  # where an open file cannot be renamed
                _put(temporary, path, overwrite)
        if os.name == "nt":
            _put(temporary, path, overwrite)


def remove_parts(folder: Path) -> None:
    """Deletes the parts in a folder that killed processes left. Those that are being written stay."""
    for part in folder.glob(".dagl-*.part"):
        with suppress(OSError), open(part, "rb") as file:
            if _lock(file):
                part.unlink()


@contextmanager
def _temporary(path: Path, suffix: str) -> Iterator[Path]:
    name = path.with_name(f".dagl-{secrets.token_hex(8)}.{suffix}")
    try:
        yield name
    finally:
        with suppress(OSError):
            name.unlink(missing_ok=True)


def _put(temporary: Path, path: Path, overwrite: bool) -> None:
    """Renames. Without `overwrite` it never replaces a file, and never shows one that is not whole."""
    if overwrite:
        with suppress(FileNotFoundError):
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
        return
    try:
        os.link(temporary, path)  # atomic, and unlike a rename it never replaces
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links, where a name cannot be taken and filled in one step
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "File exists", str(path)) from None
        os.replace(temporary, path)


def _lock(file: BinaryIO) -> bool:
    """Whether this process has the file to itself from now on, until it is closed."""
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # somebody else's, or a file system without locks
        return False
    return True


@contextmanager
def locked(path: Path, wait: float = -1) -> Iterator[bool]:
    """Whether this process has the lock file `path`, for as long as the block runs. A killed process loses it.

    Between the processes of one machine, and of several where the network's file system passes locks on.

    wait: seconds before giving up; below 0 for ever.
    """
    lock = FileLock(path, timeout=wait)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP):
            raise
        # a file system without locks
    except NotImplementedError:
        pass  # the same, as filelock says it
    try:
        yield True
    finally:
        lock.release()


def cache_folder() -> Path:
    """dagl's folder for what it can make again, by the platform's convention; $XDG_CACHE_HOME comes first."""
    if home := os.environ.get("XDG_CACHE_HOME"):
        return Path(home) / "dagl"
    return platformdirs.user_cache_path("dagl", appauthor=False)
