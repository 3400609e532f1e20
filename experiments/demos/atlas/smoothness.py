"""Smoothness of the loss along its gradient, with batch norm, without a norm, and in NF networks.

Source: How does batch normalization help optimization? (Santurkar et al., NeurIPS 2018, arXiv 1805.11604), sections
3.2 and 4. Chapter `why_normalize` has the same paths for networks with and without batch norm.
"""

from copy import deepcopy

import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.demos.atlas.shared import Scale, digits, reproducible
from experiments.scales import network
from experiments.tasks.why import STEPS, along
from nfnets_lite.agc import adaptive_clip_grad_
from nfnets_lite.models import create_model

RATE, BATCH, POINTS, CLIP = 0.1, 64, 5, 0.02


def layer_gradient(grad: Tensor, normed: Tensor, gamma: float, std: float) -> float:
    """Squared norm of the gradient in front of a batch norm, of one channel with m values (section 4).

    ``(gamma / std)^2 (|g|^2 - (1 . g)^2 / m - (g . y)^2 / m)``, with g the gradient behind it and y the normed values.
    """
    count = len(grad)
    inside = grad.square().sum() - grad.sum() ** 2 / count - (grad @ normed) ** 2 / count
    return float((gamma / std) ** 2 * inside)


def path(probes: Tensor, rates: Tensor) -> dict[str, Tensor]:
    """Range of the loss and effective smoothness at each point, from what `along` returns, ``(points, 1 + steps, 3)``.

    The effective smoothness is the largest change of the gradient over the distance from the point.
    """
    loss, length, change = probes[..., 0], probes[:, :1, 1], probes[:, 1:, 2]
    return {"loss range": loss.amax(1) - loss.amin(1), "smoothness": (change / (rates * length)).amax(1)}


@reproducible
def demonstrate(seed: int, scale: Scale, device: torch.device) -> dict[str, float]:
    """Medians over points of a training of the loss's range and the effective smoothness, as powers of ten."""
    train, _ = digits(scale, device)
    shape = {"width": (scale.width, 2 * scale.width), "depth": (1, 1), "strides": (1, 2), "stem_width": scale.width}
    spec = network("smoke", **{**shape, "in_channels": train.images.shape[1]})
    rates = torch.tensor([RATE * s for s in STEPS]).to(device)
    found: dict[str, float] = {}
    for method in ("none", "bn", "nf", "nf_agc"):
        torch.manual_seed(seed)
        model = create_model(spec.with_method(method.removesuffix("_agc"))).to(device).train()
        optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=0.9)
        probes = []
        for update in range(scale.updates):
            rows = torch.randint(len(train), (BATCH,)).to(device)
            images, labels = train.images[rows], train.labels[rows]
            if update % max(1, scale.updates // POINTS) == 0:
                probes.append(along(deepcopy(model), images, labels, rates.tolist()))
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            if method == "nf_agc":
                adaptive_clip_grad_(model, clip_factor=CLIP)
            optimizer.step()
        for name, values in path(torch.stack(probes), rates).items():
            found[f"{name} {method}"] = float(values.median().log10())
        found[f"loss {method}"] = float(loss.detach())
    return found
