"""`--pages`."""

from __future__ import annotations

import pytest

from dagl_cli.errors import ImageError, UsageError
from dagl_cli.frames.pages import Pages, every, spread


@pytest.mark.parametrize(
    ("text", "pages"),
    [("3", [3]), ("1-3", [1, 2, 3]), ("1-2,5", [1, 2, 5]), ("5-", [5, 6]), ("1,3-", [1, 3, 4, 5, 6]), ("6-6", [6])],
)
def test_lists(text: str, pages: list[int]) -> None:
    assert every(6, Pages(text)) == pages


@pytest.mark.parametrize(
    "text",
    ["", "0", "a", "-3", "3-1", "1,1", "2,1", "1-3,3", "5-,7", "1--3", "1;2", " 1", "1 ", "1,", ",1", "+1", "1.5", "١",
     "01", "9999999999", "1-2-3", "0-2"],
)  # fmt: skip
def test_what_is_no_list(text: str) -> None:
    with pytest.raises(UsageError, match=r"^`pages`"):
        Pages(text)


@pytest.mark.parametrize("text", ["7", "6-7", "7-", "1,9"])
def test_pages_that_are_not_there(text: str) -> None:
    with pytest.raises(ImageError, match=rf"it has 6 pages, and `pages` {text} asks for page [79]"):
        every(6, Pages(text))


def test_spread() -> None:
    assert list(spread(list(range(3)), 5)) == [0, 1, 2]
    assert list(spread(list(range(100)), 5)) == [10, 30, 50, 70, 90]
