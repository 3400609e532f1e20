"""CIFAR-100 in CIFAR-10's place: the same cells, of a hundred classes, trained, recorded and judged."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from math import log
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from experiments import cli, configs, records
from experiments.records.record import Record
from experiments.sweep import Run, Sweep
from experiments.tasks import data
from experiments.tasks.elsewhere import on_data, stuck
from experiments.tasks.recipe import Data, Recipe
from experiments.tasks.training import Training
from experiments.tasks.transfer import Transfer
from nfnets_lite.models import model_spec

MOVED = {
    *("activations", "batch_range", "batch_size", "clip_alternatives", "clipped_layers", "clipping_threshold"),
    "collapse",
    *("depth_scaling", "depthwise", "normalizers", "regularization", "sam", "statistics_batch", "transfer"),
    *("budget", "few_images", "rate_grid", "transformers"),
}


def as_it_was(cell: Run) -> Run:
    """A cell of a hundred classes taken back to ten."""
    assert isinstance(cell, Training | Transfer)
    assert (cell.data.name, cell.model.num_classes) == ("cifar100", 100)
    back = replace(cell, data=replace(cell.data, name="cifar10"), model=replace(cell.model, num_classes=10))
    if isinstance(back, Transfer) and back.source is not None:
        assert (back.source.name, back.source.classes) == ("cifar100", 80)
        back = replace(back, source=replace(back.source, name="cifar10", classes=8))
    return back


@pytest.mark.parametrize("profile", ["small", "gpu"])
def test_what_trains_on_all_classes_moves_and_changes_in_nothing_else(profile: str) -> None:
    sweeps = {name: configs.sweep(name, profile) for name in configs.names()}
    movable = MOVED - ({"depth_scaling"} if profile == "small" else set())  # there on Fashion-MNIST
    assert {name for name, sweep in sweeps.items() if not stuck(sweep)} == movable
    for name in sorted(movable):
        moved = on_data(sweeps[name], "cifar100")
        assert replace(moved, cells=tuple(map(as_it_was, moved.cells))) == sweeps[name]
        assert not {cell.key for cell in moved.cells} & {cell.key for cell in sweeps[name].cells}


@pytest.mark.parametrize(
    ("name", "profile", "where", "said"),
    [
        ("sam", "small", "mnist", "data='mnist' cannot stand in for cifar10; use one of cifar100, or leave --data out"),
        ("leak_probe", "gpu", "cifar100", "data='cifar100': 'leak_probe' cannot be moved there, because its run"),
        ("sam", "smoke", "cifar100", "leave --data out, or take another config or profile"),
    ],
)
def test_what_cannot_move_is_refused(name: str, profile: str, where: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        on_data(configs.sweep(name, profile), where)


@pytest.fixture
def hundred(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hundred classes of noise about a pattern each, in CIFAR-100's place."""
    draw, patterns = np.random.default_rng(0), np.random.default_rng(1).integers(0, 256, (100, 3, 8, 8))
    labels = {"train": np.arange(1200) % 100, "test": np.arange(200) % 100}
    found: dict[str, np.ndarray] = {f"{part}_labels": rows.astype(np.uint8) for part, rows in labels.items()}
    for part, rows in labels.items():
        noise = draw.normal(0, 20, (len(rows), 3, 8, 8))
        found[f"{part}_images"] = (patterns[rows] + noise).clip(0, 255).astype(np.uint8)
    monkeypatch.setattr(data, "_published", lambda name: found if name == "cifar100" else {})
    data.load.cache_clear()
    yield
    data.load.cache_clear()


@pytest.mark.usefixtures("hundred")
def test_a_moved_run_learns_a_hundred_classes() -> None:
    model = model_spec("cifar_resnet8", method="bn", width=(8, 16, 32), stem_width=8)
    cell = Training("bn", model, Data("cifar10", train=1000, validation=100), Recipe(50, 20, 0.4))
    moved = on_data(Sweep("one", (cell,)), "cifar100").cells[0]
    outcome = moved.execute(torch.device("cpu"))
    assert outcome.status == "ok"
    assert outcome.metrics["initial_loss"] == pytest.approx(log(100), rel=0.1)
    assert outcome.metrics["accuracy"] > 0.3  # by chance 0.01


def test_the_command_keeps_its_records_apart_and_says_the_verdicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.obtain.RESULTS", tmp_path)
    accuracy = {"nf_agc:sgd": 0.85, "nf_agc:sam": 0.87, "nf_agc:sam_fifth": 0.88, "nf_agc:sam_other": 0.84}
    path = records.path_of(tmp_path / "small_cifar100", "sam")
    path.parent.mkdir()
    for cell in on_data(configs.sweep("sam", "small"), "cifar100").as_they_are():
        metrics = {"accuracy": accuracy.get(cell.method, 0.85) + cell.seed / 1e4, "train_accuracy": 0.95}
        origin = {"device": "a device", "seconds": 1.0}
        made = Record(
            "sam", "small", cell.method, cell.key, cell.seed, "ok", "", cell.resolved, metrics, {}, origin,
            cell.NUMERICS,
        )  # fmt: skip
        records.append(path, made)
    said = CliRunner().invoke(cli.app, ["run", "sam", "--profile", "small", "--data", "cifar100"])
    assert said.exit_code == 0, said.output
    assert "0 runs left" in said.output
    assert "NF-13: reproduced" in said.output
    assert "a fifth of the batch is enough: 1" in said.output  # a point better
    assert "NF-13" not in CliRunner().invoke(cli.app, ["run", "sam", "--profile", "small", "--dry-run"]).output


def test_of_all_configs_those_that_cannot_move_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configs, "QUEUE", ("sam", "leak_probe"))
    monkeypatch.setattr(configs, "names", lambda: ["leak_probe", "sam"])
    options = ["--profile", "gpu", "--data", "cifar100", "--dry-run", "--device", "cpu"]
    said = CliRunner().invoke(cli.app, ["run", "all", *options])
    assert said.exit_code == 0, said.output
    assert "sam, gpu: 40 runs left on cpu" in said.output
    assert "leak_probe, gpu: skipped, because it needs its own data set" in said.output
