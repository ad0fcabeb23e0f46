"""`dagl demosaic`."""

from __future__ import annotations

from typing import Annotated

import typer

from ..config import DEFAULT_PATTERN, check_pattern
from .boundary import app
from .options import Inputs, Output, Restoring, Suffix, flat
from .run import run


def demosaic(
    context: typer.Context,
    paths: Inputs,
    restoring: Restoring,
    output: Output = None,
    suffix: Suffix = "_rgb",
    pattern: Annotated[
        str,
        typer.Option(
            help="The first two rows from the top left: RGGB, BGGR, GRBG or GBRG. Raw files know theirs.",
            envvar="DAGL_PATTERN",
        ),
    ] = DEFAULT_PATTERN,
) -> None:
    """Bayer mosaics (one channel, or three with zeros) and camera raw files to RGB."""
    check_pattern(pattern.upper())
    run(context, paths, output, suffix, restoring, restoring.options(), task="demosaic", pattern=pattern.upper())


app.command()(flat(demosaic))
