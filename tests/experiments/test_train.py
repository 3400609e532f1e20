from dataclasses import replace

import pytest
import torch

from experiments import configs
from experiments.sweep import Outcome
from experiments.tasks.recipe import Clip, Data, Recipe
from experiments.tasks.training import Training, evaluate
from nfnets_lite.models import model_spec

CPU = torch.device("cpu")
DIGITS = Data("digits", train=1077, validation=360)


def run(method: str = "nf", lr: float = 0.05, batch_size: int = 64, epochs: float = 2, **recipe: object) -> Training:
    model = model_spec("cifar_resnet8", method=method, alpha=1.0, skip_gain=1.0, in_channels=1)
    return Training(method, model, DIGITS, Recipe(batch_size, epochs, lr, **recipe), split="validation")  # type: ignore[arg-type]


def train(run: Training, device: torch.device) -> Outcome:
    return run.execute(device)


@pytest.mark.parametrize("method", ["bn", "nf"])
def test_it_learns_digits(method: str) -> None:
    outcome = train(run(method), CPU)
    assert outcome.status == "ok"
    assert outcome.metrics["accuracy"] > 0.7  # chance is 0.1
    assert outcome.metrics["updates"] == round(2 * 1077 / 64)
    losses = outcome.curve["loss"]
    assert losses[-1] < 0.7 * losses[0]


def test_equal_to_the_last_bit_given_the_seed_and_untouched_global_generator() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second = train(run(epochs=0.5), CPU), train(run(epochs=0.5), CPU)
    assert torch.equal(torch.rand(1), expected)
    assert first == second
    assert train(replace(run(epochs=0.5), seed=1), CPU) != first


def test_threads_do_not_change_a_run() -> None:
    before = torch.get_num_threads()
    alone = train(run(epochs=0.3), CPU)
    torch.set_num_threads(2)
    try:
        assert train(run(epochs=0.3), CPU) == alone
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_divergence_is_an_outcome_with_its_update() -> None:
    outcome = train(run(lr=50.0), CPU)
    assert outcome.status == "diverged"
    assert 1 <= outcome.metrics["diverged_at"] <= 34
    assert "at update" in outcome.reason
    assert None in outcome.curve["loss"]


def test_clipping_survives_the_rate_that_unclipped_training_does_not() -> None:
    assert train(run(lr=0.8, epochs=3), CPU).status == "diverged"
    clipped = train(run(lr=0.8, epochs=3, clip=Clip()), CPU)
    assert clipped.status == "ok"
    assert clipped.metrics["accuracy"] > 0.7
    assert 0 < clipped.metrics["clipped_fraction"] < 1


def test_every_batch_size_sees_the_same_number_of_images() -> None:
    for cell in configs.sweep("batch_size", "smoke").cells:
        updates = round(cell.recipe.epochs * 1077 / cell.recipe.batch_size)
        assert abs(updates * cell.recipe.batch_size - cell.recipe.epochs * 1077) <= cell.recipe.batch_size / 2


def test_evaluation_in_chunks_is_evaluation_at_once() -> None:
    from experiments.tasks.data import load
    from nfnets_lite import create_model

    model = create_model("cifar_resnet8", method="bn", in_channels=1)
    test = load(DIGITS, CPU)["test"]
    whole, parts = evaluate(model, test), evaluate(model, test, chunk=100)
    assert whole["accuracy"] == parts["accuracy"]
    assert whole["loss"] == pytest.approx(parts["loss"], rel=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("autocast", [False, True])
def test_gpu_reaches_what_the_cpu_reaches(autocast: bool) -> None:
    outcome = train(run("bn", autocast=autocast), torch.device("cuda"))
    assert outcome.status == "ok"
    assert abs(outcome.metrics["accuracy"] - train(run("bn"), CPU).metrics["accuracy"]) < 0.1
