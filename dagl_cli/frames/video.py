"""Videos, through PyAV (FFmpeg): frames by their own time stamps, and the sound and subtitles beside them as they are.

Not through imageio's PyAV plugin, which gives frames without their times, and no sound.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Hashable, Iterator
from contextlib import suppress
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .. import images
from ..errors import ImageError
from ..images import Image, Metadata
from ..images.image import check_size
from . import planes
from .encoding import CONTAINERS, VideoWriter
from .pages import Pages
from .sequence import SAMPLES, Frame, Sequence

READ = (*CONTAINERS, ".avi", ".mts", ".m2ts", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".mxf", ".ogv")
"""Endings of the names of videos."""
OTHERWISE = ".mkv"
"""What becomes of a video whose container is not written."""
_NEARER = 48
"""Frames that are decoded at most to come from a place that can be sought to a sample."""
_MISSING = 0.25
"""Seconds: a video that ends so much before its header says is truncated; a short one, if a tenth of it is missing,"""
_LEAST_MISSING = 2
"""but no fewer frames than these: some containers do not tell how long the last one is shown."""


def is_available() -> bool:
    return importlib.util.find_spec("av") is not None


class Video(Sequence):
    """The frames of a file's best video. Raises ImageError where there is none, or PyAV is not installed."""

    format = "video"

    def __init__(self, source: Path, name: str, pages: Pages | None, max_pixels: int) -> None:
        super().__init__()
        if not is_available():
            raise ImageError(f"cannot read {name}: videos need PyAV: pip install 'dagl[video]'")
        self.name, self.source, self._pages = name, source, pages
        self.reading: Any = None
        """The open file while `frames` are read."""
        self.others: list[Any] = []
        """Packets of its other streams that have come meanwhile."""
        with images.read_errors(name), self._opened() as container:
            stream = best(container)
            if stream is None:
                raise ImageError("it has no video")
            check_size(stream.codec_context.width, stream.codec_context.height, max_pixels)
            rate = stream.average_rate or stream.guessed_rate or Fraction(25)
            self._frames = stream.frames or round(_seconds(container, stream) * rate)
            if pages and stream.frames:
                pages.check(stream.frames, self.words)
        own = source.suffix.lower()
        written = [own if own in CONTAINERS else OTHERWISE, *CONTAINERS]
        self.suffixes = tuple(dict.fromkeys(written))

    @property
    def count(self) -> int:
        if self._pages is None:
            return self._frames
        return sum(number in self._pages for number in range(1, (self._pages.last or self._frames) + 1))

    def whole(self) -> bool:
        return self._pages is None

    def groups(self) -> list[Hashable]:
        return list(range(3 if self.split else 1))

    def can_split(self) -> bool:
        with suppress(Exception), self._opened() as container:  # what is wrong is told when frames are read
            frame = next(container.decode(best(container)))
            sampling = planes.sampling(frame)
            if len(frame.format.components) < 3 or frame.format.is_rgb:
                return False
            return sampling == "420" or (sampling == "422" and not frame.rotation)
        return False

    def is_own(self, suffix: str) -> bool:
        return suffix == self.source.suffix.lower()

    def copy(self, file: BinaryIO) -> None:
        with open(self.source, "rb") as source:
            while block := source.read(1 << 20):
                file.write(block)

    def frames(self) -> Iterator[Frame]:
        with self._opened() as self.reading:
            yield from self._read(self.reading)

    def samples(self, group: Hashable) -> Iterator[Image]:
        with suppress(ImageError), self._opened() as container:
            if self._pages is not None:
                wanted = (
                    frame for number, frame in enumerate(_decoded(container, self.name), 1) if number in self._pages
                )
                yield from (self._pictures(frame)[int(str(group))] for frame in islice(wanted, SAMPLES))
                return
            near = {frame.pts: frame for i in range(SAMPLES) if (frame := self._near(container, (i + 0.5) / SAMPLES))}
            yield from (self._pictures(frame)[int(str(group))] for frame in near.values())

    def writer(self, file: BinaryIO, suffix: str, *, strip_metadata: bool) -> VideoWriter:
        return VideoWriter(self, file, suffix, strip_metadata)

    def _opened(self) -> Any:
        import av

        return av.open(str(self.source.absolute()), metadata_errors="replace")

    def _read(self, container: Any) -> Iterator[Frame]:
        self.others = []
        number = damaged = 0
        ends = {"": 0.0}
        for frame in _decoded(container, self.name, self.others, ends):
            number += 1
            damaged += frame.is_corrupt
            if self._pages is None or number in self._pages:
                for group, picture in enumerate(self._pictures(frame)):
                    gain = planes.GAINS[group] if self.split else 1.0
                    yield Frame(picture, number, group, gain, frame)
            if self._pages is not None and number == self._pages.last:
                break
        if damaged:
            self.notes.append(f"{damaged} of its frames are damaged")
        if not number:
            raise ImageError(f"cannot read {self.name}: it has no frame that can be decoded: get an intact copy of it")
        if self._pages is None:
            _check_end(container, max(ends.values()), number, self.name)
        else:
            with images.read_errors(self.name):
                self._pages.check(number, self.words)

    def _near(self, container: Any, share: float) -> Any:
        """A frame at about this share of the length, or before it; None where there is none."""
        stream = best(container)
        wanted = float((stream.start_time or 0) * stream.time_base) + share * _seconds(container, stream)
        found = None
        with images.read_errors(self.name):
            container.seek(int(wanted * 1_000_000))
            for found in islice(container.decode(stream), _NEARER):
                if found.time is None or found.time >= wanted:
                    break
        return found

    def _pictures(self, frame: Any) -> list[Image]:
        """Upright, in 16 bits, whatever its own are; or its planes."""
        with images.read_errors(self.name):
            if self.split:
                turns = round(frame.rotation / 90)
                return [Image(np.ascontiguousarray(np.rot90(plane, turns)), depth=16) for plane in planes.taken(frame)]
            gray = frame.format.name.startswith("gray")
            levels = frame.reformat(format="gray16le" if gray else "gbrp16le").to_ndarray()
            upright = np.ascontiguousarray(np.rot90(levels, round(frame.rotation / 90)))
            return [images.assembled(upright, Metadata(), "PNG", b"")]


def best(container: Any) -> Any:
    """The video of a file, and not the picture of its cover; None where there is none."""
    found = [s for s in container.streams.video if not int(s.disposition) & _COVER]
    return max(found, key=lambda s: s.codec_context.width * s.codec_context.height, default=None)


_COVER = 0x400
"""FFmpeg's AV_DISPOSITION_ATTACHED_PIC."""


def _seconds(container: Any, stream: Any) -> float:
    """How long it is; 0 where nothing tells."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / 1e6


def _decoded(
    container: Any, name: str, others: list[Any] | None = None, ends: dict[str, float] | None = None
) -> Iterator[Any]:
    """Frames of a file's video.

    others: gets the packets of its other streams as they come. ends: gets the time at which each kind of stream ends.
    """
    stream = best(container)
    stream.thread_type = "AUTO"
    kept = [s for s in container.streams if s is stream or (others is not None and s.type in ("audio", "subtitle"))]
    packets = container.demux(*kept)
    number = 0
    while True:
        frames: list[Any] = []
        with images.read_errors(f"frame {number + 1} of {name}"):
            if (packet := next(packets, None)) is None:
                return
            if packet.stream is stream:
                frames = packet.decode()
            elif others is not None and packet.dts is not None:
                others.append(packet)
            if ends is not None and packet.pts is not None:
                end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                ends[packet.stream.type] = max(ends.get(packet.stream.type, 0.0), end)
        for frame in frames:
            number += 1
            yield frame


def _check_end(container: Any, end: float, count: int, name: str) -> None:
    """Raises ImageError where the header promises more than there was: so many frames, up to this time."""
    start = (container.start_time or 0) / 1e6
    promised = (container.duration or 0) / 1e6
    least = _LEAST_MISSING * (end - start) / (count - 1) if count > 1 else _MISSING
    if promised > end - start + min(_MISSING, max(promised / 10, least)):
        ends = f"it ends after {end - start:.1f} of {promised:.1f} seconds"
        raise ImageError(f"cannot read all of {name}: {ends}: get a complete copy of it")
