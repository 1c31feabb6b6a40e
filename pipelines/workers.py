"""Scans handed out to this process, to processes of this machine, or to a cluster.

Tasks hold paths, never images. A worker that dies takes down the scan it was reading and
no other: the scan is tried once more with nothing beside it, then given up.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from distributed import Client, Future

TaskT = TypeVar("TaskT")
OutcomeT = TypeVar("OutcomeT")

POLL_SECONDS = 5.0
"""How often the number of workers is looked at while all are busy, s."""

PATIENCE_SECONDS = 120.0
"""How long a run waits for a first or a new worker before it gives up, s."""

KEPT_BYTES = 2**30
"""Freed memory that a worker keeps for the next scan [bytes]: handing large arrays back to the
system after every use is Dask's default, and slow."""

IN_FLIGHT_PER_WORKER = 2
"""Scans handed to a cluster per worker: one to score, one to follow at once."""


class WorkersLostError(RuntimeError):
    """No worker is left, so the batch cannot go on; what is finished stays finished."""


class Work(Generic[TaskT, OutcomeT]):
    """What to do with a task, and what to say when its worker died over it.

    Args:
        score: Called with the task in some process; must be importable there.
        give_up: Called here with a task that brought no outcome, and the error: a
            `distributed.KilledWorker` if its worker died twice.
    """

    def __init__(
        self,
        score: Callable[[TaskT], OutcomeT],
        give_up: Callable[[TaskT, BaseException], OutcomeT],
    ) -> None:
        self.score = score
        self.give_up = give_up

    def in_this_process(self, tasks: Iterable[TaskT]) -> Iterator[tuple[TaskT, OutcomeT]]:
        """Task and outcome, one after the other."""
        for task in tasks:
            yield task, self.score(task)

    def on_workers(
        self, tasks: Iterable[TaskT], *, workers: int = 1, scheduler: str | None = None
    ) -> Iterator[tuple[TaskT, OutcomeT]]:
        """Task and outcome, in the order in which the workers finish.

        Args:
            tasks: Drawn from as workers become free.
            workers: Processes to start on this machine, if no `scheduler` is given.
            scheduler: Address of a running Dask scheduler, such as `tcp://host:8786`.

        Yields:
            Each task once, with its outcome.

        Raises:
            WorkersLostError: If there is no worker for `PATIENCE_SECONDS`.
        """
        waiting = iter(tasks)
        first = list(islice(waiting, 1))
        if not first:  # nothing to do is done without workers
            return
        with connected(workers, scheduler) as client:
            per_worker = 1 if scheduler is None else IN_FLIGHT_PER_WORKER
            yield from self.on_client(client, chain(first, waiting), per_worker=per_worker)

    def on_client(
        self, client: Client, tasks: Iterable[TaskT], *, per_worker: int = IN_FLIGHT_PER_WORKER
    ) -> Iterator[tuple[TaskT, OutcomeT]]:
        """The same on workers that are there already; see `connected`.

        Args:
            client: Of the cluster; left open.
            tasks: Drawn from as workers become free.
            per_worker: Tasks handed out per worker at a time.
        """
        suspects: list[TaskT] = []
        yield from self._spread(client, iter(tasks), per_worker, suspects)
        for task in suspects:
            yield from self._spread(client, iter([task]), 1, None)

    def _spread(
        self,
        client: Client,
        tasks: Iterator[TaskT],
        per_worker: int,
        suspects: list[TaskT] | None,
    ) -> Iterator[tuple[TaskT, OutcomeT]]:
        in_flight: dict[Future[OutcomeT], TaskT] = {}
        while True:
            room = per_worker * _number_of_workers(client) - len(in_flight)
            for _, task in zip(range(room), tasks, strict=False):
                in_flight[client.submit(self.score, task, pure=False)] = task
            if not in_flight:
                return
            for future in _finished(client, in_flight):
                task = in_flight.pop(future)
                error = _error_of(future)
                if error is None:
                    yield task, future.result()
                elif suspects is not None and _is_death(error):
                    suspects.append(task)
                else:
                    yield task, self.give_up(task, error)
                future.release()


@contextlib.contextmanager
def connected(workers: int, scheduler: str | None) -> Iterator[Client]:
    """Client of a cluster: of new processes on this machine, or of a running scheduler.

    Args:
        workers: Processes to start, one thread each, if no `scheduler` is given.
        scheduler: Address of a running Dask scheduler, such as `tcp://host:8786`.

    Raises:
        WorkersLostError: If no scheduler answers.
    """
    import dask
    from distributed import Client, LocalCluster

    settings = {
        "distributed.scheduler.allowed-failures": 0,
        "distributed.scheduler.worker-saturation": 1.0,
        "distributed.worker.preload": ["pipelines.tensorflow_start"],
        "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": KEPT_BYTES,
        "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": KEPT_BYTES,
    }
    with contextlib.ExitStack() as stack:
        stack.enter_context(dask.config.set(settings))
        address: LocalCluster | str | None = scheduler
        if scheduler is None:
            address = stack.enter_context(
                LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    processes=True,
                    memory_limit=0,
                    dashboard_address="127.0.0.1:0",  # two runs may share a machine
                    silence_logs=logging.CRITICAL,
                )
            )
        try:
            client = stack.enter_context(Client(address, timeout=PATIENCE_SECONDS))
        except (OSError, TimeoutError) as error:
            raise WorkersLostError(f"no scheduler answers at {scheduler}") from error
        yield client


def _number_of_workers(client: Client) -> int:
    from distributed import TimeoutError as NoAnswer

    try:
        client.wait_for_workers(1, timeout=PATIENCE_SECONDS)
    except NoAnswer as error:
        raise WorkersLostError(
            f"no worker has been there for {PATIENCE_SECONDS:.0f} s; run the same command again "
            "to go on from here"
        ) from error
    return len(client.nthreads())


def _finished(client: Client, futures: Iterable[Future[OutcomeT]]) -> list[Future[OutcomeT]]:
    from distributed import TimeoutError as NoAnswer
    from distributed import wait

    pending = list(futures)
    while True:
        try:
            return list(wait(pending, timeout=POLL_SECONDS, return_when="FIRST_COMPLETED").done)
        except NoAnswer:
            _number_of_workers(client)


def _error_of(future: Future[OutcomeT]) -> BaseException | None:
    if future.status == "cancelled":
        raise WorkersLostError("the scheduler is gone; run the same command again to go on")
    return future.exception() if future.status == "error" else None


def _is_death(error: BaseException) -> bool:
    from distributed import KilledWorker

    return isinstance(error, KilledWorker)
