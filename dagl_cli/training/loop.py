"""Training, one explicit loop.

Batch i depends on the seed and on i alone, so that a resumed run, and a run of several processes (torchrun), goes the
same way as an uninterrupted run of one process.
"""

from __future__ import annotations

import copy
import gc
import io
import json
import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .. import __version__, degrade
from ..errors import DaglError, UsageError, WeightsError
from ..files import write
from ..measuring import metrics
from ..measuring import report as pages
from ..nn.model import DAGL, ResBlock
from ..restoring import tiling
from ..restoring.device import is_out_of_memory, pick_device
from ..store import weights
from . import camera, muon, presets
from .photos import Crops, Photos, load_photos
from .presets import TrainConfig

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
FREE_ON_RESUME = {
    "data", "output", "minutes", "steps", "micro_batch", "compile", "device", "threads", "workers", "log_minutes",
    "save_minutes", "tensorboard",
}  # fmt: skip
"""Settings that a resumed run may change: how long and how it is computed, not what. --data is checked by content."""
MOST_BAD_BATCHES = 100
"""After so many batches in a row whose loss is not finite, a run is given up."""

Row = dict[str, Any]


def train(
    config: TrainConfig, *, resume: bool = False, command: str = "",
    report: Callable[[Row], None] = lambda row: None, progress: Callable[[int, float], None] = lambda step, done: None,
) -> Path:  # fmt: skip
    """Train and return the path of the averaged weights, `output/model.safetensors` (float16).

    `output` also gets `run.toml` (the settings), `state.pt` (to resume), `log.jsonl` and `report.html`.
    Started by torchrun, every process takes its share of each batch; the first one writes.

    command: the command line, saved with the weights; those of resumed runs follow the first one. report: called with
    every row of the log. progress: called after every step with the number of steps and the share of the run that is
    done.
    Raises UsageError for a folder that has a run already (without resume) or has none (with it), or that resumes
    with other settings or images; KeyboardInterrupt("saved") after SIGINT or SIGTERM, when the run is saved,
    KeyboardInterrupt at once after a second one; DaglError when the numbers run away, memory does not suffice, or the
    disk is full.
    """
    with processes(config.device) as world, stop_signals() as stop, ExitStack() as held:
        try:
            return _train(config, world, stop, held, resume, command, report, progress)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise DaglError(f"out of memory on {world.device}: use a smaller --micro-batch") from None
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise DaglError(
                f"-o {config.output}: {reason} ({error.filename or 'while writing'}): make room, or choose another "
                "folder; what was saved before is whole"
            ) from None


def _train(
    config: TrainConfig, world: World, stop: threading.Event, held: ExitStack, resume: bool, command: str,
    report: Callable[[Row], None], progress: Callable[[int, float], None],
) -> Path:  # fmt: skip
    state_path, model_path = config.output / "state.pt", config.output / "model.safetensors"
    if config.threads:
        torch.set_num_threads(config.threads)
    locked = world.rank == 0 and config.output.is_dir()
    if locked:  # before the checkpoint is read: another process may be about to write it
        held.enter_context(alone(config.output))
    state = read_state(config.output, resume)
    config = continued(config, state) if state else config
    if config.batch % world.size:
        raise UsageError(f"--batch {config.batch} must be a multiple of the number of processes, {world.size}")
    share = config.batch // world.size
    rows = slice(world.rank * share, (world.rank + 1) * share)
    micro = min(config.micro_batch or share, share)

    # data
    depth = 8 if config.task == "dejpeg" else 16
    shape, device = config.model_config(), world.device
    cuda, encodes = device.type == "cuda", config.task in ("dejpeg", "real")
    workers = config.workers if config.workers is not None else min(8, os.cpu_count() or 1) if cuda else 0
    try:
        training, held_out = load_photos(
            config.data, config.channels, config.crop + 8, depth=depth, scales=config.scales
        )
        if state and state["data"] != training.fingerprint:
            raise UsageError("--data holds other images than the run that --resume continues")
        beside = encodes or not fits(training, device)  # whether crops are made on the CPU
        crops = Crops(
            training, config.task, config.crop, config.batch, config.seed, rows=rows, sigma=config.sigma,
            sigma_error=config.sigma_error, device="cpu" if beside else device,
        )  # fmt: skip
    except MemoryError:
        raise DaglError("--data holds more photos than fit into memory: give fewer, or smaller ones") from None
    count = len(training.names)
    training.images.clear()  # the crops have a copy
    pairs = validation_pairs(held_out, config.task, 25.0 if config.sigma is None else config.sigma)

    # model
    torch.manual_seed(config.seed)
    model = DAGL(shape)
    if config.small_residuals:
        initialise(model)
    started_from = init_from(model, config.init_from, config) if config.init_from and not state else None
    model = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(model).eval().requires_grad_(False)
    if config.precision == "auto":
        config = replace(config, precision=world.agree(faster_precision(micro, config.crop, device)))
    optimizers = optimizers_for(model, config)
    step, elapsed, skipped = 0, 0.0, 0
    if state:
        if weights.misfits(model, state["model"]):
            raise UsageError(
                f"--output {config.output} holds a run of another version's '{config.variant}', a network of another "
                "shape: start a new run"
            )
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        step, elapsed, skipped = state["step"], state["elapsed"], state["skipped"]
        earlier = state.get("command", "")
        command = earlier if earlier.endswith(command) else " && ".join(c for c in (earlier, command) if c)
    if cuda:
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")

    def autocast() -> AbstractContextManager[Any]:
        dtype = DTYPES[config.precision]
        return torch.autocast(device.type, dtype) if dtype != torch.float32 else nullcontext()

    def loss_of(network: nn.Module, degraded: Tensor, clean: Tensor, sigma: Tensor | None) -> Tensor:
        with autocast():
            restored = network(degraded, sigma if shape.noise_map else None)
        return LOSSES[config.loss](restored, clean)

    log = Log(config, report if world.rank == 0 else None, step)
    network: nn.Module = model
    if config.compile == "on" or (config.compile == "auto" and cuda):
        trial, clean, sigma = crops.degraded(tuple(t.to(device) for t in crops[step]), step)
        trial = trial.contiguous(memory_format=torch.channels_last)[:micro]
        try:
            network = torch.compile(model)  # type: ignore[assignment]
            loss_of(network, trial, clean[:micro], None if sigma is None else sigma[:micro]).backward()
        except Exception as error:
            network = model
            why = f"{type(error).__name__}: {' '.join(str(error).split())}"
            log.write({"warning": f"not compiled, slower: {why[:200]} (--compile off says so from the start)"})
        model.zero_grad()
    if world.size > 1:
        network = DistributedDataParallel(network)

    def save() -> None:
        info = {
            "version": __version__, "commit": commit(), "command": command, "training": config.named(), "step": step,
            "minutes": round(elapsed / 60, 2), "photos": count, "data_sha256": training.fingerprint,
            "device": device.type, "precision": config.precision, "processes": world.size, "skipped_batches": skipped,
        }  # fmt: skip
        if not all(bool(torch.isfinite(p).all()) for p in average.parameters()):
            raise DaglError(f"the weights are not finite any more: start again with --lr below {config.lr:g}")
        buffer = io.BytesIO()
        torch.save(
            {
                "model": model.state_dict(), "average": average.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "step": step, "elapsed": elapsed, "skipped": skipped, "data": training.fingerprint,
                "settings": plain(config), "command": command,
            },
            buffer,
        )  # fmt: skip
        write(state_path, buffer.getbuffer())
        weights.save(model_path, {k: v.half() for k, v in average.state_dict().items()}, shape, info)

    def validate() -> Row:
        if not pairs:
            return {}
        tile, overlap = shape.tile

        def restore(x: Tensor, sigma: float | None) -> Tensor:
            run = partial(average, sigma=sigma if shape.noise_map else None)
            whole = tiling.overlap_blend(run, x[0], tile, overlap, shape.multiple, device)
            return whole[None].float().clamp(0, 1).cpu()

        with torch.no_grad():
            restored = [restore(x, s) for x, _, s in pairs]
        log.crops = [(x, clean, y) for (x, clean, _), y in zip(pairs, restored)]
        ssim = metrics.SSIM[config.task]
        quality = [(metrics.psnr(y[0], clean[0]), ssim(y[0], clean[0])) for y, (_, clean, _) in zip(restored, pairs)]
        means = [round(float(v), 4) if np.isfinite(v) else None for v in np.mean(quality, 0)]  # JSON has no NaN
        return dict(zip(("psnr", "ssim"), means))

    world.wait()  # everyone has looked at the folder
    if world.rank == 0:
        if not locked:
            config.output.mkdir(parents=True, exist_ok=True)
            held.enter_context(alone(config.output))
            read_state(config.output, resume)  # still empty?
        log.clean()
        write(config.output / "run.toml", presets.to_toml(config).encode())
        if training.left_out:
            log.write({"left_out": training.left_out})
        if not pairs and not state:
            why = "that takes eight, and crops of one, name_1 and name_2, count as one"
            log.write({"warning": f"no photo is held out for validation ({why}): there will be no PSNR"})
        if started_from:
            log.write(started_from)
        save()  # of a resumed run too: a kill may have come between the checkpoint and the weights

    # counters on the device: reading them every step would make the host wait for it
    total = torch.zeros((), device=device)
    good, bad, bad_in_a_row = (torch.zeros((), device=device) for _ in range(3))
    parameters, averaged = list(model.parameters()), list(average.parameters())
    clock = time.monotonic() - elapsed
    last_log, last_save, last_step, before = elapsed, elapsed, step, skipped
    last_validation, validation = elapsed, 0.0  # when, and how many seconds it took
    for step, levels in crops.ahead(step, workers if beside else 0):  # noqa: B020
        elapsed, stopped = world.agree_on_time(time.monotonic() - clock, stop.is_set())
        done = elapsed / (60 * config.minutes) if config.minutes is not None else step / (config.steps or 1)
        finished = done >= 1
        due = finished or stopped or elapsed - last_log >= 60 * config.log_minutes
        if world.rank == 0 and due and step > last_step:
            skipped = before + int(bad)
            if bad_in_a_row >= min(MOST_BAD_BATCHES, max(1, step / 2) if finished else math.inf):
                raise DaglError(
                    f"no loss is finite any more ({int(bad_in_a_row)} steps): start again with --lr below {config.lr:g}"
                )
            row = {
                "step": step, "minutes": round(elapsed / 60, 3),
                "loss": round(float(total / good), 4) if good else None,
                "lr": learning_rate(config, step, done), "skipped": skipped,
                "steps_per_second": round((step - last_step) / max(1e-9, elapsed - last_log), 2),
            }  # fmt: skip
            total.zero_()
            good.zero_()
            last_log, last_step = elapsed, step
            saves = finished or stopped or elapsed - last_save >= 60 * config.save_minutes
            if saves:
                save()
                # it takes a twentieth of the time at most, and keeps nobody waiting who has stopped the run
                if finished or (elapsed - last_validation >= 20 * validation and not (stopped and validation > 10)):
                    start_of_it = time.monotonic()
                    row |= validate()
                    validation = time.monotonic() - start_of_it
                    last_validation = time.monotonic() - clock
                last_save = time.monotonic() - clock
            log.write(row, page=saves)
        if finished or stopped:
            break

        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = learning_rate(config, step, done)
        degraded, clean, sigma = crops.degraded(tuple(t.to(device, non_blocking=True) for t in levels), step)
        degraded = degraded.contiguous(memory_format=torch.channels_last)
        loss = torch.zeros((), device=device)
        for start in range(0, share, micro):
            part = slice(start, start + micro)
            last = start + micro >= share
            with nullcontext() if last or world.size == 1 else network.no_sync():  # type: ignore[operator]
                some = loss_of(network, degraded[part], clean[part], None if sigma is None else sigma[part])
                some = some * (len(clean[part]) / share)
                some.backward()
            loss += some.detach()
        norm = nn.utils.clip_grad_norm_(parameters, config.clip or math.inf)
        wrong = (~torch.isfinite(norm)).float()
        for optimizer in optimizers:
            optimizer.found_inf = wrong  # type: ignore[attr-defined]  # the step does nothing where it is 1
            optimizer.step()
        model.zero_grad()
        decay = min(config.ema, (1 + step) / (10 + step))  # young averages forget the initial weights faster
        torch._foreach_lerp_(averaged, [p.detach() for p in parameters], 1 - decay)
        total += torch.where(wrong > 0, torch.zeros_like(loss), loss)
        good += 1 - wrong
        bad += wrong
        bad_in_a_row = (bad_in_a_row + wrong) * wrong
        progress(step + 1, (step + 1) / config.steps if config.steps else done)
    log.close()
    if stopped:
        raise KeyboardInterrupt("saved")
    return model_path


# --- what is optimised -----------------------------------------------------------------------------------------------


def psnr_loss(restored: Tensor, clean: Tensor) -> Tensor:
    """Mean over the crops of ln MSE: what PSNR measures, so that every noise level and quality counts the same.

    (B, C, H, W) both. The floor, (1/255)², keeps crops that are already perfect from dominating.
    """
    error = (restored.float() - clean).square().mean((1, 2, 3))
    return (error + 255**-2).log().mean()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "psnr": psnr_loss,
    "mse": lambda restored, clean: (restored.float() - clean).square().mean(),
    "l1": lambda restored, clean: (restored.float() - clean).abs().mean(),
}


def optimizers_for(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Adam for all parameters; with `muon` for what it does not take. Both leave out a step whose `found_inf` is 1."""
    kernels, rest = muon.split(model) if config.optimizer == "muon" else ([], list(model.parameters()))
    own = [muon.Muon(kernels, lr=config.lr, dtype=DTYPES[config.precision])] if kernels else []
    return [*own, torch.optim.Adam(rest, lr=config.lr, fused=True)]


def learning_rate(config: TrainConfig, step: int, done: float) -> float:
    """done: share of the run, 0-1."""
    warm = min(1.0, max((step + 1) / max(1, config.warmup), 10 * done))
    if config.schedule == "step":
        return config.lr * warm * 0.5 ** (step // config.halve_every)
    return config.lr * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def fits(photos: Photos, device: torch.device) -> bool:
    """Whether the photos leave at least half of the GPU's free memory to the training."""
    if device.type != "cuda":
        return True
    return 2 * sum(pixels.nbytes for pixels in photos.images) <= torch.cuda.mem_get_info(device)[0]


def faster_precision(batch: int, crop: int, device: torch.device) -> str:
    """'bf16' where this machine convolves faster with it (CPUs with AMX, GPUs), 'fp32' elsewhere: measured.

    By turns, and the best of each counts: other work on the machine must not decide it.
    """
    x = torch.rand(batch, 64, crop // 2, crop // 2, device=device)
    layer = nn.Conv2d(64, 64, 3, padding=1, device=device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    seconds = dict.fromkeys(DTYPES, math.inf)
    for _ in range(5):
        for name, dtype in DTYPES.items():
            start = time.perf_counter()
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                for _ in range(5):
                    layer(x).float().sum().backward()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    return min(seconds, key=lambda name: seconds[name])


def initialise(model: DAGL) -> None:
    """Small initial residuals: every branch that is added to its input starts near zero, the graph at zero."""
    with torch.no_grad():
        for block in [m for m in model.modules() if isinstance(m, ResBlock)]:
            block.get_parameter("conv2.weight").mul_(0.1)
        for stage in model.stages:
            stage.get_parameter("merge.weight").zero_()
            stage.get_parameter("merge.bias").zero_()
        model.conv_out.weight.mul_(0.1)


def init_from(model: DAGL, source: str, config: TrainConfig) -> Row:
    """Take every tensor of equal name and shape from a weight file or bundled model; what became of the others.

    'channels differ': tensors of the first and last layers that have another number of input or output channels;
    'fresh': the model's other tensors that the file lacks; 'unused': those of the file that have no place.
    Raises WeightsError.
    """
    try:
        path = weights.resolve(source, config.task, config.channels)
        other, own = weights.load(path)[0].state_dict(), model.state_dict()
    except WeightsError as error:
        raise WeightsError(f"--init-from {str(error).removeprefix('--model ')}") from None
    matching = {k: v for k, v in other.items() if k in own and own[k].shape == v.shape}
    if not matching:
        raise WeightsError(f"--init-from {source}: no tensor fits this model: choose one of the same variant")
    model.load_state_dict(matching, strict=False)
    left = own.keys() - matching.keys()
    channels = {k for k in left if k in other and k.startswith(("conv_in.", "conv_out."))}
    return {
        "init_from": path.name, "taken": len(matching), "of": len(own), "channels differ": sorted(channels),
        "fresh": sorted(left - channels), "unused": sorted(other.keys() - matching.keys() - channels),
    }  # fmt: skip


# --- more than one process, signals ----------------------------------------------------------------------------------


@dataclass
class World:
    """The processes of a run, as torchrun's environment variables describe them; one without them."""

    rank: int
    size: int
    device: torch.device

    def agree(self, text: str) -> str:
        """The first process's text."""
        if self.size == 1:
            return text
        box = [text]
        dist.broadcast_object_list(box, device=torch.device("cpu"))
        return box[0]

    def agree_on_time(self, seconds: float, stop: bool) -> tuple[float, bool]:
        """The first process's clock and whether to stop, so that all have the same learning rate and end together."""
        if self.size == 1:
            return seconds, stop
        box = torch.tensor([seconds, stop], dtype=torch.float64)
        dist.broadcast(box, 0)  # over gloo, on the CPU: no wait for the GPU
        return float(box[0]), bool(box[1])

    def wait(self) -> None:
        if self.size > 1:
            dist.broadcast(torch.zeros(1), 0)
            self.agree_on_time(0.0, False)


@contextmanager
def processes(device: str) -> Iterator[World]:
    """Joins the other processes of torchrun, if there are any."""
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        yield World(0, 1, pick_device(device))
        return
    where = pick_device(device)
    if where.type == "cuda":
        if (local := int(os.environ["LOCAL_RANK"])) >= torch.cuda.device_count():
            raise UsageError(f"torchrun --nproc-per-node is more than the {torch.cuda.device_count()} GPUs here")
        where = torch.device("cuda", local)
        torch.cuda.set_device(where)
    dist.init_process_group("cpu:gloo,cuda:nccl" if where.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), size, where)
    finally:
        dist.destroy_process_group()
        # DistributedDataParallel lies in a cycle and holds the group, whose threads abort if they outlive Python
        gc.collect()


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set, so that the step at hand is finished. The second one stops at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    former = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


# --- files -----------------------------------------------------------------------------------------------------------


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """A lock on the folder, which ends with the process; none where there are no such locks. Raises UsageError."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"--output {folder}: another process is training there") from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(number)


def plain(config: TrainConfig) -> Row:
    """The settings without types of this package, as `state.pt` holds them."""
    return asdict(config) | {"data": [str(folder) for folder in config.data], "output": str(config.output)}


def read_state(output: Path, resume: bool) -> dict[str, Any] | None:
    """The checkpoint to resume from; None for a new run. Raises UsageError, DaglError."""
    path = output / "state.pt"
    if path.exists() != resume:
        hint = "holds a run already: --resume continues it" if not resume else "holds no run to --resume"
        raise UsageError(f"--output {output} {hint}")
    if not resume:
        return None
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        missing = {"model", "average", "optimizers", "step", "elapsed", "data"} - state.keys()
        if missing or state["settings"].keys() != {f.name for f in fields(TrainConfig)}:
            raise KeyError
    except Exception as error:  # a damaged file fails in many ways
        raise DaglError(f"{path}: not a checkpoint of this version ({type(error).__name__}): start a new run") from None
    return state


def continued(config: TrainConfig, state: Row) -> TrainConfig:
    """config, to resume the run that `state` was saved of. Raises UsageError if it would go another way, or not on."""
    saved = state["settings"]
    if config.precision == "auto":
        config = replace(config, precision=saved["precision"])
    new = plain(config)
    for name, value in saved.items():
        if name not in FREE_ON_RESUME and new[name] != value:
            raise UsageError(
                f"{presets.flag(name)} {_as_given(new[name])} differs from the run in {config.output} "
                f"({_as_given(value)}): leave it out to resume, or start a new run"
            )
    for name, reached in (("steps", state["step"]), ("minutes", state["elapsed"] / 60)):
        if new[name] is not None and new[name] != saved[name] and new[name] <= reached:
            raise UsageError(
                f"--{name} {new[name]:g}: the run in {config.output} has had {reached:.4g} {name} already: give more"
            )
    return config


def _as_given(value: Any) -> Any:
    """A setting as its flag takes it."""
    if value is None:
        return "not given"
    return ", ".join(f"{k}={v}" for k, v in value.items()) or "nothing" if isinstance(value, dict) else value


def commit() -> str | None:
    """The git commit of a checkout, with '+' if files differ from it; None for an installed package."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True).stdout

    try:
        return git("rev-parse", "HEAD").strip() + ("+" if git("status", "--porcelain", "-uno", "dagl_cli") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


class Log:
    """`log.jsonl`, `report.html` and, if wanted, TensorBoard's events.

    Args:
        report: called with each row; None: this process writes nothing.
        step: where the run goes on.
    """

    def __init__(self, config: TrainConfig, report: Callable[[Row], None] | None, step: int) -> None:
        self.config, self.report, self.step = config, report, step
        self.path = config.output / "log.jsonl"
        self.crops: list[tuple[Tensor, Tensor, Tensor]] = []
        """(degraded, clean, restored) of the last validation."""
        self.board = None
        if config.tensorboard and report:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise UsageError("--tensorboard needs a package: pip install 'dagl[tensorboard]'") from None
            self.board = SummaryWriter(str(config.output))

    def rows(self) -> list[Row]:
        """All rows that are whole."""
        rows = []
        for line in self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []:
            try:
                rows.append(json.loads(line))
            except ValueError:  # a kill while writing
                continue
        return rows

    def clean(self) -> None:
        """Drops what a killed run logged after its last checkpoint."""
        rows = [json.dumps(row) + "\n" for row in self.rows() if row.get("step", 0) <= self.step]
        write(self.path, "".join(rows).encode())

    def write(self, row: Row, *, page: bool = False) -> None:
        """page: make `report.html` anew."""
        if not self.report:
            return
        self.config.output.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if self.board and "step" in row:
            for name in row.keys() - {"step"}:
                if row[name] is not None:
                    self.board.add_scalar(name, row[name], row["step"])
        if page:
            self.page()
        self.report(row)

    def page(self) -> None:
        """`report.html`: learning curves, settings, before and after."""
        rows, ssim = (
            [row for row in self.rows() if "step" in row],
            metrics.SSIM[self.config.task],
        )

        def curve(title: str, unit: str, key: str) -> pages.Curve:
            points = [(float(row["step"]), float(row[key])) for row in rows if row.get(key) is not None]
            return pages.Curve(title, "step", unit, {key: points})

        def picture(i: int, degraded: Tensor, clean: Tensor, restored: Tensor) -> pages.Picture:
            versions = {"degraded": degraded.clamp(0, 1), "restored": restored, "original": clean}
            return pages.Picture(
                f"held out {i + 1}",
                {k: (v[0].permute(1, 2, 0) * 255).round().byte().numpy().squeeze() for k, v in versions.items()},
                {
                    k: {"PSNR": metrics.psnr(v[0], clean[0]), "SSIM": ssim(v[0], clean[0])}
                    for k, v in versions.items()
                    if k != "original"
                },
            )

        units = {"psnr": "mean of ln MSE", "mse": "MSE", "l1": "mean absolute error"}
        settings = [[k, str(v)] for k, v in self.config.named().items() if v is not None]
        page = pages.html(
            f"Training: {self.config.task}, {self.config.output.resolve().name}",
            notes=[f"dagl {__version__}; step {rows[-1]['step']:,}; held-out crops, averaged weights"] if rows else [],
            tables=[pages.Table("Settings", ["setting", "value"], [list(row) for row in settings])],
            curves=[curve("PSNR of held-out photos", "dB", "psnr"), curve("Loss", units[self.config.loss], "loss")],
            pictures=[picture(i, *crop) for i, crop in enumerate(self.crops[:4])],
        )
        pages.save(self.config.output / "report.html", page)

    def close(self) -> None:
        if self.board:
            self.board.close()


def validation_pairs(photos: Photos, task: str, sigma: float) -> list[tuple[Tensor, Tensor, float | None]]:
    """(degraded, clean, sigma) of the held-out photos' centres, 192x192, one fixed degradation each."""
    pairs: list[tuple[Tensor, Tensor, float | None]] = []
    for pixels in photos.images:
        top, left = ((s - min(192, s)) // 2 // 2 * 2 for s in pixels.shape[:2])
        pixels = pixels[top : top + 192, left : left + 192]
        clean = torch.from_numpy((pixels / np.iinfo(pixels.dtype).max).astype(np.float32)).permute(2, 0, 1)[None]
        level = None
        if task == "dejpeg":
            jpeg = degrade.jpeg(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels, 10)
            degraded = torch.from_numpy(jpeg.reshape(pixels.shape).copy()).permute(2, 0, 1)[None].float() / 255
        elif task == "demosaic":
            degraded = degrade.bayer_mosaic(clean)
        elif task == "real":
            noisy, clean = (x[None] for x in camera.noisy_pair(clean[0], np.random.default_rng(len(pairs))))
            degraded, level = noisy, 255 * float((noisy - clean).square().mean().sqrt())
        else:
            level, degraded = sigma, degrade.paper_noise(clean, sigma)
        pairs.append((degraded, clean, level))
    return pairs
