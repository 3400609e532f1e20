"""Records as rows of tables: grouped, set against a reference, written in a cell."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import TypeVar

from experiments import records
from experiments.records import Estimate, Record
from experiments.study import Study
from experiments.sweep import Run

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
    """Accuracy in per cent over all of these; one that diverged or failed to train counts as chance."""
    return records.estimate([records.accuracy(record) for record in found])


def diverged(found: Iterable[Record]) -> int:
    """How many of them diverged."""
    return sum(record.status == "diverged" for record in found)


def failed(found: Iterable[Record]) -> int:
    """How many of them failed to train: they ended with a finite loss and within two points of chance."""
    return sum(map(records.failed_to_train, found))


def ended(found: Sequence[Record]) -> str:
    """``"div"`` if all of them diverged, ``"fail"`` if all diverged or failed to train, else nothing."""
    if diverged(found) == len(found):
        return "div"
    return "fail" if diverged(found) + failed(found) == len(found) else ""


def against(runs: Mapping[K, Sequence[Record]], reference: K) -> dict[K, Estimate]:
    """Accuracy of every other group minus that of the reference, in points, paired by seed."""
    return {key: records.paired_difference(found, runs[reference]) for key, found in runs.items() if key != reference}


def side(found: Estimate) -> int:
    """Of a difference: 1 if its interval is above 0, -1 if it is below, 0 if it holds 0 or there is a single seed."""
    if found.low is None or found.high is None:
        return 0
    return (found.low > 0) - (found.high < 0)


def versus(difference: Estimate, plus: str, minus: str) -> str:
    """Say how far `plus` is from `minus`, in points, with the 95 % interval.

    Examples
    --------
    >>> versus(Estimate(-0.4, low=-0.9, high=0.1, count=3), "NF with AGC", "BN")
    'NF with AGC is 0.4 points below BN (95 % interval: 0.9 below to 0.1 above).'
    """

    def placed(value: float) -> str:
        return f"{abs(value):.1f} {'below' if value < 0 else 'above'}"

    if difference.low is None or difference.high is None:
        spread = "one seed, no interval"
    else:
        spread = f"95 % interval: {placed(difference.low)} to {placed(difference.high)}"
    return f"{plus} is {placed(difference.mean).replace(' ', ' points ')} {minus} ({spread})."


def edges(study: Study, cells: Iterable[Run] | None = None) -> str:
    """Say in how many cells of a sweep, or of these, the search chose a learning rate at an end of its grid."""
    searched = list(study.sweep.cells if cells is None else cells)
    at_end = 0
    for cell in searched:
        tried = study.grid(cell).rates
        at_end += study.rate(cell) in (min(tried), max(tried))
    return (
        f"In {at_end} of {len(searched)} searches the chosen learning rate is an end of its grid; a better one may lie "
        "beyond."
    )


def over(found: Sequence[Record], reference: Sequence[Record], metric: str) -> float:
    """Mean of a metric over the reference's mean."""
    own, other = ([record.metrics[metric] for record in side] for side in (found, reference))
    return fmean(own) / fmean(other)
