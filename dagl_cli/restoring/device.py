"""Where a network computes and how exactly, and what running out of memory looks like there."""

from __future__ import annotations

import torch

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
    """What a network computes in; weights and results stay float32. 'auto' is bf16 on CUDA and fp32 elsewhere."""
    auto = "bf16" if device.type == "cuda" else "fp32"
    return DTYPES[auto if precision == "auto" else precision]


def is_out_of_memory(error: BaseException) -> bool:
    """CUDA, MPS, cuDNN and the CPU allocator each say it in their own way; numpy raises MemoryError."""
    said = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, MemoryError) or any(words in str(error) for words in said)
