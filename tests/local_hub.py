"""A Hub for tests on 127.0.0.1: GET and HEAD /{repository}/resolve/{revision}/{file}, with faults on demand."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from helpers import ROOT

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_of_the_tests"
FAULTS: dict[str, tuple[int, str]] = {
    "private": (401, "RepoNotFound"),
    "unauthorized": (401, ""),
    "gated": (403, "GatedRepo"),
    "forbidden": (403, ""),
    "missing": (404, "RepoNotFound"),
    "norevision": (404, "RevisionNotFound"),
    "broken": (500, ""),
}
"""Repositories of owner `faults` that always answer so: status, X-Error-Code."""
LIES: dict[str, dict[str, str]] = {
    "etag-path": {"ETag": '"../../../../../../victim"'},
    "etag-linked": {"X-Linked-Etag": '"/tmp/victim"'},
    "etag-none": {"ETag": ""},
    "commit-path": {"X-Repo-Commit": "../../../../victim"},
    "commit-short": {"X-Repo-Commit": "main"},
    "commit-none": {"X-Repo-Commit": ""},
    "size-huge": {"X-Linked-Size": "400000000"},
    "size-endless": {"X-Linked-Size": "9" * 400},
    "size-odd": {"X-Linked-Size": "-1"},
}
"""Repositories of owner `faults` that say this of every file."""


class Hub(ThreadingHTTPServer):
    """`files`: {repository: {file: content}}; `requests` counts what was asked, as 'GET file'."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, dict[str, bytes]] = {}
        self.requests: list[str] = []
        self.commits: list[str] = []
        """Branches that were committed to."""
        self.closing = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def add(self, repository: str, folder: Path) -> None:
        self.files[repository] = {path.name: path.read_bytes() for path in folder.iterdir()}


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def do_POST(self) -> None:
        """What an upload asks for: the repository, how to send the files, and one commit that holds them."""
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        parts = self.path.lstrip("/").partition("?")[0].split("/")
        self.server.requests.append(f"POST {self.path}")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.fail(401, "")
        if parts[:3] == ["api", "repos", "create"]:
            asked = json.loads(sent)
            repository = f"{asked.get('organization') or 'me'}/{asked['name']}"
            if repository.startswith("faults/"):
                return self.fail(*FAULTS[asked["name"]])
            self.server.files.setdefault(repository, {})
            return self.send({"url": f"{self.server.url}/{repository}"})
        repository, kind = "/".join(parts[2:4]), parts[4] if len(parts) > 4 else ""
        if kind == "preupload":
            paths = [file["path"] for file in json.loads(sent)["files"]]
            return self.send({"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths]})
        if kind == "commit":
            for line in map(json.loads, sent.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.server.files[repository][line["value"]["path"]] = content
            self.server.commits.append(parts[5])
            url = f"{self.server.url}/{repository}/commit/{COMMIT}"
            return self.send({"success": True, "commitOid": COMMIT, "commitUrl": url, "hookOutput": ""})
        return self.send({})  # of a card's front matter: nothing is wrong with it; and of a branch: it is there

    def send(self, content: object) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def answer(self, body: bool) -> None:
        parts = self.path.lstrip("/").split("/", 4)
        if len(parts) < 5:  # newer clients ask for other things too, and do without
            return self.fail(404, "")
        owner, name, _, revision, file = parts
        cdn = owner == "cdn"
        if cdn:  # where a redirect leads: /cdn/NAME/-/-/FILE
            owner = "faults"
        self.server.requests.append(f"{self.command} {file}")
        if cdn and not body:  # storage whose addresses are signed for downloads only
            return self.fail(403, "")
        if name == "portal":  # a login page before the network answers everything
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        if owner == "faults" and name in FAULTS:
            status, code = FAULTS[name]
            return self.fail(status, code)
        content = self.server.files.get(f"{owner}/{name}", {}).get(file)
        if content is None:
            return self.fail(404, "EntryNotFound" if f"{owner}/{name}" in self.server.files else "RepoNotFound")
        if revision not in ("main", COMMIT, "-"):
            return self.fail(404, "RevisionNotFound")
        weights = file.endswith(".safetensors")
        etag, size = hashlib.sha256(content).hexdigest(), len(content)
        if name == "redirect" and weights and not cdn:
            self.send_response(302)
            storage = self.server.url.replace("127.0.0.1", "localhost")  # another host, as the Hub's storage is
            self.send_header("Location", f"{storage}/cdn/redirect/-/-/{file}")
            self.send_header("X-Linked-Etag", f'"{etag}"')
            self.send_header("X-Linked-Size", str(size))
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        if name == "circle" or (name == "circle-later" and body):
            self.send_response(307)
            self.send_header("Location", self.path if name == "circle" else f"{self.server.url}{self.path}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        if name == "corrupt" and weights:
            content = content[:-1] + bytes([content[-1] ^ 1])
        self.send_response(200)
        said = {} if body and name in ("bomb", "endless") else {"Content-Length": str(size)}
        if body and name == "bomb":
            said, content, size = {"Content-Encoding": "gzip"}, gzip.compress(bytes(2**26), 1), 2**26
        said = {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'} | said | (LIES.get(name, {}) if owner == "faults" else {})
        for key, value in said.items():
            self.send_header(key, value)
        self.end_headers()
        if body and name == "endless":
            with suppress(OSError):
                for _ in range(2**20):
                    self.wfile.write(bytes(2**16))
        elif body and name == "stall" and weights:
            self.wfile.write(content[:1000])
            self.server.closing.wait(60)
        elif body:
            self.wfile.write(content[: size // 2] if name == "cut" and weights else content)
        return None

    def fail(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


def environment(home: Path, endpoint: str, **more: str) -> dict[str, str]:
    """For a process that uses the Hub at `endpoint`, with a cache of its own."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING", "DAGL_"))}
    ours = {
        "HF_HOME": str(home),
        "HF_ENDPOINT": endpoint,
        "NO_PROXY": "127.0.0.1,localhost",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "XDG_CACHE_HOME": str(home),
    }
    return kept | ours | more


CLIENT = """
import json, os, sys, time
time.sleep = lambda seconds: None  # the client's waits between attempts
from dagl_cli.errors import DaglError
from dagl_cli.store import hub, weights
if limit := int(os.environ.get("FILE_LIMIT", 0)):  # a disk that takes no more
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
hub.STALLED = float(os.environ.get("STALLED", hub.STALLED))
for spec in sys.argv[1:]:
    start, told = time.monotonic(), []
    try:
        path = weights.from_hub(hub.parse(spec), "denoise", 1, refresh=True, progress=lambda *p: told.append(p))
        outcome = {"path": str(path)}
    except DaglError as error:
        outcome = {"error": str(error), "exit_code": error.exit_code}
    print(json.dumps(outcome | {"seconds": time.monotonic() - start, "progress": told}), flush=True)
assert "torch" not in sys.modules
"""
"""Fetches every argument and prints a line of JSON for each."""


def client(specs: list[str], env: dict[str, str], **settings: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CLIENT, *specs], env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        cwd=ROOT, **settings,
    )  # fmt: skip


def outcomes(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert stderr == "", f"{stderr}: only the command line writes messages"
    return [json.loads(line) for line in stdout.splitlines()]
