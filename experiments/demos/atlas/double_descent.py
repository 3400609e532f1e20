"""The peak of double descent: random features and two-layer networks, normalised or not.

Source: Understanding the role of optimization in double descent (Liu and Flanigan, 2023, arXiv 2312.03951).
"""

import torch
from torch import Tensor, nn

from experiments.demos.atlas.shared import Scale, ScaledStdLinear, digits, fit, reproducible
from nfnets_lite.activations import GAINS

COUNT, NOISE = 80, 0.2  # training images; share of their labels that is drawn at random
AT, WIDE = COUNT, 5 * COUNT  # features: as many as images, and many
STEPS = {"short": 1e3, "long": 1e9}  # of gradient descent: an affordable number, and as good as all


def features(x: Tensor, weight: Tensor, kind: str, like: Tensor | None = None) -> Tensor:
    """Random features ``ReLU(x W^T)``: raw; `normalised` over the training rows `like`, as batch norm has it; or `nf`.

    `nf` has rows of W of mean 0 and norm 1, the gain of ReLU, and no mean over the features of an image, which is what
    standardised weights behind them would see.
    """
    if kind == "nf":
        weight = weight - weight.mean(1, keepdim=True)
        weight = weight / weight.norm(dim=1, keepdim=True)
    made = (x @ weight.T).relu()
    if kind == "normalised":
        seen = made if like is None else (like @ weight.T).relu()
        std, mean = torch.std_mean(seen, 0, correction=0)
        made = (made - mean) / (std + 1e-5)
    if kind == "nf":
        made = GAINS["relu"] * (made - made.mean(1, keepdim=True))
    return torch.div(made, weight.shape[0] ** 0.5)


def descend(phi: Tensor, targets: Tensor, steps: float) -> Tensor:
    """Exact weights of least squares after `steps` steps of gradient descent from 0, at rate 1 / largest eigenvalue.

    With ``phi = U S V^T`` and ``h = (S / S_1)^2``: ``V (1 - (1 - h)^steps) / S U^T targets``.
    """
    u, s, vt = torch.linalg.svd(phi, full_matrices=False)
    s = s.clamp_min(1e-12)
    done = -torch.expm1(steps * torch.log1p(-((s / s[0]) ** 2).clamp_max(1 - 1e-15)))
    return torch.matmul(vt.T, (done / s)[:, None] * (u.T @ targets))


def condition(phi: Tensor) -> tuple[float, float]:
    """Largest eigenvalue of ``phi^T phi`` over the smallest that is not zero, and over the median; powers of ten."""
    s = torch.linalg.svdvals(phi)
    s = s[s > 1e-10 * s[0]]
    return float(2 * (s[0] / s[-1]).log10()), float(2 * (s[0] / s.median()).log10())


class TwoLayer(nn.Sequential):
    """Linear, batch norm or none, ReLU, linear; `nf`: standardised weights and the gain of ReLU."""

    def __init__(self, method: str, inputs: int, width: int, outputs: int) -> None:
        linear = ScaledStdLinear if method == "nf" else nn.Linear
        norm = nn.BatchNorm1d(width) if method == "bn" else nn.Identity()
        super().__init__(linear(inputs, width), norm, nn.ReLU(), linear(width, outputs))


@reproducible
def demonstrate(seed: int, scale: Scale, device: torch.device) -> dict[str, float]:
    """Height of the peak: log10 of the test error with as many features as images over that with many; conditions."""
    train, test = digits(scale, device)
    rows = torch.randperm(len(train))[:COUNT]
    labels = torch.where(torch.rand(COUNT) < NOISE, torch.randint(10, (COUNT,)), train.labels.cpu()[rows])
    targets = nn.functional.one_hot(labels, 10).double().to(device) - 0.1
    wanted = nn.functional.one_hot(test.labels, 10).double() - 0.1
    seen, unseen = train.images.flatten(1).double()[rows.to(device)], test.images.flatten(1).double()
    weight = torch.randn(WIDE, seen.shape[1], dtype=torch.float64).to(device) / seen.shape[1] ** 0.5
    found: dict[str, float] = {}
    for kind in ("raw", "normalised", "nf"):
        errors: dict[tuple[int, str], Tensor] = {}
        for count in (AT, WIDE):
            phi, new = features(seen, weight[:count], kind), features(unseen, weight[:count], kind, seen)
            for name, steps in STEPS.items():
                solved = descend(phi, targets, steps)
                errors[count, name] = (new @ solved - wanted).square().mean().log10()
                if count == AT:
                    found[f"train loss {kind} {name}"] = float((phi @ solved - targets).square().mean().log10())
            if count == AT:
                found[f"condition {kind}"], found[f"bulk {kind}"] = condition(phi)
        for name in STEPS:
            found[f"peak {kind} {name}"] = float(errors[AT, name] - errors[WIDE, name])
    x, y, new = seen.float(), targets.float(), unseen.float()
    for method in ("none", "bn", "nf"):
        error = []
        for width in (scale.width, 10 * scale.width):  # the first has about as many weights as there are targets
            torch.manual_seed(seed)
            model = TwoLayer(method, x.shape[1], width, 10).to(device)
            fit(model, lambda m=model: (m(x) - y).square().mean(), 3 * scale.updates, rate=0.02)  # type: ignore[misc]
            with torch.no_grad():
                error.append((model(new) - wanted).square().mean().log10())
        found[f"two layers peak {method}"] = float(error[0] - error[1])
    return found
