"""DAGL (Mou, Zhang, Wu: Dynamic Attentive Graph Learning for Image Restoration, ICCV 2021).

FEM    feature extraction: a convolution and ResBlocks
GFAM   graph-based feature aggregation: one head of dynamic graph attention (Section 3.3)
M-GFAM K heads side by side, merged by a 1x1 convolution (Eq. 12)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelConfig
from .attention import nonlocal_attention, same_padding
from .gated import GatedGraph, GatedStage, Values, mirrored
from .streaming import streaming


class PReLU(nn.PReLU):
    """One parameter; with gradients in a form whose backward pass takes a quarter of the time on the CPU."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.lerp(F.relu(x), x, self.weight.to(x.dtype)) if torch.is_grad_enabled() else super().forward(x)


class ResBlock(nn.Module):
    """conv3, activation, conv3, plus the input. No normalisation."""

    def __init__(self, features: int, activation: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.activation = PReLU() if activation == "prelu" else nn.ReLU()
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.activation(self.conv1(x)))


class MGFAM(nn.Module):
    """K heads of graph attention, merged by a 1x1 convolution, plus the input. (B, features, H, W) -> the same.

    The heads' parameters lie side by side in one tensor each, so that all heads run at once.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        heads, width, patch = config.heads, config.head_features, config.patch
        self.embed = nn.Conv2d(config.features, heads * width, 3, padding=1)
        self.value = nn.Conv2d(config.features, heads * width, 1)
        # the fully connected layers on 7x7 patches, as convolutions: no unfolded patches are needed
        self.query = nn.Conv2d(heads * width, heads * config.embedding, patch, config.stride, groups=heads)
        self.key = nn.Conv2d(
            heads * width, heads * config.embedding, patch, config.key_stride, patch // 2, groups=heads
        )
        # gamma and beta of Eq. 7: channels 2h and 2h + 1 belong to head h
        self.threshold = nn.Conv2d(config.features, heads * 2, patch, config.stride)
        self.merge = nn.Conv2d(heads * width, config.features, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.merge(self.aggregate(x))

    def aggregate(self, x: Tensor, attention: Callable[..., Tensor] = streaming) -> Tensor:
        """The heads' outputs before they are merged: (B, features, H, W) -> (B, K * head_features, H, W)."""
        c = self.config
        batch, _, height, width = x.shape
        embedded = self.embed(x)
        padding = same_padding(height, width, c.patch, c.stride)
        q = self._nodes(self.query, F.pad(embedded, padding))  # (B, K, L, D)
        k = self._nodes(self.key, embedded)  # (B, K, N, D)
        v = self.value(x).view(batch, c.heads, c.head_features, height, width)
        threshold = self.threshold(F.pad(x, padding)).view(batch, c.heads, 2, -1)
        if x.dtype != torch.float64:  # the softmax is steep: similarities are float32 under autocast too
            threshold = threshold.float()
        gamma, beta = threshold.unbind(2)  # (B, K, L)
        with torch.autocast(x.device.type, enabled=False):
            out = attention(
                q, k, v, gamma, beta, graph=c.graph, patch=c.patch, stride=c.stride, key_stride=c.key_stride
            )
        return out.view(batch, -1, height, width)

    def _nodes(self, layer: nn.Conv2d, x: Tensor) -> Tensor:
        """(B, K * C, H, W) -> (B, K, h * w, D), a grouped convolution and ReLU.

        Head by head: on the CPU that is faster than the grouped convolution, and so are channels that lie last, which
        leaves the nodes in order.
        """
        assert layer.bias is not None
        parts = (t.chunk(self.config.heads, dim) for t, dim in ((x, 1), (layer.weight, 0), (layer.bias, 0)))
        nodes = [
            F.conv2d(part.contiguous(memory_format=torch.channels_last), weight, bias, layer.stride, layer.padding)
            .permute(0, 2, 3, 1)
            .flatten(1, 2)
            for part, weight, bias in zip(*parts)
        ]
        return F.relu(torch.stack(nodes), inplace=True).transpose(0, 1)


class PrintedMGFAM(MGFAM):
    """M-GFAM as the paper prints it (Section 3.2), of which there is no released code. Same interface.

    Differs from the release in this: two 1x1 convolutions, f_edge and f_node, in place of a 3x3 convolution and fully
    connected layers; thresholds from f_edge's patches, not from the input; the softmax over the neighbours only; each
    head adds what it aggregates to its input, and the merged heads are the result.
    """

    def __init__(self, config: ModelConfig) -> None:
        nn.Module.__init__(self)
        self.config = config
        heads, features, patch = config.heads, config.features, config.patch
        self.edge, self.node = (nn.Conv2d(features, heads * features, 1) for _ in range(2))
        # psi_1 and psi_2 of Eq. 7: channels 2h and 2h + 1 belong to head h
        self.threshold = nn.Conv2d(heads * features, heads * 2, patch, config.stride, patch // 2, groups=heads)
        self.merge = nn.Conv2d(heads * features, features, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.merge(x.repeat(1, self.config.heads, 1, 1) + self.aggregate(x))  # Eq. 11, 12

    def aggregate(self, x: Tensor, attention: Callable[..., Tensor] = streaming) -> Tensor:
        """The heads' folded patches: (B, features, H, W) -> (B, K * features, H, W)."""
        c = self.config
        embedded, shape = self.edge(x), (len(x), c.heads, c.features, *x.shape[-2:])
        planes = embedded.reshape(-1, *shape[2:])
        q, k = (
            F.unfold(planes, c.patch, padding=c.patch // 2, stride=stride).mT.unflatten(0, shape[:2])
            for stride in (c.stride, c.key_stride)
        )  # (B, K, L, D) and (B, K, N, D), D = features * patch²
        threshold = self.threshold(embedded).view(len(x), c.heads, 2, -1)
        gamma, beta = (threshold if x.dtype == torch.float64 else threshold.float()).unbind(2)
        with torch.autocast(x.device.type, enabled=False):
            out = attention(
                q, k, self.node(x).view(shape), gamma, beta,
                graph=c.graph, patch=c.patch, stride=c.stride, key_stride=c.key_stride,
            )  # fmt: skip
        return out.flatten(1, 2)


class NonLocal(nn.Module):
    """Table 5's NL and MHNL: pixel-wise non-local attention in place of the graph. Same interface as MGFAM."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width = config.heads * config.head_features
        self.query, self.key, self.value = (nn.Conv2d(config.features, width, 1) for _ in range(3))
        self.merge = nn.Conv2d(width, config.features, 1)

    def forward(self, x: Tensor) -> Tensor:
        def nodes(t: Tensor) -> Tensor:  # (B, K * D, H, W) -> (B, K, H * W, D)
            return t.reshape(t.shape[0], self.config.heads, self.config.head_features, -1).transpose(-1, -2)

        out = nonlocal_attention(nodes(self.query(x)), nodes(self.key(x)), nodes(self.value(x)))
        return x + self.merge(out.transpose(-1, -2).reshape(x.shape[0], -1, *x.shape[-2:]))


STAGES: dict[str, type[MGFAM | NonLocal]] = {"nonlocal": NonLocal, "equations": PrintedMGFAM}
"""Graphs that are not `MGFAM` with other weights of the edges."""


def exact(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer in float32 where autocast would take less, but not in training.

    Of the first convolution and the last, and so of the sum that runs through the ResBlocks between them: bfloat16 has
    8 bits, as a picture has, and its rounding there is most of what it costs. They are a hundredth of the work.
    """
    if torch.is_grad_enabled() or not torch.is_autocast_enabled(x.device.type):
        return layer(x)
    with torch.autocast(x.device.type, enabled=False):
        return layer(x.float())


def compiled(model: DAGL) -> nn.Module:
    """`torch.compile` of a network, but for its graph over patches, whose loops over blocks it would unroll."""
    for module in model.modules():
        if isinstance(module, GatedGraph):
            module.forward = torch.compiler.disable(module.forward)  # type: ignore[method-assign]
    return torch.compile(model)  # type: ignore[return-value]


class DAGL(nn.Module):
    """The whole network (Figure 1).

    Args:
        config: the shape; `stages=0` is a plain residual network.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        inputs = config.channels * config.scale**2 + config.levels
        between = 0 if config.on_pilot else config.stage_blocks * max(0, config.stages - 1)
        outer = config.features // 2 if config.outer_blocks else config.features
        self.conv_in = nn.Conv2d(inputs, outer, 3, padding=1)
        if config.outer_blocks:
            self.encoder, self.decoder = (
                nn.ModuleList(ResBlock(outer, config.activation) for _ in range(config.outer_blocks)) for _ in range(2)
            )
            self.down = nn.Conv2d(outer, config.features, 2, 2)
            self.up = nn.ConvTranspose2d(config.features, outer, 2, 2)
        self.blocks = nn.ModuleList(
            ResBlock(config.features, config.activation) for _ in range(config.blocks + between)
        )
        self.stages = nn.ModuleList(self._stage(outer) for _ in range(config.stages))
        self.conv_body = nn.Conv2d(outer, outer, 3, padding=1)
        self.conv_out = nn.Conv2d(outer, config.channels * config.scale**2, 3, padding=1)

    def _stage(self, outer: int) -> nn.Module:
        c = self.config
        if c.graph == "gated":
            values = Values(outer, c.scale, c.heads, c.values, c.patch, c.stride) if c.heads and c.values else None
            shape = (c.channels, c.heads, c.patch, c.stride, c.window, c.neighbours)
            graph = GatedGraph(*shape, values) if c.heads else None
            blocks = (ResBlock(outer, c.activation) for _ in range(c.stage_blocks))
            blind = not c.noise_map or c.by_sample
            return GatedStage(c.channels, outer, c.scale, blocks, graph, blind, noise=c.of_noise, local=c.local_noise)
        return STAGES.get(c.graph, MGFAM)(c)

    def forward(self, x: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        """Restore a batch.

        x: (B, channels, H, W), range [0, 1], any H and W >= 1.
        sigma: noise level on the 0-255 scale, a number or (B,), or for mosaics a map, (B, 1, H, W); only and always
            for models with a noise map.
        Returns (B, channels, H, W), not clipped.
        """
        c = self.config
        if (sigma is not None) != c.noise_map:
            raise ValueError("sigma is for models with a noise map, and such a model needs it")
        height, width = x.shape[-2:]
        # whole cells of the pixel-unshuffle, mirrored where they are not full
        cell = c.scale * (2 if c.outer_blocks else 1)
        padded = mirrored(x, -width % cell, -height % cell) if cell > 1 else x
        features = F.pixel_unshuffle(padded, c.scale)
        level = None
        if c.by_sample:
            samples = torch.as_tensor(sigma, dtype=x.dtype, device=x.device) / 255
            samples = samples if samples.ndim == 4 else samples.reshape(-1, 1, 1, 1)
            samples = samples.expand(len(x), 1, height, width)
            samples = mirrored(samples, -width % cell, -height % cell) if cell > 1 else samples
            features = torch.cat((features, F.pixel_unshuffle(samples, c.scale)), 1)
        elif sigma is not None:
            level = (torch.as_tensor(sigma, dtype=x.dtype, device=x.device) / 255).reshape(-1).expand(len(x))
            features = torch.cat((features, level.view(-1, 1, 1, 1).expand(-1, 1, *features.shape[-2:])), 1)
        features = exact(self.conv_in, features)
        if c.outer_blocks:
            for block in self.encoder:
                features = block(features)
            features = features + self.up(self.body(self.down(features)))
            for block in self.decoder:
                features = block(features)
        else:
            features = self.body(features)
        residual = F.pixel_shuffle(exact(self.conv_out, self.conv_body(features)), c.scale)
        restored = padded + residual.to(x.dtype)
        for stage in self.stages if c.on_pilot else ():
            restored = stage(padded, restored, features, level).to(x.dtype)
        return restored[..., :height, :width]

    def body(self, features: Tensor) -> Tensor:
        """ResBlocks with the stages between them: (B, features, h, w) -> the same."""
        half = self.config.blocks // 2
        inside = () if self.config.on_pilot else self.stages
        stages = {half + i * self.config.stage_blocks: stage for i, stage in enumerate(inside)}
        for i, block in enumerate(self.blocks):
            if i in stages:
                features = stages[i](features)
            features = block(features)
        return features
