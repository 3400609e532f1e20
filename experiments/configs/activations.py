"""Activations: does the choice among GELU, ReLU and SiLU matter, with batch norm and without norms?

Question: How far apart are GELU, ReLU and SiLU, each with its own gain and with a learning rate searched for it?
Paper: NFNet (arXiv 2102.06171) appendix, in words; claim NF-19.
Command: python -m experiments run activations --profile small
Cost: smoke 5 s on 2 cores; small 3 minutes on 2 cores; gpu 1 minute and paper weeks, by a rule of thumb.
Expected: The three activations are less than a point apart in both networks. Each needs its own gain: without it,
    each activation shrinks the signal by a different factor.

Batch size, schedule and learning rates are those of `normalizers`, which suit short training.
"""

from dataclasses import replace

from experiments.configs.normalizers import SCALES
from experiments.scales import autocast, crops, network
from experiments.sweep import Sweep
from experiments.tasks.recipe import Clip, Recipe
from experiments.tasks.training import Training

ACTIVATIONS = ("gelu", "relu", "silu")


def sweep(profile: str) -> Sweep:
    """Every activation, for NF with clipping and for BN."""
    scale = SCALES[profile]
    base = Recipe(scale.batch_size, scale.epochs, 0.0, augment=crops(profile), autocast=autocast(profile))
    cells = tuple(
        Training(
            method,
            replace(network(profile).with_method(method.removesuffix("_agc")), activation=activation),
            scale.data,
            replace(base, clip=Clip() if method == "nf_agc" else None),
        )
        for method in ("nf_agc", "bn")
        for activation in ACTIVATIONS
    )
    return Sweep("activations", cells, scale.rates, seeds=tuple(range(scale.seeds)))
