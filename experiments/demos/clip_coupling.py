"""The coupling between examples that clipping causes: an example's share of an update depends on the other examples.

Axes: N examples; a gradient is a mapping of parameter names to tensors.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from nfnets_lite.agc import AdaptiveClip, unitwise_norm
from nfnets_lite.roles import parameter_roles

Gradient = Mapping[str, Tensor]


@dataclass(frozen=True)
class Coupling:
    """Effect of clipping across the examples of a batch, at one threshold `factor`.

    `clipped`: fraction of units. `difference`: norm of the clipped mean gradient minus the mean of clipped gradients,
    over the norm of the clipped mean gradient. `spread`: standard deviation over mean of the factor by which clipping
    multiplies one example's gradient, in batches that have only this example in common; median over units.
    """

    factor: float
    clipped: float
    difference: float
    spread: float


def each_gradient(model: nn.Module, images: Tensor, labels: Tensor) -> Gradient:
    """The gradient of every single example's loss, each tensor ``(N, ...)``."""

    def loss(weights: Gradient, image: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, dict(weights), image[None]), label[None])

    weights = {name: p.detach() for name, p in model.named_parameters()}
    found: Gradient = vmap(grad(loss), (None, 0, 0))(weights, images, labels)
    return found


def clipped(model: nn.Module, gradient: Gradient, factor: float) -> tuple[Gradient, float]:
    """The clipped gradient, without parameters that are exempt, and the fraction of units that were clipped."""
    roles = parameter_roles(model)
    for name, (p, _) in roles.items():
        p.grad = gradient[name].clone()
    fraction = float(AdaptiveClip(model, factor)())
    return {name: p.grad for name, (p, role) in roles.items() if role.clip and p.grad is not None}, fraction


def coupling(model: nn.Module, each: Gradient, factor: float, size: int = 64, batches: int = 20) -> Coupling:
    """Measure a `Coupling` on batches of `size` examples; `spread` follows the first example of `each`."""

    def mean(rows: Tensor) -> Gradient:
        return {name: g[rows].mean(0) for name, g in each.items()}

    rows = torch.arange(size)
    after, fraction = clipped(model, mean(rows), factor)
    single = [_flat(clipped(model, {name: g[i] for name, g in each.items()}, factor)[0]) for i in range(size)]
    difference = (_flat(after) - torch.stack(single).mean(0)).norm() / _flat(after).norm()
    count, generator = len(next(iter(each.values()))), torch.Generator().manual_seed(0)
    factors = []
    for _ in range(batches):
        others = 1 + torch.randperm(count - 1, generator=generator)[: size - 1]
        whole = mean(torch.cat([torch.tensor([0]), others]))
        factors.append(_factors(model, whole, clipped(model, whole, factor)[0]))
    spread = torch.stack(factors).std(0) / torch.stack(factors).mean(0)
    return Coupling(factor, fraction, float(difference), float(spread.nanmedian()))


def _factors(model: nn.Module, before: Gradient, after: Gradient) -> Tensor:
    axes = {name: role.unit_dim for name, (_, role) in parameter_roles(model).items()}
    norms = [(unitwise_norm(g, axes[name]), unitwise_norm(before[name], axes[name])) for name, g in after.items()]
    return torch.cat([(short / long).flatten() for short, long in norms])


def _flat(gradient: Gradient) -> Tensor:
    return torch.cat([g.flatten() for g in gradient.values()])
