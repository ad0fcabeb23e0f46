"""Files of several pictures: stacks, animations and videos, frame by frame. Loads no torch."""

from .find import find, is_frames_path, is_video_path, result_suffix
from .pages import Pages
from .sequence import Frame, Sequence, Writer
from .video import is_available

__all__ = [
    "Frame",
    "Pages",
    "Sequence",
    "Writer",
    "find",
    "is_available",
    "is_frames_path",
    "is_video_path",
    "result_suffix",
]
