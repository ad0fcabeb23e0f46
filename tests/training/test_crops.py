"""Batches: of their number alone, whoever makes them; and workers that cannot start or end."""

from __future__ import annotations

import itertools
import multiprocessing
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import run_config, train_elsewhere

from dagl_cli.errors import DaglError
from dagl_cli.training import loop
from dagl_cli.training.crops import Crops
from dagl_cli.training.photos import Photos, load_photos

FORK = "ignore:.*multi-threaded, use of fork.*:DeprecationWarning"


def batches(photos: Photos, task: str, rows: slice = slice(None)) -> list[torch.Tensor]:
    crops = Crops(photos, task, 16, 6, seed=3, rows=rows)
    return [t for step in (0, 7) for t in crops.degraded(crops[step], step) if t is not None]


@pytest.mark.parametrize("task", ["denoise", "real", "dejpeg", "demosaic"])
def test_a_batch_depends_on_its_number_alone(scenes: Path, task: str) -> None:
    found, _ = load_photos([scenes], 3, 24)
    crops = Crops(found, task, 16, 6, seed=3)
    crops.degraded(crops[5], 5)
    assert all(torch.equal(a, b) for a, b in zip(batches(found, task), batches(found, task)))
    assert not torch.equal(crops[0][0], crops[1][0])


@pytest.mark.parametrize("task", ["denoise", "real", "dejpeg", "demosaic"])
def test_processes_share_a_batch(scenes: Path, task: str) -> None:
    found, _ = load_photos([scenes], 3, 24)
    whole = batches(found, task)
    parts = zip(*(batches(found, task, rows) for rows in (slice(0, 2), slice(2, 6))))
    for together, part in zip(whole, parts):
        torch.testing.assert_close(torch.cat(part), together, rtol=0, atol=1e-7)


@pytest.mark.filterwarnings(FORK)
def test_workers_change_nothing(scenes: Path) -> None:
    crops = Crops(load_photos([scenes], 3, 24)[0], "dejpeg", 16, 4, seed=0)
    for (step, alone), (same, helped), _ in zip(crops.ahead(5), crops.ahead(5, workers=2), range(5)):
        assert step == same
        assert all(torch.equal(a, b) for a, b in zip(alone, helped))


def test_crops_are_whole_turns_of_the_photo() -> None:
    """Every crop is somewhere in the photo, in one of the eight orientations, and all of them occur."""
    pixels = np.arange(20 * 24, dtype=np.uint16).reshape(20, 24, 1)
    (clean,) = Crops(Photos([pixels], ["a"]), "demosaic", 16, 200, seed=0)[0]
    seen = set()
    for crop in clean[..., 0].numpy():
        down, right = int(crop[1, 0] - crop[0, 0]), int(crop[0, 1] - crop[0, 0])
        assert {abs(down), abs(right)} == {1, 24}
        top, left = divmod(int(crop.min()), 24)
        assert sorted(crop.flatten()) == sorted(pixels[top : top + 16, left : left + 16].flatten())
        seen.add((down, right, top, left))
    assert len({turn[:2] for turn in seen}) == 8
    assert {turn[2] for turn in seen} == set(range(5))
    assert {turn[3] for turn in seen} == set(range(9))


def test_gathered_crops_are_sliced_ones(scenes: Path) -> None:
    crops = Crops(load_photos([scenes], 3, 24)[0], "denoise", 16, 32, seed=0, rows=slice(8, 32))
    places = np.arange(32) % 4, np.arange(32), np.arange(32) + 9, np.arange(32) % 8
    assert torch.equal(crops._gather(*places), crops._slice(*places))


def test_workers_that_cannot_start_are_one_line(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where /dev/shm is full: then there is no room for a semaphore either."""

    def full(*arguments: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", full)
    crops = Crops(load_photos([scenes], 3, 24)[0], "dejpeg", 16, 4, seed=0)
    with pytest.raises(DaglError, match=r"`workers` 2: they cannot start .No space left.*: use `workers` 0"):
        next(crops.ahead(0, workers=2))


@pytest.mark.filterwarnings(FORK)
def test_workers_that_end_are_one_line(scenes: Path) -> None:
    crops = Crops(load_photos([scenes], 3, 24)[0], "dejpeg", 16, 4, seed=0)
    batches = crops.ahead(0, workers=2)
    next(batches)
    for worker in multiprocessing.active_children():
        worker.kill()
    with pytest.raises(DaglError, match=r"`workers` 2: one of them has ended.*: use `workers` 0"):
        list(itertools.islice(batches, 20))


@pytest.mark.filterwarnings(FORK)
def test_workers_that_were_told_to_stop_with_the_run_are_no_error(scenes: Path) -> None:
    crops = Crops(load_photos([scenes], 3, 24)[0], "dejpeg", 16, 4, seed=0)
    stop = threading.Event()
    batches = crops.ahead(0, workers=2, stop=stop)
    next(batches)
    stop.set()
    for worker in multiprocessing.active_children():
        worker.terminate()
    steps = list(itertools.islice(batches, 20))
    assert [step for step, _ in steps] == list(range(1, len(steps) + 1))
    assert torch.equal(steps[-1][1][1], crops[len(steps)][1])
    assert len(steps) < 20


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_workers_end_with_a_run_that_is_killed(photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = train_elsewhere(photos, run, task="dejpeg", workers=2, minutes=10.0, steps=None)
    try:
        while not (run / "log.jsonl").exists():
            assert process.poll() is None
            time.sleep(0.05)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while len(workers := children.read_text().split()) > 2:  # git is one while it is asked for the commit
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        process.kill()
        process.communicate()
    assert len(workers) == 2
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        time.sleep(0.05)
    with loop.alone(run):  # a worker would still have the folder's lock
        pass


def test_nothing_is_written_where_workers_cannot_start(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", full)
    with pytest.raises(DaglError, match="`workers` 0"):
        loop.train(run_config(photos, tmp_path / "run", task="dejpeg", workers=2))
    assert not (tmp_path / "run").exists()
