"""What a model's graph does in a picture (the paper's Figures 3 and 4): the neighbours of a point, how similar each
part of the picture is to it, which of these are edges, and how many neighbours every node has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import torch
from torch import Tensor, nn

from ..config import BLOCK
from ..errors import DaglError, UsageError
from ..nn.attention import edge_weights, same_padding
from ..nn.gated import QUIETEST, GatedGraph, GatedStage, coefficients, opponent
from ..nn.model import DAGL, MGFAM
from ..nn.search import Grid

SIDE = 288
"""Of a panel, in pixels."""
STRONGEST = 8
"""Neighbours that are shown."""
PANELS = 5
GAP = 12
CAPTION = 20


@dataclass(frozen=True)
class Node:
    """One query and its edges. Maps have one value for each key, at `places`; what the query does not see is NaN."""

    query: tuple[int, int]
    """Row and column of its patch's first pixel."""
    side: int
    """Of a patch, in pixels."""
    similarity: Tensor
    """(h, w)."""
    weights: Tensor
    """(h, w), 0 where there is no edge."""
    step: int
    """Pixels between two keys."""
    offset: int
    """First pixel of the first key's patch: below 0 where patches reach beyond the picture."""
    numbers: Tensor
    """(rows, columns): how many neighbours each node of the picture has, in effect: 1 / the sum of its squared
    weights, adding to 1. Equal weights give the count; neighbours of little weight count little."""

    @property
    def strongest(self) -> list[tuple[int, int]]:
        """Rows and columns of the heaviest neighbours' first pixels, the query itself left out."""
        flat = self.weights.nan_to_num(0).flatten()
        order = flat.argsort(descending=True)[: STRONGEST + 1].tolist()
        width = self.weights.shape[1]
        places = [
            (self.offset + self.step * (key // width), self.offset + self.step * (key % width))
            for key in order
            if flat[key] > 0
        ]
        return [place for place in places if place != self.query][:STRONGEST]


def stage_of(model: DAGL, stage: int | None, head: int, name: str) -> nn.Module:
    """The graph to look at, counted from 1; None: the last. Raises DaglError for a model without one, UsageError."""
    graphs = [m for m in model.stages if isinstance(m, MGFAM) or (isinstance(m, GatedStage) and m.graph)]
    if not graphs:
        pixelwise = model.config.graph == "nonlocal" and len(model.stages)
        kind = "pixel-wise attention, no patches" if pixelwise else "no graph"
        raise DaglError(f"{name} has {kind}: choose a model that `dagl weights list` calls DAGL")
    for what, value, most in (("stage", stage or 1, len(graphs)), ("head", head, model.config.heads)):
        if not 1 <= value <= most:
            raise UsageError(f"`{what}` must be 1-{most} for {name}, not {value}")
    return graphs[(stage or len(graphs)) - 1]


@torch.no_grad()
def look(
    model: DAGL, image: Tensor, sigma: float | None, points: Sequence[tuple[int, int]], *, stage: nn.Module,
    head: int = 1,
) -> list[Node]:  # fmt: skip
    """The edges of the node at each point.

    image: (C, H, W) as the model takes it, on its device; points: rows and columns; stage: from `stage_of`.
    """
    module = stage.graph if isinstance(stage, GatedStage) and stage.graph else stage
    caught: list[tuple[Tensor, ...]] = []
    handle = module.register_forward_pre_hook(lambda module, inputs: caught.append(inputs))
    try:
        model(image[None], sigma)
    finally:
        handle.remove()
    if isinstance(module, GatedGraph):
        noisy, pilot, level = caught[0][:3]
        return _gated(module, noisy, pilot, level, points, head - 1)
    assert isinstance(module, MGFAM)
    cell = model.config.scale * (2 if model.config.outer_blocks else 1)
    seen: list[Node] = []
    module.aggregate(caught[0][0], partial(_released, points=points, head=head - 1, cell=cell, into=seen))
    return seen


def _gated(
    graph: GatedGraph, noisy: Tensor, pilot: Tensor, sigma: Tensor, points: Sequence[tuple[int, int]], head: int
) -> list[Node]:
    height, width = noisy.shape[-2:]
    grid = Grid.of(height, width, graph.patch, graph.stride, graph.window)
    pilot = opponent(pilot)
    nodes = coefficients(pilot[:, :1], graph.basis)[0, 0]  # (h, w, D): of colours their brightness counts
    own = nodes[:: graph.stride, :: graph.stride]
    edges = graph.search(graph.embedded(pilot), grid)[0]
    near = nodes.flatten(0, 1)[edges]  # (rows, columns, E, D)
    levels = sigma[0].clamp_min(QUIETEST).expand(grid.queries)[..., None]  # (rows, columns, 1)
    distance = graph.distance((near - own[:, :, None]).square()) / levels**2
    weights = graph.attention(distance.flatten(0, 1), (own / levels).flatten(0, 1))[:, head]
    numbers, found = effective(weights).view(grid.queries).cpu(), []
    for at in points:
        row, column = (
            min(max(round((place - graph.patch / 2) / graph.stride), 0), count - 1)
            for place, count in zip(at, grid.queries)
        )
        similarity, shown = (nodes.new_full(grid.keys, math.nan) for _ in range(2))
        (top, bottom), (left, right) = (grid.windows(axis)[n // BLOCK] for axis, n in enumerate((row, column)))
        window = slice(top, bottom), slice(left, right)
        similarity[window] = -graph.distance((nodes[window] - own[row, column]).square()) / levels[row, column] ** 2
        similarity *= graph.temperature[head].exp()
        shown[window] = 0
        shown.view(-1)[edges[row, column]] = weights[row * grid.queries[1] + column]
        place = row * graph.stride, column * graph.stride
        found.append(Node(place, graph.patch, similarity.cpu(), shown.cpu(), 1, 0, numbers))
    return found


def _released(
    q: Tensor, k: Tensor, v: Tensor, gamma: Tensor, beta: Tensor, *, graph: str, patch: int, stride: int,
    key_stride: int, points: Sequence[tuple[int, int]], head: int, cell: int, into: list[Node],
) -> Tensor:  # fmt: skip
    """`attention.reference` that notes the edges of the nodes at some points, and every node's number of them."""
    height, width = v.shape[-2:]
    rows, columns = -(-height // stride), -(-width // stride)
    keys, offset = (-(-height // key_stride), -(-width // key_stride)), -(patch // 2) * cell
    left, _, top, _ = same_padding(height, width, patch, stride)
    if graph == "equations":  # queries are cut where keys are
        left = top = patch // 2
    wanted = [[min(place // cell // stride, count - 1) for place, count in zip(at, (rows, columns))] for at in points]
    numbers, edges = [], dict[tuple[int, int], tuple[Tensor, Tensor]]()
    for row in range(rows):  # a row of nodes at a time: the whole graph may be large
        nodes = slice(row * columns, (row + 1) * columns)
        s = (q[0, head, nodes] @ k[0, head].mT).to(gamma.dtype)
        alpha = edge_weights(s, s.mean(-1), gamma[0, head, nodes], beta[0, head, nodes], graph)
        numbers.append(effective(alpha))
        for column in {column for down, column in wanted if down == row}:
            edges[row, column] = s[column].view(keys).float().cpu(), alpha[column].view(keys).float().cpu()
    everywhere = torch.stack(numbers).cpu()
    for row, column in wanted:
        place = (row * stride - top) * cell, (column * stride - left) * cell
        into.append(Node(place, patch * cell, *edges[row, column], key_stride * cell, offset, everywhere))
    return v.new_zeros(v.shape)


def figure(
    model: DAGL, image: Tensor, sigma: float | None, points: list[tuple[int, int]], *,
    stage: int | None = None, head: int = 1, name: str = "model",
) -> tuple[PIL.Image.Image, list[dict[str, Any]]]:  # fmt: skip
    """The figure, a row for each point, and what it shows as data.

    image: (C, H, W) in [0, 1], as the model takes it, on its device; points: rows and columns in it; stage, head:
    counted from 1, None the last stage. Around each point as much is looked at as one of the model's tiles holds.
    Raises DaglError for a model without a graph, UsageError for a point outside or a stage or head that is not there.
    """
    module = stage_of(model, stage, head, name)
    height, width = image.shape[-2:]
    regions: dict[tuple[int, int, int, int], list[tuple[int, int]]] = {}
    for y, x in points:
        if y >= height or x >= width:
            raise UsageError(f"`at` {x},{y} lies outside the image of {width}x{height} pixels")
        down, across = region(height, width, (y, x), model.config.tile[0], model.config.multiple)
        regions.setdefault((down.start, down.stop, across.start, across.stop), []).append((y, x))
    shown: dict[tuple[int, int], tuple[Tensor, Node]] = {}
    for (top, bottom, left, right), inside in regions.items():
        part = image[:, top:bottom, left:right]
        below = [(y - top, x - left) for y, x in inside]
        nodes = look(model, part, sigma, below, stage=module, head=head)
        shown |= {at: (part.cpu(), node) for at, node in zip(inside, nodes)}
    rows, found = [], list[dict[str, Any]]()
    for y, x in points:
        part, node = shown[y, x]
        rows.append(row(part, node, (y, x)))
        weights = node.weights.nan_to_num(0)
        found.append({
            "at": [x, y], "neighbours": int((weights > 0).sum()), "strongest": float(weights.max()),
            "in effect": float(effective(weights.flatten())),
            "by location": {"least": float(node.numbers.min()), "mean": float(node.numbers.double().mean()),
                            "most": float(node.numbers.max())},
        })  # fmt: skip
    return sheet(rows), found


def effective(weights: Tensor) -> Tensor:
    """(..., E) weights -> (...), the number of neighbours in effect; 0 for a node without any."""
    return weights.sum(-1).square() / weights.square().sum(-1).clamp_min(1e-20)


def region(height: int, width: int, at: tuple[int, int], tile: int, multiple: int) -> tuple[slice, slice]:
    """What a model sees at once around a point: rows and columns of one tile, inside the picture."""
    sides = []
    for place, side in zip(at, (height, width)):
        length = min(side, tile)
        start = min(max(place - length // 2, 0), side - length) // multiple * multiple
        sides.append(slice(start, start + length))
    return sides[0], sides[1]


# --- the figure ------------------------------------------------------------------------------------------------------

COLOURS = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], float)
"""From low to high."""
UNSEEN = (40, 40, 46)


def heat(values: Tensor, low: float | None = None, high: float | None = None) -> PIL.Image.Image:
    """(h, w) as colours from `low` to `high`, by default its least and largest; NaN dark gray."""
    array = values.double().numpy()
    known = array[np.isfinite(array)]
    low, high = (known.min() if low is None else low), (known.max() if high is None else high)
    share = np.clip((array - low) / max(high - low, 1e-12), 0, 1) * (len(COLOURS) - 1)
    levels = [np.interp(np.nan_to_num(share), range(len(COLOURS)), COLOURS[:, c]) for c in range(3)]
    pixels = np.where(np.isfinite(array)[..., None], np.stack(levels, -1), UNSEEN)
    return PIL.Image.fromarray(pixels.round().astype(np.uint8))


def row(picture: Tensor, node: Node, at: tuple[int, int]) -> PIL.Image.Image:
    """Five panels: picture with query and neighbours, these patches enlarged, similarity, adjacency, numbers.

    picture: (C, H, W) in [0, 1], what the model saw; at: for the caption.
    """
    rgb = (picture.clamp(0, 1) * 255).round().byte().expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
    whole = PIL.Image.fromarray(rgb)
    factor = SIDE / max(whole.size)
    big = whole.resize([max(1, round(side * factor)) for side in whole.size], PIL.Image.Resampling.LANCZOS)
    draw = PIL.ImageDraw.Draw(big)
    for place, colour in [*((p, (64, 200, 255)) for p in node.strongest), (node.query, (255, 48, 48))]:
        top, left = (factor * edge for edge in place)
        draw.rectangle((left, top, left + factor * node.side, top + factor * node.side), outline=colour)
    patches = PIL.Image.new("RGB", (3 * node.side, 3 * node.side), UNSEEN)
    around = [(1, 1), (0, 0), (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1), (2, 2)]
    for (y, x), (top, left) in zip(around, [node.query, *node.strongest]):
        box = (left, top, left + node.side, top + node.side)
        patches.paste(whole.crop(box), (x * node.side, y * node.side))
    patches = patches.resize((SIDE, SIDE), PIL.Image.Resampling.NEAREST)
    draw, third = PIL.ImageDraw.Draw(patches), SIDE / 3
    draw.rectangle((third, third, 2 * third - 1, 2 * third - 1), outline=(255, 48, 48), width=2)
    count, most = int((node.weights.nan_to_num(0) > 0).sum()), math.ceil(float(node.numbers.max()) - 1e-3)
    seen = node.similarity.isfinite()
    down, across = (seen.any(1 - axis).nonzero() for axis in (0, 1))
    window = slice(int(down[0]), int(down[-1]) + 1), slice(int(across[0]), int(across[-1]) + 1)
    panels = {
        f"query at {at[1]},{at[0]}, neighbours": big,
        "query and its heaviest neighbours": patches,
        "similarity in its window": heat(node.similarity[window]),
        f"adjacency: {count} neighbours, root of weight": heat(node.weights[window].sqrt(), 0),
        f"neighbours in effect by location, 0-{most}": heat(node.numbers, 0, most),
    }
    sheet = PIL.Image.new("RGB", extent(1), (255, 255, 255))
    write = PIL.ImageDraw.Draw(sheet)
    font = PIL.ImageFont.load_default(13)
    for i, (caption, panel) in enumerate(panels.items()):
        left = GAP + i * (SIDE + GAP)
        factor = SIDE / max(panel.size)
        size = [max(1, round(side * factor)) for side in panel.size]
        sheet.paste(panel.resize(size, PIL.Image.Resampling.NEAREST), (left, CAPTION))
        write.text((left, 3), caption, fill=(0, 0, 0), font=font)
    return sheet


def extent(rows: int) -> tuple[int, int]:
    """Width and height of a figure of so many points."""
    return PANELS * (SIDE + GAP) + GAP, rows * (SIDE + CAPTION + GAP)


def sheet(rows: list[PIL.Image.Image]) -> PIL.Image.Image:
    """One row below the other."""
    whole = PIL.Image.new("RGB", extent(len(rows)), (255, 255, 255))
    top = 0
    for part in rows:
        whole.paste(part, (0, top))
        top += part.height
    return whole
