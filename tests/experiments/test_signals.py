"""Signal propagation against known answers; the analysis against wide networks; the probes of batch norm."""

from dataclasses import replace
from math import isnan, pi

import pytest
import torch
from torch import nn

from experiments.configs import signal_propagation as config
from experiments.configs import sweep, why_normalize
from experiments.tasks.batch_noise import BatchNoise
from experiments.tasks.mean_field import Moments, inside, kernel, predict, rectified
from experiments.tasks.recipe import Data, Recipe
from experiments.tasks.signal_changes import CHANGES
from experiments.tasks.signals import Signals, slope
from experiments.tasks.why import Landscape, along
from nfnets_lite.models import ResNetSpec, model_spec
from nfnets_lite.models.resnet import ResNet
from nfnets_lite.padding import pad_same
from nfnets_lite.signal import predicted_moments, signal_propagation

CPU = torch.device("cpu")
DIGITS = Data("digits", train=1077, validation=360)


def wide(method: str, depth: tuple[int, ...] = (8,)) -> Signals:
    spec = config.network(method, depth, 64)
    return Signals(method, spec, None, batch=1, side=48)


def measured(run: Signals) -> dict[str, list[float]]:
    outcome = run.execute(CPU)
    assert outcome.status == "ok"
    return outcome.curve


# --- the analysis ----------------------------------------------------------------------------------------------------


def test_kernel_is_the_integral() -> None:
    torch.manual_seed(0)
    u, v = torch.randn(2, 2_000_000, dtype=torch.float64)
    for rho in (-0.7, 0.0, 0.4, 0.95):
        other = rho * u + (1 - rho**2) ** 0.5 * v
        assert 2 * float((u.relu() * other.relu()).mean()) == pytest.approx(kernel(rho), abs=5e-3)


def test_rectified_gaussian_has_variance_half_less_one_over_two_pi() -> None:
    after = rectified(Moments(1.0, 0.0))
    assert after.variance == pytest.approx((1 - 1 / pi) / 2)
    assert after.sq_mean == pytest.approx(after.level**2)


@pytest.mark.parametrize("method", ["bn", "bn_act_first", "none", "nf", "nf_alpha1", "nf_no_ws", "skipinit"])
@pytest.mark.parametrize("depth", [(5,), (3, 2)])
def test_without_padding_the_sum_of_both_moments_is_the_package_s_recursion(
    method: str, depth: tuple[int, ...]
) -> None:
    spec = replace(config.network(method, depth, 8), branch=(1, 3, 1))
    points = predict(spec, Moments(1.0, 0.0), side=2000)
    # The authors' constant for ReLU is 0.06 % above the integral, and it enters three times a block, squared.
    assert [x.second for x, _ in points] == pytest.approx(predicted_moments(ResNet(spec))[1:], rel=1e-2 * sum(depth))


def test_share_of_taps_inside_counts_them() -> None:
    for side, kernel_size, stride in ((8, 3, 1), (7, 3, 2), (8, 3, 2), (6, 1, 2)):
        layer = nn.functional.conv2d
        x, padding = pad_same(torch.ones(1, 1, side, side), (kernel_size,) * 2, (stride,) * 2, (1, 1))
        shares = layer(x, torch.ones(1, 1, kernel_size, kernel_size), stride=stride, padding=padding) / kernel_size**2
        mean, square = inside(side, kernel_size, stride)
        assert mean == pytest.approx(float(shares.mean()))
        assert square == pytest.approx(float(shares.square().mean()))


def test_nothing_is_predicted_outside_of_the_analysis() -> None:
    stem = Moments(1.0, 0.0)
    for spec in (
        config.network("rescale", (3,), 8),
        replace(config.network("nf", (3,), 8), activation="gelu"),
        config.network("bn", (3,), 8).with_method("gn"),
    ):
        assert predict(spec, stem, 8) == []
    run = replace(wide("rescale"), side=8)
    assert "predicted_variance" not in measured(run)
    assert "predicted_error" not in run.execute(CPU).metrics


# --- the measurement -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["bn", "bn_act_first", "nf_alpha1", "nf", "nf_no_gain", "nf_no_ws", "skipinit"])
def test_variance_follows_the_analysis_without_a_free_parameter(method: str) -> None:
    curve = measured(wide(method))
    assert curve["variance"] == pytest.approx(curve["predicted_variance"], rel=0.1)
    assert curve["branch_variance"] == pytest.approx(curve["predicted_branch_variance"], rel=0.25)


def test_known_slopes() -> None:
    metrics = {m: wide(m).execute(CPU).metrics for m in ("bn", "bn_act_first", "none", "nf", "nf_no_ws_alpha1")}
    assert metrics["bn"]["variance_slope"] == pytest.approx(1 - 1 / pi, rel=0.1)
    assert metrics["bn_act_first"]["variance_slope"] == pytest.approx(1.0, rel=0.1)
    assert metrics["bn_act_first"]["inverse_share_slope"] == pytest.approx(1.0, rel=0.1)
    assert metrics["bn_act_first"]["squared_mean_last"] < 0.01
    assert metrics["nf"]["variance_slope"] == pytest.approx(0.04, rel=0.15)
    assert metrics["none"]["growth"] == pytest.approx(2.0, rel=0.15)
    assert metrics["nf_no_ws_alpha1"]["squared_mean_last"] > 20 * metrics["nf"]["squared_mean_last"]


def test_a_transition_resets_the_variance_and_slopes_leave_it_out() -> None:
    run = wide("bn_act_first", (4, 4))
    variance, metrics = measured(run)["variance"], run.execute(CPU).metrics
    assert variance[5] == pytest.approx(2.0, rel=0.15)
    assert variance[5] < 0.6 * variance[4]
    assert metrics["variance_slope"] == pytest.approx(1.0, rel=0.15)


def test_slope_is_that_of_a_line_in_every_stage() -> None:
    assert slope([5.0, 8.0, 11.0, 2.0, 5.0], [[0, 1, 2], [3, 4]]) == pytest.approx(3.0)
    assert isnan(slope([1.0], [[0]]))


def test_equal_given_the_seed_whatever_the_generator_and_the_threads() -> None:
    run = replace(wide("nf"), side=16)
    torch.manual_seed(3)
    first = run.execute(CPU)
    torch.set_num_threads(2)
    assert run.execute(CPU) == first
    assert replace(run, seed=1).execute(CPU) != first


def test_images_are_the_data_s() -> None:
    run = replace(wide("nf"), data=DIGITS, batch=32, model=replace(wide("nf").model, in_channels=1))
    assert run.datasets == ("digits",)
    noise = replace(run, data=None, side=8)
    # Neighbouring pixels are alike, and a filter whose weights add up to 0 does not see what they have in common.
    assert measured(run)["variance"][0] < 0.9 * measured(noise)["variance"][0]


# --- one change at a time --------------------------------------------------------------------------------------------


def test_unknown_change_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"change='none' is not known; use one of .*'raw_shortcut'"):
        replace(wide("nf"), change="none")


def changed(change: str, method: str = "nf", **spec: object) -> list[float]:
    run = replace(wide(method, (3, 3)), side=32, change=change)
    return measured(replace(run, model=replace(run.model, **spec)))["variance"]  # type: ignore[arg-type]


def test_order_of_scale_and_activation_matters_for_gelu_only() -> None:
    assert changed("scale_first") == pytest.approx(changed(""), rel=1e-4)
    gelu, before = changed("", activation="gelu"), changed("scale_first", activation="gelu")
    assert gelu[0] == before[0]
    assert abs(gelu[-1] / before[-1] - 1) > 2e-3


def test_a_raw_shortcut_does_not_reset() -> None:
    reference, raw = changed(""), changed("raw_shortcut")
    assert raw[:4] == reference[:4]
    assert reference[4] < reference[3] < raw[4]


def test_stem_gain_and_unbiased_weights_scale_the_stem() -> None:
    reference = changed("")
    assert changed("stem_gain")[0] == pytest.approx(1.714**2 * reference[0], rel=1e-3)
    assert changed("unbiased")[0] == pytest.approx(26 / 27 * reference[0], rel=1e-4)


def test_batch_norm_at_its_start_does_nothing_in_evaluation() -> None:
    run = replace(wide("bn", (6,)), side=16)
    torch.manual_seed(run.seed)
    model = ResNet(run.model)
    for module in list(model.modules()):
        if isinstance(module, nn.Sequential) and hasattr(module, "norm"):
            module.norm = nn.Identity()
    noise = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(run.seed))
    bare = [signal.var for signal in signal_propagation(model, noise)]
    assert measured(replace(run, change="evaluation"))["variance"] == pytest.approx(bare, rel=1e-3)
    assert measured(run)["variance"][-1] < 0.5 * bare[-1]


def test_rescaling_alone_keeps_the_second_moment() -> None:
    run = replace(wide("none"), change="rescaled")
    assert run.execute(CPU).metrics["second_moment_drift"] < 0.2
    assert wide("none").execute(CPU).metrics["second_moment_drift"] > 10


def test_every_change_is_made_and_the_deepest_network_is_the_stack() -> None:
    for profile in ("smoke", "small", "gpu", "paper"):
        cells = [cell for cell in sweep("signal_propagation", profile).cells if isinstance(cell, Signals)]
        assert {cell.change for cell in cells} == set(CHANGES)
        # The claims pick the runs on noise of the deepest network by method: there must be one of each.
        deepest = max(sum(cell.model.depth) for cell in cells)
        picked = [c.method for c in cells if sum(c.model.depth) == deepest and not c.change and c.data is None]
        assert sorted(picked) == sorted(config.METHODS)


# --- what batch norm does in training --------------------------------------------------------------------------------


def test_landscape_of_a_parabola() -> None:
    class Line(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images @ torch.diag(self.weight)

    model, images, labels = Line(), torch.eye(2), torch.tensor([0, 1])
    found = along(model, images, labels, [1.0, 2.0])
    w = torch.zeros(2, requires_grad=True)
    loss = nn.functional.cross_entropy(torch.diag(w), labels)
    (start,) = torch.autograd.grad(loss, w)
    for row, rate in zip(found, (0.0, 1.0, 2.0)):
        there = (w - rate * start).detach().requires_grad_()
        value = nn.functional.cross_entropy(torch.diag(there), labels)
        (now,) = torch.autograd.grad(value, there)
        assert row.tolist() == pytest.approx([x.item() for x in (value, now.norm(), (now - start).norm())], abs=1e-6)


def landscape(method: str, *, noisy: bool = False, points: int = 4) -> Landscape:
    spec = model_spec("cifar_resnet8", method=method, width=(8, 16, 32), stem_width=8, in_channels=1)
    assert isinstance(spec, ResNetSpec)
    return Landscape(method, spec, DIGITS, Recipe(32, 0, 0.2, updates=24), noisy, points)


def test_looking_does_not_change_the_training_and_noise_does() -> None:
    few, many = landscape("bn", points=1).execute(CPU), landscape("bn", points=6).execute(CPU)
    assert few.curve["loss"] == many.curve["loss"]
    assert len(many.curve["probed"]) == len(many.curve["gradient_change"]) == 6
    noisy = landscape("bn", noisy=True).execute(CPU)
    assert noisy.curve["loss"] != few.curve["loss"]
    assert noisy == landscape("bn", noisy=True).execute(CPU)


def test_the_gradient_changes_less_with_batch_norm() -> None:
    bn, none = (landscape(m).execute(CPU).metrics["gradient_change_range"] for m in ("bn", "none"))
    assert none > 2 * bn


def test_a_landscape_that_diverges_is_said_to() -> None:
    run = replace(landscape("none"), recipe=Recipe(32, 0, 1e4, updates=24))
    outcome = run.execute(CPU)
    assert outcome.status == "diverged"
    assert 1 <= outcome.metrics["diverged_at"] <= 24


def test_only_batch_norm_is_noisy_and_less_so_in_large_batches() -> None:
    def noise(method: str) -> dict[str, float]:
        return BatchNoise(method, landscape(method).model, DIGITS, (2, 8, 32)).execute(CPU).metrics

    bn = noise("bn")
    assert bn["noise_smallest"] > 1.5 * bn["noise_largest"] > 0.05
    assert -0.8 < bn["noise_exponent"] < -0.2
    assert noise("gn")["noise_smallest"] < 1e-6
    assert "noise_exponent" not in noise("nf")


def test_the_shared_rate_is_one_of_those_shown() -> None:
    for profile in ("smoke", "small", "gpu", "paper"):
        assert why_normalize.SCALES[profile].rate in why_normalize.RATES
        methods = {type(cell).__name__ for cell in why_normalize.sweep(profile).cells}
        assert methods == {"Training", "BatchNoise", "Landscape"}
