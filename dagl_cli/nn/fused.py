"""`fused`: the released graph in Triton kernels, which never write a similarity to memory. For GPUs, without gradients.

Two passes over the keys. The first finds, for every query, the largest logit and the sum of the softmax; the second
computes the similarities again, turns them into weights and adds up the rows of the patches, one row to a program.
"""

from __future__ import annotations

import functools
import importlib.util

import torch
from torch import Tensor

from .attention import SOFTMAX_SCALE, fold_patches

BLOCK_L, BLOCK_N, BLOCK_D = 32, 64, 32
"""Queries, keys and embedding channels that a program holds at once."""


def usable(v: Tensor, graph: str) -> bool:
    """Whether there is a kernel for this graph on this device. It comes with torch for CUDA."""
    return graph == "released" and v.is_cuda and v.dtype != torch.float64 and _compiles()


@functools.cache
def _compiles() -> bool:
    """Whether Triton is here and works: it needs a C compiler, and GPUs that it knows."""
    if importlib.util.find_spec("triton") is None:
        return False
    generator = torch.Generator("cuda").manual_seed(0)
    q, k, v = (torch.rand(1, 1, *shape, generator=generator, device="cuda") for shape in ((4, 8), (64, 8), (2, 8, 8)))
    try:
        fused(q, k, v, q[..., 0], q[..., 1], patch=7, stride=4, key_stride=1)
        torch.cuda.synchronize()
    except torch.OutOfMemoryError:
        raise
    except Exception:  # whatever a compiler, a driver or a version may say: torch does the same, more slowly
        return False
    return True


def fused(
    q: Tensor, k: Tensor, v: Tensor, gamma: Tensor, beta: Tensor, *,
    patch: int, stride: int, key_stride: int, budget: int = 2**28,
) -> Tensor:  # fmt: skip
    """`reference` for graph 'released', forward only. Memory: 49 values a query and channel, of so many heads at once
    as `budget` bytes hold.

    Similarities are float32 (on tensor cores in three parts of TF32), as in `streaming`; the sums over values multiply
    in the dtype of v and add up in float32.
    """
    from . import kernels

    *batch, channels, height, width = v.shape
    q, k, v = (t.flatten(0, 1).contiguous() for t in (q.float(), k.float(), v))
    gamma, beta = (t.flatten(0, 1).float() for t in (gamma, beta))
    # the mean over all similarities is the similarity to the mean
    thresholds = ((q @ k.mean(1)[..., None])[..., 0] * gamma - beta).contiguous()
    heads, queries, width_d = q.shape
    keys = k.shape[1]
    largest, total = torch.empty_like(thresholds), torch.empty_like(thresholds)
    grid = (-(-queries // BLOCK_L), heads)
    sizes = {"L": queries, "N": keys, "D": width_d, "SCALE": SOFTMAX_SCALE}
    blocks = {"BLOCK_L": BLOCK_L, "BLOCK_N": BLOCK_N, "BLOCK_D": BLOCK_D}
    kernels.normalise[grid](q, k, thresholds, largest, total, **sizes, **blocks)
    columns = max(16, 1 << (channels * patch - 1).bit_length())
    at_once = max(1, budget // (channels * patch * patch * queries * v.element_size()))
    out = []
    for first in range(0, heads, at_once):
        part = slice(first, first + at_once)
        patches = v.new_empty(len(v[part]), channels * patch * patch, queries)
        kernels.aggregate[(grid[0], len(patches), patch)](
            q[part], k[part], v[part], thresholds[part], largest[part], total[part], patches,
            **sizes, HEIGHT=height, WIDTH=width, CHANNELS=channels, PATCH=patch, KEY_STRIDE=key_stride,
            ACROSS=-(-width // key_stride), COLUMNS=columns, **blocks,
        )  # fmt: skip
        out.append(fold_patches(patches, height, width, patch, stride))
    return torch.cat(out).view(*batch, channels, height, width)
