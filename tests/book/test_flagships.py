"""What the page on the flagship says of records: all, some and none of them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from book.figures import flagships
from book.figures.lengths import Lengths
from experiments import claims, configs
from experiments.records import Ledger, Record
from experiments.study import Study
from experiments.sweep import Run

SWEEP = configs.sweep("flagship", "smoke")
BEYOND = {"bn": 0.0, "nf_agc": -0.02, "nf_muon": 0.01, "nf_muon_agc": 0.01}


def record(run: Run) -> Record:
    reached = 0.9 + BEYOND[run.method] + 0.001 * run.seed * (run.seed < 1000)
    metrics = {"accuracy": reached, "train_accuracy": 1.0, "operations": 2e15}
    curve = {"epoch": [1, 2], "accuracy": [0.8 - 0.1 * (run.seed % 2), reached]}
    origin = {"device": "a device", "commit": "0123456789", "dirty": False}
    return Record(
        "flagship", "smoke", run.method, run.key, run.seed, "ok", "", run.resolved, metrics, curve, origin, run.NUMERICS
    )


def read(records: list[Record]) -> Lengths:
    return Lengths(Study(SWEEP, Ledger(Path("flagship.jsonl"), tuple(records))))


@cache
def whole() -> list[Record]:
    search = [record(run) for run in SWEEP.search()]
    return search + [record(run) for run in read(search).study.final_runs]


def test_before_there_are_final_runs_nothing_is_claimed() -> None:
    found = read([])
    assert flagships.heading(found) == "Nothing is measured yet"
    assert flagships.petaflops(found) is None
    assert flagships.results(found, tuple(BEYOND))[1] == []
    assert len(flagships.sentences(found)) == 1


def test_all_records_give_a_heading_differences_and_marks() -> None:
    found = read(whole())
    assert flagships.heading(found) == "BN is more accurate than NF with AGC after these epochs"
    assert flagships.sentences(found) == [
        "NF with AGC is 2.0 points below BN (95 % interval: 2.0 below to 2.0 below).",
        "NF with Muon is 1.0 points above BN (95 % interval: 1.0 above to 1.0 above).",
    ]
    assert [row[0] for row in flagships.results(found, tuple(BEYOND))[1]] == [
        "BN", "NF + AGC", "NF, Muon", "NF + AGC, Muon"
    ]  # fmt: skip
    assert flagships.marks(found, ("bn",))[1] == [
        ["BN", "1.3 (3 of 3)", "2.0 (3 of 3)", "2.0 (3 of 3)", "never", "never"]
    ]
    assert flagships.petaflops(found) == 2.0
    assert list(flagships.by_epoch(found.of("bn"))) == [1, 2]


def test_a_claim_is_judged_by_the_records() -> None:
    verdict = claims.judge("FL-3", read(whole()).judged, "smoke")
    assert [finding.outcome for finding in verdict.findings] == ["holds", "holds"]
