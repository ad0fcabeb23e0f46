"""Animated PNG (PNG specification, third edition): what is said before its frames, and writing them without loss."""

from __future__ import annotations

import io
import struct
from dataclasses import replace
from fractions import Fraction
from typing import Any, BinaryIO

from .. import images
from ..errors import ImageError
from ..images import Image, Metadata, png
from . import sequence
from .sequence import Frame, Header


def is_animated(data: memoryview) -> bool:
    """Whether a PNG says before its pixels that it is an animation of several frames."""
    position = 8
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind in (b"IDAT", b"IEND") or not kind.isalpha():
            return False
        if kind == b"acTL" and position + 12 <= len(data):
            return bool(struct.unpack_from(">I", data, position + 8)[0] > 1)
        position += 12 + length
    return False


def header(data: memoryview) -> Header:
    """Walks over the chunks, to the end or as far as they go. Raises ImageError for 16 bits, which Pillow cuts to 8."""
    width, height, bits, colours = struct.unpack_from(">IIBB", data, 16)
    if bits > 8:
        raise ImageError("it is an animation of 16 bits: split it into single images")
    expected, begun, before, alpha, whole = 0, 0, 0, colours >= 4, False
    try:
        for kind, content, _ in png.chunks(data):
            if kind == b"acTL":
                (expected,) = struct.unpack_from(">I", content)
            before |= kind == b"IDAT" and not begun  # for programs that show no animations
            alpha |= kind == b"tRNS"
            begun += kind == b"fcTL"
            whole |= kind == b"IEND"
    except ImageError:
        begun = max(0, begun - 1)  # that one is cut off
    mode = "RGBA" if alpha else "L" if colours == 0 else "RGB"
    about = Header(
        width, height, min(begun, expected), whole and begun >= expected, mode, png.described(data), int(before),
        readable=bytes(data) if not whole else b"",
    )  # fmt: skip
    if before:
        about.metadata.notes.append("its picture for programs that show no animations is left out")
    return about


def plays(info: dict[str, Any]) -> int:
    """How often it is played, 0: for ever."""
    return int(info.get("loop", 0))


class Writer(sequence.Writer):
    """The first frame is a PNG, which gets chunks around its pixels; of the others the pixels are taken."""

    def __init__(self, file: BinaryIO, about: Header, plays: int, strip_metadata: bool) -> None:
        self._file, self._mode, self._plays, self._strip = file, about.mode, plays, strip_metadata
        self._frames = self._number = self._control = 0

    def add(self, frame: Frame, picture: Image) -> None:
        first = not self._frames
        levels = sequence.fitted(images.levels(picture), self._mode)
        plain = picture if first else replace(picture, **vars(Metadata(icc=None)))
        data = images.encoded(plain, "PNG", self._strip, [], levels)
        pixels = False
        for kind, content, chunk in png.chunks(data):
            if kind == b"IDAT" and not pixels:
                pixels = True
                if first:
                    self._control = self._file.tell()
                    self._file.write(self._count())
                self._file.write(self._shown(levels.shape, frame.own))
            if kind == b"IDAT" and not first:
                self._file.write(png.packed(b"fdAT", self._next() + bytes(content)))
            elif first and kind == b"IHDR":
                self._file.write(bytes(data[:8]) + bytes(chunk))
            elif first and kind != b"IEND":
                self._file.write(chunk)
        self._frames += 1

    def _next(self) -> bytes:
        """The number of a chunk of the animation."""
        self._number += 1
        return struct.pack(">I", self._number - 1)

    def _count(self) -> bytes:
        return png.packed(b"acTL", struct.pack(">II", self._frames, min(self._plays, 2**31 - 1)))

    def _shown(self, shape: tuple[int, ...], shown: float) -> bytes:
        """How a frame is shown: all of it, in place of the one before."""
        seconds = (Fraction(shown) / 1000).limit_denominator(1000)
        if seconds.numerator > 65535:
            seconds = Fraction(65535)
        about = struct.pack(">IIIIHHBB", shape[1], shape[0], 0, 0, seconds.numerator, seconds.denominator, 0, 0)
        return png.packed(b"fcTL", self._next() + about)

    def finish(self) -> None:
        self._file.write(png.packed(b"IEND", b""))
        self._file.seek(self._control)
        self._file.write(self._count())
        self._file.seek(0, io.SEEK_END)
