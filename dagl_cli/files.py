"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


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
