"""Other methods, run on the same inputs: classic ones, and any checkpoint that spandrel can load."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from ..config import PAPER_PATTERN, TASKS
from ..errors import DaglError, UsageError, WeightsError, one_line, unknown
from ..packages import needed
from ..restoring import tiling
from ..restoring.estimate import estimate_sigma

Run = Callable[[Tensor, float | None], Tensor]
"""(C, H, W) float32 on the CPU and the level (sigma, JPEG quality or None) -> (C, H, W) float32 in [0, 1].

The input's range is [0, 1], noise not clipped; a mosaic has three channels, its missing samples 0.
"""

TILE, OVERLAP = 1024, 64
"""Checkpoints see larger images in tiles of this many pixels."""


@dataclass(frozen=True)
class Peer:
    """One of the other methods."""

    summary: str
    """What it is, for the report."""
    tasks: tuple[str, ...]
    run: Run
    package: str | None = None
    """What has to be installed for it, as a key of `REMEDIES`."""


def peer(name: str, task: str, pattern: str = PAPER_PATTERN) -> Peer:
    """A method of `PEERS` by name; pattern: of the mosaics that it will be given.

    Raises UsageError for an unknown name and for a task that it is not for, DaglError for a package that is not
    installed.
    """
    if name not in PEERS:
        raise unknown("compare", name, PEERS)
    found = PEERS[name]
    if task not in found.tasks:
        others = ", ".join(other for other, peer in PEERS.items() if task in peer.tasks)
        raise UsageError(f"`compare` {name} is for {' and '.join(found.tasks)}, not for {task}: choose {others}")
    if found.package:
        _module(found.package)  # now, not at the first image
    if name in DEMOSAICERS:
        return replace(found, run=partial(_demosaic, DEMOSAICERS[name], pattern))
    return found


def _input(x: Tensor, level: float | None) -> Tensor:
    return x.clamp(0, 1)


def _nlm(x: Tensor, level: float | None) -> Tensor:
    """scikit-image's own recommendation where sigma is known: patches 5x5 within 13x13, h = 0.6 sigma, fast mode.

    Its slow mode (h = 0.8 sigma) was 0.2 to 0.9 dB worse at sigma 15 to 50 on four crops of training photographs.
    """
    from skimage.restoration import denoise_nl_means

    sigma = _sigma(x, level)
    gray = x.shape[0] == 1  # of a single channel scikit-image drops the axis, and returns the image turned
    restored = denoise_nl_means(
        x.squeeze(0).numpy(), patch_size=5, patch_distance=6, h=0.6 * sigma, sigma=sigma, fast_mode=True,
        channel_axis=None if gray else 0,
    )  # fmt: skip
    return _to_tensor(restored).reshape(x.shape)


def _tv(x: Tensor, level: float | None) -> Tensor:
    """Chambolle's total variation with weight 0.7 sigma, the best of 0.4 to 0.8 at sigma 25 on twelve crops of training
    photographs (0.3 dB or less from the best at 15 and 50)."""
    from skimage.restoration import denoise_tv_chambolle

    return _to_tensor(denoise_tv_chambolle(x.numpy(), weight=0.7 * _sigma(x, level), channel_axis=0))


def _bm3d(x: Tensor, level: float | None) -> Tensor:
    """The authors' own package with its default profile."""
    bm3d = _module("bm3d")
    pixels, sigma = x.permute(1, 2, 0).double().numpy(), _sigma(x, level)
    restored = bm3d.bm3d(pixels[..., 0], sigma) if x.shape[0] == 1 else bm3d.bm3d_rgb(pixels, sigma)
    return _to_tensor(np.moveaxis(restored.reshape(pixels.shape), -1, 0))


def _demosaic(function: str, pattern: str, x: Tensor, level: float | None) -> Tensor:
    """x: (3, H, W), a mosaic with 0 for the missing samples."""
    restored = getattr(_module("colour_demosaicing"), function)(x.sum(0).numpy(), pattern)  # (H, W, 3)
    return _to_tensor(np.moveaxis(restored, -1, 0))


DEMOSAICERS = {"malvar": "demosaicing_CFA_Bayer_Malvar2004", "menon": "demosaicing_CFA_Bayer_Menon2007"}
"""Names -> functions of colour-demosaicing."""
_NOISE = ("denoise", "real")
PEERS: dict[str, Peer] = {
    "input": Peer("the degraded input, clipped", tuple(TASKS), _input),
    "nlm": Peer("non-local means (scikit-image)", _NOISE, _nlm),
    "tv": Peer("total variation, Chambolle (scikit-image)", _NOISE, _tv),
    "bm3d": Peer("BM3D (package bm3d)", _NOISE, _bm3d, "bm3d"),
    "malvar": Peer(
        "demosaicing of Malvar et al. 2004 (colour-demosaicing)",
        ("demosaic",),
        partial(_demosaic, DEMOSAICERS["malvar"], PAPER_PATTERN),
        "colour_demosaicing",
    ),
    "menon": Peer(
        "demosaicing of Menon et al. 2007 (colour-demosaicing)",
        ("demosaic",),
        partial(_demosaic, DEMOSAICERS["menon"], PAPER_PATTERN),
        "colour_demosaicing",
    ),
}
REMEDIES = {
    "colour_demosaicing": "malvar and menon need colour-demosaicing ({}): pip install 'dagl[compare]'",
    "bm3d": "bm3d needs its authors' package ({}), whose licence allows non-commercial use only: pip install bm3d",
    "spandrel": "checkpoints need spandrel and a torchvision that fits torch ({}): pip install 'dagl[compare]'",
}
"""Package -> what to say where it is missing."""


def _sigma(x: Tensor, level: float | None) -> float:
    """The noise level on the scale of the pixels; estimated where it is not known."""
    found = estimate_sigma(x.permute(1, 2, 0).numpy()) if level is None else level
    return (found or 0.0) / 255


def _to_tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels, np.float32)).clamp_(0, 1)


def _module(name: str) -> ModuleType:
    """A package that a peer needs. Raises MissingPackage with the remedy where it is missing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about optional packages of its own
        return needed(name, f"`compare`: {REMEDIES[name]}")


# --- checkpoints -----------------------------------------------------------------------------------------------------


def checkpoint(path: Path, task: str, channels: int, device: torch.device | str = "cpu") -> Peer:
    """The network in a checkpoint file, if spandrel knows its architecture.

    channels: of the images that it will be given, 1 or 3. Raises WeightsError for a checkpoint that cannot be used,
    DaglError where spandrel is not installed.
    """
    spandrel = _module("spandrel")
    try:
        network = spandrel.ModelLoader().load_from_state_dict(spandrel.canonicalize_state_dict(_state(path)))
    except WeightsError:
        raise
    except Exception:  # spandrel's own UnsupportedModelError, or whatever a foreign dict makes its detection raise
        raise WeightsError(f"`compare` {path}: spandrel finds no architecture that fits these weights") from None
    channel = f"{network.input_channels} channel{'' if network.input_channels == 1 else 's'}"
    is_a = f"{network.architecture.name} ({', '.join([*network.tags, channel])})"
    if not isinstance(network, spandrel.ImageModelDescriptor):
        raise WeightsError(f"`compare` {path}: {is_a} is for inpainting: choose a model that restores whole images")
    if network.scale != 1:
        raise WeightsError(f"`compare` {path}: {is_a} enlarges {network.scale} times: choose a model of scale 1")
    if (network.input_channels, network.output_channels) != (channels, channels):
        kinds = {1: "gray", 3: "colour"}
        wanted = kinds.get(network.input_channels, f"{network.input_channels}-channel")
        raise WeightsError(f"`compare` {path}: {is_a} is for {wanted} images, these are {kinds[channels]}")
    network.to(device).eval()
    level_map = _LevelMap()
    if network.architecture.id == "DRUNet" or "FDnCNN" in network.tags:
        network.model.register_forward_pre_hook(level_map)

    def run(x: Tensor, level: float | None) -> Tensor:
        level_map.sigma = level if task == "denoise" else None
        multiple = max(1, network.size_requirements.multiple_of)  # spandrel pads to it by itself
        try:
            with torch.inference_mode():
                if network.tiling is spandrel.ModelTiling.INTERNAL:
                    return tiling.whole(network, x, device)
                return tiling.overlap_blend(network, x, TILE, OVERLAP, multiple, device)
        except (RuntimeError, MemoryError) as error:  # out of memory, or whatever a foreign network does not take
            why = "out of memory" if isinstance(error, MemoryError) else one_line(error)[:200]
            raise DaglError(f"`compare` {path}: {why}") from None

    return Peer(f"{is_a}, loaded by spandrel", (task,), run)


class _LevelMap:
    """Puts the noise level into the input's last channel, where spandrel puts 15 whatever the noise."""

    sigma: float | None = None

    def __call__(self, module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if self.sigma is None:
            return None
        x = inputs[0].clone()
        x[:, -1] = self.sigma / 255
        return (x, *inputs[1:])


def _state(path: Path) -> dict[str, Any]:
    """A checkpoint's content; nothing in the file is executed."""
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsError(f"`compare` {path}: cannot read it: {one_line(error)}") from None
    except Exception:  # torch raises many kinds
        raise WeightsError(
            f"`compare` {path}: it is damaged, or holds more than weights (code in it is never run): "
            "save its state_dict alone, best as .safetensors"
        ) from None
    if not isinstance(state, dict):
        raise WeightsError(f"`compare` {path}: it holds no state_dict: save the network's state_dict")
    return state
