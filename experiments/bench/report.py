"""Report of a comparison: rows of ratios with their spread and a bar, and the file that keeps them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from scipy import stats

FOLDER = Path(__file__).resolve().parents[1] / "results" / "bench"


@dataclass(frozen=True)
class Spread:
    """A median over repeats and its 95 % interval by order statistics; below 6 repeats, the smallest and largest."""

    median: float
    low: float
    high: float
    count: int

    def __format__(self, spec: str) -> str:
        """Median and interval, each by `spec` (default ``.2f``)."""
        spec = spec or ".2f"
        return f"{self.median:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"

    def __str__(self) -> str:
        return format(self)


def spread(values: Sequence[float]) -> Spread:
    """Median and interval without an assumption on the distribution, so that one disturbed repeat counts little.

    Examples
    --------
    >>> str(spread([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 700.0]))
    '4.00 [1.00, 700.00]'
    """
    if not values:
        raise ValueError("values is empty; a median needs at least one repeat")
    ordered, count = sorted(values), len(values)
    place = max(1, int(stats.binom.ppf(0.025, count, 0.5)))
    return Spread(median(ordered), ordered[place - 1], ordered[count - place], count)


@dataclass(frozen=True)
class Bar:
    """The bound that a ratio should meet."""

    at_least: float | None = None
    at_most: float | None = None

    def __str__(self) -> str:
        return f"≥ {self.at_least:g}" if self.at_least is not None else f"≤ {self.at_most:g}"

    def holds(self, value: float) -> bool:
        """Whether a value meets the bound."""
        if self.at_least is not None:
            return value >= self.at_least
        return self.at_most is not None and value <= self.at_most


@dataclass(frozen=True)
class Side:
    """One of the two sides of a ratio: median milliseconds, multiply-adds or bytes of the work, memory if counted.

    Attributes
    ----------
    macs : int or None
        Multiply-adds of one forward pass, of the whole batch.
    bytes : int or None
        Bytes that have to be read and written.
    peak_mb : float or None
        Peak memory of a step, with its model, in 2**20 bytes.
    """

    name: str
    ms: float | None = None
    macs: int | None = None
    bytes: int | None = None
    peak_mb: float | None = None

    def __str__(self) -> str:
        parts = [
            None if self.ms is None else f"{self.ms:.3g} ms",
            None if self.macs is None else f"{self.macs / 1e9:.3g} GMAC",
            None if self.bytes is None else f"{self.bytes / 1e6:.3g} MB",
            None if self.peak_mb is None else f"peak {self.peak_mb:.0f} MB",
        ]
        return f"{self.name}: {', '.join(part for part in parts if part)}".removesuffix(": ")


@dataclass(frozen=True)
class Row:
    """One ratio: its subject, the fraction that was measured, its value and its bar.

    Attributes
    ----------
    status : str
        ``"ok"``; ``"skipped"``, with the reason in `note`; ``"unequal"``: not timed, because the results differ.
    note : str
        What was checked to be equal before the timing, and where the two sides differ by design.
    """

    subject: str
    measure: str
    unit: str = "x"
    value: Spread | None = None
    bar: Bar | None = None
    ours: Side | None = None
    theirs: Side | None = None
    status: str = "ok"
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the median meets the bar; None without a bar or a measurement."""
        return None if self.value is None or self.bar is None else self.bar.holds(self.value.median)

    @property
    def sure(self) -> bool:
        """Whether both ends of the interval are on the median's side of the bar."""
        if self.value is None or self.bar is None:
            return False
        return self.bar.holds(self.value.low) == self.bar.holds(self.value.high) == self.met

    @property
    def outcome(self) -> str:
        """The verdict in a word or two."""
        if self.met is None:
            return self.status if self.value is None else ""
        return ("met" if self.met else "missed") + ("" if self.sure else ", within the spread")


@dataclass(frozen=True)
class Report:
    """All rows of one run of the benchmark on one device, and facts about how they were made."""

    device: str
    rows: tuple[Row, ...]
    facts: dict[str, Any] = field(default_factory=dict)

    def find(self, subject: str, measure: str) -> Row | None:
        """The row of a subject and a measure, if it was measured."""
        found = (r for r in self.rows if (r.subject, r.measure) == (subject, measure) and r.value is not None)
        return next(found, None)


def path_of(device: str, folder: Path = FOLDER) -> Path:
    """The file of the report for a type of device."""
    return folder / f"peers-{device}.json"


def write(report: Report, path: Path) -> None:
    """Write a report to a file, completely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(asdict(report), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)


def read(path: Path) -> Report | None:
    """Read a report; None if there is no file."""
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    kinds: dict[str, type] = {"value": Spread, "bar": Bar, "ours": Side, "theirs": Side}
    rows = tuple(
        Row(**{k: kinds[k](**v) if k in kinds and v is not None else v for k, v in row.items()})
        for row in found["rows"]
    )
    return Report(found["device"], rows, found["facts"])
