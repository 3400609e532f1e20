"""What is measured at each block, beside what the analysis says."""

from itertools import pairwise
from math import isfinite, isnan, pi

import pytest
import torch
from torch import nn

from nfnets_lite import create_model, signal_propagation
from nfnets_lite.signal import predicted_moments


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_measured_second_moment_follows_the_prediction(activation: str) -> None:
    torch.manual_seed(0)
    wide = {"width": (64, 128, 256), "skip_gain": 1.0, "activation": activation}
    model = create_model("cifar_resnet32", method="nf", **wide).eval()
    for signal in signal_propagation(model, torch.randn(8, 3, 32, 32)):
        assert signal.sq_mean + signal.var == pytest.approx(signal.predicted, rel=0.1)
        assert signal.branch_var is None or 0.7 < signal.branch_var < 1.1  # zeros in the padding take some


@pytest.mark.parametrize("method", ["fixup", "rescale", "gn_ws", "dyt"])
def test_what_is_outside_the_analysis_is_measured_but_not_predicted(method: str) -> None:
    signals = signal_propagation(create_model("cifar_resnet8", method=method), torch.randn(2, 3, 16, 16))
    assert [isnan(signal.predicted) for signal in signals] == [False, True, True, True]
    assert all(isfinite(signal.var) for signal in signals)


@pytest.mark.parametrize(
    ("method", "choices", "inside"),
    [
        ("none", {"conv": "scaled_ws", "activation_gain": True}, True),
        ("none", {"conv": "scaled_ws"}, False),  # a ReLU keeps a third: taken for all, 27 blocks are 2^27
        ("none", {"activation_gain": True}, False),  # gain 1.7^2 on top of He's start
        ("bn", {"activation_gain": True}, False),
        ("nf", {"activation_gain": False}, False),
        ("nf", {"activation_gain": False, "conv": "plain"}, True),
        ("bn_act_first", {"activation_gain": True}, True),
    ],
)
def test_a_prediction_holds_or_is_not_made(method: str, choices: dict, inside: bool) -> None:
    torch.manual_seed(0)
    wide = {"width": (128, 128, 128), "stem_width": 128, "strides": (1, 1, 1), "branch": (1, 1, 3), "bottleneck": 1.0}
    model = create_model("cifar_resnet14", method=method, skip_gain=1.0, **wide, **choices).train()
    signals = signal_propagation(model, torch.randn(16, 3, 16, 16))
    assert all(isnan(signal.predicted) != inside for signal in signals[1:])
    start = 1.0 if model.spec.norm != "none" else signals[0].sq_mean + signals[0].var
    for signal in signals[1:] if inside else ():
        assert signal.sq_mean + signal.var == pytest.approx(start * signal.predicted, rel=0.35)


def test_batch_norm_stream_grows_by_one_a_block() -> None:
    """Behind a norm each branch adds about the same variance, so the stream grows linearly."""
    torch.manual_seed(0)
    model = create_model("cifar_resnet32", method="bn").train()
    stage = signal_propagation(model, torch.randn(32, 3, 32, 32))[1:6]
    growth = [b.sq_mean + b.var - a.sq_mean - a.var for a, b in pairwise(stage)]
    assert max(growth) < 2 * min(growth)


@pytest.mark.parametrize(("method", "level"), [("bn", 1 - 1 / pi), ("bn_act_first", 1.0)])
def test_the_order_of_norm_and_activation_decides_the_branch_variance(method: str, level: float) -> None:
    """Rectified Gaussians have a mean, which takes 1 / pi of the second moment; a norm behind them takes it off."""
    torch.manual_seed(0)
    wide = {"width": (128, 128, 128), "stem_width": 128, "strides": (1, 1, 1), "branch": (1, 1, 3), "bottleneck": 1.0}
    model = create_model("cifar_resnet14", method=method, **wide).train()
    signals = signal_propagation(model, torch.randn(16, 3, 16, 16))
    for signal in signals[1:]:
        # A tenth: zeros in the padding take some of the one, and give the other a mean.
        assert signal.branch_var == pytest.approx(level, rel=0.1)
    slope = (signals[-1].var - signals[1].var) / 5
    assert slope == pytest.approx(level, rel=0.1)
    assert (signals[-1].sq_mean < 0.2) == (method == "bn_act_first")


def test_prediction_is_the_variance_recursion() -> None:
    model = create_model("nf_resnet50", depth=(3, 1, 1, 1), skip_gain=1.0)
    assert predicted_moments(model) == pytest.approx([1.0, 1.04, 1.08, 1.12, 1.04, 1.04, 1.04])


def test_hooks_are_gone_afterwards_and_other_networks_refused() -> None:
    model = create_model("cifar_resnet8", method="nf")
    signal_propagation(model, torch.randn(2, 3, 16, 16))
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(TypeError, match="forward hooks"):
        signal_propagation(nn.Linear(2, 2), torch.zeros(1, 2))  # type: ignore[arg-type]


def test_a_wrapped_network_is_measured() -> None:
    model, x = create_model("cifar_resnet8", method="nf", skip_gain=1.0).eval(), torch.randn(4, 3, 32, 32)
    assert signal_propagation(nn.DataParallel(model), x) == signal_propagation(model, x)
    model.blocks[1] = nn.Sequential(model.blocks[1])
    with pytest.raises(TypeError, match=r"blocks\[1\] is a Sequential, not a Block of nfnets_lite"):
        signal_propagation(model, x)
