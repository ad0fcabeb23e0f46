"""`dagl datasets`: the paper's test sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from ..errors import DaglError
from ..measuring import datasets
from .boundary import app, group, with_flags
from .completion import among
from .console import errors, plain, say, stdout
from .options import Json, Quiet, a_path

commands = group("The paper's test sets, checked against their SHA-256.")
app.add_typer(commands, name="datasets")

Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NAME]...", help="Sets; default: all.", show_default=False, autocompletion=among(datasets.DATASETS)
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


@commands.command("list")
def list_sets(data_dir: DataDir = None, as_json: Json = False) -> None:
    """The sets, where they come from, and which are here."""
    folder = data_dir or datasets.default_folder()
    rows: list[dict[str, Any]] = [
        {
            "name": entry.name, "images": len(entry.samples), "channels": entry.channels, "note": entry.note,
            "bytes": sum(file.bytes for file in entry.files), "repository": entry.repository, "commit": entry.commit,
            "files": len(entry.files),
            "here": sum((folder / entry.name / file.path).is_file() for file in entry.files),
        }
        for entry in datasets.DATASETS.values()
    ]  # fmt: skip
    if as_json:
        print(json.dumps({"folder": str(folder), "datasets": rows}, indent=2))
        return
    table = Table("name", "MB", "here", "what", "from", caption=str(folder))
    for row in rows:
        here = {0: "no", row["files"]: "yes"}.get(row["here"], "in part")
        table.add_row(row["name"], f"{row['bytes'] / 1e6:.0f}", here, row["note"], row["repository"])
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
    for entry in [datasets.dataset(name, "name") for name in names or datasets.DATASETS]:
        try:
            fetch(entry, folder, None, quiet)
        except DaglError as error:
            say(f"Error: {with_flags(str(error))}", "red")
            incomplete = error
        else:
            if not quiet:
                say(f"{entry.name}: {len(entry.files)} files, complete in {folder / entry.name}")
    if incomplete:
        raise typer.Exit(incomplete.exit_code)


@commands.command()
def verify(names: Names = None, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Check every file of the named sets, or of all that are here; exits with 1 if one is missing or damaged."""
    folder = data_dir or datasets.default_folder()
    entries = [datasets.dataset(name, "name") for name in names or datasets.DATASETS]
    states = {
        entry.name: datasets.verify(entry, folder) for entry in entries if names or (folder / entry.name).is_dir()
    }
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
        sets = " ".join(dict.fromkeys(path.partition("/")[0] for path in bad))
        where = f" --data-dir {data_dir}" if data_dir else ""
        raise DaglError(f"{len(bad)} files are missing or damaged: `dagl datasets download {sets}{where}` fetches them")


def note(states: dict[str, str]) -> str:
    counts = {kind: list(states.values()).count(kind) for kind in ("missing", "damaged")}
    return ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
