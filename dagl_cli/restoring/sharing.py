"""Several devices share a batch: each takes the next file when it has done one."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence

from .batch import Batch, Job, JobTick
from .picture import Outcome


def shared(batches: Sequence[Batch], progress: JobTick | None = None) -> Iterator[tuple[Job, Outcome]]:
    """`Batch.run` of batches of the same jobs, each on a device of its own, in threads: no job is done twice.

    Jobs come in the order in which they end. An error that concerns all, and an interrupt, let the others end the
    files that they have begun. A single batch runs in this thread.
    """
    if len(batches) == 1:
        yield from batches[0].run(progress)
        return
    ended: queue.SimpleQueue[tuple[Job, Outcome] | BaseException | None] = queue.SimpleQueue()
    jobs, lock, stopped = iter(batches[0].jobs), threading.Lock(), threading.Event()

    at_once = max(1, min(2, len(batches[0].jobs) // len(batches)))  # none waits here while another device is idle

    def dealt() -> Iterator[Job]:
        while not stopped.is_set():
            with lock:
                job = next(jobs, None)
            if job is None:
                return
            yield job

    def work(batch: Batch) -> None:
        try:
            for done in batch.run(progress, dealt(), at_once):
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
