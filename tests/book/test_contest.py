"""A contest of methods from records, and what their steps cost."""

from __future__ import annotations

import matplotlib
import matplotlib.pyplot as plt
import pytest
from made_records import run

from book.figures.contest import Contest, Costs, contest, costs
from experiments import configs
from experiments.obtain import RESULTS
from experiments.records import Record, estimate
from experiments.study import Study
from experiments.sweep import Sweep


@pytest.fixture
def made() -> Contest:
    accuracy = {"bn": [90.0, 91.0], "gn": [80.0, 81.0], "nf": [90.0, 92.0]}
    behind = {m: estimate([a - b for a, b in zip(accuracy[m], accuracy["bn"])]) for m in ("gn", "nf")}
    return Contest(
        {m: [run(m, seed, a / 100) for seed, a in enumerate(found)] for m, found in accuracy.items()},
        {m: estimate(found) for m, found in accuracy.items()},
        behind,
        {"bn": 0.1, "gn": 0.4, "nf": 0.2},
        {"bn": "across the batch", "gn": "within an image", "nf": "no norm"},
    )


def test_outcomes_are_counted_by_their_intervals(made: Contest) -> None:
    assert made.outcome == (1, 1, 0)
    assert made.order == ["nf", "bn", "gn"]
    assert [str(cell) for cell in made.row("bn")] == ["BN", str(made.accuracy["bn"]), "", "0.1"]
    assert made.best("no norm").startswith("NF, 91.0")
    header, rows = made.by_family([run("gn", 0, 0.8), run("nf", 0, None)])
    assert [row[:3] for row in rows] == [
        ["across the batch", 1, "0 / 0 / 0"], ["within an image", 1, "1 / 0 / 0"], ["no norm", 1, "0 / 1 / 0"]
    ]  # fmt: skip
    assert [row[-1] for row in rows] == [0, 0, 1]
    assert header[2] == "below / undecided / above BN"
    assert made.mean_rate("within an image") == pytest.approx(0.4)
    assert len(made.records) == 6


def test_dots_are_in_the_order_of_the_table(made: Contest) -> None:
    matplotlib.use("Agg")
    fig = made.dots()
    assert [label.get_text() for label in fig.axes[0].get_yticklabels()] == ["GN", "BN", "NF"]
    plt.close(fig)


def test_costs_are_those_of_the_largest_batch_in_the_usual_format() -> None:
    def step(method: str, batch: int, ratio: float, last: bool = False) -> Record:
        setting = {"batch_size": batch, "side": 16, "channels_last": last, "compiled": False}
        return run(method, metrics={"ratio": ratio, "saved_mb": 4 * ratio}, **setting)

    found = Costs([step("bn", 128, 1.0)], {}, {"bn": {"kept": 1.0}})
    assert found.row("nf") == ["", ""]
    study = Study.read(configs.sweep("throughput", "small"), RESULTS / "small")
    cost = costs(study)
    largest = max(cell.batch_size for cell in study.sweep.cells)
    assert {r.run.batch_size for r in cost.runs} == {largest}
    assert cost.conditions == f"batch size {largest}, images of {cost.runs[0].run.side} px"
    assert cost.row("bn")[1] == "1.00"
    assert not any(method.startswith("nfnet") for method in cost.ratio)


def test_a_contest_is_read_from_its_records() -> None:
    sweep = configs.sweep("normalizers", "small")
    few = Sweep(sweep.name, sweep.cells[:3], sweep.rates, sweep.search_seeds, sweep.seeds)
    found = contest(Study.read(few, RESULTS / "small"), 12, reference=few.cells[0].method)
    assert list(found.runs) == list(found.accuracy) == [cell.method for cell in few.cells]
    assert len(found.behind) == 2
    assert all(len(runs) == len(few.seeds) for runs in found.runs.values())
