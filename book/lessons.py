"""What sentences of the book rest on: conditions of claims, at the largest scale recorded, checked against the text."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from book import plots
from book.threshold_plots import by_rate, largest_usable
from experiments import claims, config, records
from experiments.claims import Verdict
from experiments.evidence import Finding
from experiments.measure import RESULTS
from experiments.plan import stages
from experiments.profiles import PROFILES


@dataclass(frozen=True)
class Evidence:
    """A condition of a claim, by the start of its name, and its outcome when the sentence was written.

    `measured` says in words what the number is; ``""`` takes the condition's own name.
    """

    claim: str
    condition: str
    outcome: str
    measured: str = ""


def best(profile: str, results_dir: str = "", committed: Path = RESULTS) -> list[Verdict]:
    """The verdict on every claim at the largest scale there is: of the committed records, or of this build's own."""
    order = list(PROFILES)
    own = claims.verdicts(Path(results_dir).parent if results_dir else RESULTS, [profile])
    return [
        mine if not other.tested or (mine.tested and order.index(mine.profile) > order.index(other.profile)) else other
        for mine, other in zip(own, claims.verdicts(committed))
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
        rows.append([e.measured or found.name, found.measured, found.said, scale, link])
    plots.table(["what was measured", "result, 95 % interval", "its rule", "scale, seeds", "claim"], rows)
    for line in moved(evidence, verdicts):
        plots.markdown(f"```{{warning}}\nThe records have moved on since the text was written: {line}.\n```")


def usable_steps(verdicts: Sequence[Verdict]) -> tuple[float, float, str]:
    """Smallest and largest product of rate and largest usable threshold under SGD, and the profile recorded."""
    profile = next(v.profile for v in verdicts if v.claim.id == "NF-9")
    ledger = records.read(records.path_of(RESULTS / profile, "clipping_threshold"))
    final = stages(config.sweep("clipping_threshold", profile), ledger)[1]
    recipes = [r for r in final if r.config["recipe"]["optimizer"] == "sgd"]
    largest = largest_usable(by_rate(recipes, lambda r: int(r.config["recipe"]["batch_size"])))
    products = [threshold * rate for (_, rate), threshold in largest.items()]
    return min(products), max(products), profile
