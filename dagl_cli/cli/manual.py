"""The manual page dagl(1), from the help texts: `python -m dagl_cli.cli.manual` prints it, and wheels hold it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from .. import __version__

FILES = """The bundled weights need no download. Imported weights and test sets lie in dagl in the user's cache folder,
what comes from the Hub in the Hub's own cache."""


def page() -> str:
    """The whole page, in the man macros."""
    from . import app

    root: Any = get_command(app)
    *_, epilog = (root.epilog or "").partition(": ")
    exits = [part.strip().split(" ", 1) for part in epilog.rstrip(".").split(", ")]
    commands = list(_commands(root, "dagl"))
    variables = {p.envvar: p.help for _, command in commands for p in command.params if getattr(p, "envvar", None)}
    return "\n".join(
        [
            f'.TH DAGL 1 "" "dagl {__version__}" "User Commands"',
            ".SH NAME", f"dagl \\- {_text(root.help[0].lower() + root.help[1:].rstrip('.'))}",
            ".SH SYNOPSIS", *(line for name, command in commands for line in _usage(name, command)),
            ".SH DESCRIPTION", "Only data goes to stdout: a picture for \\-, or a report. Progress and messages go to "
            "stderr.", *(line for name, command in commands for line in _section(name, command)),
            '.SH "EXIT STATUS"', *(line for code, meaning in exits for line in (".TP", f".B {code}", _text(meaning))),
            ".SH ENVIRONMENT", "Each sets the default of an option.",
            *(line for name in sorted(variables) for line in (".TP", f".B {name}", _text(variables[name]))),
            ".TP", ".B NO_COLOR", "Nothing is coloured.",
            ".SH FILES", _text(FILES), "",
        ]
    )  # fmt: skip


def _commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """(name, command) of each command that does something, `dagl weights list` among them."""
    if not hasattr(command, "commands"):
        yield name, command
        return
    for key, inner in command.commands.items():
        yield from _commands(inner, f"{name} {key}")


def _usage(name: str, command: Any) -> Iterator[str]:
    arguments = (f"\\fI{_text(_value(p))}\\fR" for p in _parameters(command, "argument"))
    yield " ".join([f"\\fB{_text(name)}\\fR", "[\\fIoptions\\fR]", *arguments])
    yield ".br"


def _section(name: str, command: Any) -> Iterator[str]:
    yield f'.SH "{_text(name.upper())}"'
    yield from (part for paragraph in command.help.split("\n\n") for part in (".PP", _text(paragraph)))
    for parameter in _parameters(command, "argument"):
        yield from (".TP", f".I {_text(_value(parameter))}", _text(parameter.help))
    for parameter in _parameters(command, "option"):
        flags = ", ".join(f"\\fB{_text(flag)}\\fR" for flag in (*parameter.opts, *parameter.secondary_opts))
        yield from (".TP", flags if parameter.is_flag else f"{flags} \\fI{_text(_value(parameter))}\\fR")
        yield _text(f"{parameter.help} {_default(parameter)}")


def _value(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def _default(parameter: Any) -> str:
    shown, value = parameter.show_default, parameter.default
    if not isinstance(shown, str):
        shown = str(value) if shown and type(value) in (str, int, float) else ""
    return f"Default: {shown}." if shown else ""


def _parameters(command: Any, kind: str) -> list[Any]:
    return [p for p in command.params if p.param_type_name == kind and p.name != "help"]


def _text(text: str) -> str:
    """Words for groff: no control lines, no escapes, minus signs that can be copied."""
    line = re.sub(r"\s+", " ", text).strip().replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", line)


if __name__ == "__main__":
    print(page(), end="")
