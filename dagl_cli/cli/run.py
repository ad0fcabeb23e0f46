"""What the restoring commands share: plan, restore file by file, report."""

from __future__ import annotations

import io
import json
import re
import sys
from mimetypes import guess_type
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from ..config import Options
from ..errors import DaglError, UsageError
from .boundary import CommandLineError, flags, with_flags
from .console import bars, plain, say
from .inputs import Filter, listed
from .naming import Naming, format_of
from .options import STDIO, Restoring, by_environment
from .plan import Plan, plan

if TYPE_CHECKING:
    from ..restoring.batch import Job
    from ..restoring.picture import Outcome

STATUSES = ("restored", "unchanged", "skipped", "partial", "failed", "planned")


def run(
    context: typer.Context,
    paths: list[Path] | None,
    output: Path | None,
    suffix: str,
    restoring: Restoring,
    options: Options,
    **settings: Any,
) -> None:
    """Plan, restore file by file, report. Exits with 3 when some files failed, 1 when all did.

    settings: those arguments of `FileRestorer` that are the command's own.
    """
    from ..images import NAMES

    given = inputs(context, paths, restoring)
    planned = plan(
        given,
        output,
        Naming(suffix, restoring.name, restoring.format, settings.get("sigma")),
        only=Filter(restoring.include or (), restoring.exclude or ()),
        raws=settings["task"] in ("demosaic", "restore"),
        overwrite=restoring.overwrite,
        from_list=restoring.files_from is not None,
    )
    left_out = [said_left_out(why, names) for why, names in planned.left_out.items()]
    if not planned.files and not planned.failures:
        what = f"no images in this folder ({NAMES})"
        raise DaglError("; ".join([f"{given[0]}: {what}", *left_out]))
    shard = restoring.shard
    if shard and STDIO in given:
        if not by_environment(context, "shard"):
            raise UsageError("--shard deals out files by their names: - (stdin, stdout) has none")
        shard = None
    if shard:
        planned = planned.part(shard, given)
        left_out = [said_left_out(why, names) for why, names in planned.left_out.items()]
    as_json = restoring.as_json
    if as_json and STDIO in (target for _, target in planned.files):
        if not by_environment(context, "as_json"):
            raise UsageError("--json and an image cannot both go to stdout: give an output file")
        as_json = False
    rows: list[dict[str, Any]] = []
    stopped: str | None = None
    try:
        restore(planned, restoring, options, settings | {"command": as_recorded(context)}, rows)
    except (DaglError, KeyboardInterrupt) as stop:
        stopped = with_flags(str(stop)) or "interrupted"
        raise
    finally:
        if as_json:
            print_report(rows, planned.left_out, stopped)
    if not as_json and not restoring.quiet:
        for line in left_out:
            say(f"Left out: {with_flags(line)}", "yellow")
        if shard and not rows:
            say(f"None of the files is in shard {shard.index}/{shard.count}.")
        if len(rows) > 1:
            say(", ".join(f"{n} {status}" for status, n in counts(rows).items()))
    number = counts(rows)
    if "failed" in number or "partial" in number:
        raise typer.Exit(1 if number.get("failed") == len(rows) else 3)


def inputs(context: typer.Context, paths: list[Path] | None, restoring: Restoring) -> list[Path]:
    """Those of the command line, or of the list that it names. Raises UsageError for none or both."""
    if restoring.files_from is None:
        if not paths:
            raise CommandLineError("Missing argument 'IN... [OUT]'", ctx=context)
        return paths
    if paths:
        raise UsageError(f"--files-from has all inputs, and {paths[0]} is one more: give the results' folder with -o")
    return listed(restoring.files_from)


RECORDED = (
    "sigma", "real", "pattern", "force", "denoise", "strength", "luma", "chroma", "ensemble", "tile", "overlap",
    "precision",
)  # fmt: skip
"""What of a command line shapes pixels, and names no file and nobody."""


def as_recorded(context: typer.Context) -> str:
    """The command as results say it: 'dagl denoise --sigma 25'."""
    words = ["dagl", str(context.command.name)]
    for name, value in context.params.items():
        source = context.get_parameter_source(name)
        if name in RECORDED and value not in (None, False) and source and source.name != "DEFAULT":
            words.append(flags(context.command.name).get(name, name))
            words += [] if value is True else [f"{value:g}" if isinstance(value, float) else str(value)]
    return " ".join(words)


def restore(
    planned: Plan, restoring: Restoring, options: Options, settings: dict[str, Any], rows: list[dict[str, Any]]
) -> None:
    """Restores what was planned, tells of each file, and adds its row to the report."""
    from ..restoring.batch import Batch
    from ..restoring.file import FileRestorer

    def warn(line: str) -> None:
        if not restoring.quiet:
            say(f"Note: {with_flags(line)}", "yellow")

    restorer = FileRestorer(
        **settings,
        model=restoring.model,
        options=options,
        stream_format=format_of(restoring.format) if restoring.format else None,
        strip_metadata=restoring.strip_metadata,
        max_pixels=restoring.max_pixels,
        pages=restoring.pages,
        warn=warn,
    )
    batch = Batch(
        restorer,
        [opened(source, target) for source, target in planned.files],
        overwrite=restoring.overwrite,
        dry_run=restoring.dry_run,
    )
    for path, why in planned.failures.items():
        rows.append(row(path, None, status="failed", note=why))
        tell(rows[-1], restoring.quiet)
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with bars(*columns, quiet=restoring.quiet) as progress:
        files = progress.add_task("files", total=len(batch.jobs), visible=len(batch.jobs) > 1)
        tiles = progress.add_task("tiles", total=None)
        for job, outcome in batch.run(
            begin=lambda job: progress.reset(tiles, description=plain(Path(job.name).name)),
            progress=lambda done, total: progress.update(tiles, completed=done, total=total),
        ):
            rows.append(closed(job, outcome))
            tell(rows[-1], restoring.quiet)
            progress.advance(files)


def opened(source: Path, target: Path) -> Job:
    """A planned file, with a stream for stdin and room for what goes to stdout."""
    from ..restoring.batch import Job

    return Job(
        source=sys.stdin.buffer if source == STDIO else source,
        target=io.BytesIO() if target == STDIO else target,
        name="stdin" if source == STDIO else str(source),
    )


def closed(job: Job, outcome: Outcome) -> dict[str, Any]:
    """The row of the report, with what is for stdout written there."""
    if isinstance(job.target, io.BytesIO):
        sys.stdout.buffer.write(job.target.getbuffer())
        sys.stdout.buffer.flush()
    source, target = (str(end) if isinstance(end, Path) else str(STDIO) for end in (job.source, job.target))
    return row(source, target, **vars(outcome))


def row(
    source: str,
    target: str | None,
    *,
    status: str,
    seconds: float = 0.0,
    sigma: float | None = None,
    quality: int | None = None,
    model: str | None = None,
    digest: str | None = None,
    precision: str | None = None,
    note: str | None = None,
) -> dict[str, Any]:
    """One file in the report, as it goes to --json."""
    return {
        "input": source, "output": target, "status": status, "seconds": seconds, "sigma": sigma, "quality": quality,
        "model": model, "precision": precision, "sha256": digest, "message": with_flags(note) if note else None,
    }  # fmt: skip


def tell(row: dict[str, Any], quiet: bool) -> None:
    """One line about one file; failures are told even when quiet."""
    if row["status"] == "failed":
        say(f"Error: {row['message']}", "red")
    elif row["status"] == "partial":
        say(f"Error: {describe(row)}", "red")
    elif not quiet:
        say(describe(row))


def describe(row: dict[str, Any]) -> str:
    details = []
    if row["sigma"] is not None:
        details.append(f"sigma {row['sigma']:.1f} (estimated)")
    if row["quality"] is not None:
        details.append(f"JPEG quality {row['quality']} (estimated)")
    if row["message"]:
        details.append(row["message"])
    if row["seconds"]:
        details.append(f"{row['seconds']:.1f} s")
    return f"{row['input']} -> {row['output']}: {row['status']}" + (f" ({'; '.join(details)})" if details else "")


def counts(rows: list[dict[str, Any]]) -> dict[str, int]:
    return {status: n for status in STATUSES if (n := sum(row["status"] == status for row in rows))}


def said_left_out(why: str, names: list[str]) -> str:
    """What was passed over, with one for example: a picture or a film, if there is one."""
    example = next((name for name in names if (guess_type(name)[0] or "").startswith(("image", "video"))), names[0])
    kind = why if len(names) > 1 else re.sub(r"s\b", "", why, count=1)  # the noun is the first plural
    return f"{len(names)} {kind}, such as {example}"


def print_report(rows: list[dict[str, Any]], left_out: dict[str, list[str]], stopped: str | None) -> None:
    """The JSON report on stdout. It is ASCII, so that any file name can be printed anywhere."""
    report: dict[str, Any] = {"counts": counts(rows), "files": rows}
    report["left_out"] = [
        {"why": with_flags(why), "count": len(names), "files": names} for why, names in left_out.items()
    ]
    if stopped:
        report["stopped"] = stopped
    print(json.dumps(report, indent=2), flush=True)
