"""The README's figure and table, from the committed records of the best profile present: `python -m book.headline`."""

import re
from pathlib import Path

import matplotlib.pyplot as plt

from book import plots
from experiments import claims, config, records
from experiments.engine import stages
from experiments.profiles import PROFILES
from experiments.run import RESULTS

ROOT = Path(__file__).resolve().parent.parent
FIGURE = ROOT / "docs" / "batch_size.svg"
MARKS = ("<!-- headline -->", "<!-- /headline -->")


def best_profile(name: str = "batch_size") -> str:
    """The largest profile whose sweep is recorded whole."""
    for profile in reversed(PROFILES):
        sweep = config.sweep(name, profile)
        _, final = stages(sweep, records.read(records.path_of(RESULTS / profile, name)))
        if len(final) == len(sweep.cells) * len(sweep.seeds):
            return profile
    raise FileNotFoundError(f"no profile has all records of {name!r} in {RESULTS}; run it first")


def headline() -> str:
    """Draw the figure; returns the Markdown that goes with it."""
    profile = best_profile()
    sweep = config.sweep("batch_size", profile)
    _, final = stages(sweep, records.read(records.path_of(RESULTS / profile, "batch_size")))
    by_size = records.aggregate(final, by=lambda r: (r.method, claims.batch_size(r)))
    sizes = sorted({size for _, size in by_size})
    plots.setup()
    fig, ax = plt.subplots()
    plots.lines(ax, by_size)
    ax.set(xscale="log", xlabel="batch size (images per update)", ylabel="test accuracy (%)")
    ax.set_xticks(sizes, [str(size) for size in sizes])
    ax.minorticks_off()
    ax.legend()
    fig.savefig(FIGURE, metadata={"Date": None})
    plt.close(fig)

    methods = list(dict.fromkeys(method for method, _ in by_size))
    rows = [["batch size", *map(plots.label, methods)], ["---", *[":---:"] * len(methods)]]
    rows += [[str(size), *[str(by_size[m, size]) for m in methods]] for size in sizes]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    data, verdict = sweep.cells[0].data, claims.judge("NF-8", final, profile)
    devices = ", ".join(sorted({r.provenance["device"] for r in final}))
    scale = f" ({verdict.scale})" if verdict.scale else ""
    alt = "Test accuracy against batch size for BN, NF and NF with AGC, with 95 % intervals"
    return (
        f"![{alt}]({FIGURE.relative_to(ROOT).as_posix()})\n\n"
        f"Test accuracy in per cent on {data.name} ({data.train} training images), mean and 95 % interval over "
        f"{len(sweep.seeds)} seeds, each cell at its own searched learning rate; profile `{profile}`, {devices}. "
        f"The paper's claim that clipping keeps NF level with BN at every batch size: **{verdict.verdict}**{scale}.\n\n"
        f"{table}\n"
    )


def update(readme: Path) -> None:
    """Put the headline between its two marks."""
    start, end = map(re.escape, MARKS)
    text = f"{MARKS[0]}\n{headline()}{MARKS[1]}"
    readme.write_text(re.sub(f"{start}.*{end}", lambda _: text, readme.read_text(), flags=re.S))


if __name__ == "__main__":
    update(ROOT / "README.md")
