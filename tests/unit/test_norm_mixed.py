"""PRepBN between its ends, the halves of IBN-a, the places of IBN norms, and the point-wise DyT and Derf."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nfnets_lite.norm.ibn import IBNa
from nfnets_lite.norm.pointwise import Derf, DyT
from nfnets_lite.norm.prepbn import PRepBN
from nfnets_lite.roles import parameter_roles

Array = np.ndarray


def data(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 1


def shuffled(norm: nn.Module) -> nn.Module:
    norm, generator = norm.double(), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return norm


def standard(x: Array, axes: tuple[int, ...]) -> Array:
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-5)


def affine(x: Array, norm: nn.Module) -> Array:
    weight, bias = (p.detach().numpy()[None, :, None, None] for p in (norm.weight, norm.bias))
    return weight * x + bias


@pytest.mark.parametrize(("layer", "axes"), [("layer2d", (1,)), ("layer", (1, 2, 3))])
@pytest.mark.parametrize("progress", [0.0, 0.25, 1.0])
def test_prepbn_is_the_mixture_of_its_two_norms(layer: str, axes: tuple[int, ...], progress: float) -> None:
    norm = shuffled(PRepBN(4, layer=layer))
    norm.progress.fill_(progress)
    mean, var = np.zeros(4), np.ones(4)
    for seed in range(3):
        x = data(5, 4, 3, 2, seed=seed)
        ln = affine(standard(x.numpy(), axes), norm.layer)
        repbn = affine(standard(x.numpy(), (0, 2, 3)), norm.batch) + norm.eta.item() * x.numpy()
        expected = (1 - progress) * ln + progress * repbn
        np.testing.assert_allclose(norm(x).detach().numpy(), expected, atol=1e-12)
        mean += 0.1 * (x.numpy().mean((0, 2, 3)) - mean)
        var += 0.1 * (x.numpy().var((0, 2, 3), ddof=1) - var)
    norm.eval()
    running = (x.numpy() - mean[None, :, None, None]) / np.sqrt(var[None, :, None, None] + 1e-5)
    repbn = affine(running, norm.batch) + norm.eta.item() * x.numpy()
    np.testing.assert_allclose(norm(x).detach().numpy(), (1 - progress) * ln + progress * repbn, atol=1e-12)
    assert torch.autograd.gradcheck(norm, (x[:1].clone().requires_grad_(),))
    assert torch.autograd.gradcheck(norm.train(), (x[:2].clone().requires_grad_(),))


def test_prepbn_folds_at_the_end_and_says_so_before() -> None:
    norm, x = shuffled(PRepBN(4)), data(5, 4, 3, 2)
    norm(x)
    norm.eval()
    norm.progress.fill_(0.75)
    with pytest.raises(ValueError, match=r"progress=0.75: .* call nfnets_lite.norm.set_progress\(model, 1.0\)"):
        norm.affine()
    norm.progress.fill_(1.0)
    scale, shift = norm.affine()
    torch.testing.assert_close(norm(x), x * scale[:, None, None] + shift[:, None, None])
    with pytest.raises(ValueError, match="layer='group' is not known; use one of layer2d, layer"):
        PRepBN(4, layer="group")


def test_prepbn_of_one_example_and_of_a_constant_channel() -> None:
    norm = PRepBN(4)
    norm.progress.fill_(0.5)
    x = torch.randn(1, 4, 3, 3)
    x[:, 1] = 4.0
    assert norm(x).isfinite().all()
    with pytest.raises(ValueError, match="one value has none"):
        norm(torch.zeros(1, 4, 1, 1))
    assert norm(torch.randn(2, 4, 1, 1, dtype=torch.bfloat16)).dtype == torch.bfloat16
    role = parameter_roles(norm, classifier=None)["eta"][1]
    assert (role.kind, role.decay) == ("gain", False)


# --- IBN


@pytest.mark.parametrize("channels", [4, 5])
def test_ibn_a_is_instance_norm_and_batch_norm_side_by_side(channels: int) -> None:
    norm, x = shuffled(IBNa(channels)), data(5, channels, 3, 2)
    first, second = x.numpy()[:, :2], x.numpy()[:, 2:]
    first = affine(standard(first, (2, 3)), norm.instance)
    expected = np.concatenate([first, affine(standard(second, (0, 2, 3)), norm.batch)], axis=1)
    np.testing.assert_allclose(norm(x).detach().numpy(), expected, atol=1e-12)
    mean, var = 0.1 * second.mean((0, 2, 3)), 0.9 + 0.1 * second.var((0, 2, 3), ddof=1)
    running = (second - mean[None, :, None, None]) / np.sqrt(var[None, :, None, None] + 1e-5)
    expected = np.concatenate([first, affine(running, norm.batch)], axis=1)
    np.testing.assert_allclose(norm.eval()(x).detach().numpy(), expected, atol=1e-12)
    assert torch.autograd.gradcheck(norm.train(), (x[:2].clone().requires_grad_(),))


def test_ibn_couples_examples_in_its_second_half_alone() -> None:
    norm, x = IBNa(4).double(), data(3, 4, 3, 3).requires_grad_()
    for half, coupled in ((slice(0, 2), False), (slice(2, 4), True)):
        (gradient,) = torch.autograd.grad(norm(x)[0, half].square().sum(), x)
        assert bool(gradient[1:].abs().max() > 0) is coupled


def test_ibn_of_one_example_a_constant_channel_and_errors() -> None:
    norm = IBNa(4)
    assert norm(torch.full((1, 4, 2, 2), 3.0)).abs().max() < 1e-3
    assert norm.eval()(torch.randn(1, 4, 2, 2)).isfinite().all()
    with pytest.raises(ValueError, match="instance norm takes a variance over 1 example of one position"):
        norm(torch.zeros(2, 4, 1, 1))
    with pytest.raises(ValueError, match="channels=1 must be at least 2"):
        IBNa(1)


# --- point-wise


@pytest.mark.parametrize("kind", [DyT, Derf])
def test_pointwise_norms_are_their_formulas(kind: type[DyT]) -> None:
    norm, x = shuffled(kind(3, alpha=0.8)), data(2, 3, 2, 2)
    alpha, s = norm.alpha.item(), norm.s.item() if isinstance(norm, Derf) else 0.0
    bounded = np.vectorize(math.erf if kind is Derf else math.tanh)(alpha * x.numpy() + s)
    assert s != 0 or kind is DyT
    np.testing.assert_allclose(norm(x).detach().numpy(), affine(bounded, norm), atol=1e-14)
    assert torch.equal(norm.eval()(x), norm.train()(x))
    assert torch.equal(norm(x[:1]), norm(x)[:1])
    assert torch.autograd.gradcheck(norm, (x.requires_grad_(),))
    assert not list(norm.buffers())


@pytest.mark.parametrize("kind", [DyT, Derf])
def test_pointwise_norms_start_as_published_and_learn_all_their_numbers(kind: type[DyT]) -> None:
    norm = kind(3)
    assert norm.alpha.item() == 0.5
    assert not isinstance(norm, Derf) or norm.s.item() == 0
    y = norm(torch.tensor([1e4, -1e4, 0.0]).reshape(1, 3, 1, 1))
    assert y.flatten().tolist() == [1, -1, 0]
    norm(torch.randn(2, 3, 2, 2)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in norm.parameters())
    kinds = {name: role.kind for name, (_, role) in parameter_roles(norm, classifier=None).items()}
    assert kinds == {name: "bias" if name == "bias" else "gain" for name in kinds}
    assert norm(torch.randn(1, 3, 1, 1, dtype=torch.bfloat16)).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="alpha=0 must be above 0"):
        kind(3, alpha=0)
