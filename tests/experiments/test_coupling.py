from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn

from experiments import configs
from experiments.tasks.contrastive import Contrastive, probe, view
from experiments.tasks.data import Split, load
from experiments.tasks.leak_probe import Batches, LeakProbe, coupling
from experiments.tasks.recipe import Data, Recipe
from experiments.tasks.two_modes import TwoModes, blocks, in_training_mode
from nfnets_lite.models import ResNetSpec, create_model, model_spec

pytestmark = pytest.mark.usefixtures("seeded_zero")
CPU = torch.device("cpu")
BITS = Data("digits", classes=2)
DIGITS = Data("digits", train=1077, validation=360)


def network(method: str, **changes: object) -> ResNetSpec:
    shape = {"width": (8, 16), "depth": (1, 1), "strides": (1, 2), "stem_width": 8, "in_channels": 1}
    return replace(model_spec("cifar_resnet8", alpha=1.0, skip_gain=1.0).with_method(method), **{**shape, **changes})  # type: ignore[arg-type]


def leak(method: str, **changes: object) -> LeakProbe:
    return LeakProbe(
        method, network(method, num_classes=2, **changes), BITS, Recipe(16, 0.0, 0.02, updates=70), trials=60
    )


def test_the_derivative_of_one_norm_is_the_formula_s() -> None:
    x = torch.randn(6, 1, 1, 1, dtype=torch.float64)
    found = coupling(nn.BatchNorm2d(1, eps=1e-12).double(), x)
    std, mean = torch.std_mean(x, correction=0)
    hat = ((x - mean) / std).flatten()
    own = torch.zeros(6, dtype=torch.float64)
    own[0] = 1.0
    expected = 2 * hat[0] / std * (own - (1 + hat[0] * hat) / 6)
    assert torch.allclose(found, expected.abs())


def test_derivatives_reach_over_the_batch_over_its_part_or_nowhere() -> None:
    x = torch.randn(16, 1, 8, 8)
    reach = {m: coupling(create_model(network(m)), x) for m in ("bn", "gn", "ln", "in", "nf", "none")}
    reach["ghost_bn"] = coupling(create_model(network("ghost_bn", norm_options=(("size", 4),))), x)
    assert (reach["bn"] > 0).all()
    assert (reach["ghost_bn"][:4] > 0).all()
    assert (reach["ghost_bn"][4:] == 0).all()
    for method in ("gn", "ln", "in", "nf", "none"):
        assert reach[method][0] > 0
        assert (reach[method][1:] == 0).all(), method


def test_the_label_is_the_class_of_the_others_and_the_first_image_is_none_of_them() -> None:
    split = load(BITS, CPU)["train"]
    batches = list(Batches(split, 5, 30, torch.Generator().manual_seed(0)))
    assert {int(label) for _, label in batches} == {0, 1}
    for images, label in batches:
        same = (split.images[:, None] == images[None, 1:]).flatten(2).all(2)
        assert all(label in split.labels[same[:, i]] for i in range(4))
        assert not (split.images == images[:1]).flatten(1).all(1).any()


def test_batch_norm_solves_the_probe_and_group_norm_cannot() -> None:
    found = {method: leak(method).execute(CPU) for method in ("bn", "gn")}
    assert found["bn"].metrics["accuracy"] > 0.9
    assert 0.3 < found["bn"].metrics["eval_accuracy"] < 0.7
    assert found["bn"].metrics["coupling"] > 1e-3
    assert 0.3 < found["gn"].metrics["accuracy"] < 0.7
    assert found["gn"].metrics["coupling"] == 0
    assert found["gn"].metrics["eval_accuracy"] == found["gn"].metrics["accuracy"]
    assert leak("gn").execute(CPU) == found["gn"]


def contrast(method: str, layout: str = "pairs", **changes: object) -> Contrastive:
    recipe = Recipe(16, 0.0, 0.01, updates=10, optimizer="adam")
    return Contrastive(method, network(method, num_classes=8, **changes), DIGITS, recipe, layout)


@pytest.mark.parametrize("method", ["gn", "bn", "ghost_bn"])
def test_layouts_differ_only_in_who_is_normalised_together(method: str) -> None:
    changes = {"norm_options": (("size", 4),)} if method == "ghost_bn" else {}
    runs = [contrast(method, layout, **changes) for layout in ("pairs", "shuffled")]
    model, split = create_model(runs[0].model), load(DIGITS, CPU)["test"]
    likeness = [run._likeness(deepcopy(model), split, torch.Generator().manual_seed(0)) for run in runs]
    assert likeness[0].shape == (16, 16)
    assert torch.allclose(*likeness, atol=1e-5) == (method != "ghost_bn")


def test_a_contrastive_run_is_the_same_in_both_modes_without_batch_statistics() -> None:
    metrics = contrast("nf").execute(CPU).metrics
    assert metrics["train_accuracy"] == metrics["eval_accuracy"]
    assert metrics["probe_accuracy"] > 0.3  # chance is 0.1
    assert contrast("nf").execute(CPU).metrics == metrics
    batch = contrast("bn").execute(CPU).metrics
    assert batch["train_accuracy"] != batch["eval_accuracy"]


def test_views_without_jitter_are_moved_by_a_pixel_at_most() -> None:
    x = torch.zeros(50, 1, 8, 8)
    x[:, :, 4, 4] = 1.0
    moved = view(x, 0.0, torch.Generator().manual_seed(0))
    places = moved.flatten(1).argmax(1)
    assert (moved.sum((1, 2, 3)) == 1).all()
    assert {(int(p) // 8, int(p) % 8) for p in places} == {(i, j) for i in (3, 4, 5) for j in (3, 4, 5)}


def test_the_probe_is_ridge_regression_on_the_features() -> None:
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    splits = load(DIGITS, CPU)
    model = create_model(network("nf", num_classes=8)).eval()
    taken: list[torch.Tensor] = []
    hook = model.classifier.register_forward_pre_hook(lambda _, args: taken.append(args[0].detach()))
    for split in ("train", "test"):
        model(splits[split].images)
    hook.remove()
    scaler = StandardScaler().fit(taken[0].double())
    train, test = (scaler.transform(x.double()) for x in taken)
    fitted = Ridge(alpha=0.01 * len(train)).fit(train, nn.functional.one_hot(splits["train"].labels).double())
    expected = (fitted.predict(test).argmax(1) == splits["test"].labels.numpy()).mean()
    assert probe(model, splits["train"], splits["test"], 10) == pytest.approx(expected, abs=0.006)


def test_blocked_batches_hold_few_classes_and_no_image_twice() -> None:
    labels = torch.arange(10).repeat(20)
    batches = list(blocks(labels, 16, 2, torch.Generator().manual_seed(0)))
    assert len(batches) == 5 * (40 // 16)
    assert all(len(labels[rows].unique()) == 2 for rows in batches)
    rows = torch.cat(batches)
    assert len(rows.unique()) == len(rows)
    with pytest.raises(ValueError, match="size=64: no group of 2 classes has that many images"):
        list(blocks(labels, 64, 2, torch.Generator()))


def two_modes(method: str, classes: int = 0, **changes: object) -> TwoModes:
    recipe = Recipe(32, 2.0, 0.2)
    return TwoModes(method, network(method, **changes), DIGITS, recipe, classes=classes, split="validation")


@pytest.mark.parametrize("classes", [0, 2])
def test_both_modes_agree_without_batch_statistics_only(classes: int) -> None:
    alone, coupled = two_modes("gn", classes).execute(CPU).metrics, two_modes("bn", classes).execute(CPU).metrics
    assert alone["batch_accuracy"] == pytest.approx(alone["accuracy"], abs=1e-6)
    assert coupled["batch_accuracy"] != coupled["accuracy"]
    assert classes or alone["accuracy"] > 0.3  # it trains; chance is 0.1


def test_judging_in_training_mode_is_training_mode_and_leaves_the_model() -> None:
    model = create_model(network("bn"))
    before = deepcopy(model.state_dict())
    x, labels = torch.randn(12, 1, 8, 8), torch.randint(10, (12,))
    rows = torch.tensor([[0, 1, 2, 3], [8, 9, 10, 11]])
    found = in_training_mode(model, Split(x, labels, torch.zeros(1), torch.ones(1)), rows)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    right = [(model.train()(x[r]).argmax(1) == labels[r]).float().mean() for r in rows]
    assert found == pytest.approx(float(sum(right)) / 2)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"layout='rows' is not known; use one of pairs, shuffled"):
        contrast("bn", "rows")
    with pytest.raises(ValueError, match="must both be 2"):
        replace(leak("bn"), data=DIGITS)
    with pytest.raises(ValueError, match="classes=11 must be from 0"):
        two_modes("bn", 11)


def test_configs_compare_what_they_promise() -> None:
    for profile in ("smoke", "small"):
        cells = {cell.method: cell for cell in configs.sweep("contrastive", profile).cells}
        assert cells["bn"].model == cells["bn_shuffled"].model  # type: ignore[attr-defined]
        assert len({cell.recipe for cell in cells.values()}) == 1  # type: ignore[attr-defined]
        gaps = [cell for cell in configs.sweep("two_modes", profile).cells if cell.classes == 0]  # type: ignore[attr-defined]
        assert len({cell.recipe.batch_size for cell in gaps}) == 1  # type: ignore[attr-defined]
