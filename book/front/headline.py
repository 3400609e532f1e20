"""The README's answer, figure and tables, from the committed records: `python -m book.front.headline`."""

import re
from pathlib import Path
from textwrap import fill

from book.figures import plots
from book.figures.themes import inline
from book.front import answer
from experiments import claims, configs, records
from experiments.obtain import RESULTS
from experiments.profiles import PROFILES
from experiments.study import Results, Study

ROOT = Path(__file__).resolve().parents[2]
FIGURE = ROOT / "docs" / "batch_size.svg"
README = ROOT / "README.md"


def best_profile() -> str:
    """The largest profile with records of the sweep."""
    for profile in reversed(PROFILES):
        if equal_epochs(study_at(profile)):
            return profile
    raise FileNotFoundError(f"no profile has records of batch_size in {RESULTS}; run it first")


def study_at(profile: str) -> Study:
    """The batch-size sweep with its committed records at a profile."""
    return Study.read(configs.sweep("batch_size", profile), RESULTS / profile)


def equal_epochs(study: Study) -> Results:
    """The final runs of the half of the batch-size sweep that gives every batch size the same epochs."""
    return study.final.where(updates=None)


def draw(study: Study) -> str:
    """Draw the figure, as SVG."""
    plots.setup()
    return plots.svg(plots.by_batch_size(by_batch_size(equal_epochs(study))))


def by_batch_size(found: Results) -> dict[tuple[str, float], records.Estimate]:
    """Test accuracy by method and batch size."""
    return records.aggregate(found, by=lambda r: (r.method, r.run.recipe.batch_size))


def alternative(study: Study) -> str:
    """The text alternative of the figure."""
    methods = dict.fromkeys(plots.label(r.method) for r in equal_epochs(study))
    return f"Test accuracy against batch size for {', '.join(methods)}, with 95 % intervals"


def in_book(study: Study, profile: str) -> str:
    """The figure in the text of the first page, for both themes, with its caption."""
    drawing = inline(draw(study), alternative(study), "headline")
    return f"```{{raw}} html\n{drawing}\n```\n\n{caption(study, profile)}"


def caption(study: Study, profile: str) -> str:
    """What the figure shows, and what the verdict on its claim is."""
    final = equal_epochs(study)
    verdict = claims.judge("NF-8", [*study.search, *study.final], profile)
    data, seeds = final[0].run.data, len({r.seed for r in final})
    devices = ", ".join(sorted({r.provenance["device"] for r in final}))
    commits = ", ".join(sorted({r.provenance["commit"][:7] for r in final}))
    unmet = [one for one in verdict.regime if not one.met]
    said = [
        f"Test accuracy in per cent on {data.name} ({data.train} training images), means and 95 % intervals over "
        f"{seeds} seeds. Each cell has its own searched learning rate. Profile {profile}, {devices}, commit {commits}.",
        f"The paper's claim is that clipping keeps NF level with BN at every batch size: **{verdict.verdict}**"
        + (f" ({verdict.scale})." if verdict.scale else "."),
    ]
    if unmet:
        said.append(f"{len(unmet)} of {len(verdict.regime)} preconditions are not met.")
        said.append(f"For instance, *{unmet[0].said}*.")
    return fill(" ".join(said), 120) + "\n"


def table(study: Study) -> str:
    """The numbers of the figure, in Markdown."""
    by_size = by_batch_size(equal_epochs(study))
    methods = list(dict.fromkeys(method for method, _ in by_size))
    rows = [["batch size", *map(plots.label, methods)], ["---", *[":---:"] * len(methods)]]
    rows += [[str(size), *[str(by_size[m, size]) for m in methods]] for size in sorted({size for _, size in by_size})]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def update(readme: str, name: str, text: str) -> str:
    """A README with a text between the marks of a name: ``<!-- headline -->`` and ``<!-- /headline -->``."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    return re.sub(f"{re.escape(start)}.*{re.escape(end)}", lambda _: f"{start}\n{text}{end}", readme, flags=re.S)


def filled(readme: str) -> str:
    """A README with the answer, the headline and the table of situations as the committed records have them."""
    profile, verdicts = best_profile(), answer.committed()
    study = study_at(profile)
    texts = {
        "answer": fill(answer.answer(verdicts, answer.in_repository), 120, break_long_words=False) + "\n",
        "headline": f"![{alternative(study)}]({FIGURE.relative_to(ROOT)})\n\n{caption(study, profile)}\n{table(study)}",
        "situations": answer.situations(verdicts, answer.in_repository) + "\n",
    }
    for name, text in texts.items():
        readme = update(readme, name, text)
    return readme


if __name__ == "__main__":
    FIGURE.write_text(draw(study_at(best_profile())))
    README.write_text(filled(README.read_text()))
