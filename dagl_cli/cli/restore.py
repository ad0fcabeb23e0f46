"""`dagl denoise`, `dagl dejpeg`, `dagl demosaic`: files, folders and pipes."""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..errors import DaglError, ImageError, UsageError, WeightsError
from ..files import visible
from . import a_path, app, by_environment, errors, say

if TYPE_CHECKING:
    from ..restoring.restorer import FileRestorer

STDIO = Path("-")


Inputs = Annotated[
    list[Path],
    typer.Argument(
        metavar="IN... [OUT]",
        parser=a_path,
        help="Image, folder, or - for stdin; then the output image or folder. Several inputs: use -o.",
        show_default=False,
    ),
]
Output = Annotated[
    Path | None, typer.Option("-o", "--output", parser=a_path, help="Folder (or, for one input, file) for the results.")
]
Suffix = Annotated[str, typer.Option(help="Added to the name where no output is given.", envvar="DAGL_SUFFIX")]
Model = Annotated[
    str | None,
    typer.Option(
        help="Weight file, bundled or imported name, or hub:OWNER/REPO[@REVISION][:FILE]; default: the best bundled.",
        envvar="DAGL_MODEL",
    ),
]
Offline = Annotated[bool, typer.Option("--offline", envvar="DAGL_OFFLINE", help="Request nothing from the network.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.", envvar="DAGL_DEVICE")]
Precision = Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.", envvar="DAGL_PRECISION")]
Tile = Annotated[str, typer.Option(help="Largest side of the tiles in pixels, or auto.", envvar="DAGL_TILE")]
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
MaxPixels = Annotated[
    int, typer.Option(min=1, help="Refuse larger images (decompression bombs).", envvar="DAGL_MAX_PIXELS")
]
Strip = Annotated[
    bool,
    typer.Option(
        "--strip-metadata", envvar="DAGL_STRIP_METADATA", help="Leave EXIF and resolution out; colours stay exact."
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", envvar="DAGL_OVERWRITE", help="Replace existing outputs (never an input).")
]
Json = Annotated[bool, typer.Option("--json", envvar="DAGL_JSON", help="A JSON report on stdout.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", envvar="DAGL_QUIET", help="No progress, no messages but errors.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]

MAX_PIXELS = 200_000_000


@app.command()
def denoise(
    context: typer.Context,
    paths: Inputs,
    output: Output = None,
    sigma: Annotated[
        float | None,
        typer.Option(help="Noise level, 0-75 on the 0-255 scale; default: estimated.", envvar="DAGL_SIGMA"),
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
    offline: Offline = False,
) -> None:
    """Remove noise: a known level (--sigma), an estimated one, or camera noise (--real)."""
    if real and sigma is not None:
        if not by_environment(context, "sigma"):
            raise UsageError("--real is blind: leave out --sigma, or leave out --real")
        sigma = None
    run(
        context,
        Files(paths, output, suffix, overwrite, as_json, quiet, dry_run),
        dict(task="real" if real else "denoise", model=model, sigma=sigma, strip_metadata=strip_metadata,
             max_pixels=max_pixels),
        dict(device=device, precision=precision, tile=parse_tile(tile), overlap=overlap, ensemble=ensemble,
             strength=strength, offline=offline),
    )  # fmt: skip


@app.command()
def dejpeg(
    context: typer.Context,
    paths: Inputs,
    output: Output = None,
    force: Annotated[bool, typer.Option("--force", help="Restore images without visible JPEG blocks too.")] = False,
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
    offline: Offline = False,
) -> None:
    """Remove JPEG artifacts, at any quality."""
    run(
        context,
        Files(paths, output, suffix, overwrite, as_json, quiet, dry_run),
        dict(task="dejpeg", model=model, force=force, strip_metadata=strip_metadata, max_pixels=max_pixels),
        dict(device=device, precision=precision, tile=parse_tile(tile), overlap=overlap, ensemble=ensemble,
             strength=strength, offline=offline),
    )  # fmt: skip


@app.command()
def demosaic(
    context: typer.Context,
    paths: Inputs,
    output: Output = None,
    pattern: Annotated[
        str,
        typer.Option(
            help="The first two rows from the top left: RGGB, BGGR, GRBG or GBRG. Raw files know theirs.",
            envvar="DAGL_PATTERN",
        ),
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
    offline: Offline = False,
) -> None:
    """Bayer mosaics (one channel, or three with zeros) and camera raw files to RGB."""
    run(
        context,
        Files(paths, output, suffix, overwrite, as_json, quiet, dry_run),
        dict(task="demosaic", model=model, pattern=pattern.upper(), strip_metadata=strip_metadata,
             max_pixels=max_pixels),
        dict(device=device, precision=precision, tile=parse_tile(tile), overlap=overlap, ensemble=ensemble,
             offline=offline),
    )  # fmt: skip


def parse_tile(tile: str) -> int | None:
    if tile == "auto":
        return None
    if not tile.isdecimal():
        raise UsageError(f"--tile {tile} must be a number of pixels or auto")
    return int(tile)


@dataclass
class Files:
    """What to read, where to write, and what to say: the same for every command."""

    paths: list[Path]
    output: Path | None
    suffix: str
    overwrite: bool
    as_json: bool
    quiet: bool
    dry_run: bool


@dataclass
class Job:
    """One file to make."""

    source: Path
    target: Path


@dataclass
class Row:
    """One line of the report."""

    input: str
    output: str | None
    status: str
    """restored, unchanged, skipped (output exists), failed, planned (--dry-run)."""
    seconds: float = 0.0
    sigma: float | None = None
    quality: int | None = None
    model: str | None = None
    message: str | None = None


def plan(paths: list[Path], output: Path | None, suffix: str, raws: bool = False) -> tuple[list[Job], list[Row]]:
    """What to read and where to write, and the folders that cannot be read; results mirror a folder's tree.

    `IN OUT` is a pair when there is no -o. raws: folders are searched for camera raw files too.
    Raises UsageError for an output that is an input, or written twice.
    """
    from .. import images as image

    if output is None and len(paths) > 2:
        raise UsageError("several inputs need -o FOLDER")
    if output is None and len(paths) == 2:
        paths, output = paths[:1], paths[1]
    if os.path.basename(suffix) != suffix:
        raise UsageError(f"--suffix {suffix} must not name a folder: use -o for that")
    several = len(paths) > 1 or os.path.isdir(paths[0])
    if several and output == STDIO:
        raise UsageError("several images cannot go to stdout: give a folder with -o")
    if several and output and not os.path.isdir(output) and (os.path.lexists(output) or image.is_image_path(output)):
        raise UsageError(f"{output} is not a folder: the results of several inputs need one")
    jobs: list[Job] = []
    failed: list[Row] = []
    for path in paths:
        if path == STDIO:
            if several:
                raise UsageError("- (stdin) cannot be mixed with other inputs")
            jobs.append(Job(path, output or STDIO))
        elif os.path.isdir(path):
            named = Path(os.path.realpath(path)) if path.name in ("", "..") else path
            if output is None:
                root = named.parent / (named.name + suffix)
            else:
                root = output / named.name if len(paths) > 1 else output
            sources, unreadable = images_below(path, output or root, raws)
            jobs += [Job(source, root / as_result(source.relative_to(path))) for source in sources]
            failed += unreadable
        elif output is None:
            jobs.append(Job(path, as_result(path.with_name(path.stem + suffix + path.suffix))))
        elif several or os.path.isdir(output) or (output != STDIO and not output.suffix):
            jobs.append(Job(path, output / as_result(path).name))
        else:
            jobs.append(Job(path, output))
    sources_seen = {os.path.realpath(job.source) for job in jobs if job.source != STDIO}
    targets_seen: dict[str, Path] = {}
    for job in jobs:
        if job.target == STDIO:
            continue
        target = os.path.realpath(job.target)
        if target in sources_seen:
            raise UsageError(f"{job.target} is an input and is never overwritten: choose another output or --suffix")
        if target in targets_seen:
            first = targets_seen[target]
            raise UsageError(f"{first} and {job.source} would both become {job.target}: choose other folders")
        targets_seen[target] = job.source
    return jobs, failed


def as_result(path: Path) -> Path:
    """The name of a result where the user gives none: the input's, but raw files become TIFFs."""
    from ..images import raw

    return path.with_suffix(raw.RESULT_SUFFIX) if raw.is_raw_path(path) else path


def images_below(folder: Path, results: Path, raws: bool) -> tuple[list[Path], list[Row]]:
    """Every image below a folder, sorted, and the folders that cannot be read.

    Hidden files are left out, and so are results of an earlier run that lie inside the folder. With `raws`, camera
    raw files are images too, and what lies beside one under the same name (the camera's JPEG) is left out; a second
    raw file of the name, whose result would be the same file, is reported as failed.
    """
    from .. import images as image
    from ..images import raw

    found: list[Path] = []
    unreadable: list[OSError] = []
    twins: list[Row] = []
    for root, names in visible(folder, unreadable.append, os.path.realpath(results)):
        raw_names: list[str] = []
        developed: dict[str, str] = {}
        for name in (n for n in names if raws and raw.is_raw_path(n)):
            if (first := developed.setdefault(Path(name).stem, name)) == name:
                raw_names.append(name)
                continue
            path = Path(root, name)
            message = f"{path}: its result would have the name of that of {first} beside it: give it alone, with a name"
            twins.append(Row(str(path), None, "failed", message=message))
        names = raw_names + [n for n in names if image.is_image_path(n) and Path(n).stem not in developed]
        paths = [Path(root, n) for n in sorted(names)]
        found += [path for path in paths if os.path.isfile(path) or not os.path.exists(path)]  # a pipe would block
    return found, twins + [
        Row(error.filename, None, "failed", message=f"cannot read {error.filename}: {error.strerror}: make it readable")
        for error in unreadable
    ]


def run(context: typer.Context, files: Files, settings: dict[str, Any], options: dict[str, Any]) -> None:
    """Plan, restore file by file, report. Exits with 3 when some files failed, 1 when all did.

    settings and options: arguments of `FileRestorer` and `Options`.
    """
    jobs, rows = plan(files.paths, files.output, files.suffix, raws=settings["task"] == "demosaic")
    if not jobs and not rows:
        raise DaglError(f"{files.paths[0]}: no images in this folder (PNG, JPEG, TIFF, BMP or WebP)")
    if jobs and jobs[0].target == STDIO and files.as_json:
        if not by_environment(context, "as_json"):
            raise UsageError("--json and an image cannot both go to stdout: give an output file")
        files.as_json = False
    from ..restoring.restorer import FileRestorer, Options

    def warn(line: str) -> None:
        if not files.quiet:
            say(f"Note: {line}", "yellow")

    restorer = FileRestorer(**settings, options=Options(**options), warn=warn)
    for row in rows:
        tell(row, files.quiet)
    with Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=errors, transient=True, disable=files.quiet or not errors.is_terminal,
    ) as progress:  # fmt: skip
        batch = progress.add_task("files", total=len(jobs), visible=len(jobs) > 1)
        tiles = progress.add_task("tiles", total=None)

        def show(done: int, total: int) -> None:
            progress.update(tiles, completed=done, total=total)

        for job in jobs:
            progress.reset(tiles, description=job.source.name)
            row = do(job, restorer, files, show)
            rows.append(row)
            tell(row, files.quiet)
            progress.advance(batch)
    finish(rows, files)


def do(job: Job, restorer: FileRestorer, files: Files, show: Callable[[int, int], None]) -> Row:
    """One file. An error of this file becomes its row, so that the batch goes on; flags and weights end the batch."""
    row = Row(str(job.source), str(job.target), "skipped")
    if job.target != STDIO and not files.overwrite and os.path.lexists(job.target):
        return row
    if files.dry_run:
        row.status = "planned"
        if job.source != STDIO and not os.path.isfile(job.source):
            row.status, row.message = "failed", f"cannot read {job.source}: there is no such file"
        return row
    start = time.perf_counter()
    source = sys.stdin.buffer.read() if job.source == STDIO else job.source
    target = io.BytesIO() if job.target == STDIO else job.target
    name = "stdin" if job.source == STDIO else str(job.source)
    try:
        report = restorer(source, target, name=name, overwrite=files.overwrite, progress=show)
        row.status, row.sigma, row.quality = report.status, report.sigma, report.quality
        row.model, row.message = report.model, report.note
    except (UsageError, WeightsError):
        raise
    except ImageError as error:  # names the file
        row.status, row.message = "failed", str(error)
    except DaglError as error:
        row.status, row.message = "failed", f"{name}: {error}"
    except Exception as error:  # a mistake of ours: it must not cost the other files
        text = " ".join(f"{type(error).__name__}: {error}".split())
        row.status, row.message = "failed", f"{name}: {text}: please report this"
    if isinstance(target, io.BytesIO):
        sys.stdout.buffer.write(target.getbuffer())
        sys.stdout.buffer.flush()
    row.seconds = round(time.perf_counter() - start, 3)
    return row


def tell(row: Row, quiet: bool) -> None:
    """One line about one file; failures are told even when quiet."""
    if row.status == "failed":
        say(f"Error: {row.message}", "red")
    elif not quiet:
        say(describe(row))


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


def finish(rows: list[Row], files: Files) -> None:
    statuses = ("restored", "unchanged", "skipped", "failed", "planned")
    counts = {s: n for s in statuses if (n := sum(row.status == s for row in rows))}
    if files.as_json:  # ASCII, so that any file name can be printed anywhere
        print(json.dumps({"counts": counts, "files": [asdict(row) for row in rows]}, indent=2), flush=True)
    elif len(rows) > 1 and not files.quiet:
        say(", ".join(f"{n} {status}" for status, n in counts.items()))
    if failed := counts.get("failed", 0):
        raise typer.Exit(1 if failed == len(rows) else 3)
