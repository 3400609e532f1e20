"""Preconditions of verdicts: where runs did not reach the regime of a claim, nothing else is concluded."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from experiments import claims
from experiments.claims import Verdict, verdict
from experiments.records.record import Record

WIGGLE = (-0.001, 0.0, 0.001)
Judge = Callable[..., Verdict]


def runs(
    method: str, accuracy: float, split: str = "test", status: str = "ok", lr: float = 0.2,
    factor: float | None = None, **metrics: float,
) -> list[Record]:  # fmt: skip
    recipe = {"lr": lr, "batch_size": 64, "clip": None if factor is None else {"rule": "agc", "factor": factor}}
    setting = {"kind": "training", "model": {"num_classes": 10}, "split": split, "recipe": recipe}
    return [
        Record("batch_size", "small", method, f"{method}{setting}", seed, status, "", setting,
               {"accuracy": accuracy + w, "updates": 300, "clipped_fraction": 0.1, **metrics}, {}, {}, 1)
        for seed, w in enumerate(WIGGLE if method == "nf" else WIGGLE[::-1])  # seeds lucky for one alone: not paired
    ]  # fmt: skip


GOOD = [*runs("bn", 0.9), *runs("nf", 0.8), *runs("nf_agc", 0.88, factor=0.04)]


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Judge:
    """The verdict on "NF + AGC is a point better than NF", by a regime of the claim's own."""

    def judged(regime: list[Any], given: list[Record], **condition: Any) -> Verdict:
        rule = {"name": "n", "plus": "nf_agc", "minus": "nf", "at_least": 1.0, **condition}
        entry = {"id": "X-1", "statement": "s", "source": "s", "paper": "p", "verdict_from": "small"}
        known = {"trained": {"name": "accuracy of BN", "plus": "bn", "at_least": 85}}
        text = json.dumps({"regimes": known, "claims": [{**entry, "regime": regime, "conditions": [rule]}]})
        monkeypatch.setattr(verdict, "claims", lambda: claims.load(text))
        return claims.judge("X-1", given, "small")

    return judged


def test_a_regime_that_is_reached_changes_nothing(judge: Judge) -> None:
    verdict = judge(["trained"], GOOD)
    assert (verdict.verdict, verdict.because) == ("reproduced", "")
    assert [one.met for one in verdict.regime] == [True]


def test_a_regime_that_is_not_reached_is_said_with_how_far_it_is(judge: Judge) -> None:
    verdict = judge([{"as": "trained", "at_least": 95}], GOOD)
    assert verdict.verdict == "regime not reached"
    assert verdict.because == "accuracy of BN: 90; the claim needs at least 95"
    assert verdict.findings[0].outcome == "holds"  # and is still shown


def test_a_precondition_without_runs_is_not_met(judge: Judge) -> None:
    verdict = judge(["trained"], [r for r in GOOD if r.method != "bn"])
    assert verdict.because == "accuracy of BN was not measured; the claim needs at least 85"


def test_a_claim_without_runs_is_not_tested_whatever_its_regime(judge: Judge) -> None:
    assert judge(["trained"], []).verdict == "not tested"


def test_without_a_selection_every_cell_that_decides_has_to_meet_it(judge: Judge) -> None:
    updates = {"name": "updates", "measure": "updates", "at_least": 200}
    assert judge([updates], GOOD).verdict == "reproduced"
    few = [replace(r, metrics={**r.metrics, "updates": 39}) if r.method == "nf" else r for r in GOOD]
    assert judge([updates], few).because == "the shortest runs have 39 updates; the claim needs at least 200"
    elsewhere = [replace(r, metrics={**r.metrics, "updates": 39}) if r.method == "bn" else r for r in GOOD]
    assert judge([updates], elsewhere).verdict == "reproduced"  # BN is not compared


def test_a_share_of_clipped_units_is_that_of_runs_that_ended(judge: Judge) -> None:
    clipped = {"name": "clipped", "measure": "clipped_fraction", "where": {"config.recipe.clip": "any"},
               "between": [0.005, 0.2]}  # fmt: skip
    assert judge([clipped], GOOD).verdict == "reproduced"
    lost = [replace(r, status="diverged", metrics={}) if (r.method, r.seed) == ("nf_agc", 0) else r for r in GOOD]
    assert judge([clipped], lost).regime[0].met
    assert judge([clipped], [replace(r, metrics={**r.metrics, "clipped_fraction": 0.9}) for r in GOOD]).because == (
        "clipped: 0.9; the claim needs between 0.005 and 0.2"
    )


INTERIOR = {"name": "ends", "measure": "at_grid_end", "expected": 0}


@pytest.mark.parametrize(
    ("rates", "factors", "met"),
    [
        ((0.1, 0.2, 0.4), (0.01, 0.04, 0.16), True),
        ((0.2, 0.4), (0.01, 0.04, 0.16), False),
        ((0.1, 0.2), (0.01, 0.04, 0.16), False),
        ((0.1, 0.2, 0.4), (0.04, 0.16), False),
        ((0.1, 0.2, 0.4), (0.04,), True),  # a threshold that was not searched
    ],
)
def test_neither_rate_nor_threshold_may_be_an_end_of_its_grid(
    judge: Judge, rates: tuple[float, ...], factors: tuple[float, ...], met: bool
) -> None:
    searched = [r for lr in rates for r in runs("nf", 0.5, "validation", lr=lr)]
    searched += [r for lr in rates for f in factors for r in runs("nf_agc", 0.5, "validation", lr=lr, factor=f)]
    verdict = judge([INTERIOR], [*GOOD, *searched])
    assert verdict.regime[0].met == met
    assert (verdict.verdict == "reproduced") == met


def test_a_search_of_another_length_serves_a_cell_that_has_none(judge: Judge) -> None:
    def long(record: Record) -> Record:
        recipe = {**record.config["recipe"], "epochs": 32.0}
        return replace(record, key=record.key + "long", config={**record.config, "recipe": recipe})

    rates = [r for method, f in (("nf", None), ("nf_agc", 0.04)) for lr in (0.1, 0.2, 0.4)
             for r in runs(method, 0.5, "validation", lr=lr, factor=f)]  # fmt: skip
    assert judge([INTERIOR], [*map(long, GOOD), *rates]).verdict == "reproduced"
    own = [long(r) for r in rates if r.config["recipe"]["lr"] < 0.4]
    assert not judge([INTERIOR], [*map(long, GOOD), *rates, *own]).regime[0].met  # its own search comes first


def test_a_rate_that_nobody_searched_is_no_interior(judge: Judge) -> None:
    assert judge([INTERIOR], GOOD).because == "ends was not measured; the claim needs exactly 0"


def test_a_loss_that_did_not_fall_is_counted_in_runs(judge: Judge) -> None:
    began = {"name": "share of runs", "measure": "loss_falls", "plus": "nf", "at_least": 1}
    fell = [{"initial_loss": 2.3, "train_loss": 1.0}, {"initial_loss": 2.3, "train_loss": 2.29}]
    two = [replace(r, metrics=r.metrics | more) for r, more in zip(runs("nf", 0.8), fell)]
    given = [*runs("bn", 0.9), *two, *runs("nf_agc", 0.88, factor=0.04)]
    assert judge([began], given).because == "the loss fell in 1 of 2 runs; it has to fall in all"


def test_only_an_interval_that_does_not_decide_has_to_be_narrow(judge: Judge) -> None:
    precise = {"name": "width", "measure": "half_width / bound", "between": [0, 1]}
    decided = judge([precise], GOOD, at_least=0.01)  # wider than its bound, and clear of 0
    assert (decided.verdict, decided.regime[0].said) == ("reproduced", "no interval is undecided")
    close = [*runs("nf", 0.8), *runs("nf_agc", 0.802)]
    assert judge([precise], close, at_least=0.3).verdict == "undecided"  # 0.20 ± 0.23
    verdict = judge([precise], close, at_least=0.2001)
    assert verdict.verdict == "regime not reached"
    assert verdict.because == "the widest undecided interval is 1.13 times as wide as the claim allows"
    margin = judge([precise], [*runs("nf", 0.8), *runs("nf_agc", 0.8)], at_least=0).regime[0]
    assert (margin.met, margin.said) == (True, "each undecided interval has the bound 0, which limits no width")
    plain = {"name": "width", "measure": "half_width", "between": [0, 0.5]}
    assert judge([plain], close, at_least=0.2001).verdict == "undecided"


def test_every_claim_that_trains_has_a_regime() -> None:
    """What is computed, timed or measured at the start of a network needs none; nor does the leak probe."""
    without = {"leak_probe", "throughput", "signal_propagation"}
    bare = [c.id for c in claims.claims().values() if c.configs and not c.regime and not without & set(c.configs)]
    assert bare == []
