"""The gated graph: its fast form against the equations, and each equation against its own words."""

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from helpers import TensorsMade
from scipy import fft
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dagl_cli.config import ModelConfig
from dagl_cli.errors import UsageError
from dagl_cli.nn import gated
from dagl_cli.nn.gated import (
    GatedGraph,
    GatedStage,
    Values,
    coefficients,
    covering,
    dct_basis,
    fold,
    mirrored,
    opponent,
    reference,
    rgb,
)  # fmt: skip
from dagl_cli.nn.model import DAGL, compiled
from dagl_cli.nn.search import Grid, spread

pytestmark = pytest.mark.usefixtures("one_thread")
SHAPE: dict[str, Any] = dict(channels=1, heads=2, patch=8, stride=4, window=64, neighbours=5)


def a_graph(scale: int = 0, **changes: int) -> GatedGraph:
    """In float64, with every parameter off its start. scale: of the features of its learned values; 0: none."""
    torch.manual_seed(0)
    shape: dict[str, Any] = {**SHAPE, **changes}
    values = Values(4, scale, shape["heads"], 3, shape["patch"], shape["stride"]) if scale else None
    graph = GatedGraph(**shape, values=values).double()
    with torch.no_grad():
        for parameter in graph.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return graph


def pictures(channels: int, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """noisy, pilot, sigma of two images, one level each."""
    generator = torch.Generator().manual_seed(1)
    pilot, noise = torch.rand(2, 2, channels, height, width, generator=generator, dtype=torch.float64)
    return pilot + 0.2 * (noise - 0.5), pilot, torch.tensor([0.1, 0.002], dtype=torch.float64).view(2, 1, 1)


@pytest.mark.parametrize(
    ("height", "width", "changes"),
    [
        (28, 36, {}), (20, 24, dict(channels=3)), (44, 40, dict(window=32)), (9, 13, dict(patch=5)), (8, 12, {}),
        (30, 22, dict(stride=2, neighbours=16)), (44, 76, dict(heads=1)), (12, 12, dict(neighbours=99)),
        (20, 24, dict(scale=1)), (21, 26, dict(scale=2, patch=6, stride=5)), (20, 28, dict(local=1)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("chunk", [1, gated.CHUNK])
def test_the_fast_form_equals_the_equations(
    height: int, width: int, changes: dict[str, int], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward and gradient, of images and parameters, in one window or several, in one chunk or several."""
    monkeypatch.setattr(gated, "CHUNK", chunk)
    graph, results = a_graph(**{name: value for name, value in changes.items() if name != "local"}), []
    for form in (lambda *inputs: reference(graph, *inputs), graph):
        noisy, pilot, sigma = pictures(changes.get("channels", 1), height, width)
        inputs = [noisy.requires_grad_(), pilot.requires_grad_(), *graph.parameters()]
        if changes.get("local"):  # a level for each node
            nodes = Grid.of(height, width, graph.patch, graph.stride, graph.window).queries
            sigma = sigma + torch.linspace(0, 0.3, math.prod(nodes), dtype=torch.float64).view(nodes)
            inputs.append(sigma.requires_grad_())
        given: tuple[Tensor, ...] = (noisy, pilot, sigma)
        if scale := changes.get("scale"):
            sides = (-(-side // scale) for side in (height, width))
            features = torch.rand(2, 4, *sides, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
            given = (*given, features)
            inputs.append(features.requires_grad_())
        images, maps = form(*given)
        gradients = torch.autograd.grad(images.sin().sum() + maps.square().sum(), inputs)
        results.append((images, maps, *gradients))
    assert all(bool(gradient.any()) for gradient in results[0])
    for ours, expected in zip(results[1], results[0]):
        torch.testing.assert_close(ours, expected, atol=1e-9, rtol=1e-9)


def test_the_basis_is_the_dct() -> None:
    basis, patch = dct_basis(8), torch.rand(8, 8, dtype=torch.float64)
    torch.testing.assert_close(basis @ basis.T, torch.eye(64, dtype=torch.float64))
    expected = torch.from_numpy(fft.dctn(patch.numpy(), norm="ortho")).flatten()
    torch.testing.assert_close(basis @ patch.flatten(), expected)
    torch.testing.assert_close(coefficients(patch[None, None], basis)[0, 0, 0, 0], expected)
    torch.testing.assert_close(fold(expected.view(1, 1, 1, 1, 64), basis, 4)[0], patch)


def test_colours_keep_their_noise() -> None:
    x = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(rgb(opponent(x)), x)
    torch.testing.assert_close(opponent(x).square().sum(1), x.square().sum(1))
    gray = x[:, :1].expand(-1, 3, -1, -1)
    torch.testing.assert_close(opponent(gray)[:, 1:], torch.zeros(2, 2, 4, 5, dtype=torch.float64))


@torch.no_grad()
def test_the_threshold_is_equations_7_and_8() -> None:
    """M - (gamma mean M - beta), cut at 0; its edges' exp(A) - 1, adding to 1."""
    graph = a_graph()
    distance, own = 4 * torch.rand(3, 5, dtype=torch.float64), torch.randn(3, 64, dtype=torch.float64)
    distance[:, 0] = 0
    weights = graph.attention(distance, own)
    gamma, beta = graph.thresholds(own)
    for q in range(3):
        for k in range(2):
            similarity = [-float(d) * math.exp(graph.temperature[k]) for d in distance[q]]
            threshold = float(gamma[q, k]) * sum(similarity) / 5 - float(beta[q, k])
            edges = [math.exp(max(0.0, m - threshold)) - 1 for m in similarity]
            expected = [e / sum(edges) for e in edges]
            assert weights[q, k].tolist() == pytest.approx(expected)
    assert bool((weights == 0).any())
    assert bool((weights[..., 0] > 0).all())


@pytest.mark.parametrize("far", [1e3, 1e8])
def test_attention_stays_finite(far: float) -> None:
    weights = a_graph().float().attention(torch.tensor([[0.0, far, far]]), torch.full((1, 64), far))
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 2))


def test_the_gate_is_wieners_before_it_is_trained() -> None:
    """wm = xm² / (xm² + sigma² / n), wd = xv / (xv + sigma²); wm ym + wd (y - ym), and the noise that this leaves."""
    graph = GatedGraph(**{**SHAPE, "heads": 1}).double()
    common, mean, noisy, pilot = torch.randn(4, 1, 1, 64, dtype=torch.float64)
    spread, number, sigma = torch.rand(1, 1, 64, dtype=torch.float64), torch.tensor([[4.0]]).double(), 0.3
    patches, noise = graph.gate(common, mean, spread, number, noisy[0], pilot[0], torch.tensor([[sigma]]))
    wm, wd = mean**2 / (mean**2 + sigma**2 / 4), spread / (spread + sigma**2)
    torch.testing.assert_close(patches, wm * common + wd * (noisy - common))
    torch.testing.assert_close(noise, (wm**2 / 4 + wd**2).mean(-1))


@torch.no_grad()
def test_values_lie_where_their_nodes_do() -> None:
    """A node that starts on a pixel of the features has what they show below it; one between two has their mean."""
    values, features = Values(2, 2, 1, 3, 6, 3), torch.rand(1, 2, 8, 9)
    nodes = values(features, (11, 12))
    assert nodes.shape == (1, 11, 12, 3)
    below = values.embed(features).permute(0, 2, 3, 1)  # (1, 6, 7, 3)
    torch.testing.assert_close(nodes[:, ::2, ::2], below[:, :, :6])
    torch.testing.assert_close(nodes[:, 1::2, ::2], (below[:, :-1, :6] + below[:, 1:, :6]) / 2)


@torch.no_grad()
def test_tasks_without_noise_average_the_pilot() -> None:
    """Decoded pictures hold no independent samples: there the graph sees the pilot alone."""
    graph = GatedGraph(**{**SHAPE, "heads": 1})
    noisy, pilot, _ = (image.float() for image in pictures(1, 16, 16))
    features, sigma = torch.rand(2, 4, 16, 16), torch.tensor([0.1, 0.1])
    for noise, seen in ((True, noisy), (False, pilot)):
        stage = GatedStage(1, 4, 1, (), graph, blind=False, noise=noise)
        expected = pilot + gated.BLEND * (graph(seen, pilot, sigma.view(2, 1, 1))[0][:, 0] - pilot)
        torch.testing.assert_close(stage(noisy, pilot, features, sigma), expected)


@torch.no_grad()
@pytest.mark.parametrize(("noise", "farthest"), [(True, 0.5), (False, gated.FARTHEST)])
def test_what_is_learned_goes_so_far_and_no_farther(noise: bool, farthest: float) -> None:
    """Of noise no farther than to the heads: told a tenth of it, a network would make it stronger."""
    graph = GatedGraph(**{**SHAPE, "heads": 2})
    noisy, pilot, _ = (image.float() for image in pictures(1, 16, 16))
    features, sigma = torch.rand(2, 4, 16, 16), torch.tensor([0.1, 0.1])
    stage = GatedStage(1, 4, 1, (), graph, blind=False, noise=noise)
    stage.conv_out.bias[1:] = 50.0  # type: ignore[index]
    steps = graph(noisy if noise else pilot, pilot, sigma.view(2, 1, 1))[0] - pilot[:, None]
    torch.testing.assert_close(stage(noisy, pilot, features, sigma), pilot + farthest * steps.sum(1))


@torch.no_grad()
def test_each_node_may_have_a_noise_level_of_its_own() -> None:
    """The picture's, times what the features below the node's patch say; nothing, before they are trained."""
    graph, (noisy, pilot, _) = GatedGraph(**SHAPE), (image.float() for image in pictures(1, 20, 22))
    plain, stage = (GatedStage(1, 4, 2, (), graph, blind=False, noise=True, local=local) for local in (False, True))
    features, sigma, levels = torch.zeros(2, 4, 10, 11), torch.tensor([0.1, 0.05]), list[Tensor]()
    features[0, :, 2:, :6] = 1
    assert torch.equal(stage(noisy, pilot, features, sigma), plain(noisy, pilot, features, sigma))
    graph.register_forward_pre_hook(lambda module, inputs: levels.append(inputs[2]))
    assert stage.local is not None
    stage.local.weight.fill_(math.log(3) / 64)
    changed = stage(noisy, pilot, features, sigma)
    assert levels[0].shape == (2, 4, 5)
    assert levels[0][0, 1, 0] == pytest.approx(0.3), "rows and columns 4 to 11 and 0 to 7: all of its patch"
    assert levels[0][0, 0, 0] == pytest.approx(0.1 * 3**0.5), "half of its patch"
    assert levels[0][1].flatten().tolist() == pytest.approx([0.05] * 20)
    assert not torch.equal(changed[0], plain(noisy, pilot, features, sigma)[0])


@torch.no_grad()
def test_a_constant_picture_stays() -> None:
    """All weights add to 1, also at the borders: the fold loses nothing."""
    flat = torch.full((2, 1, 28, 24), 0.5, dtype=torch.float64)
    images, _ = GatedGraph(**SHAPE).double()(flat, flat, torch.full((2, 1, 1), 0.02).double())
    assert float((images - 0.5).abs().max()) < 1e-4


@torch.no_grad()
def test_more_independent_samples_less_noise() -> None:
    """Copies of one tile with independent noise: the graph must do better than any single patch could."""
    torch.manual_seed(0)
    clean = torch.rand(1, 1, 8, 8).repeat(1, 1, 8, 8).double()
    noisy = clean + 0.1 * torch.randn_like(clean)
    graph = GatedGraph(**{**SHAPE, "neighbours": 16}).double()
    images, maps = graph(noisy, clean, torch.full((1, 1, 1), 0.1).double())
    assert float((images[0, 0] - clean).square().mean()) < 0.1**2 / 8
    assert float(maps[0, 2].mean()) > 0.7, "nearly all of the 16 candidates are neighbours"


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 9), (8, 8), (33, 26)])
@pytest.mark.parametrize(("channels", "blind", "values"), [(1, False, 0), (3, False, 5), (3, True, 0), (1, True, 3)])
def test_a_network_with_it_takes_any_size(size: tuple[int, int], channels: int, blind: bool, values: int) -> None:
    model = DAGL(
        ModelConfig(
            channels=channels,
            features=8,
            blocks=2,
            scale=2,
            outer_blocks=1,
            stages=2,
            stage_blocks=1,
            heads=2,
            patch=8,
            graph="gated",
            noise_map=not blind,
            values=values,
            local_noise=values == 5,
        )
    )
    out = model(torch.rand(2, channels, *size), None if blind else torch.tensor([0.0, 50.0]))
    assert out.shape == (2, channels, *size)
    out.square().sum().backward()
    gradients = [p.grad for p in model.parameters()]
    assert all(g is not None and bool(torch.isfinite(g).all()) for g in gradients)


def test_gradients_after_inference() -> None:
    """Nothing that inference made is kept: in float64 it would be used as it is, and autograd refuses it."""
    config = ModelConfig(features=8, blocks=2, stages=1, stage_blocks=1, heads=1, graph="gated", noise_map=True)
    model, x = DAGL(config).double(), torch.rand(1, 1, 9, 12, dtype=torch.float64)
    with torch.inference_mode():
        model(x, 25)
    model(x.requires_grad_(), 25).sum().backward()
    assert x.grad is not None


def test_without_heads_only_the_network_behind_is_left() -> None:
    config = ModelConfig(features=8, blocks=2, stages=1, stage_blocks=1, heads=0, graph="gated", noise_map=True)
    model, x = DAGL(config), torch.rand(1, 1, 9, 12)
    assert not [name for name, _ in model.named_parameters() if "graph" in name]
    assert model(x, 25).shape == x.shape
    with pytest.raises(UsageError, match="heads must be at least 1"):
        ModelConfig(heads=0)


def test_compiling_leaves_the_graph_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ModelConfig(features=8, blocks=2, stages=1, stage_blocks=1, heads=1, graph="gated", noise_map=True)
    model, x = DAGL(config), torch.rand(1, 1, 9, 12)
    expected = model(x, 25)
    monkeypatch.setattr(torch, "compile", lambda network: network)
    graph = next(m for m in compiled(model).modules() if isinstance(m, GatedGraph))
    assert getattr(graph.forward, "_torchdynamo_disable", False)
    assert torch.equal(model(x, 25), expected)


def test_of_colours_only_the_brightness_is_transformed_everywhere() -> None:
    """No tensor is larger than the DCT of the brightness of every patch: those of the colours are cut out chunk by
    chunk."""
    graph = GatedGraph(**{**SHAPE, "channels": 3, "window": 32, "neighbours": 16}).eval()
    noisy, pilot = torch.rand(2, 1, 3, 152, 152)
    with torch.no_grad(), TensorsMade() as made:
        graph(noisy, pilot, torch.tensor(0.1).view(1, 1, 1))
    assert max(shape.numel() for shape, _ in made.sizes) == 145 * 145 * 64


def test_sizes_are_filled_up_by_mirroring() -> None:
    assert [covering(side, 8, 4) for side in (1, 8, 9, 12, 13)] == [8, 8, 12, 12, 16]
    x = torch.arange(4.0).view(1, 1, 1, 4).expand(1, 1, 3, 4)
    assert mirrored(x, 2, 0)[0, 0, 0].tolist() == [0, 1, 2, 3, 2, 1]
    assert mirrored(x, 3, 0)[0, 0, 0].tolist() == [0, 1, 2, 3, 3, 3, 3], "three rows: too few to mirror by 3"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(window=31), "window must be at least 8 times stride, 32, not 31"),
        (dict(neighbours=0), "neighbours must be 1-1024"),
        (dict(scale=2, values=8), "patch must be a multiple of scale, 2, where there are values or local_noise: not 7"),
        (dict(scale=8, patch=8, local_noise=True), "stride must be a multiple of scale, 8, where"),
    ],
)  # fmt: skip
def test_impossible_graphs_are_refused(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ModelConfig(graph="gated", **wrong)  # type: ignore[arg-type]


def test_threads_share_the_work_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no gradient is wanted parts are done side by side, in order and in the mode of the caller."""
    monkeypatch.setattr(gated, "CHUNK", 1)
    graph, inputs = a_graph(scale=1), (*pictures(1, 44, 40), torch.rand(2, 4, 44, 40, dtype=torch.float64))
    alone = [found.detach() for found in graph(*inputs)]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert all(torch.equal(ours, expected) for ours, expected in zip(graph(*inputs), alone))
    barrier = threading.Barrier(3, timeout=30)

    def meet() -> int:
        barrier.wait()
        return threading.get_ident()

    with torch.inference_mode():
        assert len(set(spread(meet, [()] * 3, torch.device("cpu")))) == 3
    monkeypatch.undo()
    with ThreadPoolExecutor(1) as other:
        assert other.submit(torch.get_num_threads).result() == 3, "as torch was told, not as its threads were"


def test_work_that_is_counted_or_exported_stays_in_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ModelConfig(features=8, blocks=2, stages=1, stage_blocks=1, heads=1, graph="gated", noise_map=True)
    model, x, counts = DAGL(config).eval(), torch.rand(1, 1, 44, 12), []  # two rows of blocks
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        with torch.no_grad():
            with FlopCounterMode(display=False) as counter:
                expected = model(x, 25)
            exported = torch.export.export(model, (x, torch.tensor(25.0))).module()
            torch.testing.assert_close(exported(x, torch.tensor(25.0)), expected)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1]


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_network_in_another_precision_and_of_no_images(dtype: torch.dtype) -> None:
    config = ModelConfig(features=8, blocks=2, stages=1, stage_blocks=1, heads=1, graph="gated", values=3)
    model = DAGL(config).to(dtype)
    assert model(torch.rand(1, 1, 20, 24, dtype=dtype)).dtype == dtype
    assert model(torch.rand(0, 1, 20, 24, dtype=dtype)).shape == (0, 1, 20, 24)


@pytest.mark.parametrize("channels", [1, 3])
def test_on_a_device_of_its_own_nothing_is_left_on_the_cpu(channels: int) -> None:
    """'meta' has no numbers, but refuses tensors of two devices as a GPU does."""
    with torch.device("meta"):
        graph = GatedGraph(**{**SHAPE, "channels": channels}, values=Values(4, 2, 2, 3, 8, 4))
        noisy, pilot = (torch.rand(2, channels, 48, 72) for _ in range(2))
        levels, features = torch.rand(2, 1, 1), torch.rand(2, 4, 24, 36)
    images, maps = graph(noisy, pilot.requires_grad_(), levels, features)
    (images.sum() + maps.sum()).backward()
    assert images.shape == (2, 2, channels, 48, 72)
    assert images.device.type == maps.device.type == "meta"
