"""Adaptive clipping from call to call: what is worked out once has to follow whatever changes in between."""

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from nfnets_lite import create_model
from nfnets_lite.agc import AdaptiveClip
from nfnets_lite.conv import ScaledStdConvTranspose2d


class Net(nn.Module):
    """Shapes that come once and several times, alone and together, and units of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3) for _ in range(3))
        self.large = nn.Linear(200, 200)
        self.up = ScaledStdConvTranspose2d(8, 8, 2, groups=2)
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
        grad = torch.randn(parameter.shape, generator=generator) * size * clip.clip_factor
        absent = torch.rand((), generator=generator) < missing
        parameter.grad = None if absent else grad.to(parameter.dtype)


def grads_of(clip: AdaptiveClip) -> list[Tensor | None]:
    return [None if p.grad is None else p.grad.clone() for p, _ in clip.units]


def assert_like_new(clip: AdaptiveClip) -> Tensor:
    """This call gives, to the bit, what the first call of a new object gives for the same units and gradients."""
    new = AdaptiveClip([], clip.clip_factor, clip.eps)
    new.units = list(clip.units)
    before = grads_of(clip)
    expected = new(), grads_of(clip)
    for (parameter, _), grad in zip(clip.units, before):
        if grad is not None:
            parameter.grad.copy_(grad)
    found = clip(), grads_of(clip)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    return found[0]


def whole_tensors(clip: AdaptiveClip) -> None:
    clip.units = [(p, replace(role, unit_dim=None, groups=1)) for p, role in clip.units]


def other_parameters(clip: AdaptiveClip) -> None:
    clip.units = [(nn.Parameter(p.detach() + 1), role) for p, role in clip.units]


def to_dtype(dtype: torch.dtype) -> Callable[[AdaptiveClip], None]:
    def change(clip: AdaptiveClip) -> None:
        for parameter, _ in clip.units:
            parameter.data = parameter.data.to(dtype)

    change.__name__ = str(dtype)
    return change


def one_to_double(clip: AdaptiveClip) -> None:
    clip.units[0][0].data = clip.units[0][0].data.double()


def prune(clip: AdaptiveClip) -> None:
    """An output channel less in one of three convolutions, and an input less in a layer that is alone."""
    clip.units[0][0].data = clip.units[0][0].data[:-1].clone()
    for parameter, _ in clip.units:
        if parameter.shape == (200, 200):
            parameter.data = parameter.data[:, :-1].clone()


def channels_last(clip: AdaptiveClip) -> None:
    for parameter, _ in clip.units:
        if parameter.ndim == 4:
            parameter.data = parameter.data.to(memory_format=torch.channels_last)


def fewer(clip: AdaptiveClip) -> None:
    clip.units.pop(2)


OTHER = [fewer, whole_tensors, other_parameters, one_to_double, prune, channels_last]


@pytest.mark.parametrize(
    "change", [*OTHER, *map(to_dtype, (torch.float64, torch.bfloat16))], ids=lambda change: change.__name__
)
def test_a_change_between_calls_is_noticed(change: Callable[[AdaptiveClip], None]) -> None:
    clip = make_clip()
    for seed in range(2):
        new_grads(clip, seed)
        assert 0.1 < float(assert_like_new(clip)) < 0.9
    for parameter, _ in clip.units:
        parameter.grad = None
    change(clip)
    for seed in range(2):
        new_grads(clip, 10 + seed)
        assert 0.1 < float(assert_like_new(clip)) < 0.9


def test_a_parameter_of_another_dtype_than_its_gradient_is_noticed() -> None:
    clip = make_clip()
    new_grads(clip, 0)
    clip()
    one_to_double(clip)
    assert clip.units[0][0].grad.dtype == torch.float32
    assert_like_new(clip)


@pytest.mark.parametrize("factor", [1e-6, 0.01, 1e3])
def test_gradients_that_come_and_go(factor: float) -> None:
    clip = make_clip()
    for seed, missing in enumerate([0.0, 0.4, 0.4, 0.0, 0.9, 0.0]):
        new_grads(clip, seed, missing=missing)
        if not missing:
            clip.units[0][0].grad[0, 0] = float("nan")
        clip.clip_factor = factor
        assert_like_new(clip)
        clip.clip_factor = 0.01
    for parameter, _ in clip.units:
        parameter.grad = None
    with pytest.raises(ValueError, match=r"none of the \d+ to be clipped has a gradient"):
        clip()
    new_grads(clip, 7)
    assert_like_new(clip)


def test_a_sparse_gradient_is_refused_at_a_later_call_too() -> None:
    embedding = nn.Embedding(4, 3, sparse=True)
    clip = AdaptiveClip(embedding, classifier=None)
    embedding.weight.grad = torch.ones(4, 3)
    clip()
    embedding.weight.grad = torch.ones(4, 3).to_sparse()
    with pytest.raises(ValueError, match=r"shape \(4, 3\) is sparse.*sparse=False"):
        clip()


def test_the_grouping_is_kept_while_nothing_changes() -> None:
    clip = AdaptiveClip(create_model("cifar_resnet8", method="nf"))
    plans = []
    for seed, missing in enumerate([0.0, 0.0, 0.0, 0.5]):
        new_grads(clip, seed, missing=missing)
        clip()
        plans.append(clip._plan)
    assert plans[0] is plans[1] is plans[2] is not plans[3]


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
    assert 0.1 < float(assert_like_new(twin)) < 0.9
    torch.testing.assert_close(grads_of(clip), before, rtol=0, atol=0)


def test_compiled_clipping_is_one_graph_and_clips_the_same() -> None:
    clip, eager = make_clip(), make_clip()
    torch.compiler.reset()
    compiled = torch.compile(lambda: clip(), backend="eager", fullgraph=True)
    for seed, missing in enumerate([0.0, 0.0, 0.5]):
        fractions = []
        for one, call in ((clip, compiled), (eager, eager)):
            new_grads(one, seed, missing=missing)
            fractions.append(call())
        assert float(fractions[0]) == float(fractions[1])
        torch.testing.assert_close(grads_of(clip), grads_of(eager), rtol=0, atol=0)
        eager()  # between compiled calls: what an eager one keeps is not for them
        clip.units[0][0].grad = None
        clip()


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
        for parameter, _ in clip.units:
            parameter.grad = parameter.grad.to(device)
        assert_like_new(clip)
