"""Time to standardise all weights of NF-ResNet-50, forward and backward, beside other ways to the same numbers."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.bench.measured import Found, Measured, Timm, beside_limit, copying
from experiments.bench.report import Side
from experiments.bench.targets import STANDARDIZED, Scale
from experiments.bench.timing import Unequal, Work, in_turns, ms, ratio
from nfnets_lite.conv import ScaledStdConv2d
from nfnets_lite.models import create_model
from nfnets_lite.standardize import standardize_weight

TOLERANCE = 1e-5  # of a layer's largest number: three ways to sum thousands of numbers
Make = Callable[[Tensor, Tensor], Tensor]


def plain(weight: Tensor, gain: Tensor) -> Tensor:
    """The paper's formula, one plain operation after the other."""
    var, mean = torch.var_mean(weight, (1, 2, 3), correction=0, keepdim=True)
    scale = torch.rsqrt((var * weight[0].numel()).clamp(min=ScaledStdConv2d.default_eps)) * gain[:, None, None, None]
    return (weight - mean) * scale


def by_batch_norm(weight: Tensor, gain: Tensor) -> Tensor:
    """Standardise with batch norm's kernel, each filter as a channel, as timm does; epsilon adds to the variance."""
    fan_in = weight[0].numel()
    rows = weight.reshape(1, len(weight), -1)
    return F.batch_norm(rows, None, None, gain * fan_in**-0.5, training=True, eps=1e-12).view(weight.shape)


def measure(device: torch.device, scale: Scale, timm: Timm) -> Found:
    """Time ours beside plain operations, beside batch norm's kernel, and beside the memory's limit."""
    layers = [m.to(device) for m in create_model("nf_resnet50").modules() if isinstance(m, ScaledStdConv2d)]
    pairs: list[tuple[Tensor, Tensor]] = [(layer.weight, layer.gain) for layer in layers]
    probes = [torch.randn_like(weight) for weight, _ in pairs]
    ways: dict[str, Make] = {
        "ours": standardize_weight,
        "plain operations": plain,
        "batch norm's kernel": by_batch_norm,
    }
    results = {name: _both_passes(make, pairs, probes) for name, make in ways.items()}
    apart = {
        name: max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, results["plain operations"]))
        for name, found in results.items()
    }
    if max(apart.values()) > TOLERANCE:
        raise Unequal(f"weights and gradients differ from those of plain operations: {apart}")
    results.clear()
    total = sum(weight.numel() * weight.element_size() for weight, _ in pairs)
    sides: dict[str, Work] = {name: partial(_both_passes, make, pairs, probes) for name, make in ways.items()}
    times = in_turns(sides | {"copy": copying(total, device)}, device, scale.many, warm=2)
    must = 5 * total  # forward: read, write; backward: read the weight and its gradient, write
    ours = Side("ours", ms(times["ours"]), bytes=must)
    found: Found = {}
    for name in ("plain operations", "batch norm's kernel"):
        note = f"weights and gradients equal to {max(apart[name], apart['ours']):.0e}"
        found[STANDARDIZED, f"{name} / ours"] = Measured(
            ratio(times[name], times["ours"]), ours, Side(name, ms(times[name]), bytes=must), note
        )
    found[STANDARDIZED, "ours / bytes limit"] = beside_limit(times, must, total, ours)
    return found


def _both_passes(make: Make, pairs: list[tuple[Tensor, Tensor]], probes: list[Tensor]) -> list[Tensor]:
    """Standardised weights, then the gradients of weights and gains, layer after layer as in a network."""
    made = [make(weight, gain) for weight, gain in pairs]
    grads = [torch.autograd.grad(y, pair, probe) for y, pair, probe in zip(made, pairs, probes)]
    return [*(y.detach() for y in made), *(grad for each in grads for grad in each)]
