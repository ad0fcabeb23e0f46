"""`dagl serve`."""

from __future__ import annotations

import functools
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.main import get_command

from ..errors import DaglError, UsageError, one_line
from . import load
from .account import Row, row_of
from .boundary import CommandLineError, app, with_flags
from .options import STDIO
from .run import Service

COMMANDS = ("denoise", "dejpeg", "demosaic", "restore")
OF_RUNS = {
    "paths", "output", "help", "include", "exclude", "files_from", "as_json", "json_lines", "log", "quiet", "report",
    "shard",
}  # fmt: skip
"""Parameters that are no settings of a job: they are for many files, or for the terminal."""


@app.command()
def serve(
    context: typer.Context,
    stdin: Annotated[
        bool, typer.Option("--stdin", help="Jobs come on stdin, one a line, until it ends; answers go to stdout.")
    ] = False,
) -> None:
    """Restore files for another program, which need not wait for the networks to load.

    A job is a JSON object: {"command": "denoise", "input": "a.png", "output": "b.png", "sigma": 25}. The command is
    denoise, dejpeg, demosaic or restore; its flags are further keys (max_pixels for --max-pixels), switches are true.
    "id" may be anything, and is given back. Every job is answered with one line, as --json-lines has them; what is
    wrong with one is told there ("status": "failed"), and the next one is done.
    """
    if not stdin:
        raise UsageError("say --stdin: jobs are lines on stdin")
    from ..restoring import file  # noqa: F401  (torch is there before the first job)

    service = Service()
    for number, line in enumerate(sys.stdin.buffer, 1):
        if line.strip():
            print(json.dumps(answer(line, f"line {number}", service, context)), flush=True)


def answer(line: bytes, place: str, service: Service, context: typer.Context) -> Row:
    """Does a job. Whatever is wrong with it is in the answer. place: what errors call the line."""
    job: dict[str, Any] = {}
    why = f"{place}: nothing was done"
    service.rows.clear()
    try:
        job = parsed(line, place)
        command, arguments = understood(job, place)
        with command.make_context(command.name, arguments, parent=context.parent, obj=service) as inner:
            command.invoke(inner)
    except CommandLineError as error:
        why = f"{place}: {error.format_message().rstrip('.')}"
    except typer.Exit:  # the row says why
        pass
    except DaglError as error:
        why = with_flags(str(error))
    except Exception as error:  # a mistake of ours: it must not cost the other jobs
        why = f"{place}: {type(error).__name__}: {one_line(error)}: please report this"
    row = service.rows[0] if service.rows else row_of(job.get("input"), job.get("output"), status="failed", note=why)
    return {"id": job.get("id"), **row}


@functools.cache
def commands() -> dict[str, Any]:
    load()
    root: Any = get_command(app)
    return root.commands


def parsed(line: bytes, place: str) -> dict[str, Any]:
    """Raises UsageError."""
    try:
        job = json.loads(line)
    except (ValueError, RecursionError):  # ValueError: no JSON, no text, or a number without end
        raise UsageError(f"{place} is no JSON: write one object a line") from None
    if not isinstance(job, dict):
        raise UsageError(f"{place} is no JSON object: write {{...}}")
    return job


def understood(job: dict[str, Any], place: str) -> tuple[Any, list[str]]:
    """(command, arguments) of a job, as they would be on the command line. Raises UsageError."""
    if job.get("command") not in COMMANDS:
        raise UsageError(f"{place}: command {job.get('command')} is none of {', '.join(COMMANDS)}")
    command = commands()[job["command"]]
    ends = job.get("input"), job.get("output")
    if not isinstance(ends[0], str) or not isinstance(ends[1], str | None) or not could_be_name(f"{ends[0]}{ends[1]}"):
        raise UsageError(f"{place}: input and output must be names of files")
    if STDIO in [Path(end) for end in ends if end]:
        raise UsageError(f"{place}: stdin and stdout are for jobs and answers: give names of files")
    if os.path.isdir(ends[0]):
        raise UsageError(f"{place}: {ends[0]} is a folder: a job is one file")
    settings = {parameter.name: parameter for parameter in command.params if parameter.name not in OF_RUNS}
    words = [] if ends[1] is None else [f"--output={ends[1]}"]
    for name, value in job.items():
        if name not in ("id", "command", "input", "output"):
            if name not in settings:
                raise UsageError(f"{place}: {name} is no setting of {command.name}: {', '.join(settings)}")
            words += written(name, value, settings[name], place)
    return command, [*words, "--", ends[0]]


def could_be_name(text: str) -> bool:
    """Whether a file system could hold a name: no null character, no half of a character."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def written(name: str, value: object, parameter: Any, place: str) -> list[str]:
    """A setting as on the command line: nothing for null, a flag for true. Raises UsageError."""
    flag = max(parameter.opts, key=len)
    if value is None:
        return []
    if parameter.is_flag:
        if not isinstance(value, bool):
            raise UsageError(f"{place}: {name} must be true or false")
        return [flag] if value else []
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UsageError(f"{place}: {name} must be a number or a text")
    return [f"{flag}={value}"]
