"""PBM, PGM and PPM (netpbm.sourceforge.net): a header of words, then samples, as bytes or as words."""

from __future__ import annotations

import re

import numpy as np

from ..errors import ImageError
from . import xmp
from .image import Metadata, check_size

_WORD = re.compile(rb"\s*(?:#[^\n]*\n\s*)*(\d{1,10})")
_CHANNELS = {b"P1": 1, b"P2": 1, b"P3": 3, b"P4": 1, b"P5": 1, b"P6": 3}
_BITMAPS, _AS_WORDS = (b"P1", b"P4"), (b"P1", b"P2", b"P3")


def decode(data: bytes, max_pixels: int) -> tuple[np.ndarray, Metadata]:
    """Levels, (H, W) or (H, W, 3) uint8 or uint16, and the comments of the header. Raises ImageError."""
    kind, position, numbers, metadata = data[:2], 2, [], Metadata()
    for _ in range(2 if kind in _BITMAPS else 3):
        word = _WORD.match(data, position)
        if not word:
            raise ImageError("it is damaged (its header makes no sense): get an intact copy of it")
        numbers.append(int(word[1]))
        for line in re.findall(rb"#([^\n]*)", word[0]):
            if record := xmp.record(line):
                metadata.record = record
            else:
                metadata.header_lines.append(b"#" + line)
        position = word.end()
    width, height, top = (*numbers, 1)[:3]
    check_size(width, height, max_pixels)
    if not 1 <= top <= 65535:
        raise ImageError(f"its highest level is {top}: convert it to 8 or 16 bits")
    shape = (height, width) if _CHANNELS[kind] == 1 else (height, width, 3)
    body = memoryview(data)[position + 1 :]
    samples = _words(bytes(body), kind, shape) if kind in _AS_WORDS else _bytes(body, kind, shape, top)
    if samples.max() > top:
        raise ImageError("it is damaged (levels above its highest): get an intact copy of it")
    if kind in _BITMAPS:  # 1 is ink
        samples = 1 - samples
    full = 255 if top <= 255 else 65535
    if top == full:
        return samples, metadata
    return np.rint(np.linspace(0, full, top + 1)).astype(samples.dtype)[samples], metadata


def _bytes(body: memoryview, kind: bytes, shape: tuple[int, ...], top: int) -> np.ndarray:
    if kind == b"P4":
        rows = _taken(body, shape[0] * -(-shape[1] // 8)).reshape(shape[0], -1)
        return np.unpackbits(rows, axis=1)[:, : shape[1]]
    if top <= 255:
        return _taken(body, int(np.prod(shape))).reshape(shape)
    return _taken(body, 2 * int(np.prod(shape))).view(">u2").astype(np.uint16).reshape(shape)


def _taken(body: memoryview, count: int) -> np.ndarray:
    if len(body) < count:
        raise ImageError("it is truncated: get a complete copy of it")
    return np.frombuffer(body[:count], np.uint8)


def _words(body: bytes, kind: bytes, shape: tuple[int, ...]) -> np.ndarray:
    count = int(np.prod(shape))
    words = list(re.sub(rb"\s", b"", body).decode("latin-1")) if kind == b"P1" else body.split(maxsplit=count)
    if len(words) < count:
        raise ImageError("it is truncated: get a complete copy of it")
    levels = np.array(words[:count], dtype=np.int64)
    if levels.min() < 0 or levels.max() > 65535:
        raise ImageError("it is damaged (levels above its highest): get an intact copy of it")
    return levels.reshape(shape).astype(np.uint8 if levels.max() <= 255 else np.uint16)


def encode(levels: np.ndarray, metadata: Metadata) -> bytes:
    """levels: (H, W), which becomes PGM, or (H, W, 3), which becomes PPM; uint8 or uint16."""
    kind = b"P5" if levels.ndim == 2 else b"P6"
    top = 255 if levels.dtype == np.uint8 else 65535
    lines = [line if line.startswith(b"#") else b"# " + line for line in metadata.header_lines]
    lines += [b"# " + xmp.element(metadata.record)] if metadata.record else []
    header = b"\n".join([kind, *lines, b"%d %d" % (levels.shape[1], levels.shape[0]), b"%d\n" % top])
    return header + levels.astype(levels.dtype.newbyteorder(">")).tobytes()
