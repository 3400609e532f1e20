"""Runs to records: skip what is recorded, train the rest somewhere, append each result as it comes."""

import os
import threading
import time
import warnings
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from math import inf, isfinite
from pathlib import Path

import torch

from experiments import records
from experiments.engine.dispatch import dispatch
from experiments.engine.journal import Journal
from experiments.engine.memory import streams_that_fit
from experiments.engine.pool import Backend, Here, Local
from experiments.engine.streams import Streams
from experiments.records import Ledger, Record
from experiments.records.provenance import device_name, energy_j, peak_memory_mb, provenance, resolve_device
from experiments.study import Study
from experiments.sweep import Outcome, Run, Sweep, drain
from experiments.tasks.data import prepare

Report = Callable[[Record], None]
REASON = 600  # characters of an error that a record keeps
STREAMS = 4  # runs at once on a GPU, each with a stream of its own
_TURN = threading.Lock()


@dataclass(frozen=True)
class Where:
    """Where a sweep reads, writes and runs.

    `fresh` repeats runs whose record is stale (see `study.Result.stale`); otherwise a record under the same key is
    taken as it is. `scheduler` is the address of a dask cluster, in place of local `workers`. `streams` is
    the number of runs that one process has under way at once, where there is one process. No run is begun after `until`
    of `time.monotonic`: `dispatch.OutOfTime` says so.
    """

    profile: str
    results: Path
    device: torch.device
    workers: int
    fresh: bool = False
    scheduler: str = ""
    streams: int = 1
    until: float = inf


def default_workers(device: torch.device) -> int:
    """One process a core on a CPU, where each trains on one thread; one on a GPU."""
    return len(os.sched_getaffinity(0)) if device.type == "cpu" and hasattr(os, "sched_getaffinity") else 1


def run_sweep(sweep: Sweep, where: Where, report: Report) -> Ledger:
    """Search, then final runs; every record is on disk before it is reported. Returns all records of the sweep.

    A KeyboardInterrupt stops the workers and passes on: finished runs are kept, and the next call goes on from there.
    Several processes may do the same sweep in one folder: they share its runs, and each waits for those of the others.
    """
    records.check_writable(where.results)
    path = records.path_of(where.results, sweep.name)
    for name in sorted({name for cell in sweep.cells for name in cell.datasets}):
        prepare(name)
    died = partial(lost, sweep.name, where)
    backend: Backend | None = None
    try:
        for stage in range(2 + sweep.widenings):
            last = stage == 1 + sweep.widenings
            with Journal(path) as journal:
                study = Study(sweep, journal.ledger)
                if journal.ledger.torn:
                    warnings.warn(journal.ledger.torn, stacklevel=2)
                # A setting that was not tried to the end must not lose to others for that.
                if stage and (lacking := study.pending(study.search_runs)):
                    failed = [record for run in lacking if (record := journal.ledger.of(run.key, run.seed))]
                    if failed:
                        warnings.warn(
                            f"{len(failed)} runs of the search of {sweep.name!r} failed, the first with "
                            f"{failed[0].reason!r}: no rate is chosen, and no final run made, until the same command "
                            "has repeated them",
                            stacklevel=2,
                        )
                    if failed or last:
                        break
                # Seed by seed, so that a sweep that is stopped leaves all cells with some of their seeds; for each seed
                # the long runs first, so that no worker is left alone with one at the end.
                runs = sorted(
                    study.pending(study.final_runs if last else study.search_runs, fresh=where.fresh),
                    key=lambda run: (run.seed, -run.effort(where.device.type)),
                )
                if runs:
                    backend = backend or backend_for(sweep, where, len(runs))
                    for record in dispatch(runs, backend, journal, died, where.until):
                        report(record)
    except BaseException:
        if backend is not None:
            backend.close(now=True)
        raise
    if backend is not None:
        backend.close(now=False)
        if where.fresh:
            records.rewrite(path)  # without the records that were repeated
    return records.read(path)


def backend_for(sweep: Sweep, where: Where, count: int) -> Backend:
    """What trains the runs of a sweep, of which at least `count` are left."""
    job = partial(_job, sweep=sweep.name, profile=where.profile, device=where.device)
    work = partial(_work, job)
    if where.scheduler:
        from experiments.engine.cluster import Cluster

        return Cluster(work, where.scheduler)
    # The final runs follow the search's in the same processes.
    workers = min(where.workers, max(count, len(sweep.cells) * len(sweep.seeds)))
    if workers > 1:
        return Local(work, workers)
    streams = streams_that_fit(sweep, where.device, where.streams)
    return Streams(job, streams) if streams > 1 else Here(work)


def _work(job: Callable[[Run], Generator[None, None, Record]], run: Run) -> Record:
    # Training uses torch's global generator and number of threads: a process that has threads takes turns.
    with _TURN:
        return drain(job(run))


def _job(run: Run, sweep: str, profile: str, device: torch.device) -> Generator[None, None, Record]:
    device = resolve_device(str(device))  # a worker elsewhere may not have it
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    # The wall clock may jump; it is noted, and never computed with.
    started, energy = _now(), energy_j(device)
    origin = provenance(device)
    steps, outcome, seconds = run.steps(device), None, 0.0
    while outcome is None:
        clock = time.perf_counter()
        try:
            next(steps)
        except StopIteration as end:
            outcome = end.value
        except Exception as error:
            outcome = Outcome("failed", _reason(error), {})
        seconds += time.perf_counter() - clock  # runs that take turns share the time between them
        if outcome is None:
            yield
    origin |= {"start": started, "seconds": round(seconds, 3), "peak_memory_mb": round(peak_memory_mb(device), 1)}
    if outcome.executed:
        origin["steps"] = outcome.executed
    if energy is not None:
        origin["energy_j"] = round((energy_j(device) or energy) - energy, 1)
    if outcome.status == "failed" and device.type == "cuda":
        torch.cuda.empty_cache()  # what an out of memory left behind is not the next run's burden
    # JSON has no NaN. A run that diverges as late as on the images it is judged on has some; its reason says so.
    metrics = {name: value for name, value in outcome.metrics.items() if isfinite(value)}
    return Record(
        sweep, profile, run.method, run.key, run.seed, outcome.status, outcome.reason, run.resolved, metrics,
        outcome.curve, origin, run.NUMERICS,
    )  # fmt: skip


def lost(sweep: str, where: Where, run: Run, reason: str, seconds: float) -> Record:
    """The record of a run that left none, because its process died."""
    name = str(where.device) if where.scheduler else device_name(where.device)
    origin = provenance(torch.device("cpu")) | {"device": name, "start": _now(), "seconds": round(seconds, 3)}
    return Record(
        sweep, where.profile, run.method, run.key, run.seed, "failed", reason, run.resolved, {}, {}, origin,
        run.NUMERICS,
    )  # fmt: skip


def _reason(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}"
    return text if len(text) <= REASON else text[:REASON] + " ..."


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
