"""Folding: multiply standardisation, fixed norms and constant factors into plain convolutions, for evaluation."""

from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch._jit_internal import is_scripting
from torch.nn.modules.conv import _ConvNd

from nfnets_lite.activations import ScaledActivation
from nfnets_lite.conv import Conv1d, Conv2d, Conv3d, _SameConv, _Standardized
from nfnets_lite.convert.plan import options_of, replace_layers
from nfnets_lite.models.resnet import Block
from nfnets_lite.norm import inference_affine

_PLAIN: dict[int, type[_ConvNd]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_SAME: dict[int, type[_ConvNd]] = {1: Conv1d, 2: Conv2d, 3: Conv3d}
_TRANSPOSED: dict[int, type[_ConvNd]] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_FOLDABLE = (*_PLAIN.values(), *_TRANSPOSED.values())


@torch.inference_mode(False)  # parameters made in that mode would let no gradient through outside of it
def fold(model: nn.Module) -> nn.Module:
    """A copy of a model for evaluation: the same outputs from plain convolutions, with norms folded into them.

    A convolution with standardised weights becomes a plain one with the same effective weight. A norm that evaluates
    as a fixed affine map per channel, such as batch norm, is multiplied into the convolution before it,
    ``W' = scale * W`` and ``b' = scale * b + shift``, and becomes a `torch.nn.Identity`. In networks of this package
    the gains of activations and branches are multiplied into convolutions, too.

    Parameters
    ----------
    model : nn.Module
        A model with standardised convolutions, or with a norm right behind a convolution in a `torch.nn.Sequential`. It
        is not changed.

    Returns
    -------
    nn.Module
        In evaluation mode; no parameter requires a gradient. Convolutions are torch's, or `nfnets_lite.conv.Conv2d`
        where SAME padding depends on the input's size or has unequal sides.

    Raises
    ------
    ValueError
        If there is nothing to fold.
    RuntimeError
        From the folded model's forward pass, in training mode or if a folded weight requires a gradient: training would
        no longer standardise or normalise.

    Notes
    -----
    A norm stays if it computes statistics in evaluation too (group, layer, instance norm), or does not directly follow
    a convolution in a Sequential, where alone the order of layers is known. It stays if it or the convolution occurs
    twice in the model or has a hook. Call a Sequential as a whole: what you read between its layers changes.
    `nfnets_lite.norm.facts` tells which norms fold.

    Gradients with respect to inputs still work. To train only new layers on top, keep the folded part in evaluation
    mode. A ``state_dict`` loads into another folded model of the same specification, not into an unfolded one. Hooks on
    activations and branches see values without the factors that were folded.

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
    # A weight that a hook computes is part of a graph, and deepcopy refuses it; the hook makes it anew below.
    tensors = (t for module in model.modules() for t in vars(module).values() if isinstance(t, Tensor))
    folded = deepcopy(model, {id(t): t.detach().clone() for t in tensors if not t.is_leaf}).eval()
    for module in folded.modules():
        for hook in _hooks(module):
            if _makes_a_weight(hook):
                hook(module, ())
    made: dict[nn.Module, nn.Module] = {}
    for conv, norm, affine in _followed_by_a_norm(folded):  # the same again for a Sequential in another
        made |= {conv: _plain(conv, affine), norm: nn.Identity()}
    rest = (m for m in folded.modules() if isinstance(m, _Standardized) and m not in made)
    made |= {conv: _plain(conv) for conv in rest if all(map(_makes_a_weight, _hooks(conv)))}
    if not made:
        raise ValueError(
            f"model: {type(model).__name__} holds no norm that evaluates as a fixed affine map right behind a "
            "convolution of the same Sequential, and it holds no scaled-standardised convolution, so there is nothing "
            "to fold (perhaps it is folded already)"
        )
    replace_layers(folded, made)
    folded = made.get(folded, folded)
    folded.eval().requires_grad_(False)
    _absorb_factors(folded)
    return folded


def _followed_by_a_norm(model: nn.Module) -> Iterator[tuple[_ConvNd, nn.Module, tuple[Tensor, Tensor]]]:
    """Each convolution of a model's Sequentials that a foldable norm follows, with the norm and its affine map."""
    places = Counter(module for _, module in model.named_modules(remove_duplicate=False))
    for chain in (module for module in model.modules() if _runs_in_order(module)):
        for conv, norm in pairwise(_leaves(chain)):
            known = isinstance(conv, (_SameConv, _Standardized)) or type(conv) in _FOLDABLE
            hooked = not all(map(_makes_a_weight, (*_hooks(conv), *_hooks(norm))))
            if not known or hooked or places[conv] > 1 or places[norm] > 1:
                continue
            affine = inference_affine(norm)
            if affine is not None:
                assert isinstance(conv, _ConvNd)
                yield conv, norm, affine


def _hooks(module: nn.Module) -> list[Any]:
    """What a module runs before and after its forward pass."""
    return [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]


def _makes_a_weight(hook: Any) -> bool:
    """Whether a hook is one of torch.nn.utils, as of pruning, which makes the weight anew before each forward pass."""
    return type(hook).__module__.startswith("torch.nn.utils.")


def _runs_in_order(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _leaves(module: nn.Module) -> Iterator[nn.Module]:
    """The layers of nested Sequentials, in the order in which they run."""
    if not _runs_in_order(module):
        yield module
        return
    for child in module._modules.values():  # children() skips the second place of a layer
        if child is not None:
            yield from _leaves(child)


def _plain(conv: _ConvNd, affine: tuple[Tensor, Tensor] | None = None) -> nn.Module:
    """A plain convolution with the effective weight of `conv`, times the affine map behind it if there is one."""
    axes, options = len(conv.kernel_size), options_of(conv)
    kind = (_TRANSPOSED if conv.transposed else _PLAIN)[axes]
    if isinstance(conv, _SameConv) and conv.same:
        reach = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size)]
        if all(k == 1 or (s == 1 and r % 2 == 0) for k, s, r in zip(conv.kernel_size, conv.stride, reach)):
            options["padding"] = tuple(r // 2 for r in reach)  # equal sides, whatever the size
        else:
            kind, options["padding"] = _SAME[axes], "same"
    plain = kind(**options, bias=False, device="meta")  # its weights are replaced below
    with torch.no_grad():
        weight: Tensor = getattr(conv, "effective_weight", lambda: conv.weight)()
        bias = conv.bias
        if affine is not None:
            scale, shift = affine
            bias = shift if bias is None else shift + scale * bias
            if conv.transposed:  # (I, O / groups, *K), where each group of inputs has its own O / groups outputs
                split = weight.reshape(conv.groups, -1, *weight.shape[1:])
                weight = (split * scale.reshape(conv.groups, 1, -1, *[1] * axes)).flatten(0, 1)
            else:
                weight = weight * scale.reshape(-1, 1, *[1] * axes)
        plain.weight = nn.Parameter(weight.to(conv.weight.dtype, copy=True))
        plain.bias = None if bias is None else nn.Parameter(bias.to(conv.weight.dtype, copy=True))
    plain.baked = "standardised weight" if affine is None else "norm"  # type: ignore[assignment]
    plain.register_forward_pre_hook(_refuse_training)
    return plain


def _absorb_factors(model: nn.Module) -> None:
    """Multiply activations' factors into the folded convolutions behind them, and branches' into their last layer."""
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
        if folded(last):  # a gate is not: the branch then keeps its gain
            for tensor in last.parameters():
                tensor.mul_(block.join.branch * (1.0 if block.skip_gain is None else float(block.skip_gain)))
            block.skip_gain, block.join = None, replace(block.join, branch=1.0, gain=None)


def _refuse_training(self: Any, inputs: tuple[Tensor]) -> None:
    if is_scripting():  # torch.jit does not compile the other branch: a scripted network is not checked
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
