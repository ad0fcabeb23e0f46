"""Several devices share a batch: each takes the next file when it has done one."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence

from .batch import Batch, Job
from .picture import Outcome
from .tiling import Tick


def shared(
    batches: Sequence[Batch], begin: Callable[[Job], None] = lambda job: None, progress: Tick | None = None
) -> Iterator[tuple[Job, Outcome]]:
    """`Batch.run` of batches of the same jobs, each on a device of its own, in threads: no job is done twice.

    Jobs come in the order in which they end. An error that concerns all, and an interrupt, let the others end the
    files that they have begun. A single batch runs in this thread.
    """
    if len(batches) == 1:
        yield from batches[0].run(begin, progress)
        return
    ended: queue.SimpleQueue[tuple[Job, Outcome] | BaseException | None] = queue.SimpleQueue()
    jobs, lock, stopped = iter(batches[0].jobs), threading.Lock(), threading.Event()

    def dealt() -> Iterator[Job]:
        while not stopped.is_set():
            with lock:
                job = next(jobs, None)
            if job is None:
                return
            yield job

    def work(batch: Batch) -> None:
        try:
            for done in batch.run(begin, progress, dealt()):
                ended.put(done)
        except BaseException as error:
            stopped.set()
            ended.put(error)
        finally:
            ended.put(None)

    threads = [threading.Thread(target=work, args=(batch,)) for batch in batches]
    for thread in threads:
        thread.start()
    errors: list[BaseException] = []
    try:
        running = len(threads)
        while running:
            done = ended.get()
            if done is None:
                running -= 1
            elif isinstance(done, BaseException):
                errors.append(done)
            else:
                yield done
    finally:
        stopped.set()
        for thread in threads:
            thread.join()
        for batch in batches:  # one may have had a claim in another's folder
            batch.tidy()
    if errors:
        raise errors[0]
