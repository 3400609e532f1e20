"""Which records a rule speaks of, and what is measured on one of them; the language is that of `experiments.rules`."""

from collections.abc import Iterator, Mapping, Sequence
from math import log
from statistics import fmean
from typing import Any

from experiments.record import Record
from experiments.rules import OPERATORS, Selection

TRAINED = 0.9  # of the first loss, and of that of guessing: below both, a network has begun to train


def chosen(records: Sequence[Record], selection: Selection, by: str = "accuracy") -> list[Record]:
    """The records that a selection selects; ``best`` and ``worst`` go by the mean of a measure."""
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
            found = pick(cells.values(), key=lambda cell: fmean(measure(r, by) for r in cell))
    return found


def _matches(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, list):
        return found in wanted
    if isinstance(wanted, str) and wanted in OPERATORS:
        return wanted not in ("any", "each") or found is not None
    return bool(found == wanted)


def value_at(record: Record, path: str) -> Any:
    """What stands at a dotted path; None if nothing does.

    Pairs read as a mapping, and a list of numbers as its sum: the blocks of all stages are a network's depth.
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


def measure(record: Record, expression: str) -> float:
    """A measure of one record, ``a``, ``a / b``, ``a - b`` and so on, from left to right; accuracies in per cent.

    A run that diverged counts as chance: accuracy 1 / classes (0 where there are none), loss ln(classes).
    """
    first, *rest = expression.split()
    value = _operand(record, first)
    for sign, name in zip(rest[::2], rest[1::2]):
        other = _operand(record, name)
        value = value / other if sign == "/" else value - other
    return value


def _operand(record: Record, name: str) -> float:
    diverged = record.status == "diverged"
    if name == "diverged":
        return float(diverged)
    classes = value_at(record, "config.model.num_classes")
    if name == "trained":
        if diverged:
            return 0.0
        # A deep network may start from logits so large that its loss falls far and is still that of guessing.
        first = _metric(record, "initial_loss")
        return float(_metric(record, "train_loss") < TRAINED * min(first, log(classes) if classes else first))
    if name.endswith("accuracy"):
        chance = 1 / classes if classes else 0.0
        return 100 * (chance if diverged else _metric(record, name))
    if name.endswith("loss") and diverged and classes:
        return log(classes)
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
