"""Work on several chapters at a time, each in a process of its own with its share of the cores."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import TypeVar

from experiments.engine.pool import Process
from experiments.engine.workers import start_worker

AT_ONCE = 4  # each is a kernel with torch in it, and half a gigabyte of memory
Task = TypeVar("Task")
Result = TypeVar("Result")


def cores() -> list[int]:
    """The cores this process may use; none where the system does not say, which does not let them be shared either."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def fitting() -> int:
    """How many tasks side by side this machine is good for."""
    return min(AT_ONCE, len(cores()))


def each(
    work: Callable[[Task], Result], waves: Sequence[Sequence[Task]], at_once: int
) -> Iterator[tuple[Task, Future[Result]]]:
    """Do every task; yield each with its future when that has ended. A wave begins when the one before has ended.

    One at a time is done in this process. Otherwise whatever a task starts keeps to the cores of its process, so that
    two tasks side by side train as many networks at once as one alone would. A KeyboardInterrupt ends what is under
    way and passes on.
    """
    if at_once <= 1:
        for task in (task for wave in waves for task in wave):
            yield task, _here(work, task)
        return
    shares = [cores()[share::at_once] for share in range(at_once)]
    busy: dict[Future[Result], tuple[Task, list[int], Process]] = {}
    try:
        for wave in waves:
            waiting = deque(wave)
            while waiting or busy:
                while waiting and shares:
                    share, task = shares.pop(0), waiting.popleft()
                    process = Process(_begin, share)
                    busy[process.submit(_interruptible, work, task)] = task, share, process
                for future in wait(busy, return_when=FIRST_COMPLETED).done:
                    task, share, process = busy.pop(future)
                    process.end()
                    shares.append(share)
                    yield task, future
    except BaseException:
        for _, _, process in busy.values():
            process.end(now=True)
        raise


def _here(work: Callable[[Task], Result], task: Task) -> Future[Result]:
    future: Future[Result] = Future()
    future.set_result(work(task))
    return future


def _begin(share: list[int]) -> None:
    start_worker()
    if share:
        os.sched_setaffinity(0, share)


def _interruptible(work: Callable[[Task], Result], task: Task) -> Result:
    # A terminated process would leave its kernel behind; an interrupted one takes it along.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return work(task)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
