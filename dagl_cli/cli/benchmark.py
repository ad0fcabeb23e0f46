"""`dagl benchmark`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from ..config import BAYER_PATTERNS, PAPER_PATTERN, TASKS, TILINGS, Options, is_of_mosaics
from ..errors import DaglError, ToleranceError, UsageError, WeightsError, unknown
from ..measuring import datasets
from .boundary import app, with_flags
from .completion import among, compared, models
from .console import bars, plain, say, stdout
from .datasets import DataDir, fetch
from .options import Json, Quiet, Running, a_path, by_environment, flat

if TYPE_CHECKING:
    from torch import Tensor

    from ..measuring.cases import Case
    from ..measuring.figures import Box
    from ..measuring.measure import Measurement, Procedure
    from ..measuring.methods import Method
    from ..store.manifest import Result

OLD_FILES = {
    "--csv": (".csv",), "--images-csv": (".csv",), "--markdown": (".md", ".markdown"), "--latex": (".tex",),
    "--report": (".html", ".htm"),
}  # fmt: skip
"""Outputs, and how the files end that they replace."""


@dataclass(frozen=True)
class Wanted:
    """What is measured."""

    dataset: Annotated[
        list[str] | None,
        typer.Option(
            help="Test set (`dagl datasets list`), or a folder of your own clean images; repeatable.",
            autocompletion=among(datasets.DATASETS),
        ),
    ] = None
    pairs: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="NOISY CLEAN",
            help="Your own pairs: two folders, or two patterns with one * each, 'x/*_real.png' 'x/*_mean.png'.",
        ),
    ] = None
    table: Annotated[int | None, typer.Option(min=1, max=6, help="A table of the paper, 1-6.")] = None
    figure: Annotated[int | None, typer.Option(help="A figure of the paper, 5 or 8.")] = None
    image: Annotated[str | None, typer.Option(help="Only this image of the set.")] = None
    gray: Annotated[bool, typer.Option("--gray", help="Measure your own images in gray.")] = False
    task: Annotated[
        str | None,
        typer.Option(
            help="denoise, dejpeg, demosaic, raw or real; default: what sets and levels imply, else denoise.",
            autocompletion=among(TASKS),
        ),
    ] = None
    sigma: Annotated[list[float] | None, typer.Option(help="Noise level, for denoise; repeatable.")] = None
    quality: Annotated[list[int] | None, typer.Option(help="JPEG quality, for dejpeg; repeatable.")] = None
    pattern: Annotated[
        str | None,
        typer.Option(help="Bayer pattern, for demosaic and raw; default: GRBG.", autocompletion=among(BAYER_PATTERNS)),
    ] = None
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first images of every set.")] = None
    seed: Annotated[
        list[int] | None,
        typer.Option(min=0, max=2**63 - 1, help="Of the noise; repeatable. The paper's is 1.", show_default="1"),
    ] = None


@dataclass(frozen=True)
class Measured:
    """What it is measured with, and how."""

    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Weight file, folder of a run, bundled or imported name, or hub:OWNER/REPO[@REVISION][:FILE]; "
            "repeatable: the first is `ours`. Default: $DAGL_MODEL, or the best bundled.",
            autocompletion=models,
        ),
    ] = None
    models: Annotated[
        Path | None, typer.Option(parser=a_path, help="Folder of trained variants, for --table 5 and 6.")
    ] = None
    compare: Annotated[
        list[str] | None,
        typer.Option(
            help="input, nlm, tv, bm3d, malvar, menon, a dagl model, another program's checkpoint, or your own "
            "function as module:function; repeatable.",
            autocompletion=compared,
        ),
    ] = None
    protocol: Annotated[
        str,
        typer.Option(
            help="paper: its chop, results as floats; practical: blended tiles, results in 8 bits.",
            autocompletion=among(("paper", "practical")),
        ),
    ] = "paper"
    tiling: Annotated[
        str | None, typer.Option(help="blend, chop or whole; default: the protocol's.", autocompletion=among(TILINGS))
    ] = None
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="lpips or dists, besides PSNR and SSIM; repeatable. They need dagl[perceptual].",
            autocompletion=among(("lpips", "dists")),
        ),
    ] = None


def _file(help: str, *names: str) -> Any:
    return typer.Option(*names, parser=a_path, help=help)


@dataclass(frozen=True)
class Outputs:
    """Files that are written."""

    csv: Annotated[Path | None, _file("Write every row to this file.")] = None
    images_csv: Annotated[Path | None, _file("Write every image's figures to this file.")] = None
    markdown: Annotated[Path | None, _file("Write the table to this file.")] = None
    latex: Annotated[Path | None, _file("Write the table to this file, best in bold, second underlined.")] = None
    report: Annotated[Path | None, _file("Write an HTML report to this file.")] = None

    def given(self) -> dict[str, Path]:
        """Flag -> path of those that are wanted."""
        found = {f"--{field.name.replace('_', '-')}": getattr(self, field.name) for field in fields(self)}
        return {flag: path for flag, path in found.items() if path is not None}


@dataclass(frozen=True)
class Pictures:
    """What is to be seen of the results."""

    save_images: Annotated[Path | None, _file("Folder for every restored image; so everything is restored again.")] = (
        None
    )
    figure_at: Annotated[
        list[str] | None,
        typer.Option(metavar="X,Y,W,H", help="A figure of one image with this place enlarged, to -o; repeatable."),
    ] = None
    output: Annotated[
        Path | None, _file("PNG of --figure-at; with --table 2, folder of the submission.", "-o", "--output")
    ] = None


@dataclass(frozen=True)
class Gate:
    """When a run counts as failed."""

    tolerance: Annotated[
        float | None, typer.Option(min=0, help="Exit with 5 if a row is more than this many dB below its reference.")
    ] = None
    reference: Annotated[
        Path | None, _file("Output of an earlier --json, for --tolerance; default: the paper's DAGL.")
    ] = None


def benchmark(
    context: typer.Context,
    wanted: Wanted,
    measured: Measured,
    running: Running,
    outputs: Outputs,
    pictures: Pictures,
    gate: Gate,
    data_dir: DataDir = None,
    dnd: Annotated[Path | None, typer.Option(parser=a_path, help="Folder of the DND data, for --table 2.")] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Measure again what was measured before.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """The paper's tables with your model beside them, or any test set: PSNR and SSIM under a stated protocol.

    Missing test sets are downloaded. Finished images are kept, so an interrupted run continues where it stopped.
    """
    from ..measuring.gates import read_reference
    from ..measuring.measure import PROTOCOLS, Cache, Procedure, cache_path
    from ..measuring.perceptual import metric

    protocol, compare = measured.protocol, measured.compare or []
    if protocol not in PROTOCOLS:
        raise unknown("protocol", protocol, PROTOCOLS)
    options = _options(context, running, measured.tiling or PROTOCOLS[protocol].tiling)
    _check_flags(wanted, gate, measured.models, dnd)
    chosen: list[str | None] = [*(measured.model or ())] or [os.environ.get("DAGL_MODEL") or None]
    if wanted.table == 2:
        _check_table_2(wanted, measured, outputs, pictures, gate, as_json and not by_environment(context, "as_json"))
        return _table_2(dnd, pictures.output or Path("dnd"), chosen[0], options, wanted.limit, quiet)
    _check_outputs(outputs, data_dir)
    if data_dir is not None and not data_dir.is_dir():
        raise UsageError(f"--data-dir {data_dir}: no such folder")
    earlier = None if gate.reference is None else read_reference(gate.reference)
    title, cases = _published(wanted) if wanted.table or wanted.figure else _chosen(wanted)
    if len(wanted.seed or ()) > 1 and not any(case.random for case in cases):
        raise UsageError("--seed given several times is for noise: nothing is random here")
    boxes = _boxes(pictures, cases, wanted.limit)
    _check_folder(pictures.save_images, cases, data_dir)
    variants = _variants(wanted.table, measured.models, measured.model)
    methods = _methods(chosen, compare, variants, options)
    perceptual = {name: metric(name, offline=options.offline, say=_tell) for name in measured.metric or ()}
    procedure = Procedure(
        data_dir or datasets.default_folder(), protocol, wanted.seed or [1], wanted.limit, perceptual,
        None if no_cache else Cache(cache_path()),
    )  # fmt: skip
    run = Run(cases, methods, procedure, quiet, pictures.save_images, boxes)
    failed = run.measure(variants, fetching=data_dir is None and not options.offline)
    _write(title, run, outputs, as_json)
    if pictures.output is not None and run.rows:
        _draw(run, pictures.output)
    if failed:
        raise typer.Exit(failed.exit_code)
    if gate.tolerance is not None:
        _check_tolerance(run.rows, gate.tolerance, earlier)
    _check_released(run.rows, options.ensemble, quiet)


app.command()(flat(benchmark))


def _options(context: typer.Context, running: Running, tiling: str) -> Options:
    """How the networks run; tiles that the environment asks for give way where there are none."""
    if tiling != "blend":
        running = replace(
            running,
            tile=None if by_environment(context, "tile") else running.tile,
            overlap=None if by_environment(context, "overlap") else running.overlap,
        )
    options = running.options(tiling=tiling)
    if tiling != "blend" and (options.tile is not None or options.overlap is not None):
        raise UsageError(f"--tile and --overlap are for --tiling blend, not for {tiling}")
    return options


def _check_flags(wanted: Wanted, gate: Gate, models: Path | None, dnd: Path | None) -> None:
    """Raises UsageError for flags that make no sense together."""
    of_paper = wanted.table is not None or wanted.figure is not None
    own = (wanted.dataset is not None or wanted.pairs is not None) and not of_paper
    if (wanted.table is not None) + (wanted.figure is not None) + own != 1:
        raise UsageError("choose what to measure by --dataset, --table or --figure (or your own --pairs)")
    others = {"--pairs": wanted.pairs, "--image": wanted.image, "--gray": wanted.gray, "--pattern": wanted.pattern}
    if of_paper and (unused := [flag for flag, given in others.items() if given]):
        raise UsageError(f"{', '.join(unused)}: not for the paper's own --{'table' if wanted.table else 'figure'}")
    if models is not None and wanted.table not in (5, 6):
        raise UsageError("--models is for --table 5 and --table 6")
    if dnd is not None and wanted.table != 2:
        raise UsageError("--dnd is for --table 2")
    if gate.reference is not None and gate.tolerance is None:
        raise UsageError("--reference needs --tolerance")
    if gate.tolerance is not None and gate.reference is None and wanted.limit is not None:
        raise UsageError("--tolerance with --limit needs a --reference of the same --limit: the paper's are whole sets")


def _check_table_2(
    wanted: Wanted, measured: Measured, outputs: Outputs, pictures: Pictures, gate: Gate, as_json: bool
) -> None:
    """Raises UsageError for flags that have no meaning where nothing can be measured."""
    others = {
        "--dataset": wanted.dataset, "--task": wanted.task, "--sigma": wanted.sigma, "--quality": wanted.quality,
        "--seed": wanted.seed, "--compare": measured.compare, "--protocol": measured.protocol != "paper",
        "--tolerance": gate.tolerance is not None, "--json": as_json, "--metric": measured.metric,
        "a second --model": (measured.model or ())[1:], "--save-images": pictures.save_images,
        "--figure-at": pictures.figure_at, **outputs.given(),
    }  # fmt: skip
    if unused := [flag for flag, given in others.items() if given]:
        raise UsageError(f"{', '.join(unused)}: not for --table 2, whose result is a folder to hand in")


def _boxes(pictures: Pictures, cases: list[Case], limit: int | None) -> list[Box]:
    """The places of a figure. Raises UsageError where it cannot be drawn."""
    from ..measuring import figures

    if not pictures.figure_at:
        if pictures.output is not None:
            raise UsageError("--output is for --figure-at and --table 2")
        return []
    if pictures.output is None:
        raise UsageError("--figure-at needs -o: the PNG to write")
    if len(cases) != 1 or len(cases[0].samples(limit)) != 1:
        raise UsageError("--figure-at shows one image at one level: choose it by --image, --sigma or --quality")
    figures.check_target(pictures.output)
    return [figures.Box.parse(text) for text in pictures.figure_at]


def _check_folder(folder: Path | None, cases: list[Case], data_dir: Path | None) -> None:
    """Raises UsageError where images would be saved among those that are measured."""
    if folder is None:
        return
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--save-images {folder} is a file: name a folder")
    places = [data_dir, *(case.dataset.place for case in cases)]
    for place in places:
        if place not in (None, Path()) and place.resolve() in (folder.resolve(), *folder.resolve().parents):
            raise UsageError(f"--save-images {folder} is in {place}, where nothing is written: choose another folder")


def _check_outputs(outputs: Outputs, data_dir: Path | None) -> None:
    """Raises UsageError for files that cannot be written, or that are something else than an earlier output."""
    given = outputs.given()
    for flag, path in given.items():
        if path.is_dir() or not path.absolute().parent.is_dir():
            raise UsageError(f"{flag} {path} cannot be written: give a file in a folder that exists")
        if path.is_file() and path.suffix.lower() not in OLD_FILES[flag]:
            raise UsageError(f"{flag} {path} exists and is no {OLD_FILES[flag][0]} file: choose another name")
        if data_dir is not None and data_dir.resolve() in path.resolve().parents:
            raise UsageError(f"{flag} {path} is in --data-dir, where nothing is written: choose another folder")
    files = [path.resolve() for path in given.values() if path.is_file() or not path.exists()]  # not /dev/stdout
    if len(set(files)) < len(files):
        raise UsageError(f"{', '.join(given)} name one file: give each its own")


# --- what to measure -------------------------------------------------------------------------------------------------


def _published(wanted: Wanted) -> tuple[str, list[Case]]:
    """(title, cases) of a table or figure of the paper; --dataset, --sigma and --quality choose rows of it."""
    from ..measuring.cases import PUBLISHED, cases_of

    name = f"table {wanted.table}" if wanted.table else f"figure {wanted.figure}"
    every = cases_of(name)
    for given in wanted.dataset or ():
        datasets.dataset(given)  # a misspelt one is named
    tasks = {case.task for case in every}
    if wanted.task is not None and wanted.task not in tasks:
        raise UsageError(f"--task {wanted.task}: --{name} is about {' and '.join(tasks)}")
    for flag, levels, of in (("--sigma", wanted.sigma, "denoise"), ("--quality", wanted.quality, "dejpeg")):
        if levels and of not in tasks:
            raise UsageError(f"{flag} is for {of}, --{name} is about {' and '.join(tasks)}")
    chosen = [*(wanted.sigma or ()), *(wanted.quality or ())]
    cases = [
        case
        for case in every
        if (not wanted.dataset or case.dataset.name in wanted.dataset) and (not chosen or case.level in chosen)
    ]
    if not cases:
        raise UsageError(f"--{name}: no row of it has this dataset and level")
    return f"{name.capitalize()}: {PUBLISHED[name].title}", cases


def _chosen(wanted: Wanted) -> tuple[str, list[Case]]:
    """(title, cases) of published sets and of the user's own images."""
    from ..measuring.cases import LEVELS, cases_for, implied_task

    if wanted.pattern is not None and wanted.pattern not in BAYER_PATTERNS:
        raise unknown("pattern", wanted.pattern, BAYER_PATTERNS)
    for level in wanted.sigma or ():
        if not 0 < level <= 75:
            raise UsageError(f"--sigma {level:g} must be above 0 and at most 75")
    for value in wanted.quality or ():
        if not 1 <= value <= 100:
            raise UsageError(f"--quality {value} must be between 1 and 100")
    sets = _sets(wanted)
    task = wanted.task or implied_task(sets, bool(wanted.sigma), bool(wanted.quality), bool(wanted.pattern))
    if task not in LEVELS:
        raise UsageError(f"--task {task} has no benchmark: choose one of {', '.join(LEVELS)}")
    if (wanted.sigma and task != "denoise") or (wanted.quality and task != "dejpeg"):
        raise UsageError("--sigma is for --task denoise, --quality for --task dejpeg")
    if wanted.pattern and not is_of_mosaics(task):
        raise UsageError("--pattern is for --task demosaic and raw")
    if any(entry.pairs for entry in sets) and (len(wanted.sigma or ()) > 1 or wanted.quality):
        raise UsageError(
            "pairs are measured as they are: leave out --quality, and give one --sigma at most, their level"
        )
    own = tuple(float(level) for level in (*(wanted.sigma or ()), *(wanted.quality or ())))
    cases: list[Case] = []
    for entry in sets:
        levels = own or ((None,) if entry.pairs else LEVELS[task])
        cases += cases_for([entry], task, levels, wanted.image, wanted.pattern or PAPER_PATTERN)
    return f"{task}: {', '.join(entry.name for entry in sets)}", cases


def _sets(wanted: Wanted) -> list[datasets.Dataset]:
    """The sets that are meant, each once. Raises UsageError."""
    found = []
    for name in dict.fromkeys(wanted.dataset or ()):
        if name in datasets.DATASETS:
            found.append(datasets.DATASETS[name])
        elif Path(name).is_dir():
            found.append(datasets.own(Path(name), gray=wanted.gray))
        else:
            raise unknown("dataset", name, [*datasets.DATASETS, "a folder of your own images"])
    if wanted.pairs:
        found.append(datasets.own_pairs(*wanted.pairs, gray=wanted.gray))
    if wanted.gray and any(entry.place is None for entry in found):
        raise UsageError("--gray is for images of your own: published sets are gray or in colour")
    names = [entry.name for entry in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"--dataset: two sets are called {twice}: rename a folder")
    return found


def _variants(table: int | None, models: Path | None, model: list[str] | None) -> dict[str, Path]:
    """The networks of an ablation, for --table 5 and 6."""
    from ..measuring.methods import variants_below

    if table not in (5, 6):
        return {}
    if models is None:
        raise UsageError(f"--table {table} needs --models: the folder of its trained networks")
    if model is not None:
        raise UsageError(f"--model is not for --table {table}: it measures the networks in --models")
    return variants_below(models, f"table {table}", _tell)


def _methods(
    models: Sequence[str | None], compare: Sequence[str], variants: dict[str, Path], options: Options
) -> Callable[[Case], list[Method]]:
    """Case -> what is measured on it: others first, `ours` last. Raises UsageError where two would have one name."""
    from ..measuring.methods import OURS, label, other, ours

    further = [*compare, *(name for name in models[1:] if name is not None)]
    names = [OURS, *map(label, further)]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"--compare: two methods are called {twice}: give each once, or rename a checkpoint")
    our_method, another = cache(ours), cache(other)

    def methods(case: Case) -> list[Method]:
        kind = case.task, case.channels, options, _tell
        others = [
            another(name, *kind, pattern=case.pattern, parameter="compare" if name in compare else "model")
            for name in further
        ]
        if case.variant and case.variant not in variants:
            return others
        model = str(variants[case.variant]) if case.variant else models[0]
        return [*others, our_method(case.task, case.channels, model, options, _tell, pattern=case.pattern)]

    return methods


def _tell(line: str) -> None:
    say(with_flags(line))


# --- measuring -------------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """Everything that is to be measured, and what was."""

    cases: list[Case]
    methods: Callable[[Case], list[Method]]
    procedure: Procedure
    quiet: bool
    save_images: Path | None
    boxes: list[Box]

    def __post_init__(self) -> None:
        self.rows: list[Measurement] = []

    def measure(self, variants: dict[str, Path], fetching: bool) -> DaglError | None:
        """Measure all; what cannot be is said, and the rest goes on. The last error of these; None: there was none."""
        failed: DaglError | None = None

        def fails(case: Case, error: DaglError) -> None:
            nonlocal failed
            which = f"--models {variants[case.variant]}: " if case.variant in variants else ""
            reason = with_flags(str(error)).removeprefix("--model ")
            say(f"Error: {case}: {which}{reason}", "red")
            failed = error

        jobs: list[tuple[Case, Method]] = []
        for case in self.cases:
            try:
                jobs += [(case, method) for method in self.methods(case)]
            except (UsageError, WeightsError) as error:
                if not case.variant:  # one network of several: the others go on
                    raise
                fails(case, error)
        lacking = self.fetch() if fetching else self.missing()
        failed = failed or next(iter(lacking.values()), None)
        jobs = [(case, method) for case, method in jobs if case.dataset.name not in lacking]
        if self.boxes and jobs:
            self.check_boxes()
        self.say_cost(jobs)
        with self.progress(jobs) as step:
            for case, method in jobs:
                try:
                    self.measure_one(case, method, step)
                except DaglError as error:
                    if isinstance(error, UsageError | WeightsError) and not case.variant:
                        raise
                    fails(case, error)
        return failed

    def measure_one(self, case: Case, method: Method, step: Callable[[str], None]) -> None:
        from ..measuring.measure import measure

        def done(name: str) -> None:
            step(f"{case}, {method.name}: {name}")

        see = None if self.save_images is None else partial(self.save, self.save_images, case, method)
        row = measure(case, method, self.procedure, done, see)
        self.rows.append(row)
        if not self.quiet:
            say(f"{case}, {method.name}: {row.mean('psnr'):.2f} dB (input {row.mean('input_psnr'):.2f})")

    def save(
        self, folder: Path, case: Case, method: Method, sample: datasets.Sample, seed: int, x: Tensor, depth: int
    ) -> None:
        """A result as FOLDER/CASE/METHOD/NAME.png, 8 or 16 bits as its clean file."""
        from ..images import Image, write

        level = "" if case.level is None else f"-{'sigma' if case.task == 'denoise' else 'quality'}{case.level:g}"
        which = f"-{case.variant}" if case.variant else ""
        seeds = f"-seed{seed}" if len(self.procedure.seeds) > 1 else ""
        case_folder = folder / f"{case.dataset.name}{level}{which}{seeds}".replace("/", "-")
        path = case_folder / method.name / sample.name
        path = path if path.suffix == ".png" else path.with_name(f"{path.name}.png")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--save-images {path.parent}: {error.strerror}: choose another folder") from None
        write(Image(x.permute(1, 2, 0).numpy(), depth=depth), path, overwrite=True)

    def published(self) -> dict[str, tuple[datasets.Dataset, tuple[datasets.File, ...]]]:
        """The published sets that are needed, by name, and which of their files."""
        found: dict[str, tuple[datasets.Dataset, dict[datasets.File, None]]] = {}
        for case in self.cases:
            if case.dataset.place is None:
                files = found.setdefault(case.dataset.name, (case.dataset, {}))[1]
                for sample in case.samples(self.procedure.limit):
                    files |= dict.fromkeys(file for file in (sample.clean, sample.degraded) if file)
        return {name: (entry, tuple(files)) for name, (entry, files) in found.items()}

    def fetch(self) -> dict[str, DaglError]:
        """Fetch what is not there; the sets that cannot be had."""
        failed = {}
        for name, (entry, files) in self.published().items():
            try:
                fetch(entry, self.procedure.folder, files, self.quiet)  # what is complete is not requested
            except DaglError as error:
                say(f"Error: {with_flags(str(error))}", "red")
                failed[name] = error
        return failed

    def missing(self) -> dict[str, DaglError]:
        """The sets of which nothing is there, said in one line: nothing may be fetched."""
        lacking = [
            name
            for name, (entry, files) in self.published().items()
            if not any(entry.path(file, self.procedure.folder).exists() for file in files)
        ]
        if not lacking:
            return {}
        names = ", ".join(lacking)
        error = DaglError(
            f"{names}: not in {self.procedure.folder}: give your copy by --data-dir, or run "
            f"`dagl datasets download {' '.join(lacking)}` where there is a network"
        )
        say(f"Error: {error}", "red")
        return dict.fromkeys(lacking, error)

    def check_boxes(self) -> None:
        """Raises UsageError for a place outside the image, before anything is measured."""
        (case,) = self.cases
        clean = datasets.load(case.dataset, case.samples(self.procedure.limit)[0], self.procedure.folder).clean
        for place in self.boxes:
            place.crop(clean)

    def say_cost(self, jobs: Sequence[tuple[Case, Method]]) -> None:
        """Before it starts: how many images, and about how long."""
        from ..measuring.measure import Cost, cost

        if self.quiet or not jobs:
            return
        total, sure = Cost(0, 0.0, 0.0), True
        rates: dict[Any, float] = {}
        for case, method in jobs:
            try:
                total += cost(case, method, self.procedure, rates)
            except DaglError:  # it is said when it is measured
                sure = False
        devices = " and ".join(dict.fromkeys(method.settings.device for _, method in jobs))
        if total.images:
            slow = total.seconds > 300 and any(method.settings.tiling == "chop" for _, method in jobs)
            say(
                f"To measure: {total.images} image{'s' * (total.images > 1)}, {total.megapixels:.1f} megapixels, about "
                f"{_duration(total.seconds)} on {devices}; finished images are kept"
                + "; --tiling blend is four to five times as fast"
                * slow
            )
        elif sure:
            say("Nothing to measure: all of it is known from earlier runs (--no-cache measures again)")

    @contextmanager
    def progress(self, jobs: Sequence[tuple[Case, Method]]) -> Iterator[Callable[[str], None]]:
        """A bar over all images, with the time that is left; yields what is called after each."""
        columns = (
            TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(),
        )  # fmt: skip
        total = sum(len(case.samples(self.procedure.limit)) for case, _ in jobs)
        with bars(*columns, quiet=self.quiet) as bar:
            task = bar.add_task(plain(f"{jobs[0][0]}, {jobs[0][1].name}") if jobs else "", total=total)
            yield lambda name: bar.update(task, advance=1, description=plain(name))


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


# --- what comes of it ------------------------------------------------------------------------------------------------


def _write(title: str, run: Run, outputs: Outputs, as_json: bool) -> None:
    """The table or JSON on stdout, and every file that was asked for."""
    from ..measuring import tables
    from ..measuring.report import save

    cases, rows = run.cases, run.rows
    if as_json:
        found = [difference.to_dict() for difference in tables.differences(rows)]
        print(json.dumps({"title": title, "rows": [row.to_dict() for row in rows], "differences": found}, indent=2))
    elif rows:
        _print(title, tables.summary(cases, rows), tables.notes(rows))
        _print_certainty(tables.certainty(rows), list(map(str, tables.differences(rows))))
    texts: dict[str, Callable[[], str]] = {
        "--csv": lambda: tables.csv_text(rows),
        "--images-csv": lambda: tables.images_csv(rows),
        "--markdown": lambda: tables.markdown(cases, rows),
        "--latex": lambda: tables.latex(cases, rows),
        "--report": lambda: tables.page(title, cases, rows, run.methods, run.procedure.folder),
    }
    for flag, path in outputs.given().items():
        if rows:
            save(path, texts[flag]())


def _print(title: str, summary: tuple[list[str], list[list[str]]], notes: list[str]) -> None:
    heads, lines = summary
    shown = Table(title=Text(plain(title)), box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for i, head in enumerate(heads):
        shown.add_column(Text(plain(head)), justify="right" if i else "left")
    for i, line in enumerate(lines):
        cells = (Text("\n".join(map(plain, cell.split("\n")))) for cell in line)
        shown.add_row(*cells, end_section=i + 1 < len(lines))
    console = stdout()
    console.print(shown)
    for note in notes:
        console.print(plain(note), markup=False)


def _print_certainty(means: list[str], differences: list[str]) -> None:
    console = stdout()
    for title, lines in (
        ("Means with their 95 % interval over images", means),
        ("Gains with their 95 % interval, image by image", differences),
    ):
        if lines:
            console.print(f"\n{title}:", markup=False)
            for line in lines:
                console.print(f"  {plain(line)}", markup=False)


def _draw(run: Run, path: Path) -> None:
    """The figure of the one case. Raises UsageError, DaglError."""
    from ..measuring import figures

    (case,) = run.cases
    methods = [method for method in run.methods(case) if method.name != "input"]
    procedure = run.procedure
    if procedure.limit is not None:
        case = replace(case, image=case.samples(procedure.limit)[0].name)
    page = figures.figure(case, methods, run.boxes, procedure.folder, procedure.protocol, procedure.seeds[0])
    figures.save(page, path, run.rows)
    if not run.quiet:
        say(f"Figure: {path}")


def _check_tolerance(rows: list[Measurement], tolerance: float, earlier: list[Result] | None) -> None:
    """Raises ToleranceError where our rows are worse than the earlier ones, or the paper's."""
    from ..measuring.gates import below

    short, compared = below(rows, tolerance, earlier)
    for line in short:
        say(line, "red")
    if short:
        raise ToleranceError(f"{len(short)} of {compared} rows are more than {tolerance:g} dB below")


def _check_released(rows: list[Measurement], ensemble: bool, quiet: bool) -> None:
    """The authors' weights must give the paper's figures. Raises ToleranceError where they do not."""
    from ..measuring.gates import RELEASED, released

    right, wrong = released(rows)
    for line in wrong:
        say(line, "red")
    if wrong:
        more = "" if ensemble else ": the paper most likely measured with --ensemble"
        raise ToleranceError(
            f"{len(wrong)} of {len(right) + len(wrong)} rows of the authors' weights differ by more than {RELEASED:g} "
            f"dB from the paper's{more}"
        )
    if right and not quiet:
        say(f"The authors' weights give the paper's figures to {RELEASED:g} dB in {len(right)} rows:")
        for line in right:
            say(f"  {line}")


def _table_2(
    dnd: Path | None, output: Path, model: str | None, options: Options, limit: int | None, quiet: bool
) -> None:
    """Table 2's numbers come from the benchmark's server; this writes what it takes."""
    from torch import Tensor

    from ..measuring import methods
    from ..measuring.cases import PUBLISHED
    from ..measuring.dnd import submit
    from ..restoring.api import restore
    from ..restoring.restorer import load_model
    from ..store import weights

    published = PUBLISHED["table 2"]
    if dnd is None:
        shown = Table("method", "PSNR", "SSIM", title=f"Table 2: {published.title}", box=box.SIMPLE_HEAD)
        for name, (psnr, ssim) in published.rows[0]["methods"].items():
            shown.add_row(name, f"{psnr:.2f}", f"{ssim:.3f}")
        stdout().print(shown)
        raise UsageError("--table 2 needs --dnd: the clean images are secret, so a submission is all that can be made")
    restorer = load_model("real", 3, model=methods.of_run(model), options=options, warn=say)
    if restorer.config.channels != 3:
        raise UsageError(f"--model {restorer.name} is not a colour model: --table 2 needs one")
    path = weights.resolve(methods.of_run(model), "real", 3, offline=options.offline)
    settings = asdict(methods.settings(restorer, path))

    def restored(crop: Tensor) -> Tensor:
        result = restore(crop, "real", model=restorer)
        assert isinstance(result, Tensor)
        return result

    columns = (TextColumn("DND"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with bars(*columns, quiet=quiet) as bar:
        step = bar.add_task("DND")
        files = submit(
            dnd,
            output,
            restored,
            settings,
            limit,
            lambda done, total: bar.update(step, completed=done, total=total),
        )
    if not quiet:
        say(f"{output}: {len(files)} files (settings.json is not part of it), to be handed in as sRGB results")
