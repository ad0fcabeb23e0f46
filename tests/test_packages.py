"""Packages that are missing are named with their remedy."""

import pytest

from dagl_cli import DaglError
from dagl_cli.packages import MissingPackage, needed


def test_a_missing_package_is_named() -> None:
    with pytest.raises(MissingPackage) as caught:
        needed("dagl_needs_this", "`x` needs it ({}): pip install it")
    assert str(caught.value) == "`x` needs it (No module named 'dagl_needs_this'): pip install it"
    assert isinstance(caught.value, DaglError)
    assert isinstance(caught.value, ImportError), "so that `pytest.importorskip` and the like understand"


def test_a_package_that_is_there() -> None:
    assert needed("json", "{}").loads("1") == 1
