"""DAGL (Mou, Zhang, Wu: Dynamic Attentive Graph Learning for Image Restoration, ICCV 2021).

FEM    feature extraction: a convolution and ResBlocks
GFAM   graph-based feature aggregation: one head of dynamic graph attention (Section 3.3)
M-GFAM K heads side by side, merged by a 1x1 convolution (Eq. 12)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelConfig
from ..errors import WeightsError
from .attention import nonlocal_attention, same_padding, streaming


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


class DAGL(nn.Module):
    """The whole network (Figure 1).

    Args:
        config: the shape; `stages=0` is a plain residual network.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        inputs = config.channels * config.scale**2 + config.noise_map
        between = config.stage_blocks * max(0, config.stages - 1)
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
        stage = NonLocal if config.graph == "nonlocal" else MGFAM
        self.stages = nn.ModuleList(stage(config) for _ in range(config.stages))
        self.conv_body = nn.Conv2d(outer, outer, 3, padding=1)
        self.conv_out = nn.Conv2d(outer, config.channels * config.scale**2, 3, padding=1)

    def forward(self, x: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        """Restore a batch.

        x: (B, channels, H, W), range [0, 1], any H and W >= 1.
        sigma: noise level on the 0-255 scale, a number or (B,); only and always for models with a noise map.
        Returns (B, channels, H, W), not clipped.
        """
        c = self.config
        if (sigma is not None) != c.noise_map:
            raise ValueError("sigma is for models with a noise map, and such a model needs it")
        height, width = x.shape[-2:]
        # whole cells of the pixel-unshuffle: repeat the last row and column where one is missing
        cell = c.scale * (2 if c.outer_blocks else 1)
        padded = F.pad(x, (0, -width % cell, 0, -height % cell), mode="replicate")
        features = F.pixel_unshuffle(padded, c.scale)
        if sigma is not None:
            level = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1, 1, 1, 1) / 255
            features = torch.cat((features, level.expand(x.shape[0], 1, *features.shape[-2:])), 1)
        features = self.conv_in(features)
        if c.outer_blocks:
            for block in self.encoder:
                features = block(features)
            features = features + self.up(self.body(self.down(features)))
            for block in self.decoder:
                features = block(features)
        else:
            features = self.body(features)
        residual = F.pixel_shuffle(self.conv_out(self.conv_body(features)), c.scale)
        return x + residual[..., :height, :width].to(x.dtype)

    def body(self, features: Tensor) -> Tensor:
        """ResBlocks with the stages between them: (B, features, h, w) -> the same."""
        half = self.config.blocks // 2
        stages = {half + i * self.config.stage_blocks: stage for i, stage in enumerate(self.stages)}
        for i, block in enumerate(self.blocks):
            if i in stages:
                features = stages[i](features)
            features = block(features)
        return features


def released_config(task: str) -> ModelConfig:
    """The shape of the authors' checkpoint for a task: gray denoise and dejpeg, colour real and demosaic."""
    channels = 1 if task in ("denoise", "dejpeg") else 3
    return ModelConfig(task=task, channels=channels, blocks=32 if task == "demosaic" else 16)


# The authors' key -> ours. A '#' in ours is the head's number: heads are stacked into one tensor.
RELEASED_KEYS: dict[str, str] = {
    r"head\.0\.(.*)": r"conv_in.\1",
    r"tail\.0\.(.*)": r"conv_out.\1",
    r"stage(\d)_(\d)\.g\.(.*)": r"stages.\1.embed.\3#\2",
    r"stage(\d)_(\d)\.theta\.(.*)": r"stages.\1.value.\3#\2",
    r"stage(\d)_(\d)\.fc1\.0\.(.*)": r"stages.\1.query.\3#\2",
    r"stage(\d)_(\d)\.fc2\.0\.(.*)": r"stages.\1.key.\3#\2",
    r"stage(\d)_(\d)\.thr_conv\.(.*)": r"stages.\1.threshold.\3#\2a",
    r"stage(\d)_(\d)\.bias_conv\.(.*)": r"stages.\1.threshold.\3#\2b",
    r"stage(\d)_merge\.(.*)": r"stages.\1.merge.\2",
    r"block(\d+)\.body\.0\.(.*)": r"blocks.\1.conv1.\2",
    r"block(\d+)\.body\.1\.weight": r"blocks.\1.activation.weight",
    r"block(\d+)\.body\.2\.(.*)": r"blocks.\1.conv2.\2",
    r"conv_body\.(.*)": r"conv_body.\1",
}
RELEASED_UNUSED = r"add_mean\.(weight|bias)|stage\d_\d\.W\.(weight|bias)"
"""In every released checkpoint, used by no computation."""


def convert_released(state: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The authors' state dict in our names, strictly.

    Raises WeightsError for a key that is unknown, missing, or of another shape.
    """
    half = config.blocks // 2

    def position(key: str) -> str:
        """body.N... -> the flat names in RELEASED_KEYS: block, stage_head, merge."""
        key = re.sub(rf"^body\.{half}\.c(\d)_(\d)\.", lambda m: f"stage{int(m[1]) - 1}_{int(m[2]) - 1}.", key)
        key = re.sub(rf"^body\.{half}\.c(\d)_c\.", lambda m: f"stage{int(m[1]) - 1}_merge.", key)
        key = re.sub(
            rf"^body\.{half}\.RBS(\d)\.(\d)\.",
            lambda m: f"block{half + (int(m[1]) - 1) * config.stage_blocks + int(m[2])}.",
            key,
        )
        key = re.sub(rf"^body\.{config.blocks + 1}\.(weight|bias)", r"conv_body.\1", key)

        def block(m: re.Match[str]) -> str:
            i = int(m[1])
            shift = config.stage_blocks * (config.stages - 1) - 1
            return f"block{i if i < half else i + shift}.body."

        return re.sub(r"^body\.(\d+)\.body\.", block, key)

    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        place = position(key)
        if re.fullmatch(RELEASED_UNUSED, place):
            continue
        for pattern, name in RELEASED_KEYS.items():
            if re.fullmatch(pattern, place):
                target, _, head = re.sub(pattern, name, place).partition("#")
                parts.setdefault(target, {})[head] = value
                break
        else:
            raise WeightsError(f"the checkpoint has an unknown key '{key}': is it a DAGL {config.task} checkpoint?")

    with torch.device("meta"):
        wanted = DAGL(config).state_dict()
    if missing := sorted(wanted.keys() - parts.keys()):
        more = f" and {len(missing) - 1} more keys" if len(missing) > 1 else ""
        raise WeightsError(f"the checkpoint lacks '{missing[0]}'{more}")
    converted = {}
    for name, by_head in parts.items():
        if name not in wanted:
            raise WeightsError(f"the checkpoint has '{name}', which a {config.task} model has no place for")
        stacked, shape = torch.cat([by_head[head] for head in sorted(by_head)]), wanted[name].shape
        # the fully connected layers are convolutions here: (D, 784) -> (D, 16, 7, 7)
        linear = (shape[0], shape[1:].numel()) if name.endswith(("query.weight", "key.weight")) else shape
        if tuple(stacked.shape) != tuple(linear):
            raise WeightsError(f"'{name}' is {tuple(stacked.shape)} in the checkpoint, {tuple(linear)} in the model")
        converted[name] = stacked.reshape(shape)
    return converted


def misfits(model: nn.Module, state: Mapping[str, Any]) -> list[str]:
    """What `load_state_dict` would not take: names that are missing or unknown, other shapes."""
    own = model.state_dict()
    problems = [f"lacks {k}" for k in own if k not in state] + [f"has unknown {k}" for k in state if k not in own]
    return problems + [
        f"has {k} of shape {tuple(state[k].shape)}, not {tuple(own[k].shape)}"
        for k in own
        if k in state and own[k].shape != state[k].shape
    ]


def load_strictly(model: nn.Module, state: Mapping[str, Any], source: str) -> None:
    """load_state_dict that names in one line what does not fit. Raises WeightsError."""
    if problems := misfits(model, state):
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise WeightsError(f"{source} does not fit its own configuration: it {problems[0]}{more}")
    model.load_state_dict(state, assign=True)  # of a network on 'meta' too, so that nothing was made for nothing
