"""`dagl demosaic`."""

from __future__ import annotations

from typing import Annotated

import typer

from ..config import BAYER_PATTERNS, DEFAULT_PATTERN, check_pattern
from .boundary import app
from .completion import among
from .options import Inputs, Output, Restoring, Suffix, flat
from .run import run


def demosaic(
    context: typer.Context,
    restoring: Restoring,
    paths: Inputs = None,
    output: Output = None,
    suffix: Suffix = "_rgb",
    pattern: Annotated[
        str,
        typer.Option(
            help="The first two rows from the top left: RGGB, BGGR, GRBG or GBRG. Raw files know theirs.",
            envvar="DAGL_PATTERN",
            autocompletion=among(BAYER_PATTERNS),
        ),
    ] = DEFAULT_PATTERN,
    denoise: Annotated[bool, typer.Option("--denoise", help="Remove the camera's noise, too.")] = False,
) -> None:
    """Bayer mosaics (one channel, or three with zeros) and camera raw files to RGB."""
    check_pattern(pattern.upper())
    task = "raw" if denoise else "demosaic"
    run(context, paths, output, suffix, restoring, restoring.options(), task=task, pattern=pattern.upper())


app.command()(flat(demosaic))
