"""Weights from the Hub: fetched once, checked, used without a network; every fault is one line with its remedy.

The client reads its environment at import, so it runs in processes of its own, against a Hub on 127.0.0.1.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, picture, saved, tiny
from local_hub import COMMIT, LIES, Hub, client, environment, outcomes
from PIL import Image

from dagl_cli.errors import UsageError
from dagl_cli.store import card, hub

NAME = "denoise-gray.safetensors"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `dagl weights export` makes it."""
    folder = tmp_path_factory.mktemp("published")
    saved(folder / NAME, tiny(shift=0.25))
    saved(folder / "denoise-color.safetensors", tiny(channels=3))
    card.publish(folder)
    return folder


@pytest.fixture
def server(published: Path) -> Iterator[Hub]:
    server = Hub()
    shapes = ("cut", "corrupt", "redirect", "stall", "circle", "circle-later", "endless", "bomb", *LIES)
    for repository in ("good/model", *(f"faults/{name}" for name in shapes)):
        server.add(repository, published)
    server.files["good/empty"] = {"README.md": b"no weights"}
    server.files["good/nested"] = {"manifest.json": b'{"files": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"}
    server.files["good/odd"] = {"manifest.json": b'{"files": {"../../x": {}}}'}
    yield server
    server.shutdown()
    server.server_close()


def test_specs() -> None:
    assert hub.parse("hub:a/b") == hub.Spec("a/b", "main", None)
    assert hub.parse("hub:a/b@v1:c.safetensors") == hub.Spec("a/b", "v1", "c.safetensors")
    assert str(hub.parse("hub:a/b@v1:c.safetensors")) == "hub:a/b@v1:c.safetensors"
    for bad in ("hub:a", "hub:a/b/c", "hub:a/b@", "hub:a/b:", "hub:a/b:../c", "hub:"):
        with pytest.raises(UsageError, match="OWNER/REPO"):
            hub.parse(bad)


FAULTS = {
    "hub:faults/private": "no such repository, or it is private: check the name, or `hf auth login`",
    "hub:faults/unauthorized": "`hf auth login` or set HF_TOKEN",
    "hub:faults/gated": "access is gated: accept its terms on ",
    "hub:faults/forbidden": "the Hub refuses access (403): `hf auth login` or set HF_TOKEN",
    "hub:faults/missing": "no such repository, or it is private",
    "hub:faults/norevision@v9": "no such revision: choose a commit, branch or tag",
    "hub:faults/broken": "the Hub answers 500: try again later, or give a file as `model`",
    "hub:faults/cut": "the download was cut off: run the command again",
    "hub:faults/corrupt": "the manifest says",
    **{
        f"hub:faults/{name}": "does not answer as a Hub does: check HF_ENDPOINT"
        for name in LIES
        if "size-h" not in name
    },
    "hub:faults/size-huge": "manifest.json has 400,000,000 bytes, dagl takes 8,388,608 at most",
    "hub:faults/circle": "redirects without an end: check HF_ENDPOINT",
    "hub:faults/circle-later": "cannot reach http://127.0.0.1",
    "hub:faults/endless": "the Hub sends more than it said",
    "hub:faults/bomb": "the Hub sends more than it said",
    "hub:good/nested": "nested more than 32 deep",
    "hub:faults/portal": "does not answer as a Hub does: check HF_ENDPOINT, the proxy",
    "hub:good/empty": "no such file in the repository, so it holds no weights of dagl: ",
    "hub:good/odd": "not a manifest of dagl weights",
    "hub:good/model:other.safetensors": "no other.safetensors in its manifest: choose one of denoise-color.safetensors",
    "hub:-a/b": "write hub:OWNER/REPO",
}


def test_every_fault_is_one_line_with_its_remedy(server: Hub, tmp_path: Path) -> None:
    for (spec, expected), outcome in zip(
        FAULTS.items(), outcomes(client([*FAULTS], environment(tmp_path, server.url))), strict=True
    ):
        assert expected in outcome["error"], spec
        assert outcome["error"].count("\n") == 0
        assert outcome["exit_code"] == 4
        assert outcome["seconds"] < 15, spec
    left = [path for path in tmp_path.rglob("*.safetensors") if path.exists()]
    assert left == [], "nothing damaged stays in the cache"
    assert not [path for path in tmp_path.rglob("*") if "victim" in path.name or path.suffix == ".part"]
    assert not list(tmp_path.parent.glob("*victim*"))


def test_only_the_cache_is_cleaned(tmp_path: Path) -> None:
    """A file of the cache that links to somewhere else is removed, what it links to is not."""
    inside, outside = tmp_path / "models--a--b/blobs/0", tmp_path / "mine.txt"
    for target, goes in ((inside, True), (outside, False)):
        link = tmp_path / "models--a--b/snapshots" / COMMIT / NAME
        for folder in (link.parent, inside.parent):
            folder.mkdir(parents=True, exist_ok=True)
        target.write_text("content")
        link.symlink_to(target)
        hub.discard(link)
        assert not link.is_symlink()
        assert target.exists() is not goes


def test_fetched_checked_and_then_used_without_a_request(server: Hub, published: Path, tmp_path: Path) -> None:
    env = environment(tmp_path, server.url)
    for outcome in outcomes(client(["hub:faults/redirect", "hub:good/model"], env)):
        path = Path(outcome["path"])
        assert path.name == NAME, "of several files the one for the task and its channels"
        assert path.read_bytes() == (published / NAME).read_bytes()
        assert path.parent.name == COMMIT
        assert [NAME, path.stat().st_size, path.stat().st_size] in outcome["progress"]
    server.requests.clear()
    pinned, *_ = outcomes(client([f"hub:good/model@{COMMIT}"], env))
    assert pinned["path"] == str(path)
    assert server.requests == [], "what a full commit names cannot change"
    offline = environment(tmp_path, server.url, HF_HUB_OFFLINE="1")
    specs = ["hub:good/model", "hub:good/model:denoise-color.safetensors", "hub:good/other@v1"]
    found, lacking, unknown = outcomes(client(specs, offline))
    assert found["path"] == str(path)
    assert f"run `dagl weights download hub:good/model@{COMMIT}:denoise-color.safetensors` once" in lacking["error"]
    assert "dagl is offline: run `dagl weights download hub:good/other@v1` once" in unknown["error"]
    assert server.requests == []
    blob = path.resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    (damaged,) = outcomes(client(["hub:good/model"], offline))
    assert "damaged" in damaged["error"]
    assert "`dagl weights download hub:good/model@main` fetches it anew" in damaged["error"]
    assert path.exists(), "offline nothing is removed that could not be fetched again"
    (again,) = outcomes(client(["hub:good/model"], env))
    assert again["path"] == str(path)
    assert path.read_bytes() == (published / NAME).read_bytes()


def test_a_download_that_stalls_is_given_up(server: Hub, tmp_path: Path) -> None:
    (outcome,) = outcomes(client(["hub:faults/stall"], environment(tmp_path, server.url, STALLED="1")))
    server.closing.set()
    assert "cannot reach http://127.0.0.1" in outcome["error"]
    assert "nothing came for 1 s): check the network and proxy" in outcome["error"]
    assert outcome["seconds"] < 15


def test_verify_looks_at_every_cached_file(server: Hub, published: Path, tmp_path: Path) -> None:
    env = environment(tmp_path, server.url, PYTHONPATH=str(ROOT))

    def dagl(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "dagl_cli", "weights", *arguments]
        return subprocess.run(command, env=env, text=True, capture_output=True, check=False)

    assert dagl("verify", "hub:good/model").returncode == 4
    assert dagl("download", "hub:good/model").returncode == 0
    server.requests.clear()
    sound = dagl("verify", "hub:good/model")
    assert (sound.returncode, sound.stderr.count("intact")) == (0, 2)
    blob = next(tmp_path.rglob("denoise-color.safetensors")).resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    damaged = dagl("verify", "hub:good/model")
    assert (damaged.returncode, damaged.stderr.count("intact"), damaged.stderr.count("damaged")) == (4, 1, 1)
    assert server.requests == []
    assert blob.exists()
    manifest = next(tmp_path.rglob("manifest.json")).resolve()
    manifest.write_bytes(b"?")
    offline = dagl("path", "hub:good/model", "--offline")
    assert offline.returncode == 4
    assert "`dagl weights download hub:good/model@main` fetches it anew" in " ".join(offline.stderr.split())
    assert dagl("download", "hub:good/model").returncode == 0, "as it was told: the manifest and the weights"
    assert dagl("verify", "hub:good/model").returncode == 0


def test_two_processes_at_once(server: Hub, published: Path, tmp_path: Path) -> None:
    env = environment(tmp_path, server.url)
    both = [client(["hub:good/model"], env) for _ in range(2)]
    for process in both:
        (outcome,) = outcomes(process)
        assert Path(outcome["path"]).read_bytes() == (published / NAME).read_bytes()


def test_dead_hosts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.create_server(("127.0.0.1", 0)) as closed:
        refused = f"http://127.0.0.1:{closed.getsockname()[1]}"
        closed.close()
        endless = f"http://127.0.0.1:{silent.getsockname()[1]}"
        waiting = client(["hub:a/b"], environment(tmp_path, endless, HF_HUB_ETAG_TIMEOUT="1"))
        at_once = client(["hub:a/b"], environment(tmp_path, refused))
        for process, url in ((waiting, endless), (at_once, refused)):
            (outcome,) = outcomes(process)
            assert f"cannot reach {url}" in outcome["error"]
            assert "check the network and proxy, or give a file as `model`" in outcome["error"]
            assert outcome["seconds"] < 15


def test_a_setting_that_the_client_refuses(tmp_path: Path) -> None:
    (outcome,) = outcomes(client(["hub:a/b"], environment(tmp_path, "http://127.0.0.1:9", HF_HUB_ETAG_TIMEOUT="0.5")))
    assert "huggingface_hub refuses a setting" in outcome["error"]
    assert outcome["exit_code"] == 4


def test_a_cache_that_takes_nothing(server: Hub, tmp_path: Path) -> None:
    full = environment(tmp_path / "full", server.url, FILE_LIMIT="1000")
    (outcome,) = outcomes(client(["hub:good/model"], full))
    assert f"cannot write to the cache {tmp_path / 'full'}" in outcome["error"]
    assert "make room there, or set HF_HOME elsewhere" in outcome["error"]
    (tmp_path / "file").touch()
    (outcome,) = outcomes(client(["hub:good/model"], environment(tmp_path / "file" / "cache", server.url)))
    assert "cannot write to the cache" in outcome["error"]
    if os.geteuid() != 0:  # root may write anywhere
        (tmp_path / "locked").mkdir(mode=0o500)
        (outcome,) = outcomes(client(["hub:good/model"], environment(tmp_path / "locked", server.url)))
        assert "(Permission denied): make room there, or set HF_HOME elsewhere" in outcome["error"]


def dagl(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dagl_cli", *arguments], env=env, text=True, capture_output=True, check=False,
        cwd=ROOT,
    )  # fmt: skip


RUN = """
import sys
from dagl_cli.cli import main
from dagl_cli.store import hub
hub.REPOSITORY = sys.argv.pop(1)  # as if it were published
main()
"""


def test_names_that_are_not_bundled_come_from_the_one_repository(server: Hub, published: Path, tmp_path: Path) -> None:
    """As it will be once the constant names a repository: a fresh cache, a first run, a second one offline."""
    assert hub.REPOSITORY is None or re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", hub.REPOSITORY), "pinned to a commit"
    server.add("me/published", published)
    server.files["me/published"] = {
        key.replace("denoise-gray", "small"): value.replace(b"denoise-gray", b"small")
        if key == "manifest.json"
        else value
        for key, value in server.files["me/published"].items()
    }
    picture(tmp_path / "in.png", size=(16, 16))

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", RUN, f"me/published@{COMMIT}", *arguments]
        env = environment(tmp_path / "cache", server.url, PYTHONPATH=str(ROOT), **more)
        return subprocess.run(command, env=env, cwd=tmp_path, text=True, capture_output=True, check=False)

    early = run("weights", "path", "small", "--offline")
    assert early.returncode == 4
    assert f"run `dagl weights download hub:me/published@{COMMIT}` once" in early.stderr
    assert server.requests == []
    first = run("denoise", "--model", "small", "--sigma", "25", "in.png", "1.png")
    assert first.returncode == 0, first.stderr
    assert "fetching small.safetensors from the Hub" in first.stderr
    server.requests.clear()
    with Image.open(tmp_path / "1.png") as restored:
        assert np.asarray(restored).mean() == 164, "the published network adds a quarter"
    second = run("weights", "path", "small", HF_HUB_OFFLINE="1")
    assert (second.returncode, Path(second.stdout.strip()).name) == (0, "small.safetensors")
    assert server.requests == []
    missing = run("weights", "path", "gone")
    assert (missing.returncode, missing.stderr.count("\n")) == (4, 1)
    assert "no such file or bundled model" in missing.stderr
    assert "and on the Hub: hub:me/published" in missing.stderr
    assert "choose one of denoise-color.safetensors, small.safetensors" in missing.stderr


def test_the_download_command(server: Hub, tmp_path: Path) -> None:
    env = environment(tmp_path, server.url)
    result = dagl("weights", "download", env=env)
    assert result.returncode == 4
    assert result.stderr.startswith("Error: no weights of dagl are published on the Hub yet")
    result = dagl("weights", "download", "--json", env=env | {"DAGL_HUB_REPO": "good/model"})
    assert result.returncode == 0, result.stderr
    rows = json.loads(result.stdout)
    assert [row["model"] for row in rows] == [
        f"hub:good/model@{COMMIT}:{name}" for name in ("denoise-color.safetensors", NAME)
    ]
    assert all(Path(row["path"]).is_file() for row in rows)
    server.requests.clear()
    for name in (NAME, NAME.removesuffix(".safetensors")):
        path = dagl("weights", "path", f"hub:good/model:{name}", "--offline", env=env)
        assert (path.returncode, path.stdout.strip()) == (0, rows[1]["path"])
    assert server.requests == []
