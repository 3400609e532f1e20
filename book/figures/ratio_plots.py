"""Gradients beside weights: bands over a training, shares by threshold, kinds of units, and what clipping couples."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from book.figures import plots
from book.figures.tables import Table, accuracy, diverged, grouped
from experiments import records
from experiments.demos.clip_coupling import Coupling
from experiments.study import Result
from experiments.tasks.ratios import KINDS

Runs = Mapping[tuple[str, float], Sequence[Result]]  # by method and rate
UNITS: Mapping[str, str] = {
    "weights": "filters",
    "vectors": "gains, biases, skip gains",
    "classifier": "the classifier's rows",
}
THRESHOLD = 0.01


def by_rate(found: Sequence[Result]) -> dict[tuple[str, float], list[Result]]:
    """Runs by method and rate, sorted by rate alone."""
    ordered = sorted(found, key=lambda r: r.run.recipe.lr)
    return grouped(ordered, lambda r: (r.method, r.run.recipe.lr))


def middle(found: Sequence[Result], column: str) -> NDArray[np.float64]:
    """Geometric mean over the seeds, update by update; where a seed has diverged there is none."""
    values = np.array([r.curve[column] for r in found], dtype=float)
    with np.errstate(divide="ignore"):  # a filter that nothing reaches has the ratio 0
        return np.asarray(np.exp(np.log(values).mean(0)))


def bands(runs: Runs) -> Figure:
    """Draw the ratio of the filters against the update, a panel a learning rate: median, 5th and 95th percentile.

    NF is dotted and on top of NF with AGC, which equals it at first. A cross ends a line at which a seed diverged.
    """
    rates = list(dict.fromkeys(rate for _, rate in runs))
    fig, axes = plt.subplots(len(rates), sharex=True, figsize=(6.4, 3.2 * len(rates)))
    for (method, rate), found in runs.items():
        ax, (name, colour, _), update = axes[rates.index(rate)], plots.look(method), found[0].curve["at"]
        low, median, high = (middle(found, f"weights_{level}") for level in (0.05, 0.5, 0.95))
        dotted: dict[str, Any] = {"linestyle": ":", "linewidth": 2.5, "zorder": 3} if method == "nf" else {}
        ax.plot(update, median, color=colour, label=name, **dotted)
        if np.isnan(median[-1]):
            last = np.flatnonzero(~np.isnan(median))[-1]
            ax.plot(update[last], median[last], "x", color=colour, markersize=9, zorder=4)
        ax.fill_between(update, low, high, color=colour, alpha=0.2, linewidth=0)
    for ax, rate in zip(axes, rates):
        ax.axhline(THRESHOLD, color=plots.GREY, linestyle="--", linewidth=1)
        ax.set(yscale="log", ylabel="gradient norm / weight norm", title=f"learning rate {rate:g}")
    axes[0].legend()
    axes[-1].set_xlabel("update")
    return fig


def shares(runs: Runs) -> Table:
    """Median ratios during training, shares of units above some thresholds, and test accuracies, as a table."""
    above, rows = (0.01, 0.04, 0.16), []
    for (method, rate), found in runs.items():
        medians, failed = middle(found, "weights_0.5"), diverged(found)
        at = [f"{medians[i]:.2g}" for i in (0, len(medians) // 2, -1) if not np.isnan(medians[i])]
        over = at if len(at) == 3 else [*at, "diverged"]
        parts = [records.estimate([100 * r.metrics[f"above_{t:g}"] for r in found]) for t in above]
        ended = f"{failed} of {len(found)} diverged" if failed else accuracy(found)
        rows.append([f"{rate:g}", plots.label(method), ", ".join(over), *[f"{part:.0f}" for part in parts], ended])
    first, *others = (f"above {t:g}, %" for t in above)
    header = ["learning rate", "method", "median ratio: first, middle, last update", f"units {first}", *others]
    return [*header, "test accuracy, %"], rows


def kinds(runs: Runs, chosen: Sequence[tuple[str, float]]) -> Table:
    """Median and 95th percentile of some of the runs by kind of unit, as geometric means over updates and seeds."""

    def typical(key: tuple[str, float], kind: str, level: float) -> str:
        values = [v for r in runs[key] for v in r.curve[f"{kind}_{level}"] if v]
        return f"{np.exp(np.log(values).mean()):.2g}"

    header = [f"{plots.label(method)}, learning rate {rate:g}: median, 95th percentile" for method, rate in chosen]
    rows = [
        [UNITS[kind], *[f"{typical(key, kind, 0.5)}, {typical(key, kind, 0.95)}" for key in chosen]] for kind in KINDS
    ]
    return ["units", *header], rows


def couplings(found: Sequence[Coupling]) -> Table:
    """How far clipping couples examples, by threshold, as a table; a threshold from 1e6 on stands for no clipping."""
    difference = "relative difference: clipped mean gradient against mean of clipped gradients"
    header = ["units clipped, %", difference, "spread of an example's factor"]
    rows = []
    for c in found:
        threshold = f"{c.factor:g}" if c.factor < 1e6 else "none"
        rows.append([threshold, f"{100 * c.clipped:.0f}", f"{c.difference:.2g}", f"{c.spread:.2g}"])
    return ["threshold", *header], rows
