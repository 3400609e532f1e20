"""Convert a network of your own: norms out, standardised convolutions and scaled branches in."""

import sys
from collections import OrderedDict
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from nfnets_lite._checks import check_model, check_number
from nfnets_lite.convert.graph import Run
from nfnets_lite.convert.layers import BranchScale
from nfnets_lite.convert.plan import Plan, is_norm, replace_layers

__all__ = ["Conversion", "convert"]


@dataclass(frozen=True)
class Conversion:
    """Report of `convert`: what it replaced, what it left, and why; ``str`` makes a table of it.

    Attributes
    ----------
    rows : tuple of tuple of str
        For each norm, convolution and end of a branch: its name before the conversion, its kind, the kind that replaces
        it or ``"left"``, and the reason.
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
        ends = sum("BranchScale" in row[2] for row in self.rows)
        said = f"{len(self.rows) - left} layers {'to replace' if self.dry_run else 'replaced'}, {left} left"
        said += f", {ends} ends of branches scaled" * bool(ends)
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
    r"""Replace a network's norms, in place, by standardised convolutions, gains and biases that are set on a batch.

    A convolution that leads to a norm becomes a scaled-standardised one. Its gain and bias are set so that each channel
    has mean 0 and standard deviation :math:`\gamma` on the batch. :math:`\gamma` is the gain of the activation that
    follows, or 1 where none is recognised. The report lists these gains. A norm of the same channels directly behind
    such a convolution becomes an identity. Any other norm becomes a gain and a bias for each channel, or for each index
    of the first axis that it normalises over, set in the same way. The end of a residual branch gets the factor ``alpha
    * skip_gain``.

    Parameters
    ----------
    model : nn.Module
        Norms and convolutions must be layers, each called once in a forward pass.
    batch : Tensor or callable
        Inputs as in training, a few hundred if memory allows, or a function that calls the model on its inputs, such as
        ``lambda model: model(images, targets)``. The model runs in evaluation mode.
    keep_weights : bool
        False starts the convolutions' weights anew. True copies them, and gives each channel the mean and deviation
        that the norm gave it in evaluation; with ``ends="auto"``, branches then get no factor. Outputs are near the old
        ones, not equal to them, because standardised filters have mean 0: fine-tune.
    ends : collection of str, or "auto"
        Names of the modules that end residual branches, whole (``"layer1.0.bn2"``) or their last parts (``"bn2"``).
        "auto" finds them: a branch has more layers than its shortcut, and nothing else reads from inside it. It ends in
        a layer, or in a module that is called once with one tensor and returns one. A shortcut may have several
        branches, as in ``x + a(x) + b(x)``. No end is found where the shortcut is the batch itself. Where the report
        lacks an end, pass the names of all ends, such as ``ends=["attn", "mlp.3"]``.
    alpha : float, optional
        Factor on each branch, above 0. By default :math:`n^{-1/2}`: the outputs of n branches, of variance 1 each, then
        add 1 to the variance together.
    skip_gain : float
        Initial value of the learnable factor on a branch.
    depthwise : bool
        Whether depth-wise convolutions are standardised, too.
    leave : collection of str
        Names of modules that stay unchanged, with all their submodules.
    dry_run : bool
        Report, and change nothing.

    Returns
    -------
    Conversion
        A report of what was replaced, what was left, and why.

    Raises
    ------
    ValueError
        For arguments that are not as above, and for a model that cannot be converted, which is then unchanged. It may
        hold no norm, layers that are called twice or share weights, lazy layers, or norms that the batch does not
        reach. It may compute norms without a layer, or norms that activate by themselves without a submodule ``act``.
        It may be distributed already.
    TypeError
        For a model that is no module, and a batch that is neither a tensor nor callable.

    Notes
    -----
    Build the optimizer afterwards: parameters are new. They are frozen where the old ones were; a gain and a bias only
    where both the convolution and the norm were. Hooks on replaced layers are gone. A norm that a forward pass
    computes by hand, from a mean and a variance, is not found.

    The authors start skip gains at 0, for long trainings. With adaptive clipping a scalar of 0 grows by ``clip_factor *
    eps`` times the learning rate per update, which keeps branches near 0 in a short training.

    The parts are those of NF-ResNets (arXiv 2101.08692); setting them on a batch is data-dependent initialisation
    (arXiv 1602.07868).

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
    >>> print(convert(net, torch.randn(64, 3, 8, 8)))
    0  Conv2d       ScaledStdConv2d  a norm follows, gain 1.71
    1  BatchNorm2d  Identity         joins 0
    2 layers replaced, 0 left; weights of convolutions newly started: train them
    """
    check_model("model", model)
    if not isinstance(batch, Tensor) and not callable(batch):
        raise TypeError(
            f"batch is a {type(batch).__name__}; pass a tensor, or a function that calls the model on its inputs, such "
            "as lambda model: model(images, targets)"
        )
    ends, leave = ([names] if isinstance(names, str) and names != "auto" else names for names in (ends, leave))
    for argument, names, accepted in (("ends", ends, ", or 'auto'"), ("leave", leave, "")):
        if names != "auto" and not (isinstance(names, Collection) and all(isinstance(n, str) and n for n in names)):
            raise ValueError(f"{argument}={names!r} must be names of modules{accepted}")
    if alpha is not None:
        check_number("alpha", alpha, above=0)
    check_number("skip_gain", skip_gain)
    if not ends or (ends == "auto" and keep_weights):
        for argument, value, default in (("alpha", alpha, None), ("skip_gain", skip_gain, 1.0)):
            if value != default:
                raise ValueError(
                    f"{argument}={value!r} has no effect with ends={ends!r} and keep_weights={keep_weights}: no branch "
                    f"is scaled; name the ends of the branches in ends, or leave {argument} out"
                )
    if why := _why_not(model):
        raise ValueError(f"model={type(model).__name__} {why}")
    with _evaluated(model) as frozen, _norms_apart(model) as apart:
        x = batch.clone() if isinstance(batch, Tensor) and batch.is_inference() else batch
        run: Run = x if not isinstance(x, Tensor) else lambda model: model(x)
        plan = Plan(model, run, () if keep_weights and ends == "auto" else ends, leave, depthwise, apart)
        if not dry_run:
            alpha = max(1, len(plan.ends)) ** -0.5 if alpha is None else alpha
            plan.carry_out(model, run, keep_weights, partial(BranchScale, alpha, skip_gain), frozen)
    return Conversion(tuple(plan.rows(keep_weights)), keep_weights, dry_run)


def _why_not(model: nn.Module) -> str:
    """What is to be done before a model can be converted, if anything."""
    tensors = [*model.parameters(), *model.buffers()]
    if isinstance(model, torch.jit.ScriptModule):
        return "is scripted: convert the network as it was before torch.jit"
    if any(map(is_lazy, tensors)):
        return "has lazy layers, whose shapes are not known: call it once on a batch, model(batch), then convert it"
    if any(tensor.is_meta for tensor in tensors):
        return "is on the meta device: give it memory first, model.to_empty(device='cpu')"
    sharded = any(hasattr(tensor, "full_tensor") for tensor in tensors)
    if sharded or any(isinstance(m, DistributedDataParallel) for m in model.modules()):
        return (
            "is wrapped by DistributedDataParallel, or sharded, which would not see the new parameters: convert the "
            "network in every process on the same batch, then wrap or shard it"
        )
    return ""


@contextmanager
def _norms_apart(model: nn.Module) -> Iterator[Collection[nn.Module]]:
    """Split norms that hold an activation, as timm's, into two layers; those not replaced are one layer again after."""
    apart: dict[nn.Module, nn.Module] = {}
    for norm in filter(is_norm, model.modules()):
        if isinstance(act := getattr(norm, "act", None), nn.Module):
            plain = copy(norm)
            plain._modules = {**norm._modules, "act": nn.Identity()}
            apart[norm] = nn.Sequential(OrderedDict(norm=plain, act=act))
    replace_layers(model, apart)
    try:
        yield apart.values()
    finally:
        replace_layers(model, {two: norm for norm, two in apart.items() if is_norm(two.get_submodule("norm"))})


@contextmanager
def _evaluated(model: nn.Module) -> Iterator[list[nn.Parameter]]:
    """Evaluate, compile nothing, unfreeze parameters, so that the graph shows all layers; yield those to refreeze."""
    modes = {module: module.training for module in model.modules()}
    frozen = [p for p in model.parameters() if p.is_floating_point() and not p.requires_grad]
    try:
        model.eval()
        for parameter in frozen:
            parameter.requires_grad_()
        # Where dynamo is not imported, nothing was compiled, and importing it takes a second.
        eager = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
        with eager, torch.inference_mode(False), torch.enable_grad():
            yield frozen
    finally:
        for module, mode in modes.items():
            module.training = mode
        for parameter in frozen:
            parameter.requires_grad_(False)
