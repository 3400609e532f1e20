"""Maps of thresholds, what is usable among them, and rules beside each other."""

from __future__ import annotations

import matplotlib
import matplotlib.pyplot as plt
import pytest
from made_records import run

from book.figures import threshold_plots
from experiments.records import Record

# Accuracy by threshold (none among them) and rate; None diverged. Twice the rate wants half the threshold.
REACHED = {
    (None, 0.1): 0.80, (0.01, 0.1): 0.805, (0.02, 0.1): 0.80, (0.04, 0.1): 0.50,
    (None, 0.2): None, (0.01, 0.2): 0.80, (0.02, 0.2): 0.60, (0.04, 0.2): None,
}  # fmt: skip


def clipped(
    factor: float | None, rate: float, accuracy: float | None, method: str = "nf_agc", **more: object
) -> Record:
    clip = None if factor is None else {"factor": factor}
    metrics = {} if factor is None or accuracy is None else {"clipped_fraction": 0.25}
    return run(method, accuracy=accuracy, recipe={"clip": clip, "lr": rate, **more}, metrics=metrics)


@pytest.fixture
def grid() -> threshold_plots.Groups:
    found = [clipped(factor, rate, accuracy) for (factor, rate), accuracy in REACHED.items()]
    return threshold_plots.by_rate(found, lambda r: r.config["recipe"]["batch_size"])


def test_the_largest_usable_threshold_falls_with_the_rate(grid: threshold_plots.Groups) -> None:
    largest = threshold_plots.largest_usable(grid)
    assert largest == {(32, 0.1): 0.02, (32, 0.2): 0.01}
    assert threshold_plots.fall(largest, [((32, 0.1), (32, 0.2))]) == "1.0"
    assert threshold_plots.fall(largest, [((64, 0.1), (32, 0.2))]) == "unknown"


def test_the_table_says_what_the_maps_show(grid: threshold_plots.Groups) -> None:
    header, rows = threshold_plots.numbers(grid, "batch size")
    assert list(header) == ["batch size", "learning rate", "no clipping", "λ = 0.01", "λ = 0.02", "λ = 0.04"]
    assert rows[0][:4] == [32, "0.1", "80.0†", "80.5† (25)"]
    assert (rows[1][2], rows[1][5]) == ("diverged", "diverged")
    matplotlib.use("Agg")
    fig = threshold_plots.maps(grid, "batch {}")
    assert [ax.get_title() for ax in fig.axes[:2]] == ["batch 32: accuracy", "batch 32: clipped"]
    assert [label.get_text() for label in fig.axes[0].get_yticklabels()] == ["none", "0.04", "0.02", "0.01"]
    assert "div" in [text.get_text() for text in fig.axes[0].texts]
    plt.close(fig)


def test_runs_at_chance_are_told_from_those_that_diverged() -> None:
    found = [clipped(None, 0.1, 0.11), clipped(0.01, 0.1, None), clipped(0.02, 0.1, 0.8)]
    groups = threshold_plots.by_rate(found, lambda r: r.config["recipe"]["batch_size"])
    _, (row,) = threshold_plots.numbers(groups, "batch")
    assert row[2:4] == ["failed to train", "diverged"]
    matplotlib.use("Agg")
    fig = threshold_plots.maps(groups, "batch {}")
    assert {"fail", "div", "80"} <= {text.get_text() for text in fig.axes[0].texts}
    plt.close(fig)


def test_spans_are_those_of_the_smallest_and_the_largest_learning_rate(grid: threshold_plots.Groups) -> None:
    _, rows = threshold_plots.spans(grid)
    assert rows == [[32, "30.5", "80.0"]]


def test_layers_are_set_against_the_usual_rule() -> None:
    groups = {"nf": [clipped(None, 0.1, None, "nf")], "nf_agc": [clipped(0.01, 0.1, 0.8)]}
    _, (none, usual) = threshold_plots.layers(groups)
    assert [str(cell) for cell in none] == ["nothing", "10.0†", "1 of 1", "0 of 1", "", "-70.0†"]
    assert [str(cell) for cell in usual] == ["all but the classifier's weight", "80.0†", "0 of 1", "0 of 1", "25", ""]


def test_rules_over_one_depth_keep_the_smaller_batch_dashed() -> None:
    found = [
        clipped(factor, 0.8, 0.5 + factor * batch, rule, batch_size=batch)
        for rule in threshold_plots.RULES
        for factor in (0.001, 0.002)
        for batch in (16, 64)
    ]
    curves = threshold_plots.curves(found)
    matplotlib.use("Agg")
    fig = threshold_plots.draw_rules(curves)
    lines = [container.lines[0] for container in fig.axes[0].containers]
    assert [line.get_linestyle() for line in lines] == ["--", "-"]
    assert len({line.get_color() for line in lines}) == 1
    plt.close(fig)
    lars = [run("lars", accuracy=a, recipe={"lr": a, "batch_size": b}) for a in (0.3, 0.6) for b in (16, 64)]
    header, rows = threshold_plots.ranges(curves, lars)
    assert list(header) == ["rule", "batch size 16, 3 blocks", "batch size 64, 3 blocks", "all settings"]
    assert list(rows[0]) == ["unit by unit (AGC)", "0.002", "0.002", "0.002"]
    assert list(rows[-1]) == ["best LARS, %", "60.0†", "60.0†", ""]
