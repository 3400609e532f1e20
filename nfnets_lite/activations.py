"""Variance-preserving activations: an activation times the gain that brings its output back to unit variance.

For z ~ N(0, 1) an activation g shrinks the variance to Var g(z). Multiplying its output by gamma = Var(g(z)) ** -0.5
keeps a chain of convolutions with unit-variance rows at unit variance (NF-ResNet, arXiv 2101.08692, section 3).
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nfnets_lite import _fast

Activation = Callable[[Tensor], Tensor]

_PANELS = 2**16  # of `gain_of` at a time; a function with 1000 jumps needs 2000


def _gelu(x: Tensor) -> Tensor:
    r"""The tanh form of GELU, the default of the authors' framework; the erf form differs by up to 5e-4.

    .. math:: \frac{x}{2} (1 + \tanh u) = x\,\sigma(2u) \quad\text{with}\quad u = \sqrt{2/\pi}\,(x + 0.044715\,x^3)
    """
    if _fast.applies_to(x) and x.dtype == torch.float32 and not (x.requires_grad and torch.is_grad_enabled()):
        return _fast.gelu(x)
    return F.gelu(x, approximate="tanh")


# Function and gain by name. The gains are the constants of the authors' code. They were estimated by sampling and are
# 0.01 to 0.09 % above the integral that `gain_of` computes; networks that must reproduce published numbers need them.
_PUBLISHED: dict[str, tuple[Activation, float]] = {
    "identity": (lambda x: x, 1.0),
    "celu": (F.celu, 1.270926833152771),
    "elu": (F.elu, 1.2716004848480225),
    "gelu": (_gelu, 1.7015043497085571),
    "glu": (partial(F.glu, dim=1), 1.8484294414520264),
    "leaky_relu": (F.leaky_relu, 1.70590341091156),
    "log_sigmoid": (F.logsigmoid, 1.9193484783172607),
    "log_softmax": (partial(F.log_softmax, dim=1), 1.0002083778381348),
    "relu": (F.relu, 1.7139588594436646),
    "relu6": (F.relu6, 1.7131484746932983),
    "selu": (F.selu, 1.0008515119552612),
    "sigmoid": (torch.sigmoid, 4.803835391998291),
    "silu": (F.silu, 1.7881293296813965),
    "soft_sign": (F.softsign, 2.338853120803833),
    "softplus": (F.softplus, 1.9203323125839233),
    "tanh": (torch.tanh, 1.5939117670059204),
}
ACTIVATIONS: Mapping[str, Activation] = MappingProxyType({name: fn for name, (fn, _) in _PUBLISHED.items()})
GAINS: Mapping[str, float] = MappingProxyType({name: gain for name, (_, gain) in _PUBLISHED.items()})


class ScaledActivation(nn.Module):
    """Activation by name, times a constant: ``scale * g(x)``.

    Parameters
    ----------
    name : str
        A key of `ACTIVATIONS`.
    scale : float or None
        The factor on the output. None takes the published gain, `GAINS[name]`. Blocks of a normalizer-free network
        include their factor 1 / expected std, which the authors' code applies *after* the activation.

    Raises
    ------
    ValueError
        For an unknown name.

    Examples
    --------
    >>> x = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    >>> abs(float(ScaledActivation("relu")(x).var()) - 1) < 0.02
    True
    """

    def __init__(self, name: str, scale: float | None = None) -> None:
        super().__init__()
        if name not in ACTIVATIONS:
            raise ValueError(f"activation={name!r} is not known; use one of {', '.join(sorted(ACTIVATIONS))}")
        self.name = name
        self.scale = GAINS[name] if scale is None else float(scale)

    def forward(self, x: Tensor) -> Tensor:
        y = ACTIVATIONS[self.name](x)
        return y if self.scale == 1.0 else y * self.scale

    def extra_repr(self) -> str:
        return f"{self.name!r}, scale={self.scale:.6g}"


def gain_of(fn: Activation) -> float:
    r"""Gain that keeps unit variance through `fn`: ``Var(fn(z)) ** -0.5`` for z ~ N(0, 1), to a relative error of 1e-9.

    `fn` is elementwise and maps a float64 tensor to one of the same shape. The two moments are integrated by
    Gauss-Legendre panels over [-14, 14], since the density beyond is below 1e-42. A panel is split where it disagrees
    with its two halves, so kinks and jumps need not be known in advance.

    Raises
    ------
    ValueError
        If the variance is zero or not finite: no gain exists then. If `fn` is random, or too irregular to integrate.
    TypeError
        If `fn` is not callable. Published gains by name are in `GAINS`.

    Examples
    --------
    >>> round(gain_of(torch.relu), 9) == round((2 / (1 - 1 / torch.pi)) ** 0.5, 9)
    True
    """
    if not callable(fn):
        raise TypeError(f"fn={fn!r} is not callable; published gains by name are in nfnets_lite.activations.GAINS")
    nodes, weights = _gauss_legendre(16)

    def panels(left: Tensor, width: Tensor) -> Tensor:
        z = left[:, None] + width[:, None] * nodes
        y = fn(z).to(torch.float64)
        density = torch.exp(-0.5 * z * z) / (2 * torch.pi) ** 0.5
        mass = width[:, None] * weights * density
        return torch.stack(((mass * y).sum(1), (mass * y * y).sum(1)), dim=1)

    left = torch.arange(-14.0, 14.0, 0.25, dtype=torch.float64, device="cpu")
    width = torch.full_like(left, 0.25)
    coarse, moments = panels(left, width), left.new_zeros(2)
    if not torch.allclose(coarse, panels(left, width), rtol=0, atol=0, equal_nan=True):
        raise ValueError("fn gives two results on the same input; a random function has no gain: call .eval() on it")
    for _ in range(60):
        if len(left) > _PANELS:
            raise ValueError(f"fn is too irregular: more than {_PANELS} panels disagree with their halves")
        half = width / 2
        lefts, halves = torch.cat((left, left + half)), torch.cat((half, half))
        fine = panels(lefts, halves)
        both = fine[: len(left)] + fine[len(left) :]
        settled = ~((both - coarse).abs() > 1e-12 * width[:, None]).any(1)
        moments += both[settled].sum(0)
        again = (~settled).repeat(2)
        left, width, coarse = lefts[again], halves[again], fine[again]
        if len(left) == 0:
            break
    moments += coarse.sum(0)
    variance = float(moments[1] - moments[0] ** 2)
    if not 0 < variance < float("inf"):
        raise ValueError(f"fn has variance {variance} under a standard normal input; a gain needs a finite one above 0")
    return float(variance**-0.5)


def _gauss_legendre(n: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [0, 1], by the eigenvalues of the Jacobi matrix (Golub and Welsch, 1969)."""
    k = torch.arange(1, n, dtype=torch.float64, device="cpu")
    off = k / (4 * k * k - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return (nodes + 1) / 2, vectors[0] ** 2
