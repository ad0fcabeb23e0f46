"""Our network gives what the authors' released code gives, with the same weights (float64 1e-9, float32 1e-4)."""

from collections.abc import Callable

import pytest
import torch
from helpers import case, checkpoint, network
from torch import Tensor

from dagl_cli.nn.attention import exportable, reference
from dagl_cli.nn.model import DAGL, MGFAM
from dagl_cli.nn.streaming import streaming
from dagl_cli.restoring import tiling
from dagl_cli.store.release import released_config


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("name", "task"),
    [("gray_64x64", "denoise"), ("gray_37x50", "denoise"), ("color_48x40", "real"), ("demosaic_44x36", "demosaic"),
     ("gray_x8_32x40", "denoise"), ("gray_chop_150x130", "denoise"), ("demosaic_chop_120x112", "demosaic")],
)  # fmt: skip
@torch.inference_mode()
def test_network(name: str, task: str, dtype: torch.dtype) -> None:
    given, expected = case(name)
    model = network(task).to(dtype)
    given = given.to(dtype)
    if "chop" in name:
        margin = 12 if task == "demosaic" else 24
        output = tiling.chop(model, given[0], margin)[None]
    elif "x8" in name:
        output = tiling.ensemble_x8(model)(given)
    else:
        output = model(given)
    assert (output - expected).abs().max() <= (1e-9 if dtype == torch.float64 else 1e-4)


@pytest.mark.parametrize("attention", [reference, exportable, streaming])
@torch.inference_mode()
def test_one_head(attention: Callable[..., Tensor]) -> None:
    given, expected = case("head_24x20")
    stage = network("denoise").stages[1]
    assert isinstance(stage, MGFAM)
    heads = stage.aggregate(given, attention)
    assert (heads[:, 32:48] - expected).abs().max() <= 1e-9  # body.8.c2_3: the third of four


def test_released_parameter_count() -> None:
    """The gray checkpoint holds 5,727,453 numbers: 13,056 of a `W` that nothing uses, 12 of an unused mean shift."""
    used = sum(p.numel() for p in DAGL(released_config("denoise")).parameters())
    assert used == 5_727_453 - 13_056 - 12
    assert sum(t.numel() for t in checkpoint("denoise").values()) == 5_727_453
