"""Counts pictures that are wrongly taken for such with camera noise (`python tests/studies/noise_guard.py FOLDER...`).

Every picture of the folders as it is, and of every second one six more: saved as a JPEG of quality 95 and 75, and with
Gaussian noise of 3, 5, 15 and 50 levels. Prints those that `restoring.guard` would give to the model of camera noise.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from dagl_cli import degrade, images
from dagl_cli.restoring import guard

QUALITIES = (95, 75)
LEVELS = (3, 5, 15, 50)


def variants(pixels: np.ndarray, random: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    levels = np.rint(255 * pixels.repeat(3 // pixels.shape[-1], -1)).astype(np.uint8)
    for quality in QUALITIES:
        yield f"JPEG {quality}", degrade.jpeg(levels, quality).astype(np.float32) / 255
    for level in LEVELS:
        noisy = 255 * pixels + random.normal(0, level, pixels.shape)
        yield f"noise {level}", (np.rint(noisy.clip(0, 255)) / 255).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    random, count, taken = np.random.default_rng(0), 0, 0
    paths = sorted(path for folder in arguments.folders for path in folder.iterdir() if images.is_image_path(path))
    for number, path in enumerate(paths):
        pixels = images.read(path).pixels
        for name, picture in [("as it is", pixels), *(variants(pixels, random) if number % 2 else ())]:
            count += 1
            found = guard.noise(picture)
            if found.task == "real" and found.nothing is None:
                taken += 1
                print(f"{path.parent.name}/{path.name}, {name}: {found.sigma:.1f}, {found.note}", flush=True)
    print(f"{taken} of {count}")


if __name__ == "__main__":
    main()
