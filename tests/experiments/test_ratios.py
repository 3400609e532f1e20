"""The ratios that clipping looks at: against plain arithmetic, and in a training that must not notice being watched."""

import numpy as np
import pytest
import torch
from torch import nn

from experiments.tasks.ratios import KINDS, LEVELS, Ratios, Watch
from experiments.tasks.recipe import Clip, Data, Recipe
from experiments.tasks.training import Training
from nfnets_lite.models import create_model, model_spec

CPU = torch.device("cpu")
DIGITS = Data("digits", train=256, validation=64, test=64)
SPEC = model_spec("cifar_resnet8", method="nf", in_channels=1, width=(4, 4, 8), stem_width=4, alpha=1.0, skip_gain=1.0)


def run(kind: type[Training] = Ratios, lr: float = 0.1, updates: int = 24, **recipe: object) -> Training:
    return kind("nf", SPEC, DIGITS, Recipe(16, 0, lr, updates=updates, **recipe))  # type: ignore[arg-type]


def test_a_ratio_is_gradient_over_weight_of_a_unit() -> None:
    torch.manual_seed(0)
    model = create_model(SPEC)
    with torch.no_grad():
        model.blocks[0].skip_gain.zero_()  # its norm is below the floor of 0.001
    nn.functional.cross_entropy(model(torch.randn(5, 1, 8, 8)), torch.arange(5)).backward()
    expected: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for name, p in model.named_parameters():
        assert p.grad is not None
        vector = name.endswith(("bias", "gain"))
        kind = "vectors" if vector else "classifier" if name == "classifier.weight" else "weights"
        weight, grad = (x.detach().double().numpy().reshape(1 if vector else len(p), -1) for x in (p, p.grad))
        expected[kind] += list(np.linalg.norm(grad, axis=1) / np.maximum(np.linalg.norm(weight, axis=1), 1e-3))
    found = Watch(model)()
    assert list(found) == list(KINDS)
    for kind, values in expected.items():
        assert len(values) == len(found[kind]) > 0
        np.testing.assert_allclose(found[kind].numpy(), values, rtol=1e-5)


@pytest.mark.parametrize("clip", [None, Clip()], ids=["unclipped", "clipped"])
def test_a_watched_training_is_the_same_training(clip: Clip | None) -> None:
    watched, plain = run(clip=clip).execute(CPU), run(Training, clip=clip).execute(CPU)
    assert watched.status == plain.status == "ok"
    for name in ("accuracy", "loss", "updates", *(["clipped_fraction"] if clip else [])):
        assert watched.metrics[name] == plain.metrics[name]
    assert watched == run(clip=clip).execute(CPU)


def test_the_share_above_the_factor_is_the_clipped_fraction() -> None:
    found = run(clip=Clip(factor=0.04)).execute(CPU).metrics
    assert 0.05 < found["above_0.04"] < 0.95
    assert found["above_0.04"] == pytest.approx(found["clipped_fraction"], rel=1e-5)
    assert found["above_0.01"] > found["above_0.04"] > found["above_0.16"]


def test_quantiles_are_in_order_and_at_the_same_updates() -> None:
    curve = run(updates=50).execute(CPU).curve
    assert curve["at"][0] == 1
    assert curve["at"][-1] == 50
    for kind in KINDS:
        columns = [curve[f"{kind}_{level:g}"] for level in LEVELS]
        assert {len(column) for column in columns} == {len(curve["at"])} == {40}
        assert all(list(row) == sorted(row) and row[0] > 0 for row in zip(*columns))


def test_divergence_is_an_outcome_with_ratios_up_to_it() -> None:
    outcome = run(lr=20.0).execute(CPU)
    assert outcome.status == "diverged"
    at = int(outcome.metrics["diverged_at"])
    assert 1 < at <= 24
    medians = outcome.curve["weights_0.5"]
    assert medians[0] is not None
    assert medians[-1] is None
    assert 0 < outcome.metrics["above_0.01"] <= 1


def test_batch_norm_is_watched_too() -> None:
    model = create_model(SPEC.with_method("bn"))
    nn.functional.cross_entropy(model(torch.randn(5, 1, 8, 8)), torch.arange(5)).backward()
    assert all(len(ratios) for ratios in Watch(model)().values())
