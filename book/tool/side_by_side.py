"""Execute several chapters at a time, each in its own process with its share of the cores."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import TypeVar

from experiments.engine.pool import Process
from experiments.engine.workers import start_worker

AT_ONCE = 4  # most chapters at once: each is a kernel with torch, which takes half a gigabyte of memory
Task = TypeVar("Task")
Result = TypeVar("Result")


def cores() -> list[int]:
    """The cores this process may use; empty if the system cannot tell, and then cannot assign them either."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def fitting() -> int:
    """Number of tasks that this machine can execute side by side."""
    return min(AT_ONCE, len(cores()))


def each(
    work: Callable[[Task], Result], waves: Sequence[Sequence[Task]], at_once: int
) -> Iterator[tuple[Task, Future[Result]]]:
    """Execute every task and yield it with its ended future. A wave begins when the wave before has ended.

    With `at_once` 1, tasks are executed in this process. Otherwise everything that a task starts stays on the cores of
    its process, so that two tasks side by side train as many networks at once as one task alone. A KeyboardInterrupt
    ends the tasks in progress and is raised again.
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
    # A terminated process would leave its kernel running; an interrupted process ends it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return work(task)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
