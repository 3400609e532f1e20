"""The records that a rule selects, and its measure on one record; `experiments.claims.rules` has the language."""

from collections.abc import Iterator, Mapping, Sequence
from math import log, log2
from statistics import fmean
from typing import Any

from experiments.claims.rules import OPERATORS, Condition, Range, Selection
from experiments.records.record import Record
from experiments.records.statistics import accuracy, chance, failed_to_train

FALLEN = 0.9  # the loss has fallen if it is below this share of the first loss and of the loss of guessing
EMPTY = -2.0  # octaves: a range without any value counts as two octaves narrower than a range of one value
Measured = Mapping[int, tuple[float, list[Record]]]


def chosen(records: Sequence[Record], selection: Selection) -> list[Record]:
    """The records that a selection selects; ``best`` and ``worst`` are those by mean test accuracy."""
    found = [r for r in records if all(_matches(value_at(r, path), value) for path, value in selection.items())]
    ends = {path: value for path, value in selection.items() if value in ("smallest", "largest")}
    for path in ends:
        if records and all(value_at(r, path) is None for r in records):
            raise ValueError(f"none of the {len(records)} records has anything at {path!r}, so none is {ends[path]}")
    found = [r for r in found if all(value_at(r, path) is not None for path in ends)]
    limits = {
        path: (max if end == "largest" else min)(value_at(r, path) for r in found)
        for path, end in ends.items()
        if found
    }
    found = [r for r in found if all(value_at(r, path) == limit for path, limit in limits.items())]
    for order, pick in (("best", max), ("worst", min)):
        paths = [path for path, value in selection.items() if value == order]
        cells: dict[tuple[Any, ...], list[Record]] = {}
        for r in found:
            cells.setdefault(tuple(value_at(r, path) for path in paths), []).append(r)
        if paths and cells:
            found = pick(cells.values(), key=lambda cell: fmean(accuracy(r) for r in cell))
    return found


def _matches(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, list):
        return found in wanted
    if isinstance(wanted, str) and wanted in OPERATORS:
        return wanted not in ("any", "each") or found is not None
    return bool(found == wanted)


def value_at(record: Record, path: str) -> Any:
    """The value at a dotted path; None if there is none.

    Pairs count as a mapping, and a list of numbers as its sum, so that the blocks of all stages are a network's depth.
    """
    first, *rest = path.split(".")
    found = getattr(record, first)
    for name in rest:
        if isinstance(found, (list, tuple)) and all(isinstance(pair, (list, tuple)) for pair in found):
            found = dict(found)
        found = found.get(name) if isinstance(found, Mapping) else None
    if isinstance(found, (list, tuple)) and all(isinstance(number, (int, float)) for number in found):
        return sum(found)
    return found


def places(condition: Condition, records: Sequence[Record]) -> Iterator[tuple[str, list[Record]]]:
    """Yield the values that `where` found, as text, and the records that match it; with ``each``, once a value."""
    where = {"config.split": "test", **condition.where}
    here = chosen(records, where)
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


# What a bool says where a condition was judged: if it is true, and if it is false.
SWITCHES = {"channels_last": ("channels last", "channels first"), "compiled": ("compiled", "eager")}
# What stands beside a number where a condition was judged.
UNITS = {"depth": "{} blocks", "alpha": "alpha {}", "randaugment": "magnitude {}"}


def _named(path: str, value: Any) -> str:
    name = path.rpartition(".")[2]
    if isinstance(value, bool):
        return SWITCHES.get(name, (name, f"not {name}"))[not value]
    number = f"{value:g}" if isinstance(value, float) else str(value)
    return UNITS.get(name, "{}").format(number)


def by_seed(condition: Condition, selection: Selection, here: Sequence[Record]) -> Measured:
    """For every seed, the measure of a selection and the records that it comes from."""
    spread = condition.range
    pooled = {**condition.where, **selection}.items()
    paths = [path for path, value in pooled if value == "mean" or isinstance(value, list)]
    paths += [spread.of, *spread.across] if spread else []
    seeds: dict[int, dict[tuple[Any, ...], Record]] = {}
    for record in chosen(here, selection):
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
    """The number that a `Range` asks for; the keys end in the value of `of` and in the values of `across`."""
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


def measure(record: Record, expression: str) -> float:
    """A measure of one record, ``a``, ``a / b``, ``a - b`` and so on, from left to right; accuracies in per cent.

    A run that diverged or failed to train counts as chance: accuracy 1 / classes (0 without classes), loss ln(classes).
    The other metrics of a run that failed to train stay as they are.
    """
    first, *rest = expression.split()
    value = _operand(record, first)
    for sign, name in zip(rest[::2], rest[1::2]):
        other = _operand(record, name)
        value = value / other if sign == "/" else value - other
    return value


def _operand(record: Record, name: str) -> float:
    diverged, guess = record.status == "diverged", chance(record)
    lost = diverged or failed_to_train(record)
    if name == "diverged":
        return float(diverged)
    if name == "failed_to_train":
        return float(lost)
    if name == "loss_falls":
        if diverged:
            return 0.0
        # A deep network may start from logits so large that its loss falls far and is still that of guessing.
        first = _metric(record, "initial_loss")
        return float(_metric(record, "train_loss") < FALLEN * min(first, -log(guess) if guess else first))
    if name.endswith("accuracy"):
        counts_as_chance = lost if name in ("accuracy", "train_accuracy") else diverged
        return 100 * ((guess or 0.0) if counts_as_chance else _metric(record, name))
    if name.endswith("loss") and lost and guess:
        return -log(guess)
    return _metric(record, name)


def _metric(record: Record, name: str) -> float:
    path = name if "." in name else f"metrics.{name}"
    found = value_at(record, path)
    if not isinstance(found, (int, float)):
        known = ", ".join(sorted(record.metrics)) or "none"
        raise ValueError(
            f"the {record.status} run of {record.method!r}, seed {record.seed}, in sweep {record.sweep!r} has no "
            f"number at {path!r}; its metrics: {known}"
        )
    return float(found)


def differences(a: Record, b: Record) -> str:
    """The paths at which the configs of two records differ, with both values."""
    left, right = dict(_leaves(a.config, "config")), dict(_leaves(b.config, "config"))
    paths = [path for path in {**left, **right} if left.get(path) != right.get(path)]
    return ", ".join(f"{path} ({left.get(path)} and {right.get(path)})" for path in paths) or "nothing"


def _leaves(found: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(found, Mapping):
        for name, value in found.items():
            yield from _leaves(value, f"{path}.{name}")
    else:
        yield path, found
