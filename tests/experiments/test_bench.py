import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from experiments.bench import engine as bench

CPU = torch.device("cpu")


def test_the_engine_adds_less_than_fifty_milliseconds_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "TINY", 15)
    assert bench.overhead_ms(CPU).mean < 50


def test_both_ways_train_equally_well_and_the_record_says_how_fast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(seed: int) -> list[bench.Run]:
        found = [r for r in whole(seed) if r.recipe.batch_size == 128 and r.method == "bn"]
        return [replace(r, recipe=replace(r.recipe, epochs=4.0)) for r in found]

    whole = bench.runs
    for name, value in {"runs": short, "TINY": 3, "REPEATS": 2, "NOISE": 0.2, "OUT": tmp_path / "b" / "e.json"}.items():
        monkeypatch.setattr(bench, name, value)
    monkeypatch.setattr(bench, "default_workers", lambda device: 1)
    bench.main("cpu", Console(quiet=True))
    record = json.loads(bench.OUT.read_text())
    assert len(record["runs_per_minute"]["engine"]) == len(record["runs_per_minute"]["ordinary"]) == 2
    assert record["ratios"]["ordinary"]["count"] == record["ratios"]["ordinary, 1 thread"]["count"] == 2
    assert record["provenance"]["device"]


def test_speeds_of_ways_that_do_not_train_alike_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "runs", lambda seed, whole=bench.runs: whole(seed)[:1])
    monkeypatch.setattr(bench, "ordinary", lambda run, device: 0.1)
    monkeypatch.setattr(bench, "default_workers", lambda device: 1)
    monkeypatch.setattr(bench, "REPEATS", 1)
    with pytest.raises(RuntimeError, match="do not train equally well"):
        bench.side_by_side(CPU, lambda text: None)
