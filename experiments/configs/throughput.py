"""Throughput: what does a training step cost without batch norm, and what does clipping add?

Question: How long are the steps of GN, NF and NF+AGC beside those of the same network with BN, and those of the NFNet
    family beside those of F0?
Paper: NFNet (arXiv 2102.06171) tables 3 and 6; claims NF-1, NF-2, NF-6.
Command: python -m experiments run throughput --profile small
Cost: smoke 15 s on 2 cores; small 5 minutes on 2 cores; gpu 80 minutes, paper 150 minutes, by a rule of thumb.
Expected: NF steps are 10 to 40 % shorter than BN's on the paper's accelerators; on a CPU NF may be the slower one.

Each record times one network and its reference in turns, in one process: read the ratio, not the milliseconds.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from experiments.configs.normalizers import ZOO
from experiments.scales import network
from experiments.sweep import Sweep
from experiments.tasks.recipe import Clip
from experiments.tasks.throughput import Throughput
from nfnets_lite.models import RESOLUTIONS, Spec, model_spec

METHODS = ("bn", "gn", "nf", "nf_agc")
OTHERS = tuple(name for name in ZOO if name not in METHODS)


@dataclass(frozen=True)
class Scale:
    """The numbers of one profile: network, batch sizes and image side of all methods; the same of the NFNet family."""

    twin: Spec
    batch_sizes: tuple[int, ...]
    side: int
    family: tuple[str, ...] = ()
    family_batch: int = 32
    family_side: int | None = None
    autocast: tuple[bool, ...] = (False,)
    channels_last: tuple[bool, ...] = (False,)
    compiled: tuple[bool, ...] = (False,)
    rounds: int = 10


SCALES = {
    "smoke": Scale(network("smoke"), (16, 64), 8, rounds=2),
    "small": Scale(
        network("small"), (16, 128), 16, ("nfnet_f0", "nfnet_f1"), 2, 64, channels_last=(False, True), rounds=5
    ),
    "gpu": Scale(
        model_spec("resnet50"), (128,), 224, ("nfnet_f0", "nfnet_f1", "nfnet_f2"), 32, None,
        autocast=(True,), channels_last=(False, True), compiled=(False, True),
    ),
    "paper": Scale(
        model_spec("resnet50"), (128,), 224, tuple(f"nfnet_f{i}" for i in range(7)), 32, None,
        autocast=(True,), channels_last=(False, True), compiled=(False, True),
    ),
}  # fmt: skip


def sweep(profile: str) -> Sweep:
    """One network with each method beside BN, and the NFNet family beside F0; each memory format, compiled or not."""
    cells = [
        cell
        for autocast in SCALES[profile].autocast
        for last in SCALES[profile].channels_last
        for compiled in SCALES[profile].compiled
        for cell in _cells(SCALES[profile], autocast=autocast, last=last, compiled=compiled)
    ]
    return Sweep("throughput", tuple(cells), seeds=(0, 1, 2))


def _cells(scale: Scale, *, autocast: bool, last: bool, compiled: bool) -> Iterator[Throughput]:
    bn = scale.twin.with_method("bn")
    twin = Throughput(
        "bn", bn, bn, scale.batch_sizes[-1], scale.side,
        autocast=autocast, channels_last=last, compiled=compiled, rounds=scale.rounds,
    )  # fmt: skip
    for method in METHODS:
        model, clip = scale.twin.with_method(method.removesuffix("_agc")), Clip() if method == "nf_agc" else None
        for batch_size in scale.batch_sizes:
            yield replace(twin, method=method, model=model, clip=clip, batch_size=batch_size)
    if not (compiled or last):
        for method in OTHERS:
            yield replace(twin, method=method, model=scale.twin.with_method(method))
    for name in scale.family:
        model, first = (replace(model_spec(n), dropout=0.0, stochastic_depth=0.0) for n in (name, "nfnet_f0"))
        side = scale.family_side or RESOLUTIONS[name].train
        yield replace(
            twin, method=name, model=model, reference=first, batch_size=scale.family_batch, side=side, clip=Clip()
        )
