"""Which runs a sweep still needs: its search, then the final runs at the rates that the search chose."""

from collections.abc import Sequence
from statistics import fmean

from experiments import records
from experiments.config import Run, Sweep
from experiments.records import Ledger, Record


def pending(runs: Sequence[Run], ledger: Ledger, fresh: bool) -> list[Run]:
    """The runs that have no usable record yet."""

    def usable(run: Run) -> bool:
        record = ledger.of(run.key, run.seed)
        return record is not None and record.done and not (fresh and stale(run, record))

    return [run for run in runs if not usable(run)]


def stale(run: Run | None, record: Record) -> bool:
    """Whether a record is not what its run would give now: the numerics of the run's kind were raised since.

    `run` is None for a record whose key is no run of the sweep, which is stale as well.
    """
    return run is None or record.numerics != run.NUMERICS


def best_rate(sweep: Sweep, cell: Run, ledger: Ledger) -> float:
    """The learning rate with the best mean validation accuracy; a tie goes to the smaller rate.

    A run that diverged counts as 0 here, below chance: no such rate is preferred to one that trained. So does one that
    failed or is missing, before the search is over: nothing may rest on the choice until then.
    """

    def score(rate: float) -> float:
        found = [ledger.of(run.key, run.seed) for run in sweep.at(cell, rate, search=True)]
        return fmean(records.accuracy(r) if r is not None and r.status == "ok" else 0.0 for r in found)

    return max(sorted(sweep.rates), key=score)


def final_runs(sweep: Sweep, ledger: Ledger) -> list[Run]:
    """The runs that are judged on test images, each cell at the rate its search chose."""
    if not sweep.rates:
        return sweep.as_they_are()
    return [run for cell in sweep.cells for run in sweep.at(cell, best_rate(sweep, cell, ledger))]


def recorded(sweep: Sweep, ledger: Ledger) -> tuple[list[Run], list[tuple[Run, Record]]]:
    """All runs of a sweep as it is now, search and final; and those that have a record, done or failed, with it."""
    runs = [*sweep.search(), *final_runs(sweep, ledger)]
    return runs, [(run, record) for run in runs if (record := ledger.of(run.key, run.seed)) is not None]


def whole(sweep: Sweep, ledger: Ledger) -> bool:
    """Whether every run of a sweep as it is now is done: each rate of the search, and each seed."""
    runs, found = recorded(sweep, ledger)
    return len(runs) == sum(record.done for _, record in found)


def stages(sweep: Sweep, ledger: Ledger) -> tuple[list[Record], list[Record]]:
    """The done records of a sweep as it is now, search and final runs; a file may hold those of its past, too."""
    both = sweep.search(), final_runs(sweep, ledger)
    search, final = ([ledger.of(run.key, run.seed) for run in runs] for runs in both)
    return [r for r in search if r is not None and r.done], [r for r in final if r is not None and r.done]
