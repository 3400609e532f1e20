"""A sweep over lengths of training, read as far as it is recorded: tables, sentences, and what is missing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import exp, floor, inf, log

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from book.figures import plots
from book.figures.tables import accuracy, grouped, side, versus
from experiments import records
from experiments.records import Estimate, Record
from experiments.study import Result, Results, Study, field_of

BELOW = (
    "A number after an arrow is a mean below the axis. A point has no interval if only one seed ran, or if a seed was "
    "lost. A lost seed diverged or failed to train, and counts as chance."
)
NF, BN = "nf_agc", "bn"  # the two methods whose difference the sweep is about


@dataclass(frozen=True)
class Lengths:
    """A study over epochs, of which any part may be recorded."""

    study: Study

    @property
    def final(self) -> Results:
        """The final trainings recorded so far; none until the search is finished, which chooses their settings."""
        return self.study.final if self.study.searched else Results()

    @property
    def missing(self) -> str:
        """A sentence that says what is not recorded; empty where all is."""
        tried, planned = self.study.search_runs, len(self.study.final_runs)
        if not self.study.searched:
            done = len(self.study.search)
            return f"The final runs are not recorded yet: {done} of {len(tried)} trainings of the search are."
        if (done := len(self.study.final)) < planned:
            return f"The final runs are not complete yet: {done} of {planned} are recorded, controls included."
        return ""

    @property
    def epochs(self) -> list[float]:
        """The lengths of the final trainings recorded for both NF with AGC and BN."""
        return self.both(NF, BN)

    def both(self, plus: str, minus: str) -> list[float]:
        """The lengths of the final trainings of which two methods share a seed."""
        return [n for n in sorted({epochs(r) for r in self.of(plus)}) if self.difference(n, plus, minus)]

    @property
    def judged(self) -> Sequence[Record]:
        """All trainings, search and final, once all are recorded; none before, as a rule may name the longest."""
        return () if self.missing else (*self.study.search, *self.final)

    def of(self, method: str, length: float | None = None) -> Results:
        """The final trainings of a method, of one length in epochs or of all."""
        found = self.final.where(method=method)
        return found if length is None else found.where(epochs=length)

    def difference(self, length: float, plus: str = NF, minus: str = BN, other: float | None = None) -> Estimate | None:
        """Test accuracy of one method minus that of another after the same epochs, in points, paired by seed.

        With `other`, the training of `minus` has that many epochs. None if the two share no seed.
        """
        left, right = self.of(plus, length), self.of(minus, other or length)
        return records.paired_difference(left, right) if {r.seed for r in left} & {r.seed for r in right} else None


def epochs(result: Result) -> float:
    """Length of a training in epochs."""
    return float(field_of(result.run, "epochs"))


def heading(lengths: Lengths) -> str:
    """Say what the figure of accuracy against epochs shows, by the 95 % interval of `change`."""
    if not lengths.epochs:
        return "Nothing is measured yet"
    if lengths.missing:
        return "Not judged yet: runs are missing"
    if (found := change(lengths)) is None or not (outcome := side(found)):
        return "No clear change of the gap between NF with AGC and BN with longer training"
    more, less = ("NF with AGC", "BN") if outcome > 0 else ("BN", "NF with AGC")
    return f"Longer training helps {more} more than {less}"


def change(lengths: Lengths) -> Estimate | None:
    """Growth of NF with AGC minus BN from the shortest to the longest training, in points, paired by seed.

    None where no seed has all four trainings.
    """
    nf, bn = ({(epochs(r), r.seed): records.accuracy(r) for r in lengths.of(method)} for method in (NF, BN))
    first, last = lengths.epochs[0], lengths.epochs[-1]
    gap = {at: nf[at] - bn[at] for at in nf.keys() & bn.keys()}
    seeds = [seed for seed in lengths.study.sweep.seeds if {(first, seed), (last, seed)} <= gap.keys()]
    return records.estimate([gap[last, seed] - gap[first, seed] for seed in seeds]) if seeds else None


def draw(lengths: Lengths, methods: Sequence[str]) -> None:
    """Show test accuracy against epochs with its caption, one line a method; nothing before the final runs."""
    found = [record for record in lengths.final if record.method in methods]
    if not found:
        return
    plots.show(
        figure(found),
        "Test accuracy against epochs, one line for each method. The table of accuracies holds the numbers.",
    )
    text = f"Test accuracy against epochs, means and 95 % intervals over seeds. {BELOW}"
    plots.caption(text, found, lengths.study.path)


def figure(found: Sequence[Result]) -> Figure:
    """Test accuracy against epochs, one line a method.

    The axis begins some 10 points below the two methods that the sweep compares. A mean further below is a number at
    its edge: drawn to scale, it would flatten the lines that the figure is about.
    """
    by_epochs = records.aggregate(found, by=lambda r: (r.method, epochs(r)))
    fig, ax = plt.subplots()
    # The interval over runs of which some count as chance would span the figure and says nothing.
    plots.lines(ax, {at: replace(e, low=None, high=None) if lost(e) else e for at, e in by_epochs.items()})
    plots.log_axis(ax, "epochs", sorted({length for _, length in by_epochs}))
    low = bottom(by_epochs)
    for (method, length), estimate in by_epochs.items():
        if estimate.mean < low:
            text = f"\N{DOWNWARDS ARROW} {estimate.mean:.0f}"
            ax.text(length, low, text, color=plots.look(method)[1], ha="center", va="bottom")
    ax.set_ylim(bottom=low)
    ax.set_ylabel("test accuracy (%)")
    ax.legend(loc="lower right")
    return fig


def bottom(by_epochs: Mapping[tuple[str, float], Estimate]) -> float:
    """Where the axis of accuracy begins, in per cent, from the means by method and epochs."""
    compared = [estimate.mean for (method, _), estimate in by_epochs.items() if method in (NF, BN)]
    return max(0, 10 * floor(min(compared, default=0) / 10 - 1))


def marked(found: Sequence[Result]) -> bool:
    """Whether a mean with a lost seed has a marker in the figure: a mean below the axis has none."""
    by_epochs = records.aggregate(found, by=lambda r: (r.method, epochs(r)))
    return any(lost(estimate) and estimate.mean >= bottom(by_epochs) for estimate in by_epochs.values())


def sentences(lengths: Lengths) -> list[str]:
    """What is missing, how much longer NF with AGC trains, and NF with AGC beside BN after the two end lengths."""
    gaps = {end: lengths.difference(end) for end in (*lengths.epochs[-1:], *lengths.epochs[:1])}
    found = [f"After {spell(end)}, {versus(gap, 'NF with AGC', 'BN')}" for end, gap in gaps.items() if gap is not None]
    answer = longer(lengths) if lengths.epochs else ""
    return [text for text in (lengths.missing, answer, *found) if text]


def longer(lengths: Lengths) -> str:
    """Say how many times the epochs of BN NF with AGC needs for its mean accuracy, and where it does not reach BN."""
    times = {n: epochs_to_reach(lengths, accuracy(lengths.of(BN, n)).mean) / n for n in lengths.epochs}
    reached = {n: factor for n, factor in times.items() if factor < inf}
    if not reached:
        return f"No training of NF with AGC reaches the mean accuracy of BN after {spell(lengths.epochs[0])}."
    least, most = (f"{pick(reached.values()):.1f}" for pick in (min, max))
    span = f"{min(reached):g} to {spell(max(reached))}" if len(reached) > 1 else spell(max(reached))
    factor = least if least == most else f"{least} to {most}"
    never = [length for length in times if length not in reached]
    missed = f" No training of NF with AGC reaches its mean after {' or '.join(map(spell, never))}." if never else ""
    return (
        f"To reach the mean accuracy that BN has after {span}, NF with AGC needs {factor} times as many epochs "
        f"(interpolated).{missed}"
    )


def spell(length: float) -> str:
    """A number of epochs in words."""
    return f"{length:g} epoch{'' if length == 1 else 's'}"


def lost(found: Estimate) -> int:
    """How many of the runs of a mean diverged or failed to train."""
    return found.diverged + found.failed


def written(found: Estimate | None) -> str:
    """A mean with its interval, or with the count of its lost runs, over which an interval says nothing."""
    if found is None:
        return ""
    return f"{found.mean:.1f} ({lost(found)} of {found.count} lost)" if lost(found) else str(found)


def epochs_to_reach(lengths: Lengths, target: float, method: str = NF) -> float:
    """Epochs after which the mean test accuracy of a method first reaches a target; infinite where it never does.

    Accuracy is linear in the logarithm of the epochs between two lengths. No length below the shortest is returned.
    """
    curve = [(length, accuracy(runs).mean) for length, runs in sorted(grouped(lengths.of(method), epochs).items())]
    if curve and curve[0][1] >= target:
        return curve[0][0]
    for (left, low), (right, high) in pairwise(curve):
        if low < target <= high:
            return exp(log(left) + (target - low) / (high - low) * log(right / left))
    return float("inf")
