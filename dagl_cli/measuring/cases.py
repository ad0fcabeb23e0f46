"""What is measured: the paper's tables and figures, any published set, and the user's own images, as `Case`s."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config import PAPER_PATTERN, TASKS
from ..errors import UsageError, unknown
from . import datasets
from .datasets import Dataset, Sample

Scores = tuple[float | None, float | None]
"""PSNR in dB and SSIM."""

PAPER = "DAGL"
"""The paper's own method among the published ones."""
LEVELS: dict[str, tuple[float | None, ...]] = {
    "denoise": (15.0, 25.0, 50.0),
    "dejpeg": (10.0, 20.0, 30.0, 40.0),
    "demosaic": (None,),
    "raw": (None,),
    "real": (None,),
}
"""The paper's levels of each task: sigma, JPEG quality, none."""
DEGRADATIONS = {
    "denoise": "Gaussian noise, seed {seed} for every image, not clipped",
    "dejpeg": "JPEG by Pillow",
    "demosaic": "{pattern} mosaic",
    "raw": "{pattern} mosaic with a sensor's noise, seed {seed} for every image",
    "real": "simulated camera noise, seed {seed} for every image",
}
"""Task -> what is done to its clean images (`degrade.degraded`)."""
Key = tuple[str, str, float | None, str | None, str | None]


@dataclass(frozen=True)
class Case:
    """One line of a table: a dataset, or one image of it, under one degradation. Raises UsageError if it is none."""

    dataset: Dataset
    task: str
    level: float | None = None
    """sigma, JPEG quality, or None: there is none, or pairs do not say it."""
    image: str | None = None
    """One image alone (Figures 5 and 8)."""
    variant: str | None = None
    """Which network of an ablation (Tables 5 and 6)."""
    pattern: str = PAPER_PATTERN
    """Of a mosaic."""
    published: dict[str, Scores] = field(default_factory=dict, compare=False)
    """Method -> (PSNR, SSIM), as published."""
    source: str = field(default="", compare=False)
    """Where that is from; '': from the paper."""

    def __post_init__(self) -> None:
        name = self.dataset.name
        if self.task not in LEVELS:
            raise unknown("task", self.task, LEVELS)
        if not self.dataset.clean:
            raise UsageError(f"`dataset` {name} has no clean images: nothing can be measured on it")
        if self.dataset.channels not in TASKS[self.task].channels:
            raise UsageError(f"`dataset` {name} is gray: `task` {self.task} needs a colour one")
        if not self.samples():
            raise UsageError(f"`image` {self.image} is not in {name}: choose {_some(self.dataset)}")

    @property
    def channels(self) -> int:
        return self.dataset.channels

    @property
    def key(self) -> Key:
        """What tells the rows of one table apart."""
        return self.dataset.name, self.task, self.level, self.image, self.variant

    @property
    def random(self) -> bool:
        """Whether the degradation depends on a seed."""
        return self.dataset.pairs is None and self.task in ("denoise", "real", "raw")

    def degradation(self, seeds: Sequence[int]) -> str:
        """What was done to the clean images, in words."""
        if self.dataset.pairs:
            return "as in the files"
        text = DEGRADATIONS[self.task].format(seed=seeds[0], pattern=self.pattern)
        return text if len(seeds) == 1 else text.replace("seed", "seeds").replace(str(seeds[0]), _listed(seeds))

    def samples(self, limit: int | None = None) -> tuple[Sample, ...]:
        return tuple(s for s in self.dataset.samples if self.image in (None, s.name))[:limit]

    def __str__(self) -> str:
        return label(self.key)


def label(key: Key) -> str:
    """A case in a table: 'Set12 σ 25', 'Urban100 σ 25 (MHNL)'."""
    dataset, task, level, image, variant = key
    shown = "" if level is None else f" {'q' if task == 'dejpeg' else 'σ'} {level:g}"
    return f"{image or dataset}{shown}{f' ({variant})' if variant else ''}"


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _some(dataset: Dataset) -> str:
    names = [sample.name for sample in dataset.samples]
    return ", ".join(names[:3]) + (f" ... {names[-1]}" if len(names) > 3 else "")


@dataclass(frozen=True)
class Published:
    """A table or figure of the paper, or what is published of a set elsewhere."""

    title: str
    rows: list[dict[str, Any]]
    """dataset, task, level and methods, with an image or a variant where there is one."""
    source: str = ""
    """Where it is from; '': from the paper."""


PUBLISHED = {
    name: Published(**entry)
    for name, entry in json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8")).items()
}
"""'table 1' ... 'table 6', 'figure 5', 'figure 8', 'set CC15'. Table 4's Urban100 is in colour, and called so here."""


def cases_of(published: str) -> list[Case]:
    """What a published table or figure measures, as 'table 1' or 'figure 5'. Raises UsageError."""
    if published not in PUBLISHED:
        kind, _, number = published.partition(" ")
        raise unknown(kind, number, (name.partition(" ")[2] for name in PUBLISHED if name.startswith(kind)))
    return [_case(row, PUBLISHED[published].source) for row in PUBLISHED[published].rows]


def cases_for(
    sets: Sequence[Dataset],
    task: str,
    levels: Sequence[float | None],
    image: str | None = None,
    pattern: str = PAPER_PATTERN,
) -> list[Case]:
    """Datasets x levels, with what is published for them. Raises UsageError."""
    known = [case for table in ("table 1", "table 3", "table 4", "set CC15") for case in cases_of(table)]
    cases = [
        Case(entry, task, level, image, pattern=pattern)
        for entry in dict.fromkeys(sets)
        for level in dict.fromkeys(levels)
    ]
    return [next((found for found in known if found == case), case) for case in cases]


def implied_task(sets: Sequence[Dataset], sigma: bool = False, quality: bool = False, pattern: bool = False) -> str:
    """The task that is meant where none is said, from the sets and from which levels are given.

    Pairs are what cameras give; Table 3's sets are for 'dejpeg'.
    """
    if sigma or quality or pattern:
        return "denoise" if sigma else "dejpeg" if quality else "demosaic"
    if all(entry.pairs for entry in sets):
        return "real"
    table_3 = {case.dataset for case in cases_of("table 3")}
    return "dejpeg" if all(entry in table_3 for entry in sets) else "denoise"


def _case(row: dict[str, Any], source: str) -> Case:
    methods = {name: (values[0], values[1]) for name, values in row["methods"].items()}
    return Case(
        datasets.dataset(row["dataset"]), row["task"], row["level"], row.get("image"), row.get("variant"),
        published=methods, source=source,
    )  # fmt: skip
