"""What the restoring commands share: plan, restore file by file, report."""

from __future__ import annotations

import io
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .. import __version__
from ..cluster.places import shown, uri
from ..config import Options, is_of_mosaics
from ..errors import DaglError, UsageError
from .account import Account, Row, counts, row_of, said_left_out, summary
from .boundary import CommandLineError, flags, with_flags
from .console import logged, say
from .inputs import Filter, listed
from .naming import Naming, format_of
from .options import STDIO, Restoring, by_environment
from .plan import Plan, is_readable, plan
from .progress import Progress

if TYPE_CHECKING:
    from ..measuring.gallery import Gallery
    from ..restoring.batch import Job
    from ..restoring.picture import Outcome
    from ..restoring.restorer import Kept


@dataclass
class Service:
    """What `dagl serve` keeps from job to job; it is the context's object. None otherwise."""

    networks: Kept = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    """Of the job at work: one, when it has ended well."""


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
    if (far := next((end for end in (*given, output) if end and uri(end)), None)) and not restoring.ray:
        raise UsageError(f"{uri(far)} is not on this machine: --ray reads and writes it")
    planned = plan(
        given,
        output,
        Naming(suffix, restoring.name, restoring.format, settings.get("sigma")),
        only=Filter(restoring.include or (), restoring.exclude or ()),
        raws=settings["task"] == "restore" or is_of_mosaics(settings["task"]),
        overwrite=restoring.overwrite,
        from_list=restoring.files_from is not None,
    )
    if not planned.files and not planned.failures:
        what = f"no images in this folder ({NAMES})"
        left_out = [said_left_out(why, names) for why, names in planned.left_out.items()]
        raise DaglError("; ".join([f"{given[0]}: {what}", *left_out]))
    shard, ray = (for_files(context, name, getattr(restoring, name), given) for name in ("shard", "ray"))
    if shard:
        planned = planned.part(shard, given)
    if isinstance(context.obj, Service) and len(planned.files) + len(planned.failures) != 1:
        raise UsageError(f"{given[0]}: a job is one file: give one for each")
    account = account_of(context, planned, restoring)
    if restoring.log:
        check_free("--log", restoring.log, planned)
    gallery = gallery_of(restoring, planned)
    with logged(restoring.log):
        say(f"dagl {__version__}: {shlex.join(sys.argv[1:])}", quiet=True)
        try:
            settings["command"] = as_recorded(context)
            restore(context.obj, planned, restoring, ray, options, settings, account, gallery)
        except (DaglError, KeyboardInterrupt) as stop:
            why = with_flags(str(stop)) or "interrupted"
            say(f"Stopped: {why}", quiet=True)
            account.end(why, quiet=isinstance(stop, DaglError))
            save_report(restoring.report, gallery, account)
            raise
        reported = save_report(restoring.report, gallery, account)
        account.end()
        if shard and not account.rows:
            say(f"None of the files is in shard {shard.index}/{shard.count}.", quiet=restoring.quiet)
    number = counts(account.rows)
    if "failed" in number or "partial" in number:
        raise typer.Exit(1 if number.get("failed") == len(account.rows) else 3)
    if not reported:
        raise typer.Exit(1)


def account_of(context: typer.Context, planned: Plan, restoring: Restoring) -> Account:
    """Raises UsageError where two things would go to stdout."""
    if isinstance(context.obj, Service):
        return Account(planned.left_out, quiet=True, rows=context.obj.rows)
    as_json = restoring.as_json
    if restoring.json_lines and as_json and not by_environment(context, "as_json"):
        raise UsageError("--json and --json-lines cannot both go to stdout: leave one out")
    as_json = as_json and not restoring.json_lines
    if STDIO in (target for _, target in planned.files):
        if restoring.json_lines or (as_json and not by_environment(context, "as_json")):
            flag = "--json-lines" if restoring.json_lines else "--json"
            raise UsageError(f"{flag} and an image cannot both go to stdout: give an output file")
        as_json = False
    return Account(planned.left_out, restoring.quiet, as_json, restoring.json_lines)


def check_free(flag: str, path: Path, planned: Plan) -> None:
    """Raises UsageError for a file that is to be written beside the results, but is something else."""
    from ..images.raw import is_raw_path

    taken = {os.path.realpath(end) for pair in planned.files for end in pair if end != STDIO}
    if os.path.realpath(path) in taken or is_readable(path) or is_raw_path(path):
        raise UsageError(f"{flag} {path} is the name of a picture: choose another")
    if path == STDIO or path.is_dir():
        raise UsageError(f"{flag} {path} is {'stdout' if path == STDIO else 'a folder'}: name a file")
    if not path.parent.is_dir():
        raise UsageError(f"{flag} {path}: the folder {path.parent} does not exist: create it first")


def gallery_of(restoring: Restoring, planned: Plan) -> Gallery | None:
    """Raises UsageError, before the work, for a report that cannot be."""
    if restoring.report is None:
        return None
    from ..measuring.gallery import Gallery
    from ..measuring.report import is_report

    check_free("--report", restoring.report, planned)
    if restoring.dry_run:
        raise UsageError("--report shows results, and --dry-run makes none: leave one out")
    if restoring.report.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--report {restoring.report}: the report is a web page: name it .html")
    if os.path.lexists(restoring.report) and not is_report(restoring.report):
        raise UsageError(f"--report {restoring.report} exists and is no report of dagl: choose another name")
    return Gallery(restoring.max_pixels, restoring.pages)


def save_report(path: Path | None, gallery: Gallery | None, account: Account) -> bool:
    """False, and a line, where it cannot be written: the results are there, and are told of all the same."""
    if not (path and gallery and account.rows):
        return True
    from ..measuring.report import save

    notes = [line for line, _ in summary(account.rows, account.left_out)]
    try:
        save(path, gallery.page("Before and after", notes, account.rows))
    except DaglError as error:
        say(f"Error: the report: {with_flags(str(error))}", "red")
        return False
    say(f"Report: {path}", quiet=account.quiet)
    return True


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
    "precision", "backend",
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


def for_files(context: typer.Context, name: str, value: Any, paths: list[Path]) -> Any:
    """The value of a flag that streams cannot go with: it gives way if it is a default, else UsageError."""
    if value is None or STDIO not in paths:
        return value
    if by_environment(context, name):
        return None
    raise UsageError(f"--{name} is for files and folders: - (stdin, stdout) is none")


def restore(
    service: Service | None,
    planned: Plan,
    restoring: Restoring,
    ray: str | None,
    options: Options,
    settings: dict[str, Any],
    account: Account,
    gallery: Gallery | None,
) -> None:
    """Restores what was planned, and tells of each file. ray: the address of a cluster that does it."""
    for path, why in planned.failures.items():
        account.add(row_of(path, None, status="failed", note=why))
    if not planned.files:
        return
    from ..restoring.batch import Batch
    from ..restoring.device import pick_devices
    from ..restoring.file import FileRestorer
    from ..restoring.sharing import shared

    jobs = [opened(source, target) for source, target in planned.files]
    settings |= {
        "model": restoring.model,
        "options": options,
        "stream_format": format_of(restoring.format) if restoring.format else None,
        "strip_metadata": restoring.strip_metadata,
        "max_pixels": restoring.max_pixels,
        "pages": restoring.pages,
    }
    how = restoring.overwrite, restoring.dry_run
    done: Callable[..., Iterator[tuple[Job, Outcome]]]
    if ray:
        from ..cluster.job import ClusterBatch

        done = ClusterBatch(settings, jobs, ray, *how, account.note).run
    else:
        more = {"warn": account.note, "kept": service.networks if service else None}
        devices = pick_devices(options.device)[: max(1, len(jobs))]
        each = [settings | more | {"options": replace(options, device=device)} for device in devices]
        done = partial(shared, [Batch(FileRestorer(**its), jobs, *how) for its in each])
    with Progress(jobs, overwrite=restoring.overwrite, quiet=restoring.quiet) as progress:
        for job, outcome in done(progress=progress.tick):
            account.add(closed(job, outcome))
            if (
                gallery
                and outcome.status != "failed"
                and isinstance(job.source, Path)
                and isinstance(job.target, Path)
                and not (uri(job.source) or uri(job.target))
            ):
                gallery.add(job.source, job.target)
            progress.end(job, skipped=outcome.status == "skipped")
    order = {shown(source): number for number, (source, _) in enumerate(planned.files)}
    account.rows.sort(key=lambda row: order.get(row["input"], -1))  # several workers end in another order


def opened(source: Path, target: Path) -> Job:
    """A planned file, with a stream for stdin and room for what goes to stdout."""
    from ..restoring.batch import Job

    return Job(
        source=sys.stdin.buffer if source == STDIO else source,
        target=io.BytesIO() if target == STDIO else target,
        name="stdin" if source == STDIO else shown(source),
    )


def closed(job: Job, outcome: Outcome) -> Row:
    """The row of the report, with what is for stdout written there."""
    if isinstance(job.target, io.BytesIO):
        sys.stdout.buffer.write(job.target.getbuffer())
        sys.stdout.buffer.flush()
    source, target = (shown(end) if isinstance(end, Path) else str(STDIO) for end in (job.source, job.target))
    return row_of(source, target, **vars(outcome))
