"""PowerNorm and unified normalisation: forward and backward, several steps, against the papers' rules in NumPy."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nfnets_lite.norm.power import PowerNorm
from nfnets_lite.norm.unified import UnifiedNorm

Array = np.ndarray
EPS = 1e-5


def means(x: Array) -> Array:
    return x.mean((0, 2, 3))


def wide(values: Array) -> Array:
    return values[None, :, None, None]


def batches(count: int, c: int = 3, wild: dict[int, float] | None = None) -> list[tuple[Tensor, Tensor]]:
    """Inputs and the gradients that come back to them; `wild` multiplies the inputs of some steps."""
    generator = torch.Generator().manual_seed(7)
    made = []
    for i in range(count):
        x, grad = (torch.randn(4, c, 3, 2, generator=generator, dtype=torch.float64) for _ in range(2))
        # Gradients that go with the activations, or the statistic of both would be noise about 0.
        made.append(((1 + 0.2 * i) * (wild or {}).get(i, 1.0) * x + 0.5, grad + 0.7 * x))
    return made


def step(norm: nn.Module, x: Tensor, grad: Tensor) -> tuple[Array, dict[str, Array]]:
    """Output of a training step, and the gradients of input, gain and bias."""
    x = x.clone().requires_grad_()
    norm.zero_grad()
    y = norm(x)
    y.backward(grad)
    assert x.grad is not None
    gradients = {"x": x.grad, **{name: p.grad for name, p in norm.named_parameters() if p.grad is not None}}
    return y.detach().numpy(), {name: value.numpy() for name, value in gradients.items()}


def shuffled(norm: nn.Module) -> nn.Module:
    norm = norm.double()
    with torch.no_grad():
        for name, parameter in norm.named_parameters():
            parameter.add_(torch.linspace(-0.4, 0.6, len(parameter)) if name == "weight" else 0.25)
    return norm


@dataclass
class Power:
    """The paper's algorithm 2, with the running quantities of its own."""

    gain: Array
    shift: Array
    alpha: float
    square: Array = field(default_factory=lambda: np.ones(3))
    nu: Array = field(default_factory=lambda: np.zeros(3))

    def step(self, x: Array, grad: Array, warm: bool) -> tuple[Array, dict[str, Array]]:
        batch = means(x**2)
        psi = np.sqrt((batch if warm else self.square) + EPS)
        z = x / wide(psi)
        g = wide(self.gain) * grad
        both, squares = means(g * z), means(z * z)
        for_x = (g - wide(both if warm else self.nu) * z) / wide(psi)
        self.square = self.alpha * self.square + (1 - self.alpha) * batch
        self.nu = self.nu * (1 - (1 - self.alpha) * squares) + (1 - self.alpha) * both
        gradients = {"x": for_x, "weight": (grad * z).sum((0, 2, 3)), "bias": grad.sum((0, 2, 3))}
        return wide(self.gain) * z + wide(self.shift), gradients


def compare(ours: tuple[Array, dict[str, Array]], theirs: tuple[Array, dict[str, Array]]) -> None:
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-12)
    for name, gradient in theirs[1].items():
        np.testing.assert_allclose(ours[1][name], gradient, atol=1e-11, err_msg=name)


def test_power_norm_is_the_papers_rule_through_warm_up_and_after() -> None:
    norm = shuffled(PowerNorm(3, alpha=0.8, warmup=0.3))
    rule = Power(norm.weight.detach().numpy(), norm.bias.detach().numpy(), 0.8)
    made = batches(10)
    for i, (x, grad) in enumerate(made):
        norm.progress.fill_(i / 10)
        compare(step(norm, x, grad), rule.step(x.numpy(), grad.numpy(), warm=i / 10 < 0.3))
        np.testing.assert_allclose(norm.gradient_statistic.numpy(), rule.nu, atol=1e-13)
        np.testing.assert_allclose(norm.running_square.numpy(), rule.square, atol=1e-13)
    assert np.abs(rule.nu).min() > 0.05  # else nothing would show what it does
    x = made[0][0]
    expected = wide(rule.gain) * x.numpy() / np.sqrt(wide(rule.square) + EPS) + wide(rule.shift)
    np.testing.assert_allclose(norm.eval()(x).detach().numpy(), expected, atol=1e-12)
    scale, shift = norm.affine()
    torch.testing.assert_close(norm(x), x * scale[:, None, None] + shift[:, None, None])
    np.testing.assert_allclose(norm.running_square.numpy(), rule.square, atol=1e-13)  # evaluation moves nothing


@pytest.mark.parametrize("kind", [PowerNorm, UnifiedNorm])
def test_the_warm_up_and_the_evaluation_have_exact_gradients(kind: type[nn.Module]) -> None:
    norm = shuffled(kind(3))
    x = torch.randn(3, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(norm, (x,))
    assert torch.autograd.gradcheck(norm.eval(), (x,))


def test_power_norm_after_the_warm_up_has_not() -> None:
    norm = shuffled(PowerNorm(3, warmup=0.0))
    for x, grad in batches(3):
        step(norm, x, grad)
    x = torch.randn(3, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert not torch.autograd.gradcheck(norm, (x,), raise_exception=False)


def test_power_norm_after_the_warm_up_sees_no_other_example_of_its_batch() -> None:
    first, second = (shuffled(PowerNorm(3, warmup=0.0)) for _ in range(2))
    x = batches(1)[0][0]
    other = torch.cat([x[:1], 100 * x[1:]])
    assert torch.equal(first(x)[0], second(other)[0])
    assert not torch.equal(first(x)[0], second(x)[0])  # but the batch before


def test_power_norm_with_groups_first_scales_each_position() -> None:
    grouped, plain = (shuffled(PowerNorm(6, warmup=0.0, groups=groups)) for groups in (2, None))
    for x, _ in batches(3, c=6):
        halves = x.reshape(4, 2, 3, 3, 2)
        scaled = (halves / (halves.square().mean(2, keepdim=True) + EPS).sqrt()).reshape(x.shape)
        torch.testing.assert_close(grouped(x), plain(scaled))
    torch.testing.assert_close(grouped.eval()(x), plain.eval()(scaled))
    with pytest.raises(ValueError, match="groups=2: each position is divided by a root mean square of its own"):
        grouped.affine()
    with pytest.raises(ValueError, match="groups=4 does not divide channels=6"):
        PowerNorm(6, groups=4)


# --- unified normalisation


@dataclass
class Unified:
    """The paper's section on fluctuation smoothing and outlier filtration, written with lists."""

    gain: Array
    shift: Array
    window: int
    alpha: float
    filtration: bool = True
    square: Array = field(default_factory=lambda: np.ones(3))
    psi: Array = field(default_factory=lambda: np.zeros(3))
    moments: list[Array] = field(default_factory=list)
    gradients: list[Array] = field(default_factory=list)
    outliers: list[int] = field(default_factory=list)

    def step(self, i: int, x: Array, grad: Array, warm: bool) -> tuple[Array, dict[str, Array]]:
        now, m = means(x**2), self.window
        recent = np.array([*self.moments[-(m - 1) :], now])
        geometric = np.prod(recent, axis=0) ** (1 / len(recent))
        outlier = False
        if self.filtration and not warm and i >= m:
            spread = np.sqrt(np.array(self.moments[-m:])).var(ddof=1)  # over steps and channels
            outlier = bool((recent.mean(0) - geometric > m * spread).any())
        alone = warm or i < m or outlier
        used = now if alone else geometric
        z = x / wide(np.sqrt(used + EPS))
        g = wide(self.gain) * grad
        both = means(g * z)
        self.moments.append(self.square if outlier else now)
        self.gradients.append(self.psi if outlier else both)
        records = np.array([*[np.zeros(3)] * m, *self.gradients])[-m:]
        self.psi = self.alpha * self.psi + (1 - self.alpha) * records.mean(0)
        self.square = self.alpha * self.square + (1 - self.alpha) * used
        self.outliers += [i] * outlier
        for_x = (g - wide(both if alone else self.psi) * z) / wide(np.sqrt(used + EPS))
        gradients = {"x": for_x, "weight": (grad * z).sum((0, 2, 3)), "bias": grad.sum((0, 2, 3))}
        return wide(self.gain) * z + wide(self.shift), gradients


@pytest.mark.parametrize(
    ("window", "filtration", "wild", "outliers"),
    [
        (2, False, {}, []),
        (4, False, {7: 30.0}, []),
        (4, True, {}, []),
        (4, True, {8: 30.0}, [8]),
        (3, True, {2: 9.0}, []),
    ],
)
def test_unified_norm_is_the_papers_rule(
    window: int, filtration: bool, wild: dict[int, float], outliers: list[int]
) -> None:
    norm = shuffled(UnifiedNorm(3, window=window, alpha=0.8, warmup=0.2, filtration=filtration))
    rule = Unified(norm.weight.detach().numpy(), norm.bias.detach().numpy(), window, 0.8, filtration)
    made = batches(14, wild=wild)
    # Channels of different size, as they are in networks: the threshold's variance is over channels too.
    made = [(x * torch.tensor([0.5, 1.0, 2.0])[:, None, None], grad) for x, grad in made]
    for i, (x, grad) in enumerate(made):
        norm.progress.fill_(i / len(made))
        compare(step(norm, x, grad), rule.step(i, x.numpy(), grad.numpy(), warm=i / len(made) < 0.2))
        np.testing.assert_allclose(norm.gradient_statistic.numpy(), rule.psi, atol=1e-12)
        np.testing.assert_allclose(norm.running_square.numpy(), rule.square, atol=1e-12)
    assert rule.outliers == outliers
    assert int(norm.skipped) == len(outliers)
    assert int(norm.steps) == len(made)
    np.testing.assert_allclose(norm.squares.numpy(), np.array(rule.moments[-window:]), atol=1e-12)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    x = made[0][0]
    expected = wide(rule.gain) * x.numpy() / np.sqrt(wide(rule.square) + EPS) + wide(rule.shift)
    np.testing.assert_allclose(norm.eval()(x).detach().numpy(), expected, atol=1e-12)
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


def test_unified_norm_smooths_one_large_step_that_is_not_filtered() -> None:
    norm = UnifiedNorm(1, window=4, warmup=0.0, filtration=False, eps=0.0).double()
    for size in (1.0, 1.0, 1.0, 1.0, 16.0):
        y = norm(torch.full((2, 1, 2, 2), size, dtype=torch.float64))
    assert y.max().item() == pytest.approx(16 / (16 ** (2 / 4)) ** 0.5)  # batch norm would give 1


@pytest.mark.parametrize("kind", [PowerNorm, UnifiedNorm])
@pytest.mark.parametrize("progress", [0.0, 1.0])
def test_one_example_a_constant_channel_and_an_empty_one(kind: type[nn.Module], progress: float) -> None:
    norm = kind(3)
    norm.progress.fill_(progress)
    x = torch.randn(1, 3, 1, 1).expand(1, 3, 2, 2).clone()
    x[:, 1], x[:, 2] = 5.0, 0.0
    for _ in range(100):
        y = norm(x.requires_grad_())
        y.square().sum().backward()
    assert x.grad is not None
    assert y.isfinite().all()
    assert x.grad.isfinite().all()
    assert y[0, 1, 0, 0].item() == pytest.approx(1, abs=1e-3)
    assert (y[:, 2] == 0).all()
    assert norm(torch.randn(1, 3, 1, 1)).isfinite().all()


@pytest.mark.parametrize("kind", [PowerNorm, UnifiedNorm])
def test_narrow_inputs_are_computed_wide_and_come_out_narrow(kind: type[nn.Module]) -> None:
    narrow, whole = kind(3, warmup=0.0), kind(3, warmup=0.0)
    for x, grad in batches(6):
        a, b = x.bfloat16().requires_grad_(), x.bfloat16().float().requires_grad_()
        first, second = narrow(a), whole(b)
        first.backward(grad.bfloat16())
        second.backward(grad.bfloat16().float())
        assert first.dtype == torch.bfloat16
        torch.testing.assert_close(first.float(), second, rtol=1e-2, atol=1e-2)
        assert a.grad is not None
        assert b.grad is not None
        torch.testing.assert_close(a.grad.float(), b.grad, rtol=1e-2, atol=1e-2)
    for name, value in narrow.state_dict().items():
        torch.testing.assert_close(value, whole.state_dict()[name], msg=name)


@pytest.mark.parametrize("kind", [PowerNorm, UnifiedNorm])
def test_numbers_out_of_range_are_refused(kind: type[nn.Module]) -> None:
    with pytest.raises(ValueError, match=r"alpha=1.0 must be in \[0, 1\)"):
        kind(3, alpha=1.0)
    with pytest.raises(ValueError, match=r"warmup=-0.1 must be in \[0, 1\]"):
        kind(3, warmup=-0.1)


def test_a_window_of_one_step_is_refused() -> None:
    with pytest.raises(ValueError, match="window=1 must be at least 2 steps"):
        UnifiedNorm(3, window=1)
