"""`dagl datasets`: the paper's test sets, and photographs to train on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Column, Table

from ..errors import DaglError, unknown
from ..measuring import datasets
from ..training import library
from .boundary import app, group, with_flags
from .completion import among
from .console import errors, plain, say, stdout
from .options import Json, Quiet, a_path

commands = group("The paper's test sets and photographs to train on, checked against their SHA-256.")
app.add_typer(commands, name="datasets")

Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NAME]...",
        help="Sets; default: all test sets.",
        show_default=False,
        autocompletion=among(datasets.DATASETS | library.SETS),
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        parser=a_path,
        help="Folder that holds the sets' folders; default: dagl/datasets in the user's cache folder.",
        envvar="DAGL_DATA_DIR",
        show_default=False,
    ),
]


def fetch(entry: datasets.Dataset, folder: Path, files: tuple[datasets.File, ...] | None, quiet: bool) -> None:
    """Download with a progress bar and one line for each failure. Raises DaglError if anything is still missing."""
    files = files or entry.files
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=errors, transient=True, disable=quiet or not errors.is_terminal) as bar:
        task = bar.add_task(plain(entry.name), total=sum(file.bytes for file in files))
        failures = datasets.download(entry, folder, files, lambda count: bar.advance(task, count))
    for line in failures:
        say(with_flags(line), "red")
    if failures:
        raise DaglError(f"{entry.name} is incomplete in {folder}: what was fetched is kept, see above for the rest")


def fetch_photographs(entry: datasets.Dataset, folder: Path, quiet: bool) -> Path:
    """A set to train on, whole; returns the folder of its pictures. Raises DaglError."""
    if files := library.wanted(entry, folder):
        fetch(entry, folder, files, quiet)
    return library.photographs(entry, folder)


def every_set() -> dict[str, datasets.Dataset]:
    """Those that are measured on, then those that are trained on."""
    return datasets.DATASETS | library.SETS


def chosen(names: list[str] | None) -> list[datasets.Dataset]:
    """The named sets, or all that are measured on. Raises UsageError."""
    sets = every_set()
    if wrong := next((name for name in names or () if name not in sets), None):
        raise unknown("name", wrong, sets)
    return [sets[name] for name in dict.fromkeys(names or datasets.DATASETS)]


@commands.command("list")
def list_sets(data_dir: DataDir = None, as_json: Json = False) -> None:
    """The sets, where they come from, and which are here; those to train on last."""
    folder = data_dir or datasets.default_folder()
    rows: list[dict[str, Any]] = []
    for entry in every_set().values():
        wanted = library.wanted(entry, folder)
        training = entry.name in library.SETS
        missing = sum(not (folder / entry.name / file.path).is_file() for file in wanted)
        rows.append(
            {
                "name": entry.name, "for": "training" if training else "tests",
                "images": library.count(entry) if training else len(entry.samples), "channels": entry.channels,
                "note": entry.note,
                "bytes": sum(file.bytes for file in entry.files), "repository": entry.repository,
                "commit": entry.commit, "files": len(entry.files), "here": len(entry.files) - missing,
            }
        )  # fmt: skip
    if as_json:
        print(json.dumps({"folder": str(folder), "datasets": rows}, indent=2))
        return
    columns = (Column(title, overflow="fold") for title in ("name", "for", "MB", "here", "what", "from"))
    table = Table(*columns, caption=str(folder))
    for row in rows:
        here = {0: "no", row["files"]: "yes"}.get(row["here"], "in part")
        table.add_row(
            row["name"], row["for"], f"{row['bytes'] / 1e6:.0f}", here, row["note"], row["repository"],
        )  # fmt: skip
    stdout().print(table)


@commands.command()
def download(
    names: Names = None,
    data_dir: DataDir = None,
    quiet: Quiet = False,
) -> None:
    """Fetch what is missing or damaged; what is complete is not requested again.

    DAGL_DATASETS_URL takes the place of https://raw.githubusercontent.com (a mirror with the same paths).
    """
    folder = data_dir or datasets.default_folder()
    incomplete = None
    for entry in chosen(names):
        try:
            fetch_photographs(entry, folder, quiet)
        except DaglError as error:
            say(f"Error: {with_flags(str(error))}", "red")
            incomplete = error
        else:
            if not quiet:
                say(f"{entry.name}: complete in {folder / entry.name}")
    if incomplete:
        raise typer.Exit(incomplete.exit_code)


@commands.command()
def verify(names: Names = None, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Check every file of the named sets, or of all that are here; exits with 1 if one is missing or damaged."""
    folder = data_dir or datasets.default_folder()
    sets = chosen(names) if names else [s for s in every_set().values() if (folder / s.name).is_dir()]
    states = {entry.name: library.verify(entry, folder) for entry in sets}
    if not states:
        raise DaglError(f"{folder} holds none of the sets: `dagl datasets download` fetches them")
    bad = {f"{name}/{path}": state for name, found in states.items() for path, state in found.items() if state != "ok"}
    if as_json:
        print(json.dumps(states, indent=2))
    for name, found in states.items():
        good = sum(state == "ok" for state in found.values())
        say(f"{name}: {good} of {len(found)} files as published" + (f" ({note(found)})" if good < len(found) else ""))
    for path, state in bad.items():
        say(f"{folder / path}: {state}", "red")
    if bad:
        named = " ".join(dict.fromkeys(path.partition("/")[0] for path in bad))
        where = f" --data-dir {data_dir}" if data_dir else ""
        raise DaglError(
            f"{len(bad)} files are missing or damaged: `dagl datasets download {named}{where}` fetches them"
        )


def note(states: dict[str, str]) -> str:
    counts = {kind: list(states.values()).count(kind) for kind in ("missing", "damaged")}
    return ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
