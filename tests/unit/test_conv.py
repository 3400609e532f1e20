"""Standardised convolutions: gradients, precision, shapes, the transposed layer."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nfnets_lite.conv import (
    Conv1d,
    Conv2d,
    Conv3d,
    ScaledStdConv1d,
    ScaledStdConv2d,
    ScaledStdConv3d,
    ScaledStdConvTranspose2d,
    WSConv2d,
)
from nfnets_lite.standardize import standardize_weight, unit_std_weight

LAYERS = [
    (ScaledStdConv1d(3, 4, 3, padding="same", stride=2), (2, 3, 5)),
    (ScaledStdConv2d(4, 6, (3, 2), padding="same", stride=2, groups=2), (2, 4, 5, 4)),
    (ScaledStdConv2d(2, 3, 3, padding=1, padding_mode="reflect", bias=False), (1, 2, 4, 5)),
    (ScaledStdConv3d(2, 3, 2, dilation=2), (1, 2, 3, 4, 3)),
    (ScaledStdConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1), (1, 4, 3, 2)),
    (ScaledStdConvTranspose2d(4, 6, 2, groups=2, bias=False), (1, 4, 3, 2)),
    (WSConv2d(4, 6, (3, 2), padding="same", stride=2, groups=2), (2, 4, 5, 4)),
]
IDS = ["1d", "2d", "reflect", "3d", "transposed", "transposed, grouped", "ws"]


def literal(units_first: Tensor, gain: Tensor) -> Tensor:
    """The formula, unit by unit, in float64: (O, I, *K) to the same."""
    rows = []
    for unit, g in zip(units_first.double(), gain.double()):
        variance = ((unit - unit.mean()) ** 2).mean()
        rows.append(g * (unit - unit.mean()) / (variance * unit.numel()).clamp(min=1e-4).sqrt())
    return torch.stack(rows)


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=IDS)
def test_gradcheck(layer: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = layer.double()
    names = [name for name, _ in layer.named_parameters()]
    values = [p.detach().clone().requires_grad_() for p in layer.parameters()]

    def forward(x: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, parameters)), (x,))

    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(forward, (x, *values))


def test_epsilon_replaces_small_variances_and_is_not_added() -> None:
    unit = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    weights = torch.stack([unit * 1e-3, unit * 0.0051, unit * 1.0, unit * 0]).reshape(4, 4, 1, 1)
    norms = standardize_weight(weights).flatten(1).norm(dim=1)
    # Below a norm of 0.01 the divisor is 0.01; above, it is the norm itself.
    expected = torch.tensor([0.2, 1.0, 1.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(norms, expected, rtol=1e-14, atol=0)


def test_second_derivatives() -> None:
    torch.manual_seed(0)
    weight = torch.randn(3, 2, 2, 1, dtype=torch.float64, requires_grad=True)
    gain = torch.rand(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(standardize_weight, (weight, gain))


def test_per_example_gradients_and_ensembles() -> None:
    torch.manual_seed(0)
    layer = ScaledStdConv2d(3, 4, 3, padding="same")
    parameters = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(layer, parameters, (x[None],)).square().sum()

    x = torch.randn(5, 3, 6, 6)
    mapped = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    for i in range(5):
        layer.zero_grad()
        layer(x[i : i + 1]).square().sum().backward()
        for name, parameter in layer.named_parameters():
            torch.testing.assert_close(mapped[name][i], parameter.grad, rtol=1e-4, atol=1e-5)
    several = {name: torch.stack([p, p + 0.1 * torch.randn_like(p)]) for name, p in parameters.items()}
    losses = torch.func.vmap(loss, in_dims=(0, None))(several, x[0])
    for i, value in enumerate(losses):
        torch.testing.assert_close(loss({name: p[i] for name, p in several.items()}, x[0]), value)


@pytest.mark.parametrize("groups", [1, 2])
def test_the_transposed_layer_standardises_its_output_channels(groups: int) -> None:
    layer = ScaledStdConvTranspose2d(4, 6, 3, stride=2, groups=groups)
    nn.init.uniform_(layer.gain, 0.5, 2.0)
    nn.init.normal_(layer.bias)
    made = layer.effective_weight().detach()
    per_group, inputs = 6 // groups, 4 // groups
    for g in range(groups):
        rows = slice(g * inputs, (g + 1) * inputs)
        units = layer.weight.detach()[rows].transpose(0, 1)
        expected = literal(units, layer.gain.detach()[g * per_group : (g + 1) * per_group])
        torch.testing.assert_close(made[rows].transpose(0, 1).double(), expected, rtol=1e-5, atol=1e-6)
    x = torch.randn(2, 4, 5, 6)
    torch.testing.assert_close(layer(x), F.conv_transpose2d(x, made, layer.bias, 2, groups=groups))
    assert layer(x, output_size=[12, 13]).shape == (2, 6, 12, 13)
    fan_in = 4 * 9 / groups
    torch.manual_seed(0)
    wide = ScaledStdConvTranspose2d(64, 64, 3, groups=groups)
    assert float(wide.weight.detach().std()) == pytest.approx((fan_in * 16) ** -0.5, rel=0.02)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_weights_have_float32_statistics(dtype: torch.dtype) -> None:
    weight = (torch.randn(4, 64, 3, 3) + 10).to(dtype)
    gain = torch.rand(4).to(dtype) + 0.5
    made = standardize_weight(weight, gain)
    assert made.dtype == dtype
    assert torch.equal(made, standardize_weight(weight.float(), gain.float()).to(dtype))


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=IDS)
def test_statistics_are_float32_under_autocast(layer: nn.Module, shape: tuple[int, ...]) -> None:
    layer = layer.float()
    x, outside = torch.randn(shape), layer.effective_weight()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.effective_weight(), outside)
        assert layer(x).dtype == torch.bfloat16
    assert layer.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize(("kind", "dims"), [(Conv1d, 1), (Conv2d, 2), (Conv3d, 3)])
def test_same_padding_gives_ceil_of_size_over_stride(kind: type[nn.Module], dims: int) -> None:
    for size in (1, 2, 5, 6):
        for kernel, stride in ((1, 2), (2, 1), (3, 2), (4, 3)):
            out = kind(2, 3, kernel, stride=stride, padding="same")(torch.ones(1, 2, *[size] * dims))
            assert out.shape == (1, 3, *[-(-size // stride)] * dims)


def test_weight_standardisation_has_the_unbiased_deviation_with_epsilon_added() -> None:
    unit = torch.tensor([1.0, -1.0, 2.0, 4.0], dtype=torch.float64)
    weights = torch.stack([unit, unit * 1e-6, unit * 0 + 3]).reshape(3, 4, 1, 1)
    std = (13 / 3) ** 0.5 * torch.tensor([1.0, 1e-6, 0.0], dtype=torch.float64)  # squared distances from 1.5 sum to 13
    expected = (weights.flatten(1) - weights.flatten(1).mean(1, keepdim=True)) / (std + 1e-5)[:, None]
    torch.testing.assert_close(unit_std_weight(weights).flatten(1), expected, rtol=1e-9, atol=1e-12)
    layer = WSConv2d(4, 6, 3, padding="same", groups=2)
    made = layer.effective_weight()
    torch.testing.assert_close(made, unit_std_weight(layer.weight), rtol=0, atol=0)
    x = torch.randn(2, 4, 5, 6)
    torch.testing.assert_close(layer(x), F.conv2d(x, made, layer.bias, padding=1, groups=2))
    # Against the layer for networks without norms: the same but for the root of the fan-in, and n - 1.
    scaled = standardize_weight(layer.weight) * 17**0.5
    torch.testing.assert_close(made, scaled, rtol=1e-3, atol=1e-5)


def test_weight_standardisation_of_constant_and_single_weights() -> None:
    weight = torch.full((2, 3, 1, 1), 3.0, requires_grad=True)
    out = unit_std_weight(weight)
    out.sin().sum().backward()
    assert torch.count_nonzero(out) == 0
    assert bool(weight.grad.isfinite().all())
    with pytest.raises(ValueError, match=r"shape \(4, 1, 1, 1\), a fan-in of 1.*fewer groups"):
        WSConv2d(4, 4, 1, groups=4)
    with pytest.raises(ValueError, match=r"fan-in of at least 2"):
        unit_std_weight(torch.ones(4, 1))
    with pytest.raises(ValueError, match=r"eps=0.0 must be above 0"):
        unit_std_weight(torch.ones(4, 2), eps=0.0)


MADE = [standardize_weight, partial(standardize_weight, unit_dim=1), torch.vmap(standardize_weight), unit_std_weight]


@pytest.mark.parametrize("make", MADE, ids=["fast", "formula", "vmap", "unit_std"])
@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 1e20), (torch.bfloat16, 1e20), (torch.float64, 1e160)])
def test_weights_whose_squares_overflow_are_seen(
    make: Callable[[Tensor], Tensor], dtype: torch.dtype, size: float
) -> None:
    """Finite weights that cannot be standardised give NaN, never zeros."""
    torch.manual_seed(0)
    weight = torch.randn(2, 2, 3, 3, dtype=torch.float64).to(dtype).requires_grad_()
    made = make(weight * size)
    assert bool(made.isnan().all())
    made.sum().backward()
    assert not bool(weight.grad.isfinite().any())


@pytest.mark.parametrize("make", [standardize_weight, unit_std_weight])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64])
def test_dtypes_that_are_not_standardised(make: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match=rf"weight has dtype {dtype}, which is not standardised; pass real"):
        make(torch.ones(4, 2, dtype=dtype))


def test_bad_shapes_are_named() -> None:
    conv = ScaledStdConv2d(3, 4, 3)
    with pytest.raises(ValueError, match=r"shape \(2, 5, 8, 8\); ScaledStdConv2d needs 4 axes.*in_channels = 3"):
        conv(torch.zeros(2, 5, 8, 8))
    with pytest.raises(ValueError, match=r"weight has shape \(4,\).*at least 2 axes"):
        standardize_weight(torch.ones(4))
    with pytest.raises(ValueError, match=r"eps=0.0 must be above 0"):
        standardize_weight(torch.ones(4, 2), eps=0.0)
    for unit_dim, gain in ((0, torch.ones(4, 1)), (0, torch.ones(2)), (1, torch.ones(4))):
        with pytest.raises(ValueError, match=r"gain has shape .*\(timm's gains of more axes: gain\.flatten\(\)\)"):
            standardize_weight(torch.ones(4, 2), gain, unit_dim=unit_dim)
