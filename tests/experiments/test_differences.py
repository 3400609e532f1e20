from copy import deepcopy

import pytest
import torch

import nfnets_lite as nf
from experiments.demos import differences
from experiments.demos.differences import FORWARD, clipped_classifier, clipped_gains, logit_difference


@pytest.fixture(scope="module")
def model() -> nf.create_model:  # type: ignore[valid-type]
    torch.manual_seed(0)
    return nf.create_model(
        "nfnet_f0", depth=(1, 1, 1, 1), width=(32, 64, 64, 64), group_width=16, num_classes=10, skip_gain=1.0,
        stochastic_depth=0.0, dropout=0.0,
    ).eval()  # fmt: skip


X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", FORWARD)
def test_each_difference_changes_the_output_and_nothing_else(model: torch.nn.Module, name: str) -> None:
    other = deepcopy(model)
    FORWARD[name].switch(other)
    assert logit_difference(model, model, X) == 0
    assert logit_difference(model, other, X) > 1e-4
    for (key, ours), theirs in zip(model.state_dict().items(), other.state_dict().values()):
        assert torch.equal(ours, theirs), key


def test_unbiased_and_added_epsilon_scale_a_filter_as_derived(model: torch.nn.Module) -> None:
    conv = nf.ScaledStdConv2d(3, 8, 3)
    unbiased, added = deepcopy(conv), deepcopy(conv)
    FORWARD["variance"].switch(unbiased)
    FORWARD["epsilon"].switch(added)
    norm = conv.effective_weight().flatten(1).norm(dim=1)
    assert torch.allclose(unbiased.effective_weight().flatten(1).norm(dim=1), norm * (26 / 27) ** 0.5, atol=1e-6)
    variance = conv.weight.flatten(1).var(1, correction=0)
    expected = (variance / (variance + 1e-5)).sqrt()
    assert torch.allclose(added.effective_weight().flatten(1).norm(dim=1), norm * expected, atol=1e-6)


def test_clipping_rules_on_known_gradients() -> None:
    conv = nf.ScaledStdConv2d(3, 4, 3)
    conv.gain.grad = torch.tensor([0.018, 0.0, 0.0, 0.0])
    # One unit: norm 0.018 against 0.01 * |(1, 1, 1, 1)| = 0.02. Four units: 0.018 against 0.01 * 1.
    assert clipped_gains(conv, 0.01, per_channel=False) == (0.0, pytest.approx(1.0))
    assert clipped_gains(conv, 0.01, per_channel=True) == (0.25, pytest.approx(0.01 / 0.018))


def test_clipping_the_classifier_is_measured_and_undone() -> None:
    linear = torch.nn.Linear(4, 2)
    torch.nn.init.ones_(linear.weight)
    linear.weight.grad = torch.tensor([[1.0, 0, 0, 0], [1e-3, 0, 0, 0]])
    before = linear.weight.grad.clone()
    fraction, left = clipped_classifier(linear, linear, 0.01)
    assert fraction == 0.5
    assert left == pytest.approx((0.02**2 + 1e-6) ** 0.5 / (1 + 1e-6) ** 0.5)
    assert torch.equal(linear.weight.grad, before)
    assert differences.gains(linear) == []
