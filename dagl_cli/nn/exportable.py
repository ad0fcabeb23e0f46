"""The gated graph in operators that ONNX has: all blocks at once, and sizes that are known only when it runs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .gated import GatedGraph, dct, dct_basis
from .search import Axis, Grid, at_once


class ExportableGraph(GatedGraph):
    """`GatedGraph` of any number of images of any size, to be traced: all that is computed of sizes is a tensor. Its
    memory grows with the picture, to 3 GB for 512x512 pixels.
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

    def embedded(self, pilot: Tensor) -> Tensor:
        return (self.everywhere(pilot[:, :1])[:, 0] @ self.fixed.T) * (self.metric / 2).exp()

    def everywhere(self, image: Tensor) -> Tensor:
        """All patches: (B, C, H, W) -> (B, C, h, w, D) pixels."""
        batch, channels, height, width = image.shape
        filters = torch.eye(len(self.metric), dtype=image.dtype).view(-1, 1, self.patch, self.patch)
        found = F.conv2d(image.reshape(batch * channels, 1, height, width), filters)
        found = found.view(batch, channels, len(filters), found.shape[2], found.shape[3])
        return found.permute(0, 1, 3, 4, 2)

    def search(self, embedded: Tensor, grid: Grid) -> Tensor:
        sides = embedded.shape[1:3]
        rows, columns = ((torch.as_tensor(side) - 1) // self.stride + 1 for side in sides)
        down, across = (Axis.of(n, queries, self.stride, self.window) for n, queries in zip(sides, (rows, columns)))
        return at_once(embedded, down, across, self.neighbours)[:, :rows, :columns]

    def aggregate(
        self, noisy: Tensor, pilot: Tensor, values: Tensor, candidates: Tensor, sigma: Tensor
    ) -> tuple[Tensor, ...]:
        batch, rows, columns, count = candidates.shape
        queries = batch * rows * columns
        planes = self.everywhere(noisy), self.everywhere(pilot)
        own_noisy, own_pilot = (
            plane[:, :, :: self.stride, :: self.stride][:, :, :rows, :columns]
            .permute(0, 2, 3, 1, 4)
            .flatten(3)
            .flatten(0, 2)
            for plane in planes
        )  # (Q, C D)

        def near(plane: Tensor) -> Tensor:
            """(B, C, h, w, D) -> (Q, E, C D)"""
            channels, keys = plane.shape[1], plane.shape[2] * plane.shape[3]
            rows = (torch.arange(batch) * (channels * keys))[:, None] + torch.arange(channels) * keys  # (B, C)
            places = candidates[..., None] + rows[:, None, None, None]
            return plane.flatten(0, 3).index_select(0, places.flatten()).view(queries, count, -1)

        near_noisy, near_pilot = (near(plane) for plane in planes)
        shift = dct(near_pilot - own_pilot[:, None], self.fixed)
        near_values = near(values[:, None]) if self.values is not None else shift[..., :0]
        own = dct(own_noisy, self.fixed), dct(own_pilot, self.fixed)
        found = self.combine(near_noisy, shift, near_values, *own, sigma.reshape(-1, 1), self.fixed)
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
