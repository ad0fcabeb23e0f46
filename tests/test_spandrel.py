"""DAGL among spandrel's architectures: found by state dicts alone, with the results of dagl itself.

What spandrel's own tests ask of an architecture (`assert_loads_correctly`, `assert_size_requirements`, its call API) is
asked here too; the helpers themselves are in its repository only, and are run where there is a copy of it.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from helpers import checkpoint, tiny

from dagl_cli import load_model, spandrel
from dagl_cli.config import VARIANTS, Options, model_config
from dagl_cli.errors import WeightsError
from dagl_cli.nn.model import DAGL
from dagl_cli.restoring.estimate import estimate_sigma
from dagl_cli.store import weights
from dagl_cli.store.release import convert_released, released_config

library = spandrel.spandrel
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def loader() -> Any:
    """With a registry of its own, which has all of spandrel's architectures too: other tests keep theirs."""
    registry = library.MAIN_REGISTRY.copy()
    spandrel.install(registry=registry)
    return library.ModelLoader(registry=registry)


def test_installed_once_in_the_main_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in vars(library.MAIN_REGISTRY).items():  # put back afterwards
        monkeypatch.setattr(library.MAIN_REGISTRY, name, value)
    added = spandrel.install()
    assert [support.architecture.id for support in added] == ["DAGL", "dagl-cli"]
    assert all(support.architecture.id in library.MAIN_REGISTRY for support in added)
    assert spandrel.install() == []
    with pytest.raises(library.DuplicateArchitectureError):
        spandrel.install(ignore_duplicates=False)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_known_by_its_state_dict(loader: Any, variant: str) -> None:
    for channels, noise_map in ((1, True), (3, False)):
        config = replace(model_config(variant, "dejpeg", channels), noise_map=noise_map)
        config = replace(config, local_noise=config.on_pilot and noise_map)
        with torch.device("meta"):
            state = DAGL(config).state_dict()
        found = [s.architecture.id for s in loader.registry.architectures("detection") if s.detect(state)]
        assert found == ["dagl-cli"], "no other architecture takes it for its own"
        assert spandrel._config_of(state) == replace(config, task="denoise" if noise_map else "dejpeg")


@pytest.mark.parametrize(
    "sizes", [dict(scale=1), dict(outer_blocks=1, features=12), dict(activation="prelu", blocks=4)]
)
def test_without_a_graph_any_sizes_are_known(loader: Any, sizes: dict[str, Any]) -> None:
    model = tiny("dejpeg", 3, 0.25, graph=False, **sizes)
    content = safetensors.torch.save({key: value.half() for key, value in model.state_dict().items()})
    descriptor = loader.load_from_state_dict(safetensors.torch.load(content))
    assert {key: value for key, value in vars(descriptor.model.config).items() if key in sizes} == sizes
    for size in ((1, 1), (7, 5), (16, 9)):
        image = torch.rand(1, 3, *size) / 2
        torch.testing.assert_close(descriptor(image), image + 0.25)
    descriptor.train().model(image).sum().backward()
    assert descriptor.model.conv_in.weight.grad is not None


@pytest.mark.parametrize("name", ["denoise-gray", "denoise-color", "dejpeg-gray-lite"])
def test_results_are_those_of_dagl(loader: Any, name: str) -> None:
    descriptor = loader.load_from_file(weights.folder() / f"{name}.safetensors")
    assert (descriptor.architecture.name, descriptor.scale, descriptor.purpose) == ("dagl", 1, "Restoration")
    generator = torch.Generator().manual_seed(0)
    image = (torch.rand(descriptor.input_channels, 1, 40, generator=generator) / 2 + 0.2).expand(-1, 36, -1)
    image = image + torch.randn(image.shape, generator=generator) * 0.1
    restorer = load_model(name.split("-")[0], len(image), model=name, options=Options("cpu"))
    sigma = estimate_sigma(image.permute(1, 2, 0).numpy()) if restorer.config.noise_map else None
    # among neighbours that are equally near, rounding decides
    torch.testing.assert_close(descriptor(image[None])[0], restorer(image, sigma), atol=2e-3, rtol=0)


@pytest.mark.parametrize("task", ["denoise", "demosaic"])
def test_the_authors_checkpoints(loader: Any, task: str) -> None:
    state = {key: value.float() for key, value in checkpoint(task).items()}
    descriptor = loader.load_from_state_dict({"state_dict": state})
    assert (descriptor.architecture.id, descriptor.tags[0]) == ("DAGL", "released")
    assert descriptor.input_channels == (1 if task == "denoise" else 3)
    assert descriptor.tiling is library.ModelTiling.INTERNAL
    converted = convert_released(state, released_config(task))
    assert all(torch.equal(value, converted[key]) for key, value in descriptor.model.state_dict().items())
    state["tail.0.weight"] = state["tail.0.weight"][:, :8]
    with pytest.raises(WeightsError, match=r"'tail\.0\.weight' is .* in the checkpoint"):
        loader.load_from_state_dict(state)


@pytest.mark.parametrize(
    "other",
    [{}, {"a": torch.zeros(1)}, tiny().state_dict(), tiny(graph=False).state_dict() | {"more": torch.zeros(1)},
     {f"{layer}.weight": torch.zeros(4) for layer in ("conv_in", "conv_out", "blocks.0.conv1")},
     {"conv_in.weight": 1, "conv_out.weight": "text"}, {"conv_out.weight": torch.zeros(()), "blocks.x": torch.ones(1)}],
)  # fmt: skip
def test_what_is_no_network_of_ours(loader: Any, other: dict[str, Any]) -> None:
    with pytest.raises(library.UnsupportedModelError):
        loader.load_from_state_dict(other)
    with pytest.raises(WeightsError, match="of no variant of dagl"):
        spandrel.DAGLArch().load(other)


@pytest.mark.skipif(
    "SPANDREL_SOURCE" not in os.environ,
    reason="needs spandrel's own tests: set SPANDREL_SOURCE to its repository, whose requirements-dev.txt is installed",
)
def test_spandrels_own_helpers(loader: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location(
        "spandrel_util", Path(os.environ["SPANDREL_SOURCE"]) / "tests/util.py"
    )
    assert spec is not None
    assert spec.loader is not None
    util: Any = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, util)
    spec.loader.exec_module(util)
    monkeypatch.setattr(DAGL, "hyperparameters", property(lambda self: self.config.to_dict()), raising=False)
    util.assert_loads_correctly(
        spandrel.DAGLArch(),
        lambda: DAGL(model_config("trunk", "dejpeg", 3)),
        lambda: DAGL(replace(model_config("unet", "denoise", 3), features=32)),
        lambda: DAGL(model_config("dagl", "denoise", 1)),
        lambda: DAGL(model_config("paper", "denoise", 1)),
    )
    for name in ("denoise-color", "denoise-gray"):
        descriptor = loader.load_from_file(weights.folder() / f"{name}.safetensors")
        util.assert_size_requirements(descriptor, max_size=12, max_candidates=6)
