"""Trainings of the file that readers copy: what they measure, and the form of it that the file does not have."""

from __future__ import annotations

from dataclasses import replace
from math import nan

import pytest
import torch
from torch.nn import functional as F

from examples import cifar10
from experiments.sweep import Setting
from experiments.tasks import flagship
from experiments.tasks.flagship import Flagship
from experiments.tasks.recipe import Data

DATA = Data("digits", train=160, validation=64, test=64)
RECIPE = cifar10.Recipe(width=(8, 8, 8), epochs=2, batch_size=16, lr=0.1, clip=0.0)
CPU = torch.device("cpu")


def test_a_search_tries_rates_of_filters_where_they_have_their_own() -> None:
    tried = Flagship("nf_agc", DATA, replace(RECIPE, clip=0.08)).at(Setting(0.4, 0.02)).recipe
    assert (tried.lr, tried.clip) == (0.4, 0.02)
    tried = Flagship("nf_muon", DATA, replace(RECIPE, optimizer="muon")).at(Setting(0.4)).recipe
    assert (tried.lr, tried.filter_lr, tried.clip) == (0.1, 0.4, 0.0)
    with pytest.raises(ValueError, match="optimizer='adam' is not known; use one of sgd, muon, rows"):
        Flagship("nf", DATA, replace(RECIPE, optimizer="adam"))


def test_steps_by_norm_move_each_filter_by_a_part_of_its_norm() -> None:
    torch.manual_seed(0)
    images = torch.randn(16, 3, 8, 8)
    net = cifar10.Net(images, RECIPE, 10).to(memory_format=torch.channels_last)
    filters, _ = flagship.rows(net, replace(RECIPE, filter_lr=0.01))
    convs = [p for p in net.parameters() if p.dim() == 4]
    before = [conv.detach().clone() for conv in convs]
    F.cross_entropy(net(images), torch.arange(16) % 10).backward()
    filters.step()
    for conv, old in zip(convs, before):
        moved, norm = ((x.flatten(1)).norm(dim=1) for x in (conv.detach() - old, old))
        has_gradient = conv.grad.flatten(1).norm(dim=1) > 1e-4 * norm
        torch.testing.assert_close(moved[has_gradient], 0.019 * norm[has_gradient], rtol=1e-2, atol=0)  # Nesterov: 1.9


def test_it_counts_operations_and_what_ran_before_does_not_matter() -> None:
    run = Flagship("nf", DATA, RECIPE)
    outcome = run.execute(CPU)
    assert outcome.status == "ok"
    assert outcome.metrics["updates"] == 20
    once = Flagship("nf", DATA, replace(RECIPE, epochs=1)).execute(CPU).metrics
    assert outcome.metrics["operations"] == 2 * once["operations"] > 0
    assert outcome.curve["epoch"] == [1, 2]
    torch.manual_seed(7)
    assert run.execute(CPU).metrics == outcome.metrics


def test_a_training_that_diverges_is_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "train", lambda *_: iter([(1.0, 0.0), (nan, 0.0)]))
    outcome = Flagship("nf", DATA, RECIPE).execute(CPU)
    assert (outcome.status, outcome.reason) == ("diverged", "loss nan at the end of epoch 2 of 2")
    assert outcome.metrics == {"updates": 20}
