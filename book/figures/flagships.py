"""The flagship sweep as figures, tables and sentences."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator

from book.figures import plots
from book.figures.length_tables import training_accuracy
from book.figures.lengths import Lengths
from book.figures.tables import Table, accuracy, side, versus
from experiments import records
from experiments.records import Estimate
from experiments.study import Results

NF, BN = "nf_agc", "bn"
MARKS = (80, 85, 90, 92, 94)  # accuracies in per cent


def heading(found: Lengths) -> str:
    """What the comparison of NF with AGC and BN says, by its 95 % interval."""
    if not found.both(NF, BN):
        return "Nothing is measured yet"
    outcome = side(minus(found, NF, BN))
    if outcome == 0:
        return "Whether NF with AGC or BN is more accurate is undecided"
    more, less = ("NF with AGC", "BN") if outcome > 0 else ("BN", "NF with AGC")
    return f"{more} is more accurate than {less} after these epochs"


def minus(found: Lengths, plus: str, other: str) -> Estimate:
    """Test accuracy of one method minus that of another, in points, paired by seed."""
    return records.paired_difference(found.of(plus), found.of(other))


def sentences(found: Lengths) -> list[str]:
    """What is missing, if anything; then NF with AGC, and NF with Muon, beside BN."""
    said = [found.missing] if found.missing else []
    for method, name in ((NF, "NF with AGC"), ("nf_muon", "NF with Muon")):
        if found.both(method, BN):
            said.append(versus(minus(found, method, BN), name, "BN"))
    return said


def draw(found: Lengths, methods: Sequence[str]) -> None:
    """Show accuracy on held-out images after each epoch, one line a method; nothing before there are final runs."""
    runs = {method: found.of(method) for method in methods if found.of(method)}
    if not runs:
        return
    fig, ax = plt.subplots()
    plots.lines(ax, {(m, epoch): value for m, of in runs.items() for epoch, value in by_epoch(of).items()})
    ax.set(xlabel="epochs", ylabel="accuracy on held-out images (%)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend()
    plots.show(fig, "Accuracy on held-out training images against epochs, one line for each method.")
    plots.caption(
        "Accuracy of the averaged weights on images that were not trained on; means and 95 % intervals over seeds.",
        [r for of in runs.values() for r in of], found.study.path,
    )  # fmt: skip


def by_epoch(runs: Results) -> dict[int, Estimate]:
    """Accuracy on held-out images in per cent after each epoch that all of these runs came to."""
    curves = [r.curve["accuracy"] for r in runs]
    return {i + 1: records.estimate([100 * curve[i] for curve in curves]) for i in range(min(map(len, curves)))}


def results(found: Lengths, methods: Sequence[str]) -> Table:
    """Accuracies of each method, and its difference to BN."""
    rows: list[list[object]] = []
    for method in methods:
        if runs := found.of(method):
            gap = minus(found, method, BN) if method != BN and found.both(method, BN) else ""
            train = records.estimate([training_accuracy(r) for r in runs])
            rows.append([plots.label(method), accuracy(runs), gap, train])
    return ["method", "test accuracy, %", "minus BN, points", "training accuracy, %"], rows


def marks(found: Lengths, methods: Sequence[str]) -> Table:
    """First epoch at which held-out accuracy reaches each of some marks, over the seeds that reach it."""
    rows: list[list[object]] = []
    for method in methods:
        runs = [r for r in found.of(method) if r.status == "ok"]
        row: list[object] = [plots.label(method)]
        for mark in MARKS:
            curves = (zip(r.curve["epoch"], r.curve["accuracy"]) for r in runs)
            first = (next((epoch for epoch, seen in curve if 100 * seen >= mark), None) for curve in curves)
            reached = [epoch for epoch in first if epoch is not None]
            row.append(f"{sum(reached) / len(reached):.1f} ({len(reached)} of {len(runs)})" if reached else "never")
        if runs:
            rows.append(row)
    return ["method", *[f"epochs to {mark} %" for mark in MARKS]], rows


def petaflops(found: Lengths) -> float | None:
    """Operations of one training in 1e15, the same for all methods; None before one is recorded."""
    counts = {r.metrics["operations"] for r in found.final if r.status == "ok"}
    return max(counts) / 1e15 if counts else None
