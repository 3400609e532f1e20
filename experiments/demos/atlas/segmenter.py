"""A segmenter whose batch statistics move from source to target images, without source images or target labels.

Source: Adapting off-the-shelf source segmenter (Liu et al., MICCAI 2021, arXiv 2106.12497): mean and variance are
adapted with an exponentially decaying momentum; scale and shift are kept.
"""

from collections.abc import Iterable
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.demos.atlas.shared import Scale, batch_norms, fit, layer, reproducible

SIDE, BATCH, CLASSES = 16, 16, 3  # background, disc, square
START, DECAY = 1.0, 0.5  # momentum of the source at step k is START exp(-DECAY k)


def shapes(count: int, gain: float = 1.0, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    """Noisy images ``(N, 1, S, S)`` of a bright disc and a dim square, and their labels ``(N, S, S)``.

    Values are multiplied by `gain` and moved by `shift`: another scanner.
    """
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    labels = torch.zeros(count, SIDE, SIDE, dtype=torch.int64)
    for kind in (2, 1):  # discs lie above squares
        middle, radius = 3 + torch.rand(count, 2) * (SIDE - 7), 2 + 2 * torch.rand(count)
        away = [(axis - m[:, None, None]).abs() for axis, m in ((rows, middle[:, 0]), (columns, middle[:, 1]))]
        inside = (away[0] ** 2 + away[1] ** 2).sqrt() if kind == 1 else torch.maximum(*away)
        labels[inside <= radius[:, None, None]] = kind
    values = torch.tensor([-0.5, 1.5, 0.5])[labels] + 0.3 * torch.randn(count, SIDE, SIDE)
    return (gain * values + shift)[:, None], labels


def decayed(source: Tensor, target: Tensor, step: int) -> Tensor:
    """Statistics at one step of adaptation: ``(1 - e) target + e source``, ``e = START exp(-DECAY step)``."""
    share = START * torch.exp(torch.tensor(-DECAY * step))
    return (1 - share) * target + share * source


@torch.no_grad()
def adapt(model: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """A copy whose running statistics moved over some batches of target images, scale and shift as they were.

    A step sets each layer's statistics to the decayed mix of source and this batch; the layers behind it see the mix.
    """
    copy = deepcopy(model).eval()
    source = [(norm.running_mean.clone(), norm.running_var.clone()) for norm in batch_norms(copy)]
    step = 0

    def look(norm: nn.BatchNorm2d, args: tuple[Tensor], mean: Tensor, variance: Tensor) -> None:
        batch_variance, batch_mean = torch.var_mean(args[0], (0, 2, 3))
        norm.running_mean = decayed(mean, batch_mean, step)
        norm.running_var = decayed(variance, batch_variance, step)

    hooks = [
        norm.register_forward_pre_hook(lambda n, args, mean=mean, variance=variance: look(n, args, mean, variance))
        for norm, (mean, variance) in zip(batch_norms(copy), source, strict=True)
    ]
    for step, images in enumerate(batches, 1):  # noqa: B007 (`look` reads it)
        copy(images)
    for hook in hooks:
        hook.remove()
    return copy


@torch.no_grad()
def overlap(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Intersection over union in per cent, a mean over the classes."""
    guess = model(images).argmax(1)
    each = []
    for c in range(CLASSES):
        both, either = ((guess == c) & (labels == c)).sum(), ((guess == c) | (labels == c)).sum()
        each.append(both / either.clamp_min(1))
    return float(100 * torch.stack(each).mean())


@reproducible
def demonstrate(seed: int, scale: Scale, device: torch.device) -> dict[str, float]:
    """Intersection over union on source and target images, by method and by the steps of adaptation."""
    images, labels = (x.to(device) for x in shapes(8 * scale.items))
    source = [x.to(device) for x in shapes(2 * scale.items)]
    target = [x.to(device) for x in shapes(2 * scale.items, gain=2.0, shift=1.0)]
    unlabelled = [shapes(BATCH, gain=2.0, shift=1.0)[0].to(device) for _ in range(6)]
    found: dict[str, float] = {}
    for method in ("bn", "nf"):
        torch.manual_seed(seed)
        layers = [layer(method, a, scale.width) for a in (1, scale.width, scale.width)]
        model = nn.Sequential(*layers, nn.Conv2d(scale.width, CLASSES, 1)).to(device)

        def loss(model: nn.Module = model) -> Tensor:
            rows = torch.randint(len(images), (BATCH,)).to(device)
            return F.cross_entropy(model(images[rows]), labels[rows])

        fit(model, loss, scale.updates, rate=0.01)
        found |= {f"{method} source": overlap(model, *source), f"{method} target": overlap(model, *target)}
        if method == "bn":
            for steps in (1, 2, 6):
                found[f"bn adapted {steps}"] = overlap(adapt(model, unlabelled[:steps]), *target)
    return found
