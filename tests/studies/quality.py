"""How the models behave where users are (not a test: `python tests/studies/quality.py sigma`).

    sigma       denoise when the noise level is given too low, right, too high, or estimated; 8- and 16-bit files
    flat        denoise on constant patches and a slow ramp: what noise and which steps are left
    zero        the network of denoise at sigma 0 on clean images: what it would change (the command changes nothing)
    estimate    the error of the estimated noise level
    tiles       PSNR and time against the tile size, the whole image, and the paper's chop
    graph       whether the graph takes part: PSNR with it, without it, with its edges shuffled; its neighbours
    attention   what the graph of 'released' models looks like on trained weights, and what bfloat16 costs in it
    clean       dejpeg on images that were never compressed, without and with the guard of the command line
    demosaic    side by side with Malvar (2004) and Menon (2007), all four patterns (needs dagl[compare])
    shift       pairs that lie a pixel off, told from noise

Prints a Markdown table row by row, or --json. PSNR in dB, levels on the 0-255 scale, means over whole sets; float32.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import sys
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dagl_cli import degrade
from dagl_cli import images as image
from dagl_cli.config import BAYER_PATTERNS, Options
from dagl_cli.errors import DaglError
from dagl_cli.measuring import datasets
from dagl_cli.measuring.cases import Case
from dagl_cli.measuring.measure import Measurement, Procedure, measure, pair_shift
from dagl_cli.measuring.methods import Method, Settings
from dagl_cli.measuring.metrics import psnr
from dagl_cli.nn import attention
from dagl_cli.nn.gated import GatedGraph, GatedStage
from dagl_cli.nn.model import MGFAM
from dagl_cli.nn.search import Grid
from dagl_cli.nn.streaming import streaming
from dagl_cli.restoring import guard
from dagl_cli.restoring.estimate import estimate_sigma
from dagl_cli.restoring.file import FileRestorer
from dagl_cli.restoring.restorer import Restorer
from dagl_cli.store import weights

Line = dict[str, object]

LEVELS = {"denoise": 25, "dejpeg": 10, "demosaic": None, "real": None}
"""The degradation at which `tiles` and `attention` compare."""
SETS = {"denoise": {1: "Set12", 3: "Kodak24"}, "dejpeg": {1: "Classic5", 3: "Kodak24"}, "demosaic": {3: "McMaster18"},
        "real": {3: "CC15"}}  # fmt: skip
"""Task -> channels -> the set for it."""
NEVER_COMPRESSED = {1: ("Set12", "LIVE1"), 3: ("Kodak24", "McMaster18")}
DEPTHS = {"8 bit": 255, "16 bit": 65535}


def load(name: str, **options: object) -> Restorer:
    network, _ = weights.load(weights.resolve(name, "", 1))
    return Restorer(network, Options(precision="fp32", **options), name)  # type: ignore[arg-type]


def in_file(x: Tensor, top: int) -> Tensor:
    """x as a file of so many levels holds it: clipped and rounded."""
    return (x.clamp(0, 1) * top).round() / top


def estimated(x: Tensor) -> float:
    return estimate_sigma(x.permute(1, 2, 0).numpy()) or 0.0


def clean_images(folder: Path, dataset: str, limit: int | None) -> Iterator[Tensor]:
    """A set's images, (C, H, W) in [0, 1]."""
    entry = datasets.dataset(dataset)
    for sample in entry.samples[:limit]:
        yield torch.from_numpy(datasets.load(entry, sample, folder).clean).permute(2, 0, 1).contiguous()


def mean(values: Collection[float]) -> float:
    return float(np.mean(list(values)))


def sigma(arguments: argparse.Namespace) -> Iterator[Line]:
    for name in arguments.model or ["denoise-gray", "denoise-color"]:
        restorer = load(name)
        dataset = SETS["denoise"][restorer.config.channels]
        for level in (15, 25, 50):
            for depth, top in DEPTHS.items():
                found: dict[str, list[float]] = {}
                for clean in clean_images(arguments.data_dir, dataset, arguments.limit):
                    noisy = in_file(degrade.degraded(clean, "denoise", level), top)
                    given = {f"{factor:g} σ": factor * level for factor in (0.8, 1, 1.2)}
                    given["estimated"] = min(estimated(noisy), 75)
                    for column, value in given.items():
                        found.setdefault(column, []).append(psnr(restorer(noisy, value), clean))
                yield {"model": name, "set": dataset, "σ": level, "noise in": depth} | {
                    column: mean(values) for column, values in found.items()
                }


def flat(arguments: argparse.Namespace) -> Iterator[Line]:
    """Noise clipped and rounded to 8 bit. The ramp rises by 1 level in 8 pixels; an exact result has plateaus of 8."""
    for name in arguments.model or ["denoise-gray", "denoise-color"]:
        restorer = load(name)
        for level in (15, 25, 50):
            row: Line = {"model": name, "σ": level}
            spreads, shifts = [], []
            for gray in (16, 64, 128, 192, 240):
                patch = torch.full((restorer.config.channels, 128, 128), gray / 255)
                noisy = in_file(degrade.paper_noise(patch[None], level)[0], 255)
                restored = 255 * restorer(noisy, level)[:, 8:-8, 8:-8]
                spreads.append(float(restored.std()))
                shifts.append(float(restored.mean()) - gray)
            row |= {"deviation, mean": mean(spreads), "largest": max(spreads)}
            row |= {f"shift at {gray}": shift for gray, shift in zip((16, 64, 128, 192, 240), shifts)}
            ramp = (96 + torch.arange(512) / 8).expand(restorer.config.channels, 128, -1)
            noisy = in_file(degrade.paper_noise(ramp[None] / 255, level)[0], 255)
            levels = (255 * restorer(noisy, level)).round()[:, 8:-8, 8:-8]
            steps = levels.diff(dim=-1)
            plateaus = [longest_run(line) for line in (steps == 0).flatten(0, 1).tolist()]
            error = (levels - ramp[:, 8:-8, 8:-8]).square().mean().sqrt()
            row |= {"ramp: RMS error": float(error), "largest step": int(steps.abs().max())}
            yield row | {"longest plateau, mean": mean(plateaus)}


def longest_run(flags: list[bool]) -> int:
    """Pixels of the longest stretch without a step."""
    longest = run = 1
    for flag in flags:
        run = run + 1 if flag else 1
        longest = max(longest, run)
    return longest


def zero(arguments: argparse.Namespace) -> Iterator[Line]:
    for name in arguments.model or ["denoise-gray", "denoise-color"]:
        restorer = load(name)
        dataset = SETS["denoise"][restorer.config.channels]
        changes = []
        for clean in clean_images(arguments.data_dir, dataset, arguments.limit):
            changes.append(((255 * restorer(clean, 0)).round() - 255 * clean).abs())
        flat_changes = torch.cat([change.flatten() for change in changes])
        yield {
            "model": name, "set": dataset, "largest change": int(flat_changes.max()),
            "mean change": float(flat_changes.mean()), "% changed": 100 * float((flat_changes > 0).float().mean()),
            "% by over 2": 100 * float((flat_changes > 2).float().mean()),
            "PSNR": mean([-10 * math.log10(max(float(c.square().mean()), 1e-9) / 255**2) for c in changes]),
        }  # fmt: skip


def estimate(arguments: argparse.Namespace) -> Iterator[Line]:
    for dataset in ("Kodak24", "BSD68"):
        for level in (5, 10, 15, 25, 50):
            row: Line = {"set": dataset, "σ": level}
            for kind, top in {"not clipped": None, "8 bit": 255}.items():
                errors = []
                for clean in clean_images(arguments.data_dir, dataset, arguments.limit):
                    noisy = degrade.degraded(clean, "denoise", level)
                    noisy = noisy if top is None else in_file(noisy, top)
                    errors.append(estimated(noisy) - level)
                absolute = mean(np.abs(errors))
                row |= {f"{kind}: error": absolute, f"{kind}: %": 100 * absolute / level}
                row |= {f"{kind}: median": float(np.median(np.abs(errors))), f"{kind}: mean - σ": mean(errors)}
            yield row


def compare(restorer: Restorer, arguments: argparse.Namespace, dataset: str | None = None) -> Measurement:
    """The model on the set and at the level of its task; of camera noise at the level that is estimated."""
    task, channels = restorer.config.task, restorer.config.channels
    case = Case(datasets.dataset(dataset or SETS[task][channels]), task, LEVELS[task])

    def run(bad: Tensor, level: float | None) -> Tensor:
        if task == "real":
            level = guard.camera_noise(bad.permute(1, 2, 0).numpy()).level
        return restorer(bad, level if restorer.config.noise_map else None)

    method = Method(restorer.name, run, Settings(restorer.name))
    return measure(case, method, Procedure(arguments.data_dir, limit=arguments.limit))


def tiles(arguments: argparse.Namespace) -> Iterator[Line]:
    for name in arguments.model or ["denoise-gray", "denoise-gray-lite"]:
        for tile in (64, 96, 128, 256, "whole", "chop"):
            how = {"tiling": tile} if isinstance(tile, str) else {"tile": tile}
            restorer = load(name, **how)
            row = compare(restorer, arguments)
            yield {"model": name, "set": row.case.dataset.name, "level": row.case.level, "tile": tile, "overlap": "-"
                   if isinstance(tile, str) else min(restorer.overlap, tile // 2),
                   "PSNR": row.mean("psnr"), "s/MP": row.seconds_per_megapixel}  # fmt: skip


def attend(
    q: Tensor, k: Tensor, v: Tensor, gamma: Tensor, beta: Tensor, *,
    graph: str, patch: int, stride: int, key_stride: int,
    bf16: Collection[str] = (), see: Callable[[Tensor, Tensor], None] = lambda alpha, edges: None,
) -> Tensor:  # fmt: skip
    """`attention.reference` with some products in bfloat16.

    see: called with alpha and which edges there are, each (B, K, L, N).
    """

    def product(name: str, a: Tensor, b: Tensor) -> Tensor:
        return (a.bfloat16() @ b.bfloat16()).float() if name in bf16 else a @ b

    *batch, channels, height, width = v.shape
    s = product("q kᵀ", q, k.mT)
    mean_s = s.mean(-1)
    alpha = attention.edge_weights(s, mean_s, gamma, beta, graph)
    threshold = mean_s * gamma + (-beta if graph == "released" else beta)
    see(alpha, (s > threshold[..., None]) | (graph == "no-knn"))
    values = F.unfold(v.flatten(0, 1), patch, padding=patch // 2, stride=key_stride)
    out = product("α V", alpha.flatten(0, 1), values.mT)
    return attention.fold_patches(out.mT, height, width, patch, stride).view(*batch, channels, height, width)


def graph_attention(arguments: argparse.Namespace) -> Iterator[Line]:
    for name in arguments.model or ["denoise-gray-lite"]:
        restorer = load(name)
        stages = [stage for stage in restorer.model.stages if isinstance(stage, MGFAM)]
        if not stages:
            raise DaglError(f"--model {name} has no graph: choose one that `dagl weights list` calls DAGL")
        seen: list[list[Tensor]] = [[] for _ in stages]

        def see(alpha: Tensor, edges: Tensor, into: list[Tensor]) -> None:
            total = alpha.sum(-1)
            top = alpha.topk(min(16, alpha.shape[-1]), -1).values
            alone = total == 0  # a node without neighbours has no top 16
            shares = [(top[..., :n].sum(-1) / total)[~alone].mean() for n in (1, 16)]
            many = (alpha > 1e-4).sum(-1).float().mean()
            into.append(torch.stack([1 - edges.float().mean(), *shares, total.mean(), alone.float().mean(), many]))

        usual = compare(restorer, arguments).mean("psnr")
        for bf16 in ((), ("q kᵀ",), ("α V",), ("q kᵀ", "α V")):
            for stage, into in zip(stages, seen):
                how = {"bf16": bf16} if bf16 else {"see": partial(see, into=into)}
                stage.aggregate = partial(MGFAM.aggregate, stage, attention=partial(attend, **how))  # type: ignore[method-assign]
            found = compare(restorer, arguments)
            if not bf16:
                for i, into in enumerate(seen):
                    pruned, first, top, total, alone, many = torch.stack(into).nanmean(0).tolist()
                    yield {
                        "model": name, "stage": i + 1, "% edges pruned": 100 * pruned,
                        "% of weight in top 1": 100 * first, "in top 16": 100 * top,
                        "weights' sum": total, "% nodes alone": 100 * alone, "neighbours over 1e-4": many,
                    }  # fmt: skip
            yield {"model": name, "bfloat16 in": " and ".join(bf16) or "nothing", "set": found.case.dataset.name,
                   "level": found.case.level, "PSNR": found.mean("psnr"),
                   "change": found.mean("psnr") - usual}  # fmt: skip


def without(restorer: Restorer) -> None:
    """Heads that leave the pilot as it is; stages that leave their features as they are."""
    for stage in restorer.model.stages:
        if isinstance(stage, GatedStage) and stage.graph:
            stage.graph.forward = partial(pilots, stage.graph)  # type: ignore[method-assign]
        else:
            stage.forward = lambda x: x


def pilots(
    graph: GatedGraph, noisy: Tensor, pilot: Tensor, sigma: Tensor, features: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`GatedGraph.forward` of a graph that does nothing."""
    nothing = pilot.new_zeros(len(pilot), graph.maps, *pilot.shape[-2:])
    return pilot[:, None].expand(-1, graph.heads, -1, -1, -1), nothing


def shuffled(restorer: Restorer) -> None:
    """Every node has the neighbours of another one, drawn once; of pixel-exact graphs itself too."""
    generator = torch.Generator().manual_seed(0)
    for stage in restorer.model.stages:
        if isinstance(stage, GatedStage) and stage.graph:
            stage.graph.search = partial(others, stage.graph, generator)  # type: ignore[method-assign]
        elif isinstance(stage, MGFAM):

            def wrong(q: Tensor, k: Tensor, *rest: Tensor, **how: Any) -> Tensor:
                return streaming(q, k[:, :, torch.randperm(k.shape[2], generator=generator)], *rest, **how)

            stage.aggregate = partial(type(stage).aggregate, stage, attention=wrong)  # type: ignore[method-assign]


def others(graph: GatedGraph, generator: torch.Generator, embedded: Tensor, grid: Grid) -> Tensor:
    """`GatedGraph.search`, the lists dealt out to other nodes; the node itself in place of their last."""
    found = GatedGraph.search(graph, embedded, grid)
    flat = found.flatten(1, 2)
    found = flat[:, torch.randperm(flat.shape[1], generator=generator)].view(found.shape)
    keys = torch.arange(grid.keys[0] * grid.keys[1]).view(grid.keys)
    found[..., -1] = keys[:: grid.stride, :: grid.stride]
    return found


def takes_part(arguments: argparse.Namespace) -> Iterator[Line]:
    sets = {1: ("Set12", "Urban100"), 3: ("McMaster18", "Kodak24")}
    for name in arguments.model or ["denoise-gray"]:
        usual = load(name)
        task, channels = usual.config.task, usual.config.channels
        if not usual.config.stages or not usual.config.heads:
            raise DaglError(f"--model {name} has no graph: choose one that `dagl weights list` calls DAGL")
        for dataset in arguments.dataset or (sets[channels] if task == "denoise" else [SETS[task][channels]]):
            row: Line = {"model": name, "set": dataset, "level": LEVELS[task]}
            found: dict[str, float] = {}
            for how, change in {"graph": None, "removed": without, "shuffled": shuffled}.items():
                restorer = load(name)
                neighbours = watched(restorer) if how == "graph" else []
                if change:
                    change(restorer)
                measured = compare(restorer, arguments, dataset)
                found[how] = measured.mean("psnr")
                row |= {"images": len(measured.images), how: found[how]}
                if neighbours:
                    row |= {"neighbours in effect": mean(neighbours)}
            yield row | {"removed costs": found["graph"] - found["removed"], "shuffled": found["shuffled"],
                         "shuffling costs": found["graph"] - found["shuffled"]}  # fmt: skip


def note(heads: int, most: int, seen: list[float], module: Any, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
    seen.append(most * float(output[1][:, heads : 2 * heads].mean()))


def watched(restorer: Restorer) -> list[float]:
    """A list that gets the mean number of neighbours in effect, of a pixel-exact graph's every tile."""
    seen: list[float] = []
    for stage in restorer.model.stages:
        if isinstance(stage, GatedStage) and stage.graph:
            stage.graph.register_forward_hook(partial(note, stage.graph.heads, stage.graph.neighbours, seen))
    return seen


def clean(arguments: argparse.Namespace) -> Iterator[Line]:
    for name in arguments.model or ["dejpeg-gray", "dejpeg-color"]:
        restorer, files = load(name), FileRestorer("dejpeg", model=name, options=Options(precision="fp32"))
        for dataset in NEVER_COMPRESSED[restorer.config.channels]:
            without, guarded, alone = [], [], 0
            for original in clean_images(arguments.data_dir, dataset, arguments.limit):
                without.append(psnr(restorer(original), original))
                source, target = io.BytesIO(), io.BytesIO()
                image.write(image.Image(original.permute(1, 2, 0).numpy()), source)
                if files(source.getvalue(), target).status == "unchanged":
                    alone += 1
                else:
                    restored = image.read(target.getvalue()).pixels.transpose(2, 0, 1)
                    guarded.append(psnr(restored, original))
            yield {
                "model": name, "set": dataset, "images": len(without), "no guard: mean": mean(without),
                "lowest": min(without), "guard: left alone": alone,
                "the others: mean": mean(guarded) if guarded else "-", "their lowest": min(guarded, default="-"),
            }  # fmt: skip


def demosaic(arguments: argparse.Namespace) -> Iterator[Line]:
    from colour_demosaicing import demosaicing_CFA_Bayer_Malvar2004, demosaicing_CFA_Bayer_Menon2007

    methods: dict[str, Callable[[Tensor, str], Tensor]] = {}
    for name in arguments.model or ["demosaic-color"]:
        restorer = load(name)
        methods[name] = lambda mosaic, pattern, restorer=restorer: restorer(mosaic, pattern=pattern)  # type: ignore[misc]
    others = {"Malvar": demosaicing_CFA_Bayer_Malvar2004, "Menon": demosaicing_CFA_Bayer_Menon2007}
    for name, method in others.items():
        methods[name] = lambda mosaic, pattern, method=method: (  # type: ignore[misc]
            torch.from_numpy(method(mosaic.sum(0).double().numpy(), pattern)).permute(2, 0, 1).clamp(0, 1)
        )
    for dataset in ("McMaster18", "Kodak24"):
        for pattern in BAYER_PATTERNS:
            found: dict[str, list[float]] = {name: [] for name in methods}
            for clean in clean_images(arguments.data_dir, dataset, arguments.limit):
                mosaic = degrade.bayer_mosaic(clean[None], pattern)[0]
                for name, method in methods.items():
                    found[name].append(psnr(method(mosaic, pattern), clean))
            yield {"set": dataset, "pattern": pattern} | {name: mean(values) for name, values in found.items()}


def shift(arguments: argparse.Namespace) -> Iterator[Line]:
    """Gray crops with noise alone, and photographs whose noisy version lies one pixel off."""
    random = np.random.default_rng(0)
    photos = [x.permute(1, 2, 0).numpy() for x in clean_images(arguments.data_dir, "Kodak24", arguments.limit)]

    def noisy(x: np.ndarray, level: float) -> np.ndarray:
        return x + random.normal(0, level / 255, x.shape).astype(np.float32)

    for level in (1, 5, 25, 50):
        row: Line = {"set": "Kodak24", "σ": level}
        for side in (64, 128):
            crops = [photo[y : y + side, y : y + side, :1] for photo in photos for y in range(0, 320, 20)]
            wrong = sum(pair_shift(noisy(crop, level), crop) is not None for crop in crops)
            row[f"said to be shifted, {side}x{side}"] = f"{wrong} of {len(crops)}"
        off = [pair_shift(noisy(np.roll(x, (1, -1), (0, 1)), level)[:300, :300], x[:300, :300]) for x in photos]
        yield row | {"found, 300x300": f"{off.count((1, -1))} of {len(off)}"}


SUBCOMMANDS: dict[str, Callable[[argparse.Namespace], Iterator[Line]]] = {
    "sigma": sigma,
    "flat": flat,
    "zero": zero,
    "estimate": estimate,
    "tiles": tiles,
    "graph": takes_part,
    "attention": graph_attention,
    "clean": clean,
    "demosaic": demosaic,
    "shift": shift,
}


def show(rows: Iterator[Line]) -> None:
    """A Markdown table, a row as soon as it is known; a new head where the columns change."""
    columns: list[str] = []
    for row in rows:
        if list(row) != columns:
            columns = list(row)
            print("\n| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
        cells = (f"{v:.3g}" if isinstance(v, float) and abs(v) < 1 else f"{v:.2f}" if isinstance(v, float) else str(v)
                 for v in row.values())  # fmt: skip
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=SUBCOMMANDS)
    parser.add_argument(
        "--data-dir", type=Path, default=os.environ.get("DAGL_DATA_DIR") or datasets.default_folder(),
        help="folder with Set12/, Kodak24/ ... (default: $DAGL_DATA_DIR, or where `dagl datasets download` puts them)",
    )  # fmt: skip
    parser.add_argument("--model", action="append", help="bundled name or weight file; can be given again")
    parser.add_argument("--dataset", action="append", help="for `graph`: this set; can be given again")
    parser.add_argument("--limit", type=int, help="only the first images of each set")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    try:
        rows = SUBCOMMANDS[arguments.what](arguments)
        if arguments.json:
            print(json.dumps(list(rows), indent=2, ensure_ascii=False))
        else:
            show(rows)
    except DaglError as error:
        sys.exit(f"Error: {error}")
