"""Where a network computes and how exactly, and what running out of memory looks like there."""

from __future__ import annotations

import functools
import math
import re
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UsageError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
HALF_LEVEL = 0.5 / 255
"""By more no value of 8 bits may change for a faster precision, but for one in a thousand."""
MOST_AT_ONCE = 32
"""Tiles in a batch: more make no GPU faster."""


def _reach(device: torch.device) -> None:
    torch.empty(1, device=device)


def pick_device(name: str, reach: Callable[[torch.device], None] = _reach) -> torch.device:
    """'auto' is CUDA, then MPS, then the CPU. Raises UsageError for a device that is not there, or full.

    reach: takes a little of a device's memory, or raises what torch does.
    """
    wanted = name
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type in ("cpu", "cuda", "mps"):
            reach(device)
            return device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        if is_out_of_memory(error):
            if wanted == "auto":
                return torch.device("cpu")
            raise full(name) from None
    raise UsageError(f"`device` {name} is not available on this machine: use `device` auto or cpu")


def full(device: object) -> UsageError:
    """The error for a device of which other programs have all memory."""
    return UsageError(f"`device` {device} has no free memory, other programs have it: end them, or use `device` cpu")


def pick_devices(name: str, gpus: Callable[[], int] = torch.cuda.device_count) -> list[str]:
    """The devices that share a folder: 'cuda:0,1' are two, 'all' every GPU of CUDA, or what 'auto' is without one.

    Raises UsageError for one that is there twice.
    """
    if name == "all":
        return [f"cuda:{number}" for number in range(gpus())] or ["auto"]
    if not re.fullmatch(r"cuda:\d+(,\d+)+", name):
        return [name]
    numbers = [int(number) for number in name.removeprefix("cuda:").split(",")]
    if len(set(numbers)) < len(numbers):
        raise UsageError(f"`device` {name} names a GPU twice")
    return [f"cuda:{number}" for number in numbers]


class Memory(Protocol):
    """What there is of a device's memory, in bytes."""

    def free(self) -> int: ...

    def taken_by(self, run: Callable[[], object]) -> int:
        """At most, while it runs."""


class CudaMemory:
    """`Memory` of a GPU. Other programs' share is seen, and what torch keeps for later counts as free."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def free(self) -> int:
        kept = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return torch.cuda.mem_get_info(self.device)[0] + kept

    def taken_by(self, run: Callable[[], object]) -> int:
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        run()
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device) - before


def memory_of(device: torch.device) -> Memory | None:
    """None where tiles are restored one after the other: more at once make no CPU faster."""
    return CudaMemory(device) if device.type == "cuda" else None


def sent(batch: Tensor, device: torch.device) -> Tensor:
    """(B, C, H, W) from the CPU on a device, channels last; to a GPU without waiting, from pinned memory."""
    batch = batch.contiguous(memory_format=torch.channels_last)
    if device.type != "cuda":
        return batch.to(device)
    return batch.pin_memory().to(device, non_blocking=True)


def fetched(batch: Tensor, dtype: torch.dtype) -> Callable[[], Tensor]:
    """Begins to copy a batch to the CPU; what it returns waits for that. A GPU computes the next batch meanwhile."""
    if batch.device.type != "cuda":
        here = batch.to("cpu", dtype)
        return lambda: here
    host = torch.empty(batch.shape, dtype=batch.dtype, pin_memory=True)
    stream = torch.cuda.Stream(batch.device)
    stream.wait_stream(torch.cuda.current_stream(batch.device))
    with torch.cuda.stream(stream):
        host.copy_(batch, non_blocking=True)
    batch.record_stream(stream)
    copied = stream.record_event()

    def wait() -> Tensor:
        copied.synchronize()
        return host.to(dtype)

    return wait


def pick_dtype(precision: str, device: torch.device) -> torch.dtype:
    """What a network computes in; weights and results stay float32. 'auto' is bf16 on CUDA and fp32 elsewhere: where
    `bfloat16_is_faster`, a `Restorer` may decide otherwise."""
    auto = "bf16" if device.type == "cuda" else "fp32"
    return DTYPES[auto if precision == "auto" else precision]


def has_bfloat16() -> bool:
    """Whether the CPU has instructions for it: AMX, AVX-512 BF16, ARM's BF16."""
    return any(found is True and "bf16" in name for name, found in torch.cpu.get_capabilities().items())


@functools.cache
def bfloat16_is_faster() -> bool:
    """Whether the CPU has its instructions and convolves with them in at most 0.8 of the time that float32 takes, which
    is measured."""
    if not has_bfloat16():
        return False
    image, kernel = (torch.rand(shape).contiguous(memory_format=torch.channels_last)
                     for shape in ((1, 64, 64, 64), (64, 64, 3, 3)))  # fmt: skip

    def convolve(dtype: torch.dtype) -> None:
        with torch.inference_mode():
            F.conv2d(image.to(dtype), kernel.to(dtype), padding=1)

    spent = seconds({name: functools.partial(convolve, DTYPES[name]) for name in ("fp32", "bf16")})
    return spent["bf16"] < 0.8 * spent["fp32"]


def seconds(candidates: Mapping[str, Callable[[], object]], turns: int = 5) -> dict[str, float]:
    """What each takes: by turns, and the best of each counts, so that other work on the machine does not decide."""
    best = dict.fromkeys(candidates, math.inf)
    for _ in range(turns):
        for name, candidate in candidates.items():
            start = time.perf_counter()
            candidate()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def is_out_of_memory(error: BaseException) -> bool:
    """CUDA, MPS, cuDNN and the CPU allocator each say it in their own way; numpy raises MemoryError."""
    said = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, MemoryError) or any(words in str(error) for words in said)
