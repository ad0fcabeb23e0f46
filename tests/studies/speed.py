"""Speed and memory, measured side by side in one run (not a test: `python tests/studies/speed.py --help`).

    python tests/studies/speed.py network --release DIR   the released network through its chop, against ours
    python tests/studies/speed.py train --release DIR     a training step of 8 crops of 64x64, released and ours
    python tests/studies/speed.py profile                 where the time of the `paper` network goes, and its floor
    python tests/studies/speed.py memory                  peak memory and seconds of `dagl denoise` by image size
    python tests/studies/speed.py methods                 our denoisers in each precision, and others: quality, time
    python tests/studies/speed.py backends                torch and OpenVINO, model by model
    python tests/studies/speed.py batch                   small pictures in one call of the network, or one by one
    python tests/studies/speed.py start                   `dagl denoise` of a small picture, against torch alone
    python tests/studies/speed.py folder                  `dagl denoise` of a folder of small pictures

DIR is the folder DN_Gray of a checkout of the authors' repository; without --release only ours is timed. With
`--before CHECKOUT` (of `git worktree add`) `start` and `folder` run an earlier dagl, too, in turns with this one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from dagl_cli import spandrel
from dagl_cli.cli import keep_freed_memory
from dagl_cli.config import Options, model_config
from dagl_cli.degrade import degraded
from dagl_cli.errors import UsageError
from dagl_cli.measuring import datasets, peers
from dagl_cli.nn.model import DAGL
from dagl_cli.restoring import tiling
from dagl_cli.restoring.device import DTYPES
from dagl_cli.restoring.device import seconds as best_of
from dagl_cli.restoring.restorer import Restorer, load_model
from dagl_cli.store import weights
from dagl_cli.store.release import convert_released, released_config

HERE = Path(__file__).parents[2]
"""This checkout."""


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
    for variant in ("lite", "half", "trunk", "unet-deep", "dagl"):
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
    for which in ("fp32", "bf16"):
        print(f"{which}: {work:.0f} GFLOP a step; {least(work, which, spent[which])}")


def least(work: float, precision: str, spent: float) -> str:
    """What so many GFLOP would take as matrix products, beside the CPU seconds that they took."""
    a, b = torch.rand(2, 2048, 2048, dtype=DTYPES[precision])
    start = time.process_time()
    for _ in range(5):
        a @ b
    rate = 5 * 2 * 2048**3 / (time.process_time() - start) / 1e9
    floor = work / rate
    return (
        f"a 2048³ product runs at {rate:.0f} GFLOP per CPU second: {floor:.2f} of the {spent:.2f} that it took, "
        f"which is {spent / floor:.2f} times the floor"
    )


def profiles(size: int) -> None:
    """Restoring one gray image by the paper's network, random weights: CPU seconds, where they go, and the floor."""
    keep_freed_memory()
    torch.manual_seed(0)
    x, model = torch.rand(1, size, size), DAGL(released_config("denoise")).eval()
    shares: dict[str, dict[str, float]] = {}
    for precision in ("fp32", "bf16"):
        restorer = Restorer(model, Options("cpu", precision=precision, backend="torch"))
        with FlopCounterMode(display=False) as counter:
            restorer(x)
        start = time.process_time()
        restorer(x)
        spent, work = time.process_time() - start, counter.get_total_flops() / 1e9
        with torch.profiler.profile() as profile:
            restorer(x)
        found = shares.setdefault(precision, dict.fromkeys(("convolution", *KINDS, "pointwise, sums"), 0.0))
        for event in profile.key_averages():
            found[kind(event.key, [])] += event.self_cpu_time_total
        print(f"{precision}, {size}x{size}: {work:.0f} GFLOP; {least(work, precision, spent)}", flush=True)
    print(f"\n| where the time goes | {' | '.join(shares)} |\n|---|{'---|' * len(shares)}")
    for name in [name for name, share in shares["fp32"].items() if share]:
        print(f"| {name} | {' | '.join(f'{s[name] / sum(s.values()):.0%}' for s in shares.values())} |")


def memory(megapixels: list[float], model: str) -> None:
    """`dagl denoise` as a user runs it, on a colour PNG of so many megapixels."""
    from PIL import Image

    columns = ("megapixels", "seconds", "s/MP", "CPU s/MP", "peak MB", "canvas MB (RGB float32)", "peak - canvas")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    with tempfile.TemporaryDirectory() as folder:
        for mp in megapixels:
            height = round((mp * 1e6 / 1.5) ** 0.5)
            width = round(mp * 1e6 / height)
            row = np.random.default_rng(0).integers(0, 256, (256, width, 3), np.uint8)
            pixels = np.tile(row, (height // 256 + 1, 1, 1))[:height]
            source, target = Path(folder, "in.png"), Path(folder, f"{mp}.png")
            Image.fromarray(pixels).save(source, compress_level=1)
            command = [sys.executable, "-m", "dagl_cli", "denoise", "--sigma", "25", "--model", model]
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            spent, _ = seconds(lambda c: subprocess.run(c, check=True), [*command, str(source), str(target)])
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            work = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            peak = after.ru_maxrss / 1024  # of the largest child so far
            canvas = height * width * 3 * 4 / 2**20
            print(
                f"| {mp:g} | {spent:.1f} | {spent / mp:.2f} | {work / mp:.2f} | {peak:.0f} | {canvas:.0f} "
                f"| {peak - canvas:.0f} |",
                flush=True,
            )


SETS = {
    "Set12": (1, ("denoise-gray", "denoise-gray-fast", "denoise-gray-lite")),
    "Kodak24": (3, ("denoise-color", "denoise-color-fast", "denoise-color-lite")),
}
"""Set -> channels, and the bundled models that are timed on it."""


def methods(folder: Path, checkpoints: list[Path], limit: int | None, plot: Path | None) -> None:
    """Every method on every image, by turns, at sigma 25; seconds of a megapixel, of the clock and of the CPU.

    checkpoints: for gray pictures, what spandrel and dagl read, the authors' too. plot: an SVG of quality against
    CPU seconds.
    """
    keep_freed_memory()
    if checkpoints:
        spandrel.install()
    threads = torch.get_num_threads()
    rows: list[tuple[str, str, float, float]] = []
    for name, (channels, models) in SETS.items():
        runs: dict[str, Any] = {}
        for model in models:
            for precision in ("fp32", "bf16"):
                ours = load_model("denoise", channels, model=model, options=Options("cpu", precision=precision))
                runs[f"{model}, {precision}"] = partial(ours, sigma=25.0)
                with suppress(UsageError):  # not for every network
                    how = Options(precision=precision, backend="openvino")
                    runs[f"{model}, {precision}, OpenVINO"] = partial(
                        load_model("denoise", channels, model=model, options=how), sigma=25.0
                    )
        runs["NLM (scikit-image)"] = lambda x: peers.PEERS["nlm"].run(x, 25.0)
        if find_spec("cv2"):
            runs["fastNlMeans (OpenCV)"] = fast_nl_means
        for checkpoint in checkpoints if channels == 1 else ():
            other = peers.checkpoint(checkpoint, "denoise", 1)
            runs[checkpoint.stem] = lambda x, other=other: other.run(x, 25.0)
        errors, wall, cpu, worst, many = (dict.fromkeys(runs, 0.0) for _ in range(5))
        pixels = images = 0
        for run in runs.values():  # what a first picture costs is no method's speed
            run(torch.rand(channels, 128, 128))
        for sample in datasets.dataset(name).samples[:limit]:
            loaded = datasets.load(datasets.dataset(name), sample, folder)
            clean = torch.from_numpy(loaded.clean).permute(2, 0, 1).contiguous()
            noisy, images, pixels = degraded(clean, "denoise", 25), images + 1, pixels + clean[0].numel()
            exact = None
            for method, run in runs.items():
                start = time.perf_counter(), time.process_time()
                restored = run(noisy).clamp(0, 1)
                wall[method] += time.perf_counter() - start[0]
                cpu[method] += time.process_time() - start[1]
                errors[method] -= 10 * math.log10(float((restored - clean).square().mean()))
                if method.endswith("fp32"):
                    exact = restored
                elif method.endswith(("bf16", "OpenVINO")) and exact is not None:
                    change = 255 * (restored - exact).abs()
                    worst[method] = max(worst[method], float(change.max()))
                    many[method] += 100 * float((change > 0.5).float().mean())
        print(
            f"\n| {name}, {images} images, {threads} threads | PSNR | s/MP | CPU s/MP | largest change | % over 0.5 |"
        )
        print("|---|---|---|---|---|---|")
        for method in runs:
            spent = [1e6 * total / pixels for total in (wall[method], cpu[method])]
            change = f"{worst[method]:.2f} | {many[method] / images:.3f}" if worst[method] else " | "
            print(
                f"| {method} | {errors[method] / images:.3f} | {spent[0]:.2f} | {spent[1]:.2f} | {change} |", flush=True
            )
            rows.append((name, method, spent[1], errors[method] / images))
    if plot:
        plot.write_text(chart(rows), encoding="utf-8")


def backends(models: list[str], size: int, turns: int) -> None:
    """Each model on noise of size x size pixels, by torch and by OpenVINO, by turns: the fastest of each counts."""
    print(f"| seconds/MP, {torch.get_num_threads()} threads | torch fp32 | bf16 | OpenVINO fp32 | bf16 | ratios | |")
    print("|---|---|---|---|---|---|---|")
    for name in models:
        config, *_ = weights.describe(weights.resolve(name, "denoise", 1))
        x, sigma = torch.rand(config.channels, size, size), 25.0 if config.noise_map else None
        runs = {}
        for backend in ("torch", "openvino"):
            for precision in ("fp32", "bf16"):
                how = Options("cpu", precision, backend)
                ours = load_model(config.task, config.channels, model=name, options=how)
                runs[f"{backend} {precision}"] = partial(ours, x, sigma)
        for run in runs.values():
            run()
        spent = [1e6 * best / size**2 for best in best_of(runs, turns).values()]
        ratios = [spent[0] / spent[2], spent[1] / spent[3]]
        print(f"| {name} | {' | '.join(f'{s:.2f}' for s in (*spent, *ratios))} |", flush=True)


def fast_nl_means(x: torch.Tensor) -> torch.Tensor:
    """OpenCV's, with its own windows, 7 and 21, and h = sigma."""
    import cv2

    levels = (255 * x.clamp(0, 1)).round().byte().permute(1, 2, 0).contiguous().numpy()
    one = levels.shape[-1] == 1
    found = cv2.fastNlMeansDenoising(levels, None, 25) if one else cv2.fastNlMeansDenoisingColored(levels, None, 25, 25)
    return torch.from_numpy(found.reshape(levels.shape)).permute(2, 0, 1) / 255


SHOWN = 0.4
"""dB from the best down that the plot shows."""
COLOURS = "#c33", "#26c"
"""Of our models in the plot: by torch and by OpenVINO."""


def chart(rows: list[tuple[str, str, float, float]]) -> str:
    """(set, method, seconds, dB) as an SVG: a panel for each set, seconds on a logarithmic axis."""
    width, height, left, bottom = 460, 330, 46, 44
    sets = list(dict.fromkeys(name for name, *_ in rows))
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width * len(sets)} {height}" '
             f'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>']  # fmt: skip
    edges = [round(edge(math.log2(spent) for _, _, spent, _ in rows)) for edge in (min, max)]
    first, last = edges[0] - 1, edges[1] + 1
    for number, name in enumerate(sets):
        panel = [row[1:] for row in rows if row[0] == name]
        high = max(db for *_, db in panel) + 0.1
        low = max(min(db for *_, db in panel) - 0.1, high - SHOWN)  # what is worse lies at the foot, with its figure
        start, end, foot = number * width + left, (number + 1) * width - 12, height - bottom

        def x(spent: float, start: int = start, end: int = end) -> float:
            return start + (math.log2(spent) - first) / (last - first) * (end - start)

        def y(db: float, low: float = low, high: float = high, foot: int = foot) -> float:
            return 26 + min(1, (high - db) / (high - low)) * (foot - 26)

        parts.append(f'<text x="{start}" y="16" font-weight="bold">{name}, noise of level 25: PSNR in dB</text>')
        for step in range(math.ceil(low * 10), math.floor(high * 10) + 1):
            parts.append(f'<path d="M{start} {y(step / 10):.0f}H{end}" stroke="#ddd"/><text x="{start - 6}" '
                         f'y="{y(step / 10) + 4:.0f}" text-anchor="end">{step / 10:.1f}</text>')  # fmt: skip
        for power in range(first, last + 1):
            parts.append(f'<path d="M{x(2**power):.0f} 26V{foot}" stroke="#eee"/><text x="{x(2**power):.0f}" '
                         f'y="{foot + 16}" text-anchor="middle">{2.0**power:g}</text>')  # fmt: skip
        middle = (start + end) / 2
        parts.append(f'<text x="{middle}" y="{foot + 34}" text-anchor="middle">CPU seconds of a megapixel</text>')
        models: dict[str, list[tuple[float, float, list[str]]]] = {}
        for method, spent, db in panel:
            model, *how = method.split(", ")
            name = model if db >= low else f"{model}: {db:.1f} dB"
            models.setdefault(name, []).append((x(spent), y(db), how))
        taken = [(at - 5, at + 5, line) for points in models.values() for at, line, _ in points]
        for name, points in models.items():
            colour = COLOURS[0] if name.startswith("denoise-") else "#777"
            path = "L".join(f"{at:.0f} {line:.0f}" for at, line, _ in points)
            parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" opacity="0.4"/>')
            for at, line, how in points:
                edge = COLOURS[1] if "OpenVINO" in how else colour
                fill = "white" if "bf16" in how else edge
                parts.append(f'<circle cx="{at:.0f}" cy="{line:.0f}" r="4" fill="{fill}" stroke="{edge}"/>')
            half = 3.0 * len(name)
            centre = min(max(sum(at for at, *_ in points) / len(points), start + half), end - half)
            line = min(line for _, line, _ in points) - 9
            while any(abs(line - 4 - to) < 11 and left < centre + half and centre - half < right
                      for left, right, to in taken):  # fmt: skip
                line -= 3
            taken.append((centre - half, centre + half, line - 4))
            parts.append(f'<text x="{centre:.0f}" y="{line:.0f}" text-anchor="middle" fill="{colour}">{name}</text>')
        kinds = [("float32", COLOURS[0], COLOURS[0]), ("bfloat16", COLOURS[0], "white")]
        kinds += [("OpenVINO", COLOURS[1], COLOURS[1])] if any("OpenVINO" in method for method, *_ in panel) else []
        for line, (kind, edge, fill) in enumerate(kinds):
            where = foot - 12 - 14 * (len(kinds) - 1 - line)
            parts.append(f'<circle cx="{end - 66}" cy="{where}" r="4" fill="{fill}" stroke="{edge}"/>'
                         f'<text x="{end - 56}" y="{where + 4}">{kind}</text>')  # fmt: skip
    return "\n".join([*parts, "</svg>\n"])


def batches(sides: Sequence[int], count: int = 8) -> None:
    """So many pictures in one call of the network, against one after the other: CPU seconds, by turns."""
    threads = torch.get_num_threads()
    print(f"| {count} pictures, {threads} threads | CPU s, one by one | in one call | ratio | largest change, levels |")
    print("|---|---|---|---|---|")
    for precision in ("fp32", "bf16"):
        restorer = load_model("denoise", 3, model="denoise-color-fast", options=Options("cpu", precision=precision))
        network = partial(restorer._run, sigma=25.0, dtype=restorer.dtype())
        for side in sides:
            pictures = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))
            spent: dict[str, list[float]] = {"alone": [], "at once": []}
            for _ in range(4):  # the first of them is not counted
                start = time.process_time()
                alone = torch.cat([network(picture[None]) for picture in pictures])
                between = time.process_time()
                at_once = network(pictures)
                spent["alone"].append(between - start)
                spent["at once"].append(time.process_time() - between)
            one, many = (float(np.median(times[1:])) for times in spent.values())
            change = 255 * float((alone - at_once).abs().max())
            print(
                f"| {side}x{side}, {precision} | {one:.2f} | {many:.2f} | {one / many:.2f} | {change:.2g} |", flush=True
            )


def starting(before: Path | None, times: int) -> None:
    """`dagl denoise` of 256x192 pixels, and `import torch` alone, in turns: the median of each, of CPU and clock."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "in.png")
        noise = np.random.default_rng(0).normal(128, 25, (192, 256, 3)).clip(0, 255)
        Image.fromarray(noise.astype(np.uint8)).save(source)
        denoise = [sys.executable, "-m", "dagl_cli", "denoise", "-q", "--overwrite", str(source)]
        commands = {"import torch": ([sys.executable, "-c", "import torch"], HERE), "dagl denoise": (denoise, HERE)}
        commands |= {"before": (denoise, before)} if before else {}
        spent: dict[str, list[tuple[float, float, float]]] = {name: [] for name in commands}
        for _ in range(times):
            for name, command in commands.items():
                spent[name].append(spending(*command))
    medians = {name: np.median(np.array(runs), 0) for name, runs in spent.items()}
    print(f"| {times} runs each, medians | CPU s | times import torch | s | MB |\n|---|---|---|---|---|")
    for name, (wall, cpu, peak) in medians.items():
        print(f"| {name} | {cpu:.2f} | {cpu / medians['import torch'][1]:.2f} | {wall:.2f} | {peak:.0f} |")


def folder_of(count: int, side: int, where: Path) -> None:
    """So many noisy colour pictures, PNG of 8 bits: soft shapes and noise of 15 levels."""
    from PIL import Image

    for number in range(count):
        draw = np.random.default_rng(number)
        shapes = Image.fromarray(draw.integers(0, 256, (9, 9, 3), np.uint8)).resize(
            (side, side), Image.Resampling.BICUBIC
        )
        noisy = np.asarray(shapes) + draw.normal(0, 15, (side, side, 3))
        Image.fromarray(noisy.clip(0, 255).round().astype(np.uint8)).save(where / f"{number:04}.png", compress_level=1)


def folders(before: Path | None, count: int, side: int, rounds: int, flags: str) -> None:
    """`dagl denoise` of a folder, by this checkout and by an earlier one, in turns of as many rounds.

    flags: more of them; without a precision, `auto` is measured anew in each process. Each round is a part of the
    files. Prints seconds of the clock and of the CPU, peak memory by round, and compares the results' pixels.
    """
    from PIL import Image

    checkouts = ({"before": before} if before else {}) | {"now": HERE}
    spent: dict[str, list[tuple[float, float, float]]] = {name: [] for name in checkouts}
    same = True
    with tempfile.TemporaryDirectory() as place:
        for turn in range(rounds):
            source = Path(place, f"in{turn}")
            source.mkdir()
            folder_of(count // rounds, side, source)
            for name, checkout in checkouts.items() if turn % 2 else reversed(checkouts.items()):
                command = [sys.executable, "-m", "dagl_cli", "denoise", "-q", str(source), *flags.split()]
                spent[name].append(spending([*command, "-o", f"{place}/{name}{turn}"], checkout))
            made = [sorted(Path(place, f"{name}{turn}").iterdir()) for name in checkouts]
            for files in zip(*made, strict=True):
                pixels = [np.asarray(Image.open(file)) for file in files]
                same &= all(np.array_equal(pixels[0], other) for other in pixels)
            for name in checkouts:
                print(f"round {turn + 1}, {name}: {' s, '.join(f'{x:.1f}' for x in spent[name][-1])} MB", flush=True)
    many = f"{count} pictures of {side}x{side}, {rounds} rounds, {torch.get_num_threads()} threads"
    print(f"\n| {many} | s | CPU s | peak MB, each round |\n|---|---|---|---|")
    totals = {name: [sum(column) for column in list(zip(*figures))[:2]] for name, figures in spent.items()}
    for name, (wall, cpu) in totals.items():
        print(f"| {name} | {wall:.1f} | {cpu:.1f} | {', '.join(f'{peak:.0f}' for *_, peak in spent[name])} |")
    if before:
        wall, cpu = (a / b for a, b in zip(totals["before"], totals["now"]))
        print(f"| times less | {wall:.2f} | {cpu:.2f} | pixels {'the same' if same else 'DIFFER'} |")


def spending(command: list[str], checkout: Path) -> tuple[float, float, float]:
    """Seconds of the clock and of the CPU, and MB at most, of a process that imports dagl from a checkout."""
    start = time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # as where dagl was installed, modules are compiled once
    process = subprocess.Popen(command, cwd=checkout, env=environment)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{checkout}: {' '.join(command)} failed")
    return time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what", choices=["network", "train", "profile", "memory", "methods", "backends", "start", "folder", "batch"]
    )
    parser.add_argument("--release", type=Path, help="folder DN_Gray of the authors' repository")
    parser.add_argument(
        "--size", type=int, default=512, help="side of the images, for `network`, `profile` and `folder`"
    )
    parser.add_argument(
        "--before", type=Path, help="for `folder` and `start`: an earlier checkout (`git worktree add`)"
    )
    parser.add_argument("--files", type=int, default=300, help="for `folder`")
    parser.add_argument("--rounds", type=int, default=5, help="for `folder`: parts of the files, done in turns")
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 256, 512], help="for `batch`")
    parser.add_argument("--flags", default="--precision bf16", help="for `folder`: of `dagl denoise`")
    parser.add_argument(
        "--steps", type=int, default=2, help="for `train`: the fastest of so many counts; for `start`: runs"
    )
    parser.add_argument("--only", choices=["release", "fp32", "bf16"], help="for `train`: this one, in this process")
    parser.add_argument("--megapixels", type=float, nargs="+", default=[1, 4, 16, 24])
    parser.add_argument("--model", default="denoise-color")
    parser.add_argument("--models", nargs="+", help="for `backends`",
                        default=["denoise-gray-fast", "denoise-color-fast", "dejpeg-color-fast", "real-color-fast"],
                        )  # fmt: skip
    parser.add_argument("--data-dir", type=Path, help="for `methods`: the test sets; default: where dagl keeps them")
    parser.add_argument("--checkpoint", type=Path, nargs="+", default=[],
                        help="for `methods`: other denoisers, for gray at sigma 25, as the authors' model_best.pt",
                        )  # fmt: skip
    parser.add_argument("--limit", type=int, help="for `methods`: so many images of each set")
    parser.add_argument("--plot", type=Path, help="for `methods`: an SVG to write")
    arguments = parser.parse_args()
    if arguments.what == "network":
        network(arguments.release, arguments.size)
    elif arguments.what == "train" and arguments.only:
        train_step(arguments.only, arguments.release, arguments.steps)
    elif arguments.what == "train":
        training(arguments.release, arguments.steps)
    elif arguments.what == "profile":
        profiles(arguments.size)
    elif arguments.what == "methods":
        folder = arguments.data_dir or datasets.default_folder()
        methods(folder, arguments.checkpoint, arguments.limit, arguments.plot)
    elif arguments.what == "backends":
        backends(arguments.models, arguments.size, arguments.steps)
    elif arguments.what == "folder":
        folders(arguments.before, arguments.files, arguments.size, arguments.rounds, arguments.flags)
    elif arguments.what == "batch":
        batches(arguments.sides)
    elif arguments.what == "start":
        starting(arguments.before, arguments.steps)
    else:
        memory(arguments.megapixels, arguments.model)
