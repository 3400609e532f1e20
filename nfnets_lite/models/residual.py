"""Residual rules: the factors with which each block adds its branch to its shortcut.

A block computes ``skip * shortcut + branch * gain * f(beta * act(x))``. Some rules have a learnable scalar gain. A rule
maps the depths of all stages to one `Join` per block.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Join:
    """Factors of one block.

    Attributes
    ----------
    beta : float
        Factor on the activated input of the block, 1 / expected standard deviation.
    skip, branch : float
        Factors on the shortcut and on the residual branch.
    gain : float or None
        Initial value of the learnable scalar on the branch; None: there is none.
    start : float
        Product of the factors on the initial weights of the branch's convolutions.
    activated_skip : bool
        Whether the shortcut takes the activated input in every block, not only in transitions. This is a
        post-activation network, written with each activation at the start of the next block.
    """

    beta: float = 1.0
    skip: float = 1.0
    branch: float = 1.0
    gain: float | None = None
    start: float = 1.0
    activated_skip: bool = False


def _rescale(depth: Sequence[int], gain: float | None) -> list[Join]:
    # The paper's beta_k ** 2 = 1 / (k + blocks - 1), k from 1: a constant factor on the branch, the rest in `start`.
    blocks = sum(depth)
    return [
        Join(
            skip=((k - 1) / k) ** 0.5, branch=blocks**-0.5, gain=gain, start=(blocks / k) ** 0.5, activated_skip=True
        )
        for k in range(blocks, 2 * blocks)
    ]  # fmt: skip


def _nf(depth: Sequence[int], alpha: float, skip_gain: float) -> list[Join]:
    joins, variance = [], 1.0
    for blocks in depth:
        for index in range(blocks):
            joins.append(Join(beta=variance**-0.5, branch=alpha, gain=skip_gain))
            # A stage's first block divides by the previous stage's deviation, for its shortcut too. The variance after
            # it is 1 plus that of one branch.
            variance = (1.0 if index == 0 else variance) + alpha**2
    return joins


# From blocks per stage, alpha and initial gain, to the factors of every block.
RESIDUALS: Mapping[str, Callable[[Sequence[int], float, float], list[Join]]] = MappingProxyType(
    {
        "plain": lambda depth, alpha, gain: [Join()] * sum(depth),
        "half": lambda depth, alpha, gain: [Join(skip=0.5**0.5, branch=0.5**0.5)] * sum(depth),
        "skipinit": lambda depth, alpha, gain: [Join(gain=gain)] * sum(depth),
        # The gain starts at 1: in FixUp the branch's last convolution starts at 0 instead.
        "fixup": lambda depth, alpha, gain: [Join(gain=1.0, activated_skip=True)] * sum(depth),
        "rescale": lambda depth, alpha, gain: _rescale(depth, 1.0),
        "rescale_formula": lambda depth, alpha, gain: _rescale(depth, None),
        "nf": _nf,
    }
)


def joins(rule: str, depth: Sequence[int], alpha: float, skip_gain: float) -> list[Join]:
    """One `Join` per block, in order.

    Parameters
    ----------
    rule : str
        One of

        - ``"plain"``: x + f(x).
        - ``"half"``: (x + f(x)) / sqrt 2.
        - ``"skipinit"``: x + gain f(x) (SkipInit, arXiv 2002.10444).
        - ``"fixup"``: act(x) + gain f(act(x)), whose start and scalar biases the network adds (FixUp, arXiv
          1901.09321).
        - ``"rescale"``: sqrt(1 - b^2) act(x) + b gain f(act(x)), b^2 = 1 / (k + L - 1) in block k of L. A part of b is
          in the branch's initial weights (RescaleNet, Shao et al., NeurIPS 2020, as in the authors' code).
        - ``"rescale_formula"``: ``"rescale"`` without the learnable gain, and with ordinary biases in the network.
        - ``"nf"``: x + alpha gain f(x / beta) (NF-ResNet, arXiv 2101.08692, section 3).
    depth : sequence of int
        Blocks per stage.
    alpha, skip_gain : float
        Branch factor of ``"nf"``, and the initial learnable gain of ``"nf"`` and ``"skipinit"``.

    Examples
    --------
    >>> [round(1 / join.beta, 4) for join in joins("nf", (3, 2), 0.2, 0.0)]
    [1.0, 1.0198, 1.0392, 1.0583, 1.0198]
    """
    if rule not in RESIDUALS:
        raise ValueError(f"residual={rule!r} is not known; use one of {', '.join(RESIDUALS)}")
    return RESIDUALS[rule](depth, alpha, skip_gain)
