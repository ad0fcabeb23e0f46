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

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input, conv2d_weight

SOFTMAX_SCALE = 10.0
"""Not in the paper; the released code multiplies the logits by it."""


def same_padding(height: int, width: int, patch: int, stride: int) -> tuple[int, int, int, int]:
    """Zero padding (left, right, top, bottom) that gives ceil(size / stride) patches; the smaller half first."""
    rows = max(0, ((height + stride - 1) // stride - 1) * stride + patch - height)
    columns = max(0, ((width + stride - 1) // stride - 1) * stride + patch - width)
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
    s = q.to(gamma.dtype) @ k.to(gamma.dtype).transpose(-1, -2)  # (B, K, L, N)
    alpha = edge_weights(s, s.mean(-1), gamma, beta, graph)
    values = F.unfold(v.flatten(0, 1), patch, padding=patch // 2, stride=key_stride)  # (B*K, C*49, N)
    out = alpha.flatten(0, 1).to(v.dtype) @ values.transpose(-1, -2)  # (B*K, L, C*49)
    return fold_patches(out.transpose(-1, -2), height, width, patch, stride).view(*batch, channels, height, width)


def streaming(
    q: Tensor, k: Tensor, v: Tensor, gamma: Tensor, beta: Tensor, *,
    graph: str, patch: int, stride: int, key_stride: int, budget: int = 16 * 2**20, keep: int = 2**30,
) -> Tensor:  # fmt: skip
    """`reference` in chunks of images, heads and queries, so that no part of the graph is larger than `budget` bytes.

    With gradients, similarities and weights are kept for the backward pass when those of all chunks take at most
    `keep` bytes, and are computed again there otherwise. Similarities have the dtype of gamma (float32 under autocast
    too), the sums over values that of v.
    """
    *batch, channels, height, width = v.shape
    length, keys = q.shape[-2], k.shape[-2]
    q, k, v, gamma, beta = (t.flatten(0, 1) for t in (q, k, v, gamma, beta))
    size = length * keys * gamma.element_size()
    # several heads at once only while they are small: what fits the caches is faster
    heads, rows = max(1, budget // 4 // size), max(1, budget // (keys * gamma.element_size()))
    grad = torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v, gamma, beta))
    kept = 2 * size * q.shape[0] <= keep
    chunks = []
    for q_heads, k_heads, v_heads, *threshold in zip(*(t.split(heads) for t in (q, k, v, gamma, beta))):
        parts = []
        for q_rows, *rest in zip(*(t.split(rows, 1) for t in (q_heads, *threshold))):
            arguments = (q_rows, k_heads, v_heads, *rest, graph, patch, key_stride)
            parts.append(_Chunk.apply(*arguments, kept) if grad else _chunk(*arguments, in_place=True)[0])
        chunks.append(torch.cat(parts, 1) if len(parts) > 1 else parts[0])
    out = torch.cat(chunks) if len(chunks) > 1 else chunks[0]  # (B*K, L, C * patch²)
    out = fold_patches(out.transpose(-1, -2), height, width, patch, stride)
    return out.view(*batch, channels, height, width)


def _chunk(
    q: Tensor, k: Tensor, v: Tensor, gamma: Tensor, beta: Tensor,
    graph: str, patch: int, key_stride: int, *, in_place: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """G heads at once: (G, L, C * patch²) summed patches, (G, L, N) similarities and weights.

    in_place: the similarities are overwritten.
    """
    # the longer side lies first in memory: so the weights are a channels-last image of L channels
    s = (k.to(gamma.dtype) @ q.to(gamma.dtype).transpose(-1, -2)).transpose(-1, -2)
    if graph == "released":
        alpha = _released_weights(s, gamma, beta, in_place)
    else:
        alpha = edge_weights(s, s.mean(-1), gamma, beta, graph)
    alpha = alpha.to(v.dtype)
    return _aggregate(alpha, v, patch, key_stride), s, alpha


def _released_weights(s: Tensor, gamma: Tensor, beta: Tensor, in_place: bool) -> Tensor:
    """`edge_weights` for graph 'released', with few passes over the graph."""
    threshold, top = s.mean(-1) * gamma - beta, s.amax(-1)
    top = SOFTMAX_SCALE * top.relu() * (top - threshold).relu()  # the largest logit, 10 S M: it grows with S
    m = (s - threshold[..., None]).relu_()
    alpha = torch.addcmul(-top[..., None], s, m, value=SOFTMAX_SCALE, out=s if in_place else None)
    # Without the floor, exp gives denormal numbers, on which matrix products are five times slower. Without the
    # ceiling, rounding lets huge logits rise above `top`, and exp overflows.
    alpha.clamp_(min=-40 if s.dtype == torch.float32 else -80, max=0).exp_()
    total = alpha.sum(-1, keepdim=True)
    return alpha.mul_(m.sign_()).div_(total)


def _released_weights_backward(
    grad: Tensor, s: Tensor, alpha: Tensor, gamma: Tensor, beta: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `_released_weights` with respect to s, gamma and beta; grad is overwritten.

    With t = mean(S) gamma - beta, M = ReLU(S - t) and the logits z = 10 S M: dz = alpha (grad - sum(alpha grad)),
    dt = -10 sum(S dz), dS = 10 (2 S - t) dz + gamma dt / N.
    """
    mean = s.mean(-1)
    grad.mul_(alpha)
    grad.addcmul_(alpha, grad.sum(-1, keepdim=True), value=-1)  # dz
    product = grad * s
    by_threshold = product.sum(-1).mul_(-SOFTMAX_SCALE)
    scale, offset = SOFTMAX_SCALE * (beta - mean * gamma), by_threshold * gamma / s.shape[-1]
    grad.mul_(scale[..., None]).add_(offset[..., None]).add_(product, alpha=2 * SOFTMAX_SCALE)
    return grad, by_threshold * mean, -by_threshold


# Sums of patches are convolutions whose kernels are the queries' patches: nothing has to be unfolded, and on the CPU
# they run faster than matrix products of unfolded patches. Groups are heads.


def _by_products(v: Tensor, key_stride: int) -> bool:
    """Whether unfolded patches and matrix products are faster: on GPUs, and for strided keys in float32."""
    return v.device.type != "cpu" or (key_stride > 1 and v.dtype != torch.bfloat16)


def _unfold(v: Tensor, patch: int, key_stride: int) -> Tensor:
    """(G, C, H, W) -> (G, N, C * patch²); F.unfold takes twice the time."""
    patches = F.pad(v, (patch // 2,) * 4).unfold(2, patch, key_stride).unfold(3, patch, key_stride)
    return patches.permute(0, 2, 3, 1, 4, 5).reshape(v.shape[0], -1, v.shape[1] * patch * patch)


def _image(x: Tensor, v: Tensor, key_stride: int) -> Tensor:
    """(G, L, N) -> (1, G * L, h, w), channels last: one channel a query, one pixel a key."""
    height, width = (-(-n // key_stride) for n in v.shape[-2:])
    return x.permute(2, 0, 1).reshape(1, height, width, -1).permute(0, 3, 1, 2)


def _values(v: Tensor) -> Tensor:
    """(G, C, H, W) -> (1, G * C, H, W), channels last."""
    return v.reshape(1, -1, *v.shape[-2:]).contiguous(memory_format=torch.channels_last)


def _aggregate(alpha: Tensor, v: Tensor, patch: int, key_stride: int) -> Tensor:
    """Sums of patches of v weighted by alpha: (G, L, N), (G, C, H, W) -> (G, L, C * patch²)."""
    if _by_products(v, key_stride):
        return alpha @ _unfold(v, patch, key_stride)
    groups, length, _ = alpha.shape
    shape = (groups * length, v.shape[1], patch, patch)
    # the gradient of a convolution with respect to its kernels
    out = conv2d_weight(_values(v), shape, _image(alpha, v, key_stride), key_stride, patch // 2, groups=groups)
    return out.reshape(groups, length, -1)


def _aggregate_backward(
    grad: Tensor, alpha: Tensor, v: Tensor, patch: int, key_stride: int
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients of `_aggregate` with respect to alpha and v."""
    if _by_products(v, key_stride):
        by_patches = (grad.transpose(-1, -2) @ alpha).contiguous()  # (G, C * patch², N)
        by_v = F.fold(by_patches, v.shape[-2:], patch, padding=patch // 2, stride=key_stride)
        return grad @ _unfold(v, patch, key_stride).transpose(-1, -2), by_v
    groups, length, keys = alpha.shape
    values = _values(v)
    kernels = grad.reshape(-1, v.shape[1], patch, patch).contiguous(memory_format=torch.channels_last)
    by_alpha = F.conv2d(values, kernels, None, key_stride, patch // 2, groups=groups)
    by_v = conv2d_input(values.shape, kernels, _image(alpha, v, key_stride), key_stride, patch // 2, groups=groups)
    by_alpha = by_alpha.permute(0, 2, 3, 1).reshape(keys, groups, length).permute(1, 2, 0)
    return by_alpha, by_v.reshape(v.shape)


class _Chunk(torch.autograd.Function):
    """`_chunk` with its backward pass by hand: nothing is unfolded, little is kept."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        q, k, v, gamma, beta, ctx.graph, ctx.patch, ctx.key_stride, kept = arguments
        out, s, alpha = _chunk(q, k, v, gamma, beta, ctx.graph, ctx.patch, ctx.key_stride)
        ctx.save_for_backward(q, k, v, gamma, beta, *((s, alpha) if kept else ()))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, gamma, beta, *kept = ctx.saved_tensors
        if not kept:
            kept = _chunk(q, k, v, gamma, beta, ctx.graph, ctx.patch, ctx.key_stride)[1:]
        s, alpha = kept
        by_alpha, by_v = _aggregate_backward(grad, alpha, v, ctx.patch, ctx.key_stride)
        by_alpha = torch.empty_like(s).copy_(by_alpha)
        if ctx.graph == "released":
            by_s, by_gamma, by_beta = _released_weights_backward(by_alpha, s, alpha.to(s.dtype), gamma, beta)
        else:
            with torch.enable_grad():
                s, gamma, beta = (t.detach().requires_grad_() for t in (s, gamma, beta))
                weights = edge_weights(s, s.mean(-1), gamma, beta, ctx.graph)
            by_s, by_gamma, by_beta = torch.autograd.grad(weights, (s, gamma, beta), by_alpha, allow_unused=True)
        by_s = by_s.to(q.dtype)
        return by_s @ k, by_s.transpose(-1, -2) @ q, by_v, by_gamma, by_beta, None, None, None, None


def nonlocal_attention(q: Tensor, k: Tensor, v: Tensor, *, budget: int = 64 * 2**20) -> Tensor:
    """Pixel-wise non-local block, softmax(q kᵀ) v (Table 5 'NL', 'MHNL').

    q, k, v: (B, K, N, D) with one node per pixel -> (B, K, N, D).
    """
    rows = max(1, budget // (q.shape[0] * q.shape[1] * k.shape[-2] * q.element_size()))
    parts = [F.scaled_dot_product_attention(part, k, v, scale=1.0) for part in torch.split(q, rows, -2)]
    return torch.cat(parts, -2)
