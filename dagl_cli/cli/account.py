"""What a run tells of its files: a line for each, JSON for programs, and a summary in the end."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from mimetypes import guess_type
from typing import Any

from ..silence import heard
from .boundary import with_flags
from .console import say

STATUSES = ("restored", "unchanged", "skipped", "partial", "failed", "planned")
SEVERAL = 5
"""Reasons, or failed files, that a summary names."""

Row = dict[str, Any]
"""One file, as it goes to --json."""


@dataclass
class Account:
    """Of one run. Messages go to stderr and to the log, data to stdout."""

    left_out: dict[str, list[str]]
    """Why -> paths that are passed over."""
    quiet: bool = False
    as_json: bool = False
    """One JSON report in the end."""
    json_lines: bool = False
    """A JSON object for every file as it is finished."""
    rows: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """Tells of a file; of a failure even when quiet."""
        self.rows.append(row)
        if row["status"] == "failed":
            say(f"Error: {row['message']}", "red")
        elif row["status"] == "partial":
            say(f"Error: {described(row)}", "red")
        else:
            say(described(row), quiet=self.quiet)
        if self.json_lines:
            with heard():
                print(json.dumps(row), flush=True)

    def note(self, line: str) -> None:
        say(f"Note: {with_flags(line)}", "yellow", quiet=self.quiet)

    def end(self, stopped: str | None = None, quiet: bool = False) -> None:
        """Tells of all. stopped: why it ended early. quiet: an error's own line is enough."""
        if self.as_json:
            print_report(self.rows, self.left_out, stopped)
        for line, style in summary(self.rows, self.left_out):
            say(line, style, quiet=self.quiet or self.as_json or quiet)


def row_of(
    source: str | None,
    target: str | None,
    *,
    status: str,
    seconds: float = 0.0,
    sigma: float | None = None,
    quality: int | None = None,
    model: str | None = None,
    digest: str | None = None,
    precision: str | None = None,
    backend: str | None = None,
    note: str | None = None,
) -> Row:
    return {
        "input": source, "output": target, "status": status, "seconds": seconds, "sigma": sigma, "quality": quality,
        "model": model, "precision": precision, "backend": backend, "sha256": digest,
        "message": with_flags(note) if note else None,
    }  # fmt: skip


def described(row: Row) -> str:
    details = []
    if row["sigma"] is not None:
        details.append(f"sigma {row['sigma']:.1f} (estimated)")
    if row["quality"] is not None:
        details.append(f"JPEG quality {row['quality']} (estimated)")
    if row["message"]:
        details.append(row["message"])
    if row["seconds"]:
        details.append(f"{row['seconds']:.1f} s")
    return f"{row['input']} -> {row['output']}: {row['status']}" + (f" ({'; '.join(details)})" if details else "")


def counts(rows: list[Row]) -> dict[str, int]:
    return {status: n for status in STATUSES if (n := sum(row["status"] == status for row in rows))}


def summary(rows: list[Row], left_out: dict[str, list[str]]) -> list[tuple[str, str]]:
    """(line, style): what was left out, left alone and skipped, and why; what failed; and how many of each."""
    lines = [(f"Left out: {said_left_out(why, names)}", "yellow") for why, names in left_out.items()]
    if len(rows) < 2:
        return lines
    for status, title in (("unchanged", "Left alone"), ("skipped", "Skipped")):
        reasons = Counter(row["message"] for row in rows if row["status"] == status)
        for reason, count in reasons.most_common(SEVERAL):
            example = next(row["input"] for row in rows if (row["status"], row["message"]) == (status, reason))
            files = f"{count} files, such as {example}" if count > 1 else example
            lines.append((f"{title}: {files}: {reason}", ""))
        if rest := sum(count for _, count in reasons.most_common()[SEVERAL:]):
            lines.append((f"{title}: {rest} more, for other reasons", ""))
    for status, title in (("partial", "In part"), ("failed", "Failed")):
        names = [row["input"] for row in rows if row["status"] == status]
        more = f" and {len(names) - SEVERAL} more" if len(names) > SEVERAL else ""
        lines += [(f"{title}: {', '.join(names[:SEVERAL])}{more}", "red")] if names else []
    return [*lines, (", ".join(f"{n} {status}" for status, n in counts(rows).items()), "")]


def said_left_out(why: str, names: list[str]) -> str:
    """What was passed over, with one for example: a picture or a film, if there is one."""
    example = next((name for name in names if (guess_type(name)[0] or "").startswith(("image", "video"))), names[0])
    kind = why if len(names) > 1 else re.sub(r"s\b", "", why, count=1)  # the noun is the first plural
    return with_flags(f"{len(names)} {kind}, such as {example}")


def print_report(rows: list[Row], left_out: dict[str, list[str]], stopped: str | None) -> None:
    """The JSON report on stdout. It is ASCII, so that any file name can be printed anywhere."""
    report: dict[str, Any] = {"counts": counts(rows), "files": rows}
    report["left_out"] = [
        {"why": with_flags(why), "count": len(names), "files": names} for why, names in left_out.items()
    ]
    if stopped:
        report["stopped"] = stopped
    with heard():
        print(json.dumps(report, indent=2), flush=True)
