"""Weight files: what is saved is loaded, and whatever does not fit is refused in one line."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import saved, tiny
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from dagl_cli.cli import app
from dagl_cli.config import model_config
from dagl_cli.errors import UsageError, WeightsError
from dagl_cli.nn.model import DAGL
from dagl_cli.store import hub, manifest, weights


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

    def full(*_: object, **__: object) -> None:
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


def flipped(path: Path) -> None:
    """In the last number."""
    saved(path, tiny())
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def rescaled(path: Path) -> None:
    """A digit of the configuration, which fits the tensors as well."""
    saved(path, tiny())
    content = path.read_bytes()
    path.write_bytes(content.replace(b'\\"key_stride\\": 2', b'\\"key_stride\\": 1'))
    assert path.read_bytes() != content


FAILURES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda p: None, "no such weight file"),
    "a folder": (lambda p: p.mkdir(), ": a folder; "),
    "empty": (lambda p: p.touch(), "not a readable safetensors file"),
    "text": (lambda p: p.write_text("hello\nworld\n" * 50), "not a readable safetensors file"),
    "a PyTorch checkpoint": (lambda p: torch.save({"a": torch.ones(2)}, p), "not a readable safetensors file"),
    "truncated": (truncated, "not a readable safetensors file"),
    "other safetensors": (lambda p: save_file({"a": torch.ones(2)}, p), "not a dagl weight file"),
    "no configuration": (remade(lambda s, m, c: m.update(config="")), "cannot be read (it is malformed: no JSON): "),
    "no JSON object": (remade(lambda s, m, c: m.update(config="[1]")), "(the model configuration is malformed: it is"),
    "null": (remade(lambda s, m, c: m.update(config="null")), "(the model configuration is malformed: it is"),
    "endless digits": (
        remade(lambda s, m, c: m.update(config=f'{{"blocks": {"9" * 5000}}}')),
        "cannot be read (it is malformed: no JSON): ",
    ),
    "info is a list": (remade(lambda s, m, c: m.update(info="[1]")), "configuration cannot be read"),
    "unknown setting": (remade(lambda s, m, c: c.update(depth=3)), "unknown settings: depth"),
    "unknown task": (remade(lambda s, m, c: c.update(task="dehaze")), "dehaze"),
    "text for a number": (
        remade(lambda s, m, c: c.update(features="8")),
        "features must be 1-1024, not '8'): download",
    ),
    "negative size": (remade(lambda s, m, c: c.update(features=-8)), "features must be 1-1024, not -8"),
    "an endless network": (remade(lambda s, m, c: c.update(blocks=10**7)), "blocks must be 0-1024"),
    "a huge network": (remade(lambda s, m, c: c.update(features=1024, blocks=250)), "lacks most of"),
    "a product that is huge": (
        remade(lambda s, m, c: c.update(blocks=1024, stages=1024, stage_blocks=1024)),
        "must be 256 in all at most",
    ),
    "a product of widths": (remade(lambda s, m, c: c.update(heads=1024, embedding=1024, head_features=1024)), "shape"),
    "a number for a flag": (remade(lambda s, m, c: c.update(noise_map=10**9)), "noise_map must be like False"),
    "a fraction": (remade(lambda s, m, c: c.update(channels=1.0)), "channels must be like 1, not 1.0"),
    "a list for a name": (remade(lambda s, m, c: c.update(task=["denoise"])), "task must be like 'denoise'"),
    "not a number": (remade(lambda s, m, c: s["conv_out.bias"].fill_(torch.nan)), "has values that are not finite"),
    "infinite": (remade(lambda s, m, c: s["conv_out.bias"].fill_(-torch.inf)), "has values that are not finite"),
    "integers": (
        remade(lambda s, m, c: s.update({k: v.int() for k, v in s.items()})),
        "is of type I32, not of floating-point numbers",
    ),
    "steps in words": (remade(lambda s, m, c: m.update(info='{"step": "many"}')), "('many' is no int)"),
    "no Unicode": (remade(lambda s, m, c: m.update(info='{"note": "\\ud800"}')), "text that is no Unicode): "),
    "one flipped bit": (flipped, "damaged: its contents are not those of the SHA-256 that it carries"),
    "another scale": (rescaled, "damaged: its contents are not those of the SHA-256 that it carries"),
    "an endless header": (lambda path: path.write_bytes((2**24).to_bytes(8, "little") + b"{" + b" " * 2**24), "larger"),
    "training is a number": (remade(lambda s, m, c: m.update(info='{"training": 5}')), "(5 is no dict)"),
    "runs are a number": (remade(lambda s, m, c: m.update(info='{"runs": 3}')), "configuration cannot be read"),
    "licence is a list": (remade(lambda s, m, c: m.update(info='{"licence": ["MIT"]}')), "(['MIT'] is no str)"),
    "endless info": (remade(lambda s, m, c: m.update(info="[" * 10**5)), "configuration cannot be read"),
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


def test_a_pytorch_checkpoint_is_told_how_to_import(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "model_best.pt")
    with pytest.raises(WeightsError, match="`dagl weights import` converts"):
        weights.load(tmp_path / "model_best.pt")


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty folders for the bundled and the imported files, and no repository on the Hub."""
    for name in ("bundled", "imported"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(weights, "folder", lambda: tmp_path / "bundled")
    monkeypatch.setattr(weights, "imported_folder", lambda: tmp_path / "imported")
    monkeypatch.delenv("DAGL_HUB_REPO", raising=False)
    return tmp_path


def test_resolve(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[hub.Spec, bool]] = []

    def from_hub(spec: hub.Spec, task: str, channels: int, *, offline: bool, **_: object) -> Path:
        asked.append((spec, offline))
        return places / "cached"

    monkeypatch.setattr(weights, "from_hub", from_hub)
    with pytest.raises(WeightsError, match=r"dejpeg with 3 channel\(s\).*bundled: none"):
        weights.resolve(None, "dejpeg", 3)
    color = saved(places / "bundled" / "dejpeg-color.safetensors", tiny("dejpeg", 3))
    shadowed = saved(places / "imported" / "dejpeg-color.safetensors", tiny("dejpeg", 3))
    theirs = saved(places / "imported" / "release.safetensors", tiny("dejpeg", 3))
    own = saved(places / "own.safetensors", tiny("dejpeg", 3))
    assert weights.resolve(None, "dejpeg", 3) == color
    monkeypatch.chdir(places)
    (places / "dejpeg-color").write_text("a file of the user's that is called like a model")
    assert weights.resolve(None, "dejpeg", 3) == color, "the default is never a path"
    (places / "dejpeg-color").unlink()
    assert weights.resolve("dejpeg-color", "denoise", 1) == color
    assert weights.resolve("dejpeg-color.safetensors", "denoise", 1) == color
    assert weights.resolve(str(shadowed), "dejpeg", 3) == shadowed, "a path comes first"
    assert weights.resolve("release", "dejpeg", 3) == theirs
    assert weights.resolve(str(own), "dejpeg", 3) == own
    with pytest.raises(WeightsError, match=r"`model` own: .*bundled: dejpeg-color; imported: dejpeg-color, release"):
        weights.resolve("own", "dejpeg", 3)
    assert not asked, "no repository is asked unless one is named"

    weights.resolve("hub:a/b@v1", "dejpeg", 3, offline=True)
    monkeypatch.setenv("DAGL_HUB_REPO", "me/models@v2")
    assert weights.resolve("dejpeg-color", "dejpeg", 3) == color, "what is here is not fetched"
    assert weights.resolve(None, "real", 3) == places / "cached"
    assert weights.resolve("big", "real", 3) == places / "cached"
    assert asked == [
        (hub.Spec("a/b", "v1"), True),
        (hub.Spec("me/models", "v2", "real-color.safetensors"), False),
        (hub.Spec("me/models", "v2", "big.safetensors"), False),
    ]
    with pytest.raises(WeightsError, match="no such file"):
        weights.resolve("runs/missing.safetensors", "real", 3)
    with pytest.raises(UsageError, match="OWNER/REPO"):
        weights.resolve("hub:nonsense", "real", 3)


def dagl(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["weights", *arguments])


def test_list(places: Path) -> None:
    first = saved(places / "bundled" / "dejpeg-color.safetensors", tiny("dejpeg", 3), step=1234, minutes=5.5)
    saved(places / "bundled" / "denoise-gray.safetensors", tiny(graph=False))
    own = DAGL(model_config("trunk", "denoise", 1))
    saved(places / "imported" / "release.safetensors", own, licence="none stated: own use only")
    result = dagl("list", "--json")
    rows = json.loads(result.stdout)
    assert result.exit_code == 0
    parameters = sum(p.numel() for p in tiny("dejpeg", 3).parameters())
    expected = {
        "name": "dejpeg-color", "path": str(first), "sha256": weights.sha256(first), "bytes": first.stat().st_size,
        "task": "dejpeg", "channels": 3, "network": "DAGL", "variant": None, "parameters": parameters, "licence": None,
        "training_data": None, "training": {"steps": 1234, "minutes": 5.5, "settings": {}}, "from": "bundled",
    }  # fmt: skip
    assert rows[0] == expected
    assert rows[1]["network"] == "residual, no graph", "what has no graph is not called DAGL"
    assert (rows[2]["from"], rows[2]["licence"]) == ("imported", "none stated: own use only")
    table = dagl("list").stdout
    assert "dejpeg-color" in table
    assert "no graph (trunk)" in table
    assert "none stated" in table
    (bad := places / "bundled" / "bad.safetensors").write_text("hello")
    result = dagl("list", "--json")
    assert result.exit_code == 4
    assert json.loads(result.stdout) == rows, "the others are listed all the same"
    assert result.stderr.startswith(f"Error: {bad}: not a readable")
    assert result.stderr.count("\n") == 1


def test_info_and_path(places: Path) -> None:
    path = saved(places / "bundled" / "denoise-gray.safetensors", tiny(), licence="MIT", training_data="Two photos.")
    assert dagl("path", "denoise-gray").stdout.strip() == str(path)
    told = " ".join(dagl("info", "denoise-gray").stdout.split())
    assert "Two photos." in told
    assert "MIT" in told
    assert json.loads(dagl("info", str(path), "--json").stdout)["sha256"] == weights.sha256(path)
    assert dagl("info", "other").exit_code == 4


def test_a_file_by_its_path_is_compared_with_what_is_known_of_it(places: Path) -> None:
    """With the manifest beside it, else with the bundled file of that name, where it carries no digest itself."""
    bundled = saved(places / "bundled" / "denoise-gray.safetensors", tiny())
    dagl("manifest", str(bundled.parent))
    path = places / "denoise-gray.safetensors"
    saved(path, tiny(shift=1))
    assert weights.resolve(str(path), "denoise", 1) == path, "a file of one's own, which its own digest vouches for"
    metadata = {"format": weights.FORMAT, "config": json.dumps(tiny().config.to_dict())}
    save_file(tiny(shift=1).state_dict(), path, metadata)
    with pytest.raises(WeightsError, match=r"the manifest says .*: give it another name if it is not the bundled one"):
        weights.resolve(str(path), "denoise", 1)
    shutil.copy(path, renamed := places / "mine.safetensors")
    assert weights.resolve(str(renamed), "denoise", 1) == renamed
    dagl("manifest", str(places))
    assert weights.resolve(str(renamed), "denoise", 1) == renamed
    saved(renamed, tiny())
    with pytest.raises(WeightsError, match=r"the manifest says .*: get it again, or `dagl weights manifest"):
        weights.resolve(str(renamed), "denoise", 1)


EVIL = "[/red]\x1b]0;owned\x07\x1b[2J a|b\nline two \u202e\x9b31m"
"""Markup, escape sequences, a pipe, a line break, a turned line, a C1 control character."""


def test_a_file_that_a_training_replaces_meanwhile_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = saved(tmp_path / "a.safetensors", tiny()), saved(tmp_path / "b.safetensors", tiny(channels=3))
    read = weights._read

    def late(path: Path) -> bytes:
        if other.exists():
            other.replace(path)
        return read(path)

    monkeypatch.setattr(weights, "_read", late)
    assert weights.load(path)[0].config == tiny(channels=3).config


def test_text_from_files_is_text(places: Path) -> None:
    """On the terminal and in the card, whose tables stay tables."""
    said = dict(licence=EVIL, training_data=EVIL, note=EVIL, command=EVIL, source=EVIL, step=3, minutes=1.5)
    run = {"name": EVIL, "flags": EVIL, "minutes": 1, "steps": 2}
    path = saved(places / "bundled" / "denoise-gray.safetensors", tiny(), **said, runs=[run])
    told = [dagl("info", str(path)), dagl("list"), dagl("export", str(places / "out"), "--model", str(path))]
    assert dagl("manifest", str(path.parent)).exit_code == 0
    for result in told:
        assert result.exit_code == 0, result.exception
        assert all(line.isprintable() for line in (result.stdout + result.stderr).splitlines())
    assert "[/red]" in told[0].stdout
    for folder in (path.parent, places / "out"):
        text = (folder / "README.md").read_text()
        assert all(line.isprintable() for line in text.split("\n"))
        tables = [line for line in text.split("\n") if line.startswith("|")]
        assert {len(re.split(r"(?<!\\)\|", line)) for line in tables} == {9, 6}, "cells of the two tables"
    assert json.loads(dagl("info", str(path), "--json").stdout)["licence"] == EVIL


def test_verify_detects_one_flipped_bit(places: Path) -> None:
    path = saved(places / "bundled" / "denoise-gray.safetensors", tiny())
    gone = saved(places / "bundled" / "denoise-color.safetensors", tiny(channels=3))
    result = dagl("verify")
    assert result.exit_code == 4
    assert "there is no manifest: `dagl weights manifest" in result.stderr
    assert dagl("manifest", str(path.parent)).exit_code == 0
    assert dagl("verify").exit_code == 0
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="damaged: its contents are not those of the SHA-256 that it carries"):
        weights.load(path)
    gone.unlink()
    result = dagl("verify", "--json")
    assert result.exit_code == 4
    assert {row["name"]: row["intact"] for row in json.loads(result.stdout)} == {
        "denoise-gray": False, "denoise-color": False,
    }  # fmt: skip
    assert f"Error: {path}: damaged: its SHA-256 is" in result.stderr
    assert f"{gone}: missing: install dagl again" in result.stderr
    assert dagl("verify", "denoise-gray").exit_code == 4
    saved(path, tiny(shift=1))
    dagl("manifest", str(path.parent))
    assert dagl("verify", "denoise-gray").exit_code == 0


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format": "dagl-manifest-1", "files": {"../x": {"sha256": ""}}}']
)
def test_what_is_no_manifest(content: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(WeightsError, match="not a manifest of dagl weights"):
        manifest.read(tmp_path / "manifest.json")


def test_only_loading_needs_torch() -> None:
    code = "import sys; from dagl_cli.store import weights; [weights.describe(p) for p in weights.bundled()]; "
    assert (
        subprocess.check_output([sys.executable, "-c", code + "print('torch' in sys.modules)"], text=True) == "False\n"
    )


def test_the_bundled_files_are_sound() -> None:
    for path in weights.bundled():
        model, _ = weights.load(path)
        task, _, rest = path.stem.partition("-")
        assert model.config.task == task
        assert rest.split("-")[0] == ("gray" if model.config.channels == 1 else "color")
        assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
