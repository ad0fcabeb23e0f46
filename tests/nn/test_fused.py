"""The Triton kernels equal the equations. They run in Triton's interpreter, so no GPU is needed."""

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
import torch
from helpers import ROOT

from dagl_cli.nn import fused as module
from dagl_cli.nn.fused import usable

CHECK = """
import torch
from dagl_cli.nn.attention import reference
from dagl_cli.nn.fused import fused

torch.manual_seed(0)
for height, width, channels, embedding, key_stride, dtype, budget in [
    (16, 16, 16, 20, 1, torch.float32, 2**28),
    (9, 14, 3, 33, 2, torch.float32, 1),
    (3, 2, 2, 40, 1, torch.float32, 2**28),
    (20, 12, 16, 196, 1, torch.float32, 2**28),
    (17, 13, 4, 20, 4, torch.float16, 1),
]:
    queries, keys = (-(-height // step) * -(-width // step) for step in (4, key_stride))
    q, k = (2 * torch.randn(2, 3, nodes, embedding).relu() / embedding**0.5 for nodes in (queries, keys))
    v = torch.randn(2, 3, channels, height, width).to(dtype)
    inputs = q, k, v, 1 + 0.3 * torch.randn(2, 3, queries), 0.3 * torch.randn(2, 3, queries)
    shape = dict(patch=7, stride=4, key_stride=key_stride)
    expected = reference(*inputs, graph="released", **shape)
    tolerance = 2e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(fused(*inputs, **shape, budget=budget), expected, atol=tolerance, rtol=tolerance)
    alone = [t.flatten(0, 1)[:1, None] for t in inputs]
    pruned = fused(alone[0], alone[1], alone[2], alone[3], alone[4] - 1e6, **shape)
    assert not pruned.any(), "edges below the threshold carry something"
print("equal")
"""


def test_the_kernels_equal_the_reference() -> None:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("needs triton, which comes with torch for CUDA")
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, "-c", CHECK], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert ran.stdout == "equal\n", ran.stderr


def test_without_a_gpu_torch_does_it() -> None:
    assert not usable(torch.zeros(1, 1, 2, 8, 8), "released")


def test_kernels_that_are_slower_or_do_not_work_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: "triton")
    calls: list[str] = []

    def form(name: str, seconds: float) -> Callable[..., torch.Tensor]:
        def run(*inputs: torch.Tensor, **shape: int) -> torch.Tensor:
            calls.append(name)
            time.sleep(seconds)
            return inputs[0]

        return run

    for seconds, expected in ((0.0, True), (0.05, False)):
        monkeypatch.setattr(module, "fused", form("kernels", seconds))
        assert module.faster(form("torch", 0.02), torch.float16, torch.device("cpu"), tries=1) is expected
    assert calls == ["kernels", "kernels", "torch", "torch"] * 2

    def broken(*inputs: torch.Tensor, **shape: int) -> torch.Tensor:
        raise RuntimeError("no C compiler")

    monkeypatch.setattr(module, "fused", broken)
    assert not module.faster(form("torch", 0), torch.float16, torch.device("cpu"))
