"""`dagl graph`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from ..config import HIGHEST_SIGMA, MAX_PIXELS, check_sigma
from ..errors import UsageError
from .boundary import app
from .console import say
from .options import Device, Json, MaxPixels, Model, Offline, Overwrite, Quiet, a_path


def a_point(text: str) -> tuple[int, int]:
    """'X,Y' -> (row, column)."""
    x, comma, y = text.partition(",")
    if not (comma and x.strip().isdecimal() and y.strip().isdecimal()):
        raise UsageError(f"--at {text!r} is not a point: write X,Y in pixels from the top left, as 120,64")
    return int(y), int(x)


@app.command()
def graph(
    path: Annotated[Path, typer.Argument(metavar="IN", parser=a_path, help="Image, degraded as the model takes it.")],
    output: Annotated[Path, typer.Option("-o", "--output", parser=a_path, help="Picture to write.")],
    at: Annotated[
        list[str] | None,
        typer.Option(metavar="X,Y", help="Point to look at; can be given again. Default: the middle."),
    ] = None,
    model: Model = None,
    sigma: Annotated[
        float | None, typer.Option(help="Noise level, 0-75 on the 0-255 scale; default: estimated.")
    ] = None,
    stage: Annotated[
        int | None, typer.Option(min=1, help="Which graph of the model, from 1; default: the last.")
    ] = None,
    head: Annotated[int, typer.Option(min=1, help="Which of its heads, from 1.")] = 1,
    device: Device = "auto",
    max_pixels: MaxPixels = MAX_PIXELS,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    offline: Offline = False,
) -> None:
    """Show the graph at work: a point's neighbours and how similar they are, and every node's number of them."""
    given = [a_point(text) for text in at or []]
    if sigma is not None:
        check_sigma(sigma)
    if os.path.realpath(output) == os.path.realpath(path):
        raise UsageError(f"-o {output} is the input and is never overwritten: choose another name")
    if os.path.lexists(output) and not overwrite:
        raise UsageError(f"-o {output} exists: --overwrite replaces it")
    if not output.parent.is_dir():
        raise UsageError(f"-o {output}: the folder {output.parent} does not exist: create it first")
    import numpy as np
    import torch

    from .. import degrade, images
    from ..measuring import graph as graphs
    from ..restoring.device import pick_device
    from ..restoring.estimate import estimate_sigma
    from ..store import weights

    picture = images.read(path, max_pixels=max_pixels)
    pixels = torch.from_numpy(picture.pixels).permute(2, 0, 1)
    file = weights.resolve(model, "denoise", 1, offline=offline)  # by default the gray denoiser: it has a graph
    network, _ = weights.load(file)
    config = network.config
    if sigma is not None and not config.noise_map:
        raise UsageError(f"{file.stem} takes no `sigma`")
    if config.noise_map and sigma is None:
        sigma = min(estimate_sigma(picture.pixels) or 0.0, HIGHEST_SIGMA)
    if config.channels == 1:
        luma = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)  # ITU-R BT.601
        pixels = (luma * pixels).sum(0, keepdim=True) if len(pixels) == 3 else pixels
    pixels = pixels.expand(config.channels, -1, -1)
    if config.task == "demosaic":
        pixels = degrade.bayer_mosaic(pixels[None])[0]
    where = pick_device(device)
    middle = (pixels.shape[-2] // 2, pixels.shape[-1] // 2)
    shown, points = graphs.figure(
        network.to(where),
        pixels.contiguous().to(where),
        sigma,
        given or [middle],
        stage=stage,
        head=head,
        name=file.stem,
    )
    images.write(images.Image(np.asarray(shown, np.float32) / 255), output, overwrite=overwrite)
    if as_json:
        print(json.dumps({"model": file.stem, "sigma": sigma, "points": points}, indent=2))
    elif not quiet:
        told = "" if sigma is None else f" at sigma {sigma:.1f}"
        say(f"{output}: the graph of {file.stem}{told}; " + "; ".join(
            f"{p['at'][0]},{p['at'][1]}: {p['neighbours']} neighbours" for p in points))  # fmt: skip
