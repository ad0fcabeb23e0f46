"""Noisy raw files with known truth: what denoising gives (`python tests/studies/raw_noise.py PHOTOS`).

The photographs that training holds out, halved, as a camera exposes them: its colours the mean of the matrices of
`camera.XYZ_TO_CAMERA` (--srgb: none, the sensor sees sRGB's), white balance 2.0, 1, 1.6, the noise by `camera.expose`.
Developed as raw files are. PSNR in sRGB against the photograph, in dB, means.

    none        demosaiced
    told        then the camera-noise model, told the noise's RMS
    estimated   the same, told what `restoring.noise` finds
    joint       demosaiced without the noise by the model for raw files, told the sensor's noise
    joint, est. the same, told what is estimated from the mosaic
    clean       the mosaic without noise, demosaiced: the limit
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dagl_cli import images
from dagl_cli.config import Options
from dagl_cli.degrade import bayer_masks
from dagl_cli.images.colour import srgb_decode, srgb_encode
from dagl_cli.measuring.metrics import psnr
from dagl_cli.restoring import noise, rawnoise, restorer
from dagl_cli.training import camera, photos

GAINS = np.array([2.0, 1.0, 1.6], np.float32)
CELL = GAINS[[[1, 0], [2, 1]]]
"""GRBG"""
SHOTS = (0.0002, 0.001, 0.005, 0.02)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--limit", type=int, default=6)
    parser.add_argument("--side", type=int, default=256, help="of the halved photographs' upper left corner, in pixels")
    parser.add_argument("--real", default=None, help="the camera-noise model; default: the bundled one")
    parser.add_argument("--raw", default=None, help="the model for raw files; default: the bundled one")
    parser.add_argument("--srgb", action="store_true", help="a camera without a colour matrix")
    arguments = parser.parse_args()
    matrix = torch.eye(3) if arguments.srgb else camera.colour_matrix((0.25,) * 4)
    torch.set_num_threads(1)
    options = Options(precision="bf16")
    demosaic = restorer.load_model("demosaic", 3, options=options)
    real = restorer.load_model("real", 3, model=arguments.real, options=options)
    joint = restorer.load_model("raw", 3, model=arguments.raw, options=options)
    held_out = photos.hold_out(sorted(p for p in arguments.photos.iterdir() if images.is_image_path(p)))[1]
    columns = "shot | read | level | none | told | estimated | joint | joint, est. | clean"
    print(f"| {columns} |\n|{'---|' * len(columns.split('|'))}")
    for shot in SHOTS:
        read = rawnoise.typical_read(shot)
        rows = []
        for number, path in enumerate(held_out[: arguments.limit]):
            whole = torch.from_numpy(images.read(path).pixels).permute(2, 0, 1)[None]
            scene = F.interpolate(whole, scale_factor=0.5, mode="area")[0, :, : arguments.side, : arguments.side]
            rows.append(compare(scene, matrix, shot, read, number, demosaic, real, joint))
        print(f"| {shot:g} | {read:.2g} | " + " | ".join(f"{v:.2f}" for v in np.mean(rows, 0)) + " |", flush=True)


def compare(
    scene: Tensor,
    matrix: Tensor,
    shot: float,
    read: float,
    seed: int,
    demosaic: restorer.Restorer,
    real: restorer.Restorer,
    joint: restorer.Restorer,
) -> list[float]:
    """The columns from 'level' (RMS of the samples' noise) on, for a scene (3, H, W), sRGB, even sides.

    matrix: linear sRGB -> camera.
    """
    random = np.random.default_rng(seed)
    exposure = dataclasses.replace(camera.Camera.random(random), shot=shot, read=read, pattern="GRBG")
    masks = bayer_masks(scene.shape[1], scene.shape[2], "GRBG")
    gains = torch.from_numpy(GAINS).view(3, 1, 1)
    colours = torch.tensordot(matrix, srgb_decode(scene), 1)
    light = ((colours / gains) * masks).sum(0, keepdim=True)

    def coded(samples: Tensor) -> Tensor:
        """(1, H, W) linear light -> (H, W), as `images.raw` gives it."""
        mosaic: Tensor = srgb_encode((samples * gains * masks).sum(0).clamp(0, 1))
        return mosaic

    noisy, clean = coded(camera.expose(light, exposure, random)), coded(light)
    profile = np.stack([shot * CELL, read * CELL**2], -1)
    estimate = rawnoise.estimated_profile(noisy.numpy(), "GRBG", CELL)
    assert estimate is not None
    levels, guessed = (rawnoise.level_map(noisy, p) for p in (profile, estimate))

    def developed(balanced: Tensor) -> Tensor:
        """(3, H, W), coded, in the camera's colours -> sRGB."""
        linear = torch.tensordot(torch.linalg.inv(matrix), srgb_decode(balanced), 1)
        picture: Tensor = srgb_encode(linear.clamp(0, 1))
        return picture

    plain, limit = (developed(demosaic(mosaic[None], pattern="GRBG")) for mosaic in (noisy, clean))
    rms = 255 * float((plain - limit).square().mean().sqrt())
    found = noise.measure(plain.permute(1, 2, 0).numpy())
    estimated = found.rms if found else 0.0
    joints = (developed(joint(noisy[None], told)) for told in (levels, guessed))
    results = plain, real(plain, rms), real(plain, estimated), *joints, limit
    return [float(levels.square().mean().sqrt()), *(psnr(x, scene) for x in results)]


if __name__ == "__main__":
    main()
