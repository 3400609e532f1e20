"""The README's figure and table, from the records of the best profile: `python -m book.figures.headline`."""

import re
from pathlib import Path
from textwrap import fill

import matplotlib.pyplot as plt

from book.figures import plots
from experiments import claims, configs, records
from experiments.obtain import RESULTS
from experiments.profiles import PROFILES
from experiments.study import Results, Study

ROOT = Path(__file__).resolve().parents[2]
FIGURE = ROOT / "docs" / "batch_size.svg"
README = ROOT / "README.md"
MARKS = ("<!-- headline -->", "<!-- /headline -->")


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


def draw(study: Study, path: Path) -> None:
    """Draw the figure."""
    plots.setup()
    fig = plots.by_batch_size(by_batch_size(equal_epochs(study)))
    fig.savefig(path, metadata={"Date": None})
    plt.close(fig)


def by_batch_size(found: Results) -> dict[tuple[str, float], records.Estimate]:
    """Test accuracy by method and batch size."""
    return records.aggregate(found, by=lambda r: (r.method, r.run.recipe.batch_size))


def text(study: Study, profile: str) -> str:
    """The Markdown that goes with the figure: what it shows, the verdict, the table."""
    final = equal_epochs(study)
    by_size = by_batch_size(final)
    sizes = sorted({size for _, size in by_size})
    methods = list(dict.fromkeys(method for method, _ in by_size))
    rows = [["batch size", *map(plots.label, methods)], ["---", *[":---:"] * len(methods)]]
    rows += [[str(size), *[str(by_size[m, size]) for m in methods]] for size in sizes]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    verdict = claims.judge("NF-8", [*study.search, *study.final], profile)
    data, seeds = final[0].run.data, len({r.seed for r in final})
    devices = ", ".join(sorted({r.provenance["device"] for r in final}))
    commits = ", ".join(sorted({r.provenance["commit"][:7] for r in final}))
    scale = f" ({verdict.scale})" if verdict.scale else ""
    unmet = [one for one in verdict.regime if not one.met]
    missed = f" {len(unmet)} of {len(verdict.regime)} preconditions are not met"
    because = f"{missed}, for instance *{unmet[0].said}*." if unmet else ""
    alt = f"Test accuracy against batch size for {', '.join(map(plots.label, methods))}, with 95 % intervals"
    caption = (
        f"Test accuracy in per cent on {data.name} ({data.train} training images), mean and 95 % interval over "
        f"{seeds} seeds, each cell at its own searched learning rate; profile {profile}, {devices}, commit "
        f"{commits}. The paper's claim "
        f"that clipping keeps NF level with BN at every batch size: **{verdict.verdict}**{scale}.{because}"
    )
    return f"![{alt}]({FIGURE.relative_to(ROOT).as_posix()})\n\n{fill(caption, 120)}\n\n{table}\n"


def update(readme: str, headline: str) -> str:
    """A README with the headline between its two marks."""
    start, end = map(re.escape, MARKS)
    return re.sub(f"{start}.*{end}", lambda _: f"{MARKS[0]}\n{headline}{MARKS[1]}", readme, flags=re.S)


if __name__ == "__main__":
    found = best_profile()
    study = study_at(found)
    draw(study, FIGURE)
    README.write_text(update(README.read_text(), text(study, found)))
