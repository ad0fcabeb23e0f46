"""A graph over pixel-exact patches, with edges from a pilot estimate and a gate in the patches' DCT.

Section 3.2 of the paper, in other terms, as `GatedGraph`:

    nodes        patches at full resolution; queries every `stride` pixels, keys at every pixel of a window
    similarity   how near two patches of the pilot are (what the trunk made of the picture), in units of the noise
                 (the picture's; of camera noise, which is not the same everywhere, each node's own)
    neighbours   a dynamic number: of the nearest keys, those above the node's own threshold (Eq. 7, 8)
    attention    over the neighbours only (Eq. 9); an edge fades in as it passes the threshold
    aggregation  of noisy patches (Eq. 10), coefficient by coefficient through a gate that holds noise back (Wiener's),
                 and of values that are learned from the network's features
    fold         overlapping patches averaged (Eq. 11), those with less noise left weighing more
    heads        on the same candidates, each with its own threshold, temperature and gate, merged by `Fusion` (Eq. 12)

Shapes: B images, C channels, P the patch's side, D = P² coefficients, Q queries, h x w keys, E candidates, K heads,
V numbers in a learned value.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import BLOCK
from .search import Grid, search, spread

QUIETEST = 1 / 255
"""Lower noise levels count as this one: distances and the gate are in units of the noise."""
USUAL = 10 / 255
"""The level from which a blind task's estimate starts."""
LEAST = 1e-6
"""Of a gate, before its exponent."""
CHUNK = 2**19
"""Numbers in the gathered patches of so many queries: they stay in the cache, and memory is bounded, a thread's."""
MANY = 2**25
"""The same where there is no such cache, but every operator has to be launched: on a GPU."""
BLEND = 0.4
"""How far the result goes from the pilot to the heads' mean before anything is learned."""
FARTHEST = 3.0
"""How often as far as to a head it goes at most: told a tenth of the noise, what is learned would go 10 times as far,
and make it stronger. Of noise all heads together lead no farther than to them."""


def dct_basis(size: int) -> Tensor:
    """(size², size²): the orthonormal DCT of a size x size patch, a row for each coefficient, the mean first."""
    k, n = torch.arange(size, dtype=torch.float64)[:, None], torch.arange(size, dtype=torch.float64)
    rows = torch.cos(math.pi / size * (n + 0.5) * k) * math.sqrt(2 / size)
    rows[0] /= math.sqrt(2)
    return torch.kron(rows, rows)


OPPONENT = torch.tensor([[1.0, 1, 1], [1, 0, -1], [1, -2, 1]]) / torch.tensor([[3.0], [2], [6]]).sqrt()
"""Brightness and two colour differences of RGB, orthonormal: white noise stays white."""


def opponent(x: Tensor) -> Tensor:
    """(B, C, H, W): RGB as brightness and colour differences; gray as it is."""
    return x if x.shape[1] == 1 else torch.einsum("oc,bchw->bohw", OPPONENT.to(x), x)


def rgb(x: Tensor) -> Tensor:
    """Undoes `opponent`."""
    return x if x.shape[1] == 1 else torch.einsum("oc,bohw->bchw", OPPONENT.to(x), x)


def dct(patches: Tensor, basis: Tensor) -> Tensor:
    """(..., C D) pixels -> (..., C D) coefficients."""
    return (patches.unflatten(-1, (-1, len(basis))) @ basis.T).flatten(-2)


def coefficients(image: Tensor, basis: Tensor) -> Tensor:
    """The DCT of every patch: (B, C, H, W) -> (B, C, h, w, D)."""
    size = math.isqrt(len(basis))
    planes, kernels = image.flatten(0, 1)[:, None], basis.view(-1, 1, size, size)
    planes, kernels = (x.to(memory_format=torch.channels_last) for x in (planes, kernels))
    found = F.conv2d(planes, kernels)
    return found.permute(0, 2, 3, 1).contiguous().unflatten(0, image.shape[:2])


def strips(image: Tensor, size: int) -> Tensor:
    """What patches of `size` are cut from: (B, C, H, W) -> (C, B H w, size), the pixels from each one on rightwards."""
    return image.transpose(0, 1).unfold(3, size, 1).flatten(1, 3)


def rows_of(places: Tensor, shape: torch.Size, width: int) -> Tensor:
    """Which rows of all `strips`, of that shape, are the patches at some places, of which `width` make a row of the
    image: (...) -> (..., C, size)."""
    channels, count, size = shape
    first, down = (torch.arange(n, device=places.device) for n in (channels, size))
    return places[..., None, None] + (first[:, None] * count + down * width)


def cut(strips: Tensor, rows: Tensor) -> Tensor:
    """The patches that are made of some rows: (..., C, size) -> (..., C D)."""
    return strips.flatten(0, 1).index_select(0, rows.flatten()).view(*rows.shape[:-2], -1)


def fold(patches: Tensor, basis: Tensor, stride: int) -> Tensor:
    """The sum of patches given by their DCT: (B, rows, columns, N, D) -> (B * N, H, W)."""
    size = math.isqrt(len(basis))
    height, width = ((count - 1) * stride + size for count in patches.shape[1:3])
    pixels = (patches @ basis).flatten(1, 2).flatten(2).mT  # (B, N D, rows * columns)
    return F.fold(pixels, (height, width), size, stride=stride).flatten(0, 1)


class Values(nn.Module):
    """What a node says beside its patch, learned: V numbers of the features in its place; and what pixels make of what
    the neighbours say."""

    def __init__(self, features: int, scale: int, heads: int, values: int, patch: int, stride: int) -> None:
        super().__init__()
        self.scale = scale
        self.embed = nn.Conv2d(features, values, patch // scale)
        self.fold = nn.ConvTranspose2d(heads * values, values, patch, stride, bias=False)

    def forward(self, features: Tensor, keys: tuple[int, int]) -> Tensor:
        """(B, features, H / scale, W / scale), rounded up -> (B, h, w, V): nodes that start between two of the
        features' pixels have the mean of both."""
        if self.scale == 1:
            return self.embed(features).permute(0, 2, 3, 1)
        embedded = self.embed(F.pad(features, (0, 1, 0, 1), mode="replicate"))
        size = [self.scale * (side - 1) + 1 for side in embedded.shape[-2:]]
        between = F.interpolate(embedded, size, mode="bilinear", align_corners=True)
        return between[..., : keys[0], : keys[1]].permute(0, 2, 3, 1)


class GatedGraph(nn.Module):
    """K heads of the graph: (noisy, pilot, sigma) -> what each makes of the picture."""

    def __init__(
        self, channels: int, heads: int, patch: int, stride: int, window: int, neighbours: int,
        values: Values | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.heads, self.patch, self.stride, self.window, self.neighbours = heads, patch, stride, window, neighbours
        size = patch * patch
        self.metric = nn.Parameter(torch.zeros(size))
        """Logarithm of each coefficient's weight in the distance."""
        self.temperature = nn.Parameter(torch.tensor([head * math.log(2) for head in range(heads)]))
        """Its logarithm: every head starts twice as steep as the one before."""
        self.threshold = nn.Linear(size, 2 * heads)
        """gamma and beta of Eq. 7, of what a node's pilot shows."""
        nn.init.zeros_(self.threshold.weight)
        nn.init.constant_(self.threshold.bias, math.log(math.e - 1))  # softplus makes 1 of it
        self.noise, self.exponent, self.share = (nn.Parameter(torch.zeros(heads, 2, channels * size)) for _ in range(3))
        """Of the two gates, for what neighbours have in common and for what is the node's own: logarithms of the
        noise's weight and of the exponent; how much of the pilot comes in place of what is held back."""
        self.values = values

    @property
    def maps(self) -> int:
        """How many maps come with the heads' pictures."""
        return 2 * self.heads + (self.values.embed.out_channels if self.values else 0)

    def forward(
        self, noisy: Tensor, pilot: Tensor, sigma: Tensor, features: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """noisy, pilot: (B, C, H, W), float32, H and W such that patches at every stride cover them; sigma: each
        query's noise level, (B, rows, columns), or one for all, (B, 1, 1), on the scale of the pixels; features: what
        the learned values are made of, if there are any.

        Returns (B, K, C, H, W), the heads' pictures, and (B, 2 K + V, H, W), how much noise is left, how many
        neighbours there were, and what their learned values say.
        """
        channels = noisy.shape[1]
        height, width = noisy.shape[-2:]
        grid = Grid.of(height, width, self.patch, self.stride, self.window)
        images = opponent(noisy), opponent(pilot)
        with torch.no_grad():
            edges = self.search(self.embedded(images[1]), grid)
        values = noisy.new_empty(len(noisy), *grid.keys, 0)
        if self.values is not None:
            assert features is not None
            values = self.values(features, grid.keys).contiguous()
        levels = sigma.clamp_min(QUIETEST).expand(edges.shape[:3])
        patches, noise, number, said = self.aggregate(*images, values, edges, levels)
        return self.collect(patches, noise, number, said, channels)

    @property
    def basis(self) -> Tensor:
        """Not a buffer, which a model that is loaded onto 'meta' would lack."""
        return dct_basis(self.patch).to(self.metric)

    def embedded(self, pilot: Tensor) -> Tensor:
        """What is compared: the brightness of every patch of (B, C, H, W), as `opponent` has it -> (B, h, w, D)."""
        return coefficients(pilot[:, :1], self.basis * (self.metric / 2).exp()[:, None])[:, 0]

    def search(self, embedded: Tensor, grid: Grid) -> Tensor:
        return search(embedded, grid, self.neighbours)

    def fold(self, patches: Tensor) -> Tensor:
        return fold(patches, self.basis, self.stride)

    def aggregate(
        self, noisy: Tensor, pilot: Tensor, values: Tensor, candidates: Tensor, sigma: Tensor
    ) -> tuple[Tensor, ...]:
        """Patches by their neighbours, and what is known of them.

        noisy, pilot: (B, C, H, W), as `opponent` has them; values: (B, h, w, V); candidates: (B, rows, columns, E);
        sigma: (B, rows, columns). Returns (B, rows, columns, K, C D) patches, and of each the variance of its noise in
        units of sigma² and the number of its neighbours, (B, rows, columns, K), and their values, (B, rows, columns,
        K, V).
        """
        batch, rows, columns, count = candidates.shape
        height, width = noisy.shape[2], values.shape[2]  # of the keys: what patches can start at
        from_noisy, from_pilot = (strips(image, self.patch) for image in (noisy, pilot))
        # where things lie in the list of all images' strips, and of their values
        device, basis = candidates.device, self.basis
        down, across = (torch.arange(n, device=device) * self.stride for n in (rows, columns))
        images = torch.arange(batch, device=device).view(-1, 1, 1)
        own = (images * (height * width) + down[:, None] * width + across).flatten()  # (Q,)
        places = (candidates + (images * (height * width))[..., None]).flatten(0, 2)  # (Q, E)
        of_values = (candidates + (images * (values.shape[1] * width))[..., None]).flatten(0, 2)

        def combined(own: Tensor, places: Tensor, of_values: Tensor, level: Tensor) -> tuple[Tensor, ...]:
            own, near = (rows_of(some, from_noisy.shape, width) for some in (own, places))
            pilot = cut(from_pilot, own)
            shift = dct(cut(from_pilot, near).sub_(pilot[:, None]), basis)
            near_values = values.flatten(0, 2).index_select(0, of_values.flatten()).unflatten(0, of_values.shape)
            noisy, pilot = dct(cut(from_noisy, own), basis), dct(pilot, basis)
            return self.combine(cut(from_noisy, near), shift, near_values, noisy, pilot, level, basis)

        most = CHUNK if device.type == "cpu" else MANY
        step = max(1, most // (count * noisy.shape[1] * len(self.metric)))
        parts = list(zip(*(x.split(step) for x in (own, places, of_values, sigma.reshape(-1, 1)))))
        chunks = spread(combined, parts, device)
        return tuple(torch.cat(found).unflatten(0, (batch, rows, columns)) for found in zip(*chunks))

    def combine(
        self,
        near: Tensor,
        shift: Tensor,
        values: Tensor,
        noisy: Tensor,
        pilot: Tensor,
        sigma: Tensor,
        basis: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Q nodes, (Q, C D), and their candidates -> as `aggregate`.

        noisy, pilot, shift are coefficients. near: (Q, E, C D), the pixels of the candidates' noisy patches, of which
        only means are transformed; shift: (Q, E, C D), what their pilots differ by from the node's own; values:
        (Q, E, V); sigma: (Q, 1); basis: (D, D).
        """
        squares = shift.square()
        weights = self.attention(self.distance(squares) / sigma**2, pilot / sigma)  # (Q, K, E)
        number = 1 / weights.square().sum(-1)
        mean_shift = weights @ shift
        variance = (weights @ squares - mean_shift.square()).relu()
        mean = pilot[:, None] + mean_shift
        patches, noise = self.gate(dct(weights @ near, basis), mean, variance, number, noisy, pilot, sigma)
        return patches, noise, number, weights @ values

    def distance(self, squares: Tensor) -> Tensor:
        """(..., C D) squared differences -> (...), their weighted mean; of colours their brightness counts."""
        return squares[..., : len(self.metric)] @ self.metric.exp() / len(self.metric)

    def attention(self, distance: Tensor, own: Tensor) -> Tensor:
        """(Q, E) distances to the candidates, (Q, C D) nodes, in units of the noise -> (Q, K, E) weights of the
        edges, 0 where there is none, 1 in all."""
        similarity = -distance[:, None] * self.temperature.exp()[:, None]  # (Q, K, E)
        gamma, beta = self.thresholds(own)
        threshold = gamma * similarity.mean(-1) - beta  # Eq. 7; less than a node's similarity to itself, which is 0
        edges = (similarity - threshold[..., None]).relu()  # Eq. 8
        most = edges.amax(-1, keepdim=True)
        weights = (edges - most).exp() - (-most).exp()  # Eq. 9, with exp(A) - 1 for exp(A)
        return weights / weights.sum(-1, keepdim=True)

    def thresholds(self, own: Tensor) -> tuple[Tensor, Tensor]:
        """(Q, C D) nodes in units of the noise -> gamma and beta of Eq. 7, (Q, K) each, positive."""
        shown = own[..., : len(self.metric)].square().log1p()
        gamma, beta = F.softplus(self.threshold(shown)).unflatten(-1, (2, -1)).unbind(-2)
        return gamma, beta

    def gate(
        self,
        common: Tensor,
        mean: Tensor,
        variance: Tensor,
        number: Tensor,
        noisy: Tensor,
        pilot: Tensor,
        sigma: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Of what the neighbours have in common and of what is the node's own, as much as the pilot says is signal.

        common, mean, variance: (Q, K, C D) weighted means of the neighbours' noisy patches and of their pilots, and the
        variance of the latter; number: (Q, K); noisy, pilot: (Q, C D), the node itself; sigma: (Q, 1).
        Returns (Q, K, C D) and the variance of its noise in units of sigma², (Q, K).
        """
        noisy, pilot, number = noisy[:, None], pilot[:, None], number[..., None]
        shared_noise, own_noise = (sigma[..., None].square() * weight for weight in self.noise.exp().unbind(1))
        shared, own = (
            (signal / (signal + noise)).clamp_min(LEAST) ** exponent
            for signal, noise, exponent in zip(
                (mean.square(), variance), (shared_noise / number, own_noise), self.exponent.exp().unbind(1)
            )
        )
        shared_pilot, own_pilot = self.share.unbind(1)
        patches = torch.lerp(shared_pilot * mean, common, shared)
        patches = patches + torch.lerp(own_pilot * (pilot - mean), noisy - common, own)
        return patches, (shared.square() / number + own.square()).mean(-1)

    def collect(
        self, patches: Tensor, noise: Tensor, number: Tensor, values: Tensor, channels: int
    ) -> tuple[Tensor, Tensor]:
        """What `aggregate` gives -> what `forward` gives: patches folded, those with less noise weighing more."""
        weights = 1 / noise.clamp_min(LEAST)
        ones = weights.new_ones(1, 1, self.patch, self.patch)
        maps = torch.stack((weights, number, torch.ones_like(number)), 1)
        maps = maps.permute(0, 4, 1, 2, 3)  # (B, K, 3, rows, columns)
        batch = maps.shape[0]
        sums = F.conv_transpose2d(maps.flatten(0, 2)[:, None], ones, stride=self.stride)[:, 0]
        height, width = sums.shape[1], sums.shape[2]
        weight, number, count = sums.view(batch, self.heads, 3, height, width).unbind(2)  # (B, K, H, W)
        weighted = (patches * weights[..., None]).unflatten(-1, (channels, -1)).flatten(3, 4)
        images = self.fold(weighted).view(batch, self.heads, channels, height, width) / weight[:, :, None]
        images = rgb(images.flatten(0, 1)).view(batch, self.heads, channels, height, width)
        found = [(weight / count).log() / 4, number / count / self.neighbours]
        if self.values is not None:
            found.append(self.values.fold(values.flatten(3).permute(0, 3, 1, 2)) / count[:, :1])
        return images, torch.cat(found, 1)


def reference(
    graph: GatedGraph, noisy: Tensor, pilot: Tensor, sigma: Tensor, features: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`GatedGraph.forward`, the equations one after the other, with the whole graph in memory: Q x N edges a head."""
    _, channels, height, width = noisy.shape
    grid = Grid.of(height, width, graph.patch, graph.stride, graph.window)
    images, maps = [], []
    levels = sigma.clamp_min(QUIETEST).expand(-1, *grid.queries).flatten(1)[..., None]  # (B, Q, 1)
    for i, (y, x, level) in enumerate(zip(opponent(noisy), opponent(pilot), levels)):
        # nodes: the DCT of all patches, (N, C D); which of them are queries; what these see
        y_nodes, x_nodes = (
            torch.einsum("cdn,ed->nce", F.unfold(image[:, None], graph.patch), graph.basis).flatten(1)
            for image in (y, x)
        )
        places = torch.arange(grid.keys[0] * grid.keys[1]).view(grid.keys)
        queries = places[:: graph.stride, :: graph.stride].flatten()
        seen = torch.zeros(len(queries), len(places.flatten()), dtype=torch.bool)
        for q, query in enumerate(queries.tolist()):
            (top, bottom), (left, right) = (
                grid.windows(axis)[place // graph.stride // BLOCK]
                for axis, place in enumerate(divmod(query, grid.keys[1]))
            )
            seen[q, places[top:bottom, left:right].flatten()] = True
        own = x_nodes[queries]
        distance = graph.distance((x_nodes - own[:, None]).square())  # (Q, N)
        order = distance.masked_fill(~seen, math.inf)
        order[torch.arange(len(queries)), queries] = -1  # a node is always its own neighbour
        candidates = order.topk(min(graph.neighbours, int(seen[0].sum())), -1, largest=False).indices
        # edges, Eq. 7-9
        near = graph.attention(distance.gather(1, candidates) / level**2, own / level)  # (Q, K, E)
        alpha = near.new_zeros(len(queries), graph.heads, len(y_nodes)).scatter(
            2, candidates[:, None].expand(near.shape), near
        )  # (Q, K, N)
        # aggregation, Eq. 10
        number = 1 / alpha.square().sum(-1)
        mean = alpha @ x_nodes  # (Q, K, C D)
        spread = torch.einsum("qkn,qknd->qkd", alpha, (x_nodes - mean[:, :, None]).square())
        patches, noise = graph.gate(alpha @ y_nodes, mean, spread, number, y_nodes[queries], own, level)
        # fold, Eq. 11
        pixels = torch.einsum("qkce,ed->kcdq", patches.unflatten(2, (channels, -1)), graph.basis)

        def folded(values: Tensor) -> Tensor:  # (K, C, P², Q) -> (K, C, H, W)
            return F.fold(values.flatten(1, 2), (height, width), graph.patch, stride=graph.stride)

        def everywhere(values: Tensor) -> Tensor:  # (Q, K) -> (K, 1, P², Q)
            return values.T[:, None, None].expand(-1, 1, graph.patch**2, -1)

        weights = 1 / noise.clamp_min(LEAST)
        weight, count = folded(everywhere(weights)), folded(everywhere(torch.ones_like(weights)))
        images.append(rgb(folded(pixels * weights.T[:, None, None]) / weight))
        found = [(weight / count).log() / 4, folded(everywhere(number)) / count / graph.neighbours]
        if graph.values is not None:
            assert features is not None
            said = alpha @ graph.values(features[i : i + 1], grid.keys)[0].flatten(0, 1)  # (Q, K, V)
            kernels = graph.values.fold.weight.unflatten(0, said.shape[1:])  # (K, V, V, P, P)
            found.append(folded(torch.einsum("qkv,kvuyx->uyxq", said, kernels).flatten(1, 2)[:, None]) / count[:1])
        maps.append(torch.cat(found))
    return torch.stack(images), torch.stack(maps)[:, :, 0]


class GatedStage(nn.Module):
    """The graph and what is made of it: from a pilot to a better estimate.

    A small residual network at the trunk's resolution weighs, pixel by pixel, how far to go from the pilot to each
    head's picture, and adds what it sees beside. graph: None leaves only this network, to tell what a graph is worth.
    """

    def __init__(
        self,
        channels: int,
        features: int,
        scale: int,
        blocks: Iterable[nn.Module],
        graph: GatedGraph | None,
        blind: bool,
        noise: bool,
        local: bool = False,
    ) -> None:
        super().__init__()
        self.noise = noise
        """Whether the task's pictures are noisy: in others neighbours are no independent samples, and the graph has
        the pilot's patches in place of theirs."""
        self.level = nn.Conv2d(features, 1, 1) if blind else None
        """Of a task that tells no noise level: its logarithm, of which each image's mean counts."""
        if self.level is not None:
            nn.init.zeros_(self.level.weight)
            nn.init.constant_(self.level.bias, math.log(USUAL))  # type: ignore[arg-type]
        self.local = nn.Conv2d(features, 1, graph.patch // scale, graph.stride // scale) if graph and local else None
        """Where the noise is not the same everywhere: the logarithm of what each node's is more than the picture's."""
        if self.local is not None:
            nn.init.zeros_(self.local.weight)
            nn.init.zeros_(self.local.bias)  # type: ignore[arg-type]
        self.channels, self.scale, self.graph = channels, scale, graph
        self.heads = graph.heads if graph else 0
        maps = channels * (2 + self.heads) + (graph.maps if graph else 0) + 1
        self.conv_in = nn.Conv2d(features + maps * scale**2, features, 3, padding=1)
        self.blocks = nn.Sequential(*blocks)
        self.conv_out = nn.Conv2d(features, (channels + self.heads) * scale**2, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]

    def forward(self, noisy: Tensor, pilot: Tensor, features: Tensor, sigma: Tensor | None) -> Tensor:
        """noisy, pilot: (B, C, H, W); features: (B, features, H / scale, W / scale), the trunk's; sigma: (B,), on the
        scale of the pixels, or None for a blind task. Returns (B, C, H, W)."""
        if not len(noisy):
            return pilot
        if sigma is None:
            assert self.level is not None
            logarithm = self.level(features)
            sigma = logarithm.to(torch.promote_types(logarithm.dtype, torch.float32)).mean((1, 2, 3)).exp()
        with torch.autocast(noisy.device.type, enabled=False):
            dtype = self.conv_out.weight.dtype  # float32, or what the whole network was made
            noisy, pilot, sigma = noisy.to(dtype), pilot.to(dtype), sigma.to(dtype).clamp_min(QUIETEST)
            heads, nodes = self.aggregate(noisy if self.noise else pilot, pilot, sigma, features)
            level = sigma.view(-1, 1, 1, 1)
            steps = heads - pilot[:, None]  # (B, K, C, H, W)
            maps = (pilot, (noisy - pilot) / level, (steps / level[:, None]).flatten(1, 2), nodes,
                    level.expand(-1, 1, *noisy.shape[-2:]))  # fmt: skip
        inputs = F.pixel_unshuffle(torch.cat(maps, 1), self.scale)
        inputs = torch.cat((features, inputs.to(features.dtype)), 1)
        change = F.pixel_shuffle(self.conv_out(self.blocks(self.conv_in(inputs))), self.scale).to(dtype)
        own, blend = change.split((self.channels, self.heads), 1)
        blend = (blend + BLEND / max(1, self.heads)).clamp(-FARTHEST, FARTHEST)
        if self.noise:  # in all to the heads, and no farther: in range it stays below 0.8
            blend = blend / blend.sum(1, keepdim=True).abs().clamp_min(1)
        return pilot + (blend[:, :, None] * steps).sum(1) + level * own

    def aggregate(self, noisy: Tensor, pilot: Tensor, sigma: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """`GatedGraph` on images of any size: mirrored at the right and at the bottom where no patch would reach."""
        if not self.graph:
            return noisy[:, None][:, :0], noisy[:, :0]
        height, width = noisy.shape[-2:]
        right, bottom = (covering(side, self.graph.patch, self.graph.stride) - side for side in (width, height))
        images = (mirrored(image, right, bottom) for image in (noisy, pilot))
        levels = sigma.view(-1, 1, 1)
        below = None  # what the learned values and the nodes' own levels are made of, where there are any
        if self.graph.values is not None or self.local is not None:
            below = mirrored(features.to(noisy.dtype), *(-(-more // self.scale) for more in (right, bottom)))
        if self.local is not None:
            levels = levels * self.local(below)[:, 0].exp()  # (B, rows, columns)
        heads, nodes = self.graph(*images, levels, below)
        return heads[..., :height, :width], nodes[..., :height, :width]


def covering(side: int, patch: int, stride: int) -> int:
    """The first length from `side` on that patches at every stride cover to its end."""
    return max(side, patch) + -(max(side, patch) - patch) % stride


def mirrored(image: Tensor, right: int, bottom: int) -> Tensor:
    """(B, C, H, W) with more columns and rows, mirrored; repeated where there is too little to mirror."""
    mode = "reflect" if min(image.shape[-2:]) > max(right, bottom) else "replicate"
    return F.pad(image, (0, right, 0, bottom), mode=mode)
