"""Atlas: what else depends on batch statistics, one small demonstration for each of fourteen papers.

Question: Papers report effects of batch statistics, or of their absence. Does each effect show in a demonstration that
    takes seconds?
Paper: one for each entry; the module of an entry in `experiments.demos.atlas` names it.
Command: python -m experiments run atlas --profile small
Cost: smoke 30 s on 2 cores; small 10 minutes on 2 cores; gpu and paper 30 minutes, by a rule of thumb.
Expected: every difference of `EFFECTS` is above 0. Each is written so that the paper's claim makes it positive.

An effect is *seen* if the 95 % interval of its difference, paired by seed, lies above 0. Otherwise it is *not seen at
this size*, also where the interval lies below 0. The demonstrations were tuned on seeds from 100 on, which no record
has. An entry whose effect is not seen stays as it is. After the first records, the updates of five entries were reduced
once, to save time: outliers, hyperbolic, graphs, robust and local_attention.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from experiments.demos.atlas import ENTRIES
from experiments.demos.atlas.atlas_run import Atlas
from experiments.demos.atlas.shared import Scale
from experiments.scales import DATA
from experiments.sweep import Sweep
from experiments.tasks.recipe import Data


@dataclass(frozen=True)
class Effect:
    """A difference of two metrics that a paper's claim makes positive: `plus` minus `minus`, or `plus` alone."""

    says: str
    plus: str
    minus: str = ""
    unit: str = "points"


TENS = "powers of ten"
EFFECTS: Mapping[str, tuple[Effect, ...]] = MappingProxyType(
    {
        "outliers": (
            Effect("AUROC, batches of one image minus mixed batches", "auroc own batch", "auroc mixed batch"),
        ),
        "spd": (Effect("accuracy, Bures-Wasserstein batch norm minus no norm", "accuracy bures", "accuracy none"),),
        "hyperbolic": (Effect("accuracy, midpoint batch norm minus no norm", "accuracy midpoint", "accuracy none"),),
        "pyramid": (
            Effect("noise of statistics, a norm per level divided by one norm", "log10 noise ratio", unit=TENS),
        ),
        "graphs": (Effect("accuracy, batch norm minus layer norm", "accuracy bn", "accuracy ln"),),
        "certified": (
            Effect(
                "verified error, He start without BN minus start for bounds with BN",
                "verified error he", "verified error ibp bn",
            ),
        ),
        "distilled": (
            Effect("4-bit accuracy, distilled minus noise", "bn distilled 4", "bn noise 4"),
        ),
        "collapse": (Effect("spread of latents, batch norm minus no norm", "spread bn", "spread none"),),
        "pruned": (
            Effect("rank correlation, recalibrated minus as pruned", "bn recalibrated", "bn pruned", "correlation"),
        ),
        "segmenter": (Effect("overlap on target images, adapted minus source", "bn adapted 6", "bn target"),),
        "robust": (
            Effect("accuracy on corrupted images, GN minus BN", "gn corrupted", "bn corrupted"),
            Effect("accuracy on printed digits, BN minus GN", "bn printed", "gn printed"),
        ),
        "local_attention": (Effect("accuracy at 4 images a batch, GN minus BN", "gn accuracy", "bn accuracy"),),
        "double_descent": (
            Effect(
                "peak after 1,000 steps, normalised divided by raw", "peak normalised short", "peak raw short", TENS
            ),
        ),
        "smoothness": (
            Effect(
                "range of the loss along its gradient, no norm divided by BN", "loss range none", "loss range bn", TENS
            ),
        ),
    }
)  # fmt: skip

# Updates, width and items of each entry at smoke; SMOKE_UPDATES replaces some updates. The entry's module says what
# they mean.
SIZES: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {
        "outliers": (60, 8, 32),
        "spd": (30, 0, 32),
        "hyperbolic": (40, 16, 64),
        "pyramid": (30, 8, 40),
        "graphs": (60, 16, 40),
        "certified": (80, 64, 0),
        "distilled": (50, 8, 64),
        "collapse": (60, 16, 0),
        "pruned": (48, 8, 40),
        "segmenter": (60, 8, 40),
        "robust": (30, 8, 40),
        "local_attention": (30, 8, 40),
        "double_descent": (50, 10, 0),
        "smoothness": (30, 8, 0),
    }
)
# Fewer updates at smoke, for the entries whose updates cost most.
SMOKE_UPDATES: Mapping[str, int] = MappingProxyType(
    {
        "outliers": 30,
        "spd": 20,
        "hyperbolic": 24,
        "pyramid": 16,
        "graphs": 36,
        "certified": 50,
        "distilled": 36,
        "collapse": 36,
        "pruned": 30,
        "double_descent": 36,
    }
)
FASHION = Data("fashion_mnist", train=5000, validation=1000, test=2000, pool=2)
# These entries are about digits or make data of their own, so they get no other images.
ON_DIGITS = ("spd", "graphs", "robust", "double_descent", "segmenter", "collapse", "pyramid")


def sweep(profile: str) -> Sweep:
    """Every entry once; from small on with twice the updates and items of `SIZES`, and from gpu on with more width."""
    cells = []
    for entry in ENTRIES:
        scale = Scale(DATA["smoke"], *SIZES[entry])
        if profile == "smoke":
            scale = replace(scale, updates=SMOKE_UPDATES.get(entry, scale.updates))
        else:
            data = scale.data if entry in ON_DIGITS else FASHION
            scale = replace(scale, data=data, updates=2 * scale.updates, items=2 * scale.items)
        # The width of double_descent is where the number of weights equals that of targets: it stays.
        if profile in ("gpu", "paper") and entry != "double_descent":
            scale = replace(scale, updates=2 * scale.updates, width=2 * scale.width)
        cells.append(Atlas(entry, entry, scale))
    return Sweep("atlas", tuple(cells), seeds=tuple(range(3 if profile == "smoke" else 5)))
