"""The README's figure and table, from the records of the best profile: `python -m book.figures.headline`."""

import re
from pathlib import Path
from textwrap import fill

import matplotlib.pyplot as plt

from book.figures import plots
from experiments import claims, configs, records
from experiments.obtain import RESULTS
from experiments.profiles import PROFILES
from experiments.records import Record
from experiments.study import stages

ROOT = Path(__file__).resolve().parents[2]
FIGURE = ROOT / "docs" / "batch_size.svg"
README = ROOT / "README.md"
MARKS = ("<!-- headline -->", "<!-- /headline -->")


def best_profile() -> str:
    """The largest profile with records of the sweep."""
    for profile in reversed(PROFILES):
        if final_runs(profile):
            return profile
    raise FileNotFoundError(f"no profile has records of batch_size in {RESULTS}; run it first")


def final_runs(profile: str) -> list[Record]:
    """The final runs of the batch-size sweep at a profile, of its half with equal epochs."""
    return [r for r in both_stages(profile)[1] if r.config["recipe"].get("updates") is None]


def both_stages(profile: str) -> tuple[list[Record], list[Record]]:
    """The search and the final runs of the batch-size sweep at a profile."""
    ledger = records.read(records.path_of(RESULTS / profile, "batch_size"))
    return stages(configs.sweep("batch_size", profile), ledger)


def draw(final: list[Record], path: Path) -> None:
    """Draw the figure."""
    by_size = records.aggregate(final, by=lambda r: (r.method, claims.batch_size(r)))
    sizes = sorted({size for _, size in by_size})
    plots.setup()
    fig, ax = plt.subplots()
    plots.lines(ax, by_size)
    plots.log_axis(ax, "batch size (images per update)", sizes)
    ax.set_ylabel("test accuracy (%)")
    ax.legend()
    fig.savefig(path, metadata={"Date": None})
    plt.close(fig)


def text(final: list[Record], profile: str) -> str:
    """The Markdown that goes with the figure: what it shows, the verdict, the table."""
    by_size = records.aggregate(final, by=lambda r: (r.method, claims.batch_size(r)))
    sizes = sorted({size for _, size in by_size})
    methods = list(dict.fromkeys(method for method, _ in by_size))
    rows = [["batch size", *map(plots.label, methods)], ["---", *[":---:"] * len(methods)]]
    rows += [[str(size), *[str(by_size[m, size]) for m in methods]] for size in sizes]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    verdict = claims.judge("NF-8", [r for part in both_stages(profile) for r in part], profile)
    data, seeds = final[0].config["data"], len({r.seed for r in final})
    devices = ", ".join(sorted({r.provenance["device"] for r in final}))
    commits = ", ".join(sorted({r.provenance["commit"][:7] for r in final}))
    scale = f" ({verdict.scale})" if verdict.scale else ""
    unmet = [one for one in verdict.regime if not one.met]
    missed = f" {len(unmet)} of {len(verdict.regime)} preconditions are not met"
    because = f"{missed}, for instance *{unmet[0].said}*." if unmet else ""
    alt = f"Test accuracy against batch size for {', '.join(map(plots.label, methods))}, with 95 % intervals"
    caption = (
        f"Test accuracy in per cent on {data['name']} ({data['train']} training images), mean and 95 % interval over "
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
    runs = final_runs(found)
    draw(runs, FIGURE)
    README.write_text(update(README.read_text(), text(runs, found)))
