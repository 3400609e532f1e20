"""The normaliser zoo: what does each norm, and each way of doing without, reach with the same budget?

Question: With the same network, images and budget, and a learning rate searched for each, which normaliser does best?
Paper: GN (arXiv 1803.08494), BCN (1903.10520), EvoNorm (2004.02967), RescaleNet (NeurIPS 2020) and the others of
    `nfnets_lite.norm`; ledger claims GN-1, LN-1, EV-1, WS-2, IB-1, VC-1, RS-3.
Command: python -m experiments run normalizers --profile small
Cost: smoke 50 s on 2 cores; small 20 minutes on 2 cores; gpu 2 minutes and paper weeks, by a rule of thumb.
Expected: at an ordinary batch, differences of one to three points, BN among the best, no norm at all the worst.
"""

from dataclasses import dataclass, replace

from experiments.config import Sweep
from experiments.scales import DATA, crops, network
from experiments.tasks.recipe import Clip, Data, Recipe
from experiments.tasks.training import Training
from nfnets_lite.models import METHODS

# Synchronised batch norm is batch norm in one process, and the act-first order and the halved sum are not normalisers.
ZOO = tuple(name for name in METHODS if name not in ("sync_bn", "bn_act_first", "half"))
VCL = 0.01  # weight of the variance constancy loss, on a network without a norm, as its authors have it


@dataclass(frozen=True)
class Scale:
    """The numbers of one profile."""

    data: Data
    batch_size: int
    epochs: float
    rates: tuple[float, ...]
    seeds: int


SCALES = {
    "smoke": Scale(DATA["smoke"], 64, 3.0, (0.05, 0.2), seeds=3),
    "small": Scale(DATA["small"], 128, 6.0, (0.05, 0.2, 0.8), seeds=3),
    "gpu": Scale(DATA["gpu"], 512, 4.0, (0.1, 0.4, 1.6), seeds=3),
    "paper": Scale(DATA["paper"], 1024, 90.0, (0.1, 0.4, 1.6), seeds=5),
}


def sweep(profile: str) -> Sweep:
    """Every method of the zoo, NF with clipping too, and the variance constancy loss in place of a norm."""
    scale = SCALES[profile]
    exact = profile in ("gpu", "paper")
    recipe = Recipe(scale.batch_size, scale.epochs, 0.0, augment=crops(profile), autocast=exact)
    spec = network(profile)
    cells = [Training(method, spec.with_method(method), scale.data, recipe) for method in ZOO]
    cells.append(Training("nf_agc", spec.with_method("nf"), scale.data, replace(recipe, clip=Clip())))
    cells.append(Training("vcl", spec.with_method("none"), scale.data, replace(recipe, vcl=VCL)))
    return Sweep("normalizers", tuple(cells), scale.rates, seeds=tuple(range(scale.seeds)))
