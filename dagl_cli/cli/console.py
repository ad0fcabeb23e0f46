"""What the command line prints: messages and progress on stderr, in one line each, whatever they quote."""

from __future__ import annotations

from rich.console import Console
from rich.progress import Progress, ProgressColumn

from ..errors import plain as plain  # for the commands

errors = Console(stderr=True, highlight=False)
"""Progress and messages: stdout is for data and --json alone."""


def say(line: str, style: str = "") -> None:
    """One line of message on stderr, unwrapped; markup and control characters in file names do nothing."""
    errors.print(plain(line), style=style or None, markup=False, emoji=False, soft_wrap=True)


def bars(*columns: str | ProgressColumn, quiet: bool) -> Progress:
    """Progress bars that leave nothing behind; none where nobody looks."""
    return Progress(*columns, console=errors, transient=True, disable=quiet or not errors.is_terminal)
