"""The dynamic graph attention of Section 3.3 as pure functions: the equations, one after the other.

Three forms of one thing, with the same arguments and the same result: `reference`, which is read; `exportable`, the
same in operations that ONNX has; and `streaming.streaming`, which is fast and takes bounded memory.

    q      (B, K, L, D)    embedded query patches, one node every `stride` pixels, row by row
    k      (B, K, N, D)    embedded key patches, one node every `key_stride` pixels
    v      (B, K, C, H, W) feature maps whose patches are aggregated
    gamma  (B, K, L)       scale of the threshold (Eq. 7)
    beta   (B, K, L)       offset of the threshold (Eq. 7)
    returns (B, K, C, H, W)

B images, K heads, L queries, N keys, D the embedding's length, C channels a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

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
    folded = F.fold(patches, (height, width), patch, padding=patch // 2, stride=stride)
    return folded / overlaps(folded, patch, stride)


def overlaps(image: Tensor, patch: int, stride: int) -> Tensor:
    """(..., height, width) -> (height, width): how many patches `fold_patches` writes over each pixel, at least 1."""
    height, width = image.shape[-2:]
    ones = image.new_ones(1, patch * patch, -(-height // stride) * -(-width // stride))
    return F.fold(ones, (height, width), patch, padding=patch // 2, stride=stride)[0, 0].clamp_min(1)


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


def exportable(
    q: Tensor, k: Tensor, v: Tensor, gamma: Tensor, beta: Tensor, *,
    graph: str, patch: int, stride: int, key_stride: int,
) -> Tensor:  # fmt: skip
    """`reference` in operations that ONNX has for sizes that are not known: patches are cut out and put together by
    convolutions with a one at one place.
    """
    batch, heads, channels, height, width = v.shape
    cut = torch.eye(patch * patch, dtype=v.dtype).view(patch * patch, 1, patch, patch)
    s = q @ k.transpose(-1, -2)
    alpha = edge_weights(s, s.mean(-1), gamma, beta, graph)
    values = F.conv2d(v.reshape(-1, 1, height, width), cut, stride=key_stride, padding=patch // 2)
    values = values.reshape(batch, heads, channels * patch * patch, -1)
    out = (alpha @ values.transpose(-1, -2)).transpose(-1, -2)  # (B, K, C * 49, L)
    rows, columns = (height + stride - 1) // stride, (width + stride - 1) // stride

    def fold(x: Tensor) -> Tensor:
        x = x.reshape(-1, patch * patch, rows, columns)
        return F.conv_transpose2d(x, cut, stride=stride, padding=patch // 2, output_padding=stride - 1)

    count = fold(torch.ones_like(out[:1, :1, : patch * patch])).clamp_min(1)
    return (fold(out) / count)[..., :height, :width].reshape(batch, heads, channels, height, width)


def nonlocal_attention(q: Tensor, k: Tensor, v: Tensor, *, budget: int = 64 * 2**20) -> Tensor:
    """Pixel-wise non-local block, softmax(q kᵀ) v (Table 5 'NL', 'MHNL').

    q, k, v: (B, K, N, D) with one node per pixel -> (B, K, N, D).
    """
    rows = max(1, budget // (q.shape[0] * q.shape[1] * k.shape[-2] * q.element_size()))
    parts = [F.scaled_dot_product_attention(part, k, v, scale=1.0) for part in torch.split(q, rows, -2)]
    return torch.cat(parts, -2)
