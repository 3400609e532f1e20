"""Bounds that the effect of a condition must meet; `experiments.claims.rules` documents the language."""

from dataclasses import dataclass, replace

from experiments.records.statistics import Estimate


@dataclass(frozen=True)
class Bound:
    """An interval ``[low, high]`` in which the effect must lie; `strict` excludes `high`. `partly` is a weaker bound.

    `null` is the effect of no difference: 0, or 1 for a ratio.
    """

    low: float | None = None
    high: float | None = None
    strict: bool = False
    partly: float | None = None
    text: str = ""
    null: float = 0.0

    def met(self, effect: Estimate) -> bool | None:
        """Whether an effect meets the bound, by its interval; None if the interval does not decide.

        `at_least` t, where t is above `null`: the mean is at least t and the interval is above `null`. `at_least` t
        otherwise, which is a margin: the interval is at least t. Both fail if the interval is below t. `below` t: the
        interval is below t; it fails if the interval is at or above t. `between`: the interval is inside; it fails if
        all of the interval is on one side.
        """
        lower, upper = effect.low, effect.high
        if lower is None or upper is None:  # one seed has no interval
            return None
        if self.low is not None and self.high is None:
            clears = lower > self.null if self.low > self.null else lower >= self.low
            return True if effect.mean >= self.low and clears else False if upper < self.low else None
        high = float("inf") if self.high is None else self.high
        low = float("-inf") if self.low is None else self.low
        if lower >= low and (upper < high if self.strict else upper <= high):
            return True
        return False if upper < low or (lower >= high if self.strict else lower > high) else None

    def met_in_part(self, effect: Estimate) -> bool:
        """Whether an effect meets the weaker bound `partly`."""
        if self.partly is None:
            return False
        weaker = replace(self, low=self.partly) if self.high is None else replace(self, high=self.partly)
        return bool(weaker.met(effect))

    def opposite(self, effect: Estimate) -> bool:
        """Whether the interval shows an effect of the sign opposite to the one that the bound asks for."""
        if effect.low is None or effect.high is None:
            return False
        if self.high is None:
            return self.low is not None and self.low >= self.null > effect.high
        return self.low is None and self.high <= self.null < effect.low

    @property
    def words(self) -> str:
        """The bound in words, for use in a sentence."""
        if self.low is None or self.high is None:
            return f"at least {self.low:g}" if self.high is None else f"less than {self.high:g}"
        return f"exactly {self.low:g}" if self.low == self.high else f"between {self.low:g} and {self.high:g}"

    def off(self, value: float) -> float:
        """How far a value is from meeting the bound; 0 if it does."""
        below = 0.0 if self.low is None else max(0.0, self.low - value)
        above = 0.0 if self.high is None else max(0.0, value - self.high)
        return max(below, above)


def parse_bound(
    name: str,
    at_least: float | None = None,
    below: float | None = None,
    between: list[float] | None = None,
    expected: float | None = None,
    tolerance: float | str = 0.0,
    partly: float | None = None,
) -> Bound:
    """The bound of the condition `name` from its fields in the file."""
    if at_least is not None:
        weaker = "" if partly is None else f" (in part: at least {partly:g})"
        return Bound(low=at_least, partly=partly, text=f"at least {at_least:g}{weaker}")
    if below is not None:
        weaker = "" if partly is None else f" (in part: below {partly:g})"
        return Bound(high=below, strict=True, partly=partly, text=f"below {below:g}{weaker}")
    if partly is not None:
        raise ValueError(f"condition {name!r} has `partly`, which goes with `at_least` or `below` only")
    if between is not None:
        low, high = between
        return Bound(low, high, text=f"between {low:g} and {high:g}")
    assert expected is not None
    width = expected * float(tolerance.rstrip("% ")) / 100 if isinstance(tolerance, str) else tolerance
    text = f"{expected:g}" + (f" ± {tolerance}" if tolerance else "")
    return Bound(expected - abs(width), expected + abs(width), text=text)
