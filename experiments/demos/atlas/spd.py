"""Batch norm for symmetric positive definite (SPD) matrices, with two Riemannian metrics.

Sources: Brooks et al. (2019) for the affine-invariant metric; Wang et al. (CVPR 2025, arXiv 2504.00660) for
Bures-Wasserstein. A batch of matrices is centred at its Frechet mean, scaled by its dispersion and biased. All
functions take batches ``(..., n, n)`` in float64.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.demos.atlas.shared import Scale, ScaledStdLinear, digits, fit, reproducible
from experiments.demos.atlas.spectral import exp, log, power

STEPS, EPS = 6, 1e-5  # fixed-point iterations of a mean; added to the dispersion


def affine_mean(x: Tensor, steps: int = STEPS) -> Tensor:
    """Affine-invariant Frechet mean, by Karcher's flow: ``G <- G^1/2 exp(mean log(G^-1/2 X G^-1/2)) G^1/2``."""
    mean = x.mean(0)
    for _ in range(steps):
        root, inverse = power(mean, 0.5), power(mean, -0.5)
        mean = root @ exp(log(inverse @ x @ inverse).mean(0)) @ root
    return mean


def bures_mean(x: Tensor, steps: int = STEPS) -> Tensor:
    """Bures-Wasserstein barycentre: ``G <- G^-1/2 (mean (G^1/2 X G^1/2)^1/2)^2 G^-1/2``.

    The fixed point is that of Alvarez-Esteban et al. (2016).
    """
    mean = x.mean(0)
    for _ in range(steps):
        root, inverse = power(mean, 0.5), power(mean, -0.5)
        inner = power(root @ x @ root, 0.5).mean(0)
        mean = inverse @ inner @ inner @ inverse
    return mean


def bures_log(base: Tensor, x: Tensor) -> Tensor:
    """Logarithm at `base`: ``(X G)^1/2 + (G X)^1/2 - 2 G``, with ``(G X)^1/2 = G^1/2 (G^1/2 X G^1/2)^1/2 G^-1/2``."""
    root, inverse = power(base, 0.5), power(base, -0.5)
    product = root @ power(root @ x @ root, 0.5) @ inverse
    return product + product.mT - 2 * base


def kronecker_sum(base: Tensor) -> Tensor:
    """The matrix of ``V -> G V + V G`` on flattened V, ``(n n, n n)``."""
    identity = torch.eye(len(base), dtype=base.dtype, device=base.device)
    return torch.kron(base, identity) + torch.kron(identity, base)


def bures_exp(base: Tensor, tangent: Tensor) -> Tensor:
    """Exponential at `base`: ``G + V + L G L`` with the L that solves ``G L + L G = V``."""
    solved: Tensor = torch.linalg.solve(kronecker_sum(base), tangent.flatten(-2)[..., None])[..., 0].reshape(
        tangent.shape
    )
    return torch.add(base + tangent, solved @ base @ solved)


def bures_transport(source: Tensor, target: Tensor, tangent: Tensor) -> Tensor:
    """Parallel transport between two SPD matrices that commute, as each does with the identity.

    In their common eigenbasis entry ij is multiplied by ``((t_i + t_j) / (s_i + s_j))^1/2``.
    """
    map_ = power(kronecker_sum(target), 0.5) @ power(kronecker_sum(source), -0.5)
    return (tangent.flatten(-2) @ map_.mT).reshape(tangent.shape)


class SPDBatchNorm(nn.Module):
    """Centre at the Frechet mean, scale by ``s / (dispersion + eps)^1/2``, move to a learnt SPD matrix.

    Shapes ``(N, n, n) -> (N, n, n)``. `metric` is ``"affine"`` or ``"bures"``. Evaluation uses running averages of mean
    (along the metric's geodesic) and dispersion.
    """

    mean: Tensor
    dispersion: Tensor

    def __init__(self, n: int, metric: str, momentum: float = 0.2) -> None:
        super().__init__()
        self.metric, self.momentum = metric, momentum
        # The learnt SPD matrix is the exponential of this matrix's symmetric part.
        self.bias = nn.Parameter(torch.zeros(n, n, dtype=torch.float64))
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.register_buffer("mean", torch.eye(n, dtype=torch.float64))
        self.register_buffer("dispersion", torch.ones((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        mean, seen = self.mean, self.dispersion
        if self.training:
            mean = affine_mean(x) if self.metric == "affine" else bures_mean(x)
        tangent = self.centred(mean, x)
        if self.training:
            # The squared norm at the identity: that of the log map, or a quarter of it for Bures-Wasserstein.
            quarter = 1.0 if self.metric == "affine" else 0.25
            seen = quarter * tangent.square().sum((-2, -1)).mean()
            self._follow(mean.detach(), seen.detach())
        scaled = self.scale / (seen + EPS).sqrt() * tangent
        bias = exp(0.5 * (self.bias + self.bias.mT))
        if self.metric == "affine":
            root = power(bias, 0.5)
            return root @ exp(scaled) @ root
        identity = torch.eye(len(bias), dtype=bias.dtype, device=bias.device)
        return bures_exp(bias, bures_transport(identity, bias, scaled)) + EPS * identity

    def centred(self, mean: Tensor, x: Tensor) -> Tensor:
        """Logarithms at the mean, transported to the identity."""
        if self.metric == "affine":
            inverse = power(mean, -0.5)
            return log(inverse @ x @ inverse)
        identity = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        return bures_transport(mean, identity, bures_log(mean, x))

    @torch.no_grad()
    def _follow(self, mean: Tensor, seen: Tensor) -> None:
        self.dispersion += self.momentum * (seen - self.dispersion)
        if self.metric == "affine":
            root, inverse = power(self.mean, 0.5), power(self.mean, -0.5)
            self.mean.copy_(root @ power(inverse @ mean @ inverse, self.momentum) @ root)
        else:
            self.mean.copy_(bures_exp(self.mean, self.momentum * bures_log(self.mean, mean)))


def descriptors(images: Tensor) -> Tensor:
    """Region covariance of each image over its pixels: place, value, first and second differences; ``(N, 7, 7)``."""
    x = images.double().mean(1)
    height, width = x.shape[1:]
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    places = [p.to(x).expand_as(x) for p in (rows, columns)]
    first = [torch.gradient(x, dim=d)[0] for d in (1, 2)]
    second = [torch.gradient(g, dim=d)[0] for d, g in zip((1, 2), first)]
    features = torch.stack((*places, x, *first, *second), 1).flatten(2)
    centred = features - features.mean(2, keepdim=True)
    return centred @ centred.mT / features.shape[2] + 1e-4 * torch.eye(7).to(centred)


class SPDNet(nn.Module):
    """Bilinear map, normaliser of SPD matrices, log map, normaliser of vectors, linear layer."""

    def __init__(self, method: str, outputs: int, n: int = 7) -> None:
        super().__init__()
        self.bimap = nn.Parameter(torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))[0])
        self.norm = SPDBatchNorm(n, method) if method in ("affine", "bures") else nn.Identity()
        size = n * (n + 1) // 2
        self.upper = torch.triu_indices(n, n)
        self.vector = nn.BatchNorm1d(size) if method == "log" else nn.Identity()
        linear = ScaledStdLinear(size, outputs) if method == "nf" else nn.Linear(size, outputs)
        self.linear = linear.double()
        self.vector.double()

    def forward(self, x: Tensor) -> Tensor:
        x = log(self.norm(self.bimap @ x @ self.bimap.mT))
        outputs: Tensor = self.linear(self.vector(x[:, self.upper[0], self.upper[1]]))
        return outputs


@reproducible
def demonstrate(seed: int, scale: Scale, device: torch.device) -> dict[str, float]:
    """Test accuracy on covariance descriptors of images, in per cent, by normaliser; and their condition number."""
    train, test = digits(scale, device)
    seen, unseen = descriptors(train.images), descriptors(test.images)
    values = torch.linalg.eigvalsh(seen)
    found = {"log10 condition number": float((values[:, -1] / values[:, 0]).log10().median())}
    for method in ("none", "affine", "bures", "log", "nf"):
        torch.manual_seed(seed)
        model = SPDNet(method, 10).to(device)

        def loss(model: nn.Module = model) -> Tensor:
            rows = torch.randint(len(seen), (scale.items,)).to(device)
            return F.cross_entropy(model(seen[rows]), train.labels[rows])

        fit(model, loss, scale.updates, rate=0.02)
        with torch.no_grad():
            found[f"accuracy {method}"] = float(100 * (model(unseen).argmax(1) == test.labels).float().mean())
    return found
