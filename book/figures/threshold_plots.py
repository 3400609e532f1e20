"""Maps and tables over thresholds: accuracy, clipped share, usable thresholds, clipped layers, and other rules.

Groups of runs are keyed by a row of maps (a batch size or an optimizer), a threshold or ``"none"``, and a learning
rate. Curves of the rules are keyed by rule, setting (batch size and blocks) and threshold.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from math import log2

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from book.figures import plots
from book.figures.tables import Table, accuracy, against, diverged, ended, failed, grouped
from experiments.records import Estimate
from experiments.study import Result

Row = int | str
Factor = float | str
Place = tuple[Hashable, Hashable]
Setting = tuple[int, int]
Runs = Sequence[Result]
Groups = Mapping[tuple[Row, Factor, float], Runs]
Curves = Mapping[tuple[str, Setting, float], Runs]

CLIPPED, ACCURACY = "units clipped (%)", "test accuracy (%)"
LAYERS: Mapping[str, str] = {
    "nf": "nothing", "nf_agc": "all but the classifier's weight", "agc_all": "everything",
    "agc_weights": "filters, no gains and biases",
    "agc_no_stem": "all but the classifier's weight and the first convolution",
    "agc_early": "first half of the blocks and the first convolution", "agc_late": "second half of the blocks",
}  # fmt: skip
RULES: Mapping[str, str] = {
    "nf_agc": "unit by unit (AGC)", "layer_clip": "layer by layer", "global_clip": "global norm"
}  # fmt: skip


def factor(result: Result) -> Factor:
    """The threshold of a run."""
    clip = result.run.recipe.clip
    return clip.factor if clip else "none"


def by_rate(found: Iterable[Result], row: Callable[[Result], Row]) -> dict[tuple[Row, Factor, float], list[Result]]:
    """Group runs by row, threshold and learning rate."""
    return grouped(found, lambda r: (row(r), factor(r), r.run.recipe.lr))


def share(found: Runs) -> float | None:
    """Mean share of clipped units in per cent; None if no run came to its end, or none was clipped."""
    shares = [100 * r.metrics["clipped_fraction"] for r in found if "clipped_fraction" in r.metrics]
    return sum(shares) / len(shares) if shares else None


def mean(found: Runs) -> float | None:
    """Mean accuracy with divergence as chance; None if all runs diverged."""
    return None if diverged(found) == len(found) else accuracy(found).mean


def best(groups: Iterable[Runs]) -> Estimate:
    """Accuracy of the best of several groups, which is chosen by the same images."""
    chosen = max(groups, key=lambda found: mean(found) or 0.0)
    return accuracy(chosen)


def maps(groups: Groups, title: str) -> Figure:
    """Draw two maps a row, accuracy and clipped share (a dash without clipping); `title` has a place for the row."""
    rows = list(dict.fromkeys(row for row, _, _ in groups))
    factors = thresholds(groups)
    fig, axes = plt.subplots(len(rows), 2, figsize=(6.4, 0.9 + 2.1 * len(rows)), squeeze=False)
    top = max(value for found in groups.values() if (value := mean(found)) is not None)
    for (left, right), row in zip(axes, rows):
        here = {(f, rate): found for (r, f, rate), found in groups.items() if r == row}
        accuracies: dict[Place, float | str | None] = {p: ended(found) or mean(found) for p, found in here.items()}
        shares: dict[Place, float | str | None] = {p: share(f) if p[0] != "none" else "-" for p, f in here.items()}
        names = ["none", *factors[::-1]]  # on both sides, so that a threshold has one height
        rates = sorted({rate for _, rate in here})
        plots.heatmap(left, accuracies, names, rates, label=ACCURACY, limits=(0, top))
        plots.heatmap(right, shares, names, rates, label=CLIPPED, limits=(0, 100))
        left.set(ylabel="threshold", title=f"{title.format(row)}: accuracy")
        right.set(title=f"{title.format(row)}: clipped")
        for ax in (left, right):
            ax.set_xlabel("learning rate")
            ax.tick_params(axis="x", rotation=0)
    return fig


def thresholds(groups: Groups) -> list[float]:
    """The thresholds among groups, in order."""
    return sorted({f for _, f, _ in groups if isinstance(f, float)})


def numbers(groups: Groups, what: str) -> Table:
    """Table of the maps, in per cent: accuracy with its interval, in brackets units clipped; `what` names a row."""

    def text(found: Runs) -> str:
        if word := ended(found):
            return {"div": "diverged", "fail": "failed to train"}[word]
        clipped = share(found)
        return f"{accuracy(found)}" + ("" if clipped is None else f" ({clipped:.0f})")

    factors: list[Factor] = ["none", *thresholds(groups)]
    places = dict.fromkeys((row, rate) for row, _, rate in groups)
    return (
        [what, "learning rate", "no clipping", *[f"λ = {f}" for f in factors[1:]]],
        [[row, f"{rate:g}", *[text(groups[row, f, rate]) for f in factors]] for row, rate in places],
    )


def usable(curve: Mapping[float, Runs]) -> list[float]:
    """The thresholds whose mean accuracy is within a point of the best."""
    means = {x: mean(found) or 0.0 for x, found in curve.items()}
    return sorted(x for x, value in means.items() if value >= max(means.values()) - 1)


def largest_usable(groups: Groups) -> dict[tuple[Row, float], float]:
    """The largest usable threshold at every row and rate."""
    places, factors = dict.fromkeys((row, rate) for row, _, rate in groups), thresholds(groups)
    return {(row, rate): usable({f: groups[row, f, rate] for f in factors})[-1] for row, rate in places}


def at_ends(groups: Groups) -> str:
    """Two sentences: how many of the largest usable thresholds are the largest or the smallest of the grid."""
    found, factors = list(largest_usable(groups).values()), thresholds(groups)
    return (
        f"{found.count(factors[-1])} of the {len(found)} largest usable thresholds are the largest of the grid, so the "
        f"limit may be higher. {found.count(factors[0])} are the smallest of the grid, so the limit may be lower."
    )


def fall(
    largest: Mapping[tuple[Row, float], float], pairs: Iterable[tuple[tuple[Row, float], tuple[Row, float]]]
) -> str:
    """Octaves by which the threshold falls from the first place of a pair to the second, on average over the pairs."""
    steps = [log2(largest[a] / largest[b]) for a, b in pairs if a in largest and b in largest]
    return f"{sum(steps) / len(steps):.1f}" if steps else "unknown"


def spans(groups: Groups) -> Table:
    """Table of best minus worst mean accuracy over the thresholds, at each row's smallest and largest learning rate."""
    rows = []
    for row in dict.fromkeys(row for row, _, _ in groups):
        rates = [rate for name, _, rate in groups if name == row]
        cells = []
        for rate in (min(rates), max(rates)):
            means = [mean(found) or 0.0 for (name, _, r), found in groups.items() if (name, r) == (row, rate)]
            cells.append(f"{max(means) - min(means):.1f}")
        rows.append([row, *cells])
    return ["best minus worst threshold, points", "smallest learning rate", "largest learning rate"], rows


def layers(groups: Mapping[str, Runs], usual: str = "nf_agc") -> Table:
    """Table of accuracies by the layers that are clipped, and their differences from the usual rule."""
    less = against(groups, usual)
    header = [
        "layers that may be clipped", "test accuracy, %", "diverged", "failed to train",
        "share of these units that is clipped, %", "minus the usual rule, points",
    ]  # fmt: skip
    rows = []
    for name, found in groups.items():
        clipped = "" if (value := share(found)) is None else f"{value:.0f}"
        lost = [f"{count(found)} of {len(found)}" for count in (diverged, failed)]
        rows.append([LAYERS[name], accuracy(found), *lost, clipped, less.get(name, "")])
    return header, rows


def setting(result: Result) -> Setting:
    """Batch size and blocks of a run."""
    return result.run.recipe.batch_size, sum(result.run.model.depth)


def called(where: Setting) -> str:
    """A setting in words."""
    return f"batch size {where[0]}, {where[1]} blocks"


def curves(found: Runs) -> dict[tuple[str, Setting, float], list[Result]]:
    """Runs of the rules by rule, setting and threshold."""
    ruled = [r for r in found if r.method in RULES]
    return grouped(ruled, lambda r: (r.method, setting(r), factor(r)))


def curve(curves: Curves, rule: str, where: Setting) -> dict[float, Runs]:
    """Runs of one rule in one setting, by threshold."""
    return {f: curves[key] for key in sorted(curves) if key[:2] == (rule, where) for f in key[2:]}


def settings(curves: Curves) -> list[Setting]:
    """The settings of several curves, in order."""
    return sorted({where for _, where, _ in curves})


def draw_rules(curves: Curves) -> Figure:
    """Draw accuracy by threshold, a panel a rule and a line a setting; colour: depth; dashed: smaller batch size."""
    batches, depths = (sorted(set(values)) for values in zip(*settings(curves)))
    top = max(accuracy(found).mean for found in curves.values())
    fig, axes = plt.subplots(len(RULES), sharey=True, figsize=(6.4, 8.4))
    for ax, (rule, name) in zip(axes, RULES.items()):
        for i, where in enumerate(settings(curves)):
            line, colour = "--" if where[0] == batches[0] else "-", (plots.BLUE, plots.ORANGE)[depths.index(where[1])]
            found = {f: accuracy(runs) for f, runs in curve(curves, rule, where).items()}
            x, y = [f * 1.04 ** (i - 1.5) for f in found], [e.mean for e in found.values()]
            half, style = plots.half_widths(found.values()), {"linestyle": line, "color": colour, "marker": "o"}
            ax.errorbar(x, y, half, capsize=3, label=called(where), **style)
        what = "norm of the gradient" if rule == "global_clip" else "gradient norm / weight norm"
        plots.log_axis(ax, what, list(curve(curves, rule, settings(curves)[0])))
        ax.set(ylabel=ACCURACY, title=name, ylim=(0, min(101, 1.3 * top)))
    axes[0].legend(fontsize="small", ncols=2, loc="lower left")
    return fig


def rules(curves: Curves) -> Table:
    """Table of the accuracies that `draw_rules` draws."""
    places = settings(curves)
    rows = [
        [name, f"{f:g}", *[accuracy(curve(curves, rule, where)[f]) for where in places]]
        for rule, name in RULES.items()
        for f in curve(curves, rule, places[0])
    ]
    return ["rule", "threshold", *map(called, places)], rows


def ranges(curves: Curves, lars: Runs) -> Table:
    """Usable thresholds of each rule, setting by setting and in all; its best accuracy, and that of LARS."""

    def shown(values: Sequence[float]) -> str:
        return "none" if not values else f"{values[0]:g}" if len(values) == 1 else f"{values[0]:g} to {values[-1]:g}"

    by_rate = grouped(lars, lambda r: (setting(r), r.run.recipe.lr))
    places, rows = settings(curves), []
    for rule, name in RULES.items():
        found = [usable(curve(curves, rule, where)) for where in places]
        rows.append([name, *map(shown, found), shown(sorted(set.intersection(*map(set, found))))])
    for rule, name in RULES.items():
        rows.append([f"best {name}, %", *[str(best(curve(curves, rule, where).values())) for where in places], ""])
    of_lars = [best(runs for (there, _), runs in by_rate.items() if there == where) for where in places]
    rows.append(["best LARS, %", *map(str, of_lars), ""])
    return ["rule", *map(called, places), "all settings"], rows
