"""Weight files: what is saved is loaded, and whatever does not fit is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from dagl_cli import weights
from dagl_cli.cli import app
from dagl_cli.config import TASKS, ModelConfig
from dagl_cli.errors import WeightsError
from dagl_cli.model import DAGL


def tiny(task: str = "denoise", channels: int = 1, shift: float = 0.0, graph: bool = True, **changes: object) -> DAGL:
    """A network that adds `shift` to every value, whatever the image: its other residuals are zero."""
    settings: dict[str, object] = dict(
        task=task, channels=channels, noise_map=TASKS[task].noise_map, scale=2, features=8, blocks=2, head_features=4,
        embedding=4, key_stride=2, stages=int(graph), heads=int(graph),
    )  # fmt: skip
    model = DAGL(ModelConfig(**(settings | changes))).eval()  # type: ignore[arg-type]
    torch.nn.init.zeros_(model.conv_out.weight)
    torch.nn.init.constant_(model.conv_out.bias, shift)
    return model


def saved(path: Path, model: DAGL, **info: object) -> Path:
    weights.save(path, model.state_dict(), model.config, info)
    return path


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    model = DAGL(tiny(channels=3).config)
    path = saved(tmp_path / "a.safetensors", model, step=7, training={"variant": "lite"})
    loaded, info = weights.load(path)
    assert loaded.config == model.config
    assert info == {"step": 7, "training": {"variant": "lite"}}
    assert not loaded.training
    state = model.state_dict()
    assert loaded.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())
    assert weights.describe(path) == (model.config, info, sum(p.numel() for p in model.parameters()))
    assert list(tmp_path.iterdir()) == [path]
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode, "others may read it, if the umask says so"


def test_half_precision_files_give_float32_networks(tmp_path: Path) -> None:
    model = tiny()
    weights.save(tmp_path / "h", {k: v.half() for k, v in model.state_dict().items()}, model.config, {})
    assert {p.dtype for p in weights.load(tmp_path / "h")[0].parameters()} == {torch.float32}


def test_a_failed_save_keeps_the_old_file_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a.safetensors", tiny())
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space"):
        saved(path, tiny(shift=1))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def remade(
    change: Callable[[dict[str, torch.Tensor], dict[str, str], dict[str, object]], object],
) -> Callable[[Path], None]:
    """Writes a good file again after `change` to its tensors, metadata and configuration."""

    def make(path: Path) -> None:
        model = tiny()
        saved(path, model)
        state, config = load_file(path), model.config.to_dict()
        metadata = {"format": weights.FORMAT, "info": "{}"}
        change(state, metadata, config)
        metadata.setdefault("config", json.dumps(config))
        save_file(state, path, metadata)

    return make


def truncated(path: Path) -> None:
    saved(path, tiny())
    path.write_bytes(path.read_bytes()[:-100])


FAILURES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda p: None, "no such weight file"),
    "a folder": (lambda p: p.mkdir(), "no such weight file"),
    "empty": (lambda p: p.touch(), "not a readable safetensors file"),
    "text": (lambda p: p.write_text("hello\nworld\n" * 50), "not a readable safetensors file"),
    "a PyTorch checkpoint": (lambda p: torch.save({"a": torch.ones(2)}, p), "not a readable safetensors file"),
    "truncated": (truncated, "not a readable safetensors file"),
    "other safetensors": (lambda p: save_file({"a": torch.ones(2)}, p), "not a dagl weight file"),
    "no configuration": (remade(lambda s, m, c: m.update(config="")), "configuration cannot be read"),
    "no JSON object": (remade(lambda s, m, c: m.update(config="[1]")), "configuration cannot be read"),
    "info is a list": (remade(lambda s, m, c: m.update(info="[1]")), "configuration cannot be read"),
    "unknown setting": (remade(lambda s, m, c: c.update(depth=3)), "unknown settings: depth"),
    "unknown task": (remade(lambda s, m, c: c.update(task="dehaze")), "dehaze"),
    "text for a number": (remade(lambda s, m, c: c.update(features="8")), "not a network"),
    "negative size": (remade(lambda s, m, c: c.update(features=-8)), "not a network"),
    "another size": (remade(lambda s, m, c: c.update(features=16)), "shape"),
    "missing tensor": (remade(lambda s, m, c: s.pop("conv_in.bias")), "lacks conv_in.bias"),
    "unknown tensor": (remade(lambda s, m, c: s.update(extra=torch.ones(1))), "unknown extra"),
    "wrong shape": (remade(lambda s, m, c: s.update({"conv_in.bias": torch.ones(9)})), "conv_in.bias of shape (9,)"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_what_does_not_fit_is_refused(name: str, tmp_path: Path) -> None:
    make, expected = FAILURES[name]
    path = tmp_path / "model.safetensors"
    make(path)
    with pytest.raises(WeightsError) as caught:
        weights.load(path)
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 4


def test_resolve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    monkeypatch.setattr(weights, "folder", lambda: folder)
    with pytest.raises(WeightsError, match=r"dejpeg with 3 channel\(s\).*bundled: none"):
        weights.resolve(None, "dejpeg", 3)
    color = saved(folder / "dejpeg-color.safetensors", tiny("dejpeg", 3))
    own = saved(tmp_path / "own.safetensors", tiny("dejpeg", 3))
    assert weights.resolve(None, "dejpeg", 3) == color
    assert weights.resolve("dejpeg-color", "denoise", 1) == color
    assert weights.resolve("dejpeg-color.safetensors", "denoise", 1) == color
    assert weights.resolve(str(own), "dejpeg", 3) == own
    with pytest.raises(WeightsError, match=r"--model own: .*bundled: dejpeg-color"):
        weights.resolve("own", "dejpeg", 3)


def test_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "folder", lambda: tmp_path)
    first = saved(tmp_path / "dejpeg-color.safetensors", tiny("dejpeg", 3), step=1234, minutes=5.5)
    saved(tmp_path / "denoise-gray.safetensors", tiny(graph=False))
    result = CliRunner().invoke(app, ["weights", "list", "--json"])
    rows = json.loads(result.stdout)
    assert result.exit_code == 0
    assert rows[0] == {
        "name": "dejpeg-color", "task": "dejpeg", "channels": 3, "network": "DAGL", "variant": None,
        "parameters": sum(p.numel() for p in tiny("dejpeg", 3).parameters()), "steps": 1234, "minutes": 5.5,
        "path": str(first),
    }  # fmt: skip
    assert rows[1]["network"] == "residual, no graph", "what has no graph is not called DAGL"
    table = CliRunner().invoke(app, ["weights", "list"]).stdout
    assert "dejpeg-color" in table
    assert "1,234" in table
    (tmp_path / "bad.safetensors").write_text("hello")
    result = CliRunner().invoke(app, ["weights", "list", "--json"])
    assert result.exit_code == 4
    assert result.stdout == ""
    assert result.stderr.startswith(f"Error: {tmp_path / 'bad.safetensors'}: not a readable")
    assert result.stderr.count("\n") == 1


def test_the_bundled_files_are_sound() -> None:
    for path in weights.bundled():
        model, _ = weights.load(path)
        task, _, rest = path.stem.partition("-")
        assert model.config.task == task
        assert rest.split("-")[0] == ("gray" if model.config.channels == 1 else "color")
        assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
