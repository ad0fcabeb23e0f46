"""The dynamic graph attention of Section 3.3 as pure functions.

Two forms of one thing, `reference` and `streaming`, with the same arguments and the same result:

    q      (B, K, L, D)    embedded query patches, one node every `stride` pixels, row by row
    k      (B, K, N, D)    embedded key patches, one node every `key_stride` pixels
    v      (B, K, C, H, W) feature maps whose patches are aggregated
    gamma  (B, K, L)       scale of the threshold (Eq. 7)
    beta   (B, K, L)       offset of the threshold (Eq. 7)
    returns (B, K, C, H, W)

B images, K heads, L queries, N keys, D the embedding's length, C channels a head.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

SOFTMAX_SCALE = 10.0
"""Not in the paper; the released code multiplies the logits by it."""


def same_padding(height: int, width: int, patch: int, stride: int) -> tuple[int, int, int, int]:
    """Zero padding (left, right, top, bottom) that gives ceil(size / stride) patches; the smaller half first."""
    rows = max(0, (math.ceil(height / stride) - 1) * stride + patch - height)
    columns = max(0, (math.ceil(width / stride) - 1) * stride + patch - width)
    return columns // 2, columns - columns // 2, rows // 2, rows - rows // 2


def edge_weights(s: Tensor, mean: Tensor, gamma: Tensor, beta: Tensor, graph: str) -> Tensor:
    """Attention weights from similarities.

    s: (..., L, N) similarities of every query with every key; mean: (..., L), the mean of s over all N keys;
    gamma, beta: (..., L). Returns alpha, (..., L, N); pruned edges are exactly 0.
    """
    if graph == "no-knn":
        return (SOFTMAX_SCALE * s).softmax(-1)
    if graph == "released":
        # the pruned edges stay in the denominator with logit 0, and there is no renormalisation
        m = torch.relu(s - (mean * gamma - beta)[..., None])
        return (SOFTMAX_SCALE * s * m).softmax(-1) * (m > 0)
    threshold = mean * gamma + beta  # Eq. 7
    a = torch.relu(s - threshold[..., None])  # Eq. 8
    if graph == "no-attention":
        return a / a.sum(-1, keepdim=True).clamp_min(1e-12)
    # Eq. 9: softmax over the neighbours; a node without any neighbour gets zeros
    p = torch.exp(a - a.amax(-1, keepdim=True)) * (a > 0)
    return p / p.sum(-1, keepdim=True).clamp_min(1e-12)


def fold_patches(patches: Tensor, height: int, width: int, patch: int, stride: int) -> Tensor:
    """Put patches back at every `stride` pixels and divide by the overlap count (0 counts as 1).

    patches: (B, C * patch², L) -> (B, C, height, width). Patches are written `stride`-aligned with padding
    patch // 2, two pixels off from where `same_padding` reads the queries: checkpoints depend on it.
    """

    def fold(x: Tensor) -> Tensor:
        return F.fold(x, (height, width), patch, padding=patch // 2, stride=stride)

    return fold(patches) / fold(torch.ones_like(patches[:1, : patch * patch])).clamp_min(1)


def reference(
    q: Tensor, k: Tensor, v: Tensor, gamma: Tensor, beta: Tensor, *,
    graph: str, patch: int, stride: int, key_stride: int,
) -> Tensor:  # fmt: skip
    """The equations, one after the other. Materialises the whole graph: L x N per head."""
    *batch, channels, height, width = v.shape
    s = q @ k.transpose(-1, -2)  # (B, K, L, N)
    alpha = edge_weights(s, s.mean(-1), gamma, beta, graph)
    values = F.unfold(v.flatten(0, 1), patch, padding=patch // 2, stride=key_stride)  # (B*K, C*49, N)
    out = alpha.flatten(0, 1) @ values.transpose(-1, -2)  # (B*K, L, C*49)
    return fold_patches(out.transpose(-1, -2), height, width, patch, stride).view(*batch, channels, height, width)


def streaming(
    q: Tensor, k: Tensor, v: Tensor, gamma: Tensor, beta: Tensor, *,
    graph: str, patch: int, stride: int, key_stride: int, budget: int = 16 * 2**20,
) -> Tensor:  # fmt: skip
    """`reference` in chunks of queries, so that no part of the graph is larger than `budget` bytes.

    The mean similarity is q times the mean key, so a chunk needs nothing of the others. With gradients, a chunk's
    edges are computed again in the backward pass instead of being kept.
    """
    *batch, channels, height, width = v.shape
    length, keys = q.shape[-2], k.shape[-2]
    mean = (q @ k.mean(-2, keepdim=True).transpose(-1, -2)).squeeze(-1)  # (B, K, L)
    q, k, v, mean, gamma, beta = (t.flatten(0, 1) for t in (q, k, v, mean, gamma, beta))
    grad = torch.is_grad_enabled() and (q.requires_grad or v.requires_grad)
    aggregate = _aggregate if grad or graph != "released" else _aggregate_released

    def unfold(v: Tensor) -> Tensor:  # (heads, C, H, W) -> (heads, N, C * patch²); F.unfold takes twice the time
        v = F.pad(v, (patch // 2,) * 4).unfold(2, patch, key_stride).unfold(3, patch, key_stride)
        return v.permute(0, 1, 4, 5, 2, 3).reshape(v.shape[0], -1, keys).transpose(-1, -2)

    if q.shape[0] * length * keys * q.element_size() <= budget:
        out = aggregate(q, k, unfold(v), mean, gamma, beta, graph)
    else:  # one image and head at a time, so that a chunk is as tall as it can be
        rows = max(1, budget // (keys * q.element_size()))
        heads = []
        for i in range(q.shape[0]):
            values, chunks = unfold(v[i : i + 1])[0], []
            for part in (slice(start, start + rows) for start in range(0, length, rows)):
                arguments = (q[i, part], k[i], values, mean[i, part], gamma[i, part], beta[i, part], graph)
                chunks.append(checkpoint(aggregate, *arguments, use_reentrant=False) if grad else aggregate(*arguments))
            heads.append(torch.cat(chunks))
        out = torch.stack(heads)
    out = fold_patches(out.transpose(-1, -2), height, width, patch, stride)
    return out.view(*batch, channels, height, width)


def _aggregate(q: Tensor, k: Tensor, values: Tensor, mean: Tensor, gamma: Tensor, beta: Tensor, graph: str) -> Tensor:
    alpha = edge_weights(q @ k.transpose(-1, -2), mean, gamma, beta, graph)
    return alpha.to(values.dtype) @ values


def _aggregate_released(
    q: Tensor, k: Tensor, values: Tensor, mean: Tensor, gamma: Tensor, beta: Tensor, graph: str
) -> Tensor:
    """`_aggregate` for graph 'released' without gradients: in place, and normalised after the sum over the keys."""
    s = q @ k.transpose(-1, -2)
    m = (s - (mean * gamma - beta)[..., None]).relu_()
    s.mul_(m).mul_(SOFTMAX_SCALE)
    # without the floor, exp gives denormal numbers, on which matrix products are five times slower
    s.sub_(s.amax(-1, keepdim=True)).clamp_(min=-60).exp_()
    total = s.sum(-1, keepdim=True)
    s.mul_(m.sign_())
    return (s.to(values.dtype) @ values) / total.to(values.dtype)


def nonlocal_attention(q: Tensor, k: Tensor, v: Tensor, *, budget: int = 64 * 2**20) -> Tensor:
    """Pixel-wise non-local block, softmax(q kᵀ) v (Table 5 'NL', 'MHNL').

    q, k, v: (B, K, N, D) with one node per pixel -> (B, K, N, D).
    """
    rows = max(1, budget // (q.shape[0] * q.shape[1] * k.shape[-2] * q.element_size()))
    parts = [F.scaled_dot_product_attention(part, k, v, scale=1.0) for part in torch.split(q, rows, -2)]
    return torch.cat(parts, -2)
