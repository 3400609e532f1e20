"""What a group of measurements hands over: for each ratio a value with its two sides, or why there is none."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from experiments.bench.report import Side, Spread
from experiments.bench.timing import Seconds, Work, ms, ratio


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


def copying(size: int, device: torch.device) -> Work:
    """A copy of so many bytes, whose time says how fast memory is."""
    source = torch.empty(size // 4, device=device).normal_()
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def beside_limit(times: Seconds, must: int, copied: int, ours: Side) -> Measured:
    """Over the time that a copy of the same run would take to move the bytes; it reads and writes each of its own."""
    moved = must / (2 * copied)
    limit = Side("bytes limit", moved * ms(times["copy"]), bytes=must)
    speed = 2 * copied / (ms(times["copy"]) / 1000) / 1e9
    return Measured(ratio(times["ours"], times["copy"], 1 / moved), ours, limit, f"a copy moves {speed:.3g} GB/s")
