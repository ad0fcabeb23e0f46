"""What the command line prints: messages and progress on stderr, in one line each, whatever they quote."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, cast

from rich.console import Console
from rich.progress import Progress, ProgressColumn

from ..errors import DaglError
from ..errors import plain as plain  # for the commands
from ..silence import heard


class Messages:
    """stderr as it is at the time; where it takes nothing (full, or its reader gone), the work goes on in silence."""

    def write(self, text: str) -> int:
        try:
            with heard():
                return sys.stderr.write(text)
        except OSError:
            lose(sys.stderr)
            return len(text)

    def flush(self) -> None:
        try:
            with heard():
                sys.stderr.flush()
        except OSError:
            lose(sys.stderr)

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


def lose(stream: Any) -> None:
    """Turns a stream that cannot be written to into one that takes everything, so that Python can end in peace."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


errors = Console(file=cast(IO[str], Messages()), highlight=False)
"""Progress and messages: stdout is for data and --json alone."""


UNSEEN = 160
"""Columns for what no terminal shows: its reader looks for whole words, such as a SHA-256."""


def stdout() -> Console:
    """For tables on stdout, as wide as its terminal or as COLUMNS says. Colours are those of the terminal, none with
    NO_COLOR."""
    told = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if told else UNSEEN, highlight=False)


def say(line: str, style: str = "", quiet: bool = False) -> None:
    """One line of message on stderr, unwrapped; markup and control characters in file names do nothing.

    quiet: it goes to the log alone.
    """
    _log.write(plain(line))
    if not quiet:
        errors.print(plain(line), style=style or None, markup=False, emoji=False, soft_wrap=True)


class Log:
    """A file that messages are added to, each with its time. One that takes no more costs a message, not the work."""

    def __init__(self) -> None:
        self.file: IO[str] | None = None

    def write(self, line: str) -> None:
        if self.file is None:
            return
        try:
            self.file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
            self.file.flush()
        except OSError as error:
            name = self.file.name
            self.file = None
            say(f"Note: cannot write {name}: {error.strerror}: going on without it", "yellow")


_log = Log()


@contextmanager
def logged(path: Path | None) -> Iterator[None]:
    """While the block runs, what is said goes to a file, too. Raises DaglError."""
    if path is None:
        yield
        return
    try:
        file = open(path, "a", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
    except OSError as error:
        raise DaglError(f"cannot write {path}: {error.strerror}: choose another file for `log`") from None
    before, _log.file = _log.file, file
    try:
        yield
    finally:
        _log.file = before
        with suppress(OSError):
            file.close()


def bars(*columns: str | ProgressColumn, quiet: bool) -> Progress:
    """Progress bars that leave nothing behind; none where nobody looks."""
    return Progress(*columns, console=errors, transient=True, disable=quiet or not errors.is_terminal)
