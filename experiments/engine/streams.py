"""Several runs at once in one process, step by step in turns, because one small network does not fill a GPU."""

import threading
import warnings
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future

import torch

from experiments.records import Record
from experiments.sweep import Run

Job = Callable[[Run], Generator[None, None, Record]]


class Streams:
    """Backend with one thread that advances its runs in turns, one step at a time.

    Each run puts its kernels on its own CUDA stream and rarely waits for the device, so the kernels of all runs execute
    together. On a CPU the steps alternate.

    If a run is out of memory while others are in progress, it is repeated, and from then on only as many runs as were
    left are in progress at once. A run that is out of memory while alone has failed.
    """

    def __init__(self, job: Job, count: int) -> None:
        self.capacity = count
        self._job, self._new, self._stop = job, deque[tuple[Run, Future[Record]]](), threading.Event()
        self._lowered = deque[str]()
        self._wake = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._go_round, daemon=True)
        self._thread.start()

    def submit(self, run: Run) -> Future[Record]:
        future: Future[Record] = Future()
        self._new.append((run, future))
        self._wake.release()
        return future

    def result(self, future: Future[Record]) -> Record:
        while self._lowered:  # warned here, because a warning that is made an error would end the thread
            warnings.warn(self._lowered.popleft(), stacklevel=2)
        return future.result()

    def close(self, *, now: bool) -> None:
        self._stop.set()
        self._wake.release()
        if now:  # a step is short; the runs in progress are dropped after it
            self._thread.join()

    def _go_round(self) -> None:
        active: deque[tuple[Generator[None, None, Record], Run, Future[Record]]] = deque()
        while not self._stop.is_set():
            if not active and not self._new:
                self._wake.acquire()
            while self._new and len(active) < self.capacity:
                run, future = self._new.popleft()
                active.append((self._job(run), run, future))
            if active:
                steps, run, future = active.popleft()
                try:
                    next(steps)
                except StopIteration as end:
                    if active and end.value.out_of_memory:
                        self._repeat(run, future, beside=len(active))
                    else:
                        future.set_result(end.value)
                except BaseException as error:
                    future.set_exception(error)
                else:
                    active.append((steps, run, future))

    def _repeat(self, run: Run, future: Future[Record], beside: int) -> None:
        self.capacity = beside
        self._new.appendleft((run, future))
        self._lowered.append(f"a {run.method!r} run was out of memory and is repeated; {beside} at once from now on")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # pieces kept for the run that ended are of no use to another stream
