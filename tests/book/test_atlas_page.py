"""What the chapter on the atlas says of its records."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_records import run

from book.figures import atlas_effects
from experiments.configs.atlas import EFFECTS, Effect
from experiments.records import Record

LEAD = Effect("accuracy, BN minus LN", "accuracy bn", "accuracy ln")


def graphs(leads: list[float]) -> list[Record]:
    return [
        run("graphs", seed, metrics={"accuracy bn": 50 + lead, "accuracy ln": 50.0, "accuracy nf": 40.0})
        for seed, lead in enumerate(leads)
    ]


@pytest.mark.parametrize(
    ("leads", "verdict"),
    [
        ([9.0, 10.0, 11.0], atlas_effects.SEEN),
        ([0.0, 10.0, 20.0], atlas_effects.UNSEEN),
        ([-9.0, -10.0, -11.0], atlas_effects.UNSEEN),
    ],
)
def test_an_effect_is_seen_only_where_its_interval_is_above_zero(leads: list[float], verdict: str) -> None:
    found = atlas_effects.difference(graphs(leads), LEAD)
    assert found.mean == pytest.approx(sum(leads) / 3)
    assert atlas_effects.verdict(found) == verdict


def test_one_seed_has_no_interval_and_decides_nothing() -> None:
    found = atlas_effects.difference(graphs([30.0]), LEAD)
    assert atlas_effects.verdict(found) == atlas_effects.UNSEEN
    assert atlas_effects.said(LEAD, found).endswith("+30.0 points (one seed, so no interval).")


def test_the_sentence_and_the_tables_hold_the_means() -> None:
    page = atlas_effects.Page(graphs([9.0, 10.0, 11.0]), Path("atlas.jsonl"))
    sentence = atlas_effects.said(LEAD, atlas_effects.difference(page.entries["graphs"], LEAD))
    assert sentence == ("**Effect seen.** Accuracy, BN minus LN: +10.0 points (95 % interval: +7.5 to +12.5).")
    assert page.counted().startswith("**1 of 1 effects were seen.**")
    header, rows = page.overview({"graphs": ("there", "Graphs", "statistics of nodes")})
    assert header[-1] == "verdict"
    assert rows == [
        [
            "[Graphs](#there)",
            "statistics of nodes",
            EFFECTS["graphs"][0].says,
            "10.0\u00a0±\u00a02.5 points",
            "effect seen",
        ]
    ]
    columns, cells = page.table("graphs", "norm", {"BN": {"%": "accuracy bn", "noise": ""}, "NF": {"%": "accuracy nf"}})
    assert columns == ["norm", "%", "noise"]
    assert cells == [["BN", "60.0\u00a0±\u00a02.5", ""], ["NF", "40.0\u00a0±\u00a00.0", ""]]
