"""One file from the Hugging Face Hub, from its cache if it is there. Loads no torch.

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
import warnings
from collections.abc import Callable, Collection
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import UsageError, WeightsError

COMMIT = re.compile(r"[0-9a-f]{40}")
"""A full commit: what it names never changes, so a cached copy needs no request."""
SPEC = re.compile(r"hub:(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^@:]+))?(?::(?P<file>[\w+-][\w. +-]*))?")
NAME = r"[\w+-][\w. +-]*"
"""Of a file in a repository or a manifest: no folders."""
SECONDS = 5
"""Without an answer, after which a host counts as dead; HF_HUB_ETAG_TIMEOUT takes its place."""
STALLED = 15.0
"""Seconds in which nothing of a file comes, after which its download is given up."""
NETWORK = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")
"""Packages whose errors mean that nobody answered."""

Progress = Callable[[str, int, int | None], None]
"""Called with a file's name, the bytes that are here, and the bytes in all (None: not known)."""


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
    spec: Spec, *, offline: bool = False, refresh: bool = False, progress: Progress = lambda name, done, total: None
) -> Path:
    """The local path of a file: `.../snapshots/COMMIT/FILE` in the Hub's cache.

    A cached copy is taken without a request, whatever branches have become since, unless `refresh` asks for the
    newest. What is fetched is not checked here, because the Hub's client compares sizes only.
    Raises WeightsError, one line with the remedy, for whatever is in the way.
    """
    try:
        import huggingface_hub as hf
        from huggingface_hub.utils import (  # type: ignore[attr-defined]
            build_hf_headers,
            disable_progress_bars,
            get_session,
            hf_raise_for_status,
        )
    except ValueError as error:  # it reads its environment variables when it is imported
        raise WeightsError(f"{spec}: huggingface_hub refuses a setting ({error}): correct the HF_ variables") from None

    assert spec.file is not None
    offline = offline or is_offline()
    try:
        cached = hf.try_to_load_from_cache(spec.repository, spec.file, revision=spec.revision)
        if isinstance(cached, str) and not (refresh and not offline and not COMMIT.fullmatch(spec.revision)):
            return Path(cached)
        if offline:
            raise hf.errors.LocalEntryNotFoundError("offline")
        # one request first: hf_hub_download answers a dead host with half a minute of attempts
        timeout = int(os.environ.get("HF_HUB_ETAG_TIMEOUT") or SECONDS)
        url = hf.hf_hub_url(spec.repository, spec.file, revision=spec.revision)
        session: Any = get_session()
        # not to where the file is stored: that may answer downloads only (requests and httpx name it differently)
        name = next(n for n in ("follow_redirects", "allow_redirects") if n in _parameters(session.request))
        answer = session.head(url, headers=build_hf_headers(), timeout=timeout, **{name: False})
        if answer.status_code >= 400:
            hf_raise_for_status(answer)
        size = int(answer.headers.get("X-Linked-Size") or answer.headers.get("Content-Length") or 0) or None
        progress(spec.file, 0, size)
        moved = time.monotonic()

        def report(name: str, done: int, total: int | None) -> None:
            nonlocal moved
            moved = time.monotonic()
            progress(name, done, total)

        extra: dict[str, Any] = {}
        if "tqdm_class" in _parameters(hf.hf_hub_download):  # since huggingface_hub 1.0
            extra["tqdm_class"] = _bar(spec.file, report)
        download = partial(
            hf.hf_hub_download, spec.repository, spec.file, revision=spec.revision, etag_timeout=timeout,
            library_name="dagl", **extra,
        )  # fmt: skip
        disable_progress_bars()
        hf.logging.set_verbosity_error()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # little room: either it suffices, or the error says so
            path = _unless_stalled(download, lambda: moved) if extra else download()
        progress(spec.file, size or 1, size or 1)
        return Path(path)
    except Exception as error:  # whatever HTTP library the client is built on: requests, httpx or httpx2
        raise WeightsError(f"{spec}: {_explain(error, spec, offline)}") from None


def is_offline() -> bool:
    """Whether the Hub's own settings forbid requests (HF_HUB_OFFLINE)."""
    import huggingface_hub as hf

    return bool(hf.constants.HF_HUB_OFFLINE)


def _unless_stalled(download: Callable[[], str], moved: Callable[[], float]) -> str:
    """download(), in a thread that is left behind once nothing moved for `STALLED` seconds.

    The Hub's client itself tries again for more than a minute. moved: when something did, by the monotonic clock.
    Raises TimeoutError, and whatever `download` raises.
    """
    outcome: Future[str] = Future()

    def run() -> None:
        try:
            outcome.set_result(download())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    while not outcome.done() and time.monotonic() - moved() < STALLED:
        wait((outcome,), timeout=0.2)
    if not outcome.done():
        raise TimeoutError(f"nothing came for {STALLED:g} s")
    return outcome.result()


def _parameters(function: Callable[..., Any]) -> Collection[str]:
    return inspect.signature(function).parameters


def discard(path: Path) -> None:
    """Remove a damaged file from the Hub's cache, so that the next attempt fetches it again. Raises WeightsError."""
    try:
        for part in (path.resolve(), path):
            part.unlink(missing_ok=True)
    except OSError as error:
        raise WeightsError(f"{path}: damaged, and cannot be removed ({error.strerror}): remove it yourself") from None


def _bar(name: str, progress: Progress) -> type:
    """A tqdm that draws nothing and tells `progress`."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    class Bar(tqdm):  # type: ignore[misc]
        monitor_interval = 0

        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **settings | {"disable": False, "file": io.StringIO()})

        def display(self, *args: Any, **settings: Any) -> None:
            pass

        def update(self, n: float | None = 1) -> None:
            super().update(n)
            progress(name, int(self.n), None if self.total is None else int(self.total))

    return Bar


def _explain(error: Exception, spec: Spec, offline: bool) -> str:
    """What went wrong and what to do, from the most special class of error to the most general."""
    import huggingface_hub as hf

    page = f"{hf.constants.ENDPOINT}/{spec.repository}"
    whole = spec if (spec.file or "").endswith(".safetensors") else replace(spec, file=None)  # with the manifest
    text = " ".join(str(error).split())
    status = getattr(getattr(error, "response", None), "status_code", None)
    match error:
        case hf.errors.GatedRepoError():
            return f"access is gated: accept its terms on {page}, then `hf auth login` or set HF_TOKEN"
        case hf.errors.RepositoryNotFoundError():
            return "no such repository, or it is private: check the name, or `hf auth login` or set HF_TOKEN"
        case hf.errors.RevisionNotFoundError():
            return f"no such revision: choose a commit, branch or tag of {page}/commits"
        case hf.errors.LocalEntryNotFoundError() if not offline and not _is_network(error):
            return (
                f"{hf.constants.ENDPOINT} does not answer as a Hub does: check HF_ENDPOINT, the proxy, "
                "or whether a login page stands before the network"
            )
        case hf.errors.LocalEntryNotFoundError() | hf.errors.OfflineModeIsEnabled() if offline:
            return (
                f"not in the Hub's cache, and dagl is offline: run `dagl weights download {whole}` once with a network"
            )
        case hf.errors.EntryNotFoundError() if not isinstance(error, hf.errors.LocalEntryNotFoundError):
            return f"no such file in the repository: {page}/tree/{spec.revision} shows what there is"
        case hf.errors.HFValidationError():
            return "no valid name of a repository: write hub:OWNER/REPO"
        case hf.errors.HfHubHTTPError() if status in (401, 403):
            return f"the Hub refuses access ({status}): `hf auth login` or set HF_TOKEN to one that may read {page}"
        case hf.errors.HfHubHTTPError() if status is not None:
            return f"the Hub answers {status}: try again later, or give a file with --model"
        case _ if re.search(r"onsistency check|complete message body|IncompleteRead|broken: ", text):
            return "the download was cut off: run the command again"
        case OSError() if error.errno is not None and error.strerror and not isinstance(error, ConnectionError):
            cache = hf.constants.HF_HUB_CACHE
            return f"cannot write to the cache {cache} ({error.strerror}): make room there, or set HF_HOME elsewhere"
    url = str(getattr(getattr(error, "request", None), "url", None) or hf.constants.ENDPOINT)
    host = "/".join(url.split("/")[:3])
    root = _root(error)
    reason = " ".join(str(root).split())[:200]
    return (
        f"cannot reach {host} ({type(root).__name__}{': ' if reason else ''}{reason}): "
        "check the network and proxy, or give a file with --model"
    )


def _root(error: BaseException) -> BaseException:
    """The error at the bottom: clients wrap them, as causes, as `reason` or as the first argument."""
    seen: list[BaseException] = []
    while error not in seen:
        seen.append(error)
        inner = (error.__cause__, getattr(error, "reason", None), *error.args[:1])
        error = next((e for e in inner if isinstance(e, BaseException)), error)
    return error


def _is_network(error: BaseException) -> bool:
    """Whether the Hub's client gave up because nobody answered, and not because of what the answer was."""
    root = _root(error)
    return isinstance(root, ConnectionError | TimeoutError) or type(root).__module__.split(".")[0] in NETWORK
