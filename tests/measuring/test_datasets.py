"""The registry, and downloads against a server that misbehaves."""

import errno
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from helpers import shared
from typer.testing import CliRunner

from dagl_cli.cli import app
from dagl_cli.errors import DaglError, UsageError
from dagl_cli.measuring import datasets
from dagl_cli.measuring.datasets import Dataset, File


def test_the_registry_pins_every_file() -> None:
    for name, entry in datasets.DATASETS.items():
        assert re.fullmatch("[0-9a-f]{40}", entry.commit), name
        assert entry.channels in (1, 3)
        assert entry.samples
        for file in entry.files:
            assert re.fullmatch("[0-9a-f]{64}", file.sha256), file
            assert file.bytes > 0
            assert ".." not in file.path
            assert not file.path.startswith("/")
    assert len(datasets.DATASETS["Classic5"].samples) == 5  # and not the authors' JPEGs of them


def test_known_images_name_every_file() -> None:
    known = datasets.known_images()
    assert len(known) == sum(len(entry.files) for entry in datasets.DATASETS.values())
    assert known["079229e13faff0a262a9d3eb9a7fa60868203f9b8545de6fb75aadf6fbca4296"] == "Set12/01.png"


CONTENT = {"01.png": b"first" * 20_000, "02.png": b"second" * 20_000, "low/01.jpg": b"third"}


class Host:
    """A server on 127.0.0.1 whose `faults` (path -> what goes wrong, in order) are used up one by one."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str | None]] = []
        self.faults: dict[str, list[str]] = {}
        host = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path, first = self.path.split("/some%20folder/")[1], self.headers["Range"]
                host.requests.append((path, first))
                fault = host.faults.get(path, []).pop(0) if host.faults.get(path) else ""
                content = CONTENT[path]
                if fault.isdigit():
                    return self.send_error(int(fault))
                if fault == "wrong":
                    content = content[::-1]
                start = 0
                if first and fault != "no ranges":
                    start = int(first.removeprefix("bytes=").rstrip("-"))
                    self.send_response(206)
                else:
                    self.send_response(200)
                self.send_header("Content-Length", str(len(content) - start))
                self.end_headers()
                if fault == "hang":
                    time.sleep(0.6)
                self.wfile.write(content[start : start + 50_000] if fault == "cut" else content[start:])
                self.close_connection = True

            def log_message(self, *arguments: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, *arguments: object) -> None:  # the client hung up first
                pass

        self.server = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """A host for the set 'Toy', which takes the registry's place."""
    host = Host()
    files = tuple(File(path, len(c), hashlib.sha256(c).hexdigest()) for path, c in CONTENT.items())
    toy = Dataset("Toy", "a toy", 1, files, "some/body", "0" * 40, "some folder")
    monkeypatch.setattr(datasets, "DATASETS", {"Toy": toy})
    monkeypatch.setenv("DAGL_DATASETS_URL", host.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(datasets, "WAITS", (0.0, 0.0))
    monkeypatch.setattr(datasets, "TIMEOUT", 0.2)
    yield host
    host.close()


def download(folder: Path) -> list[str]:
    return datasets.download(datasets.DATASETS["Toy"], folder)


def complete(folder: Path) -> bool:
    """Every file as published, and nothing else but the lock."""
    inside = {str(p.relative_to(folder / "Toy")) for p in (folder / "Toy").rglob("*") if p.is_file()}
    return inside == set(CONTENT) and all((folder / "Toy" / p).read_bytes() == c for p, c in CONTENT.items())


def test_a_set_is_fetched_once(host: Host, tmp_path: Path) -> None:
    done: list[int] = []
    assert datasets.download(datasets.DATASETS["Toy"], tmp_path, progress=done.append) == []
    assert complete(tmp_path)
    assert sum(done) == sum(len(content) for content in CONTENT.values())
    assert len(host.requests) == 3
    assert download(tmp_path) == []
    assert len(host.requests) == 3, "a complete copy asks for nothing"
    host.close()
    assert download(tmp_path) == [], "and needs no host"


def test_what_is_missing_or_damaged_is_fetched_again(host: Host, tmp_path: Path) -> None:
    download(tmp_path)
    (tmp_path / "Toy/01.png").write_bytes(CONTENT["01.png"][::-1])
    (tmp_path / "Toy/02.png").unlink()
    toy = datasets.DATASETS["Toy"]
    assert datasets.verify(toy, tmp_path) == {"01.png": "damaged", "02.png": "missing", "low/01.jpg": "ok"}
    for file, problem in zip(toy.files, ("is not the published file", "is missing")):
        with pytest.raises(DaglError, match=rf"{file.path} {problem}.*dagl datasets download Toy"):
            datasets.read(toy, file, tmp_path)
    host.requests.clear()
    assert download(tmp_path) == []
    assert sorted(path for path, _ in host.requests) == ["01.png", "02.png"]
    assert datasets.read(toy, toy.files[0], tmp_path) == CONTENT["01.png"]


@pytest.mark.parametrize(
    ("faults", "ranges"),
    [
        (["cut"], [None, "bytes=50000-"]),
        (["cut", "no ranges"], [None, "bytes=50000-"]),
        (["cut", "wrong"], [None, "bytes=50000-", None]),
        (["wrong"], [None, None]),
        (["hang"], [None, None]),
        (["503", "429"], [None, None, None]),
    ],
)
def test_passing_faults_are_got_over(host: Host, tmp_path: Path, faults: list[str], ranges: list[str | None]) -> None:
    host.faults["01.png"] = faults
    assert download(tmp_path) == []
    assert complete(tmp_path)
    assert [first for path, first in host.requests if path == "01.png"] == ranges


@pytest.mark.parametrize(
    ("fault", "said", "requests"),
    [
        ("404", "answers 404 Not Found", 1),
        ("500", "answers 500 Internal Server Error", 3),
        ("wrong", "does not send the published file", 3),
        ("hang", "gave no answer for 0.2 s", 3),
    ],
)
def test_lasting_faults_are_one_line_and_the_rest_is_kept(
    host: Host, tmp_path: Path, fault: str, said: str, requests: int
) -> None:
    host.faults["01.png"] = [fault] * requests
    (line,) = download(tmp_path)
    assert line.startswith("Toy/01.png: http://127.0.0.1")
    assert said in line
    assert len([path for path, _ in host.requests if path == "01.png"]) == requests
    assert (tmp_path / "Toy/02.png").read_bytes() == CONTENT["02.png"]
    assert not (tmp_path / "Toy/01.png").exists()
    host.requests.clear()
    assert download(tmp_path) == []
    assert [path for path, _ in host.requests] == ["01.png"]


def test_a_cut_file_goes_on_in_a_later_run(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "WAITS", ())
    host.faults["01.png"] = ["cut"]
    (line,) = download(tmp_path)
    assert "cut off after 50000 of 100000 bytes" in line
    assert download(tmp_path) == []
    assert host.requests[-1] == ("01.png", "bytes=50000-")
    assert complete(tmp_path)


def test_a_part_that_is_no_part_of_it_is_dropped(host: Host, tmp_path: Path) -> None:
    (tmp_path / "Toy").mkdir()
    (tmp_path / "Toy/01.png.part").write_bytes(b"x" * 1000)
    (tmp_path / "Toy/02.png.part").write_bytes(b"x" * 1_000_000)
    host.faults["01.png"] = ["416"]
    assert download(tmp_path) == []
    assert complete(tmp_path)


def test_no_host_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGL_DATASETS_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(datasets, "WAITS", ())
    (line,) = datasets.download(datasets.DATASETS["Set12"], tmp_path)
    assert re.match(r"Set12/\d\d.png: cannot reach http://127.0.0.1:9/.*Connection refused", line)


def test_a_folder_that_cannot_be_written_is_named(host: Host, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DaglError, match=r"file: .*`data_dir`"):
        download(tmp_path / "file")


def test_a_full_disk_is_named(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: str, target: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    (line, *others) = download(tmp_path)
    assert "No space left on device" in line
    assert "`data_dir`" in line
    assert len(others) < 3


def test_a_second_process_finds_what_the_first_fetched(host: Host, tmp_path: Path) -> None:
    """Both want the set at the same time; every file is requested once."""
    code = """if True:
        import sys
        from pathlib import Path
        from dagl_cli.measuring import datasets
        files = tuple(datasets.File(*file) for file in eval(sys.argv[2]))
        toy = datasets.Dataset("Toy", "", 1, files, "some/body", "0" * 40, "some folder")
        print("ready", flush=True)
        input()
        print(datasets.download(toy, Path(sys.argv[1])))
    """
    files = repr([(file.path, file.bytes, file.sha256) for file in datasets.DATASETS["Toy"].files])
    command = [sys.executable, "-c", code, str(tmp_path), files]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda process: process.communicate("\n", timeout=20)[0], processes))
    assert answers == ["[]\n", "[]\n"]
    assert complete(tmp_path)
    assert sorted(path for path, _ in host.requests) == sorted(CONTENT)


def test_interrupted_downloads_go_on(host: Host, tmp_path: Path) -> None:
    class Interrupted(Exception):
        pass

    def interrupt(count: int) -> None:
        if count:
            raise Interrupted

    with pytest.raises(Interrupted):
        datasets.download(datasets.DATASETS["Toy"], tmp_path, progress=interrupt)
    assert download(tmp_path) == []
    assert complete(tmp_path)


def dagl(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["datasets", *arguments])


def test_the_commands(host: Host, tmp_path: Path) -> None:
    folder = ["--data-dir", str(tmp_path)]
    assert json.loads(dagl("list", *folder, "--json").stdout)["datasets"][0]["here"] == 0
    host.faults["02.png"] = ["404"]
    failed = dagl("download", "Toy", *folder)
    assert failed.exit_code == 1
    assert "Toy/02.png" in failed.stderr
    assert "404" in failed.stderr
    assert failed.stdout == ""
    half = dagl("verify", *folder, "--json")
    assert half.exit_code == 1
    assert json.loads(half.stdout)["Toy"]["02.png"] == "missing"
    assert dagl("download", *folder, "--quiet").output == ""
    assert dagl("verify", "Toy", *folder).exit_code == 0
    assert "yes" in dagl("list", *folder).stdout
    unknown = dagl("download", "Tpy", *folder)
    assert unknown.exit_code == 2
    assert "Tpy is unknown: choose one of Toy" in unknown.stderr
    assert dagl("verify", "--data-dir", str(tmp_path / "none")).exit_code == 1


def test_the_shared_copy_is_as_published() -> None:
    folder = shared("testsets")
    for name in ("Set12", "Classic5"):
        assert set(datasets.verify(datasets.DATASETS[name], folder).values()) == {"ok"}


@pytest.mark.parametrize("address", ["foo", "http://127.0.0.1:abc", "ftp://127.0.0.1"])
def test_a_mirror_that_is_no_address_is_named(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGL_DATASETS_URL", address)
    entry = datasets.dataset("Set12")
    with pytest.raises(UsageError, match=rf"^DAGL_DATASETS_URL is '{address}': write an address as https://HOST"):
        entry.url(entry.files[0])
