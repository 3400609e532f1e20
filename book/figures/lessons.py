"""What sentences of the book rest on: conditions of claims, at the largest scale recorded, checked against the text."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from book.figures import plots
from book.figures.tables import Table, diverged, grouped
from experiments import claims, configs, records
from experiments.claims import Verdict
from experiments.claims.evidence import Finding
from experiments.obtain import RESULTS
from experiments.profiles import PROFILES
from experiments.study import Result, Study, field_of


@dataclass(frozen=True)
class Evidence:
    """A condition of a claim, by the start of its name, and its outcome when the sentence was written.

    `measured` says in words what the number is; ``""`` takes the condition's own name.
    """

    claim: str
    condition: str
    outcome: str
    measured: str = ""


def best(
    profile: str, results_dir: str = "", committed: Path = RESULTS, only: Collection[str] | None = None
) -> list[Verdict]:
    """The verdict on every claim, or on `only` those named, at the largest scale: committed, or of this build's own."""
    order = list(PROFILES)
    own = claims.verdicts(Path(results_dir).parent if results_dir else RESULTS, [profile], only)
    return [
        mine if not other.tested or (mine.tested and order.index(mine.profile) > order.index(other.profile)) else other
        for mine, other in zip(own, claims.verdicts(committed, only=only))
    ]


def finding(evidence: Evidence, verdicts: Sequence[Verdict]) -> tuple[Verdict, Finding]:
    """The one finding that evidence names; a ValueError if there is none, or more than one."""
    verdict = next((v for v in verdicts if v.claim.id == evidence.claim), None)
    found = [f for f in verdict.findings if f.name.startswith(evidence.condition)] if verdict else []
    if verdict is None or len(found) != 1:
        names = [f.name for f in verdict.findings] if verdict else "no such claim"
        raise ValueError(f"evidence {evidence.claim}: {evidence.condition!r} names {len(found)} conditions of {names}")
    return verdict, found[0]


def moved(evidence: Sequence[Evidence], verdicts: Sequence[Verdict]) -> list[str]:
    """What the records say otherwise than when the sentences were written; what was not measured says nothing."""
    pairs = [(e, finding(e, verdicts)[1]) for e in evidence]
    return [
        f"{e.claim}, {f.name}: {e.outcome} when this was written, {f.outcome} now"
        for e, f in pairs
        if f.effect is not None and f.outcome != e.outcome
    ]


def show(evidence: Sequence[Evidence], verdicts: Sequence[Verdict]) -> None:
    """Show the numbers that a lesson rests on, and a warning where the records have moved away from its text."""
    rows = []
    for e in evidence:
        verdict, found = finding(e, verdicts)
        scale = f"{verdict.profile}, n = {len(found.seeds)}" if found.seeds else "computed"
        page = verdict.claim.chapter
        link = f"{{doc}}`{verdict.claim.id} <{page}>`" if page else verdict.claim.id
        rows.append([e.measured or found.name, found.measured, found.said, scale, link, verdict.verdict])
    header = [
        "what was measured",
        "result, joint interval",
        "condition",
        "scale, seeds",
        "claim",
        "verdict of the claim",
    ]
    plots.table(header, rows)
    warn(evidence, verdicts)


def check(evidence: Sequence[Evidence], profile: str, results_dir: str = "") -> None:
    """Show which verdicts the sentences of a finding rest on, and a warning where the records have moved on."""
    named = {e.claim for e in evidence}
    verdicts = best(profile, results_dir, only=named)
    rests = ", ".join(f"{v.claim.id} ({v.verdict}; {v.profile if v.seeds else 'computed'})" for v in verdicts)
    old = ", ".join(v.claim.id for v in verdicts if v.stale)
    aged = f" Runs of {old} were made with older code; today's code gives other numbers." if old else ""
    plots.markdown(f"*What the sentences above rest on:* {rests}.{aged} {{doc}}`What the words mean <verdicts>`.")
    if small := [f"- {v.claim.id}, {one.said}" for v in verdicts for one in v.regime if not one.met]:
        scales = ", ".join(sorted({v.profile for v in verdicts if v.seeds}))
        elsewhere = "" if scales == profile else f" Figures of this page are of profile {profile}."
        hint = (
            f"The sentences above hold at profile {scales}.{elsewhere} The claims ask for more than these networks "
            "have reached:"
        )
        plots.markdown("\n".join(["```{admonition} Take this as a hint", ":class: caution", hint, "", *small, "```"]))
    warn(evidence, verdicts)


def warn(evidence: Sequence[Evidence], verdicts: Sequence[Verdict]) -> None:
    """Warn where the records say otherwise than the text."""
    for line in moved(evidence, verdicts):
        plots.markdown(f"```{{warning}}\nThe records have moved on since the text was written: {line}.\n```")


def largest(name: str, profile: str, results_dir: str = "") -> tuple[Study, str]:
    """A config at the largest profile whose records are complete, committed or of this build; and that profile."""
    for scale, folder in [*((p, RESULTS / p) for p in reversed(PROFILES)), (profile, Path(results_dir))]:
        study = Study.read(configs.sweep(name, scale), folder)
        if study.complete:
            return study, scale
    raise FileNotFoundError(f"no whole records of {name!r}; `python -m experiments run {name}` makes them")


def batch_size(result: Result) -> int:
    """Images per update of a training."""
    return field_of(result.run, "batch_size")


def beside_bn(study: Study) -> Table:
    """A table of the largest batch at equal epochs: each method minus BN, and which learning rates diverged."""
    whole = max(map(batch_size, study.final))
    tried, ended = (
        grouped(runs.where(batch_size=whole, updates=None), lambda r: r.method) for runs in (study.search, study.final)
    )
    header = ["method", f"accuracy minus BN's at batch size {whole}, points", "learning rates that diverged"]
    rows = [
        [plots.label(m), str(records.paired_difference(runs, ended["bn"])), f"{diverged(tried[m])} of {len(tried[m])}"]
        for m, runs in ended.items()
        if m != "bn"
    ]
    return header, rows
