"""A camera, simulated from the sensor to the saved file: what `real` models are trained on.

Noise in finished photographs is neither white nor independent between the channels: demosaicing spreads it, the colour
matrix mixes it, the camera's noise reduction leaves what is coarse, and resizing and JPEG change it again. `photograph`
runs all of these steps on a clean picture twice, with the sensor's noise and without it: the second result is the
target, so that a denoiser learns to remove noise and neither sharpening nor a tone curve. `filtered_noise` is a
shortcut to noise with the statistics of finished photographs, without a camera.

Tensors are (..., C, H, W) float32, range [0, 1]. All randomness comes from one numpy Generator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import BAYER_PATTERNS, PAPER_PATTERN
from ..degrade import bayer_masks, jpeg
from ..images.colour import srgb_decode, srgb_encode
from . import noise_reduction
from .noise_reduction import blur, deviation, pyramid

Random = np.random.Generator

XYZ_TO_CAMERA = (
    ((1.0234, -0.2969, -0.2266), (-0.5625, 1.6328, -0.0469), (-0.0703, 0.2188, 0.6406)),
    ((0.4913, -0.0541, -0.0202), (-0.6130, 1.3513, 0.2906), (-0.1564, 0.2151, 0.7183)),
    ((0.8380, -0.2630, -0.0639), (-0.2887, 1.0725, 0.2496), (-0.0627, 0.1427, 0.5438)),
    ((0.6596, -0.2079, -0.0562), (-0.4782, 1.3016, 0.1933), (-0.0970, 0.1581, 0.5181)),
)
"""Adobe's colour matrices of four cameras (Micro Four Thirds, full frame, one-inch and a phone), as Brooks et al.,
CVPR 2019, section 3.1, use them: a random mean of them stands for any camera."""
SRGB_TO_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
RGB_TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
"""JPEG's luma and colour differences (ITU-R BT.601)."""
LUMA = torch.tensor(RGB_TO_YCC[0]).view(3, 1, 1)


@dataclass(frozen=True)
class Camera:
    """One exposure's settings. `Camera.random` says how likely each is."""

    pattern: str
    """Bayer pattern, read from the top left."""
    shot: float
    """Variance of the photon noise per unit of light (full scale 1): the ISO setting over the full well."""
    read: float
    """Variance of the read noise."""
    row: float
    """Deviation of each row's offset, as a share of the read noise's (Wei et al., CVPR 2020, section 3.2)."""
    pixel_gain: float
    """Deviation of the pixels' gain (photo response non-uniformity; EMVA 1288)."""
    bits: int
    """Of the raw file."""
    exposure: float
    """By what the light is multiplied: below 1 the picture is darker, at the same noise."""
    gains: tuple[float, float]
    """White balance of red and blue: the sensor saw them that many times darker."""
    mixture: tuple[float, ...]
    """Shares of the `XYZ_TO_CAMERA` matrices."""
    demosaicing: str
    """'bilinear', 'malvar' or 'directed'."""
    tone: float
    """Share of the S curve 3x² - 2x³ in the tone curve (Brooks et al., section 3.1)."""
    luma: tuple[float, float, float]
    """The camera's noise reduction: which share of luma noise it takes from three bands, each twice as coarse."""
    chroma: tuple[float, float, float]
    """The same for the colour differences, where cameras take more."""
    reduction: str
    """How it finds the noise: a function of `noise_reduction`, 'bands', 'wavelet', 'bilateral' or 'non-local'."""
    radius: float
    """Of the finest band, in pixels; a third of the squares that the last two search."""
    threshold: float
    """In noise deviations: weaker detail is taken for noise; a third of it for all but bands."""
    sharpening: tuple[float, float]
    """Radius in pixels and amount of the unsharp mask."""
    scale: float
    """By how much the picture is resized after all that: 0.5 to 2."""
    antialias: bool
    """Whether resizing to a smaller picture filters first."""
    qualities: tuple[int, ...]
    """JPEG quality of every time it was saved, one after another; none: saved without loss."""
    subsampling: str
    """'4:2:0' or '4:4:4'."""

    @classmethod
    def random(cls, random: Random) -> Camera:
        """A camera and its settings, as likely as photographers meet them; levels of noise up to far above ISO 6400.

        shot and read: Brooks et al., equation 2, which goes from 0.0001 to 0.012; here on from 0.00002 (a full frame at
        ISO 100) to 0.02.
        """

        def uniform(low: float, high: float) -> float:
            return float(random.uniform(low, high))

        shot = math.exp(uniform(math.log(2e-5), math.log(0.02)))
        weights = random.dirichlet((1.0,) * len(XYZ_TO_CAMERA))
        reduction = uniform(0.6, 1) if random.random() < 0.92 else 0.0  # most cameras reduce much at a high ISO
        fine = reduction * uniform(0.8, 1)
        colour = math.sqrt(reduction) * uniform(0.7, 1)
        saves = int(random.choice(3, p=(0.35, 0.5, 0.15)))
        scale = 1.0 if random.random() < 0.5 else math.exp(uniform(math.log(0.5), math.log(2)))
        return cls(
            pattern=BAYER_PATTERNS[random.integers(4)],
            shot=shot,
            read=math.exp(2.18 * math.log(shot) + 1.2 + 0.26 * random.standard_normal()),
            row=uniform(0, 0.3),
            pixel_gain=uniform(0, 0.01),
            bits=int(random.choice((12, 14))),
            exposure=uniform(0.15, 0.8) if random.random() < 0.4 else 1.0,
            gains=(uniform(1.4, 2.4), uniform(1.3, 2.2)),
            mixture=tuple(weights.tolist()),
            demosaicing=("bilinear", "malvar", "directed")[random.integers(3)],
            tone=uniform(0, 1) if random.random() < 0.6 else 0.0,
            luma=(fine, fine * uniform(0.4, 1), fine * uniform(0, 0.8)),
            chroma=(colour, colour * uniform(0.5, 1), colour * uniform(0, 0.9)),
            reduction=str(random.choice(("bands", "wavelet", "bilateral", "non-local"), p=(0.4, 0.2, 0.2, 0.2))),
            radius=uniform(0.8, 1.4),
            threshold=uniform(4, 10),
            sharpening=(uniform(0.7, 2), uniform(0, 0.8) if random.random() < 0.5 else 0.0),
            scale=scale,
            antialias=random.random() < 0.7,
            qualities=tuple((100 - 40 * random.random(saves) ** 3).round().astype(int).tolist()),
            subsampling="4:2:0" if random.random() < 0.5 else "4:4:4",
        )


def photograph(scene: Tensor, camera: Camera, random: Random) -> tuple[Tensor, Tensor]:
    """(noisy, clean), what the camera saves of a scene with its noise and what it would have saved without; 8 bits.

    scene: (3, H, W), sRGB. Results have the scene's size; the sensor's is `scale` times smaller.
    """
    height, width = scene.shape[-2:]
    sensor = (max(16, round(height / camera.scale)), max(16, round(width / camera.scale)))
    light = srgb_decode(resized(scene, sensor).clamp(0, 1))
    matrix = colour_matrix(camera.mixture)  # linear sRGB -> camera
    gains = torch.tensor([camera.gains[0], 1.0, camera.gains[1]]).view(3, 1, 1)
    light = (mixed(light, matrix) / gains * camera.exposure).clamp(0, 1)
    clean = (light * bayer_masks(*sensor, camera.pattern)).sum(0, keepdim=True)  # (1, H, W)
    mosaics = torch.stack([expose(clean, camera, random), clean])  # (2, 1, H, W): noisy, clean
    picture = demosaic(mosaics, camera.pattern, camera.demosaicing) * gains
    picture = srgb_encode(mixed(picture.clamp(0, 1), torch.linalg.inv(matrix)).clamp(0, 1))
    if camera.tone:
        picture = picture.lerp(picture.square() * (3 - 2 * picture), camera.tone)
    picture = reduce_noise(picture, camera)
    radius, amount = camera.sharpening
    if amount:
        luma = (picture * LUMA).sum(-3, keepdim=True)
        picture = (picture + amount * (luma - blur(luma, radius))).clamp(0, 1)
    picture = resized(picture, (height, width), camera.antialias).clamp(0, 1)
    return saved(picture, camera.qualities, camera.subsampling, random)


def negative(scene: Tensor, camera: Camera, random: Random) -> tuple[Tensor, Tensor, np.ndarray]:
    """(mosaic, clean, profile): a raw file of a scene as `images.raw` reads it, and what it would show without noise.

    scene: (3, H, W), sRGB. mosaic: (H, W), in the camera's colours, white balanced, in sRGB's curve, of
    `PAPER_PATTERN`; clean: (3, H, W), the same; profile: as `images.raw.Raw.noise`.
    """
    gains = torch.tensor([camera.gains[0], 1.0, camera.gains[1]]).view(3, 1, 1)
    light = mixed(srgb_decode(scene), colour_matrix(camera.mixture))
    light = (light / gains * camera.exposure).clamp(0, 1)
    masks = bayer_masks(scene.shape[-2], scene.shape[-1], PAPER_PATTERN)
    noisy = expose((light * masks).sum(0, keepdim=True), camera, random)
    mosaic = srgb_encode(((noisy * gains) * masks).sum(0).clamp(0, 1))
    places = [gains["RGB".index(colour)].item() for colour in PAPER_PATTERN]
    profile = np.array([(camera.shot * gain, camera.read * gain**2) for gain in places]).reshape(2, 2, 2)
    return mosaic, srgb_encode((light * gains).clamp(0, 1)), profile


def expose(light: Tensor, camera: Camera, random: Random) -> Tensor:
    """A mosaic (1, H, W) of linear light, full scale 1, as the raw file holds it: noisy, clipped and rounded.

    Photon and read noise as Gaussians of variance shot * light + read (Foi et al., IEEE TIP 2008), a gain of every
    pixel and an offset of every row.
    """
    shape = light.shape[-2:]
    normal = torch.from_numpy(random.standard_normal((2, *shape), np.float32))
    rows = torch.from_numpy(random.standard_normal((shape[0], 1), np.float32))
    signal = light * (1 + camera.pixel_gain * normal[0])
    signal = signal + (camera.shot * light + camera.read).sqrt() * normal[1]
    signal = signal + camera.row * math.sqrt(camera.read) * rows
    top = 2**camera.bits - 1
    return (signal.clamp(-0.05, 1) * top).round() / top  # the black level leaves room below zero


def demosaic(mosaic: Tensor, pattern: str, method: str) -> Tensor:
    """mosaic (B, 1, H, W) -> RGB (B, 3, H, W), as simple cameras and raw converters do it.

    'bilinear'; 'malvar': linear, 5x5, corrected by the other colours' gradients (Malvar et al., ICASSP 2004, figure 2);
    'directed': green along the weaker gradient, then colour differences (Hamilton and Adams, US patent 5,629,734).
    """
    masks = bayer_masks(mosaic.shape[-2], mosaic.shape[-1], pattern).to(mosaic)
    padded = F.pad(mosaic, (2, 2, 2, 2), mode="reflect")
    if method == "malvar":
        at_green, at_row, at_column, at_cross = F.conv2d(padded, MALVAR).split(1, 1)
        rows = masks[0].amax(1, keepdim=True)  # (H, 1): rows with red
        red = mosaic * masks[0] + masks[1] * (rows * at_row + (1 - rows) * at_column) + masks[2] * at_cross
        blue = mosaic * masks[2] + masks[1] * (rows * at_column + (1 - rows) * at_row) + masks[0] * at_cross
        return torch.cat([red, mosaic * masks[1] + (masks[0] + masks[2]) * at_green, blue], 1)
    if method == "directed":
        mean, curve, slope = F.conv2d(padded, DIRECTED).split(1, 1)
        mean_down, curve_down, slope_down = F.conv2d(padded, DIRECTED.mT).split(1, 1)
        along_row = slope.abs() + curve.abs() < slope_down.abs() + curve_down.abs()
        green = torch.where(along_row, mean + curve / 4, mean_down + curve_down / 4)
    else:
        green = F.conv2d(padded, CROSS)
    green = torch.where(masks[1].bool(), mosaic, green)
    base = green if method == "directed" else torch.zeros_like(green)
    differences = (mosaic - base) * masks[::2]  # (B, 2, H, W): red and blue
    spread = F.conv2d(F.pad(differences, (1, 1, 1, 1), mode="reflect"), SPREAD, groups=2)
    return torch.cat([base + spread[:, :1], green, base + spread[:, 1:]], 1)


def _kernel(rows: list[list[float]], scale: float) -> Tensor:
    return torch.tensor(rows) / scale


MALVAR = torch.stack(
    [
        _kernel([[0, 0, -1, 0, 0], [0, 0, 2, 0, 0], [-1, 2, 4, 2, -1], [0, 0, 2, 0, 0], [0, 0, -1, 0, 0]], 8),
        _kernel([[0, 0, 0.5, 0, 0], [0, -1, 0, -1, 0], [-1, 4, 5, 4, -1], [0, -1, 0, -1, 0], [0, 0, 0.5, 0, 0]], 8),
        _kernel([[0, 0, -1, 0, 0], [0, -1, 4, -1, 0], [0.5, 0, 5, 0, 0.5], [0, -1, 4, -1, 0], [0, 0, -1, 0, 0]], 8),
        _kernel([[0, 0, -1.5, 0, 0], [0, 2, 0, 2, 0], [-1.5, 0, 6, 0, -1.5], [0, 2, 0, 2, 0], [0, 0, -1.5, 0, 0]], 8),
    ]
)[:, None]
"""Green at red and blue; a colour at green between two of it in the row; the same in the column; red at blue."""
DIRECTED = torch.stack(
    [
        _kernel([[0] * 5, [0] * 5, [0, 1, 0, 1, 0], [0] * 5, [0] * 5], 2),
        _kernel([[0] * 5, [0] * 5, [-1, 0, 2, 0, -1], [0] * 5, [0] * 5], 1),
        _kernel([[0] * 5, [0] * 5, [0, -1, 0, 1, 0], [0] * 5, [0] * 5], 1),
    ]
)[:, None]
"""Along a row: the mean of the greens beside a red or blue, its own colour's curvature, the slope of the greens."""
CROSS = _kernel([[0] * 5, [0, 0, 1, 0, 0], [0, 1, 0, 1, 0], [0, 0, 1, 0, 0], [0] * 5], 4)[None, None]
SPREAD = torch.stack([_kernel([[1, 2, 1], [2, 4, 2], [1, 2, 1]], 4)] * 2)[:, None]


def reduce_noise(picture: Tensor, camera: Camera) -> Tensor:
    """The camera's own noise reduction. picture: (2, 3, H, W), noisy and clean; what it takes is done to both."""
    if not any(camera.luma + camera.chroma):
        return picture
    ycc = torch.tensor(RGB_TO_YCC)
    picture = mixed(picture, ycc)
    guide, noise = picture[0], picture[0] - picture[1]
    shares = torch.tensor([camera.luma, camera.chroma, camera.chroma]).T.view(3, 3, 1, 1)  # of each band
    strength = camera.threshold / 3 * torch.tensor([1, 1.5, 1.5]).view(3, 1, 1)
    if camera.reduction == "bands":
        picture = noise_reduction.bands(picture, shares, camera.radius, camera.threshold)
    elif camera.reduction == "wavelet":
        limits = [share * strength * deviation(band) for share, band in zip(shares, pyramid(noise))]
        picture = noise_reduction.wavelet(picture, guide, limits)
    else:
        means = noise_reduction.bilateral if camera.reduction == "bilateral" else noise_reduction.non_local
        reduced = means(picture, guide, deviation(noise), strength, round(3 * camera.radius))
        picture = picture.lerp(reduced, shares[0])
    return mixed(picture, torch.linalg.inv(ycc)).clamp(0, 1)


def saved(
    pictures: Tensor | Sequence[Tensor], qualities: tuple[int, ...], subsampling: str, random: Random
) -> tuple[Tensor, Tensor]:
    """(noisy, clean), (3, H, W) each, after every time that they were saved as JPEGs, each on a block grid of its own.

    The clean one is saved at quality 100: it loses its fine colours to the subsampling, as the mean of many shots does,
    but not what quantisation takes, which noise spreads evenly.
    """
    noisy, clean = ((x.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy() for x in pictures)
    for quality in qualities:
        shift = tuple(random.integers(8, size=2).tolist())
        back = (-shift[0], -shift[1])
        noisy, clean = (
            np.roll(jpeg(np.roll(x, shift, (0, 1)), q, subsampling), back, (0, 1))
            for x, q in ((noisy, quality), (clean, 100))
        )
    noisy, clean = (torch.from_numpy(x.copy()).permute(2, 0, 1).float() / 255 for x in (noisy, clean))
    return noisy, clean


def filtered_noise(clean: Tensor, random: Random) -> tuple[Tensor, Tensor]:
    """(noisy, clean): noise of the statistics that finished photographs show, without a camera; 8 bits.

    clean: (3, H, W). The sum of two white noises, blurred by 0.45 to 0.95 and by 1.8 to 3.5 pixels; part of it common
    to the channels, unequal channels, stronger or weaker where it is dark, half of the time stronger near edges, where
    cameras reduce less; 1.2 to 14 levels; half of the files are JPEGs of quality 85 to 100. The ranges surround those
    measured on the 15 pairs of CC15 (Nam et al., CVPR 2016).
    """
    height, width = clean.shape[-2:]
    w, rho = random.uniform(0.05, 0.4), random.uniform(0.1, 0.7)
    noise = torch.zeros(4, height, width)
    for share, radius in ((1 - w, random.uniform(0.45, 0.95)), (w, random.uniform(1.8, 3.5))):
        margin = math.ceil(3 * radius)
        white = random.standard_normal((4, height + 2 * margin, width + 2 * margin), np.float32)
        inner = slice(margin, -margin)
        noise += math.sqrt(share) * _unit(blur(torch.from_numpy(white), radius)[:, inner, inner])
    noise = math.sqrt(1 - rho) * noise[:3] + math.sqrt(rho) * noise[3:]
    noise *= torch.from_numpy(random.uniform(0.75, 1.3, (3, 1, 1)).astype(np.float32))
    brightness = F.avg_pool2d(F.pad(clean.mean(0, keepdim=True)[None], (4, 4, 4, 4), mode="replicate"), 9, 1)[0]
    noise *= (brightness + 0.02) ** random.uniform(-0.35, 0.35)
    if random.random() < 0.5:
        detail = blur((clean - blur(clean, 2)).square().mean(0, keepdim=True), 3).sqrt()
        noise *= (detail + 0.01) ** random.uniform(0, 0.35)
    level = math.exp(random.uniform(math.log(1.2), math.log(14))) / 255
    noise *= level / noise.square().mean().sqrt()
    qualities = (int(random.integers(85, 101)),) if random.random() < 0.5 else ()
    return saved((clean + noise, clean), qualities, "4:2:0" if random.random() < 0.5 else "4:4:4", random)


def noisy_pair(scene: Tensor, random: Random) -> tuple[Tensor, Tensor]:
    """(noisy, clean) for training and validation, of a crop (1 or 3, H, W) of a photograph; 8 bits.

    Two fifths by `photograph`, the others by `filtered_noise`, for which 40 % are darkened. One in eight is gray, in
    three equal channels; those of gray models are all gray: the luma of both.
    """
    channels = len(scene)
    scene = enlarged(scene.expand(3, -1, -1), random)
    if random.random() < 0.4:
        noisy, clean = photograph(scene, Camera.random(random), random)
    else:
        dark = random.uniform(0.2, 0.9) if random.random() < 0.4 else 1.0
        noisy, clean = filtered_noise(scene * dark, random)
    if random.random() < 0.125 or channels == 1:
        gray = ((x * LUMA).sum(0, keepdim=True).expand(channels, -1, -1) for x in (noisy, clean))
        noisy, clean = ((x * 255).round() / 255 for x in gray)
    return noisy, clean


def enlarged(scene: Tensor, random: Random) -> Tensor:
    """A part of a scene (3, H, W) at its size, four times in five: by up to 3, as high ISO is soft at the pixel."""
    height, width = scene.shape[-2:]
    zoom = random.uniform(1, 3) if random.random() < 0.8 else 1.0
    rows, columns = round(height / zoom), round(width / zoom)
    top, left = random.integers(height - rows + 1), random.integers(width - columns + 1)
    return resized(scene[:, top : top + rows, left : left + columns], (height, width)).clamp(0, 1)


def _unit(x: Tensor) -> Tensor:
    return x / x.square().mean().sqrt()


def mixed(x: Tensor, matrix: Tensor) -> Tensor:
    """Each pixel's channels by a (3, 3) matrix: x (..., 3, H, W)."""
    return (matrix @ x.flatten(-2)).view(x.shape)


def resized(x: Tensor, size: tuple[int, int], antialias: bool = True) -> Tensor:
    """x (C, H, W) or (B, C, H, W) at another size, bicubic."""
    if x.shape[-2:] == size:
        return x
    batch = x if x.ndim == 4 else x[None]
    result = F.interpolate(batch, size=size, mode="bicubic", align_corners=False, antialias=antialias)
    return result if x.ndim == 4 else result[0]


def colour_matrix(mixture: tuple[float, ...]) -> Tensor:
    """(3, 3): linear sRGB -> camera RGB, of which white is (1, 1, 1)."""
    matrix = torch.einsum("k,kij->ij", torch.tensor(mixture), torch.tensor(XYZ_TO_CAMERA)) @ torch.tensor(SRGB_TO_XYZ)
    return matrix / matrix.sum(1, keepdim=True)
