"""The streaming form equals the reference, forward and backward, for every graph and any chunking."""

from functools import partial
from typing import Any

import pytest
import torch
from helpers import TensorsMade
from hypothesis import given, settings
from hypothesis import strategies as st

from dagl_cli.config import GRAPHS, ModelConfig
from dagl_cli.nn.attention import exportable, fold_patches, reference, same_padding
from dagl_cli.nn.model import DAGL, MGFAM
from dagl_cli.nn.streaming import meetings, streaming

pytestmark = pytest.mark.usefixtures("one_thread")
PATCH_GRAPHS = [g for g in GRAPHS if g not in ("nonlocal", "gated")]


def tensors(height: int, width: int, stride: int, key_stride: int, seed: int = 0) -> list[torch.Tensor]:
    """q, k, v, gamma, beta in float64 for 2 images and 3 heads of 2 channels."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(2, 3, *shape, generator=generator, dtype=torch.float64)

    queries = -(-height // stride) * -(-width // stride)
    keys = -(-height // key_stride) * -(-width // key_stride)
    q, k = random(queries, 5).relu(), random(keys, 5).relu()
    return [q, k, random(2, height, width), 1 + 0.3 * random(queries), 0.3 * random(queries)]


def test_the_worked_example() -> None:
    """The one that opens `streaming`, and the definition: node i is written patch // 2 around the pixel stride * i."""
    assert meetings(7, 4) == [(range(0, 1), range(0, 1)), (range(1, 4), range(0, 2))]
    for patch, stride in ((7, 4), (7, 2), (5, 5), (1, 1), (9, 2), (3, 4)):
        found = {r: set(nodes) for pixels, nodes in meetings(patch, stride) for r in pixels}
        reach = patch // 2
        assert found == {
            r: meet for r in range(stride) if (meet := {d for d in range(-9, 9) if abs(r - stride * d) <= reach})
        }


@pytest.mark.parametrize("graph", PATCH_GRAPHS)
@pytest.mark.parametrize("size", [(16, 16), (9, 14), (3, 2)])
@pytest.mark.parametrize("key_stride", [1, 2])
def test_the_exportable_form_equals_the_reference(graph: str, size: tuple[int, int], key_stride: int) -> None:
    inputs = tensors(*size, 4, key_stride)
    options: dict[str, Any] = dict(graph=graph, patch=7, stride=4, key_stride=key_stride)
    torch.testing.assert_close(exportable(*inputs, **options), reference(*inputs, **options))


@pytest.mark.parametrize("graph", PATCH_GRAPHS)
@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 17), width=st.integers(1, 17),
    shape=st.sampled_from([(7, 4, 1), (7, 4, 2), (7, 4, 4), (7, 2, 1), (5, 2, 2), (5, 5, 1), (1, 1, 1), (3, 4, 2)]),
    budget=st.sampled_from([1, 500, 5_000, 2**30]), seed=st.integers(0, 99),
)  # fmt: skip
def test_streaming_equals_reference(
    graph: str, height: int, width: int, shape: tuple[int, int, int], budget: int, seed: int
) -> None:
    """Patches that overlap with none, one or several on a side, or leave gaps, whole and in blocks of nodes."""
    patch, stride, key_stride = shape
    results = []
    options: dict[str, Any] = dict(graph=graph, patch=patch, stride=stride, key_stride=key_stride)
    for attention in (reference, partial(streaming, budget=budget)):
        inputs = [t.requires_grad_() for t in tensors(height, width, stride, key_stride, seed)]
        out = attention(*inputs, **options)
        grads = torch.autograd.grad(out.square().sum(), inputs, allow_unused=True)
        with torch.no_grad():  # the in-place form
            assert torch.allclose(attention(*inputs, **options), out, atol=1e-12)
        results.append((out, *(torch.zeros_like(t) if g is None else g for t, g in zip(inputs, grads))))
    for ours, expected in zip(results[1], results[0]):
        assert torch.allclose(ours, expected, atol=1e-9)


@pytest.mark.parametrize("graph", ["released", "paper"])
def test_pruned_edges_carry_nothing(graph: str) -> None:
    """A key below the threshold must not reach the output; in 'released' it still dilutes the others."""
    q = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    k = torch.tensor([1.0, 1.0, 0.2, 0.2], dtype=torch.float64).view(1, 1, 4, 1)
    v = torch.tensor([[1.0, 1.0], [100.0, 100.0]], dtype=torch.float64).view(1, 1, 1, 2, 2)
    one, zero = torch.ones(1, 1, 1, dtype=torch.float64), torch.zeros(1, 1, 1, dtype=torch.float64)
    out = reference(q, k, v, one, zero, graph=graph, patch=1, stride=2, key_stride=1)
    if graph == "paper":
        assert out[0, 0, 0, 0, 0] == pytest.approx(1.0)
    else:
        kept = torch.tensor(10 * 1 * (1 - 0.6)).exp()  # logit 10 S M, M = 1 - mean
        assert out[0, 0, 0, 0, 0] == pytest.approx(float(2 * kept / (2 * kept + 2)))


def test_queries_are_written_two_pixels_off() -> None:
    """Queries are read around rows 4i-1..4i+5 and written to 4i-3..4i+3: checkpoints depend on it."""
    assert same_padding(16, 16, 7, 4) == (1, 2, 1, 2)
    patches = torch.zeros(1, 49, 16)
    patches[0, :, 5] = 1  # query (1, 1)
    out = fold_patches(patches, 16, 16, 7, 4)
    assert out[0, 0, 1:8, 1:8].min() > 0
    assert out.count_nonzero() == 49


@pytest.mark.parametrize("graph", [*PATCH_GRAPHS, "nonlocal"])
@pytest.mark.parametrize(("heads", "stages"), [(1, 3), (4, 1), (2, 2)])
def test_variants_of_tables_5_and_6_train(graph: str, heads: int, stages: int) -> None:
    config = ModelConfig(
        blocks=2, stage_blocks=1, features=8, heads=heads, stages=stages, head_features=4, embedding=6, graph=graph
    )
    model = DAGL(config)
    out = model(torch.rand(2, 1, 13, 10))
    out.square().sum().backward()
    assert out.shape == (2, 1, 13, 10)
    grads = [p.grad for stage in model.stages for n, p in stage.named_parameters() if "value" in n or "merge" in n]
    assert all(g is not None and torch.isfinite(g).all() for g in grads)
    assert sum(float(g.abs().sum()) for g in grads if g is not None) > 0


def test_memory_stays_within_the_budget() -> None:
    """No tensor with L x N elements appears when the budget is small."""
    stage = MGFAM(ModelConfig(features=8, head_features=2, embedding=4, heads=1)).eval()
    x = torch.rand(1, 8, 32, 32)

    with torch.no_grad(), TensorsMade() as made:
        stage.aggregate(x, partial(streaming, budget=16 * 1024))
    largest = max(size for shape, size in made.sizes if shape[-1:] == (32 * 32,))
    assert 0 < largest <= 4 * 1024 * 49 * 2  # the keys and values may be as large; the graph's 64 x 1024 never is whole


@pytest.mark.parametrize("graph", PATCH_GRAPHS)
@pytest.mark.parametrize("keep", [0, 2**30])
def test_gradients_are_those_of_finite_differences(graph: str, keep: int) -> None:
    """One head, kept or computed again, in chunks of one query."""
    inputs = [t[:1, :1].clone().requires_grad_() for t in tensors(5, 3, 4, 1)]
    options: dict[str, Any] = dict(graph=graph, patch=3, stride=4, key_stride=1, budget=1, keep=keep)
    assert torch.autograd.gradcheck(lambda *t: streaming(*t, **options), inputs)


def test_what_is_kept_for_the_backward_pass() -> None:
    """Beyond `keep` bytes no tensor of the graph's size stays; the gradients are the same."""
    saved: list[int] = []

    def pack(t: torch.Tensor) -> torch.Tensor:
        saved.append(t.numel())
        return t

    gradients: list[tuple[torch.Tensor, ...]] = []
    for keep in (2 * 6 * 16 * 256 * 8 - 1, 2 * 6 * 16 * 256 * 8):  # 2 images, 3 heads, 16 queries, 256 keys, float64
        inputs = [t.requires_grad_() for t in tensors(16, 16, 4, 1)]
        saved.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            out = streaming(*inputs, graph="released", patch=7, stride=4, key_stride=1, keep=keep)
        assert (max(saved) >= 6 * 16 * 256) == (gradients != [])
        gradients.append(torch.autograd.grad(out.square().sum(), inputs))
    assert all(torch.equal(a, b) for a, b in zip(*gradients))


def test_bfloat16_values_keep_float32_similarities() -> None:
    """Under autocast q, k and v are bfloat16: the output and all gradients stay near those of float32.

    As long as the softmax does not saturate: where one neighbour has all the weight, the gradients of its logit are
    small differences of large numbers, and bfloat16 has not the digits.
    """
    options = dict(graph="released", patch=7, stride=4, key_stride=1)
    q, k, *rest = tensors(12, 12, 4, 1)
    low = [t.bfloat16() if i < 3 else t.float() for i, t in enumerate((0.3 * q, 0.3 * k, *rest))]
    results = []
    for dtype in (torch.bfloat16, torch.float32):
        inputs = [(t.to(dtype) if i < 3 else t.clone()).requires_grad_() for i, t in enumerate(low)]
        out = streaming(*inputs, **options)  # type: ignore[arg-type]
        assert out.dtype == dtype
        results.append((out, *torch.autograd.grad(out.float().square().sum(), inputs)))
    for ours, expected in zip(*results):
        assert (ours - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize(("scale", "prune"), [(1, 1), (100, 1), (300, 1), (300, 30)])
def test_huge_similarities(scale: float, prune: float) -> None:
    """In float32 too, logits of 1e12 choose one neighbour, the largest, and their gradients vanish."""
    options = dict(graph="released", patch=7, stride=4, key_stride=1)
    q, k, v, gamma, beta = (t.float() for t in tensors(16, 16, 4, 1))
    inputs = [t.requires_grad_() for t in (scale * q, scale * k, v, prune * gamma, beta)]
    exact = [t.detach().double().requires_grad_() for t in inputs]
    out, expected = streaming(*inputs, **options), reference(*exact, **options)  # type: ignore[arg-type]
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    gradients, wanted = (torch.autograd.grad(o.square().sum(), i) for o, i in ((out, inputs), (expected, exact)))
    for ours, theirs in zip(gradients, wanted):
        assert (ours - theirs).norm() <= 1e-3 * theirs.norm() + 1e-3


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # of torch itself
@pytest.mark.parametrize("key_stride", [1, 2])
def test_compiled_is_one_graph(key_stride: int) -> None:
    """As `dagl train` uses it on GPUs: no breaks, the same output and gradients."""
    torch.manual_seed(0)
    config = ModelConfig(
        blocks=2, features=8, heads=2, stages=1, head_features=4, embedding=6, key_stride=key_stride
    )  # fmt: skip
    model, x = DAGL(config), torch.rand(2, 1, 12, 13)
    results = []
    for network in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
        out = network(x)
        results.append((out, *torch.autograd.grad(out.square().sum(), [*model.parameters()])))
    for eager, compiled in zip(*results):
        assert torch.allclose(eager, compiled, rtol=1e-3, atol=1e-5)
