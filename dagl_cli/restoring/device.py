"""Where a network computes and how exactly, and what running out of memory looks like there."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F

from ..errors import UsageError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str) -> torch.device:
    """'auto' is CUDA, then MPS, then the CPU. Raises UsageError for a device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type in ("cpu", "cuda", "mps"):
            torch.empty(1, device=device)
            return device
    except (RuntimeError, AssertionError, NotImplementedError):
        pass
    raise UsageError(f"`device` {name} is not available on this machine: use `device` auto or cpu")


def pick_dtype(precision: str, device: torch.device) -> torch.dtype:
    """What a network computes in; weights and results stay float32. 'auto' is bf16 on CUDA and fp32 elsewhere: where
    `bfloat16_is_faster`, a `Restorer` may decide otherwise."""
    auto = "bf16" if device.type == "cuda" else "fp32"
    return DTYPES[auto if precision == "auto" else precision]


@functools.cache
def bfloat16_is_faster() -> bool:
    """Whether the CPU has instructions for bfloat16 (AMX, AVX-512 BF16, ARM's BF16) and convolves with them in at most
    0.8 of the time that float32 takes, which is measured."""
    if not any(found is True and "bf16" in name for name, found in torch.cpu.get_capabilities().items()):
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
