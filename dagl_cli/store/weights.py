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
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from safetensors import SafetensorError, safe_open

from ..config import ModelConfig
from ..errors import DaglError, UsageError, WeightsError, one_line
from ..files import cache_folder, version, write
from . import hub
from . import manifest as manifests
from .manifest import MANIFEST, Manifest

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from ..nn.model import DAGL

FORMAT = "dagl-1"
AGAIN = "download or train it again"
OWN_DIGEST = "sha256"
"""In a file's metadata: `own_digest`."""
FLOATS = ("F16", "BF16", "F32", "F64")
LARGEST = hub.LARGEST
"""Bytes of a weight file."""
LARGEST_HEADER = 4 * 2**20
"""Bytes: names, shapes, configuration and info. The network of the paper has 40 thousand."""

T = TypeVar("T")


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
    progress: hub.DownloadProgress = lambda name, done, total: None,
) -> Path:
    """The weight file for --model, from the first of these places that has it:

    1. a path;
    2. the bundled files, by name; None is the default of the task (`default_name`);
    3. the imported files, by name;
    4. the Hub, from its cache if it is there: `hub:OWNER/REPO[@REVISION][:FILE]`, or a name in the repository
       that $DAGL_HUB_REPO gives, else `hub.REPOSITORY` (OWNER/REPO[@REVISION]; there is none yet).

    offline: nothing is requested. Raises WeightsError when there is none, UsageError for a malformed `hub:`.
    """
    if model is not None and model.startswith("hub:"):
        return from_hub(hub.parse(model), task, channels, offline=offline, progress=progress)
    name = default_name(task, channels) if model is None else model.removesuffix(".safetensors")
    if (path := _named(name) if model is None else find(model)) is not None:
        check_known(path)
        return path
    names = ", ".join(p.stem for p in bundled()) or "none"
    more = "".join(f", {p.stem}" for p in imported())
    where = f"`model` {model}" if model else f"no bundled model for {task} with {channels} channel(s)"
    what = "a folder, give a file in it" if model and os.path.isdir(model) else "no such file or bundled model"
    unknown = f"{where}: {what} (bundled: {names}{more and '; imported: '}{more[2:]})"
    if (published := repository()) and re.fullmatch(hub.NAME, name):
        try:
            spec = replace(hub.parse(f"hub:{published}"), file=f"{name}.safetensors")
        except UsageError:
            raise UsageError(f"DAGL_HUB_REPO is '{published}': write OWNER/REPO or OWNER/REPO@REVISION") from None
        try:
            return from_hub(spec, task, channels, offline=offline, progress=progress)
        except WeightsError as error:
            raise WeightsError(f"{unknown}, and on the Hub: {error}") from None
    raise WeightsError(unknown)


def repository() -> str | None:
    """OWNER/REPO[@REVISION] that names belong to which are neither bundled nor imported, if there is one."""
    return os.environ.get("DAGL_HUB_REPO") or hub.REPOSITORY


def find(model: str) -> Path | None:
    """A file, else a bundled or an imported one by name; not examined. None: there is none."""
    return Path(model) if os.path.isfile(model) else _named(model.removesuffix(".safetensors"))


def _named(stem: str) -> Path | None:
    name = f"{stem}.safetensors"
    return next((place / name for place in (folder(), imported_folder()) if (place / name).is_file()), None)


def check_known(path: Path) -> None:
    """Raises WeightsError where the manifest beside a file has another SHA-256, or where a file that has no manifest
    and no digest of its own is called like a bundled one and is another.
    """
    remedy = {folder(): "install dagl again", imported_folder(): "import it again"}.get(path.parent)
    entry = manifests.beside(path).files.get(path.name)
    if entry is None and path.is_file() and not check_carried(path):
        entry = manifests.read(folder() / MANIFEST).files.get(path.name) if (folder() / MANIFEST).is_file() else None
        remedy = "give it another name if it is not the bundled one"
    if entry is not None:
        try:
            check(path, entry.sha256)
        except WeightsError as error:
            remedy = remedy or f"get it again, or `dagl weights manifest {path.parent}` if it was made anew"
            raise WeightsError(f"{error}: {remedy}") from None


def check_carried(path: Path) -> bool:
    """Whether a file carries a digest of itself (those of dagl 0.1.0 do not). Raises WeightsError where it is wrong."""
    carried = _contents(path).metadata.get(OWN_DIGEST)
    if carried is not None:
        _compare(path, _read(path), carried)
    return carried is not None


def _compare(path: Path, content: bytes, carried: str) -> None:
    if own_digest(content) != carried:
        raise WeightsError(f"{path}: damaged: its contents are not those of the SHA-256 that it carries: {AGAIN}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror}: download it again") from None


def from_hub(
    spec: hub.Spec,
    task: str = "denoise",
    channels: int = 3,
    *,
    offline: bool = False,
    refresh: bool = False,
    progress: hub.DownloadProgress = lambda name, done, total: None,
) -> Path:
    """A weight file of a repository on the Hub, checked against the SHA-256 in that commit's manifest.

    The manifest comes first and fixes the commit; the weights are of the same one. So the root of trust is the
    repository at that commit: with a full commit as the revision, what is loaded can never change.
    Without a file in `spec` it is the repository's only one, or the default of task and channels.
    Raises WeightsError; a damaged download is removed.
    """
    manifest_path, manifest = manifest_from_hub(spec, offline=offline, refresh=refresh, progress=progress)
    files, commit = manifest.files, manifest_path.parent.name
    name = spec.file or (next(iter(files)) if len(files) == 1 else f"{default_name(task, channels)}.safetensors")
    if name not in files and f"{name}.safetensors" in files:
        name += ".safetensors"
    if name not in files:
        raise WeightsError(f"{spec}: no {name} in its manifest: choose one of {', '.join(files) or 'none'}")
    pinned = replace(spec, revision=commit, file=name)
    fetch = partial(hub.fetch, pinned, largest=LARGEST, progress=progress)
    return _intact(spec, fetch, lambda path: check(path, files[name].sha256), offline)[0]


def manifest_from_hub(
    spec: hub.Spec,
    *,
    offline: bool = False,
    refresh: bool = False,
    progress: hub.DownloadProgress = lambda name, done, total: None,
) -> tuple[Path, Manifest]:
    """(path, content) of a repository's manifest; the path's folder is named after the commit. Raises WeightsError."""
    fetch = partial(hub.fetch, replace(spec, file=MANIFEST), largest=manifests.LARGEST, progress=progress)
    return _intact(spec, fetch, manifests.read, offline, refresh)


def _intact(
    asked: hub.Spec, fetch: Callable[..., Path], examine: Callable[[Path], T], offline: bool, refresh: bool = False
) -> tuple[Path, T]:
    """A file that `fetch` gives, and what `examine` finds in it. What is damaged is fetched anew, once; offline it is
    left alone. asked: what the user named, for the message.
    """
    path = fetch(offline=offline, refresh=refresh)
    try:
        return path, examine(path)
    except WeightsError as error:
        if offline or hub.is_offline():
            raise WeightsError(f"{error}: `dagl weights download {asked}` fetches it anew") from None
        hub.discard(path)
        path = fetch()
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
    for name in manifests.read(manifest).files:
        with suppress(WeightsError):
            found.append(hub.fetch(replace(own, file=name), offline=True))
    if not found:
        raise WeightsError(f"{spec}: none of its files is in the Hub's cache: `dagl weights download {spec}` first")
    return found


def sha256(path: Path) -> str:
    """Raises WeightsError when the file cannot be read."""
    return hashlib.sha256(_read(path)).hexdigest()


def check(path: Path, digest: str) -> None:
    """Raises WeightsError unless the file has the SHA-256 that the manifest says."""
    if (found := sha256(path)) != digest:
        raise WeightsError(f"{path}: damaged: its SHA-256 is {found[:12]}, the manifest says {digest[:12]}")


def describe(path: Path) -> tuple[ModelConfig, dict[str, Any], int]:
    """(configuration, info, parameters) of a weight file, without building the network. Raises WeightsError."""
    found = _contents(path)
    return found.config, found.info, sum(math.prod(shape) for _, shape in found.tensors.values())


def save(path: Path, state: Mapping[str, Tensor], config: ModelConfig, info: dict[str, Any]) -> None:
    """Write a weight file atomically. `info` is free: how the weights were made, and results."""
    from safetensors.torch import save as serialize

    tensors = {k: v.detach().contiguous().cpu() for k, v in state.items()}
    metadata = {"format": FORMAT, "config": json.dumps(config.to_dict()), "info": json.dumps(info)}
    digest = own_digest(serialize(tensors, metadata))
    write(path, serialize(tensors, metadata | {OWN_DIGEST: digest}))


def load(path: Path) -> tuple[DAGL, dict[str, Any]]:
    """The network (float32, CPU, eval mode) and its info.

    Nothing is built before names, shapes and types are those of the configuration.
    Raises WeightsError when the file is missing, not a dagl weight file, does not fit its configuration, is damaged by
    the digest that it carries (files of dagl 0.1.0 have none), or holds numbers that are not finite.
    """
    import torch
    from safetensors.torch import load as deserialize

    from ..nn.model import DAGL

    found, content = _of_one_version(path)
    if len(found.tensors) < 4 * (found.config.depth - found.config.stages):  # before so many ResBlocks are made
        raise WeightsError(f"{path} does not fit its own configuration: it lacks most of its tensors: {AGAIN}")
    try:
        with torch.device("meta"):
            model = DAGL(found.config)
    except (RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: its configuration is not a network ({one_line(error)}): {AGAIN}") from None
    described = {name: torch.empty(shape, device="meta") for name, (_, shape) in found.tensors.items()}
    if problems := misfits(model, described):
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise WeightsError(f"{path} does not fit its own configuration: it {problems[0]}{more}")
    if OWN_DIGEST in found.metadata:
        _compare(path, content, found.metadata[OWN_DIGEST])
    try:
        state = {name: tensor.float() for name, tensor in deserialize(content).items()}
    except SafetensorError as error:  # changed since it was examined
        raise WeightsError(f"{path}: cannot be read ({one_line(error)}): {AGAIN}") from None
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise WeightsError(f"{path}: '{name}' has values that are not finite: {AGAIN}")
    model.load_state_dict(state, assign=True)  # so that nothing was made on 'meta' for nothing
    return model.eval(), found.info


def misfits(model: Module, state: Mapping[str, Tensor]) -> list[str]:
    """What `load_state_dict` would not take: names that are missing or unknown, other shapes."""
    own = model.state_dict()
    problems = [f"lacks {k}" for k in own if k not in state] + [f"has unknown {k}" for k in state if k not in own]
    return problems + [
        f"has {k} of shape {tuple(state[k].shape)}, not {tuple(own[k].shape)}"
        for k in own
        if k in state and own[k].shape != state[k].shape
    ]


def own_digest(content: bytes) -> str:
    """SHA-256 of all that a safetensors file says, but for the digest that it carries itself."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header["__metadata__"].pop(OWN_DIGEST, None)  # the order of the rest differs from writer to writer
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode() + content[start:]).hexdigest()


@dataclass(frozen=True)
class _Contents:
    """What a weight file says before its numbers."""

    metadata: dict[str, str]
    config: ModelConfig
    info: dict[str, Any]
    tensors: dict[str, tuple[str, list[int]]]
    """Name -> type, as safetensors writes it, and shape."""


def _of_one_version(path: Path) -> tuple[_Contents, bytes]:
    """What a file says and its bytes, once more where a training has put another one there meanwhile."""
    before = None
    while before is None or before != version(path):
        before = version(path)
        found, content = _contents(path), _read(path)
    return found, content


def _contents(path: Path) -> _Contents:
    """Raises WeightsError."""
    if not os.path.isfile(path):
        what = "a folder" if os.path.isdir(path) else "no such weight file"
        raise WeightsError(f"{path}: {what}; `dagl weights list` shows the bundled ones")
    if not os.access(path, os.R_OK):
        raise WeightsError(f"{path}: permission denied: make it readable")
    try:
        with path.open("rb") as start:
            header = int.from_bytes(start.read(8), "little")
        if (size := path.stat().st_size) > LARGEST or size > header > LARGEST_HEADER:
            raise WeightsError(f"{path}: {size:,} bytes, {header:,} of them header: larger than any network of dagl")
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
            tensors = {key: (part.get_dtype(), part.get_shape()) for key, part in slices.items()}
    except (SafetensorError, OSError) as error:
        theirs = path.suffix in (".pt", ".pth")
        remedy = "`dagl weights import` converts the authors' checkpoints" if theirs else AGAIN
        raise WeightsError(f"{path}: not a readable safetensors file ({one_line(error)}); {remedy}") from None
    if (found := metadata.get("format", "")) != FORMAT and found.startswith(FORMAT.rstrip("1")):
        raise WeightsError(f"{path}: of another version of dagl ({found}, not {FORMAT}): install a newer dagl")
    if found != FORMAT:
        raise WeightsError(
            f"{path}: not a dagl weight file (its metadata lacks format {FORMAT}): give one that `dagl train` or "
            "`dagl weights import` wrote"
        )
    try:
        config = ModelConfig.from_dict(manifests.parsed(metadata.get("config", "")))
        info = manifests.parsed(metadata.get("info", "{}"))
        if not isinstance(info, dict):
            raise ValueError("info is no object")
        manifests.said(info)
    except (ValueError, DaglError) as error:
        raise WeightsError(f"{path}: its configuration cannot be read ({one_line(error)}): {AGAIN}") from None
    for name, (kind, _) in tensors.items():
        if kind not in FLOATS:
            raise WeightsError(f"{path}: '{name}' is of type {kind}, not of floating-point numbers: {AGAIN}")
    return _Contents(metadata, config, info, tensors)
