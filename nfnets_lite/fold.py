"""Folding: bake standardised weights, fixed norms and factors in, for a network that is only going to be evaluated."""

from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch._jit_internal import is_scripting
from torch.nn.modules.conv import _ConvNd

from nfnets_lite.activations import ScaledActivation
from nfnets_lite.conv import Conv1d, Conv2d, Conv3d, _SameConv, _Standardized
from nfnets_lite.models.resnet import Block
from nfnets_lite.norm import inference_affine

_PLAIN: dict[int, type[_ConvNd]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_SAME: dict[int, type[_ConvNd]] = {1: Conv1d, 2: Conv2d, 3: Conv3d}
_TRANSPOSED: dict[int, type[_ConvNd]] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_FOLDABLE = (*_PLAIN.values(), *_TRANSPOSED.values())
Affine: TypeAlias = tuple[Tensor, Tensor]


@torch.inference_mode(False)  # parameters made in that mode would let no gradient through outside of it
def fold(model: nn.Module) -> nn.Module:
    """A copy of a model with the same outputs, of plain convolutions, without the norms that can join them.

    A convolution with standardised weights gets the weights that convolve. A norm whose evaluation is a fixed affine
    map per channel (batch norm is one) is multiplied into the convolution in front of it, ``W' = scale * W`` and
    ``b' = scale * b + shift``, and leaves an `torch.nn.Identity` in its place. In the networks of this package the
    gains of activations and of branches go into the convolutions beside them as well.

    Parameters
    ----------
    model : nn.Module
        Any model that holds `ScaledStdConv1d`, ``2d``, ``3d``, ``Transpose2d`` or `WSConv2d`, or one of these, or a
        convolution followed by such a norm inside a `torch.nn.Sequential`. It is not changed.

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
    A norm stays if its statistics are made in evaluation too (group, layer, instance norm). It stays where it does not
    follow a convolution directly, after a sum or at the start of a pre-activation block. It stays where the layers
    stand twice in the model or outside a Sequential, which alone says what follows what. `nfnets_lite.norm.facts`
    tells which norms fold.
    Gradients by the input still work. To train only new layers on top, keep the folded part in evaluation mode. The
    guard is a forward pre-hook. A ``state_dict`` loads into another folded model of the same specification, not into
    an unfolded one. Hooks on activations and branches see them without the factors that moved on; hooks on a layer that
    was replaced are gone.

    Examples
    --------
    >>> from nfnets_lite import create_model
    >>> net = create_model("cifar_resnet8", method="nf", skip_gain=1.0).eval()
    >>> x = torch.randn(2, 3, 32, 32)
    >>> torch.allclose(fold(net)(x), net(x), atol=1e-6)
    True
    >>> fold(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)))[1]
    Identity()
    """
    folded = deepcopy(model).eval()
    for module in folded.modules():
        for hook in module._forward_pre_hooks.values():
            if type(hook).__module__.startswith("torch.nn.utils."):  # as of pruning: it makes the weight anew
                hook(module, ())
    made: dict[nn.Module, nn.Module] = {}
    for conv, norm, affine in _followed_by_a_norm(folded):
        made |= {conv: _plain(conv, affine), norm: nn.Identity()}
    made |= {m: _plain(m) for m in folded.modules() if isinstance(m, _Standardized) and m not in made}
    if not made:
        raise ValueError(
            f"model: {type(model).__name__} holds no norm that evaluates as a fixed affine map right behind a "
            "convolution of the same Sequential, and it holds no scaled-standardised convolution, so there is nothing "
            "to fold (a folded network is plain already)"
        )
    for parent in list(folded.modules()):
        for name, child in list(parent._modules.items()):  # named_children() passes over a layer's second place
            if child is not None and child in made:
                setattr(parent, name, made[child])
    folded = made.get(folded, folded)
    folded.eval().requires_grad_(False)
    _absorb_factors(folded)
    return folded


def _followed_by_a_norm(model: nn.Module) -> Iterator[tuple[_ConvNd, nn.Module, Affine]]:
    """Convolutions with the norm right behind them and its affine map, from the Sequentials of a model."""
    places = Counter(module for _, module in model.named_modules(remove_duplicate=False))
    seen: set[nn.Module] = set()
    for chain in (module for module in model.modules() if _runs_in_order(module)):
        for conv, norm in pairwise(_leaves(chain)):
            known = isinstance(conv, (_SameConv, _Standardized)) or type(conv) in _FOLDABLE
            if not known or conv in seen or places[conv] > 1 or places[norm] > 1:
                continue
            affine = inference_affine(norm)
            if affine is not None:
                seen.add(conv)
                assert isinstance(conv, _ConvNd)
                yield conv, norm, affine


def _runs_in_order(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _leaves(module: nn.Module) -> Iterator[nn.Module]:
    """The layers of nested Sequentials, in the order in which they run."""
    if not _runs_in_order(module):
        yield module
        return
    for child in module._modules.values():  # children() passes over a layer's second place
        if child is not None:
            yield from _leaves(child)


def _plain(conv: _ConvNd, affine: Affine | None = None) -> nn.Module:
    """The same convolution, with the weight that convolves as its weight, and an affine map behind it joined in."""
    args: dict[str, Any] = {
        "stride": conv.stride,
        "padding": conv.padding,
        "dilation": conv.dilation,
        "groups": conv.groups,
        "bias": conv.bias is not None,
        "padding_mode": conv.padding_mode,
        "device": "meta",  # no weights are made only to be thrown away
    }
    kind = _PLAIN[len(conv.kernel_size)]
    if conv.transposed:
        kind, args["output_padding"] = _TRANSPOSED[len(conv.kernel_size)], conv.output_padding
    elif isinstance(conv, _SameConv) and conv.same:
        reach = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size)]
        if all(k == 1 or (s == 1 and r % 2 == 0) for k, s, r in zip(conv.kernel_size, conv.stride, reach)):
            args["padding"] = tuple(r // 2 for r in reach)  # equal sides, whatever the size
        else:
            kind, args["padding"] = _SAME[len(conv.kernel_size)], "same"
    plain = kind(conv.in_channels, conv.out_channels, conv.kernel_size, **args)
    with torch.no_grad():
        weight: Tensor = getattr(conv, "effective_weight", lambda: conv.weight)()
        plain.weight, plain.bias = (None if t is None else nn.Parameter(t.clone()) for t in (weight, conv.bias))
        if affine is not None:
            _join(plain, *affine)
    plain.baked = "standardised weight" if affine is None else "norm"  # type: ignore[assignment]
    plain.register_forward_pre_hook(_refuse_training)
    return plain


def _join(conv: _ConvNd, scale: Tensor, shift: Tensor) -> None:
    """Multiply a scale per output channel into a convolution's weight and bias, and add a shift to its bias."""
    weight = conv.weight
    if conv.transposed:  # (I, O / groups, *K), where each group of inputs has its own O / groups outputs
        split = weight.reshape(conv.groups, -1, *weight.shape[1:])
        weight = (split * scale.reshape(conv.groups, 1, -1, *[1] * (weight.ndim - 2))).flatten(0, 1)
    else:
        weight = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    bias = shift if conv.bias is None else shift + scale * conv.bias
    conv.weight, conv.bias = (nn.Parameter(tensor.to(conv.weight.dtype)) for tensor in (weight, bias))


def _absorb_factors(model: nn.Module) -> None:
    """Move an activation's factor into the folded convolutions that it feeds, and a branch's into its last layer."""
    places = Counter(module for _, module in model.named_modules(remove_duplicate=False))

    def folded(layer: nn.Module) -> bool:
        return places[layer] == 1 and _refuse_training in layer._forward_pre_hooks.values()

    def move(layer: nn.Module, takers: list[nn.Module]) -> None:
        act = layer[-1] if isinstance(layer, nn.Sequential) and _runs_in_order(layer) and len(layer) else layer
        if type(act) is ScaledActivation and places[act] == 1 and all(map(folded, takers)):
            for conv in takers:
                conv.get_parameter("weight").mul_(act.scale)
            act.scale = 1.0

    for chain in (m for m in model.modules() if isinstance(m, nn.Sequential) and _runs_in_order(m)):
        for layer, following in pairwise(chain):
            move(layer, [following])
    for block in (m for m in model.modules() if isinstance(m, Block) and _runs_in_order(m.branch) and len(m.branch)):
        first, last = block.branch[0], block.branch[-1]
        move(block.enter, [first, *([block.shortcut] if block.transition else [])])
        if folded(last):  # not a gate, behind which the gain stays in the state dict
            for tensor in last.parameters():
                tensor.mul_(block.join.branch * (1.0 if block.skip_gain is None else float(block.skip_gain)))
            block.skip_gain, block.join = None, replace(block.join, branch=1.0, gain=None)


def _refuse_training(self: Any, inputs: tuple[Tensor]) -> None:
    if is_scripting():  # torch.jit compiles no line of the other branch: a scripted network checks nothing
        return
    else:
        if isinstance(self.weight, Tensor) and (self.training or self.weight.requires_grad):  # not a quantised layer
            state = "is in training mode" if self.training else "requires a gradient"
            baked = getattr(self, "baked", "weight")  # a layer of torch's quantisation keeps hooks, not attributes
            verb = "normalise" if baked == "norm" else "standardise"
            raise RuntimeError(
                f"a folded {type(self).__name__} {state}: its {baked} is baked in, and training it would no "
                f"longer {verb}. Train the model that was folded, then fold() it again; to evaluate, call .eval() and "
                ".requires_grad_(False)"
            )
