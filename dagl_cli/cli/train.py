"""`dagl train`."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..config import DEVICES, TASKS, VARIANTS
from ..errors import DaglError, UsageError
from ..measuring.datasets import default_folder
from ..training import library, presets
from ..training.presets import CHOICES, PRESETS, TrainConfig
from .boundary import app, with_flags
from .completion import Completion, among, models
from .console import errors, say
from .datasets import DataDir, fetch_photographs
from .options import Quiet, a_path, by_environment, flat

_FIELDS = {f.name: f.default for f in fields(TrainConfig)}
_COMPLETED: dict[str, Completion] = {
    "task": among(TASKS), "preset": among(PRESETS), "variant": among(VARIANTS), "device": among(DEVICES),
    "data": among(library.SETS), "init_from": models,
} | {name: among(choices) for name, choices in CHOICES.items()}  # fmt: skip


def _option(name: str, help: str, *flags: str, envvar: str | None = None, **more: Any) -> Any:
    """A setting's flag. It is None where it is not given, so that a TOML file and a preset can say it."""
    default = _FIELDS[name]
    shown = False if default in (MISSING, None, "") else str(default)
    parser = a_path if name in ("data", "output") else None
    more = {"show_default": shown, "autocompletion": _COMPLETED.get(name)} | more
    return typer.Option(*flags, parser=parser, help=help, envvar=envvar, **more)


@dataclass(frozen=True)
class Run:
    """What is trained on what, to where."""

    task: Annotated[str | None, _option("task", "denoise, real, dejpeg, demosaic or raw.")] = None
    data: Annotated[
        list[Path] | None,
        _option("data", f"Folder of training images, or {', '.join(library.SETS)}; may be given more than once."),
    ] = None
    output: Annotated[
        Path | None, _option("output", "Folder for weights, checkpoint, log and report.", "-o", "--output")
    ] = None
    preset: Annotated[str | None, _option("preset", f"Settings to start from: {', '.join(PRESETS)}.")] = None
    minutes: Annotated[float | None, _option("minutes", "Length of the run.")] = None
    steps: Annotated[int | None, _option("steps", "Length of the run, instead of --minutes.")] = None
    seed: Annotated[int | None, _option("seed", "Of everything random.")] = None


@dataclass(frozen=True)
class Network:
    """What the network is, and what it starts from."""

    channels: Annotated[
        bool | None,
        _option("channels", "A model for gray or for colour images.", "--gray/--color", show_default="color"),
    ] = None
    variant: Annotated[str | None, _option("variant", f"{', '.join(VARIANTS)}.")] = None
    model: Annotated[
        list[str] | None,
        _option(
            "model",
            "A setting of the network, as outer_blocks=3; may be given more than once.",
            "--set",
            show_default=False,
        ),
    ] = None
    init_from: Annotated[
        str | None, _option("init_from", "Weight file or bundled model to start from, where shapes match.")
    ] = None
    small_residuals: Annotated[
        bool | None,
        _option("small_residuals", "Start with residuals near zero.", "--small-residuals/--no-small-residuals"),
    ] = None
    freeze: Annotated[bool | None, _option("freeze", "Train the stages of the graph only.", "--freeze/--no-freeze")] = (
        None
    )


@dataclass(frozen=True)
class Batches:
    """What every step sees."""

    sigma: Annotated[float | None, _option("sigma", "The one noise level to train for; default: 0-75.")] = None
    sigma_error: Annotated[
        float | None,
        _option("sigma_error", "In half of the crops the level told is off by up to this share; 0: none."),
    ] = None
    batch: Annotated[int | None, _option("batch", "Crops per step, over all processes.")] = None
    micro_batch: Annotated[int | None, _option("micro_batch", "Crops in memory at once; gradients add up.")] = None
    crop: Annotated[int | None, _option("crop", "Side of the square crops.")] = None
    scales: Annotated[
        list[float] | None, _option("scales", "Use the photos at this size too, as 0.5; may be given more than once.")
    ] = None


@dataclass(frozen=True)
class Optimisation:
    """What every step does."""

    loss: Annotated[str | None, _option("loss", "psnr (mean of ln MSE), mse or l1.")] = None
    optimizer: Annotated[str | None, _option("optimizer", "muon (with adam for what it does not take), or adam.")] = (
        None
    )
    lr: Annotated[float | None, _option("lr", "Highest learning rate.")] = None
    schedule: Annotated[str | None, _option("schedule", "cosine to zero, flat (to zero at the end), or step.")] = None
    halve_every: Annotated[int | None, _option("halve_every", "Steps, for --schedule step.")] = None
    warmup: Annotated[
        int | None, _option("warmup", "Steps over which the learning rate rises; at most a tenth of the run.")
    ] = None
    clip: Annotated[float | None, _option("clip", "Largest gradient norm; 0: any.")] = None
    ema: Annotated[float | None, _option("ema", "Decay of the averaged weights; 0: no average.")] = None


@dataclass(frozen=True)
class Machine:
    """How it is computed, and what is written of it."""

    device: Annotated[str | None, _option("device", "auto, cpu, cuda or mps.", envvar="DAGL_DEVICE")] = None
    precision: Annotated[str | None, _option("precision", "auto (measured), fp32 or bf16.")] = None
    compile: Annotated[str | None, _option("compile", "torch.compile: on, off, or auto (on CUDA).")] = None
    threads: Annotated[int | None, _option("threads", "CPU threads.")] = None
    workers: Annotated[int | None, _option("workers", "Processes that encode JPEGs; default: by the device.")] = None
    log_minutes: Annotated[float | None, _option("log_minutes", "Between rows of the log.")] = None
    save_minutes: Annotated[float | None, _option("save_minutes", "Between checkpoints and validations.")] = None
    tensorboard: Annotated[
        bool | None, _option("tensorboard", "Events for TensorBoard too.", "--tensorboard/--no-tensorboard")
    ] = None


@dataclass(frozen=True)
class Session:
    """What is no setting of the run."""

    config: Annotated[Path | None, typer.Option(parser=a_path, help="TOML file of settings; flags come first.")] = None
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the output folder.")] = False
    data_dir: DataDir = None
    quiet: Quiet = False


def train(
    context: typer.Context,
    run: Run,
    network: Network,
    batches: Batches,
    optimisation: Optimisation,
    machine: Machine,
    session: Session,
) -> None:
    """Train a model on folders of images. Ctrl-C saves; --resume continues.

    Without --data, on photographs that are fetched once; without --output, in runs/TASK-DATE.
    """
    given = {name: value for table in (run, network, batches, optimisation, machine) for name, value in _given(table)}
    resume, place = session.resume, session.data_dir or default_folder()
    silent = session.quiet or os.environ.get("RANK", "0") != "0"
    settings, said = _settings(given, session.config, resume, by_environment(context, "device"))
    for folder in (settings.output, *settings.output.parents):
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"`output` {settings.output}: {folder} is a file, give a folder")

    runs = presets.cases(settings)
    if len(runs) > 1:
        length = (
            f"{settings.minutes:g} minutes"
            if settings.minutes
            else f"{settings.steps} step" + "s" * (settings.steps != 1)
        )
        said.append(f"{len(runs)} networks, one after the other, {length} each")
    for line in said if not silent else ():
        say(with_flags(line, "train"))
    settings.data = [_fetched(folder, place, silent) for folder in settings.data]

    from ..training.series import train_all

    display = Display(settings.task, silent)
    command = shlex.join(["dagl", *(_last_name(argument) for argument in sys.argv[1:])])
    try:
        with display.bar:
            paths = train_all(
                settings, resume=resume, command=command, report=display.report, progress=display.progress
            )
    except KeyboardInterrupt as interrupt:
        how = "and saved" if interrupt.args else "at once, since the last checkpoint all is lost"
        if not any((each.output / "state.pt").exists() for each in runs):
            say("Interrupted before the run began: nothing was saved.", "yellow")
        elif not silent:
            say(f"Interrupted {how}: dagl train -o {settings.output} --resume continues.", "yellow")
        raise typer.Exit(130) from None
    for path in paths if not silent else ():
        say(f"Weights: {path}  Report: {path.with_name('report.html')}")


app.command()(flat(train))


def _given(table: Any) -> Iterator[tuple[str, Any]]:
    """(name, value) of the settings that the command line has."""
    for name, value in vars(table).items():
        if value not in (None, [], ()):
            yield name, list(value) if isinstance(value, tuple) else value


def _settings(
    given: dict[str, Any], config: Path | None, resume: bool, device_by_environment: bool
) -> tuple[TrainConfig, list[str]]:
    """From the flags, the TOML file `config`, and the run that is resumed; and lines about what nobody gave.

    Raises UsageError.
    """
    if "channels" in given:
        given["channels"] = 1 if given["channels"] else 3
    if "model" in given:
        given["model"] = presets.parse_set(given["model"])
    toml = presets.read_toml(config) if config else {}
    saved = None
    if resume:
        folder = given.get("output") or toml.get("output")
        if folder is None:
            raise UsageError("give `output`, the folder of the run that `resume` continues")
        if not (folder / "run.toml").is_file():
            raise UsageError(f"`output` {folder} holds no run to `resume`")
        saved = presets.read_toml(folder / "run.toml") | {"output": folder}
    if device_by_environment and "device" in toml | (saved or {}):
        del given["device"]
    more, chosen = ({}, []) if resume else presets.fallbacks(given, toml, date.today().isoformat())
    return presets.resolve(more | given, toml, saved), [f"Not given, so chosen: {line}" for line in chosen]


def _fetched(folder: Path, place: Path, quiet: bool) -> Path:
    """A folder of photographs; the name of a public set, where there is no such folder, becomes that of its copy."""
    entry = library.SETS.get(str(folder))
    if entry is None or folder.exists():
        return folder
    try:
        return fetch_photographs(entry, place, quiet)
    except DaglError as error:
        raise DaglError(f"{error}; or give `data`, a folder of your own photographs") from None


class Display:
    """What is seen of a run: a bar where there is a terminal, lines where there is none, and all messages.

    silent: show nothing.
    """

    def __init__(self, task: str, silent: bool) -> None:
        self.silent, self.live = silent, errors.is_terminal and not silent
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn(),
            TimeRemainingColumn(), TextColumn("{task.fields[state]}"), console=errors, disable=not self.live,
        )  # fmt: skip
        self.line = self.bar.add_task(task, total=1.0, state="")
        self.latest: dict[str, Any] = {}

    def report(self, row: dict[str, Any]) -> None:
        """A row of the log."""
        self.latest.update(row)
        if self.silent:
            return
        if "case" in row:
            say(f"{row['case']}: {row['number']} of {row['of']}")
            self.bar.update(self.line, description=row["case"])
        elif "left_out" in row:
            name, why = next(iter(row["left_out"].items()))
            count = len(row["left_out"])
            say(f"Left out: {count} file{'s' * (count > 1)}, such as {name} ({why})", "yellow")
        elif "init_from" in row:
            kinds = {"channels differ": "differ in channels", "fresh": "fresh", "unused": "unused"}
            more = ", ".join(f"{len(row[k])} {text}" for k, text in kinds.items() if row[k])
            few = " (too few for the same shape: see --variant)" if 2 * row["taken"] < row["of"] else ""
            say(f"From {row['init_from']}: {row['taken']} of {row['of']} tensors{few}" + (f"; {more}" if more else ""))
        elif "warning" in row:
            say(with_flags(f"warning {row['warning']}", "train"))
        elif not self.live or "step" not in row or "psnr" in row:
            say("  ".join(f"{k} {_shown(v)}" for k, v in row.items()))

    def progress(self, step: int, done: float) -> None:
        """After every step; done: the share of the run, 0-1."""
        names = ("steps_per_second", "loss", "psnr", "lr")
        latest = self.latest
        state = "  ".join(f"{k.replace('_per_second', '/s')} {_shown(latest[k])}" for k in names if latest.get(k))
        self.bar.update(self.line, completed=done, state=f"step {step:,}  {state}")


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _last_name(argument: str) -> str:
    """Without the folders of an absolute path: the command is saved with the weights."""
    flag = re.match(r"--[\w-]+=|-\w(?=.)|", argument)
    assert flag is not None
    value = argument[flag.end() :]
    return flag[0] + Path(value).name if os.path.isabs(value) else argument
