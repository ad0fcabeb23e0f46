"""Dataset x task x level -> rows, under a stated protocol, beside what the paper publishes.

A `Case` is what is measured, a `Method` what it is measured with, a `Row` the outcome. Every image's result is kept
in a `Results` file under a key made of all that decides it, so an interrupted run continues where it stopped.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import json
import math
import platform
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import distributions
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .. import __version__, degrade
from ..config import TASKS, Options
from ..errors import DaglError, UsageError
from ..files import cache_folder
from ..restoring.device import pick_device
from ..restoring.restorer import Restorer, load_model
from ..store import weights
from . import datasets, peers, report
from .metrics import SSIM, psnr

Pair = tuple[float | None, float | None]
"""PSNR in dB and SSIM."""

OURS = "ours"
"""The name of rows that were measured with a dagl model."""
PAPER = "DAGL"
"""The paper's own method among the published ones."""


@dataclass(frozen=True)
class Protocol:
    """What is done around a method. Degradations and seeds are the paper's in all of them."""

    tiling: str
    rounding: bool
    """Whether the result is rounded to 8 bits before it is measured."""


PROTOCOLS = {"paper": Protocol("chop", False), "practical": Protocol("blend", True)}
"""`paper`: the released procedure: its chop, results clipped and measured as floats. `practical`: what a user's file
gets: overlapping tiles that blend, results clipped and rounded to 8 bits. The input is the same in both: noise has the
released seed and is neither clipped nor rounded, JPEGs are Pillow's, mosaics GRBG."""

DEGRADATIONS = {
    "denoise": "Gaussian noise, seed {seed} for every image, not clipped",
    "dejpeg": "JPEG by Pillow",
    "demosaic": "GRBG mosaic",
}
LEVELS = {"denoise": (15.0, 25.0, 50.0), "dejpeg": (10.0, 20.0, 30.0, 40.0), "demosaic": (None,)}
"""The paper's levels of each task that can be measured: sigma, JPEG quality, none."""


@dataclass(frozen=True)
class Case:
    """One line of a table: a dataset, or one image of it, under one degradation."""

    dataset: str
    task: str
    level: float | None
    """sigma, JPEG quality, or None (demosaic)."""
    image: str | None = None
    """One image alone (Figures 5 and 8)."""
    variant: str | None = None
    """Which network of an ablation (Tables 5 and 6)."""
    published: dict[str, Pair] = field(default_factory=dict, compare=False)
    """Method -> (PSNR, SSIM) in the paper."""

    def __post_init__(self) -> None:
        if self.task not in LEVELS:
            raise UsageError(f"--task {self.task} has no benchmark: choose one of {', '.join(LEVELS)}")
        entry = datasets.dataset(self.dataset)
        if not entry.clean:
            raise UsageError(f"--dataset {self.dataset} has no clean images: nothing can be measured on it")
        if entry.channels not in TASKS[self.task].channels:
            raise UsageError(f"--dataset {self.dataset} is gray: --task {self.task} needs a colour one")

    @property
    def channels(self) -> int:
        return datasets.dataset(self.dataset).channels

    def files(self, limit: int | None = None) -> tuple[datasets.File, ...]:
        files = datasets.dataset(self.dataset).images
        return tuple(file for file in files if self.image in (None, file.path))[:limit]

    def __str__(self) -> str:
        level = "" if self.level is None else f" {'σ' if self.task == 'denoise' else 'q'} {self.level:g}"
        return f"{self.image or self.dataset}{level}{f' ({self.variant})' if self.variant else ''}"


@dataclass(frozen=True)
class Published:
    """A table or figure of the paper."""

    title: str
    rows: list[dict[str, Any]]
    """dataset, task, level and methods, with an image or a variant where there is one."""


PUBLISHED = {
    name: Published(**entry)
    for name, entry in json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8")).items()
}
"""'table 1' ... 'table 6', 'figure 5', 'figure 8'. Table 4's Urban100 is in colour, and called so here."""


def cases_of(table: str) -> list[Case]:
    """What a published table or figure measures, as 'table 1' or 'figure 5'. Raises UsageError."""
    if table not in PUBLISHED:
        kind = table.partition(" ")[0]
        raise UsageError(f"--{table} is unknown: choose --{' or --'.join(n for n in PUBLISHED if n.startswith(kind))}")
    return [_case(row) for row in PUBLISHED[table].rows]


def cases_for(names: Sequence[str], task: str, levels: Sequence[float | None]) -> list[Case]:
    """Datasets x levels, with what the paper publishes for them. Raises UsageError."""
    known = [case for table in ("table 1", "table 3", "table 4") for case in cases_of(table)]
    cases = [Case(name, task, level) for name in dict.fromkeys(names) for level in dict.fromkeys(levels)]
    return [next((found for found in known if found == case), case) for case in cases]


def _case(row: dict[str, Any]) -> Case:
    methods = {name: (values[0], values[1]) for name, values in row["methods"].items()}
    return Case(row["dataset"], row["task"], row["level"], row.get("image"), row.get("variant"), methods)


@dataclass(frozen=True)
class Method:
    """Something that restores, and all that decides its results."""

    name: str
    run: Callable[[Tensor, float | None], Tensor]
    """(degraded (C, H, W), sigma or quality) -> restored (C, H, W), both float32 in [0, 1]."""
    settings: dict[str, Any]


def our_method(
    task: str, channels: int, model: str | None, options: Options, warn: Callable[[str], None] = lambda line: None
) -> Method:
    """A dagl model; model: as --model. Raises UsageError, WeightsError."""
    path = weights.resolve(model, task, channels, offline=options.offline)
    restorer = load_model(task, channels, model=path, options=options, warn=warn)
    if restorer.config.channels != channels:
        kinds = {1: "gray", 3: "colour"}
        raise UsageError(
            f"--model {path.stem} is for {kinds[restorer.config.channels]} images, these are {kinds[channels]}"
        )
    stated = restorer.tile, restorer.device

    def run(bad: Tensor, level: float | None) -> Tensor:
        result = restorer(bad, level if restorer.config.noise_map else None)
        if (restorer.tile, restorer.device) != stated:  # it helped itself, as a user's command should
            raise UsageError(f"out of memory on {stated[1]}: measure with a smaller --tile, or with --device cpu")
        return result

    return Method(OURS, run, settings(restorer, path))


def settings(restorer: Restorer, path: Path) -> dict[str, Any]:
    """What decides a model's results; path: its weight file."""
    options, blend = restorer.options, restorer.options.tiling == "blend"
    return {
        "network": "DAGL" if restorer.config.stages else "residual, no graph",
        "weights": restorer.name,
        "sha256": weights.sha256(path),
        "tiling": options.tiling,
        "tile": restorer.tile if blend else None,
        "overlap": min(restorer.overlap, restorer.tile // 2) if blend else None,
        "ensemble": "x8" if options.ensemble else "none",
        "device": str(restorer.device),
        "precision": str(restorer.dtype).removeprefix("torch."),
    }


def peer_method(task: str, channels: int, name: str, device: str) -> Method:
    """Another method: a name of `peers.METHODS`, or a checkpoint's path. Raises UsageError, WeightsError, DaglError."""
    is_file = name not in peers.METHODS and Path(name).is_file()
    sha256 = hashlib.sha256(Path(name).read_bytes()).hexdigest() if is_file else None
    chosen = str(pick_device(device)) if is_file else "cpu"
    method = peers.method(name, task, channels, chosen)
    settings = {
        "network": method.summary, "weights": Path(name).stem if is_file else None, "sha256": sha256,
        "tiling": "its own", "tile": None, "overlap": None, "ensemble": "none", "device": chosen,
        "precision": "float32",
    }  # fmt: skip
    return Method(Path(name).stem if is_file else name, method, settings)


@dataclass
class Row:
    """One case with one method: how it was measured, and the means over its images."""

    dataset: str
    task: str
    level: float | None
    image: str | None
    variant: str | None
    method: str
    protocol: str
    degradation: str
    rounding: str
    ssim_window: str
    seed: int
    settings: dict[str, Any]
    """network, weights, sha256, tiling, tile, overlap, ensemble, device, precision."""
    version: str
    published: dict[str, Pair]
    of: int
    """How many images the whole case has."""
    images: list[dict[str, Any]]
    """name, psnr, ssim, input_psnr, input_ssim, seconds, megapixels, peak_mb of every image, in order."""

    def mean(self, key: str) -> float:
        return fmean(image[key] for image in self.images)

    @property
    def seconds_per_megapixel(self) -> float:
        return self.mean("seconds") / self.mean("megapixels")

    @property
    def peak_mb(self) -> float | None:
        return max((image["peak_mb"] for image in self.images if image["peak_mb"] is not None), default=None)

    @property
    def difference(self) -> Pair:
        """PSNR and SSIM above (or below) the paper's DAGL; None where it publishes none, or not for these images."""
        paper = self.published.get(PAPER, (None, None)) if len(self.images) == self.of else (None, None)
        return (
            None if paper[0] is None else self.mean("psnr") - paper[0],
            None if paper[1] is None else self.mean("ssim") - paper[1],
        )

    def flat(self) -> dict[str, Any]:
        """Every column of a CSV file: what was measured, and how; without the images."""
        own = asdict(self)
        paper = self.published.get(PAPER, (None, None))
        measured = {
            "images": len(self.images), "psnr": self.mean("psnr"), "ssim": self.mean("ssim"),
            "input_psnr": self.mean("input_psnr"), "input_ssim": self.mean("input_ssim"),
            "paper_psnr": paper[0], "paper_ssim": paper[1],
            "difference_psnr": self.difference[0], "difference_ssim": self.difference[1],
            "seconds_per_megapixel": self.seconds_per_megapixel, "peak_mb": self.peak_mb,
        }  # fmt: skip
        case = {key: own.pop(key) for key in ("dataset", "task", "level", "image", "variant", "method")}
        how = {key: value for key, value in own.items() if key not in ("settings", "published", "images")}
        return case | measured | how | self.settings

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON has it: the infinite PSNR of equal images is null."""
        images = [_finite(image) for image in self.images]
        return _finite(self.flat()) | {"published": self.published, "per_image": images}

    def stated(self) -> str:
        """Everything that was decided, in one line."""
        s = self.settings
        tiles = f"tiling {s['tiling']}" + (f" {s['tile']}, overlap {s['overlap']}" if s["tile"] else "")
        part = "" if len(self.images) == self.of else f"the first {len(self.images)} of {self.of} images; "
        named = f"{s['weights']} {s['sha256'][:12]}, " if s["sha256"] else ""
        which = f"{self.method} ({named}{s['network']})"
        return (
            f"{which}: {part}protocol {self.protocol}; {self.degradation}; {self.rounding}; {tiles}; ensemble "
            f"{s['ensemble']}; SSIM {self.ssim_window}; {s['device']}, {s['precision']}; dagl {self.version}"
        )


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in values.items()}


def load(case: Case, file: datasets.File, folder: Path) -> np.ndarray:
    """A clean image as uint8 (H, W, C), its content checked. Raises DaglError."""
    content = datasets.read(datasets.dataset(case.dataset), file, folder)
    with Image.open(io.BytesIO(content)) as image:
        pixels = np.asarray(image.convert("L" if case.channels == 1 else "RGB"))
    return pixels.reshape(*pixels.shape[:2], -1)


def degraded(pixels: np.ndarray, task: str, level: float | None, seed: int = 1) -> tuple[Tensor, Tensor]:
    """(clean, degraded), each (C, H, W) in [0, 1], by the paper's protocol of the task.

    pixels: uint8 (H, W, C). level: sigma for 'denoise' (Table 1, not clipped), quality for 'dejpeg' (Table 3).
    """
    clean = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255
    if task == "demosaic":
        return clean, degrade.bayer_mosaic(clean[None])[0]
    if level is None:
        raise UsageError(f"--task {task} needs --sigma or --quality")
    if task == "dejpeg":
        flat = pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels
        compressed = degrade.jpeg(flat, int(level)).reshape(pixels.shape)
        return clean, torch.from_numpy(compressed.copy()).permute(2, 0, 1).float() / 255
    return clean, degrade.paper_noise(clean[None], level, seed)[0]


def restored(method: Method, bad: Tensor, level: float | None, protocol: str) -> Tensor:
    """The method's result as the protocol measures it: clipped, and in `practical` rounded."""
    result = method.run(bad, level).clamp(0, 1)
    if result.shape != bad.shape:
        raise DaglError(f"{method.name} returns {tuple(result.shape)} for {tuple(bad.shape)}: nothing to measure")
    return (result * 255).round() / 255 if PROTOCOLS[protocol].rounding else result


def measure(
    case: Case,
    method: Method,
    folder: Path,
    protocol: str = "paper",
    seed: int = 1,
    limit: int | None = None,
    results: Results | None = None,
    progress: Callable[[str], None] = lambda name: None,
) -> Row:
    """PSNR, SSIM, time and memory of a method on a case's images.

    folder: holds the datasets' folders. limit: only the first images. results: where finished images are kept.
    progress: called with every image's name when it is done. Raises DaglError.
    """
    row = Row(
        case.dataset, case.task, case.level, case.image, case.variant, method.name, protocol,
        DEGRADATIONS[case.task].format(seed=seed),
        "results clipped, " + ("rounded to 8 bits" if PROTOCOLS[protocol].rounding else "not rounded"),
        SSIM[case.task].__name__.removeprefix("ssim_"), seed, method.settings, __version__, case.published,
        len(case.files()), [],
    )  # fmt: skip
    warm = False
    for file in case.files(limit):
        decides = [
            file.sha256, case.task, case.level, method.name, method.settings, protocol, seed, source_hash(),
            libraries(), platform.node(),
        ]  # fmt: skip
        key = hashlib.sha256(json.dumps(decides).encode()).hexdigest()
        pixels = load(case, file, folder)  # checked, even if the result is known
        found = results.get(key) if results else None
        if found is None:
            if not warm:  # imports and first calls are not the method's time
                method.run(degraded(pixels[:64, :64], case.task, case.level, seed)[1], case.level)
                warm = True
            found = _measure_image(case, method, pixels, protocol, seed)
            if results:
                results.add(key, found)
        row.images.append({"name": file.path} | found)
        progress(file.path)
    return row


def _measure_image(case: Case, method: Method, pixels: np.ndarray, protocol: str, seed: int) -> dict[str, Any]:
    clean, bad = degraded(pixels, case.task, case.level, seed)
    device = method.settings["device"]
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    else:
        _reset_peak()
    start = time.perf_counter()
    result = restored(method, bad, case.level, protocol)
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated(device) / 1e6 if cuda else _peak_of_process()
    shown, ssim = bad.clamp(0, 1), SSIM[case.task]
    return {
        "psnr": psnr(result, clean), "ssim": ssim(result, clean),
        "input_psnr": psnr(shown, clean), "input_ssim": ssim(shown, clean),
        "seconds": seconds, "megapixels": pixels.shape[0] * pixels.shape[1] / 1e6,
        "peak_mb": peak,
    }  # fmt: skip


def _reset_peak() -> None:
    """Linux: from here on, what is the most memory that this process held."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_of_process() -> float | None:
    """The most memory that this process has held since `_reset_peak` (Linux), or so far, in MB; None on Windows."""
    if sys.platform == "win32":
        return None
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024 / 1e6
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3  # bytes there, kB elsewhere


@functools.cache
def source_hash() -> str:
    """SHA-256 over the package's modules: a changed program does not take old results for its own."""
    paths = sorted(Path(__file__).parents[1].rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


@functools.cache
def libraries() -> list[str]:
    """Versions of the libraries that decide results: arithmetic, JPEGs, metrics, other methods."""
    names = ("torch", "numpy", "pillow", "scikit-image", "scipy", "spandrel", "colour-demosaicing")
    found = {d.name.lower().replace("_", "-"): d.version for d in distributions() if d.name}
    return [f"{name} {found.get(name)}" for name in names]


class Results:
    """Finished images, one JSON line each, appended in one write; safe for several processes and for kills.

    Raises DaglError when the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, dict[str, Any]] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = path.read_bytes().splitlines() if path.exists() else []
        except OSError as error:
            raise self._error(error) from None
        for line in lines:
            with suppress(ValueError, KeyError, TypeError):  # a line that was cut off
                entry = json.loads(line)
                self._known[entry["key"]] = entry["result"]

    def get(self, key: str) -> dict[str, Any] | None:
        return self._known.get(key)

    def add(self, key: str, result: dict[str, Any]) -> None:
        line = json.dumps({"key": key, "result": result})
        try:  # the first line break ends a line that an earlier process may have left half written
            with self.path.open("ab", buffering=0) as file:
                file.write(f"\n{line}\n".encode())
        except OSError as error:
            raise self._error(error) from None
        self._known[key] = result

    def _error(self, error: OSError) -> DaglError:
        return DaglError(f"{self.path}: {error.strerror}: make room, set XDG_CACHE_HOME, or use --no-cache")


def results_path() -> Path:
    """Where finished images are kept between runs."""
    return cache_folder() / "results.jsonl"


def trained_variants(folder: Path, table: str) -> dict[str, Path]:
    """Variant -> weight file of an ablation's networks below a folder; the newest where there are several.

    Which case a file belongs to is in its training settings: preset 'table5:NAME' or 'table6:CASE'. Raises UsageError.
    """
    if not folder.is_dir():
        raise UsageError(f"--models {folder}: no such folder")
    found = {}
    for path in sorted(folder.rglob("*.safetensors"), key=lambda path: path.stat().st_mtime):
        try:
            preset = str(weights.describe(path)[1].get("training", {}).get("preset"))
        except DaglError:  # some other program's file
            continue
        if preset.startswith(f"{table.replace(' ', '')}:"):
            found[preset.partition(":")[2]] = path
    if not found:
        raise UsageError(
            f"--models {folder}: no networks of {table} in it; `dagl train --preset {table.replace(' ', '')}:...` "
            "makes them"
        )
    return found


def below(rows: Sequence[Row], tolerance: float, reference: Sequence[dict[str, Any]] | None) -> tuple[list[str], int]:
    """(one line for each of our rows whose PSNR is more than `tolerance` dB below its reference, rows compared).

    reference: rows of an earlier --json, which must have a counterpart of each of ours; None: what the paper publishes
    for DAGL, where it does. Raises UsageError if there is nothing to compare with, or if the images are not the same.
    """
    lines, compared = [], 0
    for row in rows:
        if row.method != OURS:
            continue
        if reference is None:
            wanted, source = row.published.get(PAPER, (None, None))[0], "published"
            count: int | None = row.of
        else:
            same = ("dataset", "task", "level", "image", "variant", "method", "protocol", "seed", "tiling", "ensemble")
            own = row.flat()
            match = next((r for r in reference if all(r.get(key) == own[key] for key in same)), {})
            wanted, source, count = match.get("psnr"), "reference", match.get("images")
            if wanted is None:
                raise UsageError(
                    f"--reference has no row for {_case_of(row)} with protocol {row.protocol}, tiling {own['tiling']}, "
                    f"ensemble {own['ensemble']}, seed {row.seed}: measure both in the same way"
                )
        if wanted is None:
            continue
        case = Case(row.dataset, row.task, row.level, row.image, row.variant)
        if count != len(row.images):
            raise UsageError(f"--tolerance: {case} was measured on {len(row.images)} images, its reference on {count}")
        compared += 1
        if not row.mean("psnr") >= wanted - tolerance:  # so that NaN is below as well
            short = wanted - row.mean("psnr")
            lines.append(f"{case}: {row.mean('psnr'):.2f} dB is {short:.2f} below the {source} {wanted:.2f}")
    if not compared:
        raise UsageError("--tolerance has nothing to compare with: measure a published table, or give --reference")
    return lines, compared


def read_reference(path: Path) -> list[dict[str, Any]]:
    """The rows of an earlier --json output. Raises UsageError."""
    try:
        rows = [dict(row) for row in json.loads(path.read_text(encoding="utf-8"))["rows"]]
        if not all(isinstance(row.get("psnr"), int | float | None) for row in rows):
            raise TypeError
        return rows
    except OSError as error:
        raise UsageError(f"--reference {path}: {error.strerror}: give an output of `dagl benchmark --json`") from None
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"--reference {path}: not the output of `dagl benchmark --json`") from None


RESERVED = ("difference", "clean")
"""Labels of tables and pictures that a checkpoint of that name must not take."""


def grid(cases: Sequence[Case], rows: Sequence[Row]) -> dict[str, list[Pair]]:
    """Column -> (PSNR, SSIM) of every case: published methods, the paper's DAGL, input, others, ours, difference.

    (None, None) where there is nothing; columns that hold nothing at all are left out.
    """
    nothing = (None, None)
    of = {(_case_of(row), row.method): row for row in rows}

    def means(row: Row | None, prefix: str = "") -> Pair:
        return (row.mean(f"{prefix}psnr"), row.mean(f"{prefix}ssim")) if row else nothing

    columns: dict[str, list[Pair]] = {}
    for name in dict.fromkeys(name for case in cases for name in case.published if name != PAPER):
        columns[name] = [case.published.get(name, nothing) for case in cases]
    columns["DAGL (paper)"] = [case.published.get(PAPER, nothing) for case in cases]
    inputs = {_case_of(row): means(row, "input_") for row in rows}
    columns["input"] = [inputs.get(case, nothing) for case in cases]
    methods = [name for name in dict.fromkeys(row.method for row in rows) if name not in (OURS, "input")]
    for name in (*methods, OURS):
        taken = name in columns or name in RESERVED
        columns[f"{name} (measured)" if taken else name] = [means(of.get((case, name))) for case in cases]
    columns["difference"] = [row.difference if (row := of.get((case, OURS))) else nothing for case in cases]
    return {name: cells for name, cells in columns.items() if any(cell != nothing for cell in cells)}


def summary(cases: Sequence[Case], rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """(columns, lines) of the printed table: the `grid`, PSNR over SSIM in a cell, and what our rows cost."""
    columns = grid(cases, rows)
    ours = {_case_of(row): row for row in rows if row.method == OURS}
    lines = []
    for i, case in enumerate(cases):
        row = ours.get(case)
        cost = [f"{row.seconds_per_megapixel:.2f}", f"{row.peak_mb or math.nan:.0f}"] if row else ["", ""]
        cells = [_pair(*cells[i], sign="+" if name == "difference" else "") for name, cells in columns.items()]
        lines.append([_label(case, rows), *cells, *cost])
    return ["", *columns, "s/MP", "peak MB"], lines


def _label(case: Case, rows: Sequence[Row]) -> str:
    """The case, and how many of its images were measured if not all: published figures are of all."""
    some = next((len(row.images) for row in rows if _case_of(row) == case and len(row.images) < row.of), None)
    return str(case) if some is None else f"{case}, first {some}"


def _case_of(row: Row) -> Case:
    return Case(row.dataset, row.task, row.level, row.image, row.variant)


def _pair(first: float | None, second: float | None, sign: str = "") -> str:
    shown = [] if first is None else [f"{first:{sign}.2f}"]
    return "\n".join(shown if second is None else [*shown, f"{second:{sign}.4f}"])


def csv_text(rows: Sequence[Row]) -> str:
    """Every row with all its columns, as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0].flat()), lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.flat() for row in rows)
    return text.getvalue()


def markdown(cases: Sequence[Case], rows: Sequence[Row]) -> str:
    """The summary and what is stated about its rows, as Markdown."""
    columns, lines = summary(cases, rows)
    cells = [[cell.replace("\n", " / ").replace("|", "\\|") for cell in line] for line in lines]
    table = [columns, ["---"] * len(columns), *cells]
    notes = [f"* {note}" for note in dict.fromkeys(row.stated() for row in rows)]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in table), "", *notes, ""])


def page(
    title: str,
    cases: Sequence[Case],
    rows: Sequence[Row],
    methods: Callable[[Case], list[Method]],
    folder: Path,
) -> str:
    """The HTML report: summary, per-image table, and for every dataset the images that gained most, middling, least.

    methods: the methods of a case, ours last; they run once more on the few images that are shown.
    """
    columns = grid(cases, rows)
    flat = [row.flat() for row in rows]
    told = [key for key in (flat[0] if flat else ()) if any(row[key] is not None for row in flat)]
    per_image = [
        [_picture_name(row, image["name"]), row.method]
        + [image[key] for key in ("psnr", "ssim", "input_psnr", "input_ssim")]
        + [image["psnr"] - image["input_psnr"], image["seconds"] / image["megapixels"]]
        for row in rows
        for image in row.images
    ]  # fmt: skip
    tables = [
        *(
            report.Table(
                f"{title}: {measure}",
                ["", *columns],
                [[_label(case, rows), *(cells[i][half] for cells in columns.values())] for i, case in enumerate(cases)],
            )
            for half, measure in enumerate(("PSNR in dB", "SSIM"))
        ),
        report.Table("Rows", told, [[row[key] for key in told] for row in flat]),
        report.Table(
            "Images", ["image", "method", "PSNR", "SSIM", "input PSNR", "input SSIM", "gain", "s/MP"], per_image
        ),
    ]
    pictures = []
    for name in dict.fromkeys(row.dataset for row in rows):
        shown = [(row, image) for row in rows if row.dataset == name and row.method == OURS for image in row.images]
        ranked = sorted(shown, key=lambda pair: pair[1]["psnr"] - pair[1]["input_psnr"])
        few = {index: ranked[index] for index in (len(ranked) - 1, len(ranked) // 2, 0) if ranked}
        pictures += [_picture(row, image["name"], methods(_case_of(row)), folder) for row, image in few.values()]
    notes = list(dict.fromkeys(row.stated() for row in rows))
    return report.html(title, notes, tables, pictures=pictures)


def _picture_name(row: Row, image: str) -> str:
    case = Case(row.dataset, row.task, row.level, image, row.variant)
    return f"{row.dataset}/{case}"


def _picture(row: Row, name: str, methods: list[Method], folder: Path) -> report.Picture:
    case = _case_of(row)
    (file,) = (file for file in case.files() if file.path == name)
    clean, bad = degraded(load(case, file, folder), row.task, row.level, row.seed)
    results = {method.name: restored(method, bad, row.level, row.protocol) for method in methods}
    before, after = bad.clamp(0, 1), results.pop(OURS)
    others = {f"{k} (measured)" if k in RESERVED else k: x for k, x in results.items() if k != "input"}
    versions = {"input": before, OURS: after, "clean": clean, **others}
    return report.Picture(
        _picture_name(row, name),
        {label: (x.permute(1, 2, 0) * 255).round().byte().squeeze(-1).numpy() for label, x in versions.items()},
        {
            label: {"PSNR": psnr(x, clean), "SSIM": SSIM[row.task](x, clean)}
            for label, x in versions.items()
            if label != "clean"
        },
    )
