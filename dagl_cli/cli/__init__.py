"""The command line: the one place that prints and catches errors. One module for each command."""

from __future__ import annotations

import ctypes
import io
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import boundary

if TYPE_CHECKING:
    from .boundary import app as app

COMMANDS = (
    "benchmark", "compare", "datasets", "dejpeg", "demosaic", "denoise", "graph", "restore", "serve", "train",
    "weights",
)  # fmt: skip
"""Their modules, which join `app` when they are imported."""


def load(words: Sequence[str] = ()) -> None:
    """The command that a command line begins with, or all: one is loaded in half of the time."""
    for name in words[:1] if words and words[0] in COMMANDS else COMMANDS:
        import_module(f".{name}", __package__)


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    load()
    return boundary.app


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory: fetching fresh pages for every layer took a sixth of the time on a CPU.

    The numbers are M_TRIM_THRESHOLD, M_MMAP_THRESHOLD (32 MiB is its largest) and M_TOP_PAD of mallopt(3).
    """
    with suppress(OSError, AttributeError, TypeError):  # another C library: nothing to tell
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, size in ((-1, 2**30), (-3, 2**25), (-2, 2**28)):
            mallopt(parameter, size)


def mend_streams() -> None:
    """Streams that were closed when the command started, and text that they cannot encode.

    Their numbers are taken by /dev/null, so that no file gets them; a closed stdout by one that refuses to be written
    to, so that what is lost there is an error.
    """
    for name, mode, how in (("stdin", "r", os.O_RDONLY), ("stdout", "w", os.O_RDONLY), ("stderr", "w", os.O_WRONLY)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.open(os.devnull, how), mode))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def main() -> None:
    """The `dagl` command."""
    mend_streams()
    for number in ("SIGTERM", "SIGHUP"):  # a polite kill, or a closed terminal, loses no more than Ctrl-C does
        if hasattr(signal, number) and signal.getsignal(getattr(signal, number)) == signal.SIG_DFL:  # not under nohup
            signal.signal(getattr(signal, number), _interrupt)
    keep_freed_memory()
    load(sys.argv[1:])
    boundary.app()
