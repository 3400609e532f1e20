"""Tables of signal propagation from curves that are known."""

from __future__ import annotations

from math import exp

import pytest
from made_records import run

from book.figures import signal_tables
from book.figures.signal_plots import TITLES
from experiments.records import Record
from nfnets_lite.activations import GAINS


def ends(value: float, seed: int = 0) -> Record:
    return run(seed=seed, curve={curve: [1.0, value] for curve in TITLES})


def test_a_change_is_paired_by_seed_and_geometric() -> None:
    causes = {"reference": [ends(2.0, 0), ends(8.0, 1)], "gelu": [ends(2.0 * exp(0.1), 0), ends(8.0 * exp(0.3), 1)]}
    assert signal_tables.change(causes, "gelu") == pytest.approx(exp(0.2))


def test_the_farthest_single_change_comes_first() -> None:
    causes = {cause: [ends(1.0)] for cause in signal_tables.CAUSES} | {"silent": [ends(0.25)], "images": [ends(3.0)]}
    causes["library"] = [ends(100.0)]  # several changes at once
    assert signal_tables.farthest(causes)[:2] == [
        "**last gain of each branch starts at 0**: the variance is 0.25 times the reference",
        "**images**: the variance is 3 times the reference",
    ]  # fmt: skip
    _, rows = signal_tables.changes(causes)
    assert [row[1] for row in rows[:2]] == ["1", "1"]
    assert len(rows) == len(signal_tables.CAUSES)


def test_levels_are_those_of_the_block_after_a_transition() -> None:
    found = {"nf": [run(curve={"variance": [9, 1, 2, 3, 4, 5, 6]}, metrics={"variance_slope": 1.0})]}
    _, (row,) = signal_tables.transitions(found, stage=2)
    assert row[1].startswith("4\N{NO-BREAK SPACE}")  # the mean of the blocks 3 and 5
    assert row[2] == "1.04"


def test_a_ratio_to_the_prediction_is_that_of_the_last_block() -> None:
    found = {"nf": [run(curve={"variance": [1, 6], "predicted_variance": [5, 4]})]}
    assert signal_tables.over_predicted(found).startswith("1.50")


def test_a_metric_that_no_run_has_is_a_dash() -> None:
    header, (row,) = signal_tables.moments({"rescale": [run(metrics={"growth": 2.0})]})
    assert dict(zip(header, row))["largest error"] == "\N{EN DASH}"
    assert dict(zip(header, row))["factor of q from block to block"].startswith("2")


def test_published_gains_are_a_little_too_high() -> None:
    offsets = signal_tables.gain_offsets()
    assert all(0 < offset < 0.2 for offset in offsets.values())
    _, rows = signal_tables.gains(offsets)
    assert {row[0]: row[2] for row in rows}["relu"] == f"{GAINS['relu']:.6f}"
    assert signal_tables.sampled_offset(1024, 0) == pytest.approx(50 / 1024, abs=0.04)
