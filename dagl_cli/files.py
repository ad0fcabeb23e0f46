"""Files: those of a folder, written whole or not at all, locks between processes, and the folder for caches."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Container, Iterator
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
        with suppress(FileNotFoundError):
            shutil.copymode(path, temporary)
        os.replace(temporary, path)


Entry = tuple[int, int, str]
"""One name in one folder: the folder's device and inode, and the name. Links and mounts lead to the same one."""


def entry(path: Path) -> Entry:
    """Raises OSError where there is no such folder."""
    folder = os.stat(path.parent)
    return folder.st_dev, folder.st_ino, path.name


def entries(path: Path) -> Iterator[Entry]:
    """The names that hold a file: the path itself, and what it is a link to."""
    for name in (path, Path(os.path.realpath(path))):
        with suppress(OSError):
            yield entry(name)


def version(path: Path) -> tuple[int, int] | None:
    """What changes when a file is replaced; None: it is not there."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def write(
    path: Path, data: bytes | memoryview, *, overwrite: bool = True, inputs: Container[Entry] = frozenset()
) -> None:
    """All of it or nothing, as `writing` does it. Raises what it raises."""
    with writing(path, overwrite=overwrite, inputs=inputs) as file:
        file.write(data)


@contextmanager
def writing(path: Path, *, overwrite: bool = True, inputs: Container[Entry] = frozenset()) -> Iterator[BinaryIO]:
    """A file to be filled; at the end of the block it is at `path`, all of it and on the disk, or else nothing is.

    The data goes to a hidden part beside the path first. It is locked while it is written, so that `clean` can tell
    it from what a killed process left behind. A file that is replaced passes its permissions on.

    overwrite: False: a file that is there, even if only since a moment ago, is kept and FileExistsError raised.
    inputs: what is never replaced. It is looked up in the folder that is written to, and that stays open meanwhile:
    whatever becomes of the path, the file lands in that folder.
    Raises OSError; PermissionError for one of the inputs.
    """
    with _opened(path.parent) as folder:
        _check_free(path, folder, inputs)
        with _part(path, folder) as (part, file):
            yield file
            file.flush()
            os.fsync(file.fileno())
            if os.name == "nt":  # where an open file cannot be renamed
                file.close()
            _put(part, path, overwrite, folder)


def clean(folder: Path) -> None:
    """Deletes what killed processes left in a folder: parts and claims. Those that are in use stay."""
    for kind in ("part", "claim"):
        for left in folder.glob(f".dagl-*.{kind}"):
            with suppress(OSError), open(left, "rb") as file:
                if _lock(file):
                    left.unlink()


def claim_of(path: Path) -> Path:
    """The lock file of `claimed`."""
    return path.with_name(f".dagl-{hashlib.blake2b(os.fsencode(path.name), digest_size=8).hexdigest()}.claim")


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Whether this process may make `path`: of several that share a folder one has the claim while the block runs.

    The claim is a lock file beside the path, so that of a killed process nothing is left that would hold others up.
    It is removed under its own lock; filelock tells who was waiting for a removed file. Raises OSError.
    """
    claim = claim_of(path)
    with locked(claim, wait=0) as mine:
        try:
            yield mine
        finally:
            if mine:
                with suppress(OSError):
                    claim.unlink()


@contextmanager
def _temporary(path: Path, suffix: str) -> Iterator[Path]:
    name = path.with_name(f".dagl-{secrets.token_hex(8)}.{suffix}")
    try:
        yield name
    finally:
        with suppress(OSError):
            name.unlink(missing_ok=True)


@contextmanager
def _opened(folder: Path) -> Iterator[int | None]:
    """A folder's descriptor; None where there are none (Windows)."""
    if os.open not in os.supports_dir_fd:
        yield None
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _check_free(path: Path, folder: int | None, inputs: Container[Entry]) -> None:
    status = os.stat(path.parent if folder is None else folder)
    if (status.st_dev, status.st_ino, path.name) in inputs:
        raise PermissionError(errno.EPERM, "it is an input and is never overwritten: choose another output", str(path))


@contextmanager
def _part(path: Path, folder: int | None) -> Iterator[tuple[str, BinaryIO]]:
    """A hidden file beside `path`, locked and open, and its name in the folder; removed in the end."""
    while True:
        name = f".dagl-{secrets.token_hex(8)}.part"
        name = name if folder is not None else str(path.with_name(name))
        try:
            with open(name, "xb", opener=lambda name, how: os.open(name, how, 0o666, dir_fd=folder)) as file:
                _lock(file, wait=True)
                if os.name != "nt" and os.fstat(file.fileno()).st_nlink == 0:
                    continue  # `clean` found it before it was locked
                yield name, file
                return
        finally:
            with suppress(OSError):
                os.unlink(name, dir_fd=folder)


def _put(part: str, path: Path, overwrite: bool, folder: int | None) -> None:
    """Renames. Without `overwrite` it never replaces a file, and never shows one that is not whole."""
    target = path.name if folder is not None else str(path)
    if overwrite:
        with suppress(OSError):
            os.chmod(part, stat.S_IMODE(os.stat(target, dir_fd=folder).st_mode), dir_fd=folder)
        os.replace(part, target, src_dir_fd=folder, dst_dir_fd=folder)
        return
    try:
        os.link(path.with_name(part) if folder is not None else part, path)  # unlike a rename it never replaces
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links, where a name cannot be taken and filled in one step
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "File exists", str(path)) from None
        os.replace(part, target, src_dir_fd=folder, dst_dir_fd=folder)


def _lock(file: BinaryIO, wait: bool = False) -> bool:
    """Whether this process has the file to itself from now on, until it is closed."""
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
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
        path.touch()  # where there can be no such file, nobody has the lock, and this says why
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
