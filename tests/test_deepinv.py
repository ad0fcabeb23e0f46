"""A denoiser for deepinv: levels in [0, 1], batches, any size, gradients; as a prior it beats total variation."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import DATA, saved, tiny
from PIL import Image

from dagl_cli import UsageError, deepinv
from dagl_cli.config import Options
from dagl_cli.deepinv import Denoiser
from dagl_cli.packages import load
from dagl_cli.restoring.restorer import load_model

library: Any = load("deepinv")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def gray() -> Denoiser:
    return Denoiser("denoise-gray-fast")


def test_results_are_those_of_dagl(gray: Denoiser) -> None:
    x = torch.rand(2, 1, 9, 14, generator=torch.Generator().manual_seed(0)) / 2 + 0.25
    assert isinstance(gray, library.models.Denoiser)
    restorer = load_model("denoise", 1, model="denoise-gray-fast", options=Options("cpu"))
    sigmas = (10 / 255, 60 / 255)
    results = gray(x, torch.tensor(sigmas))
    for image, sigma, result in zip(x, sigmas, results):
        torch.testing.assert_close(result.clamp(0, 1), restorer(image, 255 * sigma), atol=1e-5, rtol=0)
        for one in (sigma, torch.tensor(sigma), torch.tensor([sigma]), torch.full((1, 1, 1, 1), sigma)):
            torch.testing.assert_close(gray(image[None], one)[0], result, atol=1e-5, rtol=0)
    torch.testing.assert_close(gray(x.double(), 0.1), gray(x, 0.1).double(), atol=1e-5, rtol=0)


def test_levels_above_those_of_the_training(gray: Denoiser) -> None:
    """Of much noise most goes, and nothing jumps where the training ends."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.linspace(0.2, 0.8, 40).expand(1, 1, 40, -1)
    noisy = clean + torch.randn(clean.shape, generator=generator) * 0.8
    assert (gray(noisy, 0.8) - clean).std() < 0.15
    below, above = (gray(noisy, deepinv.HIGHEST + step) for step in (-1e-5, 1e-5))
    torch.testing.assert_close(below, above, atol=1e-3, rtol=0)


@pytest.mark.parametrize("graph", [False, "gated"])
def test_gradients_reach_the_image_and_the_level(graph: bool | str) -> None:
    torch.manual_seed(0)
    network = tiny(graph=graph)
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.normal_(layer.weight, std=0.1)
    denoiser = Denoiser(network)
    x = torch.rand(2, 1, 20, 17, requires_grad=True)
    sigma = torch.tensor([0.1, 0.5], requires_grad=True)
    by_x, by_sigma = torch.autograd.grad(denoiser(x, sigma).square().sum(), (x, sigma))
    assert by_x.abs().amax((1, 2, 3)).min() > 0
    assert by_sigma.abs().min() > 0
    assert all(p.requires_grad for p in network.parameters()), "a network that is given can go on training"
    assert not any(p.requires_grad for p in Denoiser("denoise-gray-fast").parameters())


@pytest.mark.parametrize(
    "sigma",
    [torch.zeros(3), torch.zeros(2, 2), torch.zeros(2, 1, 8, 8), torch.zeros(0), -0.1, 1.5, 25, float("nan"),
     None, "0.1", torch.tensor([0.1, 2]), torch.tensor(0.1 + 0j)],
    ids=str,
)  # fmt: skip
def test_a_level_that_is_none(sigma: Any) -> None:
    with pytest.raises(UsageError, match="`sigma` "):
        Denoiser(tiny(graph=False))(torch.zeros(2, 1, 8, 8), sigma)


def test_what_it_does_not_take(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"`x` is of shape \(1, 3, 8, 8\), .*: this model takes \(B, 1, H, W\)"):
        Denoiser(tiny(graph=False))(torch.zeros(1, 3, 8, 8), 0.1)
    with pytest.raises(UsageError, match=r"torch\.uint8: this model takes"):
        Denoiser(tiny(graph=False))(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), 0.1)
    for shape in ((0, 1, 8, 8), (1, 1, 0, 8)):
        with pytest.raises(UsageError, match=r"`x` is of shape .*: this model takes \(B, 1, H, W\)"):
            Denoiser(tiny(graph=False))(torch.zeros(shape), 0.1)
    with pytest.raises(UsageError, match="`x` is a ndarray: this model takes a tensor"):
        Denoiser(tiny(graph=False))(torch.zeros(1, 1, 8, 8).numpy(), 0.1)
    with pytest.raises(UsageError, match="is told no noise level"):
        Denoiser(saved(tmp_path / "jpeg.safetensors", tiny("dejpeg", 3, graph=False)))
    with pytest.raises(UsageError, match="`channels` must be 1"):
        Denoiser(channels=2)


def test_as_a_prior_it_beats_total_variation(gray: Denoiser) -> None:
    """Inpainting: half of the pixels are missing, the rest is noisy; each prior at the best of several strengths."""
    with Image.open(DATA / "cords.png") as file:
        clean = torch.from_numpy(np.asarray(file.convert("L"))[16:64, 16:64] / np.float32(255))[None, None]
    torch.manual_seed(0)
    physics = library.physics.Inpainting((1, 48, 48), mask=0.5, noise_model=library.physics.GaussianNoise(0.05))
    measured = physics(clean)

    def psnr(prior: Any, steps: torch.Tensor, **how: Any) -> float:
        """Half-quadratic splitting, with steps that become smaller."""
        method = library.optim.HQS(
            prior=prior, data_fidelity=library.optim.L2(), max_iter=len(steps), stepsize=steps.tolist(), **how
        )
        with torch.no_grad():
            return float(-10 * (method(measured, physics) - clean).square().mean().log10())

    levels = torch.logspace(math.log10(0.5), math.log10(0.03), 12)  # as DPIR does
    ours = psnr(library.optim.PnP(denoiser=gray), (levels / 0.05) ** 2 / 0.23, sigma_denoiser=levels.tolist())
    steps = torch.logspace(math.log10(30), 0, 16)
    theirs = [psnr(library.optim.TVPrior(n_it_max=100), steps, lambda_reg=strength) for strength in (0.005, 0.01)]
    assert max(theirs) > psnr(library.optim.ZeroPrior(), steps) + 5
    assert ours > max(theirs) + 1
