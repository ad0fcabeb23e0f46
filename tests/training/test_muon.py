"""Muon against torch's own, which takes matrices; and what neither of them changes."""

import pytest
import torch
from torch import nn

from dagl_cli.config import VARIANTS
from dagl_cli.nn.model import DAGL
from dagl_cli.training.muon import Muon, kernels_and_rest, orthogonal


@pytest.mark.parametrize("shape", [(3, 16, 40), (2, 40, 16), (1, 24, 24)])
def test_orthogonal(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    singular = torch.linalg.svdvals(orthogonal(x))
    assert singular.min() > 0.6
    assert singular.max() < 1.3
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    assert ((u @ v) * orthogonal(x)).sum() > 0.85 * min(shape[1:]) * shape[0]


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon came with torch 2.9")
def test_is_torchs_muon_on_matrices() -> None:
    random = torch.Generator().manual_seed(0)
    start = [torch.randn(32, 48, generator=random) for _ in range(2)] + [torch.randn(48, 20, generator=random)]
    theirs = [nn.Parameter(p.clone()) for p in start]
    ours = [nn.Parameter(p.clone()[:, :, None, None]) for p in start]
    # torch's takes its steps in bfloat16
    one = torch.optim.Muon(theirs, lr=0.01, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    two = Muon(ours, lr=0.01, dtype=torch.bfloat16)
    for _ in range(3):
        for a, b in zip(theirs, ours):
            a.grad = torch.randn(a.shape, generator=random)
            b.grad = a.grad.clone()[:, :, None, None]
        one.step()
        two.step()
    for a, b, p in zip(theirs, ours, start):
        moved = (a - p).norm()
        assert moved > 0.1
        assert (a - b[:, :, 0, 0]).norm() < 0.02 * moved


def test_the_order_of_a_kernels_memory_does_not_matter() -> None:
    p = torch.randn(16, 20, 3, 3, generator=torch.Generator().manual_seed(0))
    rows, last = nn.Parameter(p.clone()), nn.Parameter(p.clone(memory_format=torch.channels_last))
    for kernel in (rows, last):
        kernel.grad = torch.ones_like(kernel) * torch.arange(20.0).view(-1, 1, 1)
        Muon([kernel], lr=0.1).step()
    torch.testing.assert_close(rows, last)
    assert last.is_contiguous(memory_format=torch.channels_last)


def test_a_step_whose_gradients_are_not_finite_changes_nothing() -> None:
    p = nn.Parameter(torch.randn(16, 16, 3, 3))
    optimizer = Muon([p], lr=0.1)
    p.grad = torch.randn_like(p)
    optimizer.step()
    before, momentum = p.detach().clone(), optimizer.state[p]["momentum"].clone()
    p.grad = torch.full_like(p, float("nan"))
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    assert torch.equal(p, before)
    assert torch.equal(optimizer.state[p]["momentum"], momentum)


@pytest.mark.parametrize("variant", VARIANTS)
def test_muon_takes_the_kernels_between_the_first_and_the_last_layer(variant: str) -> None:
    model = DAGL(VARIANTS[variant])
    names = {id(p): name for name, p in model.named_parameters()}
    kernels, rest = ({names[id(p)] for p in part} for part in kernels_and_rest(model))
    assert kernels | rest == set(names.values())
    assert {"conv_in.weight", "conv_out.weight", "conv_in.bias"} <= rest
    assert {"blocks.0.conv1.weight", "conv_body.weight"} <= kernels
    assert not any(name.endswith("bias") for name in kernels)
