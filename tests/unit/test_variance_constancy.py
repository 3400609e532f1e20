"""The variance constancy loss against its formula, what it hooks, and what it refuses."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nfnets_lite import create_model
from nfnets_lite.norm.variance_constancy import VarianceConstancy

Array = np.ndarray


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(2, 3, 3), nn.ELU(), nn.Conv2d(3, 4, 1), nn.LeakyReLU(), nn.Flatten(), nn.Linear(16, 2))
    ).double()


def images(count: int = 12, seed: int = 1) -> Tensor:
    return torch.randn(count, 2, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def term(x: Array, offset: Array, size: int) -> float:
    var_a, var_b = x[:size].var(0, ddof=1), x[size : 2 * size].var(0, ddof=1)
    return float(((1 - var_a / (var_b + offset)) ** 2).mean())


def test_loss_is_the_formula_on_what_goes_into_each_activation() -> None:
    model = net()
    constancy = VarianceConstancy(model, images(1), size=4).double()
    assert [tuple(offset.shape) for offset in constancy.offsets] == [(3, 2, 2), (4, 2, 2)]
    assert all(bool((offset == 1).all()) for offset in constancy.parameters())
    with torch.no_grad():
        for offset in constancy.offsets:
            offset.uniform_(0.2, 2.0)
    x = images()
    model(x)
    loss = constancy.loss()
    inputs = [model[:1](x), model[:3](x)]
    expected = sum(term(i.detach().numpy(), b.detach().numpy(), 4) for i, b in zip(inputs, constancy.offsets))
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_gradients_reach_weights_and_offsets() -> None:
    model = net()
    constancy = VarianceConstancy(model, images(1)).double()

    def loss(weight: Tensor) -> Tensor:
        torch.func.functional_call(model, {"0.weight": weight}, (images(),))
        return constancy.loss()

    assert torch.autograd.gradcheck(loss, (model[0].weight.detach().clone().requires_grad_(),))
    model(images())
    constancy.loss().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in constancy.parameters())
    assert model[0].weight.grad is not None
    assert model[5].weight.grad is None  # behind the last activation


def test_offsets_stay_above_zero_where_the_loss_uses_them() -> None:
    model = net()
    constancy = VarianceConstancy(model, images(1)).double()
    with torch.no_grad():
        for offset in constancy.offsets:
            offset.fill_(-3.0)
    model(torch.zeros_like(images()))  # no variance at all: the ratio is 0 over the smallest offset
    assert constancy.loss().item() == pytest.approx(2)


def test_descending_it_makes_variances_constant() -> None:
    model = net()
    constancy = VarianceConstancy(model, images(1)).double()
    optimizer = torch.optim.SGD([*model[:4].parameters(), *constancy.parameters()], lr=0.2)
    losses = []
    for step in range(60):
        model(images(seed=step))
        loss = constancy.loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


def test_outputs_are_left_alone_and_modes_too() -> None:
    model = net().train()
    model[3].eval()
    x = images()
    before = model(x)
    constancy = VarianceConstancy(model, x)
    assert model.training
    assert not model[3].training
    assert torch.equal(model(x), before)
    model.train()
    model(x)
    model(2 * x)  # only the last pass counts
    assert len(constancy._inputs) == 2
    constancy.loss()
    for quiet in (model.eval(), model.train()):
        with torch.no_grad():
            quiet(x)
        with pytest.raises(RuntimeError, match=r"loss\(\) needs a forward pass of the model before"):
            constancy.loss()
    model(x)
    constancy.remove()
    assert not constancy._inputs
    model(x)
    assert not constancy._inputs


def test_an_example_that_the_model_refuses_leaves_no_hooks() -> None:
    model = net().train()
    with pytest.raises(RuntimeError):
        VarianceConstancy(model, torch.zeros(1, 1))
    assert all(module.training and not module._forward_pre_hooks for module in model.modules())


def test_a_module_that_runs_twice_has_two_layers() -> None:
    act = nn.ReLU()
    model = nn.Sequential(nn.Linear(3, 4), act, nn.Linear(4, 5), act)
    constancy = VarianceConstancy(model, torch.zeros(1, 3))
    assert [tuple(offset.shape) for offset in constancy.offsets] == [(4,), (5,)]
    model(torch.randn(10, 3))
    assert constancy.loss().isfinite()


def test_it_finds_the_activations_of_our_networks() -> None:
    model = create_model("cifar_resnet8", method="none")
    x = torch.randn(10, 3, 8, 8)
    constancy = VarianceConstancy(model, x[:1])
    acts = [module for module in model.modules() if type(module).__name__ == "ScaledActivation"]
    assert len(constancy.offsets) == len(acts) > 4
    with torch.autocast("cpu", torch.bfloat16):
        (model(x).sum() + constancy.loss()).backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in constancy.parameters())
    chosen = VarianceConstancy(model, x[:1], layers=[model.classifier])
    assert [tuple(offset.shape) for offset in chosen.offsets] == [(model.classifier.in_features,)]


def test_what_it_cannot_do_is_refused() -> None:
    model = net()
    constancy = VarianceConstancy(model, images(1))
    with pytest.raises(ValueError, match=r"the batch has 9 examples; two sub-batches of size=5 need 10"):
        model(images(9))
    constancy.remove()
    model(images(9))
    with pytest.raises(ValueError, match=r"size=1 must be at least 2"):
        VarianceConstancy(model, images(1), size=1)
    bare = nn.Sequential(nn.Linear(3, 4))
    with pytest.raises(ValueError, match=r"Sequential runs no activation that is a module.*pass layers="):
        VarianceConstancy(bare, torch.zeros(1, 3))
    assert not bare._forward_pre_hooks
