"""The README's pictures: a degraded photograph, and beside it what the bundled models make of it.

    python tests/studies/pictures.py                  # writes tests/data/pictures/, prints PSNR before and after

The photographs are those of tests/data (CC0; `cords.png` was held out from training). Float32 on a CPU.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import dagl_cli
from dagl_cli.config import PAPER_PATTERN
from dagl_cli.degrade import degraded
from dagl_cli.measuring.metrics import psnr

DATA = Path(__file__).parents[1] / "data"
GAP = 4
"""White pixels between before and after."""


def photograph(name: str) -> np.ndarray:
    with Image.open(DATA / name) as image:
        return np.asarray(image.convert("RGB"))


def to_tensor(pixels: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 -> (3, H, W) in [0, 1]."""
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255


def to_pixels(x: Tensor) -> np.ndarray:
    """(3, H, W) in [0, 1] -> (H, W, 3) uint8."""
    return (x.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


def pairs() -> dict[str, tuple[np.ndarray | None, np.ndarray, np.ndarray]]:
    """Name -> clean (None: not at hand), before, after; (H, W, 3) uint8 each."""
    clean = photograph("cords.png")
    noisy, blocky, mosaic = (
        to_pixels(degraded(to_tensor(clean), task, level))
        for task, level in (("denoise", 25), ("dejpeg", 10), ("demosaic", None))
    )
    camera = photograph("osprey-noisy.png")[160:352, 160:352]
    options = dagl_cli.Options(device="cpu", precision="fp32")

    def restored(pixels: np.ndarray, task: str, **more: Any) -> np.ndarray:
        return dagl_cli.restore(pixels, task, options=options, **more)

    return {
        "denoise": (clean, noisy, restored(noisy, "denoise", sigma=25)),
        "real": (None, camera, restored(camera, "real")),
        "dejpeg": (clean, blocky, restored(blocky, "dejpeg")),
        "demosaic": (clean, mosaic, restored(mosaic, "demosaic", pattern=PAPER_PATTERN)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=DATA / "pictures", help="folder to write")
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    print("| picture | PSNR before | after |\n|---|---|---|")
    for name, (clean, before, after) in pairs().items():
        gap = np.full((len(before), GAP, 3), 255, np.uint8)
        strip = Image.fromarray(np.concatenate([before, gap, after], axis=1))
        strip.save(folder / f"{name}.jpg", quality=92, subsampling="4:4:4")
        figures = ["", ""] if clean is None else [f"{psnr(x / 255, clean / 255):.2f}" for x in (before, after)]
        print(f"| {name} | {' | '.join(figures)} |")


if __name__ == "__main__":
    main()
