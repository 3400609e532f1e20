"""The pieces against the authors' code: convolutions with their gradients, pooling, activations, the gate."""

import numpy as np
import pytest
import torch
from golden import load, uniform, value, worst

from nfnets_lite.activations import GAINS, ScaledActivation
from nfnets_lite.conv import ScaledStdConv2d
from nfnets_lite.models.parts import SqueezeExcite
from nfnets_lite.padding import avg_pool_same, max_pool_same

ABOUT, ARRAYS = load("ops_a")


@pytest.mark.parametrize("case", ABOUT["conv"])
def test_standardised_convolution(case: str) -> None:
    c = ABOUT["conv"][case]
    conv = ScaledStdConv2d(
        c["in_channels"], c["out_channels"], tuple(c["kernel"]), c["stride"], padding="same", groups=c["groups"]
    ).double()
    kinds = {"weight": ("w", c["weight_kind"]), "gain": ("gain", "gain"), "bias": ("bias", "bias")}
    for name, (leaf, kind) in kinds.items():
        parameter = getattr(conv, name)
        parameter.data = torch.from_numpy(value(kind, f"{c['key']}/{leaf}", list(parameter.shape))).double()
    shape = (c["N"], c["in_channels"], c["H"], c["W"])
    x = torch.from_numpy((3**0.5 * uniform(f"{c['key']}/x", *shape)).astype(np.float32)).double().requires_grad_()
    out = conv(x)
    assert out.shape == ARRAYS[f"{case}/out"].shape
    assert worst(out, ARRAYS[f"{case}/out"]) < 1e-12
    (out * torch.from_numpy(uniform(f"{c['key']}/probe", *out.shape))).sum().backward()
    gradients = {"w": conv.weight, "gain": conv.gain, "bias": conv.bias, "x": x}
    for name, tensor in gradients.items():
        assert tensor is not None
        assert tensor.grad is not None
        assert worst(tensor.grad, ARRAYS[f"{case}/grad_{name}"]) < 1e-12, name


@pytest.mark.parametrize("size", ABOUT["pool"]["pool_sizes"], ids=str)
def test_pooling_counts_real_positions_only(size: list[int]) -> None:
    height, width = size
    x = torch.from_numpy(uniform(f"{ABOUT['key_prefix']}/pool{height}x{width}", 2, 3, height, width) - 1.2)
    assert worst(avg_pool_same(x), ARRAYS[f"avg2s2_{height}x{width}"]) < 1e-14
    assert worst(max_pool_same(x, 3, 2), ARRAYS[f"max3s2_{height}x{width}"]) < 1e-14


@pytest.mark.parametrize("name", sorted(key.removeprefix("act_") for key in ARRAYS if key.startswith("act_")))
def test_activation_and_its_derivative(name: str) -> None:
    if name == "x":
        assert {key.removeprefix("act_") for key in ARRAYS if key.startswith("act_")} - {"x"} <= set(GAINS)
        return
    x = torch.from_numpy(ARRAYS["act_x"]).double().requires_grad_()
    y = ScaledActivation(name)(x)
    assert worst(y, ARRAYS[f"act_{name}"]) < 1e-14
    y.sum().backward()
    assert x.grad is not None
    derivative, golden = x.grad.numpy(), ARRAYS[f"dact_{name}"]
    kink = np.abs(derivative - golden) > 1e-12  # frameworks choose either side's slope at a corner
    assert set(ARRAYS["act_x"][kink]) <= {0.0, 6.0}


def test_squeeze_excite_gate() -> None:
    c = ABOUT["se"]["se_a"]
    gate = SqueezeExcite(c["C"], c["hidden"], scale=2.0).double()
    for module, name in ((gate.reduce, "linear"), (gate.expand, "linear_1")):
        for parameter, leaf, kind in ((module.weight, "w", "se_w"), (module.bias, "b", "bias")):
            key = f"{c['key']}/{name}.{leaf}"
            parameter.data = torch.from_numpy(value(kind, key, list(parameter.shape))).double()
    x = torch.from_numpy(3**0.5 * uniform(f"{c['key']}/x", c["N"], c["C"], c["H"], c["W"]) + 0.5)
    assert worst(gate.gate(x), ARRAYS["se_a/gate"]) < 1e-14
    torch.testing.assert_close(gate(x), 2 * gate.gate(x)[:, :, None, None] * x)
