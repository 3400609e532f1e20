"""Gains: the integral against closed forms, and the published, sampled constants beside it."""

from collections.abc import Callable
from math import erf, exp, pi, sqrt

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nfnets_lite.activations import ACTIVATIONS, GAINS, ScaledActivation, gain_of


def phi(x: float) -> float:
    return exp(-x * x / 2) / sqrt(2 * pi)


def cdf(x: float) -> float:
    return 0.5 * (1 + erf(x / sqrt(2)))


def elu_variance(alpha: float, scale: float) -> float:
    # For z < 0: E e^z = e^(1/2) cdf(-1) and E e^2z = e^2 cdf(-2), by completing the square.
    once, twice = exp(0.5) * cdf(-1), exp(2) * cdf(-2)
    mean = phi(0) + alpha * (once - 0.5)
    second = 0.5 + alpha**2 * (twice - 2 * once + 0.5)
    return scale**2 * (second - mean**2)


def relu6_variance() -> float:
    mean = phi(0) - phi(6) + 6 * (1 - cdf(6))
    second = cdf(6) - 0.5 - 6 * phi(6) + 36 * (1 - cdf(6))
    return second - mean**2


def leaky_variance(slope: float) -> float:
    return 0.5 * (1 + slope**2) - ((1 - slope) * phi(0)) ** 2


# E gelu(z) = 1 / (2 sqrt(pi)) and E gelu(z)^2 = 1/3 + 1 / (2 pi sqrt 3), for the erf form.
CLOSED = {
    "relu": (torch.relu, 0.5 * (1 - 1 / pi)),
    "identity": (lambda x: x, 1.0),
    "leaky_relu": (F.leaky_relu, leaky_variance(0.01)),
    "relu6": (F.relu6, relu6_variance()),
    "elu": (F.elu, elu_variance(1.0, 1.0)),
    "selu": (F.selu, elu_variance(1.6732632423543772, 1.0507009873554805)),
    "square": (torch.square, 2.0),
    "step": (lambda x: (x > 0.3).to(x.dtype), cdf(0.3) * (1 - cdf(0.3))),
    "sine": (torch.sin, 0.5 * (1 - exp(-2))),
    "gelu_erf": (F.gelu, 1 / 3 + 1 / (2 * pi * sqrt(3)) - 1 / (4 * pi)),
}


@pytest.mark.parametrize("name", CLOSED)
def test_gain_of_is_the_integral(name: str) -> None:
    fn, variance = CLOSED[name]
    assert gain_of(fn) == pytest.approx(variance**-0.5, rel=1e-9, abs=0)


@pytest.mark.parametrize("name", sorted(set(GAINS) - {"identity", "glu", "log_softmax"}))
def test_published_gain_beside_the_integral(name: str, record_property: Callable[[str, object], None]) -> None:
    published, integral = GAINS[name], gain_of(ACTIVATIONS[name])
    excess = published / integral - 1
    record_property("published, integral, excess %", f"{published:.10f} {integral:.10f} {100 * excess:.3f}")
    assert 0.5e-4 < excess < 1e-3


def test_gated_and_normalising_activations_have_the_published_gain() -> None:
    """They mix channels, so `gain_of` does not apply; a sample of the size that the constants need comes close."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 1000, generator=generator)
    assert float(ScaledActivation("glu")(x).var()) == pytest.approx(1.0, abs=0.01)
    assert float(ScaledActivation("log_softmax")(x).var(1).mean()) == pytest.approx(1.0, abs=0.01)


def test_gelu_is_the_tanh_form() -> None:
    x = torch.linspace(-4, 4, 101, dtype=torch.float64)
    inner = sqrt(2 / pi) * (x + 0.044715 * x**3)
    torch.testing.assert_close(ACTIVATIONS["gelu"](x), 0.5 * x * (1 + torch.tanh(inner)), rtol=0, atol=1e-15)
    assert float((ACTIVATIONS["gelu"](x) - F.gelu(x)).abs().max()) > 1e-4


def test_gelu_without_gradients_is_the_same_within_rounding() -> None:
    """Far out as well, where the cube is not a number of float32; and what asks for gradients keeps torch's kernel."""
    x = torch.cat((torch.linspace(-30, 30, 10_001), torch.tensor([-1e30, -1e13, -0.0, 0.0, 1e13, 1e30, torch.inf])))
    before, exact = x.clone(), F.gelu(x.double(), approximate="tanh")
    made = ACTIVATIONS["gelu"](x)
    torch.testing.assert_close(x, before, rtol=0, atol=0)
    torch.testing.assert_close(made.double(), exact, rtol=3e-7, atol=1e-6)
    torch.testing.assert_close(made, F.gelu(x, approximate="tanh"), rtol=3e-7, atol=1e-6)
    assert not made[x == 0].any()
    assert ACTIVATIONS["gelu"](torch.tensor([torch.nan])).isnan()
    image = torch.randn(2, 4, 5, 6).to(memory_format=torch.channels_last)
    assert ACTIVATIONS["gelu"](image).is_contiguous(memory_format=torch.channels_last)
    leaf = x[:-1].clone().requires_grad_()
    assert torch.equal(ACTIVATIONS["gelu"](leaf), F.gelu(x[:-1], approximate="tanh"))
    assert torch.autograd.gradcheck(ACTIVATIONS["gelu"], torch.linspace(-3, 3, 9).double().requires_grad_())


def test_a_gain_is_a_number_inside_of_a_network_without_memory_too() -> None:
    with torch.device("meta"):
        assert gain_of(torch.relu) == pytest.approx((2 / (1 - 1 / pi)) ** 0.5)


def test_unknown_and_constant_are_refused() -> None:
    with pytest.raises(ValueError, match=r"activation='swosh' is not known; use one of .*silu"):
        ScaledActivation("swosh")
    with pytest.raises(ValueError, match="fn has variance"):
        gain_of(torch.zeros_like)


def test_scale_is_folded_into_one_factor() -> None:
    x = torch.randn(10)
    torch.testing.assert_close(ScaledActivation("silu", 0.5)(x), 0.5 * F.silu(x))
    assert "scale=1.78813" in repr(ScaledActivation("silu"))


@pytest.mark.parametrize("fn", [nn.RReLU(), nn.Dropout(0.5)])
def test_random_functions_have_no_gain(fn: nn.Module) -> None:
    with pytest.raises(ValueError, match="two results on the same input"):
        gain_of(fn)
    assert gain_of(fn.eval()) > 0.9


def test_a_function_without_a_limit_of_its_panels_is_refused() -> None:
    with pytest.raises(ValueError, match="fn is too irregular"):
        gain_of(lambda z: (z * 1e12).sin().sign())


def test_a_name_has_a_published_gain() -> None:
    with pytest.raises(TypeError, match=r"fn='relu' is not callable; published gains by name are in .*GAINS"):
        gain_of("relu")  # type: ignore[arg-type]
