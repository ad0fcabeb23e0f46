"""C libraries and other packages print what they think of a file; dagl says it in its own words."""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, redirect_stdout

_lock = threading.Lock()
_stdout = threading.RLock()
"""Held while Python's stdout leads nowhere, and while somebody speaks. Taken before `_lock`."""
_kept = -1
"""What file descriptor 2 was before it led nowhere; -1 while it leads where it should."""


def _shared(make: Callable[[], AbstractContextManager[None]]) -> Callable[[], AbstractContextManager[None]]:
    """A context of the whole process: the first thread enters it, and the last one leaves it."""
    inside, stack = 0, ExitStack()

    @contextmanager
    def entered() -> Iterator[None]:
        nonlocal inside
        with _lock:
            inside += 1
            if inside == 1:
                stack.enter_context(make())
        try:
            yield
        finally:
            with _lock:
                inside -= 1
                if inside == 0:
                    stack.close()

    return entered


@contextmanager
def _led_nowhere() -> Iterator[None]:
    global _kept
    try:
        _kept = os.dup(2)
    except OSError:  # it is closed: nothing to keep
        yield
        return
    _lead_nowhere()
    try:
        yield
    finally:
        os.dup2(_kept, 2)
        os.close(_kept)
        _kept = -1


def _lead_nowhere() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


@contextmanager
def _unwarned() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


silent = _shared(_led_nowhere)
"""Nothing that is written to file descriptor 2 is seen."""
quiet = _shared(_unwarned)
"""Pillow's warnings, about odd metadata mostly, are not printed."""


@contextmanager
def mute() -> Iterator[None]:
    """As `silent`, for a package that prints in Python, too. One thread at a time."""
    with _stdout, silent(), redirect_stdout(io.StringIO()):
        yield


@contextmanager
def heard() -> Iterator[None]:
    """What this thread writes to stdout and stderr is seen, whatever others have silenced meanwhile."""
    with _stdout, _lock:
        if _kept < 0:
            yield
            return
        os.dup2(_kept, 2)
        try:
            yield
        finally:
            _lead_nowhere()
