"""Measurements as text, CSV, Markdown, LaTeX and HTML, beside what the paper publishes."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from . import datasets, report
from .cases import PAPER, Case, Key, Scores, label
from .measure import ImageFigures, Measurement, half_interval, prepared, restored
from .methods import OURS, Method
from .metrics import SSIM, psnr
from .perceptual import METRICS

RESERVED = ("difference", "clean")
"""Labels of tables and pictures that a checkpoint of that name must not take."""
DIFFERENCE = "difference"
NOTHING: Scores = (None, None)
Cell = tuple[float | None, ...]
"""PSNR, SSIM and what other metrics were asked for."""
Methods = Callable[[Case], list[Method]]
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "σ": r"$\sigma$", "<": r"$<$", ">": r"$>$", "|": r"$|$",
}  # fmt: skip
"""What these characters are in LaTeX's text."""


def figures_of(rows: Sequence[Measurement]) -> list[str]:
    """What a cell of the table holds."""
    return ["psnr", "ssim", *(rows[0].metrics if rows else ())]


def grid(cases: Sequence[Case], rows: Sequence[Measurement]) -> dict[str, list[Cell]]:
    """Column -> figures of every case: published methods, the paper's DAGL, input, others, ours, difference.

    None where there is nothing; columns that hold nothing at all are left out.
    """
    of = {(row.key, row.method): row for row in rows}
    names = figures_of(rows)
    nothing = (None,) * len(names)

    def means(row: Measurement | None, prefix: str = "") -> Cell:
        return tuple(row.mean(f"{prefix}{name}") for name in names) if row else nothing

    def filled(scores: Scores) -> Cell:
        return scores + nothing[2:]

    columns: dict[str, list[Cell]] = {}
    for name in dict.fromkeys(name for case in cases for name in case.published if name != PAPER):
        columns[name] = [filled(case.published.get(name, NOTHING)) for case in cases]
    columns["DAGL (paper)"] = [filled(case.published.get(PAPER, NOTHING)) for case in cases]
    inputs = {row.key: means(row, "input_") for row in rows}
    columns["input"] = [inputs.get(case.key, nothing) for case in cases]
    methods = [name for name in dict.fromkeys(row.method for row in rows) if name not in (OURS, "input")]
    for name in (*methods, OURS):
        taken = name in columns or name in RESERVED
        columns[f"{name} (measured)" if taken else name] = [means(of.get((case.key, name))) for case in cases]
    columns[DIFFERENCE] = [filled(row.difference) if (row := of.get((case.key, OURS))) else nothing for case in cases]
    return {name: cells for name, cells in columns.items() if any(cell != nothing for cell in cells)}


def summary(cases: Sequence[Case], rows: Sequence[Measurement]) -> tuple[list[str], list[list[str]]]:
    """(columns, lines) of the printed table: the `grid`, PSNR over SSIM in a cell, and what our rows cost."""
    columns = grid(cases, rows)
    ours = {row.key: row for row in rows if row.method == OURS}
    lines = []
    for i, case in enumerate(cases):
        row = ours.get(case.key)
        cost = [f"{row.seconds_per_megapixel:.2f}", f"{row.peak_mb or math.nan:.0f}"] if row else ["", ""]
        cells = [_shown(cells[i], sign="+" if name == DIFFERENCE else "") for name, cells in columns.items()]
        lines.append([_label(case, rows), *cells, *cost])
    return [_corner(rows, "\n"), *columns, "s/MP", "peak MB"], lines


def _corner(rows: Sequence[Measurement], between: str) -> str:
    """What the figures in a cell are, where it is not the usual PSNR and SSIM alone."""
    names = figures_of(rows)
    return between.join(name.upper() for name in names) if len(names) > 2 else ""


def _label(case: Case, rows: Sequence[Measurement]) -> str:
    """The case, and how many of its images were measured if not all: published figures are of all."""
    some = next((row.count for row in rows if row.key == case.key and row.count < row.of), None)
    return str(case) if some is None else f"{case}, first {some}"


def _shown(cell: Cell, sign: str = "") -> str:
    return "\n".join(f"{value:{sign}.{2 if i == 0 else 4}f}" for i, value in enumerate(cell) if value is not None)


def notes(rows: Sequence[Measurement]) -> list[str]:
    """What is stated about the rows, each line once, and where figures are from that are not the paper's."""
    sources = [f"published for {row.case.dataset.name}: {row.case.source}" for row in rows if row.case.source]
    return list(dict.fromkeys([row.stated() for row in rows] + sources))


# --- how sure the figures are ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """Ours minus another method on the same images of one case, PSNR in dB."""

    key: Key
    other: str
    mean: float
    interval: float
    """Half of its 95 % interval: over the images' own differences, which vary much less than the images."""
    images: int

    def __str__(self) -> str:
        low, high = self.mean - self.interval, self.mean + self.interval
        gain = f"{self.mean:+.2f} dB, {low:+.2f} to {high:+.2f}"
        return f"{label(self.key)}: {OURS} - {self.other} {gain} ({self.images} images)"

    def to_dict(self) -> dict[str, Any]:
        names = dict(zip(("dataset", "task", "level", "image", "variant"), self.key))
        return names | {"other": self.other, "mean": self.mean, "interval": self.interval, "images": self.images}


def differences(rows: Sequence[Measurement]) -> list[Difference]:
    """Ours against every other measured method, and against the input; of cases with two images or more.

    Of an ablation's networks, each also against the first, the paper's simplest.
    """
    found = []
    simplest = next((row for row in rows if row.case.variant), None)
    for row in rows:
        if row.method != OURS:
            continue
        own = row.by_image("psnr")
        others = {"input": row.by_image("input_psnr")}
        others |= {other.method: other.by_image("psnr") for other in rows if other.key == row.key and other is not row}
        if simplest and row.case.variant and row is not simplest:
            others[str(simplest.case.variant)] = simplest.by_image("psnr")
        for name, values in others.items():
            gains = [own[image] - values[image] for image in own if image in values]
            if (interval := half_interval(gains)) is not None:
                found.append(Difference(row.key, name, fmean(gains), interval, len(gains)))
    return found


def certainty(rows: Sequence[Measurement]) -> list[str]:
    """For every row of two images or more: its mean with its 95 % interval, and its deviation over the seeds."""
    lines = []
    for row in rows:
        if (interval := row.interval("psnr")) is not None:
            mean, over = row.mean("psnr"), row.deviation("psnr")
            seeds = "" if over is None else f"; {over:.3f} dB from seed to seed ({len(row.seeds)} seeds)"
            lines.append(
                f"{row.case}: {row.method} {mean:.2f} dB, {mean - interval:.2f} to {mean + interval:.2f}{seeds}"
            )
    return lines


# --- files -----------------------------------------------------------------------------------------------------------


def csv_text(rows: Sequence[Measurement]) -> str:
    """Every row with all its columns, as CSV."""
    return _csv([row.flat() for row in rows])


def images_csv(rows: Sequence[Measurement]) -> str:
    """One line for every image, seed and method, as CSV."""
    return _csv(
        [
            {"dataset": row.case.dataset.name, "task": row.case.task, "level": row.case.level,
             "variant": row.case.variant, "method": row.method, "image": image.name, "seed": image.seed,
             "psnr": image.psnr, "ssim": image.ssim, "input_psnr": image.input_psnr, "input_ssim": image.input_ssim,
             **{name: getattr(image, name) for metric in METRICS for name in (metric, f"input_{metric}")},
             "seconds": image.seconds, "megapixels": image.megapixels}
            for row in rows
            for image in row.images
        ]
    )  # fmt: skip


def _csv(lines: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def markdown(cases: Sequence[Case], rows: Sequence[Measurement]) -> str:
    """The summary and what is stated about its rows, as Markdown."""
    columns, lines = summary(cases, rows)
    cells = [[cell.replace("\n", " / ").replace("|", "\\|") for cell in line] for line in lines]
    heads = [" ".join(column.split()).replace("|", "\\|") for column in columns]
    table = [heads, ["---"] * len(columns), *cells]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in table), "", *(f"* {note}" for note in notes(rows)), ""])


def latex(cases: Sequence[Case], rows: Sequence[Measurement]) -> str:
    r"""A table for a paper: methods as columns, PSNR/SSIM and so on in a cell, best in bold, second underlined.

    It needs `\usepackage{booktabs}`. What is stated about the rows stands above it as comments.
    """
    columns = {name: cells for name, cells in grid(cases, rows).items() if name not in (DIFFERENCE, "input")}
    published = {name for case in cases for name in case.published} | {"DAGL (paper)"}
    lines = []
    for i, case in enumerate(cases):
        if any(row.key == case.key and row.count < row.of for row in rows):  # published figures are of whole sets
            for name in published & columns.keys():
                columns[name][i] = NOTHING
        ranks = [
            _ranks([cells[i][k] if k < len(cells[i]) else None for cells in columns.values()], figure)
            for k, figure in enumerate(figures_of(rows))
        ]
        cells = []
        for j, cell in enumerate(cells[i] for cells in columns.values()):
            shown = [
                _emphasised(f"{v:.{2 if k == 0 else 4}f}", ranks[k][j]) for k, v in enumerate(cell) if v is not None
            ]
            cells.append("/".join(shown) or "--")
        lines.append(f"{_escaped(_label(case, rows))} & {' & '.join(cells)} \\\\")
    head = " & ".join([_corner(rows, "/"), *map(_escaped, columns)])
    return "\n".join(
        [*(f"% {' '.join(note.split())}" for note in notes(rows)), f"\\begin{{tabular}}{{l{'c' * len(columns)}}}",
         "\\toprule", f"{head} \\\\", "\\midrule", *lines, "\\bottomrule", "\\end{tabular}", ""]
    )  # fmt: skip


def _ranks(values: Sequence[float | None], figure: str) -> list[int]:
    """1 for the best of the values as they are printed, 2 for the second; equal ones share a rank."""
    digits = 2 if figure == "psnr" else 4
    shown = [None if value is None or math.isnan(value) else round(value, digits) for value in values]
    order = sorted(
        {value for value in shown if value is not None}, reverse=figure not in METRICS
    )  # of these, the least
    return [order.index(value) + 1 if value is not None else 0 for value in shown]


def _emphasised(text: str, rank: int) -> str:
    text = text.replace("inf", r"$\infty$")
    return f"\\textbf{{{text}}}" if rank == 1 else f"\\underline{{{text}}}" if rank == 2 else text


def _escaped(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in " ".join(text.split()))


# --- the HTML report -------------------------------------------------------------------------------------------------


def page(title: str, cases: Sequence[Case], rows: Sequence[Measurement], methods: Methods, folder: Path) -> str:
    """The HTML report: summary, per-image table, and for every dataset the images that gained most, middling, least.

    methods: the methods of a case, ours last; they run once more on the few images that are shown.
    """
    pictures = []
    for name in dict.fromkeys(row.case.dataset.name for row in rows):
        shown = [(row, i) for row in rows if row.case.dataset.name == name and row.method == OURS for i in row.images]
        ranked = sorted(shown, key=lambda pair: pair[1].psnr - pair[1].input_psnr)
        few = {index: ranked[index] for index in (len(ranked) - 1, len(ranked) // 2, 0) if ranked}
        pictures += [_picture(row, image, methods(row.case), folder) for row, image in few.values()]
    return report.html(
        title, [*notes(rows), *map(str, differences(rows))], _tables(title, cases, rows), pictures=pictures
    )


def _tables(title: str, cases: Sequence[Case], rows: Sequence[Measurement]) -> list[report.Table]:
    columns = grid(cases, rows)
    flat = [row.flat() for row in rows]
    told = [key for key in (flat[0] if flat else ()) if any(row[key] is not None for row in flat)]
    names = figures_of(rows)
    per_image: list[list[report.Cell]] = [
        [_picture_name(row, i), row.method, *(getattr(i, name) for name in (*names, *(f"input_{n}" for n in names))),
         i.psnr - i.input_psnr, i.seconds / i.megapixels]
        for row in rows
        for i in row.images
    ]  # fmt: skip
    return [
        *(
            report.Table(
                f"{title}: {name.upper()}",
                ["", *columns],
                [[_label(case, rows), *(cells[i][k] for cells in columns.values())] for i, case in enumerate(cases)],
            )
            for k, name in enumerate(names)
        ),
        report.Table("Rows", told, [[row[key] for key in told] for row in flat]),
        report.Table(
            "Images",
            ["image", "method", *map(str.upper, names), *(f"input {name.upper()}" for name in names), "gain", "s/MP"],
            per_image,
        ),
    ]


def _picture_name(row: Measurement, image: ImageFigures) -> str:
    seed = f", seed {image.seed}" if len(row.seeds) > 1 else ""
    dataset, task, level, _, variant = row.key
    return f"{dataset}/{label((dataset, task, level, image.name, variant))}{seed}"


def _picture(row: Measurement, image: ImageFigures, methods: list[Method], folder: Path) -> report.Picture:
    case = row.case
    (sample,) = (sample for sample in case.samples() if sample.name == image.name)
    loaded = datasets.load(case.dataset, sample, folder)
    clean, bad = prepared(case, loaded, image.seed)
    results = {method.name: restored(method, bad, case.level, row.protocol, loaded.depth) for method in methods}
    before, after = bad.clamp(0, 1), results.pop(OURS)
    others = {f"{k} (measured)" if k in RESERVED else k: x for k, x in results.items() if k != "input"}
    versions = {"input": before, OURS: after, "clean": clean, **others}
    return report.Picture(
        _picture_name(row, image),
        {name: (x.permute(1, 2, 0) * 255).round().byte().squeeze(-1).numpy() for name, x in versions.items()},
        {
            name: {"PSNR": psnr(x, clean), "SSIM": SSIM[case.task](x, clean)}
            for name, x in versions.items()
            if name != "clean"
        },
    )
