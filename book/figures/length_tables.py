"""Tables of a sweep over lengths of training: its design, accuracies, settings, differences, and what was expected."""

from collections.abc import Sequence

from book.figures import plots
from book.figures.lengths import BN, Lengths, epochs, spell, written
from book.figures.tables import Table, accuracy
from experiments import records
from experiments.claims.selection import measure
from experiments.records import Record
from experiments.sweep import Sweep
from experiments.tasks.training import Training
from nfnets_lite.models import ResNetSpec


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
    images = f"{data.title}: {data.train or 'all'} for training, {data.validation} for validation"
    patches = f"; a fixed first layer that whitens {data.patches}x{data.patches} patches"
    sizes = ", ".join(f"{length:g}" for length in sorted({cell.recipe.epochs for cell in cells}))
    crops = f"crops from {recipe.augment.pad} px of padding, flips" if recipe.augment.crop_flip else "none"
    blocks = f"{sum(model.depth)} residual blocks, stages of {', '.join(map(str, model.width))} channels"
    start = f"; NF starts with \N{GREEK SMALL LETTER ALPHA} = {model.alpha:g}, s = {model.skip_gain:g}"
    rows: list[list[object]] = [
        ["images", images + (patches if data.patches else "")],
        ["augmentation", crops],
        ["network", blocks + start],
        ["batch size", recipe.batch_size],
        ["optimizer", f"Nesterov momentum {recipe.momentum:g}, weight decay {recipe.weight_decay:g}"],
        ["learning rate", f"linear warm-up over {recipe.warmup:.0%} of the updates, then a half cosine to zero"],
        ["search", f"trainings of {sweep.search_epochs:g} epochs, {len(sweep.search_seeds)} seed, validation images"],
        ["final runs", f"{sizes} epochs, {len(sweep.seeds)} seeds, test images"],
    ]
    return ["what", "setting"], rows


def accuracies(lengths: Lengths, methods: Sequence[str]) -> Table:
    """Test and training accuracy of each method by length."""
    test = records.aggregate(lengths.final, by=lambda r: (r.method, epochs(r)))
    train = records.aggregate(lengths.final, by=lambda r: (r.method, epochs(r)), value=training_accuracy)
    rows: list[list[object]] = []
    for length in sorted({length for _, length in test}):
        for name, values in (("test", test), ("training", train)):
            rows.append([f"{length:g}", name, *[written(values.get((method, length))) for method in methods]])
    return ["epochs", "images", *[f"{plots.label(m)}, %" for m in methods]], rows


def training_accuracy(record: Record) -> float:
    """Accuracy on training images, in per cent; a training that diverged or failed to train counts as chance."""
    return measure(record, "train_accuracy")


def settings(lengths: Lengths, methods: Sequence[str]) -> Table:
    """What the search chose for each method, and the units that AGC clipped in its longest training."""
    rows = [_setting(lengths, method) for method in methods if lengths.study.searched]
    return ["method", "settings tried", "learning rate", "threshold", "at an end of its grid", "units clipped, %"], rows


def _setting(lengths: Lengths, method: str) -> list[object]:
    cell = next(cell for cell in lengths.study.sweep.cells if cell.method == method)
    tried, best = lengths.study.grid(cell), lengths.study.setting(cell)
    ends = {*tried.rates[:1], *tried.rates[-1:]}, {*tried.thresholds[:1], *tried.thresholds[-1:]}
    threshold = "none" if best.threshold is None else f"{best.threshold:g}"
    at_end = "yes" if best.lr in ends[0] or best.threshold in ends[1] else "no"
    clipped = [r for r in lengths.of(method) if "clipped_fraction" in r.metrics]
    last = max(map(epochs, clipped), default=None)
    share = [100 * r.metrics["clipped_fraction"] for r in clipped if epochs(r) == last]
    return [
        plots.label(method), len(tried.settings()), f"{best.lr:.3g}", threshold, at_end,
        records.estimate(share) if share else "",
    ]  # fmt: skip


def tried(lengths: Lengths, method: str) -> Table:
    """Validation accuracy of each setting that the search of a clipped method tried; in brackets, units clipped."""
    found = {
        (r.run.recipe.lr, r.run.recipe.clip.factor): r for r in lengths.study.search if r.method == method and r.done
    }
    rates, thresholds = (sorted(set(values)) for values in zip(*found)) if found else ([], [])

    def told(rate: float, threshold: float) -> str:
        record = found.get((rate, threshold))
        if record is None or record.status == "diverged":
            return "" if record is None else "diverged"
        return f"{records.accuracy(record):.1f} ({100 * record.metrics['clipped_fraction']:.1f})"

    rows = [[f"{rate:.3g}", *[told(rate, threshold) for threshold in thresholds]] for rate in rates]
    return ["learning rate", *[f"threshold {threshold:g}" for threshold in thresholds]], rows


def differences(lengths: Lengths) -> Table:
    """NF with AGC minus BN by length: after equal epochs, and with half of the epochs for BN."""
    rows: list[list[object]] = []
    for length in lengths.epochs:
        rows.append([f"{length:g}", lengths.difference(length), lengths.difference(length, other=length / 2) or ""])
    return ["epochs of NF + AGC", "minus BN at equal epochs, points", "minus BN at half the epochs, points"], rows


def outcomes(lengths: Lengths, expected: Sequence[tuple[str, tuple[float, float], str, str, float, float]]) -> Table:
    """What was expected beside what was measured: sentence, range in points, both methods, and the epochs of both."""
    rows: list[list[object]] = []
    for sentence, (low, high), plus, minus, length, other in expected:
        if length == other:
            compared = f"{plots.label(plus)} minus {plots.label(minus)}, after {spell(length)}"
        else:
            compared = f"{plots.label(plus)} after {spell(length)} minus {plots.label(minus)} after {other:g}"
        if (gap := lengths.difference(length, plus, minus, other)) is None or gap.low is None or gap.high is None:
            outcome = "open"
        elif low <= gap.low and gap.high <= high:
            outcome = "yes"
        else:
            outcome = "no" if gap.high < low or gap.low > high else "open"
        rows.append([sentence, compared, gap or "not recorded yet", outcome])
    return ["expected at `small`", "compared", "measured here, points", "as expected"], rows


def controls(lengths: Lengths, methods: Sequence[str], length: float) -> Table:
    """Each method after one number of epochs, and its difference to BN."""
    minus = {method: lengths.difference(length, method) for method in methods}
    rows = [
        [plots.label(method), accuracy(lengths.of(method, length)), "" if method == BN else gap]
        for method, gap in minus.items()
        if gap is not None
    ]
    return [f"method, after {length:g} epochs", "test accuracy, %", "minus BN, points"], rows
