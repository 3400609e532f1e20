"""The normaliser zoo: what accuracy does each norm, and each method without a norm, reach with the same budget?

Question: With the same network, images and budget, and a learning rate searched for each, which normaliser does best?
Paper: GN (arXiv 1803.08494), WS and BCN (1903.10520), EvoNorm (2004.02967), RescaleNet (NeurIPS 2020) and the others of
    `nfnets_lite.norm`; claims LN-1, EV-1, WS-2, VC-1, RS-2, RS-3 and SP-11.
Command: python -m experiments run normalizers --profile small
Cost: smoke 25 s on 2 cores; small 16 minutes on 2 cores; gpu 4 minutes and paper weeks, by a rule of thumb.
Expected: At an ordinary batch size the norms differ by a few points, and BN is among the best. The network without any
    norm is behind, and so are methods made for transformers.

The learning rates are a factor of 4 apart. A norm lets a network train at a learning rate at which the same network
without one diverges, so a single learning rate would decide the comparison. In short schedules, smaller batches help
more than more images do. So the batch is as small as norms over a batch allow (docs/decisions has the pilot).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from experiments.scales import DATA, WHOLE, autocast, crops, learner, network
from experiments.sweep import Sweep
from experiments.tasks.recipe import Clip, Data, Recipe
from experiments.tasks.training import Training
from nfnets_lite.models import METHODS, ResNetSpec

# In one process, synchronised batch norm is batch norm. The act-first order and the halved sum are not normalisers.
ZOO = tuple(name for name in METHODS if name not in ("sync_bn", "bn_act_first", "half"))
VCL = 0.01  # weight of the variance constancy loss, which its authors use in a network without norms


@dataclass(frozen=True)
class Scale:
    """The numbers of one profile."""

    model: ResNetSpec
    data: Data
    batch_size: int
    epochs: float
    rates: tuple[float, ...]
    seeds: int = 3


SCALES = {
    "smoke": Scale(network("smoke"), DATA["smoke"], 32, 0.75, (0.1, 0.4)),
    "small": Scale(network("small"), DATA["small"], 64, 4.0, (0.05, 0.2, 0.8)),
    "gpu": Scale(replace(learner("gpu"), width=(32, 64, 192)), WHOLE["gpu"], 256, 6.0, (0.125, 0.5, 2.0, 8.0)),
    "paper": Scale(network("paper"), DATA["paper"], 1024, 90.0, (0.1, 0.4, 1.6), seeds=5),
}


def sweep(profile: str) -> Sweep:
    """Every method of the zoo, NF with clipping, a loss in place of a norm, and networks that claims compare with."""
    scale = SCALES[profile]
    recipe = Recipe(scale.batch_size, scale.epochs, 0.0, augment=crops(profile), autocast=autocast(profile))
    cells = tuple(_cells(scale.model, scale.data, recipe))
    return Sweep("normalizers", cells, scale.rates, seeds=tuple(range(scale.seeds)))


def _cells(spec: ResNetSpec, data: Data, recipe: Recipe) -> Iterator[Training]:
    parts = (("size", recipe.batch_size // 4),)  # over the whole batch, ghost batch norm would be batch norm
    for method in ZOO:
        model = spec.with_method(method)
        model = replace(model, norm_options=parts) if method == "ghost_bn" else model
        yield Training(method, model, data, recipe)
    yield Training("rescale_formula", replace(spec.with_method("rescale"), residual="rescale_formula"), data, recipe)
    yield Training("nf_agc", spec.with_method("nf"), data, replace(recipe, clip=Clip()))
    yield Training("bn_act_first", spec.with_method("bn_act_first"), data, recipe)
    yield Training("gn_silu", replace(spec.with_method("gn"), activation="silu"), data, recipe)
    yield Training("bn_elu", replace(spec.with_method("bn"), activation="elu"), data, recipe)
    constant, without = replace(recipe, vcl=VCL), spec.with_method("none")
    yield Training("vcl", without, data, constant)
    yield Training("vcl_elu", replace(without, activation="elu"), data, constant)
