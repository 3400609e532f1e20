"""Statistics of records: means over seeds with intervals, and the value that a run counts as if it did not train."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from scipy import stats

from experiments.records.record import Record

NEAR_CHANCE = 0.02  # a run failed to train if its accuracy is at most this far above that of guessing


@dataclass(frozen=True)
class Estimate:
    """A value with its interval, and how many of its runs diverged or failed to train.

    `low` and `high` are None for a single seed. `count` is the number of seeds, 0 for a computed, exact value.
    """

    mean: float
    low: float | None
    high: float | None
    count: int
    diverged: int = 0
    failed: int = 0

    def __format__(self, spec: str) -> str:
        """Mean and interval as text, each number by `spec` (default ``.1f``); a dagger marks a single seed.

        An interval that is not symmetric about the mean is written with both of its ends.
        """
        spec = spec or ".1f"
        if self.low is None or self.high is None:
            return f"{self.mean:{spec}}†"
        below, above = self.mean - self.low, self.high - self.mean
        if abs(above - below) > 1e-6 * (above + below):
            return f"{self.mean:{spec}} ({self.low:{spec}} to {self.high:{spec}})"
        return f"{self.mean:{spec}}\u00a0±\u00a0{above:{spec}}"

    def __str__(self) -> str:
        return format(self)


def estimate(values: Sequence[float], diverged: int = 0, level: float = 0.95, failed: int = 0) -> Estimate:
    """Mean of the values with Student's t interval at `level`.

    Examples
    --------
    >>> estimate([1.0, 2.0, 3.0]).mean, round(estimate([1.0, 2.0, 3.0]).high, 3)
    (2.0, 4.484)
    """
    if not values:
        raise ValueError("values is empty; a mean needs at least one seed")
    mean, count = fmean(values), len(values)
    if count == 1:
        return Estimate(mean, None, None, 1, diverged, failed)
    half = float(stats.t.ppf((1 + level) / 2, count - 1)) * stdev(values) / count**0.5
    return Estimate(mean, mean - half, mean + half, count, diverged, failed)


def chance(record: Record) -> float | None:
    """Accuracy of guessing, in [0, 1]; None for a run without classes."""
    classes = record.config.get("model", {}).get("num_classes") or record.config.get("classes")
    return 1 / classes if classes else None


def failed_to_train(record: Record) -> bool:
    """Whether a run ended with a finite loss and within two points of chance accuracy.

    The leak probe is left out: chance is the right answer of a network that has no path across the batch.
    """
    guess = chance(record)
    if record.status != "ok" or guess is None or record.config.get("kind") == "leakprobe":
        return False
    return "accuracy" in record.metrics and record.metrics["accuracy"] <= guess + NEAR_CHANCE


def accuracy(record: Record) -> float:
    """Accuracy in per cent; a run that diverged or failed to train counts as chance and is not dropped."""
    if record.status == "ok" and not failed_to_train(record):
        return 100 * record.metrics["accuracy"]
    return 100 * (chance(record) or 0.0)


def aggregate(
    records: Iterable[Record], by: Callable[[Record], Any], value: Callable[[Record], float] = accuracy
) -> dict[Any, Estimate]:
    """Estimates of a value over the seeds of each group, groups in order of first appearance."""
    groups: dict[Any, list[Record]] = {}
    for record in records:
        if record.done:
            groups.setdefault(by(record), []).append(record)
    return {
        group: estimate(
            [value(r) for r in found],
            sum(r.status == "diverged" for r in found),
            failed=sum(map(failed_to_train, found)),
        )
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
