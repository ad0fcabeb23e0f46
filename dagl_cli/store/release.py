"""The authors' released checkpoints: read without running anything in them, and converted strictly.

Their repository states no licence, so dagl bundles none of them: users import them for their own use.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import urllib.error
import urllib.request
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import RAW_FILES, ModelConfig
from ..errors import DaglError, WeightsError, one_line, plain, unknown
from ..files import replacing
from ..nn.attention import fold_patches, same_padding
from ..nn.model import DAGL
from . import weights

REPOSITORY = "jianzhangcs/DAGL"
COMMIT = "7ebfe6cbfebfea21acd6e66a73a0b5ca9ed7f146"
LICENCE = "none stated: for your own use only, do not pass it on"
TRAINING_DATA = "as the authors state: DIV2K (camera noise: SIDD)"
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LARGEST = 256 * 2**20
"""Bytes; a checkpoint has 23 to 31 million."""
TIMEOUT = 10.0
"""Seconds without an answer."""


@dataclass(frozen=True)
class Checkpoint:
    """One of the authors' models."""

    folder: str
    """Its folder in their repository, and in their archive."""
    blob: str | None
    """git's SHA-1 of the file at `COMMIT`; None: it is in their archive only."""

    @property
    def path(self) -> str:
        return f"{self.folder}/exp/model/model_best.pt"


CHECKPOINTS: dict[str, Checkpoint] = {
    "denoise": Checkpoint("DN_Gray", "5bc8f74cefd62bfd8b5914bae204e7f2055324c9"),
    "real": Checkpoint("DN_Real", None),
    "dejpeg": Checkpoint("CAR", "87b354ea9887933d8a4657428ebf899785e21d3a"),
    "demosaic": Checkpoint("Demosaic", None),
}


def git_blob(content: bytes) -> str:
    """The SHA-1 by which git names a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def fetch(task: str, host: str = RAW_FILES) -> bytes:
    """The checkpoint of a task from the authors' repository at `COMMIT`, checked against its git blob.

    Raises WeightsError when it cannot be had there.
    """
    checkpoint = CHECKPOINTS[task]
    if checkpoint.blob is None:
        raise WeightsError(
            f"the authors' repository has no {task} checkpoint: download their archive (its README links to it), "
            f"then `dagl weights import ARCHIVE --task {task}`"
        )
    url = f"{host.rstrip('/')}/{REPOSITORY}/{COMMIT}/{checkpoint.path}"
    remedy = "try again later, or import a local copy: `dagl weights import FILE.pt`"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
            content = answer.read(LARGEST + 1)
    except urllib.error.HTTPError as error:
        raise WeightsError(f"{url} answers {error.code} {error.reason}: {remedy}") from None
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise WeightsError(f"cannot fetch {url} ({reason}): {remedy}") from None
    if git_blob(content) != checkpoint.blob:
        raise WeightsError(f"{url}: not the authors' file (its git blob is {git_blob(content)[:12]}): {remedy}")
    return content


def read(path: Path, task: str, member: str | None = None) -> bytes:
    """A checkpoint's content from a local file: itself, or out of a copy of the authors' archive (zip or tar).

    In an archive it is the one member whose path ends as in the repository (`DN_Gray/exp/model/model_best.pt`), else
    the one `.pt` below a folder of that name; `member` names another. Nothing is extracted to disk.
    Raises WeightsError.
    """
    try:
        if not os.path.isfile(path):
            what = "a folder" if os.path.isdir(path) else "no such file"
            raise WeightsError(f"{path}: {what}: give a checkpoint (.pt) or a copy of the authors' archive")
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                names = {info.filename: info.file_size for info in archive.infolist()}
                if not any(name.endswith("/data.pkl") for name in names):  # else it is a checkpoint itself
                    name = _member(path, names, task, member)
                    with archive.open(name) as file:
                        return _limited(file.read(LARGEST + 1), f"{path}: {name}")
        elif tarfile.is_tarfile(path):
            with tarfile.open(path) as archive_tar:
                files = {info.name: info.size for info in archive_tar if info.isfile()}
                name = _member(path, files, task, member)
                extracted = archive_tar.extractfile(name)
                assert extracted is not None
                return _limited(extracted.read(LARGEST + 1), f"{path}: {name}")
        with open(path, "rb") as plain:
            return _limited(plain.read(LARGEST + 1), str(path))
    except DaglError:
        raise
    except Exception as error:  # each kind of archive, and each way to compress it, fails in ways of its own
        reason = one_line(error)
        raise WeightsError(f"{path}: cannot be read ({reason}): download or copy it again") from None


def _member(path: Path, names: dict[str, int], task: str, member: str | None) -> str:
    checkpoints = [name for name in names if name.endswith((".pt", ".pth"))]
    wanted = CHECKPOINTS[task]
    found = (
        [name for name in checkpoints if name == member]
        if member is not None
        else [name for name in checkpoints if f"/{name}".endswith(f"/{wanted.path}")]
        or [name for name in checkpoints if wanted.folder in name.split("/")[:-1]]
    )
    if len(found) != 1:
        what = f"`member` {member}" if member else f"the {task} checkpoint ({wanted.folder})"
        choice = ", ".join(found or checkpoints) or "no .pt at all"
        raise WeightsError(
            f"{path}: {'several files may be' if found else 'lacks'} {what}: `member` chooses ({choice})"
        )
    return found[0]


def _limited(content: bytes, name: str) -> bytes:
    if len(content) > LARGEST:
        raise WeightsError(f"{name}: larger than {LARGEST >> 20} MiB: this is no DAGL checkpoint")
    return content


def state_dict(content: bytes, name: str) -> dict[str, Tensor]:
    """The tensors of a PyTorch checkpoint, read with `weights_only`: whatever else it holds is refused, not run.

    Raises WeightsError, also for what would take far more memory than a checkpoint of DAGL.
    """
    try:
        if zipfile.is_zipfile(io.BytesIO(content)):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                if sum(info.file_size for info in archive.infolist()) > LARGEST:
                    raise WeightsError(f"{name}: unpacks to more than {LARGEST >> 20} MiB: this is no DAGL checkpoint")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state: Any = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except WeightsError:
        raise
    except Exception as error:  # the unpickler, the archive's reader and the tensors' constructors each have their own
        reason = one_line(error).split(". ")[0][:160]
        raise WeightsError(f"{name}: refused, it is not a plain PyTorch checkpoint of tensors ({reason})") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{name}: refused, it holds something else than a state dict of tensors")
    for key, value in state.items():
        shown = plain(str(key))[:80]
        if value.layout != torch.strided or value.is_meta or value.dtype not in FLOATS:
            raise WeightsError(f"{name}: refused, '{shown}' is not a plain tensor of floating-point numbers")
        held = value.untyped_storage().nbytes() // value.element_size()
        if value.numel() > held:  # a few numbers that are spread over a large shape
            raise WeightsError(
                f"{name}: refused, '{shown}' is {tuple(value.shape)}, {value.numel():,} numbers, and holds {held:,}"
            )
    if sum(value.numel() for value in state.values()) * 4 > LARGEST:  # before any is looked at: they may share memory
        raise WeightsError(f"{name}: refused, its tensors are far larger than those of a DAGL checkpoint")
    for key, value in state.items():
        if not value.isfinite().all():
            raise WeightsError(
                f"{name}: refused, '{plain(str(key))[:80]}' has values that are not finite: download or copy it again"
            )
    return {str(key): value for key, value in state.items()}


HEAD = {
    "embed": ("g",),
    "value": ("theta",),
    "query": ("fc1.0",),
    "key": ("fc2.0",),
    "threshold": ("thr_conv", "bias_conv"),
}
"""Our layer of a stage -> the authors' layers of one head."""


def released_config(task: str) -> ModelConfig:
    """The shape of the authors' checkpoint for a task: gray denoise and dejpeg, colour real and demosaic."""
    channels = 1 if task in ("denoise", "dejpeg") else 3
    return ModelConfig(task=task, channels=channels, blocks=32 if task == "demosaic" else 16)


def released_keys(config: ModelConfig) -> dict[str, list[str]]:
    """Our tensors' names -> the authors': several where ours is theirs one after the other, head by head."""
    half = config.blocks // 2
    middle = f"body.{half}"  # holds the stages and the ResBlocks between them
    between = [f"{middle}.RBS{s + 1}.{i}" for s in range(config.stages - 1) for i in range(config.stage_blocks)]
    after = range(half + 1, config.blocks + 1)
    blocks = [*(f"body.{i}" for i in range(half)), *between, *(f"body.{i}" for i in after)]
    layers = {"conv_in": ["head.0"], "conv_body": [f"body.{config.blocks + 1}"], "conv_out": ["tail.0"]}
    for i, block in enumerate(blocks):
        layers |= {f"blocks.{i}.conv1": [f"{block}.body.0"], f"blocks.{i}.conv2": [f"{block}.body.2"]}
    for s in range(config.stages):
        heads = [f"{middle}.c{s + 1}_{k + 1}" for k in range(config.heads)]
        layers[f"stages.{s}.merge"] = [f"{middle}.c{s + 1}_c"]
        for ours, theirs in HEAD.items():
            layers[f"stages.{s}.{ours}"] = [f"{head}.{layer}" for head in heads for layer in theirs]
    keys = {f"{ours}.{kind}": [f"{name}.{kind}" for name in theirs]
            for ours, theirs in layers.items() for kind in ("weight", "bias")}  # fmt: skip
    return keys | {f"blocks.{i}.activation.weight": [f"{block}.body.1.weight"] for i, block in enumerate(blocks)}


def is_unused(key: str) -> bool:
    """Whether one of the authors' tensors takes part in no computation: a fixed mean shift, and a `W` in every head."""
    return key.startswith("add_mean.") or key.endswith((".W.weight", ".W.bias"))


def convert_released(state: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The authors' state dict in our names, strictly.

    Raises WeightsError for a key that is unknown, missing, or of another shape.
    """
    keys = released_keys(config)
    known, given = {name for names in keys.values() for name in names}, {key for key in state if not is_unused(key)}
    if strange := sorted(given - known):
        raise WeightsError(f"the checkpoint has an unknown key '{strange[0]}': is it a DAGL {config.task} checkpoint?")
    if missing := sorted(known - given):
        more = f" and {len(missing) - 1} more keys" if len(missing) > 1 else ""
        raise WeightsError(f"the checkpoint lacks '{missing[0]}'{more}: is it a DAGL {config.task} checkpoint?")
    with torch.device("meta"):
        wanted = {name: value.shape for name, value in DAGL(config).state_dict().items()}
    converted = {}
    for name, shape in wanted.items():
        theirs = keys[name]
        part = [shape[0] // len(theirs), *shape[1:]]
        # the fully connected layers are convolutions here: (D, 784) -> (D, 16, 7, 7)
        part = [part[0], shape[1:].numel()] if name.endswith(("query.weight", "key.weight")) else part
        for key in theirs:
            if list(state[key].shape) != part:
                raise WeightsError(
                    f"'{key}' is {tuple(state[key].shape)} in the checkpoint, {tuple(part)} in the model"
                )
        converted[name] = torch.cat([state[key] for key in theirs]).reshape(shape)
    return converted


def convert(content: bytes, task: str, target: Path, source: str) -> dict[str, Any]:
    """Convert a checkpoint to a weight file and prove, on a test image, that it gives the same output in float64.

    The output to match is that of `forward`, which takes the checkpoint as it is.
    source: where the checkpoint came from, for the file's info and for messages.
    Returns that info. Raises WeightsError for a checkpoint that does not fit the task, and then writes nothing.
    """
    if task not in CHECKPOINTS:
        raise unknown("task", task, CHECKPOINTS)
    blob = git_blob(content)
    config = released_config(task)
    theirs = state_dict(content, source)
    try:
        state = convert_released(theirs, config)
    except WeightsError as error:
        raise WeightsError(f"{source}: {error}") from None
    known = blob == CHECKPOINTS[task].blob
    info = {
        "source": source, "git_blob": blob, "authors_file": known, "licence": LICENCE, "training_data": TRAINING_DATA,
    }  # fmt: skip
    image = torch.rand(1, config.channels, 12, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as fresh, torch.inference_mode():
            weights.save(fresh, {key: value.float() for key, value in state.items()}, config, info)
            wanted = forward({key: value.double() for key, value in theirs.items()}, image, config.blocks)
            difference = float((weights.load(fresh)[0].double()(image) - wanted).abs().max())
            if not difference <= 1e-6 * max(1.0, float(wanted.abs().max())):  # a checkpoint of float64 is rounded
                raise WeightsError(f"{source}: the converted file gives another output ({difference:.1e}): report this")
    except OSError as error:
        raise WeightsError(f"{target}: {error.strerror}: choose another place by `output`") from None
    return info | {"difference": difference}


def forward(state: Mapping[str, Tensor], x: Tensor, blocks: int) -> Tensor:
    """What a released checkpoint computes, equation by equation, under the authors' names of its tensors.

    The judge of `convert`, for small images: every patch and every edge is written out. Of our network's code it has
    the padding and the folding only.
    x: (1, C, H, W); returns the same. blocks: ResBlocks outside the stages.
    """

    def conv(name: str, x: Tensor) -> Tensor:
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, state[f"{name}.bias"], padding=weight.shape[-1] // 2)

    def block(name: str, x: Tensor) -> Tensor:
        return x + conv(f"{name}.body.2", F.prelu(conv(f"{name}.body.0", x), state[f"{name}.body.1.weight"]))

    def head(name: str, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        padding = same_padding(height, width, 7, 4)
        embedded = conv(f"{name}.g", x)
        nodes = (F.unfold(F.pad(embedded, padding), 7, stride=4), F.unfold(embedded, 7, padding=3))  # 784 x L, 784 x N
        q, k = (
            F.linear(patches[0].T, state[f"{name}.{layer}.0.weight"], state[f"{name}.{layer}.0.bias"]).relu()
            for layer, patches in zip(("fc1", "fc2"), nodes)
        )
        gamma, beta = (
            F.conv2d(F.pad(x, padding), state[f"{name}.{c}.weight"], state[f"{name}.{c}.bias"], stride=4).view(-1, 1)
            for c in ("thr_conv", "bias_conv")
        )
        s = q @ k.T  # L x N
        m = F.relu(s - s.mean(1, keepdim=True) * gamma + beta)
        alpha = torch.softmax(10 * s * m, 1) * (m > 0)
        values = F.unfold(conv(f"{name}.theta", x), 7, padding=3)[0]  # 784 x N
        return fold_patches((values @ alpha.T)[None], height, width, 7, 4)

    half = blocks // 2
    out = conv("head.0", x)
    for i in range(half):
        out = block(f"body.{i}", out)
    for stage in (1, 2, 3):
        heads = [head(f"body.{half}.c{stage}_{k}", out) for k in (1, 2, 3, 4)]
        out = out + conv(f"body.{half}.c{stage}_c", torch.cat(heads, 1))
        for i in range(4 if stage < 3 else 0):
            out = block(f"body.{half}.RBS{stage}.{i}", out)
    for i in range(half + 1, blocks + 1):
        out = block(f"body.{i}", out)
    return x + conv("tail.0", conv(f"body.{blocks + 1}", out))
