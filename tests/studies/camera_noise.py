"""Simulated camera noise beside that of real cameras (not a test: `python tests/studies/camera_noise.py PHOTOS`).

Of crops of photographs, 128x128, `camera.photograph` and `camera.filtered_noise` each; the 5th, 50th and 95th of 100:

    1, 2, 4     correlation of a channel's noise with itself so many pixels further along a row
    R-G         correlation of red and green
    8x8         share of the energy that is left after a mean over 8x8 pixels
    RMS         deviation from the picture without noise, in levels
    dark/light  RMS where the picture is darker than its median over that where it is lighter

and the ranges of the 15 pairs of CC15 (Nam et al., CVPR 2016: X_real.png against X_mean.png), measured by `--pairs`.
Exits with 1 where those ranges are not within the 5th to 95th.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from dagl_cli import images
from dagl_cli.training import camera, photos

SIDE = 128
NAMES = ("1", "2", "4", "R-G", "8x8", "RMS", "dark/light")
CC15 = {"1": (0.59, 0.79), "2": (0.24, 0.51), "4": (0.11, 0.21), "R-G": (0.20, 0.64), "RMS": (3.6, 8.4)}
"""Least and most of the 15 pairs."""


def statistics(noisy: np.ndarray, clean: np.ndarray) -> list[float]:
    """The columns of `NAMES`, of two pictures (3, H, W) in [0, 1]."""
    whole = 255 * (noisy - clean).astype(np.float64)
    noise = whole - whole.mean((1, 2), keepdims=True)
    energy = (noise**2).mean() + 1e-12

    def further(d: int) -> float:
        return float((noise[..., d:] * noise[..., :-d]).mean() / energy)

    red, green = noise[0], noise[1]
    between = (red * green).mean() / np.sqrt((red**2).mean() * (green**2).mean() + 1e-12)
    rows, columns = (n // 8 for n in noise.shape[1:])
    coarse = noise[:, : 8 * rows, : 8 * columns].reshape(3, rows, 8, columns, 8).mean((2, 4))
    bright = clean.mean(0)
    dark = bright < np.median(bright)
    ratio = np.sqrt(((noise**2).mean(0)[dark].mean() + 1e-12) / ((noise**2).mean(0)[~dark].mean() + 1e-12))
    return [
        further(1), further(2), further(4), float(between), float((coarse**2).mean() / energy),
        float(np.sqrt((whole**2).mean())), float(ratio),
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--crops", type=int, default=300)
    parser.add_argument("--pairs", type=Path, help="folder of X_real.png and X_mean.png, to measure them too")
    arguments = parser.parse_args()
    random = np.random.default_rng(0)
    paths = photos.hold_out(sorted(p for p in arguments.photos.iterdir() if images.is_image_path(p)))[1]
    scenes = []
    for path in paths:
        pixels = torch.from_numpy(images.read(path).pixels).permute(2, 0, 1).expand(3, -1, -1)
        for _ in range(-(-arguments.crops // len(paths))):
            top, left = (int(random.integers(max(1, n - SIDE))) for n in pixels.shape[1:])
            scenes.append(camera.enlarged(pixels[:, top : top + SIDE, left : left + SIDE], random))
    found = {
        "photograph": [camera.photograph(s, camera.Camera.random(random), random) for s in scenes],
        "filtered_noise": [camera.filtered_noise(s, random) for s in scenes],
    }
    print(f"| {len(scenes)} crops | " + " | ".join(NAMES) + " |\n|" + "---|" * (len(NAMES) + 1))
    tables = {k: np.array([statistics(n.numpy(), c.numpy()) for n, c in v]) for k, v in found.items()}
    if arguments.pairs:
        pairs = [
            [images.read(path.with_name(path.name.replace("_mean", name))).pixels.transpose(2, 0, 1) for name in names]
            for path in sorted(arguments.pairs.glob("*_mean.png"))
            for names in [("_real", "_mean")]
        ]
        tables[f"{len(pairs)} pairs"] = np.array([statistics(*pair) for pair in pairs])
    for name, values in tables.items():
        low, middle, high = np.quantile(values, (0.05, 0.5, 0.95), axis=0)
        print(f"| {name} | " + " | ".join(f"{a:.2f} {b:.2f} {c:.2f}" for a, b, c in zip(low, middle, high)) + " |")
    print("| CC15 | " + " | ".join("{:.2f} - {:.2f}".format(*CC15[n]) if n in CC15 else "" for n in NAMES) + " |")
    both = np.concatenate([tables["photograph"], tables["filtered_noise"]])
    low, high = dict(zip(NAMES, np.quantile(both, 0.05, axis=0))), dict(zip(NAMES, np.quantile(both, 0.95, axis=0)))
    uncovered = [name for name, (least, most) in CC15.items() if least < low[name] or most > high[name]]
    print(f"not covered: {', '.join(uncovered)}" if uncovered else "all covered")
    return 1 if uncovered else 0


if __name__ == "__main__":
    raise SystemExit(main())
