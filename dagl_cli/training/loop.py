"""Training, one explicit loop.

Batch i depends on the seed and on i alone, so that a resumed run, and a run of several processes (torchrun), goes the
same way as an uninterrupted run of one process.
"""

from __future__ import annotations

import copy
import itertools
import math
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .. import __version__
from ..errors import DaglError, UsageError, one_line
from ..files import clean, locked, write
from ..nn.model import DAGL, compiled
from ..restoring.device import is_out_of_memory
from ..store import weights
from . import presets
from .crops import Crops, Levels
from .degradations import ENCODED
from .log import Counters, Log, LogRow
from .optimise import LOSSES, autocast, faster_precision, learning_rate, optimizers_for
from .photos import Photos, load_photos
from .presets import TrainConfig
from .start import init_from, initialise
from .state import Saved, State, continued, read_state
from .validation import HeldOut, held_out_crops, validate
from .world import World, processes, stop_signals

MOST_BAD_BATCHES = 100
"""After so many batches in a row whose loss is not finite, a run is given up."""


@dataclass
class Job:
    """A run as one process has it: `state` is what changes and lasts, the rest is made anew when it is resumed."""

    world: World
    state: State
    crops: Crops
    held_out: list[HeldOut]
    network: nn.Module
    """The model, as it is run: compiled, distributed."""
    log: Log
    share: int
    """Crops of each batch that this process takes ..."""
    micro: int
    """... and how many of them at once."""
    workers: int
    photos: int
    """How many there are."""
    said: list[LogRow]
    """Messages for the beginning of the log."""
    batches: Iterator[tuple[int, Levels]] = field(default_factory=lambda: iter(()))
    """(step, what `crops` makes of it) from the step at hand on."""
    row_at: float = 0.0
    """Seconds into the run of the last row of the log ..."""
    saved_at: float = 0.0
    validated_at: float = 0.0
    validation: float = 0.0
    """... and how long the last validation took."""

    @property
    def config(self) -> TrainConfig:
        return self.state.config

    def done(self) -> float:
        """Share of the run, 0-1."""
        config, state = self.config, self.state
        return state.elapsed / (60 * config.minutes) if config.minutes is not None else state.step / (config.steps or 1)


def train(
    config: TrainConfig, *, resume: bool = False, command: str = "",
    report: Callable[[LogRow], None] = lambda row: None,
    progress: Callable[[int, float], None] = lambda step, done: None,
) -> Path:  # fmt: skip
    """Train and return the path of the averaged weights, `output/model.safetensors` (float16).

    `output` also gets `run.toml` (the settings), `state.pt` (to resume), `log.jsonl` and `report.html`.
    Started by torchrun, every process takes its share of each batch; the first one writes.

    command: the command line, saved with the weights; those of resumed runs follow the first one. report: called with
    every row of the log. progress: called after every step with the number of steps and the share of the run that is
    done.
    Raises UsageError for a folder that has a run already (without resume) or has none (with it), or that resumes
    with other settings or images; KeyboardInterrupt("saved") after SIGINT, SIGTERM or SIGHUP, when the run is saved,
    KeyboardInterrupt at once after a second one; DaglError when the numbers run away, memory does not suffice, the
    disk is full, or a checkpoint is damaged.
    """
    with processes(config.device) as world, stop_signals() as stop, ExitStack() as held:
        try:
            job = _opened(config, world, stop, held, resume, command, report)
            _loop(job, stop, progress)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise DaglError(f"out of memory on {world.device}: use a smaller `micro_batch`") from None
        except OSError as error:
            raise DaglError(
                f"`output` {config.output}: {one_line(error)} ({error.filename or 'while writing'}): make room, or "
                "choose another folder; what was saved before is whole"
            ) from None
    return config.output / "model.safetensors"


def _opened(
    config: TrainConfig, world: World, stop: threading.Event, held: ExitStack, resume: bool, command: str,
    report: Callable[[LogRow], None],
) -> Job:  # fmt: skip
    """The run, ready to go on, in a folder that is locked until `held` is closed and holds all of its files."""
    if config.threads:
        torch.set_num_threads(config.threads)
    there = world.rank == 0 and config.output.is_dir()
    if there:  # before the checkpoint is read: another process may be about to write it
        held.enter_context(alone(config.output))
    saved = read_state(config.output, resume)
    config = continued(config, saved) if saved else config
    job = prepare(config, world, saved, command, report if world.rank == 0 else None)
    held.callback(job.log.close)
    batches = job.crops.ahead(job.state.step, job.workers, stop)
    held.callback(batches.close)
    job.batches = itertools.chain([next(batches)], batches)  # workers that cannot start say so before a file is there
    world.wait()  # everyone has looked at the folder
    if world.rank == 0:
        if not there:
            config.output.mkdir(parents=True, exist_ok=True)
            held.enter_context(alone(config.output))
            read_state(config.output, resume)  # still empty?
        clean(config.output)  # of what a kill left half written
        job.log.clean()
        write(config.output / "run.toml", presets.to_toml(job.config).encode())
        for row in job.said:
            job.log.write(row)
        save(job)  # of a resumed run too: a kill may have come between the checkpoint and the weights
    return job


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Raises UsageError where another process has the folder."""
    with locked(folder / ".dagl-lock", wait=0) as mine:
        if not mine:
            raise UsageError(f"`output` {folder}: another process is training there")
        yield


def _loop(job: Job, stop: threading.Event, progress: Callable[[int, float], None]) -> None:
    """Step after step to the end. Raises KeyboardInterrupt("saved") if it was stopped."""
    world, state, config = job.world, job.state, job.config
    counters = Counters(state.step, state.skipped, world.device)
    clock = time.monotonic() - state.elapsed
    for state.step, levels in job.batches:
        state.elapsed, stopped = world.agree_on_time(time.monotonic() - clock, stop.is_set())
        finished = job.done() >= 1
        ended = finished or stopped
        due = ended or state.elapsed - job.row_at >= 60 * config.log_minutes
        if world.rank == 0 and due and state.step > counters.step:
            record(job, counters, clock, finished, stopped)
        if ended:
            break
        loss, wrong = step(job, levels)
        counters.add(loss, wrong)
        progress(state.step + 1, (state.step + 1) / config.steps if config.steps else job.done())
    if stopped:
        raise KeyboardInterrupt("saved")


# --- prepare ---------------------------------------------------------------------------------------------------------


def prepare(
    config: TrainConfig, world: World, saved: Saved | None, command: str, report: Callable[[LogRow], None] | None
) -> Job:
    """Photos, networks and optimizers, as new or as `saved`; nothing is written. Raises UsageError, DaglError."""
    if config.batch % world.size:
        raise UsageError(f"`batch` {config.batch} must be a multiple of the number of processes, {world.size}")
    share = config.batch // world.size
    micro = min(config.micro_batch or share, share)
    photos, held_out = _photos(config)
    if saved and saved["data"] != photos.fingerprint:
        raise UsageError("`data` holds other images than the run that `resume` continues")
    crops, workers = _crops(config, world, photos, share)
    said: list[LogRow] = [{"left_out": photos.left_out}] if photos.left_out else []
    if not held_out and not saved:
        why = "that takes eight, and crops of one, name_1 and name_2, count as one"
        said.append({"warning": f"no photo is held out for validation ({why}): there will be no PSNR"})
    state = _state(config, world, micro, photos.fingerprint, command, said, new=saved is None)
    if saved:
        state.take(saved)
    if world.device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    log = Log(state.config, report, state.step)
    job = Job(world, state, crops, held_out, state.model, log, share, micro, workers, len(photos.names), said)
    job.row_at = job.saved_at = job.validated_at = state.elapsed
    if config.compile == "on" or (config.compile == "auto" and world.device.type == "cuda"):
        _compile(job)
    if world.size > 1:
        job.network = DistributedDataParallel(job.network)
    return job


def _photos(config: TrainConfig) -> tuple[Photos, list[HeldOut]]:
    depth = 8 if config.task == "dejpeg" else 16
    try:
        training, held_out = load_photos(
            config.data, config.channels, config.crop + 8, depth=depth, scales=config.scales
        )
    except MemoryError:
        raise DaglError("`data` holds more photos than fit into memory: give fewer, or smaller ones") from None
    return training, held_out_crops(held_out, config.task, config.sigma)


def _crops(config: TrainConfig, world: World, photos: Photos, share: int) -> tuple[Crops, int]:
    """The crops of this process, and how many workers make them; the photos are cleared."""
    rows = slice(world.rank * share, (world.rank + 1) * share)
    on_cpu = config.task in ENCODED or not fits(photos, world.device)
    try:
        crops = Crops(
            photos, config.task, config.crop, config.batch, config.seed, rows=rows, sigma=config.sigma,
            sigma_error=config.sigma_error, device="cpu" if on_cpu else world.device,
        )  # fmt: skip
    except MemoryError:
        raise DaglError("`data` holds more photos than fit into memory: give fewer, or smaller ones") from None
    photos.images.clear()  # the crops have a copy
    workers = min(8, os.cpu_count() or 1) if world.device.type == "cuda" else 0
    return crops, (workers if config.workers is None else config.workers) if on_cpu else 0


def fits(photos: Photos, device: torch.device) -> bool:
    """Whether the photos leave at least half of the GPU's free memory to the training."""
    if device.type != "cuda":
        return True
    return 2 * sum(pixels.nbytes for pixels in photos.images) <= torch.cuda.mem_get_info(device)[0]


def _state(
    config: TrainConfig, world: World, micro: int, data: str, command: str, said: list[LogRow], *, new: bool
) -> State:
    """Networks and optimizers as a new run has them. new: whether weights to start from are needed."""
    torch.manual_seed(config.seed)
    model = DAGL(config.model_config())
    if config.small_residuals:
        initialise(model)
    if config.init_from and new:
        said.append(init_from(model, config.init_from, config))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("stages.") or not config.freeze)
    model = model.to(world.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(model).eval().requires_grad_(False)
    if config.precision == "auto":
        faster = faster_precision(micro, config.crop, world.device)
        config = replace(config, precision=world.agree(faster))
    return State(config, model, average, optimizers_for(model, config), data, command)


def _compile(job: Job) -> None:
    """torch.compile, tried on the batch at hand; without it, and a warning, where that fails."""
    degraded, clean, sigma = _batch(job, job.crops[job.state.step])
    part = slice(0, job.micro)
    try:
        job.network = compiled(job.state.model)
        _loss(job, degraded[part], clean[part], None if sigma is None else sigma[part]).backward()
    except Exception as error:
        job.network = job.state.model
        why = f"{type(error).__name__}: {one_line(error)}"
        job.said.append({"warning": f"not compiled, slower: {why[:200]} (`compile` off says so from the start)"})
    job.state.model.zero_grad()


# --- step ------------------------------------------------------------------------------------------------------------


def step(job: Job, levels: Levels) -> tuple[Tensor, Tensor]:
    """One step of the optimizers and of the average: (loss, 1 where the gradients are not finite and all stays, or 0).

    Nothing in it waits for the device.
    """
    state, config = job.state, job.config
    rate = learning_rate(config, state.step, job.done())
    for group in (group for optimizer in state.optimizers for group in optimizer.param_groups):
        group["lr"] = rate
    degraded, clean, sigma = _batch(job, levels)
    loss = torch.zeros((), device=job.world.device)
    for start in range(0, job.share, job.micro):
        part = slice(start, start + job.micro)
        last = start + job.micro >= job.share
        with nullcontext() if last or job.world.size == 1 else job.network.no_sync():  # type: ignore[operator]
            some = _loss(job, degraded[part], clean[part], None if sigma is None else sigma[part])
            some = some * (len(clean[part]) / job.share)
            some.backward()
        loss += some.detach()
    parameters = list(state.model.parameters())
    norm = nn.utils.clip_grad_norm_(parameters, config.clip or math.inf)
    wrong = (~torch.isfinite(norm)).float()
    for optimizer in state.optimizers:
        optimizer.found_inf = wrong  # type: ignore[attr-defined]  # the step does nothing where it is 1
        optimizer.step()
    state.model.zero_grad()
    decay = min(config.ema, (1 + state.step) / (10 + state.step))  # young averages forget the initial weights faster
    torch._foreach_lerp_(list(state.average.parameters()), [p.detach() for p in parameters], 1 - decay)
    return loss, wrong


def _batch(job: Job, levels: Levels) -> tuple[Tensor, Tensor, Tensor | None]:
    """The batch of the step at hand on the device of the training: degraded, clean, sigma."""
    there = tuple(t.to(job.world.device, non_blocking=True) for t in levels)
    degraded, clean, sigma = job.crops.degraded(there, job.state.step)
    return degraded.contiguous(memory_format=torch.channels_last), clean, sigma


def _loss(job: Job, degraded: Tensor, clean: Tensor, sigma: Tensor | None) -> Tensor:
    with autocast(job.config.precision, job.world.device):
        restored = job.network(degraded, sigma if job.state.model.config.noise_map else None)
    return LOSSES[job.config.loss](restored, clean)


# --- save ------------------------------------------------------------------------------------------------------------


def record(job: Job, counters: Counters, clock: float, finished: bool, stopped: bool) -> None:
    """A row of the log; with a checkpoint and a validation, where these are due. clock: when the run began.

    Raises DaglError when the numbers run away.
    """
    state, config = job.state, job.config
    state.skipped = counters.skipped
    bad = int(counters.bad_in_a_row)
    if bad >= min(MOST_BAD_BATCHES, max(1, state.step / 2) if finished else math.inf):
        raise DaglError(f"no loss is finite any more ({bad} steps): start again with `lr` below {config.lr:g}")
    steps, loss = counters.read(state.step)
    row: LogRow = {
        "step": state.step, "minutes": round(state.elapsed / 60, 3), "loss": loss,
        "lr": learning_rate(config, state.step, job.done()), "skipped": state.skipped,
        "steps_per_second": round(steps / max(1e-9, state.elapsed - job.row_at), 2),
    }  # fmt: skip
    job.row_at = state.elapsed
    saves = finished or stopped or state.elapsed - job.saved_at >= 60 * config.save_minutes
    if saves:
        save(job)
        # it takes a twentieth of the time at most, and keeps nobody waiting who has stopped the run
        due = state.elapsed - job.validated_at >= 20 * job.validation and not (stopped and job.validation > 10)
        if finished or due:
            row |= _validated(job)
            job.validated_at = time.monotonic() - clock
        job.saved_at = time.monotonic() - clock
    job.log.write(row, page=saves)


def _validated(job: Job) -> LogRow:
    start = time.monotonic()
    quality, restored = validate(job.state.average, job.held_out, job.world.device)
    job.log.crops = [(crop.degraded, crop.clean, y) for crop, y in zip(job.held_out, restored)]
    job.validation = time.monotonic() - start
    return quality


def save(job: Job) -> None:
    """`state.pt` and `model.safetensors`. Raises DaglError rather than save weights that are not finite."""
    state, config = job.state, job.config
    if not all(bool(torch.isfinite(p).all()) for p in state.average.parameters()):
        raise DaglError(f"the weights are not finite any more: start again with `lr` below {config.lr:g}")
    info: dict[str, Any] = {
        "version": __version__, "commit": commit(), "command": state.command, "training": config.named(),
        "step": state.step, "minutes": round(state.elapsed / 60, 2), "photos": job.photos, "data_sha256": state.data,
        "device": job.world.device.type, "precision": config.precision, "processes": job.world.size,
        "skipped_batches": state.skipped,
    }  # fmt: skip
    write(config.output / "state.pt", state.to_bytes())
    averaged = {k: v.half() for k, v in state.average.state_dict().items()}
    weights.save(config.output / "model.safetensors", averaged, state.model.config, info)


def commit() -> str | None:
    """The git commit of a checkout, with '+' if files differ from it; None for an installed package."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True).stdout

    try:
        return git("rev-parse", "HEAD").strip() + ("+" if git("status", "-s", "-uno", "dagl_cli") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
