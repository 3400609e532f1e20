"""Signal propagation in tables: growth in a stage, levels after transitions, gains, and what changes a plot."""

from collections.abc import Mapping, Sequence
from math import exp, log, pi

import torch

from book.figures.signal_plots import TITLES, name, shown
from book.figures.tables import Table
from experiments import records
from experiments.records import Estimate, Record
from nfnets_lite.activations import ACTIVATIONS, GAINS, gain_of

Runs = Sequence[Record]
MOMENTS: Mapping[str, str] = {
    "factor of q from block to block": "growth",
    "squared mean, last": "squared_mean_last",
    "largest error": "predicted_error",
}
# What the analysis expects right after a transition: two fresh signals, the shortcut's and the branch's.
LEVELS: Mapping[str, float] = {"bn": 2 * (1 - 1 / pi), "bn_act_first": 2.0, "nf_alpha1": 2.0, "nf": 1.04}
# Variance that a block adds in one stage, by the derivation: that of its branch, which ends with ReLU and a convolution
# with He initialisation, or with a norm before the convolution.
SLOPES: Mapping[str, float] = {"bn": 1 - 1 / pi, "bn_act_first": 1.0, "nf_alpha1": 1.0, "nf": 0.04}
CAUSES: Mapping[str, str] = {
    "reference": "this package: 1/β after the activation, ReLU; noise",
    "unbiased": "weights standardised by the unbiased variance",
    "scale_first": "1/β before the activation, ReLU",
    "gelu": "GELU, 1/β after the activation",
    "scale_first_gelu": "GELU, 1/β before the activation",
    "restart": "β starts at 1 in every stage",
    "raw_shortcut": "transition's shortcut takes the raw input",
    "raw_and_restart": "raw shortcut, and β starts at 1 in every stage",
    "stem_gain": "gain in the weights, the stem's too",
    "pooled_stem": "ReLU and max pooling end the stem",
    "pooled_shortcut": "shortcut average-pooled, noise",
    "silent": "last gain of each branch starts at 0",
    "library": "the library behind other plots: shortcut average-pooled, stem max-pooled, gain in the weights, "
    "last gains start at 0",
    "small_noise": "noise, as small as the images",
    "images": "images",
    "pooled_shortcut_images": "shortcut average-pooled, images",
}
SEVERAL = ("reference", "raw_and_restart", "library", "pooled_shortcut_images")  # no single change


def metric(found: Runs, key: str) -> str:
    """A metric over the runs that have it."""
    values = [r.metrics[key] for r in found if key in r.metrics]
    return shown(records.estimate(values)) if values else "\N{EN DASH}"


def last(found: Runs, curve: str) -> str:
    """Where a curve ends."""
    return shown(records.estimate([r.curve[curve][-1] for r in found]))


def growth(runs: Mapping[str, Runs]) -> Table:
    """Growth of each method's variance from block to block, the expected growth, and the variance of its branches.

    Without a norm neither has a mean that says anything, because both grow exponentially.
    """
    rows = []
    for method, found in runs.items():
        expected = f"{SLOPES[method]:.3g}" if method in SLOPES else "\N{EN DASH}"
        keys = ("variance_slope", "branch_variance")
        slope, branch = ("exponential",) * 2 if method == "none" else (metric(found, key) for key in keys)
        rows.append([name(method), slope, expected, branch])
    return ["one stage, noise", "variance per block", "expected", "branch variance"], rows


def moments(runs: Mapping[str, Runs]) -> Table:
    """Growth of each method's second moment, its last squared mean, and the largest error of the predicted variance."""
    rows = [[name(method), *(metric(found, key) for key in MOMENTS.values())] for method, found in runs.items()]
    return ["one stage, noise", *MOMENTS], rows


def level(found: Runs, stage: int) -> Estimate:
    """Mean of the variances after the two transitions; each stage has `stage` blocks."""
    return records.estimate([sum(r.curve["variance"][i * stage + 1] for i in (1, 2)) / 2 for r in found])


def transitions(runs: Mapping[str, Runs], stage: int) -> Table:
    """Variance after the transitions beside the expected one, for each method."""
    return (
        ["after a transition", "variance", "expected", "variance per block, within stages"],
        [[name(m), shown(level(r, stage)), f"{LEVELS[m]:.3g}", metric(r, "variance_slope")] for m, r in runs.items()],
    )


def over_predicted(runs: Mapping[str, Runs]) -> str:
    """Last measured variance over the predicted one, for each method, in words."""
    found = {
        method: records.estimate([r.curve["variance"][-1] / r.curve["predicted_variance"][-1] for r in of])
        for method, of in runs.items()
    }
    return " and ".join(f"{ratio:.2f} ({name(method)})" for method, ratio in found.items())


def gain_offsets() -> dict[str, float]:
    """How much higher than the integral each published gain constant is, in per cent."""
    chosen = [name for name in GAINS if name not in ("identity", "glu", "log_softmax")]
    return {name: 100 * (GAINS[name] / gain_of(ACTIVATIONS[name]) - 1) for name in chosen}


def gains(offsets: Mapping[str, float]) -> Table:
    """The constants beside their integrals."""
    header = ["activation", "exact gain (numerical integral)", "authors' constant", "higher by, %"]
    rows = [[n, f"{gain_of(ACTIVATIONS[n]):.6f}", f"{GAINS[n]:.6f}", f"{off:.3f}"] for n, off in offsets.items()]
    return header, rows


def sampled_offset(rows: int, seed: int) -> float:
    """How much ReLU's gain is too high, in per cent, if made from biased variances over `rows` normal samples each."""
    x = torch.randn(4_000_000 // rows, rows, generator=torch.Generator().manual_seed(seed)).relu()
    gain = float(x.var(1, correction=0).double().mean() ** -0.5)
    return 100 * (gain / gain_of(ACTIVATIONS["relu"]) - 1)


def change(causes: Mapping[str, Runs], cause: str) -> float:
    """The last variance over the reference's; a geometric mean, paired by seed."""
    ratio = records.paired_difference(causes[cause], causes["reference"], lambda r: log(r.curve["variance"][-1]))
    return exp(ratio.mean)


def changes(causes: Mapping[str, Runs]) -> Table:
    """The ends of the curves, one change at a time."""
    rows = []
    for cause, text in CAUSES.items():
        by = "1" if cause == "reference" else f"{change(causes, cause):.3g}"
        rows.append([text, by, *[last(causes[cause], curve) for curve in TITLES]])
    return ["NF, three stages", "variance, reference = 1", *[f"{title}, last" for title in TITLES.values()]], rows


def farthest(causes: Mapping[str, Runs]) -> list[str]:
    """The single changes, the one with the largest factor on the variance, up or down, first; each as a clause."""
    found = {cause: change(causes, cause) for cause in CAUSES if cause not in SEVERAL}
    order = sorted(found, key=lambda cause: -abs(log(found[cause])))
    return [f"**{CAUSES[cause]}**: the variance is {found[cause]:.2g} times the reference" for cause in order]


def ends(runs: Mapping[str, Runs]) -> Table:
    """Where the curves of some networks of three stages end."""
    return (
        ["three stages, last block", *TITLES.values()],
        [[text, *[last(found, curve) for curve in TITLES]] for text, found in runs.items()],
    )


def slopes(runs: Mapping[str, Mapping[str, Runs]]) -> Table:
    """Variance per block in one stage, a column a kind of input; methods are those of the last column."""
    *_, methods = runs.values()
    rows = [[name(m), *[metric(found[m], "variance_slope") for found in runs.values()]] for m in methods]
    return ["one stage, variance per block", *runs], rows
