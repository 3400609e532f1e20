"""Intervals of differences, ratios and shares, against SciPy; and how often they hold what they should."""

from __future__ import annotations

from itertools import combinations
from statistics import variance

import numpy as np
import pytest
from scipy import stats

from experiments.claims.effects import Exact, Shares, compare, homogeneous, paired_over_independent

A, B = [70.1, 71.3, 70.4], [68.0, 69.5, 69.1]
WIDE = [60.0, 75.0, 81.0, 66.0, 90.0]


def cell(values: list[float]) -> dict[int, float]:
    return dict(enumerate(values))


def test_like_variances_are_pooled() -> None:
    found = compare([(1, cell(A)), (-1, cell(B))])
    expected = stats.ttest_ind(A, B).confidence_interval(0.9)
    assert found.interval(0.9) == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert (found.way, found.count) == ("pooled variance", 3)


def test_unlike_variances_are_not() -> None:
    steady = [70.0, 70.1, 69.9, 70.05, 69.95]
    found = compare([(1, cell(WIDE)), (-1, cell(steady))])
    expected = stats.ttest_ind(WIDE, steady, equal_var=False).confidence_interval(0.95)
    assert found.interval(0.95) == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert found.way == "Welch"


def test_a_cell_of_two_seeds_is_too_small_for_levene() -> None:
    assert compare([(1, cell(A)), (-1, cell(B[:2]))]).way == "Welch"


def test_of_pairs_the_differences_count() -> None:
    found = compare([(1, cell(A)), (-1, {2: B[2], 0: B[0], 1: B[1], 9: 0.0})], paired=True)
    expected = stats.ttest_rel(A, B).confidence_interval(0.95)
    assert found.interval(0.95) == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert found.way == "paired by seed"


def test_a_cell_that_counts_twice_has_four_times_the_variance() -> None:
    found = compare([(2, cell(A)), (-1, cell(B)), (-1, cell([1.0, 2.0, 2.5]))])
    pooled = np.mean([variance(values) for values in (A, B, [1.0, 2.0, 2.5])])
    assert found.stderr == pytest.approx(np.sqrt(pooled * 6 / 3))
    assert found.freedom == 6


def test_a_ratio_is_one_of_geometric_means() -> None:
    found = compare([(1, cell(A)), (-1, cell(B))], ratio=True)
    expected = stats.ttest_ind(np.log(A), np.log(B)).confidence_interval(0.95)
    assert found.interval(0.95) == pytest.approx((np.exp(expected.low), np.exp(expected.high)), rel=1e-12)
    assert found.mean == pytest.approx(stats.gmean(A) / stats.gmean(B))
    with pytest.raises(ValueError, match="a ratio needs positive numbers, and one of them is -1"):
        compare([(1, cell(A)), (-1, cell([1.0, -1.0]))], ratio=True)


def test_a_single_seed_and_a_computed_number() -> None:
    assert compare([(1, cell(A)), (-1, {0: 1.0})]).interval(0.95) is None
    assert Exact(3.0).interval(0.95) == (3.0, 3.0)


@pytest.mark.parametrize(("hits", "runs"), [(0, 5), (1, 5), (3, 3), (7, 16)])
def test_a_share_has_wilsons_interval(hits: int, runs: int) -> None:
    expected = stats.binomtest(hits, runs).proportion_ci(0.95, "wilson")
    assert Shares((hits, runs)).interval(0.95) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_a_difference_of_shares_has_newcombes_interval() -> None:
    # Newcombe (1998), table II, method 10: 56 of 70 less 48 of 80, and 0 of 20 less 0 of 10.
    assert Shares((56, 70), (48, 80)).interval(0.95) == pytest.approx((0.0524, 0.3339), abs=1e-4)
    assert Shares((0, 20), (0, 10)).interval(0.95) == pytest.approx((-0.2775, 0.1611), abs=1e-4)


def test_levene_about_the_medians_rejects_nothing_with_three_seeds() -> None:
    drawn = np.random.default_rng(0).normal(size=(2000, 2, 3)) * [[1.0], [10.0]]
    median = [stats.levene(*pair, center="median").pvalue < 0.05 for pair in drawn[:500]]
    mean = [not homogeneous(pair.tolist()) for pair in drawn]
    assert sum(median) == 0
    assert 0.38 < np.mean(mean) < 0.48


@pytest.mark.parametrize("spread", [1.0, 3.0])
def test_intervals_hold_the_difference_as_often_as_told(spread: float) -> None:
    drawn = np.random.default_rng(1).normal(size=(2000, 2, 3)) * [[1.0], [spread]]
    held = []
    for pair in drawn.tolist():
        low, high = compare([(1, cell(pair[0])), (-1, cell(pair[1]))]).interval(0.95) or (0, 0)
        held.append(low < 0 < high)
    assert 0.92 < np.mean(held) < 0.97


def test_pairing_is_judged_over_all_pairs_of_cells() -> None:
    values = np.random.default_rng(2).normal(size=(5, 4)) + np.arange(4)
    cells = [cell(row) for row in values.tolist()]
    pairs = list(combinations(values, 2))
    paired, apart = (sum(f(a, b) for a, b in pairs) for f in (
        lambda a, b: np.var(a - b, ddof=1), lambda a, b: np.var(a, ddof=1) + np.var(b, ddof=1)
    ))  # fmt: skip
    assert paired_over_independent(cells) == pytest.approx(paired / apart)
    assert paired_over_independent(cells[:1]) == 1
    assert paired_over_independent([cell(row[:2]) for row in values.tolist()]) == 1  # two seeds tell nothing


def test_a_cell_without_spread_is_pooled_with_its_like_only() -> None:
    """Three seeds that failed to train count as chance each: that says nothing about the noise of other seeds."""
    spread, failed = {0: 30.0, 1: 55.0, 2: 80.0}, dict.fromkeys(range(3), 10.0)
    assert compare([(1, spread), (-1, failed)]).way == "Welch"
    assert compare([(1, failed), (-1, failed)]).way == "pooled variance"
