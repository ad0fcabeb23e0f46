"""The network's shapes: any size in, the same size out; U-Net level, noise map, refusals."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from dagl_cli.config import TASKS, VARIANTS, ModelConfig, model_config, variant_of
from dagl_cli.errors import UsageError
from dagl_cli.nn.model import DAGL
from dagl_cli.store.release import released_config

TINY: dict[str, Any] = dict(features=8, blocks=2, stages=1, heads=2, head_features=2, embedding=4, patch=3, stride=2)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 5), (16, 9)])
@pytest.mark.parametrize("levels", [dict(), dict(scale=2), dict(outer_blocks=1), dict(scale=2, outer_blocks=2)])
def test_any_size(size: tuple[int, int], levels: dict[str, Any]) -> None:
    model = DAGL(ModelConfig(**TINY, **levels, noise_map=True)).eval()
    x = torch.rand(2, 1, *size)
    with torch.inference_mode():
        assert model(x, 25).shape == x.shape


def test_the_inner_network_runs_at_half_resolution() -> None:
    model = DAGL(ModelConfig(**TINY, scale=2, outer_blocks=1)).eval()
    seen: list[torch.Size] = []
    model.stages[0].register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    with torch.inference_mode():
        model(torch.rand(1, 1, 32, 24))
    assert seen == [(1, 8, 8, 6)], "features at a quarter of the image's resolution"


def test_whole_cells_do_not_depend_on_the_position() -> None:
    """Moving the image by `multiple` pixels moves the result: what the tiles' alignment relies on."""
    config = ModelConfig(**{**TINY, "stages": 0}, scale=2, outer_blocks=1)
    assert config.multiple == 4
    model = DAGL(config).eval()
    x = torch.rand(1, 1, 96, 96)
    with torch.inference_mode():
        whole, moved = model(x), model(x[..., 4:, 4:])
    inner = slice(40, -40)  # beyond the reach of the borders
    torch.testing.assert_close(whole[..., 4:, 4:][..., inner, inner], moved[..., inner, inner])


@pytest.mark.parametrize("scale", [1, 2])
def test_raw_models_are_told_the_level_of_every_sample(scale: int) -> None:
    torch.manual_seed(0)
    model = DAGL(ModelConfig(**TINY | dict(task="raw", channels=3, noise_map=True, scale=scale, stages=0))).eval()
    x, level = torch.rand(2, 3, 33, 18), 50 * torch.rand(2, 1, 33, 18)
    with torch.inference_mode():
        assert torch.allclose(model(x, 20.0), model(x, torch.full_like(level, 20)), atol=1e-6)
        other = level.clone()
        other[:, :, 7, 8] += 200
        change = (model(x, other) - model(x, level)).abs().amax((0, 1))
    assert change[7, 8] > 0
    assert change[-1].max() == 0, "far away nothing changes"


def test_a_noise_map_is_needed_exactly_where_there_is_one() -> None:
    x = torch.rand(1, 1, 8, 8)
    with pytest.raises(ValueError, match="sigma"):
        DAGL(ModelConfig(**TINY))(x, 25)
    with pytest.raises(ValueError, match="sigma"):
        DAGL(ModelConfig(**TINY, noise_map=True))(x)


@pytest.mark.parametrize(
    "wrong",
    [
        dict(outer_blocks=-1), dict(outer_blocks=1, features=7), dict(blocks=3), dict(patch=4), dict(stride=0),
        dict(graph="other"), dict(channels=2), dict(task="other"),
    ],
)  # fmt: skip
def test_impossible_networks_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        ModelConfig(**{**TINY, **wrong})


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_variant_is_known_by_its_shape(variant: str) -> None:
    for task, about in TASKS.items():
        for channels in about.channels:
            config = model_config(variant, task, channels)
            assert variant_of(config) == variant
            assert variant_of(replace(config, noise_map=not config.noise_map)) == variant
            assert variant_of(replace(config, features=40)) is None
    assert variant_of(released_config("demosaic")) == "paper"
