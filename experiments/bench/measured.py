"""What a group of measurements hands over: for each ratio a value with its two sides, or why there is none."""

from dataclasses import dataclass
from typing import Any, TypeAlias

from experiments.bench.report import Side, Spread


@dataclass(frozen=True)
class Measured:
    """A ratio, its sides, and what was found equal first."""

    value: Spread
    ours: Side | None = None
    theirs: Side | None = None
    note: str = ""


# A text is the reason why there is no value. Keys are a subject and a measure, as in `targets`.
Found: TypeAlias = dict[tuple[str, str], "Measured | str"]
# timm as a module, or the reason why it is missing.
Timm: TypeAlias = Any
