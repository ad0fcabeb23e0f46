"""Trains the networks of `restoring.noise` on simulated pictures (`python tests/studies/noise_meter.py PHOTOS`).

Of the crops a quarter gets camera noise (`camera.noisy_pair`); a sixth is photographed twice by a camera with a strong
noise reduction of another kind (`shots`), and half of the mean square of the difference is the variance; one in
fourteen is photographed without noise reduction, as a raw converter has it; one in ten gets grain that all colours have
in common, one in fourteen white noise that was then saved as a JPEG of quality 30 to 90. Of the rest a third gets white
noise of 0.5 to 75 levels, and two thirds none: sharpened, or as a camera without noise saves it; half of those are
JPEGs. The label is the RMS of what was added; for pictures without noise it is 0 even when JPEG changed them.
Photographs held out are judged, three in ten of those with a strong noise reduction with one that was not trained on
(non-local means); printed are the RMS found as a share of the true one, of noise of 2.5 to 14 levels, and which
pictures are taken for such with a camera's noise.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from dagl_cli import degrade, images
from dagl_cli.nn.model import DAGL
from dagl_cli.restoring import estimate, guard
from dagl_cli.restoring.noise import FLOOR, LEAST, NETWORK, Noise, NoiseMeter, denoised, features, parts
from dagl_cli.store import weights
from dagl_cli.training import camera, noise_reduction
from dagl_cli.training.camera import LUMA, Camera
from dagl_cli.training.noise_reduction import blur, pyramid
from dagl_cli.training.photos import hold_out

SIDE = 384
STEPS = 1000
YCC = torch.tensor(camera.RGB_TO_YCC)
KINDS = ("camera", "bilateral", "wavelet", "non-local", "unreduced", "grain", "saved", "white", "none")
CAMERAS = KINDS[:7]
SHARES = (0.26, 0.08, 0.08, 0.0, 0.07, 0.1, 0.07, 0.12, 0.22)
HELD_OUT_SHARES = (0.25, 0.07, 0.07, 0.06, 0.07, 0.1, 0.07, 0.11, 0.2)
SAMPLINGS = ("4:2:0", "4:4:4")
PER_PHOTO = 7
EVEN = 0.06
"""Share of the crops with white noise or none that are nearly even: a wall, the sky, a black frame."""
Random = np.random.Generator
Reduction = Callable[[Tensor], Tensor]


def example(scene: Tensor, kind: str, random: Random) -> tuple[Tensor, Tensor, float]:
    """(picture, what to compare it with, share of the mean squared difference that is noise) of a crop (3, H, W)."""
    if kind == "camera":
        noisy, clean = camera.noisy_pair(scene, random)
        if random.random() < 0.5:
            noisy = rounded(clean + float(random.uniform(0.4, 2.5)) * (noisy - clean))
        return noisy, clean, 1.0
    scene = camera.enlarged(scene, random)
    if kind == "unreduced":
        own = dataclasses.replace(strong(random), luma=(0.0,) * 3, chroma=(0.0,) * 3)
        return *camera.photograph(scene, own, random), 1.0
    if kind == "grain":
        return *grainy(scene, random), 1.0
    if kind == "saved":
        level = math.exp(random.uniform(math.log(4), math.log(30))) / 255
        white = torch.from_numpy(random.standard_normal((3, SIDE, SIDE), np.float32))
        quality = int(random.integers(30, 91))
        return *camera.saved((scene + level * white, scene), (quality,), str(random.choice(SAMPLINGS)), random), 1.0
    if kind in CAMERAS:
        first, second = shots(scene, kind, random)
        if random.random() < 0.1:
            first, second = (rounded(gray(shot)) for shot in (first, second))
        return first, second, 0.5
    if random.random() < 0.4:
        scene = scene * random.uniform(0.2, 0.9)
    if random.random() < EVEN:
        scene = (blur(scene, 40) + random.uniform(-0.6, 0.6)).clamp(0, 1)
    no_colour = random.random() < 0.25
    scene = gray(scene) if no_colour else scene
    if kind == "none" and random.random() < 0.4:
        if no_colour or random.random() < 0.5:
            scene = (scene + random.uniform(0, 1) * (scene - blur(scene, random.uniform(0.7, 2)))).clamp(0, 1)
        else:
            scene = camera.photograph(scene, Camera.random(random), random)[1]
    scene = rounded(scene)
    level = math.exp(random.uniform(math.log(0.5), math.log(75))) if kind == "white" else 0.0
    white = torch.from_numpy(random.standard_normal((1 if no_colour else 3, SIDE, SIDE), np.float32))
    noisy = picture = rounded(scene + level / 255 * white)
    if random.random() < 0.5:  # fine ones where there is noise, which JPEG would change
        quality = int(random.integers(90, 101) if kind == "white" else 100 - 50 * random.random() ** 2)
        levels = (noisy * 255).round().byte().permute(1, 2, 0).numpy()
        picture = torch.from_numpy(degrade.jpeg(levels, quality).copy()).permute(2, 0, 1) / 255
    return picture, scene if kind == "white" else picture, 1.0


def grainy(scene: Tensor, random: Random) -> tuple[Tensor, Tensor]:
    """(noisy, clean): grain that all colours have in common, as of film and in photographs without colours."""
    scene = gray(scene) if random.random() < 0.5 else scene
    radius = random.uniform(0.4, 1.5)
    noise = blur(torch.from_numpy(random.standard_normal((1, SIDE, SIDE), np.float32)), radius)
    noise *= (gray(scene)[:1] + 0.02) ** random.uniform(-0.35, 0.35)
    noise *= math.exp(random.uniform(math.log(1.5), math.log(16))) / 255 / noise.square().mean().sqrt()
    qualities = (int(random.integers(80, 101)),) if random.random() < 0.5 else ()
    return camera.saved((scene + noise, scene), qualities, str(random.choice(SAMPLINGS)), random)


def strong(random: Random) -> Camera:
    """A camera and its settings at ISO 800 and more."""
    shot = math.exp(random.uniform(math.log(2e-4), math.log(0.02)))
    read = math.exp(2.18 * math.log(shot) + 1.2 + 0.26 * random.standard_normal())
    return dataclasses.replace(Camera.random(random), shot=shot, read=read)


def shots(scene: Tensor, kind: str, random: Random) -> tuple[Tensor, Tensor]:
    """Two photographs of a scene (3, H, W) by a camera that reduces noise much, and more where there is no edge.

    Their difference has twice the variance of either's noise, whatever the reduction did to the scene (as in Lehtinen
    et al., ICML 2018).
    """
    own = strong(random)
    plain = dataclasses.replace(
        own, luma=(0.0,) * 3, chroma=(0.0,) * 3, sharpening=(1.0, 0.0), scale=1.0, qualities=(), subsampling="4:4:4"
    )
    small = camera.resized(scene, (round(SIDE / own.scale), round(SIDE / own.scale))).clamp(0, 1)
    first, second = (camera.mixed(camera.photograph(small, plain, random)[0], YCC) for _ in range(2))
    reduce = reduction(kind, first, second, random)
    grain = random.uniform(0, 0.35) if random.random() < 0.6 else 0.0
    pair = [
        camera.mixed(reduce(x) * (1 - grain) + grain * x, torch.linalg.inv(YCC)).clamp(0, 1) for x in (first, second)
    ]
    radius, amount = own.sharpening
    pair = [(x + amount * (gray(x) - blur(gray(x), radius))).clamp(0, 1) for x in pair]
    pair = [camera.resized(x, (SIDE, SIDE), own.antialias).clamp(0, 1) for x in pair]
    seed = random.integers(1 << 30)
    first, second = (camera.saved((x, x), own.qualities, own.subsampling, np.random.default_rng(seed))[0] for x in pair)
    return first, second


def reduction(kind: str, first: Tensor, second: Tensor, random: Random) -> Reduction:
    """A camera's noise reduction, which knows the noise of two shots (3, H, W), luma and colour differences."""
    local = random.random() < 0.7

    def level(difference: Tensor) -> Tensor:
        return noise_reduction.deviation(difference / math.sqrt(2), local)

    luma = random.uniform(1.2, 4)
    colours = luma * random.uniform(1, 2)
    strength = torch.tensor([luma, colours, colours]).view(3, 1, 1)
    if kind == "wavelet":
        bands = list(zip(pyramid(first), pyramid(second)))[: random.integers(2, 5)]
        limits = [level(a - b) * strength * random.uniform(0.4, 1) for a, b in bands]
        return lambda x: noise_reduction.wavelet(x, x, limits)
    noise = level(first - second)
    if kind == "bilateral":
        radius = int(random.integers(2, 5))
        return lambda x: noise_reduction.bilateral(x, x, noise, strength, radius)
    radius = int(random.integers(3, 6))
    return lambda x: noise_reduction.non_local(x, x, noise, strength, radius)


def gray(x: Tensor) -> Tensor:
    return (x * LUMA).sum(0, keepdim=True).expand(3, -1, -1)


def rounded(x: Tensor) -> Tensor:
    return (x.clamp(0, 1) * 255).round() / 255


def crop(photo: Tensor, random: Random) -> Tensor:
    """(3, SIDE, SIDE) of a photo (3, H, W), half of the time of a smaller copy, down to 0.35 of the size."""
    least = min(photo.shape[1:])
    shrink = random.uniform(max(0.35, SIDE / least), 1) if least > 1.15 * SIDE and random.random() < 0.5 else 1.0
    side = min(least, round(SIDE / shrink))
    top, left = (int(random.integers(n - side + 1)) for n in photo.shape[1:])
    return camera.resized(photo[:, top : top + side, left : left + side], (SIDE, SIDE)).clamp(0, 1)


@dataclasses.dataclass
class Examples:
    x: Tensor
    """(N, COUNT)"""
    variance: Tensor
    """(N,), in squared levels."""
    correlation: Tensor
    kind: Tensor
    """(N,): places in `KINDS`."""
    white: Tensor
    """(N,): what an estimate for white noise finds."""


def examples(paths: list[Path], shares: tuple[float, ...], denoiser: DAGL, random: Random) -> Examples:
    rows: list[tuple[np.ndarray, float, float, int, float]] = []
    for path in paths:
        photo = torch.from_numpy(images.read(path).pixels).permute(2, 0, 1).expand(3, -1, -1)
        if min(photo.shape[1:]) < SIDE:
            continue
        for _ in range(PER_PHOTO):
            kind = int(random.choice(len(KINDS), p=shares))
            picture, other, share = example(crop(photo, random), KINDS[kind], random)
            noise = 255 * (picture - other)
            centred = noise - noise.mean((1, 2), keepdim=True)
            beside = (centred[..., 1:] * centred[..., :-1]).mean() + (centred[:, 1:] * centred[:, :-1]).mean()
            correlation = float(beside / 2 / (centred.square().mean() + 1e-6))
            pixels = picture.permute(1, 2, 0).contiguous().numpy()
            seen = parts(pixels)
            x = features(seen, denoised(seen, denoiser))
            white = estimate.estimate_sigma(pixels) or 0.0
            rows.append((x, share * float(noise.square().mean()), correlation, kind, white))
    columns = [torch.from_numpy(np.array(column)) for column in zip(*rows)]
    return Examples(columns[0], columns[1].float(), columns[2].float(), columns[3], columns[4].float())


def trained(data: Examples, members_seed: int = 0) -> NoiseMeter:
    torch.manual_seed(members_seed)
    meter = NoiseMeter()
    meter.get_buffer("mean").copy_(data.x.mean(0))
    meter.get_buffer("deviation").copy_(data.x.std(0) + 1e-3)
    optimizer = torch.optim.AdamW(meter.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    level, clean = (data.variance + FLOOR).log(), data.kind == KINDS.index("none")
    for _ in range(STEPS):
        some = torch.randint(len(level), (128,))
        found = meter.each(data.x[some] + 0.08 * meter.deviation * torch.randn(128, data.x.shape[1]))
        off = F.smooth_l1_loss(found[..., 0], level[some].expand(len(found), -1), beta=0.3, reduction="none")
        loss = (off * (~clean[some] & (level[some] > -0.5))).mean()  # the level if there is noise at all
        loss += ((found[..., 1] - data.correlation[some]).abs() * ~clean[some]).mean()
        noisy = (~clean[some] & (data.variance[some] > LEAST**2)).float()
        loss += F.binary_cross_entropy_with_logits(found[..., 2], noisy.expand(len(found), -1))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return meter.eval()


@torch.inference_mode()
def calibrate(meter: NoiseMeter, data: Examples) -> None:
    """The median of the levels found is made right, of cameras' noise in photographs that were not trained on: it is
    some percent too low there."""
    found, clear = meter(data.x), (data.kind < len(CAMERAS)) & (data.variance > 2.5**2) & (data.variance < 14**2)
    clear &= found[:, 2].sigmoid() > 0.8
    low = ((data.variance + FLOOR).log() - found[:, 0])[clear].median()
    for member in meter.members:
        member.get_parameter("4.bias")[0] += low  # of the last layer: the logarithm of the variance
    print(f"levels found times {float((low / 2).exp()):.3f}")


@torch.inference_mode()
def judge(meter: NoiseMeter, data: Examples) -> None:
    level, correlation, logit = meter(data.x).unbind(1)
    rms, true = (level.exp() - FLOOR).clamp(min=0).sqrt(), data.variance.sqrt()
    rows = zip(rms.tolist(), correlation.tolist(), logit.sigmoid().tolist(), data.white.tolist())
    taken = torch.tensor([guard.is_camera_noise(Noise(a, b, c), white, None) for a, b, c, white in rows])
    for name, kinds in {**{name: (name,) for name in KINDS}, "cameras together": CAMERAS}.items():
        of = torch.isin(data.kind, torch.tensor([KINDS.index(kind) for kind in kinds]))
        of &= torch.tensor(name in ("white", "none")) | ((true > 2.5) & (true < 14) & (data.white < 0.8 * true))
        if not of.any():
            continue
        line = f"{name}: {int(of.sum())}, {float(taken[of].float().mean()):.2f} taken for a camera's"
        if name not in ("white", "none"):
            ratio = (rms / true)[of]
            tenth, median, most = (float(ratio.quantile(q)) for q in (0.1, 0.5, 0.9))
            within = float(((ratio > 1 / 1.2) & (ratio < 1.2)).float().mean())
            off = float((correlation - data.correlation)[of].abs().mean())
            line += f"; RMS x {tenth:.2f} {median:.2f} {most:.2f}, {within:.2f} within 20 %"
            line += f"; correlation off by {off:.2f}"
        print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--output", type=Path, default=Path("noise.safetensors"))
    parser.add_argument("--model", type=Path, default=weights.folder() / f"{NETWORK}.safetensors")
    parser.add_argument("--judge", type=Path, help="judge the networks in this file, and train none")
    parser.add_argument("--limit", type=int, help="photos, of those trained on and of those held out")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    denoiser, _ = weights.load(arguments.model)
    paths = sorted(path for path in arguments.photos.iterdir() if images.is_image_path(path))
    training, held_out = hold_out(paths, one_in=8)
    unseen = examples(held_out[: arguments.limit], HELD_OUT_SHARES, denoiser, np.random.default_rng(2))
    if arguments.judge:
        meter = NoiseMeter()
        meter.load_state_dict(safetensors.torch.load_file(arguments.judge))
    else:
        meter = trained(examples(training[: arguments.limit], SHARES, denoiser, np.random.default_rng(1)))
        calibrate(meter, unseen)
    judge(meter, unseen)
    if arguments.judge:
        return
    safetensors.torch.save_file({k: v.contiguous() for k, v in meter.state_dict().items()}, arguments.output)


if __name__ == "__main__":
    main()
