"""Progress of a sweep: a live bar on a terminal, one bar in a notebook, at most twenty lines in a log."""

import importlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from experiments.engine.runner import Report
from experiments.records import Record

LOG_LINES = 20


@dataclass
class Tally:
    """Counts of a sweep's finished runs, by status."""

    title: str
    total: int
    counts: Counter[str] = field(default_factory=Counter)
    start: float = field(default_factory=time.monotonic)

    def add(self, record: Record) -> int:
        """Count one more run as done; return the number of runs done."""
        self.counts[record.status] += 1
        done = self.counts.total()
        self.total = max(self.total, done)
        return done

    @property
    def state(self) -> str:
        """Numbers of runs that diverged and failed, as text."""
        return f"{self.counts['diverged']} diverged, {self.counts['failed']} failed"

    def __str__(self) -> str:
        done, elapsed = self.counts.total(), time.monotonic() - self.start
        left = f", about {elapsed / done * (self.total - done):.0f} s left" if done else ""
        return f"{self.title}: {done}/{self.total} runs, {self.state}, {elapsed:.0f} s{left}"


@contextmanager
def progress(title: str, total: int, console: Console) -> Iterator[Report]:
    """Yield a function to call with each new record; it shows runs done, diverged and failed, and the time left."""
    tally = Tally(title, total)
    if console.is_jupyter:
        yield _notebook(tally)
    elif console.is_terminal:
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"))
        times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        with Progress(TextColumn("{task.description}"), *columns, *times, console=console) as bar:
            task = bar.add_task(title, total=total, state=tally.state)

            def advance(record: Record) -> None:
                bar.update(task, completed=tally.add(record), total=tally.total, state=tally.state)

            yield advance
    else:
        every = max(1, -(-total // LOG_LINES))

        def log(record: Record) -> None:
            done = tally.add(record)
            if done % every == 0 or done == total:
                console.print(str(tally))

        yield log


def _notebook(tally: Tally) -> Report:
    # One output that is changed in place: rich's own bar needs ipywidgets, and without it adds an output for each line.
    display: Callable[..., object] = importlib.import_module("IPython.display").display

    def show(*, update: bool) -> None:
        bar = f'<progress max="{max(1, tally.total)}" value="{tally.counts.total()}"></progress> {escape(str(tally))}'
        data = {"text/plain": str(tally), "text/html": bar}
        display(data, raw=True, display_id=shown, update=update)

    def report(record: Record) -> None:
        tally.add(record)
        show(update=True)

    shown = f"progress-{id(tally)}"
    show(update=False)
    return report
