"""GIF, WebP and PNG that move: what is shown, for how long, how often; one frame at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
import PIL.Image
import pytest
from helpers import SHIFT, dagl, refused, tree

from dagl_cli import images

pytestmark = pytest.mark.usefixtures("one_thread", "here")

DURATIONS = [40, 100, 1000, 70]
RANDOM = np.random.default_rng(0)


def drawn(alpha: bool = True) -> list[np.ndarray]:
    """Frames (24, 30, 3 or 4) in which a square moves over few colours; of some, parts cannot be seen."""
    frames = []
    for i in range(4):
        frame = np.zeros((24, 30, 4), np.uint8)
        frame[...] = (60, 90, 120, 255)
        frame[4:12, 5 * i : 5 * i + 8, :3] = (200, 40 * i, 30)
        if i != 1:
            frame[18:, :10, 3] = 0
        frames.append(frame if alpha else frame[..., :3])
    return frames


def saved(path: str, frames: list[np.ndarray], loop: int | None = 3, **options: Any) -> None:
    pictures = [PIL.Image.fromarray(frame) for frame in frames]
    options = {"duration": DURATIONS[: len(frames)], **options} | ({} if loop is None else {"loop": loop})
    if path.endswith(".webp"):
        options |= {"lossless": True, "exact": True}
    pictures[0].save(path, save_all=True, append_images=pictures[1:], **options)


def shown(path: str) -> list[np.ndarray]:
    return list(imageio.imiter(path, plugin="pillow", mode="RGBA"))


def times(path: str) -> list[float]:
    with PIL.Image.open(path) as file:
        found = []
        for number in range(file.n_frames):
            file.seek(number)
            file.load()
            found.append(file.info.get("duration", 0))
        return found


def loops(path: str) -> Any:
    with PIL.Image.open(path) as file:
        return file.info.get("loop")


def assert_restored(path: str, given: list[np.ndarray], up: int = SHIFT) -> None:
    """That a file shows the frames with `up` added where they can be seen, and what cannot be seen is so still."""
    found = shown(path)
    assert len(found) == len(given)
    for one, other in zip(found, given):
        visible = other[..., 3] > 0 if other.shape[2] == 4 else np.ones(other.shape[:2], bool)
        assert np.array_equal(one[..., 3] > 0, visible)
        assert np.abs(one[visible][:, :3].astype(int) - other[visible][:, :3] - up).max() <= 1


@pytest.mark.parametrize("target", [".gif", ".webp", ".png"])
@pytest.mark.parametrize("source", [".gif", ".webp", ".png"])
def test_timing_loops_and_transparency(source: str, target: str) -> None:
    saved(f"in{source}", drawn(), disposal=2) if source == ".gif" else saved(f"in{source}", drawn())
    given = shown(f"in{source}")
    before = times(f"in{source}")
    dagl("denoise", "--sigma", 25, f"in{source}", f"out{target}")
    assert_restored(f"out{target}", given)
    assert times(f"out{target}") == before == DURATIONS
    assert loops(f"out{target}") == 3 + (source == ".gif") - (target == ".gif")  # GIF counts what comes after the first


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
@pytest.mark.parametrize("loop", [0, None])
def test_for_ever_and_once(suffix: str, loop: int | None) -> None:
    saved(f"in{suffix}", drawn(alpha=False), loop=loop)
    given = loops(f"in{suffix}")
    dagl("denoise", "--sigma", 25, f"in{suffix}")
    assert loops(f"in_denoised{suffix}") == given
    assert_restored(f"in_denoised{suffix}", drawn(alpha=False))


@pytest.mark.parametrize("disposal", [0, 1, 2, 3])
@pytest.mark.parametrize("suffix", [".gif", ".png"])
def test_disposal(suffix: str, disposal: int) -> None:
    """What is shown is restored, whatever the file's frames leave behind."""
    if suffix == ".png":
        disposal %= 3  # PNG has no fourth one
    saved(f"in{suffix}", drawn(), disposal=disposal)
    given = shown(f"in{suffix}")
    dagl("denoise", "--sigma", 25, f"in{suffix}")
    assert_restored(f"in_denoised{suffix}", given)


def test_photographs_become_the_best_256_colours_of_a_gif() -> None:
    ramp = np.linspace(40, 200, 64).astype(np.uint8)
    frame = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], 120), -1).astype(np.uint8)
    saved("in.png", [frame, frame[::-1]])
    dagl("denoise", "--sigma", 25, "in.png", "out.gif")
    for one, other in zip(shown("out.gif"), [frame, frame[::-1]]):
        difference = one[..., :3].astype(int) - other - SHIFT
        assert np.sqrt((difference**2).mean()) < 5
    dagl("denoise", "--sigma", 25, "in.png", "out.webp")
    assert_restored("out.webp", [frame, frame[::-1]])


def test_metadata_is_kept_and_stripped() -> None:
    exif = PIL.Image.Exif()
    exif[315] = "somebody"
    for suffix in (".webp", ".png"):
        saved(f"in{suffix}", drawn(alpha=False), exif=exif, icc_profile=b"")
        dagl("denoise", "--sigma", 25, f"in{suffix}", f"out{suffix}")
        dagl("denoise", "--sigma", 25, "--strip-metadata", f"in{suffix}", f"bare{suffix}")
        with PIL.Image.open(f"out{suffix}") as file:
            assert file.getexif()[315] == "somebody"
        with PIL.Image.open(f"bare{suffix}") as file:
            assert not file.getexif()


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_a_result_says_how_it_was_made(suffix: str) -> None:
    saved(f"in{suffix}", drawn())
    dagl("denoise", "--sigma", 25, f"in{suffix}", f"out{suffix}")
    assert images.record(f"out{suffix}")["command"] == "dagl denoise --sigma 25"
    _, stderr = dagl("denoise", "--sigma", 15, f"out{suffix}", f"again{suffix}")
    assert "dagl has restored it before (dagl denoise --sigma 25)" in stderr
    assert images.record(f"again{suffix}")["sigma"] == "15"
    assert Path(f"again{suffix}").read_bytes().count(b"urn:dagl:restored") == 1
    _, stderr = dagl("denoise", "--sigma", 25, f"in{suffix}", f"again{suffix}")
    assert "skipped (the output exists: --overwrite replaces it; it was made with --sigma 15)" in stderr
    dagl("denoise", "--sigma", 25, "--strip-metadata", f"out{suffix}", f"bare{suffix}")
    assert images.record(f"bare{suffix}") == {}
    assert times(f"again{suffix}") == times(f"in{suffix}")


def test_the_xmp_of_a_gif_is_kept() -> None:
    saved("in.gif", drawn(), comment=b"a comment")
    packet = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF>caf\xc3\xa9</rdf:RDF></x:xmpmeta>'
    block = b"!\xff\x0bXMP DataXMP" + packet + bytes([1, *range(255, -1, -1), 0])
    data = Path("in.gif").read_bytes()
    start = data.index(b"!\xff\x0bNETSCAPE")
    Path("in.gif").write_bytes(data[:start] + block + data[start:])
    _, stderr = dagl("denoise", "--sigma", 25, "in.gif", "out.gif")
    assert "restored (4 frames; its comment is left out; " in stderr
    found = Path("out.gif").read_bytes()
    assert packet.partition(b"</rdf")[0] in found
    assert images.record("out.gif")
    assert len(shown("out.gif")) == 4


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_through_pipes(suffix: str) -> None:
    saved(f"in{suffix}", drawn())
    stdout, _ = dagl("denoise", "--sigma", 25, "-", "-", stdin=Path(f"in{suffix}").read_bytes())
    dagl("denoise", "--sigma", 25, f"in{suffix}", f"out{suffix}")
    assert stdout == Path(f"out{suffix}").read_bytes()


def test_pages_and_stills() -> None:
    saved("in.gif", drawn())
    given = shown("in.gif")
    dagl("denoise", "--sigma", 25, "--pages", "2-3", "in.gif", "some.gif")
    assert_restored("some.gif", given[1:3])
    dagl("denoise", "--sigma", 25, "--pages", "2", "in.gif", "one.png")
    assert_restored("one.png", given[1:2])
    with PIL.Image.open("one.png") as still:
        assert not getattr(still, "is_animated", False)
    assert "it has 4 frames, and --pages 5 asks for frame 5" in refused(
        "denoise", "--pages", "5", "in.gif", "x.gif", code=1
    )
    assert "4 frames of a GIF do not go into .jpg: choose .gif or .webp or .png, or one frame (--pages)" in refused(
        "denoise", "in.gif", "x.jpg", code=1
    )
    PIL.Image.fromarray(drawn(alpha=False)[0]).save("still.gif")
    dagl("denoise", "--sigma", 25, "still.gif")
    assert_restored("still_denoised.gif", drawn(alpha=False)[:1])
    dagl("denoise", "--sigma", 25, "still.gif", "still.png")
    assert_restored("still.png", drawn(alpha=False)[:1])


def noise(suffix: str) -> list[np.ndarray]:
    """Frames that compress badly, so that each has a good share of the file."""
    frames = [RANDOM.integers(30, 200, (24, 30, 3)).astype(np.uint8) // 32 * 32 for _ in range(4)]
    saved(f"bad{suffix}", frames)
    return frames


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_the_frames_before_a_fault(suffix: str) -> None:
    frames = noise(suffix)
    data = Path(f"bad{suffix}").read_bytes()
    Path(f"bad{suffix}").write_bytes(data[: len(data) * 65 // 100])
    _, stderr = dagl("denoise", "--sigma", 25, f"bad{suffix}", code=3)
    assert f"cannot read frame 3 of bad{suffix}: it is truncated: get a complete copy of it" in stderr
    assert_restored(f"bad_denoised{suffix}", frames[:2])
    Path(f"bad{suffix}").write_bytes(data[:60])
    message = refused("denoise", "--sigma", 25, f"bad{suffix}", f"x{suffix}", code=1)
    assert message.startswith(f"Error: cannot read bad{suffix}: ")


def test_a_gif_without_frames() -> None:
    Path("bad.gif").write_bytes(b"GIF89a\x04\0\x04\0\0\0\0;")
    assert "cannot read bad.gif: it has no frames" in refused("denoise", "bad.gif", "x.gif", code=1)
    Path("bad.gif").write_bytes(b"GIF89a")
    assert "cannot read bad.gif: it is truncated" in refused("denoise", "bad.gif", "x.gif", code=1)


def test_what_is_not_done() -> None:
    saved("in.gif", drawn())
    assert "720 pixels are more than the limit of 700" in refused(
        "denoise", "--max-pixels", 700, "in.gif", "x.gif", code=1
    )
    before = Path("in.gif").read_bytes()
    dagl("denoise", "--sigma", 0, "in.gif", "same.gif")
    assert Path("same.gif").read_bytes() == before
    dagl("denoise", "--dry-run", "--sigma", 25, "in.gif", "x.gif")
    assert "x.gif" not in tree()


def test_in_a_folder() -> None:
    Path("photos").mkdir()
    saved("photos/a.gif", drawn())
    saved("photos/b.webp", drawn(alpha=False))
    dagl("denoise", "--sigma", 25, "photos")
    assert {"photos_denoised/a.gif", "photos_denoised/b.webp"} <= set(tree())
