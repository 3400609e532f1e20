"""Adaptive clipping from call to call: each call depends on its parameters and gradients, not on the calls before."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from nfnets_lite import create_model
from nfnets_lite.agc import AdaptiveClip, adaptive_clip_grad_, unitwise_norm
from nfnets_lite.conv import ScaledStdConv2d, ScaledStdConvTranspose2d
from nfnets_lite.optim import attach_agc
from nfnets_lite.roles import parameter_roles


class Net(nn.Module):
    """Shapes that come once and several times, small and large ones, and units of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3) for _ in range(3))
        self.large = nn.ModuleList(nn.Linear(200, 200) for _ in range(2))
        self.up = nn.ModuleList(ScaledStdConvTranspose2d(8, 8, 2, groups=2) for _ in range(2))
        self.down = nn.ModuleList(nn.ConvTranspose2d(6, 4, 1) for _ in range(2))
        self.gains = nn.ParameterList(torch.rand(()) for _ in range(3))


def make_clip(factor: float = 0.01) -> AdaptiveClip:
    torch.manual_seed(0)
    return AdaptiveClip(Net(), factor, classifier=None)


def new_grads(clip: AdaptiveClip, seed: int, *, missing: float = 0.0) -> None:
    """Gradients in new memory, about half of whose units are above their bounds; some are missing."""
    generator = torch.Generator().manual_seed(seed)
    for parameter, _ in clip.units:
        size = parameter.detach().float().norm() / max(parameter.numel(), 1) ** 0.5
        grad = torch.randn(parameter.shape, generator=generator) * size.cpu() * clip.clip_factor
        absent = torch.rand((), generator=generator) < missing
        parameter.grad = None if absent else grad.to(parameter)


def grads_of(clip: AdaptiveClip) -> list[Tensor | None]:
    return [None if p.grad is None else p.grad.clone() for p, _ in clip.units]


def by_formula(clip: AdaptiveClip) -> tuple[float, list[Tensor | None]]:
    """The clipped fraction and the clipped gradients, one unit after the other in float64."""
    clipped, units, grads = 0, 0, list[Tensor | None]()
    for parameter, role in clip.units:
        if parameter.grad is None:
            grads.append(None)
            continue
        rows, grad = (x.detach().double().clone() for x in (parameter, parameter.grad))
        if role.groups > 1:
            parts = zip(rows.chunk(role.groups), grad.chunk(role.groups))
            pairs = [(w[:, i], g[:, i]) for w, g in parts for i in range(w.shape[1])]
        elif role.unit_dim is None:
            pairs = [(rows, grad)]
        else:
            pairs = list(zip(rows.unbind(role.unit_dim), grad.unbind(role.unit_dim)))
        for weight, unit in pairs:
            bound = clip.clip_factor * max(float(weight.norm()), clip.eps)
            clipped, units = clipped + int(float(unit.norm()) > bound), units + 1
            if float(unit.norm()) > bound:
                unit.mul_(bound / max(float(unit.norm()), 1e-6))
        grads.append(grad)
    return clipped / units, grads


def assert_formula(clip: AdaptiveClip, call: Callable[[], Tensor] | None = None, rtol: float = 1e-5) -> float:
    fraction, grads = by_formula(clip)
    assert float((call or clip)()) == pytest.approx(fraction)
    for (parameter, _), expected in zip(clip.units, grads):
        assert (parameter.grad is None) == (expected is None)
        if expected is not None:
            torch.testing.assert_close(parameter.grad.double(), expected, rtol=rtol, atol=0, equal_nan=True)
    return fraction


def to_dtype(dtype: torch.dtype) -> Callable[[AdaptiveClip], None]:
    def change(clip: AdaptiveClip) -> None:
        for parameter, _ in clip.units:
            parameter.data = parameter.data.to(dtype)

    change.__name__ = str(dtype)
    return change


def one_to_double(clip: AdaptiveClip) -> None:
    clip.units[0][0].data = clip.units[0][0].data.double()


def prune(clip: AdaptiveClip) -> None:
    """An output channel less in one of three convolutions, and an input less in one of two large layers."""
    clip.units[0][0].data = clip.units[0][0].data[:-1].clone()
    parameter = next(p for p, _ in clip.units if p.shape == (200, 200))
    parameter.data = parameter.data[:, :-1].clone()


def channels_last(clip: AdaptiveClip) -> None:
    for parameter, _ in clip.units:
        if parameter.ndim == 4:
            parameter.data = parameter.data.to(memory_format=torch.channels_last)


CHANGES = [one_to_double, prune, channels_last, to_dtype(torch.float64), to_dtype(torch.bfloat16)]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_parameters_that_change_between_calls_are_followed(change: Callable[[AdaptiveClip], None]) -> None:
    clip = make_clip()
    new_grads(clip, 0)
    assert 0.1 < assert_formula(clip) < 0.9
    for parameter, _ in clip.units:
        parameter.grad = None
    change(clip)
    for seed in (1, 2):
        new_grads(clip, seed)
        assert 0.1 < assert_formula(clip, rtol=1e-2 if change.__name__ == "torch.bfloat16" else 1e-5) < 0.9


def test_a_parameter_of_another_dtype_than_its_gradient() -> None:
    clip = make_clip()
    new_grads(clip, 0)
    one_to_double(clip)
    assert clip.units[0][0].grad.dtype == torch.float32
    assert_formula(clip)


@pytest.mark.parametrize("factor", [1e-6, 0.01, 1e3])
def test_gradients_that_come_and_go(factor: float) -> None:
    clip = make_clip(factor)
    for seed, missing in enumerate([0.0, 0.4, 0.0, 0.9, 0.0]):
        new_grads(clip, seed, missing=missing)
        if not missing:
            clip.units[0][0].grad[0, 0] = float("nan")
        assert_formula(clip)
    for parameter, _ in clip.units:
        parameter.grad = None
    with pytest.raises(ValueError, match=r"none of the \d+ to be clipped has a gradient"):
        clip()


def test_a_sparse_gradient_is_refused_at_a_later_call_too() -> None:
    embedding = nn.Embedding(4, 3, sparse=True)
    clip = AdaptiveClip(embedding, classifier=None)
    embedding.weight.grad = torch.ones(4, 3)
    clip()
    embedding.weight.grad = torch.ones(4, 3).to_sparse()
    with pytest.raises(ValueError, match=r"shape \(4, 3\) is sparse.*sparse=False"):
        clip()


def test_gradients_below_their_bounds_are_not_written() -> None:
    clip = make_clip()
    new_grads(clip, 0)
    quiet = clip.units[0][0].grad.mul_(1e-4)
    before = quiet._version
    assert float(clip()) > 0.1
    assert quiet._version == before


@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda clip: pickle.loads(pickle.dumps(clip))], ids=["copy", "pickle"]
)
def test_a_copy_clips_its_own_parameters(again: Callable[[AdaptiveClip], AdaptiveClip]) -> None:
    clip = make_clip()
    new_grads(clip, 0)
    clip()
    twin = again(clip)
    new_grads(clip, 1)
    before = grads_of(clip)
    new_grads(twin, 2)
    assert 0.1 < assert_formula(twin) < 0.9
    torch.testing.assert_close(grads_of(clip), before, rtol=0, atol=0)


def test_compiled_clipping_is_one_graph_and_clips_the_same() -> None:
    clip = make_clip()
    torch.compiler.reset()
    compiled = torch.compile(lambda: clip(), backend="eager", fullgraph=True)
    for seed, missing in enumerate([0.0, 0.0, 0.5]):
        new_grads(clip, seed, missing=missing)
        assert_formula(clip, compiled)
        new_grads(clip, seed)
        assert_formula(clip)


@pytest.mark.parametrize("fused", [False, True])
def test_fractions_do_not_depend_on_what_ran_before(fused: bool) -> None:
    """Weights of 73,728 numbers: clipped in turns after eager passes, compiled passes and passes in evaluation."""
    torch.manual_seed(0)
    layers = ScaledStdConv2d(3, 64, 3), nn.ReLU(), ScaledStdConv2d(64, 128, 3), nn.ReLU()
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 5))
    clip = AdaptiveClip(net, 0.05, classifier=net[-1])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9, fused=fused)
    torch.compiler.reset()
    compiled = torch.compile(net, backend="aot_eager")
    x, labels = torch.randn(8, 3, 9, 9), torch.arange(8) % 5
    seen = []
    for forward in (net, compiled, compiled, net, compiled, compiled):
        nn.functional.cross_entropy(forward(x), labels).backward()
        if forward is net:
            with torch.no_grad():
                net(x)
        seen.append(assert_formula(clip))
        optimizer.step()
        optimizer.zero_grad()
    assert any(0 < fraction < 1 for fraction in seen)


# --- what gradients hold, and where they lie


@pytest.mark.parametrize("shape", [(4, 8), (8,), ()], ids=str)
@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 2e22), (torch.bfloat16, 2e22), (torch.float64, 1e200)])
def test_gradients_whose_norm_overflows_stay_visible(dtype: torch.dtype, size: float, shape: tuple[int, ...]) -> None:
    """Finite numbers, of which the sum of squares is infinite: clipped to the bound or not finite, never zero."""
    weights = [nn.Parameter(torch.ones(shape, dtype=dtype)) for _ in range(2)]
    for weight, times in zip(weights, (size, 1e-3)):
        weight.grad = torch.full_like(weight, times)
    assert float(adaptive_clip_grad_(weights)) == 0.5
    large, small = (weight.grad for weight in weights)
    norm = unitwise_norm(large, 0 if len(shape) > 1 else None)
    assert bool(((norm > 0) & (norm <= 0.01 * 8**0.5 * 1.01) | ~norm.isfinite()).all())
    assert torch.equal(small, torch.full_like(small, 1e-3))


@pytest.mark.parametrize("copies", [1, 3])
def test_weights_whose_norm_overflows_are_seen(copies: int) -> None:
    """Finite numbers, of which the sum of squares is infinite: an infinite bound would let any gradient through."""
    weights = [nn.Parameter(torch.tensor([[2e19, 2e19], [1.0, 1.0]])) for _ in range(copies)]
    for weight in weights:
        weight.grad = torch.full_like(weight, 1e-3)
    assert float(adaptive_clip_grad_(weights)) == 0.5
    for weight in weights:
        assert bool(weight.grad[0].isnan().all())
        assert torch.equal(weight.grad[1], torch.full((2,), 1e-3))


def test_layers_without_a_unit_have_nothing_to_clip() -> None:
    weight = nn.Parameter(torch.ones(0, 4))
    weight.grad = torch.ones(0, 4)
    assert float(adaptive_clip_grad_(weight)) == 0.0


@pytest.mark.parametrize("copies", [1, 3])
def test_complex_weights_are_clipped_by_their_absolute_values(copies: int) -> None:
    weights = [nn.Parameter(torch.tensor([[3 + 4j, 0j], [0j, 0.6j]])) for _ in range(copies)]
    for weight in weights:
        weight.grad = torch.tensor([[0.003j, 0.004], [0.06, 0.08j]])
    assert float(adaptive_clip_grad_(weights)) == 0.5
    for weight in weights:
        torch.testing.assert_close(weight.grad, torch.tensor([[0.003j, 0.004], [0.0036, 0.0048j]]))


def test_an_infinite_gradient_stays_visible() -> None:
    weight = nn.Parameter(torch.ones(2, 3))
    weight.grad = torch.tensor([[torch.inf, 1.0, 1.0], [1.0, 1.0, 1.0]])
    adaptive_clip_grad_(weight)
    assert not bool(weight.grad[0].isfinite().all())
    torch.testing.assert_close(weight.grad[1].norm(), torch.tensor(0.01 * 3**0.5))


def test_a_parameter_that_is_given_twice_is_clipped_once() -> None:
    weight, other = (nn.Parameter(torch.tensor([[3.0, 4.0]])) for _ in range(2))
    for given in ([weight, weight], [weight, other, weight]):
        for parameter in (weight, other):
            parameter.grad = torch.tensor([[0.1, 0.0]])
        assert float(adaptive_clip_grad_(given)) == 1.0
        torch.testing.assert_close(weight.grad, torch.tensor([[0.05, 0.0]]))


def test_a_default_device_does_not_matter() -> None:
    clip = make_clip()
    for _ in range(2):
        new_grads(clip, 0)
        with torch.device("meta"):
            found = clip()
        assert found.device.type == "cpu"
        assert 0.1 < float(found) < 0.9


@pytest.mark.parametrize("first", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_the_first_call_may_be_in_any_mode(first: Callable[[], torch.no_grad]) -> None:
    clip = make_clip()
    new_grads(clip, 0)
    with first():
        assert 0.1 < assert_formula(clip) < 0.9
    new_grads(clip, 1)
    assert 0.1 < assert_formula(clip) < 0.9


# --- which units


def test_a_mapping_of_roles_chooses_the_units() -> None:
    net = Net()
    roles = parameter_roles(net, classifier=None)
    weights = {name: (p, role) for name, (p, role) in roles.items() if role.kind == "weight"}
    clip = AdaptiveClip(weights, 1e-6)
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    assert float(clip()) == 1.0
    changed = {name for name, (p, _) in roles.items() if not torch.equal(p.grad, torch.ones_like(p))}
    assert changed == set(weights)


def assign(model: nn.Module) -> None:
    model.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()}, assign=True)


def new_head(model: nn.Module) -> None:
    model.reset_classifier(3)


def thaw(model: nn.Module) -> None:
    model.stem.requires_grad_(True)


@pytest.mark.parametrize("change", [assign, new_head, thaw])
def test_the_parameters_of_a_model_are_followed(change: Callable[[nn.Module], None]) -> None:
    torch.manual_seed(0)
    model = create_model("cifar_resnet8", method="nf", skip_gain=1.0)
    model.stem.requires_grad_(change is not thaw)
    clip, attached = AdaptiveClip(model), torch.optim.SGD(model.parameters(), 0.1)
    attach_agc(attached, model)
    for _ in range(2):
        model.zero_grad()
        model(torch.randn(4, 3, 16, 16)).square().sum().backward()
        twin = copy.deepcopy(model)
        for mine, theirs in zip(model.parameters(), twin.parameters()):
            theirs.grad = None if mine.grad is None else mine.grad.clone()
        assert float(clip()) == float(adaptive_clip_grad_(twin)) > 0.1
        for mine, theirs in zip(model.parameters(), twin.parameters()):
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=0, atol=0)
        change(model)
    if change is thaw:
        attached.step()
    else:  # the optimizer would go on with parameters that the model no longer has
        with pytest.raises(ValueError, match=r"parameters that are not in model.*Build the optimizer after"):
            attached.step()


def test_a_classifier_from_a_generator_stays_exempt() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    net[0].requires_grad_(False)
    clip = AdaptiveClip(net, classifier=(layer for layer in net[1:]))
    net[0].requires_grad_(True)
    net(torch.ones(1, 4)).sum().backward()
    clip()
    assert not any(p is net[1].weight for p, _ in clip.units)


@pytest.mark.gpu
def test_a_model_that_moves_is_followed() -> None:
    torch.manual_seed(0)
    model = create_model("cifar_resnet8", method="nf")
    clip = AdaptiveClip(model)
    for seed, device in enumerate(["cpu", "cuda", "cpu"]):
        for parameter, _ in clip.units:
            parameter.grad = None
        model.to(device)
        new_grads(clip, seed)
        assert_formula(clip)
