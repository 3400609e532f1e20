"""The loop that hands runs to a backend and writes their records to the disk."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from math import inf

from experiments.engine.journal import Journal
from experiments.engine.pool import Backend, WorkerDied
from experiments.records import Record
from experiments.sweep import Run

DEATHS = 2
POLL = 0.5


class OutOfTime(Exception):
    """The time limit has passed: runs in progress were finished and recorded, and some runs were not begun."""


def dispatch(
    runs: Sequence[Run],
    backend: Backend,
    journal: Journal,
    lost: Callable[[Run, str, float], Record],
    until: float = inf,
) -> Iterator[Record]:
    """Train runs and yield each record once it is on the disk, in the order in which the runs end.

    From the time `until` on (of `time.monotonic`) no run is begun. Runs in progress are finished, and then `OutOfTime`
    is raised.

    A run that another process is training is left to that process, and its record is yielded once it is found. A run
    whose worker died is repeated. When its worker dies again, `lost` makes a failed record from the run, the reason and
    the seconds.
    """
    waiting, deaths = deque(runs), Counter[tuple[str, int]]()
    running: dict[Future[Record], tuple[Run, float]] = {}
    while waiting or running:
        capacity = backend.capacity if time.monotonic() < until else 0
        if not capacity and not running:
            raise OutOfTime(f"{len(waiting)} runs were not begun")
        for _ in range(len(waiting)):
            if len(running) >= capacity:
                break
            run = waiting.popleft()
            if not journal.take(run):
                waiting.append(run)
            elif (other := journal.news(run)) is not None:
                journal.release(run)
                yield other
            else:
                running[backend.submit(run)] = run, time.monotonic()
        if not running:
            time.sleep(POLL if waiting else 0)
            continue
        for future in wait(running, POLL, FIRST_COMPLETED).done:
            run, start = running.pop(future)
            try:
                record = backend.result(future)
            except WorkerDied as error:
                deaths[run.key, run.seed] += 1
                if not error.final and deaths[run.key, run.seed] < DEATHS:
                    running[backend.submit(run)] = run, start
                    continue
                record = lost(run, f"WorkerDied: its process died {DEATHS} times, {error}", time.monotonic() - start)
            journal.append(run, record)
            yield record
