"""Results of a group of measurements: for each ratio a value with its two sides, or the reason why there is none."""

from dataclasses import dataclass
from typing import Any, TypeAlias

from experiments.bench.report import Side, Spread


@dataclass(frozen=True)
class Measured:
    """A ratio, its two sides, and a note on what was checked to be equal."""

    value: Spread
    ours: Side | None = None
    theirs: Side | None = None
    note: str = ""


# A text is the reason why there is no value. Keys are a subject and a measure, as in `targets`.
Found: TypeAlias = dict[tuple[str, str], "Measured | str"]
# timm as a module, or the reason why it is missing.
Timm: TypeAlias = Any
