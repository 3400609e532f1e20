"""Where runs are trained: in this process, or in local ones that may die."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from typing import Protocol

from experiments.engine.workers import start_worker
from experiments.records import Record
from experiments.sweep import Run

Work = Callable[[Run], Record]


class WorkerDied(Exception):
    """A run's worker is gone, and its result with it. `final`: whoever runs the workers has already tried again."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


class Backend(Protocol):
    """What trains runs."""

    @property
    def capacity(self) -> int:
        """Runs to have under way at once; it may change."""

    def submit(self, run: Run) -> Future[Record]:
        """Start a run."""

    def result(self, future: Future[Record]) -> Record:
        """The record of a future that has ended; raises `WorkerDied` if its worker did."""

    def close(self, *, now: bool) -> None:
        """Stop; `now` means that what is under way is dropped."""


class Here:
    """This process, one run after another: for one worker, and for a GPU."""

    capacity = 1

    def __init__(self, work: Work) -> None:
        self._work = work

    def submit(self, run: Run) -> Future[Record]:
        future: Future[Record] = Future()
        future.set_result(self._work(run))
        return future

    def result(self, future: Future[Record]) -> Record:
        return future.result()

    def close(self, *, now: bool) -> None:
        pass


class _Worker:
    """A pool of one process. A dead process breaks its whole pool: of its own pool only its own run is the victim."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(1, mp_context=context, initializer=start_worker)
        self.process: BaseProcess | None = None

    def submit(self, work: Work, run: Run) -> Future[Record]:
        others = set(multiprocessing.active_children())
        future = self.pool.submit(work, run)
        if self.process is None:  # the pool starts it at its first task
            self.process = next(iter(set(multiprocessing.active_children()) - others), None)
        return future


class Local:
    """So many processes of this machine, each kept for many runs; one that dies is replaced."""

    def __init__(self, work: Work, count: int) -> None:
        self.capacity = count
        self._work = work
        self._idle: list[_Worker] = []
        self._busy: dict[Future[Record], _Worker] = {}

    def submit(self, run: Run) -> Future[Record]:
        worker = self._idle.pop() if self._idle else _Worker()
        try:
            future = worker.submit(self._work, run)
        except BrokenProcessPool:  # it died while it had nothing to do
            worker = _Worker()
            future = worker.submit(self._work, run)
        self._busy[future] = worker
        return future

    def result(self, future: Future[Record]) -> Record:
        worker = self._busy.pop(future)
        try:
            record = future.result()
        except BrokenProcessPool:
            worker.pool.shutdown(wait=True)
            code = worker.process.exitcode if worker.process else None
            killed = ": killed, by the system where memory ran out" if code == -9 else ""
            raise WorkerDied(f"exit code {code}{killed}") from None
        self._idle.append(worker)
        return record

    def close(self, *, now: bool) -> None:
        for worker in (*self._idle, *self._busy.values()):
            worker.pool.shutdown(wait=not now, cancel_futures=True)
            if now and worker.process is not None:
                worker.process.terminate()
