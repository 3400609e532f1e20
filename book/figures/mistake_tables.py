"""Wrong and right calls of clipping side by side: the step that follows, and the accuracy after a training."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from book.figures import plots
from experiments import records
from experiments.demos import mistakes
from experiments.demos.mistakes import Make, Update

Call = tuple[Update] | tuple[Update, Make]  # an update, and its optimizer where that is not SGD


@dataclass(frozen=True)
class Comparison:
    """What is said of some calls.

    Attributes
    ----------
    what : str
        Head of the column of names.
    names : sequence of str
        Of the calls; the failing one and the passing one come last.
    columns : mapping of str to str
        What `measure` finds, with the format of each number.
    measure : callable
        From a call to a number for each column.
    """

    what: str
    names: Sequence[str]
    columns: Mapping[str, str]
    measure: Callable[..., Sequence[float]]


STEP = {"length of the step / length of the right step": ".2g", "distance from the right step": ".1g"}
COMPARISONS: Mapping[str, Comparison] = {
    "wrong axis": Comparison(
        "axis",
        ("last (failing)", "output (passing)"),
        {"largest ratio of a unit after clipping, divided by the threshold": ".2f"},
        lambda update: [mistakes.largest_ratio(update)],
    ),
    "classifier clipped": Comparison(
        "clipped",
        ("model.parameters() (failing)", "model (passing)"),
        {"share of the classifier's gradient that is left": ".2g"},
        lambda update: [mistakes.classifier_left(update)],
    ),
    "clipped before unscaling": Comparison(
        "order", ("clip, then unscale (failing)", "unscale, then clip (passing)"), STEP, mistakes.against_correct
    ),
    "clipped in the accumulation": Comparison(
        "order", ("clipped after every part (failing)", "clipped once (passing)"), STEP, mistakes.against_correct
    ),
    "gradient clipped under Adam": Comparison(
        "step",
        (
            "SGD, gradient clipped",
            "Adam, unclipped",
            "Adam, gradient clipped (failing)",
            "Adam, movement clipped (passing)",
        ),
        {"largest relative movement of a filter, first step": ".2g"},
        lambda update, make: [mistakes.largest_move(update, make)],
    ),
}


@cache
def trained(update: Update, make: Make = mistakes.sgd) -> tuple[float, ...]:
    """Accuracies of `mistakes.train`, which several sections of the chapter ask for."""
    return tuple(mistakes.train(update, make))


def compare(mistake: str, *calls: Call) -> dict[str, list[tuple[float, ...]]]:
    """Show the calls of a comparison side by side; by its name the accuracies of the failing and the passing one."""
    found, accuracies = COMPARISONS[mistake], [trained(*call) for call in calls]
    rows = []
    for name, call, reached in zip(found.names, calls, accuracies):
        values = [f"{value:{spec}}" for value, spec in zip(found.measure(*call), found.columns.values())]
        rows.append([name, *values, records.estimate(reached)])
    plots.table([found.what, *found.columns, "accuracy, %"], rows)
    return {mistake: accuracies[-2:]}


def verdict(cost: Mapping[str, Sequence[Sequence[float]]]) -> None:
    """Show what each mistake costs, from the accuracies that `compare` gave of it."""
    plots.table(
        ["mistake", "accuracy: failing call minus passing call, points, paired by seed"],
        [[name, records.estimate([f - p for f, p in zip(*both)])] for name, both in cost.items()],
    )
