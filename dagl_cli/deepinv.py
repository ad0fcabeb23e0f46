"""A dagl model as a denoiser of deepinv: the prior of plug-and-play methods.

>>> from dagl_cli.deepinv import Denoiser
>>> prior = deepinv.optim.PnP(denoiser=Denoiser(channels=1))
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .config import HIGHEST_SIGMA
from .errors import UsageError
from .nn.model import DAGL
from .packages import needed
from .restoring.restorer import find_model
from .store import weights

models: Any = needed("deepinv.models", "`dagl_cli.deepinv` needs deepinv ({}): pip install 'dagl[deepinv]'")
Base: Any = models.Denoiser
HIGHEST = HIGHEST_SIGMA / 255
"""On deepinv's scale, the most that the models are trained on."""


class Denoiser(Base):  # type: ignore[misc]
    """A network that is told the noise level. An ordinary module, whose gradients reach the image and `sigma`.

    Args:
        model: a bundled or imported name, a weight file, `hub:OWNER/REPO[@REVISION][:FILE]`, or a network
            (`dagl_cli.DAGL.from_pretrained`), which is used as it is; None: the best bundled one. Weights of a file
            are frozen.
        channels: of the images, 1 (gray) or 3 (RGB), where no model is given.
        device: where it computes.

    Raises UsageError for a model that is no denoiser or takes no level, WeightsError when there is none.
    """

    def __init__(
        self, model: str | Path | DAGL | None = None, channels: int = 3, device: str | torch.device = "cpu"
    ) -> None:
        super().__init__()
        name = "a network"
        if not isinstance(model, DAGL):
            path = find_model("denoise", channels, model)
            model, name = weights.load(path)[0].requires_grad_(False), str(path)
        config = model.config
        if not config.noise_map:
            raise UsageError(f"`model` {name}: is told no noise level (it is for {config.task}): choose a denoiser")
        self.model = model
        self.to(device)

    def forward(self, x: Tensor, sigma: float | Tensor, **more: Any) -> Tensor:
        """(B, C, H, W), [0, 1] but for the noise, any H and W -> the same, not clipped.

        sigma: the noise's standard deviation on the scale of x, 0 to 1; a number, or a tensor of one or of B numbers.
        The networks know noise up to 75 / 255: of an image with more the contrast is lowered, and raised again.

        Raises UsageError for other shapes, channels and levels.
        """
        wanted = f"(B, {self.model.config.channels}, H, W) of floats"
        if not isinstance(x, Tensor):
            raise UsageError(f"`x` is a {type(x).__name__}: this model takes a tensor {wanted}")
        if x.ndim != 4 or x.shape[1] != self.model.config.channels or not x.is_floating_point() or not x.numel():
            raise UsageError(f"`x` is of shape {tuple(x.shape)}, {x.dtype}: this model takes {wanted}")
        level = self._level(sigma, x).view(-1, 1, 1, 1)
        contrast = HIGHEST / level.clamp(min=HIGHEST)
        own = next(self.model.parameters()).dtype
        restored = self.model(((x - 0.5) * contrast + 0.5).to(own), (255 * level * contrast).flatten().to(own))
        return (restored.to(x.dtype) - 0.5) / contrast + 0.5

    def _level(self, sigma: float | Tensor, x: Tensor) -> Tensor:
        """(B,). Raises UsageError."""
        try:
            level = torch.as_tensor(sigma, device=x.device)
            if level.is_complex():
                raise TypeError
            level = level.to(x.dtype)
        except (TypeError, ValueError, RuntimeError):
            raise UsageError(f"`sigma` is a {type(sigma).__name__}: give one number, or {len(x)}") from None
        if level.numel() not in (1, len(x)) or level.numel() != max((1, *level.shape)):
            shape = tuple(level.shape)
            raise UsageError(f"`sigma` is of shape {shape} for a batch of {len(x)}: give one number, or {len(x)}")
        if not bool(((level >= 0) & (level <= 1)).all()):
            raise UsageError("`sigma` must be between 0 and 1, on the scale of the image")
        return level.flatten().expand(len(x))
