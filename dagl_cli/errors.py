"""Errors a user can cause. Each message is one line that names the file or flag and the remedy.

Exit codes (documented in the README): 0 ok, 1 failed, 2 usage, 3 some files failed,
4 weights unavailable, 5 benchmark below tolerance, 130 interrupted.
"""


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
