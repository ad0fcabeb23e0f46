"""The one place that catches errors: each becomes one line and an exit code."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .. import __version__
from ..errors import DaglError
from .console import lose, say
from .options import with_address

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


def with_flags(message: str, command: str | None = None) -> str:
    """A message of the library for the command line: parameters in backquotes, `max_pixels`, become --max-pixels.

    command: whose flags come first where those of several commands differ.
    """
    return re.sub(r"`([a-z][a-z_]*)`", lambda name: flags(command).get(name[1], name[0]), message)


@functools.cache
def flags(command: str | None = None) -> dict[str, str]:
    """The name of every command's every parameter -> its flag, that of `command` first; arguments have none."""

    def below(command: Any) -> Iterator[tuple[str, str]]:
        for parameter in command.params:
            if parameter.param_type_name == "option":
                yield parameter.name, _flag(parameter)
        for inner in getattr(command, "commands", {}).values():
            yield from below(inner)

    from . import load

    load()
    root: Any = typer.main.get_command(app)
    every = list(below(root))
    usual = {name: flag for name, flag in every if flag == f"--{name.replace('_', '-')}"}  # where commands differ
    own = root.commands.get(command)
    return dict(every) | usual | (dict(below(own)) if own else {})


def _flag(parameter: Any) -> str:
    """As --tile; both names of a switch that is named otherwise than its parameter: --gray/--color for `channels`."""
    flag: str = max(parameter.opts, key=len)
    named = flag[2:].replace("-", "_") == parameter.name
    return flag if named or not parameter.secondary_opts else f"{flag}/{max(parameter.secondary_opts, key=len)}"


class ErrorBoundary(TyperGroup):
    """Turns expected errors into one line and their exit code."""

    def main(self, *arguments: Any, **more: Any) -> Any:
        """What is printed before any command runs, the help above all, can find stdout full too."""
        with _stdout():
            return super().main(*arguments, **more)

    def make_context(self, info_name: str | None, args: list[str], *arguments: Any, **more: Any) -> Any:
        with _mistyped():
            return super().make_context(info_name, with_address(args), *arguments, **more)

    def invoke(self, ctx: Any) -> Any:
        try:
            with _mistyped(ctx):
                return super().invoke(ctx)
        except DaglError as error:
            say(f"Error: {with_flags(str(error), ctx.invoked_subcommand)}", "red")
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            say("Interrupted: finished files are kept, running the command again does the rest.", "yellow")
            raise typer.Exit(130) from None


@contextmanager
def _stdout() -> Iterator[None]:
    """Errors of files are caught where they arise; what is left is stdout: full, closed, or its reader gone."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            say(f"Error: {error.filename or 'cannot write to stdout'}: {error.strerror}", "red")
        lose(sys.stdout)
        raise SystemExit(1) from None


def group(help: str, **more: Any) -> typer.Typer:
    """A group of commands. Without Rich's markup, which takes `[...]` in help texts for its own."""
    return typer.Typer(help=help, no_args_is_help=True, rich_markup_mode=None, **more)


app = group(
    "Restore images with DAGL (Dynamic Attentive Graph Learning, ICCV 2021).",
    cls=ErrorBoundary,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
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
