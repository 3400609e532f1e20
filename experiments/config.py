"""What a run is and what a sweep is: frozen data, nothing that executes."""

import hashlib
import importlib
import json
import pkgutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from types import ModuleType

from experiments import configs
from experiments.profiles import check
from nfnets_lite.models import ResNetSpec


@dataclass(frozen=True)
class Data:
    """A data set and how much of it.

    `train` and `validation` are disjoint parts of the published training images, drawn once, the same for every seed;
    `test` images are the first ones of the published test set. None takes all that is left. `pool` averages pixels.
    """

    name: str
    train: int | None = None
    validation: int = 0
    test: int | None = None
    pool: int = 1
    augment: bool = False


@dataclass(frozen=True)
class Recipe:
    """How to train: Nesterov SGD, linear warm-up, cosine to zero."""

    batch_size: int
    epochs: float
    lr: float
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.1
    clip_factor: float | None = None
    autocast: bool = False


@dataclass(frozen=True)
class Run:
    """One training, fully resolved. `key` names everything but the seed; `method` is only a label."""

    method: str
    model: ResNetSpec
    data: Data
    recipe: Recipe
    split: str = "test"
    seed: int = 0

    @cached_property
    def resolved(self) -> dict[str, object]:
        """Every field but the label and the seed, as plain data."""
        return {name: value for name, value in asdict(self).items() if name not in ("method", "seed")}

    @cached_property
    def key(self) -> str:
        """Hash of the resolved fields: the same key is the same experiment."""
        return hashlib.sha256(json.dumps(self.resolved, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Sweep:
    """Cells to compare, each with its learning rate searched on validation images by the same budget.

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
    rates: tuple[float, ...]
    search_seeds: tuple[int, ...]
    seeds: tuple[int, ...]

    def search(self) -> list[Run]:
        """Every cell at every rate, judged on the validation images."""
        return [run for cell in self.cells for rate in self.rates for run in self.at(cell, rate, search=True)]

    def at(self, cell: Run, rate: float, *, search: bool = False) -> list[Run]:
        """The runs of one cell at one rate: the search's, or the final ones."""
        recipe = replace(cell.recipe, lr=rate)
        split, seeds = ("validation", self.search_seeds) if search else ("test", self.seeds)
        return [replace(cell, recipe=recipe, split=split, seed=seed) for seed in seeds]

    def with_seeds(self, count: int) -> "Sweep":
        """The same sweep with final seeds 0 to count - 1."""
        if count < 1:
            raise ValueError(f"seeds={count} must be at least 1")
        return replace(self, seeds=tuple(range(count)))


def names() -> list[str]:
    """Every config there is: the modules of `experiments.configs`."""
    return sorted(module.name for module in pkgutil.iter_modules(configs.__path__))


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
