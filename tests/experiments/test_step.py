"""Options of the one training step, each on and off; and the engine's backends that take runs in turn."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import pytest
import torch

from experiments.engine import Where, run_sweep
from experiments.sweep import Outcome, Sweep, drain
from experiments.tasks import capture
from experiments.tasks.recipe import Augment, Clip, Data, Recipe, Sam
from experiments.tasks.step import How, on_stream
from experiments.tasks.training import Training, train
from nfnets_lite.models import model_spec

CPU = torch.device("cpu")
DIGITS = Data("digits", train=256, validation=64, test=64)
SMALL = model_spec("cifar_resnet8", method="nf", in_channels=1, width=(4, 4, 8), stem_width=4, alpha=1.0, skip_gain=1.0)


def run(method: str = "nf", epochs: float = 0, updates: int = 12, seed: int = 0, **recipe: object) -> Training:
    model = SMALL if method == "nf" else SMALL.with_method(method)
    return Training(method, model, DIGITS, Recipe(16, epochs, 0.05, updates=updates, **recipe), seed=seed)  # type: ignore[arg-type]


def losses(outcome: Outcome) -> list[float]:
    assert outcome.status == "ok", outcome.reason
    return outcome.curve["loss"]


def through(run: Training, device: torch.device = CPU, how: How | None = None) -> Outcome:
    return drain(on_stream(train(run, device, how), device))  # a GPU's default stream refuses to be captured


def test_updates_take_the_place_of_epochs() -> None:
    assert through(run(updates=5)).metrics["updates"] == 5
    assert through(run(updates=None, epochs=0.5)).metrics["updates"] == 8  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["bn", "nf"])
def test_channels_last_changes_rounding_only(method: str) -> None:
    plain, last = through(run(method)), through(run(method), how=How(channels_last=True))
    assert losses(last) == pytest.approx(losses(plain), rel=1e-3)


def test_bfloat16_follows_float32() -> None:
    assert losses(through(run(autocast=True))) == pytest.approx(losses(through(run())), rel=0.05)


class Captured:
    """A stand-in for a CUDA graph: it replays the step by running it, times a fault."""

    def __init__(self, step: Callable[[], None], fault: str = "") -> None:
        if fault == "raises":
            raise RuntimeError("operation not permitted when stream is capturing")
        self.replay = (lambda: None) if fault == "does nothing" else step


@pytest.mark.parametrize("fault", ["", "raises", "does nothing"])
def test_a_step_that_cannot_be_captured_is_run_eagerly(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "capture", partial(Captured, fault=fault))
    monkeypatch.setattr(capture, "_refused", [])
    said = pytest.warns(UserWarning, match="run eagerly: .*(capturing|100 %)") if fault else nullcontext()
    with said:
        first = through(run(), how=How(graph=True))
    assert losses(first) == losses(through(run(), how=How()))
    assert first.executed == ("eager" if fault else "graph")
    # The process remembers: the next run does not try again, and so does not warn.
    assert through(run(seed=1), how=How(graph=True)).executed == first.executed
    assert bool(capture.refused()) == bool(fault)


OPTIONS = {
    "clip": {"clip": Clip()},
    "layer": {"clip": Clip(rule="layer")},
    "global": {"clip": Clip(rule="global", factor=0.1)},
    "adam": {"optimizer": "adam"},
    "rmsprop": {"optimizer": "rmsprop"},
    "lion": {"optimizer": "lion"},
    "lars": {"optimizer": "lars"},
    "smoothing": {"label_smoothing": 0.1},
    "decayed gains": {"decay_gains": True, "weight_decay": 0.1},
    "crops": {"augment": Augment(crop_flip=True)},
    "mixed": {"augment": Augment(mixup=0.2, cutmix=1.0)},
    "sam": {"sam": Sam()},
    "sam on a part": {"sam": Sam(share=0.25)},
    "sam on another batch": {"sam": Sam(other_batch=True)},
    "ema": {"ema": 0.9},
    "vcl": {"vcl": 0.1},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_changes_the_run_and_the_same_seed_repeats_it(option: str) -> None:
    changed, again, plain = (through(r) for r in (run(**OPTIONS[option]), run(**OPTIONS[option]), run()))
    assert changed == again
    assert changed.status == "ok"
    assert (changed.metrics, changed.curve) != (plain.metrics, plain.curve)
    if "clip" in OPTIONS[option]:
        assert 0 < changed.metrics["clipped_fraction"] <= 1


def test_sam_on_the_whole_batch_and_a_part_of_it_differ() -> None:
    outcomes = [through(run(sam=sam)).curve["loss"] for sam in (Sam(), Sam(share=0.25), Sam(other_batch=True))]
    assert outcomes[0] != outcomes[1]
    assert outcomes[0] != outcomes[2]
    assert outcomes[1] != outcomes[2]


def test_the_average_is_judged_and_the_losses_are_the_models() -> None:
    plain, averaged = through(run()), through(run(ema=0.9))
    assert averaged.curve == plain.curve
    assert averaged.metrics["loss"] != plain.metrics["loss"]


@pytest.mark.parametrize("drop", ["dropout", "stochastic_depth"])
def test_what_draws_within_a_step_is_not_paused_and_repeats(drop: str) -> None:
    dropping = replace(run(), model=replace(SMALL, **{drop: 0.5}))
    torch.manual_seed(1)
    first = through(dropping)
    torch.manual_seed(2)
    steps = train(dropping, CPU)
    with pytest.raises(StopIteration) as end:
        next(steps)
    assert end.value.value == first


def sweep(rates: tuple[float, ...] = (0.02, 1e4)) -> Sweep:
    return Sweep("turns", (run("bn"), run("nf"), run("nf", clip=Clip())), rates, seeds=(0, 1))


def test_runs_that_take_turns_end_as_runs_alone(tmp_path) -> None:
    found = {}
    for streams in (1, 3):
        where = Where("smoke", tmp_path / str(streams), CPU, 1, streams=streams)
        ledger = run_sweep(sweep(), where, lambda _: None)
        found[streams] = {(r.key, r.seed): (r.status, r.metrics, r.curve) for r in ledger.records}
    assert len(found[1]) == 12
    assert found[1] == found[3]
    assert {status for status, *_ in found[1].values()} == {"ok", "diverged"}


def test_a_run_that_fails_leaves_those_beside_it_alone(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Training.steps

    def steps(self: Training, device: torch.device):
        if self.method == "bn":
            yield
            raise RuntimeError("out of memory, or so")
        return (yield from real(self, device))

    monkeypatch.setattr(Training, "steps", steps)
    ledger = run_sweep(sweep(()), Where("smoke", tmp_path, CPU, 1, streams=4), lambda _: None)
    assert {(r.method, r.status) for r in ledger.records} == {("bn", "failed"), ("nf", "ok")}


def test_a_sweep_without_rates_runs_its_cells_as_they_are(tmp_path) -> None:
    ledger = run_sweep(sweep(()), Where("smoke", tmp_path, CPU, 1), lambda _: None)
    assert len(ledger.records) == 6
    assert {r.config["recipe"]["lr"] for r in ledger.records} == {0.05}


@pytest.mark.gpu
@pytest.mark.parametrize("option", ["clip", "adam", "rmsprop", "lion", "lars", "crops", "mixed", "sam", "ema"])
@pytest.mark.parametrize("autocast", [False, True])
def test_a_captured_step_trains_as_an_eager_one(
    option: str, *, autocast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Sums in an order that changes turn the signs that Lion steps by, and Adam's at first.
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    cuda = torch.device("cuda")
    asked = run(updates=40, autocast=autocast, **OPTIONS[option])
    eager, captured = (through(asked, cuda, How(graph=graph, channels_last=True)) for graph in (False, True))
    assert losses(captured) == pytest.approx(losses(eager), rel=2e-2 if autocast else 1e-3)


@pytest.mark.gpu
def test_runs_on_streams_of_their_own_end_as_runs_alone(tmp_path) -> None:
    found = []
    for streams in (1, 4):
        where = Where("smoke", tmp_path / str(streams), torch.device("cuda"), 1, streams=streams)
        ledger = run_sweep(sweep((0.02,)), where, lambda _: None)
        found.append({(r.key, r.seed): r.curve["loss"] for r in ledger.records})
    assert found[0].keys() == found[1].keys()
    for key in found[0]:
        assert found[1][key] == pytest.approx(found[0][key], rel=1e-3)
