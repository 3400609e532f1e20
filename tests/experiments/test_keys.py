"""The key of a run: what it depends on, and what it must not depend on."""

import ast
import importlib
import inspect
import json
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, make_dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from examples import cifar10
from experiments import configs
from experiments.large import imagenet as large
from experiments.large.large_run import LargeRun
from experiments.obtain import RESULTS
from experiments.profiles import PROFILES
from experiments.records import path_of, read
from experiments.records.keys import key_of
from experiments.study import Study, possible
from experiments.sweep import APART, Run, Sweep
from experiments.tasks.flagship import Flagship
from experiments.tasks.leak_probe import LeakProbe
from experiments.tasks.recipe import Augment, Clip, Data, Recipe
from experiments.tasks.signals import Signals
from experiments.tasks.training import Training
from experiments.tasks.transfer import Transfer
from nfnets_lite.models import ResNetSpec, Spec, ViTSpec, model_spec

SPEC = model_spec("cifar_resnet8", method="nf", norm_options={})
DATA = Data("digits", train=100)
RECIPE = Recipe(16, 2.0, 0.1, clip=Clip(factor=0.02), augment=Augment(crop_flip=True))
RUN = Training("nf", SPEC, DATA, RECIPE)
# Committed records stand under such keys. Whoever changes one makes records of no run out of them.
PINNED: dict[str, Run | LargeRun] = {
    "training": RUN,
    "validation": replace(RUN, split="validation"),
    "vit": Training("ln2d", model_spec("vit_tiny"), DATA, Recipe(16, 2.0, 0.1)),
    "regnet": Training("nf", model_spec("nf_regnet_b0"), DATA, RECIPE),
    "signals": Signals("bn", ResNetSpec(), None, 8, 16),
    "transfer": Transfer("nf", SPEC, None, RECIPE, DATA, replace(RECIPE, clip=None)),
    # Of the defaults of a file that readers copy: a default that moves takes the meaning of records with it.
    "flagship": Flagship("nf_agc", DATA, cifar10.Recipe("nf", (32, 128, 128), 8, 256, 0.5, 0.08, "sgd", 0.02)),
    "flagship bn": Flagship("bn", DATA, cifar10.Recipe("bn", (8, 16, 16), 3, 32, 1.0, 0.0, "muon", 0.05)),
    "large": large.config("nfnet_f0", "paper"),
}
KEYS = {
    "training": "90237df68b498775",
    "validation": "6603f34651753449",
    "vit": "3c0ec5fb6bc024ef",
    "regnet": "8bdae1f6f5666d55",
    "signals": "94a3c7a4ee07c6de",
    "transfer": "4252df7123d6571d",
    "flagship": "58bdc90f3bf7c40d",
    "flagship bn": "5271b408c5c36c85",
    "large": "10ece9f1eec1718e",
}


@pytest.mark.parametrize("name", PINNED)
def test_keys_stay(name: str) -> None:
    assert PINNED[name].key == KEYS[name]


def test_a_new_field_with_a_default_changes_no_key() -> None:
    """Of the run, of a dataclass in it, and of one that it holds among others or None."""

    def grown(value: Any, **changes: Any) -> Any:
        more = make_dataclass(type(value).__name__, [("novel", int, 7)], bases=(type(value),), frozen=True)
        return more(**{field.name: getattr(value, field.name) for field in fields(value)} | changes)

    @dataclass(frozen=True)
    class Other(Run):
        model: Spec
        recipe: Recipe
        clip: Clip | None = None
        data: Data = DATA

    run = Other("label", SPEC, RECIPE, Clip(factor=0.02))
    after = grown(run)
    assert after.novel == 7
    assert key_of(after, APART) == run.key
    assert key_of(replace(after, novel=8), APART) != run.key

    @dataclass(frozen=True)
    class Part:
        width: int
        rate: float = 0.5

    @dataclass(frozen=True)
    class Longer:
        width: int
        rate: float = 0.5
        novel: str = "as before"

    def whole(part: type[Any], *values: Any) -> str:
        holder = make_dataclass("Whole", [("part", part), ("maybe", part | None, None)], frozen=True)
        return key_of(holder(part(*values), part(*values)))

    assert whole(Part, 3) == whole(Longer, 3) == whole(Longer, 3, 0.5, "as before")
    assert len({whole(Longer, 3), whole(Longer, 4), whole(Longer, 3, 0.6), whole(Longer, 3, 0.5, "new")}) == 4


def changed(value: Any) -> Iterator[Any]:
    """The same value with one field of it, or of a dataclass in it, changed."""
    for field in fields(value):
        held = getattr(value, field.name)
        if is_dataclass(held):
            others = list(changed(held))
        elif isinstance(held, bool):
            others = [not held]
        elif isinstance(held, (int, float)):
            others = [held + 1]
        else:
            others = []
        for other in others:
            try:
                yield replace(value, **{field.name: other})
            except ValueError:  # the run refuses it
                continue


def test_runs_that_differ_anywhere_have_keys_of_their_own() -> None:
    runs = [run for run in (RUN, *changed(RUN), *PINNED.values()) if isinstance(run, Run)]
    told = {json.dumps(run.resolved, sort_keys=True) for run in runs}
    assert len({run.key for run in runs}) == len(told) > 30
    empty = [Training("a", spec, DATA, RECIPE) for spec in (ResNetSpec(), ViTSpec())]
    assert len({run.key for run in empty}) == 2, "networks of different classes, all of whose fields have defaults"


@pytest.mark.parametrize("profile", PROFILES)
def test_the_runs_of_all_configs_have_keys_of_their_own(profile: str) -> None:
    for name in configs.names():
        runs = possible(configs.sweep(name, profile))
        assert len({json.dumps(run.resolved, sort_keys=True) for run in runs.values()}) == len(runs)


def test_equal_numbers_have_one_key_and_labels_and_seeds_none() -> None:
    assert replace(RUN, method="other", seed=5).key == RUN.key
    assert replace(RUN, model=replace(SPEC, dropout=0)).key == RUN.key  # 0 and 0.0 are one default


def test_a_moved_and_reworded_module_changes_the_state_of_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = ast.parse(Path(inspect.getfile(LeakProbe)).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            node.body[0] = ast.Expr(ast.Constant("Other words."))
    (tmp_path / "moved_probe.py").write_text(ast.unparse(tree), encoding="utf-8")  # without comments, too
    monkeypatch.syspath_prepend(tmp_path)
    kind = importlib.import_module("moved_probe").LeakProbe
    assert kind.__doc__ == "Other words."
    before, ledger = configs.sweep("leak_probe", "small"), read(path_of(RESULTS / "small", "leak_probe"))
    cells = [kind(**{field.name: getattr(cell, field.name) for field in fields(cell)}) for cell in before.cells]

    def states(sweep: Sweep) -> list[tuple[str, int, str, bool]]:
        return [(r.run.key, r.run.seed, r.status, r.stale) for r in Study(sweep, ledger).recorded]

    assert len(states(before)) == len(ledger.records) > 0
    assert states(replace(before, cells=tuple(cells))) == states(before)
