"""Ratios over a training, and wrong calls of clipping beside right ones."""

from __future__ import annotations

from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from made_records import run

from book.figures import mistake_tables, plots, ratio_plots
from experiments.demos import mistakes
from experiments.records import Record
from experiments.tasks.ratios import KINDS


def watched(method: str, seed: int, rate: float, last: float | None) -> Record:
    curve = {f"{kind}_{level}": [0.01, 0.04, last] for kind in KINDS for level in (0.05, 0.5, 0.95)}
    metrics = {f"above_{t:g}": t for t in (0.01, 0.04, 0.16)}
    accuracy = None if last is None else 0.9
    return run(method, seed, accuracy, recipe={"lr": rate}, metrics=metrics, curve={"at": [1, 2, 3], **curve})


RUNS = ratio_plots.by_rate(
    [
        watched("nf", 0, 0.8, None), watched("nf", 1, 0.8, 0.16),
        watched("nf", 0, 0.1, 0.01), watched("nf", 1, 0.1, 0.04),
    ]
)  # fmt: skip


def test_the_middle_is_geometric_and_ends_with_the_first_divergence() -> None:
    assert list(RUNS) == [("nf", 0.1), ("nf", 0.8)]
    np.testing.assert_allclose(ratio_plots.middle(RUNS["nf", 0.1], "weights_0.5"), [0.01, 0.04, 0.02])
    np.testing.assert_allclose(ratio_plots.middle(RUNS["nf", 0.8], "weights_0.5"), [0.01, 0.04, np.nan])


def test_the_table_tells_of_a_divergence() -> None:
    _, (low, high) = ratio_plots.shares(RUNS)
    assert low[2] == "0.01, 0.04, 0.02"
    assert (high[2], high[-1]) == ("0.01, 0.04, diverged", "1 of 2 diverged")


def test_kinds_leave_out_what_is_not_finite() -> None:
    header, rows = ratio_plots.kinds(RUNS, [("nf", 0.8)])
    assert header[1].startswith("NF, learning rate 0.8")
    assert [row[0] for row in rows] == list(ratio_plots.UNITS.values())
    assert rows[0][1] == "0.03, 0.03"  # of 0.01, 0.04, 0.01, 0.04 and 0.16


def test_a_panel_a_rate_and_a_line_at_the_threshold() -> None:
    matplotlib.use("Agg")
    fig = ratio_plots.bands(RUNS)
    assert [ax.get_title() for ax in fig.axes] == ["learning rate 0.1", "learning rate 0.8"]
    assert all(ax.lines[-1].get_ydata()[0] == ratio_plots.THRESHOLD for ax in fig.axes)
    plt.close(fig)


def test_calls_are_compared_and_trained_once(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Any] = []
    tables: list[Any] = []
    monkeypatch.setattr(mistakes, "train", lambda update, make: trained.append(update) or [60.0, 70.0])
    monkeypatch.setattr(plots, "table", lambda header, rows: tables.append((header, rows)))
    monkeypatch.setitem(
        mistake_tables.COMPARISONS,
        "clipped before unscaling",
        mistake_tables.Comparison("order", ("a", "b"), mistake_tables.STEP, lambda update: (2.0, 0.5)),
    )
    mistake_tables.trained.cache_clear()
    calls = [(mistakes.unclipped,), (mistakes.correct,)]
    for _ in range(2):
        cost = mistake_tables.compare("clipped before unscaling", *calls)
    assert trained == [mistakes.unclipped, mistakes.correct]
    assert cost == {"clipped before unscaling": [(60.0, 70.0), (60.0, 70.0)]}
    header, rows = tables[0]
    assert header == ["order", *mistake_tables.STEP, "accuracy, %"]
    assert [row[:3] for row in rows] == [["a", "2", "0.5"], ["b", "2", "0.5"]]
    mistake_tables.verdict(cost)
    assert str(tables[-1][1][0][1]).startswith("0.0")
    mistake_tables.trained.cache_clear()
