"""The processes of a run, and the signals that end it."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from ..errors import UsageError
from ..restoring.device import pick_device

STOPS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Ctrl-C, a polite kill, a closed terminal (which Windows does not tell of): the run is saved, and ends."""


@dataclass
class World:
    """The processes of a run, as torchrun's environment variables describe them; one without them."""

    rank: int
    size: int
    device: torch.device

    def agree(self, text: str) -> str:
        """The first process's text."""
        if self.size == 1:
            return text
        box = [text]
        dist.broadcast_object_list(box, device=torch.device("cpu"))
        return box[0]

    def agree_on_time(self, seconds: float, stop: bool) -> tuple[float, bool]:
        """The first process's clock and whether to stop, so that all have the same learning rate and end together."""
        if self.size == 1:
            return seconds, stop
        box = torch.tensor([seconds, stop], dtype=torch.float64)
        dist.broadcast(box, 0)  # over gloo, on the CPU: no wait for the GPU
        return float(box[0]), bool(box[1])

    def wait(self) -> None:
        if self.size > 1:
            dist.broadcast(torch.zeros(1), 0)
            self.agree_on_time(0.0, False)


@contextmanager
def processes(device: str) -> Iterator[World]:
    """Joins the other processes of torchrun, if there are any; inside of itself, whoever has joined already."""
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        yield World(0, 1, pick_device(device))
        return
    where = pick_device(device)
    if where.type == "cuda":
        if (local := int(os.environ["LOCAL_RANK"])) >= torch.cuda.device_count():
            raise UsageError(f"torchrun starts more processes than the {torch.cuda.device_count()} GPUs here")
        where = torch.device("cuda", local)
        torch.cuda.set_device(where)
    if dist.is_initialized():
        yield World(dist.get_rank(), size, where)
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if where.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), size, where)
    finally:
        dist.destroy_process_group()
        # DistributedDataParallel lies in a cycle and holds the group, whose threads abort if they outlive Python
        gc.collect()


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that the first of `STOPS` sets, so that the step at hand is finished. The second one stops at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    former = {number: signal.getsignal(number) for number in STOPS}
    for number, handler in former.items():
        if number == signal.SIGINT or handler != signal.SIG_IGN:  # nohup has SIGHUP ignored: so it stays
            signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
