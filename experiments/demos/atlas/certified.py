"""Interval bounds through a network with and without batch norm, and with a start that keeps the width of the bounds.

Source: Fast certified robust training (Shi et al., NeurIPS 2021, arXiv 2103.17268). Images are pixels in [0, 1].
"""

from itertools import pairwise
from math import pi

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.demos.atlas.shared import Scale, ScaledStdLinear, digits, fit, reproducible

RADIUS, HIDDEN = 0.05, 3  # largest change of a pixel; hidden layers
Interval = tuple[Tensor, Tensor]  # lower and upper bound, ``(N, D)``


def through_affine(bounds: Interval, weight: Tensor, bias: Tensor | None) -> Interval:
    """Bounds of ``x W^T + b``: the centre goes through W, the radius through its absolute value."""
    centre, radius = (bounds[1] + bounds[0]) / 2, (bounds[1] - bounds[0]) / 2
    centre, radius = F.linear(centre, weight, bias), F.linear(radius, weight.abs())
    return centre - radius, centre + radius


def through_relu(bounds: Interval) -> Interval:
    """Bounds of a ReLU, which is monotone."""
    return bounds[0].relu(), bounds[1].relu()


def through_batch_norm(bounds: Interval, norm: nn.BatchNorm1d, clean: Tensor) -> Interval:
    """Bounds of a batch norm with fixed statistics: of the clean batch in training, else the running averages."""
    if norm.training:
        variance, mean = torch.var_mean(clean, 0, correction=0)
    else:
        assert norm.running_var is not None
        assert norm.running_mean is not None
        variance, mean = norm.running_var, norm.running_mean
    slope = norm.weight / (variance + norm.eps).sqrt()
    low, high = ((b - mean) * slope + norm.bias for b in bounds)
    return torch.minimum(low, high), torch.maximum(low, high)  # a negative slope swaps them


def bounds_start(linear: nn.Linear) -> None:
    """Weights N(0, 2 pi / n^2): a layer of n inputs and its ReLU then keep the width of bounds, in expectation."""
    nn.init.normal_(linear.weight, std=(2 * pi) ** 0.5 / linear.in_features)
    if isinstance(linear, ScaledStdLinear):
        nn.init.constant_(linear.gain, (2 * pi / linear.in_features) ** 0.5)  # a row of norm g has entries of g / n^1/2


class Certified(nn.Module):
    """Linear layers, each with ReLU and, optionally, batch norm before the ReLU."""

    def __init__(self, inputs: int, width: int, outputs: int, *, norm: bool, start: bool, scaled: bool) -> None:
        super().__init__()
        sizes = [inputs, *[width] * HIDDEN]
        kind = ScaledStdLinear if scaled else nn.Linear
        self.linears = nn.ModuleList(kind(a, b) for a, b in pairwise(sizes))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) if norm else nn.Identity() for _ in self.linears)
        self.last = nn.Linear(width, outputs)
        for linear in self.linears:
            assert isinstance(linear, nn.Linear)
            if start:
                bounds_start(linear)
            elif not scaled:
                nn.init.kaiming_normal_(linear.weight)

    def bounds(self, x: Tensor, radius: float) -> tuple[Tensor, list[Interval], Interval]:
        """Outputs for the clean images, bounds before every ReLU, and bounds after the last one."""
        bounds, found = ((x - radius).clamp(0, 1), (x + radius).clamp(0, 1)), []
        for linear, norm in zip(self.linears, self.norms):
            assert isinstance(linear, nn.Linear)
            weight = linear.effective_weight() if isinstance(linear, ScaledStdLinear) else linear.weight
            clean = F.linear(x, weight, linear.bias)
            bounds = through_affine(bounds, weight, linear.bias)
            if isinstance(norm, nn.BatchNorm1d):
                bounds = through_batch_norm(bounds, norm, clean)
                clean = norm(clean)
            found.append(bounds)
            x, bounds = clean.relu(), through_relu(bounds)
        return self.last(x), found, bounds

    def margins(self, bounds: Interval, labels: Tensor) -> Tensor:
        """Lower bound of the label's output minus each other output, ``(N, outputs)``; 0 at the label."""
        weight = self.last.weight[labels][:, None] - self.last.weight  # (N, outputs, D)
        bias = self.last.bias[labels][:, None] - self.last.bias
        centre, radius = (bounds[1] + bounds[0]) / 2, (bounds[1] - bounds[0]) / 2
        return (weight @ centre[..., None] - weight.abs() @ radius[..., None])[..., 0] + bias


def _pixels(images: Tensor) -> Tensor:
    low, high = images.amin(), images.amax()
    return ((images - low) / (high - low)).flatten(1)


@reproducible
def demonstrate(seed: int, scale: Scale, device: torch.device) -> dict[str, float]:
    """Growth of bounds at the start; verified and clean error, and states of units after training, in per cent."""
    train, test = digits(scale, device)
    seen, unseen = _pixels(train.images), _pixels(test.images)
    found: dict[str, float] = {}
    kinds = {"he": (False, False, False), "he bn": (True, False, False), "ibp": (False, True, False)}
    kinds |= {"ibp bn": (True, True, False), "nf": (False, True, True)}
    for name, (norm, start, scaled) in kinds.items():
        torch.manual_seed(seed)
        model = Certified(seen.shape[1], scale.width, 10, norm=norm, start=start, scaled=scaled).to(device)
        with torch.no_grad():
            _, layers, _ = model.bounds(seen[:256], RADIUS)
            widths = [float((high - low).mean()) for low, high in layers]
        found[f"growth {name}"] = float(torch.tensor(widths[-1] / widths[0]).log10())
        done = 0

        def loss(model: Certified = model) -> Tensor:
            nonlocal done
            done += 1
            ramp = min(1.0, 2 * done / scale.updates)  # radius and weight of the bound grow over the first half
            rows = torch.randint(len(train), (64,)).to(device)
            outputs, _, behind = model.bounds(seen[rows], ramp * RADIUS)
            labels = train.labels[rows]
            worst = F.cross_entropy(-model.margins(behind, labels), labels)
            return (1 - ramp / 2) * F.cross_entropy(outputs, labels) + ramp / 2 * worst

        fit(model, loss, scale.updates, rate=0.005)
        with torch.no_grad():
            outputs, layers, behind = model.bounds(unseen, RADIUS)
            margins = model.margins(behind, test.labels).scatter(1, test.labels[:, None], torch.inf)
            low, high = (torch.cat([layer[i] for layer in layers], 1) for i in (0, 1))
        states = {"dead": high <= 0, "active": low >= 0, "unstable": (low < 0) & (high > 0)}
        found |= {f"{state} {name}": float(100 * mask.float().mean()) for state, mask in states.items()}
        found[f"verified error {name}"] = float(100 * (margins.amin(1) <= 0).float().mean())
        found[f"clean error {name}"] = float(100 * (outputs.argmax(1) != test.labels).float().mean())
    return found
