"""What is optimised, and how: losses, optimizers, learning rate, precision."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..restoring.device import seconds
from . import muon
from .presets import TrainConfig

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
FALL = 0.15
"""Share of a run at the end of which a 'flat' learning rate falls to zero."""


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
    kernels, rest = muon.kernels_and_rest(model) if config.optimizer == "muon" else ([], list(model.parameters()))
    kernels, rest = ([p for p in group if p.requires_grad] for group in (kernels, rest))
    own = [muon.Muon(kernels, lr=config.lr, dtype=DTYPES[config.precision])] if kernels else []
    return [*own, torch.optim.Adam(rest, lr=config.lr, fused=True)]


def learning_rate(config: TrainConfig, step: int, done: float) -> float:
    """done: share of the run, 0-1."""
    warm = min(1.0, max((step + 1) / max(1, config.warmup), 10 * done))
    if config.schedule == "step":
        return config.lr * warm * 0.5 ** (step // config.halve_every)
    if config.schedule == "flat":
        return config.lr * warm * min(1.0, (1 - min(1.0, done)) / FALL)
    return config.lr * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """What the network runs in at a precision, a key of `DTYPES`."""
    return torch.autocast(device.type, DTYPES[precision]) if precision != "fp32" else nullcontext()


def faster_precision(batch: int, crop: int, device: torch.device) -> str:
    """'bf16' where this machine convolves faster with it (CPUs with AMX, GPUs), 'fp32' elsewhere: measured."""
    x = torch.rand(batch, 64, crop // 2, crop // 2, device=device)
    layer = nn.Conv2d(64, 64, 3, padding=1, device=device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def steps(name: str) -> None:
        with autocast(name, device):
            for _ in range(5):
                layer(x).float().sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    spent = seconds({name: functools.partial(steps, name) for name in DTYPES})
    return min(spent, key=lambda name: spent[name])
