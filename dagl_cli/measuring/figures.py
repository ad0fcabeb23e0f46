"""A figure as the paper's 5 to 8: the clean image with boxes, and beside it what every method made of these places."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from .. import __version__
from ..errors import DaglError, UsageError
from ..files import replacing
from . import datasets
from .cases import Case
from .measure import Measurement, prepared, restored
from .methods import Method
from .metrics import SSIM, psnr

COLOURS = ("#e4002b", "#00a550", "#0072ce", "#f2a900")
"""Of the boxes, in turn."""
CELL = 200
"""Width of an enlarged crop in pixels."""
GAP = 6
FONT = 15
SOFTWARE = "dagl "
"""How the PNG says by what it was made: only such a file is replaced."""


@dataclass(frozen=True)
class Box:
    """A place in an image, in pixels."""

    left: int
    top: int
    width: int
    height: int

    @classmethod
    def parse(cls, text: str) -> Box:
        """X,Y,W,H. Raises UsageError."""
        try:
            left, top, width, height = map(int, text.split(","))
        except ValueError:
            raise UsageError(f"`figure_at` {text}: write X,Y,W,H in pixels, as 120,80,64,64") from None
        if min(left, top) < 0 or min(width, height) < 8:
            raise UsageError(f"`figure_at` {text}: X and Y must be 0 or more, W and H at least 8")
        return cls(left, top, width, height)

    def crop(self, pixels: np.ndarray) -> np.ndarray:
        """Raises UsageError where the box is not inside the image."""
        height, width = pixels.shape[:2]
        if self.left + self.width > width or self.top + self.height > height:
            raise UsageError(f"`figure_at` {self} is not inside the image, which is {width}x{height}")
        return pixels[self.top : self.top + self.height, self.left : self.left + self.width]

    def __str__(self) -> str:
        return f"{self.left},{self.top},{self.width},{self.height}"


def figure(
    case: Case, methods: Sequence[Method], boxes: Sequence[Box], folder: Path, protocol: str = "paper", seed: int = 1
) -> PIL.Image.Image:
    """Of a case with one image. Under each crop are PSNR and SSIM of the whole image. Raises UsageError, DaglError."""
    (sample,) = case.samples()
    loaded = datasets.load(case.dataset, sample, folder)
    clean, bad = prepared(case, loaded, seed)
    versions = {"clean": clean, "input": bad.clamp(0, 1)}
    for method in methods:
        versions[method.name] = restored(method, bad, case.level, protocol, loaded.depth)
    captions = {"clean": "PSNR / SSIM"} | {
        name: f"{psnr(x, clean):.2f} / {SSIM[case.task](x, clean):.4f}"
        for name, x in versions.items()
        if name != "clean"
    }
    pixels = {name: _pixels(x) for name, x in versions.items()}
    rows = [[(box, name) for name in versions] for box in boxes]
    if len(boxes) == 1:  # two rows, as in the paper
        half = math.ceil(len(versions) / 2)
        rows = [rows[0][:half], rows[0][half:]]
    return _drawn(pixels, captions, boxes, rows)


def _pixels(x: Tensor) -> np.ndarray:
    """(C, H, W) in [0, 1] -> (H, W, 3) uint8."""
    return np.asarray((x * 255).round().byte().expand(3, -1, -1).permute(1, 2, 0).numpy())


def _drawn(
    pixels: dict[str, np.ndarray],
    captions: dict[str, str],
    boxes: Sequence[Box],
    rows: Sequence[Sequence[tuple[Box, str]]],
) -> PIL.Image.Image:
    """The whole image on the left, the rows of crops on the right."""
    font, line = PIL.ImageFont.load_default(FONT), FONT + 3
    heights = [max(round(CELL * box.height / box.width) for box, _ in row) + 2 * line + GAP for row in rows if row]
    total, columns = sum(heights) - GAP, max(map(len, rows))
    height, width = pixels["clean"].shape[:2]
    shown = round(width * (total - 2 * line) / height)
    page = PIL.Image.new("RGB", (shown + GAP + columns * (CELL + GAP) - GAP, total), "white")
    draw = PIL.ImageDraw.Draw(page)
    whole = PIL.Image.fromarray(pixels["clean"])
    outline = PIL.ImageDraw.Draw(whole)
    for i, box in enumerate(boxes):
        corners = (box.left, box.top, box.left + box.width - 1, box.top + box.height - 1)
        outline.rectangle(corners, outline=COLOURS[i % len(COLOURS)], width=max(2, width // 200))
    page.paste(whole.resize((shown, total - 2 * line), PIL.Image.Resampling.LANCZOS), (0, 0))
    top = 0
    for row, row_height in zip(rows, heights):
        for column, (box, name) in enumerate(row):
            left, high = shown + GAP + column * (CELL + GAP), round(CELL * box.height / box.width)
            crop = PIL.Image.fromarray(box.crop(pixels[name])).resize((CELL, high), PIL.Image.Resampling.NEAREST)
            page.paste(crop, (left, top))
            frame = COLOURS[boxes.index(box) % len(COLOURS)]
            draw.rectangle((left, top, left + CELL - 1, top + high - 1), outline=frame, width=2)
            for i, text in enumerate((name, captions[name])):
                draw.text((left + CELL / 2, top + high + line * i), text, "black", font, anchor="ma")
        top += row_height
    return page


def check_target(path: Path) -> None:
    """Raises UsageError unless a figure can be written there without replacing anything but an earlier figure."""
    if path.suffix.lower() != ".png":
        raise UsageError(f"`output` {path}: a figure is a PNG: name it .png")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UsageError(f"`output` {path} cannot be written: give a file in a folder that exists")
    if path.exists():
        try:
            with PIL.Image.open(path) as image:
                ours = str(image.info.get("Software", "")).startswith(SOFTWARE)
        except OSError:
            ours = False
        if not ours:
            raise UsageError(f"`output` {path} exists and is no figure of dagl's: choose another name")


def save(page: PIL.Image.Image, path: Path, rows: Sequence[Measurement]) -> None:
    """As PNG, with what is stated about the rows inside. Raises DaglError."""
    info = PngInfo()
    info.add_text("Software", f"{SOFTWARE}{__version__}")
    info.add_itxt("Description", "\n".join(row.stated() for row in rows))
    try:
        with replacing(path) as temporary:
            page.save(temporary, "PNG", pnginfo=info)
    except OSError as error:
        raise DaglError(f"cannot write {path}: {error.strerror}: choose another file or folder") from None
