"""Where the shared reference data is (test sets, published tables, parity outputs); tests skip without it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

torch.set_num_threads(min(2, os.cpu_count() or 1))


def shared(path: str) -> Path:
    """A file or folder of the shared data; skips the calling test if it is absent.

    The data is looked for in $DAGL_SHARED, then beside the repository in ../shared.
    """
    root = Path(os.environ.get("DAGL_SHARED") or Path(__file__).parents[2] / "shared")
    if not (root / path).exists():
        pytest.skip(f"needs {root / path}: set DAGL_SHARED to the folder of the shared reference data")
    return root / path


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tiny networks wait for threads longer than they work, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
