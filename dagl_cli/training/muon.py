"""Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/): momentum whose update is made orthogonal.

`torch.optim.Muon` takes matrices only, one at a time, and cannot leave out a batch that went wrong without waiting for
the GPU. This one takes convolutions, all of one shape at once.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

SMALLEST = 8
"""Kernels that are matrices with fewer rows or columns than this are left to Adam."""


def kernels_and_rest(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(for Muon, for Adam): the kernels between the first and the last layer; those two, biases and the rest."""
    kernels: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, p in model.named_parameters():
        inner = p.ndim == 4 and not name.startswith(("conv_in.", "conv_out."))
        (kernels if inner and min(len(p), p[0].numel()) >= SMALLEST else rest).append(p)
    return kernels, rest


def orthogonal(matrices: Tensor) -> Tensor:
    """Nearly U Vᵀ of each U S Vᵀ: all singular values come to 0.7-1.2, by five Newton-Schulz steps.

    (n, rows, columns) -> the same, in the dtype given.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum 0.95, orthogonalised; the kernel (out, in, h, w) as a matrix (out, h w in).

    Args:
        params: kernels, 4-D.
        lr: scaled so that an update is as large as Adam's would be at this rate (Liu et al. 2025, "Muon is Scalable
            for LLM Training", Section 2.2).
        dtype: what the orthogonalisation computes in.
    """

    found_inf: Tensor | float = 0.0
    """1: the gradients are not finite, and the step does nothing. As in torch's fused Adam."""

    def __init__(self, params: list[nn.Parameter], lr: float = 1e-3, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(params, {"lr": lr})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            shapes = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    shapes[p.shape].append(p)
            for kernels in shapes.values():
                momenta = [self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in kernels]
                gradients, momentum = torch.stack([p.grad for p in kernels]), torch.stack(momenta)
                good = 1 - torch.as_tensor(self.found_inf, dtype=gradients.dtype, device=gradients.device)
                gradients = torch.where(good > 0, gradients, 0)
                momentum = torch.lerp(momentum, gradients, 0.05 * good)
                wanted = gradients.lerp(momentum, 0.95).permute(0, 1, 3, 4, 2)  # as channels_last lies in memory
                update = orthogonal(wanted.flatten(2).to(self.dtype))
                size = 0.2 * math.sqrt(max(update.shape[1:])) * group["lr"]
                update = update.to(gradients.dtype).mul_(-size * good).view(wanted.shape).permute(0, 1, 4, 2, 3)
                torch._foreach_copy_(momenta, list(momentum))
                torch._foreach_add_(kernels, list(update))
