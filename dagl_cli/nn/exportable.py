"""The gated graph in operators that ONNX has: all blocks at once, and sizes that are known only when it runs."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import BLOCK
from .gated import GROUP, GatedGraph, Grid, dct_basis, opponent

FAR = 1e30
"""A distance beyond all others."""


class ExportableGraph(GatedGraph):
    """`GatedGraph` of any number of images of any size, to be traced: all that is computed of sizes is a tensor. Its
    memory grows with the picture, to 3 GB for 512x512 pixels.

    Shapes beside those of `gated`: R x S blocks, of M = `BLOCK`² queries and N keys in their window each.
    """

    fixed: Tensor

    @classmethod
    def of(cls, graph: GatedGraph) -> ExportableGraph:
        """The same graph, which is changed for it."""
        graph.__class__ = cls
        assert isinstance(graph, cls)
        graph.fixed = dct_basis(graph.patch).to(graph.metric)
        return graph

    @property
    def basis(self) -> Tensor:
        return self.fixed

    def coefficients(self, image: Tensor) -> Tensor:
        batch, channels, height, width = image.shape
        filters = self.fixed.view(-1, 1, self.patch, self.patch)
        found = F.conv2d(opponent(image).reshape(batch * channels, 1, height, width), filters)
        found = found.view(batch, channels, len(filters), found.shape[2], found.shape[3])
        return found.permute(0, 1, 3, 4, 2)

    def search(self, embedded: Tensor, grid: Grid) -> Tensor:
        width = embedded.shape[2]
        rows, columns = ((torch.as_tensor(embedded.shape[i]) - 1) // self.stride + 1 for i in (1, 2))
        (top, window_rows, query_rows), (left, window_columns, query_columns) = (
            self._axis(torch.as_tensor(embedded.shape[i]), queries) for i, queries in ((1, rows), (2, columns))
        )
        keys = _taken(embedded, window_rows, window_columns)  # (B, R, S, N, D)
        queries = _taken(embedded, query_rows, query_columns)  # (B, R, S, M, D)
        across = window_columns.shape[1]
        distance = keys.square().sum(-1)[:, :, :, None] - 2 * (queries @ keys.transpose(3, 4))  # (B, R, S, M, N)
        # a node is always its own neighbour, however many others are the same
        own = (query_rows - top[:, None])[:, None, :, None] * across + (query_columns - left[:, None])[None, :, None]
        own = own.flatten(2)[None, ..., None].expand(embedded.shape[0], -1, -1, -1, -1)
        distance = distance.scatter(4, own, torch.full_like(own, -FAR, dtype=distance.dtype))
        # two steps, as in `gated.largest`, on whole groups
        down = window_rows.shape[1]
        batch, blocks = embedded.shape[0], (window_rows.shape[0], window_columns.shape[0])
        distance = F.pad(distance.flatten(4), (0, (-down % GROUP) * across), value=FAR)
        groups = distance.view(batch, *blocks, BLOCK * BLOCK, -1, GROUP, across).amin(5).flatten(4)
        few: Any = torch.clamp(torch.as_tensor(groups.shape[4]), max=self.neighbours)
        best = groups.topk(few, 4, largest=False, sorted=False).indices
        first = best // across * (GROUP * across) + best % across
        members = (first[..., None] + torch.arange(GROUP) * across).flatten(4)
        few = torch.clamp(torch.as_tensor(down * across), max=self.neighbours)
        best = distance.gather(4, members).topk(few, 4, largest=False, sorted=False).indices
        best = members.gather(4, best)
        found = (best // across + top[:, None, None, None]) * width + best % across + left[:, None, None]
        found = found.view(batch, *blocks, BLOCK, BLOCK, -1).permute(0, 1, 3, 2, 4, 5)
        return found.reshape(batch, blocks[0] * BLOCK, blocks[1] * BLOCK, -1)[:, :rows, :columns]

    def _axis(self, keys: Tensor, queries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `Grid.windows`: of each block of queries its window's start, (R,), the keys in it and its queries."""
        side = self.stride * BLOCK
        seen = torch.clamp(keys, max=self.window)
        blocks = (queries + BLOCK - 1) // BLOCK
        middles = _count(blocks) * side + (side - self.stride) // 2
        starts = torch.minimum((middles - seen // 2).clamp_min(0), keys - seen)
        places = torch.minimum(_count(blocks * BLOCK), queries - 1) * self.stride  # the last block's may repeat
        return starts, starts[:, None] + _count(seen), places.view(-1, BLOCK)

    def aggregate(self, nodes: tuple[Tensor, ...], candidates: Tensor, sigma: Tensor) -> tuple[Tensor, ...]:
        batch, rows, columns, count = candidates.shape
        queries = batch * rows * columns
        noisy, pilot = (
            plane[:, :, :: self.stride, :: self.stride][:, :, :rows, :columns]
            .permute(0, 2, 3, 1, 4)
            .flatten(3)
            .flatten(0, 2)
            for plane in nodes[:2]
        )  # (Q, C D)

        def near(plane: Tensor) -> Tensor:
            """(B, C, h, w, D) -> (Q, E, C D)"""
            channels, keys = plane.shape[1], plane.shape[2] * plane.shape[3]
            rows = (torch.arange(batch) * (channels * keys))[:, None] + torch.arange(channels) * keys  # (B, C)
            places = candidates[..., None] + rows[:, None, None, None]
            return plane.flatten(0, 3).index_select(0, places.flatten()).view(queries, count, -1)

        near_noisy, near_pilot, *values = (near(plane) for plane in nodes if plane.shape[-1])
        level = sigma.reshape(-1, 1)
        shift = near_pilot - pilot[:, None]
        found = self.combine(near_noisy, shift, values[0] if values else shift[..., :0], noisy, pilot, level)
        return tuple(t.reshape(batch, rows, columns, *(int(n) for n in t.shape[1:])) for t in found)

    def fold(self, patches: Tensor) -> Tensor:
        """By a convolution, whose result's size need not be known."""
        filters = self.fixed.view(-1, 1, self.patch, self.patch)
        planes = patches.permute(0, 3, 4, 1, 2).flatten(0, 1)
        return F.conv_transpose2d(planes, filters, stride=self.stride)[:, 0]

    def distance(self, squares: Tensor) -> Tensor:
        """By a matrix: OpenVINO 2026.4 is wrong about the shape of a product with a vector."""
        weights = self.metric.exp() / len(self.metric)
        return (squares[..., : len(weights)] @ weights[:, None])[..., 0]


def _taken(nodes: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Of (B, h, w, D) those at (R, m) rows and (S, n) columns: (B, R, S, m n, D)."""
    taken = nodes.index_select(1, rows.flatten()).index_select(2, columns.flatten())
    taken = taken.view(nodes.shape[0], *rows.shape, *columns.shape, nodes.shape[3])
    return taken.permute(0, 1, 3, 2, 4, 5).flatten(3, 4)


def _count(number: Any) -> Tensor:
    """0, 1 ... number - 1; a tensor of no dimensions, or a number."""
    return torch.arange(number)
