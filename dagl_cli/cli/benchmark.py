"""`dagl benchmark`."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ..config import Options
from ..errors import DaglError, ToleranceError, UsageError, WeightsError
from ..measuring import datasets
from .boundary import app
from .console import errors, say
from .datasets import DataDir, fetch
from .options import Json, Model, Quiet, Running, a_path, by_environment, flat

if TYPE_CHECKING:
    from ..measuring.bench import Case, Method, Row


def benchmark(
    context: typer.Context,
    running: Running,
    dataset: Annotated[list[str] | None, typer.Option(help="Test set (`dagl datasets list`); repeatable.")] = None,
    table: Annotated[int | None, typer.Option(min=1, max=6, help="A table of the paper, 1-6.")] = None,
    figure: Annotated[int | None, typer.Option(help="A figure of the paper, 5 or 8.")] = None,
    task: Annotated[str | None, typer.Option(help="denoise, dejpeg or demosaic.", show_default="denoise")] = None,
    sigma: Annotated[list[float] | None, typer.Option(help="Noise level, for denoise; repeatable.")] = None,
    quality: Annotated[list[int] | None, typer.Option(help="JPEG quality, for dejpeg; repeatable.")] = None,
    model: Model = None,
    models: Annotated[
        Path | None, typer.Option(parser=a_path, help="Folder of trained variants, for --table 5 and 6.")
    ] = None,
    protocol: Annotated[
        str, typer.Option(help="paper: its chop, results as floats; practical: blended tiles, results in 8 bits.")
    ] = "paper",
    tiling: Annotated[str | None, typer.Option(help="blend, chop or whole; default: the protocol's.")] = None,
    compare: Annotated[
        list[str] | None, typer.Option(help="Another method, or a checkpoint's path; repeatable.")
    ] = None,
    data_dir: DataDir = None,
    dnd: Annotated[Path | None, typer.Option(parser=a_path, help="Folder of the DND data, for --table 2.")] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", parser=a_path, help="Folder for the DND submission.")
    ] = Path("dnd"),
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first images of every set.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of the noise; the paper's is 1.")] = 1,
    tolerance: Annotated[
        float | None, typer.Option(min=0, help="Exit with 5 if a row is more than this many dB below its reference.")
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(parser=a_path, help="Output of an earlier --json, for --tolerance; default: the paper's DAGL."),
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Measure again what was measured before.")] = False,
    as_json: Json = False,
    csv_file: Annotated[Path | None, typer.Option("--csv", parser=a_path, help="Write every row to this file.")] = None,
    markdown: Annotated[Path | None, typer.Option(parser=a_path, help="Write the table to this file.")] = None,
    report: Annotated[Path | None, typer.Option(parser=a_path, help="Write an HTML report to this file.")] = None,
    quiet: Quiet = False,
) -> None:
    """The paper's tables with your model beside them, or any test set: PSNR and SSIM under a stated protocol.

    Missing test sets are downloaded. Finished images are kept, so an interrupted run continues where it stopped.
    """
    from ..measuring import bench, peers
    from ..measuring.report import save

    if protocol not in bench.PROTOCOLS:
        raise UsageError(f"--protocol {protocol} is unknown: choose one of {', '.join(bench.PROTOCOLS)}")
    tiling = tiling or bench.PROTOCOLS[protocol].tiling
    if tiling != "blend":
        running = replace(
            running,
            tile=None if by_environment(context, "tile") else running.tile,
            overlap=None if by_environment(context, "overlap") else running.overlap,
        )
    options = running.options(tiling=tiling)
    if (table is not None) + (figure is not None) + (dataset is not None and table is None and figure is None) != 1:
        raise UsageError("choose what to measure by --dataset, --table or --figure")
    if models is not None and table not in (5, 6):
        raise UsageError("--models is for --table 5 and --table 6")
    if dnd is not None and table != 2:
        raise UsageError("--dnd is for --table 2")
    if reference is not None and tolerance is None:
        raise UsageError("--reference needs --tolerance")
    if tolerance is not None and reference is None and limit is not None:
        raise UsageError("--tolerance with --limit needs a --reference of the same --limit: the paper's are whole sets")
    if options.tiling != "blend" and (options.tile is not None or options.overlap is not None):
        raise UsageError(f"--tile and --overlap are for --tiling blend, not for {options.tiling}")
    if table == 2:
        others = {
            "--dataset": dataset, "--task": task, "--sigma": sigma, "--quality": quality, "--compare": compare,
            "--protocol": protocol != "paper", "--tolerance": tolerance is not None,
            "--json": as_json and not by_environment(context, "as_json"), "--csv": csv_file, "--markdown": markdown,
            "--report": report,
        }  # fmt: skip
        if unused := [flag for flag, given in others.items() if given]:
            raise UsageError(f"{', '.join(unused)}: not for --table 2, whose result is a folder to hand in")
        return _table_2(dnd, output, model, options, limit, quiet)
    _check_outputs({"--csv": csv_file, "--markdown": markdown, "--report": report}, data_dir)
    if data_dir is not None and not data_dir.is_dir():
        raise UsageError(f"--data-dir {data_dir}: no such folder")
    earlier = None if reference is None else bench.read_reference(reference)

    title, cases = _cases(dataset, table, figure, task, sigma, quality)
    variants = {}
    if table in (5, 6):
        if models is None:
            raise UsageError(f"--table {table} needs --models: the folder of its trained networks")
        if model is not None:
            raise UsageError(f"--model is not for --table {table}: it measures the networks in --models")
        variants = bench.trained_variants(models, f"table {table}")

    names = [bench.OURS, *(name if name in peers.METHODS else Path(name).stem for name in compare or ())]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"--compare: two methods are called {twice}: give each once, or rename a checkpoint")
    our_method, peer_method = cache(bench.our_method), cache(bench.peer_method)

    def methods(case: Case) -> list[Method]:
        others = [peer_method(case.task, case.channels, name, options.device) for name in compare or ()]
        if case.variant and case.variant not in variants:
            return others
        chosen = str(variants[case.variant]) if case.variant else model
        return [*others, our_method(case.task, case.channels, chosen, options, say)]

    folder = data_dir or datasets.default_folder()
    results = None if no_cache else bench.Results(bench.results_path())
    rows: list[Row] = []
    failed: DaglError | None = None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    for case in cases:
        entry, files = datasets.dataset(case.dataset), case.files(limit)
        try:
            if data_dir is None and not options.offline:
                fetch(entry, folder, files, quiet)  # what is complete is not requested
            for method in methods(case):
                with Progress(*columns, console=errors, transient=True, disable=quiet or not errors.is_terminal) as bar:
                    step = bar.add_task(f"{case}, {method.name}", total=len(files))
                    advance = lambda name: bar.advance(step)  # noqa: B023, E731  (used before the next one)
                    row = bench.measure(case, method, folder, protocol, seed, limit, results, advance)
                rows.append(row)
                if not quiet:
                    say(f"{case}, {method.name}: {row.mean('psnr'):.2f} dB (input {row.mean('input_psnr'):.2f})")
        except DaglError as error:
            # a set that cannot be had, an image that cannot be read, one network of several: the others go on
            if isinstance(error, UsageError | WeightsError) and not case.variant:
                raise
            which = f"--models {variants[case.variant]}: " if case.variant in variants else ""
            say(f"Error: {case}: {which}{str(error).removeprefix('--model ')}", "red")
            failed = error
    if as_json:
        print(json.dumps({"title": title, "rows": [row.to_dict() for row in rows]}, indent=2))
    elif rows:
        _print(title, bench.summary(cases, rows), list(dict.fromkeys(row.stated() for row in rows)))
    if csv_file is not None and rows:
        save(csv_file, bench.csv_text(rows))
    if markdown is not None and rows:
        save(markdown, bench.markdown(cases, rows))
    if report is not None and rows:
        save(report, bench.page(title, cases, rows, methods, folder))
    if failed:
        raise typer.Exit(failed.exit_code)
    if tolerance is not None:
        short, compared = bench.below(rows, tolerance, earlier)
        for line in short:
            say(line, "red")
        if short:
            raise ToleranceError(f"{len(short)} of {compared} rows are more than {tolerance:g} dB below")


app.command()(flat(benchmark))


def _check_outputs(outputs: dict[str, Path | None], data_dir: Path | None) -> None:
    """Raises UsageError for files that cannot be written, or that are something else than an earlier output."""
    kinds = {"--csv": (".csv",), "--markdown": (".md", ".markdown"), "--report": (".html", ".htm")}
    given = {flag: path for flag, path in outputs.items() if path is not None}
    for flag, path in given.items():
        if path.is_dir() or not path.absolute().parent.is_dir():
            raise UsageError(f"{flag} {path} cannot be written: give a file in a folder that exists")
        if path.is_file() and path.suffix.lower() not in kinds[flag]:
            raise UsageError(f"{flag} {path} exists and is no {kinds[flag][0]} file: choose another name")
        if data_dir is not None and data_dir.resolve() in path.resolve().parents:
            raise UsageError(f"{flag} {path} is in --data-dir, where nothing is written: choose another folder")
    files = [path.resolve() for path in given.values() if path.is_file() or not path.exists()]  # not /dev/stdout
    if len(set(files)) < len(files):
        raise UsageError(f"{', '.join(given)} name one file: give each its own")


def _cases(
    names: list[str] | None,
    table: int | None,
    figure: int | None,
    task: str | None,
    sigma: list[float] | None,
    quality: list[int] | None,
) -> tuple[str, list[Case]]:
    """What to measure, and a title. In a published table --dataset, --sigma and --quality choose rows."""
    from ..measuring import bench

    if table is None and figure is None:
        task = task or "denoise"
        if task not in bench.LEVELS:
            raise UsageError(f"--task {task} has no benchmark: choose one of {', '.join(bench.LEVELS)}")
        chosen = {"denoise": sigma, "dejpeg": quality, "demosaic": None}[task]
        if (sigma and task != "denoise") or (quality and task != "dejpeg"):
            raise UsageError("--sigma is for --task denoise, --quality for --task dejpeg")
        _check_levels(sigma, quality)
        levels = bench.LEVELS[task] if not chosen else tuple(float(level) for level in chosen)
        return f"{task}: {', '.join(names or [])}", bench.cases_for(names or [], task, levels)
    published = f"table {table}" if table is not None else f"figure {figure}"
    for name in names or ():
        datasets.dataset(name)  # a misspelt one is named
    tasks = {case.task for case in bench.cases_of(published)}
    if task is not None and task not in tasks:
        raise UsageError(f"--task {task}: --{published} is about {' and '.join(tasks)}")
    for flag, given, of in (("--sigma", sigma, "denoise"), ("--quality", quality, "dejpeg")):
        if given and of not in tasks:
            raise UsageError(f"{flag} is for {of}, --{published} is about {' and '.join(tasks)}")
    wanted = [*(sigma or ()), *(quality or ())]
    cases = [
        case
        for case in bench.cases_of(published)
        if (not names or case.dataset in names) and (not wanted or case.level in wanted)
    ]
    if not cases:
        raise UsageError(f"--{published}: no row of it has this dataset and level")
    return f"{published.capitalize()}: {bench.PUBLISHED[published].title}", cases


def _check_levels(sigma: list[float] | None, quality: list[int] | None) -> None:
    for level in sigma or ():
        if not 0 < level <= 75:
            raise UsageError(f"--sigma {level:g} must be above 0 and at most 75")
    for value in quality or ():
        if not 1 <= value <= 100:
            raise UsageError(f"--quality {value} must be between 1 and 100")


def _print(title: str, summary: tuple[list[str], list[list[str]]], notes: list[str]) -> None:
    shown = Table(*summary[0], title=title, box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in shown.columns[1:]:
        column.justify, column.no_wrap = "right", False
    for i, line in enumerate(summary[1]):
        shown.add_row(*line, end_section=i + 1 < len(summary[1]))
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    console.print(shown)
    for note in notes:
        console.print(note, markup=False)


def _table_2(
    dnd: Path | None, output: Path, model: str | None, options: Options, limit: int | None, quiet: bool
) -> None:
    """Table 2's numbers come from the benchmark's server; this writes what it takes."""
    from ..measuring import bench
    from ..measuring.dnd import submit
    from ..restoring.restorer import load_model
    from ..store import weights

    published = bench.PUBLISHED["table 2"]
    if dnd is None:
        shown = Table("method", "PSNR", "SSIM", title=f"Table 2: {published.title}", box=box.SIMPLE_HEAD)
        for name, (psnr, ssim) in published.rows[0]["methods"].items():
            shown.add_row(name, f"{psnr:.2f}", f"{ssim:.3f}")
        Console().print(shown)
        raise UsageError("--table 2 needs --dnd: the clean images are secret, so a submission is all that can be made")
    restorer = load_model("real", 3, model=model, options=options, warn=say)
    if restorer.config.noise_map or restorer.config.channels != 3:
        raise UsageError(f"--model {restorer.name} is not a blind colour model: --table 2 needs one")
    path = weights.resolve(model, "real", 3, offline=options.offline)
    settings = bench.settings(restorer, path)
    with Progress(
        TextColumn("DND"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=errors, transient=True,
        disable=quiet or not errors.is_terminal,
    ) as bar:  # fmt: skip
        step = bar.add_task("DND")
        files = submit(
            dnd, output, restorer, settings, limit, lambda done, total: bar.update(step, completed=done, total=total)
        )
    if not quiet:
        say(f"{output}: {len(files)} files (settings.json is not part of it), to be handed in as sRGB results")
