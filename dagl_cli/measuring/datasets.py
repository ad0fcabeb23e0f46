"""Test sets: the published ones, whose copies are checked against what was published, and the user's own.

`datasets.json` pins every file of every published set by commit, size and SHA-256. A copy is a folder that holds one
folder per set. Loads no torch.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

import numpy as np
import PIL.Image

from .. import images
from ..config import RAW_FILES
from ..errors import DaglError, UsageError, unknown
from ..files import cache_folder, locked, visible

TIMEOUT = 30.0
"""Seconds without an answer after which a request has failed."""
WAITS = (1.0, 2.0, 4.0)
"""Seconds before each new attempt."""
WORKERS = 8
CHANNELS = {"1": 1, "L": 1, "LA": 1, "I;16": 1, "I;16B": 1, "RGB": 3, "RGBA": 3, "P": 3}
"""Pillow's modes -> channels as `images.read` gives them."""
GRAY = (0.299, 0.587, 0.114)
"""Weights of R, G and B in a gray version (ITU-R 601-2, as Pillow's mode L)."""


@dataclass(frozen=True)
class File:
    """One file of a set."""

    path: str
    """Inside the set's folder, with slashes."""
    bytes: int = 0
    sha256: str = ""
    """Of what was published; empty for a user's own file."""


@dataclass(frozen=True)
class Sample:
    """One image of a set, and where the set holds pairs, its degraded partner."""

    name: str
    clean: File
    degraded: File | None = None


@dataclass(frozen=True)
class Dataset:
    """A set of images: published, pinned to a commit of a public repository, or a user's own."""

    name: str
    note: str
    channels: int
    """1: gray, 3: RGB."""
    files: tuple[File, ...]
    repository: str = ""
    commit: str = ""
    folder: str = ""
    """In the repository."""
    clean: bool = True
    """Whether there are clean images, so that something can be measured."""
    pairs: tuple[str, str] | None = None
    """Patterns of the degraded and of the clean images' paths; the same text stands for the * of both."""
    place: Path | None = None
    """Where an own set lies; a published one lies in the data folder, under its name."""

    @property
    def samples(self) -> tuple[Sample, ...]:
        """The images that can be measured, in order; subfolders of published sets hold the authors' JPEGs of them."""
        if self.pairs:
            files = {file.path: file for file in self.files}
            both, _ = match_pairs(*self.pairs, files)
            return tuple(Sample(name, files[clean], files[bad]) for name, bad, clean in both)
        own = self.place is not None
        files_of_it = sorted((file for file in self.files if own or "/" not in file.path), key=lambda file: file.path)
        return tuple(Sample(file.path, file) for file in files_of_it)

    def path(self, file: File, folder: Path) -> Path:
        """Where a file lies; folder: holds the copies of published sets."""
        return (folder / self.name if self.place is None else self.place) / file.path

    def url(self, file: File) -> str:
        """Raises UsageError when DAGL_DATASETS_URL, which stands for a mirror, is no address."""
        host = os.environ.get("DAGL_DATASETS_URL") or RAW_FILES
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
    found = {}
    for name, entry in sets.items():
        pairs = tuple(entry["pairs"]) if "pairs" in entry else None
        files = tuple(File(**file) for file in entry["files"])
        found[name] = Dataset(name=name, **{**entry, "files": files, "pairs": pairs})
    return found


DATASETS = registry(Path(__file__).with_name("datasets.json"))


def dataset(name: str, parameter: str = "dataset") -> Dataset:
    """A published set by its name. Raises UsageError, which calls it what the caller's parameter is called."""
    if name not in DATASETS:
        raise unknown(parameter, name, DATASETS)
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


# --- own sets --------------------------------------------------------------------------------------------------------


def own(folder: Path, *, gray: bool = False) -> Dataset:
    """All images of a folder and those below it, clean; of any sizes and depths.

    gray: colour images are measured in gray. Without it the set is gray where all its images are, else RGB: then gray
    images count as three equal channels. Raises UsageError when there is no image in it.
    """
    found = [
        Path(root, name).relative_to(folder).as_posix()
        for root, names in visible(folder, _raise)
        for name in names
        if images.is_image_path(name)
    ]
    if not found:
        raise UsageError(f"`dataset` {folder} holds no images: give a folder of {images.NAMES} files")
    channels = 1 if gray else max(size(folder / path)[1] for path in found)
    name = folder.name or folder.resolve().name
    return Dataset(name, f"{len(found)} images of your own", channels, tuple(map(File, found)), place=folder)


def own_pairs(degraded: str, clean: str, *, gray: bool = False) -> Dataset:
    """Degraded images and their clean partners, as files.

    degraded, clean: patterns of paths, each with one *, which stands for the same text in both; a folder means all
    images in it, and partners may then differ in suffix. gray: as in `own`.
    Raises UsageError where an image has no partner.
    """
    patterns = [_with_star(pattern) for pattern in (degraded, clean)]
    paths: dict[str, None] = {}
    for pattern in patterns:
        before, after = (glob.escape(part) for part in pattern.split("*"))
        listed = sorted(Path(path).as_posix() for path in glob.glob(f"{before}*{after}"))
        paths |= dict.fromkeys(path for path in listed if images.is_image_path(path) and os.path.isfile(path))
    both, alone = match_pairs(patterns[0], patterns[1], paths)
    if not both:
        raise UsageError(f"`pairs` {degraded} {clean}: no two images with the same text for the *: check the patterns")
    if alone:
        more = f" and {len(alone) - 1} more have" if alone[1:] else " has"
        raise UsageError(f"`pairs`: {alone[0]}{more} no partner: complete the pairs, or narrow the patterns")
    if same := next((bad for _, bad, good in both if os.path.samefile(bad, good)), None):
        raise UsageError(f"`pairs`: {same} would be its own partner: give the noisy images first, then the clean ones")
    channels = 1 if gray else max(size(Path(path))[1] for pair in both for path in pair[1:])
    common = os.path.commonpath([os.path.abspath(os.path.dirname(pattern.split("*")[0])) for pattern in patterns])
    name = Path(common).name or "pairs"
    files = tuple(File(path) for pair in both for path in pair[1:])
    return Dataset(
        name, f"{len(both)} pairs of your own", channels, files, pairs=(patterns[0], patterns[1]), place=Path()
    )


def _with_star(pattern: str) -> str:
    """A pattern with one *, and slashes only. Raises UsageError."""
    shown = Path(pattern).as_posix()
    if os.path.isdir(pattern):
        return f"{shown}/*"
    if shown.count("*") != 1:
        raise UsageError(f"`pairs` {pattern}: write a folder, or a pattern with one *, as 'shots/*_noisy.png'")
    return shown


def match_pairs(degraded: str, clean: str, paths: Iterable[str]) -> tuple[list[tuple[str, str, str]], list[str]]:
    """([(what stands for the *, degraded path, clean path)], sorted; paths that match one pattern only).

    Where a pattern ends in its *, the suffix of the file is not part of it.
    """
    found: tuple[dict[str, str], dict[str, str]] = {}, {}
    for path in paths:
        for i, pattern in enumerate((degraded, clean)):
            before, after = pattern.split("*")
            match = re.fullmatch(f"{re.escape(before)}([^/]+){re.escape(after)}", path)
            if match:
                star = match[1] if after else match[1].rpartition(".")[0] or match[1]
                found[i].setdefault(star, path)
    names = sorted(found[0].keys() & found[1].keys())
    lonely = [path for own, other in (found, found[::-1]) for star, path in own.items() if star not in other]
    return [(name, found[0][name], found[1][name]) for name in names], lonely


def _raise(error: OSError) -> None:
    raise UsageError(f"`dataset` {error.filename}: {error.strerror}: make it readable") from None


def size(path: Path) -> tuple[int, int]:
    """(pixels, channels) of an image file, 1 or 3 channels; from its header where Pillow knows the kind.

    Raises ImageError.
    """
    with suppress(Exception):  # whatever Pillow says of it: `images.read` decides
        with PIL.Image.open(path) as image:
            (width, height), mode = image.size, image.mode
        if mode in CHANNELS:
            return width * height, CHANNELS[mode]
    pixels = images.read(path).pixels
    return pixels.shape[0] * pixels.shape[1], pixels.shape[2]


# --- content ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Loaded:
    """A sample's pixels, (H, W, C) float32 in [0, 1], C as its dataset's."""

    clean: np.ndarray
    degraded: np.ndarray | None
    """None: it is to be made from the clean image."""
    depth: int
    """Bits per sample of the clean file."""
    sha256: str
    """Of what was read."""


def load(entry: Dataset, sample: Sample, folder: Path) -> Loaded:
    """A sample of the copy in `folder`, its content checked. Raises DaglError."""
    contents, pictures = [], []
    for file in (sample.clean, sample.degraded):
        if file is not None:
            contents.append(read(entry, file, folder))
            pictures.append(images.read(contents[-1], name=str(entry.path(file, folder))))
    clean, degraded = [_in_channels(picture, entry.channels) for picture in pictures] + [None] * (2 - len(pictures))
    assert clean is not None
    if degraded is not None and degraded.shape != clean.shape:
        sizes = [f"{x.shape[1]}x{x.shape[0]}" for x in (degraded, clean)]
        raise DaglError(
            f"{entry.name}/{sample.name}: the degraded image is {sizes[0]}, the clean one {sizes[1]}: crop one"
        )
    return Loaded(clean, degraded, pictures[0].depth, hashlib.sha256(b"".join(contents)).hexdigest())


def _in_channels(picture: images.Image, channels: int) -> np.ndarray:
    """Gray as three equal channels, or colour in gray, rounded to the file's levels."""
    pixels = picture.pixels
    if pixels.shape[-1] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=-1)
    top = 2**picture.depth - 1
    gray = (pixels.astype(np.float64) @ np.array(GRAY))[..., None]
    return ((gray * top).round() / top).astype(np.float32)


def read(entry: Dataset, file: File, folder: Path) -> bytes:
    """The content of a file of the copy in `folder`. Raises DaglError when it is missing or not what was published."""
    path = entry.path(file, folder)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        problem = "is missing"
    except OSError as error:
        raise DaglError(f"{path}: {error.strerror}: make it readable") from None
    else:
        if not file.sha256 or hashlib.sha256(content).hexdigest() == file.sha256:
            return content
        problem = "is not the published file (its SHA-256 differs)"
    if entry.place is not None:
        raise DaglError(f"{path} {problem}")
    raise DaglError(f"{path} {problem}: `dagl datasets download {entry.name} --data-dir {folder}` fetches it")


# --- copies of the published sets ------------------------------------------------------------------------------------


def verify(entry: Dataset, folder: Path) -> dict[str, str]:
    """'ok', 'missing' or 'damaged' for every file of the copy in `folder`, by its path inside the set."""
    return {file.path: _state(file, folder / entry.name / file.path) for file in entry.files}


def _state(file: File, path: Path) -> str:
    if not path.is_file():
        return "missing"
    if path.stat().st_size != file.bytes:
        return "damaged"
    digest = hashlib.sha256()
    with path.open("rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
    return "ok" if digest.hexdigest() == file.sha256 else "damaged"


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
            give_up(f"{target}: {error.strerror}: choose another `data_dir`, or make room", True)

    try:
        (folder / entry.name).mkdir(parents=True, exist_ok=True)
        with locked(folder / f".{entry.name}.lock"), ThreadPoolExecutor(WORKERS) as pool:
            try:
                list(pool.map(fetch, lacking))
            except BaseException:
                stop.set()
                raise
    except OSError as error:
        raise DaglError(f"{folder}: {error.strerror}: choose another `data_dir`") from None
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
    import http.client  # what takes longest to load here, for the one function that few commands reach
    import ssl
    import urllib.error
    import urllib.request

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
        raise _Failed(
            f"cannot reach {url} ({reason}): check the network, or give a copy by `data_dir`", for_all=True
        ) from None
    except (ConnectionError, http.client.HTTPException, ssl.SSLError):
        pass  # judged by what arrived
    size = part.stat().st_size if part.is_file() else 0
    if size < file.bytes:
        raise _Failed(f"{url} was cut off after {size} of {file.bytes} bytes: the same command goes on from here")
    if _state(file, part) != "ok":
        part.unlink()
        raise _Failed(f"{url} does not send the published file (its SHA-256 differs): try later or elsewhere")
    os.replace(part, target)
