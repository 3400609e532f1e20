"""The plan of a conversion: which layers are replaced by which; how it is checked and carried out."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils.parametrize import is_parametrized

from nfnets_lite.conv import ScaledStdConv1d, ScaledStdConv2d, ScaledStdConv3d, ScaledStdConvTranspose2d
from nfnets_lite.convert.graph import Graph, Run
from nfnets_lite.convert.layers import ChannelAffine, calibrating

_LAYER_NORMS = (nn.LayerNorm, nn.RMSNorm)
_NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, *_LAYER_NORMS)
_POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_KINDS: dict[type[nn.Module], type[Any]] = {
    nn.Conv1d: ScaledStdConv1d, nn.Conv2d: ScaledStdConv2d, nn.Conv3d: ScaledStdConv3d,
    nn.ConvTranspose2d: ScaledStdConvTranspose2d,
}  # fmt: skip
_SAME = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a norm of torch, or has running statistics, as torchvision's frozen batch norm."""
    statistics = getattr(module, "running_mean", None) is not None and getattr(module, "running_var", None) is not None
    return isinstance(module, _NORMS) or statistics


def _axis(module: nn.Module) -> int | None:
    """Axis of the channels in a layer's output; None for a class derived from a layer norm, which may permute."""
    if isinstance(module, _LAYER_NORMS):
        own = any(type(module).forward is kind.forward for kind in _LAYER_NORMS)
        return -len(module.normalized_shape) if own else None
    return -1 if isinstance(module, nn.Linear) else 1


class Plan:
    """Which layers are replaced by which: decided, and checked, before anything is changed."""

    def __init__(
        self,
        model: nn.Module,
        run: Run,
        ends: Collection[str],
        leave: Collection[str],
        depthwise: bool,
        apart: Collection[nn.Module],
    ) -> None:
        # A norm that was taken apart from its activation goes by the name that it had.
        norms = {two.get_submodule("norm") for two in apart}
        named = {n.removesuffix(".norm") if m in norms else n: m for n, m in model.named_modules() if m not in apart}
        if unknown := set(leave) - set(named):
            raise ValueError(f"leave={sorted(unknown)} names no module of the model; use names of named_modules()")
        self.layers = {n: m for n, m in named.items() if is_norm(m) or isinstance(m, (_ConvNd, nn.Linear))}
        self.left = {n for n in named if any(f"{n}.".startswith(f"{part}.") for part in leave)}
        self.norms = [n for n, m in self.layers.items() if is_norm(m) and n not in self.left]
        if not self.norms or "" in self.layers:
            raise ValueError(f"model={type(model).__name__} holds no norm to replace; pass a network with norms inside")
        pools = {n: m for n, m in named.items() if isinstance(m, _POOLS)}
        watched = {n: (m, _axis(m)) for n, m in (self.layers | pools).items()}
        self.graph = Graph(model, run, watched, leave)
        weighted = {n for n, m in self.layers.items() if not is_norm(m)}
        self.kept = {n: why for n in weighted if (why := self._why_kept(n, weighted, depthwise))}
        self.convs = [n for n in self.layers if n in weighted and n not in self.kept]
        known = {*self.layers, *self.graph.parts.values()}
        if ends == "auto":
            self.ends = set(self.graph.branch_ends(weighted)) - self.left
        else:
            found = {end: {n for n in known if f".{n}".endswith(f".{end}")} for end in ends}
            self.ends = set().union(*found.values())
            if missing := [end for end, names in found.items() if not names]:
                near = [name for end in missing for name in get_close_matches(end, sorted(known), 5, 0.0)]
                parts = tuple(f".{end}" for end in missing)
                same = {n: last for n, last in self.graph.unchanged.items() if f".{n}".endswith(parts)}
                instead = [f"; {n!r} returns its input in evaluation, so name {last!r}" for n, last in same.items()][:1]
                raise ValueError(
                    f"ends={missing} must name norms, convolutions, linear layers, or modules that are called once "
                    f"with one tensor and return one, such as {near[:5]}{''.join(instead)}"
                )
        self.layers = {n: m for n, m in named.items() if n in {*self.layers, *self.ends}}
        if problems := list(self._problems()):
            more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
            raise ValueError(
                f"model={type(model).__name__} cannot be converted, and is as it was: {'; '.join(problems[:5])}{more}. "
                "Change the model, or name in `leave` the modules that are to stay"
            )
        feeds = self.graph.only_feeds
        direct = {n: conv for n in (*self.norms, *pools) for conv in self.convs if feeds(conv, n)}
        self.joins = {norm: conv for norm, conv in direct.items() if norm in self.norms}
        # Average pooling reduces the variance, so a convolution in front of it is set by the output of the pooling.
        self.pools = {conv: pools[pool] for pool, conv in direct.items() if pool in pools}
        self.sources = {n: n for n in (*self.convs, *self.norms)} | {conv: norm for norm, conv in self.joins.items()}
        behind = self.graph.gain_behind
        self.gains = {n: 1.0 if {n, last} & self.ends else behind(last) for n, last in self.sources.items()}

    def _why_kept(self, name: str, weighted: set[str], depthwise: bool) -> str:
        """Why a layer with weights stays as it is; empty if it becomes a standardised convolution."""
        layer = self.layers[name]
        if name in self.left or not isinstance(layer, _ConvNd):
            return "named in leave" if name in self.left else "linear"
        if not self.graph.calls[name] or not self.graph.reaches(name, self.norms, weighted):
            return "no norm follows" if self.graph.calls[name] else "the batch does not reach it"
        if is_parametrized(layer):
            return "parametrised; torch.nn.utils.parametrize.remove_parametrizations makes it plain"
        if "weight" not in layer._parameters:  # older forms of spectral and weight norm, and pruning
            return "a hook makes its weight; torch.nn.utils has remove_weight_norm, remove_spectral_norm, prune.remove"
        if type(layer) not in _KINDS:
            return f"no standardised form of {type(layer).__module__}.{type(layer).__name__}"
        if layer.weight.numel() == layer.out_channels:
            return "one weight a channel"
        return "" if depthwise or not 1 < layer.groups == layer.in_channels else "depth-wise"

    def _problems(self) -> Iterator[str]:
        owners = Counter(p for layer in self.layers.values() for p in layer.parameters(recurse=False))
        for name in dict.fromkeys([*self.norms, *self.convs, *self.ends]):
            layer, calls = self.layers[name], len(self.graph.calls.get(name, [name]))
            if not calls:
                yield f"the batch does not reach {name!r}, or only under torch.no_grad: nothing can be measured there"
            elif calls > 1:
                yield f"{name!r} is called {calls} times, and each call would need constants of its own"
            elif any(owners[p] > 1 for p in layer.parameters(recurse=False)):
                yield f"{name!r} shares its weights with another layer"
            if is_norm(layer) and self.graph.activates(name):
                yield f"{name!r} is a {type(layer).__name__}, which activates as well"
        yield from (f"the forward pass computes {norm} without a layer" for norm in self.graph.stray_norms())

    def rows(self, keep: bool) -> Iterator[tuple[str, str, str, str]]:
        """The report, in the order of the model's layers."""
        for name, layer in self.layers.items():
            becomes, why = "left", "named in leave" if name in self.left else self.kept.get(name, "no layer by itself")
            if name in self.convs:
                becomes, why = f"ScaledStd{type(layer).__name__}", "a norm follows"
            elif name in self.norms:
                conv = self.joins.get(name)
                becomes, why = ("Identity", f"joins {conv}") if conv else ("ChannelAffine", "joins no convolution")
            if name in self.gains and becomes != "Identity" and not keep:
                why += f", gain {self.gains[name]:.2f}"
            if name in self.ends:
                becomes, why = f"{becomes}, BranchScale".removeprefix("Identity, "), f"{why}, ends a branch"
            if why != "linear":
                yield name, type(layer).__name__, becomes, why

    @torch.no_grad()
    def carry_out(
        self, model: nn.Module, run: Run, keep: bool, scaled: Callable[[], nn.Module], frozen: list[nn.Parameter]
    ) -> None:
        """Replace layers, and set them in one run; all or nothing. New parameters of frozen layers join `frozen`."""
        still = set(frozen)
        made: dict[nn.Module, nn.Module] = {}
        hooks: list[Any] = []
        uncalled: set[str] = set()
        for name in (n for n in self.layers if n in {*self.convs, *self.norms, *self.ends}):
            old, source = self.layers[name], self.sources.get(name, name)
            like = next(p for p in (*old.parameters(), *model.parameters()) if p.is_floating_point())
            new = _standardised(old, keep) if name in self.convs else old
            if name in self.joins:
                new = nn.Identity()
            elif name in {*self.convs, *self.norms}:
                *_, mean, std, axis = self.graph.calls[source][0]
                if name in self.norms:
                    new = _placed(ChannelAffine, like, len(mean), axis)
                if not keep:
                    mean, std = torch.zeros_like(mean), torch.full_like(std, self.gains[name])
                place = self.pools.get(name, new)
                hooks.append(place.register_forward_hook(calibrating(name, new, axis, mean, std)))
            if name in self.ends:
                scale = _placed(scaled, like)
                new = scale if isinstance(new, nn.Identity) else nn.Sequential(new, scale)
            if new is not old:
                made[old] = new
                replaced = {*old.parameters(), *self.layers[source].parameters()}
                if replaced and replaced <= still:
                    frozen += new.parameters()
                elif name in self.convs and old.weight in still:
                    frozen.append(new.get_parameter("0.weight" if name in self.ends else "weight"))
                uncalled.add(name)
                hooks.append(new.register_forward_hook(lambda *_, name=name: uncalled.discard(name)))
        try:
            replace_layers(model, made)
            run(model)
            if uncalled:
                raise AttributeError(f"its forward pass calls the old {min(uncalled)!r}, from a list or an attribute")
        except BaseException as error:
            replace_layers(model, {new: old for old, new in made.items()})
            if isinstance(error, AttributeError):
                raise ValueError(
                    f"model={type(model).__name__} cannot be converted, and is as it was: {error}. Change the forward "
                    "pass that needs the layer as it was, or name the layer in `leave`"
                ) from error
            raise
        finally:
            for hook in hooks:
                hook.remove()


def _placed(kind: Callable[..., nn.Module], like: Tensor, *args: Any) -> nn.Module:
    """A new layer with the device and dtype of a tensor, whatever torch's default device is."""
    with like.device:
        return kind(*args).to(like.dtype)


def _standardised(conv: Any, keep: bool) -> nn.Module:
    """A standardised convolution of the same shape, newly started or with the same weight."""
    made: nn.Module = _KINDS[type(conv)](**options_of(conv), device=conv.weight.device, dtype=conv.weight.dtype)
    weight = made.get_parameter("weight")
    weight.data = torch.empty_like(conv.weight).copy_(conv.weight if keep else weight)  # in the old memory format
    return made


def options_of(conv: Any) -> dict[str, Any]:
    """What a convolution was built with, but for its bias, device and dtype."""
    return {name: getattr(conv, name) for name in (*_SAME, *["output_padding"] * conv.transposed)}


def replace_layers(model: nn.Module, made: Mapping[nn.Module, nn.Module]) -> None:
    """Replace layers in all places that they have in the model."""
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is not None and child in made:
                parent._modules[name] = made[child]
