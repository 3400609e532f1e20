"""One demonstration of the atlas as a run: its numbers are the metrics of its record."""

from collections.abc import Generator
from dataclasses import dataclass
from math import isfinite
from typing import ClassVar

import torch

from experiments.demos.atlas import ENTRIES, demonstration
from experiments.demos.atlas.shared import Scale
from experiments.sweep import Outcome, Run


@dataclass(frozen=True)
class Atlas(Run):
    """A demonstration of `experiments.demos.atlas`, by name, at a size. Its numbers are the metrics."""

    NUMERICS: ClassVar[int] = 2  # points stay in the ball; pruned NF weights are 0 when they multiply

    entry: str
    scale: Scale

    def __post_init__(self) -> None:
        if self.entry not in ENTRIES:
            raise ValueError(f"entry={self.entry!r} is not known; use one of {', '.join(ENTRIES)}")

    @property
    def datasets(self) -> tuple[str, ...]:
        return (self.scale.data.name,)

    def effort(self, device: str) -> float:
        return 0.03 * self.scale.updates

    def steps(self, device: torch.device) -> Generator[None, None, Outcome]:
        yield from ()  # never paused: it is short, and draws from torch's global generator
        try:
            metrics = demonstration(self.entry)(self.seed, self.scale, device)
        except FloatingPointError as error:
            return Outcome("diverged", str(error), {})
        bad = [name for name, value in metrics.items() if not isfinite(value)]
        if bad:
            return Outcome("diverged", f"not finite: {', '.join(bad)}", metrics)
        return Outcome("ok", "", metrics)
