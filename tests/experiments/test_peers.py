"""The comparison with timm and with the machine's limits: rows, skips, equality, the record; no speed is asserted."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn
from typer.testing import CliRunner

from experiments import cli
from experiments.bench import (
    agc_cost,
    inference,
    measured,
    ordinary,
    peers,
    startup,
    steps,
    timing,
    timm_peer,
)
from experiments.bench.report import Bar, Report, Row, Side, Spread, path_of, read, spread, write
from experiments.bench.report_tables import beside, shown
from experiments.bench.targets import F0, IMPORT, LAST, MODULES, SCALES, TARGETS, Scale, Target
from experiments.cli import app
from nfnets_lite import AdaptiveClip, create_model

CPU = torch.device("cpu")
TINY = Scale(batch=1, side=33, cifar_batch=2, share_batch=1, inference_side=33, repeats=2, few=2, many=2)
ABSENT = "timm is not installed: said by a test"
timm_or_reason = peers.peer()
needs_timm = pytest.mark.skipif(isinstance(timm_or_reason, str), reason=f"{timm_or_reason}")


@pytest.mark.parametrize("init", [None, "import a_module_that_is_not_there"])
def test_a_peer_that_cannot_be_imported_is_missing_with_its_reason_and_the_way_to_get_it(
    init: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if init is None:
        monkeypatch.setitem(sys.modules, "timm", None)
    else:
        for name in [name for name in sys.modules if name.split(".")[0] == "timm"]:
            monkeypatch.delitem(sys.modules, name)
        (tmp_path / "timm.py").write_text(init)
        monkeypatch.syspath_prepend(str(tmp_path))
    reason = peers.peer()
    assert ("timm" if init is None else "a_module_that_is_not_there") in reason
    assert "nfnets-lite[bench]" in reason


def test_timm_is_imported_beside_a_torchvision_for_another_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] in ("timm", "torchvision")]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    for name in ("timm", "timm/models", "timm/utils"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(
            "from torchvision import transforms\nfrom torchvision.ops.misc import FrozenBatchNorm2d\nkind = 'a peer'\n"
        )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert timm_peer.load().kind == "a peer"
    assert not [name for name in sys.modules if name.startswith("torchvision")]
    for name in ("timm", "timm.models", "timm.utils"):
        monkeypatch.delitem(sys.modules, name)


def small(name: str, **options: Any) -> nn.Module:
    """A network of the same kind: the time goes into large ones."""
    if name.startswith("nfnet"):
        return create_model(name, **{"width": 1 / 8, "group_width": 16} | options)
    return create_model(name, **options | ({"depth": (1, 1, 1, 1)} if "cifar" not in name else {}))


def test_every_target_has_a_row_and_what_is_missing_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole command without timm, at a scale that measures nothing."""
    monkeypatch.setattr(peers, "SCALES", {"cpu": TINY})
    monkeypatch.setattr(peers, "peer", lambda: ABSENT)
    monkeypatch.setattr(startup, "exchange_ms", lambda sizes, repeats: [1.0] * len(sizes))
    monkeypatch.setattr(startup, "import_ms", lambda repeats: ([1.0] * repeats, []))
    for module in (agc_cost, steps, inference):
        monkeypatch.setattr(module, "create_model", small)
    monkeypatch.setattr(inference, "NETWORKS", (("NFNet-F0", "nfnet_f0", "dm_nfnet_f0"),))
    without = [t for t in TARGETS if t.subject != "one image, NF-ResNet-50 folded"]
    peers.main("cpu", Console(quiet=True), tmp_path / "bench", without)
    report = read(path_of("cpu", tmp_path / "bench"))
    assert report is not None
    assert [(r.subject, r.measure) for r in report.rows] == [(t.subject, t.measure) for t in without]
    for row, target in zip(report.rows, without):
        if "cpu" not in target.devices:
            assert (row.status, row.note) == ("skipped", target.elsewhere)
        elif target.measure.startswith("timm"):
            assert (row.status, row.note, row.met) == ("skipped", ABSENT, None)
        else:
            assert row.status == "ok"
            assert row.value is not None
            assert row.value.low <= row.value.median <= row.value.high
    assert report.facts["timm"] == ABSENT
    assert report.facts["provenance"]["device"].startswith("CPU")
    found = report.find(IMPORT, MODULES)
    assert found is not None
    assert found.met


def test_the_targets_are_those_of_both_devices_and_each_is_asked_for_once() -> None:
    assert len({(t.subject, t.measure) for t in TARGETS}) == len(TARGETS)
    assert {t.group for t in TARGETS} == peers.GROUPS.keys()
    assert all(t.elsewhere for t in TARGETS if set(t.devices) != SCALES.keys())
    assert all(set(t.bars) <= set(t.devices) for t in TARGETS)


@pytest.mark.parametrize(("only", "ran"), [([], ["ordinary", "peers"]), (["--only", "peers"], ["peers"])])
def test_one_command_measures_both(only: list[str], ran: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for module in (ordinary, peers):
        name = module.__name__.rpartition(".")[2]
        monkeypatch.setattr(module, "main", lambda device, console, name=name: calls.append(name))
    assert CliRunner().invoke(app, ["bench", "--device", "cpu", *only]).exit_code == 0
    assert calls == ran
    assert CliRunner().invoke(app, ["bench", "--only", "nothing"]).exit_code == 2
    assert CliRunner().invoke(app, ["bench", "--device", "none"]).exit_code == 2


def test_a_part_that_fails_leaves_the_other_alone_and_a_gpu_begins_with_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def fail(device: str, console: Console) -> None:
        calls.append("peers")
        raise OSError("the disk is full")

    monkeypatch.setattr(peers, "main", fail)
    monkeypatch.setattr(ordinary, "main", lambda device, console: calls.append("engine"))
    monkeypatch.setattr(cli, "resolve_device", torch.device)
    done = CliRunner().invoke(app, ["bench", "--device", "cuda"])
    assert (done.exit_code, calls) == (1, ["peers", "engine"])
    assert "error: peers: OSError: the disk is full" in done.output


def test_sides_that_disagree_are_not_timed_and_the_command_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unequal(*_: Any) -> measured.Found:
        raise timing.Unequal("by 3e-2")

    target = Target("layout", "a", "timm / ours", {"cpu": Bar(at_least=2)})
    monkeypatch.setattr(peers, "GROUPS", {"layout": unequal})
    monkeypatch.setattr(peers, "peer", lambda: ABSENT)
    with pytest.raises(RuntimeError, match=r"a: not timed.*by 3e-2"):
        peers.main("cpu", Console(quiet=True), tmp_path, (target,))
    report = read(path_of("cpu", tmp_path))
    assert report is not None
    assert (report.rows[0].status, report.rows[0].value) == ("unequal", None)


def test_a_group_that_fails_is_skipped_with_its_reason_and_what_was_measured_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fine(*_: Any) -> measured.Found:
        return {("a", "time"): measured.Measured(spread([1.0, 2.0]))}

    def fail(*_: Any) -> measured.Found:
        raise TypeError("no kernel image\nand a page of what the driver says")

    def stop(*_: Any) -> measured.Found:
        raise KeyboardInterrupt

    targets = tuple(Target(group, group[0], "time") for group in ("broken", "again", "stopped"))
    monkeypatch.setattr(peers, "GROUPS", {"broken": fail, "again": fine, "stopped": stop})
    monkeypatch.setattr(peers, "peer", lambda: ABSENT)
    with pytest.raises(KeyboardInterrupt):
        peers.main("cpu", Console(quiet=True), tmp_path, targets)
    report = read(path_of("cpu", tmp_path))
    assert report is not None
    assert [row.status for row in report.rows] == ["skipped", "ok", "skipped"]
    assert [row.note for row in report.rows] == ["it failed: TypeError: no kernel image", "", peers.ENDED]
    assert [path.name for path in tmp_path.iterdir()] == ["peers-cpu.json"]


def test_a_report_comes_back_as_it_was_written(tmp_path: Path) -> None:
    full = Row("a", "timm / ours", "x", spread([1.0, 2.0]), Bar(at_least=1.5), Side("ours", 1.0, 7), Side("timm", 2.0))
    report = Report("cpu", (full, Row("b", "time", "ms", status="skipped", note="why")), {"timm": "1.0", "load": [1.0]})
    assert read(tmp_path / "none.json") is None
    write(report, tmp_path / "deep" / "r.json")
    assert read(tmp_path / "deep" / "r.json") == report
    table, notes = shown(report)
    assert (table.row_count, notes) == (2, ["(1) why"])
    header, body, reasons = beside({"CPU": report}, ["a", "b"])
    assert header == ["what", "ratio", "CPU", "bar"]
    assert [row[:2] for row in body] == [["a", "timm / ours"]]
    assert reasons == ["CPU: b (time) (why)"]


@pytest.mark.parametrize(
    ("low", "median", "high", "outcome"),
    [(2.1, 2.5, 3, "met"), (1.9, 2.5, 3, "met, within the spread"), (1, 1.5, 1.9, "missed")],
)
def test_a_bar_is_judged_by_the_median_and_doubted_by_the_interval(
    low: float, median: float, high: float, outcome: str
) -> None:
    assert Row("a", "b", value=Spread(median, low, high, 9), bar=Bar(at_least=2)).outcome == outcome


@pytest.mark.parametrize(("count", "place"), [(2, 0), (6, 0), (9, 1), (31, 9)])
def test_an_interval_of_a_median_is_two_order_statistics(count: int, place: int) -> None:
    found = spread([float(i) for i in range(count)])
    assert (found.low, found.high) == (place, count - 1 - place)


def test_sides_take_turns_and_begin_in_turn() -> None:
    calls: list[str] = []
    sides = {name: (lambda name=name: calls.append(name)) for name in "ab"}
    times = timing.in_turns(sides, CPU, 2, before=lambda: calls.append("-"))
    assert "".join(calls) == "-b-a-a-b-b-a"
    assert [len(each) for each in times.values()] == [2, 2]


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_gradients_have_the_share_of_units_above_their_bound(share: float) -> None:
    clip = AdaptiveClip(create_model("cifar_resnet8", method="nf"))
    saved = agc_cost.gradients(clip, share)
    assert float(clip()) == pytest.approx(share, abs=0.01)
    changed = [not torch.equal(p.grad, before) for (p, _), before in zip(clip.units, saved) if p.grad is not None]
    assert any(changed) == (share > 0)


def test_a_clipping_that_does_something_else_is_seen() -> None:
    clip = AdaptiveClip(create_model("cifar_resnet8", method="nf"))
    saved = agc_cost.gradients(clip, 0.5)

    def reset() -> None:
        for (p, _), before in zip(clip.units, saved):
            p.grad = before.clone()

    assert agc_cost.difference(clip, lambda: None, reset) > 0.1
    assert agc_cost.difference(clip, clip, reset) == 0


def test_the_import_is_timed_in_processes_of_its_own() -> None:
    times, foreign = startup.import_ms(1)
    assert len(times) == 1
    assert foreign == []


def test_exchanges_of_two_processes_are_timed() -> None:
    assert len(times := startup.exchange_ms([8, 16], 2)) == 2
    assert min(times) > 0


@needs_timm
def test_timm_clips_as_we_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agc_cost, "create_model", small)
    found = agc_cost.measure(CPU, TINY, timm_or_reason)
    notes = [v.note for (_, name), v in found.items() if name == "timm / ours" and isinstance(v, measured.Measured)]
    assert len(notes) == 4
    assert all("gradients equal to" in note for note in notes)


@needs_timm
def test_timm_computes_the_same_function_from_the_same_weights_and_is_left_as_it_was() -> None:
    own, other = create_model("nfnet_f0"), timm_or_reason.create_model("dm_nfnet_f0")
    before = [getattr(m, "eps", None) for m in other.modules()]
    assert steps.same_logits(own, other).startswith("with the same weights logits are equal")
    assert [getattr(m, "eps", None) for m in other.modules()] == before
    with torch.no_grad():
        own.classifier.weight[0] += 1
    image = torch.randn(1, 3, 64, 64)
    assert timm_peer.difference(own, other, image) > steps.SAME_LOGITS


@needs_timm
def test_timm_does_the_same_work() -> None:
    own, theirs = steps.ours("nf_resnet50", 65), steps.timms(timm_or_reason, "nf_resnet50", 65)
    assert theirs.macs == pytest.approx(own.macs, rel=steps.SAME_WORK)
    found = steps._steps(F0, [own, theirs], CPU, replace(TINY, side=65), timm_or_reason, "")
    assert set(found) == {(F0, "timm / ours"), (F0, LAST)}


@pytest.mark.gpu
def test_the_comparison_runs_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "SCALES", {"cuda": replace(TINY, autocast=True)})
    quick = [t for t in TARGETS if t.group in ("clipping", "cifar")]
    peers.main("cuda", Console(quiet=True), tmp_path, quick)
    report = read(path_of("cuda", tmp_path))
    assert report is not None
    assert all(row.status == "ok" or row.note for row in report.rows)
    assert not [row.note for row in report.rows if row.note.startswith("it failed")]
