"""Videos: times, sound, depth and rotation of the result, and what is left of one that went wrong: nothing."""

from __future__ import annotations

import errno
import os
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, cast

import av
import numpy as np
import pytest
from helpers import SHIFT, dagl, noting, picture, refused, tree

from dagl_cli import frames, images
from dagl_cli.frames import planes
from dagl_cli.frames.encoding import _described
from dagl_cli.restoring import guard
from dagl_cli.restoring import picture as restoring

pytestmark = pytest.mark.usefixtures("one_thread", "here")

RATE = 24
TICKS = Fraction(1, 2400)
QUIET = {"libx265": {"x265-params": "log-level=none"}}


def scene(number: int, height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8: a smooth picture that moves."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([60 + rows, 60 + (columns + 3 * number) % 120, np.full_like(rows, 90 + 5 * number)], -1).astype(
        np.uint8
    )


def film(
    path: str,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    size: tuple[int, int] = (48, 64),
    times: list[int] | None = None,
    sound: str | None = None,
    rotation: int = 0,
    count: int = 6,
) -> None:
    """times: of the frames, in `TICKS`."""
    times = times or [100 * i for i in range(count)]
    with av.open(path, "w") as file:
        stream: Any = file.add_stream(codec, rate=RATE, options={"crf": "1", **QUIET.get(codec, {})})
        stream.height, stream.width, stream.pix_fmt = *size, pixels
        stream.time_base = stream.codec_context.time_base = TICKS
        if rotation:
            stream.set_display_rotation(rotation)
        voice: Any = file.add_stream(sound, rate=48000) if sound else None
        if voice:
            voice.layout = "mono"
        file.metadata["title"] = "a film"
        for number, time in enumerate(times):
            made = av.VideoFrame.from_ndarray(scene(number, *size), format="rgb24").reformat(format=pixels)
            made.pts, made.time_base = time, TICKS
            file.mux(stream.encode(made))
        for start in range(0, int((times[-1] + 100) * TICKS * 48000) if voice else 0, 960):
            wave = np.sin(np.arange(start, start + 960) / 20).astype(np.float32)[None]
            block = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            block.sample_rate, block.pts, block.time_base = 48000, start, Fraction(1, 48000)
            file.mux(voice.encode(block))
        if voice:
            file.mux(voice.encode(None))
        file.mux(stream.encode(None))


def seen(path: str) -> tuple[list[np.ndarray], list[float], Any]:
    """Frames as RGB, their times in seconds, and what the stream is."""
    with av.open(path) as file:
        stream = file.streams.video[0]
        found = [(frame.to_ndarray(format="rgb24"), float(frame.time or 0)) for frame in file.decode(stream)]
        return [one for one, _ in found], [time for _, time in found], stream.codec_context


def packets(path: str) -> list[bytes]:
    with av.open(path) as file:
        return [bytes(packet) for packet in file.demux(audio=0) if packet.size]


SPLIT = np.array([1.164 + 1.596, 1.164 - 0.392 - 0.813, 1.164 + 2.017]) * SHIFT
"""What RGB becomes where `SHIFT` is added to Y, Cb and Cr (ITU-R BT.601)."""


def assert_restored(
    path: str, size: tuple[int, int] = (48, 64), numbers: range = range(6), turned: int = 0, up: Any = SPLIT
) -> None:
    """That frames are the scene's with `up` added, but for what coding costs."""
    found, _, _ = seen(path)
    assert len(found) == len(numbers)
    for number, one in zip(numbers, found):
        wanted = np.rot90(scene(number, *size), turned).astype(int) + up
        assert one.shape == wanted.shape
        assert np.abs(one - wanted).mean() < 3


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_times_sound_and_metadata(suffix: str) -> None:
    times = [0, 100, 250, 300, 600, 610]  # no steady rate
    film(f"clip{suffix}", times=times, sound="aac")
    _, stderr = dagl("denoise", "--sigma", 25, f"clip{suffix}")
    assert f"clip_denoised{suffix}: restored (6 frames; " in stderr
    assert "written as x264, yuv420p" in stderr
    assert_restored(f"clip_denoised{suffix}")
    _, found, context = seen(f"clip_denoised{suffix}")
    assert found == pytest.approx(seen(f"clip{suffix}")[1], abs=0.0006)  # Matroska has milliseconds
    assert context.codec.canonical_name == "h264"
    assert packets(f"clip_denoised{suffix}") == packets(f"clip{suffix}")
    with av.open(f"clip_denoised{suffix}") as file:
        assert {key.lower(): value for key, value in file.metadata.items()}["title"] == "a film"
    assert images.record(f"clip_denoised{suffix}")["command"] == "dagl denoise --sigma 25"
    _, stderr = dagl("denoise", "--sigma", 15, f"clip_denoised{suffix}", f"again{suffix}")
    assert "dagl has restored it before (dagl denoise --sigma 25)" in stderr
    assert b'dagl:sigma="25"' not in Path(f"again{suffix}").read_bytes()
    dagl("denoise", "--sigma", 25, "--strip-metadata", f"again{suffix}", f"bare{suffix}")
    assert images.record(f"bare{suffix}") == {}


def test_a_comment_stays_beside_the_record() -> None:
    made = _described({"COMMENT": "mine", "title": "a film"}, {"sigma": "25"})
    assert made["COMMENT"].startswith("mine\n<rdf:Description ")
    again = _described(made | {"comment-eng": made["COMMENT"]}, {"sigma": "9"})
    assert "".join(again.values()).count("dagl:sigma") == 1
    assert _described(again, {}) == {"COMMENT": "mine", "title": "a film", "comment-eng": "mine"}


@pytest.mark.parametrize(
    ("name", "codec", "pixels", "size", "made", "kept"),
    [
        ("a.mp4", "libx265", "yuv420p10le", (48, 64), "hevc", "yuv420p10le"),
        ("a.mkv", "ffv1", "yuv444p", (47, 63), "ffv1", "yuv444p"),
        ("a.mkv", "ffv1", "yuv422p10le", (48, 64), "ffv1", "yuv422p10le"),
        ("a.webm", "libvpx-vp9", "yuv420p", (47, 63), "vp9", "yuv420p"),
        ("a.mp4", "libx264", "yuv444p", (47, 63), "h264", "yuv444p"),
        ("a.mp4", "libx264", "gray", (48, 64), "h264", "yuv420p"),
    ],
)
def test_what_is_written(name: str, codec: str, pixels: str, size: tuple[int, int], made: str, kept: str) -> None:
    film(name, codec, pixels, size)
    dagl("denoise", "--sigma", 25, name, f"out{Path(name).suffix}")
    _, times, context = seen(f"out{Path(name).suffix}")
    assert (context.codec.canonical_name, context.pix_fmt) == (made, kept)
    assert times == pytest.approx(seen(name)[1], abs=0.0006)
    if pixels != "gray":
        assert_restored(f"out{Path(name).suffix}", size, up=SPLIT if "444" not in pixels else SHIFT)


def test_odd_sides_have_all_colours_where_the_codec_needs_even_ones() -> None:
    film("odd.webm", "libvpx-vp9", size=(47, 63))
    dagl("denoise", "--sigma", 25, "odd.webm", "out.mp4")
    assert seen("out.mp4")[2].pix_fmt == "yuv444p"
    assert_restored("out.mp4", (47, 63))


def test_a_turned_video_is_upright() -> None:
    film("phone.mp4", rotation=90)
    dagl("denoise", "--sigma", 25, "phone.mp4", "out.mp4")
    assert_restored("out.mp4", turned=1)
    with av.open("out.mp4") as file:
        assert next(file.decode(video=0)).rotation == 0


def test_pages_of_a_video() -> None:
    film("clip.mp4", sound="aac", count=12)
    dagl("denoise", "--sigma", 25, "--pages", "3-8", "clip.mp4", "part.mp4")
    assert_restored("part.mp4", numbers=range(2, 8))
    assert seen("part.mp4")[1] == pytest.approx([i / RATE for i in range(6)], abs=0.001)
    assert 8 <= len(packets("part.mp4")) <= 14 < len(packets("clip.mp4"))  # a quarter of a second
    dagl("denoise", "--sigma", 25, "--pages", "2", "clip.mp4", "one.png")
    assert np.abs(images.read("one.png").pixels * 255 - scene(1, 48, 64) - SHIFT).mean() < 3
    message = refused("denoise", "--pages", "5-20", "clip.mp4", "x.mp4", code=1)
    assert "it has 12 frames, and --pages 5-20 asks for frame 20" in message
    assert "12 frames of a video do not go into .png" in refused("denoise", "clip.mp4", "x.png", code=1)


def test_a_truncated_video_gives_what_is_before_the_fault() -> None:
    film("bad.mkv", count=96, size=(64, 96))
    data = Path("bad.mkv").read_bytes()
    Path("bad.mkv").write_bytes(data[: len(data) // 2])
    picture("good.png")
    _, stderr = dagl("denoise", "--sigma", 25, "bad.mkv", "good.png", "-o", "out", code=3)
    assert "partial (cannot read " in stderr
    assert "of 4.0 seconds: get a complete copy of it: what is before it is in the result" in stderr
    assert stderr.endswith("1 restored, 1 partial\n")
    assert 10 < len(seen("out/bad.mkv")[0]) < 90
    film("short.mkv", count=10)
    data = Path("short.mkv").read_bytes()
    Path("short.mkv").write_bytes(data[: len(data) * 6 // 10])
    _, stderr = dagl("denoise", "--sigma", 25, "short.mkv", "good.png", "-o", "out2", code=3)
    assert "it ends after 0.2 of 0.4 seconds" in stderr


def test_what_cannot_be_read() -> None:
    film("clip.mp4")
    whole = Path("clip.mp4").read_bytes()
    Path("text.mp4").write_text("hello " * 100)
    Path("cut.mp4").write_bytes(whole[: len(whole) // 2])  # what tells where frames are stands at its end
    start, length = whole.index(b"mdat") + 4, 4
    Path("noise.mp4").write_bytes(
        whole[:start]
        + bytes(len(whole[start : whole.index(b"moov") - length]))
        + whole[whole.index(b"moov") - length :]
    )
    with av.open("sound.mp4", "w") as file:
        voice: Any = file.add_stream("aac", rate=48000)
        voice.layout = "mono"
        block = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        block.sample_rate = 48000
        file.mux(voice.encode(block))
        file.mux(voice.encode(None))
    Path("empty.mp4").touch()
    for name in ("text.mp4", "cut.mp4", "noise.mp4", "sound.mp4", "empty.mp4"):
        assert "cannot read " in refused("denoise", "--sigma", 25, name, "out.mp4", code=1), name
    assert "it has no video" in refused("denoise", "--sigma", 25, "sound.mp4", "out.mp4", code=1)
    assert "more than the limit" in refused("denoise", "--max-pixels", 100, "clip.mp4", "out.mp4", code=1)


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()], ids=repr)
def test_nothing_partial_is_left(monkeypatch: pytest.MonkeyPatch, failure: BaseException) -> None:
    """The disk is full, or somebody interrupts, while frames are written."""
    film("clip.mp4", count=80)
    from dagl_cli.frames import encoding

    class Full:
        def __init__(self, file: Any) -> None:
            self.file = file

        def write(self, data: bytes) -> int:
            if self.file.tell() > 20:
                raise failure
            return int(self.file.write(data))

        def seek(self, *where: int) -> int:
            return int(self.file.seek(*where))

        def tell(self) -> int:
            return int(self.file.tell())

    begin = encoding.VideoWriter.__init__
    monkeypatch.setattr(
        encoding.VideoWriter,
        "__init__",
        lambda self, video, file, *more: begin(self, video, cast(BinaryIO, Full(file)), *more),
    )
    code = 130 if isinstance(failure, KeyboardInterrupt) else 1
    _, stderr = dagl("denoise", "--sigma", 25, "clip.mp4", "out.mp4", code=code)
    assert list(tree()) == ["clip.mp4"]
    if isinstance(failure, OSError):
        assert stderr == "Error: cannot write out.mp4: No space left on device: free some space\n"


def test_the_level_is_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    film("clip.mp4", count=30)
    calls: list[int] = []
    found = guard.Finding(sigma=12.0, task="denoise")
    monkeypatch.setattr(guard, "noise", lambda pixels, iso=None: noting(calls, 1, found))
    _, stderr = dagl("denoise", "clip.mp4")
    assert "sigma 12.0 (estimated); 30 frames; " in stderr
    assert len(calls) == 4 * 5  # the frames as they are shown, and then their planes
    monkeypatch.setattr(guard, "noise", lambda pixels, iso=None: guard.Finding(nothing="clean"))
    dagl("denoise", "clip.mp4", "same.mp4")
    assert Path("same.mp4").read_bytes() == Path("clip.mp4").read_bytes()


@pytest.mark.parametrize(("height", "width"), [(48, 64), (47, 63), (1, 1), (2, 130)])
@pytest.mark.parametrize("pixels", ["yuv420p", "yuv420p10le", "yuv422p", "yuv444p12le", "nv12", "yuvj420p"])
def test_planes_come_back_as_they_were(pixels: str, height: int, width: int) -> None:
    frame = av.VideoFrame.from_ndarray(scene(0, height, width), format="rgb24").reformat(format=pixels)
    taken = planes.taken(frame)
    assert taken[0].shape == (height, width, 1)
    back = planes.joined(taken, frame, width, height)
    assert all(np.array_equal(one, other) for one, other in zip(planes.taken(back), taken))
    difference = back.to_ndarray(format="rgb24").astype(int) - frame.to_ndarray(format="rgb24")
    assert pixels == "yuvj420p" or np.abs(difference).max() <= 2


def test_a_given_level_is_that_of_the_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each plane is told what independent noise of the three channels becomes in it."""
    film("clip.mp4", count=2)
    told: list[float] = []
    monkeypatch.setattr(restoring, "run", lambda restorer, pixels, sigma, *more: noting(told, sigma, pixels))
    dagl("denoise", "--sigma", 20, "clip.mp4")
    assert told == pytest.approx([20 * gain for gain in planes.GAINS] * 2)
    random = np.random.default_rng(0).normal(100, 20, (256, 256, 3)).round().astype(np.uint8)
    frame = av.VideoFrame.from_ndarray(random, format="rgb24").reformat(format="yuv420p")
    assert [255 * plane.std() / 20 for plane in planes.taken(frame)] == pytest.approx(planes.GAINS, rel=0.15)


def test_without_pyav(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("photos").mkdir()
    film("photos/clip.mp4")
    picture("photos/a.png")
    from dagl_cli.frames import video

    monkeypatch.setattr(video, "is_available", lambda: False)
    monkeypatch.setattr(frames, "is_available", lambda: False)
    message = refused("denoise", "photos/clip.mp4", "out.mp4", code=1)
    assert message == "Error: cannot read photos/clip.mp4: videos need PyAV: pip install 'dagl[video]'\n"
    _, stderr = dagl("denoise", "--sigma", 25, "photos")
    assert "Left out: 1 video, which need dagl[video], such as photos/clip.mp4" in stderr


def test_videos_of_a_folder() -> None:
    Path("films").mkdir()
    film("films/a.mp4")
    film("films/b.avi", "mjpeg", "yuvj420p")  # a container that is not written
    dagl("denoise", "--sigma", 25, "films")
    assert {"films_denoised/a.mp4", "films_denoised/b.mkv"} <= set(tree())
