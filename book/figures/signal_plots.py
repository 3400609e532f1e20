"""Signal propagation plots: what was measured after every block as markers, what the analysis predicts as lines."""

from collections.abc import Callable, Mapping, Sequence
from math import exp, log

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from book.figures import plots
from experiments.records import Estimate, estimate
from experiments.study import Result

ALPHA = "\N{GREEK SMALL LETTER ALPHA}"
TITLES = {"variance": "variance", "sq_mean": "squared mean", "branch_variance": "variance, branch's end"}


def name(method: str) -> str:
    """A method with its alpha: ``nf_alpha1`` has 1, the other normalizer-free ones the published 0.2."""
    alone = method.removesuffix("_alpha1")
    value = "1" if alone != method else "0.2" if alone.startswith("nf") else ""
    return plots.label(alone) + (f", {ALPHA} = {value}" if value else "")


def shown(found: Estimate) -> str:
    """A mean to three digits with the half width of its interval to two."""
    return f"{found.mean:.3g}\u00a0±\u00a0{(found.high or found.mean) - found.mean:.2g}"


def per_block(runs: Sequence[Result], curve: str, *, powers: bool) -> list[Estimate]:
    """Mean over seeds with its 95 % interval at every block; of the logarithms, where the axis is one of powers."""
    columns = [[max(value, 1e-12) for value in at] for at in zip(*(run.curve[curve] for run in runs))]
    if not powers:
        return [estimate(values) for values in columns]
    logs = [estimate([log(value) for value in values]) for values in columns]
    return [Estimate(exp(e.mean), exp(e.low or e.mean), exp(e.high or e.mean), e.count) for e in logs]


def draw(ax: Axes, runs: Mapping[str, Sequence[Result]], curve: str, *, powers: bool = False) -> None:
    """One curve of every method, with its interval, and the line that is predicted for it."""
    for method, found in runs.items():
        _, colour, marker = plots.look(method.removesuffix("_alpha1"))
        points = per_block(found, curve, powers=powers)
        x = range(1 if curve == "branch_variance" else 0, sum(found[0].run.model.depth) + 1)
        look = {"color": colour, "markerfacecolor": "white" if method.endswith("_alpha1") else colour}
        ax.plot(x, [e.mean for e in points], marker, markersize=4, label=name(method), **look)
        low, high = [e.low or e.mean for e in points], [e.high or e.mean for e in points]
        ax.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
        if all(f"predicted_{curve}" in run.curve for run in found):
            line = per_block(found, f"predicted_{curve}", powers=powers)
            ax.plot(x, [e.mean for e in line], color=colour, linewidth=1)
    ax.set(yscale="log" if powers else "linear", ylabel=TITLES[curve])


def panels(runs: Mapping[str, Sequence[Result]], powers: Sequence[str], bottom: float) -> Figure:
    """The three curves of the paper's plot, one above the other; `powers` names those on an axis of powers.

    `bottom` is where the squared mean's axis ends.
    """
    fig, axes = plt.subplots(len(TITLES), 1, sharex=True, figsize=(6.4, 8.8))
    for ax, curve in zip(axes, TITLES):
        draw(ax, runs, curve, powers=curve in powers)
    axes[1].set_ylim(bottom=bottom)
    axes[-1].set_xlabel("block (0: the stem)")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize="small")
    return fig


def draw_stages(runs: Mapping[str, Sequence[Result]], stage: int) -> Figure:
    """The variance over three stages of so many blocks, transitions dotted."""
    fig, ax = plt.subplots()
    draw(ax, runs, "variance")
    for transition in (stage + 1, 2 * stage + 1):
        ax.axvline(transition, color=plots.GREY, linestyle=":", linewidth=1)
    ax.set_xlabel("block (0: the stem); dotted: transitions")
    fig.legend(loc="outside upper center", ncols=2, fontsize="small")
    return fig


def branch_share(result: Result) -> list[float]:
    """Of the variance after each block, what its branch brought, in per cent; none of the factors is learnable here."""
    model = result.run.model
    factor = model.alpha if model.residual == "nf" else 1.0
    after = zip(result.curve["variance"][1:], result.curve["branch_variance"])
    return [100 * factor**2 * branch / variance for variance, branch in after]


def mean_share(record: Result) -> list[float]:
    """Of the second moment after each block, the squared mean, in per cent."""
    return [100 * m / (m + v) for v, m in zip(record.curve["variance"][1:], record.curve["sq_mean"][1:])]


def draw_shares(
    ax: Axes, runs: Mapping[str, Sequence[Result]], share: Callable[[Result], list[float]]
) -> dict[str, list[Estimate]]:
    """A share in per cent after every block, with its interval; the estimates that were drawn."""
    found = {method: [estimate(values) for values in zip(*map(share, of))] for method, of in runs.items()}
    for method, points in found.items():
        _, colour, marker = plots.look(method)
        x = range(1, len(points) + 1)
        ax.plot(x, [e.mean for e in points], marker=marker, color=colour, markersize=4, label=name(method))
        low, high = [e.low or e.mean for e in points], [e.high or e.mean for e in points]
        ax.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
    ax.set(xlabel="block", ylim=(0, None))
    return found
