"""Federated: what happens to norms when clients of different domains average their weights?

Question: If each client has images of one domain, does a network without norms beat batch norm, shared or kept local?
Paper: FedWon (arXiv 2306.05879); FedBN (2102.07623); claim FW-1.
Command: python -m experiments run federated --profile small
Cost: smoke 10 s on 2 cores; small 7 minutes on 2 cores; gpu 2 minutes and paper hours, by a rule of thumb.
Expected: FedWon is above FedBN in every domain, by three points or more in the worst; and it works at batch size 1.

FedWon here is the NF network (standardised weights, no norm) with clipping. The domains are made by changing pixels:
plain, inverted, faded, tinted. The three methods with batch sizes 1 and 2 see fewer images than the others, all three
the same number, because an update for every image takes long. At smoke no learning rate is searched; learning rates
follow the root of the batch size.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from experiments.scales import DATA, network
from experiments.sweep import Sweep
from experiments.tasks.federated import Federated
from experiments.tasks.recipe import Clip, Data, Recipe
from nfnets_lite.models import ResNetSpec

METHODS = {"fedavg_bn": "bn", "fedbn": "bn", "fedavg_gn": "gn", "fedwon": "nf"}
TINY = (("fedwon_b1", 1), ("fedwon_b2", 2), ("fedbn_b2", 2))


@dataclass(frozen=True)
class Scale:
    """The numbers of one profile; a client has `local` updates a round, or `tiny` images if its batches are tiny."""

    data: Data
    batch_size: int
    rounds: int
    local: int
    tiny: int
    rate: float
    rates: tuple[float, ...]
    seeds: int
    autocast: bool = False


SCALES = {
    "smoke": Scale(DATA["smoke"], 32, 4, 6, 12, 0.4, (), seeds=3),
    "small": Scale(replace(DATA["small"], test=2000), 48, 24, 10, 96, 0.0, (0.4, 1.6, 6.4), seeds=3),
    "gpu": Scale(replace(DATA["gpu"], test=5000), 128, 22, 30, 32, 0.0, (0.4, 1.6), seeds=3, autocast=True),
    "paper": Scale(DATA["paper"], 32, 100, 100, 100, 0.0, (0.01, 0.1), seeds=3, autocast=True),
}


def sweep(profile: str) -> Sweep:
    """Averaging with batch norm, with batch norm kept local, with group norm and without a norm; then tiny batches."""
    scale = SCALES[profile]
    return Sweep("federated", tuple(_cells(network(profile), scale)), scale.rates, seeds=tuple(range(scale.seeds)))


def _cells(spec: ResNetSpec, scale: Scale) -> Iterator[Federated]:
    usual = [(name, scale.batch_size, scale.local) for name in METHODS]
    for name, batch, local in [*usual, *((name, batch, scale.tiny // batch) for name, batch in TINY)]:
        method = name.partition("_b")[0] if name.startswith("fedwon") or name == "fedbn_b2" else name
        recipe = Recipe(
            batch,
            epochs=0.0,
            lr=scale.rate * (batch / scale.batch_size) ** 0.5,
            updates=local,
            momentum=0.0,
            warmup=0.0,
            clip=Clip() if method == "fedwon" else None,
            autocast=scale.autocast,
        )
        model = spec.with_method(METHODS[method])
        yield Federated(name, model, scale.data, recipe, rounds=scale.rounds, local_norms=method == "fedbn")
