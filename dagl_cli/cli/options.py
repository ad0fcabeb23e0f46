"""What the commands take, declared once: single options, and tables of those that belong together.

A command takes a table as one parameter; `flat` makes options of its fields. So a flag for all commands that restore
is one line in `Restoring`, or in `config.Options` and `Running` where it is about how a network runs.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from ..config import BACKENDS, DEVICES, MAX_PIXELS, PRECISIONS
from ..config import Options as RunOptions
from .completion import among, formats, models

STDIO = Path("-")
ADDRESS = re.compile(r"auto|local|[^/\s]+:\d+")
"""What follows `--ray` and is not taken for a file."""


def a_path(text: str) -> Path:
    """Refuses the empty name, which a script's unset variable gives and which would mean the current folder."""
    if not text:
        raise typer.BadParameter("a name is empty; write . for the current folder")
    return Path(text)


def a_tile(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal():
        raise typer.BadParameter(f"{text} must be a number of pixels or auto")
    return int(text)


@dataclass(frozen=True)
class Shard:
    """One of `count` parts that a run's files fall into, by their names alone: a new file moves no other.

    index: from 1.
    """

    index: int
    count: int

    def holds(self, name: Path) -> bool:
        """name: the file's path below the folder that was given, the same on every machine."""
        digest = hashlib.blake2b(os.fsencode(name.as_posix()), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.count == self.index - 1


def a_shard(text: str) -> Shard:
    parts = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if not parts or not 1 <= int(parts[1]) <= int(parts[2]):
        raise typer.BadParameter(f"{text} is no part of the files: write I/N, from 1/N to N/N")
    return Shard(int(parts[1]), int(parts[2]))


def an_address(text: str) -> str:
    if not ADDRESS.fullmatch(text):
        raise typer.BadParameter(f"{text} is no address of a Ray cluster: write HOST:PORT, auto or local")
    return text


def with_address(arguments: list[str]) -> list[str]:
    """A bare `--ray` gets the address that it stands for; Typer knows no options whose value may be left out."""
    full = []
    for argument, following in zip(arguments, [*arguments[1:], ""]):
        full.append(argument)
        address = ADDRESS.fullmatch(following) or following.startswith("ray://")  # the latter is refused as one
        if argument == "--ray" and (following.startswith("-") or not address):
            full.append("auto")
    return full


def by_environment(context: typer.Context, name: str) -> bool:
    """Whether a parameter has its value from a DAGL_* variable: a default, which gives way where it does not fit."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "ENVIRONMENT"


Inputs = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="IN... [OUT]",
        parser=a_path,
        help="Image, folder, pattern, or - for stdin; then the output image or folder. Several inputs: use -o.",
        show_default=False,
    ),
]
Output = Annotated[
    Path | None, typer.Option("-o", "--output", parser=a_path, help="Folder (or, for one input, file) for the results.")
]
Suffix = Annotated[str, typer.Option(help="Added to the name where no output is given.", envvar="DAGL_SUFFIX")]
Name = Annotated[
    str | None,
    typer.Option(
        "--name",
        metavar="PATTERN",
        help="Name of each result, instead of a suffix: '{stem}_dn{sigma}{suffix}'. Fields: {stem} of the input; "
        "{suffix}, the result's ending; {folder}, where the input lies; {sigma}, as given ({sigma:02.0f} is possible).",
    ),
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="ENDING",
        help="Format of the results, on stdout too: png, jpg, tif ...; default: as input.",
        autocompletion=formats,
    ),
]
Include = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN",
        help="Only files that it fits: '*.jpg'; with a slash, paths below the folder: '2024/*'. Case does not matter. "
        "May be given again.",
        show_default=False,
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN", help="Leave out files and folders that it fits. May be given again.", show_default=False
    ),
]
FilesFrom = Annotated[
    Path | None,
    typer.Option(
        parser=a_path,
        metavar="LIST|-",
        help="Read the inputs from a file or stdin: one a line, or with a null character behind each (find -print0).",
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        help="Weight file, bundled or imported name, or hub:OWNER/REPO[@REVISION][:FILE]; default: the best bundled.",
        envvar="DAGL_MODEL",
        autocompletion=models,
    ),
]
Offline = Annotated[bool, typer.Option("--offline", envvar="DAGL_OFFLINE", help="Request nothing from the network.")]
Device = Annotated[
    str,
    typer.Option(
        help="auto, cpu, cuda, cuda:N or mps; cuda:0,1 or all share a folder.", envvar="DAGL_DEVICE",
        autocompletion=among(DEVICES),
    ),
]  # fmt: skip
Precision = Annotated[
    str,
    typer.Option(help="auto, fp32, bf16 or fp16.", envvar="DAGL_PRECISION", autocompletion=among(PRECISIONS)),
]
Backend = Annotated[
    str,
    typer.Option(
        help="What runs the network: auto, torch, or on CPUs openvino (needs dagl[openvino]).",
        envvar="DAGL_BACKEND", autocompletion=among(BACKENDS),
    ),
]  # fmt: skip
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads; default: one for each core.", envvar="DAGL_THREADS")
]
Tile = Annotated[
    int | None,
    typer.Option(
        parser=a_tile, help="Largest side of the tiles in pixels, or auto.", envvar="DAGL_TILE", metavar="N|auto",
        show_default=False,
    ),
]  # fmt: skip
Overlap = Annotated[
    int | None,
    typer.Option(help="Pixels that neighbouring tiles share; default: the model's.", envvar="DAGL_OVERLAP"),
]
Ensemble = Annotated[
    bool,
    typer.Option(
        "-x",
        "--ensemble",
        envvar="DAGL_ENSEMBLE",
        help="Average over 8 flips and rotations: 8 times slower, a little better.",
    ),
]
Strength = Annotated[float, typer.Option(help="0 (input) to 1 (restored).", envvar="DAGL_STRENGTH")]
Luma = Annotated[float, typer.Option(help="How much is done to the brightness (grain), 0 to 1.", envvar="DAGL_LUMA")]
Chroma = Annotated[
    float, typer.Option(help="How much is done to the colours (blotches), 0 to 1.", envvar="DAGL_CHROMA")
]
MaxPixels = Annotated[
    int, typer.Option(min=1, help="Refuse larger images (decompression bombs).", envvar="DAGL_MAX_PIXELS")
]
Strip = Annotated[
    bool,
    typer.Option(
        "--strip-metadata",
        envvar="DAGL_STRIP_METADATA",
        help="Leave EXIF, resolution and record out; colours stay.",
    ),
]
PageList = Annotated[
    str | None,
    typer.Option(
        "--pages", metavar="LIST", help="Of stacks, animations and videos only these: 3, 1-10, 1-3,7 or 5-.",
        show_default=False,
    ),
]  # fmt: skip
Overwrite = Annotated[
    bool, typer.Option("--overwrite", envvar="DAGL_OVERWRITE", help="Replace existing outputs (never an input).")
]
Json = Annotated[bool, typer.Option("--json", envvar="DAGL_JSON", help="A JSON report on stdout.")]
JsonLines = Annotated[
    bool, typer.Option("--json-lines", help="A JSON object on stdout for every file, as soon as it is finished.")
]
Report = Annotated[
    Path | None,
    typer.Option(
        "--report",
        parser=a_path,
        metavar="FILE.html",
        help="Write a page with inputs and results under a slider: of all files a table, of those that changed most "
        "pictures.",
    ),
]
LogFile = Annotated[
    Path | None,
    typer.Option(
        "--log", parser=a_path, metavar="FILE", help="Add all messages to this file, with their time; --quiet ones too."
    ),
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", envvar="DAGL_QUIET", help="No progress, no messages but errors.")]
Sharded = Annotated[
    Shard | None,
    typer.Option(
        "--shard", parser=a_shard, metavar="I/N", envvar="DAGL_SHARD", show_default=False,
        help="Only the I-th of N parts of the files, by a hash of their names: for job arrays on many machines.",
    ),
]  # fmt: skip
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray", parser=an_address, metavar="[ADDRESS]", envvar="DAGL_RAY", show_default=False,
        help="On the machines of a Ray cluster: HOST:PORT, auto (default: the running one) or local. Needs dagl[ray].",
    ),
]  # fmt: skip
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]


@dataclass(frozen=True)
class Running:
    """How a network runs: of every command that runs one. The fields are those of `config.Options`."""

    device: Device = "auto"
    precision: Precision = "auto"
    backend: Backend = "auto"
    threads: Threads = None
    tile: Tile = None
    overlap: Overlap = None
    ensemble: Ensemble = False
    offline: Offline = False

    def options(self, **more: Any) -> RunOptions:
        """Raises UsageError for what makes no sense."""
        return RunOptions(**{field.name: getattr(self, field.name) for field in fields(Running)}, **more)


@dataclass(frozen=True)
class Restoring(Running):
    """Of every command that restores files."""

    name: Name = None
    format: Format = None
    include: Include = None
    exclude: Exclude = None
    files_from: FilesFrom = None
    model: Model = None
    max_pixels: MaxPixels = MAX_PIXELS
    strip_metadata: Strip = False
    pages: PageList = None
    overwrite: Overwrite = False
    as_json: Json = False
    json_lines: JsonLines = False
    report: Report = None
    log: LogFile = None
    quiet: Quiet = False
    dry_run: DryRun = False
    shard: Sharded = None
    ray: Ray = None


def flat(command: Callable[..., None]) -> Callable[..., None]:
    """The command as Typer wants it: a parameter that is a table becomes an option for each of the table's fields."""
    hints = get_type_hints(command, include_extras=True)
    tables = {name: table for name, table in hints.items() if is_dataclass(table)}
    own = [p.replace(annotation=hints[name]) for name, p in inspect.signature(command).parameters.items()]
    parameters = [parameter for parameter in own if parameter.name not in tables]
    for table in tables.values():
        kinds = get_type_hints(table, include_extras=True)
        parameters += [
            inspect.Parameter(
                f.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=f.default, annotation=kinds[f.name]
            )
            for f in fields(table)
        ]

    def run(**given: Any) -> None:
        for name, table in tables.items():
            given[name] = table(**{f.name: given.pop(f.name) for f in fields(table)})  # type: ignore[operator]
        command(**given)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run
