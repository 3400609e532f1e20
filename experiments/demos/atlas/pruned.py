"""Pruned candidates of one network, ranked before and after clients compute their batch statistics anew.

Source: FedTiny (Huang et al., 2022, arXiv 2212.01977), adaptive batch norm selection.
"""

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
from experiments.tasks.data import Split
from nfnets_lite.conv import ScaledStdConv2d

CLIENTS, CANDIDATES, DENSITY = 5, 8, 0.3  # clients hold two classes each; share of weights that stay
Statistics = list[tuple[Tensor, Tensor]]  # mean and variance of every batch norm


def spearman(a: list[float], b: list[float]) -> float:
    """Rank correlation, ties at their mean rank; 0 where all values of a side are equal."""
    ranks = []
    for values in (torch.tensor(a), torch.tensor(b)):
        below = (values[:, None] > values).double().sum(1)
        ties = (values[:, None] == values).double().sum(1)
        ranks.append(below + 0.5 * (ties - 1))
    x, y = (r - r.mean() for r in ranks)
    scale = x.norm() * y.norm()
    return float(x @ y / scale) if scale > 0 else 0.0


@torch.no_grad()
def client_statistics(model: nn.Module, images: Tensor) -> Statistics:
    """Mean and biased variance of every batch norm's input on one client's images, from one pass in training mode."""
    seen: list[tuple[Tensor, Tensor]] = []

    def look(_: nn.Module, args: tuple[Tensor]) -> None:
        variance, mean = torch.var_mean(args[0], (0, 2, 3), correction=0)
        seen.append((mean, variance))

    copy = deepcopy(model).train()
    for norm in batch_norms(copy):
        norm.register_forward_pre_hook(look)
    copy(images)
    return seen


def merged(parts: list[Statistics], sizes: list[int]) -> Statistics:
    """Statistics of all clients together, by the law of total variance, weighted by their numbers of images."""
    share = torch.tensor(sizes, dtype=torch.float32) / sum(sizes)
    made = []
    for layer in zip(*parts, strict=True):
        means, variances = (torch.stack([s[i] for s in layer]) for i in (0, 1))
        weight = share.to(means)[:, None]
        mean = (weight * means).sum(0)
        made.append((mean, (weight * (variances + means.square())).sum(0) - mean.square()))
    return made


def prune(model: nn.Module, densities: list[float]) -> None:
    """Zero all but the largest weights of each convolution, for good: those pruned get no gradient.

    Of a standardised weight, what multiplies is masked: standardisation would bring zeros of the parameter back as its
    mean.
    """
    for conv, density in zip(convolutions(model), densities, strict=True):
        made = conv.effective_weight if isinstance(conv, ScaledStdConv2d) else None
        weight = (made() if made else conv.weight).detach()
        kept = max(1, round(density * weight.numel()))
        mask = (weight.abs() >= weight.abs().flatten().topk(kept).values[-1]).to(weight)
        if made:
            conv.effective_weight = lambda made=made, mask=mask: mask * made()  # type: ignore[assignment]
        else:
            conv.weight.data *= mask
            conv.weight.register_hook(lambda grad, mask=mask: grad * mask)  # type: ignore[no-untyped-call]


def convolutions(model: nn.Module) -> list[nn.Conv2d]:
    """Every convolution of a network, in order."""
    return [m for m in model.modules() if isinstance(m, nn.Conv2d)]


def densities(sizes: list[int]) -> list[float]:
    """A random density for each layer, so that the network as a whole keeps its share."""
    share = torch.tensor(sizes) / sum(sizes)
    raw = 0.2 + torch.rand(len(sizes))
    return (raw * DENSITY / (share * raw).sum()).clamp_max(1).tolist()


def by_class(split: Split) -> list[Tensor]:
    """Rows of each client: client k holds the classes 2 k and 2 k + 1."""
    return [(split.labels // 2 == k).nonzero()[:, 0] for k in range(CLIENTS)]


@reproducible
def demonstrate(seed: int, scale: Scale, device: torch.device) -> dict[str, float]:
    """Rank correlation of candidates' accuracy with their fine-tuned accuracy: as pruned, and recalibrated."""
    train, test = digits(scale, device)
    found: dict[str, float] = {}
    for method in ("bn", "nf"):
        torch.manual_seed(seed)
        dense = Network(method, scale.width, 10, channels=train.images.shape[1]).to(device)
        fit(dense, classifier_loss(dense, train, 64), 2 * scale.updates)
        sizes = [conv.weight.numel() for conv in convolutions(dense)]
        scored: dict[str, list[float]] = {"pruned": [], "recalibrated": [], "tuned": []}
        for _ in range(CANDIDATES):
            model = deepcopy(dense)
            prune(model, densities(sizes))
            scored["pruned"].append(accuracy(model, train.first(scale.items * 8)))
            if method == "bn":
                rows = by_class(train)
                made = merged([client_statistics(model, train.images[r]) for r in rows], [len(r) for r in rows])
                for norm, (mean, variance) in zip(batch_norms(model), made, strict=True):
                    norm.running_mean.copy_(mean)
                    norm.running_var.copy_(variance)
                scored["recalibrated"].append(accuracy(model, train.first(scale.items * 8)))
            fit(model, classifier_loss(model, train, 64), scale.updates // 4, rate=0.003)
            scored["tuned"].append(accuracy(model, test))
        for kind in ("pruned", "recalibrated") if method == "bn" else ("pruned",):
            found[f"{method} {kind}"] = spearman(scored[kind], scored["tuned"])
            found[f"{method} {kind} accuracy"] = sum(scored[kind]) / CANDIDATES
        found[f"{method} tuned accuracy"] = sum(scored["tuned"]) / CANDIDATES
    return found
