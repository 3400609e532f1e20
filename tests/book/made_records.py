"""Records made up for tests of what the chapters show of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.records import Record

Curve = Mapping[str, Sequence[float | None]]


def run(
    method: str = "nf",
    seed: int = 0,
    accuracy: float | None = 0.5,
    *,
    key: str = "",
    recipe: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    curve: Curve | None = None,
    **config: Any,
) -> Record:
    """A run of ten classes; one whose accuracy is None diverged."""
    status = "diverged" if accuracy is None else "ok"
    config |= {"model": {"num_classes": 10, **(model or {})}, "recipe": {"batch_size": 32, "lr": 0.1, **(recipe or {})}}
    measured = {**({} if accuracy is None else {"accuracy": accuracy}), **(metrics or {})}
    origin = {"device": "a device", "commit": "0123456789", "dirty": False}
    kept = {name: list(values) for name, values in (curve or {}).items()}
    return Record("sweep", "smoke", method, key or method, seed, status, "", config, measured, kept, origin, 1)
