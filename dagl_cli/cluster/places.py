"""Files that may lie elsewhere: URIs of every file system that pyarrow knows (s3://, gs://, hdfs://, file:// ...).

A URI is carried as a `Path`, which folds its slashes: s3:/bucket/a.png. `uri` gives it back, and tells it from a local
path. Loads pyarrow only when a URI is met.
"""

from __future__ import annotations

import functools
import os
import posixpath
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import DaglError, ImageError, UsageError, one_line
from ..files import visible

WHOLE = ("s3", "gcs", "abfs")
"""Stores in which a file appears when it is complete: no temporary name is needed."""


def uri(path: Path) -> str | None:
    """The URI that a path was made of; None for a local path."""
    found = re.fullmatch(r"([a-z][a-z0-9+.-]+):(/.*)", path.as_posix(), re.S)
    if not found:
        return None
    return f"{found[1]}://{found[2] if found[1] == 'file' else found[2][1:]}"


def shown(path: Path) -> str:
    """As the user wrote it."""
    return uri(path) or str(path)


def is_folder(path: Path) -> bool:
    """Raises DaglError for a URI that nobody answers."""
    if not uri(path):
        return os.path.isdir(path)
    from pyarrow import fs

    system, inner = _opened(path)
    with _reached(path):
        return bool(system.get_file_info(inner).type == fs.FileType.Directory)


def walk(
    folder: Path, unreadable: Callable[[OSError], None], left_out: str | None = None
) -> Iterator[tuple[str, list[str]]]:
    """`files.visible`, wherever the folder lies. Raises DaglError for a URI that nobody answers."""
    if not uri(folder):
        yield from visible(folder, unreadable, left_out)
        return
    from pyarrow import fs

    system, inner = _opened(folder)
    with _reached(folder):
        found = system.get_file_info(fs.FileSelector(inner, recursive=True))
    names: dict[Path, list[str]] = {}
    for info in found:
        below = Path(posixpath.relpath(info.path, inner))
        root = folder / below.parent
        inside = left_out is not None and any(os.path.realpath(p) == left_out for p in (root, *root.parents))
        if info.is_file and not inside and not any(part.startswith(".") for part in below.parts):
            names.setdefault(root, []).append(below.name)
    for root in sorted(names):
        yield str(root), sorted(names[root])


def existing(paths: Iterable[Path]) -> set[Path]:
    """Those of the paths that are there. Every folder of a URI's is asked once. Raises DaglError as `walk`."""
    there: set[Path] = set()
    folders: dict[Path, list[Path]] = {}
    for path in paths:
        if uri(path):
            folders.setdefault(path.parent, []).append(path)
        elif os.path.lexists(path):
            there.add(path)
    for folder, wanted in folders.items():
        from pyarrow import fs

        system, inner = _opened(folder)
        with _reached(folder):
            names = {info.base_name for info in system.get_file_info(fs.FileSelector(inner, allow_not_found=True))}
        there.update(path for path in wanted if path.name in names)
    return there


def read(path: Path) -> bytes:
    """All of a file behind a URI. Raises ImageError."""
    system, inner = _opened(path)
    try:
        with system.open_input_stream(inner) as stream:
            return bytes(stream.read())
    except OSError as error:
        raise ImageError(f"cannot read {uri(path)}: {one_line(error)}") from None


def write(path: Path, data: bytes, *, overwrite: bool) -> None:
    """All of it or nothing, behind a URI. Raises ImageError; caused by FileExistsError for a file that stays."""
    system, inner = _opened(path)
    base = system
    while hasattr(base, "base_fs"):
        base = base.base_fs
    whole = base.type_name in WHOLE
    part = inner if whole else f"{posixpath.dirname(inner)}/.dagl-{secrets.token_hex(8)}.part"
    try:
        if not overwrite and system.get_file_info(inner).type.value:
            raise FileExistsError("the file exists")
        if not whole:
            system.create_dir(posixpath.dirname(inner), recursive=True)
        with system.open_output_stream(part) as stream:
            stream.write(data)
        if not whole:
            system.move(part, inner)
    except OSError as error:
        if not whole and system.get_file_info(part).is_file:
            system.delete_file(part)
        raise ImageError(f"cannot write {uri(path)}: {one_line(error)}") from error


def _opened(path: Path) -> tuple[Any, str]:
    """pyarrow's file system, and the path in it."""
    scheme, _, rest = (uri(path) or "").partition("://")
    host, _, inner = rest.partition("/")
    system, base = _system(scheme, host)
    return system, f"{base.rstrip('/')}/{inner}" if inner else base


@functools.cache
def _system(scheme: str, host: str) -> tuple[Any, str]:
    try:
        from pyarrow import fs
    except ImportError:
        raise UsageError(f"{scheme}:// needs pyarrow: pip install 'dagl[ray]'") from None
    try:
        system, base = fs.FileSystem.from_uri(f"{scheme}://{host}" + ("" if scheme in ("s3", "gs", "gcs") else "/"))
    except ValueError as error:
        raise UsageError(f"{scheme}:// is no file system that dagl knows: {one_line(error)}") from None
    except OSError as error:
        raise DaglError(f"{scheme}://{host} cannot be reached: {one_line(error)}") from None
    return system, base


@contextmanager
def _reached(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DaglError(f"{uri(path)} cannot be reached: {one_line(error)}") from None
