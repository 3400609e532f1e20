"""The configs, one question a file: their names, the order in which they are run, and each config as data."""

import importlib
import pkgutil
from collections.abc import Sequence
from types import ModuleType

from experiments.profiles import check
from experiments.sweep import Sweep

# Throughput comes last: its runs are long on a GPU and never pause, so runs begun just before the time limit end well
# after it.
QUEUE = (
    "budget", "batch_range", "batch_size", "clipping_threshold", "clip_alternatives", "depth_scaling", "flagship",
    "few_images", "normalizers", "statistics_batch", "clipped_layers", "regularization", "sam", "transfer",
    "throughput",
)  # fmt: skip


def names() -> list[str]:
    """Names of all configs, which are the modules of `experiments.configs`."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def queue() -> list[str]:
    """Names of all configs, the most informative first."""
    first = [name for name in QUEUE if name in names()]
    return first + [name for name in names() if name not in first]


def module(name: str) -> ModuleType:
    """The module of a config; its docstring is the contract (Question, Paper, Command, Cost, Expected)."""
    if name not in names():
        raise ValueError(f"config {name!r} is not known; use one of {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{name}")


def sweep(name: str, profile: str) -> Sweep:
    """The sweep of a config at a profile."""
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
