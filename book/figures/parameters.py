"""The four parameters of a chapter, checked by name before anything is trained."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.profiles import PROFILES

ACCEPTED = "profile, rerun, device, results_dir"
DEVICES = re.compile(r"auto|cpu|mps|cuda(:\d+)?")
INJECTED = "# Parameters"  # the first line of the cell that papermill adds


def assignments(source: str) -> dict[str, ast.expr]:
    """The plain `name = value` statements of a cell, in order."""
    found: dict[str, ast.expr] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found.update({target.id: node.value for target in targets if isinstance(target, ast.Name)})
    return found


def check(values: Mapping[str, Any]) -> None:
    """Refuse a parameter of a wrong type or value; names that are not a chapter's parameters are passed over.

    Raises
    ------
    ValueError
        With the parameter's name, its value and what is accepted.

    Examples
    --------
    >>> check({"profile": "smoke", "rerun": True, "device": "cuda:1", "results_dir": ""})
    """
    accepted = {
        "profile": (f"one of {', '.join(PROFILES)}", lambda value: value in PROFILES),
        "rerun": ("True or False, without quotes", lambda value: isinstance(value, bool)),
        "device": ("auto, cpu, mps, cuda or cuda:N", lambda value: isinstance(value, str) and DEVICES.fullmatch(value)),
        "results_dir": ("the path of a folder as text, or empty", lambda value: isinstance(value, str)),
    }
    for name, (wanted, holds) in accepted.items():
        if name in values and not holds(values[name]):
            raise ValueError(f"parameter {name}={values[name]!r} must be {wanted}")


def check_injected(cells: Sequence[str]) -> None:
    """Refuse a name that papermill was given and no chapter has: papermill itself warns, and goes on without it.

    Raises
    ------
    ValueError
        With the first such name.

    Examples
    --------
    >>> check_injected(["# Parameters\\nprofile = 'small'"])
    """
    given = [name for cell in cells if cell.startswith(INJECTED) for name in assignments(cell)]
    unknown = [name for name in given if name not in ACCEPTED.split(", ")]
    if unknown:
        raise ValueError(f"parameter {unknown[0]!r} is not one that chapters have; use {ACCEPTED}")


def check_notebook() -> None:
    """Check what the running notebook has set and was given so far; outside of a notebook there is nothing to check."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is not None:
        check(shell.user_ns)
        check_injected(shell.user_ns.get("In", []))
