"""`dagl benchmark`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ..errors import UsageError
from . import app, say
from .restore import Device, Ensemble, Json, Model, Overlap, Precision, Quiet, Tile, parse_tile


@app.command()
def benchmark(
    dataset: Annotated[list[str], typer.Option(help="Set12, BSD68, Urban100, Classic5, LIVE1, McMaster18 or Kodak24.")],
    data_dir: Annotated[Path, typer.Option(help="Folder that holds the datasets' folders.", envvar="DAGL_DATA_DIR")],
    task: Annotated[str, typer.Option(help="denoise, dejpeg or demosaic.")] = "denoise",
    sigma: Annotated[list[float] | None, typer.Option(help="Noise levels, for denoise.")] = None,
    quality: Annotated[list[int] | None, typer.Option(help="JPEG qualities, for dejpeg.")] = None,
    model: Model = None,
    tiling: Annotated[str, typer.Option(help="blend, whole, or chop (the release's).")] = "blend",
    limit: Annotated[int | None, typer.Option(help="Only the first images of every set.")] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    tile: Tile = "auto",
    overlap: Overlap = None,
    ensemble: Ensemble = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """PSNR and SSIM on the paper's test sets, under the paper's protocol (Tables 1, 3 and 4)."""
    from ..bench import DATASETS, evaluate
    from ..pipeline import Options, load_model

    levels: list[float | None] = [None]
    if task == "denoise":
        levels = list(sigma or (15, 25, 50))
    elif task == "dejpeg":
        levels = list(quality or (10, 20, 30, 40))
    elif task != "demosaic":
        raise UsageError(f"--task {task} has no benchmark: choose denoise, dejpeg or demosaic")
    options = Options(
        device=device, precision=precision, tile=parse_tile(tile), overlap=overlap, ensemble=ensemble, tiling=tiling
    )
    rows = []
    for name in dataset:
        if name not in DATASETS:
            raise UsageError(f"--dataset {name} is unknown: choose one of {', '.join(DATASETS)}")
        restorer = load_model(task, DATASETS[name].channels, model=model, options=options)
        for level in levels:
            result = evaluate(restorer, data_dir, name, level, limit)
            rows.append({"model": restorer.name} | asdict(result))
            if not quiet:
                at = "" if level is None else f" {level:g}"
                say(f"{name}{at}: {result.psnr:.2f} dB (input {result.input_psnr:.2f})")
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table("dataset", "level", "images", "input", "restored", "SSIM", "s/MP", title=f"{rows[0]['protocol']}")
    for row in rows:
        table.add_row(
            row["dataset"], str(row["level"] or ""), str(row["images"]),
            f"{row['input_psnr']:.2f} / {row['input_ssim']:.4f}", f"{row['psnr']:.2f}", f"{row['ssim']:.4f}",
            f"{row['seconds_per_megapixel']:.2f}",
        )  # fmt: skip
    Console().print(table)
