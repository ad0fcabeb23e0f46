"""Whether a file is one of frames, and which kind; and what a result of it may be called."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from ..config import MAX_PIXELS
from ..errors import ImageError
from ..images import FORMATS
from . import apng, webp
from .animation import Animation
from .encoding import CONTAINERS
from .pages import Pages
from .sequence import Sequence, mapped
from .stack import Stack
from .video import OTHERWISE, READ, Video


def find(
    source: Path | bytes, *, name: str | None = None, pages: Pages | None = None, max_pixels: int = MAX_PIXELS
) -> Sequence | None:
    """The frames of a file; None for what `images.read` reads, or says what is wrong with.

    name: what errors call it; the path, unless given. pages: those that are wanted, which the file must have.
    Raises ImageError.
    """
    name = name or (str(source) if isinstance(source, Path) else "the image")
    head = b""
    with suppress(OSError, ValueError):  # `images.read` tells
        head = _head(source)
    if head.startswith(FORMATS["TIFF"].signatures):
        stack = Stack(source, name, pages, max_pixels)
        if not stack.is_one_picture():
            return stack
        stack.close()
    if isinstance(source, Path) and source.suffix.lower() in READ and source.is_file():
        return Video(source, name, pages, max_pixels)
    if head.startswith(b"GIF8"):
        return Animation(source, ".gif", name, pages, max_pixels)
    if head.startswith(FORMATS["PNG"].signatures) and apng.is_animated(mapped(source)):
        return Animation(source, ".png", name, pages, max_pixels)
    if head.startswith(b"RIFF") and webp.is_animated(memoryview(head)):
        return Animation(source, ".webp", name, pages, max_pixels)
    if head and pages is not None:
        try:
            pages.check(1)
        except ImageError as error:
            raise ImageError(f"cannot read {name}: {error}") from None
    return None


def is_frames_path(path: Path | str) -> bool:
    """Whether the name ends like one of a file of frames that `images.is_image_path` does not know."""
    return Path(path).suffix.lower() in (".gif", *READ)


def is_video_path(path: Path | str) -> bool:
    """Whether the name ends like that of a video."""
    return Path(path).suffix.lower() in READ


def result_suffix(suffix: str) -> str:
    """What a result's name ends in, where nothing else is asked for: as its source's, if such a file is written."""
    return OTHERWISE if suffix.lower() in READ and suffix.lower() not in CONTAINERS else suffix


def _head(source: Path | bytes) -> bytes:
    if isinstance(source, bytes):
        return source[:32]
    if not source.is_file():  # of a pipe nothing must be taken away
        return b""
    with open(source, "rb") as file:
        return file.read(32)
