"""Convert somebody else's network: norms out, standardised convolutions and scaled branches in."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from nfnets_lite.conv import ScaledStdConv1d, ScaledStdConv2d, ScaledStdConv3d, ScaledStdConvTranspose2d
from nfnets_lite.convert.graph import Graph
from nfnets_lite.convert.layers import BranchScale, ChannelAffine, calibrating

__all__ = ["Conversion", "convert"]

Run: TypeAlias = Callable[[nn.Module], Any]
_LAYER_NORMS = (nn.LayerNorm, nn.RMSNorm)
_NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, *_LAYER_NORMS)
_POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_KINDS: dict[type[nn.Module], type[Any]] = {
    nn.Conv1d: ScaledStdConv1d, nn.Conv2d: ScaledStdConv2d, nn.Conv3d: ScaledStdConv3d,
    nn.ConvTranspose2d: ScaledStdConvTranspose2d,
}  # fmt: skip
_SAME = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")


@dataclass(frozen=True)
class Conversion:
    """What `convert` replaced, what it left, and why; a table by ``str``.

    Attributes
    ----------
    rows : tuple of tuple of str
        For each norm, convolution and end of a branch: its name, its kind, the kind that replaces it or ``"left"``,
        and the reason.
    keep_weights, dry_run : bool
        As in `convert`.
    """

    rows: tuple[tuple[str, str, str, str], ...]
    keep_weights: bool
    dry_run: bool

    def __str__(self) -> str:
        widths = [max(map(len, column)) for column in zip(*self.rows)]
        table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in self.rows]
        left = sum(row[2] == "left" for row in self.rows)
        said = f"{len(self.rows) - left} layers {'to replace' if self.dry_run else 'replaced'}, {left} left"
        fate = "kept: fine-tune them" if self.keep_weights else "newly started: train them"
        return "\n".join([*table, f"{said}; weights of convolutions {fate}"])


def convert(
    model: nn.Module,
    batch: Tensor | Run,
    *,
    keep_weights: bool = False,
    ends: Collection[str] | Literal["auto"] = "auto",
    alpha: float | None = None,
    skip_gain: float = 1.0,
    depthwise: bool = True,
    leave: Collection[str] = (),
    dry_run: bool = False,
) -> Conversion:
    r"""Replace a network's norms, in place, by what does their work at the start of training.

    A convolution that leads to a norm becomes a scaled-standardised one. Its gain and bias are set so that each channel
    has mean 0 and standard deviation :math:`\gamma` on the batch, where :math:`\gamma` is the gain of the activation
    that follows, or 1. A norm directly behind such a convolution becomes an identity. Any other norm becomes a gain and
    a bias for each channel, set in the same way. The end of a residual branch gets the factor ``alpha * skip_gain``.

    Parameters
    ----------
    model : nn.Module
        Norms and convolutions must be layers, each called once in a forward pass.
    batch : Tensor or callable
        Inputs as in training, some hundred if memory allows; or a function that calls the model on its inputs,
        ``lambda model: model(images, targets)``, for lists and dictionaries. The model is in evaluation mode meanwhile.
    keep_weights : bool
        False starts the convolutions' weights anew. True copies the weights, and each channel gets the mean and
        deviation that the norm gave it in evaluation; branches keep their size, without `alpha` and `skip_gain`.
        Standardised filters have mean 0, so outputs are near the old ones, not equal to them: fine-tune.
    ends : collection of str, or "auto"
        Names of the layers that end residual branches, whole (``"layer1.0.bn2"``) or their last part (``"bn2"``).
        "auto" finds them: a branch has more layers than its shortcut, and nothing else reads what is inside it.
    alpha : float, optional
        Factor of a branch, whose output has variance 1. Without it :math:`n^{-1/2}` for n branches, which together add
        1 to the variance.
    skip_gain : float
        Start of the learnable factor on a branch.
    depthwise : bool
        Whether depth-wise convolutions are standardised, too.
    leave : collection of str
        Names of modules that stay as they are, with all inside.
    dry_run : bool
        Report, and replace nothing.

    Returns
    -------
    Conversion
        A report of what was replaced, what was left, and why.

    Raises
    ------
    ValueError
        For a model without norms, layers that are called twice or share weights, and norms computed without a layer.
        Also for norms that activate as well or that the batch does not reach. The model is as it was.
    TypeError
        For a batch that is neither a tensor nor callable.

    Notes
    -----
    Build the optimizer afterwards: parameters are new. Hooks on replaced layers are gone. A norm that a module writes
    out by hand, from a mean and a variance, is not seen.

    The authors start skip gains at 0, for long trainings. Adaptive clipping lets a scalar of 0 grow by ``clip_factor *
    eps`` times the learning rate per update, which keeps the branches shut in a short training.

    The parts are those of NF-ResNets (arXiv 2101.08692); setting them on a batch is data-dependent initialisation
    (arXiv 1602.07868).

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
    >>> print(convert(net, torch.randn(64, 3, 8, 8)))
    0  Conv2d       ScaledStdConv2d  a norm follows
    1  BatchNorm2d  Identity         joins 0
    2 layers replaced, 0 left; weights of convolutions newly started: train them
    """
    if not isinstance(batch, Tensor) and not callable(batch):
        raise TypeError(
            f"batch is a {type(batch).__name__}; pass a tensor, or a function that calls the model on its inputs, such "
            "as lambda model: model(images, targets)"
        )
    run: Run = batch if not isinstance(batch, Tensor) else lambda model: model(batch)
    with _evaluated(model):
        plan = _Plan(model, run, () if keep_weights and ends == "auto" else ends, leave, depthwise)
        if not dry_run:
            alpha = max(1, len(plan.ends)) ** -0.5 if alpha is None else alpha
            plan.carry_out(model, run, keep_weights, partial(BranchScale, alpha, skip_gain))
    return Conversion(tuple(plan.rows()), keep_weights, dry_run)


@contextmanager
def _evaluated(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and gradients for all parameters, so that autograd's graph shows all layers."""
    modes = {module: module.training for module in model.modules()}
    frozen = [p for p in model.parameters() if p.is_floating_point() and not p.requires_grad]
    try:
        model.eval()
        for parameter in frozen:
            parameter.requires_grad_()
        with torch.enable_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for parameter in frozen:
            parameter.requires_grad_(False)


def _is_norm(module: nn.Module) -> bool:
    """Norms of torch, and frozen ones with statistics, as torchvision's, which derives from none of them."""
    statistics = getattr(module, "running_mean", None) is not None and getattr(module, "running_var", None) is not None
    return isinstance(module, _NORMS) or statistics


def _axis(module: nn.Module) -> int:
    """Axis of the channels in a layer's output. A class that derives from a layer norm moves them there and back."""
    if isinstance(module, _LAYER_NORMS):
        own = any(type(module).forward is kind.forward for kind in _LAYER_NORMS)
        return -len(module.normalized_shape) if own else 1
    return -1 if isinstance(module, nn.Linear) else 1


class _Plan:
    """What is to be replaced by what: made, and checked, before anything is changed."""

    def __init__(
        self, model: nn.Module, run: Run, ends: Collection[str], leave: Collection[str], depthwise: bool
    ) -> None:
        named = dict(model.named_modules())
        if unknown := set(leave) - set(named):
            raise ValueError(f"leave={sorted(unknown)} names no module of the model; use names of named_modules()")
        self.layers = {n: m for n, m in named.items() if _is_norm(m) or isinstance(m, (_ConvNd, nn.Linear))}
        self.left = {n for n in self.layers if any(f"{n}.".startswith(f"{part}.") for part in leave)}
        self.norms = [n for n, m in self.layers.items() if _is_norm(m) and n not in self.left]
        if not self.norms or "" in self.layers:
            raise ValueError(f"model={type(model).__name__} holds no norm to replace; pass a network with norms inside")
        pools = {n: m for n, m in named.items() if isinstance(m, _POOLS)}
        watched = {n: (named[n], -1) for n in leave} | {n: (m, _axis(m)) for n, m in (self.layers | pools).items()}
        self.graph = Graph(lambda: run(model), watched)
        weighted = {n for n, m in self.layers.items() if not _is_norm(m)}
        self.kept = {n: why for n in weighted if (why := self._why_kept(n, weighted, depthwise))}
        self.convs = [n for n in self.layers if n in weighted and n not in self.kept]
        if ends == "auto":
            self.ends = set(self.graph.branch_ends(weighted)) - self.left
        else:
            self.ends = {n for n in self.layers if {n, n.rpartition(".")[2]} & set(ends)}
            if unknown := set(ends) - self.ends - {n.rpartition(".")[2] for n in self.ends}:
                raise ValueError(f"ends={sorted(unknown)} must name norms, convolutions or linear layers of the model")
        if problems := list(self._problems()):
            more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
            raise ValueError(
                f"model={type(model).__name__} cannot be converted, and is as it was: {'; '.join(problems[:5])}{more}. "
                "Change the model, or name in `leave` the modules that are to stay"
            )
        behind = {self.graph.calls[n][0].after: n for n in self.convs}
        called = [(n, self.graph.calls[n][0].before) for n in (*self.norms, *pools) if self.graph.calls[n]]
        direct = {n: behind[node] for n, node in called if node in behind and self.graph.only_feeds(behind[node], n)}
        self.joins = {norm: conv for norm, conv in direct.items() if norm in self.norms}
        # Average pooling takes variance away and keeps a scale, so a convolution is set by what leaves the pooling.
        self.pools = {conv: pools[pool] for pool, conv in direct.items() if pool in pools}

    def _why_kept(self, name: str, weighted: set[str], depthwise: bool) -> str:
        """Why a layer with weights stays as it is; empty if it becomes a standardised convolution."""
        layer = self.layers[name]
        if name in self.left or not isinstance(layer, _ConvNd):
            return "named in leave" if name in self.left else "linear"
        if not self.graph.calls[name] or not self.graph.reaches(name, self.norms, weighted):
            return "no norm follows" if self.graph.calls[name] else "the batch does not reach it"
        if type(layer) not in _KINDS or layer.weight.numel() == layer.out_channels:
            return f"there is no standardised {type(layer).__name__} with {layer.weight[0].numel()} weights a channel"
        return "" if depthwise or not 1 < layer.groups == layer.in_channels else "depth-wise"

    def _problems(self) -> Iterator[str]:
        owners = Counter(p for layer in self.layers.values() for p in layer.parameters())
        for name in dict.fromkeys([*self.norms, *self.convs, *self.ends]):
            layer, calls = self.layers[name], len(self.graph.calls[name])
            if not calls:
                yield f"the batch does not reach {name!r}, so that nothing can be measured there"
            elif calls > 1:
                yield f"{name!r} is called {calls} times, and each call would need constants of its own"
            elif any(owners[p] > 1 for p in layer.parameters()):
                yield f"{name!r} shares its weights with another layer"
            if _is_norm(layer) and self.graph.activates(name):
                yield f"{name!r} is a {type(layer).__name__}, which activates as well"
        yield from (f"the forward pass computes {norm} without a layer" for norm in self.graph.stray_norms())

    def rows(self) -> Iterator[tuple[str, str, str, str]]:
        """The report, in the order of the model's layers."""
        for name, layer in self.layers.items():
            becomes, why = "left", self.kept.get(name, "named in leave")
            if name in self.convs:
                becomes, why = f"ScaledStd{type(layer).__name__}", "a norm follows"
            elif name in self.norms:
                conv = self.joins.get(name)
                becomes, why = ("Identity", f"joins {conv}") if conv else ("ChannelAffine", "behind no convolution")
            if name in self.ends:
                becomes, why = f"{becomes}, BranchScale".removeprefix("Identity, "), f"{why}, ends a branch"
            if why != "linear":
                yield name, type(layer).__name__, becomes, why

    @torch.no_grad()
    def carry_out(self, model: nn.Module, run: Run, keep: bool, scaled: Callable[[], nn.Module]) -> None:
        """Replace the layers, then run the model once to set what replaced them; all or nothing."""
        made: dict[nn.Module, nn.Module] = {}
        hooks: list[Any] = []
        for name in (n for n in self.layers if n in {*self.convs, *self.norms, *self.ends}):
            source = next((norm for norm, conv in self.joins.items() if conv == name), name)
            old, (*_, mean, std, axis) = self.layers[name], self.graph.calls[source][0]
            new = _standardised(old, keep) if name in self.convs else old
            if name in self.norms:
                new = nn.Identity() if name in self.joins else ChannelAffine(len(mean), axis).to(mean)
            if new is not old and not isinstance(new, nn.Identity):
                if not keep:
                    gain = 1.0 if {name, source} & self.ends else self.graph.gain_behind(source)
                    mean, std = torch.zeros_like(mean), torch.full_like(std, gain)
                place = self.pools.get(name, new)
                hooks.append(place.register_forward_hook(calibrating(name, new, axis, mean, std)))
            if name in self.ends:
                new = scaled().to(mean) if isinstance(new, nn.Identity) else nn.Sequential(new, scaled().to(mean))
            made |= {} if new is old else {old: new}
        try:
            _replace(model, made)
            run(model)
        except BaseException:
            _replace(model, {new: old for old, new in made.items()})
            raise
        finally:
            for hook in hooks:
                hook.remove()


def _standardised(conv: Any, keep: bool) -> nn.Module:
    """A standardised convolution of the same shape, newly started or with the same weight."""
    options = {name: getattr(conv, name) for name in (*_SAME, *["output_padding"] * conv.transposed)}
    made: nn.Module = _KINDS[type(conv)](**options, device=conv.weight.device, dtype=conv.weight.dtype)
    if keep:
        made.get_parameter("weight").copy_(conv.weight)
    return made


def _replace(model: nn.Module, made: Mapping[nn.Module, nn.Module]) -> None:
    """Put new layers in the places of old ones, in all places that a layer has."""
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is not None and child in made:
                parent._modules[name] = made[child]
