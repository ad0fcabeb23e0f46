"""One self-contained HTML file: sortable tables, curves, pictures under a before/after slider. Loads no torch.

Nothing in it comes from the network, and its own policy forbids it to ask; it works from file://. The page's layout,
style and script are in `report.html`.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from string import Template

import numpy as np
import PIL.Image

from ..errors import DaglError
from ..files import write

Cell = str | float | int | None

_WEBP_LONGEST_SIDE = 16383
_LONG = 40
"""Rows of a table that is folded at first."""
_WIDTH, _HEIGHT = 720, 320
_X, _Y = (64, 690), (274, 12)
"""A curve's drawing, and where its axes begin and end in it, in SVG units (y grows downward)."""
_COLOURS = 8
"""How many line colours `report.html` has."""


@dataclass(frozen=True)
class Table:
    """Sortable by each column: numbers by value, None last. A first cell that is a picture's name opens it."""

    title: str
    columns: list[str]
    rows: list[list[Cell]]


@dataclass(frozen=True)
class Curve:
    """Lines over one pair of axes: label -> points (x, y), in the order in which they are joined."""

    title: str
    x_label: str
    y_label: str
    lines: dict[str, list[tuple[float, float]]]


@dataclass(frozen=True)
class Picture:
    """One image in several versions, to be laid over each other."""

    name: str
    versions: dict[str, np.ndarray]
    """Label -> uint8 (H, W) or (H, W, 3), all of one size, in display order; the first two are shown first."""
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    """Label -> {"PSNR": 30.1, ...}."""
    quality: int | None = None
    """Of lossy WebP, for pictures that were scaled anyway; None: without loss."""


def html(
    title: str,
    notes: Sequence[str] = (),
    tables: Sequence[Table] = (),
    curves: Sequence[Curve] = (),
    pictures: Sequence[Picture] = (),
) -> str:
    """The page. Every text may hold anything: names of files are shown, never interpreted."""
    names = {picture.name: i for i, picture in reversed(list(enumerate(pictures)))}
    data = {"curves": [_curve_data(curve) for curve in curves], "pictures": [_picture_data(p) for p in pictures]}
    return Template(Path(__file__).with_name("report.html").read_text(encoding="utf-8")).substitute(
        title=escape(title),
        notes="".join(f"<p>{escape(note)}</p>\n" for note in notes),
        tables="".join(_table(table, names) for table in tables),
        curves="".join(_curve(curve) for curve in curves),
        hidden="" if pictures else "hidden",
        data=json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
    )


def is_report(path: Path) -> bool:
    """Whether a file is a page of ours, which a new one may replace."""
    with suppress(OSError), open(path, "rb") as file:
        return b'<meta name="generator" content="dagl">' in file.read(1000)
    return False


def save(path: Path, text: str) -> None:
    """Writes a text file, all of it or nothing; an existing one is replaced. Raises DaglError.

    What exists and is no file (/dev/stdout, a pipe) is written to, not replaced: root could replace a device.
    """
    data = text.encode("utf-8", "replace")
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)
        else:
            write(path, data)
    except OSError as error:
        raise DaglError(f"cannot write {path}: {error.strerror}: choose another file or folder") from None


# --- tables ----------------------------------------------------------------------------------------------------------


def _table(table: Table, pictures: dict[str, int]) -> str:
    decimals = [_decimals([row[i] for row in table.rows]) for i in range(len(table.columns))]
    heads = []
    for i, column in enumerate(table.columns):
        numeric = any(isinstance(row[i], (int, float)) for row in table.rows)
        heads.append(f"<th scope=col{' class=number' if numeric else ''}><button>{escape(column)}</button></th>")
    rows = []
    for row in table.rows:
        cells = [_cell(value, places) for value, places in zip(row, decimals)]
        if isinstance(row[0], str) and row[0] in pictures:
            cells[0] = f'<td><button class=open data-picture="{pictures[row[0]]}">{escape(row[0])}</button></td>'
        rows.append(f"<tr>{''.join(cells)}</tr>")
    body = "\n".join(rows)
    content = (
        f"<div class=scroll><table class=sortable>"
        f"<thead><tr>{''.join(heads)}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )
    title = f"<h2>{escape(table.title)}</h2>"
    if len(rows) > _LONG:  # folded, so that the pictures are not thousands of lines away
        return f"<section><details><summary>{title} {len(rows)} rows</summary>{content}</details></section>\n"
    return f"<section>{title}{content}</section>\n"


def _cell(value: Cell, decimals: int) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return '<td class="none number">–</td>'
    if isinstance(value, str):
        return f"<td>{escape(value)}</td>"
    return f'<td class=number data-value="{_javascript(value)}">{_shown(value, decimals)}</td>'


def _shown(value: float, decimals: int) -> str:
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return (f"{value:.{decimals}f}" if isinstance(value, float) else str(value)).replace("-", "−")


def _javascript(value: float) -> str:
    return str(value) if math.isfinite(value) else "Infinity" if value > 0 else "-Infinity"


def _decimals(values: Sequence[Cell]) -> int:
    """Decimals that serve a whole column: 2 from 10 on (dB), else as many as are needed, up to 4 (SSIM)."""
    numbers = [value for value in values if isinstance(value, float) and math.isfinite(value)]
    if any(abs(value) >= 10 for value in numbers):
        return 2
    return next((d for d in range(4) if all(round(v, d) == round(v, 4) for v in numbers)), 4)


# --- curves ----------------------------------------------------------------------------------------------------------


def _curve(curve: Curve) -> str:
    """Axes with ticks, lines and legend as SVG; the script adds the values under the pointer."""
    x_axis, y_axis = _axes(curve)
    top, bottom = _Y[1], _Y[0]
    parts = []
    for value in _ticks(*y_axis):
        y = _place(value, y_axis, _Y)
        parts.append(f'<line class="grid" x1="{_X[0]}" x2="{_X[1]}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text text-anchor="end" x="{_X[0] - 8}" y="{y + 4}">{_tick(value)}</text>')
    for value in _ticks(*x_axis):
        x = _place(value, x_axis, _X)
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{top}" y2="{bottom}"/>')
        parts.append(f'<text text-anchor="middle" x="{x}" y="{bottom + 18}">{_tick(value)}</text>')
    legend = []
    for i, (label, line) in enumerate(curve.lines.items()):
        colour = f"c{i % _COLOURS}"
        places = [(_place(x, x_axis, _X), _place(y, y_axis, _Y)) for x, y in _finite(line)]
        parts.append(f'<polyline class="line {colour}" points="{" ".join(f"{x},{y}" for x, y in places)}"/>')
        if len(places) == 1:
            parts.append(f'<circle class="dot {colour}" cx="{places[0][0]}" cy="{places[0][1]}" r="3"/>')
        legend.append(f'<li class="{colour}"><span>{escape(label)}</span> <output></output></li>')
    parts.append(f'<text text-anchor="middle" x="{sum(_X) / 2}" y="{_HEIGHT - 8}">{escape(curve.x_label)}</text>')
    turned = f"translate(14 {sum(_Y) / 2}) rotate(-90)"
    parts.append(f'<text text-anchor="middle" transform="{turned}">{escape(curve.y_label)}</text>')
    parts.append(f'<line class="cursor" y1="{top}" y2="{bottom}" visibility="hidden"/>')
    return (
        f"<section class=curve><h2>{escape(curve.title)}</h2>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(curve.title)}">\n'
        + "\n".join(parts)
        + f"\n</svg><ul class=legend>{''.join(legend)}</ul><p class=at></p></section>\n"
    )


def _curve_data(curve: Curve) -> dict[str, object]:
    x_axis, _ = _axes(curve)
    return {
        "x": curve.x_label,
        "low": x_axis[0],
        "high": x_axis[1],
        "left": _X[0],
        "right": _X[1],
        "width": _WIDTH,
        "lines": [_finite(points) for points in curve.lines.values()],
    }


def _finite(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _axes(curve: Curve) -> tuple[tuple[float, float], tuple[float, float]]:
    """Ranges of x and y, widened where they are empty."""
    points = [point for line in curve.lines.values() for point in _finite(line)] or [(0.0, 0.0)]
    ranges = []
    for values, margin in (([x for x, _ in points], 0.0), ([y for _, y in points], 0.04)):
        low, high = min(values), max(values)
        room = (high - low) * margin if high > low else max(abs(low) * 0.01, 0.5)
        ranges.append((low - room, high + room))
    return ranges[0], ranges[1]


def _place(value: float, axis: tuple[float, float], drawn: tuple[int, int]) -> float:
    return round(drawn[0] + (value - axis[0]) / (axis[1] - axis[0]) * (drawn[1] - drawn[0]), 1)


def _ticks(low: float, high: float) -> list[float]:
    """4 to 8 round numbers within the range."""
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step *= next(factor for factor in (5, 2, 1) if (high - low) / (step * factor) >= 4 or factor == 1)
    return [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _tick(value: float) -> str:
    return f"{value:.6g}".replace("-", "−")


# --- pictures --------------------------------------------------------------------------------------------------------


def _picture_data(picture: Picture) -> dict[str, object]:
    sizes = {version.shape[:2] for version in picture.versions.values()}
    if len(sizes) != 1:
        raise ValueError(f"{picture.name}: its versions are of {len(sizes)} sizes, not one")
    columns = list(dict.fromkeys(key for values in picture.metrics.values() for key in values))
    places = {c: _decimals([float(v[c]) for v in picture.metrics.values() if c in v]) for c in columns}
    rows = [
        [_shown(float(values[c]), places[c]) if c in values else "–" for c in columns]
        for values in (picture.metrics.get(label, {}) for label in picture.versions)
    ]
    (height, width) = sizes.pop()
    return {
        "name": picture.name,
        "width": width,
        "height": height,
        "labels": list(picture.versions),
        "sources": [_data_uri(pixels, picture.quality) for pixels in picture.versions.values()],
        "columns": columns,
        "metrics": rows,
    }


def _data_uri(pixels: np.ndarray, quality: int | None) -> str:
    """The pixels as WebP, or without loss as PNG where a side is too long for it."""
    format = "WEBP" if max(pixels.shape[:2]) <= _WEBP_LONGEST_SIDE else "PNG"
    how = {"lossless": True, "quality": 0} if quality is None else {"quality": quality}
    options = how | {"method": 3} if format == "WEBP" else {}
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, format, **options)
    return f"data:image/{format.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
