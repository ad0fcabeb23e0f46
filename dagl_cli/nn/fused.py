"""`fused`: the released graph in Triton kernels, which never write a similarity to memory. For GPUs, without gradients.

Two passes over the keys. The first finds, for every query, the largest logit and the sum of the softmax; the second
computes the similarities again, turns them into weights and adds up the rows of the patches, one row to a program.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable

import torch
from torch import Tensor

from .attention import SOFTMAX_SCALE, fold_patches

BLOCK_L, BLOCK_N, BLOCK_D = 32, 64, 32
"""Queries, keys and embedding channels that a program holds at once."""


def usable(v: Tensor, graph: str) -> bool:
    """Whether there are kernels for this graph on this device. They come with torch for CUDA."""
    return graph == "released" and v.is_cuda and v.dtype != torch.float64


def faster(torchs: Callable[..., Tensor], dtype: torch.dtype, device: torch.device, tries: int = 3) -> bool:
    """Whether the kernels work here, which takes a C compiler and a GPU that Triton knows, and take less time than
    `torchs`: where memory is slow for its arithmetic, and not on an H200. Measured on one head of 128x128 pixels."""
    if importlib.util.find_spec("triton") is None:
        return False
    generator = torch.Generator(device).manual_seed(0)
    shapes = (1, 1, 1024, 196), (1, 1, 128 * 128, 196), (1, 1, 16, 128, 128), (1, 1, 1024), (1, 1, 1024)
    inputs = [torch.rand(shape, generator=generator, device=device) for shape in shapes]
    inputs[2] = inputs[2].to(dtype)

    def seconds(form: Callable[..., Tensor]) -> float:
        spent = []
        for _ in range(1 + tries):
            start = time.perf_counter()
            form(*inputs, patch=7, stride=4, key_stride=1)
            torch.cuda.synchronize(device)
            spent.append(time.perf_counter() - start)
        return min(spent[1:])  # the first one compiles

    try:
        return seconds(fused) < seconds(torchs)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # whatever a compiler, a driver or a version may say: torch does the same
        return False


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
