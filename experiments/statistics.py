"""Numbers from records: a mean over seeds with its interval, and a difference paired by seed."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from scipy import stats

from experiments.record import Record


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, its standard error and 95 % t interval (None for a single seed), and how many diverged."""

    mean: float
    stderr: float | None
    low: float | None
    high: float | None
    count: int
    diverged: int = 0

    def __format__(self, spec: str) -> str:
        """Mean and half width of the interval, each by `spec` (default ``.1f``); a dagger marks a single seed."""
        spec = spec or ".1f"
        if self.high is None:
            return f"{self.mean:{spec}}†"
        return f"{self.mean:{spec}}\u00a0±\u00a0{self.high - self.mean:{spec}}"

    def __str__(self) -> str:
        return format(self)


def estimate(values: Sequence[float], diverged: int = 0, level: float = 0.95) -> Estimate:
    """Mean and t interval.

    Examples
    --------
    >>> estimate([1.0, 2.0, 3.0]).mean, round(estimate([1.0, 2.0, 3.0]).high, 3)
    (2.0, 4.484)
    """
    if not values:
        raise ValueError("values is empty; a mean needs at least one seed")
    mean, count = fmean(values), len(values)
    if count == 1:
        return Estimate(mean, None, None, None, 1, diverged)
    stderr = stdev(values) / count**0.5
    half = float(stats.t.ppf((1 + level) / 2, count - 1)) * stderr
    return Estimate(mean, stderr, mean - half, mean + half, count, diverged)


def accuracy(record: Record) -> float:
    """Accuracy in per cent. A diverged run counts as chance: it is not dropped."""
    chance = 1 / record.config["model"]["num_classes"]
    return 100 * (record.metrics["accuracy"] if record.status == "ok" else chance)


def aggregate(
    records: Iterable[Record], by: Callable[[Record], Any], value: Callable[[Record], float] = accuracy
) -> dict[Any, Estimate]:
    """Estimates of a value over the seeds of each group, groups in order of first appearance."""
    groups: dict[Any, list[Record]] = {}
    for record in records:
        if record.done:
            groups.setdefault(by(record), []).append(record)
    return {
        group: estimate([value(r) for r in found], sum(r.status == "diverged" for r in found))
        for group, found in groups.items()
    }


def paired_difference(
    plus: Iterable[Record], minus: Iterable[Record], value: Callable[[Record], float] = accuracy
) -> Estimate:
    """Estimate of ``plus - minus`` over the seeds that both have, paired by seed."""
    left, right = ({r.seed: value(r) for r in side if r.done} for side in (plus, minus))
    common = sorted(left.keys() & right.keys())
    if not common:
        raise ValueError("plus and minus share no seed; a paired difference needs runs of both with the same seeds")
    return estimate([left[seed] - right[seed] for seed in common])
