"""Backends that train runs in this process or in local worker processes, which may die."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from typing import Protocol, TypeVar

from experiments.engine.workers import start_worker
from experiments.records import Record
from experiments.sweep import Run

Work = Callable[[Run], Record]
Result = TypeVar("Result")


class WorkerDied(Exception):
    """A run's worker process died before it returned a result. `final`: the run was already repeated elsewhere."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


class Backend(Protocol):
    """Interface of everything that trains runs."""

    @property
    def capacity(self) -> int:
        """Number of runs to have in progress at once; it may change."""

    def submit(self, run: Run) -> Future[Record]:
        """Start a run; return the future of its record."""

    def result(self, future: Future[Record]) -> Record:
        """The record of a future that has ended; raises `WorkerDied` if its worker did."""

    def close(self, *, now: bool) -> None:
        """Stop the backend; with `now`, drop the runs in progress."""


class Here:
    """Train in this process, one run after another: for one worker, and for a GPU."""

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


class Process:
    """One worker process for many tasks, which calls `initializer` first.

    It is a pool of one process, because a process that dies breaks its whole pool. Also, a process that is ended in the
    middle of its work cannot hold the lock of a queue that other processes share.
    """

    def __init__(self, initializer: Callable[..., None] = start_worker, *arguments: object) -> None:
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, mp_context=context, initializer=initializer, initargs=arguments)
        self._process: BaseProcess | None = None

    def submit(self, work: Callable[..., Result], *arguments: object) -> Future[Result]:
        """Start ``work(*arguments)`` in the process; raise `BrokenProcessPool` if the process died while idle."""
        others = set(multiprocessing.active_children())
        future = self._pool.submit(work, *arguments)
        if self._process is None:  # the pool starts it at its first task
            self._process = next(iter(set(multiprocessing.active_children()) - others), None)
        return future

    def end(self, *, now: bool = False) -> int | None:
        """End the process, after its work or `now`; return its exit code if that is known."""
        self._pool.shutdown(wait=not now, cancel_futures=True)
        if now and self._process is not None:
            self._process.terminate()
        return self._process.exitcode if self._process else None


class Local:
    """Train in `count` processes of this machine, each kept for many runs; one that dies is replaced."""

    def __init__(self, work: Work, count: int) -> None:
        self.capacity = count
        self._work = work
        self._idle: list[Process] = []
        self._busy: dict[Future[Record], Process] = {}

    def submit(self, run: Run) -> Future[Record]:
        worker = self._idle.pop() if self._idle else Process()
        try:
            future = worker.submit(self._work, run)
        except BrokenProcessPool:  # it died while idle
            worker = Process()
            future = worker.submit(self._work, run)
        self._busy[future] = worker
        return future

    def result(self, future: Future[Record]) -> Record:
        worker = self._busy.pop(future)
        try:
            record = future.result()
        except BrokenProcessPool:
            code = worker.end()
            killed = ": killed, by the system where memory ran out" if code == -9 else ""
            raise WorkerDied(f"exit code {code}{killed}") from None
        self._idle.append(worker)
        return record

    def close(self, *, now: bool) -> None:
        for worker in (*self._idle, *self._busy.values()):
            worker.end(now=now)
