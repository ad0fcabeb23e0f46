"""Cases x methods -> figures of every image, under a stated protocol.

Every image's figures are kept in a `Cache` under a key made of all that decides them, so an interrupted run continues
where it stopped.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import distributions
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from .. import __version__
from ..config import is_of_mosaics
from ..degrade import bayer_mosaic, degraded
from ..errors import DaglError, UsageError
from ..files import cache_folder
from ..store.manifest import typed
from . import datasets
from .cases import PAPER, Case, Key, Scores
from .datasets import Loaded, Sample
from .methods import Method, Settings
from .metrics import SSIM, psnr
from .perceptual import METRICS, Metric


@dataclass(frozen=True)
class Protocol:
    """What is done around a method. Degradations and seeds are the paper's in all of them."""

    tiling: str
    rounding: bool
    """Whether the result is rounded to the levels of the clean file before it is measured."""


PROTOCOLS = {"paper": Protocol("chop", False), "practical": Protocol("blend", True)}
"""`paper`: the released procedure: its chop, results clipped and measured as floats. `practical`: what a user's file
gets: overlapping tiles that blend, results clipped and rounded to 8 bits (16 for files of 16). The input is the same in
both: noise has the released seed and is neither clipped nor rounded, JPEGs are Pillow's, mosaics GRBG."""
SHIFTS = 2
"""Pairs are tried at shifts of up to so many pixels ..."""
SHIFTED = 0.97
"""... and are shifted if that takes their mean squared error below this share. Noise alone never did (384 crops of
64x64 at sigma 1, 5, 25 and 50); shifts of 24 of 24 photographs were found up to sigma 25, of 23 at 50
(`tests/studies/quality.py shift`)."""
SMALLEST_SHIFTED = 64
"""Side of the smallest images that are tried."""
CROP = 192
"""Side in pixels of what is restored to find out how long a method takes."""


@dataclass(frozen=True)
class Figures:
    """What was measured on one image."""

    psnr: float
    ssim: float
    input_psnr: float
    input_ssim: float
    """Of the degraded image, clipped."""
    seconds: float
    megapixels: float
    peak_mb: float | None
    lpips: float | None = None
    dists: float | None = None
    """None: not asked for."""
    input_lpips: float | None = None
    input_dists: float | None = None


@dataclass(frozen=True, kw_only=True)
class ImageFigures(Figures):
    """The figures, and of which image, under which seed."""

    name: str
    seed: int


@dataclass
class Measurement:
    """One case with one method: how it was measured, and the figures of its images."""

    case: Case
    method: str
    protocol: str
    rounding: str
    ssim_window: str
    seeds: tuple[int, ...]
    settings: Settings
    released: bool = False
    """Whether the method has the authors' weights."""
    version: str = __version__
    images: list[ImageFigures] = field(default_factory=list)
    """In order, every seed after the other."""

    @property
    def key(self) -> Key:
        return self.case.key

    @property
    def of(self) -> int:
        """How many images the whole case has."""
        return len(self.case.samples())

    @property
    def count(self) -> int:
        """How many images were measured."""
        return len({image.name for image in self.images})

    def mean(self, figure: str) -> float:
        return fmean(getattr(image, figure) for image in self.images)

    def by_image(self, figure: str) -> dict[str, float]:
        """Image -> its figure, the mean over the seeds."""
        found: dict[str, list[float]] = {}
        for image in self.images:
            found.setdefault(image.name, []).append(getattr(image, figure))
        return {name: fmean(values) for name, values in found.items()}

    def interval(self, figure: str) -> float | None:
        """Half of the 95 % interval of the mean over images; None for a single image."""
        return half_interval(list(self.by_image(figure).values()))

    @property
    def metrics(self) -> list[str]:
        """The perceptual ones that were asked for."""
        return [name for name in METRICS if all(getattr(image, name) is not None for image in self.images)]

    def deviation(self, figure: str) -> float | None:
        """Standard deviation of the mean over the images from seed to seed; None for a single seed."""
        if len(self.seeds) < 2:
            return None
        return stdev(fmean(getattr(i, figure) for i in self.images if i.seed == seed) for seed in self.seeds)

    @property
    def seconds_per_megapixel(self) -> float:
        return self.mean("seconds") / self.mean("megapixels")

    @property
    def peak_mb(self) -> float | None:
        return max((image.peak_mb for image in self.images if image.peak_mb is not None), default=None)

    @property
    def paper(self) -> Scores:
        """What the paper publishes for its DAGL; (None, None) if nothing, or not for these images."""
        return self.case.published.get(PAPER, (None, None)) if self.count == self.of else (None, None)

    @property
    def difference(self) -> Scores:
        """PSNR and SSIM above (or below) the paper's DAGL."""
        psnr, ssim = self.paper
        return (
            None if psnr is None else self.mean("psnr") - psnr,
            None if ssim is None else self.mean("ssim") - ssim,
        )

    def flat(self) -> dict[str, Any]:
        """Every column of a CSV file: what was measured, and how; without the images."""
        case, paper = self.case, self.case.published.get(PAPER, (None, None))
        return {
            "dataset": case.dataset.name, "task": case.task, "level": case.level, "image": case.image,
            "variant": case.variant, "method": self.method,
            "images": self.count, "psnr": self.mean("psnr"), "ssim": self.mean("ssim"),
            "input_psnr": self.mean("input_psnr"), "input_ssim": self.mean("input_ssim"),
            "psnr_interval": self.interval("psnr"), "ssim_interval": self.interval("ssim"),
            "psnr_deviation": self.deviation("psnr"), **self._perceptual(),
            "paper_psnr": paper[0], "paper_ssim": paper[1],
            "difference_psnr": self.difference[0], "difference_ssim": self.difference[1],
            "seconds_per_megapixel": self.seconds_per_megapixel, "peak_mb": self.peak_mb,
            "protocol": self.protocol, "degradation": case.degradation(self.seeds), "rounding": self.rounding,
            "ssim_window": self.ssim_window, "seed": self.seeds[0], "seeds": " ".join(map(str, self.seeds)),
            "version": self.version, "of": self.of,
        } | asdict(self.settings)  # fmt: skip

    def _perceptual(self) -> dict[str, float | None]:
        """The same columns whatever was asked for."""
        found: dict[str, float | None] = {}
        for name in METRICS:
            known = name in self.metrics
            found |= {key: self.mean(key) if known else None for key in (name, f"input_{name}")}
            found[f"{name}_interval"] = self.interval(name) if known else None
        return found

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON has it: the infinite PSNR of equal images is null."""
        whole = self.flat() | {"seeds": self.seeds, "published": self.case.published}
        return _finite(whole) | {"per_image": [_finite(asdict(image)) for image in self.images]}

    def stated(self) -> str:
        """Everything that was decided, in one line."""
        s = self.settings
        tiles = f"tiling {s.tiling}" + (f" {s.tile}, overlap {s.overlap}" if s.tile else "")
        part = "" if self.count == self.of else f"the first {self.count} of {self.of} images; "
        named = f"{s.weights} {s.sha256[:12]}, " if s.sha256 else ""
        return (
            f"{self.method} ({named}{s.network}): {part}protocol {self.protocol}; {self.case.degradation(self.seeds)}; "
            f"{self.rounding}; {tiles}; ensemble {s.ensemble}; SSIM {self.ssim_window}; "
            f"{''.join(f'{METRICS[name]}; ' for name in self.metrics)}{s.device}, {s.precision}; dagl {self.version}"
        )


def half_interval(values: Sequence[float]) -> float | None:
    """Half of the 95 % interval of the mean of values that were drawn independently (Student's t); None for one.

    For figures of images it says how much the mean would differ on other images of the same kind.
    """
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return None
    return float(stats.t.ppf(0.975, len(values) - 1) * stdev(values) / math.sqrt(len(values)))


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in values.items()}


def prepared(case: Case, loaded: Loaded, seed: int = 1) -> tuple[Tensor, Tensor]:
    """(clean, degraded) of a sample, each (C, H, W) in [0, 1], noise beyond it. Raises DaglError for a shifted pair."""
    clean = _tensor(loaded.clean)
    if loaded.degraded is None:
        return clean, degraded(clean, case.task, case.level, seed, case.pattern)
    bad = _tensor(loaded.degraded)
    if is_of_mosaics(case.task):
        return clean, bayer_mosaic(bad[None], case.pattern)[0]
    if shift := pair_shift(loaded.degraded, loaded.clean):
        raise DaglError(f"the degraded image lies {_words(*shift)}: align the pair")
    return clean, bad


def _tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).contiguous()


def pair_shift(bad: np.ndarray, clean: np.ndarray) -> tuple[int, int] | None:
    """(rows, columns) by which `bad` lies further down and right than `clean`; None where they fit best as they are."""
    margin, (height, width) = SHIFTS, clean.shape[:2]
    if min(height, width) < SMALLEST_SHIFTED:
        return None
    middle = clean[margin : height - margin, margin : width - margin]
    shifts = range(-margin, margin + 1)
    errors = {
        (row, column): float(
            np.mean(
                (bad[margin + row : height - margin + row, margin + column : width - margin + column] - middle) ** 2
            )
        )
        for row in shifts
        for column in shifts
    }
    best = min(errors, key=lambda shift: errors[shift])
    return best if errors[best] < SHIFTED * errors[0, 0] else None


def _words(down: int, right: int) -> str:
    """A shift, as '1 pixel up and 2 to the left'."""
    ways = [(down, "down" if down > 0 else "up"), (right, "to the right" if right > 0 else "to the left")]
    far = [f"{abs(n)} pixel{'s' * (abs(n) > 1)} {way}" for n, way in ways if n]
    return " and ".join(far)


def restored(method: Method, bad: Tensor, level: float | None, protocol: str, depth: int = 8) -> Tensor:
    """The method's result as the protocol measures it: clipped, and in `practical` rounded to `depth` bits."""
    result = method.run(bad, level).clamp(0, 1)
    if result.shape != bad.shape:
        raise DaglError(f"{method.name} returns {tuple(result.shape)} for {tuple(bad.shape)}: nothing to measure")
    top = 2**depth - 1
    return (result * top).round() / top if PROTOCOLS[protocol].rounding else result


See = Callable[[Sample, int, Tensor, int], None]
"""Called with a sample, a seed, what the method made of it, (C, H, W), and the depth of the sample's file."""


@dataclass(frozen=True)
class Procedure:
    """How cases are measured. Raises UsageError without seeds."""

    folder: Path
    """Holds the published datasets' folders."""
    protocol: str = "paper"
    """One of `PROTOCOLS`."""
    seeds: Sequence[int] = (1,)
    """Of the degradation; every image is measured under each."""
    limit: int | None = None
    """Only the first images."""
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    """Perceptual ones that are measured too."""
    cache: Cache | None = None
    """Where finished images are kept."""

    def __post_init__(self) -> None:
        if not self.seeds:
            raise UsageError("`seed` is empty: give at least one")
        object.__setattr__(self, "seeds", tuple(dict.fromkeys(self.seeds)))

    def key(self, case: Case, method: Method, sha256: str, seed: int) -> str:
        """Of all that decides the figures of one image, whose files have this SHA-256."""
        decides = [
            sha256, case.channels, case.task, case.level, case.pattern, method.name, asdict(method.settings),
            self.protocol, seed, sorted(self.metrics), source_hash(), libraries(), platform.node(),
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(decides).encode()).hexdigest()

    def known(self, case: Case, method: Method, sha256: str, seed: int) -> Figures | None:
        return self.cache.get(self.key(case, method, sha256, seed)) if self.cache else None


def measure(
    case: Case,
    method: Method,
    procedure: Procedure,
    progress: Callable[[str], None] = lambda name: None,
    see: See | None = None,
) -> Measurement:
    """PSNR, SSIM, time and memory of a method on a case's images.

    progress: called with every image's name when it is done. see: gets every result, so nothing is taken from the
    cache. Raises DaglError.
    """
    depths = set()
    found = Measurement(
        case, method.name, procedure.protocol, "", SSIM[case.task].__name__.removeprefix("ssim_"),
        tuple(procedure.seeds), method.settings, method.released,
    )  # fmt: skip
    warm = False
    for sample in case.samples(procedure.limit):
        loaded = datasets.load(case.dataset, sample, procedure.folder)  # checked, even if the result is known
        depths.add(loaded.depth)
        for seed in found.seeds:
            figures = None if see else procedure.known(case, method, loaded.sha256, seed)
            if figures is None:
                try:
                    clean, bad = prepared(case, loaded, seed)
                    if not warm:  # imports and first calls are not the method's time
                        method.run(bad[:, :64, :64].contiguous(), case.level)
                        warm = True
                    figures, result = _measure_image(case, method, clean, bad, procedure, loaded.depth)
                except DaglError as error:
                    raise type(error)(f"{case.dataset.name}/{sample.name}: {error}") from None
                if see:
                    see(sample, seed, result, loaded.depth)
                if procedure.cache:
                    procedure.cache.add(procedure.key(case, method, loaded.sha256, seed), figures)
            found.images.append(ImageFigures(**asdict(figures), name=sample.name, seed=seed))
        progress(sample.name)
    bits = " or ".join(map(str, sorted(depths)))
    found.rounding = "results clipped, " + (
        f"rounded to {bits} bits" if PROTOCOLS[procedure.protocol].rounding else "not rounded"
    )
    return found


def _measure_image(
    case: Case, method: Method, clean: Tensor, bad: Tensor, procedure: Procedure, depth: int
) -> tuple[Figures, Tensor]:
    device = method.settings.device
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    else:
        _reset_peak()
    start = time.perf_counter()
    result = restored(method, bad, case.level, procedure.protocol, depth)
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated(device) / 1e6 if cuda else peak_of_process()
    shown, ssim = bad.clamp(0, 1), SSIM[case.task]
    figures = Figures(
        psnr=psnr(result, clean), ssim=ssim(result, clean), input_psnr=psnr(shown, clean),
        input_ssim=ssim(shown, clean), seconds=seconds, megapixels=clean[0].numel() / 1e6, peak_mb=peak,
        **{name: metric(result, clean) for name, metric in procedure.metrics.items()},
        **{f"input_{name}": metric(shown, clean) for name, metric in procedure.metrics.items()},
    )  # fmt: skip
    return figures, result


def _reset_peak() -> None:
    """Linux: from here on, what is the most memory that this process held."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_of_process() -> float | None:
    """The most memory that this process has held since `_reset_peak` (Linux), or so far, in MB; None on Windows."""
    if sys.platform == "win32":
        return None
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024 / 1e6
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3  # bytes there, kB elsewhere


# --- what it costs ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """What is still to be measured."""

    images: int
    megapixels: float
    seconds: float
    """Estimated from one small crop for each method, on a machine as busy as it is now."""

    def __add__(self, more: Cost) -> Cost:
        return Cost(self.images + more.images, self.megapixels + more.megapixels, self.seconds + more.seconds)


def cost(case: Case, method: Method, procedure: Procedure, rates: dict[Method, float] | None = None) -> Cost:
    """What `measure` would cost. Raises DaglError.

    rates: method -> seconds for its unit of work, as far as known; what is found here is added.
    """
    left: list[tuple[Sample, int]] = []
    for sample in case.samples(procedure.limit):
        digest = sample.clean.sha256
        if sample.degraded or not digest:
            digest = datasets.load(case.dataset, sample, procedure.folder).sha256
        todo = sum(procedure.known(case, method, digest, seed) is None for seed in procedure.seeds)
        left += [(sample, todo)] if todo else []
    if not left:
        return Cost(0, 0, 0)
    rates = {} if rates is None else rates
    if method not in rates:
        _, bad = prepared(case, datasets.load(case.dataset, left[0][0], procedure.folder))
        bad = bad[:, :CROP, :CROP].contiguous()
        method.run(bad[:, :64, :64].contiguous(), case.level)  # imports and first calls
        start = time.perf_counter()
        method.run(bad, case.level)
        rates[method] = (time.perf_counter() - start) / method.work(*bad.shape[1:])
    count = sum(todo for _, todo in left)
    pixels = sum(todo * datasets.size(case.dataset.path(sample.clean, procedure.folder))[0] for sample, todo in left)
    side = round(math.sqrt(pixels / count))  # as if all were of one size
    return Cost(count, pixels / 1e6, count * rates[method] * method.work(side, side))


# --- the cache -------------------------------------------------------------------------------------------------------


@functools.cache
def source_hash() -> str:
    """SHA-256 over the package's modules and the networks that estimate levels: a changed program does not take old
    results for its own."""
    package = Path(__file__).parents[1]
    paths = sorted([*package.rglob("*.py"), *package.rglob("noise.safetensors")])
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


@functools.cache
def libraries() -> list[str]:
    """Versions of the libraries that decide results: arithmetic, JPEGs, metrics, other methods."""
    names = (
        "torch",
        "numpy",
        "pillow",
        "scikit-image",
        "scipy",
        "spandrel",
        "colour-demosaicing",
        "bm3d",
        "torchmetrics",
    )
    found = {d.name.lower().replace("_", "-"): d.version for d in distributions() if d.name}
    return [f"{name} {found.get(name)}" for name in names]


class Cache:
    """Figures of finished images, one JSON line each, appended in one write; safe for several processes and for kills.

    A line that is cut off, or that another version wrote, counts as not there. Raises DaglError when the file cannot
    be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, Figures] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = path.read_bytes().splitlines() if path.exists() else []
        except OSError as error:
            raise self._error(error) from None
        for line in lines:
            with suppress(ValueError, KeyError, TypeError, RecursionError):
                entry = json.loads(line)
                self._known[str(entry["key"])] = typed(Figures, entry["result"])

    def get(self, key: str) -> Figures | None:
        return self._known.get(key)

    def add(self, key: str, figures: Figures) -> None:
        line = json.dumps({"key": key, "result": asdict(figures)})
        try:  # the first line break ends a line that an earlier process may have left half written
            with self.path.open("ab", buffering=0) as file:
                file.write(f"\n{line}\n".encode())
        except OSError as error:
            raise self._error(error) from None
        self._known[key] = figures

    def _error(self, error: OSError) -> DaglError:
        return DaglError(f"{self.path}: {error.strerror}: make room, set XDG_CACHE_HOME, or use `no_cache`")


def cache_path() -> Path:
    """Where finished images are kept between runs."""
    return cache_folder() / "results.jsonl"
