"""One look through the book: a colour and a marker per method, intervals always drawn, captions made from records."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import seaborn as sns
from IPython.display import Markdown, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib_inline.backend_inline import set_matplotlib_formats

from experiments.records import Estimate, Record

# Okabe and Ito's palette: told apart with any colour vision, and by the marker in print.
LOOK: Mapping[str, tuple[str, str, str]] = {
    "bn": ("BN", "#0072B2", "o"),
    "nf": ("NF", "#D55E00", "s"),
    "nf_agc": ("NF + AGC", "#009E73", "^"),
}


def setup() -> None:
    """Vector figures that come out the same twice, sized for a phone as much as for a desk."""
    set_matplotlib_formats("svg", metadata={"Date": None})
    sns.set_theme(context="notebook", style="whitegrid")
    plt.rcParams.update(
        {
            "svg.hashsalt": "nfnets-lite",
            "figure.figsize": (6.4, 4.0),
            "figure.constrained_layout.use": True,
            "legend.frameon": False,
        }
    )


def label(method: str) -> str:
    """A method's name in text and legends."""
    return LOOK[method][0]


def lines(ax: Axes, estimates: Mapping[tuple[str, float], Estimate]) -> None:
    """One line a method through its means, with its 95 % intervals; open markers where a seed diverged."""
    for offset, method in enumerate(dict.fromkeys(method for method, _ in estimates)):
        name, colour, marker = LOOK[method]
        points = sorted((x, estimate) for (m, x), estimate in estimates.items() if m == method)
        shift = 1.05 ** (offset - 1)  # intervals of two methods at one place must not hide each other
        x, mean = [x * shift for x, _ in points], [e.mean for _, e in points]
        half = [0.0 if e.high is None else e.high - e.mean for _, e in points]
        ax.errorbar(x, mean, half, label=name, color=colour, marker=marker, capsize=3, markersize=6)
        for place, (_, estimate) in zip(x, points):
            if estimate.diverged:
                ax.plot(place, estimate.mean, marker, color=colour, markerfacecolor="white", markersize=7, zorder=5)
    ax.set_ylim(top=min(ax.get_ylim()[1], 101))  # a t interval does not know that accuracy ends at 100 %


def show(fig: Figure, alt: str) -> None:
    """Show a figure with a text alternative, which a page needs of every image."""
    display(fig, metadata={"alt": alt})
    plt.close(fig)


def caption(text: str, records: Sequence[Record], path: Path) -> None:
    """Show a caption that says where its numbers come from: seeds, profile, device, commit, file of the records."""
    seeds = sorted({record.seed for record in records})
    origin = [record.provenance for record in records]
    devices = sorted({str(p["device"]) for p in origin})
    commits = sorted({f"{p['commit'][:7]}{'+' if p['dirty'] else ''}" for p in origin})
    profiles = sorted({record.profile for record in records})
    markdown(
        f"*{text}* Seeds {', '.join(map(str, seeds))} (n = {len(seeds)}); profile {', '.join(profiles)}; "
        f"{'; '.join(devices)}; commit {', '.join(commits)}; records `{path.name}`, {len(records)} runs."
    )


def markdown(text: str) -> None:
    """Show text that a cell made, parsed like the chapter's own."""
    display(Markdown(text))


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Show a table; the first column is text, the others are centred."""
    align = ["---", *[":---:"] * (len(header) - 1)]
    body = [[str(cell).replace("|", "\\|") for cell in row] for row in (header, align, *rows)]
    markdown("\n".join("| " + " | ".join(row) + " |" for row in body))
