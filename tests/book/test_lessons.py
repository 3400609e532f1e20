"""Sentences of the book beside the records that they were written against."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from made_records import run

from book.figures import lessons, plots
from book.figures.lessons import Evidence
from book.tool.execute import read_chapter
from experiments.claims import Verdict
from experiments.records import Record

CHAPTER = Path(__file__).resolve().parents[2] / "book" / "chapters" / "what_we_learned.md"
CALLS = [
    node
    for cell in read_chapter(CHAPTER).cells
    if cell.cell_type == "code"
    for node in ast.walk(ast.parse(cell.source))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Evidence"
]
EVIDENCE = [Evidence(*map(ast.literal_eval, call.args)) for call in CALLS]


@pytest.fixture(scope="module")
def verdicts() -> list[Verdict]:
    return lessons.best("smoke")


def test_the_committed_records_say_what_the_sentences_say(verdicts: list[Verdict]) -> None:
    assert len(EVIDENCE) >= 15
    assert not lessons.moved(EVIDENCE, verdicts)
    assert all(lessons.finding(e, verdicts)[1].effect is not None for e in EVIDENCE)


def test_records_that_moved_are_told_of(verdicts: list[Verdict], monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(plots, "markdown", shown.append)
    lessons.show([replace(EVIDENCE[0], outcome="fails")], verdicts)
    table, warning = shown
    assert lessons.finding(EVIDENCE[0], verdicts)[1].measured in table
    assert warning.startswith("```{warning}")
    assert f"fails when this was written, {EVIDENCE[0].outcome} now" in warning


def test_the_usable_steps_are_those_of_the_grid() -> None:
    low, high, ends, profile = lessons.usable_steps("smoke")
    assert 0 < low <= high < 1
    assert "grid's largest" in ends
    assert profile in ("small", "gpu", "paper")


def of_size(images: int, accuracies: list[float]) -> list[Record]:
    model = {"norm_options": {"size": images}}
    return [run("ghost_bn", seed, a, model=model) for seed, a in enumerate(accuracies)]


def test_batch_norm_is_below_another_by_mean_and_by_interval() -> None:
    bn = {1: of_size(1, [0.2, 0.21]), 2: of_size(2, [0.3, 0.5]), 4: of_size(4, [0.6, 0.62])}
    other = [run("gn", seed, a) for seed, a in enumerate((0.5, 0.5))]
    said = lessons.crossing(bn, {"gn": other})
    assert "below GN's with 1 and 2 images per statistic, beyond the interval with 1 (29.5 points with 1)" in said
    assert "with none images" in lessons.crossing({4: bn[4]}, {"gn": other})


@pytest.mark.parametrize("said", [lessons.few_images, lessons.large_batch, lessons.low_rate, lessons.bare_stem])
def test_sentences_name_their_scale(said: Callable[[str], str]) -> None:
    assert said("smoke").rstrip(".").endswith(("(small)", "(gpu)", "(paper)"))


@pytest.mark.parametrize("evidence", [Evidence("NF-99", "", "holds"), Evidence("NF-8", "clip", "holds")])
def test_evidence_names_one_condition(verdicts: list[Verdict], evidence: Evidence) -> None:
    with pytest.raises(ValueError, match=r"evidence .* names [03] conditions"):
        lessons.finding(evidence, verdicts)
