"""Functions that compute numbers for claims without training, each from at most one argument."""

from collections.abc import Callable, Mapping
from functools import cache
from math import prod

import torch
from torch import Tensor, nn

from experiments.large.imagenet import config
from experiments.tasks.undrawn import Undrawn
from nfnets_lite.activations import ACTIVATIONS, gain_of
from nfnets_lite.agc import adaptive_clip_grad_, unitwise_norm
from nfnets_lite.fold import fold
from nfnets_lite.models import RESOLUTIONS, create_model, model_spec
from nfnets_lite.models.residual import joins
from nfnets_lite.signal import signal_propagation

# NFNet (arXiv 2102.06171), table 1: blocks, dropout, pixels in training and in test, RandAugment's magnitude.
FAMILY = {
    "nfnet_f0": ((1, 2, 6, 3), 0.2, 192, 256, 5),
    "nfnet_f1": ((2, 4, 12, 6), 0.3, 224, 320, 10),
    "nfnet_f2": ((3, 6, 18, 9), 0.4, 256, 352, 10),
    "nfnet_f3": ((4, 8, 24, 12), 0.4, 320, 416, 15),
    "nfnet_f4": ((5, 10, 30, 15), 0.5, 384, 512, 15),
    "nfnet_f5": ((6, 12, 36, 18), 0.5, 416, 544, 15),
    "nfnet_f6": ((7, 14, 42, 21), 0.5, 448, 576, 15),
}
FIELDS = ("blocks", "dropout", "train_pixels", "test_pixels", "magnitude")
LAMBDA, EPS = 0.01, 1e-3


def family(field: str) -> float:
    """Number of models among F0 to F6 that agree with the paper's table in one of `FIELDS`."""

    def ours(name: str) -> tuple[object, ...]:
        spec, size = model_spec(name), RESOLUTIONS[name]
        return spec.depth, spec.dropout, size.train, size.test, config(name).augment.magnitude

    at = FIELDS.index(field)
    return sum(ours(name)[at] == row[at] for name, row in FAMILY.items())


def parameters(name: str) -> float:
    """Number of parameters of a model, in millions."""
    with Undrawn(), torch.device("meta"):
        return sum(p.numel() for p in create_model(name).parameters()) / 1e6


def recipe(name: str) -> float:
    """An entry of the recipe by which `experiments.large` trains F0 at the paper's scale."""
    run = config("nfnet_f0")
    values: Mapping[str, float] = {
        **{k: v for k, v in vars(run.recipe).items() if isinstance(v, (int, float))},
        "updates": run.steps, "updates_at_1024_for_90": int(90 * run.images / 1024), "peak_rate": run.peak,
        "mixup": run.augment.mixup, "randaugment_layers": run.augment.layers,
        "stochastic_depth": run.model.stochastic_depth, "alpha": run.model.alpha,
    }  # fmt: skip
    return values[name]


def gain(activation: str) -> float:
    """Gain of an activation, by quadrature: 1 over its standard deviation under a standard normal input."""
    return gain_of(ACTIVATIONS[activation])


def clipping(which: str) -> float:
    """A property of adaptive clipping, as a number.

    `direction`: largest 1 - cosine between a unit's gradient before and after clipping. `bound`: largest gradient norm
    of the clipped units over its bound. `identity`: largest change of a gradient within its bound. `zero`: gradient
    norm of a unit of zero weights after clipping. `scaling`: largest relative change of the clipped gradient over the
    weight, when weight and gradient are both made 100 times larger.
    """
    torch.manual_seed(0)
    weight, grad = torch.randn(8, 4, 3, 3, dtype=torch.float64), torch.randn(8, 4, 3, 3, dtype=torch.float64)
    if which == "identity":
        small = 1e-6 * grad
        return float((_clipped(weight, small) - small).abs().max())
    if which == "zero":
        return float(unitwise_norm(_clipped(torch.zeros_like(weight), grad)).max())
    after = _clipped(weight, grad)
    if which == "direction":
        return float((1 - torch.cosine_similarity(after.flatten(1), grad.flatten(1))).abs().max())
    if which == "bound":
        return float((unitwise_norm(after) / (LAMBDA * unitwise_norm(weight))).max())
    return float((_clipped(100 * weight, 100 * grad) / (100 * after) - 1).abs().max())


def _clipped(weight: Tensor, grad: Tensor) -> Tensor:
    parameter = nn.Parameter(weight.clone())
    parameter.grad = grad.clone()
    adaptive_clip_grad_(parameter, LAMBDA, EPS)
    return parameter.grad


def coupling(method: str) -> float:
    """Largest derivative of one example's outputs by another example's input, in training mode, at the start."""
    torch.manual_seed(0)
    model = create_model("cifar_resnet8", method=method, skip_gain=1.0).double().train()
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(x)[0].square().sum(), x)
    return float(gradient[1:].abs().max())


def moments(which: str) -> float:
    """The squared mean or the variance that a signal plot measures on channels of mean 3 and standard deviation 2."""
    torch.manual_seed(0)
    model = create_model("cifar_resnet8", method="nf", in_channels=16).double()
    model.stem = nn.Sequential()
    x = torch.randn(8, 16, 8, 8, dtype=torch.float64)
    x = (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), correction=0, keepdim=True)
    stem = signal_propagation(model, 2 * x + 3)[0]
    return stem.sq_mean if which == "squared_mean" else stem.var


def predicted_deviation(block: str) -> float:
    """Standard deviation that the NF rule predicts for the input of a block of NF-ResNet-50, counted from 1."""
    spec = model_spec("nf_resnet50")
    return 1 / joins("nf", spec.depth, spec.alpha, 0.0)[int(block) - 1].beta


def order(activation: str) -> float:
    """Relative change of the variance after an activation if 1 / beta acts before instead of after it; beta 1.1136."""
    beta, g = 1.1136, ACTIVATIONS[activation]
    return abs(gain_of(g) ** -2 / gain_of(lambda z: g(beta * z) / beta) ** -2 - 1)


def folding(which: str) -> float:
    """Largest difference of an NF network's outputs: `folded` and not, or in `training` and evaluation mode."""
    torch.manual_seed(0)
    model, x = create_model("cifar_resnet8", method="nf", skip_gain=1.0), torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        for parameter in model.parameters():  # away from the start, where gains are 1 and biases 0
            parameter.add_(0.1 * torch.randn_like(parameter))
        evaluated = model.eval()(x)
        other = fold(model)(x) if which == "folded" else model.train()(x)
    return float((other - evaluated).abs().max())


def rescaling(which: str) -> float:
    """What RescaleNet's factors come to.

    `variance`: largest distance from 1 of the variance after each of 24 blocks with independent branches of variance
    1. `spread`: relative difference of the largest and the smallest squared weight with which 16 branches reach the
    output. `branch`, `input`: that weight, and the input's.
    """
    rule = joins("rescale", (24 if which == "variance" else 16,), 1.0, 1.0)
    skips, branches = [join.skip**2 for join in rule], [(join.branch * join.start) ** 2 for join in rule]
    if which == "variance":
        variance, worst = 1.0, 0.0
        for skip, branch in zip(skips, branches):
            variance = skip * variance + branch
            worst = max(worst, abs(variance - 1))
        return worst
    weights = [branch * prod(skips[k + 1 :]) for k, branch in enumerate(branches)]
    return {"spread": max(weights) / min(weights) - 1, "branch": weights[0], "input": prod(skips)}[which]


COMPUTED: Mapping[str, Callable[[str], float]] = {
    f.__name__: f
    for f in (
        family, parameters, recipe, gain, clipping, coupling, moments, predicted_deviation, order,
        folding, rescaling,
    )
}  # fmt: skip


@cache
def compute(name: str, argument: str) -> float:
    """Call a function by its name; the state of torch's random generator is restored afterwards."""
    with torch.random.fork_rng(devices=[]):
        return float(COMPUTED[name](argument))
