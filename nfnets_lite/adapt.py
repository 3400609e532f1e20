"""Test-time adaptation: a trained model whose batch norms mix running statistics with those of the test data."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from nfnets_lite.convert.plan import replace_layers
from nfnets_lite.norm.common import at_least_float32, is_batch_norm

_TEMPERATURE = 0.07  # of UnMix-TNS's softmax over similarities
_SPREAD = 0.5  # share of the source variance that is between the components' means at the start


class _Adapting(nn.Module):
    """Parameters, running statistics and hooks of the batch norm that it replaces, whose inputs it takes."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.register_buffer("running_mean", norm.get_buffer("running_mean"))
        self.register_buffer("running_var", norm.get_buffer("running_var"))
        self.kind: Any = type(norm)
        vars(self).update({name: value for name, value in vars(norm).items() if "hook" in name})

    def _normalised(self, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        """Normalise by statistics ``(N, C)`` or ``(1, C)``, with a gradient through them, unlike torch's kernel."""
        scale = (var + self.eps).rsqrt()
        scale = scale if self.weight is None else scale * self.weight
        shift = -mean * scale if self.bias is None else self.bias - mean * scale
        scale, shift = (s.reshape(*s.shape, *[1] * (x.ndim - 2)) for s in (scale, shift))
        return torch.addcmul(shift, at_least_float32(x), scale).to(x.dtype)


class AlphaBatchNorm(_Adapting):
    """The layer by which `alpha_bn` replaces a batch norm.

    Parameters
    ----------
    norm : batch norm
        A trained one; its parameters, running statistics and hooks are shared.
    alpha : float
        As in `alpha_bn`.
    """

    def __init__(self, norm: _BatchNorm, alpha: float) -> None:
        super().__init__(norm)
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        self.kind._check_input_dim(self, x)
        if self.alpha < 1 and x.numel() == x.shape[1]:
            raise ValueError(
                f"input has shape {tuple(x.shape)}: one value per channel has no variance to mix in. Pass more "
                "examples, or use alpha=1, the model as it was"
            )
        var, mean = torch.var_mean(at_least_float32(x), [0, *range(2, x.ndim)], correction=0)
        mean, var = (
            found.lerp(running.to(found.dtype), self.alpha)
            for found, running in ((mean, self.running_mean), (var, self.running_var))
        )
        return self._normalised(x, mean[None], var[None])

    def extra_repr(self) -> str:
        return f"{len(self.running_mean)}, alpha={self.alpha}"


class UnMixNorm(_Adapting):
    """The layer by which `unmix_tns` replaces a batch norm: it normalises, then moves its components.

    Parameters
    ----------
    norm : batch norm
        As in `AlphaBatchNorm`.
    components : int
    rate : float
        Step of the components per batch.
    generator : torch.Generator
        Draws the components' start.
    """

    means: Tensor
    variances: Tensor

    def __init__(self, norm: _BatchNorm, components: int, rate: float, generator: torch.Generator) -> None:
        super().__init__(norm)
        self.rate = rate
        mean, var = self.running_mean, self.running_var
        # A single component starts at the source. A mixture has the source's variance, on average over the draw.
        spread = _SPREAD if components > 1 else 0.0
        noise = torch.randn(components, len(mean), generator=generator, device="cpu").to(mean)
        scale = (spread * components / max(components - 1, 1)) ** 0.5
        self.register_buffer("means", mean + scale * var.sqrt() * noise)
        self.register_buffer("variances", (1 - spread) * var.expand(components, -1))

    def forward(self, x: Tensor) -> Tensor:
        self.kind._check_input_dim(self, x)
        if x.ndim == 2 or not len(x):  # an example has one value per channel, and no variance of its own
            return self._normalised(x, self.running_mean[None], self.running_var[None])
        wide = at_least_float32(x).flatten(2)
        own_var, own_mean = (s[:, None] for s in torch.var_mean(wide, 2, correction=0))
        at, spread = self.means.to(wide.dtype), self.variances.to(wide.dtype)
        with torch.no_grad():
            likeness = F.cosine_similarity(own_mean, at, dim=2)  # a matrix product would be narrowed by autocast
            share = torch.softmax(likeness / _TEMPERATURE, dim=1)[:, :, None]
        # (N, K, C): each component moved towards the example by its share; then the moments of the mixture.
        means, variances = torch.lerp(at, own_mean, share), torch.lerp(spread, own_var, share)
        var, mean = variances.mean(1) + means.var(1, correction=0), means.mean(1)
        with torch.no_grad():
            self.means.add_(self.rate * (share * (own_mean - at)).mean(0))
            self.variances.add_(self.rate * (share * (own_var - spread)).mean(0))
        return self._normalised(x, mean, var)

    def extra_repr(self) -> str:
        return f"{len(self.running_mean)}, components={len(self.means)}, rate={self.rate:.4g}"


def alpha_bn(model: nn.Module, alpha: float) -> nn.Module:
    r"""A copy of a model whose batch norms mix their running statistics with those of each test batch.

    .. math:: \mu = \alpha\, \mu_{source} + (1 - \alpha)\, \mu_{batch}, \qquad
              \sigma^2 = \alpha\, \sigma_{source}^2 + (1 - \alpha)\, \sigma_{batch}^2

    with the batch's biased variance (You, Li and Zhao, arXiv 2110.04065). 1 is the model as it was in evaluation, 0
    takes batch statistics as in training.

    Parameters
    ----------
    model : nn.Module
        Trained, with batch norms of torch or of this package that have running statistics. It is not changed.
    alpha : float
        In [0, 1].

    Returns
    -------
    nn.Module
        In evaluation mode. Its outputs depend on the whole batch, unless alpha is 1. Nothing is kept between batches.

    Raises
    ------
    ValueError
        If `alpha` is outside [0, 1], if the model has no batch norm with running statistics, or if the class of one
        computes more than batch norm. In the forward pass: if a channel has one value.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    >>> x = 5 + torch.randn(8, 3, 6, 6)
    >>> torch.allclose(alpha_bn(net, 1.0)(x), net(x), atol=1e-6)
    True
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha} must be in [0, 1]: 1 keeps the model's statistics, 0 takes the batch's")
    return _adapted(model, lambda norm: AlphaBatchNorm(norm, alpha))


def unmix_tns(
    model: nn.Module, components: int = 16, momentum: float = 0.1, batch_size: int = 64, seed: int = 0
) -> nn.Module:
    r"""A copy of a model whose batch norms each adapt K sets of statistics to a stream of test data (UnMix-TNS).

    An example has statistics over its positions, :math:`\mu, \sigma^2`. Each component k is moved towards them by its
    share :math:`p_k`, and the example is normalised by the mixture, :math:`\bar\mu, \bar\sigma^2`:

    .. math:: p_k = \mathrm{softmax}_k \frac{\cos(\mu, \mu_k)}{0.07}, \quad
              \hat\mu_k = (1 - p_k) \mu_k + p_k \mu, \quad \hat\sigma_k^2 = (1 - p_k) \sigma_k^2 + p_k \sigma^2,
              \qquad \bar\mu = E_k[\hat\mu_k], \quad \bar\sigma^2 = E_k[\hat\sigma_k^2] + \mathrm{Var}_k[\hat\mu_k]

    Then the components move by :math:`\lambda E[p_k (\mu - \mu_k)]` and :math:`\lambda E[p_k (\sigma^2 - \sigma_k^2)]`,
    means over the batch. They start as :math:`\mu_k = \mu_{source} + \sqrt{K / 2(K - 1)}\, \sigma_{source} \xi_k` with
    standard normal :math:`\xi`, and :math:`\sigma_k^2 = \sigma_{source}^2 / 2`. Their mixture then has the source's
    mean and variance, on average.

    Parameters
    ----------
    model : nn.Module
        As in `alpha_bn`.
    components : int
        K; the authors use 16, and 128 where domains are mixed.
    momentum, batch_size : float, int
        m and n of :math:`\lambda = 1 - (1 - m)^{n / 64}`, which makes the step per example independent of n.
    seed : int
        Seed of the components' start.

    Returns
    -------
    nn.Module
        In evaluation mode. *Each forward pass moves its components*, so the order of the batches matters, and each
        stream needs a copy of its own.

    Raises
    ------
    ValueError
        For numbers out of range, and for a model that `alpha_bn` refuses.

    Notes
    -----
    An output depends on its own example and on earlier batches, not on the rest of its batch. Batch norms of inputs
    ``(N, C)`` keep the source's statistics. Tomar et al. (ICLR 2024, arXiv 2401.08328), section 3, and their code.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    >>> adapted, x = unmix_tns(net, components=4), torch.randn(8, 3, 6, 6)
    >>> torch.equal(adapted(x), adapted(x))
    False
    """
    if components < 1 or batch_size < 1 or not 0 <= momentum <= 1:
        raise ValueError(
            f"components={components} and batch_size={batch_size} must be at least 1, momentum={momentum} in [0, 1]"
        )
    generator, rate = torch.Generator().manual_seed(seed), 1 - (1 - momentum) ** (batch_size / 64)
    return _adapted(model, lambda norm: UnMixNorm(norm, components, rate, generator))


@torch.inference_mode(False)  # buffers made in that mode could not be updated outside of it
def _adapted(model: nn.Module, make: Callable[[_BatchNorm], nn.Module]) -> nn.Module:
    """A copy of the model in evaluation mode, with ``make(norm)`` for each batch norm with running statistics."""
    copy = deepcopy(model)
    norms = [m for m in copy.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if more := {type(norm).__name__ for norm in norms if not is_batch_norm(norm)}:
        raise ValueError(
            f"model: {type(model).__name__} holds {', '.join(sorted(more))}, whose own forward computes more than "
            "batch norm, such as an activation. Build the model with torch's batch norms and other layers for the rest"
        )
    made: dict[nn.Module, nn.Module] = {norm: make(norm) for norm in norms}
    if not made:
        raise ValueError(
            f"model: {type(model).__name__} holds no batch norm with running statistics, so there is nothing to mix: "
            "use the model as it is"
        )
    replace_layers(copy, made)
    return made.get(copy, copy).eval()
