"""Properties of a norm, found by running it: coupling of examples, buffers, per-example gradients, folding."""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from nfnets_lite.norm import create_norm, set_progress

_CHANNELS, _SIDE, _STAGES = 8, 3, (0.0, 0.5, 1.0)


@dataclass(frozen=True)
class Facts:
    """Properties of a norm, as `facts` found them.

    Attributes
    ----------
    couples_examples : bool
        In training, an example's output, or its gradient with respect to the inputs, depends on other examples.
    keeps_buffers : bool
        It has buffers such as running statistics; `progress` does not count.
    per_example_gradients : bool
        `torch.func.vmap` of a gradient gives the same as a loop over the examples of a batch.
    folds : bool
        At the end of training, evaluation is one fixed affine map per channel.
    same_in_training_and_evaluation : bool
        Both modes give the same output.
    """

    couples_examples: bool
    keeps_buffers: bool
    per_example_gradients: bool
    folds: bool
    same_in_training_and_evaluation: bool


def facts(name: str, **options: Any) -> Facts:
    """Probe a norm in float64, on random inputs, at the start, the middle and the end of training.

    `couples_examples` is true if it is at any of the three, `folds` if it is at the end, the others if they are at all
    three.

    Parameters
    ----------
    name : str
        A key of `nfnets_lite.norm.NORMS`.
    **options
        As in `nfnets_lite.norm.create_norm`.

    Returns
    -------
    Facts
        What the layer computes, keeps and costs.

    Examples
    --------
    >>> facts("batch").couples_examples, facts("group").couples_examples
    (True, False)
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        batch = 2 * int(options.get("size", 32))  # whole ghost batches
        x = torch.randn(batch, _CHANNELS, _SIDE, _SIDE, dtype=torch.float64) * 2 + 1

        def at_all_stages() -> list[nn.Module]:
            return [_warm(create_norm(name, _CHANNELS, **options), x, progress) for progress in _STAGES]

        *_, last = at_all_stages()
        return Facts(
            couples_examples=any(_couples(norm, x) for norm in at_all_stages()),
            keeps_buffers=any(key != "progress" for key, _ in last.named_buffers()),
            per_example_gradients=all(_per_example(norm, x[:4]) for norm in at_all_stages()),
            folds=_is_affine(last, x),
            same_in_training_and_evaluation=all(_same(norm, x) for norm in at_all_stages()),
        )


def _warm(norm: nn.Module, x: Tensor, progress: float) -> nn.Module:
    """The norm with changed parameters, after some training passes on inputs other than `x`."""
    norm = norm.double()
    set_progress(norm, progress)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.add_(0.3 * torch.rand_like(parameter))
    for factor in (0.5, 2.0, 1.5):
        norm((factor * x.flip(0)).requires_grad_()).square().mean().backward()
    norm.zero_grad()
    return norm


def _couples(norm: nn.Module, x: Tensor) -> bool:
    other, x = torch.cat([x[:1], -2 * x[1:]]), x.clone().requires_grad_()
    twin = deepcopy(norm)
    out = norm(x)[0]
    (gradient,) = torch.autograd.grad(out.square().sum(), x)
    # Statistics that are constants in the backward pass couple outputs without a gradient.
    return bool(gradient[1:].abs().max() > 0) or not torch.allclose(out, twin(other)[0])


def _per_example(norm: nn.Module, x: Tensor) -> bool:
    net = nn.Sequential(nn.Conv2d(_CHANNELS, _CHANNELS, 1).to(x.dtype), norm)
    parameters = dict(net.named_parameters())

    def loss(values: dict[str, Tensor], example: Tensor) -> Tensor:
        out: Tensor = functional_call(net, values, (example[None],))
        return out.square().sum()

    try:
        vectorised = vmap(grad(loss), in_dims=(None, 0))({k: p.detach() for k, p in parameters.items()}, x)
        losses = net(x).square().sum((1, 2, 3))
    except (RuntimeError, ValueError):  # vmap fails at writes in place and at checks of the batch
        return False
    looped = [torch.autograd.grad(one, list(parameters.values()), retain_graph=True) for one in losses]
    return all(torch.allclose(vectorised[key], torch.stack(each)) for key, each in zip(parameters, zip(*looped)))


@torch.no_grad()
def _is_affine(norm: nn.Module, x: Tensor) -> bool:
    norm.eval()
    shift = norm(torch.zeros_like(x))[:1, :, :1, :1]
    scale = norm(torch.ones_like(x))[:1, :, :1, :1] - shift
    return all(torch.allclose(norm(factor * x), factor * x * scale + shift) for factor in (1.0, 100.0))


@torch.no_grad()
def _same(norm: nn.Module, x: Tensor) -> bool:
    evaluated = norm.eval()(x)
    return torch.allclose(norm.train()(x), evaluated)
