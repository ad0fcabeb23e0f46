"""How videos are written: containers, what encodes in them nearly without loss, and what goes along.

8 bits become H.264, more H.265, in WebM VP9 or AV1; what was stored without loss stays so (FFV1). Constant quality, so
fine that a photograph's frames keep about 50 dB.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from .. import images
from ..errors import ImageError
from ..images import Image, xmp
from ..silence import silent
from . import planes
from .sequence import Frame, Writer

if TYPE_CHECKING:
    from .video import Video

CONTAINERS = {
    ".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm",
}  # fmt: skip
"""Endings of names -> FFmpeg's names of what is written."""
_LOSSLESS = {"ffv1", "huffyuv", "ffvhuff", "utvideo", "rawvideo", "png", "qtrle", "magicyuv", "v210", "v410"}
"""Codecs whose videos stay lossless in .mkv."""
_NOT_KEPT = {"major_brand", "minor_version", "compatible_brands", "encoder", "DURATION"}
"""Metadata of the file that is read, not of what it shows."""
_COMMENT = "comment"
"""The metadata that every container holds, where a video says how it was made."""
_FULL = 2
"""FFmpeg's color_range: all levels are used; 1 are 16 to 235."""


@dataclass(frozen=True)
class Encoder:
    """A codec of FFmpeg's, and how it is set."""

    codec: str
    pixels: str
    """FFmpeg's pixel format."""
    options: dict[str, str] = field(default_factory=dict)
    tag: str | None = None


def encoder_for(frame: Any, codec: str, suffix: str, available: Iterable[str]) -> Encoder:
    """What a video's frames become.

    frame: as decoded. codec: that they were stored with. suffix: one of `CONTAINERS`. available: names of codecs.
    Raises ImageError where PyAV lacks what is needed.
    """
    there = set(available)
    bits = max(component.bits for component in frame.format.components)
    if codec in _LOSSLESS and suffix == ".mkv" and "ffv1" in there:
        return Encoder("ffv1", _pixels(frame, bits, 16, odd=True), {"level": "3", "slicecrc": "1"})
    if suffix == ".webm" and bits > 8 and "libsvtav1" in there:
        return Encoder("libsvtav1", "yuv420p10le", {"crf": "8", "preset": "8"})
    if suffix == ".webm" and "libvpx-vp9" in there:
        options = {"crf": "6", "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"}
        return Encoder("libvpx-vp9", _pixels(frame, 8, 8, odd=True), options)
    if suffix != ".webm" and bits > 8 and "libx265" in there:
        options = {"crf": "8", "preset": "medium", "x265-params": "log-level=none"}
        tag = "hvc1" if suffix in (".mp4", ".m4v", ".mov") else None  # what Apple's programs ask for
        return Encoder("libx265", _pixels(frame, bits, 12), options, tag)
    if suffix != ".webm" and "libx264" in there:
        return Encoder("libx264", _pixels(frame, 8, 8), {"crf": "8", "preset": "medium"})
    raise ImageError(f"PyAV as it is installed has no encoder for {suffix}: choose another ending")


def _pixels(frame: Any, bits: int, most: int, odd: bool = False) -> str:
    """FFmpeg's name of planes with the frame's resolution of colours, and its depth or the next one.

    odd: sides that are no multiple of two may have colours at half of the resolution.
    """
    sampling = planes.sampling(frame)
    if not odd and sampling != "444" and (frame.width % 2 or frame.height % 2):
        sampling = "444"
    depth = next(depth for depth in (8, 10, 12, 16) if depth >= min(bits, most))
    return f"yuv{sampling}p" + (f"{depth}le" if depth > 8 else "")


class _Sink:
    """A file that PyAV writes to. What goes wrong there is kept, since PyAV lets an interrupt pass unnoticed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.failure: BaseException | None = None

    def write(self, data: bytes) -> int:
        if self.failure is None:
            try:
                self._file.write(data)
            except BaseException as failure:
                self.failure = failure
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    @contextmanager
    def told(self) -> Iterator[None]:
        """Raises at the end of the block what went wrong in it."""
        try:
            yield
        finally:
            if self.failure is not None:
                raise self.failure


class VideoWriter(Writer):
    """The frames encoded anew, at the times that they had; what else the file holds is copied."""

    def __init__(self, video: Video, file: BinaryIO, suffix: str, strip_metadata: bool) -> None:
        self._video, self._sink, self._suffix, self._strip = video, _Sink(file), suffix, strip_metadata
        self._out: Any = None
        self._copies: dict[int, Any] = {}
        """Index of a stream that is read -> the one that is written."""
        self._planes: list[np.ndarray] = []
        self._first = self._end = Fraction(0)
        self._number = 0
        self._record: dict[str, str] = {}

    def add(self, frame: Frame, picture: Image) -> None:
        given = frame.own
        self._record = self._record or picture.record
        if self._video.split:
            self._planes.append(picture.pixels)
            if len(self._planes) < len(planes.GAINS):
                return
            made = self._joined(given)
        else:
            made = self._coloured(given, images.levels(picture))
        made.pts, made.time_base = self._time(given), self._base
        made.colorspace, made.color_range = given.colorspace, given.color_range
        with silent():  # encoders print what they are
            packets = self._stream.encode(made)
        self._number += 1
        with self._sink.told():
            self._mux(packets)

    def _joined(self, given: Any) -> Any:
        """A frame of its planes."""
        height, width = self._planes[0].shape[:2]
        if self._out is None:
            self._begin(given, width, height)
        made = planes.joined(self._planes, given, width, height)
        self._planes = []
        return made if made.format.name == self._encoder.pixels else made.reformat(format=self._encoder.pixels)

    def _coloured(self, given: Any, levels: np.ndarray) -> Any:
        """A frame of RGB or gray."""
        import av

        if self._out is None:
            self._begin(given, levels.shape[1], levels.shape[0])
        gray = levels.shape[2] == 1
        made = av.VideoFrame.from_ndarray(levels[..., 0] if gray else levels, format="gray16le" if gray else "gbrp16le")
        return made.reformat(
            format=self._encoder.pixels,
            dst_colorspace=given.colorspace,
            src_color_range=_FULL,
            dst_color_range=given.color_range or 1,
        )

    def finish(self) -> None:
        with self._sink.told():
            self._mux(self._stream.encode(None))
            out, self._out = self._out, None
            out.close()

    def close(self) -> None:
        if self._out is not None:
            with suppress(Exception):  # what was wrong before is told
                self._out.close()

    def _begin(self, given: Any, width: int, height: int) -> None:
        import av

        source, video = self._video.reading, self._video
        from .video import best

        stream = best(source)
        self._encoder = encoder_for(given, stream.codec_context.codec.canonical_name, self._suffix, av.codecs_available)
        self._out = av.open(self._sink, "w", format=CONTAINERS[self._suffix])
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        self._base = given.time_base or stream.time_base or 1 / rate
        made = self._out.add_stream(self._encoder.codec, rate=rate, options=dict(self._encoder.options))
        made.width, made.height, made.pix_fmt = width, height, self._encoder.pixels
        made.time_base = made.codec_context.time_base = self._base
        context = made.codec_context
        for name in ("color_primaries", "color_trc", "colorspace", "color_range"):
            setattr(context, name, getattr(given, name))
        if self._encoder.tag:
            context.codec_tag = self._encoder.tag
        aspect = stream.sample_aspect_ratio
        if aspect and aspect != 1:
            context.sample_aspect_ratio = 1 / aspect if round(given.rotation / 90) % 2 else aspect
        self._stream = made
        self._first = self._seconds(given)
        self._copy_others(source, stream)
        if not self._strip:
            self._out.metadata.update(_described(source.metadata, self._record))
        self._say(given, stream, video)

    def _copy_others(self, source: Any, stream: Any) -> None:
        """Streams beside the video, with what they are called, as far as the container takes them."""
        left: dict[str, int] = {}
        for other in source.streams:
            if other is stream:
                continue
            codec = other.codec_context.codec.canonical_name if other.codec_context else ""
            if other.type in ("audio", "subtitle") and codec in self._out.supported_codecs:
                copy = self._out.add_stream_from_template(other)
                if not self._strip:
                    copy.metadata.update({k: v for k, v in other.metadata.items() if k in ("language", "title")})
                self._copies[other.index] = copy
            else:
                left[other.type] = left.get(other.type, 0) + 1
        for kind, count in left.items():
            self._video.notes.append(f"{count} {kind} stream{'s' * (count > 1)} left out")

    def _say(self, given: Any, stream: Any, video: Video) -> None:
        bits = max(component.bits for component in given.format.components)
        kept = int(self._encoder.pixels.partition("p")[2].removesuffix("le") or 8)
        said = f"written as {self._encoder.codec.removeprefix('lib')}, {self._encoder.pixels}"
        if kept < bits:
            said += f", of {bits} bits"
        video.notes.append(said)
        if any(component.is_alpha for component in given.format.components):
            video.notes.append("its transparency is left out")
        if given.interlaced_frame:
            video.notes.append("it is interlaced: two fields are restored as one picture")

    def _seconds(self, frame: Any) -> Fraction:
        return Fraction(frame.pts) * frame.time_base if frame.pts is not None and frame.time_base else Fraction(0)

    def _time(self, given: Any) -> int:
        """Of a frame, in units of `_base`; that of the first frame counts from 0 where frames are left out."""
        if given.pts is None:
            return self._number * max(1, round(1 / (self._stream.average_rate or 25) / self._base))
        time = self._seconds(given)
        self._end = time + Fraction(given.duration or 0) * given.time_base
        return round((time - self._shift) / self._base)

    @property
    def _shift(self) -> Fraction:
        return Fraction(0) if self._video.whole() else self._first

    def _mux(self, packets: list[Any]) -> None:
        """Writes packets of the video, and those of other streams that have come before them."""
        waiting = []
        for packet in self._video.others:
            copy = self._copies.get(packet.stream.index)
            time = Fraction(packet.pts if packet.pts is not None else packet.dts) * packet.time_base
            if copy is None or (not self._video.whole() and time < self._first):
                continue
            if not self._video.whole() and time >= self._end:
                waiting.append(packet)
                continue
            shift = round(self._shift / packet.time_base)
            packet.dts -= shift
            if packet.pts is not None:
                packet.pts -= shift
            packet.stream = copy
            self._out.mux(packet)
        self._video.others[:] = waiting
        self._out.mux(packets)


def _described(metadata: dict[str, str], record: dict[str, str]) -> dict[str, str]:
    """What a video says of itself, with how it was made below its comment, in place of an earlier such record."""
    kept = {name: text for name, text in metadata.items() if name not in _NOT_KEPT}
    cleaned = {name: xmp.without_record(text.encode()).decode().rstrip() for name, text in kept.items()}
    found = {name: text for name, text in cleaned.items() if text or not kept[name]}
    if record:
        name = next((name for name in found if name.lower() == _COMMENT), _COMMENT)
        found[name] = "\n".join(filter(None, [found.get(name, ""), xmp.element(record).decode()]))
    return found
