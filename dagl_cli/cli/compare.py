"""`dagl compare`."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.progress import track
from rich.table import Table
from rich.text import Text

from ..config import MAX_PIXELS
from ..errors import DaglError, UsageError
from .boundary import app, with_flags
from .console import errors, plain, say, stdout
from .options import Json, MaxPixels, Overwrite, Quiet, a_path
from .plan import images_below

if TYPE_CHECKING:
    from ..measuring.compare import Comparison, Pair
    from ..measuring.report import Cell


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", parser=a_path, help="Image or folder.")],
    b: Annotated[
        Path,
        typer.Argument(metavar="B", parser=a_path, help="Another image, or a folder with files of the same names."),
    ],
    reference: Annotated[
        Path | None,
        typer.Option(parser=a_path, help="The clean image or folder: A and B are both measured against it."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", parser=a_path, help="HTML report with a slider and a difference map."),
    ] = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Two images, or two folders of them: PSNR, SSIM, differences, and a report to look at."""
    given = [path for path in (a, b, reference) if path is not None]
    _check_output(output, given, overwrite)
    pairs, problems = _pairs(a, b, reference)
    compared = _measured(pairs, max_pixels, quiet, problems)
    rows = [row for _, row in compared]
    for problem in problems:
        say(f"Error: {problem}", "red")
    notes = [f"{note} ({name})" for note, name in _notes(rows).items()]
    if not quiet:
        for note in notes:
            say(f"Note: {note}", "yellow")
    if as_json:
        print(json.dumps({"images": [asdict(row) for row in rows], "problems": problems}, indent=2, allow_nan=False))
    elif rows:
        _print(rows)
    if output is not None and rows:
        _save(output, given, compared, notes, problems)
        if not quiet:
            say(f"Report: {output}")
    if problems:
        raise typer.Exit(3 if rows else 1)


def _measured(pairs: list[Pair], max_pixels: int, quiet: bool, problems: list[str]) -> list[tuple[Pair, Comparison]]:
    """What could be compared; a line is added to `problems` for the rest. The only pair there is raises its error."""
    from ..measuring.compare import compare as measure

    compared = []
    for pair in track(pairs, console=errors, transient=True, disable=quiet or not errors.is_terminal):
        try:
            compared.append((pair, measure(pair, max_pixels)))
        except MemoryError:
            problems.append(f"{pair.name}: it does not fit into memory: make it smaller")
        except DaglError as error:
            if len(pairs) == 1:
                raise
            problems.append(with_flags(str(error)))
    return compared


def _save(
    output: Path, given: list[Path], compared: list[tuple[Pair, Comparison]], notes: list[str], problems: list[str]
) -> None:
    """The report as a web page."""
    from ..measuring import report
    from ..measuring.compare import pictures, table

    rows = [row for _, row in compared]
    shown, left_out = pictures([pair for pair, _ in compared], rows)
    what = [f"{label}: {path}" for label, path in zip(("A", "B", "Reference"), given)]
    what.append("Differences are in levels of the files' bit depth; a PSNR of ∞ means that the images are identical.")
    page = report.html("Comparison", what + notes + left_out + problems, [table(rows)], pictures=shown)
    report.save(output, page)


def _check_output(output: Path | None, inputs: list[Path], overwrite: bool) -> None:
    """Before the work, not after it."""
    if output is None:
        return
    if output.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"-o {output}: the report is a web page: name it .html")
    if os.path.realpath(output) in map(os.path.realpath, inputs):
        raise UsageError(f"-o {output} is an input and is never overwritten: choose another name")
    if output.is_dir():
        raise UsageError(f"-o {output} is a folder: name a file")
    if not output.parent.is_dir():
        raise UsageError(f"-o {output}: the folder {output.parent} does not exist: create it first")
    if os.path.lexists(output) and not overwrite:
        raise UsageError(f"-o {output} exists: --overwrite replaces it")


def _pairs(a: Path, b: Path, reference: Path | None) -> tuple[list[Pair], list[str]]:
    """What belongs together, and a line for everything that was left over or cannot be read."""
    from ..measuring.compare import Pair, match

    paths = [path for path in (a, b, reference) if path is not None]
    folders = [path for path in paths if path.is_dir()]
    if not folders:
        return [Pair(b.name if a.name == b.name else f"{a.name}, {b.name}", a, b, reference)], []
    if len(folders) < len(paths):
        file = next(path for path in paths if path not in folders)
        what = "a file" if file.exists() else "not there"
        raise UsageError(f"{folders[0]} is a folder and {file} is {what}: give images or folders only")
    found: list[list[Path]] = []
    problems: list[str] = []
    for folder in paths:
        other = next((path for path in paths if path != folder), folder)
        below = images_below(folder, other)  # without those of B where B lies inside A
        found.append([path.relative_to(folder) for path in below.images])
        problems += below.failures.values()
    matched, *alone = match(found[0], found[1])
    for folder, other, lonely in ((a, b, alone[0]), (b, a, alone[1])):
        problems += [f"{folder / path} has no counterpart in {other}: it is left out" for path in lonely]
    pairs = []
    clean = dict(match([x for x, _ in matched], found[2])[0]) if reference else {}
    for x, y in matched:
        if reference and x not in clean:
            problems.append(f"{a / x} has no counterpart in {reference}: it is left out")
        else:
            pairs.append(Pair(str(x), a / x, b / y, reference / clean[x] if reference else None))
    if not pairs:
        raise DaglError(f"{a} and {b} have no images of the same names in common: give folders that mirror each other")
    return pairs, problems


def _notes(rows: list[Comparison]) -> dict[str, str]:
    """Each note once, with the image or the number of images that it is about."""
    about: dict[str, list[str]] = {}
    for row in rows:
        for note in row.notes:
            about.setdefault(note, []).append(row.name)
    return {note: names[0] if len(names) == 1 else f"{len(names)} images" for note, names in about.items()}


def _print(rows: list[Comparison]) -> None:
    """The table, on stdout; for several images with the means. With a reference, some columns are left to --json."""
    from ..measuring.compare import table

    data = table(rows)
    columns = list(zip(data.columns, *data.rows))
    if rows[0].reference:
        columns = [column for column in columns if column[0] != "SSIM" and not str(column[0]).startswith("mean")]
    shown = Table(box=SIMPLE_HEAD, pad_edge=False)
    shown.add_column("image", overflow="fold")
    for title, *_ in columns[1:]:
        shown.add_column(str(title).replace(" ", "\n", 1), justify="right", no_wrap=True)
    for i, row in enumerate(rows, 1):
        shown.add_row(Text(plain(row.name)), *(_cell(column[0], column[i]) for column in columns[1:]))
    if len(rows) > 1:
        shown.add_section()
        shown.add_row("mean", *(_mean(title, values) for title, *values in columns[1:]))
        if len({row.identical for row in rows}) == 2:
            shown.caption = "Mean PSNR: of those that differ."
    stdout().print(shown)


def _mean(column: Cell, values: list[Cell]) -> str:
    numbers = [value for value in values if isinstance(value, float) and math.isfinite(value)]
    return _cell(column, sum(numbers) / len(numbers)) if numbers else ""


def _cell(column: Cell, value: Cell) -> str:
    if value is None:
        return "-"
    if isinstance(value, float) and math.isinf(value):
        return "identical"
    if isinstance(value, int):
        return str(value)
    return f"{value:.4f}" if "SSIM" in str(column) or "mean" in str(column) else f"{value:.2f}"
