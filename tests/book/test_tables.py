"""What the tables and figures of several chapters are made with."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pytest
from made_records import run

from book.figures import plots, tables
from experiments import configs
from experiments.records import Ledger, Record, estimate
from experiments.study import Study
from experiments.sweep import Run, Setting


def test_groups_keep_the_order_of_the_records() -> None:
    found = [run("nf", 0), run("bn", 0), run("nf", 1)]
    groups = tables.grouped(found, lambda r: r.method)
    assert {method: [r.seed for r in rs] for method, rs in groups.items()} == {"nf": [0, 1], "bn": [0]}
    assert list(groups) == ["nf", "bn"]
    assert [r.method for r in tables.joined(groups)] == ["nf", "nf", "bn"]


def test_a_run_that_diverged_counts_as_chance_and_is_counted() -> None:
    found = [run(accuracy=0.7), run(accuracy=None)]
    assert tables.accuracy(found).mean == pytest.approx(40)
    assert tables.diverged(found) == 1


def test_a_run_at_chance_counts_as_chance_and_is_counted_apart() -> None:
    found = [run(accuracy=0.7), run(accuracy=0.115)]
    assert tables.accuracy(found).mean == pytest.approx(40)
    assert (tables.diverged(found), tables.failed(found), tables.ended(found)) == (0, 1, "")
    assert tables.ended([run(accuracy=0.1), run(accuracy=None)]) == "fail"
    assert tables.ended([run(accuracy=None)]) == "div"


def test_a_point_is_open_where_a_seed_diverged_and_crossed_where_one_failed_to_train() -> None:
    matplotlib.use("Agg")
    fig, ax = plt.subplots()
    plots.lines(ax, {("nf", 16): estimate([50.0, 10.0], diverged=1), ("nf", 64): estimate([50.0, 10.0], failed=1)})
    drawn = {line.get_marker(): list(line.get_ydata()) for line in ax.lines if len(line.get_xdata()) == 1}
    assert drawn == {"s": [30.0], "x": [30.0]}
    plt.close(fig)


def test_differences_are_paired_by_seed() -> None:
    runs = {"bn": [run("bn", s, a) for s, a in enumerate((0.5, 0.7))], "nf": [run("nf", s, a) for s, a in ((1, 0.6),)]}
    assert tables.against(runs, "bn")["nf"].mean == pytest.approx(-10)
    assert list(tables.against(runs, "bn")) == ["nf"]


def test_a_difference_has_a_side_where_its_interval_leaves_zero() -> None:
    values = ([1.0, 1.1, 0.9], [-1.0, -1.1, -0.9], [-1.0, 1.0], [5.0])
    assert [tables.side(estimate(v)) for v in values] == [1, -1, 0, 0]


def test_choices_at_the_ends_of_a_grid_are_counted() -> None:
    sweep = configs.sweep("depth_scaling", "smoke")
    wanted = {cell.key: sorted(sweep.rates)[i % 3] for i, cell in enumerate(sweep.cells)}

    def found(cell: Run, tried: Setting) -> Record:
        (one,) = sweep.tries(cell, tried)
        metrics = {"accuracy": 0.9 if tried.lr == wanted[cell.key] else 0.5}
        return Record(
            sweep.name, "smoke", one.method, one.key, one.seed, "ok", "", one.resolved, metrics, {}, {}, one.NUMERICS
        )

    records = tuple(found(cell, tried) for cell in sweep.cells for tried in sweep.grid(cell).settings())
    study = Study(sweep, Ledger(Path("depth_scaling.jsonl"), records))
    assert tables.edges(study) == (
        "In 11 of 16 searches the chosen learning rate is an end of its grid; a better one may lie beyond."
    )
    assert tables.edges(study, sweep.cells[:3]).startswith("In 2 of 3 searches")


def test_a_metric_over_the_reference() -> None:
    own, other = ([run(metrics={"step_ms": ms}) for ms in both] for both in ((1.0, 3.0), (4.0, 4.0)))
    assert tables.over(own, other, "step_ms") == pytest.approx(0.5)


def test_half_widths_are_zero_for_a_single_seed() -> None:
    several = estimate([1.0, 2.0, 3.0])
    assert plots.half_widths([estimate([5.0]), several]) == [0.0, pytest.approx(several.high - several.mean)]


def test_an_axis_of_powers_names_its_places_alone() -> None:
    matplotlib.use("Agg")
    fig, ax = plt.subplots()
    plots.log_axis(ax, "batch", [16, 1024])
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["16", "1024"]
    assert not ax.xaxis.get_minorticklocs().size
    assert (ax.get_xscale(), ax.get_xlabel()) == ("log", "batch")
    plt.close(fig)


def test_a_figure_comes_before_its_caption(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(plots, "display", lambda shown, metadata=None: said.append((metadata or {}).get("alt", "text")))
    plots.figure(plt.figure(), [run()], Path("sweep.jsonl"), alt="what it shows", text="A caption.")
    assert said == ["what it shows", "text"]
    plots.markdown("two", "paragraphs")
    assert said[2:] == ["text", "text"]


def test_a_dagger_in_a_table_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(plots, "markdown", lambda *texts: said.extend(texts))
    plots.table(["a", "b"], [["x", estimate([1.0, 2.0])]])
    assert len(said) == 1
    plots.table(["a", "b"], [["x", estimate([1.0])]])
    assert said[2:] == ["*\N{DAGGER} A single seed, so no interval.*"]


@pytest.mark.parametrize(
    ("background", "colour"), [((0, 0, 0, 1), plots.WHITE), ((1, 1, 1, 1), "black"), ((0.6, 0.6, 0.4, 1), "black")]
)
def test_text_stands_out_from_its_background(background: tuple[float, ...], colour: str) -> None:
    assert plots.legible(background) == colour
