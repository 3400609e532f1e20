"""Findings: the conditions of a claim measured on records and judged together against their bounds."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from experiments.claims.bounds import Bound
from experiments.claims.computed import compute
from experiments.claims.effects import LEVEL, PAIRING_HELPS, Effect, Exact, Shares, compare, paired_over_independent
from experiments.claims.rules import SHARES, Condition, Selection
from experiments.claims.selection import by_seed, measure, places
from experiments.records.record import Record
from experiments.records.statistics import Estimate, failed_to_train


@dataclass(frozen=True)
class Finding:
    """One condition with its measurement; `holds` is None if the interval does not decide, or without records.

    `effect` is None if nothing was measured; its count is 0 if it was computed and is exact. Its interval at `level`
    decides the condition; `way` says how the interval was made.
    """

    name: str
    wanted: str
    bound: Bound
    effect: Estimate | None = None
    holds: bool | None = None
    guard: bool = False
    in_part: bool = False
    level: float = LEVEL
    way: str = ""
    records: tuple[Record, ...] = field(default=(), repr=False)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of its runs."""
        return tuple(sorted({r.seed for r in self.records}))

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices of its runs."""
        return tuple(sorted({r.provenance["device"] for r in self.records if "device" in r.provenance}))

    @property
    def outcome(self) -> str:
        """The outcome in a word or two."""
        if self.effect is None:
            return "not tested"
        return "in part" if self.in_part else {True: "holds", False: "fails", None: "undecided"}[self.holds]

    @property
    def said(self) -> str:
        """The outcome, and whether the effect has the opposite sign to the one that the bound asks for."""
        opposite = self.effect is not None and self.outcome == "fails" and self.bound.opposite(self.effect)
        return "fails, with the opposite sign" if opposite else self.outcome

    @property
    def measured(self) -> str:
        """The effect and its interval as text."""
        if self.effect is None:
            return "not tested"
        effect = replace(self.effect, mean=round(self.effect.mean, 12) + 0.0)  # what is left of rounding is 0
        return format(effect, ".3g") if effect.count else f"{effect.mean:.6g}"


@dataclass(frozen=True)
class _Open:
    """A condition that was measured and is not judged yet."""

    condition: Condition
    name: str
    effect: Effect | None
    records: tuple[Record, ...] = ()

    def judged(self, level: float) -> Finding:
        """The finding by the interval of a level."""
        condition, effect = self.condition, self.effect
        found = Finding(self.name, condition.wanted, condition.bound, guard=condition.guard, level=level)
        if effect is None:
            return found
        low, high = effect.interval(level) or (None, None)
        lost = sum(r.status == "diverged" for r in self.records), sum(map(failed_to_train, self.records))
        estimate = Estimate(effect.mean, low, high, effect.count, *lost)
        holds = condition.bound.met(estimate)
        in_part = not holds and condition.bound.met_in_part(estimate)
        return replace(found, effect=estimate, holds=holds, in_part=in_part, way=effect.way, records=self.records)


def findings(conditions: Sequence[Condition], records: Sequence[Record]) -> list[Finding]:
    """The findings of the conditions of one claim: one a condition, or one for each value with ``each`` in `where`.

    The intervals of all findings hold together, by Holm's correction.
    """
    measured = [found for condition in conditions for found in _measured(condition, records)]
    return holm([found.judged for found in measured], [_has_interval(found) for found in measured])


def _has_interval(found: _Open) -> bool:
    return found.effect is not None and found.effect.count > 0 and found.effect.interval(LEVEL) is not None


def holm(judge: Sequence[Callable[[float], Finding]], counts: Sequence[bool]) -> list[Finding]:
    """Findings whose intervals hold together at `LEVEL` (Holm, 1979); `judge` has functions from level to finding.

    Each of the m findings that `counts` marks is judged at the level 1 - 0.05 / m. The findings that are not decided
    are judged again with their own, smaller number in place of m, until no more are decided. A finding keeps the
    interval that decided it; an undecided one has its last interval.
    """
    found = [one(LEVEL) for one in judge]
    left = [i for i, counted in enumerate(counts) if counted]
    while left:
        level = 1 - (1 - LEVEL) / len(left)
        found = [one(level) if i in left else before for i, (one, before) in enumerate(zip(judge, found))]
        undecided = [i for i in left if found[i].outcome == "undecided"]
        if len(undecided) == len(left):
            break
        left = undecided
    return found


def _measured(condition: Condition, records: Sequence[Record]) -> Iterator[_Open]:
    if condition.compute:
        yield _Open(condition, condition.name, Exact(compute(condition.compute, condition.of)))
        return
    for at, here in places(condition, records):
        yield _Open(condition, condition.name + at, *_effect(condition, here, records))


def _effect(
    condition: Condition, here: Sequence[Record], records: Sequence[Record]
) -> tuple[Effect | None, tuple[Record, ...]]:
    """The effect of a condition, and the runs that it comes from."""
    terms: list[tuple[int, Selection]] = []
    for sign, side in ((1, condition.plus), (-1, condition.minus)):
        for one in dict.fromkeys(map(repr, side)):  # a selection that is listed twice counts twice
            same = [selection for selection in side if repr(selection) == one]
            terms.append((sign * len(same), same[0]))
    found = [(factor, by_seed(condition, selection, here)) for factor, selection in terms]
    if not all(cell for _, cell in found):
        return None, ()
    used = {(r.key, r.seed): r for _, cell in found for _, runs in cell.values() for r in runs}
    runs = tuple(used.values())
    if condition.measure in SHARES:
        sides = [[measure(r, condition.measure) for _, rs in cell.values() for r in rs] for _, cell in found]
        hits = [(round(sum(side)), len(side)) for side in sides]
        return Shares(hits[0], hits[1] if condition.minus else None), runs
    cells = [(factor, {seed: value for seed, (value, _) in cell.items()}) for factor, cell in found]
    paired = len(cells) > 1 and _pairing_helps(condition.measure, runs, records)
    return compare(cells, paired=paired, ratio=condition.ratio), runs


def _pairing_helps(expression: str, used: Sequence[Record], records: Sequence[Record]) -> bool:
    """Whether pairing by seed makes a difference less uncertain, over all cells of the sweeps of these runs."""
    kinds = {(r.sweep, r.config.get("split")) for r in used}
    cells: dict[tuple[str, str], dict[int, float]] = {}
    for record in records:
        if (record.sweep, record.config.get("split")) in kinds and (value := _or_none(record, expression)) is not None:
            cells.setdefault((record.sweep, record.key), {})[record.seed] = value
    most = max(map(len, cells.values()), default=0)
    whole = [cell for cell in cells.values() if len(cell) == most]
    return paired_over_independent(whole) < PAIRING_HELPS


def _or_none(record: Record, expression: str) -> float | None:
    try:
        return measure(record, expression)
    except ValueError:  # another kind of run in the sweep, or one that diverged before it was measured
        return None
