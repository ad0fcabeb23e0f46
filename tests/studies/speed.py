"""Speed and memory, measured side by side in one run (not a test: `python tests/studies/speed.py --help`).

    python tests/studies/speed.py network --release DIR   the released network through its chop, against ours
    python tests/studies/speed.py train --release DIR     a training step of 8 crops of 64x64, released and ours
    python tests/studies/speed.py memory                  peak memory and seconds of `dagl denoise` by image size

DIR is the folder DN_Gray of a checkout of the authors' repository; without --release only ours is timed.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from dagl_cli.cli import keep_freed_memory
from dagl_cli.config import Options, model_config
from dagl_cli.nn.model import DAGL
from dagl_cli.restoring import tiling
from dagl_cli.restoring.restorer import Restorer
from dagl_cli.store.release import convert_released, released_config


def seconds(function, *arguments):  # type: ignore[no-untyped-def]
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def network(release: Path | None, size: int) -> None:
    """One gray image of size x size; random weights, the same in both; ratios to the release, or to our own paper."""
    torch.manual_seed(0)
    x = torch.rand(1, size, size)
    ours = DAGL(released_config("denoise")).eval()
    rows: list[tuple[str, float]] = []
    if release:
        sys.path.insert(0, str(release))
        from model import dagl as authors  # type: ignore[import-not-found]

        theirs = authors.RR(SimpleNamespace(n_resblocks=16, n_feats=64, n_colors=1, res_scale=1, rgb_range=1)).eval()
        ours.load_state_dict(convert_released(theirs.state_dict(), ours.config))
        with torch.inference_mode():
            small = x[None, :, :100, :100]
            difference = (theirs(small) - ours(small)).abs().max()
            print(f"one 100x100 tile, the same weights: largest difference {difference:.1e}", flush=True)
            rows.append(("release, chop", seconds(tiling.chop, theirs, x)[0]))
            print(rows[-1], flush=True)
    keep_freed_memory()  # as the dagl command does, so not for the release
    candidates = {
        "ours, paper": Restorer(ours, Options(precision="fp32")),
        "ours, paper, bf16": Restorer(ours, Options(precision="bf16")),
    }
    for variant in ("lite", "half", "trunk", "unet-deep"):
        model = DAGL(model_config(variant, "denoise", 1)).eval()
        candidates |= {f"ours, {variant}": Restorer(model, Options(precision="fp32"))}
        candidates |= {f"ours, {variant}, bf16": Restorer(model, Options(precision="bf16"))}
    for name, restorer in candidates.items():
        sigma = 25.0 if restorer.config.noise_map else None
        rows.append((name, seconds(restorer, x, sigma)[0]))
        print(rows[-1], flush=True)
    if release:
        with torch.inference_mode():
            rows.append(("ours, paper, the release's chop", seconds(tiling.chop, ours, x)[0]))
    first = rows[0][1]
    print(f"\n| {size}x{size} gray, {torch.get_num_threads()} threads | seconds | times faster |\n|---|---|---|")
    for name, spent in rows:
        print(f"| {name} | {spent:.2f} | {first / spent:.1f} |")


KINDS = {
    "convolution": ("convolution",), "matrix product": ("aten::bmm", "aten::mm", "aten::addmm", "aten::baddbmm"),
    "optimiser": ("adam",), "unfold, fold": ("im2col", "col2im", "unfold"), "copies": ("copy_", "aten::cat"),
}  # fmt: skip
"""Operators by the words in their names; what is left is pointwise arithmetic and sums. `aggregation` is the products
with the weights alpha; in our network these lie among margins of zeros, 68x68 keys."""


def kind(name: str, shapes: list[list[int]]) -> str:
    if "mm" in name and any(68 * 68 in shape for shape in shapes):
        return "aggregation"
    return next((k for k, words in KINDS.items() if any(w in name.lower() for w in words)), "pointwise, sums")


def train_step(which: str, release: Path | None, steps: int) -> None:
    """Prints seconds of each step, peak memory, and a profile of one more step. In a process of its own."""
    torch.manual_seed(0)
    x = torch.rand(8, 1, 64, 64)
    if which == "release":
        sys.path.insert(0, str(release))
        from model import dagl as authors

        model = authors.RR(SimpleNamespace(n_resblocks=16, n_feats=64, n_colors=1, res_scale=1, rgb_range=1))
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    else:  # as `dagl train` does
        keep_freed_memory()
        model = DAGL(released_config("denoise")).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = x.to(memory_format=torch.channels_last)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=which == "bf16"):
            restored = model(x)
        (restored.float() - x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    spent = []
    for _ in range(steps):
        start = time.process_time()
        spent.append((seconds(step)[0], time.process_time() - start))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps([*min(spent), peak]), flush=True)
    if which == "release":
        return
    with torch.profiler.profile(record_shapes=True) as profile:
        step()
    shares = dict.fromkeys(("convolution", "aggregation", *KINDS, "pointwise, sums"), 0.0)
    for event in profile.key_averages(group_by_input_shape=True):
        shares[kind(event.key, [s for s in event.input_shapes if isinstance(s, list)])] += event.self_cpu_time_total
    print(json.dumps(shares), flush=True)


def training(release: Path | None, steps: int) -> None:
    """One step (forward, loss, backward, Adam) of the paper's network, each in a process of its own."""
    threads = torch.get_num_threads()
    with FlopCounterMode(display=False) as counter:
        model = DAGL(released_config("denoise"))
        model(torch.rand(1, 1, 64, 64)).sum().backward()
    work = 8 * counter.get_total_flops() / 1e9
    rows, shares = [], {}
    for which in (["release"] if release else []) + ["fp32", "bf16"]:
        command = [sys.executable, __file__, "train", "--only", which, "--steps", str(steps)]
        command += ["--release", str(release)] if release else []
        out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
        rows.append((which, *json.loads(out[0])))
        print(rows[-1], flush=True)
        if len(out) > 1:
            shares[which] = json.loads(out[1])
    print(f"\n| 8 crops of 64x64, {threads} threads | s/step | times faster | CPU s/step | times less | peak GB |")
    print("|---|---|---|---|---|---|")
    for which, spent, cpu, peak in rows:
        name = "release, fp32" if which == "release" else f"ours, {which}"
        print(f"| {name} | {spent:.2f} | {rows[0][1] / spent:.1f} | {cpu:.2f} | {rows[0][2] / cpu:.1f} | {peak:.1f} |")
    spent = {which: cpu for which, _, cpu, _ in rows}
    print(f"\n| where the time goes | {' | '.join(shares)} |\n|---|{'---|' * len(shares)}")
    for name in shares["fp32"]:
        print(f"| {name} | {' | '.join(f'{s[name] / sum(s.values()):.0%}' for s in shares.values())} |")
    for which, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = torch.rand(2048, 2048, dtype=dtype), torch.rand(2048, 2048, dtype=dtype)
        start = time.process_time()
        for _ in range(5):
            a @ b
        rate = 5 * 2 * 2048**3 / (time.process_time() - start) / 1e9
        floor = work / rate
        print(
            f"{which}: {work:.0f} GFLOP a step; a 2048³ product runs at {rate:.0f} GFLOP per CPU second: {floor:.2f}, "
            f"{floor / spent[which]:.0%} of the step's CPU seconds"
        )


def memory(megapixels: list[float], model: str) -> None:
    """`dagl denoise` as a user runs it, on a colour PNG of so many megapixels."""
    from PIL import Image

    print(
        "| megapixels | seconds | s/MP | peak MB | canvas MB (RGB float32) | peak - canvas |\n|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        for mp in megapixels:
            height = round((mp * 1e6 / 1.5) ** 0.5)
            width = round(mp * 1e6 / height)
            row = np.random.default_rng(0).integers(0, 256, (256, width, 3), np.uint8)
            pixels = np.tile(row, (height // 256 + 1, 1, 1))[:height]
            source, target = Path(folder, "in.png"), Path(folder, f"{mp}.png")
            Image.fromarray(pixels).save(source, compress_level=1)
            command = [sys.executable, "-m", "dagl_cli", "denoise", "--sigma", "25", "--model", model]
            spent, _ = seconds(lambda c: subprocess.run(c, check=True), [*command, str(source), str(target)])
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024  # of the largest child so far
            canvas = height * width * 3 * 4 / 2**20
            print(
                f"| {mp:g} | {spent:.1f} | {spent / mp:.2f} | {peak:.0f} | {canvas:.0f} | {peak - canvas:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["network", "train", "memory"])
    parser.add_argument("--release", type=Path, help="folder DN_Gray of the authors' repository")
    parser.add_argument("--size", type=int, default=512, help="side of the image for `network`")
    parser.add_argument("--steps", type=int, default=2, help="for `train`: the fastest of so many counts")
    parser.add_argument("--only", choices=["release", "fp32", "bf16"], help="for `train`: this one, in this process")
    parser.add_argument("--megapixels", type=float, nargs="+", default=[1, 4, 16, 24])
    parser.add_argument("--model", default="denoise-color")
    arguments = parser.parse_args()
    if arguments.what == "network":
        network(arguments.release, arguments.size)
    elif arguments.what == "train" and arguments.only:
        train_step(arguments.only, arguments.release, arguments.steps)
    elif arguments.what == "train":
        training(arguments.release, arguments.steps)
    else:
        memory(arguments.megapixels, arguments.model)
