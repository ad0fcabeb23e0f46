"""The authors' checkpoints: read as plain tensors, converted strictly, proven equal; nothing in them is run."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import case, checkpoint
from typer.testing import CliRunner, Result

from dagl_cli.cli import app
from dagl_cli.errors import WeightsError
from dagl_cli.nn.model import DAGL
from dagl_cli.store import release, weights


def packed(state: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def gray() -> bytes:
    """A checkpoint of the layout of the authors' gray denoiser, with drawn weights."""
    return packed({key: value.float() for key, value in checkpoint("denoise").items()})


@pytest.fixture
def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of imported weights, an empty one."""
    monkeypatch.setattr(weights, "imported_folder", lambda: tmp_path / "imported")
    return tmp_path / "imported"


def dagl(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["weights", "import", *map(str, arguments)])


CASES = {"denoise": "gray_37x50", "real": "color_48x40", "demosaic": "demosaic_44x36"}
"""The layouts that differ; dejpeg has that of denoise, and `test_from_the_repository` imports one."""


@pytest.mark.parametrize("task", CASES)
def test_all_layouts(task: str, tmp_path: Path) -> None:
    content = packed(checkpoint(task))
    found = release.convert(content, task, tmp_path / "own.safetensors", "their.pt")
    assert found["difference"] <= 1e-6, "rounded to float32"
    assert not found["authors_file"]
    assert "own use only" in found["licence"]
    model, info = weights.load(tmp_path / "own.safetensors")
    assert info["git_blob"] == release.git_blob(content)
    given, expected = case(CASES[task])
    with torch.inference_mode():
        assert (model(given.float()) - expected).abs().max() <= 1e-4, "as the released code computes, in float32"


@pytest.mark.parametrize("task", CASES)
def test_the_judge_computes_what_the_released_code_computes(task: str) -> None:
    given, expected = case(CASES[task])
    with torch.inference_mode():
        found = release.forward(checkpoint(task), given, 32 if task == "demosaic" else 16)
    assert (found - expected).abs().max() <= 1e-9


def test_every_tensor_has_one_place() -> None:
    """The table names every tensor of our network once, and with the unused ones every key of the checkpoints."""
    for task in CASES:
        config = release.released_config(task)
        keys = release.released_keys(config)
        theirs = [name for names in keys.values() for name in names]
        assert keys.keys() == DAGL(config).state_dict().keys()
        assert len(set(theirs)) == len(theirs)
        unused = {key for key in checkpoint(task) if release.is_unused(key)}
        assert set(theirs) | unused == checkpoint(task).keys()
        assert not set(theirs) & unused


def test_conversion_is_strict() -> None:
    state, config = checkpoint("denoise"), release.released_config("denoise")
    missing = {k: v for k, v in state.items() if k != "body.8.c1_2.fc1.0.weight"}
    with pytest.raises(WeightsError, match=r"lacks 'body\.8\.c1_2\.fc1\.0\.weight': is it a DAGL denoise checkpoint"):
        release.convert_released(missing, config)
    with pytest.raises(WeightsError, match=r"unknown key 'body\.99\.weight'"):
        release.convert_released(state | {"body.99.weight": torch.zeros(1)}, config)
    with pytest.raises(WeightsError, match=r"'head\.0\.weight' is \(64, 3, 3, 3\)"):
        release.convert_released(state | {"head.0.weight": torch.zeros(64, 3, 3, 3)}, config)
    with pytest.raises(WeightsError, match=r"unknown key .body\.16"):
        release.convert_released(checkpoint("demosaic"), config)


def test_a_wrong_conversion_is_found(gray: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = release.convert_released

    def wrong(*arguments: Any) -> dict[str, torch.Tensor]:
        state = right(*arguments)
        state["blocks.3.conv1.weight"] = state["blocks.3.conv1.weight"].transpose(0, 1).contiguous()
        return state

    assert release.convert(gray, "denoise", tmp_path / "a.safetensors", "a.pt")["difference"] <= 1e-9
    monkeypatch.setattr(release, "convert_released", wrong)
    with pytest.raises(WeightsError, match=r"^b\.pt: the converted file gives another output"):
        release.convert(gray, "denoise", tmp_path / "b.safetensors", "b.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_few_numbers_over_a_large_shape_are_refused(tmp_path: Path) -> None:
    """Before any is read: they would take 4 TB."""
    content = packed({"body.0.body.0.weight": torch.zeros(1).expand(10**12)})
    assert len(content) < 2000
    with pytest.raises(WeightsError, match=r"1,000,000,000,000 numbers, and holds 1$"):
        release.convert(content, "denoise", tmp_path / "x.safetensors", "x.pt")


def test_odd_tensors_are_refused_in_one_line(tmp_path: Path) -> None:
    state = {key: value.float() for key, value in checkpoint("denoise").items()}
    whole = torch.zeros(3, 3)
    odd = {
        "sparse": (whole.to_sparse(), "is not a plain tensor"),
        "meta": (torch.empty(3, 3, device="meta"), "is not a plain tensor"),
        "complex": (torch.zeros(3, 3, dtype=torch.complex64), "is not a plain tensor"),
        "nan": (torch.full((64, 64, 3, 3), torch.nan), "not finite"),
        "turned": (torch.zeros(3, 3, 64, 64), r"is \(3, 3, 64, 64\) in the checkpoint, \(64, 64, 3, 3\) in the model"),
    }
    for name, (value, expected) in odd.items():
        content = packed(state | {"body.0.body.0.weight": value})
        with pytest.raises(WeightsError, match=rf"^{name}\.pt: .*{expected}"):
            release.convert(content, "denoise", tmp_path / "x.safetensors", f"{name}.pt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["gz", "xz", "bz2", "zip"])
def test_damaged_archives_are_one_line(kind: str, tmp_path: Path) -> None:
    random = torch.randint(256, (20000,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    path = archive(kind, tmp_path / "all", {"DAGL/DN_Gray/exp/model/model_best.pt": random.numpy().tobytes()})
    content = bytearray(path.read_bytes())
    content[5000:5400] = b"?" * 400
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=rf"^{path}: (cannot be read|refused).*\(.+\)"):
        release.state_dict(release.read(path, "denoise"), str(path))
    path.write_bytes(content[:9000])
    with pytest.raises(WeightsError, match=rf"^{path}: .+"):
        release.state_dict(release.read(path, "denoise"), str(path))


def test_imports_at_once_do_not_meet(gray: bytes, imported: Path, tmp_path: Path) -> None:
    (tmp_path / "dn.pt").write_bytes(gray)
    mine = tmp_path / "mine.new.safetensors"
    mine.write_bytes(b"mine")
    results: list[dict[str, Any]] = []

    def run() -> None:
        results.append(release.convert(gray, "denoise", tmp_path / "mine.safetensors", "dn.pt"))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    assert mine.read_bytes() == b"mine", "a user's file of a similar name"
    refused = dagl(tmp_path / "dn.pt", "--task", "denoise", "-o", tmp_path, "--overwrite")
    assert refused.exit_code == 4
    assert refused.stderr.count("\n") == 1


def test_the_command(gray: bytes, imported: Path, tmp_path: Path) -> None:
    (tmp_path / "dn.pt").write_bytes(gray)
    told = dagl(tmp_path / "dn.pt", "--task", "denoise")
    assert told.exit_code == 0, told.stderr
    assert "for your own use only, do not pass it on" in " ".join(told.stderr.split())
    result = dagl(tmp_path / "dn.pt", "--task", "denoise", "--json", "--overwrite")
    row = json.loads(result.stdout)
    assert row["path"] == str(imported / "release-denoise-gray.safetensors")
    assert weights.resolve("release-denoise-gray", "denoise", 1) == Path(row["path"])
    assert {path.name for path in imported.iterdir()} - {".lock"} == {Path(row["path"]).name, "manifest.json"}
    verified = CliRunner().invoke(app, ["weights", "verify", "release-denoise-gray"])
    assert (verified.exit_code, verified.stderr) == (0, "release-denoise-gray: intact\n")
    sound = Path(row["path"]).read_bytes()
    Path(row["path"]).write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    assert CliRunner().invoke(app, ["weights", "verify", "release-denoise-gray"]).exit_code == 4
    Path(row["path"]).write_bytes(sound)
    again = dagl(tmp_path / "dn.pt", "--task", "denoise")
    assert again.exit_code == 2
    assert "--overwrite replaces it" in again.stderr
    (listed,) = [
        row
        for row in json.loads(CliRunner().invoke(app, ["weights", "list", "--json"]).stdout)
        if row["from"] == "imported"
    ]
    assert listed["licence"].startswith("none stated")
    wrong = dagl(tmp_path / "dn.pt", "--task", "demosaic")
    assert wrong.exit_code == 4
    assert "dn.pt: " in wrong.stderr
    assert wrong.stderr.count("\n") == 1
    assert not (imported / "release-demosaic-color.safetensors").exists(), "nothing is written"


def archive(kind: str, path: Path, files: dict[str, bytes]) -> Path:
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
            for name, content in files.items():
                out.writestr(name, content)
    else:
        with tarfile.open(path, f"w:{kind}") as out:  # type: ignore[call-overload]
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                out.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("kind", ["zip", "gz"])
def test_archives(kind: str, tmp_path: Path) -> None:
    files = {"DAGL/DN_Gray/exp/model/model_best.pt": b"gray", "DAGL/CAR/q10/x.pt": b"car", "DAGL/readme.txt": b"-"}
    files |= {"DAGL/Demosaic/a.pt": b"a", "DAGL/Demosaic/b.pt": b"b", "../escape.pt": b"e"}
    path = archive(kind, tmp_path / "all", files)
    assert release.read(path, "denoise") == b"gray"
    assert release.read(path, "dejpeg") == b"car"
    assert release.read(path, "demosaic", "DAGL/Demosaic/b.pt") == b"b"
    with pytest.raises(
        WeightsError, match=r"several files .*`member` chooses \(DAGL/Demosaic/a.pt, DAGL/Demosaic/b.pt"
    ):
        release.read(path, "demosaic")
    with pytest.raises(WeightsError, match=r"lacks the real checkpoint \(DN_Real\)"):
        release.read(path, "real")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["all"], "nothing is extracted"


def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "LARGEST", 10_000)
    path = archive("zip", tmp_path / "bomb.zip", {"CAR/exp/model/model_best.pt": bytes(1_000_000)})
    assert path.stat().st_size < 2000
    with pytest.raises(WeightsError, match="larger than"):
        release.read(path, "dejpeg")
    deflated = io.BytesIO()
    with zipfile.ZipFile(deflated, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("archive/data.pkl", bytes(1_000_000))
    with pytest.raises(WeightsError, match="unpacks to more than"):
        release.state_dict(deflated.getvalue(), "x.pt")
    with pytest.raises(WeightsError, match=r"holds 1$"):
        release.state_dict(packed({"a": torch.zeros(1).expand(10**9)}), "x.pt")
    shared = torch.zeros(1800)
    with pytest.raises(WeightsError, match="far larger"):
        release.state_dict(packed({"a": shared, "b": shared}), "x.pt")


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_a_malicious_pickle_is_refused_and_runs_nothing(imported: Path, tmp_path: Path) -> None:
    mark = tmp_path / "it ran"
    contents = {"zip": packed({"head.0.weight": Evil(mark)}), "old": pickle.dumps(Evil(mark))}
    torch.save(Evil(mark), legacy := io.BytesIO(), _use_new_zipfile_serialization=False)
    for name, content in (contents | {"legacy": legacy.getvalue()}).items():
        (tmp_path / f"{name}.pt").write_bytes(content)
        result = dagl(tmp_path / f"{name}.pt", "--task", "denoise")
        assert result.exit_code == 4
        assert f"{name}.pt: refused, it is not a plain PyTorch checkpoint" in result.stderr
        assert result.stderr.count("\n") == 1
    assert not mark.exists()
    pickle.loads(contents["old"])
    assert mark.exists(), "it would have"
    assert not imported.exists()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "refused"),
        (b"hello\n" * 100, "refused"),
        (packed([torch.ones(1)]), "something else than a state dict"),
        (packed({"a": 1}), "something else than a state dict"),
        (packed({"a": torch.ones(1)}), "unknown key 'a'"),
        (packed({}), "lacks"),
    ],
)
def test_what_is_no_checkpoint(content: bytes, expected: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=expected) as caught:
        release.convert(content, "denoise", tmp_path / "x.safetensors", "x.pt")
    assert "x.pt: " in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    """Serves `server.files`, {path: content}."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = self.server.files.get(self.path)  # type: ignore[attr-defined]
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files = {}  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_from_the_repository(
    gray: bytes, imported: Path, server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DAGL_RELEASE_URL", f"http://127.0.0.1:{server.server_port}")
    path = f"/{release.REPOSITORY}/{release.COMMIT}/CAR/exp/model/model_best.pt"
    result = dagl("--task", "dejpeg")
    assert result.exit_code == 4
    assert "answers 404" in result.stderr
    server.files[path] = gray
    result = dagl("--task", "dejpeg")
    assert result.exit_code == 4, "not the file that git knows"
    assert f"its git blob is {release.git_blob(gray)[:12]}" in result.stderr
    known = replace(release.CHECKPOINTS["dejpeg"], blob=release.git_blob(gray))
    monkeypatch.setitem(release.CHECKPOINTS, "dejpeg", known)
    result = dagl("--task", "dejpeg")
    assert result.exit_code == 0, result.stderr
    assert "(the authors' file)" in " ".join(result.stderr.split())
    assert (imported / "release-dejpeg-gray.safetensors").is_file()
    offline = dagl("--task", "dejpeg", "--offline", "-o", tmp_path / "x.safetensors")
    assert offline.exit_code == 4
    assert "give the checkpoint or the archive as a FILE" in offline.stderr
    missing = dagl("--task", "real")
    assert missing.exit_code == 4
    assert "download their archive" in missing.stderr
    server.shutdown()
    server.server_close()
    assert "cannot fetch http://127.0.0.1" in dagl("--task", "dejpeg", "--overwrite").stderr


def test_git_blob() -> None:
    assert release.git_blob(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a", "as `git hash-object` says"
