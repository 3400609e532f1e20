"""Optimizers by name; the learning rate of each is a tensor, so that a captured step can follow a schedule."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from experiments.tasks.recipe import Recipe
from nfnets_lite.optim import param_groups


def optimizer(model: nn.Module, recipe: Recipe, device: torch.device) -> Optimizer:
    """The recipe's optimizer for a model, with learning rate 0; `set_rate` sets it."""
    groups = param_groups(model, recipe.weight_decay)
    if recipe.decay_gains:
        groups = [{"params": list(model.parameters()), "weight_decay": recipe.weight_decay}]
    rate = torch.zeros((), device=device)
    captured = device.type == "cuda"
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=recipe.momentum, nesterov=recipe.momentum > 0, fused=True)
    if recipe.optimizer == "adam":
        return torch.optim.Adam(groups, lr=rate, fused=True, capturable=captured)
    if recipe.optimizer == "rmsprop":
        # torch's loop over tensors reads the learning rate as a number, which a captured step cannot follow. Its
        # foreach form does not, but takes a tensor as learning rate only if it is capturable.
        return torch.optim.RMSprop(
            groups, lr=rate, momentum=recipe.momentum, eps=1e-3, foreach=captured, capturable=captured
        )
    return {"lion": Lion, "lars": Lars}[recipe.optimizer](groups, rate, recipe.momentum)


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the learning rate of every group, in place."""
    for group in optimizer.param_groups:
        group["lr"].fill_(rate)


class _Stepper(Optimizer):
    """Base class of optimizers that update each parameter by `rule`."""

    def __init__(self, params: Iterable[Any], lr: Tensor, momentum: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": 0.0, "capturable": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update all parameters by their present gradients."""
        if closure is not None:
            raise ValueError("closure is given, but this optimizer takes none; compute the gradients before the step")
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    state = self.state[p]
                    if "momentum" not in state:
                        state["momentum"] = torch.zeros_like(p)
                    self.rule(p, p.grad, state["momentum"], group)

    def rule(self, p: Tensor, grad: Tensor, buffer: Tensor, group: dict[str, Any]) -> None:
        """Change `p` and its momentum in place."""
        raise NotImplementedError


class Lion(_Stepper):
    """Lion (arXiv 2302.06675): updates are the sign of a mix of gradient and momentum; weight decay is decoupled."""

    def rule(self, p: Tensor, grad: Tensor, buffer: Tensor, group: dict[str, Any]) -> None:
        p.mul_(1 - group["lr"] * group["weight_decay"])
        mixed = torch.lerp(grad, buffer, 0.9)
        # The sign of NaN is 0 in torch: without this, a network that diverged would stand still and pass for trained.
        p.sub_(group["lr"] * torch.where(mixed.isnan(), mixed, mixed.sign()))
        buffer.lerp_(grad, 0.01)


class Lars(_Stepper):
    """LARS (arXiv 1708.03888, algorithm 1): the update of a tensor is in proportion to the tensor's norm.

    The learning rate is multiplied by ``trust |w| / (|g| + decay |w|)`` before the momentum. A tensor keeps the plain
    learning rate if its norm or its gradient's norm is zero, because otherwise it could never change. Gains and biases
    are scaled like all other tensors: the small trust needs large learning rates, at which a network without norms does
    not train with unscaled updates of gains and biases.
    """

    trust = 1e-3

    def rule(self, p: Tensor, grad: Tensor, buffer: Tensor, group: dict[str, Any]) -> None:
        weight, norm = torch.linalg.vector_norm(p), torch.linalg.vector_norm(grad)
        ratio = self.trust * weight / (norm + group["weight_decay"] * weight)
        ratio = torch.where(norm == torch.inf, torch.nan, ratio)  # squares that overflow give NaN, not an update of 0
        scale = torch.where((weight > 0) & (norm > 0), ratio, 1.0)
        step = grad.add(p, alpha=group["weight_decay"]) * (scale * group["lr"])
        p.sub_(buffer.mul_(group["momentum"]).add_(step))
