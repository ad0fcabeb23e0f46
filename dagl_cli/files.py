"""Files: those of a folder, and written whole or not at all."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


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
    temporary = path.with_name(f".dagl-{secrets.token_hex(8)}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write(path: Path, data: bytes | memoryview) -> None:
    """All of it or nothing; on the disk when this returns. Raises OSError."""
    with replacing(path) as temporary, open(temporary, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def cache_folder() -> Path:
    """dagl's folder for what it can make again, by the platform's convention; $XDG_CACHE_HOME comes first."""
    if home := os.environ.get("XDG_CACHE_HOME"):
        return Path(home) / "dagl"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData/Local")) / "dagl" / "Cache"
    return Path.home() / ("Library/Caches/dagl" if sys.platform == "darwin" else ".cache/dagl")
