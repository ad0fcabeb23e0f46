"""Work in steps, so that several files can be in work at once: one in the network, others read, judged and encoded."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")
K = TypeVar("K")
Steps = Generator[Callable[[], Any], Any, T]
"""Work that yields what may be done in another thread, and gets its result, or its error, back."""


def finished(steps: Steps[T]) -> T:
    """All steps, one after the other, in this thread."""
    try:
        aside = next(steps)
        while True:
            try:
                result = aside()
            except BaseException as error:
                aside = steps.throw(error)
            else:
                aside = steps.send(result)
    except StopIteration as end:
        found: T = end.value
        return found


def overlapped(
    works: Iterable[K], steps: Callable[[K], Steps[T]], size: Callable[[K], int], threads: int, most: int
) -> Iterator[tuple[K, T, float]]:
    """Each work with its result and the seconds that it took, in the order of the works.

    Whatever steps do between two yields they do in this thread, so it can be interrupted, and nothing else has the
    device; what they yield is done in others. An error comes in its work's turn, after what was begun before it; then,
    and at an interrupt, the steps of what was begun are closed.

    threads: as many works are begun at once at most. most: and as many as have this size together, but always one.
    """
    pool = ThreadPoolExecutor(threads)
    begun: deque[_Begun[K, T]] = deque()
    waiting = ((work, size(work)) for work in works)
    following = None
    try:
        while True:
            if begun and begun[0].ended:
                first = begun.popleft()
                if first.error:
                    raise first.error
                yield first.work, first.result, first.seconds
                continue
            failed = any(one.error for one in begun)
            if following is None and len(begun) < threads and not failed:
                following = next(waiting, None)
            if following and not failed and (not begun or following[1] + sum(one.size for one in begun) <= most):
                begun.append(_Begun(*following, steps(following[0])))
                following = None
                begun[-1].go_on(pool)
                continue
            if not begun:
                return
            ready = next((one for one in begun if one.aside and one.aside.done()), None)
            if ready:
                ready.go_on(pool)
            else:  # the time is for Windows, where waiting without an end cannot be interrupted
                wait([one.aside for one in begun if one.aside], timeout=1, return_when=FIRST_COMPLETED)
    finally:
        for one in begun:
            one.steps.close()
        pool.shutdown(wait=False, cancel_futures=True)


@dataclass
class _Begun(Generic[K, T]):
    work: K
    size: int
    steps: Steps[T]
    aside: Future[tuple[Any, BaseException | None, float]] | None = None
    """What is done in another thread; None before the first step and after the last."""
    seconds: float = 0.0
    ended: bool = False
    result: Any = None
    error: Exception | None = None

    def go_on(self, pool: ThreadPoolExecutor) -> None:
        """To the next yield, or the end."""
        before, self.aside = self.aside, None
        start = time.perf_counter()
        try:
            if before is None:
                following = next(self.steps)
            else:
                result, error, seconds = before.result()
                self.seconds += seconds
                following = self.steps.throw(error) if error else self.steps.send(result)
        except StopIteration as end:
            self.ended, self.result = True, end.value
        except Exception as raised:
            self.ended, self.error = True, raised
        else:
            self.aside = pool.submit(_timed, following)
        self.seconds += time.perf_counter() - start


def _timed(aside: Callable[[], Any]) -> tuple[Any, BaseException | None, float]:
    start = time.perf_counter()
    result, error = None, None
    try:
        result = aside()
    except BaseException as raised:
        error = raised
    return result, error, time.perf_counter() - start
