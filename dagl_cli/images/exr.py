"""OpenEXR (openexr.com), through the project's own package, which is loaded only when a file is read or written.

Its colours are light, multiplied with alpha. One part of scan lines or tiles with the channels R, G, B or Y, and A;
what other channels and attributes it has goes along.
"""

from __future__ import annotations

import io
import warnings
from fractions import Fraction
from typing import Any

import numpy as np

from ..errors import ImageError
from ..silence import mute
from . import xmp
from .image import Metadata, Resolution, check_size, refuse_frames, unpremultiplied

START = b"v/1\x01"
_STORED = ("dataWindow", "displayWindow", "screenWindowCenter", "screenWindowWidth", "lineOrder", "compression")
_COLOURS = ("chromaticities", "whiteLuminance", "adoptedNeutral", "acesImageContainerFlag", "colorInteropID")
_OWN = {"channels", "type", "tiles", "chunkCount", "preview", "version", "name", "view", "pixelAspectRatio", "xDensity"}
"""What is written anew, is no longer true of the result, or has a place of its own in `Metadata`."""
_RECORD = "daglRestored"
"""The attribute that says how dagl made a picture."""
_LOSSY = {"B44_COMPRESSION", "B44A_COMPRESSION", "DWAA_COMPRESSION", "DWAB_COMPRESSION", "PXR24_COMPRESSION"}
"""What a result is not compressed with: it becomes ZIP, which every program reads."""


def package() -> Any:
    """Raises ImageError when it is not installed."""
    try:
        import OpenEXR
    except ImportError:
        raise ImageError("OpenEXR files need the package OpenEXR: pip install 'dagl[exr]'") from None
    return OpenEXR


def decode(data: bytes, max_pixels: int) -> tuple[np.ndarray, Metadata]:
    """(H, W) or (H, W, C) float16 or float32, and the rest. Raises ImageError."""
    exr, metadata = package(), Metadata()
    parts = _opened(exr, data, header_only=True).parts
    refuse_frames(len(parts))
    header = dict(parts[0].header)
    if header["type"] not in (exr.scanlineimage, exr.tiledimage):
        raise ImageError("its pixels have several depths (deep data): flatten it")
    (left, top), (right, bottom) = (map(int, corner) for corner in header["dataWindow"])
    check_size(right - left + 1, bottom - top + 1, max_pixels)
    names = {channel.name: channel for channel in header["channels"]}
    colours = _colours(list(names))
    for name in [*colours, *(["A"] if "A" in names else [])]:
        if (names[name].xSampling, names[name].ySampling) != (1, 1):
            raise ImageError(f"its channel {name} has a size of its own: save it with channels of one size")
    parts = _opened(exr, data).parts
    if not parts:
        raise ImageError("it is truncated: get a complete copy of it")
    channels = parts[0].channels
    taken = [channels.pop(name).pixels for name in [*colours, *(["A"] if "A" in channels else [])]]
    if any(plane.dtype.kind != "f" for plane in taken):
        raise ImageError("its colours are integers: convert it to half or float")
    depth = np.result_type(*taken)
    levels = np.stack([plane.astype(depth) for plane in taken], -1)
    metadata.exr_channels = {name: channel.pixels for name, channel in channels.items() if _is_whole(channel)}
    if lost := sorted(channels.keys() - metadata.exr_channels.keys()):
        metadata.notes.append(f"its channels of other sizes are left out: {', '.join(lost[:5])}")
    _understand(header, metadata)
    return unpremultiplied(levels) if levels.shape[2] % 2 == 0 else levels, metadata


def _opened(exr: Any, data: bytes, header_only: bool = False) -> Any:
    """A file, without what the package prints. A truncated one has no parts. Raises ImageError."""
    try:
        with mute():
            return exr.File(io.BytesIO(data), separate_channels=True, header_only=header_only, num_threads=1)
    except (RuntimeError, ValueError, TypeError):
        raise ImageError("it is damaged or truncated: get an intact copy of it") from None


def _colours(names: list[str]) -> list[str]:
    """Of the names of channels those that are the picture. Raises ImageError."""
    if {"R", "G", "B"} <= set(names):
        return ["R", "G", "B"]
    if "Y" in names:
        if {"RY", "BY"} & set(names):
            raise ImageError("its colours are luminance and chroma: convert it to R, G and B")
        return ["Y"]
    if len(names) == 1:
        return names
    raise ImageError(
        f"it has the channels {', '.join(names[:8])}, and none of R, G and B or Y: extract the one to restore"
    )


def _is_whole(channel: Any) -> bool:
    return bool((channel.xSampling, channel.ySampling) == (1, 1))


def _understand(header: dict[str, Any], metadata: Metadata) -> None:
    metadata.exr = {name: header[name] for name in (*_STORED, *_COLOURS) if name in header}
    metadata.exr["names"] = [channel.name for channel in header["channels"]]
    metadata.record = xmp.record(str(header.pop(_RECORD, "")).encode())
    metadata.exr_attributes = {name: value for name, value in header.items() if name not in {*metadata.exr, *_OWN}}
    density, aspect = Fraction(header.get("xDensity", 0)), Fraction(header.get("pixelAspectRatio", 1) or 1)
    if density > 0 and aspect > 0:
        metadata.resolution = Resolution(density, density * aspect, "inch")
    elif aspect > 0 and aspect != 1:
        metadata.resolution = Resolution(Fraction(1), aspect, "none")


def encode(levels: np.ndarray, metadata: Metadata) -> bytes:
    """levels: (H, W) or (H, W, C) float16 or float32, alpha last. Without loss."""
    exr = package()
    levels = levels[..., None] if levels.ndim == 2 else levels
    names = ["R", "G", "B", "A"] if levels.shape[2] > 2 else [_gray(metadata.exr.get("names", [])), "A"]
    if levels.shape[2] % 2 == 0:
        alpha = levels[..., -1:].astype(np.float32)
        colour = levels[..., :-1] * np.where(alpha > 0, alpha, 1)
        levels = np.concatenate([colour.astype(levels.dtype), levels[..., -1:]], -1)
    header = metadata.exr_attributes | {k: v for k, v in metadata.exr.items() if k != "names"}
    if header.get("compression", exr.ZIP_COMPRESSION).name in _LOSSY or "compression" not in header:
        header["compression"] = exr.ZIP_COMPRESSION
    header["type"] = exr.scanlineimage
    if header.get("lineOrder") == exr.RANDOM_Y:
        del header["lineOrder"]
    if metadata.resolution:
        x, y, unit = metadata.resolution.to("inch")
        header["pixelAspectRatio"] = float(y / x)
        if unit == "inch":
            header["xDensity"] = float(x)
    if metadata.record:
        header[_RECORD] = xmp.element(metadata.record).decode()
    planes = {name: np.ascontiguousarray(levels[..., i]) for i, name in enumerate(names[: levels.shape[2]])}
    stream = io.BytesIO()
    with mute(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exr.File(header, metadata.exr_channels | planes).write(stream)
    return stream.getvalue()


def _gray(names: list[str]) -> str:
    return names[0] if len(names) == 1 else "Y"
