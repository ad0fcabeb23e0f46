"""`dagl denoise`."""

from __future__ import annotations

from typing import Annotated

import typer

from ..config import check_sigma
from ..errors import UsageError
from .boundary import app
from .options import Inputs, Output, Restoring, Strength, Suffix, by_environment, flat
from .run import run


def denoise(
    context: typer.Context,
    paths: Inputs,
    restoring: Restoring,
    output: Output = None,
    suffix: Suffix = "_denoised",
    sigma: Annotated[
        float | None,
        typer.Option(help="Noise level, 0-75 on the 0-255 scale; default: estimated.", envvar="DAGL_SIGMA"),
    ] = None,
    real: Annotated[bool, typer.Option("--real", help="Camera noise, blind.")] = False,
    strength: Strength = 1.0,
) -> None:
    """Remove noise: a known level (--sigma), an estimated one, or camera noise (--real)."""
    if real and sigma is not None:
        if not by_environment(context, "sigma"):
            raise UsageError("--real is blind: leave out --sigma, or leave out --real")
        sigma = None
    if sigma is not None:
        check_sigma(sigma)
    task = "real" if real else "denoise"
    run(context, paths, output, suffix, restoring, restoring.options(strength=strength), task=task, sigma=sigma)


app.command()(flat(denoise))
