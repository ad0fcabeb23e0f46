"""`dagl denoise`, `dagl dejpeg`, `dagl demosaic`: files, folders and pipes."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..errors import DaglError, UsageError
from . import app, errors, say

if TYPE_CHECKING:
    from ..pipeline import FileRestorer

STDIO = Path("-")

Inputs = Annotated[
    list[Path],
    typer.Argument(
        metavar="IN... [OUT]",
        help="Image, folder, or - for stdin; then the output image or folder. Several inputs: use -o.",
        show_default=False,
    ),
]
Output = Annotated[
    Path | None, typer.Option("-o", "--output", help="Folder (or, for one input, file) for the results.")
]
Suffix = Annotated[str, typer.Option(help="Added to the name where no output is given.", envvar="DAGL_SUFFIX")]
Model = Annotated[
    str | None,
    typer.Option(help="Bundled model or weight file; default: the best bundled one.", envvar="DAGL_MODEL"),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.", envvar="DAGL_DEVICE")]
Precision = Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.", envvar="DAGL_PRECISION")]
Tile = Annotated[str, typer.Option(help="Largest side of the tiles in pixels, or auto.", envvar="DAGL_TILE")]
Overlap = Annotated[
    int | None,
    typer.Option(help="Pixels that neighbouring tiles share; default: the model's.", envvar="DAGL_OVERLAP"),
]
Ensemble = Annotated[
    bool, typer.Option("-x", "--ensemble", help="Average over 8 flips and rotations: 8 times slower, a little better.")
]
Strength = Annotated[float, typer.Option(help="0 (input) to 1 (restored).", envvar="DAGL_STRENGTH")]
MaxPixels = Annotated[int, typer.Option(help="Refuse larger images (decompression bombs).", envvar="DAGL_MAX_PIXELS")]
Strip = Annotated[bool, typer.Option("--strip-metadata", help="Leave EXIF and resolution out; colours stay exact.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing outputs (never an input).")]
Json = Annotated[bool, typer.Option("--json", help="A JSON report on stdout.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress, no messages but errors.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]

MAX_PIXELS = 200_000_000


@app.command()
def denoise(
    paths: Inputs,
    output: Output = None,
    sigma: Annotated[
        float | None, typer.Option(help="Noise level, 0-75 on the 0-255 scale; default: estimated for every image.")
    ] = None,
    real: Annotated[bool, typer.Option("--real", help="Camera noise, blind.")] = False,
    suffix: Suffix = "_denoised",
    model: Model = None,
    device: Device = "auto",
    precision: Precision = "auto",
    tile: Tile = "auto",
    overlap: Overlap = None,
    ensemble: Ensemble = False,
    strength: Strength = 1.0,
    max_pixels: MaxPixels = MAX_PIXELS,
    strip_metadata: Strip = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    dry_run: DryRun = False,
) -> None:
    """Remove noise: a known level (--sigma), an estimated one, or camera noise (--real)."""
    if real and sigma is not None:
        raise UsageError("--real is blind: leave out --sigma, or leave out --real")
    run(
        "real" if real else "denoise", paths, output, suffix, overwrite, as_json, quiet, dry_run,
        dict(model=model, sigma=sigma, strip_metadata=strip_metadata, max_pixels=max_pixels),
        dict(device=device, precision=precision, tile=parse_tile(tile), overlap=overlap, ensemble=ensemble,
             strength=strength),
    )  # fmt: skip


@app.command()
def dejpeg(
    paths: Inputs,
    output: Output = None,
    suffix: Suffix = "_dejpeg",
    model: Model = None,
    device: Device = "auto",
    precision: Precision = "auto",
    tile: Tile = "auto",
    overlap: Overlap = None,
    ensemble: Ensemble = False,
    strength: Strength = 1.0,
    max_pixels: MaxPixels = MAX_PIXELS,
    strip_metadata: Strip = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    dry_run: DryRun = False,
) -> None:
    """Remove JPEG artifacts, at any quality."""
    run(
        "dejpeg", paths, output, suffix, overwrite, as_json, quiet, dry_run,
        dict(model=model, strip_metadata=strip_metadata, max_pixels=max_pixels),
        dict(device=device, precision=precision, tile=parse_tile(tile), overlap=overlap, ensemble=ensemble,
             strength=strength),
    )  # fmt: skip


@app.command()
def demosaic(
    paths: Inputs,
    output: Output = None,
    pattern: Annotated[
        str, typer.Option(help="The first two rows from the top left: RGGB, BGGR, GRBG or GBRG.", envvar="DAGL_PATTERN")
    ] = "RGGB",
    suffix: Suffix = "_rgb",
    model: Model = None,
    device: Device = "auto",
    precision: Precision = "auto",
    tile: Tile = "auto",
    overlap: Overlap = None,
    ensemble: Ensemble = False,
    max_pixels: MaxPixels = MAX_PIXELS,
    strip_metadata: Strip = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    dry_run: DryRun = False,
) -> None:
    """Bayer mosaics (one channel, or three with zeros) to RGB."""
    run(
        "demosaic", paths, output, suffix, overwrite, as_json, quiet, dry_run,
        dict(model=model, pattern=pattern.upper(), strip_metadata=strip_metadata, max_pixels=max_pixels),
        dict(device=device, precision=precision, tile=parse_tile(tile), overlap=overlap, ensemble=ensemble),
    )  # fmt: skip


def parse_tile(tile: str) -> int | None:
    if tile == "auto":
        return None
    if not tile.isdecimal():
        raise UsageError(f"--tile {tile} must be a number of pixels or auto")
    return int(tile)


@dataclass
class Job:
    """One file to make."""

    source: Path
    target: Path


@dataclass
class Row:
    """One line of the report."""

    input: str
    output: str
    status: str
    """restored, unchanged, skipped (output exists), failed, planned (--dry-run)."""
    seconds: float = 0.0
    sigma: float | None = None
    quality: int | None = None
    model: str | None = None
    message: str | None = None


def plan(paths: list[Path], output: Path | None, suffix: str) -> list[Job]:
    """What to read and where to write; a folder's results mirror its tree.

    `IN OUT` is a pair when there is no -o. Raises UsageError for an output that is an input, or written twice.
    """
    from .. import image

    paths = list(paths)
    if output is None and len(paths) > 2:
        raise UsageError("several inputs need -o FOLDER")
    if output is None and len(paths) == 2:
        output = paths.pop()
    jobs = []
    several = len(paths) > 1 or paths[0].is_dir()
    if output is not None and several and output != STDIO and output.exists() and not output.is_dir():
        raise UsageError(f"{output} is a file: the results of several inputs need a folder")
    for path in paths:
        if path == STDIO:
            if len(paths) > 1:
                raise UsageError("- (stdin) cannot be mixed with other inputs")
            jobs.append(Job(path, STDIO if output is None else output))
        elif path.is_dir():
            folder = path.resolve()
            root = folder.with_name(folder.name + suffix) if output is None else output
            if len(paths) > 1:
                root = (output or path.parent) / folder.name
            for source in files_below(path, root):
                jobs.append(Job(source, root / source.relative_to(path)))
        elif output is None:
            jobs.append(Job(path, path.with_name(path.stem + suffix + path.suffix)))
        elif several or output.is_dir() or (output != STDIO and not output.suffix and not image.is_image_path(output)):
            jobs.append(Job(path, output / path.name))
        else:
            jobs.append(Job(path, output))
    sources = {job.source.resolve() for job in jobs if job.source != STDIO}
    targets: dict[Path, Path] = {}
    for job in jobs:
        if job.target == STDIO:
            continue
        target = job.target.resolve()
        if target in sources:
            raise UsageError(f"{job.target} is an input and is never overwritten: choose another output or --suffix")
        if target in targets:
            raise UsageError(f"{targets[target]} and {job.source} would both become {job.target}: choose other folders")
        targets[target] = job.source
    return jobs


def files_below(folder: Path, results: Path) -> list[Path]:
    """Every image below a folder, sorted; results of an earlier run that lie inside it are left out.

    Folders that cannot be read are reported and skipped by the caller as failed.
    """
    from .. import image

    found, unreadable = [], []
    inside = results.resolve()
    for root, folders, names in os.walk(folder, onerror=lambda error: unreadable.append(error)):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and (Path(root) / f).resolve() != inside)
        found += [Path(root) / n for n in sorted(names) if not n.startswith(".") and image.is_image_path(Path(n))]
    for error in unreadable:
        say(f"Warning: {error.filename}: {error.strerror}: skipped", "yellow")
    if unreadable and not found:
        raise DaglError(f"{unreadable[0].filename}: {unreadable[0].strerror}: give yourself permission to read it")
    return found


def run(
    task: str,
    paths: list[Path],
    output: Path | None,
    suffix: str,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    dry_run: bool,
    settings: dict[str, Any],
    options: dict[str, Any],
) -> None:
    """Plan, restore file by file, report. Exits with 3 when some files failed, 1 when all did."""
    jobs = plan(paths, output, suffix)
    if not jobs:
        raise DaglError(f"{paths[0]}: no images in this folder (PNG, JPEG, TIFF, BMP or WebP)")
    if jobs[0].target == STDIO and as_json:
        raise UsageError("--json and an image cannot both go to stdout: give an output file")
    from ..pipeline import FileRestorer, Options

    def warn(line: str) -> None:
        if not quiet:
            say(f"Note: {line}", "yellow")

    restorer = FileRestorer(task, options=Options(**options), warn=warn, **settings)
    rows: list[Row] = []
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=errors, transient=True, disable=quiet or not errors.is_terminal,
    ) as progress:  # fmt: skip
        files = progress.add_task("files", total=len(jobs)) if len(jobs) > 1 else None
        tiles = progress.add_task("tiles", total=None)
        for job in jobs:
            progress.reset(tiles, description=job.source.name.replace("[", "\\["))
            row = Row(str(job.source), str(job.target), "planned")
            if not dry_run:
                row = do(
                    job, restorer, overwrite, lambda done, total: progress.update(tiles, completed=done, total=total)
                )
            elif job.target != STDIO and job.target.exists() and not overwrite:
                row.status = "skipped"
            rows.append(row)
            if row.status == "failed":
                say(f"Error: {row.message}", "red")
            elif not quiet:
                say(describe(row))
            if files is not None:
                progress.advance(files)
    finish(rows, as_json, quiet)


def do(job: Job, restorer: FileRestorer, overwrite: bool, tiles: Any) -> Row:
    """One file; an expected error becomes a row, so that the batch goes on. Weights errors end the batch."""
    from ..errors import WeightsError

    row = Row(str(job.source), str(job.target), "skipped")
    if job.target != STDIO and job.target.exists() and not overwrite:
        return row
    start = time.perf_counter()
    try:
        if job.source == STDIO:
            source: Path | bytes = sys.stdin.buffer.read()
        else:
            source = job.source
        if job.target == STDIO:
            target: Any = sys.stdout.buffer
        else:
            target = job.target
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise DaglError(f"{target.parent}: cannot make the folder ({error.strerror})") from None
        report = restorer(
            source, target, name="stdin" if job.source == STDIO else None, overwrite=overwrite, progress=tiles
        )
    except (WeightsError, UsageError) as error:
        if isinstance(error, WeightsError):
            raise
        row.status, row.message = "failed", _named(job, error)
    except DaglError as error:
        row.status, row.message = "failed", _named(job, error)
    else:
        row.status, row.sigma, row.quality = report.status, report.sigma, report.quality
        row.model, row.message = report.model, report.note
    row.seconds = round(time.perf_counter() - start, 3)
    return row


def _named(job: Job, error: DaglError) -> str:
    """The message, with the file's name in front unless it is in it already."""
    text = str(error)
    return text if str(job.source) in text or str(job.target) in text else f"{job.source}: {text}"


def describe(row: Row) -> str:
    details = []
    if row.sigma is not None:
        details.append(f"sigma {row.sigma:.1f} (estimated)")
    if row.quality is not None:
        details.append(f"JPEG quality {row.quality} (estimated)")
    if row.message:
        details.append(row.message)
    if row.status == "skipped":
        details.append("the output exists: --overwrite replaces it")
    if row.seconds:
        details.append(f"{row.seconds:.1f} s")
    return f"{row.input} -> {row.output}: {row.status}" + (f" ({'; '.join(details)})" if details else "")


def finish(rows: list[Row], as_json: bool, quiet: bool) -> None:
    statuses = ("restored", "unchanged", "skipped", "failed", "planned")
    counts = {s: n for s in statuses if (n := sum(row.status == s for row in rows))}
    if as_json:
        print(json.dumps({"counts": counts, "files": [asdict(row) for row in rows]}, ensure_ascii=False, indent=2))
    elif len(rows) > 1 and not quiet:
        say(", ".join(f"{n} {status}" for status, n in counts.items()))
    failed = counts.get("failed", 0)
    if failed:
        raise typer.Exit(1 if failed == len(rows) else 3)
