"""The paper's own M-GFAM against its equations, one query, one key and one pixel at a time."""

import math

import pytest
import torch
from torch import Tensor

from dagl_cli.config import ModelConfig
from dagl_cli.nn.attention import reference
from dagl_cli.nn.model import DAGL, PrintedMGFAM

pytestmark = pytest.mark.usefixtures("one_thread")
SHAPE = ModelConfig(graph="equations", features=3, heads=2, patch=3, stride=2, stages=1, blocks=2)


def patch_at(image: Tensor, y: int, x: int) -> Tensor:
    """(C, 3, 3) around a pixel, zeros outside."""
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1))
    return padded[:, y : y + 3, x : x + 3]


def transcribed(module: PrintedMGFAM, x: Tensor) -> Tensor:
    """x: (3, H, W). Section 3.2 from the top to the bottom, for every head."""
    height, width = x.shape[-2:]
    heads = []
    for h in range(2):
        own = slice(3 * h, 3 * h + 3)

        def embedded(layer: torch.nn.Conv2d, own: slice = own, x: Tensor = x) -> Tensor:
            assert layer.bias is not None
            return torch.einsum("oi,ihw->ohw", layer.weight[own, :, 0, 0], x) + layer.bias[own, None, None]

        edge, node = embedded(module.edge), embedded(module.node)
        keys = [(y, x) for y in range(height) for x in range(width)]
        total, count = torch.zeros_like(node), torch.zeros(height, width, dtype=x.dtype)
        for qy in range(0, height, 2):
            for qx in range(0, width, 2):
                query = patch_at(edge, qy, qx)
                similarity = [float((query * patch_at(edge, *key)).sum()) for key in keys]
                assert module.threshold.bias is not None
                psi = [float((module.threshold.weight[2 * h + i] * query).sum() + module.threshold.bias[2 * h + i])
                       for i in (0, 1)]  # fmt: skip
                threshold = psi[0] * sum(similarity) / len(keys) + psi[1]  # Eq. 7
                adjacency = [max(0.0, m - threshold) for m in similarity]  # Eq. 8
                powers = [math.exp(a) if a > 0 else 0.0 for a in adjacency]
                gathered = torch.zeros(3, 3, 3, dtype=x.dtype)
                for power, key in zip(powers, keys):
                    if power:
                        gathered += power / sum(powers) * patch_at(node, *key)  # Eq. 9, 10
                for dy in range(3):
                    for dx in range(3):
                        y, c = qy + dy - 1, qx + dx - 1
                        if 0 <= y < height and 0 <= c < width:
                            total[:, y, c] += gathered[:, dy, dx]
                            count[y, c] += 1
        heads.append(x + total / count.clamp_min(1))  # Eq. 11
    merged = torch.einsum("oi,ihw->ohw", module.merge.weight[:, :, 0, 0], torch.cat(heads))
    assert module.merge.bias is not None
    return merged + module.merge.bias[:, None, None]


@torch.no_grad()
@pytest.mark.parametrize("size", [(6, 5), (4, 8)])
def test_it_is_what_the_paper_prints(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    module, x = PrintedMGFAM(SHAPE).double(), torch.randn(1, 3, *size, dtype=torch.float64)
    module.threshold.weight.mul_(0.2)
    expected = transcribed(module, x[0])
    torch.testing.assert_close(module(x)[0], expected, atol=1e-10, rtol=1e-10)
    whole = module.merge(x.repeat(1, 2, 1, 1) + module.aggregate(x, reference))
    torch.testing.assert_close(whole[0], expected, atol=1e-10, rtol=1e-10)


def test_a_network_of_it_trains() -> None:
    model = DAGL(SHAPE)
    x = torch.rand(2, 1, 9, 10)
    out = model(x)
    assert out.shape == x.shape
    out.square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
