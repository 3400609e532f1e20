"""Batch-channel norm and the adaptive balance: several training steps against NumPy, and what evaluation does."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nfnets_lite.norm.ada_batch import AdaBatchNorm
from nfnets_lite.norm.batch_channel import BatchChannelNorm

Array = np.ndarray


def steps(count: int, n: int = 4, c: int = 8, side: int = 3) -> list[Tensor]:
    """Batches whose scale and mean differ from one to the next."""
    generator = torch.Generator().manual_seed(3)
    shape = (n, c, side, side)
    return [(i + 1.0) * torch.randn(shape, generator=generator, dtype=torch.float64) + 2 * i - 1 for i in range(count)]


def shuffle(norm: nn.Module) -> None:
    """Parameters that are not their start."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))


def per_channel(values: Array) -> Array:
    return values[None, :, None, None]


def batch_channel(x: Array, mean: Array, var: Array, norm: BatchChannelNorm) -> Array:
    weight, bias = norm.weight.detach().numpy(), norm.bias.detach().numpy()
    x = per_channel(weight) * (x - per_channel(mean)) / np.sqrt(per_channel(var) + 1e-5) + per_channel(bias)
    groups = x.reshape(len(x), norm.group.num_groups, -1)
    groups = groups - groups.mean(-1, keepdims=True)
    groups = groups / np.sqrt((groups**2).mean(-1, keepdims=True) + 1e-5)
    gain, shift = norm.group.weight.detach().numpy(), norm.group.bias.detach().numpy()
    return per_channel(gain) * groups.reshape(x.shape) + per_channel(shift)


@pytest.mark.parametrize("groups", [None, 4])
def test_batch_channel_follows_its_estimates_over_steps(groups: int | None) -> None:
    norm = BatchChannelNorm(8, groups=groups, rate=0.3).double()
    shuffle(norm)
    assert norm.group.num_groups == (groups or 2)
    mean, var = np.zeros(8), np.ones(8)
    for x in steps(4):
        batch = x.numpy()
        mean += 0.3 * (batch.mean((0, 2, 3)) - mean)
        var += 0.3 * (batch.var((0, 2, 3)) - var)
        np.testing.assert_allclose(norm(x).detach().numpy(), batch_channel(batch, mean, var, norm), atol=1e-12)
    np.testing.assert_allclose(norm.running_mean.numpy(), mean, atol=1e-14)
    np.testing.assert_allclose(norm.running_var.numpy(), var, atol=1e-13)
    x = steps(1)[0]
    np.testing.assert_allclose(norm.eval()(x).detach().numpy(), batch_channel(x.numpy(), mean, var, norm), atol=1e-12)
    np.testing.assert_allclose(norm.running_mean.numpy(), mean, atol=1e-14)  # which moves nothing


def test_batch_channel_takes_its_estimates_for_constants_in_the_backward_pass() -> None:
    norm, x = BatchChannelNorm(8, rate=0.5).double(), steps(2)[1]
    shuffle(norm)
    trained = x.clone().requires_grad_()
    norm(trained).cos().sum().backward()
    assert trained.grad is not None
    evaluated = x.clone().requires_grad_()  # the estimates are now the ones that training used
    norm.eval()(evaluated).cos().sum().backward()
    torch.testing.assert_close(trained.grad, evaluated.grad)
    # Not so in batch norm: its gradients add up to nothing in each channel.
    assert trained.grad.sum((0, 2, 3)).abs().min() > 1e-3


def test_batch_channel_two_forward_passes_before_the_backward_pass() -> None:
    norm, (first, second) = BatchChannelNorm(8).double(), steps(2)
    (norm(first.requires_grad_()).sum() + norm(second.requires_grad_()).square().sum()).backward()
    assert second.grad is not None
    assert second.grad.isfinite().all()


def test_batch_channel_on_one_example_and_a_constant_channel() -> None:
    norm = BatchChannelNorm(8)
    x = torch.randn(1, 8, 4, 4)
    x[:, 0] = 3.0
    for _ in range(200):
        y = norm(x)
    assert y.isfinite().all()
    assert norm.running_var[0] < 1e-6
    with pytest.raises(ValueError, match=r"batch-channel norm takes a variance over 1 example of one position"):
        norm(torch.zeros(1, 8, 1, 1))
    assert norm.eval()(torch.zeros(1, 8, 1, 1)).isfinite().all()


def test_batch_channel_refuses_what_it_cannot_have() -> None:
    with pytest.raises(ValueError, match="groups=3 does not divide channels=8; use one of 1, 2, 4, 8"):
        BatchChannelNorm(8, groups=3)
    with pytest.raises(ValueError, match=r"rate=0 must be in \(0, 1\]"):
        BatchChannelNorm(8, rate=0)


# --- adaptive balance


@pytest.mark.parametrize("kappa", [0.0, 0.3, 1.0])
def test_adaptive_balance_is_the_papers_recursion(kappa: float) -> None:
    norm, momentum = AdaBatchNorm(8, kappa=kappa, momentum=0.2).double(), 0.2
    mean, var, eta = np.zeros(8), np.ones(8), 0.0
    for t, x in enumerate(steps(6)):
        eta = momentum**kappa if t == 0 else eta / (eta + (1 - momentum) ** kappa)
        norm(x)
        mean += eta * (x.numpy().mean((0, 2, 3)) - mean)
        var += eta * (x.numpy().var((0, 2, 3), ddof=1) - var)
        np.testing.assert_allclose(norm.steps_averaged.item(), 1 / eta, rtol=1e-7)  # its start is float32
    np.testing.assert_allclose(norm.running_mean.numpy(), mean, rtol=1e-7)
    np.testing.assert_allclose(norm.running_var.numpy(), var, rtol=1e-7)


def test_at_kappa_0_it_is_the_mean_over_steps_and_at_kappa_1_torchs_batch_norm() -> None:
    cumulative, moving = (AdaBatchNorm(8, kappa).double() for kappa in (0.0, 1.0))
    torchs = nn.BatchNorm2d(8).double()
    batches = steps(5)
    for x in batches:
        torch.testing.assert_close(cumulative(x), torchs(x))  # the same in training, whatever is averaged
        moving(x)
    torch.testing.assert_close(cumulative.running_mean, torch.stack([x.mean((0, 2, 3)) for x in batches]).mean(0))
    torch.testing.assert_close(moving.running_mean, torchs.running_mean)
    torch.testing.assert_close(moving.running_var, torchs.running_var)
    torch.testing.assert_close(moving.eval()(batches[0]), torchs.eval()(batches[0]))
    assert int(moving.num_batches_tracked) == 5


def test_adaptive_balance_starts_again_with_its_statistics() -> None:
    norm, x = AdaBatchNorm(8, 0.5), torch.randn(4, 8, 3, 3)
    norm(x)
    once = {name: value.clone() for name, value in norm.state_dict().items()}
    norm(2 * x)
    norm.reset_running_stats()
    norm(x)
    assert all(torch.equal(value, once[name]) for name, value in norm.state_dict().items())


def test_adaptive_balance_gradient_one_example_and_errors() -> None:
    norm = AdaBatchNorm(2, 0.5).double()
    x = torch.randn(3, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(norm, (x,))
    constant = torch.full((3, 2, 2, 2), 7.0, dtype=torch.float64)
    torch.testing.assert_close(norm(constant), torch.zeros_like(constant))
    with pytest.raises(ValueError, match="one value has none"):
        norm(torch.zeros(1, 2, 1, 1, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"kappa=1.5 must be in \[0, 1\]"):
        AdaBatchNorm(2, kappa=1.5)
    with pytest.raises(ValueError, match=r"momentum=1.0 must be in \(0, 1\)"):
        AdaBatchNorm(2, momentum=1.0)
