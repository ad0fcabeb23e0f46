"""The kernels of `fused`. Loads Triton."""

# mypy: ignore-errors
# Triton reads these functions as its own language.

import triton
import triton.language as tl


@triton.jit
def similarities(
    q, k, queries, keys, L, N, D: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """(BLOCK_L, BLOCK_N) of q kᵀ. q, k: where a head's begin, (L, D) and (N, D)."""
    s = tl.zeros((BLOCK_L, BLOCK_N), tl.float32)
    for first in range(0, D, BLOCK_D):
        d = first + tl.arange(0, BLOCK_D)
        a = tl.load(q + queries[:, None] * D + d, mask=(queries[:, None] < L) & (d < D), other=0.0)
        b = tl.load(k + keys[None, :] * D + d[:, None], mask=(keys[None, :] < N) & (d[:, None] < D), other=0.0)
        s = tl.dot(a, b, s, input_precision="tf32x3")
    return s


@triton.jit
def normalise(
    q, k, thresholds, largest, total, L, N, D: tl.constexpr, SCALE: tl.constexpr, BLOCK_L: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Of every query the largest logit, and the sum of exp(logit - largest): pruned edges have the logit 0."""
    head = tl.program_id(1).to(tl.int64)
    queries = tl.program_id(0) * BLOCK_L + tl.arange(0, BLOCK_L)
    inside = queries < L
    threshold = tl.load(thresholds + head * L + queries, mask=inside, other=0.0)
    q += head * L * D
    k += head * N * D
    high = tl.full((BLOCK_L,), float("-inf"), tl.float32)
    summed = tl.zeros((BLOCK_L,), tl.float32)
    for first in range(0, N, BLOCK_N):
        keys = first + tl.arange(0, BLOCK_N)
        s = similarities(q, k, queries, keys, L, N, D, BLOCK_L, BLOCK_N, BLOCK_D)
        logits = SCALE * s * tl.maximum(s - threshold[:, None], 0.0)
        logits = tl.where(keys[None, :] < N, logits, float("-inf"))
        higher = tl.maximum(high, tl.max(logits, 1))
        summed = summed * tl.exp(high - higher) + tl.sum(tl.exp(logits - higher[:, None]), 1)
        high = higher
    tl.store(largest + head * L + queries, high, mask=inside)
    tl.store(total + head * L + queries, summed, mask=inside)


@triton.jit
def aggregate(
    q, k, v, thresholds, largest, total, patches, L, N, D: tl.constexpr, SCALE: tl.constexpr, HEIGHT, WIDTH,
    CHANNELS: tl.constexpr, PATCH: tl.constexpr, KEY_STRIDE: tl.constexpr, ACROSS, COLUMNS: tl.constexpr,
    BLOCK_L: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One row of the weighted sums of patches, into (heads, CHANNELS * PATCH², L). Columns: channel, then column."""
    head = tl.program_id(1).to(tl.int64)
    row = tl.program_id(2)
    queries = tl.program_id(0) * BLOCK_L + tl.arange(0, BLOCK_L)
    inside = queries < L
    threshold = tl.load(thresholds + head * L + queries, mask=inside, other=0.0)
    high = tl.load(largest + head * L + queries, mask=inside, other=0.0)
    summed = tl.load(total + head * L + queries, mask=inside, other=1.0)
    q += head * L * D
    k += head * N * D
    v += head * CHANNELS * HEIGHT * WIDTH
    column = tl.arange(0, COLUMNS)
    channel, across = column // PATCH, column % PATCH
    sums = tl.zeros((BLOCK_L, COLUMNS), tl.float32)
    for first in range(0, N, BLOCK_N):
        keys = first + tl.arange(0, BLOCK_N)
        s = similarities(q, k, queries, keys, L, N, D, BLOCK_L, BLOCK_N, BLOCK_D)
        m = tl.maximum(s - threshold[:, None], 0.0)
        weights = tl.exp(SCALE * s * m - high[:, None]) / summed[:, None]
        weights = tl.where((m > 0) & (keys[None, :] < N), weights, 0.0)
        y = (keys // ACROSS * KEY_STRIDE + row - PATCH // 2)[:, None]
        x = (keys % ACROSS * KEY_STRIDE - PATCH // 2)[:, None] + across
        there = (keys[:, None] < N) & (channel < CHANNELS) & (y >= 0) & (y < HEIGHT) & (x >= 0) & (x < WIDTH)
        values = tl.load(v + (channel * HEIGHT + y) * WIDTH + x, mask=there, other=0.0)
        sums = tl.dot(weights.to(values.dtype), values, sums, input_precision="tf32x3")
    place = (channel * PATCH + row) * PATCH + across
    where = patches + head * CHANNELS * PATCH * PATCH * L + place[None, :] * L + queries[:, None]
    tl.store(where, sums.to(patches.dtype.element_ty), mask=inside[:, None] & (channel < CHANNELS)[None, :])
