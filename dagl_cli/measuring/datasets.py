"""The paper's test sets: which files they are, where they are public, and copies whose content is checked.

`datasets.json` pins every file of every set by commit, size and SHA-256. A copy is a folder that holds one folder per
set; files are checked against their SHA-256 whenever they are read. Loads no torch.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from filelock import FileLock

from ..errors import DaglError, UsageError
from ..files import cache_folder

HOST = "https://raw.githubusercontent.com"
"""Where the files are public; the environment's DAGL_DATASETS_URL takes its place (a mirror)."""
TIMEOUT = 30.0
"""Seconds without an answer after which a request has failed."""
WAITS = (1.0, 2.0, 4.0)
"""Seconds before each new attempt."""
WORKERS = 8


@dataclass(frozen=True)
class File:
    """One file of a set."""

    path: str
    """Inside the set's folder, with slashes."""
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Dataset:
    """A published set of images, pinned to a commit of a public repository."""

    name: str
    note: str
    channels: int
    """1: gray, 3: RGB."""
    repository: str
    commit: str
    folder: str
    files: tuple[File, ...]
    clean: bool = True
    """Whether the images are clean, so that something can be measured on them."""

    @property
    def images(self) -> tuple[File, ...]:
        """The images themselves, in order; subfolders hold the authors' JPEGs of them."""
        return tuple(sorted((file for file in self.files if "/" not in file.path), key=lambda file: file.path))

    def url(self, file: File) -> str:
        """Raises UsageError when DAGL_DATASETS_URL is none."""
        host = os.environ.get("DAGL_DATASETS_URL") or HOST
        try:
            sound = urlsplit(host).scheme in ("http", "https", "file") and urlsplit(host).port != 0
        except ValueError:  # a port that is no number
            sound = False
        if not sound:
            raise UsageError(f"DAGL_DATASETS_URL is '{host}': write an address as https://HOST/FOLDER")
        return f"{host.rstrip('/')}/{quote(f'{self.repository}/{self.commit}/{self.folder}/{file.path}')}"


def registry(path: Path) -> dict[str, Dataset]:
    """The sets that a registry file (as `datasets.json`) describes, by name."""
    sets = json.loads(path.read_text(encoding="utf-8"))
    return {
        name: Dataset(name=name, **{**entry, "files": tuple(File(**file) for file in entry["files"])})
        for name, entry in sets.items()
    }


DATASETS = registry(Path(__file__).with_name("datasets.json"))


def dataset(name: str) -> Dataset:
    """A set by its name. Raises UsageError."""
    if name not in DATASETS:
        raise UsageError(f"dataset {name} is unknown: choose one of {', '.join(DATASETS)}")
    return DATASETS[name]


def known_images() -> dict[str, str]:
    """SHA-256 of every file of every set -> its name, as 'Set12/01.png'. What is trained on must not be in it."""
    return {file.sha256: f"{name}/{file.path}" for name, entry in DATASETS.items() for file in entry.files}


def known_pictures() -> dict[str, int]:
    """'Set12/01.png' -> `training.photos.picture_hash`, of the images of the test sets."""
    text = Path(__file__).with_name("pictures.json").read_text(encoding="utf-8")
    return {name: int(value, 16) for name, value in json.loads(text).items()}


def default_folder() -> Path:
    """Where the sets lie unless --data-dir (or DAGL_DATA_DIR) says otherwise."""
    return cache_folder() / "datasets"


def read(entry: Dataset, file: File, folder: Path) -> bytes:
    """The content of a file of the copy in `folder`. Raises DaglError when it is missing or not what was published."""
    path = folder / entry.name / file.path
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        problem = "is missing"
    except OSError as error:
        raise DaglError(f"{path}: {error.strerror}: make it readable") from None
    else:
        if hashlib.sha256(content).hexdigest() == file.sha256:
            return content
        problem = "is not the published file (its SHA-256 differs)"
    raise DaglError(f"{path} {problem}: `dagl datasets download {entry.name} --data-dir {folder}` fetches it")


def verify(entry: Dataset, folder: Path) -> dict[str, str]:
    """'ok', 'missing' or 'damaged' for every file of the copy in `folder`, by its path inside the set."""
    return {file.path: _state(file, folder / entry.name / file.path) for file in entry.files}


def _state(file: File, path: Path) -> str:
    if not path.is_file():
        return "missing"
    same = path.stat().st_size == file.bytes and hashlib.sha256(path.read_bytes()).hexdigest() == file.sha256
    return "ok" if same else "damaged"


def download(
    entry: Dataset,
    folder: Path,
    files: tuple[File, ...] | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> list[str]:
    """Fetch what the copy in `folder` lacks; returns one line for each file that could not be had.

    A file is there under its name only when it is complete and its SHA-256 is right; what was cut off lies beside it
    as `.part` and is continued by the next attempt, in this run or a later one. A complete copy is left alone, and
    nothing is requested. A second process waits for the first, and then finds its files.

    files: which of the set's; None: all. progress: called from several threads with the bytes of every finished file,
    and of those that were there. Raises DaglError when the folder cannot be written to.
    """

    files = files or entry.files
    lacking = [file for file in files if _state(file, folder / entry.name / file.path) != "ok"]
    progress(sum(file.bytes for file in files) - sum(file.bytes for file in lacking))
    if not lacking:
        return []
    stop = threading.Event()  # set when the host cannot be reached, the disk is full, or the user interrupts
    one_at_a_time = threading.Lock()
    failures: list[str] = []

    def give_up(line: str, for_all: bool) -> None:
        with one_at_a_time:
            if not (for_all and stop.is_set()):  # said once
                failures.append(line)
            if for_all:
                stop.set()

    def fetch(file: File) -> None:
        target = folder / entry.name / file.path
        if stop.is_set():
            return
        try:
            if _state(file, target) != "ok":  # another process may have fetched it
                target.parent.mkdir(parents=True, exist_ok=True)
                _fetch(entry.url(file), file, target, stop)
            progress(file.bytes)
        except _Failed as failed:
            give_up(f"{entry.name}/{file.path}: {failed}", failed.for_all)
        except OSError as error:
            give_up(f"{target}: {error.strerror}: choose another folder by --data-dir, or make room", True)

    try:
        (folder / entry.name).mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{entry.name}.lock"), ThreadPoolExecutor(WORKERS) as pool:
            try:
                list(pool.map(fetch, lacking))
            except BaseException:
                stop.set()
                raise
    except OSError as error:
        raise DaglError(f"{folder}: {error.strerror}: choose another folder by --data-dir") from None
    return sorted(failures)


class _Failed(Exception):
    """Why a file could not be had."""

    def __init__(self, reason: str, *, again: bool = True, for_all: bool = False) -> None:
        super().__init__(reason)
        self.again, self.for_all = again, for_all


def _fetch(url: str, file: File, target: Path, stop: threading.Event) -> None:
    """One file, in as many attempts as `WAITS` allows. Raises _Failed, or OSError where it cannot be written."""
    for wait in (*WAITS, None):
        try:
            return _attempt(url, file, target, stop)
        except _Failed as failed:
            if wait is None or not failed.again or stop.wait(wait):
                raise


def _attempt(url: str, file: File, target: Path, stop: threading.Event) -> None:
    part = target.with_name(target.name + ".part")
    have = part.stat().st_size if part.is_file() else 0
    have = have if have < file.bytes else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            continued = have > 0 and answer.status == 206
            with part.open("ab" if continued else "wb") as out:
                while (chunk := answer.read1(1 << 16)) and out.tell() <= file.bytes:
                    if stop.is_set():
                        raise _Failed("interrupted", again=False, for_all=True)
                    out.write(chunk)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # what lies here is not the start of that file
            part.unlink()
        again = error.code in (408, 416, 429) or error.code >= 500
        raise _Failed(f"{url} answers {error.code} {error.reason}: try later or elsewhere", again=again) from None
    except (TimeoutError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            raise _Failed(f"{url} gave no answer for {TIMEOUT:g} s: the same command goes on from here") from None
        raise _Failed(f"cannot reach {url} ({reason}): check the network, or use a local copy", for_all=True) from None
    except (ConnectionError, http.client.HTTPException, ssl.SSLError):
        pass  # judged by what arrived
    size = part.stat().st_size if part.is_file() else 0
    if size < file.bytes:
        raise _Failed(f"{url} was cut off after {size} of {file.bytes} bytes: the same command goes on from here")
    if _state(file, part) != "ok":
        part.unlink()
        raise _Failed(f"{url} does not send the published file (its SHA-256 differs): try later or elsewhere")
    os.replace(part, target)
