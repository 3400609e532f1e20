"""First numbers of every kind of run and every family of networks: `first_losses.json` holds those of the records.

``python tests/experiments/first_losses.py`` writes the file anew. It refuses where numbers moved and the `NUMERICS` of
their kind of run were not raised. ``--check cuda`` compares one run of each kind on a device with the CPU instead.
"""

import importlib
import json
import pkgutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from math import isclose
from pathlib import Path
from typing import Any

import torch

from examples import cifar10
from experiments import tasks
from experiments.demos import atlas
from experiments.demos.atlas.atlas_run import Atlas
from experiments.demos.atlas.shared import Scale
from experiments.sweep import Run, drain
from experiments.tasks.batch_noise import BatchNoise
from experiments.tasks.contrastive import Contrastive
from experiments.tasks.converted import CHANGES as NORMS_CHANGED
from experiments.tasks.converted import Conversion
from experiments.tasks.federated import Federated
from experiments.tasks.flagship import OPTIMIZERS, Flagship
from experiments.tasks.leak_probe import LeakProbe
from experiments.tasks.ratios import Ratios
from experiments.tasks.recipe import Augment, Clip, Data, Recipe, Sam
from experiments.tasks.signal_changes import CHANGES
from experiments.tasks.signals import Signals
from experiments.tasks.test_time import TestTime
from experiments.tasks.throughput import Throughput
from experiments.tasks.training import Training
from experiments.tasks.transfer import Transfer
from experiments.tasks.two_modes import TwoModes
from experiments.tasks.why import Landscape
from nfnets_lite.macs import count_macs
from nfnets_lite.models import METHODS, model_spec

FILE = Path(__file__).with_suffix(".json")
SHOWN = 5  # numbers of a curve that are kept
# Another processor rounds otherwise, and a curve has four digits; a few images may change sides.
RELATIVE, ABSOLUTE, OF_ACCURACY = 5e-4, 1e-5, 0.04
ON_DEVICE = 0.02  # how far a first loss may be on another device, as a part of itself
TIMES = ("step_ms", "reference_ms", "ratio", "images_per_s")
Numbers = dict[str, list[float | None]]

DATA = Data("digits", train=160, validation=64, test=64)
RECIPE = Recipe(16, epochs=0.0, lr=0.2, updates=10)
GENTLE = replace(RECIPE, lr=0.05)  # for networks without norms: at a higher rate they magnify rounding
RESNET = model_spec(
    "cifar_resnet8", in_channels=1, width=(8, 16, 32), stem_width=8, num_classes=10, alpha=1.0, skip_gain=1.0
)
VIT = model_spec("vit_tiny", image_size=8, patch=2, dim=32, depth=2, heads=2, in_channels=1, num_classes=10)
BN, NF = RESNET.with_method("bn"), RESNET.with_method("nf")
GHOST = replace(RESNET.with_method("ghost_bn"), norm_options=(("size", 8),))
SMALL: dict[str, Any] = {
    "depth": (1, 1), "width": (16, 32), "strides": (1, 2), "in_channels": 1, "num_classes": 10, "skip_gain": 1.0
}  # fmt: skip
RATES = {"adam": 1e-3, "rmsprop": 1e-4, "lion": 1e-3, "lars": 2.0}
NETWORKS = {
    **{method: RESNET.with_method(method) for method in METHODS},
    "ghost_bn": GHOST,
    "bottleneck": replace(BN, branch=(1, 3, 1), bottleneck=0.25),
    "depthwise_nf": replace(NF, alpha=0.2, branch=(1, 3, 1), bottleneck=1.0, group_width=1),
    "scaled_ws_dense": replace(NF, alpha=0.2, branch=(1, 3, 1), bottleneck=1.0, group_width=1, conv="scaled_ws_dense"),
    "rescale_formula": replace(RESNET.with_method("rescale"), residual="rescale_formula"),
    "se_bn": replace(RESNET, se_ratio=0.5).with_method("bn"),
    "se_nf": replace(RESNET, se_ratio=0.5, activation="gelu").with_method("nf"),
    "silu_nf": replace(NF, activation="silu"),
    "dropped": replace(NF, dropout=0.2, stochastic_depth=0.2),
    "nfnet": model_spec("nfnet_f0", **{**SMALL, "strides": (1, 1)}, group_width=8),
    "nf_regnet": model_spec("nf_regnet_b0", **SMALL),
    **{f"vit_{method}": VIT.with_method(method) for method in ("ln2d", "bn", "dyt", "derf")},
}
RECIPES = {
    **{name: replace(GENTLE, optimizer=name, lr=rate) for name, rate in RATES.items()},
    "agc": replace(RECIPE, clip=Clip()),
    "agc_early": replace(RECIPE, clip=Clip(layers="early")),
    "layer_clip": replace(RECIPE, clip=Clip("layer")),
    "global_clip": replace(GENTLE, clip=Clip("global", 0.1)),
    "sam": replace(GENTLE, sam=Sam(share=0.5)),
    "sam_other_batch": replace(GENTLE, sam=Sam(other_batch=True)),
    "mixed": replace(GENTLE, augment=Augment(crop_flip=True, mixup=0.2, cutmix=1.0), label_smoothing=0.1),
    "averaged": replace(GENTLE, ema=0.9, decay_gains=True),
    "autocast": replace(GENTLE, autocast=True, lr=0.02),
}


def runs() -> Iterator[tuple[str, Run]]:
    """Small runs, each with a name of its own among those of its kind."""
    for name, spec in NETWORKS.items():
        yield name, Training(name, spec, DATA, GENTLE if spec.norm == "none" else RECIPE)
    for name, recipe in RECIPES.items():
        yield name, Training(name, NF, DATA, recipe)
    yield "variance_constancy", Training("bn", BN, DATA, replace(RECIPE, vcl=0.01))
    for change in NORMS_CHANGED:
        yield change, Conversion("bn", BN, DATA, replace(GENTLE, clip=Clip(factor=0.1)), change)
    for change in CHANGES:
        yield change or "nf", Signals("nf", NF, None, 8, 8, change)
    yield "bn", Signals("bn", BN, DATA, 8, 0)
    yield "none", Signals("none", RESNET.with_method("none"), DATA, 8, 0)
    yield "bn", BatchNoise("bn", BN, DATA, (4, 16), images=2, draws=4)
    yield "bn_agc", Ratios("bn_agc", BN, DATA, replace(RECIPE, clip=Clip()))
    for name, noisy in (("bn", False), ("noisy", True)):
        yield name, Landscape(name, BN, DATA, GENTLE, noisy, points=2)
    two = replace(DATA, train=64, validation=32, test=32, classes=2)
    for name, spec in {"bn": BN, "nf": NF}.items():
        yield name, LeakProbe(name, replace(spec, num_classes=2), two, GENTLE, trials=8)
    for layout in ("pairs", "shuffled"):
        yield (
            layout,
            Contrastive("ghost_bn", replace(GHOST, num_classes=16), DATA, replace(GENTLE, batch_size=8), layout),
        )
    local = replace(RECIPE, momentum=0.0, updates=2)
    yield "bn", Federated("bn", BN, DATA, local, rounds=3)
    yield "fedbn", Federated("fedbn", BN, DATA, local, rounds=3, local_norms=True)
    yield "bn", TestTime("bn", BN, DATA, GENTLE, images=32, stream_batch=16, adapt=True)
    yield "nf", TestTime("nf", NF, DATA, GENTLE, images=32, stream_batch=16)
    yield "bn", TwoModes("bn", BN, DATA, RECIPE)
    yield "blocked", TwoModes("bn", BN, Data("digits", test=300), RECIPE, classes=2)
    source = replace(DATA, classes=5)
    yield "whole", Transfer("nf", NF, source, GENTLE, DATA, GENTLE)
    yield "frozen", Transfer("bn", BN, source, GENTLE, DATA, GENTLE, frozen=True)
    # In bfloat16: another processor rounds otherwise, and later epochs are further apart.
    file = cifar10.Recipe(width=(8, 8, 8), epochs=1, batch_size=16, lr=0.1, filter_lr=0.02)
    for optimizer in OPTIMIZERS:
        yield optimizer, Flagship("nf", DATA, replace(file, optimizer=optimizer, clip=0.0))
    yield "bn", Flagship("bn", DATA, replace(file, method="bn"))
    # Its numbers are no counts of images, which rounding may change by one.
    yield "smoothness", Atlas("smoothness", "smoothness", Scale(DATA, updates=2, width=8, items=8))
    yield "nf_agc", Throughput("nf_agc", NF, BN, batch_size=2, side=8, clip=Clip(), rounds=1)


RUNS: dict[str, Run] = {f"{type(run).__name__} {name}": run for name, run in runs()}


def kinds() -> dict[str, type[Run]]:
    """Every kind of run that a module of `experiments.tasks` or of the atlas defines, by its name."""
    found: dict[str, type[Run]] = {}
    for folder in (tasks, atlas):
        for module in pkgutil.iter_modules(folder.__path__):
            for value in vars(importlib.import_module(f"{folder.__name__}.{module.name}")).values():
                if isinstance(value, type) and issubclass(value, Run) and value is not Run:
                    found[value.__name__] = value
    return found


def numbers(run: Run, device: str = "cpu") -> Numbers:
    """What a run computes: its metrics, and the first numbers of its curves; no times."""
    outcome = drain(run.steps(torch.device(device)))
    assert outcome.status == "ok", outcome
    found = {name: [value] for name, value in outcome.metrics.items() if name not in TIMES}
    if isinstance(run, Throughput):
        found["macs"] = [count_macs(spec, run.side) for spec in (run.model, run.reference)]
    curves = {f"curve of {name}": values[:SHOWN] for name, values in outcome.curve.items()}
    return {name: [_plain(value) for value in values] for name, values in (found | curves).items()}


def _plain(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def moved(was: Numbers, now: Numbers) -> list[str]:
    """Where two lots of numbers differ by more than rounding, each place in words."""
    said = [f"{name} is {'new' if name in now else 'gone'}" for name in sorted(was.keys() ^ now.keys())]
    for name in was.keys() & now.keys():
        away = OF_ACCURACY if name.endswith("accuracy") else ABSOLUTE
        said += [f"{name}: {a} became {b}" for a, b in zip(was[name], now[name]) if not _same(a, b, away)]
        said += [f"{name}: {len(was[name])} numbers became {len(now[name])}"] * (len(was[name]) != len(now[name]))
    return sorted(said)


def _same(a: float | None, b: float | None, away: float) -> bool:
    return a is b if a is None or b is None else isclose(a, b, rel_tol=RELATIVE, abs_tol=away)


def check(device: str) -> bool:
    """Print, for one run of each kind, how far its first loss on a device is from the CPU's; whether all are near."""
    torch.backends.cudnn.allow_tf32 = False  # the same arithmetic as the CPU's
    # A flagship's loss is the last of an epoch in bfloat16, where devices round apart.
    alike = {name: run for name, run in RUNS.items() if not isinstance(run, Throughput | Flagship)}
    first = {type(run): (name, run) for name, run in reversed(alike.items())}
    near = True
    for name, run in sorted(first.values()):
        here, there = (_losses(numbers(run, where)) for where in ("cpu", device))
        apart = max((abs(a - b) / max(abs(a), ABSOLUTE) for a, b in zip(here, there, strict=True)), default=0.0)
        near &= apart <= ON_DEVICE
        print(f"{name}: {100 * apart:.2g} % from the CPU", flush=True)
    return near


def _losses(found: Numbers) -> list[float]:
    """The first number of every curve; of a run without curves, its metrics."""
    curves = [values[0] for name, values in found.items() if name.startswith("curve of") and values]
    return [value for value in curves or [values[0] for values in found.values()] if value is not None]


def what_to_do(name: str, said: list[str]) -> str:
    """The message of a run whose numbers moved."""
    kind = type(RUNS[name])
    return (
        f"{name}: {'; '.join(said[:6])}{' and more' * (len(said) > 6)}.\n"
        f"Mend the change if these numbers were not meant to move. If they were, raise NUMERICS of {kind.__name__} "
        f"(now {kind.NUMERICS}) in {kind.__module__.replace('.', '/')}.py, say there why, and write the numbers anew "
        "with `python tests/experiments/first_losses.py`. Records of a lower number are then stale: `python -m "
        "experiments status` counts them, `run --fresh` makes them again."
    )


def main() -> None:
    """Write the file: kept numbers where they did not move, new ones where NUMERICS were raised or none were there."""
    held = json.loads(FILE.read_text()) if FILE.exists() else {"numerics": {}, "numbers": {}}
    present = {name: kind.NUMERICS for name, kind in sorted(kinds().items())}
    found: dict[str, Numbers] = {}
    refused = []
    for name, run in sorted(RUNS.items()):
        found[name], was, kind = numbers(run), held["numbers"].get(name), type(run).__name__
        if was is not None and not (said := moved(was, found[name])):
            found[name] = was
        elif was is not None and present[kind] <= held["numerics"].get(kind, 0):
            refused.append(what_to_do(name, said))
    if refused:
        sys.exit("\n\n".join([*refused, f"{FILE.name} was left as it is."]))
    lines = (f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in found.items())
    FILE.write_text(f'{{\n "numerics": {json.dumps(present)},\n "numbers": {{\n' + ",\n".join(lines) + "\n }\n}\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--check"]:
        sys.exit(not check(sys.argv[2]))
    main()
