"""Runs to records: skip what is recorded, train the rest on a local pool, append each result as it comes."""

import multiprocessing
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

import torch

from experiments import records
from experiments.config import Run, Sweep
from experiments.data import prepare
from experiments.provenance import peak_memory_mb, provenance
from experiments.records import Ledger, Record
from experiments.sources import code_hash
from experiments.train import Outcome, train

Report = Callable[[Record], None]


@dataclass(frozen=True)
class Where:
    """Where a sweep reads, writes and runs.

    `fresh` repeats runs whose record was made by other code (see `provenance.COMPUTES`); otherwise a record under the
    same key is taken as it is.
    """

    profile: str
    results: Path
    device: torch.device
    workers: int
    fresh: bool = False


def resolve_device(name: str) -> torch.device:
    """``"auto"`` is the GPU if there is one; any other name is torch's."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device={name!r} is not known; use auto, cpu, cuda or cuda:0, cuda:1, ...") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={name!r}, but torch {torch.__version__} finds no CUDA device here; use auto or cpu")
    return device


def default_workers(device: torch.device) -> int:
    """One process a core on a CPU, where each trains on one thread; one on a GPU."""
    return len(os.sched_getaffinity(0)) if device.type == "cpu" and hasattr(os, "sched_getaffinity") else 1


def pending(runs: Sequence[Run], ledger: Ledger, fresh: bool) -> list[Run]:
    """The runs that have no usable record yet."""
    code = code_hash()
    done = {(r.key, r.seed) for r in ledger.records if r.done and (not fresh or r.provenance["code"] == code)}
    return [run for run in runs if (run.key, run.seed) not in done]


def best_rate(sweep: Sweep, cell: Run, ledger: Ledger) -> float:
    """The learning rate with the best mean validation accuracy; a tie goes to the smaller rate.

    A run that diverged, failed or is missing counts as 0 here, below chance: no such rate is preferred to one that
    trained.
    """

    def score(rate: float) -> float:
        found = [ledger.of(run.key, run.seed) for run in sweep.at(cell, rate, search=True)]
        return fmean(records.accuracy(r) if r is not None and r.status == "ok" else 0.0 for r in found)

    return max(sorted(sweep.rates), key=score)


def final_runs(sweep: Sweep, ledger: Ledger) -> list[Run]:
    """The runs that are judged on test images, each cell at the rate its search chose."""
    return [run for cell in sweep.cells for run in sweep.at(cell, best_rate(sweep, cell, ledger))]


def stages(sweep: Sweep, ledger: Ledger) -> tuple[list[Record], list[Record]]:
    """The done records of a sweep as it is now, search and final runs; a file may hold those of its past, too."""
    both = sweep.search(), final_runs(sweep, ledger)
    search, final = ([ledger.of(run.key, run.seed) for run in runs] for runs in both)
    return [r for r in search if r is not None and r.done], [r for r in final if r is not None and r.done]


def run_sweep(sweep: Sweep, where: Where, report: Report) -> Ledger:
    """Search, then final runs; every record is on disk before it is reported. Returns all records of the sweep.

    A KeyboardInterrupt stops the workers and passes on: finished runs are kept, and the next call goes on from there.
    """
    records.check_writable(where.results)
    path = records.path_of(where.results, sweep.name)
    for name in sorted({cell.data.name for cell in sweep.cells}):
        prepare(name)
    plans: tuple[Callable[[Ledger], list[Run]], ...] = (lambda _: sweep.search(), partial(final_runs, sweep))
    for plan in plans:
        ledger = records.read(path)
        if ledger.torn:
            warnings.warn(ledger.torn, stacklevel=2)
        for record in _execute(pending(plan(ledger), ledger, where.fresh), sweep.name, where):
            records.append(path, record)
            report(record)
    return records.read(path)


def _execute(runs: Sequence[Run], sweep: str, where: Where) -> Iterator[Record]:
    # A small batch means many updates: long runs first, so that no worker is left alone with one at the end.
    ordered = sorted(runs, key=lambda run: (run.recipe.batch_size, run.seed))
    jobs = [(run, sweep, where.profile, where.device) for run in ordered]
    if min(where.workers, len(jobs)) <= 1:
        yield from map(_job, jobs)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(where.workers, mp_context=context, initializer=_start_worker) as pool:
        futures = [pool.submit(_job, job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def _start_worker() -> None:
    # Ctrl-C reaches the whole process group; the parent decides what happens to a worker.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _job(job: tuple[Run, str, str, torch.device]) -> Record:
    run, sweep, profile, device = job
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    started, clock = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), time.perf_counter()
    origin = provenance(device)
    try:
        outcome = train(run, device)
    except Exception as error:
        outcome = Outcome("failed", f"{type(error).__name__}: {error}", {})
    seconds = round(time.perf_counter() - clock, 3)
    origin |= {"start": started, "seconds": seconds, "peak_memory_mb": round(peak_memory_mb(device), 1)}
    return Record(
        sweep, profile, run.method, run.key, run.seed, outcome.status, outcome.reason, run.resolved, outcome.metrics,
        outcome.curve, origin,
    )  # fmt: skip
