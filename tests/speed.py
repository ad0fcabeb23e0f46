"""Speed and memory, measured side by side in one run (not a test: `python tests/speed.py --help`).

    python tests/speed.py network --release DIR   the released network through its chop, against ours
    python tests/speed.py memory                  peak memory and seconds of `dagl denoise` by image size

DIR is the folder DN_Gray of a checkout of the authors' repository; without --release only ours is timed.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from dagl_cli import tiling
from dagl_cli.cli import keep_freed_memory
from dagl_cli.config import model_config
from dagl_cli.model import DAGL, convert_released, released_config
from dagl_cli.pipeline import Options, Restorer


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
    for variant in ("lite", "trunk"):
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
    parser.add_argument("what", choices=["network", "memory"])
    parser.add_argument("--release", type=Path, help="folder DN_Gray of the authors' repository")
    parser.add_argument("--size", type=int, default=512, help="side of the image for `network`")
    parser.add_argument("--megapixels", type=float, nargs="+", default=[1, 4, 16, 24])
    parser.add_argument("--model", default="denoise-color")
    arguments = parser.parse_args()
    if arguments.what == "network":
        network(arguments.release, arguments.size)
    else:
        memory(arguments.megapixels, arguments.model)
