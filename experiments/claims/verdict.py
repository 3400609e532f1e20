"""Verdicts on the claims of `claims.yaml`, from records and each claim's own rule; none is typed by hand."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from experiments import configs
from experiments.claims.claim import Claim, claims
from experiments.claims.evidence import Finding, findings
from experiments.claims.regimes import Reached, reached
from experiments.profiles import PROFILES
from experiments.records import path_of
from experiments.records.record import Record
from experiments.study import Result, Study

WORDS = (
    "reproduced", "partly", "not reproduced", "undecided", "regime not reached", "not tested", "out of reach",
)  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """The verdict on a claim at one profile, one of `WORDS`, with its findings and preconditions."""

    claim: Claim
    verdict: str
    profile: str
    findings: tuple[Finding, ...] = ()
    regime: tuple[Reached, ...] = ()
    stale: int = 0  # records of the kinds of run that it measures whose runs would give other numbers now

    @property
    def scale(self) -> str:
        """Note that the profile is too small to settle the claim; empty if it is not."""
        order = list(PROFILES)
        small = order.index(self.profile) < order.index(self.claim.verdict_from)
        return f"provisional: measured at {self.profile}, final from {self.claim.verdict_from} on" if small else ""

    @property
    def tested(self) -> bool:
        """Whether any condition other than a guard was measured."""
        return any(finding.effect is not None for finding in self.findings if not finding.guard)

    @property
    def whole(self) -> bool:
        """Whether every condition was measured."""
        return bool(self.findings) and all(finding.effect is not None for finding in self.findings)

    @property
    def because(self) -> str:
        """Reason of the verdict: the preconditions not met, the conditions that hold or lack records, or empty."""
        if self.verdict == "regime not reached":
            return "; ".join(one.said for one in self.regime if not one.met)
        if self.verdict == "partly":
            held = [f.name for f in self.findings if not f.guard and (f.holds or f.in_part)]
            return f"holds, at least in part: {'; '.join(held)}"
        missing = [f.name for f in self.findings if f.effect is None]
        return f"no records yet: {'; '.join(missing)}" if self.verdict == "undecided" and missing else ""

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of all runs that were judged."""
        return tuple(sorted({seed for finding in self.findings for seed in finding.seeds}))

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices of all runs that were judged."""
        return tuple(sorted({device for finding in self.findings for device in finding.devices}))


def judge(claim_id: str, records: Sequence[Record], profile: str) -> Verdict:
    """Judge a claim by the runs in these records, of one config or of several; computed conditions need no records.

    Search runs count only where a rule asks for them, and for the grids of a regime. `Bound.met` says when
    a condition holds. The verdict is the first of these that applies:

    - no condition was measured: not tested, or out of reach if the claim says why;
    - a precondition is not met: regime not reached;
    - some condition was not measured: undecided;
    - all conditions hold: reproduced;
    - a condition other than a guard holds, or holds in part: partly;
    - all conditions other than guards failed: not reproduced;
    - otherwise: undecided.
    """
    if claim_id not in claims():
        raise ValueError(f"claim {claim_id!r} is not known; use one of {', '.join(claims())}")
    claim, done = claims()[claim_id], [r for r in records if r.done]
    try:
        found = tuple(findings(claim.conditions, done))
        verdict = Verdict(claim, "out of reach" if claim.why else "not tested", profile, found)
        if not verdict.tested:
            return verdict
        verdict = replace(verdict, regime=tuple(reached(one, found, done) for one in claim.regime))
    except ValueError as error:
        raise ValueError(f"claim {claim_id} cannot be judged by these {len(done)} records: {error}") from error
    if not all(one.met for one in verdict.regime):
        return replace(verdict, verdict="regime not reached")
    return replace(verdict, verdict=_word(found) if verdict.whole else "undecided")


def _word(found: Sequence[Finding]) -> str:
    main = [finding for finding in found if not finding.guard]
    if all(finding.holds for finding in found):
        return "reproduced"
    if any(finding.holds or finding.in_part for finding in main):
        return "partly"
    return "undecided" if any(finding.holds is None for finding in main) else "not reproduced"


def verdicts(
    results: Path, profiles: Sequence[str] = tuple(PROFILES), only: Collection[str] | None = None
) -> list[Verdict]:
    """The verdict on every claim, or on `only` those named, from a folder of records with one folder a profile.

    Only sweeps that are recorded completely count. A claim is judged at the largest profile whose sweeps measure every
    condition, or else at the largest profile whose sweeps measure any condition.
    """

    @cache
    def current(name: str, profile: str) -> Sequence[Result]:
        return _current(results / profile, name, profile)

    return [_latest(one, current, profiles) for one in claims().values() if only is None or one.id in only]


def verdicts_of(study: Study, profile: str) -> list[Verdict]:
    """The verdicts on the claims that this sweep alone tests; an empty list while a run of the sweep is missing."""
    alone = [claim.id for claim in claims().values() if claim.configs == (study.sweep.name,)]
    return [judge(claim_id, study.recorded, profile) for claim_id in alone if study.complete]


def _latest(claim: Claim, current: Callable[[str, str], Sequence[Result]], profiles: Sequence[str]) -> Verdict:
    if not claim.configs:
        return judge(claim.id, (), claim.verdict_from)
    judged: list[Verdict] = []
    for profile in reversed(profiles):
        records = [r for name in claim.configs for r in current(name, profile)]
        if records:
            verdict = judge(claim.id, records, profile)
            judged.append(replace(verdict, stale=_stale(verdict, records)))
    whole, tested = [v for v in judged if v.whole], [v for v in judged if v.tested]
    return (whole or tested or [judge(claim.id, (), claim.verdict_from)])[0]


def _stale(verdict: Verdict, records: Sequence[Result]) -> int:
    """How many records of the kinds of run that the verdict measures are stale; a sweep can hold several kinds."""
    kinds = {type(r.run) for finding in verdict.findings for r in finding.records if isinstance(r, Result)}
    return sum(r.stale for r in records if type(r.run) in kinds)


def _current(folder: Path, name: str, profile: str) -> Sequence[Result]:
    """The results of the present sweep.

    While a run is missing there are no results: a setting was not chosen yet, or an average lacks a seed.
    """
    if name not in configs.names() or not path_of(folder, name).is_file():
        return ()
    study = Study.read(configs.sweep(name, profile), folder)
    return study.recorded if study.complete else ()
