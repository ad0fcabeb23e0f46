"""Many files as a Ray Data job: a pool of actors holds the model and restores them. Prints nothing."""

from __future__ import annotations

import logging
import os
import pickle
import socket
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..config import TASKS, Options
from ..errors import DaglError, UsageError, one_line
from ..files import clean, version
from ..restoring.batch import EXISTS, Job, JobTick
from ..restoring.file import FileRestorer
from ..restoring.picture import Outcome
from ..restoring.restorer import find_model
from ..silence import silent
from . import places
from .actor import Actor

CPUS = 2
"""Of an actor without a GPU, where a machine has as many: half the memory of one actor for each CPU."""
RETRIES = 3
"""How often the files of a killed worker are begun again."""


@dataclass
class ClusterBatch:
    """`restoring.batch.Batch` on the machines of a Ray cluster, with the same results.

    settings: of `FileRestorer`, but for `warn`; the file that `model` means is sent along.
    address: HOST:PORT of a cluster that this machine belongs to; 'auto': a running one ($RAY_ADDRESS, or on this
    machine), else one on this machine for as long as the job runs, as 'local' always does.

    Ray deals the files out, so there are no claims. What a killed worker had begun is begun again, on the machines
    that are left; a file whose workers are killed one after the other is a failure.
    """

    settings: dict[str, Any]
    jobs: Sequence[Job]
    address: str
    overwrite: bool = False
    dry_run: bool = False
    warn: Callable[[str], None] = lambda line: None
    _warned: set[str] = field(default_factory=set, init=False)

    def run(self, progress: JobTick | None = None) -> Iterator[tuple[Job, Outcome]]:
        """Each job and what became of it, in the order in which they end.

        progress: as for `Batch.run`; nothing is known of a file before it is done.
        Raises DaglError for a cluster that cannot be reached, and what `Batch.run` raises.
        """
        restorer = FileRestorer(**self.settings)
        there = places.existing(job.target for job in self.jobs if isinstance(job.target, Path))
        todo: dict[int, Job] = {}
        for number, job in enumerate(self.jobs):
            if isinstance(job.target, Path) and job.target in there and not self.overwrite:
                otherwise = None if places.uri(job.target) else restorer.made_otherwise(job.target)
                yield job, Outcome("skipped", note="; ".join(filter(None, [EXISTS, otherwise])))
            else:
                todo[number] = job
        if not todo:
            return
        weights = self._weights()
        with connected(self.address) as ray:
            try:
                for alone in (False, True):
                    for number, outcome in self._pass(ray, dict(todo), weights, alone):
                        yield todo.pop(number), outcome
            except ray.exceptions.RayError as error:
                raise DaglError(f"the Ray job failed: {one_line(error)}") from None
            finally:
                for folder in {job.target.parent for job in self.jobs if isinstance(job.target, Path)}:
                    clean(folder)  # what killed workers left
        for job in todo.values():
            times = f"{RETRIES + 1} workers were killed over it, out of memory most likely"
            yield job, Outcome("failed", note=f"{job.name}: {times}: make it smaller")

    def _weights(self) -> tuple[str, bytes] | None:
        model, task, options = self.settings.get("model"), self.settings["task"], self.settings["options"]
        if model is None or task not in TASKS:
            return None
        path = find_model(task, max(TASKS[task].channels), model, offline=options.offline, warn=self.warn)
        return path.name, path.read_bytes()

    def _pass(
        self, ray: Any, todo: dict[int, Job], weights: tuple[str, bytes] | None, alone: bool
    ) -> Iterator[tuple[int, Outcome]]:
        """What became of the files whose workers lived long enough. alone: one task and one file to an actor."""
        if not todo:
            return
        options, resources, most = placed(ray, self.settings["options"])
        files = 1 if alone else min(16, max(1, len(todo) // (16 * most)))  # what is begun again after a kill
        tasks = [{"number": n, "job": pickle.dumps((job, _version(job)))} for n, job in todo.items()]
        blocks = -(-len(tasks) // files)
        at_once = 1 if alone else 2
        pool = ray.data.ActorPoolStrategy(
            min_size=1, initial_size=min(most, blocks), max_size=None, max_tasks_in_flight_per_actor=at_once,
            max_concurrent_calls_per_actor=at_once, enable_true_multi_threading=True,
        )  # fmt: skip
        with warnings.catch_warnings():  # Ray has no other name yet for how often a task is begun again
            warnings.simplefilter("ignore")
            done = ray.data.from_items(tasks, override_num_blocks=blocks).map(
                Actor,
                fn_constructor_args=(self.settings | {"options": options}, weights, self.overwrite, self.dry_run),
                compute=pool,
                ray_remote_args_fn=lambda: {"max_task_retries": RETRIES},
                **resources,
            )
        for row in done.iter_rows():
            outcome, said, stop = pickle.loads(row["outcome"])
            for line in said:
                if line not in self._warned:
                    self._warned.add(line)
                    self.warn(line)
            if stop:
                raise stop
            yield row["number"], outcome


def _version(job: Job) -> tuple[int, int] | None:
    return version(job.target) if isinstance(job.target, Path) else None


def placed(ray: Any, options: Options) -> tuple[Options, dict[str, int], int]:
    """The options of the actors, what each of them takes of a machine, and how many there is room for.

    Raises UsageError for a device that the cluster lacks, or that Ray deals out itself.
    """
    if options.device not in ("auto", "all", "cpu", "cuda"):
        raise UsageError(f"`device` {options.device}: Ray deals the GPUs out: use auto, cuda or cpu")
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    if options.device == "cuda" and not gpus:
        raise UsageError("`device` cuda: the Ray cluster has no GPU: use auto or cpu")
    if gpus and options.device != "cpu":
        return replace(options, device="cuda"), {"num_gpus": 1}, gpus
    cpus = max(1, min(CPUS, int(max((node.get("CPU", 0) for node in nodes), default=1))))
    most = max(1, sum(int(node.get("CPU", 0)) // cpus for node in nodes))
    return replace(options, device="cpu"), {"num_cpus": cpus}, most


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Ray, on the cluster of an address. Raises DaglError for one that does not answer, UsageError without Ray."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UsageError(f"`ray` needs {error.name}: pip install 'dagl[ray]'") from None
    if address not in ("auto", "local"):
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        except (OSError, OverflowError) as error:
            raise DaglError(f"`ray` {address} does not answer: {one_line(error)}: is the cluster up?") from None
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with silent():
            where = None if address == "auto" else address
            ray.init(where, include_dashboard=False, log_to_driver=False, logging_level=logging.CRITICAL)
    except (OSError, RuntimeError, ValueError) as error:
        raise DaglError(f"`ray` {address} does not answer: {one_line(error)}") from None
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1  # files of killed workers are counted here
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):  # it tells of lost machines, amid our data
        try:
            yield ray
        finally:
            ray.shutdown()
