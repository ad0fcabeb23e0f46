"""Noisy raw files with known truth: what denoising gives (`python tests/studies/raw_noise.py PHOTOS`).

The photographs that training holds out, halved, as a camera without a colour matrix exposes them: the sensor's noise by
`camera.expose`, white balance 2.0, 1, 1.6. PSNR in sRGB against the photograph, in dB, means.

    none        demosaiced
    told        then the camera-noise model, told the noise's RMS
    estimated   the same, told what `restoring.noise` finds
    clean       the mosaic without noise, demosaiced: the limit
"""

from __future__ import annotations

import argparse
import dataclasses
import math
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
from dagl_cli.restoring import noise, restorer
from dagl_cli.training import camera, photos

GAINS = np.array([2.0, 1.0, 1.6], np.float32)
SHOTS = (0.0002, 0.001, 0.005, 0.02)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--limit", type=int, default=6)
    parser.add_argument("--real", default=None, help="the camera-noise model; default: the bundled one")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    options = Options(precision="bf16")
    demosaic = restorer.load_model("demosaic", 3, options=options)
    real = restorer.load_model("real", 3, model=arguments.real, options=options)
    held_out = photos.hold_out(sorted(p for p in arguments.photos.iterdir() if images.is_image_path(p)))[1]
    print("| shot | read | none | told | estimated | clean |\n|---|---|---|---|---|---|")
    for shot in SHOTS:
        read = math.exp(2.18 * math.log(shot) + 1.2)
        rows = []
        for number, path in enumerate(held_out[: arguments.limit]):
            whole = torch.from_numpy(images.read(path).pixels).permute(2, 0, 1)[None]
            scene = F.interpolate(whole, scale_factor=0.5, mode="area")[0, :, :256, :256]
            rows.append(compare(scene, shot, read, number, demosaic, real))
        print(f"| {shot:g} | {read:.2g} | " + " | ".join(f"{v:.2f}" for v in np.mean(rows, 0)) + " |", flush=True)


def compare(
    scene: Tensor, shot: float, read: float, seed: int, demosaic: restorer.Restorer, real: restorer.Restorer
) -> list[float]:
    """The columns, for a scene (3, H, W), sRGB, even sides."""
    random = np.random.default_rng(seed)
    exposure = dataclasses.replace(camera.Camera.random(random), shot=shot, read=read, pattern="GRBG")
    masks = bayer_masks(scene.shape[1], scene.shape[2], "GRBG")
    gains = torch.from_numpy(GAINS).view(3, 1, 1)
    light = ((torch.from_numpy(srgb_decode(scene.numpy())).float() / gains) * masks).sum(0, keepdim=True)
    noisy = camera.expose(light, exposure, random)[0].numpy()

    def picture(mosaic: np.ndarray) -> Tensor:
        balanced = (torch.from_numpy(mosaic) * gains * masks).numpy()
        return demosaic(torch.from_numpy(srgb_encode(balanced).astype(np.float32)), pattern="GRBG")

    plain, clean = picture(noisy), picture(light[0].numpy())
    rms = 255 * float((plain - clean).square().mean().sqrt())
    found = noise.measure(plain.permute(1, 2, 0).numpy())
    estimated = found.rms if found else 0.0
    return [psnr(x, scene) for x in (plain, real(plain, rms), real(plain, estimated), clean)]


if __name__ == "__main__":
    main()
