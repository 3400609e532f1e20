"""Results made up for tests of what the chapters show of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

from experiments.records import Record
from experiments.study import Result
from experiments.sweep import Run

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
) -> Result:
    """A run of ten classes; one whose accuracy is None diverged."""
    status = "diverged" if accuracy is None else "ok"
    config |= {
        "model": {"num_classes": 10, "depth": [1, 1, 1]} | dict(model or {}),
        "recipe": {"batch_size": 32, "lr": 0.1} | dict(recipe or {}),
    }
    measured = {**({} if accuracy is None else {"accuracy": accuracy}), **(metrics or {})}
    origin = {"device": "a device", "commit": "0123456789", "dirty": False}
    kept = {name: list(values) for name, values in (curve or {}).items()}
    record = Record("sweep", "smoke", method, key or method, seed, status, "", config, measured, kept, origin, 1)
    # A stand-in with the fields that the config names: a kind of run that has them all would need more.
    fields = {"method": method, "seed": seed, "NUMERICS": record.numerics, **config}
    stand_in = json.loads(json.dumps(fields), object_hook=_as_fields)
    return Result.of(cast(Run, stand_in), record)


def _as_fields(found: dict[str, Any]) -> SimpleNamespace:
    return SimpleNamespace(**found)
