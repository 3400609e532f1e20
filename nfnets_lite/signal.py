"""Signal propagation: mean and variance after each block, measured and predicted."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nfnets_lite.models.resnet import Block, ResNet
from nfnets_lite.models.spec import ResNetSpec
from nfnets_lite.roles import _inner

# Norms after which each channel has second moment 1 at the start of training.
_NORMALISING = {"batch", "sync_batch", "ghost_batch", "batch_renorm", "ada_batch", "prepbn", "group", "layer"}
_NORMALISING |= {"layer2d", "instance", "batch_channel", "ibn_a"}


@dataclass(frozen=True)
class Signal:
    """Moments at one point of the network (NF-ResNet, arXiv 2101.08692, section 3).

    Attributes
    ----------
    name : str
        ``"stem"`` or ``"blocks.0"``, ``"blocks.1"``, ...
    sq_mean : float
        Squared mean of a channel over N, H, W; average over channels.
    var : float
        Biased variance of a channel over N, H, W; average over channels.
    branch_var : float or None
        `var` at the end of the residual branch, before any factor; None for the stem.
    predicted : float
        Second moment (squared mean plus variance) by `predicted_moments`.
    """

    name: str
    sq_mean: float
    var: float
    branch_var: float | None
    predicted: float


def _moments(x: Tensor) -> tuple[float, float]:
    var, mean = torch.var_mean(x.double(), dim=(0, 2, 3), correction=0)
    return float((mean * mean).mean()), float(var.mean())


def predicted_moments(model: ResNet) -> list[float]:
    r"""Predicted second moment after the stem and after each block, by the variance recursion.

    .. math:: v_{l+1} = s^2 \cdot \begin{cases} b_l & \text{transition} \\ v_l & \text{else}\end{cases}
              + (\text{branch} \cdot \text{gain})^2\, b_l

    with the shortcut's factor s and the model's current skip gains. Without a norm :math:`b_l = \beta_l^2 v_l`, for a
    positively homogeneous activation and convolutions of unit gain; with a norm it is 1. Values after the stem are NaN
    for networks that the analysis does not cover:

    - FixUp and RescaleNet, ``conv="ws"`` and ``conv="scaled_ws_dense"``.
    - A norm whose outputs do not have second moment 1, such as ``norm="dyt"``.
    - An activation gain that is missing or applied twice: ``conv="scaled_ws"`` needs ``activation_gain=True``, other
      convolutions need False. With ``act_first=True`` the norm corrects either.

    Examples
    --------
    >>> from nfnets_lite import create_model
    >>> net = create_model("cifar_resnet8", method="nf", skip_gain=1.0)
    >>> [round(v, 2) for v in predicted_moments(net)]
    [1.0, 1.04, 1.04, 1.04]
    """
    moments, inside = [1.0], _is_inside_the_analysis(model.spec)
    for block in model.blocks:
        assert isinstance(block, Block)
        join, v = block.join, moments[-1]
        b = join.beta**2 * v if model.spec.norm == "none" else 1.0
        gain = 1.0 if block.skip_gain is None else float(block.skip_gain.detach())
        after = join.skip**2 * (b if block.transition else v) + (join.branch * gain) ** 2 * b
        moments.append(after if inside else float("nan"))
    return moments


def _is_inside_the_analysis(spec: ResNetSpec) -> bool:
    if spec.residual in ("fixup", "rescale", "rescale_formula"):  # their shortcuts are activated
        return False
    if spec.conv in ("ws", "scaled_ws_dense"):  # their gain is not 1, or only on average
        return False
    # The initial weights of other convolutions include ReLU's gain.
    if not spec.act_first and spec.activation_gain != (spec.conv == "scaled_ws"):
        return False
    return spec.norm == "none" or spec.norm in _NORMALISING


@torch.no_grad()
def signal_propagation(model: ResNet, x: Tensor) -> list[Signal]:
    """Mean and variance of the signal after the stem and after each block, in this order, in the model's current mode.

    Pass a `model` of this package and a batch `x` of images, or of unit normal noise, ``(N, C, H, W)``. A skip gain
    that starts at 0 hides the branches: build the model with ``skip_gain=1.0`` to see them.

    Raises
    ------
    TypeError
        If `model` is not a `ResNet` of this package, or has a block of another class.

    Examples
    --------
    >>> from nfnets_lite import create_model
    >>> net = create_model("cifar_resnet8", method="nf", skip_gain=1.0)
    >>> [signal.name for signal in signal_propagation(net, torch.randn(8, 3, 32, 32))]
    ['stem', 'blocks.0', 'blocks.1', 'blocks.2']
    """
    model = _inner(model)  # type: ignore[assignment]
    if not isinstance(model, ResNet):
        raise TypeError(
            f"model is a {type(model).__name__}; signal_propagation reads the blocks of a nfnets_lite ResNet, as "
            "create_model returns it. For other networks put forward hooks on the residual blocks"
        )
    blocks: list[Block] = []
    for i, block in enumerate(model.blocks):
        if not isinstance(block, Block):
            raise TypeError(
                f"blocks[{i}] is a {type(block).__name__}, not a Block of nfnets_lite, so its branch is not found. "
                "Wrap the block's branch instead"
            )
        blocks.append(block)
    seen: dict[nn.Module, tuple[float, float]] = {}

    def look(module: nn.Module, _inputs: object, out: Tensor) -> None:
        seen[module] = _moments(out)

    places = [model.stem, *blocks, *(block.branch for block in blocks)]
    handles = [place.register_forward_hook(look) for place in places]
    try:
        model(x)
    finally:
        for handle in handles:
            handle.remove()
    of_stem, *of_blocks = predicted_moments(model)
    signals = [Signal("stem", *seen[model.stem], None, of_stem)]
    for i, (block, predicted) in enumerate(zip(blocks, of_blocks)):
        signals.append(Signal(f"blocks.{i}", *seen[block], seen[block.branch][1], predicted))
    return signals
