"""Methods in families by what a network's images have to do with each other, and a dot a method in their colours."""

from collections.abc import Mapping
from copy import deepcopy

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

from book.figures import plots
from experiments.records import Estimate
from nfnets_lite.models import Spec, create_model
from nfnets_lite.norm import set_progress

FAMILIES: Mapping[str, tuple[str, str]] = {
    "across the batch": (plots.BLUE, "o"),
    "within an image": (plots.ORANGE, "D"),
    "element-wise": (plots.GREEN, "s"),
    "no norm": (plots.RED, "^"),
}


def family(spec: Spec, side: int) -> str:
    """A key of `FAMILIES`, for a network that takes images of `side` pixels."""
    if spec.norm == "none":
        return "no norm"
    if spec.norm in ("dyt", "derf"):
        return "element-wise"
    return "across the batch" if sees_others(spec, side) else "within an image"


@torch.no_grad()
def sees_others(spec: Spec, side: int) -> bool:
    """Whether an image's output in training has to do with the others of its batch, once a network has seen some.

    Norms that change over a training are asked at its start and in its middle.
    """
    examples = max(8, int(dict(spec.norm_options).get("size", 1)))  # a ghost batch has to fit in
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x = create_model(spec).train(), torch.randn(examples, spec.in_channels, side, side)
        for _ in range(10):
            model(2 * torch.randn_like(x))
    others, changed = torch.cat([x[:1], -2 * x[1:]]), []
    for progress in (0.0, 0.5):
        set_progress(model, progress)
        alone, together = (deepcopy(model)(batch)[0] for batch in (x, others))
        changed.append(not torch.allclose(alone, together, atol=1e-5))
    return any(changed)


def dots(families: Mapping[str, str], found: Mapping[str, Estimate]) -> tuple[Figure, list[str]]:
    """A dot and its 95 % interval per method, the best on top, marked by `plots.lost`; and the methods in order."""
    order = sorted(found, key=lambda method: found[method].mean)
    fig, ax = plt.subplots(figsize=(6.4, 0.24 * len(order) + 1.3))
    for name, (colour, marker) in FAMILIES.items():
        rows = [i for i, method in enumerate(order) if families[method] == name]
        if not rows:
            continue
        estimates = [found[order[i]] for i in rows]
        x, half = [e.mean for e in estimates], plots.half_widths(estimates)
        ax.errorbar(x, rows, xerr=half, fmt=marker, color=colour, label=name, capsize=2, markersize=5)
        for i, estimate in zip(rows, estimates):
            plots.lost(ax, (estimate.mean, i), estimate, colour, marker)
    ax.set(xlabel="test accuracy (%)", yticks=range(len(order)), yticklabels=[plots.label(m) for m in order])
    low, high = ax.get_xlim()
    ax.set_xlim(max(0, low), min(100, high))  # a t interval does not know that accuracy ends at 0 and 100 %
    ax.tick_params(axis="y", labelsize=9)
    ax.legend(loc="upper left", bbox_to_anchor=(0, -0.65 / fig.get_figheight()), ncols=2, fontsize=9)
    return fig, order[::-1]
