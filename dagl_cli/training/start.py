"""The weights that a run starts from."""

from __future__ import annotations

from typing import Any

import torch

from ..errors import WeightsError
from ..nn.model import DAGL, ResBlock
from ..store import weights
from .presets import TrainConfig


def initialise(model: DAGL) -> None:
    """Small initial residuals: every branch that is added to its input starts near zero, the graph at zero."""
    with torch.no_grad():
        for block in [m for m in model.modules() if isinstance(m, ResBlock)]:
            block.get_parameter("conv2.weight").mul_(0.1)
        added = () if model.config.graph in ("gated", "equations") else model.stages
        for stage in added:
            stage.get_parameter("merge.weight").zero_()
            stage.get_parameter("merge.bias").zero_()
        model.conv_out.weight.mul_(0.1)


def init_from(model: DAGL, source: str, config: TrainConfig) -> dict[str, Any]:
    """Take every tensor of equal name and shape from a weight file or bundled model; what became of the others.

    'channels differ': tensors of the first and last layers that have another number of input or output channels;
    'fresh': the model's other tensors that the file lacks; 'unused': those of the file that have no place.
    Raises WeightsError.
    """
    try:
        path = weights.resolve(source, config.task, config.channels)
        other, own = weights.load(path)[0].state_dict(), model.state_dict()
    except WeightsError as error:
        raise WeightsError(f"`init_from` {str(error).removeprefix('`model` ')}") from None
    matching = {k: v for k, v in other.items() if k in own and own[k].shape == v.shape}
    if not matching:
        raise WeightsError(f"`init_from` {source}: no tensor fits this model: choose one of the same variant")
    model.load_state_dict(matching, strict=False)
    left = own.keys() - matching.keys()
    channels = {k for k in left if k in other and k.startswith(("conv_in.", "conv_out."))}
    return {
        "init_from": path.name, "taken": len(matching), "of": len(own), "channels differ": sorted(channels),
        "fresh": sorted(left - channels), "unused": sorted(other.keys() - matching.keys() - channels),
    }  # fmt: skip
