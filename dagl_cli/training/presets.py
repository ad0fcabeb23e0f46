"""The settings of a training run, as data: `TrainConfig`, the presets, and TOML files. Loads no torch."""

from __future__ import annotations

import itertools
import math
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..config import TASKS, VARIANTS, ModelConfig, model_config
from ..errors import UsageError, one_line, unknown
from . import library

CHOICES: dict[str, tuple[str, ...]] = {
    "loss": ("psnr", "mse", "l1"),
    "optimizer": ("muon", "adam"),
    "schedule": ("cosine", "flat", "step"),
    "precision": ("auto", "fp32", "bf16"),
    "compile": ("auto", "on", "off"),
}

DEFAULT_MINUTES = 40.0
"""Of a run whose length nobody gives."""
LIMITS: dict[str, tuple[float, float]] = {
    "steps": (1, math.inf), "batch": (1, 2**16), "micro_batch": (1, math.inf), "crop": (16, 2**13),
    "sigma": (0, math.inf), "lr": (0, math.inf), "halve_every": (1, math.inf), "warmup": (0, math.inf),
    "clip": (0, math.inf), "ema": (0, math.inf), "seed": (0, math.inf), "threads": (1, 1024), "workers": (0, 1024),
    "log_minutes": (0, math.inf), "save_minutes": (0, math.inf),
}  # fmt: skip
"""Least and most of the settings that are numbers."""


@dataclass
class TrainConfig:
    """Everything that decides a run's result. Each field is a flag of `dagl train` and a key of its TOML files."""

    task: str
    """A key of `config.TASKS`."""
    data: list[Path]
    """Folders of images, searched to their end."""
    output: Path
    """Folder of the run: weights, checkpoint, log, report, settings."""
    preset: str | None = None
    """The key of `PRESETS` that these settings came from."""
    channels: int = 3
    """1 (gray) or 3 (RGB)."""
    variant: str = "lite"
    """A key of `config.VARIANTS`."""
    model: dict[str, Any] = field(default_factory=dict)
    """Settings of `ModelConfig` that differ from the variant's."""
    sigma: float | None = None
    """The one noise level to train for, 0-75; None: all of them. For denoise."""
    sigma_error: float = 0.25
    """Half of the crops are given with a level that is off by up to this share of it, so that users' need not be exact
    and exact ones still pay; 0: exact levels only."""
    minutes: float | None = None
    """Length of the run; the learning rate falls to zero over it. Exactly one of minutes and steps."""
    steps: int | None = None
    batch: int = 8
    """Crops per step, over all processes."""
    micro_batch: int | None = None
    """Crops that a process has in memory at once; their gradients add up to those of its share of the batch."""
    crop: int = 64
    """Side of the square crops in pixels."""
    scales: list[float] = field(default_factory=list)
    """Sizes at which the training photos are used once more, as 0.5 for half: more variety, finer detail."""
    loss: str = "psnr"
    """'psnr' (mean over the crops of ln MSE), 'mse' or 'l1'."""
    optimizer: str = "muon"
    """'muon' for the kernels inside the network, with Adam for the rest; or 'adam' for all."""
    lr: float = 1e-3
    """Highest learning rate."""
    schedule: str = "cosine"
    """'cosine' to zero over the run, 'flat' until its last part, or 'step': halved every `halve_every` steps."""
    halve_every: int = 200_000
    warmup: int = 300
    """Steps over which the learning rate rises; at most a tenth of the run."""
    clip: float = 0.5
    """Largest gradient norm; 0: any."""
    ema: float = 0.999
    """Decay of the averaged weights, which are the result; 0: no average."""
    freeze: bool = False
    """Train the stages of the graph only: the network around them stays as it is."""
    small_residuals: bool = True
    """Start with every branch that is added to its input near zero."""
    seed: int = 0
    precision: str = "auto"
    """'fp32', 'bf16', or 'auto': the faster one, measured at the start."""
    compile: str = "auto"
    """torch.compile: 'on', 'off', or 'auto': on CUDA."""
    device: str = "auto"
    threads: int | None = None
    """CPU threads of one process."""
    workers: int | None = None
    """Processes that encode JPEGs ahead of the training; None: none on the CPU, up to 8 beside a GPU."""
    init_from: str | None = None
    """Weight file or bundled name to start from: tensors of equal name and shape are taken, the rest stays fresh."""
    log_minutes: float = 0.25
    """Between two rows of the log."""
    save_minutes: float = 2.0
    """Between two checkpoints, each with a validation."""
    tensorboard: bool = False

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.steps is None):
            raise UsageError("give exactly one of `minutes` and `steps`")
        if self.crop % 2 or self.crop < 16:
            raise UsageError(f"`crop` must be even and at least 16, not {self.crop}")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise unknown(name, getattr(self, name), choices)
        for name, (least, most) in LIMITS.items():
            value = getattr(self, name)
            if value is not None and not least <= value < math.inf:
                raise UsageError(f"`{name}` must be at least {least} and finite, not {value}")
            if value is not None and value > most:
                raise UsageError(f"`{name}` must be at most {most}, not {value}")
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise UsageError(f"`minutes` must be more than 0, not {self.minutes}")
        for name, path in (*(("data", folder) for folder in self.data), ("output", self.output)):
            try:
                str(path).encode()
            except UnicodeEncodeError:  # it could not be written to run.toml
                raise UsageError(f"`{name}` {path}: its name is not UTF-8: rename it") from None
        if self.init_from == "":
            raise UsageError("`init_from` is empty: name a weight file or a bundled model, or leave it out")
        if self.seed >= 2**63:
            raise UsageError(f"`seed` must be below 2**63, not {self.seed}")
        if self.ema >= 1:
            raise UsageError(f"`ema` must be below 1, not {self.ema}")
        if self.sigma is not None and (self.task != "denoise" or self.sigma > 75):
            raise UsageError("`sigma` is for `task` denoise, 0-75")
        if not 0 <= self.sigma_error < 1:
            raise UsageError(f"`sigma_error` must be at least 0 and below 1, not {self.sigma_error}")
        for scale in self.scales:
            if not 0 < scale < 1:
                raise UsageError(f"`scales` must be between 0 and 1, not {scale!r}")
            if self.scales.count(scale) > 1:
                raise UsageError(f"`scales` {scale!r} is given twice: once each")
        if not self.model_config().stages and self.freeze:
            raise UsageError(f"`freeze` leaves nothing to train: `variant` {self.variant} has no graph")

    def model_config(self) -> ModelConfig:
        """The network. Raises UsageError for settings that are none."""
        for name in ("task", "channels"):
            if name in self.model:
                raise UsageError(f"`model` {name} is not a setting of the network alone: use `{name}`")
        base = model_config(self.variant, self.task, self.channels).to_dict()
        shape = base | checked(self.model, ModelConfig, "`model`")
        if shape["noise_map"] and not TASKS[self.task].noise_map:
            raise UsageError(f"`model` noise_map=true: `task` {self.task} gives no noise level")
        try:
            return ModelConfig.from_dict(shape)
        except UsageError as error:
            raise UsageError(f"`model` {error}" if self.model else str(error)) from None

    def named(self) -> dict[str, Any]:
        """All settings as plain values; of paths only the last name, so that weights tell nothing of a machine."""
        own = asdict(self)
        own |= {"data": [folder.resolve().name for folder in self.data], "output": self.output.resolve().name}
        return own | {"init_from": Path(self.init_from).name if self.init_from else None}


_RELEASE: dict[str, Any] = dict(
    variant="paper", crop=64, batch=32, optimizer="adam", lr=4e-4, schedule="step", warmup=0, clip=0.0, ema=0.0,
    small_residuals=False, precision="fp32", loss="mse",
)  # fmt: skip
_RELEASE_BY_TASK: dict[str, dict[str, Any]] = {
    "denoise": dict(channels=1, sigma=25.0, model={"noise_map": False}, steps=1_300_000, halve_every=200_000),
    "dejpeg": dict(channels=1, steps=1_600_000, halve_every=300_000),
    "real": dict(batch=64, model={"noise_map": False}, steps=1_300_000, halve_every=30_000),
    "demosaic": dict(lr=2e-4, steps=1_500_000, halve_every=200_000, loss="l1"),
}
"""Steps are epochs of 1000; from the defaults of each task's option.py (real: DN_Real). Demosaic uses L1."""

_TABLES: dict[str, Any] = dict(
    task="denoise",
    channels=1,
    variant="paper",
    sigma=25.0,
    batch=32,
    crop=64,
    optimizer="adam",
    lr=4e-4,
    warmup=1000,
    steps=50_000,
)
"""One budget for every case of Tables 5 and 6: Urban100 at sigma 25."""
ABLATIONS: dict[str, dict[str, dict[str, Any]]] = {
    "table5": {
        "NL": dict(graph="nonlocal", heads=1),
        "MHNL": dict(graph="nonlocal"),
        "w/o THD": dict(graph="no-knn"),
        "w/o GAT": dict(graph="no-attention"),
        "DAGL": {},
    },
    "table6": {
        str(case): dict(heads=heads, stages=stages)
        for case, (heads, stages) in enumerate(
            [(0, 0), (1, 3), (2, 3), (3, 3), (4, 3), (5, 3), (4, 4), (4, 2), (4, 1)], start=1
        )
    },
}
"""Table -> case -> what it changes of the network."""
ALL = "all"
"""In the place of a case: every one of the table, in turn (`cases`)."""

PRESETS: dict[str, dict[str, Any]] = {
    "paper": dict(variant="paper", batch=32, lr=4e-4, warmup=1000),
    **{name: dict(variant=name, batch=4, crop=128, lr=7e-4) for name in VARIANTS if name != "paper"},
    "release": _RELEASE,
    **{
        f"{table}:{case}": _TABLES | {"model": {"noise_map": False} | change}
        for table, every in ABLATIONS.items()
        for case, change in {**every, ALL: {}}.items()
    },
}
"""Name -> settings. `paper` and the other names of `VARIANTS`; `release`: trained as the authors did, per task;
`table5:NAME`, `table6:CASE`: the cases of the paper's ablations, named as there; `table5:all`, `table6:all`: all."""


def cases(config: TrainConfig) -> list[TrainConfig]:
    """The runs of `table5:all`: one for each case, in its folder below `output`; of other settings, these alone.

    Raises UsageError for settings of the network that all the cases have themselves.
    """
    table, _, case = (config.preset or "").partition(":")
    if case != ALL:
        return [config]
    every = ABLATIONS[table]
    if own := [name for name in config.model if all(name in change for change in every.values())]:
        raise UsageError(f"`model` {own[0]} is what `preset` {config.preset} varies: leave it out")
    return [
        replace(
            config, preset=f"{table}:{case}", model=config.model | change,
            output=config.output / case.replace("w/o ", "without-"),
        )
        for case, change in every.items()
    ]  # fmt: skip


def fallbacks(given: Mapping[str, Any], toml: Mapping[str, Any], today: str) -> tuple[dict[str, Any], list[str]]:
    """(settings for what nobody gives, what is said of them): photographs, a folder, a length.

    today: as 2026-11-26. Under torchrun no folder is chosen: all processes must agree on it. Raises UsageError without
    a task.
    """
    values: dict[str, Any] = {}
    said = []
    name = given.get("preset", toml.get("preset"))
    if name is not None and name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    preset = PRESETS.get(name or "", {})
    task = given.get("task") or toml.get("task") or preset.get("task")
    if task not in TASKS:
        raise unknown("task", task, TASKS) if task else UsageError(f"give `task`: one of {', '.join(TASKS)}")
    if not (given.get("data") or toml.get("data")):
        values["data"] = [Path(library.DEFAULT)]
        said.append(f"`data` {library.DEFAULT}, {library.SETS[library.DEFAULT].note}")
    if not (given.get("output") or toml.get("output")) and int(os.environ.get("WORLD_SIZE", 1)) == 1:
        endings = itertools.chain([""], (f"-{i}" for i in itertools.count(2)))
        kind = name.removesuffix(f":{ALL}") if name and name.endswith(f":{ALL}") else task
        names = (Path("runs", f"{kind}-{today}{ending}") for ending in endings)
        values["output"] = next(name for name in names if not name.exists())
        said.append(f"`output` {values['output']}")
    if name != "release" and not {"minutes", "steps"} & (given.keys() | toml.keys() | preset.keys()):
        values["minutes"] = DEFAULT_MINUTES
        said.append(
            f"`minutes` {DEFAULT_MINUTES:g}, in which a small model becomes useful on a CPU: twice the time adds about "
            "0.1 dB; Ctrl-C saves at any moment, and `resume` goes on"
        )
    return values, said


def resolve(
    given: Mapping[str, Any], toml: Mapping[str, Any] | None = None, defaults: Mapping[str, Any] | None = None
) -> TrainConfig:
    """Settings from all sources: given (flags) > toml > preset > the defaults of `TrainConfig`.

    Settings of the model merge key by key. `minutes` or `steps` of one source replaces either of those below it.
    defaults: below all others; the saved run that is resumed. No preset is applied to it again.
    Raises UsageError for an unknown preset, and for task, data or output given nowhere.
    """
    toml = toml or {}
    name = given.get("preset", toml.get("preset"))
    if name is not None and name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    preset = [PRESETS[name]] if name and not defaults else []
    if preset and name == "release":
        task = given.get("task") or toml.get("task")
        preset.append(_RELEASE_BY_TASK.get(task or "", {}))
    sources = [defaults or {}, *preset, toml, given]
    values: dict[str, Any] = {}
    for source in sources:
        if "minutes" in source or "steps" in source:
            values = {k: v for k, v in values.items() if k not in ("minutes", "steps")}
        values |= dict(source) | {"model": values.get("model", {}) | dict(source.get("model", {}))}
    needed = [f.name for f in fields(TrainConfig) if f.default is MISSING and f.default_factory is MISSING]
    if missing := [f"`{name}`" for name in needed if not values.get(name)]:
        raise UsageError(f"give {' and '.join(filter(None, [', '.join(missing[:-1]), missing[-1]]))}")
    return TrainConfig(**values)


def read_toml(path: Path) -> dict[str, Any]:
    """The settings in a TOML file, checked by name and type; a folder in it is relative to where dagl runs.

    Raises UsageError.
    """
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        values = tomlkit.parse(path.read_text(encoding="utf-8")).unwrap()
    except OSError as error:
        raise UsageError(f"`config` {path}: cannot be read ({one_line(error)})") from None
    except (TOMLKitError, UnicodeDecodeError) as error:
        raise UsageError(f"`config` {path}: not TOML ({one_line(error)})") from None
    values |= {name: as_paths(values[name]) for name in ("data", "output") if name in values}
    checked(values, TrainConfig, f"`config` {path}:")
    checked(values.get("model", {}), ModelConfig, f"`config` {path}: [model]")
    return values


def to_toml(config: TrainConfig) -> str:
    """The settings as a TOML file that `read_toml` reads back; None is left out."""
    import tomlkit

    values = {k: v for k, v in asdict(config).items() if v is not None}
    values |= {"data": [str(folder) for folder in config.data], "output": str(config.output)}
    return tomlkit.dumps({k: v for k, v in values.items() if k != "model"} | {"model": values["model"]})


def parse_set(settings: list[str]) -> dict[str, Any]:
    """NAME=VALUE, one each -> settings of the model. Values are TOML's; what is not is a string. Raises UsageError."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    values: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not (equals and name.strip()):
            raise UsageError(f"`model` {setting}: write NAME=VALUE, as outer_blocks=3")
        try:
            values[name.strip()] = tomlkit.parse(f"x = {value}").unwrap()["x"]
        except TOMLKitError:
            values[name.strip()] = value.strip()
    return checked(values, ModelConfig, "`model`")


def checked(values: dict[str, Any], kind: type, source: str) -> dict[str, Any]:
    """values, if their names and types are those of the dataclass `kind`. Raises UsageError."""
    types_of = typing.get_type_hints(kind)
    hints = {f.name: types_of[f.name] for f in fields(kind)}
    for name, value in values.items():
        if name not in hints:
            raise UsageError(f"{source} unknown setting '{name}': choose from {', '.join(hints)}")
        hint = hints[name]
        options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        accepted = {typing.get_origin(option) or option for option in options}
        if float in accepted:
            accepted.add(int)
        if type(value) not in accepted and not (isinstance(value, Path) and Path in accepted):
            wanted = " or ".join(sorted(a.__name__ for a in accepted if a is not type(None)))
            shown = str(value) if isinstance(value, Path) else value
            raise UsageError(f"{source} {name} must be {wanted}, not {shown!r}")
        if hint == list[float] and not all(type(item) in (int, float) for item in value):
            raise UsageError(f"{source} {name} must be a list of numbers, as [0.5], not {value!r}")
        if hint == list[Path] and not all(isinstance(item, Path) for item in value):
            raise UsageError(f'{source} {name} must be a list of strings, as ["photos"], not {value!r}')
    return values


def as_paths(value: Any) -> Any:
    """Strings as paths; anything else is left to the check of types."""
    if isinstance(value, list):
        return [as_paths(item) for item in value]
    return Path(value) if isinstance(value, str) else value
