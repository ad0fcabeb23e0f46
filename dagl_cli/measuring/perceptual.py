"""LPIPS and DISTS, how alike two images look to networks trained on ImageNet: by torchmetrics, which is an extra."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor

from ..errors import DaglError, ImageError, one_line, unknown
from ..packages import needed
from ..store.weights import sha256

Metric = Callable[[Tensor, Tensor], float]
"""(restored, clean), each (C, H, W) in [0, 1] -> 0 for equal images, more for others."""
METRICS = {"lpips": "LPIPS 0.1 (AlexNet)", "dists": "DISTS (VGG16)"}
"""Name -> what it is: Zhang et al., CVPR 2018 and Ding et al., TPAMI 2020."""
NETWORKS = {"lpips": "alexnet", "dists": "vgg16"}
"""Whose weights torchvision has fetched, BSD-licensed as it is; torchmetrics (Apache 2.0) brings the rest."""
MODULES = ("torchmetrics.image.lpip", "torchmetrics.image.dists", "torchvision.models")
REMEDY = "needs torchmetrics 1.8 and a torchvision that fits torch ({}): pip install 'dagl[perceptual]'"
SMALLEST = 64
"""Side of the smallest image."""


def metric(name: str, *, offline: bool = False, say: Callable[[str], None] = lambda line: None) -> Metric:
    """A metric by its name; weights that are not here are fetched once, which `say` is told before.

    Raises UsageError for an unknown one, and DaglError where its package or weights are missing.
    """
    if name not in METRICS:
        raise unknown("metric", name, METRICS)
    lpip, dists, models = (needed(module, f"`metric` {name} {REMEDY}") for module in MODULES)
    provide(models.get_model_weights(NETWORKS[name]).DEFAULT, name, offline, say)
    if name == "lpips":
        network = lpip.LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)
    else:
        network = dists.DeepImageStructureAndTextureSimilarity()

    def run(restored: Tensor, clean: Tensor) -> float:
        if min(clean.shape[-2:]) < SMALLEST:
            size = " x ".join(map(str, clean.shape[-2:]))
            raise ImageError(f"an image of {size} pixels is too small for `metric` {name}: {SMALLEST} x {SMALLEST}")
        try:
            with torch.no_grad():
                return float(network(*(x.clamp(0, 1).float().expand(3, -1, -1)[None] for x in (restored, clean))))
        finally:
            network.reset()

    return run


def provide(weights: Any, name: str, offline: bool, say: Callable[[str], None]) -> None:
    """See to it that torchvision finds a network's weights where it looks for them, and whole. Raises DaglError."""
    path = Path(torch.hub.get_dir(), "checkpoints", Path(urlsplit(weights.url).path).name)
    start = re.search(r"-([0-9a-f]{8,})\.", path.name)  # of the SHA-256, as in all of torchvision's names
    assert start is not None
    megabytes = math.ceil(weights.meta["_file_size"])
    if not path.is_file():
        needed = f"`metric` {name} needs {path.name} ({megabytes} MB)"
        if offline:
            raise DaglError(f"{needed} in {path.parent}, and `offline` forbids to fetch {weights.url}")
        say(f"{needed}: fetched once, from {weights.url}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(weights.url, str(path), start[1], progress=False)
        except (OSError, RuntimeError) as error:
            raise DaglError(
                f"{needed}, which cannot be fetched ({one_line(error)}): put {weights.url} into {path.parent}"
            ) from None
    if not sha256(path).startswith(start[1]):
        raise DaglError(f"`metric` {name}: {path} is damaged (its SHA-256 is another): remove it, and it is fetched")
