"""The released DAGL and ours for programs that are built on spandrel: `install` adds them to its architectures.

>>> import dagl_cli.spandrel
>>> dagl_cli.spandrel.install()
>>> model = spandrel.ModelLoader().load_from_file("DN_Gray/exp/model/model_best.pt")

Both are found by their state dicts alone, as all of spandrel's architectures are. Some settings of a graph leave no
trace there: of ours, networks with a graph are known when they have the sizes of one of the `VARIANTS`, and networks
without one whatever their sizes. A noise level, where a network takes one, is estimated for every image.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .config import HIGHEST_SIGMA, VARIANTS, ModelConfig, variant_of
from .errors import UsageError, WeightsError
from .nn.model import DAGL
from .packages import needed
from .restoring import tiling
from .restoring.estimate import estimate_sigma
from .store.release import convert_released, released_config
from .store.weights import misfits

spandrel: Any = needed("spandrel", "`dagl_cli.spandrel` needs spandrel ({}): pip install 'dagl[spandrel]'")
util: Any = needed("spandrel.util", "{}")
Architecture: Any = spandrel.Architecture
StateDict = dict[str, Any]


def install(*, ignore_duplicates: bool = True, registry: Any = None) -> list[Any]:
    """Add `DAGLArch` and `ReleasedDAGLArch` to a registry of spandrel's, by default to its main one.

    Returns what was added, as `ArchSupport`s: nothing where they were already, unless with ignore_duplicates=False,
    which raises spandrel's DuplicateArchitectureError.
    """
    registry = spandrel.MAIN_REGISTRY if registry is None else registry
    supports = map(spandrel.ArchSupport.from_architecture, (ReleasedDAGLArch(), DAGLArch()))
    return list(registry.add(*supports, ignore_duplicates=ignore_duplicates))


class ReleasedDAGLArch(Architecture):  # type: ignore[misc]
    """The authors' checkpoints, under the names of their code."""

    def __init__(self) -> None:
        condition = util.KeyCondition
        super().__init__(
            id="DAGL",
            detect=condition.has_all(
                "head.0.weight",
                "tail.0.weight",
                condition.has_any(*(f"body.{half}.c1_1.thr_conv.weight" for half in (8, 16))),
            ),
        )

    def load(self, state_dict: StateDict) -> Any:
        """Raises WeightsError where sizes are not those of a released checkpoint."""
        blocks = util.get_seq_len(state_dict, "body") - 2
        config = released_config("demosaic" if blocks == 32 else "denoise")
        config = replace(config, channels=state_dict["head.0.weight"].shape[1])
        return _descriptor(self, config, convert_released(state_dict, config), ["released"])


class DAGLArch(Architecture):  # type: ignore[misc]
    """The networks of dagl: `model.safetensors` of a training run, the bundled files, what `dagl weights` writes."""

    def __init__(self) -> None:
        super().__init__(id="dagl-cli", name="dagl", detect=lambda state: _config_of(state) is not None)

    def load(self, state_dict: StateDict) -> Any:
        """Raises WeightsError where the tensors are of no network that `detect` knows."""
        config = _config_of(state_dict)
        if config is None:
            raise WeightsError("these weights are of no variant of dagl: `dagl_cli.load_model` takes their file")
        tags = [variant_of(config) or "residual", *(["noise map"] if config.noise_map else [])]
        return _descriptor(self, config, state_dict, tags)


def _descriptor(architecture: Any, config: ModelConfig, state_dict: Mapping[str, Tensor], tags: list[str]) -> Any:
    plain = not config.stages
    return spandrel.ImageModelDescriptor(
        DAGL(config),
        state_dict,
        architecture=architecture,
        purpose="Restoration",
        tags=[*tags, f"{config.features}nf"],
        supports_half=plain,
        supports_bfloat16=plain,  # what a graph compares is too fine for it
        scale=1,
        input_channels=config.channels,
        output_channels=config.channels,
        # a graph takes memory by the square of the area, and its tiles must keep the phase of its nodes
        tiling=spandrel.ModelTiling.SUPPORTED if plain else spandrel.ModelTiling.INTERNAL,
        call_fn=_call,
    )


def _call(model: DAGL, images: Tensor) -> Tensor:
    """(B, C, H, W) -> the same, in the tiles that dagl itself takes."""
    return torch.stack([_restored(model, image) for image in images])


def _restored(model: DAGL, image: Tensor) -> Tensor:
    config, sigma = model.config, None
    if config.noise_map:
        found = estimate_sigma(image.permute(1, 2, 0).float().cpu().numpy())
        sigma = min(found or 0.0, HIGHEST_SIGMA)

    def run(tile: Tensor) -> Tensor:
        return model(tile, sigma)

    if not config.stages:
        return run(image[None])[0]
    return tiling.overlap_blend(run, image.cpu(), *config.tile, config.multiple, image.device).to(image.device)


# --- what network a state dict is of ---------------------------------------------------------------------------------


def _config_of(state: Mapping[str, Any]) -> ModelConfig | None:
    """The configuration of one of our networks, from the names and shapes of its tensors; None: it is none.

    Its task leaves no trace: it is called 'denoise' with a noise map, 'dejpeg' without.
    """
    if not all(isinstance(value, Tensor) for value in state.values()):
        return None
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    try:
        return next((config for config in _candidates(shapes) if not misfits(_on_meta(config), state)), None)
    except (UsageError, ValueError, KeyError, IndexError):  # of whatever else there is
        return None


def _candidates(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[ModelConfig]:
    outputs, inputs = shapes["conv_out.weight"][0], shapes["conv_in.weight"][1]
    channels = 1 if math.isqrt(outputs) ** 2 == outputs else 3
    noise_map = inputs - outputs == 1
    own: dict[str, Any] = dict(task="denoise" if noise_map else "dejpeg", channels=channels, noise_map=noise_map)
    if any(key.startswith("stages.") for key in shapes):
        own["values"] = shapes.get("stages.0.graph.values.embed.weight", (0,))[0]
        own["local_noise"] = "stages.0.local.weight" in shapes
        for name, variant in VARIANTS.items():
            if variant.stages:
                yield replace(variant, **own)
                if name == "paper":
                    yield replace(variant, **own, blocks=released_config("demosaic").blocks)
    else:
        yield ModelConfig(
            **own, scale=math.isqrt(outputs // channels), features=shapes["blocks.0.conv1.weight"][0],
            blocks=util.get_seq_len(shapes, "blocks"), outer_blocks=util.get_seq_len(shapes, "encoder"),
            stages=0, heads=0, activation="prelu" if "blocks.0.activation.weight" in shapes else "relu",
        )  # fmt: skip


@functools.cache
def _on_meta(config: ModelConfig) -> DAGL:
    with torch.device("meta"):
        return DAGL(config)
