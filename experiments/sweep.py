"""Runs and sweeps as frozen dataclasses."""

from collections.abc import Generator, Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Self, TypeVar

import torch

from experiments.grid import Grid as Grid
from experiments.grid import Setting as Setting
from experiments.records.keys import key_of

T = TypeVar("T")
APART = ("method", "seed")  # the fields of a run that do not enter its key


@dataclass(frozen=True)
class Outcome:
    """Outcome of a run: status ``"ok"`` or ``"diverged"`` with the reason, and metrics and curves by name.

    `executed` says how training steps were executed, ``"eager"`` or ``"graph"``; the record's provenance keeps it.
    """

    status: str
    reason: str
    metrics: dict[str, float]
    curve: dict[str, list[Any]] = field(default_factory=dict)
    executed: str = ""


@dataclass(frozen=True)
class Run:
    """One measurement with all of its settings; each kind is a dataclass in `experiments.tasks` or `demos.atlas`.

    `key` identifies everything but the seed; `method` is only a label: a key of `nfnets_lite.models.METHODS`, often
    with what else distinguishes the runs, as in ``nf_agc`` and ``bn:updates``. `split` is ``"validation"`` in a search.

    Every kind has its own `NUMERICS`, from 1 upwards. Whoever changes the numbers that a kind computes raises it, and
    the kind's earlier records become stale. The test of `tests/experiments/first_losses.json` notices such a change.
    """

    NUMERICS: ClassVar[int]

    method: str
    split: str = field(default="test", kw_only=True)
    seed: int = field(default=0, kw_only=True)

    @cached_property
    def resolved(self) -> dict[str, Any]:
        """The kind of the run and every field but the label and the seed, as plain data."""
        fields = {name: value for name, value in asdict(self).items() if name not in APART}
        return {"kind": type(self).__name__.lower(), **fields}

    @cached_property
    def key(self) -> str:
        """Hash of the kind and of the fields that differ from their defaults; equal keys are the same experiment."""
        return key_of(self, APART)

    @property
    def base(self) -> str:
        """The method without its variant: the label up to the colon."""
        return self.method.partition(":")[0]

    @property
    def variant(self) -> str:
        """The variant of the method, such as ``updates``: the label after the colon, or an empty string."""
        return self.method.partition(":")[2]

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names of the data sets that the run needs."""
        return ()

    def effort(self, device: str) -> float:
        """Estimate of the run's seconds on a device type, ``"cpu"`` (one thread) or ``"cuda"``, from its arithmetic.

        It orders runs, long ones first, and it estimates costs where no similar run has been recorded.
        """
        return 1.0

    def at(self, setting: Setting) -> Self:
        """The same run with other hyper-parameters."""
        raise TypeError(f"a {type(self).__name__} run has no learning rate; give its sweep rates=()")

    def at_rate(self, rate: float) -> Self:
        """The same run at another learning rate."""
        return self.at(Setting(rate))

    def for_epochs(self, epochs: float) -> Self:
        """The same run, trained for another number of epochs."""
        raise TypeError(f"a {type(self).__name__} run has no number of epochs; give its sweep search_epochs=None")

    def steps(self, device: torch.device) -> Generator[None, None, Outcome]:
        """Compute, and yield wherever another run may take a turn on the device; return the outcome."""
        raise NotImplementedError

    def execute(self, device: torch.device) -> Outcome:
        """Compute without a pause."""
        return drain(self.steps(device))


def drain(steps: Generator[None, None, T]) -> T:
    """Exhaust a generator and return its return value."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            value: T = end.value
            return value


@dataclass(frozen=True)
class Sweep:
    """Cells to compare, each with its hyper-parameters searched on validation images by the same budget.

    Without rates or grids there is nothing to search: the cells are run as they are.

    Attributes
    ----------
    cells : tuple of Run
        The runs to compare; their searched hyper-parameters, split and seed are placeholders.
    rates : tuple of float
        One grid of learning rates for every cell.
    grids : tuple of Grid
        In place of `rates`: a grid for each cell, all with the same number of settings.
    widenings : int
        How often a grid may be widened beyond an end at which the best setting lies.
    search_epochs : float, optional
        Epochs of the search runs; None: each cell's own. Cells that differ only in length share their search.
    search_seeds, seeds : tuple of int
        Seeds of the search and of the final runs; disjoint, so that no final run took part in the selection.
    """

    name: str
    cells: tuple[Run, ...]
    rates: tuple[float, ...] = ()
    search_seeds: tuple[int, ...] = (1000,)
    seeds: tuple[int, ...] = (0, 1, 2)
    grids: tuple[Grid, ...] = ()
    widenings: int = 0
    search_epochs: float | None = None

    def __post_init__(self) -> None:
        sizes = [len(grid.settings()) for grid in self.grids]
        if self.grids and (self.rates or len(sizes) != len(self.cells) or len(set(sizes)) > 1):
            raise ValueError(
                f"grids of sweep {self.name!r} have {', '.join(map(str, sizes))} settings for {len(self.cells)} cells, "
                f"beside rates={self.rates}; give one grid for each cell, all of one size, and no rates"
            )

    @property
    def searched(self) -> bool:
        """Whether hyper-parameters are chosen by a search."""
        return bool(self.rates or self.grids)

    def grid(self, cell: Run) -> Grid:
        """The grid that the search of a cell starts with."""
        return self.grids[self.cells.index(cell)] if self.grids else Grid(self.rates)

    def search(self) -> list[Run]:
        """Every cell at every setting of its first grid, judged on the validation images; shared trainings once."""
        return unique(
            run for cell in self.cells for setting in self.grid(cell).settings() for run in self.tries(cell, setting)
        )

    def tries(self, cell: Run, setting: Setting) -> list[Run]:
        """The runs that judge one setting of one cell on the validation images."""
        run = cell.at(setting)
        if self.search_epochs is not None:
            run = run.for_epochs(self.search_epochs)
        return [replace(run, split="validation", seed=seed) for seed in self.search_seeds]

    def at(self, cell: Run, setting: Setting) -> list[Run]:
        """The final runs of one cell, if the search chose this setting."""
        return [replace(cell.at(setting), split="test", seed=seed) for seed in self.seeds]

    def as_they_are(self) -> list[Run]:
        """Every cell with every final seed, for a sweep that searches nothing."""
        return [replace(cell, seed=seed) for cell in self.cells for seed in self.seeds]

    def with_seeds(self, count: int) -> "Sweep":
        """The same sweep with final seeds 0 to count - 1."""
        if count < 1:
            raise ValueError(f"seeds={count} must be at least 1")
        return replace(self, seeds=tuple(range(count)))


def unique(runs: Iterable[Run]) -> list[Run]:
    """The runs without repetitions: cells may share trainings."""
    return list({(run.key, run.seed): run for run in runs}.values())
