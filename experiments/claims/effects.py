"""Comparisons of cells of runs with their intervals: sums of means, ratios, and shares of runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, inf, log, sqrt
from statistics import fmean, variance
from typing import Protocol

import numpy as np
from scipy import stats

LEVEL = 0.95  # of all intervals of one claim together
ALPHA = 0.05  # of Levene's test
TESTED_FROM = 3  # seeds that every cell needs for Levene's test
PAIRING_HELPS = 0.8  # differences are paired by seed if the paired variance over the independent one is below this

Cell = Mapping[int, float]  # the value of every seed


class Effect(Protocol):
    """A value with its number of seeds, the way its interval is made, and the interval at any level."""

    @property
    def mean(self) -> float: ...
    @property
    def count(self) -> int: ...
    @property
    def way(self) -> str: ...
    def interval(self, level: float) -> tuple[float, float] | None: ...


@dataclass(frozen=True)
class Exact:
    """A computed number, which has no error."""

    mean: float
    count: int = 0
    way: str = "computed"

    def interval(self, level: float) -> tuple[float, float]:
        return self.mean, self.mean


@dataclass(frozen=True)
class Means:
    """A sum of means with its standard error; with `log`, the sum is the logarithm of the effect, a ratio."""

    total: float
    stderr: float | None
    freedom: float
    count: int
    way: str
    log: bool = False

    @property
    def mean(self) -> float:
        return exp(self.total) if self.log else self.total

    def interval(self, level: float) -> tuple[float, float] | None:
        """Student's t interval; None for a single seed."""
        if self.stderr is None:
            return None
        half = float(stats.t.ppf((1 + level) / 2, self.freedom)) * self.stderr if self.stderr else 0.0
        low, high = self.total - half, self.total + half
        return (exp(low), exp(high)) if self.log else (low, high)


@dataclass(frozen=True)
class Shares:
    """A share of runs, or the difference of two; each is ``(hits, runs)``."""

    plus: tuple[int, int]
    minus: tuple[int, int] | None = None
    way: str = "score interval"

    @property
    def mean(self) -> float:
        first, second = (hits / runs for hits, runs in (self.plus, self.minus or (0, 1)))
        return first - second

    @property
    def count(self) -> int:
        return min(runs for _, runs in filter(None, (self.plus, self.minus)))

    def interval(self, level: float) -> tuple[float, float]:
        """Wilson's interval of a share, Newcombe's of a difference; neither has width 0 for 0 of 5 runs.

        Newcombe, Statistics in Medicine 17 (1998), method 10.
        """
        low, high = _wilson(*self.plus, level)
        if self.minus is None:
            return low, high
        share, other = self.plus[0] / self.plus[1], self.minus[0] / self.minus[1]
        least, most = _wilson(*self.minus, level)
        below = sqrt((share - low) ** 2 + (most - other) ** 2)
        above = sqrt((high - share) ** 2 + (other - least) ** 2)
        return self.mean - below, self.mean + above


def _wilson(hits: int, runs: int, level: float) -> tuple[float, float]:
    z, share = float(stats.norm.ppf((1 + level) / 2)), hits / runs
    centre = (share + z * z / (2 * runs)) / (1 + z * z / runs)
    half = z * sqrt(share * (1 - share) / runs + z * z / (4 * runs * runs)) / (1 + z * z / runs)
    return (centre - half if hits else 0.0), (centre + half if hits < runs else 1.0)


def compare(terms: Sequence[tuple[int, Cell]], *, paired: bool = False, ratio: bool = False) -> Means:
    """The sum of factors times the means of cells, or the ratio of two geometric means.

    With `paired`, the effect is computed for each seed that all cells have. Otherwise the cells are independent
    samples. Their variance is pooled if Levene's test does not reject that the variances are equal. If it does, or if a
    cell has too few seeds for the test, the interval is Welch's.

    Examples
    --------
    >>> found = compare([(1, {0: 3.0, 1: 4.0, 2: 5.0}), (-1, {0: 1.0, 1: 2.0, 2: 3.0})])
    >>> found.mean, round(found.interval(0.95)[0], 3), found.way
    (2.0, -0.267, 'pooled variance')
    """
    if ratio:
        terms = [(factor, {seed: _log(value) for seed, value in cell.items()}) for factor, cell in terms]
    common = set.intersection(*(set(cell) for _, cell in terms))
    paired = paired and len(terms) > 1 and bool(common)
    if paired:
        terms = [(1, {seed: sum(factor * cell[seed] for factor, cell in terms) for seed in sorted(common)})]
    total = sum(factor * fmean(cell.values()) for factor, cell in terms)
    counts = [len(cell) for _, cell in terms]
    if min(counts) == 1:
        return Means(total, None, 0, 1, "single seed", ratio)
    spreads = [variance(cell.values()) for _, cell in terms]
    parts = [factor**2 * spread / count for (factor, _), spread, count in zip(terms, spreads, counts)]
    if len(terms) == 1:
        return Means(total, sqrt(parts[0]), counts[0] - 1, counts[0], "paired by seed" if paired else "t", ratio)
    freedom = sum(counts) - len(terms)
    if homogeneous([list(cell.values()) for _, cell in terms]):
        pooled = sum(spread * (count - 1) for spread, count in zip(spreads, counts)) / freedom
        stderr = sqrt(pooled * sum(factor**2 / count for (factor, _), count in zip(terms, counts)))
        return Means(total, stderr, freedom, min(counts), "pooled variance", ratio)
    # Welch and Satterthwaite; cells without any spread leave nothing to count degrees of freedom by.
    squares = sum(part**2 / (count - 1) for part, count in zip(parts, counts))
    return Means(total, sqrt(sum(parts)), sum(parts) ** 2 / squares if squares else inf, min(counts), "Welch", ratio)


def _log(value: float) -> float:
    if value <= 0:
        raise ValueError(f"a ratio needs positive numbers, and one of them is {value:g}; compare by a difference")
    return log(value)


def homogeneous(cells: Sequence[Sequence[float]]) -> bool:
    """Whether the variances of cells may be pooled: Levene's test about the means does not reject that they are equal.

    A cell without spread is pooled with its like only.

    Brown and Forsythe's form, about the medians, is not used. With three seeds one of its deviations is always 0, and
    it rejects nothing: no pair in 20,000 whose standard deviations differ ten-fold (docs/decisions).
    """
    if min(map(len, cells)) < TESTED_FROM:
        return False
    spread = [variance(cell) > 0 for cell in cells]
    if not all(spread):  # where every seed failed, a cell holds chance for each: no estimate of a variance
        return not any(spread)
    with np.errstate(all="ignore"):
        return not stats.levene(*cells, center="mean").pvalue < ALPHA


def paired_over_independent(cells: Sequence[Cell]) -> float:
    """Variance of a difference of two cells paired by seed over that of independent cells, summed over all pairs.

    With v the variance of a cell over seeds, C cells and S the sum of all cells of a seed, the paired variances add up
    to C sum(v) - var(S), the independent ones to (C - 1) sum(v). The result is 1 if there are too few cells or seeds.

    Examples
    --------
    >>> paired_over_independent([{0: 1.0, 1: 2.0, 2: 4.0}, {0: 2.0, 1: 3.0, 2: 5.0}])
    0.0
    """
    seeds = sorted(set.intersection(*(set(cell) for cell in cells))) if cells else []
    if len(cells) < 2 or len(seeds) < TESTED_FROM:
        return 1.0
    spread = sum(variance([cell[seed] for seed in seeds]) for cell in cells)
    if not spread:
        return 1.0
    summed = variance([sum(cell[seed] for cell in cells) for seed in seeds])
    return (len(cells) * spread - summed) / ((len(cells) - 1) * spread)
