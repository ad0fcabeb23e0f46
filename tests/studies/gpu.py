"""Parity, precision, memory and speed on a GPU, in one run (not a test: `python tests/studies/gpu.py --help`).

    python tests/studies/gpu.py --release DIR > gpu.md

DIR is the folder DN_Gray of a checkout of the authors' repository; without --release only ours is timed. Weights are
random, the same for all. `--device cpu --sizes 64` tries the script itself.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import torch
from torch import Tensor

from dagl_cli.config import Options, model_config
from dagl_cli.errors import DaglError
from dagl_cli.nn.model import DAGL
from dagl_cli.restoring import tiling
from dagl_cli.restoring.device import is_out_of_memory
from dagl_cli.restoring.restorer import Forward, Restorer, load_model
from dagl_cli.store.release import convert_released, released_config


def kernel(wanted: bool) -> AbstractContextManager[object]:
    """With the Triton kernels, or without."""
    return patch("dagl_cli.nn.streaming._kernels_are_faster", lambda dtype, device: wanted)


def compile_now(restorer: Restorer, run: Callable[[], object]) -> None:
    """So that the restorer runs the compiled network from now on, faster or not."""
    restorer.forward = Forward(restorer.model, measure=lambda candidates: {"compiled": 0.0, "plain": 1.0})
    run()
    restorer.forward.worked(math.inf)


def measured(device: torch.device, run: Callable[[], object], repeat: int) -> tuple[float, float]:
    """(seconds, peak GB) of the fastest of some runs, after one to warm up."""
    run()
    best = math.inf
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for _ in range(repeat):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return best, torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else math.nan


@dataclass
class Table:
    """Rows of seconds and memory, printed as they come; the first one is what the others are compared with."""

    title: str
    device: torch.device
    pixels: int
    repeat: int
    first: float = 0.0

    def __post_init__(self) -> None:
        print(f"\n| {self.title} | seconds | s/MP | times faster | peak GB |\n|---|---|---|---|---|")

    def row(self, name: str, run: Callable[[], object]) -> None:
        try:
            seconds, peak = measured(self.device, run, self.repeat)
        except (DaglError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            print(f"| {name} | out of memory | | | |", flush=True)
            return
        self.first = self.first or seconds
        figures = f"{seconds:.3f} | {seconds / self.pixels * 1e6:.3f} | {self.first / seconds:.1f} | {peak:.2f}"
        print(f"| {name} | {figures} |", flush=True)


def decibels(a: Tensor, b: Tensor) -> float:
    return -10 * math.log10(max(float((a - b).square().mean()), 1e-20))


def parity(device: torch.device, paper: DAGL, side: int) -> None:
    """How far the device, the kernel and each precision are from float32 on the CPU."""
    torch.manual_seed(1)
    x = torch.rand(1, side, side)
    print(f"\n| {side}x{side}, against fp32 on the CPU | largest difference | dB |\n|---|---|---|")
    default = load_model("denoise", 1).model
    for network, said, level in ((paper, "paper", None), (default, "denoise-gray", 25.0)):
        expected = Restorer(network, Options(device="cpu"))(x, level)
        for precision in ("fp32", "bf16", "fp16"):
            for fused in (False, True) if network is paper else (False,):
                with kernel(fused):
                    got = Restorer(network, Options(device=str(device), precision=precision))(x, level)
                name = f"{said}, {precision}, {'kernel' if fused else 'torch'}"
                apart = f"{float((got - expected).abs().max()):.1e} | {decibels(got, expected):.1f}"
                print(f"| {name} | {apart} |", flush=True)


def speed(
    device: torch.device, paper: DAGL, theirs: torch.nn.Module | None, size: int, repeat: int, compiles: bool
) -> None:  # fmt: skip
    """Seconds and memory of one gray image."""
    x, table = torch.rand(1, size, size), Table(f"{size}x{size} gray", device, size * size, repeat)
    on_gpu = device.type == "cuda"
    if theirs is not None:
        with torch.inference_mode():
            network = theirs.to(device)
            table.row("release, chop", lambda: tiling.chop(network, x, device=device))
            theirs.cpu()
    for precision in ("fp32", "bf16"):
        for fused, compiled in ((False, False), (True, False), (True, True))[: 2 + compiles]:
            restorer = Restorer(paper, Options(device=str(device), precision=precision))
            name = f"ours, paper, {precision}, {'kernel' if fused else 'torch'}{', compiled' if compiled else ''}"
            with kernel(fused):
                if compiled:
                    compile_now(restorer, partial(restorer, x))
                table.row(name, partial(restorer, x))
    for variant in ("dagl", "unet-deep"):
        model = DAGL(model_config(variant, "denoise", 1)).eval()
        for compiled in (False, True)[: 1 + compiles]:
            restorer = Restorer(model, Options(device=str(device)))
            if compiled:
                compile_now(restorer, partial(restorer, x, 25.0))
            name = f"ours, {variant}, {'bf16' if on_gpu else 'fp32'}{', compiled' if compiled else ''}"
            table.row(name, partial(restorer, x, 25.0))


def batches(device: torch.device, paper: DAGL, size: int, repeat: int) -> None:
    """Tiles one by one, in fixed batches, and in those that free memory is found to hold."""
    x, table = torch.rand(1, size, size), Table(f"`paper`, {size}x{size}, tiles at once", device, size * size, repeat)
    for most in (1, 4, 16, 64):
        restorer = Restorer(paper, Options(device=str(device)))
        restorer.most = most
        table.row(f"at most {most}", partial(restorer, x))


def training(device: torch.device, crops: int, repeat: int, compiles: bool) -> None:
    """One step of `dagl train --preset release`: forward, loss, backward, Adam."""
    table = Table(f"a step of {crops} crops of 64x64", device, crops * 64 * 64, repeat)
    for precision in (torch.float32, torch.bfloat16):
        for compiled in (False, True)[: 1 + compiles]:
            torch.manual_seed(0)
            model = DAGL(released_config("denoise")).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
            network = torch.compile(model) if compiled else model
            x = torch.rand(crops, 1, 64, 64, device=device)

            def step() -> None:
                with torch.autocast(device.type, precision, enabled=precision != torch.float32):  # noqa: B023
                    restored = network(x)  # noqa: B023
                (restored.float() - x).square().mean().backward()  # noqa: B023
                optimizer.step()  # noqa: B023
                optimizer.zero_grad()  # noqa: B023

            name = f"{'fp32' if precision == torch.float32 else 'bf16'}{', compiled' if compiled else ''}"
            table.row(name, step)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--crops", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--eager", action="store_true", help="compile nothing: that takes minutes")
    chosen = parser.parse_args()
    device = torch.device(chosen.device)
    compiles = device.type == "cuda" and not chosen.eager  # for a CPU it is not what is asked
    torch.manual_seed(0)
    paper, theirs = DAGL(released_config("denoise")).eval(), None
    if chosen.release:
        sys.path.insert(0, str(chosen.release))
        from model import dagl as authors  # type: ignore[import-not-found]

        theirs = authors.RR(SimpleNamespace(n_resblocks=16, n_feats=64, n_colors=1, res_scale=1, rgb_range=1)).eval()
        paper.load_state_dict(convert_released(theirs.state_dict(), paper.config))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
    print(f"{name}, torch {torch.__version__}")
    parity(device, paper, min(128, *chosen.sizes))
    for size in chosen.sizes:
        speed(device, paper, theirs, size, chosen.repeat, compiles)
    batches(device, paper, max(chosen.sizes), chosen.repeat)
    training(device, chosen.crops, chosen.repeat, compiles)


if __name__ == "__main__":
    main()
