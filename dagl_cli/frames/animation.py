"""GIF, animated WebP and animated PNG, read through imageio's Pillow plugin, which puts the shown frames together."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from .. import images
from ..errors import ImageError
from ..images import Image, Metadata
from ..images.image import check_size
from . import apng, gif, webp
from .pages import Pages, every, spread
from .sequence import SAMPLES, Frame, Sequence, Writer, mapped

KINDS = {".gif": gif, ".webp": webp, ".png": apng}


class Animation(Sequence):
    """The frames of a GIF, WebP or PNG, as they are shown. Raises ImageError where there is none.

    A result may be of another of these kinds. It has whole frames that replace each other, so that no disposal can go
    wrong.
    """

    def __init__(self, source: Path | bytes, suffix: str, name: str, pages: Pages | None, max_pixels: int) -> None:
        super().__init__()
        self.name, self.suffix = name, suffix
        self.format = {".gif": "GIF", ".webp": "WebP", ".png": "PNG"}[suffix]
        with images.read_errors(name):
            self._data = mapped(source)
            self.header = KINDS[suffix].header(self._data)
            check_size(self.header.width, self.header.height, max_pixels)
            if not self.header.frames:
                raise ImageError("it has no frames: get an intact copy of it")
            self.numbers = every(self.header.frames, pages, self.words)
            self._source = source if self.header.whole else self.header.readable
            with self._opened() as file:
                self.plays = KINDS[suffix].plays(file.metadata(index=0))
        self.notes += self.header.metadata.notes
        self.suffixes = (suffix,) if self.count == 1 else (suffix, *(other for other in KINDS if other != suffix))

    @property
    def count(self) -> int:
        return len(self.numbers)

    def whole(self) -> bool:
        return self.header.whole and self.count == self.header.frames

    def groups(self) -> list[Hashable]:
        return [0]

    def is_own(self, suffix: str) -> bool:
        return suffix == self.suffix

    def copy(self, file: BinaryIO) -> None:
        file.write(self._data)

    def frames(self) -> Iterator[Frame]:
        yield from self._frames(self.numbers)
        if not self.header.whole and self.numbers[-1] == self.header.frames:
            gone = f"frame {self.header.frames + 1} of {self.name}"
            raise ImageError(f"cannot read {gone}: it is truncated: get a complete copy of it")

    def samples(self, group: Hashable) -> Iterator[Image]:
        with suppress(ImageError):  # it is told when its turn comes
            for frame in self._frames(list(spread(self.numbers, SAMPLES))):
                yield frame.picture

    def writer(self, file: BinaryIO, suffix: str, *, strip_metadata: bool) -> Writer:
        return KINDS[suffix].Writer(file, self.header, self.plays, strip_metadata)

    def _opened(self) -> Any:
        import imageio.v3 as imageio

        return imageio.imopen(self._source, "r", plugin="pillow")

    def _frames(self, numbers: list[int]) -> Iterator[Frame]:
        """Those of ascending numbers."""
        with self._opened() as file:
            for number in numbers:
                with images.read_errors(f"frame {number} of {self.name}"):
                    index = number - 1 + self.header.before
                    levels = file.read(index=index, mode=self.header.mode)
                    shown = float(file.metadata(index=index).get("duration") or 0)
                    metadata = Metadata(**vars(self.header.metadata))
                    picture = images.assembled(levels, metadata, images.SUFFIXES.get(self.suffix, "PNG"), b"")
                yield Frame(picture, number, own=shown)
