"""Properties that hold for any weight and gradient, drawn by hypothesis."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nfnets_lite import ScaledStdConv2d, adaptive_clip_grad_, standardize_weight
from nfnets_lite.agc import unitwise_norm
from nfnets_lite.roles import _unit_dim

quick = settings(max_examples=60, deadline=None)
shapes = st.lists(st.integers(1, 4), min_size=0, max_size=4).map(tuple)
factors = st.floats(1e-3, 10)
# Powers of two scale without rounding, so that equalities can be exact.
scales = st.integers(-30, 12).map(lambda e: 2.0**e)


def draw(shape: tuple[int, ...], seed: int, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64) * scale


def clip(weight: Tensor, grad: Tensor, factor: float, eps: float = 1e-3) -> Tensor:
    parameter = nn.Parameter(weight.clone())
    parameter.grad = grad.clone()
    adaptive_clip_grad_(parameter, factor, eps)
    assert torch.equal(parameter.detach(), weight)
    return parameter.grad


@quick
@given(shapes, st.integers(0, 999), scales, scales, factors)
def test_clipping_keeps_direction_and_bound(
    shape: tuple[int, ...], seed: int, weight_scale: float, grad_scale: float, factor: float
) -> None:
    weight, grad = draw(shape, seed, weight_scale), draw(shape, seed + 1000, grad_scale)
    out = clip(weight, grad, factor)
    dim = _unit_dim(weight)
    norm, bound = unitwise_norm(grad, dim), unitwise_norm(weight, dim).clamp(min=1e-3) * factor
    assert bool((unitwise_norm(out, dim) <= bound * (1 + 1e-12)).all())
    kept = (norm <= bound).expand(shape)
    assert torch.equal(out[kept], grad[kept])  # the identity below the bound
    shrink = unitwise_norm(out, dim) / norm.clamp(min=1e-300)
    torch.testing.assert_close(out, grad * shrink, rtol=1e-12, atol=0)  # one factor in (0, 1] for a whole unit
    assert bool(((shrink > 0) & (shrink <= 1 + 1e-12)).all())


@quick
@given(shapes, st.integers(0, 999), st.integers(-4, 12).map(lambda e: 2.0**e), factors)
def test_clipping_is_invariant_when_weight_and_gradient_scale_together(
    shape: tuple[int, ...], seed: int, scale: float, factor: float
) -> None:
    weight, grad = draw(shape, seed), draw(shape, seed + 1000)
    # Above both floors: eps for weights, 1e-6 for the gradient's norm.
    dim, eps = _unit_dim(weight), 1e-9
    if float(unitwise_norm(weight, dim).min()) * min(scale, 1) < eps:
        return
    if float(unitwise_norm(grad, dim).min()) * min(scale, 1) < 1e-6:
        return
    assert torch.equal(clip(weight * scale, grad * scale, factor, eps), clip(weight, grad, factor, eps) * scale)


@quick
@given(st.integers(2, 6), st.integers(2, 6), st.integers(0, 999), factors)
def test_permuting_units_permutes_the_result(units: int, inputs: int, seed: int, factor: float) -> None:
    weight, grad = draw((units, inputs, 3), seed), draw((units, inputs, 3), seed + 1000)
    order = torch.randperm(units, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(clip(weight[order], grad[order], factor), clip(weight, grad, factor)[order])
    gain = draw((units,), seed)
    permuted = standardize_weight(weight[order], gain[order])
    assert torch.equal(permuted, standardize_weight(weight, gain)[order])


@quick
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.floats(-1e3, 1e3, width=32), st.booleans())
def test_constant_filters_give_zeros_and_finite_gradients(
    outputs: int, inputs: int, kernel: int, value: float, transposed: bool
) -> None:
    weight = torch.full((outputs, inputs, kernel, kernel), value, requires_grad=True)
    gain = torch.ones(weight.shape[int(transposed)], requires_grad=True)
    out = standardize_weight(weight, gain, unit_dim=int(transposed))
    # The mean of equal numbers is that number up to rounding, which the floor magnifies by 100 at most.
    assert float(out.detach().abs().max()) <= abs(value) * 1e-4
    out.sin().sum().backward()
    assert bool(weight.grad.isfinite().all())
    assert bool(gain.grad.isfinite().all())


@pytest.mark.parametrize("kwargs", [{}, {"groups": 2}, {"kernel_size": 1, "groups": 4}])
@pytest.mark.parametrize("value", [0.0, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_layer_of_constant_filters_is_its_bias(kwargs: dict[str, Any], value: float, dtype: torch.dtype) -> None:
    conv = ScaledStdConv2d(4, 4, **{"kernel_size": 3, "padding": "same", **kwargs}, dtype=dtype)
    nn.init.constant_(conv.weight, value)
    nn.init.constant_(conv.bias, 0.5)
    x = torch.randn(2, 4, 5, 5).to(dtype).requires_grad_()
    y = conv(x)
    torch.testing.assert_close(y.detach(), torch.full_like(y, 0.5), rtol=0, atol=1e-3)
    (y * torch.randn(y.shape).to(dtype)).sum().backward()
    assert all(bool(t.grad.isfinite().all()) for t in (x, *conv.parameters()))


@quick
@given(st.integers(1, 4), st.integers(2, 8), st.integers(0, 999), scales)
def test_a_standardised_unit_has_mean_0_and_norm_at_most_its_gain(
    units: int, inputs: int, seed: int, scale: float
) -> None:
    weight = draw((units, inputs, 2, 2), seed, scale)
    made = standardize_weight(weight)
    assert float(made.mean((1, 2, 3)).abs().max()) < 1e-13
    spread = (weight - weight.mean((1, 2, 3), keepdim=True)).flatten(1).norm(dim=1)
    torch.testing.assert_close(made.flatten(1).norm(dim=1), (spread / 0.01).clamp(max=1.0), rtol=1e-12, atol=0)
