"""What a run is and what a sweep is: frozen data."""

import importlib
import pkgutil
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from types import ModuleType
from typing import Any, ClassVar, Self, TypeVar

import torch

from experiments import configs
from experiments.keys import key_of
from experiments.profiles import check

T = TypeVar("T")
APART = ("method", "seed")  # the fields of a run that do not enter its key
# Throughput stands behind them: its runs never pause and are long on a GPU, so that all that were handed to the device
# are finished after the time that was given.
QUEUE = (
    "batch_size", "clipping_threshold", "depth_scaling", "normalizers", "statistics_batch", "clipped_layers",
    "clip_alternatives", "regularization", "sam", "transfer", "throughput",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What a run gave: status ``"ok"`` or ``"diverged"`` with the reason, numbers, and curves by name."""

    status: str
    reason: str
    metrics: dict[str, float]
    curve: dict[str, list[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """One measurement, fully resolved; its kinds are the dataclasses of `experiments.tasks`.

    `key` names everything but the seed; `method` is only a label. `split` is ``"validation"`` in a search.

    Every kind has a `NUMERICS` of its own, from 1 upwards. Whoever changes the numbers that a kind computes raises the
    number, and the kind's earlier records are stale. `tests/experiments/first_losses.json` notices such a change.
    """

    NUMERICS: ClassVar[int]

    method: str
    split: str = field(default="test", kw_only=True)
    seed: int = field(default=0, kw_only=True)

    @cached_property
    def resolved(self) -> dict[str, Any]:
        """Every field but the label and the seed, as plain data, and the kind of the run."""
        fields = {name: value for name, value in asdict(self).items() if name not in APART}
        return {"kind": type(self).__name__.lower(), **fields}

    @cached_property
    def key(self) -> str:
        """Hash of the kind and of the fields that differ from their defaults: the same key is the same experiment."""
        return key_of(self, APART)

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names of the data sets that must be at hand."""
        return ()

    def effort(self, device: str) -> float:
        """Seconds that the run may take on a device type, ``"cpu"`` (one thread) or ``"cuda"``, by its arithmetic.

        A rule of thumb: long runs go first by it, and it stands in where nothing like the run has been recorded.
        """
        return 1.0

    def at_rate(self, rate: float) -> Self:
        """The same run at another learning rate."""
        raise TypeError(f"a {type(self).__name__} run has no learning rate; give its sweep rates=()")

    def steps(self, device: torch.device) -> Generator[None, None, Outcome]:
        """Compute, pausing wherever another run may take a turn on the device; what it returns is the outcome."""
        raise NotImplementedError

    def execute(self, device: torch.device) -> Outcome:
        """Compute without a pause."""
        return drain(self.steps(device))


def drain(steps: Generator[None, None, T]) -> T:
    """What a generator returns, once it is through."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            value: T = end.value
            return value


@dataclass(frozen=True)
class Sweep:
    """Cells to compare, each with its learning rate searched on validation images by the same budget.

    Without rates there is nothing to search: the cells are run as they are.

    Attributes
    ----------
    cells : tuple of Run
        What is compared; the learning rate, split and seed in them are placeholders.
    rates : tuple of float
        The grid of learning rates that every cell is given.
    search_seeds, seeds : tuple of int
        Seeds of the search and of the final runs; disjoint, so that no final run was selected on.
    """

    name: str
    cells: tuple[Run, ...]
    rates: tuple[float, ...] = ()
    search_seeds: tuple[int, ...] = (1000,)
    seeds: tuple[int, ...] = (0, 1, 2)

    def search(self) -> list[Run]:
        """Every cell at every rate, judged on the validation images."""
        return [run for cell in self.cells for rate in self.rates for run in self.at(cell, rate, search=True)]

    def at(self, cell: Run, rate: float, *, search: bool = False) -> list[Run]:
        """The runs of one cell at one rate: the search's, or the final ones."""
        split, seeds = ("validation", self.search_seeds) if search else ("test", self.seeds)
        return [replace(cell.at_rate(rate), split=split, seed=seed) for seed in seeds]

    def as_they_are(self) -> list[Run]:
        """Every cell with every final seed, for a sweep without rates."""
        return [replace(cell, seed=seed) for cell in self.cells for seed in self.seeds]

    def with_seeds(self, count: int) -> "Sweep":
        """The same sweep with final seeds 0 to count - 1."""
        if count < 1:
            raise ValueError(f"seeds={count} must be at least 1")
        return replace(self, seeds=tuple(range(count)))


def names() -> list[str]:
    """Every config there is: the modules of `experiments.configs`."""
    return sorted(module.name for module in pkgutil.iter_modules(configs.__path__))


def queue() -> list[str]:
    """Every config, those first whose records settle most."""
    first = [name for name in QUEUE if name in names()]
    return first + [name for name in names() if name not in first]


def module(name: str) -> ModuleType:
    """The module of a config; its docstring is the contract (Question, Paper, Command, Cost, Expected)."""
    if name not in names():
        raise ValueError(f"config {name!r} is not known; use one of {', '.join(names())}")
    return importlib.import_module(f"experiments.configs.{name}")


def sweep(name: str, profile: str) -> Sweep:
    """A config at a profile, as data."""
    found: Sweep = module(name).sweep(check(profile))
    return found


def contract(name: str, fields: Sequence[str] = ("Question", "Paper", "Command", "Cost", "Expected")) -> dict[str, str]:
    """The fields of a config's docstring, each ``Name: text``, continued on indented lines."""
    lines = (module(name).__doc__ or "").splitlines()
    found: dict[str, str] = {}
    current = ""
    for line in lines:
        head, colon, rest = line.partition(":")
        if colon and head in fields:
            current = head
            found[current] = rest.strip()
        elif current and line.startswith("    "):
            found[current] += " " + line.strip()
        else:
            current = ""
    missing = [field for field in fields if not found.get(field)]
    if missing:
        raise ValueError(f"the docstring of config {name!r} lacks {', '.join(missing)}; it needs {', '.join(fields)}")
    return found
