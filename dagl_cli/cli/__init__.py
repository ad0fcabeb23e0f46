"""The command line: the one place that prints and catches errors."""

from __future__ import annotations

import ctypes
import functools
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from .. import __version__
from ..errors import DaglError

errors = Console(stderr=True, highlight=False)
"""Progress and messages: stdout is for data and --json alone."""


def plain(line: str) -> str:
    """Without the control characters that file names may hold."""
    return "".join(c if c.isprintable() else "?" for c in line)


def say(line: str, style: str = "") -> None:
    """One line of message on stderr, unwrapped; markup and control characters in file names do nothing."""
    errors.print(plain(line), style=style or None, markup=False, emoji=False, soft_wrap=True)


def a_path(text: str) -> Path:
    """Refuses the empty name, which a script's unset variable gives and which would mean the current folder."""
    if not text:
        raise typer.BadParameter("a name is empty; write . for the current folder")
    return Path(text)


def by_environment(context: typer.Context, name: str) -> bool:
    """Whether a parameter has its value from a DAGL_* variable: a default, which gives way where it does not fit."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "ENVIRONMENT"


CommandLineError: type[Any] = typer.BadParameter.__bases__[0]
"""An unknown flag or command, a missing or wrong value; Typer has it and does not export it."""


@contextmanager
def _mistyped(group: Any = None) -> Iterator[None]:
    """One line for a command line that cannot be understood, in place of Typer's box. group: a context."""
    try:
        yield
    except CommandLineError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # it prints the help
            raise
        command = "dagl"
        if error.ctx:
            command = error.ctx.command_path
        elif group:  # Typer does not say where a flag lacks its value
            command = f"{group.command_path} {group.invoked_subcommand or ''}".rstrip()
        say(f"Error: {error.format_message().rstrip('.')} (see {command} --help)", "red")
        raise typer.Exit(2) from None


def with_flags(message: str) -> str:
    """A message of the library for the command line: parameters in backquotes, `max_pixels`, become --max-pixels."""
    return re.sub(r"`([a-z][a-z_]*)`", lambda name: flags().get(name[1], name[0]), message)


@functools.cache
def flags() -> dict[str, str]:
    """The name of every command's every parameter -> its flag; arguments have none."""

    def below(command: Any) -> Iterator[tuple[str, str]]:
        for parameter in command.params:
            if parameter.param_type_name == "option":
                yield parameter.name, max(parameter.opts, key=len)
        for inner in getattr(command, "commands", {}).values():
            yield from below(inner)

    return dict(below(typer.main.get_command(app)))


class ErrorBoundary(TyperGroup):
    """Turns expected errors into one line and their exit code."""

    def make_context(self, *arguments: Any, **more: Any) -> Any:
        with _mistyped():
            return super().make_context(*arguments, **more)

    def invoke(self, ctx: Any) -> Any:
        try:
            with _mistyped(ctx):
                result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except DaglError as error:
            say(f"Error: {with_flags(str(error))}", "red")
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            say("Interrupted: finished files are kept, running the command again does the rest.", "yellow")
            raise typer.Exit(130) from None
        except OSError as error:  # of files they are caught where they arise; this is stdout: full, or its reader gone
            if not isinstance(error, BrokenPipeError):
                say(f"Error: {error.filename or 'cannot write to stdout'}: {error.strerror}", "red")
            with suppress(OSError):  # nothing more to flush at exit
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=ErrorBoundary,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Restore images with DAGL (Dynamic Attentive Graph Learning, ICCV 2021).",
    epilog="Exit codes: 0 ok, 1 failed, 2 usage, 3 some files failed, 4 weights unavailable, "
    "5 benchmark below tolerance, 130 interrupted.",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"dagl {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Options before the command."""


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


from . import benchmark, compare, datasets, restore, train, weights  # noqa: E402, F401  (each adds its commands to `app`)
