"""`manifest.json`: what is said of the weight files beside it, typed. Loads no torch.

It comes with downloads, so anybody may have written it: what is not as the classes below say is refused in one line.
"""

from __future__ import annotations

import functools
import json
import math
import re
import types
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from ..errors import WeightsError, one_line
from ..files import write
from .hub import NAME

MANIFEST = "manifest.json"
FORMAT = "dagl-manifest-1"
LARGEST = 8 * 2**20
"""Bytes of a manifest; one of eleven files with all their results has 125 thousand."""
DEEPEST = 32
"""Lists and objects inside one another."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """A line of a benchmark: means over a dataset's images, and how they were measured."""

    dataset: str
    level: float | None = None
    """Sigma or JPEG quality."""
    images: int
    """How many were measured."""
    input_psnr: float
    input_ssim: float | None = None
    psnr: float
    ssim: float
    published: dict[str, tuple[float | None, float | None]] = field(default_factory=dict)
    """Method -> PSNR and SSIM in the paper."""
    protocol: str
    degradation: str | None = None
    rounding: str | None = None
    ssim_window: str | None = None
    seed: int | None = None
    tiling: str | None = None
    tile: int | None = None
    overlap: int | None = None
    ensemble: str | None = None
    device: str | None = None
    precision: str | None = None
    version: str | None = None
    # what a manifest says elsewhere, or not at all: `kept`
    task: str | None = None
    image: str | None = None
    variant: str | None = None
    method: str | None = None
    """'ours' is the dagl model."""
    network: str | None = None
    weights: str | None = None
    sha256: str | None = None
    of: int | None = None
    """How many images the whole case has."""
    seconds_per_megapixel: float | None = None
    peak_mb: float | None = None

    @classmethod
    def from_dict(cls, row: Any) -> Result:
        """A row of `dagl benchmark --json`, or of a manifest; what else it says is left out. Raises ValueError."""
        return typed(cls, row)

    def to_dict(self) -> dict[str, Any]:
        """Without what is not known; the infinite PSNR of equal images is null."""
        known = {key: value for key, value in asdict(self).items() if value is not None}
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in known.items()}

    def kept(self) -> Result:
        """As a manifest keeps it."""
        elsewhere = ("task", "image", "variant", "method", "network", "weights", "sha256", "of")
        changes: dict[str, Any] = dict.fromkeys((*elsewhere, "seconds_per_megapixel", "peak_mb"))
        for key in ("psnr", "ssim", "input_psnr", "input_ssim"):
            changes[key] = None if (value := getattr(self, key)) is None else round(value, 4)
        return replace(self, **changes)

    @property
    def measurement(self) -> tuple[Any, ...]:
        """What tells two results of one file apart."""
        return self.dataset, self.level, self.protocol, self.tiling, self.ensemble


@dataclass(frozen=True)
class Run:
    """One of the trainings that made a file, one after the other."""

    name: str
    flags: str
    minutes: float
    steps: int


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a file was made, as far as it says so."""

    source: str | None = None
    """What it was converted from."""
    steps: int | None = None
    minutes: float | None = None
    device: str | None = None
    precision: str | None = None
    command: str | None = None
    images: int | None = None
    data_sha256: str | None = None
    init_from: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    """All of `dagl train`."""
    dagl: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Without what is not known."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Entry:
    """All that is said of a weight file. Of a file from elsewhere the SHA-256 is enough."""

    sha256: str
    bytes: int = 0
    task: str = ""
    channels: int = 0
    network: str = ""
    variant: str | None = None
    parameters: int = 0
    licence: str | None = None
    training_data: str | None = None
    training: Training = field(default_factory=Training)
    runs: tuple[Run, ...] = ()
    note: str | None = None
    results: tuple[Result, ...] = ()

    @property
    def colours(self) -> str:
        return "gray" if self.channels == 1 else "RGB"

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: without runs and note where there are none."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        found["results"] = [result.to_dict() for result in self.results]
        found["runs"] = [asdict(run) for run in self.runs]
        found["training"] = self.training.to_dict()
        return {key: value for key, value in found.items() if value or key not in ("runs", "note")}


@dataclass(frozen=True)
class Manifest:
    """What is said of the files of a folder, and of all of them."""

    files: dict[str, Entry] = field(default_factory=dict)
    licence: str | None = None
    training_data: str | None = None
    training_sets: tuple[str, ...] = ()
    dagl: str = ""
    """The version that wrote it."""

    def to_dict(self) -> dict[str, Any]:
        about = {key: getattr(self, key) for key in ("licence", "training_data", "training_sets")}
        files = {name: entry.to_dict() for name, entry in self.files.items()}
        return {"format": FORMAT, "dagl": self.dagl} | {k: v for k, v in about.items() if v} | {"files": files}


def said(info: dict[str, Any]) -> Entry:
    """What a weight file says of itself: of its `info`, all that an entry has. Raises ValueError for other types."""
    settings = typed(dict[str, Any], info.get("training", {}))
    device = info.get("device") or (settings.get("device") if settings.get("device") != "auto" else None)
    training = {
        "source": info.get("source"), "steps": info.get("step"), "minutes": info.get("minutes"), "device": device,
        "precision": info.get("precision"), "command": info.get("command"), "images": info.get("photos"),
        "data_sha256": info.get("data_sha256"), "init_from": settings.get("init_from"), "settings": settings,
        "dagl": info.get("version"),
    }  # fmt: skip
    own = {key: info.get(key) for key in ("licence", "training_data", "note")}
    entry: Entry = typed(Entry, {"sha256": "", "training": training, "runs": info.get("runs") or [], **own})
    return entry


def typed(kind: Any, value: Any) -> Any:
    """JSON's `value` as `kind`: a dataclass (the object may have more keys), dict[str, ...], tuple[..., ...], a union
    with None, or a plain type. Nothing is converted. Raises ValueError.
    """
    if kind is Any:
        return value
    if is_dataclass(kind) and isinstance(value, dict):
        hints = _hints(kind)  # type: ignore[arg-type]  # mypy: a dataclass may not be hashable; classes are
        given = {f.name: typed(hints[f.name], value[f.name]) for f in fields(kind) if f.name in value}
        if lacking := {f.name for f in fields(kind) if f.default is f.default_factory is MISSING} - given.keys():
            raise ValueError(f"there is no '{min(lacking)}'")
        return kind(**given)  # type: ignore[operator]
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return None if value is None else typed(parts[0], value)
    if origin is dict and isinstance(value, dict):
        return {key: typed(parts[1], inner) for key, inner in value.items()}
    if origin is tuple and isinstance(value, list | tuple):
        kinds = parts[:1] * len(value) if parts[-1] is ... else parts
        if len(kinds) == len(value):
            return tuple(typed(part, inner) for part, inner in zip(kinds, value))
    if kind is str and isinstance(value, str):
        return value
    if kind in (int, float) and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
        return value
    if kind is float and isinstance(value, float) and math.isfinite(value):
        return value
    raise ValueError(f"{repr(value)[:60]} is no {getattr(kind, '__name__', kind)}")


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def parsed(text: str | bytes) -> Any:
    """JSON from elsewhere. Raises ValueError, also for what is nested too deep, and for text that is no Unicode."""

    def examine(value: Any, left: int) -> None:
        if not left:
            raise ValueError(f"it is nested more than {DEEPEST} deep")
        for inner in (*value, *value.values()) if isinstance(value, dict) else value:
            if isinstance(inner, str):
                try:
                    inner.encode()
                except UnicodeEncodeError:
                    raise ValueError("it is malformed: text that is no Unicode") from None
            elif isinstance(inner, dict | list):
                examine(inner, left - 1)

    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError(f"it is nested more than {DEEPEST} deep") from None
    except ValueError:  # its words are Python's: on columns, code points and digits
        raise ValueError("it is malformed: no JSON") from None
    examine([found], DEEPEST)
    return found


def read(path: Path) -> Manifest:
    """The manifest at `path`. Raises WeightsError when it is missing or is none."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise ValueError(f"it is larger than {LARGEST >> 20} MiB")
        found = parsed(content)
        if not isinstance(found, dict) or found.get("format") != FORMAT or "files" not in found:
            raise ValueError(f"it lacks format {FORMAT}, or files")
        made: Manifest = typed(Manifest, found)
        for name, entry in made.files.items():
            if not re.fullmatch(NAME, name) or not re.fullmatch(r"[0-9a-f]{64}", entry.sha256):
                raise ValueError(f"{name[:60]!r} is no plain name, or has no SHA-256")
    except FileNotFoundError:
        raise WeightsError(f"{path}: there is no manifest: `dagl weights manifest {path.parent}` makes one") from None
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror}: make it readable") from None
    except ValueError as error:
        raise WeightsError(
            f"{path}: not a manifest of dagl weights (format {FORMAT}; {one_line(error)}): fetch it again, or delete "
            f"it and `dagl weights manifest {path.parent}` makes a new one"
        ) from None
    return made


def beside(path: Path) -> Manifest:
    """The manifest beside a weight file; an empty one where there is none. Raises WeightsError."""
    found = path.parent / MANIFEST
    return read(found) if found.is_file() else Manifest()


def write_json(path: Path, content: Any) -> None:
    """All of it or nothing. Raises OSError."""
    write(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
