"""Fixtures: weights that are told by their results, and a folder for every test."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import skips
import torch
from helpers import SHIFT, TOY_SIZES, saved, scene, small_photos, tiny, toy_picture
from PIL import Image

from dagl_cli.measuring import cases, datasets
from dagl_cli.measuring.cases import Published
from dagl_cli.restoring import estimate, openvino
from dagl_cli.store import weights

torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else min(2, os.cpu_count() or 1))


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Skips())


class Skips:
    """Fails the run where a skip is not in the list of `skips.py`."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.note(report)

    def note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.skipped and isinstance(report.longrepr, tuple):  # not what is expected to fail
            self.reasons.append(report.longrepr[2].removeprefix("Skipped: "))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if skips.unexpected(self.reasons):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for reason in skips.unexpected(self.reasons):
            terminalreporter.write_line(f"skipped, and not allowed to be (tests/skips.py): {reason}", red=True)


@pytest.fixture(scope="session", autouse=True)
def own_openvino(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the user has converted would run in torch's place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openvino, "folder", lambda folder=tmp_path_factory.mktemp("openvino"): folder)
        yield


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tiny networks wait for threads longer than they work, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights under the bundled names, except colour dejpeg; all add 10 levels, so that a result shows."""
    folder = tmp_path_factory.mktemp("weights")
    for task, channels in (("denoise", 1), ("denoise", 3), ("dejpeg", 1), ("demosaic", 3)):
        name = f"{task}-{'gray' if channels == 1 else 'color'}"
        saved(folder / f"{name}.safetensors", tiny(task, channels, SHIFT / 255, graph=False))
    return folder


@pytest.fixture
def here(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test runs in a folder of its own, without the user's variables; its tiny images count as JPEGs."""
    monkeypatch.setattr(weights, "folder", lambda: bundle)
    monkeypatch.setattr(estimate, "jpeg_blockiness", lambda pixels: 1.0)
    for name in [name for name in os.environ if name.startswith("DAGL_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


MODELS = {
    "denoise-gray": ("denoise", 1),
    "denoise-color": ("denoise", 3),
    "dejpeg-gray": ("dejpeg", 1),
    "dejpeg-color": ("dejpeg", 3),
    "demosaic-color": ("demosaic", 3),
}


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights under the bundled names that change nothing."""
    folder = tmp_path_factory.mktemp("weights")
    for name, (task, channels) in MODELS.items():
        saved(folder / f"{name}.safetensors", tiny(task, channels, graph=channels == 1))
    return folder


@pytest.fixture
def bundled(identities: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "folder", lambda: identities)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return small_photos(tmp_path / "photos")


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """A folder of four smooth colour photographs, 64x72."""
    for i in range(4):
        Image.fromarray(scene(i)).save(tmp_path / f"photo{i}.png")
    return tmp_path


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the sets 'Toy' (gray) and 'Toy-color' in the registry's place, and an empty cache."""
    entries = {}
    for name, channels in (("Toy", 1), ("Toy-color", 3)):
        files = []
        for i, size in enumerate(TOY_SIZES, 1):
            buffer = io.BytesIO()
            Image.fromarray(toy_picture(*size, channels).squeeze()).save(buffer, "PNG")
            path = tmp_path / "sets" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(buffer.getvalue())
            digest = hashlib.sha256(buffer.getvalue()).hexdigest()
            files.append(datasets.File(path.name, path.stat().st_size, digest))
        entries[name] = datasets.Dataset(name, "a toy", channels, tuple(files), "some/body", "0" * 40, name)
    entries["Real"] = replace(entries["Toy-color"], name="Real", clean=False)
    monkeypatch.setattr(datasets, "DATASETS", entries)
    levels = (
        {"dataset": "Toy", "task": "denoise", "level": s, "methods": {"BM3D": [2, 0.2], "DAGL": [3, 0.3]}}
        for s in (15.0, 25.0)
    )
    ablation = [
        {"dataset": "Toy", "task": "denoise", "level": 25.0, "variant": v, "methods": {"DAGL": [3, None]}} for v in "12"
    ]
    empty = Published("nothing", [])
    monkeypatch.setattr(
        cases,
        "PUBLISHED",
        {
            "table 1": Published("Toys", list(levels)), "table 3": empty, "table 4": empty, "set CC15": empty,
            "table 6": Published("Heads", ablation),
        },
    )  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("DAGL_DATASETS_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(datasets, "WAITS", ())
    return tmp_path / "sets"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return saved(tmp_path / "toy.safetensors", tiny(shift=0.01, graph=False))
