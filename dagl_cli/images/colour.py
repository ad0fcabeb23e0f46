"""Colours: sRGB's curve, for arrays and tensors alike; ICC profiles; the numbers of ITU-T H.273."""

from __future__ import annotations

import struct
from typing import Any

from PIL.ImageCms import ImageCmsProfile, createProfile


def srgb_encode(light: Any) -> Any:
    """Linear light in [0, 1] -> sRGB's code (IEC 61966-2-1). An array (numpy) or a tensor (torch), any shape."""
    dark = light <= 0.0031308
    return dark * (12.92 * light) + ~dark * (1.055 * abs(light) ** (1 / 2.4) - 0.055)


def srgb_decode(code: Any) -> Any:
    """sRGB's code in [0, 1] -> linear light (IEC 61966-2-1). An array (numpy) or a tensor (torch), any shape."""
    dark = code <= 0.04045
    return dark * (code / 12.92) + ~dark * (((abs(code) + 0.055) / 1.055) ** 2.4)


_ORDINARY = ((1, 13), (1, 1), (1, 2), (2, 2), (2, 13))
"""Primaries and curves that mean sRGB, or may as well, where a picture says nothing else."""


def cicp(primaries: int, curve: int) -> list[tuple[bytes, bytes]]:
    """The numbers of a picture's colours (ITU-T H.273) as PNG's chunk for them; none where they are sRGB's."""
    return [] if (primaries, curve) in _ORDINARY else [(b"cICP", bytes([primaries & 255, curve & 255, 0, 1]))]


def is_profile(data: bytes) -> bool:
    """Whether it has the header of an ICC profile (ICC.1:2022, section 7.2), with its signature."""
    return len(data) >= 128 and data[36:40] == b"acsp"


def is_linear(profile: bytes) -> bool:
    """Whether an ICC profile says that levels are proportional to light (ICC.1:2022, sections 10.6 and 10.18)."""
    try:
        (count,) = struct.unpack_from(">I", profile, 128)
        for number in range(min(count, 100)):
            tag, offset = struct.unpack_from(">4sI", profile, 132 + 12 * number)
            if tag in (b"gTRC", b"kTRC"):
                kind, form = struct.unpack_from(">4s4xH", profile, offset)
                (points,) = struct.unpack_from(">I", profile, offset + 8)
                if kind == b"curv":
                    straight = {0: b"", 1: b"\1\0", 2: b"\0\0\xff\xff"}.get(points)
                    return straight is not None and profile[offset + 12 : offset + 12 + 2 * points] == straight
                return kind == b"para" and form == 0 and profile[offset + 12 : offset + 16] == b"\0\1\0\0"
    except struct.error:
        pass
    return False


def srgb_profile() -> bytes:
    """An ICC profile of sRGB; the same bytes every time."""
    return undated(ImageCmsProfile(createProfile("sRGB")).tobytes())


def undated(profile: bytes) -> bytes:
    """A new profile with one date for all, so that its bytes are the same every time."""
    return profile[:24] + struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + profile[36:]
