"""The README's answer, figure and tables, from the committed records: `python -m book.front.headline`."""

import re
from pathlib import Path
from textwrap import fill

from book.figures import lengths, plots
from book.front import answer, from_records
from book.front.themes import inline
from experiments import claims, configs, records
from experiments.configs.budget import METHODS
from experiments.obtain import RESULTS
from experiments.profiles import PROFILES
from experiments.study import Results, Study

ROOT = Path(__file__).resolve().parents[2]
FIGURE = ROOT / "docs" / "budget.svg"
README = ROOT / "README.md"
SWEEP, CLAIM = "budget", "BD-1"
NAMES = (
    "BN: batch norm; GN + WS: group norm with standardised weights; NF: normalizer-free network; NF + AGC: NF with "
    "adaptive gradient clipping."
)
ALTERNATIVE = f"Test accuracy against epochs for {', '.join(map(plots.label, METHODS))}, with 95 % intervals"


def best_profile() -> str:
    """The largest profile with final trainings of the sweep."""
    for profile in reversed(PROFILES):
        if trained(study_at(profile)):
            return profile
    raise FileNotFoundError(f"no profile has final trainings of {SWEEP} in {RESULTS}; run it first")


def study_at(profile: str) -> Study:
    """The sweep over lengths of training with its committed records at a profile."""
    return Study.read(configs.sweep(SWEEP, profile), RESULTS / profile)


def trained(study: Study) -> Results:
    """The final trainings recorded so far, without the controls; none before the search is complete."""
    return Results(r for r in study.final if r.method in METHODS) if study.searched else Results()


def draw(study: Study) -> str:
    """The figure as SVG."""
    plots.setup()
    return plots.svg(lengths.figure(trained(study)))


def in_book(study: Study, profile: str) -> str:
    """Markdown of the figure for the first page, for both themes, with its caption."""
    drawing = inline(draw(study), ALTERNATIVE, "headline")
    return f"```{{raw}} html\n{drawing}\n```\n\n{caption(study, profile)}"


def caption(study: Study, profile: str, *, tabled: bool = False) -> str:
    """The caption: what the figure shows, and the verdict on its claim; `tabled` if the table follows."""
    final, planned = trained(study), [run for run in study.final_runs if run.method in METHODS]
    seen = lengths.Lengths(study)
    verdict = claims.judge(CLAIM, seen.judged, profile)
    data, seeds, whole = final[0].run.data, len(study.sweep.seeds), len(final) == len(planned)
    devices = ", ".join(sorted({r.provenance["device"] for r in final}))
    commits = ", ".join(sorted({r.provenance["commit"][:7] for r in final}))
    said = [
        f"Test accuracy in per cent on {data.title} ({data.train} training images) against the length of the training, "
        f"means and 95 % intervals over {'' if whole else 'up to '}{seeds} seeds. {NAMES} {lengths.BELOW} For each "
        "method the learning rate was searched; for methods with clipping, the threshold too.",
    ]
    if lengths.marked(final):
        said.append(plots.LOST)
    said.append(f"Profile {profile}, {devices}, commit {commits}.")
    if not whole:
        said.append(f"So far {len(final)} of {len(planned)} trainings of these methods are recorded.")
        if tabled:
            said.append("A dagger (†) marks a single seed.")
    claim = f"{CLAIM} (NF with AGC within a point of BN in the longest training)"
    untested = verdict.verdict == "not tested"
    said.append(f"{claim} has no verdict until all are recorded." if untested else f"{claim}: **{verdict.verdict}**.")
    unmet = [one for one in verdict.regime if not one.met]
    if unmet and verdict.verdict == "regime not reached":
        said.append(f"{len(unmet)} of {len(verdict.regime)} preconditions are not met: *{unmet[0].said}*.")
    return wrapped(" ".join(said))


def wrapped(text: str) -> str:
    """A paragraph of the README."""
    return fill(text, 120, break_long_words=False, break_on_hyphens=False) + "\n"


def table(study: Study) -> str:
    """The numbers of the figure, in Markdown."""
    by_length = records.aggregate(trained(study), by=lambda r: (r.method, lengths.epochs(r)))
    rows = [["epochs", *map(plots.label, METHODS)], ["---", *[":---:"] * len(METHODS)]]
    for length in sorted({length for _, length in by_length}):
        rows.append([f"{length:g}", *[lengths.written(by_length.get((method, length))) for method in METHODS]])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def update(readme: str, name: str, text: str) -> str:
    """The README with a new text between the marks of a name, ``<!-- NAME -->`` and ``<!-- /NAME -->``."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    return re.sub(f"{re.escape(start)}.*{re.escape(end)}", lambda _: f"{start}\n{text}{end}", readme, flags=re.S)


def filled(readme: str) -> str:
    """The README with the answer, the headline and the table of situations from the committed records."""
    profile, verdicts = best_profile(), answer.committed()
    study = study_at(profile)
    texts = {
        "answer": wrapped(answer.answer(verdicts, answer.in_repository)),
        "headline": f"![{ALTERNATIVE}]({FIGURE.relative_to(ROOT)})\n\n"
        f"{caption(study, profile, tabled=True)}\n{table(study)}",
        "situations": answer.situations(verdicts, answer.in_repository, from_records.sentences(study, profile)) + "\n",
    }
    for name, text in texts.items():
        readme = update(readme, name, text)
    return readme


if __name__ == "__main__":
    FIGURE.write_text(draw(study_at(best_profile())))
    README.write_text(filled(README.read_text()))
