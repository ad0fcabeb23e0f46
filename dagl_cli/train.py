"""Training, one explicit loop."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from . import __version__, degrade, weights
from .config import ModelConfig, model_config
from .data import Crops, Photos, load_photos
from .errors import UsageError, WeightsError
from .metrics import psnr
from .model import DAGL


@dataclass
class TrainConfig:
    """Everything that decides a run's result, saved with the weights."""

    task: str
    data: list[Path]
    output: Path
    channels: int = 1
    variant: str = "lite"
    model: dict[str, Any] = field(default_factory=dict)
    """Settings of `ModelConfig` that differ from the variant's."""
    minutes: float | None = None
    """Length of the run; the learning rate falls to zero over it. Exactly one of minutes and steps."""
    steps: int | None = None
    batch: int = 8
    crop: int = 64
    lr: float = 1e-3
    warmup: int = 300
    """Steps over which the learning rate rises."""
    clip: float = 0.5
    """Largest gradient norm."""
    ema: float = 0.999
    seed: int = 0
    precision: str = "auto"
    """'fp32', 'bf16', or 'auto': the faster one, measured at the start."""
    device: str = "cpu"
    init_from: Path | None = None
    """Weights to start from: tensors of equal name and shape are taken, the rest stays fresh."""
    save_minutes: float = 2.0

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.steps is None):
            raise UsageError("give exactly one of --minutes and --steps")
        if self.crop % 2 or self.crop < 16:
            raise UsageError(f"--crop must be even and at least 16, not {self.crop}")

    def model_config(self) -> ModelConfig:
        base = model_config(self.variant, self.task, self.channels).to_dict()
        return ModelConfig.from_dict(base | self.model)


def loss_function(restored: Tensor, clean: Tensor) -> Tensor:
    """Mean over the crops of ln MSE: what PSNR measures, so that every noise level and quality counts the same.

    (B, C, H, W) both. The floor, (1/255)², keeps crops that are already perfect from dominating.
    """
    error = (restored.float() - clean).square().mean((1, 2, 3))
    return (error + 255**-2).log().mean()


def faster_precision(model: nn.Module, config: TrainConfig) -> torch.dtype:
    """bfloat16 where this machine convolves faster with it (CPUs with AMX, GPUs), float32 elsewhere: measured."""
    if config.precision != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16}[config.precision]
    x = torch.rand(config.batch, 64, config.crop // 2, config.crop // 2, device=config.device)
    layer = nn.Conv2d(64, 64, 3, padding=1, device=config.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast(config.device, dtype, enabled=dtype != torch.float32):
            for _ in range(3):
                start = time.perf_counter()
                for _ in range(5):
                    layer(x).float().sum().backward()
                if config.device == "cuda":
                    torch.cuda.synchronize()
                seconds[dtype] = time.perf_counter() - start
    return min(seconds, key=lambda d: seconds[d])


def initialise(model: DAGL) -> None:
    """Small initial residuals: every branch that is added to its input starts near zero, the graph at zero."""
    with torch.no_grad():
        for block in model.blocks:
            block.get_parameter("conv2.weight").mul_(0.1)
        for stage in model.stages:
            stage.get_parameter("merge.weight").zero_()
            stage.get_parameter("merge.bias").zero_()
        model.conv_out.weight.mul_(0.1)


def init_from(model: DAGL, path: Path) -> list[str]:
    """Take every tensor of equal name and shape from another weight file; returns the names left as they were."""
    other = weights.load(path)[0].state_dict()
    own = model.state_dict()
    matching = {k: v for k, v in other.items() if k in own and own[k].shape == v.shape}
    if not matching:
        raise WeightsError(f"--init-from {path}: no tensor fits this model")
    model.load_state_dict(matching, strict=False)
    return sorted(own.keys() - matching.keys())


def validation_pairs(photos: Photos, task: str) -> list[tuple[Tensor, Tensor, float | None]]:
    """(degraded, clean, sigma) of up to 8 held-out photos' centres, 192x192, one fixed degradation each."""
    pairs = []
    for pixels in photos.images[:8]:
        top, left = ((s - min(192, s)) // 2 // 2 * 2 for s in pixels.shape[:2])
        pixels = pixels[top : top + 192, left : left + 192]
        clean = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
        sigma = None
        if task == "dejpeg":
            jpeg = degrade.jpeg(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels, 10)
            degraded = torch.from_numpy(jpeg.reshape(pixels.shape).copy()).permute(2, 0, 1)[None].float() / 255
        elif task == "demosaic":
            degraded = degrade.bayer_mosaic(clean)
        elif task == "real":
            degraded = degrade.camera_noise(clean, 0.004, 1e-4, generator=torch.Generator().manual_seed(1))
        else:
            sigma, degraded = 25.0, degrade.paper_noise(clean, 25.0)
        pairs.append((degraded, clean, sigma))
    return pairs


def train(
    config: TrainConfig, *, resume: bool = False, report: Callable[[dict[str, Any]], None] = lambda row: None
) -> Path:
    """Train and return the path of the averaged weights, `output/model.safetensors` (float16).

    `output` also gets `state.pt` (to resume), `log.jsonl`. report: called with every row of the log.
    Raises UsageError for a folder that has a run already (without resume) or has none (with it).
    """
    config.output.mkdir(parents=True, exist_ok=True)
    state_path, model_path = config.output / "state.pt", config.output / "model.safetensors"
    if state_path.exists() != resume:
        hint = "holds a run already: --resume continues it" if not resume else "holds no run to --resume"
        raise UsageError(f"--output {config.output} {hint}")

    torch.manual_seed(config.seed)
    shape = config.model_config()
    model = DAGL(shape)
    initialise(model)
    fresh = init_from(model, config.init_from) if config.init_from else []
    training, validation = load_photos(config.data, config.channels, config.crop + 8)
    crops = Crops(training, config.task, config.crop, config.batch, config.seed)
    pairs = validation_pairs(validation, config.task)
    model = model.to(config.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema))
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr, fused=True)
    precision = faster_precision(model, config)
    autocast = torch.autocast(config.device, precision) if precision != torch.float32 else nullcontext()
    step, elapsed, skipped = 0, 0.0, 0
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items()}
    settings["data"] = [folder.name for folder in config.data]
    settings["output"] = config.output.name
    settings["init_from"] = config.init_from.name if config.init_from else None

    if resume:
        state = torch.load(state_path, weights_only=True, map_location=config.device)
        if state["data"] != training.fingerprint:
            raise UsageError("--data holds other images than the run that --resume continues")
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step, elapsed, skipped = state["step"], state["elapsed"], state["skipped"]
        crops.generator.set_state(state["generator"].cpu())
        crops.random.bit_generator.state = json.loads(state["random"])

    def save() -> None:
        info = {
            "version": __version__, "training": settings, "step": step, "minutes": round(elapsed / 60, 2),
            "photos": len(training.images), "data_sha256": training.fingerprint, "precision": str(precision),
            "skipped_batches": skipped,
        }  # fmt: skip
        temporary = state_path.with_suffix(".tmp")
        torch.save(
            {
                "model": model.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict(),
                "step": step, "elapsed": elapsed, "skipped": skipped, "data": training.fingerprint,
                "generator": crops.generator.get_state(), "random": json.dumps(crops.random.bit_generator.state),
            },
            temporary,
        )  # fmt: skip
        os.replace(temporary, state_path)
        weights.save(model_path, {k: v.half() for k, v in average.module.state_dict().items()}, shape, info)

    def log(row: dict[str, Any]) -> None:
        with open(config.output / "log.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")
        report(row)

    def validate() -> float | None:
        if not pairs:
            return None
        with torch.no_grad():
            return sum(
                psnr(average.module(x.to(config.device), s).clamp(0, 1).cpu(), clean) for x, clean, s in pairs
            ) / len(pairs)

    if fresh:
        log({"init_from": str(config.init_from), "fresh": fresh})
    last_save, losses = elapsed, list[float]()
    clock = time.monotonic() - elapsed
    try:
        while True:
            elapsed = time.monotonic() - clock
            done = elapsed / (60 * config.minutes) if config.minutes else step / (config.steps or 1)
            if done >= 1:
                break
            if elapsed - last_save > 60 * config.save_minutes:
                save()
                last_save = elapsed
                loss_mean = sum(losses) / max(1, len(losses))
                log({"step": step, "minutes": round(elapsed / 60, 2), "loss": round(loss_mean, 4), "psnr": validate()})
                losses = []
            rate = config.lr * 0.5 * (1 + math.cos(math.pi * done)) * min(1.0, (step + 1) / config.warmup)
            for group in optimizer.param_groups:
                group["lr"] = rate

            degraded, clean, sigma = crops.batch()
            degraded = degraded.to(config.device, memory_format=torch.channels_last)
            clean = clean.to(config.device)
            with autocast:
                restored = model(degraded, None if sigma is None else sigma.to(config.device))
            loss = loss_function(restored, clean)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            if bool(torch.isfinite(norm)):
                optimizer.step()
                average.update_parameters(model)
                losses.append(float(loss.detach()))
            else:
                skipped += 1
            optimizer.zero_grad()
            step += 1
    finally:  # Ctrl-C saves too
        save()
    log({"step": step, "minutes": round(elapsed / 60, 2), "skipped": skipped, "psnr": validate()})
    return model_path
