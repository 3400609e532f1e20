"""Which runs a sweep still needs: its search, then the final runs at the rates that the search chose."""

from collections.abc import Sequence
from statistics import fmean

from experiments.records import Ledger, Record
from experiments.sweep import Grid, Run, Setting, Sweep, unique


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


def grid(sweep: Sweep, cell: Run, ledger: Ledger) -> Grid:
    """The grid of a cell, widened as often as the sweep allows beyond ends at which the best setting lies.

    It is widened only once every setting that it has so far was tried.
    """
    found = sweep.grid(cell)
    for _ in range(sweep.widenings):
        if pending([run for setting in found.settings() for run in sweep.tries(cell, setting)], ledger, fresh=False):
            break
        found = found.widened(_best(sweep, cell, found, ledger))
    return found


def search_runs(sweep: Sweep, ledger: Ledger) -> list[Run]:
    """The runs that are judged on validation images, as far as the records say which settings are to be tried."""
    return unique(
        run
        for cell in sweep.cells
        for setting in grid(sweep, cell, ledger).settings()
        for run in sweep.tries(cell, setting)
    )


def best_rate(sweep: Sweep, cell: Run, ledger: Ledger) -> float:
    """The learning rate of the cell's best setting."""
    return best_setting(sweep, cell, ledger).lr


def best_setting(sweep: Sweep, cell: Run, ledger: Ledger) -> Setting:
    """The setting with the best mean validation accuracy; a tie goes to the smaller rate, then the smaller threshold.

    A run that diverged counts as 0 here, below chance: no such setting is preferred to one that trained. So does one
    that failed or is missing, before the search is over: nothing may rest on the choice until then. One that ended near
    chance counts as it is, so that such settings keep their order.
    """
    return _best(sweep, cell, grid(sweep, cell, ledger), ledger)


def _best(sweep: Sweep, cell: Run, grid: Grid, ledger: Ledger) -> Setting:
    def score(setting: Setting) -> float:
        found = [ledger.of(run.key, run.seed) for run in sweep.tries(cell, setting)]
        return fmean(r.metrics["accuracy"] if r is not None and r.status == "ok" else 0.0 for r in found)

    return max(grid.settings(), key=score)


def final_runs(sweep: Sweep, ledger: Ledger) -> list[Run]:
    """The runs that are judged on test images, each cell at the setting its search chose."""
    if not sweep.searched:
        return sweep.as_they_are()
    return [run for cell in sweep.cells for run in sweep.at(cell, best_setting(sweep, cell, ledger))]


def recorded(sweep: Sweep, ledger: Ledger) -> tuple[list[Run], list[tuple[Run, Record]]]:
    """All runs of a sweep as it is now, search and final; and those that have a record, done or failed, with it."""
    runs = [*search_runs(sweep, ledger), *final_runs(sweep, ledger)]
    return runs, [(run, record) for run in runs if (record := ledger.of(run.key, run.seed)) is not None]


def whole(sweep: Sweep, ledger: Ledger) -> bool:
    """Whether every run of a sweep as it is now is done: each rate of the search, and each seed."""
    runs, found = recorded(sweep, ledger)
    return len(runs) == sum(record.done for _, record in found)


def stages(sweep: Sweep, ledger: Ledger) -> tuple[list[Record], list[Record]]:
    """The done records of a sweep as it is now, search and final runs; a file may hold those of its past, too."""
    both = search_runs(sweep, ledger), final_runs(sweep, ledger)
    search, final = ([ledger.of(run.key, run.seed) for run in runs] for runs in both)
    return [r for r in search if r is not None and r.done], [r for r in final if r is not None and r.done]
