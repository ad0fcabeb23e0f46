"""The Python interface: one picture in memory, restored."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from .. import images
from ..config import DEFAULT_PATTERN, HIGHEST_SIGMA, TASKS, Options, check_pattern, check_sigma
from ..errors import ImageError, UsageError, unknown
from . import estimate, guard
from .picture import Case, PictureRestorer, case_of, run
from .restorer import Restorer, check_task, load_model

RANGES = {"uint8": 255, "uint16": 65535}
"""Highest level of the integer types that `restore` takes."""
MODES = {"1": "L", "L": "L", "LA": "LA", "RGB": "RGB", "RGBA": "RGBA", "P": "RGB", "I;16": "I;16"}
"""Modes of PIL images that `restore` takes -> those of its results."""
PathLike = str | os.PathLike[str]


def restore(
    image: np.ndarray | Tensor | PIL.Image.Image | PathLike,
    task: str = "denoise",
    *,
    sigma: float | None = None,
    pattern: str = DEFAULT_PATTERN,
    model: str | Path | Restorer | None = None,
    options: Options = Options(),
    guarded: bool = False,
) -> Any:
    """Restore one image in memory; what comes in as an array, a tensor or a PIL image goes out as one.

    Args:
        image: NumPy array (H, W), (H, W, 1) or (H, W, 3), uint8, uint16 (0-65535) or float in [0, 1]; or torch tensor
            (1, H, W) or (3, H, W), float in [0, 1]; or a PIL image (gray, RGB, palette, with or without alpha, 16-bit
            gray), whose alpha passes through; or the path of a file. It is not changed.
        task: 'denoise', 'real', 'dejpeg' or 'demosaic'.
        sigma: noise level on the 0-255 scale whatever the dtype; None: estimated. Only for 'denoise' and 'real'.
        pattern: Bayer pattern of a mosaic, read from the top left: 'RGGB', 'BGGR', 'GRBG' or 'GBRG'.
        model: a name, a path, or what `load_model` returned (then `options` is not used).
        guarded: find out what the picture needs as the commands do, and leave alone what needs nothing: a picture
            without noise, where it is estimated, or without JPEG blocks; a page, a drawing, a dither. The task can be
            'restore' then.

    Returns the same kind, dtype and range, clipped to it; (H, W, 3) or (3, H, W) for demosaicing. A path gives an
    array (H, W, 1) or (H, W, 3), upright, of the file's type (uint8, uint16, float16, float32; floats with the file's
    values), with alpha as one channel more.
    Raises UsageError for NaN, wrong shapes or ranges, batches and other types; ImageError for a file that cannot be
    read, or a PIL image that is closed, damaged or truncated.
    """
    _check_types(task, pattern, model, options)
    if sigma is not None:
        check_sigma(sigma)
    check_pattern(pattern)
    if guarded and task not in (*TASKS, "restore"):
        raise unknown("task", task, (*TASKS, "restore"))
    picture = _picture(image)
    case = case_of(picture, task, pattern)
    if guarded:
        pixels = _guarded(case, task, sigma, pattern, model, options)
    else:
        if isinstance(model, Restorer):
            restorer = model
            check_task(restorer.config.task, task, restorer.name)
        else:
            restorer = load_model(task, case.pixels.shape[-1], model=model, options=options)
        if sigma is None and restorer.config.noise_map:
            sigma = _estimated(case.seen(), task)
        pixels = replace(case, pixels=run(restorer, case.pixels, sigma, pattern)).result().pixels
    return _as_given(pixels, picture, image)


def _check_types(task: object, pattern: object, model: object, options: object) -> None:
    """Raises UsageError that names the parameter."""
    for name, value, kinds, wanted in (
        ("task", task, str, "a name, such as 'denoise'"),
        ("pattern", pattern, str, "a name, such as 'RGGB'"),
        ("model", model, (str, os.PathLike, Restorer, type(None)), "a name, a path, or what `load_model` returned"),
        ("options", options, Options, "`dagl_cli.Options(...)`"),
    ):
        if not isinstance(value, kinds):
            raise UsageError(f"`{name}` is of type {type(value).__name__}: give {wanted}")


def _guarded(
    case: Case, task: str, sigma: float | None, pattern: str, model: str | Path | Restorer | None, options: Options
) -> np.ndarray:
    """(H, W, C) as the commands would make it."""
    named = None if model is None or isinstance(model, Restorer) else str(model)
    restorer = PictureRestorer(task, model=named, sigma=sigma, pattern=pattern, options=options)
    if isinstance(model, Restorer):
        restorer.use(model)
    return restorer.treated(case)[1].pixels.clip(0, 1)


def _estimated(pixels: np.ndarray, task: str) -> float:
    """The noise level that a model is told; 0 where there is no noise."""
    if task == "real":
        found = guard.camera_noise(pixels)
        return 0.0 if found.nothing else found.level or 0.0
    return min(estimate.estimate_sigma(pixels) or 0.0, HIGHEST_SIGMA)


def _picture(image: object) -> images.Image:
    """What `restore` takes, as one picture: (H, W, C) float32. Raises UsageError or ImageError."""
    if isinstance(image, (str, os.PathLike)):
        return images.read(Path(image))
    if isinstance(image, PIL.Image.Image):
        return _of_pil(image)
    if not isinstance(image, (np.ndarray, Tensor)):
        kinds = "a NumPy array, a torch tensor, a PIL image or a path, one picture at a time"
        raise UsageError(f"`image` is a {type(image).__name__}: give {kinds}")
    if isinstance(image, Tensor) and (image.layout != torch.strided or image.is_nested or image.is_meta):
        raise UsageError("a tensor must be dense and hold its values: not sparse (`to_dense()`), nested or on 'meta'")
    shape = tuple(image.shape)
    if 0 in shape:
        raise UsageError(f"an image of shape {shape} has no pixels")
    if isinstance(image, Tensor):
        if len(shape) == 4:
            raise UsageError(f"a tensor must be (1, H, W) or (3, H, W), not {shape}: give one picture at a time")
        if len(shape) != 3 or shape[0] not in (1, 3) or not image.is_floating_point():
            raise UsageError(f"a tensor must be (1, H, W) or (3, H, W) of floats, not {shape} of {image.dtype}")
        pixels = image.detach().to("cpu", torch.float32).permute(1, 2, 0).numpy()
    else:
        if len(shape) not in (2, 3) or (*shape, 1)[2] not in (1, 3):
            remedy = "take alpha off first" if len(shape) == 3 else "give one picture at a time"
            raise UsageError(f"an array must be (H, W), (H, W, 1) or (H, W, 3), not {shape}: {remedy}")
        top = RANGES.get(image.dtype.name)
        if top is None and not np.issubdtype(image.dtype, np.floating):
            raise UsageError(f"an array must be uint8, uint16 or float in [0, 1], not {image.dtype}")
        floats = np.ascontiguousarray(image, np.float32) / np.float32(top or 1)
        pixels = floats.reshape(*shape[:2], -1)
    if not bool(((pixels >= -0.5) & (pixels <= 1.5)).all()):
        raise UsageError("pixel values must be finite and in [0, 1] (a little beyond is fine for noise)")
    return images.Image(pixels)


def _of_pil(image: PIL.Image.Image) -> images.Image:
    if image.mode not in MODES:
        raise UsageError(f"`image` has the mode {image.mode}: convert it to one of {', '.join(MODES)}")
    transparent = "transparency" in image.info and image.mode in ("L", "P", "RGB")
    mode = {"L": "LA"}.get(image.mode, "RGBA") if transparent else MODES[image.mode]
    try:
        levels = np.asarray(image if image.mode == mode else image.convert(mode))
    except MemoryError:
        raise
    except Exception as error:  # whatever a decoder says: Pillow reads a file's pixels only now
        raise ImageError("`image` cannot be read: it is closed, damaged or truncated: open an intact copy") from error
    if levels.size == 0:
        raise UsageError(f"an image of {image.width}x{image.height} has no pixels")
    levels = levels[..., None] if levels.ndim == 2 else levels
    alpha = levels[..., -1] if mode in ("LA", "RGBA") else None
    colours = levels if alpha is None else levels[..., :-1]
    top = np.iinfo(levels.dtype).max
    pixels = np.divide(colours, top, dtype=np.float32)
    tables = getattr(image, "quantization", None)
    return images.Image(pixels, alpha, 8 if top == 255 else 16, jpeg_tables=tables)


def _as_given(pixels: np.ndarray, picture: images.Image, image: object) -> Any:
    """(H, W, C) float32 in [0, 1] as what `restore` was given."""
    if isinstance(image, Tensor):
        return torch.from_numpy(pixels).permute(2, 0, 1).to(image.device, image.dtype)
    if isinstance(image, np.ndarray):
        array = pixels.reshape(image.shape) if pixels.shape[-1] == picture.pixels.shape[-1] else pixels
        top = RANGES.get(image.dtype.name)
        return array.astype(image.dtype) if top is None else np.rint(array * top).astype(image.dtype)
    levels = images.levels(replace(picture, pixels=pixels))
    if not isinstance(image, PIL.Image.Image):
        return levels
    if levels.dtype == np.uint16 and levels.shape[-1] == 3:
        raise UsageError("PIL has no 16-bit RGB: give the mosaic as an array")
    return PIL.Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels)
