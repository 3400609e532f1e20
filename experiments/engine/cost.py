"""Estimates of how long the runs that a sweep has left will take."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import fmean, median

from experiments import records
from experiments.engine.runner import Where
from experiments.records import Record
from experiments.records.provenance import device_name
from experiments.study import possible
from experiments.sweep import Run, Sweep
from experiments.tasks.undrawn import Undrawn


def cost(sweep: Sweep, where: Where, left: Sequence[Run], committed: Path) -> tuple[float, str]:
    """Seconds that the runs left will take, and the basis of the estimate: records on such a device, or arithmetic."""
    device = "" if where.scheduler else device_name(where.device)
    done = [
        r
        for folder in dict.fromkeys((where.results, committed / where.profile))
        for r in records.read(records.path_of(folder, sweep.name)).records
        if r.done and device in ("", r.provenance["device"])
    ]
    whole = possible(sweep)
    done = [r for r in done if r.key in whole]  # a file may hold records of earlier versions of the sweep
    seconds = list(estimates(whole, left, done, where.device.type))
    basis = f"from {len(done)} recorded runs" if done else "by a rule of thumb: nothing is recorded on such a device"
    if not seconds:
        return 0.0, basis
    return max(sum(seconds) / (1 if where.scheduler else where.workers), max(seconds)), basis


def estimates(whole: Mapping[str, Run], runs: Iterable[Run], done: Sequence[Record], device: str) -> Iterator[float]:
    """Seconds of each run: the mean of its recorded runs, or else its `Run.effort`, scaled to the recorded runs."""
    by_key: dict[str, list[float]] = {}
    for record in done:
        by_key.setdefault(record.key, []).append(record.provenance["seconds"])
    with Undrawn():  # an effort needs only the sizes of a network
        effort = cache(lambda run: run.effort(device))
        ratios = [fmean(by_key[key]) / effort(replace(whole[key], seed=0)) for key in by_key.keys() & whole.keys()]
        scale = median(ratios) if ratios else 1.0
        found = [fmean(by_key[run.key]) if run.key in by_key else scale * effort(replace(run, seed=0)) for run in runs]
    yield from found


def span(seconds: float) -> str:
    """A time as text, in seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
