"""A sweep over lengths of training, read as far as it is recorded: tables, sentences, and what is missing."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import exp, log

import matplotlib.pyplot as plt

from book.figures import plots
from book.figures.tables import Table, accuracy, grouped, side, versus
from experiments import records
from experiments.claims.selection import measure
from experiments.records import Estimate, Ledger, Record
from experiments.study import best_setting, grid, pending, search_runs, stages
from experiments.sweep import Sweep
from experiments.tasks.training import Training
from nfnets_lite.models import ResNetSpec

NF, BN = "nf_agc", "bn"  # the two methods whose difference the sweep is about


@dataclass(frozen=True)
class Study:
    """A sweep over epochs and its records.

    `final` holds the test trainings of every cell that has all of its seeds. It is empty until the search is finished
    (`searched`), because the settings are not chosen before. `missing` says in a sentence what is not recorded; it is
    empty where all is.
    """

    sweep: Sweep
    ledger: Ledger
    final: Sequence[Record]
    searched: bool
    missing: str

    @property
    def epochs(self) -> list[float]:
        """The lengths of the final trainings recorded for both NF with AGC and BN."""
        return self.both(NF, BN)

    def both(self, plus: str, minus: str) -> list[float]:
        """The lengths of the final trainings recorded for both of two methods."""
        return sorted({epochs(r) for r in self.of(plus)} & {epochs(r) for r in self.of(minus)})

    @property
    def judged(self) -> Sequence[Record]:
        """All trainings, search and final, once all are recorded; none before, as a rule may name the longest."""
        return () if self.missing else (*stages(self.sweep, self.ledger)[0], *self.final)

    def of(self, method: str, length: float | None = None) -> list[Record]:
        """The final trainings of a method, of one length in epochs or of all."""
        return [r for r in self.final if r.method == method and length in (None, epochs(r))]

    def difference(self, length: float, plus: str = NF, minus: str = BN) -> Estimate:
        """Test accuracy of one method minus that of another after the same epochs, in points, paired by seed."""
        return records.paired_difference(self.of(plus, length), self.of(minus, length))


def epochs(record: Record) -> float:
    """Length of a training in epochs."""
    return float(record.config["recipe"]["epochs"])


def read(sweep: Sweep, ledger: Ledger) -> Study:
    """Read a sweep of which any part may be recorded."""
    search = search_runs(sweep, ledger)
    if left := len(pending(search, ledger, fresh=False)):
        done = len(search) - left
        missing = f"The final runs are not recorded yet: {done} of {len(search)} trainings of the search are."
        return Study(sweep, ledger, (), False, missing)
    found = stages(sweep, ledger)[1]
    whole = [r for runs in grouped(found, lambda r: r.key).values() if len(runs) == len(sweep.seeds) for r in runs]
    planned = len(sweep.cells) * len(sweep.seeds)
    missing = f"The final runs are not complete yet: {len(found)} of {planned} are recorded."
    return Study(sweep, ledger, whole, True, missing if len(found) < planned else "")


def heading(study: Study) -> str:
    """Say what the figure of accuracy against epochs shows, by the 95 % interval of `change`."""
    if len(study.epochs) < 2:
        return "Test accuracy against epochs" if study.epochs else "Nothing is measured yet"
    outcome = side(change(study))
    if outcome == 0:
        return "Whether longer training helps NF with AGC more than BN is undecided"
    more, less = ("NF with AGC", "BN") if outcome > 0 else ("BN", "NF with AGC")
    return f"Longer training helps {more} more than {less}"


def change(study: Study) -> Estimate:
    """Growth of NF with AGC minus BN from the shortest to the longest training, in points, paired by seed."""
    nf, bn = ({(epochs(r), r.seed): records.accuracy(r) for r in study.of(method)} for method in (NF, BN))
    first, last = study.epochs[0], study.epochs[-1]
    gap = {at: nf[at] - bn[at] for at in nf.keys() & bn.keys()}
    return records.estimate([gap[last, seed] - gap[first, seed] for seed in study.sweep.seeds])


def draw(study: Study, methods: Sequence[str]) -> None:
    """Show test accuracy against epochs with its caption, one line a method; nothing before the final runs."""
    found = [record for record in study.final if record.method in methods]
    if not found:
        return
    by_epochs = records.aggregate(found, by=lambda r: (r.method, epochs(r)))
    fig, ax = plt.subplots()
    plots.lines(ax, by_epochs)
    plots.log_axis(ax, "epochs", sorted({length for _, length in by_epochs}))
    ax.set_ylabel("test accuracy (%)")
    ax.legend()
    plots.show(
        fig, "Test accuracy against epochs, one line for each method. The table of accuracies holds the numbers."
    )
    plots.caption("Test accuracy against epochs, means and 95 % intervals over seeds.", found, study.ledger.path)


def sentences(study: Study) -> list[str]:
    """What is missing, if anything; then NF with AGC beside BN after the longest and after the shortest training."""
    ends = list(dict.fromkeys(study.epochs[i] for i in (-1, 0))) if study.epochs else []
    found = [f"After {spell(end)}, {versus(study.difference(end), 'NF with AGC', 'BN')}" for end in ends]
    return [*([study.missing] if study.missing else []), *found]


def spell(length: float) -> str:
    """A number of epochs in words."""
    return f"{length:g} epoch{'' if length == 1 else 's'}"


def show(table: Table, text: int = 1) -> None:
    """Show a table whose first `text` columns hold text, or say that it has no rows yet."""
    if table[1]:
        plots.table(*table, text=text)
    else:
        plots.markdown("*Not recorded yet.*")


def design(sweep: Sweep) -> Table:
    """What all trainings of a sweep share, and their lengths."""
    cells = [cell for cell in sweep.cells if isinstance(cell, Training)]
    data, model, recipe = cells[0].data, cells[0].model, cells[0].recipe
    assert isinstance(model, ResNetSpec)
    images = f"{data.name}: {data.train or 'all'} for training, {data.validation} for validation"
    sizes = ", ".join(f"{length:g}" for length in sorted({cell.recipe.epochs for cell in cells}))
    rows: list[list[object]] = [
        ["images", images + (f", seen through whitened {data.patches}x{data.patches} patches" if data.patches else "")],
        ["network", f"residual network, stages of {', '.join(map(str, model.width))} channels"],
        ["batch size", recipe.batch_size],
        ["optimizer", f"Nesterov momentum {recipe.momentum:g}, weight decay {recipe.weight_decay:g}"],
        ["learning rate", f"linear warm-up over {recipe.warmup:.0%} of the updates, then a half cosine to zero"],
        ["search", f"trainings of {sweep.search_epochs:g} epochs, {len(sweep.search_seeds)} seed, validation images"],
        ["final runs", f"{sizes} epochs, {len(sweep.seeds)} seeds, test images"],
    ]
    return ["what", "setting"], rows


def accuracies(study: Study, methods: Sequence[str]) -> Table:
    """Test and training accuracy of each method by length."""
    test = records.aggregate(study.final, by=lambda r: (r.method, epochs(r)))
    train = records.aggregate(study.final, by=lambda r: (r.method, epochs(r)), value=training_accuracy)
    rows: list[list[object]] = []
    for length in sorted({length for _, length in test}):
        for name, values in (("test", test), ("training", train)):
            rows.append([f"{length:g}", name, *[values.get((method, length), "") for method in methods]])
    return ["epochs", "images", *[f"{plots.label(m)}, %" for m in methods]], rows


def training_accuracy(record: Record) -> float:
    """Accuracy on training images, in per cent; a training that diverged or failed to train counts as chance."""
    return measure(record, "train_accuracy")


def settings(study: Study, methods: Sequence[str]) -> Table:
    """What the search chose for each method, and the units that AGC clipped in its longest training."""
    rows = [_setting(study, method) for method in methods if study.searched]
    return ["method", "settings tried", "learning rate", "threshold", "at an end of its grid", "units clipped, %"], rows


def _setting(study: Study, method: str) -> list[object]:
    cell = next(cell for cell in study.sweep.cells if cell.method == method)
    tried, best = grid(study.sweep, cell, study.ledger), best_setting(study.sweep, cell, study.ledger)
    ends = {*tried.rates[:1], *tried.rates[-1:]}, {*tried.thresholds[:1], *tried.thresholds[-1:]}
    threshold = "none" if best.threshold is None else f"{best.threshold:g}"
    at_end = "yes" if best.lr in ends[0] or best.threshold in ends[1] else "no"
    clipped = [r for r in study.of(method) if "clipped_fraction" in r.metrics]
    last = max(map(epochs, clipped), default=None)
    share = [100 * r.metrics["clipped_fraction"] for r in clipped if epochs(r) == last]
    return [
        plots.label(method), len(tried.settings()), f"{best.lr:.3g}", threshold, at_end,
        records.estimate(share) if share else "",
    ]  # fmt: skip


def differences(study: Study) -> Table:
    """NF with AGC minus BN by length: after equal epochs, and with half of the epochs for BN."""
    rows: list[list[object]] = []
    for length in study.epochs:
        half = study.of(BN, length / 2)
        doubled = records.paired_difference(study.of(NF, length), half) if half else ""
        rows.append([f"{length:g}", study.difference(length), doubled])
    return ["epochs of NF + AGC", "minus BN after the same epochs, points", "minus BN after half of them, points"], rows


def controls(study: Study, methods: Sequence[str], length: float) -> Table:
    """Each method after one number of epochs, and its difference to BN."""
    found = [method for method in methods if study.of(method, length) and study.of(BN, length)]
    minus = {method: "" if method == BN else study.difference(length, method) for method in found}
    rows = [[plots.label(method), accuracy(study.of(method, length)), minus[method]] for method in found]
    return [f"method, after {length:g} epochs", "test accuracy, %", "minus BN, points"], rows


def epochs_to_reach(study: Study, target: float, method: str = NF) -> float:
    """Epochs after which the mean test accuracy of a method first reaches a target; infinite where it never does.

    Accuracy is linear in the logarithm of the epochs between two lengths. No length below the shortest is returned.
    """
    curve = [(length, accuracy(runs).mean) for length, runs in sorted(grouped(study.of(method), epochs).items())]
    if curve and curve[0][1] >= target:
        return curve[0][0]
    for (left, low), (right, high) in pairwise(curve):
        if low < target <= high:
            return exp(log(left) + (target - low) / (high - low) * log(right / left))
    return float("inf")
