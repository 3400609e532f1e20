"""What a chapter makes clipping mistakes with: its measures have known answers for right and for wrong updates."""

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from experiments.demos import clip_coupling, mistakes
from nfnets_lite.agc import adaptive_clip_grad_
from nfnets_lite.roles import parameter_roles


def scaled(factor: float) -> mistakes.Update:
    """Clipped as it should be, then made so many times as long."""

    def update(model: nn.Module, optimizer: Optimizer, images: Tensor, labels: Tensor) -> None:
        mistakes.loss_of(model, images, labels).backward()
        adaptive_clip_grad_(model, mistakes.FACTOR)
        for p in model.parameters():
            p.grad.mul_(factor)
        optimizer.step()

    return update


def test_the_bench_clips_and_the_measures_see_it() -> None:
    assert mistakes.largest_ratio(mistakes.correct) == pytest.approx(1, rel=1e-5)
    assert mistakes.largest_ratio(scaled(3.0)) == pytest.approx(3, rel=1e-5)
    assert mistakes.largest_ratio(mistakes.unclipped) > 2
    assert mistakes.classifier_left(mistakes.correct) == 1
    assert mistakes.classifier_left(scaled(0.5)) == pytest.approx(0.5)
    assert mistakes.against_correct(mistakes.correct) == (1, 0)
    assert mistakes.against_correct(scaled(3.0)) == pytest.approx((3, 2), rel=1e-4)


def test_the_first_step_of_sgd_is_bounded_and_that_of_adam_is_not() -> None:
    # Nesterov's first step is 1.9 gradients long; decay adds a little.
    bound = mistakes.RATE * mistakes.FACTOR * 1.9
    assert 0.9 * bound < mistakes.largest_move(mistakes.correct, mistakes.sgd) < 1.1 * bound
    adam = mistakes.largest_move(mistakes.correct, lambda model: torch.optim.Adam(model.parameters(), lr=0.256))
    assert adam > 50 * bound


def test_training_is_paired_by_seed_and_leaves_the_global_generator() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, again = (mistakes.train(mistakes.correct, updates=6) for _ in range(2))
    assert torch.equal(torch.rand(1), expected)
    assert first == again
    assert len(first) == len(mistakes.SEEDS)
    assert len(set(first)) > 1


def test_only_one_half_is_clipped() -> None:
    for weights in (True, False):
        model, images, labels = mistakes.started(2)
        mistakes.only(weights=weights)(model, torch.optim.SGD(model.parameters(), lr=0.0), images, labels)
        clipped = {name: p.grad.clone() for name, p in model.named_parameters()}
        model.zero_grad()
        mistakes.unclipped(model, torch.optim.SGD(model.parameters(), lr=0.0), images, labels)
        for name, (p, role) in parameter_roles(model).items():
            if (role.clip and (role.kind == "weight") != weights) or not role.clip:
                assert torch.equal(clipped[name], p.grad), name
        assert any(not torch.equal(clipped[name], p.grad) for name, p in model.named_parameters())


def test_each_gradient_is_that_of_the_example_alone() -> None:
    model, images, labels = mistakes.started(1)
    each = clip_coupling.each_gradient(model, images[:4], labels[:4])
    for i in range(4):
        model.zero_grad()
        mistakes.loss_of(model, images[i : i + 1], labels[i : i + 1]).backward()
        for name, p in model.named_parameters():
            torch.testing.assert_close(each[name][i], p.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_coupling_is_nothing_without_clipping_and_something_with_it() -> None:
    model, images, labels = mistakes.started(3)
    each = clip_coupling.each_gradient(model, images, labels)
    free = clip_coupling.coupling(model, each, 1e9, size=16, batches=5)
    assert free.clipped == 0
    assert free.difference < 1e-5
    assert free.spread < 1e-6
    held = clip_coupling.coupling(model, each, 0.01, size=16, batches=5)
    assert held.clipped > 0.5
    assert held.difference > 0.1
    assert held.spread > 0.01


def test_equal_examples_clip_alike_one_by_one_or_together() -> None:
    """The mean of equal gradients is each of them: nothing is left of the difference, though all is clipped."""
    model, images, labels = mistakes.started(3)
    each = clip_coupling.each_gradient(model, images[:1].expand(8, -1, -1, -1), labels[:1].expand(8))
    found = clip_coupling.coupling(model, each, 0.001, size=4, batches=3)
    assert found.clipped > 0.9
    assert found.difference < 1e-5
    assert found.spread < 1e-5
