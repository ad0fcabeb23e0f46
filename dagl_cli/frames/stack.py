"""TIFFs of several pages, or of channels that are pictures of their own: scans, and stacks of microscopes.

A page goes through `images.tiff`, as a file of its own would. Kept beside: ImageJ's description and its tags, OME-XML.
"""

from __future__ import annotations

import io
import math
import re
import struct
from collections.abc import Hashable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile

from .. import images
from ..errors import ImageError
from ..images import Image, Metadata, exif, tiff
from .pages import Pages, every, spread
from .sequence import SAMPLES, Frame, Sequence, Writer, mapped

_WIDTH, _HEIGHT, _BITS, _COLOURS, _DESCRIPTION, _SAMPLES, _EXTRA = 256, 257, 258, 262, 270, 277, 338
_STRIPS, _LENGTHS, _PYRAMID = 273, 279, 330
_IMAGEJ_TAGS = {50838, 50839}
"""Labels, colours, overlays and notes of ImageJ, in the byte order of the file."""
_MOST_PAGES = 1_000_000
_LONGEST_CLASSIC = 2**32 - 2**26
"""Bytes of samples that fit into a TIFF whose positions have 32 bits, with room for the rest."""


@dataclass(frozen=True)
class Group:
    """Pages of one kind, and the channel of them that is a picture of its own."""

    pages: Hashable
    channel: int = 0


class Stack(Sequence):
    """The pages of a TIFF that are no previews. Raises ImageError where there is none."""

    format = "TIFF"
    suffixes = (".tif", ".tiff")
    words = ("page", "pages")

    def __init__(self, source: Path | bytes, name: str, pages: Pages | None, max_pixels: int) -> None:
        super().__init__()
        self.name, self._source, self._max_pixels = name, source, max_pixels
        with images.read_errors(name), ExitStack() as unless_it_fails:
            self.structure = tiff.structure_of(mapped(source))
            self._file = unless_it_fails.enter_context(self._opened())
            self._places = _full_pages(self.structure)
            if not self._places:
                raise ImageError(f"it holds only a preview, as camera raw files do: {tiff.RAW_REMEDY}")
            self.description = self._described()
            self.imagej = self.description.startswith(b"ImageJ=")
            self.ome = self.description.rstrip(b"\0 \n").endswith(b"OME>")
            self._inside = self._images_inside()
            self._kinds = self._kinds_of_pages()
            self.shaped = self.description.startswith(b'{"shape":')
            self.alike = self.imagej or self.ome or self.shaped
            self.numbers = every(len(self), pages)
            unless_it_fails.pop_all()
        if any(_PYRAMID in self._tags(number, {_PYRAMID}) for number in (1, len(self._places))):
            self.notes.append("its smaller copies (SubIFDs) are left out")

    def close(self) -> None:
        self._file.close()

    def _opened(self) -> tifffile.TiffFile:
        return tifffile.TiffFile(self._source if isinstance(self._source, Path) else io.BytesIO(self._source))

    def __len__(self) -> int:
        return self._inside or len(self._places)

    @property
    def count(self) -> int:
        return len(self.numbers)

    def whole(self) -> bool:
        return len(self.numbers) == len(self)

    def is_one_picture(self) -> bool:
        """Whether it is what `images.read` reads."""
        return len(self) == 1 and self._channels_apart(1) == 1

    def groups(self) -> list[Hashable]:
        first: dict[Hashable, int] = {}
        for number in self.numbers:
            first.setdefault(self._kinds[number - 1], number)
        return [Group(kind, i) for kind, number in first.items() for i in range(self._channels_apart(number))]

    def frames(self) -> Iterator[Frame]:
        for number in self.numbers:
            yield from self._of_page(number)

    def samples(self, group: Hashable) -> Iterator[Image]:
        assert isinstance(group, Group)
        for number in spread([n for n in self.numbers if self._kinds[n - 1] == group.pages], SAMPLES):
            with suppress(ImageError):  # it is told when its turn comes
                yield self._of_page(number)[group.channel].picture

    def copy(self, file: BinaryIO) -> None:
        file.write(self.structure.data)

    def writer(self, file: BinaryIO, suffix: str, *, strip_metadata: bool) -> StackWriter:
        return StackWriter(self, file, strip_metadata)

    def size(self) -> int:
        """Bytes that its samples take, not compressed."""
        sizes: dict[Hashable, int] = {}
        for number in self.numbers:
            kind = self._kinds[number - 1]
            sizes[kind] = sizes.get(kind, 0) + self._bytes(number)
        return sum(sizes.values())

    def imagej_tags(self) -> exif.Directory:
        return self._tags(1, _IMAGEJ_TAGS) if self.imagej else {}

    def _tags(self, number: int, tags: set[int]) -> exif.Directory:
        with suppress(struct.error):
            return replace(self.structure, lost=[]).directory(self._place(number)[1], tags)
        return {}

    def _number(self, number: int, tag: int, default: int) -> int:
        with suppress(KeyError, ValueError, ArithmeticError, IndexError):
            return int(self._tags(number, {tag})[tag].numbers(self.structure.order)[0])
        return default

    def _bytes(self, number: int) -> int:
        pixels = self._number(number, _WIDTH, 0) * self._number(number, _HEIGHT, 0)
        return pixels * self._number(number, _SAMPLES, 1) * (1 if self._number(number, _BITS, 1) <= 8 else 2)

    def _described(self) -> bytes:
        return self._tags(1, {_DESCRIPTION})[_DESCRIPTION].data if self._tags(1, {_DESCRIPTION}) else b""

    def _images_inside(self) -> int:
        """How many images ImageJ says are behind each other in the one directory of its large stacks; else 0."""
        found = tiff.IMAGEJ_COUNT.search(self.description) if self.imagej else None
        there = [place for place in self._places if place[1] < len(self.structure.data)]  # not behind what was cut off
        if not found or len(there) != 1 or int(found[1]) < 2:
            return 0
        self._places = there
        return int(found[1])

    def _kinds_of_pages(self) -> list[Hashable]:
        """For each page what it has in common with others: its channel, or, where nothing tells, its size and depth."""
        if self.imagej:
            found = re.search(rb"^channels=(\d{1,9})\s*$", self.description, re.MULTILINE)
            channels = int(found[1]) if found and int(found[1]) else 1
            return [number % channels for number in range(len(self))]
        layout = {_WIDTH, _HEIGHT, _BITS, _COLOURS, _SAMPLES, _EXTRA}
        kinds: list[Hashable] = []
        for number in range(1, len(self) + 1):
            kinds.append(tuple((tag, entry.data) for tag, entry in sorted(self._tags(number, layout).items())))
        if self.ome:
            with suppress(Exception):  # whatever tifffile says of OME-XML that makes no sense
                for index, (channel, series) in self._ome_channels().items():
                    kinds[index] = (kinds[index], channel, series)
        return kinds

    def _ome_channels(self) -> dict[int, tuple[int, int]]:
        """Index of a page -> its channel and series, as OME-XML tells."""
        indices = {number: index for index, (number, _) in enumerate(self._places)}
        found: dict[int, tuple[int, int]] = {}
        with self._opened() as file:  # its own: looking at series changes how pages are read
            for position, series in enumerate(file.series):
                planes = series.get_shape(False)[: -2 - series.get_axes(False).endswith("S")]
                axis = series.get_axes(False).find("C")
                for i, page in enumerate(series.pages):
                    if page is not None and 0 <= axis < len(planes) and page.index in indices:
                        found[indices[page.index]] = (int(np.unravel_index(i, planes)[axis]), position)
        return found

    def _channels_apart(self, number: int) -> int:
        """How many pictures a page is; 1 where it cannot be read."""
        with suppress(Exception):
            page = self._page(number)
            return page.samplesperpixel if tiff.channels_apart(page) else 1
        return 1

    def _page(self, number: int) -> Any:
        return self._file.pages[self._place(number)[0]]

    def _place(self, number: int) -> tuple[int, int]:
        """Number and position of the directory of a page."""
        return self._places[min(number, len(self._places)) - 1]  # ImageJ's large stacks have one for all

    def _of_page(self, number: int) -> list[Frame]:
        kind = self._kinds[number - 1]
        with images.read_errors(f"page {number} of {self.name}" if len(self) > 1 else self.name):
            page = self._page(number)
            apart = tiff.channels_apart(page)
            samples = self._samples_inside(page, number) if self._inside else None
            levels, metadata = tiff.decode_page(
                page, self.structure, self._place(number)[1], self._max_pixels, samples=samples, apart=apart
            )
            if self.imagej:
                metadata.tiff["byteorder"] = self.structure.order
            if not apart:
                return [Frame(images.assembled(levels, metadata, "TIFF", b""), number, Group(kind), own=1)]
            channels = levels.shape[2]
            return [
                Frame(
                    images.assembled(levels[..., i], Metadata(**vars(metadata)), "TIFF", b""),
                    number,
                    Group(kind, i),
                    own=channels,
                )
                for i in range(channels)
            ]

    def _samples_inside(self, page: Any, number: int) -> np.ndarray:
        """Those of one image of ImageJ's large stacks, which lie behind each other."""
        if page.compression != 1 or not page.dataoffsets:
            raise ImageError("it is damaged (a compressed stack in one page): get an intact copy of it")
        length = math.prod(page.shape) * page.dtype.itemsize
        start = page.dataoffsets[0] + (number - 1) * length
        data = self.structure.data[start : start + length]
        if len(data) < length:
            raise ImageError("it is truncated: get a complete copy of it")
        return np.frombuffer(data, page.dtype.newbyteorder(self.structure.order)).reshape(page.shape)


class StackWriter(Writer):
    """The pixels of all pages one behind the other, as ImageJ wants them, and then the directories."""

    def __init__(self, stack: Stack, file: BinaryIO, strip_metadata: bool) -> None:
        self._stack, self._file, self._strip = stack, file, strip_metadata
        self._order = stack.structure.order if stack.imagej else "<"
        self._big = stack.size() > _LONGEST_CLASSIC
        self._directories: list[exif.Directory] = []
        self._channels: list[np.ndarray] = []
        self._about: Image | None = None
        """The channel whose metadata become the page's: the first one, or the one with how the file was made."""
        mark = {"<": b"II", ">": b"MM"}[self._order]
        file.write(
            mark
            + struct.pack(self._order + ("HHHQ" if self._big else "HI"), *((43, 8, 0, 0) if self._big else (42, 0)))
        )

    def add(self, frame: Frame, picture: Image) -> None:
        channels: int = frame.own
        levels = images.levels(picture)
        if channels > 1:
            if levels.shape[2] > 1:
                raise ImageError("its channels are pictures of their own, and none is a mosaic")
            if not self._channels or picture.record:
                self._about = picture
            self._channels.append(levels)
            if len(self._channels) < channels:
                return
            levels = np.concatenate(self._channels, -1)
            self._channels = []
            picture = self._about or picture
        notes: list[str] = []
        page = exif.Tiff.of(images.encoded(picture, "TIFF", self._strip, notes, levels))
        assert page is not None
        directory = page.everything(page.first)
        offsets, lengths = ([int(n) for n in directory[tag].numbers(page.order)] for tag in (_STRIPS, _LENGTHS))
        moved = []
        for offset, length in zip(offsets, lengths):
            moved.append(self._file.tell())
            self._file.write(page.data[offset : offset + length])
        code = f"{page.order}{len(moved)}{'Q' if self._big else 'I'}"
        directory[_STRIPS] = exif.Entry(16 if self._big else 4, struct.pack(code, *moved))
        self._directories.append(directory)

    def finish(self) -> None:
        if not self._strip:
            self._describe()
        exif.append_pages(self._file, 8 if self._big else 4, self._directories, self._order, self._big)

    def _describe(self) -> None:
        """Gives the first page what programs say of all of them, as far as it is true."""
        stack, first = self._stack, self._directories[0]
        if len(self._directories) == len(stack):
            first |= stack.imagej_tags()
        elif stack.imagej:
            count = len(self._directories)
            kept = [
                line
                for line in stack.description.rstrip(b"\0\n").split(b"\n")
                if line.split(b"=")[0] not in (b"images", b"channels", b"slices", b"frames", b"hyperstack")
            ]
            text = b"\n".join([kept[0], b"images=%d" % count, b"slices=%d" % count, *kept[1:], b"\0"])
            first[_DESCRIPTION] = exif.Entry(2, text)
            if stack.imagej_tags():
                stack.notes.append("ImageJ's labels and overlays are of all pages: left out")
        elif stack.ome or stack.shaped:
            first.pop(_DESCRIPTION, None)
            stack.notes.append(f"its {'OME-XML' if stack.ome else 'shape'} is that of all pages: left out")


def _full_pages(structure: exif.Tiff) -> list[tuple[int, int]]:
    """Number and position of each directory that is no preview."""
    return [
        (number, position)
        for number, position in enumerate(structure.pages(_MOST_PAGES))
        if not tiff.is_reduced(structure, position)
    ]
