"""Records as rows of tables: grouped, set against a reference, written in a cell."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import TypeVar

from experiments import records
from experiments.config import Run
from experiments.records import Estimate, Record

Table = tuple[Sequence[str], Sequence[Sequence[object]]]  # header and rows: what `plots.table` takes
K = TypeVar("K", bound=Hashable)


def grouped(found: Iterable[Record], by: Callable[[Record], K]) -> dict[K, list[Record]]:
    """Records by a key, in order of first appearance."""
    groups: dict[K, list[Record]] = {}
    for record in found:
        groups.setdefault(by(record), []).append(record)
    return groups


def of_cells(found: Sequence[Record], cells: Mapping[str, Run]) -> dict[str, list[Record]]:
    """The records of each of several runs, which a config names."""
    return {name: [record for record in found if record.key == cell.key] for name, cell in cells.items()}


def joined(groups: Mapping[K, Sequence[Record]]) -> list[Record]:
    """All records of several groups, for a caption."""
    return [record for found in groups.values() for record in found]


def accuracy(found: Iterable[Record]) -> Estimate:
    """Accuracy in per cent over all of these; one that diverged counts as chance."""
    return records.estimate([records.accuracy(record) for record in found])


def diverged(found: Iterable[Record]) -> int:
    """How many of them diverged."""
    return sum(record.status == "diverged" for record in found)


def against(runs: Mapping[K, Sequence[Record]], reference: K) -> dict[K, Estimate]:
    """Accuracy of every other group less that of the reference, in points, paired by seed."""
    return {key: records.paired_difference(found, runs[reference]) for key, found in runs.items() if key != reference}


def over(found: Sequence[Record], reference: Sequence[Record], metric: str) -> float:
    """Mean of a metric over the reference's mean."""
    own, other = ([record.metrics[metric] for record in side] for side in (found, reference))
    return fmean(own) / fmean(other)
