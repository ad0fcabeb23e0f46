"""Errors a user can cause. Each message is one line that names the file or parameter and the remedy.

Parameters stand in backquotes, as `max_pixels`: Python's users read them as they are, the command line shows them as
its flags, --max-pixels (`cli.with_flags`).

Exit codes (documented in the README): 0 ok, 1 failed, 2 usage, 3 some files failed,
4 weights unavailable, 5 benchmark below tolerance, 130 interrupted.
"""

from __future__ import annotations

from collections.abc import Iterable


class DaglError(Exception):
    """Base of every expected error; the command line prints its message and exits with `exit_code`."""

    exit_code = 1


class UsageError(DaglError):
    """A flag, an argument or a combination of them makes no sense."""

    exit_code = 2


class ImageError(DaglError):
    """A file is not an image that dagl can read, or a result cannot be written."""


class WeightsError(DaglError):
    """Weights are missing, damaged, or do not fit the model or the task."""

    exit_code = 4


class ToleranceError(DaglError):
    """A benchmark is further below its reference than allowed."""

    exit_code = 5


def unknown(parameter: str, value: object, choices: Iterable[str]) -> UsageError:
    """The error for a value that is not among the choices of a parameter."""
    return UsageError(f"`{parameter}` {value} is unknown: choose one of {', '.join(choices)}")


def one_line(error: BaseException) -> str:
    """What an exception says, on one line; its kind where it says nothing."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def plain(text: str) -> str:
    """Text from files and their names, without what could steer a terminal or turn its line (C0, C1, bidi)."""
    return "".join(c if c.isprintable() else "?" for c in text)
