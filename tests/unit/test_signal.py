"""What is measured at each block, beside what the analysis says."""

from itertools import pairwise
from math import isfinite, isnan

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


def test_fixup_is_measured_but_not_predicted() -> None:
    signals = signal_propagation(create_model("cifar_resnet8", method="fixup"), torch.randn(2, 3, 16, 16))
    assert [isnan(signal.predicted) for signal in signals] == [False, True, True, True]
    assert all(isfinite(signal.var) for signal in signals)


def test_batch_norm_stream_grows_by_one_a_block() -> None:
    """Behind a norm each branch adds about the same variance, so the stream grows linearly."""
    torch.manual_seed(0)
    model = create_model("cifar_resnet32", method="bn").train()
    stage = signal_propagation(model, torch.randn(32, 3, 32, 32))[1:6]
    growth = [b.sq_mean + b.var - a.sq_mean - a.var for a, b in pairwise(stage)]
    assert max(growth) < 2 * min(growth)


def test_prediction_is_the_variance_recursion() -> None:
    model = create_model("nf_resnet50", depth=(3, 1, 1, 1), skip_gain=1.0)
    assert predicted_moments(model) == pytest.approx([1.0, 1.04, 1.08, 1.12, 1.04, 1.04, 1.04])


def test_hooks_are_gone_afterwards_and_other_networks_refused() -> None:
    model = create_model("cifar_resnet8", method="nf")
    signal_propagation(model, torch.randn(2, 3, 16, 16))
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(TypeError, match="forward hooks"):
        signal_propagation(nn.Linear(2, 2), torch.zeros(1, 2))  # type: ignore[arg-type]
