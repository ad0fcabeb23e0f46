"""The boxes that JPEG 2000, JPEG XL and AVIF files are made of (ISO/IEC 14496-12, section 4.2)."""

from __future__ import annotations

import struct
from collections.abc import Iterator


def boxes(data: bytes | memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """(type, content) of the boxes of a file of the family of ISO/IEC 14496-12; the last may be cut off."""
    view, position = memoryview(data), 0
    while position + 8 <= len(view):
        length, kind = struct.unpack_from(">I4s", view, position)
        head = 8
        if length == 1 and position + 16 <= len(view):
            (length,) = struct.unpack_from(">Q", view, position + 8)
            head = 16
        end = position + length if length else len(view)
        if end < position + head:
            return
        yield kind, view[position + head : end]
        position = end
