"""Figures, tables and captions: intervals are always drawn, and a caption is made from records."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from io import StringIO
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from IPython.display import Markdown, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib_inline.backend_inline import set_matplotlib_formats

from book.figures.palette import BLACK as BLACK
from book.figures.palette import BLUE as BLUE
from book.figures.palette import GREEN as GREEN
from book.figures.palette import GREY as GREY
from book.figures.palette import INK as INK
from book.figures.palette import LOOK as LOOK
from book.figures.palette import ORANGE as ORANGE
from book.figures.palette import PURPLE as PURPLE
from book.figures.palette import RED as RED
from book.figures.palette import SKY as SKY
from book.figures.palette import WHITE as WHITE
from book.figures.palette import label as label
from book.figures.palette import look as look
from book.figures.palette import spelt as spelt
from book.figures.parameters import check_notebook
from experiments import claims
from experiments.records import Estimate, Record
from experiments.study import Result

BATCH = "batch size (images per update)"
LOST = (
    "An open marker says that a seed diverged, and a cross that a seed failed to train: it ended within two points of "
    "chance. A cross in an open marker says both. Such seeds count as chance."
)


def setup() -> None:
    """Check the chapter's parameters; figures become vectors that come out the same twice, in sizes for any screen."""
    check_notebook()
    set_matplotlib_formats("svg", metadata={"Date": None})
    sns.set_theme(context="notebook", style="whitegrid")
    plt.rcParams.update(
        {
            "svg.hashsalt": "nfnets-lite",
            "figure.figsize": (6.4, 4.0),
            "figure.constrained_layout.use": True,
            "legend.frameon": False,
            **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 12),  # 9 pixels on a phone
        }
    )


def lines(ax: Axes, estimates: Mapping[tuple[str, float], Estimate]) -> None:
    """One line a method through its means, with its 95 % intervals, and what `lost` marks."""
    for offset, method in enumerate(dict.fromkeys(method for method, _ in estimates)):
        name, colour, marker = look(method)
        points = sorted((x, estimate) for (m, x), estimate in estimates.items() if m == method)
        shift = 1.025 ** (offset - 1)  # intervals of two methods at one place must not hide each other
        x, found = [x * shift for x, _ in points], [e for _, e in points]
        mean, half = [e.mean for e in found], half_widths(found)
        ax.errorbar(x, mean, half, label=name, color=colour, marker=marker, capsize=3, markersize=6)
        for place, (_, estimate) in zip(x, points):
            lost(ax, (place, estimate.mean), estimate, colour, marker)
    low, high = ax.get_ylim()
    ax.set_ylim(max(low, -1), min(high, 101))  # a t interval does not know that accuracy ends at 0 and 100 %


def by_batch_size(estimates: Mapping[tuple[str, float], Estimate], name: str = BATCH) -> Figure:
    """Test accuracy against batch size, one line a method; `name` is that of the x axis."""
    fig, ax = plt.subplots()
    lines(ax, estimates)
    log_axis(ax, name, sorted({size for _, size in estimates}))
    ax.set_ylabel("test accuracy (%)")
    if estimates:
        ax.legend()
    return fig


def lost(ax: Axes, at: tuple[float, float], found: Estimate, colour: str, marker: str) -> None:
    """Open the marker of a value if one of its seeds diverged, and cross it if one failed to train: see `LOST`."""
    if found.diverged:  # wider than the cross, so that both are seen
        ax.plot(*at, marker, color=colour, markerfacecolor="white", markersize=10 if found.failed else 7, zorder=5)
    if found.failed:
        ax.plot(*at, "x", color=BLACK, markersize=5 if found.diverged else 9, zorder=6)


def half_widths(estimates: Iterable[Estimate]) -> list[float]:
    """Half widths of their intervals, for error bars; 0 where there is a single seed and so no interval."""
    return [0.0 if e.high is None else e.high - e.mean for e in estimates]


def log_axis(ax: Axes, name: str, places: Sequence[float]) -> None:
    """An x axis of powers that names these places and no others."""
    ax.set(xscale="log", xlabel=name)
    ax.set_xticks(places, [f"{place:g}" for place in places])
    ax.minorticks_off()


def heatmap(
    ax: Axes,
    values: Mapping[tuple[Hashable, Hashable], float | str | None],
    rows: Sequence[Hashable],
    columns: Sequence[Hashable],
    *,
    label: str,
    limits: tuple[float, float] | None = None,
    digits: int = 0,
) -> None:
    """A grid of numbers as colours, each printed in its cell; None has diverged, and a word stands there as it is.

    Parameters
    ----------
    values : mapping
        By row and column; a pair that is missing stays empty.
    label : str
        What the colours mean, with the unit.
    """
    grid = np.array(
        [[v if isinstance(v := values.get((r, c)), (int, float)) else np.nan for c in columns] for r in rows]
    )
    low, high = limits or (None, None)
    sns.heatmap(
        grid, ax=ax, cmap="cividis", vmin=low, vmax=high, mask=np.isnan(grid), xticklabels=[str(c) for c in columns],
        yticklabels=[str(r) for r in rows], cbar_kws={"label": label}, linewidths=0.5,
    )  # fmt: skip
    ax.grid(False)  # lines would cross out what has no colour
    drawn = ax.collections[0]
    for i, r in enumerate(rows):
        for j, c in enumerate(columns):
            if (r, c) not in values:
                continue
            value = values[r, c]
            if isinstance(value, (int, float)):
                text, colour = f"{value:.{digits}f}", legible(drawn.to_rgba(value))
            else:
                text, colour = value or "div", GREY
            ax.text(j + 0.5, i + 0.5, text, ha="center", va="center", fontsize=9, color=colour)
    ax.tick_params(axis="y", rotation=0)


def legible(background: Sequence[float]) -> str:
    """Black or (nearly) white, whichever stands out more from a colour (WCAG's contrast ratio)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in background[:3]]
    luminance = sum(share * c for share, c in zip((0.2126, 0.7152, 0.0722), linear))
    return "black" if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else WHITE


def svg(fig: Figure) -> str:
    """A figure as SVG, closed."""
    text = StringIO()
    fig.savefig(text, format="svg", metadata={"Date": None})
    plt.close(fig)
    return text.getvalue()


def show(fig: Figure, alt: str) -> None:
    """Show a figure with a text alternative, which a page needs of every image."""
    display(fig, metadata={"alt": alt})
    plt.close(fig)


def caption(text: str, records: Sequence[Record], path: Path) -> None:
    """Show a caption with the number of seeds and of runs by older code; a folded line says where they come from."""
    seeds = sorted({record.seed for record in records})
    origin = [record.provenance for record in records]
    devices = sorted({str(p["device"]) for p in origin})
    commits = sorted({f"{p['commit'][:7]}{'+' if p['dirty'] else ''}" for p in origin})
    profiles = sorted({record.profile for record in records})
    old = sum(isinstance(record, Result) and record.stale for record in records)
    which = "" if old == len(records) else f"{old} of {len(records)} runs "
    aged = f", {which}made with {{ref}}`older code <older-code>`" if old else ""
    markdown(
        f"*{text}* n = {len(seeds)} seed{'s' * (len(seeds) > 1)}, profile {', '.join(profiles)}{aged}.\n\n"
        f"<details><summary>Where the numbers come from</summary>\n\nSeeds {', '.join(map(str, seeds))}; "
        f"{'; '.join(devices)}; commit {', '.join(commits)}; records `{path.name}`, {len(records)} runs.\n\n</details>"
    )


def figure(fig: Figure, records: Sequence[Record], path: Path, *, alt: str, text: str) -> None:
    """Show a figure made of records, with its text alternative, and its caption with their origin below it."""
    show(fig, alt)
    caption(text, records, path)


def verdicts(claim_ids: Sequence[str], records: Sequence[Record], profile: str) -> None:
    """Show how the records judge claims: every condition beside its measurement, then a line a claim.

    The records are those of search and final runs: preconditions ask where a chosen rate lies in its grid.
    """
    found = [claims.judge(claim_id, records, profile) for claim_id in claim_ids]
    table(
        ["claim: condition", "asked for", "ours, joint interval", "outcome"],
        [
            [
                f"{v.claim.id}: {f.name}",
                spelt(f.wanted),
                f"{f.measured}{f' (n = {len(f.seeds)})' if f.seeds else ''}",
                f.said,
            ]
            for v in found
            for f in v.findings
        ],
    )
    markdown(
        "*A joint interval is wide enough to judge all conditions of a claim together; intervals of figures and other "
        'tables stand alone. A bound "at least" above 0 needs a mean that reaches it, and an interval above 0 (of a '
        "ratio: above 1):* {doc}`how a verdict is reached <verdicts>`."
    )
    for v in found:
        scale = f" ({v.scale})" if v.scale else ""
        because = f" *Because:* {v.because}." if v.because else ""
        if v.findings and v.regime and all(one.met for one in v.regime):
            because = f" *Preconditions, all met:* {'; '.join(one.said for one in v.regime)}."
        markdown(
            f"**{v.claim.id}: {v.verdict}**{scale}.{because} *Claim:* {v.claim.statement} *Paper:* {v.claim.paper}"
        )


def markdown(*texts: str) -> None:
    """Show texts that a cell made, a paragraph each, parsed like the chapter's own."""
    for text in texts:
        display(Markdown(text))


def table(header: Sequence[str], rows: Sequence[Sequence[object]], text: int = 1) -> None:
    """Show a table; the first `text` columns hold text, the others are centred. A dagger in it is explained below."""
    align = ["---"] * text + [":---:"] * (len(header) - text)
    body = [[str(cell).replace("|", "\\|") for cell in row] for row in (header, align, *rows)]
    markdown("\n".join("| " + " | ".join(row) + " |" for row in body))
    if any("\N{DAGGER}" in cell for row in body for cell in row):
        markdown("*\N{DAGGER} A single seed, so no interval.*")
