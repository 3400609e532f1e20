"""Clipping rules and optimizers of the experiments, beside independent formulas in NumPy's float64."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from experiments.tasks.clipping import clipping
from experiments.tasks.optimizers import optimizer, set_rate
from experiments.tasks.recipe import LAYERS, Clip, Recipe
from nfnets_lite.models import create_model

CPU = torch.device("cpu")
FACTOR, EPS = 0.03, 1e-3
Arrays = dict[str, np.ndarray]


def made(method: str = "nf", loss_scale: float = 3.0) -> nn.Module:
    """Three blocks with gradients, of which some units are above the bound and some below."""
    torch.manual_seed(0)
    model = create_model(
        "cifar_resnet8", method=method, width=(4, 4, 8), stem_width=4, in_channels=1, alpha=1.0, skip_gain=1.0
    )
    with torch.no_grad():
        model.blocks[1].skip_gain.zero_()  # a parameter below the floor
    loss = nn.functional.cross_entropy(model(torch.randn(6, 1, 8, 8)), torch.arange(6)) * loss_scale
    loss.backward()
    return model


def arrays(model: nn.Module, of: Callable[[Tensor], Tensor]) -> Arrays:
    return {name: of(p).detach().double().numpy().copy() for name, p in model.named_parameters()}


def grads_of(model: nn.Module) -> Arrays:
    return arrays(model, lambda p: p.grad)  # type: ignore[arg-type,return-value]


def is_vector(name: str) -> bool:
    return name.endswith(("bias", "gain"))


def units(name: str, array: np.ndarray, rule: str) -> np.ndarray:
    """One row a unit: an output channel of a weight; all of a vector or a scalar; by layer, all of anything."""
    return array.reshape(1, -1) if rule == "layer" or is_vector(name) else array.reshape(len(array), -1)


def clipped_by_formula(weights: Arrays, grads: Arrays, rule: str, factor: float) -> tuple[Arrays, float]:
    if rule == "global":
        norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
        return {name: g * min(1.0, factor / norm) for name, g in grads.items()}, float(norm > factor)
    out, above, count = {}, 0, 0
    for name, grad in grads.items():
        rows = units(name, grad, rule).copy()
        for row, weight in zip(rows, units(name, weights[name], rule)):
            bound = factor * max(np.linalg.norm(weight), EPS)
            above, count = above + (np.linalg.norm(row) > bound), count + 1
            row *= min(1.0, bound / max(np.linalg.norm(row), 1e-300))
        out[name] = rows.reshape(grad.shape)
    return out, above / count


@pytest.mark.parametrize("rule", ["agc", "layer", "global"])
def test_a_rule_is_its_formula(rule: str) -> None:
    model = made()
    weights, before = arrays(model, lambda p: p), grads_of(model)
    covered = {name: g for name, g in before.items() if name != "classifier.weight"}
    expected, fraction = clipped_by_formula(weights, covered, rule, FACTOR)
    found = float(clipping(model, Clip(rule=rule, factor=FACTOR, eps=EPS))())
    assert found == pytest.approx(fraction)
    assert found == 1 if rule == "global" else 0.1 < found < 0.9
    after = grads_of(model)
    for name in covered:
        np.testing.assert_allclose(after[name], expected[name], rtol=1e-5, atol=1e-9, err_msg=name)
    np.testing.assert_array_equal(after["classifier.weight"], before["classifier.weight"])


def test_a_global_norm_within_its_bound_is_left_alone() -> None:
    model = made()
    before = grads_of(model)
    assert float(clipping(model, Clip(rule="global", factor=1e6, layers="all"))()) == 0
    for name, grad in grads_of(model).items():
        np.testing.assert_array_equal(grad, before[name])


@pytest.mark.parametrize("rule", ["agc", "layer", "global"])
def test_a_norm_that_overflows_stays_visible(rule: str) -> None:
    model = made()
    for p in model.parameters():
        p.grad = torch.full_like(p, 2e22)
    assert float(clipping(model, Clip(rule=rule, factor=FACTOR))()) == 1
    after = grads_of(model)
    assert not any((grad == 0).any() for grad in after.values())


def test_a_global_norm_is_over_what_is_covered() -> None:
    model = made()
    clipping(model, Clip(rule="global", factor=FACTOR, layers="all"))()
    assert np.sqrt(sum((g**2).sum() for g in grads_of(model).values())) == pytest.approx(FACTOR, rel=1e-4)


def expected_cover(layers: str, name: str) -> bool:
    in_first_half = name.startswith(("stem.", "blocks.0.", "blocks.1."))  # of three blocks
    if name == "classifier.weight":
        return layers == "all"
    return {
        "body": True,
        "all": True,
        "weights": not is_vector(name),
        "no_stem": not name.startswith("stem."),
        "early": in_first_half,
        "late": not in_first_half,
    }[layers]


@pytest.mark.parametrize("rule", ["agc", "layer", "global"])
@pytest.mark.parametrize("layers", LAYERS)
def test_layers_are_those_and_no_others(layers: str, rule: str) -> None:
    model = made()
    before = grads_of(model)
    clipping(model, Clip(rule=rule, factor=1e-6, layers=layers))()  # low enough for every unit that is covered
    changed = {name for name, grad in grads_of(model).items() if not np.array_equal(grad, before[name])}
    assert changed == {name for name, g in before.items() if expected_cover(layers, name) and g.any()}


def test_early_and_late_halves_make_up_the_body() -> None:
    names = [name for name, _ in made().named_parameters()]
    for name in names:
        assert expected_cover("early", name) + expected_cover("late", name) == expected_cover("body", name)


def test_only_clipping_by_place_needs_blocks() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

        def get_classifier(self) -> nn.Module:
            return self.last

    model = Flat()
    model.last(model.first(torch.ones(2, 3))).sum().backward()
    assert 0 < float(clipping(model, Clip(factor=1e-4))()) <= 1
    with pytest.raises(TypeError, match="Flat without `blocks`"):
        clipping(model, Clip(layers="early"))


def test_unknown_choices_list_the_known() -> None:
    with pytest.raises(ValueError, match="rule='norm' is not known; use one of agc, layer, global"):
        Clip(rule="norm")
    with pytest.raises(ValueError, match="layers='head' is not known; use one of body, all"):
        Clip(layers="head")
    with pytest.raises(ValueError, match="optimizer='sgdw' is not known; use one of sgd, adam, rmsprop, lion, lars"):
        Recipe(8, 1, 0.1, optimizer="sgdw")


# --- optimizers: w, g and the state are arrays, t counts from 1; every formula is that of its source

MOMENTUM, DECAY = 0.9, 0.02
RATES = (0.05, 0.1, 0.03, 0.02)
State = dict[str, np.ndarray]


def sgd(w: np.ndarray, g: np.ndarray, s: State, t: int, rate: float, decay: float) -> np.ndarray:
    """Nesterov as in the authors' code: the momentum is not damped, the decay is an L2 term."""
    g = g + decay * w
    s["v"] = MOMENTUM * s.get("v", np.zeros_like(w)) + g
    return w - rate * (g + MOMENTUM * s["v"])


def adam(w: np.ndarray, g: np.ndarray, s: State, t: int, rate: float, decay: float) -> np.ndarray:
    """Algorithm 1 of arXiv 1412.6980, the decay as an L2 term."""
    g = g + decay * w
    s["m"] = 0.9 * s.get("m", np.zeros_like(w)) + 0.1 * g
    s["v"] = 0.999 * s.get("v", np.zeros_like(w)) + 0.001 * g**2
    return w - rate * (s["m"] / (1 - 0.9**t)) / (np.sqrt(s["v"] / (1 - 0.999**t)) + 1e-8)


def rmsprop(w: np.ndarray, g: np.ndarray, s: State, t: int, rate: float, decay: float) -> np.ndarray:
    """Divided by the running root mean square, then momentum."""
    g = g + decay * w
    s["v"] = 0.99 * s.get("v", np.zeros_like(w)) + 0.01 * g**2
    s["m"] = MOMENTUM * s.get("m", np.zeros_like(w)) + g / (np.sqrt(s["v"]) + 1e-3)
    return w - rate * s["m"]


def lion(w: np.ndarray, g: np.ndarray, s: State, t: int, rate: float, decay: float) -> np.ndarray:
    """Algorithm 2 of arXiv 2302.06675 with its defaults, 0.9 and 0.99: interpolate, sign, decoupled decay."""
    m = s.get("m", np.zeros_like(w))
    c = 0.9 * m + 0.1 * g
    s["m"] = 0.99 * m + 0.01 * g
    return w - rate * (np.sign(c) + decay * w)


def lars(w: np.ndarray, g: np.ndarray, s: State, t: int, rate: float, decay: float) -> np.ndarray:
    """Algorithm 1 of arXiv 1708.03888, trust coefficient 0.001; a zero norm keeps the rate."""
    norm, grad = np.linalg.norm(w), np.linalg.norm(g)
    local = 0.001 * norm / (grad + decay * norm) if norm > 0 and grad > 0 else 1.0
    s["v"] = MOMENTUM * s.get("v", np.zeros_like(w)) + rate * local * (g + decay * w)
    return w - s["v"]


FORMULAS = {"sgd": sgd, "adam": adam, "rmsprop": rmsprop, "lion": lion, "lars": lars}


def some_grads(step: int, w: Arrays) -> Arrays:
    draw = np.random.default_rng(step)
    return {name: draw.normal(size=value.shape) for name, value in w.items()}


@pytest.mark.parametrize("decay_gains", [False, True], ids=["", "decayed gains"])
@pytest.mark.parametrize("name", FORMULAS)
def test_an_optimizer_is_its_formula(name: str, decay_gains: bool) -> None:
    model = made().double()  # the arithmetic is what is compared, not its rounding
    recipe = Recipe(8, 1, 0.1, optimizer=name, momentum=MOMENTUM, weight_decay=DECAY, decay_gains=decay_gains)
    stepper = optimizer(model, recipe, CPU)
    w = arrays(model, lambda p: p)
    states: dict[str, State] = {key: {} for key in w}
    for t, rate in enumerate(RATES, 1):
        grads = some_grads(t, w)
        for key, p in model.named_parameters():
            p.grad = torch.from_numpy(grads[key].copy()).reshape(p.shape)
        set_rate(stepper, rate)
        stepper.step()
        for key in w:
            decay = DECAY if decay_gains or not is_vector(key) else 0.0
            w[key] = FORMULAS[name](w[key], grads[key], states[key], t, rate, decay)
    for key, found in arrays(model, lambda p: p).items():
        np.testing.assert_allclose(found, w[key], rtol=1e-6, atol=1e-8, err_msg=key)


def stepped(name: str, weight: Tensor, grad: Tensor, rate: float = 0.5) -> Tensor:
    """What one step without decay moves the weight of a linear layer by."""
    model = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    with torch.no_grad():
        model.weight.copy_(weight)
    model.weight.grad = grad.clone()
    stepper = optimizer(model, Recipe(8, 1, 0.1, optimizer=name, weight_decay=0.0), CPU)
    set_rate(stepper, rate)
    stepper.step()
    return model.weight.detach() - weight


def test_what_clipping_bounds_under_each_optimizer() -> None:
    """A thousandth of the gradient is a thousandth of SGD's step, and the same step of those that divide by it."""
    torch.manual_seed(1)
    weight, grad = torch.randn(4, 5), torch.randn(4, 5)
    for name, ratio in (("sgd", 1e-3), ("lion", 1.0), ("adam", 1.0), ("lars", 1.0)):
        small, large = stepped(name, weight, 1e-3 * grad), stepped(name, weight, grad)
        assert float(small.norm() / large.norm()) == pytest.approx(ratio, rel=1e-3), name
    move = stepped("lars", weight, grad, rate=0.5)
    assert float(move.norm() / weight.norm()) == pytest.approx(0.5 * 1e-3, rel=1e-4)


def test_lars_lets_zero_weights_start() -> None:
    grad = torch.randn(4, 5)
    torch.testing.assert_close(stepped("lars", torch.zeros(4, 5), grad), -0.5 * grad)
    assert float(stepped("lars", torch.ones(4, 5), torch.zeros(4, 5)).abs().max()) == 0


def test_a_gradient_that_is_not_a_number_stays_visible() -> None:
    bad = torch.tensor([[float("nan"), 1.0]])
    for name in FORMULAS:
        moved = stepped(name, torch.ones(1, 2), bad)
        assert not bool(moved.isfinite().all()), name


def test_a_norm_that_overflows_is_no_step_of_zero() -> None:
    moved = stepped("lars", torch.ones(2, 3), torch.full((2, 3), 2e22))
    assert not bool((moved == 0).any())


def test_a_closure_is_refused() -> None:
    stepper = optimizer(nn.Linear(2, 2), Recipe(8, 1, 0.1, optimizer="lion"), CPU)
    with pytest.raises(ValueError, match="takes none"):
        stepper.step(lambda: 0.0)
