"""Animated WebP (RFC 9649, section 2.7.1.1): what is said before its frames, and writing them without loss."""

from __future__ import annotations

import io
import struct
from typing import Any, BinaryIO

from .. import images
from ..errors import ImageError
from ..images import Image, webp
from . import sequence
from .sequence import Frame, Header

_ICC, _ALPHA, _EXIF, _XMP, _ANIMATED = 0x20, 0x10, 0x08, 0x04, 0x02
_REPLACED = 0x02
"""A frame that is not blended with the one before."""


def is_animated(data: memoryview) -> bool:
    return bytes(data[12:16]) == b"VP8X" and len(data) > 20 and bool(data[20] & _ANIMATED)


def header(data: memoryview) -> Header:
    """Walks over the chunks, to the end or as far as they go."""
    size = webp.size(b"VP8X", data[20:30])
    if not size:
        raise ImageError("it is damaged (its header makes no sense): get an intact copy of it")
    end, frames, whole = 12, 0, True
    try:
        for kind, content in webp.chunks(data):
            frames += kind == b"ANMF"
            end += 8 + len(content) + len(content) % 2
    except ImageError:
        whole = False
    readable = b"RIFF" + struct.pack("<I", end - 8) + bytes(data[8:end])
    metadata, _ = webp.described(readable, size[0] * size[1])
    return Header(*size, frames, whole, "RGBA" if data[20] & _ALPHA else "RGB", metadata, readable=readable)


def plays(info: dict[str, Any]) -> int:
    """How often it is played, 0: for ever."""
    return int(info.get("loop", 1))


class Writer(sequence.Writer):
    """Each frame is a WebP of its own, whose coded picture is taken."""

    def __init__(self, file: BinaryIO, about: Header, plays: int, strip_metadata: bool) -> None:
        self._file, self._mode, self._plays, self._strip = file, about.mode, plays, strip_metadata
        self._last: list[bytes] = []

    def add(self, frame: Frame, picture: Image) -> None:
        levels = sequence.fitted(images.levels(picture), "RGB" if self._mode == "L" else self._mode)
        chunks = list(webp.chunks(bytes(images.encoded(picture, "WEBP", self._strip, [], levels))))
        height, width = levels.shape[:2]
        if not self._file.tell():
            self._begin(width, height, chunks)
        shown = min(max(0, round(frame.own)), 2**24 - 1)
        place = (
            bytes(6) + b"".join(n.to_bytes(3, "little") for n in (width - 1, height - 1, shown)) + bytes([_REPLACED])
        )
        coded = b"".join(_packed(kind, content) for kind, content in chunks if kind in (b"ALPH", b"VP8 ", b"VP8L"))
        self._file.write(_packed(b"ANMF", place + coded))

    def _begin(self, width: int, height: int, chunks: list[tuple[bytes, memoryview]]) -> None:
        """What stands before the frames; what stands behind them is kept for later."""
        kinds = dict(chunks)
        flags = _ANIMATED | (_ALPHA if self._mode == "RGBA" else 0)
        for kind, flag in ((b"ICCP", _ICC), (b"EXIF", _EXIF), (b"XMP ", _XMP)):
            flags |= flag if kind in kinds else 0
        canvas = bytes([flags, 0, 0, 0]) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        self._file.write(b"RIFF\0\0\0\0WEBP" + _packed(b"VP8X", canvas))
        if b"ICCP" in kinds:
            self._file.write(_packed(b"ICCP", kinds[b"ICCP"]))
        self._file.write(_packed(b"ANIM", bytes(4) + struct.pack("<H", min(self._plays, 65535))))
        self._last = [_packed(kind, kinds[kind]) for kind in (b"EXIF", b"XMP ") if kind in kinds]

    def finish(self) -> None:
        self._file.write(b"".join(self._last))
        length = self._file.tell()
        if length > 2**32 - 2:
            raise ImageError("WebP holds 4 GB: choose .png")
        self._file.seek(4)
        self._file.write(struct.pack("<I", length - 8))
        self._file.seek(0, io.SEEK_END)


def _packed(kind: bytes, content: bytes | memoryview) -> bytes:
    return kind + struct.pack("<I", len(content)) + bytes(content) + bytes(len(content) % 2)
