"""What the training makes of clean crops."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dagl_cli.training.crops import Crops
from dagl_cli.training.photos import load_photos


def test_degradations(scenes: Path) -> None:
    found, _ = load_photos([scenes], 3, 24)

    def batch(task: str, **settings: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        crops = Crops(found, task, 16, 64, seed=0, **settings)  # type: ignore[arg-type]
        return crops.degraded(crops[0], 0)

    noisy, clean, sigma = batch("denoise")
    assert sigma is not None
    measured = (noisy - clean).std((1, 2, 3)) * 255
    assert ((measured / sigma - 1).abs() < 0.2).sum() > 40  # those saved as 8 bit lose what was clipped
    noisy, clean, sigma = batch("denoise", sigma=25.0)
    assert sigma is not None
    assert set(sigma.tolist()) == {25.0}
    assert float((noisy - clean).std()) * 255 == pytest.approx(25, rel=0.02)
    same, _, told = batch("denoise", sigma=25.0, sigma_error=0.2)
    assert told is not None
    assert torch.equal(same, noisy)
    assert 20 <= told.min() < 21.5 < 28.5 < told.max() <= 30
    assert 16 < (told == 25).sum() < 48
    mosaic, clean, _ = batch("demosaic")
    assert torch.equal(mosaic[:, 1, ::2, ::2], clean[:, 1, ::2, ::2])  # GRBG
    assert mosaic[:, 0, ::2, ::2].abs().sum() == 0
    mosaic, clean, told = batch("raw")
    assert told is not None
    assert mosaic[:, 0, ::2, ::2].abs().sum() == 0  # GRBG
    error, level = ((255 * (mosaic - clean)[:, 1, ::2, ::2]).square().mean((1, 2)).sqrt(), told[:, 0, ::2, ::2])
    ratio = error / level.square().mean((1, 2)).sqrt()
    assert ((ratio > 0.6) & (ratio < 1.4)).sum() > 50  # with levels that are off by up to 25 %
    for task, least, most in (("dejpeg", 56, 0.02), ("real", 64, 0.1)):
        degraded, clean, _ = batch(task)
        error = (degraded - clean).square().mean((1, 2, 3))
        assert (error > 0).sum() >= least
        assert error.max() < most  # the pair shows the same place
        assert torch.equal(degraded, (degraded * 255).round() / 255)  # as a file would have it
