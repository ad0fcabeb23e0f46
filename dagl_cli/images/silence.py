"""C libraries print what they think of a file; dagl says it in its own words."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_readers = 0
_kept = -1


@contextmanager
def silent() -> Iterator[None]:
    """Nothing that is written to file descriptor 2 is seen. Threads may be inside at the same time."""
    _enter()
    try:
        yield
    finally:
        _leave()


def _enter() -> None:
    global _readers, _kept
    with _lock:
        _readers += 1
        if _readers == 1:
            try:
                _kept = os.dup(2)
            except OSError:  # it is closed: nothing to keep
                _kept = -1
                return
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 2)
            os.close(nowhere)


def _leave() -> None:
    global _readers
    with _lock:
        _readers -= 1
        if _readers == 0 and _kept >= 0:
            os.dup2(_kept, 2)
            os.close(_kept)
