"""The sweep over lengths of training, read with all, some and none of its runs recorded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from math import inf
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pytest

from book.figures import length_tables, lengths
from experiments import claims, configs
from experiments.obtain import obtain
from experiments.records import Ledger, Record, append, path_of
from experiments.study import Study
from experiments.sweep import Run, Setting

matplotlib.use("Agg")
SWEEP = configs.sweep("budget", "smoke")


def record(run: Run, accuracy: float) -> Record:
    metrics = {"accuracy": accuracy, "train_accuracy": 1.0, "clipped_fraction": 0.1}
    if run.resolved["recipe"]["clip"] is None:
        del metrics["clipped_fraction"]
    origin = {"device": "a device", "commit": "0123456789", "dirty": False}
    return Record(
        "budget", "smoke", run.method, run.key, run.seed, "ok", "", run.resolved, metrics, {}, origin, run.NUMERICS
    )


def ledger(records: Iterable[Record]) -> Ledger:
    return Ledger(Path("budget.jsonl"), tuple(records))


@cache
def searched() -> list[Record]:
    """A search whose best setting is the middle of each grid."""
    middle = {cell.method: SWEEP.grid(cell).settings()[4] for cell in SWEEP.cells}

    def reached(run: Run) -> float:
        recipe = run.resolved["recipe"]
        found = Setting(recipe["lr"], recipe["clip"]["factor"] if recipe["clip"] else None)
        return 0.9 if found == middle[run.method] else 0.5

    return [record(run, reached(run)) for run in Study(SWEEP, ledger(())).search_runs]


@cache
def whole() -> list[Record]:
    """NF with AGC is 4 points below BN after 1 epoch, and 1, 2 and 3 points closer after each doubling."""

    def reached(run: Run) -> float:
        closer = {1.0: 0.0, 2.0: 0.01, 4.0: 0.02, 8.0: 0.03}[run.resolved["recipe"]["epochs"]]
        return 0.9 + 0.001 * run.seed + (closer - 0.04 if run.method == "nf_agc" else 0.0)

    search = searched()
    return [*search, *[record(run, reached(run)) for run in Study(SWEEP, ledger(search)).final_runs]]


@pytest.mark.parametrize("tried", [0, 27])
def test_before_the_search_ends_the_page_says_so_and_claims_nothing(tried: int) -> None:
    study = lengths.Lengths(Study(SWEEP, ledger(searched()[:tried])))
    said = f"The final runs are not recorded yet: {tried} of 54 trainings of the search are."
    assert lengths.sentences(study) == [said]
    assert lengths.heading(study) == "Nothing is measured yet"
    assert claims.judge("BD-1", study.judged, "smoke").verdict == "not tested"
    for rows in (
        length_tables.accuracies(study, ("bn",)),
        length_tables.settings(study, ("bn",)),
        length_tables.differences(study),
    ):
        assert list(rows[1]) == []


def test_what_is_recorded_is_shown_and_no_claim_is_judged_before_all_is() -> None:
    longest = [
        r for r in whole() if r.config["split"] == "test" and r.method == "bn" and r.config["recipe"]["epochs"] == 8.0
    ]
    study = lengths.Lengths(Study(SWEEP, ledger(r for r in whole() if r.key != longest[0].key or r.seed == 0)))
    assert study.epochs == [1.0, 2.0, 4.0, 8.0]
    missing, never, last, first = lengths.sentences(study)
    assert missing == "The final runs are not complete yet: 46 of 48 are recorded, controls included."
    assert never.startswith("No training of NF with AGC reaches the mean accuracy of BN")
    assert last == "After 8 epochs, NF with AGC is 1.0 points below BN (one seed, no interval)."
    assert first.startswith("After 1 epoch, NF with AGC is 4.0 points below BN (95 % interval")
    assert lengths.heading(study) == "Not judged yet: runs are missing"
    assert list(study.judged) == []


def test_methods_that_share_no_seed_are_not_compared() -> None:
    seed = {"nf_agc": 0, "bn": 1}
    apart = [r for r in whole() if r.config["split"] != "test" or r.seed == seed.get(r.method, 0)]
    study = lengths.Lengths(Study(SWEEP, ledger(apart)))
    assert study.epochs == []
    assert lengths.heading(study) == "Nothing is measured yet"
    assert length_tables.controls(study, ("bn", "nf_agc"), 4.0)[1][1:] == []
    ends = [r for r in whole() if r.config["split"] != "test" or r.seed == (r.config["recipe"]["epochs"] == 1.0)]
    study = lengths.Lengths(Study(SWEEP, ledger(ends)))
    assert lengths.change(study) is None
    assert lengths.heading(study) == "Not judged yet: runs are missing"
    assert [row[2] for row in length_tables.differences(study)[1]][:2] == ["", ""]


def test_a_whole_sweep_is_told_in_three_sentences_and_judged() -> None:
    study = lengths.Lengths(Study(SWEEP, ledger(whole())))
    assert study.missing == ""
    never, last, first = lengths.sentences(study)  # BN has 90.1 % at every length, NF with AGC at most 89.1 %
    assert never == "No training of NF with AGC reaches the mean accuracy of BN after 1 epoch."
    assert last.startswith("After 8 epochs, NF with AGC is 1.0 points below BN")
    assert first.startswith("After 1 epoch, NF with AGC is 4.0 points below BN")
    assert lengths.heading(study) == "Longer training helps NF with AGC more than BN"
    found = lengths.change(study)
    assert found is not None
    assert found.mean == pytest.approx(3.0)
    verdict = claims.judge("BD-2", study.judged, "smoke")
    assert [finding.outcome for finding in verdict.findings] == ["holds"]
    assert {r.config["split"] for r in study.judged} == {"validation", "test"}
    _, rows = length_tables.differences(study)
    assert [str(row[1])[:4] for row in rows] == ["-4.0", "-3.0", "-2.0", "-1.0"]
    assert [str(row[2])[:4] for row in rows] == ["", "-3.0", "-2.0", "-1.0"]
    expected = [
        ("reaches with twice the epochs", (0.0, inf), "nf_agc", "bn", 8.0, 4.0),
        ("stays behind", (-inf, 0.0), "nf_agc", "bn", 8.0, 4.0),
        ("within a hair", (-1.0, 1.0), "nf_agc", "bn", 8.0, 4.0),
        ("never", (0.0, inf), "nf_agc", "bn", 64.0, 64.0),
    ]
    _, (doubled, behind, hair, unknown) = length_tables.outcomes(study, expected)
    assert [row[3] for row in (doubled, behind, hair, unknown)] == ["no", "yes", "open", "open"]
    assert doubled[1] == "NF + AGC after 8 epochs minus BN after 4"
    assert str(doubled[2]).startswith("-1.0")
    assert unknown[2] == "not recorded yet"
    _, rows = length_tables.controls(study, ("bn", "bn_agc"), 4.0)
    assert [row[0] for row in rows] == ["BN", "BN + AGC"]


def test_the_chosen_setting_is_shown_with_its_grid() -> None:
    records = whole()
    study = lengths.Lengths(Study(SWEEP, ledger(records)))
    _, (bn, nf_agc) = length_tables.settings(study, ("bn", "nf_agc"))
    assert [str(cell) for cell in bn] == ["BN", "9", "0.4", "none", "no", ""]
    assert [str(cell) for cell in nf_agc[:5]] == ["NF + AGC", "9", "0.4", "0.08", "no"]
    assert str(nf_agc[5]).startswith("10.0")
    at_end = {c.method: SWEEP.grid(c).settings()[-1] for c in SWEEP.cells}
    widened = [r for r in records if r.config["split"] == "test" or r.method != "bn"]
    widened += [record(run, 0.5 + run.resolved["recipe"]["lr"] / 10) for run in _tries("bn", widened)]
    study = lengths.Lengths(Study(SWEEP, ledger(widened)))
    assert study.study.rate(SWEEP.cells[0]) > at_end["bn"].lr
    _, (bn,) = length_tables.settings(study, ("bn",))
    assert (bn[1], bn[4]) == (12, "yes")


def _tries(method: str, found: list[Record]) -> list[Run]:
    """The search of a method whose accuracy grows with the learning rate, through all widenings."""
    runs: list[Run] = []
    for _ in range(SWEEP.widenings + 1):
        known = [record(run, 0.5 + run.resolved["recipe"]["lr"] / 10) for run in runs]
        runs = [run for run in Study(SWEEP, ledger([*found, *known])).search_runs if run.method == method]
    return runs


def test_a_lost_run_is_counted_in_place_of_an_interval() -> None:
    def loses(r: Record) -> bool:
        return r.method == "nf" and r.config["split"] == "test" and r.seed == 1

    found = [replace(r, status="diverged", metrics={}) if loses(r) else r for r in whole()]
    study = lengths.Lengths(Study(SWEEP, ledger(found)))
    _, rows = length_tables.accuracies(study, ("bn", "nf"))
    assert rows[0][2].startswith("90.1\N{NO-BREAK SPACE}±")
    assert rows[0][3] == "63.4 (1 of 3 lost)"
    fig = lengths.figure(study.final)
    assert max(line.get_ydata().max() for line in fig.axes[0].lines) < 101
    plt.close(fig)


def test_how_much_longer_nf_trains_is_told_by_the_lengths_that_it_reaches() -> None:
    def worse(r: Record) -> Record:
        if r.config["split"] != "test" or r.method != "bn":
            return r
        return replace(r, metrics=r.metrics | {"accuracy": 0.87 + 0.01 * r.config["recipe"]["epochs"]})

    study = lengths.Lengths(Study(SWEEP, ledger(map(worse, whole()))))  # BN: 88, 89, 91 and 95 %
    said = "To reach the mean accuracy that BN has after 1 to 2 epochs, NF with AGC needs 3.7 times as many epochs"
    assert lengths.sentences(study)[0].startswith(said)


def test_the_search_is_shown_by_learning_rate_and_threshold() -> None:
    study = lengths.Lengths(Study(SWEEP, ledger(whole())))
    header, rows = length_tables.tried(study, "nf_agc")
    assert header == ["learning rate", "threshold 0.02", "threshold 0.08", "threshold 0.32"]
    assert rows[1] == ["0.4", "50.0 (10.0)", "90.0 (10.0)", "50.0 (10.0)"]
    assert length_tables.tried(lengths.Lengths(Study(SWEEP, ledger(()))), "nf_agc")[1] == []


def test_epochs_to_reach_are_interpolated_in_the_logarithm() -> None:
    study = lengths.Lengths(Study(SWEEP, ledger(whole())))  # NF with AGC: 86.1, 87.1, 88.1 and 89.1 %
    assert lengths.epochs_to_reach(study, 87.6) == pytest.approx(2 * 2**0.5)
    assert lengths.epochs_to_reach(study, 50.0) == 1.0
    assert lengths.epochs_to_reach(study, 90.1) == float("inf")


def test_a_chapter_can_ask_for_a_sweep_that_is_not_whole(tmp_path: Path) -> None:
    assert obtain("budget", "smoke", tmp_path, partial=True).ledger.records == ()
    with pytest.raises(FileNotFoundError, match="no records of 'budget'"):
        obtain("budget", "smoke", tmp_path)
    append(path_of(tmp_path, "budget"), searched()[0])
    assert len(obtain("budget", "smoke", tmp_path, partial=True).ledger.records) == 1
    with pytest.raises(FileNotFoundError, match="101 of 102 runs"):
        obtain("budget", "smoke", tmp_path)


def test_the_axis_fits_the_two_compared_methods_and_a_mean_far_below_is_a_number_at_its_edge() -> None:
    found = [
        replace(r, metrics={"accuracy": 0.2}) if r.method == "gn_ws" else r
        for r in Study(SWEEP, ledger(whole())).final
        if r.method in ("bn", "nf_agc", "gn_ws")
    ]
    (ax,) = lengths.figure(found).axes
    assert ax.get_ylim()[0] == 70  # NF with AGC has 86 after 1 epoch
    assert {text.get_text() for text in ax.texts} == {"\N{DOWNWARDS ARROW} 20"}
