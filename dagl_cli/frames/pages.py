"""Which frames of a file are wanted: `1-10`, `3`, `1-3,7`, `5-`, counted from 1."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..errors import ImageError, UsageError

_PART = re.compile(r"([1-9]\d{0,8})(-([1-9]\d{0,8})?)?")


class Pages:
    """What `text` names. Raises UsageError for what is no such list.

    Parts ascend and do not overlap, so that a file can be read from its beginning to its end.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._ranges: list[tuple[int, int | None]] = []
        for part in text.split(","):
            found = _PART.fullmatch(part)
            if not found or not part.isascii():
                raise UsageError(f"`pages` {text} is not understood: write 3, 1-10, 1-3,7 or 5-, counted from 1")
            first = int(found[1])
            last = first if not found[2] else int(found[3]) if found[3] else None
            before = self._ranges[-1][1] if self._ranges else 0
            if before is None or first <= before or (last is not None and last < first):
                raise UsageError(f"`pages` {text} does not ascend: write each page once, the lowest first")
            self._ranges.append((first, last))

    def __contains__(self, number: int) -> bool:
        return any(first <= number and (last is None or number <= last) for first, last in self._ranges)

    @property
    def last(self) -> int | None:
        """The highest page; None: that of the file."""
        return self._ranges[-1][1]

    @property
    def least(self) -> int:
        """How many pages a file must have."""
        first, last = self._ranges[-1]
        return first if last is None else last

    def of(self, count: int, words: tuple[str, str]) -> list[int]:
        """Those of a file with so many pages. Raises ImageError where it has not all of them."""
        self.check(count, words)
        return [number for number in range(1, count + 1) if number in self]

    def check(self, count: int, words: tuple[str, str] = ("page", "pages")) -> None:
        """Raises ImageError where a file with so many pages has not all of them."""
        if count < self.least:
            has = f"{count:,} {words[count != 1]}"
            raise ImageError(f"it has {has}, and `pages` {self.text} asks for {words[0]} {self.least:,}")


def every(count: int, pages: Pages | None, words: tuple[str, str] = ("page", "pages")) -> list[int]:
    """The numbers of the wanted pages of a file, counted from 1; all of them without `pages`.

    words: what errors call one of them, and several.
    """
    return list(range(1, count + 1)) if pages is None else pages.of(count, words)


def spread(numbers: list[int], most: int) -> Iterator[int]:
    """At most so many of them, evenly spread, not the ends where there are enough."""
    step = len(numbers) / most
    yield from numbers if step <= 1 else (numbers[int((i + 0.5) * step)] for i in range(most))
