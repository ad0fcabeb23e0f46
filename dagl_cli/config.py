"""What a model is and how it is run, as data: tasks, variants, options and limits. Loads no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from numbers import Real
from typing import Any, ClassVar

from .errors import UsageError, unknown

MAX_PIXELS = 200_000_000
"""Larger images are refused unless the user allows them: they may be decompression bombs."""
HIGHEST_SIGMA = 75.0
"""The models are trained on noise levels from 0 to this, on the 0-255 scale."""
SMALLEST_TILE = 64
"""After running out of memory the tile is halved down to this; then the CPU takes over."""
BAYER_PATTERNS = ("RGGB", "BGGR", "GRBG", "GBRG")
"""The first two rows of a sensor, read from the top left."""
LUMA = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in the brightness (ITU-R BT.601), as in JPEG."""
PAPER_PATTERN = "GRBG"
"""Row 0: G R; row 1: B G (Table 4, the released mosaics)."""
DEFAULT_PATTERN = "RGGB"
"""Of the mosaics that users bring: most cameras' pattern."""
DEVICES = ("auto", "all", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
BACKENDS = ("auto", "torch", "openvino")
TILINGS = ("blend", "whole", "chop")

RAW_FILES = "https://raw.githubusercontent.com"
"""Where GitHub gives out the files of a repository: HOST/OWNER/REPOSITORY/COMMIT/PATH."""
LARGEST = 1024
"""Of any size in a configuration: files from elsewhere must not ask for endless networks."""
DEEPEST = 256
"""ResBlocks and stages in all; the paper has at most 43."""
BLOCK = 8
"""Queries of graph 'gated' in a row and in a column that share one window of keys."""
GRAPHS = {
    "released": "the authors' released code: pruned edges stay in the softmax denominator (default)",
    "paper": "Eq. 7-9 on the released embedding: softmax over the neighbours alone, edges below the threshold are none",
    "equations": "Eq. 7-11 as printed: two 1x1 embeddings, patches compared as they are, heads that add to their input",
    "no-knn": "Table 5 'w/o THD': every node is a neighbour, no dynamic threshold",
    "no-attention": "Table 5 'w/o GAT': neighbours weighted by similarity, no softmax attention",
    "gated": "pixel-exact patches, neighbours by a pilot estimate, a gate in their DCT, and learned values",
    "nonlocal": "Table 5 'NL' (1 head) and 'MHNL': pixel-wise non-local block, no patches, no threshold",
}
NO_ONNX = {
    "nonlocal": "its cost depends on the size in Python code",
    "equations": "its patches are cut out for one size",
}
"""Graphs that have no ONNX export, and why."""


@dataclass(frozen=True)
class ModelConfig:
    """Everything that fixes a network's shape and meaning. Travels inside the weight file.

    The defaults are the released gray denoiser: 16 ResBlocks, 3 stages of 4 heads (Section 3, Figure 1).
    """

    task: str = "denoise"
    """One of `TASKS`."""
    channels: int = 1
    """Colour channels in and out: 1 (gray) or 3 (RGB)."""
    noise_map: bool = False
    """One more input channel that holds the noise level, sigma / 255, at every pixel (FFDNet); for mosaics one for
    each place of a cell of `scale` x `scale` samples."""
    scale: int = 1
    """Pixel-unshuffle factor: 2 runs the network at half resolution (FFDNet)."""
    features: int = 64
    blocks: int = 16
    """ResBlocks outside the stages (n in the paper): half before the first stage, half after the last."""
    stage_blocks: int = 4
    """ResBlocks between two stages."""
    stages: int = 3
    """M-GFAM modules (Table 6). 0: no graph at all, a plain residual network."""
    heads: int = 4
    """GFAM heads per stage (K in the paper, Table 6)."""
    head_features: int = 16
    """Channels of the embedding and of the values in one head."""
    patch: int = 7
    """Side of the square patches that are the graph's nodes."""
    stride: int = 4
    """Distance of the query nodes."""
    key_stride: int = 1
    """Distance of the key nodes. 1 in the paper; 2 quarters the graph."""
    embedding: int = 196
    """Length of the vectors that are compared (the paper's fully connected layers)."""
    window: int = 64
    """Side of the square of keys that a query of graph 'gated' sees."""
    neighbours: int = 16
    """How many keys at most become a query's neighbours in graph 'gated'."""
    values: int = 0
    """Numbers in what a node of graph 'gated' says beside its patch, learned from the network's features. 0: none."""
    local_noise: bool = False
    """Whether each node of graph 'gated' has a noise level of its own: the picture's, and what its features say."""
    graph: str = "released"
    """One of `GRAPHS`."""
    outer_blocks: int = 0
    """ResBlocks on each side of one U-Net level: the network above runs at half their resolution, they have half
    its features. 0: no such level, as released."""
    activation: str = "prelu"
    """In the ResBlocks: 'prelu' (one parameter, as released) or 'relu'."""

    _SIZES: ClassVar = (
        "scale", "features", "head_features", "patch", "stride", "key_stride", "embedding", "window", "neighbours",
    )  # fmt: skip
    _COUNTS: ClassVar = ("blocks", "stage_blocks", "stages", "heads", "outer_blocks", "values")

    def __post_init__(self) -> None:
        for least, names in ((1, self._SIZES), (0, self._COUNTS)):
            for name in names:
                value = getattr(self, name)
                if type(value) is not int or not least <= value <= LARGEST:
                    raise UsageError(f"{name} must be {least}-{LARGEST}, not {value!r}")
        for f in fields(self):
            if type(value := getattr(self, f.name)) is not type(f.default):
                raise UsageError(f"{f.name} must be like {f.default!r}, not {value!r}")
        if self.task not in TASKS:
            raise unknown("task", self.task, TASKS)
        if self.channels not in (1, 3):
            raise UsageError(f"channels must be 1 (gray) or 3 (RGB), not {self.channels}")
        if self.graph not in GRAPHS:
            raise unknown("graph", self.graph, GRAPHS)
        if self.activation not in ("prelu", "relu"):
            raise unknown("activation", self.activation, ("prelu", "relu"))
        if self.blocks < 2 or self.blocks % 2:
            raise UsageError(f"blocks must be even and at least 2, not {self.blocks}")
        if self.stages and self.heads < 1 and not self.on_pilot:
            raise UsageError(f"heads must be at least 1 where there are stages ({self.stages}), not {self.heads}")
        if self.outer_blocks and self.features % 2:
            raise UsageError(
                f"features must be even where there are outer_blocks ({self.outer_blocks}), not {self.features}"
            )
        if self.depth > DEEPEST:
            raise UsageError(f"ResBlocks and stages must be {DEEPEST} in all at most, not {self.depth}")
        if self.graph == "gated" and self.window < BLOCK * self.stride:
            raise UsageError(f"window must be at least {BLOCK} times stride, {BLOCK * self.stride}, not {self.window}")
        if (self.patch % 2 == 0 and self.graph != "gated") or self.stride > self.patch or self.stride % self.key_stride:
            raise UsageError("patch must be odd, stride at most patch and a multiple of key_stride")
        of_features = {"patch": self.values or self.local_noise, "stride": self.local_noise}
        for name in [name for name, counts in of_features.items() if counts and self.graph == "gated"]:
            if (value := getattr(self, name)) % self.scale:
                where = f"a multiple of scale, {self.scale}, where there are values or local_noise"
                raise UsageError(f"{name} must be {where}: not {value}")

    @property
    def of_noise(self) -> bool:
        """Whether the task's pictures are noisy, so that alike places in them are independent samples."""
        return TASKS[self.task].noise_map and not TASKS[self.task].mosaic

    @property
    def on_pilot(self) -> bool:
        """Whether the stages stand behind the network and make its result better, instead of inside."""
        return self.graph == "gated"

    @property
    def by_sample(self) -> bool:
        """Whether the noise level that the network is told is one for every sample: that of mosaics."""
        return self.noise_map and TASKS[self.task].mosaic

    @property
    def levels(self) -> int:
        """Input channels that hold the noise level."""
        return self.scale**2 if self.by_sample else int(self.noise_map)

    @property
    def depth(self) -> int:
        """ResBlocks and stages in all."""
        with_blocks = self.stages if self.on_pilot else max(0, self.stages - 1)
        return self.blocks + self.stage_blocks * with_blocks + 2 * self.outer_blocks + self.stages

    @property
    def multiple(self) -> int:
        """Tiles are cut at multiples of this many pixels, so that nodes and mosaics keep their phase."""
        inside = self.stages and not self.on_pilot
        phase = self.scale * (2 if self.outer_blocks else 1) * (self.stride if inside else 1)
        return phase if phase % 2 == 0 else 2 * phase

    @property
    def tile(self) -> tuple[int, int]:
        """Advised (tile, overlap) in pixels.

        The graph's cost grows with the square of a tile's area, and `paper` models are trained on graphs of 64x64
        pixels. An overlap of 8 costs 0.014 dB (trunk, Set12, sigma 25), 16 costs 0.002, 32 nothing.
        """
        if not self.stages or self.on_pilot:
            return 512, 32
        return (256, 32) if self.scale > 1 else (64, 8)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        if not isinstance(values, dict):
            raise UsageError("the model configuration is malformed: it is no JSON object")
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise UsageError(f"the model configuration has unknown settings: {', '.join(sorted(unknown))}")
        return cls(**values)


@dataclass(frozen=True)
class Task:
    """What a task means to the data, the command line and the model."""

    summary: str
    channels: tuple[int, ...]
    """Colour channels that have models."""
    noise_map: bool
    """Whether our own models take sigma as an input."""
    mosaic: bool = False
    """Whether its pictures are Bayer mosaics, whose noise level is a map: one for every sample."""


TASKS: dict[str, Task] = {
    "denoise": Task("additive Gaussian noise, any sigma in 0-75", (1, 3), True),
    "real": Task("camera noise, any level", (1, 3), True),
    "dejpeg": Task("JPEG artifacts, any quality, blind", (1, 3), False),
    "demosaic": Task("Bayer mosaics", (3,), False, mosaic=True),
    "raw": Task("noisy Bayer mosaics of raw files", (3,), True, mosaic=True),
}


def is_of_mosaics(task: str) -> bool:
    """Whether a task's pictures are Bayer mosaics. Also takes what is no task of one model, as 'restore'."""
    return task in TASKS and TASKS[task].mosaic


_PAPER = ModelConfig()
_HALF = replace(_PAPER, scale=2, activation="relu")
_QUARTER = replace(_HALF, features=128, blocks=6, outer_blocks=3)
_GATED: dict[str, Any] = {"stages": 1, "heads": 2, "graph": "gated", "patch": 8}
_LEARNED = 16
"""Numbers in a node's learned value, where it has one."""

VARIANTS: dict[str, ModelConfig] = {
    "paper": _PAPER,
    "lite": replace(_QUARTER, blocks=12, stages=1, heads=1, embedding=64),
    "fast": replace(_QUARTER, stages=1, heads=1, embedding=64),
    "half": replace(_HALF, blocks=12, stages=1, heads=1, key_stride=2, embedding=64),
    "dagl": replace(_QUARTER, blocks=12, **_GATED),
    "dagl-unet": replace(_QUARTER, values=_LEARNED, **_GATED),
    "dagl-trunk": replace(_HALF, blocks=12, values=_LEARNED, **_GATED),
    "unet-deep": replace(_QUARTER, blocks=12, stages=0, heads=0),
    "unet": replace(_QUARTER, stages=0, heads=0),
    "trunk": replace(_HALF, blocks=12, stages=0, heads=0),
}
"""Named shapes. `paper` is DAGL as released. `lite` is DAGL for CPUs, with its blocks and one head at a quarter of the
resolution, between ResBlocks at half of it; `fast` has half of its blocks; `half` is narrower and runs at half of the
resolution. `unet-deep`, `unet` and `trunk` are the residual networks of these three without a graph (so they are not
DAGL, and are never called so); `dagl`, `dagl-unet` and `dagl-trunk` are each of them with a graph over pixel-exact
patches behind it."""


def model_config(variant: str, task: str, channels: int) -> ModelConfig:
    """The configuration of one of our own models (those that `dagl train` makes)."""
    if variant not in VARIANTS:
        raise unknown("variant", variant, VARIANTS)
    if task not in TASKS:
        raise unknown("task", task, TASKS)
    if channels not in TASKS[task].channels:
        raise UsageError(f"`task` {task} has no model for {channels} channel(s): choose colour, 3 (`channels`)")
    blocks = 32 if (variant, task) == ("paper", "demosaic") else VARIANTS[variant].blocks
    shape = replace(VARIANTS[variant], task=task, channels=channels, blocks=blocks, noise_map=TASKS[task].noise_map)
    if not shape.on_pilot or task == "denoise":  # white noise is the same everywhere, and the gate says all of it
        return shape
    return replace(shape, values=_LEARNED, local_noise=task == "real")


def variant_of(config: ModelConfig) -> str | None:
    """The name of a configuration's shape in `VARIANTS`, whatever its task."""
    if config.channels not in TASKS[config.task].channels:
        return None
    shapes = {name: model_config(name, config.task, config.channels) for name in VARIANTS}
    return next((name for name, shape in shapes.items() if replace(shape, noise_map=config.noise_map) == config), None)


@dataclass(frozen=True)
class Options:
    """How to run a model. The defaults serve any image on any machine. Raises UsageError for what makes no sense."""

    device: str = "auto"
    """'auto', 'cpu', 'cuda' (or 'cuda:1'), 'mps'; of folders also 'cuda:0,1' or 'all' (`device.pick_devices`)."""
    precision: str = "auto"
    """One of `PRECISIONS`; 'auto' is bf16 on CUDA, fp32 elsewhere, and for results of 8 bits bf16 on CPUs too that are
    faster with it, where hardly a value changes by half a level."""
    backend: str = "auto"
    """What runs the network, one of `BACKENDS`; 'auto' is OpenVINO on CPUs where it is installed, faster, and worth its
    start, else torch."""
    threads: int | None = None
    """CPU threads of the whole process, no more than there are processors; None: what torch takes."""
    tile: int | None = None
    """Largest side of the tiles in pixels; None: what the model advises (`ModelConfig.tile`)."""
    overlap: int | None = None
    """Pixels that neighbouring tiles share at least, up to half a tile; None: what the model advises."""
    ensemble: bool = False
    """Average over the 8 flips and rotations: better by about 0.1 dB, 8 times slower."""
    strength: float = 1.0
    """1: the restored image; 0: the input; between: a blend of the two."""
    luma: float = 1.0
    """How much of what the model does to the brightness is done (ITU-R BT.601 luma): grain. 0 to 1."""
    chroma: float = 1.0
    """The same for the colours: blotches."""
    tiling: str = "blend"
    """'blend', 'whole', or 'chop' (as the paper's release cuts)."""
    offline: bool = False
    """Request nothing from the network: weights are bundled, imported, or in the Hub's cache."""

    @property
    def blends(self) -> bool:
        """Whether the result is to keep some of the input."""
        return not self.strength == self.luma == self.chroma == 1

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise unknown("precision", self.precision, PRECISIONS)
        if self.backend not in BACKENDS:
            raise unknown("backend", self.backend, BACKENDS)
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"`threads` {self.threads} must be 1 or more")
        if self.tile is not None and self.tile < SMALLEST_TILE:
            raise UsageError(f"`tile` {self.tile} is too small: use at least {SMALLEST_TILE}")
        if self.overlap is not None and self.overlap < 0:
            raise UsageError(f"`overlap` {self.overlap} must be 0 or more")
        for name in ("strength", "luma", "chroma"):
            if not 0 <= (share := getattr(self, name)) <= 1:
                raise UsageError(f"`{name}` {share} must be between 0 and 1")
        if self.tiling not in TILINGS:
            raise unknown("tiling", self.tiling, TILINGS)


def check_sigma(sigma: object) -> None:
    """Raises UsageError unless sigma is a number in the range that the models are trained on."""
    if isinstance(sigma, bool) or not isinstance(sigma, Real):
        raise UsageError(f"`sigma` is of type {type(sigma).__name__}: give a number, 0 to {HIGHEST_SIGMA:g}")
    if not 0 <= float(sigma) <= HIGHEST_SIGMA:
        raise UsageError(f"`sigma` {float(sigma):g} must be between 0 and {HIGHEST_SIGMA:g} (on the 0-255 scale)")


def check_pattern(pattern: str) -> None:
    """Raises UsageError for a Bayer pattern that there is not."""
    if pattern not in BAYER_PATTERNS:
        raise unknown("pattern", pattern, BAYER_PATTERNS)
