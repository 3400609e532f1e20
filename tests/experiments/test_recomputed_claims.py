"""Our verdicts beside a second computation from the raw lines, which shares no code with ours."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import recompute_claims
from recompute_claims import recompute

from experiments import claims, configs, records
from experiments.claims import Verdict, evidence
from experiments.claims.computed import compute
from experiments.study import Study

RESULTS = Path(claims.__file__).parents[1] / "results"
GIVEN = {
    (c.compute, c.of): compute(c.compute, c.of) for claim in claims.claims().values() for c in claim.conditions
    if c.compute
}  # fmt: skip
OF_NORMALIZERS = ("LN-1", "EV-1", "WS-2", "RS-3")


@cache
def runs(name: str) -> Collection[tuple[str, int]]:
    """The runs of a sweep as it is now: a file may hold those of its past, too."""
    ledger = records.read(records.path_of(RESULTS / "small", name))
    return [(run.key, run.seed) for run in Study(configs.sweep(name, "small"), ledger).runs]


def differences(ours: list[Verdict], theirs: dict[str, dict[str, Any]]) -> list[str]:
    """Where two computations differ, of the claims that both have."""
    found = []
    for verdict in [v for v in ours if v.claim.id in theirs]:
        name, other = verdict.claim.id, theirs[verdict.claim.id]
        if verdict.verdict != other["word"]:
            found.append(f"{name}: {verdict.verdict} and {other['word']}")
        pairs = [
            (f.name, f.outcome, f.effect and [f.effect.mean, f.effect.low, f.effect.high], g["word"],
             None if g["mean"] is None else [g["mean"], *(g["ends"] or [None, None])])
            for f, g in zip(verdict.findings, other["findings"], strict=True)
        ]  # fmt: skip
        if verdict.tested:
            pairs += [
                (r.name, str(r.met), [r.value], str(g["met"]), [g["value"]])
                for r, g in zip(verdict.regime, other["regime"], strict=True)
            ]
        for what, word, numbers, their_word, their_numbers in pairs:
            if word != their_word or not close(numbers, their_numbers):
                found.append(f"{name}, {what}: {word} {numbers} and {their_word} {their_numbers}")
    return found


def close(ours: list[float | None] | None, theirs: list[float | None] | None) -> bool:
    if ours is None or theirs is None or None in ours or None in theirs:
        return ours == theirs
    return ours == pytest.approx(theirs, rel=1e-7, abs=1e-9)


@pytest.fixture(scope="module")
def ours() -> list[Verdict]:
    return claims.verdicts(RESULTS, ["small"])


@pytest.fixture(scope="module")
def theirs() -> dict[str, dict[str, Any]]:
    return recompute(RESULTS / "small", GIVEN, runs)


def test_the_other_computation_uses_none_of_our_code() -> None:
    tree = ast.parse(Path(recompute_claims.__file__).read_text(encoding="utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    roots = {str(name).partition(".")[0] for name in imported}
    assert roots - set(sys.stdlib_module_names) == {"numpy", "scipy", "yaml"}


def test_both_come_to_the_same(ours: list[Verdict], theirs: dict[str, dict[str, Any]]) -> None:
    assert len(theirs) == len(ours) == len(claims.claims())
    assert differences(ours, theirs) == []
    measured = [f for v in ours for f in v.findings if f.effect is not None and f.effect.count]
    assert len(measured) > 100
    assert {f.way for f in measured} >= {"t", "paired by seed", "pooled variance", "Welch", "score interval"}


def test_a_changed_record_is_seen(tmp_path: Path, ours: list[Verdict]) -> None:
    path = RESULTS / "small" / "normalizers.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    row = next(r for r in rows if r["method"] == "ln" and r["config"]["split"] == "test")
    row["metrics"]["accuracy"] += 0.01
    (tmp_path / path.name).write_text("\n".join(map(json.dumps, rows)))
    found = differences(ours, recompute(tmp_path, GIVEN, runs, OF_NORMALIZERS))
    assert {line.partition(":")[0].partition(",")[0] for line in found} == {"LN-1"}


def test_a_fault_of_ours_is_seen(monkeypatch: pytest.MonkeyPatch, theirs: dict[str, dict[str, Any]]) -> None:
    sweep = configs.sweep("normalizers", "small")
    done = Study.read(sweep, RESULTS / "small").recorded

    def judged() -> list[Verdict]:
        return [claims.judge(name, done, "small") for name in OF_NORMALIZERS]

    assert differences(judged(), theirs) == []
    monkeypatch.setattr(evidence, "LEVEL", 0.9)
    assert len(differences(judged(), theirs)) > len(OF_NORMALIZERS)
