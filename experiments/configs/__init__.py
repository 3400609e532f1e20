"""The configs, one question a file: which there are, in which order they are run, and each of them as data."""

import importlib
import pkgutil
from collections.abc import Sequence
from types import ModuleType

from experiments.profiles import check
from experiments.sweep import Sweep

# Throughput stands behind them: its runs never pause and are long on a GPU, so that all that were handed to the device
# are finished after the time that was given.
QUEUE = (
    "budget", "batch_range", "batch_size", "clipping_threshold", "clip_alternatives", "depth_scaling", "flagship",
    "normalizers", "statistics_batch", "clipped_layers", "regularization", "sam", "transfer", "throughput",
)  # fmt: skip


def names() -> list[str]:
    """Every config there is: the modules of `experiments.configs`."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def queue() -> list[str]:
    """Every config, those first whose records settle most."""
    first = [name for name in QUEUE if name in names()]
    return first + [name for name in names() if name not in first]


def module(name: str) -> ModuleType:
    """The module of a config; its docstring is the contract (Question, Paper, Command, Cost, Expected)."""
    if name not in names():
        raise ValueError(f"config {name!r} is not known; use one of {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{name}")


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
