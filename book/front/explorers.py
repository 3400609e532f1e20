"""What the explorer page draws from: the records as a script of data, and the figures for a reader without scripts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from math import exp, pi, sqrt, tanh
from pathlib import Path
from typing import Any

from experiments import records
from nfnets_lite.models.residual import joins

SWEEPS = ("batch_size", "clipping_threshold", "clip_alternatives", "normalizers")
ACTIVATIONS: Mapping[str, Callable[[float], float]] = {
    "relu": lambda x: max(x, 0.0),
    "silu": lambda x: x / (1 + exp(-x)),
    "gelu": lambda x: 0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))),
    "tanh": tanh,
    "identity": lambda x: x,
}


def write(folder: Path, results: Path) -> None:
    """Write the data script and both fallback figures into the folder of the page's files."""
    from book.figures import plots  # matplotlib takes a second, which a rendering without this page can do without

    sweeps = {name: found for name in SWEEPS if (found := rows(results / f"{name}.jsonl"))}
    methods = dict.fromkeys(row["method"] for found in sweeps.values() for row in found)
    look = {method: plots.look(method)[:2] for method in methods}
    script = f"window.EXPLORER = {json.dumps({'sweeps': sweeps, 'look': look}, separators=(',', ':'))};\n"
    (folder / "explorer-data.js").write_text(script if sweeps else "", encoding="utf-8")
    _draw(folder, next(iter(sweeps.values()), []))


def rows(path: Path) -> list[dict[str, Any]]:
    """One small row a run: method, variant, batch, rate, threshold, seed, split, accuracy.

    A run that diverged or failed to train has the accuracy of chance.
    """
    found = []
    for record in records.read(path).records if path.is_file() else []:
        recipe = record.config.get("recipe", {})
        if not record.done or "batch_size" not in recipe:
            continue
        lost = record.status == "diverged" or records.failed_to_train(record)
        clip = recipe.get("clip") or {}
        method, _, variant = record.method.partition(":")
        found.append(
            {
                "method": method,
                "variant": variant,
                "batch": recipe["batch_size"],
                "rate": recipe["lr"],
                "threshold": clip.get("factor"),
                "seed": record.seed,
                "split": record.config["split"],
                "accuracy": 1 / record.config["model"]["num_classes"] if lost else record.metrics["accuracy"],
            }
        )
    return found


def signal(
    blocks: int, stages: int, alpha: float, activation: str, *, gain: bool, standardised: bool, scaled: bool
) -> tuple[list[float], list[float]]:
    """Predicted variance of the stream after each block, and at the end of each branch.

    NF-ResNet (arXiv 2101.08692), section 3: the stream starts at 1; a branch is two layers, each an activation and a
    convolution whose filters have norm 1. Standardised filters do not see the mean of an activation, others do. A
    stage's first block takes its shortcut through a convolution of the activated input.
    """
    mean, square = _moments(activation, 1.0)
    factor = 1 / (square - mean**2) if gain else 1.0

    def layer(variance: float) -> float:
        mean, square = _moments(activation, variance)
        return factor * (square - mean**2 if standardised else square)

    stream, branch, variance = [], [], 1.0
    for block, join in enumerate(joins("nf", (blocks,) * stages, alpha, 1.0)):
        entered = layer(variance * (join.beta**2 if scaled else 1.0))
        out = layer(entered)
        variance = (variance if block % blocks else entered) + join.branch**2 * out
        stream.append(variance)
        branch.append(out)
    return stream, branch


def _moments(activation: str, variance: float, points: int = 4000) -> tuple[float, float]:
    """Mean and mean square of an activation of a normal number, by the trapezoid rule."""
    f, std, mean, square = ACTIVATIONS[activation], sqrt(variance), 0.0, 0.0
    for i in range(points + 1):
        z = -10 + 20 * i / points
        y, weight = f(std * z), exp(-0.5 * z * z)
        mean, square = mean + weight * y, square + weight * y * y
    whole = 20 / points / sqrt(2 * pi)
    return mean * whole, square * whole


def _draw(folder: Path, found: Sequence[Mapping[str, Any]]) -> None:
    import matplotlib.pyplot as plt

    from book.figures import plots

    plots.setup()
    cells: dict[tuple[str, float], list[float]] = {}
    for row in found:
        if row["split"] == "test" and not row["variant"]:
            cells.setdefault((row["method"], row["batch"]), []).append(100 * row["accuracy"])
    fig = plots.by_batch_size({cell: records.estimate(values) for cell, values in cells.items()})
    fig.savefig(folder / "explorer-records.svg", metadata={"Date": None})
    plt.close(fig)
    fig, ax = plt.subplots()
    for name, chosen in (
        ("as published", (True, True)),
        ("no gain", (False, True)),
        ("no standardising", (True, False)),
    ):
        stream, _ = signal(6, 4, 0.2, "relu", gain=chosen[0], standardised=chosen[1], scaled=True)
        ax.plot(range(1, len(stream) + 1), stream, marker="o", markersize=3, label=name)
    ax.set(yscale="log", xlabel="block", ylabel="variance of the stream")
    ax.legend()
    fig.savefig(folder / "explorer-signal.svg", metadata={"Date": None})
    plt.close(fig)
