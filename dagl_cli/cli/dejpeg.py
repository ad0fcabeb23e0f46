"""`dagl dejpeg`."""

from __future__ import annotations

from typing import Annotated

import typer

from .boundary import app
from .options import Inputs, Output, Restoring, Strength, Suffix, flat
from .run import run


def dejpeg(
    context: typer.Context,
    restoring: Restoring,
    paths: Inputs = None,
    output: Output = None,
    suffix: Suffix = "_dejpeg",
    force: Annotated[bool, typer.Option("--force", help="Restore images without visible JPEG blocks too.")] = False,
    strength: Strength = 1.0,
) -> None:
    """Remove JPEG artifacts, at any quality."""
    run(context, paths, output, suffix, restoring, restoring.options(strength=strength), task="dejpeg", force=force)


app.command()(flat(dejpeg))
