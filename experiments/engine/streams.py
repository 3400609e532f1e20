"""Several runs at once in one process, their steps in turn: small networks fill a device together."""

import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future

from experiments.records import Record
from experiments.sweep import Run

Job = Callable[[Run], Generator[None, None, Record]]


class Streams:
    """A thread that goes round its runs, a step of each at a time.

    A run puts its kernels on a CUDA stream of its own and waits for the device now and then only, so the kernels of all
    of them are under way together. On a CPU the steps just alternate.
    """

    def __init__(self, job: Job, count: int) -> None:
        self.capacity = count
        self._job, self._new, self._stop = job, deque[tuple[Run, Future[Record]]](), threading.Event()
        self._wake = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._go_round, daemon=True)
        self._thread.start()

    def submit(self, run: Run) -> Future[Record]:
        future: Future[Record] = Future()
        self._new.append((run, future))
        self._wake.release()
        return future

    def result(self, future: Future[Record]) -> Record:
        return future.result()

    def close(self, *, now: bool) -> None:
        self._stop.set()
        self._wake.release()
        if now:  # a step is short; what is under way is dropped after it
            self._thread.join()

    def _go_round(self) -> None:
        active: deque[tuple[Generator[None, None, Record], Future[Record]]] = deque()
        while not self._stop.is_set():
            if not active:
                self._wake.acquire()
            while self._new:
                run, future = self._new.popleft()
                active.append((self._job(run), future))
            if active:
                steps, future = active.popleft()
                try:
                    next(steps)
                except StopIteration as end:
                    future.set_result(end.value)
                except BaseException as error:
                    future.set_exception(error)
                else:
                    active.append((steps, future))
