"""Float samples as pixels that a network knows, and back: sRGB's curve for light, a logarithm above white.

Let p be the 99.5th percentile of the samples' sizes. White is 1 where p is between 1/16 and 1, else p. Up to white a
value is taken as it is, or, where values are light, in sRGB's curve; above, the curve goes on as a logarithm of the
same slope; below 0 it is mirrored. Of the result the least value (0, if none is below) becomes 0, the largest (white,
if none is above) 1. Values above 4 times white or below -white, and those that are not finite, come back as they were.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .colour import srgb_decode, srgb_encode

_WHITE = 99.5
"""Percentile: a little of a picture may shine."""
_DARKEST = 1 / 16
_LEAST, _MOST = -1.0, 4.0
"""Times white: what shines more is no matter for a network, and would leave it no range for the rest."""
_LIGHT_SLOPE = 1.055 / 2.4
"""Of sRGB's curve at white."""
_SAMPLES = 1 << 20
_ROWS = 256
"""At a time: bounds the memory for copies."""


@dataclass(frozen=True, eq=False)
class Tone:
    """How the float values of a file became pixels."""

    white: float
    light: bool
    """Values are proportional to light (OpenEXR, Radiance, a linear ICC profile)."""
    low: float
    high: float
    """Of the curve: what became 0 and 1."""
    places: np.ndarray
    """(N,) flat indices of the values that the curve does not reach."""
    kept: np.ndarray
    """(N,) these values."""

    def encode(self, values: np.ndarray) -> np.ndarray:
        """(H, W, C) float -> float32 in [0, 1]; what is not a number becomes black."""
        pixels = np.empty(values.shape, np.float32)
        for row in range(0, len(values), _ROWS):
            band = values[row : row + _ROWS].astype(np.float32)
            band[np.isnan(band)] = 0
            code = _curve(band.clip(_LEAST * self.white, _MOST * self.white) / np.float32(self.white), self.light)
            pixels[row : row + _ROWS] = ((code - self.low) / (self.high - self.low)).clip(0, 1)
        return pixels

    def same_curve(self, other: Tone) -> bool:
        """Whether equal values become equal pixels, those that are kept aside."""
        numbers = (self.white, self.light, self.low, self.high)
        return numbers == (other.white, other.light, other.low, other.high)

    def decode(self, pixels: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """The way back, clipped to [0, 1], for a picture of the same size."""
        values = np.empty(pixels.shape, dtype)
        for row in range(0, len(values), _ROWS):
            code = pixels[row : row + _ROWS].clip(0, 1) * np.float32(self.high - self.low) + np.float32(self.low)
            values[row : row + _ROWS] = np.float32(self.white) * _inverse(code, self.light)
        values.reshape(-1)[self.places] = self.kept
        return values


def tone_of(values: np.ndarray, light: bool) -> Tone:
    """The tone for the values of a file, (H, W, C) float."""
    flat = values.reshape(-1)
    some = np.abs(flat[:: max(1, flat.size // _SAMPLES)].astype(np.float32))
    some = some[np.isfinite(some)]
    white = float(np.percentile(some, _WHITE) or some.max()) if some.size else 1.0
    if _DARKEST <= white <= 1 or not white:
        white = 1.0
    least, most = _LEAST * white, _MOST * white
    with np.errstate(invalid="ignore"):  # NaN is neither
        places = np.flatnonzero(~((flat >= least) & (flat <= most)))
        ends = np.clip([np.nanmin(flat, initial=0), np.nanmax(flat, initial=0)], least, most)
    low, high = _curve(ends.astype(np.float32) / white, light)
    return Tone(white, light, float(low), max(1.0, float(high)), places, flat[places])


def _curve(scaled: np.ndarray, light: bool) -> np.ndarray:
    size = np.abs(scaled)
    code = srgb_encode(size) if light else size.copy()
    above = size > 1
    code[above] = 1 + (_LIGHT_SLOPE if light else 1) * np.log(size[above])
    return np.copysign(code, scaled)


def _inverse(code: np.ndarray, light: bool) -> np.ndarray:
    size = np.abs(code)
    scaled = srgb_decode(size) if light else size.copy()
    above = size > 1
    scaled[above] = np.exp((size[above] - 1) / (_LIGHT_SLOPE if light else 1))
    return np.copysign(scaled, code)
