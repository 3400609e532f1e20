"""Sentences of the book beside the records that they were written against."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest

from book.figures import lessons, plots
from book.figures.lessons import Evidence
from book.tool.execute import read_chapter
from experiments.claims import Verdict

CHAPTERS = Path(__file__).resolve().parents[2] / "book" / "chapters"
CALLS = [
    node
    for chapter in sorted(CHAPTERS.glob("*.md"))
    for cell in read_chapter(chapter).cells
    if cell.cell_type == "code"
    for node in ast.walk(ast.parse(cell.source))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Evidence"
]
EVIDENCE = [Evidence(*map(ast.literal_eval, call.args)) for call in CALLS]


@pytest.fixture(scope="module")
def verdicts() -> list[Verdict]:
    return lessons.best("smoke")


def test_the_committed_records_say_what_the_sentences_say(verdicts: list[Verdict]) -> None:
    assert len(EVIDENCE) >= 45
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


def test_a_finding_names_its_verdicts_and_warns(verdicts: list[Verdict], monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(plots, "markdown", shown.append)
    lessons.check([Evidence("NF-7", "the direction", "holds")], "smoke")
    lessons.check([Evidence("NF-7", "the direction", "fails")], "smoke")
    rests, again, warning = shown
    assert rests == again
    assert "NF-7 (reproduced; computed)" in rests
    assert warning.startswith("```{warning}")


def test_a_finding_of_small_networks_is_called_a_hint(verdicts: list[Verdict], monkeypatch: pytest.MonkeyPatch) -> None:
    small = next(v for v in verdicts if v.verdict == "regime not reached")
    shown: list[str] = []
    monkeypatch.setattr(plots, "markdown", shown.append)
    lessons.check([Evidence(small.claim.id, small.findings[0].name, small.findings[0].outcome)], "smoke")
    assert (f"Runs of {small.claim.id} were made with older code" in shown[0]) == bool(small.stale)
    assert "Take this as a hint" in shown[1]
    assert all(one.met or f"- {small.claim.id}, {one.said}" in shown[1] for one in small.regime)


def test_methods_are_set_beside_batch_norm_at_the_largest_batch_of_the_committed_records() -> None:
    study, profile = lessons.largest("batch_size", "smoke")
    assert profile in ("small", "gpu", "paper")
    header, rows = lessons.beside_bn(study)
    size = max(study.final.where(updates=None), key=lessons.batch_size).run.recipe.batch_size
    assert f"batch size {size}" in header[1]
    assert [row[0] for row in rows] == ["GN", "NF", "NF + AGC"]
    searched = study.search.where(batch_size=size, updates=None, method="nf")
    lost = sum(r.status == "diverged" for r in searched)
    assert next(row[2] for row in rows if row[0] == "NF") == f"{lost} of {len(searched)}"


@pytest.mark.parametrize("evidence", [Evidence("NF-99", "", "holds"), Evidence("NF-8", "clip", "holds")])
def test_evidence_names_one_condition(verdicts: list[Verdict], evidence: Evidence) -> None:
    with pytest.raises(ValueError, match=r"evidence .* names [03] conditions"):
        lessons.finding(evidence, verdicts)
