"""What several test files need: shared data, tiny weights, the released network, and `dagl` run in this process."""

from __future__ import annotations

import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any, TypeVar

import numpy as np
import PIL.Image
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from typer.testing import CliRunner

from dagl_cli.cli import app
from dagl_cli.config import TASKS, ModelConfig
from dagl_cli.nn.model import DAGL
from dagl_cli.restoring.file import FileRestorer
from dagl_cli.restoring.picture import Outcome
from dagl_cli.restoring.steps import Steps
from dagl_cli.store import weights
from dagl_cli.store.release import convert_released, released_config
from dagl_cli.training.presets import TrainConfig

T = TypeVar("T")
R = TypeVar("R")
ROOT = Path(__file__).parents[1]
DATA = ROOT / "tests/data"
SHIFT = 10
"""What the weights of the fixture `bundle` add to every level."""
RELEASES = {"denoise": "DN_Gray", "real": "DN_Real", "demosaic": "Demosaic", "dejpeg": "DN_Gray"}


def shared_root() -> Path:
    """Where the shared data is looked for: in $DAGL_SHARED, then beside the repository in ../shared."""
    return Path(os.environ.get("DAGL_SHARED") or ROOT.parent / "shared")


def shared(path: str) -> Path:
    """A file or folder of the shared data; skips the calling test if it is absent."""
    found = shared_root() / path
    if not found.exists():
        pytest.skip(f"needs {found}: set DAGL_SHARED to the folder of the shared reference data")
    return found


def parity(name: str) -> Path:
    """A file of the parity data: the small ones are here, so that every machine checks them, the large ones shared."""
    here = ROOT / "tests/data/parity" / name
    return here if here.exists() else shared(f"parity/{name}")


def tiny(
    task: str = "denoise", channels: int = 1, shift: float = 0.0, graph: bool | str = True, **changes: object
) -> DAGL:
    """A network that adds `shift` to every value, whatever the image: its other residuals are zero.

    graph: whether it has one stage of one head, or which kind of these.
    """
    settings: dict[str, object] = dict(
        task=task, channels=channels, noise_map=TASKS[task].noise_map, scale=2, features=8, blocks=2, head_features=4,
        embedding=4, key_stride=2, stages=int(bool(graph)), heads=int(bool(graph)),
        graph=graph if isinstance(graph, str) else "released",
    )  # fmt: skip
    model = DAGL(ModelConfig(**(settings | changes))).eval()  # type: ignore[arg-type]
    torch.nn.init.zeros_(model.conv_out.weight)
    torch.nn.init.constant_(model.conv_out.get_parameter("bias"), shift)
    return model


def saved(path: Path, model: DAGL, **info: object) -> Path:
    weights.save(path, model.state_dict(), model.config, info)
    return path


def draw(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """The weights of the parity data: the rule of tests/data/parity/README.md."""
    random = np.random.RandomState(2021)
    weights = {}
    for key in sorted(shapes):
        shape = tuple(shapes[key])
        if key == "add_mean.weight":
            value = np.eye(3).reshape(3, 3, 1, 1)
        elif key == "add_mean.bias":
            value = np.array([0.4488, 0.4371, 0.4040])
        elif shape == (1,) and not key.endswith("bias"):
            value = np.full(shape, 0.25)
        elif len(shape) >= 2:
            value = random.standard_normal(shape) * (0.6 / np.sqrt(np.prod(shape[1:])))
        else:
            value = random.standard_normal(shape) * 0.05
        weights[key] = torch.from_numpy(value + 1.0 if key.endswith("thr_conv.bias") else value)
    return weights


def checkpoint(task: str) -> dict[str, torch.Tensor]:
    return draw(json.loads(parity("state_dicts.json").read_text())[RELEASES[task]]["state_dict"])


def network(task: str) -> DAGL:
    model = DAGL(released_config(task)).double()
    model.load_state_dict(convert_released(checkpoint(task), model.config))
    return model.eval()


def case(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    with np.load(parity(f"{name}.npz")) as file:
        return torch.from_numpy(file["input"]), torch.from_numpy(file["output"])


def dagl(*arguments: object, code: int = 0, stdin: bytes | None = None) -> tuple[bytes, str]:
    """(stdout, stderr) of a command that must end with this exit code, and without a traceback."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], input=stdin)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.stderr
    return result.stdout_bytes, result.stderr


def refused(*arguments: object, code: int = 2) -> str:
    """The one line of a command that does nothing else."""
    before = tree()
    stdout, stderr = dagl(*arguments, code=code)
    assert stdout == b""
    assert stderr.startswith("Error: ")
    assert stderr.count("\n") == 1
    assert tree() == before
    return stderr


def noting(notes: list[T], note: T, result: R) -> R:
    """For a lambda that stands in for a function: `result`, and a note of the call."""
    notes.append(note)
    return result


def tree() -> dict[str, bytes]:
    """Every file and folder below the current one."""
    return {str(p): p.read_bytes() if p.is_file() else b"" for p in sorted(Path().rglob("*"))}


# --- tiny training runs ----------------------------------------------------------------------------------------------

TINY_NETWORK = dict(features=8, blocks=2, stages=1, heads=1, head_features=4, embedding=4)
TRAIN = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from helpers import run_config
from dagl_cli.training.loop import train
train(run_config(Path(sys.argv[1]), Path(sys.argv[2]), **eval(sys.argv[3])))
"""
"""What `train_elsewhere` runs."""


def small_photos(folder: Path) -> Path:
    """Nine smooth colour photographs to train on, 64x72, one of which has two crops."""
    folder.mkdir()
    y, x = np.mgrid[0:64, 0:72] / 64
    for i, name in enumerate(["a_0", "a_1", *"bcdefghi"]):
        pixels = np.stack([np.sin(3 * x + i), np.cos(4 * y * x + i), x - y], -1) * 100 + 128
        Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8)).save(folder / f"{name}.png")
    return folder


def scene(seed: int, height: int = 64, width: int = 72) -> np.ndarray:
    """A smooth colour picture, uint8 (H, W, 3), that no other seed gives."""
    rough = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8)
    return np.asarray(Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC))


def run_config(photos: Path, output: Path, **changes: object) -> TrainConfig:
    """Six steps of a tiny network on a few photos, with a checkpoint after each."""
    settings: dict[str, object] = dict(
        task="denoise", data=[photos], output=output, channels=1, variant="half", model=TINY_NETWORK, steps=6, batch=4,
        crop=16, precision="fp32", device="cpu", threads=1, warmup=2, save_minutes=0.0, log_minutes=0.0,
    )  # fmt: skip
    return TrainConfig(**(settings | changes))  # type: ignore[arg-type]


def train_elsewhere(photos: Path, output: Path, *, env: dict[str, str] | None = None, **changes: object) -> Popen[str]:
    """The same in a process of its own, which has its own group; warnings are errors but those about forks."""
    arguments = ["-W", "error", "-W", "ignore:.*use of fork.*:DeprecationWarning", "-c", TRAIN]
    return Popen(
        [sys.executable, *arguments, str(photos), str(output), repr(changes)],
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"} | (env or {}),
        stderr=PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def averaged(output: Path) -> dict[str, torch.Tensor]:
    """The averaged weights of a run, not rounded to float16."""
    average: dict[str, torch.Tensor] = torch.load(output / "state.pt", weights_only=True)["average"]
    return average


def interrupted_after(first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle of the file that comes after the one whose result is `first`."""
    steps = FileRestorer.steps

    def stopping(self: FileRestorer, source: Path, target: Path, **how: Any) -> Steps[Outcome]:
        if target == first:
            return (yield from steps(self, source, target, **how))
        while not first.exists():
            yield partial(time.sleep, 0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(FileRestorer, "steps", stopping)


def same_weights(a: Path, b: Path) -> bool:
    """Of two runs, bit for bit."""
    return all(torch.equal(v, averaged(b)[k]) for k, v in averaged(a).items())


def log_of(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


class TensorsMade(TorchDispatchMode):
    """Sees every tensor that an operator gives back inside of it."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[torch.Size, int]] = []
        """Shape and bytes of each."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        found = (t for t in (out if isinstance(out, (tuple, list)) else (out,)) if isinstance(t, torch.Tensor))
        self.sizes += [(t.shape, t.numel() * t.element_size()) for t in found]
        return out


# --- tiny test sets --------------------------------------------------------------------------------------------------

TOY_SIZES = [(48, 40), (32, 56), (40, 40)]
"""Of the images of the fixture `sets`."""


def toy_picture(height: int, width: int, channels: int) -> np.ndarray:
    """Waves, (H, W, C) uint8."""
    y, x, c = np.mgrid[:height, :width, :channels]
    return (127 + 90 * np.sin(x / 5 + c) * np.cos(y / 7)).astype(np.uint8)


def benchmark(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["benchmark", *map(str, arguments)])


def measured_rows(result: Any) -> list[dict[str, Any]]:
    """The rows that a successful `benchmark(..., "--json")` printed."""
    assert result.exit_code == 0, result.stderr
    return list(json.loads(result.stdout)["rows"])


def picture(path: str | Path, value: int = 100, size: tuple[int, int] = (8, 6)) -> Path:
    """A gray image of one level."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.full(size, value, np.uint8)).save(path)
    return path
