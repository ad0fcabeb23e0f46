"""Signals, and several processes."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from helpers import averaged, run_config, same_weights, train_elsewhere

from dagl_cli.store import weights
from dagl_cli.training.loop import train
from dagl_cli.training.world import STOPS, processes, stop_signals


@pytest.mark.parametrize("number", STOPS)
def test_a_signal_saves_the_step_at_hand(photos: Path, tmp_path: Path, number: int) -> None:
    train(run_config(photos, tmp_path / "whole"))
    part = run_config(photos, tmp_path / "part", save_minutes=1e6, log_minutes=1e6)
    former = signal.signal(number, signal.default_int_handler)  # nohup may have it ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            train(part, progress=lambda step, done: os.kill(os.getpid(), number) if step == 4 else None)
    finally:
        signal.signal(number, former)
    assert weights.describe(part.output / "model.safetensors")[1]["step"] == 4
    train(part, resume=True)
    assert same_weights(tmp_path / "whole", part.output)


def test_two_processes_are_one(photos: Path, tmp_path: Path) -> None:
    """What torchrun starts: two processes over gloo, each with half of every batch."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    both = [
        train_elsewhere(photos, tmp_path / "two", env=world | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]
    assert [(process.communicate(timeout=60)[1], process.returncode) for process in both] == [("", 0)] * 2
    train(run_config(photos, tmp_path / "one"))
    for name, value in averaged(tmp_path / "one").items():
        torch.testing.assert_close(averaged(tmp_path / "two")[name], value, rtol=1e-4, atol=1e-6)
    assert weights.describe(tmp_path / "two/model.safetensors")[1]["processes"] == 2


def test_who_has_joined_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A series joins once: groups that part and meet again find what the former ones left with torchrun."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    dist.init_process_group("gloo", init_method=(tmp_path / "meeting").as_uri(), rank=0, world_size=1)
    try:
        for _ in range(2):
            with processes("cpu") as world:
                assert (world.rank, world.size) == (0, 2)
        assert dist.is_initialized()
    finally:
        dist.destroy_process_group()


def test_what_was_ignored_stays_ignored() -> None:
    """nohup starts a program with SIGHUP ignored, so that it outlives its terminal."""
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.is_set()
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.is_set()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, former)
