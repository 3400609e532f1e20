import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from experiments.bench import ordinary as bench
from experiments.bench import races
from experiments.engine import STREAMS, Where
from experiments.sweep import Sweep

CPU = torch.device("cpu")


def test_the_engine_adds_less_than_fifty_milliseconds_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "TINY", 15)
    assert bench.overhead_ms(CPU).mean < 50


def test_both_ways_train_equally_well_and_the_record_says_how_fast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_test = {"one": races.Slice("smoke", (128,), 0.2, 4.0, 0.5)}
    for name, value in {
        "TINY": 3,
        "REPEATS": 2,
        "NOISE": 0.2,
        "OUT": tmp_path / "b" / "e.json",
    }.items():
        monkeypatch.setattr(bench, name, value)
    monkeypatch.setattr(races, "METHODS", ("bn",))
    monkeypatch.setitem(bench.SLICES, "cpu", of_test | {"smoke sweep": of_test["one"]})
    monkeypatch.setattr(bench, "default_workers", lambda device: 1)
    bench.main("cpu", Console(quiet=True))
    record = json.loads(bench.OUT.with_name("e-cpu.json").read_text())
    found = record["slices"]["smoke sweep"]
    assert len(found["runs_per_minute"]["engine"]) == len(found["runs_per_minute"]["ordinary"]) == 2
    assert found["ratios"]["ordinary"]["count"] == found["ratios"]["ordinary, 1 thread"]["count"] == 2
    assert record["provenance"]["device"]


def test_speeds_of_ways_that_do_not_train_alike_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "ordinary", lambda run, device: 0.1)
    monkeypatch.setattr(bench, "default_workers", lambda device: 1)
    monkeypatch.setattr(bench, "REPEATS", 1)
    with pytest.raises(RuntimeError, match="do not train equally well"):
        bench.side_by_side(bench.Slice("smoke", (128,), 0.2, 2.0, 0.5), CPU, lambda text: None)


@pytest.mark.parametrize(("device", "streams"), [("cpu", 1), ("cuda", STREAMS)])
def test_the_engine_races_as_it_runs(device: str, streams: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Seen(Exception):
        pass

    def seen(sweep: Sweep, where: Where, count: int) -> None:
        raise Seen(where.streams)

    monkeypatch.setattr(bench, "backend_for", seen)
    with pytest.raises(Seen, match=str(streams)):
        bench.side_by_side(bench.Slice("smoke", (128,), 0.2, 2.0, 0.5), torch.device(device), lambda text: None)


def test_what_a_gpu_races_on_is_small_and_large_batches_without_augmentation() -> None:
    for race, size in zip(bench.SLICES["cuda"].values(), (32, 4096)):
        runs = race.runs(0)
        assert {run.recipe.batch_size for run in runs} == {size}
        assert [run.method for run in runs] == ["bn", "nf_agc"] * 2  # as many as take turns on the device
        assert all(run.recipe.autocast and not run.recipe.augment.crop_flip for run in runs)
        assert len({(run.method, run.seed) for run in runs}) == len(runs)
