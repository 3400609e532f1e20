"""Batch norm in the Poincare ball, with the midpoint in place of the Frechet mean.

Source: Poincare ResNet (van Spengler et al., ICCV 2023, arXiv 2303.14027); the ball has curvature -1. Points are
``(..., D)`` with norms below 1.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from experiments.demos.atlas.shared import Scale, digits, fit, reproducible

DEPTH, EPS = 4, 1e-6
FLOW = 3  # steps of Karcher's flow inside a norm
EDGE = {torch.float32: 4e-3, torch.float64: 1e-5}  # smallest distance of a point from the sphere: the authors' values


def square(x: Tensor) -> Tensor:
    """Squared norm, kept as an axis of length 1."""
    return x.square().sum(-1, keepdim=True)


def conformal(x: Tensor) -> Tensor:
    """The factor of the metric, ``2 / (1 - |x|^2)``."""
    return 2 / (1 - square(x)).clamp_min(1e-7)


def add(x: Tensor, y: Tensor) -> Tensor:
    """Mobius addition."""
    xy, x2, y2 = (x * y).sum(-1, keepdim=True), square(x), square(y)
    return ((1 + 2 * xy + y2) * x + (1 - x2) * y) / (1 + 2 * xy + x2 * y2)


def _length(v: Tensor) -> Tensor:
    return square(v).clamp_min(1e-24).sqrt()


def inside(x: Tensor) -> Tensor:
    """Move points back along their radius if rounding put them at the edge of the ball or beyond."""
    return x * ((1 - EDGE[x.dtype]) / _length(x)).clamp_max(1)


def exp(x: Tensor, v: Tensor) -> Tensor:
    """Exponential map at x."""
    length = _length(v)
    return inside(add(x, torch.tanh(conformal(x) * length / 2) * v / length))


def log(x: Tensor, y: Tensor) -> Tensor:
    """Logarithm at x: the inverse of `exp`."""
    gap = add(-x, y)
    length = _length(gap)
    return 2 / conformal(x) * torch.atanh(length.clamp_max(1 - 1e-7)) * gap / length


def distance(x: Tensor, y: Tensor) -> Tensor:
    """Hyperbolic distance, kept as an axis of length 1."""
    return 2 * torch.atanh(_length(add(-x, y)).clamp_max(1 - 1e-7))


def transport(x: Tensor, y: Tensor, v: Tensor) -> Tensor:
    """Parallel transport of v from x to y: a gyration, ``gyr[y, -x] v``, times the ratio of the conformal factors."""
    a, b = y, -x
    gyrated = add(-add(a, b), add(a, add(b, v)))
    return conformal(x) / conformal(y) * gyrated


def midpoint(x: Tensor) -> Tensor:
    """Midpoint of a batch ``(N, D)``: half, in Mobius's sense, of ``sum l x / sum (l - 1)``, l from `conformal`."""
    factor = conformal(x)
    klein = (factor * x).sum(0) / (factor - 1).sum(0)
    return klein / (1 + (1 - square(klein)).clamp_min(EPS).sqrt())


def frechet(x: Tensor, steps: int = FLOW, tolerance: float = 0.0) -> tuple[Tensor, int]:
    """Frechet mean of a batch by Karcher's flow, and the number of passes over the batch that it took."""
    mean = x.mean(0)
    for passes in range(1, steps + 1):
        step = log(mean, x).mean(0)
        mean = exp(mean, step)
        if tolerance and float(_length(step) * conformal(mean)) < tolerance:
            return mean, passes
    return mean, steps


class PoincareBatchNorm(nn.Module):
    """Move the batch's mean to a learnt point and its variance, the mean squared distance, to a learnt one.

    ``exp_b((s / (variance + eps))^1/2 transport_(m -> b) log_m(x))``. Statistics are those of the batch in both modes,
    as in the authors' code.
    """

    def __init__(self, features: int, mean: str = "midpoint") -> None:
        super().__init__()
        self.bias, self.scale = nn.Parameter(torch.zeros(features)), nn.Parameter(torch.ones(()))
        self.kind = mean

    def forward(self, x: Tensor) -> Tensor:
        mean = midpoint(x) if self.kind == "midpoint" else frechet(x, FLOW)[0]
        variance = distance(mean, x).square().mean()
        target = exp(torch.zeros_like(self.bias), self.bias)
        tangent = transport(mean, target, log(mean, x))
        return exp(target, (self.scale.abs() / (variance + EPS)).sqrt() * tangent)


class PoincareLinear(nn.Module):
    """Fully connected layer of the ball (Shimizu et al., 2021), without its bias.

    Output k lies at signed distance ``v_k = 2 |z_k| asinh(l <x, z_k / |z_k|>)`` from a hyperplane, l the conformal
    factor: ``y = w / (1 + (1 + |w|^2)^1/2)``, ``w = sinh(v)``. Half an identity for z makes it the identity.
    """

    def __init__(self, features: int, identity: bool) -> None:
        super().__init__()
        start = torch.eye(features) / 2 if identity else torch.randn(features, features) * (2 * features**2) ** -0.5
        self.z = nn.Parameter(start)

    def forward(self, x: Tensor) -> Tensor:
        norms = _length(self.z.T).T  # (1, K)
        w = torch.sinh((2 * norms * torch.asinh(conformal(x) * (x @ self.z) / norms)).clamp(-20, 20))
        return inside(w / (1 + (1 + square(w)).sqrt()))


class PoincareNet(nn.Module):
    """Euclidean features put into the ball, layers with a norm and ReLU in the tangent space, a linear classifier."""

    def __init__(self, inputs: int, features: int, outputs: int, mean: str, identity: bool) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(inputs, features), nn.Linear(features, outputs)
        self.layers = nn.ModuleList(PoincareLinear(features, identity) for _ in range(DEPTH))
        norms = (PoincareBatchNorm(features, mean) if mean else nn.Identity() for _ in range(DEPTH))
        self.norms = nn.ModuleList(norms)

    def features(self, images: Tensor) -> Tensor:
        """Points of the ball after the last layer."""
        origin = torch.zeros((), device=images.device)
        x = exp(origin, self.embed(images.flatten(1)))
        for layer, norm in zip(self.layers, self.norms):
            x = exp(origin, F.relu(log(origin, norm(layer(x)))))
        return x

    def forward(self, images: Tensor) -> Tensor:
        x = self.features(images)
        outputs: Tensor = self.head(log(torch.zeros((), device=x.device), x))
        return outputs


class Work(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the numbers that operations inside the block write: the cost of elementwise code, without a clock."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.numbers += out.numel() if isinstance(out, Tensor) else 0
        return out


def agreement(generator: torch.Generator, count: int = 32, features: int = 4) -> dict[str, float]:
    """The order in a cloud's radius to which midpoint and Frechet mean agree, and the cost of the Frechet mean.

    The cost is measured at the largest radius: passes over the points, and numbers written, relative to the midpoint.
    """
    centre = 0.5 * F.normalize(torch.randn(features, generator=generator).double(), dim=0)
    # Skewed: the means of a symmetric cloud agree.
    cloud = torch.randn(count, features, generator=generator).double() ** 2
    radii, gaps, passes = (0.05, 0.1, 0.2), [], 0
    for radius in radii:
        x = exp(centre, radius * (cloud - cloud.mean(0)) / conformal(centre))
        with Work() as slow:
            mean, passes = frechet(x, steps=100, tolerance=1e-9)
        with Work() as fast:
            middle = midpoint(x)
        gaps.append(float(distance(mean, middle)))
    steps = torch.tensor(radii).log(), torch.tensor(gaps).log()
    slope = (steps[1][-1] - steps[1][0]) / (steps[0][-1] - steps[0][0])
    cost = {"passes of the Frechet mean": float(passes), "cost ratio": slow.numbers / fast.numbers}
    return {"order of agreement": float(slope), **cost}


@reproducible
def demonstrate(seed: int, scale: Scale, device: torch.device) -> dict[str, float]:
    """Agreement of the two means; test accuracy of small networks, in per cent, by norm and start."""
    found = agreement(torch.Generator().manual_seed(seed))
    train, test = digits(scale, device)
    for name, mean, identity in (
        ("none", "", False), ("midpoint", "midpoint", False), ("frechet", "frechet", False), ("identity", "", True)
    ):  # fmt: skip
        torch.manual_seed(seed)
        model = PoincareNet(train.images[0].numel(), scale.width, 10, mean, identity).to(device)

        def loss(model: nn.Module = model) -> Tensor:
            rows = torch.randint(len(train), (scale.items,)).to(device)
            return F.cross_entropy(model(train.images[rows]), train.labels[rows])

        with torch.no_grad():
            reached = distance(torch.zeros(()).to(device), model.features(train.images[: scale.items])).mean()
        found[f"distance {name}"] = float(reached)
        fit(model, loss, scale.updates, rate=0.01)
        with torch.no_grad():
            found[f"accuracy {name}"] = float(100 * (model(test.images).argmax(1) == test.labels).float().mean())
    return found
