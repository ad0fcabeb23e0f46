"""Trains the network of `restoring.noise` on simulated pictures (`python tests/studies/noise_meter.py PHOTOS`).

Of every 20 crops 10 get camera noise (`camera.noisy_pair`), 5 white noise of 0.5 to 75 levels, 5 none; half of those of
white or no noise are saved as JPEGs. The label is the RMS of what was added; for pictures without noise it is 0 even
when JPEG changed them. Prints the errors on held-out photographs, of noise above 3 levels.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from dagl_cli import degrade, images
from dagl_cli.restoring.noise import FLOOR, NoiseMeter, features
from dagl_cli.training import camera, photos

SIDE = 256
STEPS = 2500


def example(scene: Tensor, random: np.random.Generator) -> list[tuple[Tensor, float, float, int]]:
    """(picture (3, H, W), log variance, correlation, kind) of one crop; kind 0: camera, 1: white, 2: none."""
    kind = int(random.choice(3, p=(0.5, 0.25, 0.25)))
    if kind == 0:
        noisy, clean = camera.noisy_pair(scene, random)
        other = clean + float(random.uniform(0.4, 2.5)) * (noisy - clean)
        return [labelled(picture, clean, kind) for picture in (noisy, (other.clamp(0, 1) * 255).round() / 255)]
    scene = camera.enlarged(scene, random)
    if random.random() < 0.4:
        scene = scene * random.uniform(0.2, 0.9)
    gray = random.random() < 0.25
    scene = (scene * camera.LUMA).sum(0, keepdim=True).expand(3, -1, -1) if gray else scene
    level = math.exp(random.uniform(math.log(0.5), math.log(75))) if kind == 1 else 0.0
    white = random.standard_normal((1 if gray else 3, SIDE, SIDE), np.float32)
    noisy = ((scene + level / 255 * torch.from_numpy(white)).clamp(0, 1) * 255).round() / 255
    picture, label = noisy, labelled(noisy, scene if kind == 1 else noisy, kind)
    if random.random() < 0.5:  # fine ones where there is noise, which JPEG would change
        quality = int(random.integers(90, 101) if kind == 1 else 100 - 50 * random.random() ** 2)
        levels = (noisy * 255).round().byte().permute(1, 2, 0).numpy()
        picture = torch.from_numpy(degrade.jpeg(levels, quality).copy()).permute(2, 0, 1) / 255
    return [(picture, *label[1:])]


def labelled(noisy: Tensor, clean: Tensor, kind: int) -> tuple[Tensor, float, float, int]:
    noise = 255 * (noisy - clean)
    centred = noise - noise.mean((1, 2), keepdim=True)
    beside = (centred[..., 1:] * centred[..., :-1]).mean() + (centred[:, 1:] * centred[:, :-1]).mean()
    correlation = float(beside / 2 / (centred.square().mean() + 1e-6))
    return noisy, math.log(float(noise.square().mean()) + FLOOR), correlation, kind


def examples(paths: list[Path], count: int, seed: int) -> tuple[Tensor, Tensor]:
    """(count or more, COUNT) `features` and as many times 3: log variance, correlation, kind."""
    random = np.random.default_rng(seed)
    found, labels = [], []
    for number in range(count):
        pixels = torch.from_numpy(images.read(paths[number % len(paths)]).pixels).permute(2, 0, 1).expand(3, -1, -1)
        if min(pixels.shape[1:]) < SIDE:
            continue
        top, left = (int(random.integers(n - SIDE + 1)) for n in pixels.shape[1:])
        for picture, *label in example(pixels[:, top : top + SIDE, left : left + SIDE], random):
            found.append(torch.from_numpy(features(picture.permute(1, 2, 0).numpy())))
            labels.append(label)
    return torch.stack(found), torch.tensor(labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--output", type=Path, default=Path("noise.safetensors"))
    parser.add_argument("--examples", type=int, default=4000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    training, held_out = photos.hold_out(sorted(p for p in arguments.photos.iterdir() if images.is_image_path(p)))
    x, truth = examples(training, arguments.examples, 1)
    tests, expected = examples(held_out, arguments.examples // 10, 2)
    meter = NoiseMeter()
    meter.get_buffer("mean").copy_(x.mean(0))
    meter.get_buffer("deviation").copy_(x.std(0) + 1e-3)
    optimizer = torch.optim.AdamW(meter.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for step in range(STEPS):
        some = torch.randint(len(x), (128,))
        found = meter.each(x[some] + 0.08 * torch.randn(128, x.shape[1]))  # (members, 128, 2)
        off = F.smooth_l1_loss(found[..., 0], truth[some, 0].expand(len(found), -1), beta=0.3, reduction="none")
        loss = off.mean() + ((found[..., 1] - truth[some, 1]).abs() * (truth[some, 2] < 2)).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 1000 == 0:
            judge(meter, tests, expected, step)
    judge(meter, tests, expected, STEPS)
    safetensors.torch.save_file({k: v.contiguous() for k, v in meter.state_dict().items()}, arguments.output)


@torch.inference_mode()
def judge(meter: NoiseMeter, tests: Tensor, truth: Tensor, step: int) -> None:
    variance, correlation = meter(tests).unbind(1)
    line = f"step {step}"
    for kind, name in enumerate(("camera", "white", "none")):
        of = (truth[:, 2] == kind) & ((kind == 2) | (truth[:, 0] > math.log(9)))  # noise above 3 levels
        ratio = ((variance - truth[:, 0]) / 2)[of].exp()
        tenth, median, most = (float(ratio.quantile(q)) for q in (0.1, 0.5, 0.9))
        line += f"; {name}: RMS x {tenth:.2f} {median:.2f} {most:.2f}"
        line += f", correlation off by {float((correlation - truth[:, 1])[of].abs().mean()):.2f}" if kind < 2 else ""
    print(line, flush=True)


if __name__ == "__main__":
    main()
