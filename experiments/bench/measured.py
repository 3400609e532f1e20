"""Results of a group of measurements: for each ratio a value with its two sides, or the reason why there is none."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from experiments.bench.report import Side, Spread
from experiments.bench.timing import Seconds, Work, ms, ratio


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


def copying(size: int, device: torch.device) -> Work:
    """Work that copies `size` bytes; its time gives the speed of memory."""
    source = torch.empty(size // 4, device=device).normal_()
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def beside_limit(times: Seconds, must: int, copied: int, ours: Side) -> Measured:
    """Time over the time in which a copy would move the same bytes; a copy reads and writes each of its bytes."""
    moved = must / (2 * copied)
    limit = Side("bytes limit", moved * ms(times["copy"]), bytes=must)
    speed = 2 * copied / (ms(times["copy"]) / 1000) / 1e9
    return Measured(ratio(times["ours"], times["copy"], 1 / moved), ours, limit, f"a copy moves {speed:.3g} GB/s")
