"""A sweep and its records as one object: its runs, their results, and the settings that the search chose."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from experiments.records import Ledger, Record, path_of, read
from experiments.sweep import Grid, Run, Setting, Sweep, unique


@dataclass(frozen=True)
class Result(Record):
    """A record together with its run, whose fields are typed: ``result.run.recipe.lr``."""

    run: Run = field(kw_only=True)

    @classmethod
    def of(cls, run: Run, record: Record) -> "Result":
        """Join a record with its run; late fields of the record stay undecoded until one is read."""
        made = object.__new__(cls)
        made.__dict__.update(record.__dict__, run=run)
        return made

    @property
    def stale(self) -> bool:
        """Whether the run would give other numbers now, because the `NUMERICS` of its kind were raised since."""
        return self.numerics != self.run.NUMERICS


class Results(tuple[Result, ...]):
    """Results in the order of their runs."""

    __slots__ = ()

    def where(self, **values: object) -> "Results":
        """The results whose runs have the given values in the fields of these names; see `field_of`.

        Examples
        --------
        ``study.final.where(method="bn", batch_size=512)``
        """
        return Results(r for r in self if all(field_of(r.run, name) == value for name, value in values.items()))


def field_of(run: Run, name: str) -> Any:
    """A field of a run by its name, or a field of a dataclass that the run holds, such as its recipe's `batch_size`.

    Raises
    ------
    ValueError
        If no field has the name, or fields of several of the dataclasses have it.
    """
    if name in (own := _names(run)):
        return getattr(run, name)
    parts = [part for held in own if is_dataclass(part := getattr(run, held))]
    found = [part for part in parts if name in _names(part)]
    if len(found) != 1:
        known = sorted({*own, *(one for part in parts for one in _names(part))})
        raise ValueError(
            f"field {name!r} is in {len(found)} of the dataclasses that a {type(run).__name__} run holds; "
            f"use the name of one field, of {', '.join(known)}"
        )
    return getattr(found[0], name)


def _names(value: Any) -> list[str]:
    return [f.name for f in fields(value)]


@dataclass(frozen=True)
class Study:
    """The present sweep and its records, each run paired with its record.

    The file may also hold records of earlier versions of the sweep. Only `ledger` contains them.
    """

    sweep: Sweep
    ledger: Ledger

    @classmethod
    def read(cls, sweep: Sweep, results: Path) -> "Study":
        """A sweep with its records in a folder; there may be none."""
        return cls(sweep, read(path_of(results, sweep.name)))

    @property
    def path(self) -> Path:
        """The file of the records."""
        return self.ledger.path

    @cached_property
    def search_runs(self) -> list[Run]:
        """The runs that are judged on validation images: every cell at every setting that the records call for."""
        return unique(
            run
            for cell in self.sweep.cells
            for setting in self.grid(cell).settings()
            for run in self.sweep.tries(cell, setting)
        )

    @cached_property
    def final_runs(self) -> list[Run]:
        """The runs that are judged on test images, each cell at the setting that its search chose."""
        if not self.sweep.searched:
            return self.sweep.as_they_are()
        return [run for cell in self.sweep.cells for run in self.sweep.at(cell, self.setting(cell))]

    @property
    def runs(self) -> list[Run]:
        """All runs, search and final."""
        return [*self.search_runs, *self.final_runs]

    @cached_property
    def recorded(self) -> Results:
        """The records of all runs, done or failed."""
        return Results(self._pairs(self.runs))

    @cached_property
    def search(self) -> Results:
        """Results of the search runs that are done."""
        return Results(r for r in self._pairs(self.search_runs) if r.done)

    @cached_property
    def final(self) -> Results:
        """Results of the final runs that are done."""
        return Results(r for r in self._pairs(self.final_runs) if r.done)

    @property
    def missing(self) -> list[Run]:
        """The runs without a result: runs without a record, and runs that failed."""
        return self.pending(self.runs)

    @property
    def complete(self) -> bool:
        """Whether every run of the search and every final run is done."""
        return not self.missing

    @property
    def searched(self) -> bool:
        """Whether every run of the search is done; until then the chosen settings are provisional."""
        return not self.pending(self.search_runs)

    @property
    def stale(self) -> list[Record]:
        """The records of the file that its runs would not give now, and those of runs no longer in the sweep."""
        known = possible(self.sweep) | {run.key: run for run in self.runs} if self.ledger.records else {}
        return [r for r in self.ledger.records if r.key not in known or r.numerics != known[r.key].NUMERICS]

    def left(self, *, fresh: bool = False) -> list[Run]:
        """The runs left to do. While the search is unfinished, the final runs are not known, so all of them count."""
        search = self.pending(self.search_runs, fresh=fresh)
        return search + (self.final_runs if search else self.pending(self.final_runs, fresh=fresh))

    def pending(self, runs: Iterable[Run], *, fresh: bool = False) -> list[Run]:
        """Those of the given runs that have no usable record; with `fresh`, a stale record is not usable."""
        wanted = list(runs)
        usable = {(r.key, r.seed) for r in self._pairs(wanted) if r.done and not (fresh and r.stale)}
        return [run for run in wanted if (run.key, run.seed) not in usable]

    def grid(self, cell: Run) -> Grid:
        """The grid of a cell, widened where the best setting lies at an end, as often as the sweep allows.

        It is widened only after every setting that it has so far was tried.
        """
        found = self.sweep.grid(cell)
        for _ in range(self.sweep.widenings):
            if self.pending(run for setting in found.settings() for run in self.sweep.tries(cell, setting)):
                break
            found = found.widened(self._best(cell, found))
        return found

    def setting(self, cell: Run) -> Setting:
        """The setting with the best mean validation accuracy; a tie goes to the smaller learning rate, then threshold.

        A run that diverged counts as 0, below chance, so that its setting is not preferred to one that trained. Before
        the search is over, a run that failed or is missing counts as 0 as well: until then the choice is provisional.
        A run that ended near chance counts with its own accuracy, so that settings near chance keep their order.
        """
        return self._best(cell, self.grid(cell))

    def rate(self, cell: Run) -> float:
        """The learning rate of the cell's best setting."""
        return self.setting(cell).lr

    def _best(self, cell: Run, grid: Grid) -> Setting:
        def score(setting: Setting) -> float:
            found = [self.ledger.of(run.key, run.seed) for run in self.sweep.tries(cell, setting)]
            return fmean(r.metrics["accuracy"] if r is not None and r.status == "ok" else 0.0 for r in found)

        return max(grid.settings(), key=score)

    def _pairs(self, runs: Iterable[Run]) -> Iterator[Result]:
        for run in runs:
            record = self.ledger.of(run.key, run.seed)
            if record is not None:
                yield Result.of(run, record)


def possible(sweep: Sweep) -> dict[str, Run]:
    """Every run that a sweep may have, by key: the search, and final runs at every setting of its first grids."""
    finals = (run for cell in sweep.cells for setting in sweep.grid(cell).settings() for run in sweep.at(cell, setting))
    return {run.key: run for run in (*sweep.search(), *sweep.cells, *finals)}
