"""Which files are meant: lists of them, and patterns, where the shell has not expanded them."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from ..errors import UsageError, one_line
from .options import STDIO


@dataclass(frozen=True)
class Filter:
    """Which of the files are taken, by patterns as of a shell, whose case does not matter.

    A pattern without a slash is of the name of a file or of a folder above it; one with a slash of the path below the
    folder that was given.
    """

    include: Sequence[str] = ()
    """Only what one of them fits, if there are any."""
    exclude: Sequence[str] = ()
    """And nothing that one of these fits."""

    def takes(self, path: Path) -> bool:
        """path: below the folder that was given, or as it was given."""
        wanted = not self.include or any(fits(path, pattern) for pattern in self.include)
        return wanted and not any(fits(path, pattern) for pattern in self.exclude)


def fits(path: Path, pattern: str) -> bool:
    """Whether a pattern is that of a path, or of a folder that it lies in."""
    parts = [part.casefold() for part in path.parts]
    wanted = pattern.replace(os.sep, "/").casefold()
    if "/" in wanted.strip("/"):
        parts = ["/".join(parts[:length]) for length in range(1, len(parts) + 1)]
    return any(fnmatchcase(part, wanted.strip("/")) for part in parts)


def expanded(path: Path) -> list[Path]:
    """The files and folders of a pattern that nobody expanded (cmd.exe, or quotes), sorted; else the path itself."""
    if path == STDIO or os.path.lexists(path) or not glob.has_magic(str(path)):
        return [path]
    return [Path(name) for name in sorted(glob.glob(str(path), recursive=True))] or [path]


def listed(source: Path) -> list[Path]:
    """The paths in a list, one a line or with a null character behind each; `STDIO`: the list comes on stdin.

    Raises UsageError where there is none, or nothing in it.
    """
    name = "stdin" if source == STDIO else str(source)
    try:
        data = sys.stdin.buffer.read() if source == STDIO else source.read_bytes()
    except OSError as error:
        raise UsageError(f"`files_from` {name}: {one_line(error)}: name a list of files, or - for stdin") from None
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):  # as Windows' PowerShell writes it
        data = data.decode("utf-16", "replace").encode()
    data = data.removeprefix(b"\xef\xbb\xbf")
    lines = data.split(b"\0") if b"\0" in data else [line.removesuffix(b"\r") for line in data.split(b"\n")]
    paths = [Path(os.fsdecode(line)) for line in lines if line.strip()]
    if not paths:
        raise UsageError(f"`files_from` {name} names no files: write one a line")
    if STDIO in paths:
        raise UsageError(f"`files_from` {name}: - (stdin) cannot be in a list: give it alone")
    return paths
