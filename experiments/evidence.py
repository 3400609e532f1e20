"""What the records say to a condition of a claim: measured by selection, paired by seed, held against its bound."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log2
from statistics import fmean
from typing import Any

from experiments.computed import compute
from experiments.record import Record
from experiments.rules import Condition, Range, Selection
from experiments.selection import chosen, differences, measure, value_at
from experiments.statistics import Estimate, estimate

EMPTY = -2.0  # octaves: a range without any value counts as two octaves narrower than one of a single value
Measured = Mapping[int, tuple[float, list[Record]]]


@dataclass(frozen=True)
class Finding:
    """One condition beside its measurement; `holds` is None while the interval does not decide, or without records.

    `effect` has the count 0 where it was computed and is exact; it is None where nothing was measured.
    """

    name: str
    wanted: str
    effect: Estimate | None
    holds: bool | None
    guard: bool = False
    in_part: bool = False
    seeds: tuple[int, ...] = ()
    devices: tuple[str, ...] = ()
    strictly: "Finding | None" = None  # the same, held against the bound by the 95 % t interval

    @property
    def outcome(self) -> str:
        """In a word or two."""
        if self.effect is None:
            return "not tested"
        return "in part" if self.in_part else {True: "holds", False: "fails", None: "undecided"}[self.holds]

    @property
    def said(self) -> str:
        """The outcome, and that of the 95 % t interval where it is another."""
        other = self.outcome if self.strictly is None else self.strictly.outcome
        return self.outcome if other == self.outcome else f"{self.outcome} (95 %: {other})"

    @property
    def measured(self) -> str:
        """The effect and its 95 % interval as text."""
        if self.effect is None:
            return "not tested"
        return format(self.effect, ".3g") if self.effect.count else f"{self.effect.mean:.6g}"


def findings(condition: Condition, records: Sequence[Record]) -> list[Finding]:
    """What a condition comes to: one finding, or one for each value that its `where` asks for."""
    if condition.compute:
        value = compute(condition.compute, condition.of)
        return [_finding(condition, condition.name, Estimate(value, 0.0, value, value, 0), [])]
    return [
        _finding(condition, condition.name + at, *_effect(condition, here)) for at, here in _places(condition, records)
    ]


def _finding(condition: Condition, name: str, effect: Estimate | None, used: Sequence[Record]) -> Finding:
    seeds = tuple(sorted({r.seed for r in used}))
    devices = tuple(sorted({r.provenance["device"] for r in used if "device" in r.provenance}))
    found = Finding(name, condition.wanted, effect, None, condition.guard, seeds=seeds, devices=devices)
    if effect is None:
        return found

    def held(by_t: bool) -> Finding:
        holds = condition.bound.met(effect, by_t=by_t)
        return replace(found, holds=holds, in_part=not holds and condition.bound.met_in_part(effect, by_t=by_t))

    return replace(held(by_t=False), strictly=held(by_t=True))


def _places(condition: Condition, records: Sequence[Record]) -> Iterator[tuple[str, list[Record]]]:
    """The records that all selections share, and what `where` found, as text; several times with ``each``."""
    where = {"config.split": "test", **condition.where}
    here = chosen(records, where, condition.measure)
    each = [path for path, value in where.items() if value == "each"]
    shown = [path for path, value in where.items() if value in ("smallest", "largest", "each")]
    cells: dict[tuple[Any, ...], list[Record]] = {}
    for record in here:
        cells.setdefault(tuple(value_at(record, path) for path in each), []).append(record)
    for _, cell in sorted(cells.items()) if each else [((), here)]:
        at = ", ".join(_named(path, value_at(cell[0], path)) for path in shown) if cell else ""
        yield f" ({at})" if at else "", cell
    if each and not cells:
        yield "", []


def _named(path: str, value: Any) -> str:
    name = path.rpartition(".")[2]
    if isinstance(value, bool):
        return name if value else f"not {name}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _effect(condition: Condition, here: Sequence[Record]) -> tuple[Estimate | None, list[Record]]:
    plus, minus = ([_by_seed(condition, one, here) for one in side] for side in (condition.plus, condition.minus))
    common = sorted(set.intersection(*(set(found) for found in (*plus, *minus))))
    if not common:
        return None, []

    def total(side: Sequence[Measured], seed: int) -> float:
        return sum(found[seed][0] for found in side)

    if condition.ratio:
        values = [total(plus, seed) / total(minus, seed) for seed in common]
    else:
        values = [total(plus, seed) - total(minus, seed) for seed in common]
    used = {(r.key, r.seed): r for found in (*plus, *minus) for seed in common for r in found[seed][1]}
    return estimate(values, sum(r.status == "diverged" for r in used.values())), list(used.values())


def _by_seed(condition: Condition, selection: Selection, here: Sequence[Record]) -> Measured:
    """The measure of a selection for every seed, and the records that it rests on."""
    spread = condition.range
    pooled = {**condition.where, **selection}.items()
    paths = [path for path, value in pooled if value == "mean" or isinstance(value, list)]
    paths += [spread.of, *spread.across] if spread else []
    seeds: dict[int, dict[tuple[Any, ...], Record]] = {}
    for record in chosen(here, selection, condition.measure):
        cell, cells = tuple(value_at(record, path) for path in paths), seeds.setdefault(record.seed, {})
        if cell in cells:
            raise ValueError(
                f"condition {condition.name!r}: {dict(selection)} selects several runs of seed {record.seed}; they "
                f"differ in {differences(cells[cell], record)}. Name in the rule which of them it means"
            )
        cells[cell] = record
    found = {}
    for seed, cells in seeds.items():
        measured = {cell: measure(record, condition.measure) for cell, record in cells.items()}
        value = _in_range(spread, measured) if spread else fmean(measured.values())
        found[seed] = value, list(cells.values())
    return found


def _in_range(spread: Range, measured: Mapping[tuple[Any, ...], float]) -> float:
    """What a `Range` asks for; the keys end in the value that it goes over, and the settings that it goes across."""
    tables: dict[tuple[Any, ...], dict[float, float]] = {}
    for cell, result in measured.items():
        value, *settings = cell[-1 - len(spread.across) :]
        if value is not None:
            tables.setdefault(tuple(settings), {})[value] = result
    if not tables:
        raise ValueError(f"no run has a value at {spread.of!r}, over which the range goes")
    allowed = 0.0 if spread.take == "best" else spread.within
    usable = [{v for v, result in t.items() if result >= max(t.values()) - allowed} for t in tables.values()]
    common = set.intersection(*usable)
    if not common:
        return EMPTY
    # Of two equally good values the smaller is the best one, as in the search of a sweep.
    ends = {"largest": max, "best": min}
    return log2(ends[spread.take](common)) if spread.take in ends else log2(max(common) / min(common))
