"""Train the runs of a sweep that have no record yet, and append each record when its run ends."""

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
    """Where a sweep runs, and where it reads and writes its records.

    `fresh` repeats runs whose record is stale (see `study.Result.stale`); otherwise a stale record counts like any
    other. `scheduler` is the address of a dask cluster, in place of local `workers`. `streams` is the number of runs
    that a single process has in progress at once. No run is begun after `until` (of `time.monotonic`): then
    `dispatch.OutOfTime` is raised.
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
    """Number of worker processes: one for each core on a CPU, where each trains on one thread; one on a GPU."""
    return len(os.sched_getaffinity(0)) if device.type == "cpu" and hasattr(os, "sched_getaffinity") else 1


def run_sweep(sweep: Sweep, where: Where, report: Report) -> Ledger:
    """Train the search, then the final runs, and return all records of the sweep.

    Every record is on the disk before it is reported. A KeyboardInterrupt stops the workers and is raised again:
    finished runs are kept, and the next call goes on from there. Several processes may train the same sweep in one
    folder: they share its runs, and each waits for the runs of the others.
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
                # A setting whose runs are incomplete must not lose to others because of that.
                if stage and (lacking := study.pending(study.search_runs)):
                    failed = [record for run in lacking if (record := journal.ledger.of(run.key, run.seed))]
                    if failed:
                        warnings.warn(
                            f"{len(failed)} runs of the search of {sweep.name!r} failed, the first with "
                            f"{failed[0].reason!r}: no setting is chosen, and no final run is made, until the same "
                            "command has repeated them",
                            stacklevel=2,
                        )
                    if failed or last:
                        break
                # Seed by seed, so that all cells of an interrupted sweep have some of their seeds. For each seed the
                # long runs come first, so that no worker still has a long run when all others have ended.
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
            records.rewrite(path)  # drop the records whose runs were repeated
    return records.read(path)


def backend_for(sweep: Sweep, where: Where, count: int) -> Backend:
    """The backend that trains the runs of a sweep, of which at least `count` are left."""
    job = partial(_job, sweep=sweep.name, profile=where.profile, device=where.device)
    work = partial(_work, job)
    if where.scheduler:
        from experiments.engine.cluster import Cluster

        return Cluster(work, where.scheduler)
    # The final runs use the same processes as the search.
    workers = min(where.workers, max(count, len(sweep.cells) * len(sweep.seeds)))
    if workers > 1:
        return Local(work, workers)
    streams = streams_that_fit(sweep, where.device, where.streams)
    return Streams(job, streams) if streams > 1 else Here(work)


def _work(job: Callable[[Run], Generator[None, None, Record]], run: Run) -> Record:
    # Training uses torch's global generator and number of threads, so threads of one process take turns.
    with _TURN:
        return drain(job(run))


def _job(run: Run, sweep: str, profile: str, device: torch.device) -> Generator[None, None, Record]:
    device = resolve_device(str(device))  # a worker on another machine may lack the device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    # The wall clock may jump: it is recorded, and never used in arithmetic.
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
        seconds += time.perf_counter() - clock  # only this run's turns count
        if outcome is None:
            yield
    origin |= {"start": started, "seconds": round(seconds, 3), "peak_memory_mb": round(peak_memory_mb(device), 1)}
    if outcome.executed:
        origin["steps"] = outcome.executed
    if energy is not None:
        origin["energy_j"] = round((energy_j(device) or energy) - energy, 1)
    if outcome.status == "failed" and device.type == "cuda":
        torch.cuda.empty_cache()  # memory that a failed run left behind must not burden the next run
    # JSON has no NaN. A run that diverges as late as on its test images has some; its reason says so.
    metrics = {name: value for name, value in outcome.metrics.items() if isfinite(value)}
    return Record(
        sweep, profile, run.method, run.key, run.seed, outcome.status, outcome.reason, run.resolved, metrics,
        outcome.curve, origin, run.NUMERICS,
    )  # fmt: skip


def lost(sweep: str, where: Where, run: Run, reason: str, seconds: float) -> Record:
    """The failed record of a run whose process died."""
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
