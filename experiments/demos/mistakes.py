"""A small training loop for mistakes of clipping, and measures that show the mistakes.

An update is a function of model, optimizer, images and labels: backward pass, clipping, step. The chapter writes wrong
updates and correct ones. This module has the loop that trains with either, and the measures that tell them apart.
Everything runs on digits, on the CPU; accuracies are those of validation images.
"""

from collections.abc import Callable
from math import cos, pi

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from experiments.scales import DATA, network
from experiments.tasks.data import load
from experiments.tasks.descent import one_thread, seeded
from experiments.tasks.ratios import Watch
from nfnets_lite.agc import adaptive_clip_grad_, unitwise_norm
from nfnets_lite.models import create_model
from nfnets_lite.optim import param_groups
from nfnets_lite.roles import parameter_roles

CPU = torch.device("cpu")
FACTOR, BATCH, RATE = 0.01, 64, 0.8
SEEDS = (0, 1, 2)

Update = Callable[[nn.Module, Optimizer, Tensor, Tensor], None]
Make = Callable[[nn.Module], Optimizer]


def model_of(seed: int = 0) -> nn.Module:
    """The smoke profile's network without norms."""
    with seeded(seed, CPU):
        return create_model(network("smoke").with_method("nf"))


def sgd(model: nn.Module, rate: float = RATE) -> Optimizer:
    """SGD with Nesterov momentum, by default at a learning rate too large for the network without clipping."""
    return torch.optim.SGD(param_groups(model, 5e-4), lr=rate, momentum=0.9, nesterov=True)


def loss_of(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy."""
    return F.cross_entropy(model(images), labels)


def unclipped(model: nn.Module, optimizer: Optimizer, images: Tensor, labels: Tensor) -> None:
    """The update without clipping."""
    loss_of(model, images, labels).backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def correct(model: nn.Module, optimizer: Optimizer, images: Tensor, labels: Tensor) -> None:
    """The correct update: backward pass, clipping, step."""
    loss_of(model, images, labels).backward()  # type: ignore[no-untyped-call]
    adaptive_clip_grad_(model, FACTOR)
    optimizer.step()


def only(*, weights: bool) -> Update:
    """An update that clips only the filters (`weights`), or everything but the filters."""

    def update(model: nn.Module, optimizer: Optimizer, images: Tensor, labels: Tensor) -> None:
        loss_of(model, images, labels).backward()  # type: ignore[no-untyped-call]
        roles = parameter_roles(model).items()
        adaptive_clip_grad_(
            {name: (p, role) for name, (p, role) in roles if (role.kind == "weight") == weights}, FACTOR
        )
        optimizer.step()

    return update


def batches(seed: int, count: int) -> list[tuple[Tensor, Tensor]]:
    """The first `count` training batches of an endless stream of epochs."""
    split, generator = load(DATA["smoke"], CPU)["train"], torch.Generator().manual_seed(seed)
    epochs = [torch.randperm(len(split), generator=generator) for _ in range(-(-count * BATCH // len(split)))]
    order = torch.cat(epochs)[: count * BATCH].view(count, BATCH)
    return [(split.images[rows], split.labels[rows]) for rows in order]


def train(update: Update, make: Make = sgd, updates: int = 40) -> list[float]:
    """Accuracies in per cent, one for each seed, of networks trained with an update, with warm-up and cosine."""
    judged, found = load(DATA["smoke"], CPU)["validation"], []
    with one_thread(CPU):
        for seed in SEEDS:
            model = model_of(seed)
            optimizer = make(model)
            peak = optimizer.param_groups[0]["lr"]
            for k, (images, labels) in enumerate(batches(seed, updates)):
                for group in optimizer.param_groups:
                    group["lr"] = peak * min(1, 10 * (k + 1) / updates) * 0.5 * (1 + cos(pi * k / updates))
                update(model, optimizer, images, labels)
                optimizer.zero_grad()
            with torch.no_grad():
                right = model(judged.images).argmax(1) == judged.labels
            found.append(100 * float(right.float().mean()))
    return found


def started(updates: int = 10) -> tuple[nn.Module, Tensor, Tensor]:
    """A network after some correct updates, and a batch that it has not seen."""
    model = model_of()
    optimizer = sgd(model)
    *seen, (images, labels) = batches(0, updates + 1)
    for x, y in seen:
        correct(model, optimizer, x, y)
        optimizer.zero_grad()
    return model, images, labels


def largest_ratio(update: Update) -> float:
    """Largest ratio of gradient to weight norm of a unit after an update's clipping, over the threshold."""
    model, images, labels = started()
    update(model, torch.optim.SGD(model.parameters(), lr=0.0), images, labels)
    ratios = Watch(model)()
    return max(float(ratios[kind].max()) for kind in ("weights", "vectors")) / FACTOR


def classifier_left(update: Update) -> float:
    """Norm of the classifier's gradient after an update's clipping, over the norm before."""
    model, images, labels = started()
    weight = model.get_submodule("classifier").weight
    assert isinstance(weight, nn.Parameter)
    unclipped(model, torch.optim.SGD(model.parameters(), lr=0.0), images, labels)
    assert weight.grad is not None
    before = weight.grad.norm()
    model.zero_grad()
    update(model, torch.optim.SGD(model.parameters(), lr=0.0), images, labels)
    return float(weight.grad.norm() / before)


def moved(update: Update) -> Tensor:
    """The change of the clipped parameters by an update, as one vector, without momentum and weight decay."""
    model, images, labels = started()
    body = [p for p, role in parameter_roles(model).values() if role.clip]
    before = torch.cat([p.detach().flatten() for p in body])
    update(model, torch.optim.SGD(model.parameters(), lr=0.1), images, labels)
    return torch.cat([p.detach().flatten() for p in body]) - before


def against_correct(update: Update) -> tuple[float, float]:
    """Length of an update's change, and its distance from the correct change, both over the correct change's length."""
    ought, found = moved(correct), moved(update)
    return float(found.norm() / ought.norm()), float((found - ought).norm() / ought.norm())


def largest_move(update: Update, make: Make) -> float:
    """Largest relative movement of a filter in the first step of a training."""
    model = model_of()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    update(model, make(model), *batches(0, 1)[0])
    return max(
        float((unitwise_norm(p.detach() - before[name], 0) / unitwise_norm(before[name], 0)).max())
        for name, (p, role) in parameter_roles(model).items()
        if role.kind == "weight"
    )
