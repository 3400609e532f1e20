"""Many methods on one task, each at its own best rate: what they reach beside a reference, what their steps cost."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import geometric_mean
from typing import cast

from matplotlib.figure import Figure

from book.figures import plots
from book.figures.families import FAMILIES, dots, family
from book.figures.speed_tables import OVER_BN, memory, way
from book.figures.tables import Table, against, grouped, joined, over, side
from experiments import records
from experiments.records import Estimate, Record
from experiments.study import Result, Study
from experiments.tasks.training import Training
from nfnets_lite.models import METHODS


@dataclass(frozen=True)
class Contest:
    """Methods in the order of the sweep: their final runs, accuracies, rates and families.

    `behind` is the accuracy of each but the reference minus the reference's, in points, paired by seed.
    """

    runs: Mapping[str, Sequence[Record]]
    accuracy: Mapping[str, Estimate]
    behind: Mapping[str, Estimate]
    rates: Mapping[str, float]
    families: Mapping[str, str]

    @property
    def records(self) -> list[Record]:
        """The final runs of all."""
        return joined(self.runs)

    @property
    def order(self) -> list[str]:
        """The methods, the best first."""
        return sorted(self.accuracy, key=lambda method: self.accuracy[method].mean)[::-1]

    @property
    def outcome(self) -> tuple[int, int, int]:
        """How many are below the reference by more than their interval, cannot be told from it, and are above it."""
        return _outcome(self.behind.values())

    def by_family(self, searched: Sequence[Record]) -> Table:
        """A table by family: outcomes beside the reference, the best method, how the runs of the search ended."""
        lost = {r.method for r in searched if r.status == "diverged" or records.failed_to_train(r)}
        (reference,) = self.accuracy.keys() - self.behind.keys()
        name = plots.label(reference)
        header = [
            "family", "methods", f"below / undecided / above {name}", "best method, its accuracy",
            "learning rate chosen, geometric mean", "diverged or failed",
        ]  # fmt: skip
        rows: list[list[object]] = []
        for family_name in FAMILIES:
            methods = self.of_family(family_name)
            if methods:
                outcome = " / ".join(map(str, _outcome(self.behind[m] for m in methods if m != reference)))
                rate = f"{self.mean_rate(family_name):.2g}"
                rows.append(
                    [family_name, len(methods), outcome, self.best(family_name), rate, len(lost.intersection(methods))]
                )
        return header, rows

    def mean_rate(self, name: str) -> float:
        """Geometric mean of the rates that a family's methods chose."""
        return geometric_mean(self.rates[method] for method in self.of_family(name))

    def of_family(self, name: str) -> list[str]:
        """The methods of a family."""
        return [method for method in self.runs if self.families[method] == name]

    def dots(self) -> Figure:
        """A dot and its interval per method, in that order."""
        return dots(self.families, self.accuracy)[0]

    def best(self, name: str) -> str:
        """The method of a family with the largest mean, and its accuracy."""
        method = max(self.of_family(name), key=lambda m: self.accuracy[m].mean)
        return f"{plots.label(method)}, {self.accuracy[method]} %"

    def row(self, method: str) -> list[object]:
        """What a table says of a method: its name, accuracy, distance from the reference, rate."""
        distance = self.behind.get(method, "")
        return [plots.label(method), self.accuracy[method], distance, f"{self.rates[method]:g}"]


def _outcome(differences: Iterable[Estimate]) -> tuple[int, int, int]:
    """How many differences are below 0 by more than their interval, hold 0, and are above 0."""
    sides = [side(difference) for difference in differences]
    return sides.count(-1), sides.count(0), sides.count(1)


def contest(study: Study, side: int, reference: str) -> Contest:
    """A contest from its records; families by probing with images of `side` pixels."""
    cells = study.sweep.cells
    runs = {cell.method: study.final.where(method=cell.method) for cell in cells}
    return Contest(
        runs,
        records.aggregate(joined(runs), by=lambda r: r.method),
        against(runs, reference),
        {cell.method: study.rate(cell) for cell in cells},
        {cell.method: family(cast(Training, cell).model, side) for cell in cells},
    )


@dataclass(frozen=True)
class Costs:
    """What a step of each method costs: its time over batch norm's, and its memory by the titles of two measures."""

    runs: Sequence[Result]
    ratio: Mapping[str, Estimate]
    memory: Mapping[str, Mapping[str, float]]

    @property
    def conditions(self) -> str:
        """Batch and side of the images."""
        return f"batch size {self.runs[0].run.batch_size}, images of {self.runs[0].run.side} px"

    @property
    def header(self) -> list[str]:
        """Titles of a row."""
        return [f"step, {OVER_BN}", *self.memory["bn"]]

    def row(self, method: str) -> list[str]:
        """Cells of a table; empty for a method that was not timed."""
        if method not in self.ratio:
            return [""] * len(self.header)
        return [f"{self.ratio[method]:.2f}", *[f"{value:.2f}" for value in self.memory[method].values()]]

    @property
    def slowest(self) -> tuple[str, str]:
        """The method with the longest step, and that step over batch norm's."""
        found = max(self.ratio, key=lambda method: self.ratio[method].mean)
        return plots.label(found), f"{self.ratio[found].mean:.2f}"

    @property
    def leanest(self) -> tuple[str, str]:
        """The method that keeps least for the backward pass, and that over batch norm's."""
        first = {method: next(iter(measured.values())) for method, measured in self.memory.items()}
        found = min(first, key=lambda method: first[method])
        return plots.label(found), f"{first[found]:.2f}"


def costs(study: Study) -> Costs:
    """Costs at the largest batch, eager and with channels first; the family of NFNets is left out."""
    usual = [r for r in study.final if (r.method in METHODS or r.method == "nf_agc") and way(r) == (False, False)]
    largest = max(r.run.batch_size for r in usual)
    runs = [r for r in usual if r.run.batch_size == largest]
    groups, measures = grouped(runs, lambda r: r.method), memory(runs)
    return Costs(
        runs,
        records.aggregate(runs, by=lambda r: r.method, value=lambda r: r.metrics["ratio"]),
        {m: {text: over(r, groups["bn"], key) for key, text in measures.items()} for m, r in groups.items()},
    )
