"""`dagl denoise`."""

from __future__ import annotations

from typing import Annotated

import typer

from ..config import check_sigma
from .boundary import app
from .options import Chroma, Inputs, Luma, Output, Restoring, Strength, Suffix, by_environment, flat
from .run import run


def denoise(
    context: typer.Context,
    restoring: Restoring,
    paths: Inputs = None,
    output: Output = None,
    suffix: Suffix = "_denoised",
    sigma: Annotated[
        float | None,
        typer.Option(help="Noise level, 0-75 on the 0-255 scale; default: estimated.", envvar="DAGL_SIGMA"),
    ] = None,
    real: Annotated[bool, typer.Option("--real", help="It is camera noise, whatever it looks like.")] = False,
    strength: Strength = 1.0,
    luma: Luma = 1.0,
    chroma: Chroma = 1.0,
) -> None:
    """Remove noise: white or of a camera, which is found out, at an estimated level or a known one (--sigma)."""
    if real and by_environment(context, "sigma"):  # meant for white noise
        sigma = None
    if sigma is not None:
        check_sigma(sigma)
    options = restoring.options(strength=strength, luma=luma, chroma=chroma)
    run(context, paths, output, suffix, restoring, options, task="real" if real else "denoise", sigma=sigma)


app.command()(flat(denoise))
