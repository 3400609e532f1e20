"""Verdicts from records: each claim of `claims.yaml` by its own rule, none typed by hand."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from experiments.profiles import PROFILES
from experiments.records import Estimate, Record, paired_difference

CLAIMS = Path(__file__).with_name("claims.yaml")


@dataclass(frozen=True)
class Claim:
    """A claim of a paper: what it says, where, and the conditions that decide it. See `claims.yaml`."""

    id: str
    statement: str
    source: str
    paper: str
    config: str
    verdict_from: str
    conditions: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Finding:
    """One condition beside its measurement; `holds` is None while the interval does not decide."""

    name: str
    wanted: str
    difference: Estimate
    holds: bool | None
    guard: bool = False

    @property
    def outcome(self) -> str:
        """In a word."""
        return {True: "holds", False: "fails", None: "undecided"}[self.holds]


@dataclass(frozen=True)
class Verdict:
    """A claim's verdict at one profile, and what it rests on."""

    claim: Claim
    verdict: str
    profile: str
    findings: tuple[Finding, ...] = ()

    @property
    def scale(self) -> str:
        """Said beside a verdict that the profile is too small to settle; empty otherwise."""
        order = list(PROFILES)
        small = order.index(self.profile) < order.index(self.claim.verdict_from)
        return f"at {self.profile} scale only; settled from {self.claim.verdict_from} on" if small else ""


@cache
def claims() -> dict[str, Claim]:
    """All claims by id."""
    entries = yaml.safe_load(CLAIMS.read_text(encoding="utf-8"))
    return {e["id"]: Claim(**{**e, "conditions": tuple(e["conditions"])}) for e in entries}


def judge(claim_id: str, records: Sequence[Record], profile: str) -> Verdict:
    """Judge a claim by the final runs among these records.

    A difference D with standard error s meets ``at_least: t`` if D >= t and it clears the error: D > 2 s where t is
    above zero, D - 2 s >= t where it is a margin of zero or less. It fails if D + 2 s < t. ``below: t`` asks
    D + 2 s < t, and fails if D - 2 s >= t. Anything else is undecided. All conditions met: reproduced. Leaving guards
    aside: some met: partly; all failed: not reproduced; otherwise undecided. No records: not tested.
    """
    if claim_id not in claims():
        raise ValueError(f"claim {claim_id!r} is not known; use one of {', '.join(claims())}")
    claim = claims()[claim_id]
    finals = [r for r in records if r.done and r.config["split"] == "test"]
    if not finals:
        return Verdict(claim, "not tested", profile)
    findings = tuple(_finding(condition, finals) for condition in claim.conditions)
    main = [finding.holds for finding in findings if not finding.guard]
    if all(finding.holds for finding in findings):
        verdict = "reproduced"
    elif any(main):
        verdict = "partly"
    else:
        verdict = "undecided" if None in main else "not reproduced"
    return Verdict(claim, verdict, profile, findings)


def batch_size(record: Record) -> int:
    """Images per update of a record's run."""
    size: int = record.config["recipe"]["batch_size"]
    return size


def _finding(condition: dict[str, Any], finals: Sequence[Record]) -> Finding:
    sizes = [batch_size(r) for r in finals]
    size = max(sizes) if condition["at"] == "largest" else min(sizes)
    here = [r for r in finals if batch_size(r) == size]
    plus, minus = ([r for r in here if r.method == condition[side]] for side in ("plus", "minus"))
    d = paired_difference(plus, minus)
    if "below" in condition:
        sign, limit = "<", condition["below"]
        met, failed = _upper(d) < limit, _lower(d) >= limit
    else:
        sign, limit = "≥", condition["at_least"]
        clears = _lower(d) > 0 if limit > 0 else _lower(d) >= limit
        met, failed = d.mean >= limit and clears, _upper(d) < limit
    wanted = f"{condition['plus']} - {condition['minus']} {sign} {limit:g}"
    holds = _decide(d, met=met, failed=failed)
    return Finding(f"{condition['name']} ({size})", wanted, d, holds, condition.get("guard", False))


def _decide(d: Estimate, *, met: bool, failed: bool) -> bool | None:
    if d.stderr is None:  # one seed has no error to clear
        return None
    return True if met else False if failed else None


def _lower(d: Estimate) -> float:
    return d.mean - 2 * (d.stderr or 0.0)


def _upper(d: Estimate) -> float:
    return d.mean + 2 * (d.stderr or 0.0)
