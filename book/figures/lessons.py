"""What sentences of the book rest on: conditions of claims, at the largest scale recorded, checked against the text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from book.figures import plots
from book.figures.tables import accuracy, against, diverged, grouped, side
from book.figures.threshold_plots import at_ends, by_rate, largest_usable
from experiments import claims, configs, records
from experiments.claims import Verdict
from experiments.claims.evidence import Finding
from experiments.obtain import RESULTS
from experiments.profiles import PROFILES
from experiments.records import Record
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
        rows.append([e.measured or found.name, found.measured, found.said, scale, link, verdict.verdict])
    header = [
        "what was measured",
        "result, interval of its verdict",
        "its rule",
        "scale, seeds",
        "claim",
        "its verdict",
    ]
    plots.table(header, rows)
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


def usable_steps(profile: str, results_dir: str = "") -> tuple[float, float, str, str]:
    """Smallest and largest product of rate and largest usable threshold under SGD, where the grid ends, the profile."""
    study, scale = largest("clipping_threshold", profile, results_dir)
    groups = by_rate(study.final.where(optimizer="sgd"), lambda r: r.run.recipe.batch_size)
    products = [threshold * rate for (_, rate), threshold in largest_usable(groups).items()]
    return min(products), max(products), at_ends(groups), scale


def crossing(bn: Mapping[int, Sequence[Record]], others: Mapping[str, Sequence[Record]]) -> str:
    """With how many images per statistic BN is below methods that have no such number, by mean and by interval."""
    said = []
    for other, runs in others.items():
        less = {n: records.paired_difference(bn[n], runs) for n in sorted(bn)}
        lower, clear = ([n for n in less if test(less[n])] for test in (lambda e: e.mean < 0, lambda e: side(e) < 0))
        worst = f" ({-less[clear[-1]].mean:.1f} points with {clear[-1]})" if clear else ""
        said.append(
            f"{plots.label(other)}'s with {_listed(lower)} images per statistic, beyond the interval with "
            f"{_listed(clear)}{worst}"
        )
    return f"The mean of BN is below {'; below '.join(said)} (each at its own rate, paired by seed)."


def _listed(numbers: Sequence[int]) -> str:
    return " and ".join(filter(None, [", ".join(map(str, numbers[:-1])), *map(str, numbers[-1:])])) or "none"


def few_images(profile: str, results_dir: str = "") -> str:
    """The same from the records of the config, and what was measured of small gradient batches."""
    study, scale = largest("statistics_batch", profile, results_dir)
    whole = max(map(batch_size, study.final))
    at = grouped(study.final.where(batch_size=whole), lambda r: r.method)
    bn = grouped(at["ghost_bn"], lambda r: dict(r.run.model.norm_options)["size"])
    tied = grouped([r for r in study.final if batch_size(r) != whole], batch_size)
    few, names = min(tied), dict.fromkeys(plots.label(r.method) for r in tied[min(tied)])
    swept, other = largest("batch_size", profile, results_dir)
    equal = swept.final.where(updates=None)
    least = min(map(batch_size, equal))
    by_method = grouped(equal.where(batch_size=least), lambda r: r.method)
    ahead = " and ".join(
        f"{plots.label(m)} {records.paired_difference(by_method[m], by_method['bn'])}" for m in ("gn", "nf")
    )
    return (
        f"{crossing(bn, {m: at[m] for m in ('gn', 'nf')})} A *gradient* batch of {few} was measured with "
        f"{', '.join(names)} alone, and with neither GN nor NF ({scale}). "
        f"At {least}, the smallest with all of them: less BN, {ahead} points ({other})."
    )


def beside_bn(study: Study) -> str:
    """At the largest batch of equal epochs: divergence in the search, and accuracy less BN's, of the others."""
    whole = max(map(batch_size, study.final))
    tried, ended = (
        grouped(runs.where(batch_size=whole, updates=None), lambda r: r.method) for runs in (study.search, study.final)
    )
    said = [
        f"{plots.label(m)} {records.paired_difference(runs, ended['bn'])} points "
        f"({diverged(tried[m])} of {len(tried[m])} rates diverged)"
        for m, runs in ended.items()
        if m != "bn"
    ]
    return f"Less BN, at batch {whole} and equal epochs: {', '.join(said)}."


def large_batch(profile: str, results_dir: str = "") -> str:
    """The same from the records of the config."""
    study, scale = largest("batch_size", profile, results_dir)
    finer_study, other = largest("rate_grid", profile, results_dir)
    finer = grouped(finer_study.final, lambda r: r.method)
    clipped, bn = (records.paired_difference(finer["nf_agc"], finer[m]) for m in ("nf", "bn"))
    return (
        f"{beside_bn(study)} ({scale}) With rates in steps of 2, clipped NF less unclipped is {clipped} points "
        f"at the largest batch, less BN {bn} ({other})."
    )


def low_rate(profile: str, results_dir: str = "") -> str:
    """What clipping does at the rate that the network survives unclipped, in a sentence."""
    study, scale = largest("gradient_ratios", profile, results_dir)
    low = min(field_of(r.run, "lr") for r in study.final)
    at = grouped(study.final.where(lr=low), lambda r: r.method)
    updates, less = at["nf"][0].metrics["updates"], records.paired_difference(at["nf_agc"], at["nf"])
    return (
        f"At rate {low:g}, which NF survives unclipped, over {updates:g} updates: {accuracy(at['nf'])} % unclipped, "
        f"{accuracy(at['nf_agc'])} % clipped, paired by seed {less} points ({scale})."
    )


def bare_stem(profile: str, results_dir: str = "") -> str:
    """What it comes to if the first convolution is left unclipped, too: shown and not judged."""
    study, scale = largest("clipped_layers", profile, results_dir)
    less = against(grouped(study.final, lambda r: r.method), "nf_agc")["agc_no_stem"]
    word = {1: "did better", -1: "cost accuracy", 0: "made no difference beyond the interval"}[side(less)]
    return f"Leaving the first convolution unclipped, which NFNet's paper allows, {word}: {less} points ({scale})."
