"""Whether rows are as good as they have to be: against the paper, an earlier run, and for the authors' own weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import UsageError
from ..store.manifest import Result, parsed
from .cases import PAPER
from .measure import Measurement
from .methods import OURS

RELEASED = 0.02
"""dB by which a row of the authors' weights may differ from the paper's, above or below."""
SAME = ("dataset", "task", "level", "image", "variant", "method", "protocol", "seed", "tiling", "ensemble")
"""What a row has in common with its counterpart of an earlier run."""


def below(rows: Sequence[Measurement], tolerance: float, reference: Sequence[Result] | None) -> tuple[list[str], int]:
    """(one line for each of our rows whose PSNR is more than `tolerance` dB below its reference, rows compared).

    reference: rows of an earlier --json, which must have a counterpart of each of ours; None: what the paper publishes
    for DAGL, where it does. Raises UsageError if there is nothing to compare with, or if the images are not the same.
    """
    lines, compared = [], 0
    for row in rows:
        if row.method != OURS:
            continue
        wanted, count = _published(row) if reference is None else _earlier(row, reference)
        if wanted is None:
            continue
        if count != row.count:
            raise UsageError(f"`tolerance`: {row.case} was measured on {row.count} images, its reference on {count}")
        compared += 1
        if not row.mean("psnr") >= wanted - tolerance:  # so that NaN is below as well
            source, short = "published" if reference is None else "reference", wanted - row.mean("psnr")
            lines.append(f"{row.case}: {row.mean('psnr'):.2f} dB is {short:.2f} below the {source} {wanted:.2f}")
    if not compared:
        raise UsageError("`tolerance` has nothing to compare with: measure a published table, or give `reference`")
    return lines, compared


def _published(row: Measurement) -> tuple[float | None, int]:
    return row.case.published.get(PAPER, (None, None))[0], row.of


def _earlier(row: Measurement, reference: Sequence[Result]) -> tuple[float, int]:
    own = row.flat()
    match = next((result for result in reference if all(getattr(result, key) == own[key] for key in SAME)), None)
    if match is None:
        raise UsageError(
            f"`reference` has no row for {row.case} with protocol {row.protocol}, tiling {own['tiling']}, "
            f"ensemble {own['ensemble']}, seed {own['seed']}: measure both in the same way"
        )
    return match.psnr, match.images


def read_reference(path: Path) -> list[Result]:
    """The rows of an earlier --json output, without those of perfect results. Raises UsageError."""
    try:
        rows = parsed(path.read_bytes())["rows"]
        return [Result.from_dict(row) for row in rows if row["psnr"] is not None]
    except OSError as error:
        raise UsageError(f"`reference` {path}: {error.strerror}: give an output of `dagl benchmark --json`") from None
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"`reference` {path}: not the output of `dagl benchmark --json`") from None


def released(rows: Sequence[Measurement]) -> tuple[list[str], list[str]]:
    """Rows of the authors' weights under the paper's protocol: (lines of those that are the paper's, of the others).

    Of a checkpoint that was measured at several noise levels the nearest row counts: the authors trained one for each
    level, and the file does not say which. What cannot be compared (other protocols, parts of a set) is in neither.
    """
    groups: dict[tuple[str, str, str | None], list[Measurement]] = {}
    for row in rows:
        same = row.protocol == "paper" and row.settings.tiling == "chop" and row.seeds == (1,)
        if row.released and same and row.paper[0] is not None:
            noise = row.case.task == "denoise"
            groups.setdefault((row.method, row.case.dataset.name, None if noise else str(row.case)), []).append(row)
    right: list[str] = []
    wrong: list[str] = []
    for group in groups.values():
        row = min(group, key=lambda row: abs(row.difference[0] or 0))
        gap, paper = row.difference[0] or 0.0, row.paper[0]
        line = f"{row.case}: {row.mean('psnr'):.2f} dB, the paper has {paper:.2f} ({gap:+.2f})"
        (right if abs(gap) <= RELEASED else wrong).append(line)
    return right, wrong
