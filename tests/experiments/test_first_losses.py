"""The contract of `NUMERICS`: numbers that move are noticed, and each kind of run is told apart."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import first_losses
import pytest
from first_losses import FILE, RUNS, kinds, moved, numbers, what_to_do

from experiments.tasks.training import Training
from nfnets_lite.models import METHODS
from nfnets_lite.models.registry import SPECS

HELD = json.loads(FILE.read_text())


@pytest.mark.parametrize("name", RUNS)
def test_the_first_numbers_of_a_run_are_those_of_its_records(name: str) -> None:
    assert name in HELD["numbers"], f"{name} is new: `python tests/experiments/first_losses.py` writes its numbers"
    said = moved(HELD["numbers"][name], numbers(RUNS[name]))
    assert not said, what_to_do(name, said)


def test_every_kind_of_run_is_there_with_numerics_of_its_own() -> None:
    assert {type(run) for run in RUNS.values()} == set(kinds().values()), "a kind of run has no first numbers"
    for name, kind in kinds().items():
        assert vars(kind).get("NUMERICS", 0) >= 1, f"{name} needs a NUMERICS of its own: an inherited one is another's"
    assert HELD["numerics"] == {name: kind.NUMERICS for name, kind in kinds().items()}, (
        "NUMERICS changed: `python tests/experiments/first_losses.py` writes the numbers that belong to them"
    )
    assert HELD["numbers"].keys() == RUNS.keys(), (
        "a run went: `python tests/experiments/first_losses.py` drops its numbers"
    )


def test_every_method_and_family_of_networks_is_there() -> None:
    models = {run.model for run in RUNS.values() if isinstance(run, Training)}
    assert METHODS.keys() <= {run.method for run in RUNS.values() if isinstance(run, Training)}
    classes = Counter(type(model) for model in models)
    assert {type(spec) for spec in SPECS.values()} <= classes.keys()
    stems = {spec.stem for spec in SPECS.values() if hasattr(spec, "stem")}
    assert {"cifar", "nfnet", "regnet"} <= {getattr(model, "stem", "") for model in models} <= {*stems, ""}


def test_a_change_of_numbers_is_refused_until_numerics_are_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Training("nf", first_losses.NF, first_losses.DATA, first_losses.RECIPE)
    monkeypatch.setattr(first_losses, "FILE", tmp_path / "first.json")
    monkeypatch.setattr(first_losses, "RUNS", {"Training nf": run})
    monkeypatch.setattr(first_losses, "kinds", lambda: {"Training": Training})
    first_losses.main()
    before = first_losses.FILE.read_text()
    first_losses.main()
    assert first_losses.FILE.read_text() == before
    otherwise = replace(run, recipe=replace(run.recipe, lr=1.1 * run.recipe.lr))
    monkeypatch.setattr(first_losses, "RUNS", {"Training nf": otherwise})
    now = Training.NUMERICS
    asked = rf"became .*\n.* raise NUMERICS of Training \(now {now}\) in experiments/tasks/tr"
    with pytest.raises(SystemExit, match=asked):
        first_losses.main()
    assert first_losses.FILE.read_text() == before
    monkeypatch.setattr(Training, "NUMERICS", now + 1)
    first_losses.main()
    after = json.loads(first_losses.FILE.read_text())
    assert after["numerics"] == {"Training": now + 1}
    assert moved(after["numbers"]["Training nf"], numbers(otherwise)) == []


def test_what_counts_as_moved() -> None:
    was = {"loss": [2.3, None, 0.0], "accuracy": [0.5]}
    assert moved(was, {"loss": [2.3001, None, 1e-6], "accuracy": [0.53]}) == []
    assert moved(was, {**was, "accuracy": [0.55]}) == ["accuracy: 0.5 became 0.55"]
    assert moved(was, {"loss": [2.31, 1.0, 0.0]}) == [
        "accuracy is gone", "loss: 2.3 became 2.31", "loss: None became 1.0"
    ]  # fmt: skip
    assert moved(was, {**was, "loss": [2.3, None]}) == ["loss: 3 numbers became 2"]


def test_times_are_left_out() -> None:
    found = numbers(next(run for name, run in RUNS.items() if name.startswith("Throughput")))
    assert found.keys() == {"saved_mb", "macs"}
