"""Hyper-parameters that a search tries: one setting, and a grid of settings."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """Hyper-parameters that a search chooses: the peak learning rate and, where a cell clips, AGC's threshold."""

    lr: float
    threshold: float | None = None


@dataclass(frozen=True)
class Grid:
    """The settings that a search tries for one cell: every learning rate with every threshold.

    Attributes
    ----------
    rates : tuple of float
        Peak learning rates, ascending, in steps of one factor.
    thresholds : tuple of float
        Thresholds of AGC, ascending, in steps of one factor; empty: the cell does not clip, or keeps its threshold.
    """

    rates: tuple[float, ...]
    thresholds: tuple[float, ...] = ()

    def settings(self) -> tuple[Setting, ...]:
        """All settings of the grid, the smallest learning rate first, and for each the smallest threshold first."""
        return tuple(
            Setting(r, threshold) for r in sorted(self.rates) for threshold in sorted(self.thresholds) or (None,)
        )

    def widened(self, best: Setting) -> "Grid":
        """This grid with one more value beyond each end at which the best setting lies; unchanged if it lies inside.

        Examples
        --------
        >>> Grid((0.5, 1.0, 2.0), (0.01, 0.04)).widened(Setting(2.0, 0.01))
        Grid(rates=(0.5, 1.0, 2.0, 4.0), thresholds=(0.0025, 0.01, 0.04))
        """
        thresholds = self.thresholds if best.threshold is None else _beyond(self.thresholds, best.threshold)
        return Grid(_beyond(self.rates, best.lr), thresholds)


def around(centre: float, count: int, step: float) -> tuple[float, ...]:
    """Return `count` values around a centre, each `step` times the one before; if even, one more lies below the centre.

    Examples
    --------
    >>> around(0.5, 3, 2.0)
    (0.25, 0.5, 1.0)
    """
    return tuple(round(centre * step ** (i - count // 2), 6) for i in range(count))


def _beyond(values: tuple[float, ...], best: float) -> tuple[float, ...]:
    if len(values) < 2:
        return values
    below = (values[0] * values[0] / values[1],) if best == values[0] else ()
    above = (values[-1] * values[-1] / values[-2],) if best == values[-1] else ()
    return (*below, *values, *above)
