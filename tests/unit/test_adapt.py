"""Test-time statistics: both methods against NumPy, over a stream where there is state, and what is refused."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nfnets_lite.adapt import AlphaBatchNorm, UnMixNorm, alpha_bn, unmix_tns
from nfnets_lite.norm.batch import GhostBatchNorm2d

Array = np.ndarray


def data(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 1


def trained(norm: nn.Module) -> nn.Module:
    """With parameters and running statistics that are not their start."""
    norm = norm.double()
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(1))
        norm.bias.uniform_(-1.0, 1.0, generator=torch.Generator().manual_seed(2))
        norm.running_mean.uniform_(-1.0, 1.0, generator=torch.Generator().manual_seed(3))
        norm.running_var.uniform_(0.5, 3.0, generator=torch.Generator().manual_seed(4))
    return norm.eval()


def wide(values: Array) -> Array:
    return values[..., None, None]


def normalised(norm: nn.Module, x: Array, mean: Array, var: Array) -> Array:
    weight, bias = norm.weight.detach().numpy(), norm.bias.detach().numpy()
    return wide(weight) * (x - wide(mean)) / np.sqrt(wide(var) + norm.eps) + wide(bias)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_alpha_bn_mixes_both_statistics(alpha: float) -> None:
    norm, x = trained(nn.BatchNorm2d(4)), data(6, 4, 3, 3)
    source = norm.running_mean.numpy().copy(), norm.running_var.numpy().copy()
    mean = alpha * source[0] + (1 - alpha) * x.numpy().mean((0, 2, 3))
    var = alpha * source[1] + (1 - alpha) * x.numpy().var((0, 2, 3))
    adapted = alpha_bn(norm, alpha)
    for _ in range(2):  # nothing is kept
        np.testing.assert_allclose(adapted(x).detach().numpy(), normalised(norm, x.numpy(), mean, var), atol=1e-12)
    np.testing.assert_array_equal(norm.running_mean.numpy(), source[0])


def test_alpha_bn_ends_are_the_evaluation_and_the_training() -> None:
    norm, x = trained(nn.BatchNorm2d(4)), data(6, 4, 3, 3)
    torch.testing.assert_close(alpha_bn(norm, 1.0)(x), norm(x))
    torch.testing.assert_close(alpha_bn(norm, 0.0)(x), copy.deepcopy(norm).train()(x))
    single = alpha_bn(norm, 1.0)(x[:1, :, :1, :1])
    torch.testing.assert_close(single, norm(x[:1, :, :1, :1]))
    with pytest.raises(ValueError, match=r"one value per channel .* use alpha=1"):
        alpha_bn(norm, 0.5)(x[:1, :, :1, :1])


class Components:
    """UnMix-TNS as its formulas, for one norm, looped over examples and components."""

    def __init__(self, norm: UnMixNorm, rate: float) -> None:
        self.means, self.vars, self.rate = norm.means.numpy().copy(), norm.variances.numpy().copy(), rate

    def statistics(self, x: Array) -> tuple[Array, Array]:
        shares, moves, means, variances = [], [], [], []
        for example in x:
            mu, var = example.mean((1, 2)), example.var((1, 2))
            cosine = [mu @ m / (np.linalg.norm(mu) * np.linalg.norm(m)) for m in self.means]
            share = np.exp(np.array(cosine) / 0.07)
            share /= share.sum()
            mixed = [(1 - p) * m + p * mu for p, m in zip(share, self.means)]
            mixed_var = [(1 - p) * v + p * var for p, v in zip(share, self.vars)]
            means.append(np.mean(mixed, 0))
            variances.append(np.mean(mixed_var, 0) + np.mean(np.square(mixed), 0) - np.mean(mixed, 0) ** 2)
            shares.append(share)
            moves.append((share[:, None] * (mu - self.means), share[:, None] * (var - self.vars)))
        self.means = self.means + self.rate * np.mean([move[0] for move in moves], 0)
        self.vars = self.vars + self.rate * np.mean([move[1] for move in moves], 0)
        return np.array(means), np.array(variances)


def test_unmix_tns_is_its_formulas_over_a_stream() -> None:
    norm = trained(nn.BatchNorm2d(4))
    adapted = unmix_tns(norm, components=3, momentum=0.2, batch_size=32)
    assert isinstance(adapted, UnMixNorm)
    rule = Components(adapted, 1 - 0.8**0.5)
    for seed in range(4):
        x = data(5, 4, 3, 3, seed=seed) * (seed + 1)
        mean, var = rule.statistics(x.numpy())
        np.testing.assert_allclose(adapted(x).detach().numpy(), normalised(norm, x.numpy(), mean, var), atol=1e-11)
    np.testing.assert_allclose(adapted.means.numpy(), rule.means, atol=1e-12)
    np.testing.assert_allclose(adapted.variances.numpy(), rule.vars, atol=1e-12)


def test_unmix_tns_starts_as_a_mixture_with_the_sources_moments() -> None:
    norm = trained(nn.BatchNorm2d(4))
    adapted = unmix_tns(norm, components=4096)
    assert isinstance(adapted, UnMixNorm)
    total = adapted.variances.mean(0) + adapted.means.var(0, correction=0)
    torch.testing.assert_close(adapted.means.mean(0), norm.running_mean, atol=0.06, rtol=0)
    torch.testing.assert_close(total, norm.running_var, rtol=0.04, atol=0)
    torch.testing.assert_close(adapted.variances, (norm.running_var / 2).expand(4096, -1))
    one = unmix_tns(norm, components=1)
    assert isinstance(one, UnMixNorm)
    assert torch.equal(one.means[0], norm.running_mean)
    assert torch.equal(one.variances[0], norm.running_var)


def test_unmix_tns_is_repeatable_and_sees_earlier_batches_but_not_its_own() -> None:
    norm, x, other = trained(nn.BatchNorm2d(4)), data(4, 4, 3, 3), data(4, 4, 3, 3, seed=9)
    whole, single = (unmix_tns(norm) for _ in range(2))
    torch.testing.assert_close(whole(x)[:1], single(x[:1]))
    changed = unmix_tns(norm)
    changed(other)
    assert not torch.allclose(changed(x), unmix_tns(norm)(x))
    assert torch.equal(unmix_tns(norm)(x), unmix_tns(norm)(x))
    assert not torch.equal(unmix_tns(norm, seed=1)(x), unmix_tns(norm)(x))
    assert whole(data(1, 4, 1, 1)).isfinite().all()
    assert whole(torch.full((2, 4, 3, 3), 5.0, dtype=torch.float64)).isfinite().all()


def test_a_whole_model_is_copied_and_only_its_batch_norms_change() -> None:
    shared = nn.BatchNorm2d(4)
    model = nn.Sequential(
        *(nn.Conv2d(3, 4, 3), shared, nn.ReLU(), nn.Conv2d(4, 4, 1), shared, GhostBatchNorm2d(4)),
        *(nn.GroupNorm(2, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(4, affine=False)),
    ).train()
    x, state = torch.randn(6, 3, 6, 6), {name: value.clone() for name, value in model.state_dict().items()}
    for adapted, kind in ((alpha_bn(model, 0.5), AlphaBatchNorm), (unmix_tns(model, components=4), UnMixNorm)):
        assert not adapted.training
        assert adapted[1] is adapted[4]
        assert sum(isinstance(module, kind) for module in adapted.modules()) == 3
        assert isinstance(adapted[6], nn.GroupNorm)
        out = adapted(x.requires_grad_())
        out.square().sum().backward()
        assert x.grad is not None
        assert x.grad.isfinite().all()
        with torch.autocast("cpu", torch.bfloat16):
            assert adapted(x).isfinite().all()
    assert model.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [type(module) for module in model].count(nn.BatchNorm2d) == 2


def test_unmix_tns_leaves_inputs_without_positions_to_the_source() -> None:
    norm = trained(nn.BatchNorm1d(4))
    x = data(6, 4)
    torch.testing.assert_close(unmix_tns(norm)(x), norm(x))
    mixed = alpha_bn(norm, 0.0)(x)
    torch.testing.assert_close(mixed, copy.deepcopy(norm).train()(x))


def test_an_empty_batch_changes_no_component() -> None:
    adapted, x = unmix_tns(trained(nn.BatchNorm2d(4))), data(4, 4, 3, 3)
    before = copy.deepcopy(adapted.state_dict())
    assert adapted(x[:0]).shape == (0, 4, 3, 3)
    assert all(torch.equal(value, before[name]) for name, value in adapted.state_dict().items())
    assert adapted(x).isfinite().all()


def test_one_image_without_a_batch_is_refused_as_by_batch_norm() -> None:
    norm = trained(nn.BatchNorm2d(4))
    for adapted in (alpha_bn(norm, 0.5), unmix_tns(norm)):
        with pytest.raises(ValueError, match="expected 4D input"):
            adapted(data(4, 4, 3))  # one image, as high as it has channels


def test_hooks_stay() -> None:
    norm, seen = trained(nn.BatchNorm2d(4)), []
    norm.register_forward_hook(lambda _m, _i, y: seen.append(y.shape))
    norm.register_forward_hook(lambda _m, _i, y: 2 * y)
    x = data(4, 4, 3, 3)
    torch.testing.assert_close(alpha_bn(norm, 1.0)(x), norm(x))
    unmix_tns(norm)(x)
    assert len(seen) == 3


@pytest.mark.parametrize("within", [torch.inference_mode, lambda: torch.device("meta")], ids=["inference", "meta"])
def test_a_model_may_be_adapted_in_any_mode_and_used_in_another(within: Callable[[], Any]) -> None:
    norm, x = trained(nn.BatchNorm2d(4)), data(5, 4, 3, 3)
    for make in (lambda: alpha_bn(norm, 0.5), lambda: unmix_tns(norm, components=4)):
        with within():
            adapted = make()
        torch.testing.assert_close(adapted(x), make()(x))
        adapted(x).sum().backward()


def test_narrow_images_come_out_narrow() -> None:
    norm = nn.BatchNorm2d(4)
    x = torch.randn(5, 4, 3, 3).bfloat16()
    for adapted, whole in ((alpha_bn(norm, 0.3), alpha_bn(norm, 0.3)), (unmix_tns(norm), unmix_tns(norm))):
        narrow = adapted(x)
        assert narrow.dtype == torch.bfloat16
        torch.testing.assert_close(narrow.float(), whole(x.float()), rtol=1e-2, atol=1e-2)


def test_what_cannot_be_adapted_is_refused() -> None:
    for model in (nn.Conv2d(3, 4, 3), nn.Sequential(nn.GroupNorm(2, 4)), nn.BatchNorm2d(4, track_running_stats=False)):
        with pytest.raises(ValueError, match=r"holds no batch norm with running statistics.*use the model as it is"):
            alpha_bn(model, 0.5)
        with pytest.raises(ValueError, match="nothing to mix"):
            unmix_tns(model)
    with pytest.raises(ValueError, match=r"alpha=1.2 must be in \[0, 1\]"):
        alpha_bn(nn.BatchNorm2d(4), 1.2)
    with pytest.raises(ValueError, match="components=0 and batch_size=64 must be at least 1"):
        unmix_tns(nn.BatchNorm2d(4), components=0)
