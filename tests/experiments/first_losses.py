"""First ten losses of a reference run per model family; run this file to write them anew when numbers change."""

import json
from pathlib import Path

import torch

from experiments.tasks.recipe import Clip, Data, Recipe
from experiments.tasks.training import Training
from nfnets_lite.models import model_spec

FILE = Path(__file__).with_suffix(".json")
FAMILIES = {
    "bn": {"method": "bn"},
    "none": {"method": "none"},
    "skipinit": {"method": "skipinit"},
    "fixup": {"method": "fixup"},
    "nf": {"method": "nf", "skip_gain": 1.0},
    "nf_agc": {"method": "nf", "skip_gain": 1.0},
    "se_nf": {"method": "nf", "skip_gain": 1.0, "se_ratio": 0.5, "activation": "gelu"},
    "gn_ws": {"method": "gn_ws"},
    "evonorm_s0": {"method": "evonorm_s0"},
    "rescale": {"method": "rescale"},
    "vit": {"name": "vit_tiny", "image_size": 8, "patch": 2, "dim": 32, "depth": 2, "heads": 2},
}


def first_losses(family: str) -> list[float]:
    model = model_spec(**{"name": "cifar_resnet8", "in_channels": 1, "num_classes": 10, **FAMILIES[family]})
    recipe = Recipe(16, epochs=10 * 16 / 1077, lr=0.05, clip=Clip() if family == "nf_agc" else None)
    run = Training(family, model, Data("digits", train=1077, validation=360), recipe)
    return run.execute(torch.device("cpu")).curve["loss"]


if __name__ == "__main__":
    found = {family: first_losses(family) for family in FAMILIES}
    FILE.write_text(json.dumps(found, indent=1) + "\n")
