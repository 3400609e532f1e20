"""Folding: bake the standardised weights in, for a network that is only going to be evaluated."""

from copy import deepcopy
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from nfnets_lite.conv import Conv1d, Conv2d, Conv3d, _SameConv, _ScaledStd

_PLAIN: dict[int, type[_ConvNd]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_SAME: dict[int, type[_ConvNd]] = {1: Conv1d, 2: Conv2d, 3: Conv3d}


def fold(model: nn.Module) -> nn.Module:
    """A copy of a model whose scaled-standardised convolutions are plain ones, with the same outputs.

    Parameters
    ----------
    model : nn.Module
        Any model that holds `ScaledStdConv1d`, ``2d``, ``3d`` or ``Transpose2d``, or one of these. It is not changed.

    Returns
    -------
    nn.Module
        In evaluation mode, no parameter requires a gradient. A convolution becomes `torch.nn.Conv2d`; only where SAME
        padding depends on the input's size, at a stride above 1, the `nfnets_lite.conv.Conv2d` that derives from it.

    Raises
    ------
    ValueError
        If there is nothing to fold.
    RuntimeError
        From the folded model, when its forward runs in training mode or with a folded weight that requires a
        gradient: plain gradient steps would train another network than the one that was folded.

    Notes
    -----
    Gradients by the input still work. To train only new layers on top, keep the folded part in evaluation mode. The
    guard is a forward pre-hook; a ``state_dict`` holds no gains and does not load into the unfolded model.

    Examples
    --------
    >>> from nfnets_lite import create_model
    >>> net = create_model("cifar_resnet8", method="nf", skip_gain=1.0).eval()
    >>> x = torch.randn(2, 3, 32, 32)
    >>> torch.allclose(fold(net)(x), net(x), atol=1e-6)
    True
    """
    folded = deepcopy(model)
    made: dict[nn.Module, nn.Module] = {
        module: _plain(module) for module in folded.modules() if isinstance(module, _ScaledStd)
    }
    if not made:
        raise ValueError(
            f"model: {type(model).__name__} holds no scaled-standardised convolution, so there is nothing to fold "
            "(networks of other methods, and folded ones, are plain already)"
        )
    for parent in list(folded.modules()):
        for name, child in list(parent._modules.items()):  # named_children() passes over a layer's second place
            if child is not None and child in made:
                setattr(parent, name, made[child])
    folded = made.get(folded, folded)
    return folded.eval().requires_grad_(False)


def _plain(conv: _ScaledStd) -> nn.Module:
    """The same convolution, with the weight that convolves as its weight."""
    args: dict[str, Any] = {
        "stride": conv.stride,
        "padding": conv.padding,
        "dilation": conv.dilation,
        "groups": conv.groups,
        "bias": conv.bias is not None,
        "padding_mode": conv.padding_mode,
        "device": "meta",  # no weights are made only to be thrown away
    }
    kind: type[_ConvNd] = _PLAIN[len(conv.kernel_size)]
    if conv.transposed:
        kind, args["output_padding"] = nn.ConvTranspose2d, conv.output_padding
    elif isinstance(conv, _SameConv) and conv.same:
        reach = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size)]
        if all(k == 1 or (s == 1 and r % 2 == 0) for k, s, r in zip(conv.kernel_size, conv.stride, reach)):
            args["padding"] = tuple(r // 2 for r in reach)  # equal sides, whatever the size
        else:
            kind, args["padding"] = _SAME[len(conv.kernel_size)], "same"
    plain = kind(conv.in_channels, conv.out_channels, conv.kernel_size, **args)
    with torch.no_grad():
        plain.weight = nn.Parameter(conv.effective_weight().clone())
    plain.bias = conv.bias
    plain.register_forward_pre_hook(_refuse_training)
    return plain


def _refuse_training(module: nn.Module, _inputs: object) -> None:
    if module.training or module.weight.requires_grad:
        state = "is in training mode" if module.training else "requires a gradient"
        raise RuntimeError(
            f"a folded {type(module).__name__} {state}: its standardised weight is baked in, and training it would no "
            "longer standardise. Train the model that was folded, then fold() it again; to evaluate, call .eval() and "
            ".requires_grad_(False)"
        )
