"""Weight files: safetensors with the configuration inside, so that a file is enough to build its network.

Where they come from (`resolve`), what the manifest beside them says of them, and whether they are intact. Only `load`
and `save` load torch.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from ..config import ModelConfig
from ..errors import DaglError, UsageError, WeightsError
from ..files import cache_folder, write
from . import hub

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from ..nn.model import DAGL

FORMAT = "dagl-1"
MANIFEST = "manifest.json"
MANIFEST_FORMAT = "dagl-manifest-1"
AGAIN = "download or train it again"


def folder() -> Path:
    """Where the bundled weights lie: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "bundled"
    return installed if installed.is_dir() else package.parent / "weights"


def bundled() -> list[Path]:
    """The bundled weight files, by name."""
    return sorted(folder().glob("*.safetensors"))


def imported_folder() -> Path:
    """Where `dagl weights import` puts what it converts."""
    return cache_folder() / "weights"


def imported() -> list[Path]:
    """The user's imported weight files, by name."""
    return sorted(imported_folder().glob("*.safetensors"))


def default_name(task: str, channels: int) -> str:
    """The name of a task's default model: `TASK-gray` or `TASK-color`, whatever the variant that restores best."""
    return f"{task}-{'gray' if channels == 1 else 'color'}"


def resolve(
    model: str | None,
    task: str,
    channels: int,
    *,
    offline: bool = False,
    progress: hub.Progress = lambda name, done, total: None,
) -> Path:
    """The weight file for --model, from the first of these places that has it:

    1. a path;
    2. the bundled files, by name; None is the default of the task (`default_name`);
    3. the imported files, by name;
    4. the Hub, from its cache if it is there: `hub:OWNER/REPO[@REVISION][:FILE]`, or a name in the repository
       that $DAGL_HUB_REPO gives (OWNER/REPO[@REVISION]; there is none by default).

    offline: nothing is requested. Raises WeightsError when there is none, UsageError for a malformed `hub:`.
    """
    if model is not None and model.startswith("hub:"):
        return from_hub(hub.parse(model), task, channels, offline=offline, progress=progress)
    name = default_name(task, channels) if model is None else model.removesuffix(".safetensors")
    if (path := _named(name) if model is None else find(model)) is not None:
        check_own(path)
        return path
    names = ", ".join(p.stem for p in bundled()) or "none"
    more = "".join(f", {p.stem}" for p in imported())
    where = f"--model {model}" if model else f"no bundled model for {task} with {channels} channel(s)"
    what = "a folder, give a file in it" if model and os.path.isdir(model) else "no such file or bundled model"
    unknown = f"{where}: {what} (bundled: {names}{more and '; imported: '}{more[2:]})"
    repository = os.environ.get("DAGL_HUB_REPO")
    if repository and re.fullmatch(hub.NAME, name):
        try:
            spec = replace(hub.parse(f"hub:{repository}"), file=f"{name}.safetensors")
        except UsageError:
            raise UsageError(f"DAGL_HUB_REPO is '{repository}': write OWNER/REPO or OWNER/REPO@REVISION") from None
        try:
            return from_hub(spec, task, channels, offline=offline, progress=progress)
        except WeightsError as error:
            raise WeightsError(f"{unknown}, and from DAGL_HUB_REPO: {error}") from None
    raise WeightsError(unknown)


def find(model: str) -> Path | None:
    """A file, else a bundled or an imported one by name; not examined. None: there is none."""
    return Path(model) if os.path.isfile(model) else _named(model.removesuffix(".safetensors"))


def _named(stem: str) -> Path | None:
    name = f"{stem}.safetensors"
    return next((place / name for place in (folder(), imported_folder()) if (place / name).is_file()), None)


def check_own(path: Path) -> None:
    """Raises WeightsError where the manifest beside a bundled or imported file has another SHA-256."""
    beside = path.parent / MANIFEST
    remedy = {folder(): "install dagl again", imported_folder(): "import it again"}.get(path.parent)
    entry = read_manifest(beside)["files"].get(path.name) if remedy and beside.is_file() else None
    if entry is not None:
        try:
            check(path, entry)
        except WeightsError as error:
            raise WeightsError(f"{error}: {remedy}") from None


def from_hub(
    spec: hub.Spec,
    task: str = "denoise",
    channels: int = 3,
    *,
    offline: bool = False,
    refresh: bool = False,
    progress: hub.Progress = lambda name, done, total: None,
) -> Path:
    """A weight file of a repository on the Hub, checked against the SHA-256 in that commit's manifest.

    The manifest comes first and fixes the commit; the weights are of the same one. So the root of trust is the
    repository at that commit: with a full commit as the revision, what is loaded can never change.
    Without a file in `spec` it is the repository's only one, or the default of task and channels.
    Raises WeightsError; a damaged download is removed.
    """
    manifest_path, manifest = manifest_from_hub(spec, offline=offline, refresh=refresh, progress=progress)
    files, commit = manifest["files"], manifest_path.parent.name
    name = spec.file or (next(iter(files)) if len(files) == 1 else f"{default_name(task, channels)}.safetensors")
    if name not in files and f"{name}.safetensors" in files:
        name += ".safetensors"
    if name not in files:
        raise WeightsError(f"{spec}: no {name} in its manifest: choose one of {', '.join(files) or 'none'}")
    pinned = replace(spec, revision=commit, file=name)
    return _intact(spec, pinned, lambda path: check(path, files[name]), offline, False, progress)[0]


def manifest_from_hub(
    spec: hub.Spec,
    *,
    offline: bool = False,
    refresh: bool = False,
    progress: hub.Progress = lambda name, done, total: None,
) -> tuple[Path, dict[str, Any]]:
    """(path, content) of a repository's manifest; the path's folder is named after the commit. Raises WeightsError."""
    return _intact(spec, replace(spec, file=MANIFEST), read_manifest, offline, refresh, progress)


def _intact(
    asked: hub.Spec,
    part: hub.Spec,
    examine: Callable[[Path], Any],
    offline: bool,
    refresh: bool,
    progress: hub.Progress,
) -> tuple[Path, Any]:
    """The file `part` and what `examine` finds in it. What is damaged is fetched anew, once; offline it is left alone.

    asked: what the user named, for the message.
    """
    path = hub.fetch(part, offline=offline, refresh=refresh, progress=progress)
    try:
        return path, examine(path)
    except WeightsError as error:
        if offline or hub.is_offline():
            raise WeightsError(f"{error}: `dagl weights download {asked}` fetches it anew") from None
        hub.discard(path)
        path = hub.fetch(part, progress=progress)
        try:
            return path, examine(path)
        except WeightsError as error:
            hub.discard(path)
            raise WeightsError(f"{error}; it was removed: the Hub sends it so, ask the repository's owner") from None


def cached_from_hub(spec: hub.Spec) -> list[Path]:
    """The weight files of a repository that the Hub's cache has; with a file in `spec`, that one. Asks no network.

    Raises WeightsError when there is none.
    """
    manifest = hub.fetch(replace(spec, file=MANIFEST), offline=True)
    own = replace(spec, revision=manifest.parent.name)
    if spec.file:
        return [hub.fetch(replace(own, file=f"{spec.file.removesuffix('.safetensors')}.safetensors"), offline=True)]
    found = []
    for name in read_manifest(manifest)["files"]:
        with suppress(WeightsError):
            found.append(hub.fetch(replace(own, file=name), offline=True))
    if not found:
        raise WeightsError(f"{spec}: none of its files is in the Hub's cache: `dagl weights download {spec}` first")
    return found


def sha256(path: Path) -> str:
    """Raises WeightsError when the file cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror}: download it again") from None


def check(path: Path, entry: dict[str, Any]) -> None:
    """Raises WeightsError unless the file's SHA-256 is that of its entry in the manifest."""
    found = sha256(path)
    if found != entry["sha256"]:
        raise WeightsError(f"{path}: damaged: its SHA-256 is {found[:12]}, the manifest says {entry['sha256'][:12]}")


def read_manifest(path: Path) -> dict[str, Any]:
    """A `manifest.json`: {"format", "licence", "training_data", "files": {name: entry}}, as `export.manifest` makes it.

    Raises WeightsError when it is missing or is none.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        files = found["files"]
        sound = found["format"] == MANIFEST_FORMAT and all(
            re.fullmatch(hub.NAME, name) and re.fullmatch(r"[0-9a-f]{64}", entry["sha256"]) and _is_shown(entry)
            for name, entry in files.items()
        )
        sound = sound and all(isinstance(found.get(key, ""), str) for key in ("licence", "training_data"))
        sound = sound and all(isinstance(name, str) for name in found.get("training_sets", ()))
    except FileNotFoundError:
        raise WeightsError(f"{path}: there is no manifest: `dagl weights manifest {path.parent}` makes one") from None
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror}: make it readable") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise WeightsError(
            f"{path}: not a manifest of dagl weights (format {MANIFEST_FORMAT}): fetch it again, or delete it and "
            f"`dagl weights manifest {path.parent}` makes a new one"
        )
    return dict(found)


def _is_shown(entry: dict[str, Any]) -> bool:
    """Whether what a card shows of a manifest's entry has the right types."""
    return (
        all(isinstance(entry.get(key), str | None) for key in ("licence", "training_data", "note"))
        and all(
            isinstance(run["name"], str) and isinstance(run["flags"], str)
            and isinstance(run["minutes"], int | float) and isinstance(run["steps"], int)
            for run in entry.get("runs", ())
        )
        and all(is_result(row) for row in entry.get("results", ()))
    )  # fmt: skip


def is_result(row: dict[str, Any]) -> bool:
    """Whether a row is one of `dagl benchmark --json`, as far as the manifest and its card need it."""
    return (
        isinstance(row["dataset"], str) and isinstance(row["protocol"], str) and isinstance(row["images"], int)
        and all(isinstance(row[key], int | float) for key in ("input_psnr", "psnr", "ssim"))
        and isinstance(row.get("level"), int | float | None)
        and all(isinstance(value, int | float | None) for pair in row.get("published", {}).values() for value in pair)
    )  # fmt: skip


def describe(path: Path) -> tuple[ModelConfig, dict[str, Any], int]:
    """(configuration, info, parameters) of a weight file, without building the network. Raises WeightsError."""
    config, info, shapes = _header(path)
    return config, info, sum(math.prod(shape) for shape in shapes.values())


def save(path: Path, state: dict[str, Tensor], config: ModelConfig, info: dict[str, Any]) -> None:
    """Write a weight file atomically. `info` is free: how the weights were made, and results."""
    from safetensors.torch import save as serialize

    metadata = {"format": FORMAT, "config": json.dumps(config.to_dict()), "info": json.dumps(info)}
    write(path, serialize({k: v.detach().contiguous().cpu() for k, v in state.items()}, metadata))


def load(path: Path) -> tuple[DAGL, dict[str, Any]]:
    """The network (float32, CPU, eval mode) and its info.

    Raises WeightsError when the file is missing, not a dagl weight file, or does not fit its configuration.
    """
    import torch
    from safetensors.torch import load_file

    from ..nn.model import DAGL

    config, info, _ = _header(path)
    try:
        with torch.device("meta"):
            model = DAGL(config)
    except (RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: its configuration is not a network ({_one_line(error)}): {AGAIN}") from None
    state = {key: value.float() for key, value in load_file(path).items()}
    if problems := misfits(model, state):
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise WeightsError(f"{path} does not fit its own configuration: it {problems[0]}{more}")
    model.load_state_dict(state, assign=True)  # so that nothing was made on 'meta' for nothing
    return model.eval(), info


def misfits(model: Module, state: Mapping[str, Tensor]) -> list[str]:
    """What `load_state_dict` would not take: names that are missing or unknown, other shapes."""
    own = model.state_dict()
    problems = [f"lacks {k}" for k in own if k not in state] + [f"has unknown {k}" for k in state if k not in own]
    return problems + [
        f"has {k} of shape {tuple(state[k].shape)}, not {tuple(own[k].shape)}"
        for k in own
        if k in state and own[k].shape != state[k].shape
    ]


def _header(path: Path) -> tuple[ModelConfig, dict[str, Any], dict[str, list[int]]]:
    """(configuration, info, tensor shapes) of a weight file. Raises WeightsError."""
    if not os.path.isfile(path):
        what = "a folder" if os.path.isdir(path) else "no such weight file"
        raise WeightsError(f"{path}: {what}; `dagl weights list` shows the bundled ones")
    if not os.access(path, os.R_OK):
        raise WeightsError(f"{path}: permission denied: make it readable")
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        theirs = path.suffix in (".pt", ".pth")
        remedy = "`dagl weights import` converts the authors' checkpoints" if theirs else AGAIN
        raise WeightsError(f"{path}: not a readable safetensors file ({_one_line(error)}); {remedy}") from None
    if metadata.get("format") != FORMAT:
        raise WeightsError(
            f"{path}: not a dagl weight file (its metadata lacks format {FORMAT}): give one that `dagl train` or "
            "`dagl weights import` wrote"
        )
    try:
        config = ModelConfig.from_dict(json.loads(metadata["config"]))
        info = json.loads(metadata.get("info", "{}"))
        if not _is_shown(info) or not isinstance(info.get("training", {}), dict):
            raise ValueError("info has other types than dagl writes")
        return config, info, shapes
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError, DaglError) as error:
        raise WeightsError(f"{path}: its configuration cannot be read ({_one_line(error)}): {AGAIN}") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
