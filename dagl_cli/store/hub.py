"""The Hugging Face Hub: one file, from its cache if it is there, and an upload. Loads no torch.

What the Hub's own client is configured with holds here too: HF_ENDPOINT, HF_HOME, HF_TOKEN (`hf auth login`),
HF_HUB_OFFLINE, HF_HUB_ETAG_TIMEOUT and the proxy variables.
"""

from __future__ import annotations

import inspect
import io
import os
import re
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from ..errors import UsageError, WeightsError, one_line
from ..files import replacing, write

REPOSITORY: str | None = None
"""OWNER/REPO@COMMIT where the weights lie that are not bundled; there is none yet. $DAGL_HUB_REPO takes its place."""
COMMIT = re.compile(r"[0-9a-f]{40}")
"""A full commit: what it names never changes, so a cached copy needs no request."""
SPEC = re.compile(
    r"hub:(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>\w[\w.+-]*(?:/\w[\w.+-]*)*))?(?::(?P<file>[\w+-][\w. +-]*))?"
)
NAME = r"[\w+-][\w. +-]*"
"""Of a file in a repository or a manifest: no folders."""
ETAG = re.compile(r'(W/)?"?[A-Za-z0-9_+=.:-]{1,200}"?')
"""What names a content: the Hub's are hashes. Anything else comes from somebody who is no Hub."""
LARGEST = 512 * 2**20
"""Bytes of a file that is fetched; the largest network that is described in the paper has 28 million."""
REDIRECTS = 5
"""On the Hub's own host."""
SECONDS = 5
"""Without an answer, after which a host counts as dead; HF_HUB_ETAG_TIMEOUT takes its place."""
STALLED = 15.0
"""Seconds in which nothing of a file comes, after which its download is given up."""
DownloadProgress = Callable[[str, int, int], None]
"""Called with a file's name, the bytes that are here, and the bytes in all."""


@dataclass(frozen=True)
class Spec:
    """`hub:OWNER/REPO[@REVISION][:FILE]`: a repository, a commit (or branch, or tag), a file in it."""

    repository: str
    revision: str = "main"
    file: str | None = None

    def __str__(self) -> str:
        return f"hub:{self.repository}@{self.revision}" + (f":{self.file}" if self.file else "")


def parse(text: str) -> Spec:
    """Raises UsageError."""
    match = SPEC.fullmatch(text)
    if not match:
        raise UsageError(f"'{text}' is no model on the Hub: write hub:OWNER/REPO, hub:OWNER/REPO@REVISION:FILE")
    return Spec(match["repository"], match["revision"] or "main", match["file"])


def fetch(
    spec: Spec,
    *,
    offline: bool = False,
    refresh: bool = False,
    largest: int = LARGEST,
    progress: DownloadProgress = lambda name, done, total: None,
) -> Path:
    """The local path of a file: `.../snapshots/COMMIT/FILE` in the Hub's cache.

    A cached copy is taken without a request, whatever branches have become since, unless `refresh` asks for the
    newest. What is fetched is not checked here, but for its size: at most `largest` bytes, and as many as was said.
    Raises WeightsError, one line with the remedy, for whatever is in the way.
    """
    try:
        import huggingface_hub as hf
        from huggingface_hub import constants, errors
    except ValueError as error:  # it reads its environment variables when it is imported
        raise WeightsError(f"{spec}: huggingface_hub refuses a setting ({error}): correct the HF_ variables") from None

    assert spec.file is not None
    offline = offline or bool(constants.HF_HUB_OFFLINE)
    try:
        cached = hf.try_to_load_from_cache(spec.repository, spec.file, revision=spec.revision)
        if isinstance(cached, str) and not (refresh and not offline and not COMMIT.fullmatch(spec.revision)):
            return Path(cached)
        if offline:
            raise errors.LocalEntryNotFoundError("offline")
        return _download(spec, largest, progress)
    except WeightsError as error:
        raise WeightsError(f"{spec}: {error}") from None
    except Exception as error:  # whatever HTTP library the client is built on: requests, httpx or httpx2
        raise WeightsError(f"{spec}: {_explain(error, spec, offline)}") from None


def _download(spec: Spec, largest: int, progress: DownloadProgress) -> Path:
    """Fetch a file into the Hub's cache, laid out as by its own client where there are no links: `refs`, `snapshots`.

    The client's hf_hub_download would join the server's ETag into a path and take any size. Of what the server says,
    only a full commit goes into a path here.
    """
    import huggingface_hub as hf
    from huggingface_hub import constants
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers, disable_progress_bars  # type: ignore[attr-defined]

    assert spec.file is not None
    url = hf.hf_hub_url(spec.repository, spec.file, revision=spec.revision)
    headers = build_hf_headers(library_name="dagl") | {"Accept-Encoding": "identity"}
    answer = _head(url, headers)
    commit, etag = answer.get("X-Repo-Commit", ""), answer.get("X-Linked-Etag") or answer.get("ETag", "")
    said = answer.get("X-Linked-Size") or answer.get("Content-Length", "")
    if not COMMIT.fullmatch(commit) or not ETAG.fullmatch(etag) or not re.fullmatch("[0-9]{1,15}", said):
        raise WeightsError(_no_hub())
    size = int(said)
    if size > largest:
        raise WeightsError(f"{spec.file} has {size:,} bytes, dagl takes {largest:,} at most: is it the right file?")
    folder = Path(constants.HF_HUB_CACHE) / f"models--{spec.repository.replace('/', '--')}"
    target = folder / "snapshots" / commit / spec.file
    target.parent.mkdir(parents=True, exist_ok=True)
    progress(spec.file, 0, size)
    hf.logging.set_verbosity_error()
    disable_progress_bars()
    with replacing(target) as temporary, _Arriving(temporary, size, partial(progress, spec.file)) as file:
        _unless_stalled(lambda: http_get(url, file, headers=headers, expected_size=size), lambda: file.moved)
    if not COMMIT.fullmatch(spec.revision):  # a branch or a tag: what it is now
        (ref := folder / "refs" / spec.revision).parent.mkdir(parents=True, exist_ok=True)
        write(ref, commit.encode())
    return target


def _head(url: str, headers: dict[str, str]) -> Mapping[str, str]:
    """The headers of the Hub's answer; redirects are followed on its own host alone (a repository that was renamed),
    and not to where the file is stored, which may answer downloads only."""
    from huggingface_hub.utils import get_session, hf_raise_for_status  # type: ignore[attr-defined]

    session: Any = get_session()
    timeout = int(os.environ.get("HF_HUB_ETAG_TIMEOUT") or SECONDS)
    # requests and httpx name it differently
    follow = next(n for n in ("follow_redirects", "allow_redirects") if n in _parameters(session.request))
    for _ in range(REDIRECTS):
        answer = session.head(url, headers=headers, timeout=timeout, **{follow: False})
        if answer.status_code >= 400:
            hf_raise_for_status(answer)
        place = answer.headers.get("Location", "")
        if not 300 <= answer.status_code < 400 or urlsplit(place).netloc:
            found: Mapping[str, str] = answer.headers
            return found
        url = urljoin(url, place)
    raise WeightsError(f"{'/'.join(url.split('/')[:3])} redirects without an end: check HF_ENDPOINT")


class _Arriving(io.BufferedRandom):
    """A file that is being downloaded: it takes no more than was said, and tells how far it is."""

    def __init__(self, path: Path, size: int, progress: Callable[[int, int], None]) -> None:
        super().__init__(io.FileIO(path, "x+"))
        self.size, self.progress, self.moved = size, progress, time.monotonic()

    def write(self, data: Any) -> int:
        count = super().write(data)
        self.moved = time.monotonic()
        if self.tell() > self.size:
            raise WeightsError("the Hub sends more than it said: try again later, or give a file as `model`")
        self.progress(self.tell(), self.size)
        return count


def push(folder: Path, names: Iterable[str], repository: str, *, private: bool = False, revision: str = "main") -> Spec:
    """Upload files of a folder in one commit, with the client's own token; the repository is made if there is none.

    Returns what names the commit. Raises UsageError for a name that is none, WeightsError for what is in the way.
    """
    spec = replace(parse(f"hub:{repository}"), revision=revision)
    if spec.file or "@" in repository:
        raise UsageError(f"'{repository}' is no repository: write OWNER/REPO, and a branch as `revision`")
    try:
        import huggingface_hub as hf
    except ValueError as error:
        raise WeightsError(f"{spec}: huggingface_hub refuses a setting ({error}): correct the HF_ variables") from None

    if is_offline():
        raise WeightsError(f"{spec}: HF_HUB_OFFLINE is set: nothing can be uploaded")
    try:
        hf.logging.set_verbosity_error()
        hub = hf.HfApi(library_name="dagl")
        hub.create_repo(spec.repository, private=private, exist_ok=True)
        if revision != "main":
            hub.create_branch(spec.repository, branch=revision, exist_ok=True)
        files = [hf.CommitOperationAdd(name, folder / name) for name in names]
        made = hub.create_commit(spec.repository, files, commit_message="Weights of dagl", revision=revision)
    except Exception as error:  # as in `fetch`
        raise WeightsError(f"{spec}: {_explain(error, spec, offline=False, writing=True)}") from None
    if not COMMIT.fullmatch(made.oid):
        raise WeightsError(f"{spec}: {_no_hub()}")
    return replace(spec, revision=made.oid)


def is_offline() -> bool:
    """Whether the Hub's own settings forbid requests (HF_HUB_OFFLINE)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _unless_stalled(download: Callable[[], None], moved: Callable[[], float]) -> None:
    """download(), in a thread that is left behind once nothing moved for `STALLED` seconds.

    The Hub's client itself tries again for more than a minute. moved: when something did, by the monotonic clock.
    Raises TimeoutError, and whatever `download` raises.
    """
    outcome: Future[None] = Future()

    def run() -> None:
        try:
            download()
            outcome.set_result(None)
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    while not outcome.done() and time.monotonic() - moved() < STALLED:
        wait((outcome,), timeout=0.2)
    if not outcome.done():
        raise TimeoutError(f"nothing came for {STALLED:g} s")
    outcome.result()


def _parameters(function: Callable[..., Any]) -> Collection[str]:
    return inspect.signature(function).parameters


def discard(path: Path) -> None:
    """Remove a damaged file from the Hub's cache, so that the next attempt fetches it again. Raises WeightsError.

    What it links to is removed with it where that is of the same repository's cache, and never elsewhere.
    """
    folder = path.parents[2].resolve()  # .../snapshots/COMMIT/FILE
    try:
        for part in (path.resolve(), path.parent.resolve() / path.name):
            if part.is_relative_to(folder):
                part.unlink(missing_ok=True)
    except OSError as error:
        raise WeightsError(f"{path}: damaged, and cannot be removed ({error.strerror}): remove it yourself") from None


def _explain(error: Exception, spec: Spec, offline: bool, writing: bool = False) -> str:
    """What went wrong and what to do, from the most special class of error to the most general."""
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{spec.repository}"
    whole = spec if (spec.file or "").endswith(".safetensors") else replace(spec, file=None)  # with the manifest
    instead = "" if writing else ", or give a file as `model`"
    text = one_line(error)
    status = getattr(getattr(error, "response", None), "status_code", None)
    match error:
        case errors.GatedRepoError():
            return f"access is gated: accept its terms on {page}, then `hf auth login` or set HF_TOKEN"
        case errors.RepositoryNotFoundError():
            return "no such repository, or it is private: check the name, or `hf auth login` or set HF_TOKEN"
        case errors.RevisionNotFoundError():
            return f"no such revision: choose a commit, branch or tag of {page}/commits"
        case errors.LocalEntryNotFoundError() | errors.OfflineModeIsEnabled() if offline:
            return (
                f"not in the Hub's cache, and dagl is offline: run `dagl weights download {whole}` once with a network"
            )
        case errors.EntryNotFoundError() if not isinstance(error, errors.LocalEntryNotFoundError):
            theirs = ", so it holds no weights of dagl" if spec.file == "manifest.json" else ""
            return f"no such file in the repository{theirs}: {page}/tree/{spec.revision} shows what there is"
        case errors.HFValidationError():
            return "no valid name of a repository: write hub:OWNER/REPO"
        case errors.HfHubHTTPError() if status in (401, 403):
            right = "write to" if writing else "read"
            return f"the Hub refuses access ({status}): `hf auth login` or set HF_TOKEN to one that may {right} {page}"
        case errors.HfHubHTTPError() if status is not None:
            return f"the Hub answers {status}: try again later{instead}"
        case _ if re.search(r"onsistency check|complete message body|IncompleteRead|broken: ", text):
            return "the download was cut off: run the command again"
        case OSError() if error.errno is not None and error.strerror and not isinstance(error, ConnectionError):
            cache = constants.HF_HUB_CACHE
            return f"cannot write to the cache {cache} ({error.strerror}): make room there, or set HF_HOME elsewhere"
    url = str(getattr(getattr(error, "request", None), "url", None) or constants.ENDPOINT)
    host = "/".join(url.split("/")[:3])
    root = _root(error)
    reason = " ".join(str(root).split())[:200]
    return (
        f"cannot reach {host} ({type(root).__name__}{': ' if reason else ''}{reason}): "
        f"check the network and proxy{instead}"
    )


def _no_hub() -> str:
    from huggingface_hub import constants

    return (
        f"{constants.ENDPOINT} does not answer as a Hub does: check HF_ENDPOINT, the proxy, "
        "or whether a login page stands before the network"
    )


def _root(error: BaseException) -> BaseException:
    """The error at the bottom: clients wrap them, as causes, as `reason` or as the first argument."""
    seen: list[BaseException] = []
    while error not in seen:
        seen.append(error)
        inner = (error.__cause__, getattr(error, "reason", None), *error.args[:1])
        error = next((e for e in inner if isinstance(e, BaseException)), error)
    return error
