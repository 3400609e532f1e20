"""Images synthesised from a network's batch statistics, to calibrate its quantised form without data.

Sources: ZeroQ (Cai et al., CVPR 2020, arXiv 2001.00281), for the loss on statistics; Genie (Jeon et al., 2023).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

import torch
from torch import Tensor, nn

from experiments.demos.atlas.shared import (
    Network,
    Scale,
    accuracy,
    batch_norms,
    classifier_loss,
    digits,
    fit,
    reproducible,
)  # fmt: skip
from nfnets_lite.activations import GAINS
from nfnets_lite.conv import ScaledStdConv2d


def statistics_loss(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """``|mean(x) - mean|^2 + |std(x) - std|^2`` over channels: x is ``(N, C, H, W)``, statistics ``(C,)``."""
    found_std, found_mean = torch.std_mean(x, (0, 2, 3), correction=0)
    return (found_mean - mean).square().sum() + (found_std - std).square().sum()


def distil(model: nn.Module, shape: torch.Size, updates: int, rate: float = 0.1) -> Tensor:
    """Images, made from noise, whose activations have every batch norm's running statistics; 0 and 1 at the input."""
    seen: list[Tensor] = []
    hooks = [norm.register_forward_pre_hook(lambda _, args: seen.append(args[0])) for norm in batch_norms(model)]
    statistics = [(norm.running_mean, (norm.running_var + norm.eps).sqrt()) for norm in batch_norms(model)]
    device = next(model.parameters()).device
    images = torch.randn(shape).to(device).requires_grad_()
    statistics = [(images.new_zeros(shape[1]), images.new_ones(shape[1])), *statistics]
    optimizer = torch.optim.Adam([images], rate)
    for _ in range(updates):
        optimizer.zero_grad()
        seen[:] = [images]
        model(images)
        loss = torch.stack([statistics_loss(x, *wanted) for x, wanted in zip(list(seen), statistics)]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    for hook in hooks:
        hook.remove()
    return images.detach()


def rounded(x: Tensor, low: Tensor, high: Tensor, bits: int) -> Tensor:
    """x at the nearest of ``2^bits`` evenly spaced values from low to high, one of which is 0; all broadcast."""
    low, high, levels = low.clamp_max(0), high.clamp_min(0), 2**bits - 1
    step = ((high - low) / levels).clamp_min(1e-8)
    zero = (-low / step).round()
    return torch.mul((x / step + zero).round().clamp(0, levels) - zero, step)


def ranges(model: nn.Module, images: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Smallest and largest input of every convolution and linear layer on some images."""
    with observed(model) as seen, torch.no_grad():
        model(images)
    return [(x.amin(), x.amax()) for x in seen]


@contextmanager
def observed(model: nn.Module) -> Iterator[list[Tensor]]:
    """The inputs of every convolution and linear layer, in order, of the forward passes inside the block."""
    seen: list[Tensor] = []
    hooks = [m.register_forward_pre_hook(lambda _, args: seen.append(args[0])) for m in _layers(model)]
    yield seen
    for hook in hooks:
        hook.remove()


def _layers(model: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    return [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


@torch.no_grad()
def quantised(model: nn.Module, bounds: list[tuple[Tensor, Tensor]], bits: int) -> nn.Module:
    """A copy whose weights, a range for each output unit, and inputs of layers, a range for each layer, are rounded."""
    copy = deepcopy(model)
    for layer, (low, high) in zip(_layers(copy), bounds, strict=True):
        if isinstance(layer, ScaledStdConv2d):
            # Rounding comes behind the standardisation: the layer becomes a plain convolution of the rounded weight.
            weight = layer.effective_weight()
            layer.effective_weight = lambda w=weight: w  # type: ignore[method-assign, misc]
        else:
            weight = layer.weight
        rows = weight.flatten(1)
        largest = rows.abs().amax(1, keepdim=True)
        weight.copy_(rounded(rows, -largest, largest, bits).view_as(weight))
        layer.register_forward_pre_hook(lambda _, args, low=low, high=high: (rounded(args[0], low, high, bits),))
    return copy


def designed_ranges(model: nn.Module, sigmas: float = 4.0) -> list[tuple[Tensor, Tensor]]:
    """Ranges of an NF network by design: inputs N(0, 1), then ReLU of a normal of the layer's gain, times its own."""
    one, made = torch.ones(()), []
    made.append((-sigmas * one, sigmas * one))
    for layer in _layers(model)[:-1]:
        assert isinstance(layer, ScaledStdConv2d)
        assert layer.bias is not None
        high = (GAINS["relu"] * (sigmas * layer.gain.abs() + layer.bias)).amax().detach()
        made.append((0 * one, high))
    return made


@reproducible
def demonstrate(seed: int, scale: Scale, device: torch.device) -> dict[str, float]:
    """Accuracy in per cent of quantised networks, by bits and by the images that calibrated ranges of activations."""
    train, test = digits(scale, device)
    found: dict[str, float] = {}
    shape = torch.Size((scale.items, *train.images.shape[1:]))
    real, noise = train.images[: scale.items], torch.randn(shape).to(device)
    for method in ("bn", "nf"):
        torch.manual_seed(seed)
        model = Network(method, scale.width, 10, channels=shape[1]).to(device)
        fit(model, classifier_loss(model, train, 64), 2 * scale.updates, rate=0.01)
        by = {"real": ranges(model, real), "noise": ranges(model, noise)}
        if method == "bn":
            images = distil(model, shape, scale.updates)
            by["distilled"] = ranges(model, images)
        else:
            by["designed"] = [(low.to(device), high.to(device)) for low, high in designed_ranges(model)]
        found[f"{method} float"] = accuracy(model, test)
        for bits in (8, 4):
            for name, bounds in by.items():
                found[f"{method} {name} {bits}"] = accuracy(quantised(model, bounds, bits), test)
    return found
