"""Transfer and throughput: kinds of runs beside plain training."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch._dynamo import config as dynamo
from torch._dynamo.exc import FailOnRecompileLimitHit

from experiments import configs
from experiments.tasks.recipe import Clip, Data, Recipe
from experiments.tasks.throughput import Throughput
from experiments.tasks.transfer import KEPT, Transfer, fix_norms
from nfnets_lite.models import create_model, model_spec

CPU = torch.device("cpu")
SMALL = model_spec(
    "cifar_resnet8", method="nf", in_channels=1, width=(8, 8, 16), stem_width=8, alpha=1.0, skip_gain=1.0
)
SOURCE = Data("digits", train=600, validation=60, classes=8)
FEW = Data("digits", train=60, validation=60, test=200)


def transfer(source: Data | None = SOURCE, **changes: object) -> Transfer:
    first, second = Recipe(50, 6, 0.2, clip=Clip()), Recipe(20, 8, 0.1, clip=Clip())
    return replace(Transfer("nf_agc", SMALL, source, first, FEW, second), **changes)  # type: ignore[arg-type]


def test_pretraining_helps_where_images_are_few() -> None:
    scratch, tuned = transfer(None).execute(CPU), transfer().execute(CPU)
    assert scratch.status == tuned.status == "ok"
    assert tuned.metrics["source_accuracy"] > 0.8  # of eight classes
    assert tuned.metrics["accuracy"] > scratch.metrics["accuracy"] + 0.05
    assert "source_accuracy" not in scratch.metrics


def test_the_same_seed_repeats_and_a_frozen_network_is_another() -> None:
    run = transfer(source_recipe=Recipe(50, 1, 0.1, clip=Clip()))
    assert run.execute(CPU) == run.execute(CPU)
    frozen = replace(run, frozen=True).execute(CPU)
    assert frozen.status == "ok"
    assert frozen.metrics["source_accuracy"] == run.execute(CPU).metrics["source_accuracy"]
    assert frozen.curve != run.execute(CPU).curve


def test_a_pretraining_that_diverges_is_said() -> None:
    outcome = transfer(source_recipe=Recipe(50, 1, 1e5)).execute(CPU)
    assert outcome.status == "diverged"
    assert outcome.reason.startswith("pre-training: loss")


def test_fixed_norms_do_not_follow_a_batch_and_are_not_trained() -> None:
    model = create_model("cifar_resnet8", method="bn", in_channels=1, width=(4, 4, 8), stem_width=4)
    images = torch.randn(16, 1, 8, 8)
    model.train()(3 + images)
    expected = model.eval()(images)
    fix_norms(model)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    assert torch.allclose(model.train()(images), expected, atol=1e-5)
    assert not any("norm" in name for name, _ in model.named_parameters())


def test_fixed_norms_bear_two_images_an_update_and_a_kept_pretraining_changes_nothing() -> None:
    batch_norm = transfer(
        model=replace(SMALL, norm="batch", conv="plain", residual="plain", activation_gain=False),
        source_recipe=Recipe(50, 6, 0.2), recipe=Recipe(2, 2, 0.01), fixed_norms=True,
    )  # fmt: skip
    KEPT.clear()
    first = batch_norm.execute(CPU)
    assert len(KEPT) == 1
    assert batch_norm.execute(CPU) == first
    live = replace(batch_norm, fixed_norms=False).execute(CPU)
    assert len(KEPT) == 1  # the same pre-training
    assert live.metrics["source_accuracy"] == first.metrics["source_accuracy"] > 0.8
    KEPT.clear()
    assert replace(batch_norm, fixed_norms=False).execute(CPU) == live
    assert first.metrics["accuracy"] > live.metrics["accuracy"]
    replace(batch_norm, seed=1).execute(CPU)
    assert len(KEPT) == 2


def test_norms_that_saw_no_image_are_not_fixed() -> None:
    with pytest.raises(ValueError, match="fixed_norms=True with source=None"):
        transfer(None, fixed_norms=True)


def test_nothing_to_freeze_is_refused() -> None:
    with pytest.raises(ValueError, match="frozen=True with source=None"):
        transfer(None, frozen=True)


def test_the_searched_rate_is_that_of_the_fine_tuning() -> None:
    run = transfer().at_rate(0.7)
    assert (run.recipe.lr, run.source_recipe.lr) == (0.7, 0.2)
    assert run.effort("cpu") > transfer(None).effort("cpu")


def test_a_network_beside_itself_takes_as_long() -> None:
    run = Throughput("bn", SMALL, SMALL, 32, 8, rounds=30)
    metrics = run.execute(CPU).metrics
    assert metrics["ratio"] == pytest.approx(1, abs=0.25)  # the machine may be busy
    assert metrics["images_per_s"] == pytest.approx(32 / (metrics["step_ms"] / 1000))


def test_twice_the_work_takes_longer() -> None:
    wide = replace(SMALL, width=(32, 32, 64), stem_width=32)
    assert Throughput("wide", wide, SMALL, 32, 8, Clip(), rounds=5).execute(CPU).metrics["ratio"] > 1.3


def test_a_rate_for_what_has_none_is_refused() -> None:
    cell = configs.sweep("throughput", "smoke").cells[0]
    with pytest.raises(TypeError, match="a Throughput run has no learning rate"):
        cell.at_rate(0.1)


class Graphs:
    """In place of a compiler: counts the graphs that it is given and how often they are run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.given = self.run = 0
        real = torch.compile
        monkeypatch.setattr(torch, "compile", lambda model: real(model, backend=self))

    def __call__(self, graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Callable[..., object]:
        self.given += 1

        def run(*args: object) -> object:
            self.run += 1
            return graph.forward(*args)

        return run


def compiled_cells() -> list[Throughput]:
    """Those of the GPU profile, on networks so small that a CPU is done with them."""
    cells = [
        cell for cell in configs.sweep("throughput", "gpu").cells if isinstance(cell, Throughput) and cell.compiled
    ]
    shrunk = []
    for i, cell in enumerate(cells):
        method = cell.method.removesuffix("_agc")
        model = SMALL.with_method(method) if method in ("bn", "gn", "nf") else replace(SMALL, width=(8, 8, 8 * i))
        shrunk.append(replace(cell, model=model, reference=SMALL.with_method("bn"), batch_size=4, side=8, rounds=1))
    return shrunk


@pytest.mark.slow
def test_every_compiled_cell_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    cells, graphs = compiled_cells(), Graphs(monkeypatch)
    assert len({cell.model for cell in cells}) > dynamo.recompile_limit
    for cell in cells:
        graphs.given = graphs.run = 0
        cell.execute(CPU)
        assert graphs.given == len({cell.model, cell.reference}), cell.method
        assert graphs.run == 3 * (2 * cell.rounds + 2) + 1, cell.method


def test_a_network_that_would_not_be_compiled_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    Graphs(monkeypatch)
    run = Throughput("nf", SMALL, SMALL.with_method("bn"), 4, 8, compiled=True, rounds=1)
    with dynamo.patch(recompile_limit=1), pytest.raises(FailOnRecompileLimitHit):
        run.execute(CPU)
    assert not dynamo.fail_on_recompile_limit_hit


def test_a_throughput_run_is_as_long_as_its_steps() -> None:
    run = Throughput("bn", SMALL, SMALL, 128, 32)
    times = {device: run.effort(device) for device in ("cpu", "cuda")}
    assert times["cpu"] > times["cuda"]
    assert replace(run, batch_size=1280).effort("cpu") > 5 * times["cpu"]
    assert replace(run, training=False).effort("cpu") < times["cpu"]
    assert replace(run, compiled=True).effort("cuda") > times["cuda"] + 30


@pytest.mark.gpu
def test_throughput_on_a_gpu_counts_memory() -> None:
    metrics = Throughput("bn", SMALL, SMALL, 32, 8, autocast=True, rounds=3).execute(torch.device("cuda")).metrics
    assert metrics["peak_memory_mb"] > 0
