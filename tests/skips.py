"""What may be skipped, and where. Any other skip fails the run (`conftest.pytest_sessionfinish`).

A test that is skipped holds nothing; so each reason is here, with the condition under which it is true. Packages of the
extra `test` are never missing: the tests need `pip install '.[test]'`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
from helpers import shared_root

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def is_windows() -> bool:
    return os.name == "nt"


def may_mount() -> bool:
    """Whether this process may bind a folder to itself."""
    with tempfile.TemporaryDirectory() as folder:
        if subprocess.run(["mount", "--bind", folder, folder], capture_output=True).returncode:
            return False
        subprocess.run(["umount", folder], check=True)
    return True


def container_engine() -> str | None:
    """docker or podman, if one is here and works."""
    for name in ("docker", "podman"):
        if shutil.which(name) and subprocess.run([name, "info"], capture_output=True).returncode == 0:
            return name
    return None


def _version(package: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version(package).split(".")[:2])


ALLOWED: dict[str, Callable[[], bool]] = {
    r"needs .*: set DAGL_SHARED to the folder of the shared reference data": lambda: not shared_root().is_dir(),
    r"needs Chromium or Chrome on the PATH": lambda: not any(map(shutil.which, BROWSERS)),
    r"no (named )?pipes( here)?": lambda: not hasattr(os, "mkfifo"),
    r"POSIX (permissions|signals)|locks of files that are open": is_windows,
    r"permissions do not bind root, nor Windows": lambda: is_windows() or os.geteuid() == 0,
    r"bind mounts are not allowed here": lambda: not may_mount(),
    r"needs docker or podman": lambda: container_engine() is None,
    r"needs spandrel's own tests: set SPANDREL_SOURCE .*": lambda: "SPANDREL_SOURCE" not in os.environ,
    r"needs groff": lambda: shutil.which("groff") is None,
    r"needs fork": lambda: not hasattr(os, "fork"),
    r"looks for processes in /proc": lambda: os.name == "nt" or os.uname().sysname != "Linux",
    r"needs /dev/full": lambda: not Path("/dev/full").exists(),
    r"the peak can be reset on Linux only": lambda: not Path("/proc/self/clear_refs").exists(),
    r"the file system takes Unicode names only": lambda: os.uname().sysname != "Linux",
    r"needs triton, which comes with torch for CUDA": lambda: find_spec("triton") is None,
    r"huggingface_hub before 1\.0 does not tell how far it is": lambda: _version("huggingface_hub") < (1, 0),
    r"torch\.optim\.Muon came with torch 2\.9": lambda: not hasattr(torch.optim, "Muon"),
}
"""Reason (a pattern of all of it) -> whether it is true here."""


def unexpected(reasons: Iterable[str]) -> list[str]:
    """Those that are not in the list, or whose condition does not hold on this machine."""
    return [
        reason
        for reason in dict.fromkeys(reasons)
        if not any(re.fullmatch(pattern, reason) and holds() for pattern, holds in ALLOWED.items())
    ]
