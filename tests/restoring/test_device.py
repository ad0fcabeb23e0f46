"""Devices, their memory and their number, as far as this holds without a GPU: what torch would say is given."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import dagl, picture, refused, tiny
from torch import Tensor

from dagl_cli.config import Options
from dagl_cli.errors import DaglError, UsageError
from dagl_cli.nn.model import DAGL
from dagl_cli.restoring import restorer as restoring
from dagl_cli.restoring.batch import Batch, Job
from dagl_cli.restoring.device import pick_device, pick_devices
from dagl_cli.restoring.file import FileRestorer
from dagl_cli.restoring.picture import Outcome
from dagl_cli.restoring.restorer import Forward, Restorer
from dagl_cli.restoring.sharing import shared
from dagl_cli.restoring.steps import Steps
from dagl_cli.restoring.tiling import one_ahead

pytestmark = pytest.mark.usefixtures("one_thread", "here")


def test_a_list_of_devices() -> None:
    assert pick_devices("all", lambda: 3) == ["cuda:0", "cuda:1", "cuda:2"]
    assert pick_devices("all", lambda: 0) == ["auto"]
    assert pick_devices("cuda:2,0") == ["cuda:2", "cuda:0"]
    for name in ("auto", "cuda", "cuda:1", "cpu"):
        assert pick_devices(name) == [name]
    with pytest.raises(UsageError, match="`device` cuda:0,1,0 names a GPU twice"):
        pick_devices("cuda:0,1,0")


def test_a_device_that_is_full() -> None:
    def out_of_memory(device: torch.device) -> None:
        raise torch.OutOfMemoryError("CUDA error: out of memory")

    with pytest.raises(UsageError, match="`device` cuda:1 has no free memory, other programs have it: end them"):
        pick_device("cuda:1", out_of_memory)
    with pytest.raises(UsageError, match="is not available on this machine"):
        pick_device("xpu")


def test_weights_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device answers, and the network finds no room there."""

    class Full(DAGL):
        def to(self, *arguments: Any, **more: Any) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB")

    monkeypatch.setattr(restoring, "pick_device", lambda name: torch.device("cuda", 0))
    with pytest.raises(UsageError, match="`device` cuda:0 has no free memory") as caught:
        Restorer(Full(tiny().config))
    assert caught.value.exit_code == 2
    monkeypatch.setattr(restoring, "pick_device", lambda name: torch.device("cpu"))
    with pytest.raises(torch.OutOfMemoryError):
        Restorer(Full(tiny().config))


class Room:
    """A device's memory, of which a tile takes `one`."""

    def __init__(self, free: int, one: int) -> None:
        self.bytes, self.one, self.measured = free, one, 0

    def free(self) -> int:
        return self.bytes

    def taken_by(self, run: Callable[[], object]) -> int:
        self.measured += 1
        run()
        return self.one


@pytest.mark.parametrize("tiling", ["blend", "chop"])
def test_tiles_in_batches_give_what_single_ones_give(tiling: str) -> None:
    torch.manual_seed(0)
    model = DAGL(tiny(graph=False).config).eval()
    x = torch.rand(1, 200, 180)
    options = Options(tile=64, overlap=8, tiling=tiling, device="cpu")
    expected = Restorer(model, options)(x, 25.0)
    restorer = Restorer(model, options)
    room = restorer.memory = Room(free=100, one=16)
    sizes: list[int] = []
    restorer.model.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    for _ in range(2):
        torch.testing.assert_close(restorer(x, 25.0), expected)
    assert max(sizes) == 5  # of 100 bytes a fifth stays free
    assert room.measured == 1
    room.bytes = 8
    sizes.clear()
    restorer(x, 25.0)
    assert set(sizes) == {1}


def test_out_of_memory_batches_shrink_before_tiles_do() -> None:
    said: list[str] = []
    model = tiny(shift=0.1, graph=False)
    restorer = Restorer(model, Options(tile=64, overlap=8, device="cpu"), warn=said.append)
    restorer.memory = Room(free=10**6, one=1)

    def full(module: object, inputs: tuple[Tensor, ...]) -> None:
        if len(inputs[0]) > 4:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    model.register_forward_pre_hook(full)
    x = torch.rand(1, 300, 300) / 2
    torch.testing.assert_close(restorer(x, 25.0), x + 0.1)
    assert (restorer.most, restorer.tile, said) == (4, 64, [])


def test_the_next_batch_is_begun_before_one_is_waited_for() -> None:
    told: list[str] = []

    def begun() -> Any:
        for number in range(3):
            told.append(f"begin {number}")
            yield number

    for number in one_ahead(begun()):
        told.append(f"wait {number}")
    assert told == ["begin 0", "begin 1", "wait 0", "begin 2", "wait 1", "wait 2"]


@pytest.mark.parametrize("faster", [True, False])
def test_a_network_is_compiled_once_it_pays(faster: bool) -> None:
    model = tiny(shift=0.1, graph=False)
    ran: list[tuple[int, ...]] = []

    def compiled(network: DAGL) -> Callable[[Tensor, Tensor], Tensor]:
        def run(batch: Tensor, sigma: Tensor) -> Tensor:
            ran.append(tuple(batch.shape))
            assert sigma.shape == (len(batch),)
            return network(batch, sigma)

        return run

    def measured(candidates: dict[str, Callable[[], object]]) -> dict[str, float]:
        for candidate in candidates.values():
            candidate()
        return {"compiled": 1.0 if faster else 3.0, "plain": 2.0}

    forward = Forward(model, compiled, measured)
    often, seldom = torch.rand(4, 1, 8, 8), torch.rand(1, 1, 8, 6)
    for batch in (often, seldom, often):
        torch.testing.assert_close(forward(batch, 25.0), batch + 0.1)
    forward.worked(1.0)
    forward(often, 25.0)
    assert not ran
    forward.worked(100.0)
    for batch in (often, seldom):
        torch.testing.assert_close(forward(batch, 10.0), batch + 0.1)
    assert ran == [(4, 1, 8, 8)] * (3 if faster else 2), "it compiles, is measured, and is used if it is faster"
    forward.worked(100.0)
    torch.testing.assert_close(forward(often, 10.0), often + 0.1)
    assert len(ran) == (4 if faster else 2)


def test_a_machine_that_cannot_compile() -> None:
    def compiled(network: DAGL) -> Callable[[Tensor, Tensor], Tensor]:
        def run(batch: Tensor, sigma: Tensor) -> Tensor:
            raise RuntimeError("Failed to find C compiler")

        return run

    forward = Forward(tiny(shift=0.1, graph=False), compiled)
    batch = torch.rand(1, 1, 8, 8)
    forward(batch, 25.0)
    forward.worked(100.0)
    torch.testing.assert_close(forward(batch, 25.0), batch + 0.1)
    forward.worked(100.0)
    torch.testing.assert_close(forward(batch, 25.0), batch + 0.1)


# --- a folder for several devices ---


def batches(count: int, files: int) -> list[Batch]:
    sources = [picture(f"in/{number}.png") for number in range(files)]
    jobs = [Job(source, source.parents[1] / "out" / source.name, str(source)) for source in sources]
    return [Batch(FileRestorer("dejpeg", force=True, options=Options(device="cpu")), jobs) for _ in range(count)]


def test_devices_share_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them is slow: the other does the rest, and every file is done once."""
    import threading

    both = batches(2, 8)
    slow, others_done = both[0].restorer, threading.Event()
    steps = FileRestorer.steps

    def waiting(self: FileRestorer, *arguments: Any, **more: Any) -> Steps[Outcome]:
        if self is slow:
            yield lambda: others_done.wait(60)
        return (yield from steps(self, *arguments, **more))

    monkeypatch.setattr(FileRestorer, "steps", waiting)
    done = []
    for job, outcome in shared(both):
        done.append((job.name, outcome.status))
        if len(done) == 6:  # of eight: a device begins one file ahead
            others_done.set()
    assert sorted(done) == [(f"in/{number}.png", "restored") for number in range(8)]
    assert threading.active_count() == 1 or not any("work" in thread.name for thread in threading.enumerate())


def test_what_concerns_all_stops_all_devices() -> None:
    both = batches(2, 8)
    both[1].restorer.model = "nothing"
    with pytest.raises(DaglError, match="nothing"):
        list(shared(both))


def test_devices_on_the_command_line() -> None:
    picture("in/a.png")
    picture("in/b.png")
    assert dagl("dejpeg", "in", "--device", "all")[1].endswith("2 restored\n")
    assert "names a GPU twice" in refused("dejpeg", "in", "--device", "cuda:1,1", "-o", "out")
    if not torch.cuda.is_available():
        message = refused("dejpeg", "in", "--device", "cuda:0,1", "-o", "out")
        assert re.search(r"--device cuda:[01] is not available", message)
