"""`streaming`: the fast form of `attention.reference`, in bounded memory, with its backward pass by hand.

What makes it fast is that patches overlap. Along one axis, with patches of 7 pixels every 4, the patch of node i is
written to the pixels 4i - 3 ... 4i + 3:

    pixel      4i-3  4i-2  4i-1   4i   4i+1  4i+2  4i+3  4i+4
    node i-1    x     x     x
    node i      x     x     x     x     x     x     x
    node i+1                            x     x     x     x

so the pixel 4i belongs to node i alone, and 4i + 1, 4i + 2, 4i + 3 are where the nodes i and i + 1 meet:

    meetings(7, 4) == [(range(0, 1), range(0, 1)), (range(1, 4), range(0, 2))]

Node i fills the pixel 4i + r with the sum over all keys n of alpha[i, n] v[n + r], v at r pixels from the key's own.
Node i + 1 fills the same pixel with that of alpha[i + 1, m] v[m + r - 4], which reads the same pixel of v where
m = n + 4. So the weights of nodes that meet are added first, alpha[i, n] + alpha[i + 1, n + 4], and every pixel is
computed once: 4 products an edge instead of 7, and along both axes 16 instead of 49. `Block` does this for a block of
nodes, `_chunk` for a chunk of images and heads, `streaming` chunk by chunk.
"""

from __future__ import annotations

import functools
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .attention import SOFTMAX_SCALE, edge_weights, overlaps
from .fused import faster, fused, usable


def meetings(patch: int, stride: int) -> list[tuple[range, range]]:
    """Which patches overlap, along one axis: (r, d), pixels stride * i + r lie in the patches of nodes i + d."""
    half = patch // 2
    found: list[tuple[range, range]] = []
    for r in range(stride):
        nodes = range(-((half - r) // stride), (half + r) // stride + 1)
        if found and found[-1][1] == nodes:
            found[-1] = (range(found[-1][0].start, r + 1), nodes)
        elif nodes:
            found.append((range(r, r + 1), nodes))
    return found


def streaming(
    q: Tensor, k: Tensor, v: Tensor, gamma: Tensor, beta: Tensor, *,
    graph: str, patch: int, stride: int, key_stride: int, budget: int | None = None, keep: int = 2**30,
) -> Tensor:  # fmt: skip
    """`reference` in chunks of images, heads and queries, so that no part of the graph is larger than `budget` bytes
    (but for a margin): 16 MiB on the CPU, where what fits the caches is faster, and 256 MiB elsewhere.

    With gradients, similarities and weights are kept for the backward pass when those of all chunks take at most
    `keep` bytes, and are computed again there otherwise. Similarities have the dtype of gamma (float32 under autocast
    too), the sums over values that of v. On GPUs and without gradients Triton kernels do it, where they are faster.
    """
    needs_gradients = torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v, gamma, beta))
    if not needs_gradients and usable(v, graph) and _kernels_are_faster(v.dtype, v.device):
        return fused(q, k, v, gamma, beta, patch=patch, stride=stride, key_stride=key_stride)
    return _by_torch(
        q, k, v, gamma, beta, graph=graph, patch=patch, stride=stride, key_stride=key_stride,
        budget=budget, keep=keep, needs_gradients=needs_gradients,
    )  # fmt: skip


_FASTER: dict[tuple[torch.dtype, torch.device], bool] = {}
"""Whether the kernels are, as was measured once in this process; not while a network is compiled, which comes later."""


def _kernels_are_faster(dtype: torch.dtype, device: torch.device) -> bool:
    key = dtype, device
    if key not in _FASTER and not torch.compiler.is_compiling():
        _FASTER[key] = faster(functools.partial(_by_torch, graph="released"), dtype, device)
    return _FASTER.get(key, False)


def _by_torch(
    q: Tensor, k: Tensor, v: Tensor, gamma: Tensor, beta: Tensor, *,
    graph: str, patch: int, stride: int, key_stride: int, budget: int | None = None, keep: int = 0,
    needs_gradients: bool = False,
) -> Tensor:  # fmt: skip
    """`streaming` without kernels."""
    *batch, _, height, width = v.shape
    down, across = -(-height // stride), -(-width // stride)
    q, gamma, beta = (t.reshape(-1, down, across, *t.shape[3:]) for t in (q, gamma, beta))
    k, v = k.flatten(0, 1), v.flatten(0, 1)
    one = k.shape[-2] * gamma.element_size()  # bytes of a query
    budget = budget or (16 if v.device.type == "cpu" else 256) * 2**20
    # several heads at once only while they are small
    heads = max(1, budget // 4 // (down * across * one))
    rows, columns = max(1, budget // (across * one)), max(1, budget // one)
    blocks = [
        Block(height, width, patch, stride, key_stride, top, left, rows, columns)
        for top in range(0, down, rows) for left in range(0, across, columns)
    ]  # fmt: skip
    chunks = [(slice(head, head + heads), block) for head in range(0, len(q), heads) for block in blocks]
    if needs_gradients:
        kept = 2 * q[..., 0].numel() * one <= keep
        out: Tensor = _Streaming.apply(q, k, v, gamma, beta, graph, chunks, kept)
    else:
        out = _stream(q, k, v, gamma, beta, graph, chunks, keep=False, in_place=True)[0]
    out = out[..., :height, :width]
    return (out / overlaps(out, patch, stride)).view(*batch, *out.shape[1:])


Chunks = list[tuple[slice, "Block"]]
"""Heads, and nodes of them."""


def _stream(
    q: Tensor, k: Tensor, v: Tensor, gamma: Tensor, beta: Tensor, graph: str, chunks: Chunks, keep: bool, in_place: bool
) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
    """The sums of patches, folded, (G, C, h, w); with `keep`, what `_chunk` gives besides.

    q, gamma, beta: (G, rows, columns, ...); k and v as in `_chunk`.
    """
    out = v.new_zeros(*v.shape[:2], *(pixels.stop for pixels in chunks[-1][1].pixels))
    kept: list[Tensor] = []
    for heads, block in chunks:
        q_nodes, gamma_nodes, beta_nodes = (block.of(t[heads]) for t in (q, gamma, beta))
        part, *rest = _chunk(q_nodes, k[heads], v[heads], gamma_nodes, beta_nodes, graph, block, in_place)
        out[heads, :, block.pixels[0], block.pixels[1]] += part
        kept += rest if keep else ()
    return out, kept


def _chunk(
    q: Tensor, k: Tensor, v: Tensor, gamma: Tensor, beta: Tensor, graph: str, block: Block, in_place: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """G heads at once: sums of patches, folded; (G, L, N) similarities; weights as `Block.padded` gives them.

    in_place: the similarities are overwritten.
    """
    s = _product(q.to(gamma.dtype), k.to(gamma.dtype).mT)
    if graph == "released":
        alpha = _released_weights(s, gamma, beta, in_place)
    else:
        alpha = edge_weights(s, s.mean(-1), gamma, beta, graph)
    padded = block.padded(alpha, v.dtype)
    return block.aggregate(padded, v), s, padded


def _released_weights(s: Tensor, gamma: Tensor, beta: Tensor, in_place: bool) -> Tensor:
    """`edge_weights` for graph 'released', with few passes over the graph."""
    m = (s - (s.mean(-1) * gamma - beta)[..., None]).relu_()
    logits = torch.addcmul(s.new_zeros(1), s, m, value=SOFTMAX_SCALE, out=s if in_place else None)
    alpha = logits.softmax(-1).mul_(m.sign_())
    return F.threshold(alpha, 1e-18, 0.0, inplace=True)  # products with denormal numbers are five times slower


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


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b, (G, i, j) @ (G, j, k); one product is faster on the CPU than a batch of one."""
    return torch.mm(a[0], b[0])[None] if len(a) == 1 else a @ b


class Block:
    """Sums of patches for a block of query nodes, folded, and their gradients.

    The weights of nodes that meet are added first (the example above), so that per edge and channel there are stride²
    products where the sums of whole patches take patch².

    Weights lie in memory row of keys by row of keys, with a margin of zeros before every row and above the first: so
    the keys of other nodes are a fixed distance away, and keys outside of the image have a place whose patches reach
    into it.

    Args:
        height, width: of the image, in pixels.
        top, left: the first node.
        rows, columns: of nodes at most.
    """

    def __init__(
        self, height: int, width: int, patch: int, stride: int, key_stride: int,
        top: int, left: int, rows: int, columns: int,
    ) -> None:  # fmt: skip
        self.stride, self.key_stride, self.meetings = stride, key_stride, meetings(patch, stride)
        offsets = [d for _, nodes in self.meetings for d in nodes]
        self.step = stride // key_stride
        self.margin = self.step * (max(offsets) - min(offsets))
        self.size = height, width
        self.keys = [-(-size // key_stride) + self.margin for size in self.size]
        self.nodes: list[slice] = []
        """Of the image, in the block: rows, columns."""
        self.pixels: list[slice] = []
        """Of the image, to which their patches add."""
        self.around: list[int] = []
        """How many rows and columns of nodes these pixels belong to,"""
        self.own: list[slice] = []
        """and which of them are the block's."""
        for size, first, most in zip(self.size, (top, left), (rows, columns)):
            count = -(-size // stride)
            last = min(count, first + most)
            # into whose pixels the patches reach
            low, high = max(0, first - max(offsets)), min(count, last - min(offsets))
            self.nodes.append(slice(first, last))
            self.pixels.append(slice(stride * low, stride * high))
            self.around.append(high - low)
            self.own.append(slice(first - low, last - low))

    def of(self, nodes: Tensor) -> Tensor:
        """(G, rows, columns, ...) of the image -> (G, L, ...) of the block, a view where it can be."""
        return nodes[:, self.nodes[0], self.nodes[1]].flatten(1, 2)

    def padded(self, alpha: Tensor, dtype: torch.dtype) -> Tensor:
        """(G, L, N) -> (G, rows, columns, keys): zeros in the margins, and for the nodes around the block."""
        out = alpha.new_zeros(len(alpha), *self.around, *self.keys, dtype=dtype)
        inner = self._inner(out)
        inner.copy_(alpha.view(inner.shape))
        return out.flatten(3)

    def cropped(self, padded: Tensor, dtype: torch.dtype) -> Tensor:
        """The inverse of `padded`, in new memory."""
        inner = self._inner(padded.unflatten(3, self.keys))
        return inner.new_empty(inner.shape, dtype=dtype).copy_(inner).flatten(3).flatten(1, 2)

    def aggregate(self, padded: Tensor, v: Tensor) -> Tensor:
        """Sums of the patches of v, (G, C, H, W), weighted by alpha and folded: (G, C, h, w), the `pixels`."""
        windows = self._windows(self._spread(v))
        out = v.new_zeros(*v.shape[:2], self.around[0], self.stride, self.around[1], self.stride)
        for y, above in self.meetings:
            rows = self._meet(padded, 0, above)
            for x, beside in self.meetings:
                weights = self._meet(rows, 1, beside)
                sums = _product(weights.flatten(1, 2), self._cut(windows, y, x).mT)
                pixels = self._pixels(out, y, x)
                pixels.copy_(sums.view(pixels.shape))
        return out.flatten(4).flatten(2, 3)

    def backward(self, grad: Tensor, padded: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of `aggregate` with respect to the padded alpha and v."""
        spread = self._spread(v)
        windows, by_spread = self._windows(spread), torch.zeros_like(spread)
        grad = grad.unflatten(3, (self.around[1], self.stride)).unflatten(2, (self.around[0], self.stride))
        by_padded: Tensor | None = None
        for y, above in reversed(self.meetings):
            rows = self._meet(padded, 0, above)
            by_rows = None if above != range(1) else by_padded
            for x, beside in reversed(self.meetings):
                weights = self._meet(rows, 1, beside).flatten(1, 2)
                pixels = self._pixels(grad, y, x).flatten(3).flatten(1, 2)  # (G, L, C * pixels)
                cut = self._cut(windows, y, x)
                if beside != range(1) or by_rows is None:
                    part = self._meet(_product(pixels, cut).view(padded.shape), 1, beside, -1)
                    by_rows = part if by_rows is None else by_rows.add_(part)
                else:  # nothing meets there: the product is added without a pass of its own
                    by_rows.flatten(1, 2).baddbmm_(pixels, cut)
                by_cut = _product(pixels.mT, weights).view(*v.shape[:2], len(y), len(x), *self.keys)
                for i, j in product(range(len(y)), range(len(x))):  # windows overlap
                    by_spread[:, :, self._every(y[i], 0), self._every(x[j], 1)] += by_cut[:, :, i, j]
            assert by_rows is not None
            by_rows = self._meet(by_rows, 0, above, -1)
            by_padded = by_rows if above == range(1) or by_padded is None else by_padded.add_(by_rows)
        assert by_padded is not None
        low = self.margin * self.key_stride
        return by_padded, by_spread[:, :, low : low + self.size[0], low : low + self.size[1]]

    def _inner(self, x: Tensor) -> Tensor:
        """Without the margins and the nodes around the block; (G, rows, columns, key rows, key columns)."""
        return x[:, self.own[0], self.own[1], self.margin :, self.margin :]

    def _meet(self, x: Tensor, axis: int, nodes: range, sign: int = 1) -> Tensor:
        """The sum of x[node + d, key + step d] over d in nodes, along rows (axis 0) or columns (1); sign -1: the
        transposed of that. x: (G, rows, columns, keys)."""
        if nodes == range(1):
            return x
        step, out = self.step * (1 if axis else self.keys[1]), x.clone() if 0 in nodes else torch.zeros_like(x)
        for d in (sign * d for d in nodes if 0 < abs(d) < x.shape[axis + 1]):
            to, of = max(0, -d), max(0, d)
            count, keys = x.shape[axis + 1] - abs(d), x.shape[3] - abs(d) * step
            there = x.narrow(axis + 1, of, count).narrow(3, of * step, keys)
            out.narrow(axis + 1, to, count).narrow(3, to * step, keys).add_(there)
        return out

    def _spread(self, v: Tensor) -> Tensor:
        """v with zeros around it, so that every key, those in the margin too, has its stride² pixels."""
        low = self.margin * self.key_stride
        high = [self.key_stride * (keys - 1) + self.stride - low - size for keys, size in zip(self.keys, self.size)]
        return F.pad(v, (low, high[1], low, high[0]))

    def _every(self, first: int, axis: int) -> slice:
        """Of rows (axis 0) or columns (1) of the spread: one for each key."""
        return slice(first, first + self.key_stride * (self.keys[axis] - 1) + 1, self.key_stride)

    def _windows(self, spread: Tensor) -> Tensor:
        """(G, C, H, W) -> (G, C, stride, stride, rows, columns of keys), a view: the pixels from each key on."""
        windows = spread.unfold(2, self.stride, self.key_stride).unfold(3, self.stride, self.key_stride)
        return windows.permute(0, 1, 4, 5, 2, 3)

    def _cut(self, windows: Tensor, y: range, x: range) -> Tensor:
        """(G, C * pixels, keys): some pixels of the windows."""
        return windows[:, :, y.start : y.stop, x.start : x.stop].flatten(4).flatten(1, 3)

    def _pixels(self, image: Tensor, y: range, x: range) -> Tensor:
        """(G, C, rows, stride, columns, stride) -> (G, rows, columns, C, y, x), a view."""
        return image[:, :, :, y.start : y.stop, :, x.start : x.stop].permute(0, 2, 4, 1, 3, 5)


class _Streaming(torch.autograd.Function):
    """`_stream` with its backward pass by hand: nothing is unfolded, little is kept."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        q, k, v, gamma, beta, ctx.graph, ctx.chunks, keep = arguments
        out, kept = _stream(q, k, v, gamma, beta, ctx.graph, ctx.chunks, keep=keep, in_place=False)
        ctx.save_for_backward(q, k, v, gamma, beta, *kept)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, gamma, beta, *kept = ctx.saved_tensors
        gradients = by_q, by_k, by_v, by_gamma, by_beta = [torch.zeros_like(t) for t in (q, k, v, gamma, beta)]
        for i, (heads, block) in enumerate(ctx.chunks):
            q_nodes, gamma_nodes, beta_nodes = (block.of(t[heads]) for t in (q, gamma, beta))
            if kept:
                s, padded = kept[2 * i : 2 * i + 2]
            else:
                s, padded = _chunk(q_nodes, k[heads], v[heads], gamma_nodes, beta_nodes, ctx.graph, block)[1:]
            by_part = grad[heads, :, block.pixels[0], block.pixels[1]]
            by_padded, by_values = block.backward(by_part, padded, v[heads])
            by_alpha, alpha = (block.cropped(x, s.dtype) for x in (by_padded, padded))
            if ctx.graph == "released":
                by_s, *by_threshold = _released_weights_backward(by_alpha, s, alpha, gamma_nodes, beta_nodes)
            else:
                with torch.enable_grad():
                    inputs = s, gamma_nodes, beta_nodes = [
                        t.detach().requires_grad_() for t in (s, gamma_nodes, beta_nodes)
                    ]
                    weights = edge_weights(s, s.mean(-1), gamma_nodes, beta_nodes, ctx.graph)
                by_s, *by_threshold = torch.autograd.grad(weights, inputs, by_alpha, allow_unused=True)
            by_s = by_s.to(q.dtype)
            for total, part in zip((by_q, by_gamma, by_beta), (_product(by_s, k[heads]), *by_threshold)):
                if part is not None:  # some graphs have no threshold
                    at = total[heads, block.nodes[0], block.nodes[1]]
                    at.copy_(part.view_as(at))
            by_k[heads] += _product(by_s.mT, q_nodes)
            by_v[heads] += by_values
        return (*gradients, None, None, None)
