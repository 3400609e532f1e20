"""Moments of a channel in an infinitely wide ReLU network: the analysis with which measurements are compared.

The variance recursion of NF-ResNet (arXiv 2101.08692, section 3) follows the second moment. One more number splits it
into variance and squared mean. Two examples share a channel's mean, so the squared mean is the covariance of two
examples, and a ReLU maps covariances by the arc-cosine kernel (Cho and Saul, NIPS 2009).
"""

from dataclasses import dataclass
from math import acos, pi, sqrt

from nfnets_lite.activations import GAINS
from nfnets_lite.models.residual import Join, joins
from nfnets_lite.models.spec import BlockSpec, ResNetSpec


@dataclass(frozen=True)
class Moments:
    """Moments of a channel over examples and positions, averaged over channels.

    `second` is variance plus squared mean, `sq_mean` the squared mean. `level` is the average over channels of one
    example's activations, which is 0 before an activation.
    """

    second: float
    sq_mean: float
    level: float = 0.0

    @property
    def variance(self) -> float:
        """Variance of a channel."""
        return self.second - self.sq_mean

    def scaled(self, factor: float) -> "Moments":
        """Moments of `factor` times the signal."""
        return Moments(factor**2 * self.second, factor**2 * self.sq_mean, factor * self.level)

    def plus(self, other: "Moments") -> "Moments":
        """Moments of the sum with a signal that fresh random weights made independent."""
        return Moments(self.second + other.second, self.sq_mean + other.sq_mean)


def kernel(correlation: float) -> float:
    r"""``2 E[relu(u) relu(v)]`` for unit normal u, v of that correlation: 1 at 1, and 1 / pi at 0.

    Examples
    --------
    >>> kernel(1.0), round(pi * kernel(0.0), 9)
    (1.0, 1.0)
    """
    rho = min(1.0, max(-1.0, correlation))
    return (sqrt(1 - rho**2) + (pi - acos(rho)) * rho) / pi


def rectified(x: Moments) -> Moments:
    """Moments after a ReLU, for inputs that are normal with mean 0 over the channels."""
    return Moments(x.second / 2, x.second * kernel(x.sq_mean / x.second) / 2, sqrt(x.second / (2 * pi)))


def predict(spec: ResNetSpec, stem: Moments, side: int) -> list[tuple[Moments, Moments]]:
    """Moments after each block, and at the end of its branch before any factor, from moments measured at the stem.

    `side` is the height and width of the stem's output: zeros in the padding reduce the output of each convolution. The
    list is empty for networks outside of the analysis: other activations than ReLU, other norms than batch norm,
    activated shortcuts, squeeze-excite, and weights that are standardised but not scaled, or not in every convolution.
    """
    scales = joins(spec.residual, spec.depth, spec.alpha, spec.skip_gain)
    outside = spec.activation != "relu" or spec.norm not in ("none", "batch")
    outside |= spec.conv in ("ws", "scaled_ws_dense")
    if outside or spec.se_ratio or any(join.activated_skip for join in scales):
        return []
    found, x = [], stem
    for plan, join in zip(spec.blocks(), scales):
        into = _activated(spec, x, join.beta)
        branch = _branch(spec, into, plan, side)
        transition = plan.stride > 1 or plan.inputs != plan.outputs
        side = -(-side // plan.stride)
        shortcut = _convolved(spec, into) if transition else x
        x = shortcut.scaled(join.skip).plus(branch.scaled(join.branch * _gain(join)))
        found.append((x, branch))
    return found


def _gain(join: Join) -> float:
    return 1.0 if join.gain is None else join.gain


def _activated(spec: ResNetSpec, x: Moments, beta: float = 1.0) -> Moments:
    normed = Moments(1.0, 0.0)
    gain = GAINS["relu"] if spec.activation_gain else 1.0
    if spec.norm == "none":
        return rectified(x).scaled(gain * beta)
    return normed if spec.act_first else rectified(normed)


def _branch(spec: ResNetSpec, x: Moments, plan: BlockSpec, side: int) -> Moments:
    kernels = [k for k in spec.branch if isinstance(k, int)]
    strided = next(i for i, k in enumerate(kernels) if k > 1)
    for i, k in enumerate(kernels):
        stride = plan.stride if i == strided else 1
        x = _convolved(spec, _activated(spec, x) if i else x, *inside(side, k, stride))
        side = -(-side // stride)
    return x


def _convolved(spec: ResNetSpec, x: Moments, share: float = 1.0, sq_share: float = 1.0) -> Moments:
    if spec.conv == "scaled_ws":  # filters of sum 0 remove the level that all channels have in common
        common = x.level**2
        return Moments(share * x.second - sq_share * common, share * max(0.0, x.sq_mean - common))
    gain = 1.0 if spec.act_first else 2.0
    return Moments(share * gain * x.second, share * gain * x.sq_mean)


def inside(side: int, kernel_size: int, stride: int) -> tuple[float, float]:
    """Share of a SAME convolution's taps that are not on padding: the mean over outputs, and the mean of the square.

    Examples
    --------
    >>> [round(share, 4) for share in inside(8, 3, 1)]
    [0.8403, 0.7415]
    """
    outputs = -(-side // stride)
    before = max(0, (outputs - 1) * stride + kernel_size - side) // 2
    starts = [stride * i - before for i in range(outputs)]
    shares = [sum(0 <= start + k < side for k in range(kernel_size)) / kernel_size for start in starts]
    return (sum(shares) / outputs) ** 2, (sum(s * s for s in shares) / outputs) ** 2
