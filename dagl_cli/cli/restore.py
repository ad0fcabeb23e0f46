"""`dagl restore`."""

from __future__ import annotations

from typing import Annotated

import typer

from ..config import BAYER_PATTERNS, DEFAULT_PATTERN, check_pattern
from .boundary import app
from .completion import among
from .options import Chroma, Inputs, Luma, Output, Restoring, Strength, Suffix, flat
from .run import run


def restore(
    context: typer.Context,
    restoring: Restoring,
    paths: Inputs = None,
    output: Output = None,
    suffix: Suffix = "_restored",
    pattern: Annotated[
        str,
        typer.Option(
            help="Of mosaics in one channel: RGGB, BGGR, GRBG or GBRG.",
            envvar="DAGL_PATTERN",
            autocompletion=among(BAYER_PATTERNS),
        ),
    ] = DEFAULT_PATTERN,
    strength: Strength = 1.0,
    luma: Luma = 1.0,
    chroma: Chroma = 1.0,
) -> None:
    """Find out what each file needs, and do that: demosaicing, JPEG artifacts, noise; or nothing."""
    check_pattern(pattern.upper())
    options = restoring.options(strength=strength, luma=luma, chroma=chroma)
    run(context, paths, output, suffix, restoring, options, task="restore", pattern=pattern.upper())


app.command()(flat(restore))
