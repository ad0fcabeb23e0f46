"""What stacks, animations and videos have in common: frames that are read in turn, and written in the same turn."""

from __future__ import annotations

import mmap
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..images import Image, Metadata

SAMPLES = 5
"""Frames of which it is estimated what all of a group need."""


@dataclass
class Frame:
    """One picture of a file. Frames of one `group` are treated alike."""

    picture: Image
    number: int
    """Of its page in the file, counted from 1. A page may hold several pictures, as its channels."""
    group: Hashable = 0
    gain: float = 1.0
    """What a noise level of the file's colours becomes in this picture."""
    own: Any = None
    """What the kind of file needs to write the picture back to its place: its time, its page."""


@dataclass
class Header:
    """What an animation says before its frames."""

    width: int
    height: int
    frames: int
    """Those that are there, whole."""
    whole: bool
    """Whether they are all that there should be."""
    mode: str
    """Pillow's, of the frames: L, RGB or RGBA."""
    metadata: Metadata
    before: int = 0
    """Pictures before the first frame, as Pillow counts."""
    readable: bytes = b""
    """Of a truncated file what can be read."""


class Sequence(ABC):
    """A file of frames. Reading never holds more than a few of them in memory. Raises ImageError, as `images.read`."""

    name: str
    """What errors call it."""
    format: str
    """As messages call its kind of file."""
    suffixes: tuple[str, ...]
    """What a result may be called; the first is what one gets that has no name."""
    words = ("frame", "frames")
    split = False
    """Whether frames are given as planes of brightness and colour, each a picture of its own: set it if `can_split`."""
    alike = True
    """Whether the frames of a group show the same scene: then what most need is done to all. Otherwise they are
    treated alike only if they need the same."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        """What is not carried into a result."""

    @property
    @abstractmethod
    def count(self) -> int:
        """How many frames `frames` gives; for videos whose header does not tell, an estimate or 0."""

    @abstractmethod
    def whole(self) -> bool:
        """Whether all pages of the file are wanted."""

    def can_split(self) -> bool:
        """Whether its colours have fewer pixels than its brightness, so that their noise is no colour noise."""
        return False

    @abstractmethod
    def groups(self) -> list[Hashable]:
        """The groups of its frames, in order."""

    @abstractmethod
    def frames(self) -> Iterator[Frame]:
        """The wanted frames in order. Raises ImageError at the one that is damaged."""

    @abstractmethod
    def samples(self, group: Hashable) -> Iterator[Image]:
        """Some frames of a group, spread over the file."""

    @abstractmethod
    def writer(self, file: BinaryIO, suffix: str, *, strip_metadata: bool) -> Writer:
        """What writes a result: the same kind of file, with what this one says beside its frames.

        file: open, seekable, empty. suffix: one of `suffixes`.
        """

    def is_own(self, suffix: str) -> bool:
        """Whether a copy of the file may be called so."""
        return suffix in self.suffixes

    def close(self) -> None:  # noqa: B027  (not all have something to close)
        """Lets go of the file."""

    @abstractmethod
    def copy(self, file: BinaryIO) -> None:
        """Writes the file as it is."""


class Writer(ABC):
    """Writes frames one after the other; `finish` makes a file of them, and `close` comes last in any case."""

    @abstractmethod
    def add(self, frame: Frame, picture: Image) -> None:
        """frame: as it was read. picture: what has become of it."""

    @abstractmethod
    def finish(self) -> None:
        """Writes what belongs behind the frames."""

    def close(self) -> None:  # noqa: B027
        """Lets go of what encodes."""


def mapped(source: Path | bytes) -> memoryview:
    """A file's content, of which only what is looked at is read."""
    if isinstance(source, bytes):
        return memoryview(source)
    with open(source, "rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def fitted(levels: np.ndarray, mode: str) -> np.ndarray:
    """(H, W, C) with the channels of Pillow's mode, alpha last; one channel becomes three, and none is lost."""
    channels = {"L": 1, "RGB": 3, "RGBA": 4}[mode]
    colours = levels[..., : levels.shape[2] - (levels.shape[2] % 2 == 0)]
    if channels > 1 and colours.shape[2] == 1:
        colours = colours.repeat(3, 2)
    if mode != "RGBA":
        return colours
    opaque = np.full((*levels.shape[:2], 1), 255, np.uint8)
    return np.concatenate([colours, levels[..., -1:] if levels.shape[2] % 2 == 0 else opaque], -1)
