"""Progress of a sweep: a bar on a terminal, at most twenty lines in a log."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from experiments.engine import Report
from experiments.records import Record

LOG_LINES = 20


@contextmanager
def progress(title: str, total: int, console: Console) -> Iterator[Report]:
    """A function to call with each new record, which shows runs done, divergences, failures and the time left."""
    counts: Counter[str] = Counter()

    def state() -> str:
        return f"{counts['diverged']} diverged, {counts['failed']} failed"

    if console.is_terminal:
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(TextColumn("{task.description}"), *columns, console=console) as bar:
            task = bar.add_task(title, total=total)

            def advance(record: Record) -> None:
                counts[record.status] += 1
                bar.update(task, advance=1, description=f"{title} ({state()})")

            yield advance
        return

    start, every = time.monotonic(), max(1, -(-total // LOG_LINES))

    def log(record: Record) -> None:
        counts[record.status] += 1
        done = counts.total()
        if done % every == 0 or done == total:
            elapsed = time.monotonic() - start
            left = elapsed / done * (total - done)
            console.print(f"{title}: {done}/{total} runs, {state()}, {elapsed:.0f} s, about {left:.0f} s left")

    yield log
