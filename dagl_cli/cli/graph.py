"""`dagl graph`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..config import LUMA, MAX_PIXELS, check_sigma, is_of_mosaics
from ..errors import UsageError
from .boundary import app
from .console import say
from .options import STDIO, Device, Json, MaxPixels, Model, Offline, Overwrite, Quiet, a_path

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from ..config import ModelConfig


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
    _check_output(output, path, overwrite)
    import numpy as np

    from .. import images
    from ..measuring import graph as graphs
    from ..restoring import guard
    from ..restoring.device import pick_device
    from ..store import weights

    width, height = graphs.extent(max(1, len(given)))
    images.check_target(images.Image(np.broadcast_to(np.float32(0), (height, width, 3))), output, overwrite=overwrite)
    picture = images.read(path, max_pixels=max_pixels)
    file = weights.resolve(model, "denoise", 1, offline=offline)  # by default the gray denoiser
    network, _ = weights.load(file)
    config = network.config
    if sigma is not None and not config.noise_map:
        raise UsageError(f"{file.stem} takes no `sigma`")
    if config.noise_map and sigma is None:
        look = guard.camera_noise if config.task == "real" else guard.noise
        sigma = look(picture.pixels).level or 0.0
    pixels, where = _as_taken(picture.pixels, config), pick_device(device)
    middle = (pixels.shape[-2] // 2, pixels.shape[-1] // 2)
    shown, points = graphs.figure(
        network.to(where), pixels.to(where), sigma, given or [middle], stage=stage, head=head, name=file.stem
    )
    images.write(images.Image(np.asarray(shown, np.float32) / 255), output, overwrite=overwrite)
    if as_json:
        print(json.dumps({"model": file.stem, "sigma": sigma, "points": points}, indent=2))
    elif not quiet:
        told = "" if sigma is None else f" at sigma {sigma:.1f}"
        say(f"{output}: the graph of {file.stem}{told}; " + "; ".join(
            f"{p['at'][0]},{p['at'][1]}: {p['neighbours']} neighbours" for p in points))  # fmt: skip


def _check_output(output: Path, path: Path, overwrite: bool) -> None:
    """Raises UsageError where the picture cannot be written."""
    if output == STDIO:
        raise UsageError("-o - : the figure is a file: give a name, such as graph.png")
    if os.path.realpath(output) == os.path.realpath(path):
        raise UsageError(f"-o {output} is the input and is never overwritten: choose another name")
    if os.path.lexists(output) and not overwrite:
        raise UsageError(f"-o {output} exists: --overwrite replaces it")
    if not output.parent.is_dir():
        raise UsageError(f"-o {output}: the folder {output.parent} does not exist: create it first")


def _as_taken(pixels: np.ndarray, config: ModelConfig) -> Tensor:
    """(H, W, 1 or 3) -> (C, H, W), in the colours that the network takes; for demosaicing, a mosaic of it."""
    import torch

    from .. import degrade

    taken = torch.from_numpy(pixels).permute(2, 0, 1)
    if config.channels == 1 and len(taken) == 3:
        taken = (torch.tensor(LUMA).view(3, 1, 1) * taken).sum(0, keepdim=True)
    taken = taken.expand(config.channels, -1, -1)
    return (degrade.bayer_mosaic(taken[None])[0] if is_of_mosaics(config.task) else taken).contiguous()
