"""The Python interface: pictures in memory, one or many, restored."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, overload

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from .. import images
from ..config import DEFAULT_PATTERN, HIGHEST_SIGMA, TASKS, Options, check_pattern, check_sigma
from ..errors import DaglError, ImageError, UsageError, unknown
from ..images.exif import KEPT as EXIF_TAGS
from . import estimate, guard
from .picture import Case, PictureRestorer, case_of, mosaic_noise, run
from .restorer import Restorer, check_task, load_model
from .tiling import Tick

if TYPE_CHECKING:
    from typing_extensions import Unpack

RANGES = {"uint8": 255, "uint16": 65535}
"""Highest level of the integer types that `restore` takes."""
MODES = {"1": "L", "L": "L", "LA": "LA", "RGB": "RGB", "RGBA": "RGBA", "P": "RGB", "I;16": "I;16"}
"""Modes of PIL images that `restore` takes -> those of its results."""
PathLike = str | os.PathLike[str]
Picture = np.ndarray | Tensor | PIL.Image.Image | PathLike
Held = TypeVar("Held", np.ndarray, Tensor, PIL.Image.Image)
"""A picture in memory: what comes back is of the same kind."""
Named = TypeVar("Named", bound=PathLike)
"""A picture in a file: what comes back is an array."""
Pictures = Callable[[float, int | None], None]
"""Called with the pictures that are done, a part of one among them, and of how many; None: they have no length."""


class How(TypedDict, total=False):
    """The parameters of `restore` behind `task`."""

    sigma: float | None
    pattern: str
    model: str | Path | Restorer | None
    options: Options
    guarded: bool


@overload
def restore(image: Held, task: str = ..., **how: Unpack[How]) -> Held: ...
@overload
def restore(image: PathLike, task: str = ..., **how: Unpack[How]) -> np.ndarray: ...
@overload
def restore(image: list[Held] | tuple[Held, ...], task: str = ..., **how: Unpack[How]) -> list[Held]: ...
@overload
def restore(image: list[Named] | tuple[Named, ...], task: str = ..., **how: Unpack[How]) -> list[np.ndarray]: ...
def restore(
    image: Picture | Sequence[Picture],
    task: str = "denoise",
    *,
    sigma: float | None = None,
    pattern: str = DEFAULT_PATTERN,
    model: str | Path | Restorer | None = None,
    options: Options = Options(),
    guarded: bool = False,
) -> Any:
    """Restore a picture, or several; what comes in as an array, a tensor or a PIL image goes out as one.

    Args:
        image: NumPy array (H, W), (H, W, 1) or (H, W, 3), uint8, uint16 (0-65535) or float in [0, 1]; or torch tensor
            (1, H, W) or (3, H, W), uint8 or float in [0, 1], or a batch of these, (B, 1 or 3, H, W); or a PIL image
            (gray, RGB, palette, with or without alpha, 16-bit gray), whose alpha passes through; or the path of a file;
            or a list or tuple of such pictures, each of its own size and kind. It is not changed.
        task: 'denoise', 'real', 'dejpeg', 'demosaic', or 'raw': demosaicing without the sensor's noise, of a mosaic in
            sRGB's curve.
        sigma: noise level on the 0-255 scale whatever the dtype; None: estimated, of each picture. Only for 'denoise',
            'real' and 'raw'.
        pattern: Bayer pattern of a mosaic, read from the top left: 'RGGB', 'BGGR', 'GRBG' or 'GBRG'.
        model: a name, a path, or what `load_model` returned (then `options` is not used).
        guarded: find out what the picture needs as the commands do, and leave alone what needs nothing: a picture
            without noise, where it is estimated, or without JPEG blocks; a page, a drawing, a dither. The task can be
            'restore' then.

    Returns the same kind, dtype and range, clipped to it; (..., H, W, 3) or (..., 3, H, W) for demosaicing; of a list
    or tuple a list. A PIL image keeps its `info`: EXIF, ICC profile, resolution and the rest, which `save` takes. A
    path gives an array (H, W, 1) or (H, W, 3), upright, of the file's type (uint8, uint16, float16, float32; floats
    with the file's values), with alpha as one channel more.
    Raises UsageError for NaN, wrong shapes or ranges and other types, ImageError for a file that cannot be read, or a
    PIL image that is closed, damaged or truncated. Of several pictures the first error ends it, and says whose it is.
    """
    one = _Restoring(task, sigma, pattern, model, options, guarded)
    if isinstance(image, (list, tuple)):
        return [_numbered(one, number, each) for number, each in enumerate(image)]
    if isinstance(image, Tensor) and image.ndim == 4 and image.layout == torch.strided and len(image):
        return torch.stack([_numbered(one, number, each) for number, each in enumerate(image)])
    return one(image)


@overload
def restore_iter(
    images: Iterable[Held], task: str = ..., *, progress: Pictures = ..., **how: Unpack[How]
) -> Iterator[Held]: ...
@overload
def restore_iter(
    images: Iterable[Named], task: str = ..., *, progress: Pictures = ..., **how: Unpack[How]
) -> Iterator[np.ndarray]: ...
def restore_iter(
    images: Iterable[Picture],
    task: str = "denoise",
    *,
    sigma: float | None = None,
    pattern: str = DEFAULT_PATTERN,
    model: str | Path | Restorer | None = None,
    options: Options = Options(),
    guarded: bool = False,
    progress: Pictures = lambda done, total: None,
) -> Iterator[Any]:
    """Restore pictures one after the other: each is taken when the one before was, so there may be any number.

    images: whatever can be iterated over, a generator too; of what, and the other parameters, as for `restore`.
    progress: called with the pictures that are done, 2.5 in the middle of the third, and of how many; None where
        `images` has no length.

    Raises what `restore` raises: parameters at once, a picture's own error when it comes to it.
    """
    one = _Restoring(task, sigma, pattern, model, options, guarded)
    if isinstance(images, (str, os.PathLike)) or not isinstance(images, Iterable):
        raise UsageError(f"`images` is a {type(images).__name__}: give a list, or whatever gives picture after picture")
    return _one_by_one(one, images, len(images) if isinstance(images, Sized) else None, progress)


def _one_by_one(one: _Restoring, images: Iterable[Picture], total: int | None, progress: Pictures) -> Iterator[Any]:
    progress(0, total)
    for number, image in enumerate(images):

        def tick(done: int, of: int, before: int = number) -> None:
            progress(before + done / of, total)

        restored = _numbered(one, number, image, tick)
        progress(number + 1, total)
        yield restored


def _numbered(one: _Restoring, number: int, image: object, progress: Tick | None = None) -> Any:
    try:
        return one(image, progress)
    except DaglError as error:
        raise type(error)(f"image[{number}]: {error}") from error


@dataclass(frozen=True)
class _Restoring:
    """`restore` for one picture after the other; each model is loaded once. Raises UsageError."""

    task: str
    sigma: float | None
    pattern: str
    model: str | Path | Restorer | None
    options: Options
    guarded: bool

    def __post_init__(self) -> None:
        _check_types(self.task, self.pattern, self.model, self.options)
        if self.sigma is not None:
            check_sigma(self.sigma)
        check_pattern(self.pattern)
        tasks = (*TASKS, "restore") if self.guarded else tuple(TASKS)
        if self.task not in tasks:
            raise unknown("task", self.task, tasks)

    def __call__(self, image: object, progress: Tick | None = None) -> Any:
        picture = _picture(image)
        case = case_of(picture, self.task, self.pattern)
        if self.guarded:
            pixels = self._guard.treated(case, progress)[1].pixels.clip(0, 1)
        else:
            restorer = self._restorer(case.pixels.shape[-1])
            level: float | Tensor | None = self.sigma
            if level is None and restorer.config.noise_map:
                level = _estimated(case, self.task)
            restored = run(restorer, case.pixels, level, self.pattern, picture.depth, progress)
            pixels = replace(case, pixels=restored).result().pixels
        return _as_given(pixels, picture, image)

    @functools.cached_property
    def _guard(self) -> PictureRestorer:
        """What the commands do."""
        named = None if self.model is None or isinstance(self.model, Restorer) else str(self.model)
        restorer = PictureRestorer(self.task, model=named, sigma=self.sigma, pattern=self.pattern, options=self.options)
        if isinstance(self.model, Restorer):
            restorer.use(self.model)
        return restorer

    @functools.cached_property
    def _restorer(self) -> Callable[[int], Restorer]:
        """The model for gray (1) or colour (3) pictures."""
        if isinstance(given := self.model, Restorer):
            check_task(given.config.task, self.task, given.name)
            return lambda channels: given
        return functools.cache(functools.partial(load_model, self.task, model=given, options=self.options))


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


def _estimated(case: Case, task: str) -> float | Tensor:
    """The noise level that a model is told; 0 where there is no noise."""
    if task == "raw":
        found = mosaic_noise(case)
        return 0.0 if found is None else found.levels
    if task == "real":
        finding = guard.camera_noise(case.seen())
        return 0.0 if finding.nothing else finding.level or 0.0
    return min(estimate.estimate_sigma(case.seen()) or 0.0, HIGHEST_SIGMA)


def _picture(image: object) -> images.Image:
    """What `restore` takes, as one picture: (H, W, C) float32. Raises UsageError or ImageError."""
    if isinstance(image, (str, os.PathLike)):
        return images.read(Path(image))
    if isinstance(image, PIL.Image.Image):
        return _of_pil(image)
    if not isinstance(image, (np.ndarray, Tensor)):
        kinds = "a NumPy array, a torch tensor, a PIL image or a path, or a list of them"
        raise UsageError(f"`image` is a {type(image).__name__}: give {kinds}")
    if isinstance(image, Tensor) and (image.layout != torch.strided or image.is_nested or image.is_meta):
        raise UsageError("a tensor must be dense and hold its values: not sparse (`to_dense()`), nested or on 'meta'")
    shape = tuple(image.shape)
    if 0 in shape:
        raise UsageError(f"an image of shape {shape} has no pixels")
    if isinstance(image, Tensor):
        is_levels = image.dtype == torch.uint8
        if len(shape) != 3 or shape[0] not in (1, 3) or not (image.is_floating_point() or is_levels):
            remedy = ": take alpha off first" if len(shape) == 3 and shape[0] in (2, 4) else ""
            wanted = "a tensor must be (1, H, W) or (3, H, W), uint8 or float in [0, 1]"
            raise UsageError(f"{wanted}, not {shape} of {image.dtype}{remedy}")
        pixels = image.detach().to("cpu", torch.float32).permute(1, 2, 0).numpy()
        pixels = pixels / np.float32(255) if is_levels else pixels
    else:
        if len(shape) not in (2, 3) or (*shape, 1)[2] not in (1, 3):
            remedy = "take alpha off first" if len(shape) == 3 else "give several as a list"
            raise UsageError(f"an array must be (H, W), (H, W, 1) or (H, W, 3), not {shape}: {remedy}")
        top = RANGES.get(image.dtype.name)
        if top is None and not np.issubdtype(image.dtype, np.floating):
            raise UsageError(f"an array must be uint8, uint16 or float in [0, 1], not {image.dtype}")
        floats = np.ascontiguousarray(image, np.float32) / np.float32(top or 1)
        pixels = floats.reshape(*shape[:2], -1)
    if not bool(((pixels >= -0.5) & (pixels <= 1.5)).all()):
        raise UsageError("pixel values must be finite and in [0, 1] (a little beyond is fine for noise)")
    return images.Image(pixels, depth=8 if image.dtype in (np.uint8, torch.uint8) else 16)


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
        tensor = torch.from_numpy(pixels).permute(2, 0, 1)
        return (tensor.mul(255).round() if image.dtype == torch.uint8 else tensor).to(image.device, image.dtype)
    if isinstance(image, np.ndarray):
        array = pixels.reshape(image.shape) if pixels.shape[-1] == picture.pixels.shape[-1] else pixels
        top = RANGES.get(image.dtype.name)
        return array.astype(image.dtype) if top is None else np.rint(array * top).astype(image.dtype)
    levels = images.levels(replace(picture, pixels=pixels))
    if not isinstance(image, PIL.Image.Image):
        return levels
    if levels.dtype == np.uint16 and levels.shape[-1] == 3:
        raise UsageError("PIL has no 16-bit RGB: give the mosaic as an array")
    return _with_info(PIL.Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels), image)


def _with_info(result: PIL.Image.Image, image: PIL.Image.Image) -> PIL.Image.Image:
    """With what is known of the image besides its pixels, as far as it is true of the result."""
    # a keyed colour became alpha, and what is told by its number in a palette is told no longer
    gone = {"transparency", "background"} if image.mode == "P" else {"transparency"}
    result.info |= {key: value for key, value in image.info.items() if key not in gone}
    if "exif" not in image.info and hasattr(image, "tag_v2"):  # a TIFF has it among its tags
        exif = PIL.Image.Exif()
        exif.load(image.getexif().tobytes())
        for tag in set(exif) - EXIF_TAGS:
            del exif[tag]
        result.info["exif"] = exif.tobytes()
    if len(image.getbands()) < 3 <= len(result.getbands()) and image.mode != "P":  # a mosaic: now it has colours
        result.info.pop("icc_profile", None)
    return result
