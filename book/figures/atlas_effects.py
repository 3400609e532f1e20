"""The atlas's effects and tables, from its records."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from book.figures import plots
from book.figures.tables import Table, grouped
from experiments.configs.atlas import EFFECTS, Effect
from experiments.records import Estimate, Record, estimate

SEEN, UNSEEN = "effect seen", "not seen at this size"
DIGITS = {"points": 1, "correlation": 2, "powers of ten": 2}  # behind the point, by unit

# Entries in which an NF network has the task of the others: 1 if more is better or -1, NF's metric, the others'.
BESIDE_NF: Mapping[str, tuple[int, str, tuple[str, ...]]] = {
    "outliers": (1, "auroc nf", ("auroc own batch", "auroc mixed batch")),
    "spd": (1, "accuracy nf", ("accuracy none", "accuracy affine", "accuracy bures", "accuracy log")),
    "pyramid": (1, "accuracy nf", ("accuracy level", "accuracy integrated")),
    "graphs": (1, "accuracy nf", ("accuracy bn", "accuracy ln")),
    "certified": (
        -1, "verified error nf",
        ("verified error he", "verified error he bn", "verified error ibp",
        "verified error ibp bn"),
    ),
    "robust": (1, "nf corrupted", ("bn corrupted", "gn corrupted")),
    "local_attention": (1, "nf accuracy", ("bn accuracy", "gn accuracy")),
}  # fmt: skip


def difference(found: Sequence[Record], effect: Effect) -> Estimate:
    """Estimate of an effect over the seeds of an entry's records; both sides of it are in the same record."""
    return estimate([r.metrics[effect.plus] - (r.metrics[effect.minus] if effect.minus else 0.0) for r in found])


def verdict(found: Estimate) -> str:
    """Whether an effect was seen: only if its interval lies above 0."""
    return SEEN if found.low is not None and found.low > 0 else UNSEEN


def said(effect: Effect, found: Estimate) -> str:
    """An effect in a sentence: what is compared, the mean, and the interval."""
    digits = DIGITS[effect.unit]
    text = f"**{verdict(found).capitalize()}.** {effect.says[0].upper()}{effect.says[1:]}: {found.mean:+.{digits}f} "
    if found.low is None:
        return f"{text}{effect.unit} (one seed, so no interval)."
    return f"{text}{effect.unit} (95 % interval: {found.low:+.{digits}f} to {found.high:+.{digits}f})."


class Page:
    """The records of the atlas, by entry, as a chapter shows them."""

    def __init__(self, found: Sequence[Record], path: Path) -> None:
        self.entries = grouped([r for r in found if r.status == "ok"], lambda r: r.method)
        self.path = path

    def mean(self, entry: str, metric: str) -> Estimate:
        """Estimate of one metric over the seeds."""
        return estimate([r.metrics[metric] for r in self.entries[entry]])

    def overview(self, rows: Mapping[str, tuple[str, str, str]]) -> Table:
        """A row for each effect: link and name, what depends on the batch, its difference, the verdict."""
        made = []
        for entry, (target, name, depends) in rows.items():
            for effect in EFFECTS[entry]:
                found = difference(self.entries[entry], effect)
                number = f"{found:.{DIGITS[effect.unit]}f} {effect.unit}"
                made.append([f"[{name}](#{target})", depends, effect.says, number, verdict(found)])
        return ["entry", "what depends on the batch", "what is compared", "difference", "verdict"], made

    def counted(self) -> str:
        """How many effects were seen, in a sentence."""
        words = [
            verdict(difference(found, effect)) for entry, found in self.entries.items() for effect in EFFECTS[entry]
        ]
        return f"**{words.count(SEEN)} of {len(words)} effects were seen.** The others are not seen at this size."

    def led_by_nf(self) -> str:
        """In which entries NF has the best mean, in a sentence."""
        led = []
        for entry, (sign, own, others) in BESIDE_NF.items():
            nf, *rest = (sign * self.mean(entry, metric).mean for metric in (own, *others))
            led += [entry.replace("_", " ")] if nf > max(rest) else []
        names = f" ({', '.join(led)})" if led else ""
        return (
            f"{len(BESIDE_NF)} entries train NF and other networks on one task. In {len(led)}, NF has the best mean"
            f"{names}. These comparisons were not fixed before the runs, and no interval judges them."
        )

    def table(self, entry: str, first: str, rows: Mapping[str, Mapping[str, str]], digits: int = 1) -> Table:
        """A row for each name, with the metric of each column; an empty metric leaves its cell empty."""
        columns = list(next(iter(rows.values())))
        cells = [
            [name, *[f"{self.mean(entry, row[c]):.{digits}f}" if row.get(c) else "" for c in columns]]
            for name, row in rows.items()
        ]
        return [first, *columns], cells

    def show(
        self, entry: str, first: str, rows: Mapping[str, Mapping[str, str]], digits: int = 1, text: str = ""
    ) -> None:
        """Show an entry's table, where its numbers come from, and its effects in a sentence each."""
        plots.table(*self.table(entry, first, rows, digits))
        plots.caption(text or "Means over seeds and 95 % t intervals.", self.entries[entry], self.path)
        self.verdicts(entry)

    def verdicts(self, entry: str) -> None:
        """Show an entry's effects in a sentence each."""
        plots.markdown(*[said(effect, difference(self.entries[entry], effect)) for effect in EFFECTS[entry]])
