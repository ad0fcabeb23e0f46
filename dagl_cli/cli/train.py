"""`dagl train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import app, say


@app.command()
def train(
    task: Annotated[str, typer.Option(help="denoise, real, dejpeg or demosaic.")],
    data: Annotated[list[Path], typer.Option(help="Folder of training images; may be given more than once.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the weights, the log and the state.")],
    gray: Annotated[bool, typer.Option("--gray/--color", help="A model for gray or for colour images.")] = False,
    variant: Annotated[str, typer.Option(help="paper, lite, or trunk (lite without the graph).")] = "lite",
    minutes: Annotated[float | None, typer.Option(help="Length of the run.")] = None,
    steps: Annotated[int | None, typer.Option(help="Length of the run, instead of --minutes.")] = None,
    batch: Annotated[int, typer.Option(help="Crops per step.")] = 8,
    crop: Annotated[int, typer.Option(help="Side of the square crops.")] = 64,
    lr: Annotated[float, typer.Option(help="Highest learning rate (Adam; cosine to zero).")] = 1e-3,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.", envvar="DAGL_DEVICE")] = "auto",
    precision: Annotated[str, typer.Option(help="auto (measured), fp32 or bf16.", envvar="DAGL_PRECISION")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    init_from: Annotated[Path | None, typer.Option(help="Weight file to start from, where shapes match.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the output folder.")] = False,
) -> None:
    """Train a model on folders of images. Ctrl-C saves; --resume continues."""
    import torch

    from ..pipeline import pick_device
    from ..train import TrainConfig
    from ..train import train as run

    if threads:
        torch.set_num_threads(threads)
    config = TrainConfig(
        task=task, data=data, output=output, channels=1 if gray else 3, variant=variant, minutes=minutes,
        steps=steps, batch=batch, crop=crop, lr=lr, seed=seed, device=pick_device(device).type, precision=precision,
        init_from=init_from,
    )  # fmt: skip

    def report(row: dict[str, Any]) -> None:
        say("  ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))

    say(f"Weights: {run(config, resume=resume, report=report)}")
