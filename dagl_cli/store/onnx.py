"""A weight file's network as ONNX, for other programs."""

from __future__ import annotations

import copy
import json
import types
import warnings
from pathlib import Path

import torch
from torch import Tensor

from .. import __version__
from ..config import NO_ONNX, ModelConfig
from ..errors import DaglError, UsageError, WeightsError
from ..files import replacing
from ..nn.attention import exportable
from ..nn.exportable import ExportableGraph
from ..nn.gated import GatedStage
from ..nn.model import DAGL, MGFAM
from . import weights

OPSET = 18


def export(path: Path, target: Path) -> float:
    """Write a weight file's network as ONNX, and check it against PyTorch through ONNX Runtime at two sizes.

    Inputs: `image` (batch, channels, height, width) float32 in [0, 1], from 5 pixels a side on, for demosaicing the
    three-channel GRBG mosaic; `sigma` (batch,) on the 0-255 scale, for models with a noise map, for raw files (batch,
    1, height, width). Output: `restored`, the same shape as `image`, not clipped. The tiles around it are the
    caller's; metadata says how (`dagl.tile`, `dagl.overlap`, `dagl.multiple`).
    Returns the largest difference found. Where a graph chooses neighbours, two that are as near may change places and
    with them a few nodes' results: of it, what a tenth of the pixels exceeds. Raises WeightsError for a network that
    cannot be had, DaglError for one that differs.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise UsageError(f"`onnx` needs {error.name}: pip install 'dagl[onnx]'") from None
    model, info = weights.load(path)
    c = model.config
    if why := NO_ONNX.get(c.graph):
        raise WeightsError(f"{path}: graph '{c.graph}' has no ONNX export: {why}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as temporary:
            write(model, temporary)
            made = onnx.load(temporary)
            about = {
                "dagl.version": __version__, "dagl.config": json.dumps(c.to_dict()), "dagl.task": c.task,
                "dagl.weights": f"{path.name} {weights.sha256(path)}", "dagl.tile": c.tile[0],
                "dagl.overlap": c.tile[1], "dagl.multiple": c.multiple,
                "dagl.licence": info.get("licence", "see the weights' card"),
                "dagl.pixels": "image in [0, 1], clip restored; cut tiles at multiples of dagl.multiple",
            }  # fmt: skip
            onnx.helper.set_model_props(made, {key: str(value) for key, value in about.items()})
            onnx.checker.check_model(made)
            onnx.save(made, temporary)
            session = onnxruntime.InferenceSession(temporary, providers=["CPUExecutionProvider"])
            difference = 0.0
            for height, width in ((64, 48), (75, 90)):
                inputs = _inputs(model, 2, height, width)
                found = session.run(None, {name: value.numpy() for name, value in zip(inputs_of(c), inputs)})[0]
                with torch.inference_mode():
                    off = (torch.from_numpy(found) - model(*inputs)).abs().flatten()
                difference = max(difference, float(off.quantile(0.9 if c.on_pilot else 1.0)))
            if not difference <= 1e-4:
                differs = f"{path}: its ONNX network differs from PyTorch's by {difference:.1e}"
                raise DaglError(f"{differs}: choose another `model`, and please report this")
    except OSError as error:
        raise DaglError(f"{target}: {error.strerror}: choose another folder, or make room") from None
    return difference


def write(model: DAGL, target: Path) -> None:
    """The network alone, with inputs and output as `export` names them. Needs the package `onnx`. Raises OSError."""
    model = copy.deepcopy(model)
    for stage in model.stages:
        if isinstance(stage, GatedStage):
            if stage.graph:
                stage.graph = ExportableGraph.of(stage.graph)
        else:
            stage.forward = types.MethodType(_forward_exportable, stage)
    size = {0: "batch", 2: "height", 3: "width"}
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # the tracer's; what it made is to be checked
        torch.onnx.export(
            model, _inputs(model, 1, 48, 64), str(target), input_names=inputs_of(model.config),
            output_names=["restored"], opset_version=OPSET,
            dynamo=False,  # the newer exporter fails on the symbolic sizes of the graph
            dynamic_axes={"image": size, "restored": size, "sigma": size if model.config.by_sample else {0: "batch"}},
        )  # fmt: skip


def inputs_of(config: ModelConfig) -> list[str]:
    return ["image", "sigma"] if config.noise_map else ["image"]


def _forward_exportable(stage: MGFAM, x: Tensor) -> Tensor:
    return x + stage.merge(stage.aggregate(x, exportable))


def _inputs(model: DAGL, batch: int, height: int, width: int) -> tuple[Tensor, ...]:
    image = torch.rand(batch, model.config.channels, height, width, generator=torch.Generator().manual_seed(0))
    level = torch.linspace(10, 40, batch)
    if model.config.by_sample:
        level = level.view(-1, 1, 1, 1) * image[:, :1]
    return (image, level) if model.config.noise_map else (image,)
