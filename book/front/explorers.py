"""Data of the explorer page: the records as a script, and fixed figures for readers without scripts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from math import exp, pi, sqrt, tanh
from pathlib import Path
from typing import Any

from experiments import records
from experiments.obtain import RESULTS
from experiments.profiles import PROFILES
from experiments.records.record import HEAD
from nfnets_lite.models.residual import joins

SWEEPS = ("batch_size", "batch_range", "budget", "clipping_threshold", "clip_alternatives", "normalizers")
ACTIVATIONS: Mapping[str, Callable[[float], float]] = {
    "relu": lambda x: max(x, 0.0),
    "silu": lambda x: x / (1 + exp(-x)),
    "gelu": lambda x: 0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))),
    "tanh": tanh,
    "identity": lambda x: x,
}


def write(folder: Path, results: Path, repository: str) -> dict[str, str]:
    """Write the data as a script into the folder of the page's files; return the figures for readers without scripts.

    Points link to the lines of their records at the address of the `repository`.
    """
    from book.figures import palette  # here, because importing matplotlib takes a second
    from book.front import themes

    paths = {name: results / f"{name}.jsonl" for name in SWEEPS}
    sweeps = {name: found for name, path in paths.items() if (found := rows(path))}
    look = {row["method"]: palette.look(row["method"])[:2] for found in sweeps.values() for row in found}
    data = {
        "sweeps": sweeps,
        "files": {name: published(paths[name], repository) for name in sweeps},
        "look": {method: [name, themes.themed(colour)] for method, (name, colour) in look.items()},
        "signal": [themes.themed(palette.BLUE), themes.themed(palette.RED)],
    }
    script = f"window.EXPLORER = {json.dumps(data, separators=(',', ':'))};\n"
    (folder / "explorer-data.js").write_text(script, encoding="utf-8")
    return _fixed(next(iter(sweeps.values()), []))


def published(path: Path, repository: str) -> str:
    """Address of the records in the repository; empty for a reader's own records."""
    committed = (RESULTS / profile / path.name for profile in PROFILES)
    same = next((own for own in committed if own.is_file() and own.read_bytes() == path.read_bytes()), None)
    return f"{repository}/blob/main/experiments/results/{same.relative_to(RESULTS).as_posix()}" if same else ""


def rows(path: Path) -> list[dict[str, Any]]:
    """One small row for each run: its settings, the images that judge it, three measures, and its record's line.

    A run that diverged or failed to train has the accuracy of chance.
    """
    lines: dict[tuple[str, int], int] = {}
    for number, line in enumerate(path.read_bytes().splitlines() if path.is_file() else [], 1):
        if head := HEAD.match(line):
            lines[head[4].decode(), int(head[5])] = number
    found = []
    for record in records.read(path).records:
        recipe = record.config.get("recipe", {})
        if not record.done or "batch_size" not in recipe:
            continue
        lost = record.status == "diverged" or records.failed_to_train(record)
        chance = 1 / record.config["model"]["num_classes"]
        method, _, variant = record.method.partition(":")
        found.append(
            {
                "method": method,
                "variant": variant,
                "batch": recipe["batch_size"],
                "epochs": recipe["epochs"] or None,  # a run with a fixed number of updates has none
                "rate": recipe["lr"],
                "threshold": (recipe.get("clip") or {}).get("factor"),
                "seed": record.seed,
                "split": record.config["split"],
                "accuracy": chance if lost else record.metrics["accuracy"],
                "train": chance if lost else record.metrics.get("train_accuracy"),
                "clipped": record.metrics.get("clipped_fraction"),
                "line": lines.get((record.key, record.seed)),
            }
        )
    return found


def signal(
    blocks: int, stages: int, alpha: float, activation: str, *, gain: bool, standardised: bool, scaled: bool
) -> tuple[list[float], list[float]]:
    """Predicted variance of the signal after each block, and at the end of each branch.

    NF-ResNet (arXiv 2101.08692), section 3: the variance starts at 1. A branch is two layers, each an activation and a
    convolution whose filters have norm 1. Standardised filters remove the mean of an activation, other filters do not.
    The shortcut of a stage's first block is a convolution of the activated input.
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
    """Mean and mean square of an activation's output for normal input of a variance, by the trapezoid rule."""
    f, std, mean, square = ACTIVATIONS[activation], sqrt(variance), 0.0, 0.0
    for i in range(points + 1):
        z = -10 + 20 * i / points
        y, weight = f(std * z), exp(-0.5 * z * z)
        mean, square = mean + weight * y, square + weight * y * y
    whole = 20 / points / sqrt(2 * pi)
    return mean * whole, square * whole


def _fixed(found: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    import matplotlib.pyplot as plt

    from book.figures import plots
    from book.front import themes

    plots.setup()
    cells: dict[tuple[str, float], list[float]] = {}
    for row in found:
        if row["split"] == "test" and not row["variant"]:
            cells.setdefault((row["method"], row["batch"]), []).append(100 * row["accuracy"])
    measured = plots.by_batch_size({cell: records.estimate(values) for cell, values in cells.items()})
    predicted, ax = plt.subplots()
    for name, colour, gain, standardised in (
        ("as published", plots.BLUE, True, True),
        ("no gain", plots.RED, False, True),
        ("no standardising", plots.GREEN, True, False),
    ):
        stream, _ = signal(6, 4, 0.2, "relu", gain=gain, standardised=standardised, scaled=True)
        ax.plot(range(1, len(stream) + 1), stream, color=colour, marker="o", markersize=3, label=name)
    ax.set(yscale="log", xlabel="block", ylabel="variance of the stream")
    ax.legend()
    said = {
        "records": (measured, "Test accuracy against batch size by method, with 95 % intervals"),
        "signal": (
            predicted,
            "Predicted variance: near 1 as published, falls without the gain, grows with plain weights",
        ),
    }
    return {name: themes.inline(plots.svg(fig), alt, f"explorer-{name}") for name, (fig, alt) in said.items()}
