"""Memory of a run on a GPU: estimated before it starts, and lowered streams where it was not enough."""

import warnings
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from experiments.engine import Where, memory, run_sweep
from experiments.records import Ledger
from experiments.sweep import Outcome, Sweep
from experiments.tasks import capture
from experiments.tasks.recipe import Data, Recipe
from experiments.tasks.training import Training
from nfnets_lite.models import create_model, model_spec

CUDA = torch.device("cuda")
MODEL = model_spec("cifar_resnet8", method="nf", in_channels=1, width=(8, 8, 16), stem_width=8, skip_gain=1.0)
RUN = Training("nf", MODEL, Data("digits", train=256, validation=64, test=64), Recipe(1000, 1, 0.05))


def of(**changes: object) -> float:
    return memory.memory(replace(RUN, recipe=replace(RUN.recipe, **changes)))  # type: ignore[arg-type]


def test_weights_count_with_the_optimizers_moments_and_the_average() -> None:
    weights = 4 * sum(p.numel() for p in create_model(MODEL).parameters())
    assert of(optimizer="adam") - of() == weights
    assert of(ema=0.9) - of() == weights


def test_activations_count_at_least_the_inputs_of_all_convolutions() -> None:
    model, kept = create_model(MODEL), []

    def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        kept.append(4 * inputs[0].numel())

    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_pre_hook(keep)
    model(torch.zeros(1000, 1, 8, 8))
    more = of(batch_size=2000) - of()
    assert 2 * sum(kept) <= more < 10 * sum(kept)


@pytest.mark.parametrize(("runs", "streams"), [(0.5, 1), (2.5, 2), (100, 4)])
def test_runs_side_by_side_are_as_many_as_fit(runs: float, streams: int, monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(RUN, recipe=replace(RUN.recipe, batch_size=16))
    monkeypatch.setattr(memory, "free_memory", lambda device: int(runs * of()))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert memory.streams_that_fit(Sweep("s", (small, RUN)), CUDA, 4) == streams
    assert [f"{streams} of 4 runs side by side on cuda" in str(one.message) for one in said] == [True] * (streams < 4)


def test_a_cpu_has_no_limit() -> None:
    assert memory.streams_that_fit(Sweep("s", (RUN,)), torch.device("cpu"), 3) == 3


class Device:
    """A stand-in for a device that holds so many runs at once."""

    def __init__(self, runs: int) -> None:
        self.runs, self.under_way, self.most, self.raised = runs, 0, 0, 0

    def steps(self, run: Training, device: torch.device) -> Generator[None, None, Outcome]:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            yield
            if self.under_way > self.runs:
                self.raised += 1
                raise torch.OutOfMemoryError("CUDA out of memory.")
            for _ in range(20):
                yield
        finally:
            self.under_way -= 1
        return Outcome("ok", "", {"accuracy": 0.5, "updates": 20})


def swept(device: Device, results: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    monkeypatch.setattr(Training, "steps", lambda run, on: device.steps(run, on))
    sweep = Sweep("s", (RUN,), seeds=tuple(range(8)))
    return run_sweep(sweep, Where("smoke", results, torch.device("cpu"), 1, streams=4), lambda _: None)


def test_out_of_memory_lowers_the_streams_and_repeats_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(runs=2)
    with pytest.warns(UserWarning, match="a 'nf' run was out of memory and is repeated") as said:
        ledger = swept(device, tmp_path, monkeypatch)
    assert [(r.seed, r.status) for r in sorted(ledger.records, key=lambda r: r.seed)] == [(i, "ok") for i in range(8)]
    # How many were under way at the first of them depends on how fast they were handed over.
    numbers = [int(str(one.message).rpartition("; ")[2].split()[0]) for one in said]
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[-1] == 2
    assert len(numbers) == device.raised <= 2
    assert device.most <= 4


def test_out_of_memory_alone_is_a_failed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(UserWarning, match="at once from now on"):
        ledger = swept(Device(runs=0), tmp_path, monkeypatch)
    assert {(r.status, r.reason) for r in ledger.records} == {("failed", "OutOfMemoryError: CUDA out of memory.")}


def test_a_capture_that_is_out_of_memory_is_tried_again_by_later_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(step: Callable[[], None]) -> capture.Replayed:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(capture, "capture", full)
    with pytest.warns(UserWarning, match="run eagerly: OutOfMemoryError"):
        assert capture.tried(lambda: None, [], 0) is None
    assert not capture.refused()
