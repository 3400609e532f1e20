"""Sharpness-aware steps against a quadratic, where they are known in closed form."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from nfnets_lite.sam import ascended


def test_gradient_is_the_one_at_the_top_of_the_ascent() -> None:
    matrix = torch.diag(torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64))
    start = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    w = start.clone().requires_grad_()

    def loss() -> torch.Tensor:
        return 0.5 * w @ matrix @ w

    loss().backward()
    with ascended([w], radius=0.3) as norm:
        loss().backward()
    gradient = matrix @ start
    assert float(norm) == pytest.approx(float(gradient.norm()), rel=1e-6)
    expected = matrix @ (start + 0.3 * gradient / gradient.norm())
    torch.testing.assert_close(w.grad, expected, rtol=1e-6, atol=0)
    assert torch.equal(w.detach(), start)


def test_the_length_is_over_all_parameters_and_those_without_gradient_stay() -> None:
    a, b, c = (torch.ones(n, requires_grad=True) for n in (2, 3, 1))
    (a.sum() + 2 * b.sum()).backward()
    with ascended([a, b, c], radius=0.1):
        moved = torch.cat([a.detach() - 1, b.detach() - 1])
        assert float(moved.norm()) == pytest.approx(0.1, rel=1e-5)
        assert float(c.detach()) == 1
        assert a.grad is None
    assert all(torch.equal(x.detach(), torch.ones_like(x)) for x in (a, b, c))


def test_a_parameter_that_is_given_twice_climbs_once() -> None:
    w = torch.tensor([3.0, 4.0], requires_grad=True)
    w.square().sum().backward()
    with ascended([w, w], radius=0.5):
        torch.testing.assert_close(w.detach(), torch.tensor([3.3, 4.4]))
    assert torch.equal(w.detach(), torch.tensor([3.0, 4.0]))


def test_a_norm_that_overflows_is_seen() -> None:
    w = torch.tensor([3.0, 4.0], requires_grad=True)
    w.grad = torch.full((2,), 2e22)
    with ascended([w]):
        assert bool(w.isnan().all())
    assert torch.equal(w.detach(), torch.tensor([3.0, 4.0]))


def test_a_sparse_gradient_is_refused_and_a_complex_one_climbed() -> None:
    table = torch.nn.Embedding(4, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match=r"shape \(4, 2\) is sparse"), ascended(table):
        pass
    w = torch.tensor([3 + 4j, 0j], requires_grad=True)
    w.grad = torch.tensor([3 + 4j, 0j])
    with ascended([w], radius=0.5) as norm:
        assert float(norm) == 5.0
        torch.testing.assert_close(w.detach(), torch.tensor([3.3 + 4.4j, 0j]))


def test_parameters_may_lie_on_several_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """On fake tensors, which know devices that this machine does not have, and refuse to mix them."""
    monkeypatch.setattr(torch.Tensor, "copy_", lambda self, other: self)  # it alone needs torch built for the device
    with FakeTensorMode():
        weights = [torch.ones(3, device=device, requires_grad=True) for device in ("cuda:0", "cuda:1", "cpu")]
        for w in weights:
            w.grad = torch.ones_like(w)
        with ascended(weights) as norm:
            assert norm.device == torch.device("cuda:0")


def test_an_error_inside_puts_the_weights_back() -> None:
    w = torch.ones(2, requires_grad=True)
    w.sum().backward()
    with pytest.raises(RuntimeError, match="stop"), ascended([w]):
        raise RuntimeError("stop")
    assert torch.equal(w.detach(), torch.ones(2))


@pytest.mark.parametrize(("radius", "match"), [(0.0, "radius=0.0 must be above 0"), (0.05, "no parameter has")])
def test_errors(radius: float, match: str) -> None:
    with pytest.raises(ValueError, match=match), ascended([torch.ones(1, requires_grad=True)], radius):
        pass


def test_what_holds_no_tensors_is_refused() -> None:
    net = nn.Linear(2, 2)
    for given, kind in ((torch.optim.SGD(net.parameters(), 0.1), "SGD"), (net.named_parameters(), "tuple")):
        with pytest.raises(TypeError, match=f"parameters holds a {kind}; pass a model or tensors"), ascended(given):
            pass
