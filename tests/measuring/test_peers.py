"""Other methods: the classic ones do what they are for, and checkpoints are what spandrel says, or refused."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from helpers import shared
from torch import Tensor

from dagl_cli import degrade
from dagl_cli.errors import DaglError, UsageError, WeightsError
from dagl_cli.measuring import datasets, peers
from dagl_cli.measuring.cases import Case
from dagl_cli.measuring.measure import prepared
from dagl_cli.measuring.metrics import psnr
from dagl_cli.restoring import tiling


def smooth(channels: int, size: int = 48) -> Tensor:
    """(C, size, size) in [0, 1]: gentle waves with one edge."""
    y, x = torch.meshgrid(torch.linspace(0, 3, size), torch.linspace(0, 2, size), indexing="ij")
    waves = [0.5 + 0.2 * torch.sin(x + c) * torch.cos(y) + 0.2 * (x > 1) for c in range(channels)]
    return torch.stack(waves).float()


def dncnn(mode: str = "DnCNN", channels: int = 1) -> dict[str, Tensor]:
    """Weights of a tiny network: DnCNN returns its input, FDnCNN the noise level, which is its last input channel."""
    flexible = mode == "FDnCNN"
    state: dict[str, Tensor] = {}
    for i in range(9):
        into = (channels + 1 if flexible else channels) if i == 0 else 4
        weight = torch.zeros(channels if i == 8 else 4, into, 3, 3)
        if flexible:
            weight[:, into - 1 if i == 0 else 0, 1, 1] = 1
        state |= {f"model.{2 * i}.weight": weight, f"model.{2 * i}.bias": torch.zeros(len(weight))}
    return state


Save = Callable[..., Path]


class Command:
    """Makes a file when it is unpickled as pickle would have it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["nlm", "tv"])
def test_denoisers(name: str, channels: int) -> None:
    clean = smooth(channels)
    noisy = degrade.paper_noise(clean[None], 25)[0]
    before = noisy.clone()
    run = peers.peer(name, "denoise").run
    restored = run(noisy, 25)
    assert restored.shape == clean.shape
    assert restored.dtype == torch.float32
    assert psnr(restored, clean) > psnr(noisy.clamp(0, 1), clean) + 8
    assert psnr(run(noisy, None), clean) == pytest.approx(psnr(restored, clean), abs=1), "sigma is estimated"
    assert torch.equal(noisy, before)


def test_demosaicing() -> None:
    clean = smooth(3)
    mosaic = degrade.bayer_mosaic(clean[None])[0]
    if find_spec("colour_demosaicing") is None:
        pytest.skip("needs colour-demosaicing: pip install 'dagl[compare]'")
    for name, least in (("malvar", 34), ("menon", 50)):
        restored = peers.peer(name, "demosaic").run(mosaic, None)
        assert restored.shape == clean.shape
        assert psnr(restored, clean) > least
    assert torch.equal(peers.peer("input", "demosaic").run(mosaic, None), mosaic)


def test_the_input_is_clipped() -> None:
    x = torch.tensor([[[-0.5, 0.5, 1.5]]])
    for task in peers.PEERS["input"].tasks:
        assert peers.peer("input", task).run(x, 1.0).tolist() == [[[0, 0.5, 1]]]


def test_wrong_names_and_tasks() -> None:
    with pytest.raises(UsageError, match=r"^`compare` bm4d is unknown: choose one of input, nlm, "):
        peers.peer("bm4d", "denoise")
    with pytest.raises(
        UsageError, match=r"`compare` menon is for demosaic, not for denoise: choose input, nlm, tv, bm3d$"
    ):
        peers.peer("menon", "denoise")


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("colour_demosaicing", "spandrel", "bm3d"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DaglError, match=r"^`compare`: malvar and menon need .*: pip install 'dagl\[compare\]'$"):
        peers.peer("malvar", "demosaic")
    with pytest.raises(DaglError, match=r"^`compare`: bm3d needs .* non-commercial use only: pip install bm3d$"):
        peers.peer("bm3d", "denoise")
    with pytest.raises(DaglError, match=r"^`compare`: checkpoints need spandrel.*: pip install 'dagl\[compare\]'$"):
        peers.checkpoint(Path(__file__), "denoise", 1)


# --- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    if find_spec("spandrel") is None:
        pytest.skip("needs spandrel: pip install 'dagl[compare]'")

    def write(content: Any, name: str = "net.pth") -> Path:
        path = tmp_path / name
        if path.suffix == ".safetensors":
            safetensors.torch.save_file(content, path)
        else:
            torch.save(content, path)
        return path

    return write


@pytest.mark.parametrize("name", ["net.pth", "net.pt", "net.safetensors"])
def test_a_checkpoint_is_recognised(save: Save, name: str) -> None:
    method = peers.checkpoint(save(dncnn(channels=3), name), "denoise", 3)
    assert method.summary == "DnCNN (4nc, 9nb, 3 channels), loaded by spandrel"
    assert torch.equal(method.run(smooth(3), 25), smooth(3))


def test_large_images_go_in_tiles(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "TILE", 32)
    monkeypatch.setattr(peers, "OVERLAP", 8)
    x = smooth(1, 60)
    assert torch.allclose(peers.checkpoint(save({"params": dncnn()}), "dejpeg", 1).run(x, 10), x, atol=1e-6)


def test_networks_that_take_a_noise_level_get_it(save: Save) -> None:
    method = peers.checkpoint(save(dncnn("FDnCNN")), "denoise", 1)
    for sigma in (50, 15, 5):
        assert torch.allclose(method.run(smooth(1), sigma), torch.tensor(sigma / 255))
    assert torch.allclose(method.run(smooth(1), None), torch.tensor(15 / 255)), "spandrel's own level"


def test_a_network_that_fails_is_one_line(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    method = peers.checkpoint(save({"params": dncnn()}), "dejpeg", 1)

    def full(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 9 GiB")

    monkeypatch.setattr(tiling, "overlap_blend", full)
    with pytest.raises(DaglError, match=r"^`compare` .*net\.pth: CUDA out of memory\. Tried to allocate 9 GiB$"):
        method.run(smooth(1), 10)


def test_a_pickle_runs_no_code(save: Save, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    path = save({"model.0.weight": Command(touched)})
    with pytest.raises(WeightsError, match=r"net\.pth: it is damaged, or holds more than weights .*\.safetensors$"):
        peers.checkpoint(path, "denoise", 1)
    path.write_bytes(pickle.dumps(Command(touched)))
    with pytest.raises(WeightsError, match="holds more than weights"):
        peers.checkpoint(path, "denoise", 1)
    assert not touched.exists()
    pickle.loads(path.read_bytes())
    assert touched.exists(), "the pickle is one that would have done harm"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": torch.zeros(1)}, "spandrel finds no architecture"),
        ([torch.zeros(1)], "no state_dict"),
        ({}, "spandrel finds no architecture"),
        ({1: 2}, "spandrel finds no architecture"),
        (dncnn(channels=3), r"DnCNN \(4nc, 9nb, 3 channels\) is for colour images, these are gray"),
    ],
)
def test_what_does_not_fit_is_refused(save: Save, content: object, message: str) -> None:
    with pytest.raises(WeightsError, match=f"^`compare` .*net.pth: .*{message}[^\n]*$"):
        peers.checkpoint(save(content), "denoise", 1)


@pytest.mark.parametrize("name", ["net.pth", "net.pt", "net.ckpt", "net.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\3\4 broken", b"\x80\x04N."])
def test_damaged_files_are_refused(save: Save, tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=r"^`compare` .*net\.[a-z]+: [^\n]*$"):
        peers.checkpoint(tmp_path / name, "denoise", 1)


def test_published_dncnn(save: Save) -> None:
    """Its first image of Set12 as measured; the means of the sets are 30.42 (Set12) and 29.23 (BSD68)."""
    method = peers.checkpoint(shared("peers/dncnn_25.pth"), "denoise", 1)
    assert method.summary == "DnCNN (64nc, 17nb, 1 channel), loaded by spandrel"
    case = Case(datasets.dataset("Set12"), "denoise", 25)
    clean, noisy = prepared(case, datasets.load(case.dataset, case.samples()[0], shared("testsets")))
    assert psnr(method.run(noisy, 25), clean) == pytest.approx(30.0719, abs=0.005)
