"""EXIF, and the directories of TIFF that it is made of (TIFF 6.0, section 2; BigTIFF; EXIF 2.32, section 4.6).

Entries are carried as the bytes they are, so that no text in whatever encoding, no odd type and no unknown tag is lost
on the way. What cannot be carried is named.
"""

from __future__ import annotations

import io
import math
import os
import re
import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL.Image
from PIL.ExifTags import GPSTAGS, TAGS

from ..errors import ImageError
from .image import MANY_FRAMES, Metadata, Resolution

ORIENTATION = 274
_DETAILS, _GPS, _INTEROPERABILITY = 34665, 34853, 40965
_ISO = 34855
_BELOW = {_DETAILS: TAGS, _GPS: GPSTAGS, _INTEROPERABILITY: TAGS}
"""Tags that point to directories of their own -> the names of the tags there."""
KEPT = {270, 271, 272, ORIENTATION, 305, 306, 315, 316, 18246, 18249, 33432, _DETAILS, _GPS, *range(40091, 40096)}
"""The tags of a TIFF's directory that are EXIF: what was photographed, by whom, with what, when and where."""
_X_RESOLUTION, _Y_RESOLUTION, _UNIT = 282, 283, 296
_UNITS = {"none": 1, "inch": 2, "cm": 3}
_MAKER_NOTES = 37500
_RAW_ONLY = {_MAKER_NOTES, 40961, 40962, 40963, 41730}
"""Maker notes, which break when they are moved; colour space, width, height and Bayer pattern of the raw image."""
_KINDS = {
    1: "B", 2: "s", 3: "H", 4: "I", 5: "II", 6: "b", 7: "s", 8: "h", 9: "i", 10: "ii", 11: "f", 12: "d", 13: "I",
    16: "Q", 17: "q", 18: "Q",
}  # fmt: skip
"""TIFF's types of values, as `struct` spells them. 16 to 18 are BigTIFF's."""
_CLASSIC = {16: 4, 17: 9, 18: 13}
_MOST_ENTRIES = 4096
_FLIPS = {1: (1, 1), 2: (1, -1), 3: (-1, -1), 4: (-1, 1), 5: (1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}
"""Orientation -> row and column step; from 5 on, rows and columns are swapped first."""


@dataclass
class Entry:
    """The value of one tag, in the byte order of its directory."""

    kind: int
    data: bytes
    below: Directory | None = None
    """The directory that it points to."""

    def numbers(self, order: str) -> list[Fraction]:
        """Raises ValueError, OverflowError or ZeroDivisionError for what is none."""
        code = _KINDS[self.kind]
        if code == "s":
            raise ValueError("text or bytes")
        count = len(self.data) // struct.calcsize("<" + code[0])
        values = struct.unpack(f"{order}{count}{code[0]}", self.data)
        if len(code) == 2:
            return [Fraction(a, b) for a, b in zip(values[::2], values[1::2])]
        return [Fraction(v) for v in values]

    def swapped(self) -> Entry:
        """In the other byte order."""
        unit = struct.calcsize("<" + _KINDS[self.kind][0])
        data = np.frombuffer(self.data, f"u{unit}").byteswap().tobytes()
        return Entry(self.kind, data, self.below and {tag: entry.swapped() for tag, entry in self.below.items()})


Directory = dict[int, Entry]


@dataclass
class Tiff:
    """A TIFF structure: its byte order, whether its numbers have 64 bits, and where its first directory is."""

    data: bytes | bytearray | memoryview
    order: str
    big: bool
    first: int
    lost: list[str] = field(default_factory=list)
    """Names of the entries that could not be read."""

    @classmethod
    def of(cls, data: bytes | bytearray | memoryview) -> Tiff | None:
        """None: it is none."""
        order = {b"II": "<", b"MM": ">"}.get(bytes(data[:2]))
        with suppress(struct.error):
            version = struct.unpack_from(order + "H", data, 2)[0] if order else 0
            if order and version == 42:
                return cls(data, order, False, *struct.unpack_from(order + "I", data, 4))
            if order and version == 43:
                return cls(data, order, True, *struct.unpack_from(order + "Q", data, 8))
        return None

    def pages(self, most: int = MANY_FRAMES) -> list[int]:
        """Where the directories are that follow each other, `most` at most. Raises ImageError for a loop."""
        found: dict[int, None] = {}
        position = self.first
        with suppress(struct.error):  # the end of the file
            while position and len(found) < most:
                if position in found:
                    raise ImageError("it is damaged (its pages form a circle): get an intact copy of it")
                found[position] = None
                position = self._number("I", self.entries(position)[-1])
        return list(found)

    def directory(self, position: int, tags: Iterable[int] = (), names: dict[int, str] = TAGS) -> Directory:
        """The entries of a directory by tag, those of `tags` or all. What cannot be read is added to `lost`.

        Of a tag that is there twice the first entry counts, as for libtiff.

        Raises struct.error if there is no directory.
        """
        directory = {}
        *entries, _ = self.entries(position)
        size, inside = (20, 8) if self.big else (12, 4)
        for entry in entries:
            if entry + size > len(self.data):
                self.lost.append("those behind its end")
                break
            tag, kind, count = struct.unpack_from(self.order + ("HHQ" if self.big else "HHI"), self.data, entry)
            if not count or tag in directory or (tags and tag not in tags):
                continue
            length = count * struct.calcsize("<" + _KINDS.get(kind, ""))
            place = entry + size - inside
            if length > inside:
                place = self._number("I", place)
            if 0 < length <= len(self.data) - place:
                directory[tag] = Entry(kind, bytes(self.data[place : place + length]))
            else:
                self.lost.append(names.get(tag, str(tag)))
        return directory

    def exif(self, position: int) -> Directory:
        """The entries of a directory that are EXIF, with the directories below it. Raises struct.error."""
        return self._with_below(self.directory(position, KEPT))

    def everything(self, position: int) -> Directory:
        """All entries of a directory, with the directories below it. Raises struct.error."""
        return self._with_below(self.directory(position))

    def _with_below(self, directory: Directory) -> Directory:
        for tag in directory.keys() & _BELOW.keys():
            try:
                below = self.directory(int(directory[tag].numbers(self.order)[0]), names=_BELOW[tag])
                if tag == _DETAILS and _DETAILS in below:  # it may point to itself
                    del below[_DETAILS]
                    self.lost.append(TAGS[_DETAILS])
                directory[tag] = Entry(4, b"", self._with_below(below) if tag == _DETAILS else below)
            except (struct.error, ValueError, ArithmeticError):
                self.lost.append(TAGS[tag])
                del directory[tag]
        return directory

    def entries(self, position: int) -> Sequence[int]:
        """Where each entry of a directory is, and behind them the position of the next directory.

        Raises struct.error if there is no directory.
        """
        start, size = (position + 8, 20) if self.big else (position + 2, 12)
        room = max(0, len(self.data) - start) // size
        count = min(self._number("H", position), room + 1)  # one over: it is truncated
        if count > _MOST_ENTRIES:
            raise struct.error
        return range(start, start + size * count + 1, size)

    def _number(self, code: str, position: int) -> int:
        """A count ("H") or a position ("I"), which both have 64 bits in a BigTIFF."""
        (value,) = struct.unpack_from(self.order + ("Q" if self.big else code), self.data, position)
        return int(value)


def of_tiff(tiff: Tiff, position: int) -> bytes | None:
    """The EXIF in a directory of a TIFF as a block of its own, in the same byte order; None where there is none.

    Raises struct.error if there is no directory.
    """
    return _block(tiff, tiff.exif(position))


def of_raw(path: Path | str) -> bytes | None:
    """The EXIF of a camera raw file, for the upright picture made of it, without maker notes.

    None where there is none, or where the file is not built as a TIFF is (CR3, RAF, RW2, ORF and others).
    """
    with open(path, "rb") as file, suppress(struct.error):
        data = file.read()
        if (tiff := Tiff.of(data)) and (directory := tiff.exif(tiff.first)):
            directory[ORIENTATION] = Entry(3, struct.pack(tiff.order + "H", 1))
            if _DETAILS in directory and (details := directory[_DETAILS].below):
                for tag in _RAW_ONLY & details.keys():
                    del details[tag]
            return _block(tiff, directory)
    return None


def upright(exif: bytes) -> tuple[bytes | None, int]:
    """EXIF with orientation 1 and no thumbnail, and the orientation it had; None if it is no EXIF.

    It is patched in place, so that unknown tags and the offsets in maker notes stay as they are.
    """
    block = bytearray(re.sub(rb"^(Exif\0\0){1,2}", b"", exif[:12]) + exif[12:])
    tiff = Tiff.of(block)
    if not tiff or tiff.big:
        return None, 1
    orientation = 1
    with suppress(struct.error, KeyError, ValueError, ArithmeticError):
        (number,) = tiff.directory(tiff.first, {ORIENTATION})[ORIENTATION].numbers(tiff.order)
        orientation = int(number)
    with suppress(struct.error):  # a truncated directory: what is there is patched
        *entries, end = tiff.entries(tiff.first)
        for place in entries:
            tag, _, count = struct.unpack_from(tiff.order + "HHI", block, place)
            if tag == ORIENTATION and count == 1:
                struct.pack_into(tiff.order + "HHIHH", block, place, tag, 3, 1, 1, 0)
        struct.pack_into(tiff.order + "I", block, end, 0)
    return bytes(block), orientation if orientation in _FLIPS else 1


def iso_setting(exif: bytes | None) -> int | None:
    """The ISO setting in an EXIF block; None where there is none that makes sense."""
    tags = PIL.Image.Exif()
    try:
        tags.load(b"Exif\0\0" + (exif or b""))
        value = tags.get_ifd(_DETAILS).get(_ISO)
        number = int(value[0] if isinstance(value, tuple) else value)  # type: ignore[arg-type]
    except Exception:  # written by any device, broken in any way: no hint, then
        return None
    return number if 0 < number < 10**7 else None


def without_orientation(exif: bytes) -> bytes:
    """An upright block without the tag that says so; everything else stays where it is."""
    block, tiff = bytearray(exif), Tiff.of(exif)
    with suppress(struct.error):
        *entries, end = tiff.entries(tiff.first) if tiff else [0]
        for place in entries:
            if tiff and struct.unpack_from(tiff.order + "H", block, place)[0] == ORIENTATION:
                block[place:end] = block[place + 12 : end + 4] + bytes(8)
                struct.pack_into(tiff.order + "H", block, tiff.first, len(entries) - 1)
                break
    return bytes(block)


def turned(levels: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W, ...) as the file has it -> upright, a view: (H, W, ...), from orientation 5 on (W, H, ...)."""
    rows, columns = _FLIPS[orientation]
    return (levels.swapaxes(0, 1) if orientation > 4 else levels)[::rows, ::columns]


def resolution(tiff: Tiff, position: int) -> Resolution | None:
    """What a directory says of it. Raises struct.error if there is no directory."""
    directory = tiff.directory(position, {_X_RESOLUTION, _Y_RESOLUTION, _UNIT})
    with suppress(KeyError, ValueError, ArithmeticError):
        x, y = (directory[tag].numbers(tiff.order)[0] for tag in (_X_RESOLUTION, _Y_RESOLUTION))
        unit = int(directory[_UNIT].numbers(tiff.order)[0]) if _UNIT in directory else 2
        if x > 0 and y > 0 and (unit != 1 or not x == y == 1):  # which says nothing
            return Resolution(x, y, {1: "none", 3: "cm"}.get(unit, "inch"))
    return None


def resolution_of(block: bytes | None) -> Resolution | None:
    """What an EXIF block says of it; None where it says nothing or is none."""
    with suppress(struct.error):
        if block and (tiff := Tiff.of(block)):
            return resolution(tiff, tiff.first)
    return None


def add_to_tiff(file: io.BytesIO, exif: bytes) -> list[str]:
    """Gives a TIFF of one page a new directory: its own entries and those of an EXIF block.

    Returns the names of the tags that could not be kept.
    """
    with file.getbuffer() as data:
        own, other = Tiff.of(data), Tiff.of(exif)
        if not own or not other:
            return ["everything"]
        try:
            kept = other.exif(other.first)
        except struct.error:
            return ["everything"]
        entries = own.directory(own.first)
        for tag, entry in kept.items():
            entries[tag] = entry if other.order == own.order else entry.swapped()
        position = len(data) + len(data) % 2
        block = _packed(entries, position, own.order, own.big)
    file.seek(position)
    file.write(block)
    file.seek(8 if own.big else 4)
    file.write(struct.pack(own.order + ("Q" if own.big else "I"), position))
    return other.lost


def append_pages(file: BinaryIO, link: int, pages: Iterable[Directory], order: str, big: bool) -> None:
    """Writes directories at the end of a TIFF whose pixels are there already.

    link: where in the file the position of the first one belongs.
    """
    file.seek(0, os.SEEK_END)
    for directory in pages:
        position = file.tell() + file.tell() % 2
        block = _packed(directory, position, order, big)
        file.write(b"\0" * (position - file.tell()) + block)
        file.seek(link)
        file.write(struct.pack(order + ("Q" if big else "I"), position))
        file.seek(0, os.SEEK_END)
        link = position + (8 if big else 2) + len(directory) * (20 if big else 12)


def with_resolution(block: bytes | None, resolution: Resolution) -> bytes | None:
    """An EXIF block that says the resolution too; None where that would move maker notes or lose damaged tags."""
    tiff = Tiff.of(block or b"II*\0\x08\0\0\0\0\0\0\0\0\0")
    if not tiff:
        return None
    try:
        directory = tiff.everything(tiff.first)
    except struct.error:
        return None
    if tiff.lost or (_DETAILS in directory and _MAKER_NOTES in (directory[_DETAILS].below or {})):
        return None
    for tag, value in ((_X_RESOLUTION, resolution.x), (_Y_RESOLUTION, resolution.y)):
        directory[tag] = Entry(5, struct.pack(tiff.order + "II", *rational(value)))
    directory[_UNIT] = Entry(3, struct.pack(tiff.order + "H", _UNITS[resolution.unit]))
    return _block(tiff, directory)


def holding_resolution(metadata: Metadata, kind: str) -> bytes | None:
    """The EXIF block for a format that has no other place for a resolution; a note where it cannot hold one.

    kind: the format's name.
    """
    if not metadata.resolution or resolution_of(metadata.exif):
        return metadata.exif
    exif = with_resolution(metadata.exif, metadata.resolution)
    if not exif:
        metadata.notes.append(f"its resolution is left out, which {kind} holds in EXIF only")
    return exif or metadata.exif


def rational(number: Fraction) -> tuple[int, int]:
    """Numerator and denominator, which TIFF holds in 32 bits each."""
    most = 2**32 - 1
    whole = min(max(1, math.ceil(number)), most)
    return min(number, Fraction(most)).limit_denominator(most // whole).as_integer_ratio()


def note(lost: list[str]) -> str:
    """One line about tags that could not be kept."""
    names = list(dict.fromkeys(lost))
    return f"damaged tags are left out: {', '.join(names[:5])}{' and others' if len(names) > 5 else ''}"


def _block(tiff: Tiff, directory: Directory) -> bytes | None:
    """A directory as an EXIF block. BigTIFF's types become those of TIFF; numbers too large for it are lost."""
    for tag, entry in list(directory.items()):
        if entry.kind in _CLASSIC:
            try:
                numbers = [int(n) for n in entry.numbers(tiff.order)]
                kind = _CLASSIC[entry.kind]
                directory[tag] = Entry(kind, struct.pack(f"{tiff.order}{len(numbers)}{_KINDS[kind]}", *numbers))
            except struct.error:
                tiff.lost.append(TAGS[tag])
                del directory[tag]
    header = {"<": b"II*\0", ">": b"MM\0*"}[tiff.order] + struct.pack(tiff.order + "I", 8)
    return header + _packed(directory, 8, tiff.order) if directory else None


def _packed(directory: Directory, position: int, order: str, big: bool = False) -> bytes:
    """A directory that lies at `position` (even), with its values and the directories below it behind it."""
    inside, code = (8, "Q") if big else (4, "I")
    table = bytearray(struct.pack(order + ("Q" if big else "H"), len(directory)))
    values = bytearray()
    start = position + len(table) + len(directory) * (4 + 2 * inside) + inside
    for tag, entry in sorted(directory.items()):
        place = struct.pack(order + code, start + len(values))
        if entry.below is not None:
            kind, count = 4, 1
            value = struct.pack(order + "I", start + len(values))
            values += _packed(entry.below, start + len(values), order, big)
        else:
            kind, count = entry.kind, len(entry.data) // struct.calcsize("<" + _KINDS[entry.kind])
            value = entry.data
            if len(value) > inside:
                value = place
                values += entry.data + b"\0" * (len(entry.data) % 2)
        table += struct.pack(f"{order}HH{code}", tag, kind, count) + value.ljust(inside, b"\0")
    return bytes(table + bytes(inside) + values)
