"""A skip that is not in the list fails the run, also where all tests that ran have passed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import skips
from helpers import ROOT

TESTS = """
import pytest

def test_that_passes():
    pass

def test_that_is_skipped():
    pytest.skip({reason!r})
"""


@pytest.mark.parametrize(
    ("reason", "allowed"),
    [
        ("I have no time today", False),
        ("needs /nowhere/testsets: set DAGL_SHARED to the folder of the shared reference data", True),
        ("needs /dev/full", not Path("/dev/full").exists()),
        ("needs /dev/full and more", False),
    ],
)
def test_the_run_fails(tmp_path: Path, reason: str, allowed: bool) -> None:
    (tmp_path / "test_a.py").write_text(TESTS.format(reason=reason))
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "-p", "conftest", str(tmp_path)]
    environment = {
        "DAGL_SHARED": "/nowhere",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "PATH": "",
    }
    result = subprocess.run(command, text=True, capture_output=True, check=False, env=environment, cwd=tmp_path)
    assert result.returncode == (0 if allowed else 1), result.stdout + result.stderr
    assert (f"skipped, and not allowed to be (tests/skips.py): {reason}" in result.stdout) == (not allowed)


def test_shared_data_that_is_there_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DAGL_SHARED", str(tmp_path))
    reason = f"needs {tmp_path}/testsets: set DAGL_SHARED to the folder of the shared reference data"
    assert skips.unexpected([reason]) == [reason]
