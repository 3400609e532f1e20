"""What steps move and take, in tables, and the rows of the bench in sentences."""

from __future__ import annotations

from dataclasses import replace

import pytest
from made_records import run

from book.figures import speed_tables
from book.figures.tables import grouped
from experiments.bench.report import Bar, Report, Row, Side, Spread
from experiments.bench.targets import F0, LARGER, LAST, RESNET, SYNC
from experiments.records import Record
from nfnets_lite.models import model_spec


def step(method: str, batch: int, ms: float, *, last: bool = False, peak: bool = True, side: int = 32) -> Record:
    metrics = {"step_ms": ms, "ratio": ms / 10, "saved_mb": 2 * ms} | ({"peak_memory_mb": 4 * ms} if peak else {})
    return run(method, metrics=metrics, batch_size=batch, channels_last=last, compiled=False, side=side)


def test_traffic_of_a_network_that_can_be_counted_by_hand() -> None:
    spec = model_spec("cifar_resnet8", depth=(1,), width=(4,), stem_width=4, strides=(1,), in_channels=3)
    found = speed_tables.traffic(spec, 8)
    assert found.norms == found.images // (4 * 8 * 8)  # each of them takes 4 channels at 8x8
    assert found.weights == 9 * 3 * 4 + 2 * 9 * 4 * 4  # the stem, and two convolutions in a block
    assert found.break_even == found.weights / found.images


def test_twins_are_set_beside_bn_at_the_same_batch() -> None:
    of = grouped([step("bn", 16, 10), step("nf", 16, 5)], lambda r: (r.method, r.config["batch_size"]))
    header, rows = speed_tables.twins(of)
    assert header[-2:] == ["kept, \N{MULTIPLICATION SIGN} BN", "peak memory, \N{MULTIPLICATION SIGN} BN"]
    assert rows[1] == ["NF", 16, "5.0", "0.50†", "10.0", "0.50", "0.50"]


def test_memory_that_is_not_counted_everywhere_is_left_out() -> None:
    assert list(speed_tables.memory([step("bn", 16, 10), step("nf", 16, 5, peak=False)])) == ["saved_mb"]


def test_every_format_has_its_rows() -> None:
    found = [step(m, 16, ms, last=last) for last in (False, True) for m, ms in (("bn", 10), ("nf", 5))]
    _, rows = speed_tables.by_way(found, ["nf"])
    assert [row[0] for row in rows] == ["channels first, eager", "channels last, eager"]
    header, (member,) = speed_tables.family([replace(r, method="nfnet_f1") for r in found if r.method == "nf"])
    assert header == [
        "member",
        "px",
        "channels first, eager: ms",
        "channels last, eager: ms",
        "\N{MULTIPLICATION SIGN} F0",
    ]
    assert member == ["NFNet-F1", 32, "5", "5", "0.50†"]


def measured(subject: str, measure: str, median: float, bar: Bar | None = None) -> Row:
    side = Side("a network", ms=100.0, macs=2 * 10**9)
    return Row(subject, measure, value=Spread(median, median, median, 9), bar=bar, ours=side, theirs=side)


def test_sentences_on_what_was_measured_and_none_on_the_rest() -> None:
    facts = {"scale": {"batch": 4, "side": 128}}
    rows = (
        measured(RESNET, "BN twin / ours", 0.8, Bar(at_least=1)),
        measured(LARGER[8], "BN twin / ours", 0.97),
        measured(LARGER[16], "BN twin / ours", 1.1),
        measured(RESNET, "timm / ours", 1.3, Bar(at_least=1.1)),
        measured(RESNET, LAST, 0.9),
        measured(F0, LAST, 1.2),
        measured(SYNC, "exchanges of a step", 25.0),
    )
    reports = {"CPU": Report("cpu", rows, facts)}
    assert speed_tables.median(reports, "CPU", F0, LAST) == 1.2
    assert speed_tables.median(reports, "GPU", F0, LAST) is None
    (layout,) = speed_tables.layouts(reports)
    assert "is slower with channels last" in layout
    assert "It loses more than" in layout
    assert speed_tables.exchanges(reports)[0].startswith("CPU: a step waits 25 ms for its exchanges, 25 % of the time")
    assert len(speed_tables.multiply_adds(reports, (RESNET, F0))) == 1
    _, counted = speed_tables.counting(reports)
    assert [row[0] for row in counted] == [4, 8, 16]
    assert [row[2] for row in counted] == ["faster", "as fast", "slower"]
    assert [row[3] for row in counted] == ["0.80", "0.97", "1.10"]
    _, counted = speed_tables.counting({"CPU": Report("cpu", rows[:1], facts)})
    assert [(row[2], row[3]) for row in counted] == [("faster", "0.80")]
    assert not speed_tables.counting({"CPU": Report("cpu", (), facts)})[1]
    assert speed_tables.bars("CPU", reports["CPU"]) == f"CPU: 1 of 2 bars are met; missed: {RESNET} (BN twin / ours)."
    assert not speed_tables.counting({})[1] + speed_tables.layouts({}) + speed_tables.exchanges({})


def test_a_spread_around_1_is_not_called_a_loss() -> None:
    spread = Row(F0, LAST, value=Spread(1.03, 0.95, 1.39, 9))
    report = Report("cpu", (spread, measured(RESNET, LAST, 1.01)), {})
    (layout,) = speed_tables.layouts({"CPU": report})
    assert "neither clearly slower nor clearly faster" in layout
    assert "does not lose more" in layout


def test_a_device_without_a_report_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(speed_tables.report, "read", lambda path: None)
    monkeypatch.setattr(speed_tables.plots, "markdown", said.append)
    assert speed_tables.introduce() == {}
    assert [text.partition(" is")[0] for text in said] == ["**No comparison on a CPU", "**No comparison on a GPU"]
