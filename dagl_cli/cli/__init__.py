"""The command line: the one place that prints and catches errors. One module for each command."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress
from typing import Any

from . import (  # noqa: F401  (they join `app`)
    benchmark,
    compare,
    datasets,
    dejpeg,
    demosaic,
    denoise,
    graph,
    restore,
    train,
    weights,
)
from .boundary import app

__all__ = ["app", "main"]


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


def main() -> None:
    """The `dagl` command."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # started with the stream closed
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    signal.signal(signal.SIGTERM, _interrupt)  # a polite kill loses no more than Ctrl-C does
    keep_freed_memory()
    app()
