"""Planes of brightness and colour, as most videos have them: colours in fewer pixels, each with noise of its own.

Noise of such a video is no noise of an RGB picture: that of the brightness is the same in all three channels, and that
of the colours covers several pixels. So white noise is removed from the planes, where it is white.
"""

from __future__ import annotations

from typing import Any

import numpy as np

GAINS = (0.574, 0.25, 0.26)
"""What independent noise of R, G and B becomes in Y, Cb and Cr (ITU-R BT.601, 16 to 235). How much is left in the
colours depends on how their pixels were made: 0.27 and 0.29 by means of 2x2, 0.22 and 0.23 by FFmpeg's filter."""


def sampling(frame: Any) -> str:
    """How its colours are stored, as FFmpeg calls it: 420, 422 or 444. That of gray is 420."""
    parts = frame.format.components
    if len(parts) < 3:
        return "420"
    ratio = round(frame.width / parts[1].width), round(frame.height / parts[1].height)
    return {(2, 2): "420", (2, 1): "422", (4, 1): "422", (4, 4): "420"}.get(ratio, "444")


def name(frame: Any) -> str:
    """FFmpeg's name of planes that hold a frame's samples."""
    bits = max(component.bits for component in frame.format.components)
    depth = next(depth for depth in (8, 10, 12, 16) if depth >= bits)
    return f"yuv{sampling(frame)}p" + (f"{depth}le" if depth > 8 else "")


def taken(frame: Any) -> list[np.ndarray]:
    """(H, W, 1) float32 in [0, 1] each, the colours smaller."""
    frame = frame if frame.format.name == name(frame) else frame.reformat(format=name(frame))
    return [np.divide(samples[..., None], _top(frame), dtype=np.float32) for samples in _samples(frame)]


def joined(planes: list[np.ndarray], like: Any, width: int, height: int) -> Any:
    """A frame (PyAV's) of planes as `taken` gives them. like: the frame that they were taken of."""
    import av

    made = av.VideoFrame(width, height, name(like))
    for samples, values in zip(_samples(made), planes):
        samples[:] = np.rint(values[..., 0].clip(0, 1) * _top(made))
    return made


def _top(frame: Any) -> np.float32:
    return np.float32(2 ** frame.format.components[0].bits - 1)


def _samples(frame: Any) -> list[np.ndarray]:
    """(H, W) each, to be read or written in place."""
    kind = np.dtype("u1" if frame.format.components[0].bits == 8 else "<u2")
    rows = [np.frombuffer(plane, kind).reshape(-1, plane.line_size // kind.itemsize) for plane in frame.planes]
    return [row[: plane.height, : plane.width] for row, plane in zip(rows, frame.planes)]
