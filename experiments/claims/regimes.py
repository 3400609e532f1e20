"""Preconditions of verdicts: whether the runs reached the regime that a claim is about, measured on the same records.

A precondition is written like a condition of `experiments.claims.rules` and is judged by the mean over seeds, without
an interval. With `plus` it applies to the cells that `plus` selects among all final runs of the claim's sweeps; without
`plus`, to the cells that the claim's conditions compare. Each of these cells has to meet the bound. A precondition may
also measure

- ``at_grid_end``: 1 if the run's learning rate or clipping threshold was searched on validation images and is the
  smallest or the largest value of the search. A cell without its own search has the search of the cell that differs
  only in the length of training;
- ``half_width``: half-width of the interval of each undecided condition, and ``half_width / bound``: the half-width
  over the condition's bound, where the bound is not 0. The interval of a decided condition is narrow enough.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from experiments.claims.bounds import Bound
from experiments.claims.evidence import Finding
from experiments.claims.rules import Condition, parse
from experiments.claims.selection import chosen, measure, value_at
from experiments.records.record import Record

SEARCHED = tuple(f"config.recipe.{name}" for name in ("lr", "filter_lr", "clip.factor", "clip"))
LENGTH = ("epochs", "updates")
WIDTHS = ("half_width", "half_width / bound")
MAY_HAVE = {"as", "name", "measure", "where", "plus", "at_least", "between", "expected", "tolerance"}


@dataclass(frozen=True)
class Reached:
    """A precondition and its measurement: the worst value of `cells` cells or intervals, `unmet` of which miss it.

    `runs` is the number of runs of the cell with the worst value; 0 for intervals. `value` is None if nothing was
    measured; for widths, `cells` then counts the undecided intervals, whose bounds are all 0.
    """

    name: str
    wanted: str
    value: float | None
    cells: int
    unmet: int
    measure: str = ""
    runs: int = 0

    @property
    def met(self) -> bool:
        return not self.unmet

    @property
    def said(self) -> str:
        """The measured value and the bound, as a clause."""
        if self.value is None and self.measure in WIDTHS:
            return (
                "each undecided interval has the bound 0, which limits no width"
                if self.cells
                else "no interval is undecided"
            )
        if self.value is None:
            return f"{self.name} was not measured; the claim needs {self.wanted}"
        if self.measure in WIDTHS:
            times = self.value / float(self.wanted)
            return f"the widest undecided interval is {times:.3g} times as wide as the claim allows"
        some = f"{self.unmet} of {self.cells} settings"
        if self.measure == "at_grid_end":
            better = ", so a better one may exist" if self.unmet else ""
            return f"in {some} the search chose the first or the last value of its grid{better}"
        if self.measure == "loss_falls" and self.wanted == "at least 1":
            where = " of the worst setting" if self.cells > 1 and self.unmet else ""
            return f"the loss fell in {round(self.value * self.runs)} of {self.runs} runs{where}; it has to fall in all"
        if self.measure == "updates":
            return f"the shortest runs have {self.value:g} updates; the claim needs {self.wanted}"
        worst = f" at worst ({some} miss the bound)" if self.cells > 1 and self.unmet else ""
        return f"{self.name}: {self.value:.3g}{worst}; the claim needs {self.wanted}"


def named(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The preconditions to which claims refer by name, after a check of each."""
    for name, entry in entries.items():
        precondition(entry, {}, f"regime {name!r}")
    return dict(entries)


def precondition(entry: Any, known: Mapping[str, Mapping[str, Any]], whose: str = "its regime") -> Condition:
    """One precondition of a claim: a name, a name with changes (``as: NAME`` and what differs), or its own."""
    given = {"as": entry} if isinstance(entry, str) else dict(entry)
    name = given.pop("as", None)
    if name is not None and name not in known:
        raise ValueError(f"{whose} names {name!r}, which is not known; use one of {', '.join(known)}, or write it out")
    found = {**(known[name] if name else {}), **given}
    if unknown := sorted(found.keys() - MAY_HAVE):
        raise ValueError(f"{whose} has unknown fields {', '.join(unknown)}; use {', '.join(sorted(MAY_HAVE))}")
    (condition,) = parse(found, precondition=True)
    return condition


def reached(condition: Condition, found: Sequence[Finding], records: Sequence[Record]) -> Reached:
    """Judge a precondition by the runs of a claim's sweeps; `found` are the findings of the claim's conditions."""
    if condition.measure in WIDTHS:
        undecided = [one for one in found if one.outcome == "undecided" and one.effect and one.effect.low is not None]
        widest = _worst(condition, list(_widths(condition.measure, undecided)))
        return replace(widest, cells=len(undecided), unmet=0) if widest.value is None else widest
    pool = records if condition.plus else list({(r.sweep, r.key, r.seed): r for f in found for r in f.records}.values())
    selection = condition.plus[0] if condition.plus else {}
    grids = _Grids(records) if condition.measure == "at_grid_end" else None
    cells: dict[tuple[str, str], list[float]] = {}
    for record in chosen(pool, {"config.split": "test", **condition.where, **selection}):
        value = grids.end(record) if grids else _measured(record, condition.measure)
        if value is not None:
            cells.setdefault((record.sweep, record.key), []).append(value)
    return _worst(condition, [fmean(values) for values in cells.values()], list(map(len, cells.values())))


def _worst(condition: Condition, values: Sequence[float], runs: Sequence[int] = ()) -> Reached:
    """The worst of the values, one for each cell or interval; `runs` holds the number of runs of each cell."""
    bound = condition.bound
    wanted = f"{bound.high:g}" if condition.measure in WIDTHS else bound.words
    if not values:
        return Reached(condition.name, wanted, None, 0, 1, condition.measure)
    unmet = sum(bound.off(v) > 0 for v in values)
    worst = max(range(len(values)), key=lambda i: bound.off(values[i]))
    counted = runs[worst] if runs else 0
    return Reached(condition.name, wanted, values[worst], len(values), unmet, condition.measure, counted)


def _measured(record: Record, expression: str) -> float | None:
    try:
        return measure(record, expression)
    except ValueError:
        if record.status == "diverged":  # it ended before this was measured
            return None
        raise


def _widths(expression: str, undecided: Sequence[Finding]) -> Iterator[float]:
    for one in undecided:
        half, size = (one.effect.high - one.effect.low) / 2, _size(one.bound)  # type: ignore[union-attr, operator]
        if expression == "half_width":
            yield half
        elif size:
            yield half / size


def _size(bound: Bound) -> float:
    """The absolute value of a bound; for a range, half of its width."""
    if bound.low is not None and bound.high is not None:
        return (bound.high - bound.low) / 2
    return abs(bound.high if bound.low is None else bound.low)  # type: ignore[arg-type]


class _Grids:
    """The values that the searches of some sweeps tried, cell by cell."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.tried: dict[str, list[Record]] = {}
        for record in records:
            if record.config.get("split") == "validation":
                for length in (True, False):
                    self.tried.setdefault(_cell(record, length=length), []).append(record)

    def end(self, record: Record) -> float | None:
        """1 if the setting that the search chose for a run is an end of its grid, 0 if not, None without any search.

        A run whose own length was not searched has the search of another length (`Sweep.search_epochs`).
        """
        tried = self.tried.get(_cell(record, length=True)) or self.tried.get(_cell(record, length=False))
        if not tried:
            return None
        for path in SEARCHED:
            values = {value for r in tried if isinstance(value := value_at(r, path), int | float)}
            if len(values) > 1 and value_at(record, path) in (min(values), max(values)):
                return 1.0
        return 0.0


def _cell(record: Record, *, length: bool) -> str:
    """The fields that search runs and final runs of a cell share, as text; `length` keeps epochs and updates."""
    config = {name: value for name, value in record.config.items() if name != "split"}
    recipe = dict(config.get("recipe") or {})
    for name in ("lr", "filter_lr", *(() if length else LENGTH)):
        recipe.pop(name, None)
    clip = recipe.get("clip")  # None, a threshold by itself, or a rule with a threshold
    recipe["clip"] = {**clip, "factor": None} if isinstance(clip, Mapping) else bool(clip)
    return json.dumps([record.sweep, record.method, length, {**config, "recipe": recipe}], sort_keys=True, default=str)
