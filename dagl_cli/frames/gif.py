"""GIF (version 89a): what is said before its frames, and writing them with the best 256 colours of each."""

from __future__ import annotations

import io
import struct
from typing import Any, BinaryIO

import numpy as np
import PIL.Image

from .. import images
from ..errors import ImageError
from ..images import Image, Metadata, xmp
from . import sequence
from .sequence import Frame, Header

_CONTROL = 0xF9
"""The label of the block that tells a frame's time and its transparent colour."""
_COMMENT = b"!\xfe"
_XMP = b"!\xff\x0bXMP DataXMP"
"""How the block begins that holds an XMP packet as it is (XMP specification, part 3, section 1.1.2) ..."""
_XMP_END = bytes([1, *range(255, -1, -1), 0])
"""... and ends: wherever in the packet a reader of blocks lands, these lengths lead it to the last byte."""
_COLOURS = 255
"""And one more, which is transparent."""


def header(data: memoryview) -> Header:
    """Walks over the blocks, to the end or as far as they go."""
    if len(data) < 13:
        raise ImageError("it is truncated: get a complete copy of it")
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position, frames, whole, alpha, metadata = 13 + _table(flags), 0, False, False, Metadata()
    try:
        while data[position] in b"!,":
            start = position
            picture = data[position] == ord(",")
            if picture and not frames:  # what it does not cover cannot be seen
                alpha |= struct.unpack_from("<4H", data, position + 1) != (0, 0, width, height)
            alpha |= data[position + 1] == _CONTROL and not picture and bool(data[position + 3] & 1)
            position += 11 + _table(data[position + 9]) if picture else 2
            while data[position]:
                position += 1 + data[position]
            position += 1
            frames += picture
            if data[start : start + 2] == _COMMENT:
                metadata.notes = ["its comment is left out"]
            if data[start : start + len(_XMP)] == _XMP and data[position - len(_XMP_END) : position] == _XMP_END:
                metadata.xmp = bytes(data[start + len(_XMP) : position - len(_XMP_END)])
        whole = data[position] == ord(";")
    except (IndexError, struct.error):  # its end
        pass
    readable = b"" if whole else bytes(data)
    return Header(width, height, frames, whole, "RGBA" if alpha else "RGB", metadata, readable=readable)


def _table(flags: int) -> int:
    """Bytes of a table of colours."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def plays(info: dict[str, Any]) -> int:
    """How often it is played, 0: for ever. GIF says how often it is repeated."""
    return int(info["loop"]) and int(info["loop"]) + 1 if "loop" in info else 1


class Writer(sequence.Writer):
    """Each frame is a GIF by Pillow, of which the blocks are taken: its own colours and its transparent pixels."""

    def __init__(self, file: BinaryIO, about: Header, plays: int, strip_metadata: bool) -> None:
        self._file, self._alpha, self._plays, self._strip = file, about.mode == "RGBA", plays, strip_metadata
        self._begun = False

    def add(self, frame: Frame, picture: Image) -> None:
        levels = images.levels(picture)
        if not self._begun:
            self._begin(levels.shape[1], levels.shape[0], None if self._strip else _packet(picture))
        self._file.write(_blocks(levels, frame.own, self._alpha))

    def _begin(self, width: int, height: int, packet: bytes | None) -> None:
        self._begun = True
        self._file.write(b"GIF89a" + struct.pack("<HHBBB", width, height, 0x70, 0, 0))
        if self._plays != 1:
            again = min(max(0, self._plays - 1), 65535)
            self._file.write(b"!\xff\x0bNETSCAPE2.0\x03\x01" + struct.pack("<H", again) + b"\0")
        if packet:
            self._file.write(_XMP + packet + _XMP_END)

    def finish(self) -> None:
        self._file.write(b";")


def _packet(picture: Image) -> bytes | None:
    """Its XMP, with how dagl made it. None: it has none, or one with null bytes, which GIF cannot hold."""
    packet = xmp.with_record(picture.xmp, picture.record) if picture.record else picture.xmp
    return packet if packet and 0 not in packet else None


def _blocks(levels: np.ndarray, shown: float, alpha: bool) -> bytes:
    """A frame as the blocks of a GIF.

    levels: (H, W, 1 to 4) uint8. shown: for how many milliseconds. alpha: it has a transparent colour, used or not,
    so that programs know what is left where it is cleared away.
    """
    colours = levels[..., :3] if levels.shape[2] > 2 else levels[..., :1].repeat(3, 2)
    hidden = levels[..., -1] < 128 if levels.shape[2] % 2 == 0 else np.zeros(levels.shape[:2], bool)
    if hidden.any() and not hidden.all():  # what cannot be seen takes no colours
        colours = np.where(hidden[..., None], colours[~hidden][0], colours)
    indexed = _indexed(colours)
    options: dict[str, Any] = {
        "duration": 10 * max(0, round(shown / 10)),
        "optimize": False,
        "interlace": 0,
        "disposal": 2,
    }
    if alpha:
        indices = np.asarray(indexed).copy()
        indices[hidden] = _COLOURS
        palette = (indexed.getpalette() or [])[: 3 * _COLOURS]
        indexed = PIL.Image.fromarray(indices)
        indexed.putpalette(palette + [0] * (768 - len(palette)))
        options |= {"transparency": _COLOURS, "disposal": 2}
    buffer = io.BytesIO()
    indexed.save(buffer, "GIF", **options)
    data = buffer.getvalue()
    size = _table(data[10])
    colour_table, blocks = data[13 : 13 + size], bytearray(data[13 + size : -1])
    position = 0
    while blocks[position] == ord("!"):
        position += 2
        while blocks[position]:
            position += 1 + blocks[position]
        position += 1
    blocks[position + 9] = 0x80 | (data[10] & 7)
    return bytes(blocks[: position + 10] + colour_table + blocks[position + 10 :])


def _indexed(colours: np.ndarray) -> PIL.Image.Image:
    """(H, W, 3) with a palette: exactly where there are few colours, else the nearest of the best, without a dither,
    which would be noise again."""
    packed = colours.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
    found, indices = np.unique(packed, return_inverse=True)
    if len(found) > _COLOURS:
        few = PIL.Image.fromarray(colours).quantize(
            _COLOURS, PIL.Image.Quantize.MEDIANCUT, kmeans=1, dither=PIL.Image.Dither.NONE
        )
        return few
    image = PIL.Image.fromarray(indices.reshape(packed.shape).astype(np.uint8))
    image.putpalette(np.stack([found >> 16, found >> 8 & 255, found & 255], -1).astype(np.uint8).tobytes())
    return image
