"""Steps in tables and sentences: what a network moves, twins over batches, formats and sizes, and the bench's rows."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import nn

from book.figures import plots
from book.figures.tables import Table, grouped, joined, over
from experiments import records
from experiments.bench import report, report_tables, targets
from experiments.bench.report import Report
from experiments.records import Estimate
from experiments.study import Result
from nfnets_lite.models import Spec, create_model

OVER_BN = "\N{MULTIPLICATION SIGN} BN"
Way = tuple[bool, bool]  # channels last, compiled
Reports = Mapping[str, Report]  # of the bench, by a device's title


class Traffic(NamedTuple):
    """Batch norms of a network, numbers that they normalise for one image, and weights of its convolutions."""

    norms: int
    images: int
    weights: int

    @property
    def break_even(self) -> float:
        """The batch at which standardised weights move as many bytes as batch norm."""
        return self.weights / self.images


def traffic(spec: str | Spec, side: int) -> Traffic:
    """Count the traffic of a network with batch norm at one image of `side` pixels, without computing it."""
    seen: list[int] = []
    with torch.device("meta"):
        model = create_model(spec, method="bn").eval()
        image = torch.empty(1, model.spec.in_channels, side, side)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.register_forward_pre_hook(lambda layer, given: seen.append(given[0].numel()))
    model(image)
    return Traffic(len(seen), sum(seen), sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv2d)))


def way(result: Result) -> Way:
    """Memory format and compilation of a step."""
    return result.run.channels_last, result.run.compiled


def said(how: Way) -> str:
    """Memory format and compilation of a step in words."""
    return f"channels {'last' if how[0] else 'first'}, {'compiled' if how[1] else 'eager'}"


def memory(found: Sequence[Result]) -> dict[str, str]:
    """Metrics of memory that all of these results have, each with the title of its column."""
    titles = {"saved_mb": f"kept, {OVER_BN}", "peak_memory_mb": f"peak memory, {OVER_BN}"}
    return {name: text for name, text in titles.items() if all(name in record.metrics for record in found)}


def by_batch(ratio: Mapping[tuple[str, float], Estimate]) -> Figure:
    """Plot the time of each twin's step, divided by batch norm's, against the batch size."""
    fig, ax = plt.subplots()
    plots.lines(ax, ratio)
    ax.axhline(1, color=plots.GREY, linewidth=1)
    plots.log_axis(ax, "batch size", sorted({size for _, size in ratio}))
    ax.set(ylabel="time of a step, divided by BN's")
    ax.legend()
    return fig


def twins(of: Mapping[tuple[str, int], Sequence[Result]]) -> Table:
    """Time and memory of each twin's step, by method and batch, beside those of BN at the same batch."""
    measures = memory(joined(of))
    rows = [
        [
            plots.label(method),
            batch,
            f"{fmean(r.metrics['step_ms'] for r in found):.1f}",
            f"{records.estimate([r.metrics['ratio'] for r in found]):.2f}",
            f"{fmean(r.metrics['saved_mb'] for r in found):.1f}",
            *[f"{over(found, of['bn', batch], name):.2f}" for name in measures],
        ]
        for (method, batch), found in of.items()
    ]
    return ["method", "batch", "step, ms", f"step, {OVER_BN}", "kept, MB", *measures.values()], rows


def by_way(found: Sequence[Result], methods: Sequence[str]) -> Table:
    """Steps divided by batch norm's, by format, compilation and batch; one column for each method."""
    ratio = records.aggregate(
        found, by=lambda r: (way(r), r.run.batch_size, r.method), value=lambda r: r.metrics["ratio"]
    )
    places = dict.fromkeys((how, batch) for how, batch, _ in ratio)
    ways, sizes = dict.fromkeys(how for how, _ in places), sorted({batch for _, batch in places})
    return (
        ["format, mode", "batch", *[f"{plots.label(m)}, {OVER_BN}" for m in methods]],
        [[said(how), b, *[f"{ratio[how, b, m]:.2f}" for m in methods]] for how in ways for b in sizes],
    )


def family(found: Sequence[Result]) -> Table:
    """Milliseconds of each member's step, one column for each way; and its step over F0's in the first way."""
    ways, members = grouped(found, way), grouped(found, lambda r: r.method)
    first = next(iter(ways))
    rows = []
    for name, own in members.items():
        steps = grouped(own, way)
        ratio = records.estimate([r.metrics["ratio"] for r in steps[first]])
        times = [f"{fmean(r.metrics['step_ms'] for r in steps[how]):.0f}" for how in ways]
        rows.append([f"NFNet-{name[-2:].upper()}", own[0].run.side, *times, f"{ratio:.2f}"])
    return ["member", "px", *[f"{said(how)}: ms" for how in ways], "\N{MULTIPLICATION SIGN} F0"], rows


def introduce() -> dict[str, Report]:
    """The bench's reports by the title of their device; each, or its absence, said in a line."""
    found = {title: report.read(report.path_of(kind)) for title, kind in (("CPU", "cpu"), ("GPU", "cuda"))}
    for title, each in found.items():
        if each is None:
            plots.markdown(f"**No comparison on a {title} is recorded.** Nothing in this section holds for a {title}.")
            continue
        facts, origin = each.facts, each.facts["provenance"]
        plots.markdown(
            f"{title}: {origin['device']}, {facts['threads']} threads; torch {origin['versions']['torch']}, timm "
            f"{facts['timm']}; commit {origin['commit'][:7]}{'+' if origin['dirty'] else ''}; load before the run "
            f"{facts['load'][0]:.1f}; `{report.path_of(each.device).name}`."
        )
    return {title: each for title, each in found.items() if each is not None}


def beside(reports: Reports, *subjects: str, measures: Sequence[str] = ()) -> None:
    """Show every row of these subjects, and why some were not measured."""
    header, body, reasons = report_tables.beside(reports, subjects, measures)
    if body:
        plots.table(header, body)
    if reasons:
        plots.markdown("\n".join(["Not measured:", "", *(f"- {reason}" for reason in reasons)]))


def median(reports: Reports, title: str, subject: str, measure: str) -> float | None:
    """A measured row's median; None where there is none."""
    row = reports[title].find(subject, measure) if title in reports else None
    return None if row is None or row.value is None else row.value.median


def multiply_adds(reports: Reports, subjects: Sequence[str]) -> list[str]:
    """A sentence on the multiply-adds of both sides, for each step that was timed beside timm's."""
    found = [(title, each.find(subject, "timm / ours")) for title, each in reports.items() for subject in subjects]
    return [
        f"{title}, {row.subject}: our forward pass takes {row.ours.macs / 1e9:.2f} G multiply-adds, and timm's takes "
        f"{row.theirs.macs / 1e9:.2f} G. Note: {row.note}."
        for title, row in found
        if row and row.ours and row.theirs and row.ours.macs and row.theirs.macs
    ]


def counting(reports: Reports) -> Table:
    """What counting bytes predicts of the BN twin on a CPU, beside its step, at each batch size; no report, no rows."""
    header = ["batch size", "break-even batch", "by counting, the BN twin is", "BN twin / ours"]
    if "CPU" not in reports:
        return header, []
    batch, side = (reports["CPU"].facts["scale"][name] for name in ("batch", "side"))
    steps = {batch: targets.RESNET} | targets.LARGER
    found = {images: median(reports, "CPU", name, "BN twin / ours") for images, name in steps.items()}
    level = traffic("resnet50", side).break_even

    def predicted(images: int) -> str:
        if abs(images / level - 1) < 0.1:
            return "as fast"
        return "faster" if images < level else "slower"

    return header, [
        [images, f"{level:.1f}", predicted(images), f"{ratio:.2f}"]
        for images, ratio in found.items()
        if ratio is not None
    ]


def layouts(reports: Reports) -> list[str]:
    """On each device, what channels last does to a grouped and to a dense network."""
    lines = []
    for title, found in reports.items():
        split, dense = (found.find(subject, targets.LAST) for subject in (targets.F0, targets.RESNET))
        if not (split and split.value and dense and dense.value):
            continue
        ours, other = split.value, dense.value
        moved = "slower" if ours.low > 1 else "faster" if ours.high < 1 else "neither clearly slower nor clearly faster"
        lines.append(
            f"On this {title}, NFNet-F0, whose convolutions are grouped, is {moved} with channels last. "
            + (
                "It loses more than NF-ResNet-50, whose convolutions are dense."
                if ours.median > 1.1 * other.median
                else "It does not lose more than NF-ResNet-50, whose convolutions are dense."
            )
        )
    return lines


def exchanges(reports: Reports) -> list[str]:
    """On each device, what synchronised batch norm waits for, beside the step of ResNet-50 with batch norm."""
    said = []
    for title, found in reports.items():
        waits, row = found.find(targets.SYNC, "exchanges of a step"), found.find(targets.RESNET, "BN twin / ours")
        if waits and waits.value and row and row.theirs and row.theirs.ms:
            wait, step, scale = waits.value.median, row.theirs.ms, found.facts["scale"]
            said.append(
                f"{title}: a step waits {wait:.0f} ms for its exchanges, {100 * wait / step:.0f} % of the time of a "
                f"step of ResNet-50 with batch norm, at batch size {scale['batch']} and {scale['side']} px."
            )
    return said


def bars(title: str, found: Report) -> str:
    """A sentence on how many bars a device meets, and which it misses."""
    judged = [row for row in found.rows if row.met is not None]
    missed = [f"{row.subject} ({row.measure})" for row in judged if not row.met]
    met = f"{title}: {len(judged) - len(missed)} of {len(judged)} bars are met"
    return met + (f"; missed: {'; '.join(missed)}." if missed else ".")
