import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from dataclasses import replace
from functools import partial
from math import log2
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from experiments import cli as command
from experiments import configs, records
from experiments.engine import Where, resolve_device, run_sweep, runner
from experiments.study import Result, Study, possible
from experiments.sweep import Grid, Outcome, Run, Setting, Sweep, drain
from experiments.tasks.ratios import Ratios
from experiments.tasks.recipe import Clip, Data, Recipe
from experiments.tasks.training import Training
from nfnets_lite.models import model_spec

ROOT = Path(__file__).resolve().parents[2]
MODEL = model_spec("cifar_resnet8", method="nf", in_channels=1, width=(4, 4, 4), stem_width=4, skip_gain=1.0)


def tiny(rates: tuple[float, ...] = (0.05, 1e4), seeds: int = 2) -> Sweep:
    cell = Training("nf", MODEL, Data("digits", train=64, validation=64, test=64), Recipe(16, 3, 0.0))
    return Sweep("tiny", (cell,), rates, search_seeds=(1000,), seeds=tuple(range(seeds)))


def where(results: Path, **changes: object) -> Where:
    return replace(Where("smoke", results, torch.device("cpu"), workers=1), **changes)  # type: ignore[arg-type]


def outcomes(path: Path) -> dict[tuple[str, int], tuple[str, dict[str, float]]]:
    return {(r.key, r.seed): (r.status, r.metrics) for r in records.read(path).records}


def test_search_then_final_runs_at_the_best_rate(tmp_path: Path) -> None:
    sweep, seen = tiny(), []
    ledger = run_sweep(sweep, where(tmp_path), seen.append)
    study = Study(sweep, ledger)
    search, final = study.search, study.final
    assert [r.status for r in search] == ["ok", "diverged"]
    assert [r.seed for r in final] == [0, 1]
    assert {r.config["recipe"]["lr"] for r in final} == {0.05}
    assert {r.config["split"] for r in final} == {"test"}
    assert len(seen) == len(ledger.records) == 4
    provenance = final[0].provenance
    assert {"commit", "dirty", "versions", "device", "start", "seconds", "peak_memory_mb"} <= set(provenance)
    assert {r.numerics for r in ledger.records} == {Training.NUMERICS}
    assert records.read(records.path_of(tmp_path, "tiny")) == ledger


def test_every_cell_gets_its_first_seed_before_any_its_second_and_long_runs_come_first(tmp_path: Path) -> None:
    cell, seen = tiny().cells[0], list[records.Record]()
    assert isinstance(cell, Training)
    cells = tuple(replace(cell, recipe=replace(cell.recipe, epochs=epochs, lr=0.05)) for epochs in (1.0, 2.0))
    run_sweep(Sweep("tiny", cells, seeds=(0, 1)), where(tmp_path), seen.append)
    assert [(r.seed, r.config["recipe"]["epochs"]) for r in seen] == [(0, 2.0), (0, 1.0), (1, 2.0), (1, 1.0)]


def test_nothing_is_run_twice_and_more_seeds_add_only_themselves(tmp_path: Path) -> None:
    run_sweep(tiny(), where(tmp_path), lambda _: None)
    again: list[records.Record] = []
    run_sweep(tiny(), where(tmp_path), again.append)
    assert again == []
    run_sweep(tiny().with_seeds(3), where(tmp_path), again.append)
    assert [r.seed for r in again] == [2]


def test_processes_give_what_one_process_gives(tmp_path: Path) -> None:
    run_sweep(tiny(), where(tmp_path / "one"), lambda _: None)
    run_sweep(tiny(), where(tmp_path / "two", workers=2), lambda _: None)
    one, two = (records.path_of(tmp_path / name, "tiny") for name in ("one", "two"))
    assert outcomes(one) == outcomes(two)


def test_a_torn_last_line_is_reported_and_only_that_run_repeated(tmp_path: Path) -> None:
    run_sweep(tiny(), where(tmp_path), lambda _: None)
    path = records.path_of(tmp_path, "tiny")
    whole = outcomes(path)
    path.write_bytes(path.read_bytes()[:-30])
    repeated: list[records.Record] = []
    with pytest.warns(UserWarning, match="torn"):
        run_sweep(tiny(), where(tmp_path), repeated.append)
    assert len(repeated) == 1
    assert outcomes(path) == whole


def test_a_failed_run_is_recorded_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(run: Run, device: torch.device) -> Generator[None, None, Outcome]:
        yield
        raise RuntimeError("out of memory, or so")

    with monkeypatch.context() as patch:
        patch.setattr(Training, "steps", broken)
        with pytest.warns(UserWarning, match=r"2 runs of the search of 'tiny' failed.*no setting is chosen"):
            ledger = run_sweep(tiny(), where(tmp_path), lambda _: None)
    assert {(r.status, r.config["split"]) for r in ledger.records} == {("failed", "validation")}
    assert ledger.records[0].reason == "RuntimeError: out of memory, or so"
    assert Study(tiny(), run_sweep(tiny(), where(tmp_path), lambda _: None)).final


def test_a_run_that_diverges_only_when_it_is_judged_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = Outcome("diverged", "loss nan on the test images", {"loss": float("nan"), "accuracy": 0.1, "updates": 3})

    def steps(run: Run, device: torch.device) -> Generator[None, None, Outcome]:
        yield
        return late

    monkeypatch.setattr(Training, "steps", steps)
    ledger = run_sweep(tiny(), where(tmp_path), lambda _: None)
    assert {r.status for r in ledger.records} == {"diverged"}
    assert ledger.records[0].metrics == {"accuracy": 0.1, "updates": 3}


def test_fresh_repeats_stale_records(tmp_path: Path) -> None:
    ledger = run_sweep(tiny(), where(tmp_path), lambda _: None)
    runs = tiny().search()
    assert Study(tiny(), ledger).pending(runs, fresh=True) == []
    aged = tuple(replace(r, numerics=r.numerics - 1) for r in ledger.records)
    old = replace(ledger, records=aged)
    assert Study(tiny(), old).pending(runs) == []
    assert Study(tiny(), old).pending(runs, fresh=True) == runs
    path = records.path_of(tmp_path, "tiny")
    records.rewrite(path, lambda r: replace(r, numerics=r.numerics - 1))
    again = run_sweep(tiny(), where(tmp_path, fresh=True), lambda _: None).records
    assert len(path.read_bytes().splitlines()) == len(again) == len(ledger.records)  # the old lines are gone
    assert {r.numerics for r in again} == {Training.NUMERICS}


def test_raised_numerics_make_records_of_their_kind_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep, ledger = tiny(), run_sweep(tiny(), where(tmp_path), lambda _: None)
    kept = Ratios("nf", MODEL, Data("digits", train=64), Recipe(16, 3, 0.0))
    monkeypatch.setattr(Training, "NUMERICS", Training.NUMERICS + 1)
    assert Study(sweep, ledger).pending(sweep.search(), fresh=True) == sweep.search()
    assert not Result.of(kept, replace(ledger.records[0], numerics=kept.NUMERICS)).stale
    known = replace(ledger.records[0], numerics=Training.NUMERICS)
    past = replace(known, key="of a run that the sweep has no more")
    assert Study(sweep, replace(ledger, records=(known, past))).stale == [past]


def test_a_tie_goes_to_the_smaller_rate_and_divergence_counts_as_chance(tmp_path: Path) -> None:
    sweep = tiny(rates=(1e4, 0.1, 2e4))
    ledger = run_sweep(sweep, where(tmp_path), lambda _: None)
    assert Study(sweep, ledger).rate(sweep.cells[0]) == 0.1
    diverging = tiny(rates=(2e4, 1e4))
    both = run_sweep(diverging, where(tmp_path / "b"), lambda _: None)
    assert Study(diverging, both).rate(diverging.cells[0]) == 1e4


def test_unknown_device() -> None:
    with pytest.raises(ValueError, match="device='gpu7' is not known; use auto, cpu, cuda"):
        resolve_device("gpu7")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="finds no CUDA device here"):
            resolve_device("cuda")


# The command line


def all_runs() -> int:
    """Runs of the smoke profile's batch-size sweep, before any is recorded."""
    sweep = configs.sweep("batch_size", "smoke")
    return len(sweep.search()) + len(sweep.cells) * len(sweep.seeds)


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(command.app, arguments, env={"COLUMNS": "400"})
    return result.exit_code, " ".join(result.output.split())


def test_dry_run_says_what_is_left_and_runs_nothing(tmp_path: Path) -> None:
    code, text = invoke("run", "batch_size", "--dry-run", "--results", str(tmp_path / "none"))
    assert code == 0
    assert f"{all_runs()} runs left on c" in text  # cpu or cuda
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "nope"), "config 'nope' is not known; use one of activations"),
        (("run", "batch_size", "--profile", "tiny"), "profile='tiny' is not known; use one of smoke, small, gpu"),
        (("run", "batch_size", "--device", "abacus"), "device='abacus' is not known"),
        (("run", "batch_size", "--workers", "0"), "workers=0 must be at least 1"),
        (("run", "batch_size", "--seeds", "0"), "seeds=0 must be at least 1"),
        (("run", "batch_size", "--workers", "2", "--scheduler", "tcp://h:1"), "exclude each other"),
    ],
)
def test_bad_arguments_exit_2_and_list_what_is_valid(arguments: tuple[str, ...], message: str) -> None:
    code, text = invoke(*arguments)
    assert code == 2
    assert message in text


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs Linux's /sys, where not even root may write")
def test_a_results_folder_without_write_permission_is_said_before_training() -> None:
    start = time.monotonic()
    code, text = invoke("run", "batch_size", "--results", "/sys/kernel/results")
    assert code == 2
    assert "nothing was trained. Pass --results with a folder that you may write to" in text
    assert time.monotonic() - start < 5


def test_list_status_and_doctor() -> None:
    assert "Which batch sizes can" in invoke("list")[1]
    code, text = invoke("status")
    assert code == 0
    assert "batch_size" in text
    code, text = invoke("doctor")
    assert code == 0
    assert "step, nf" in text
    assert "float32" in text


def test_status_is_readable_at_eighty_columns_in_ascii(tmp_path: Path) -> None:
    first = (ROOT / "experiments/results/small/sam.jsonl").read_text(encoding="utf-8").splitlines()[0]
    record = json.loads(first)
    record["provenance"]["device"] = "a graphics processor with a name of many words, made in Zürich, 2 of them"
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "sam.jsonl").write_text(json.dumps(record) + "\n")
    narrow = {**os.environ, "COLUMNS": "80", "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    command_line = [sys.executable, "-m", "experiments", "status", "--results", str(tmp_path)]
    done = subprocess.run(command_line, env=narrow, cwd=ROOT, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode("ascii")
    table, legend = text.splitlines()[:-1], text.splitlines()[-1]
    assert legend == "a: a graphics processor with a name of many words, made in Z?rich, 2 of them"
    assert max(map(len, table)) <= 80
    (row,) = (line.split() for line in table if line.startswith("sam ") and " small " in line)
    assert dict(zip(table[0].split(), row))["on"] == "a"


def test_doctor_names_the_folder_that_data_scripts_write_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from experiments.tasks import data

    monkeypatch.setattr(data, "ROOT", tmp_path)
    monkeypatch.setenv("NFNETS_LITE_DATA", str(tmp_path / "x"))
    text = invoke("doctor")[1]
    assert f"data folder {tmp_path / 'x'} (by NFNETS_LITE_DATA)" in text
    assert f"data cifar10 not in {tmp_path / 'x' / 'cifar10'}: python -m data_scripts cifar10" in text
    (tmp_path / "x" / "fashion_mnist").mkdir(parents=True)
    (tmp_path / "x" / "cifar10").mkdir()
    (tmp_path / "x" / "cifar10" / "train_images.npy").touch()
    text = invoke("doctor")[1]
    assert f"data cifar10 in {tmp_path / 'x' / 'cifar10'}" in text
    assert "data fashion_mnist published files in" in text
    monkeypatch.delenv("NFNETS_LITE_DATA")
    assert f"data folder {Path(command.__file__).parents[1] / 'data'} (set NFNETS" in invoke("doctor")[1]


def test_progress_is_at_most_twenty_lines_in_a_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    from experiments.engine.progress import progress

    ledger = run_sweep(tiny(), where(tmp_path), lambda _: None)
    with progress("tiny", 97, Console(width=200)) as report:
        for i in range(97):
            report(replace(ledger.records[0], status="diverged" if i % 4 == 0 else "ok"))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 20
    assert "97/97 runs" in lines[-1]
    assert "25 diverged" in lines[-1]


def test_a_notebook_shows_one_output_that_changes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from IPython import display
    from rich.console import Console

    from experiments.engine.progress import progress

    shown: list[tuple[dict[str, str], bool]] = []
    monkeypatch.setattr(display, "display", lambda data, update, **_: shown.append((data, update)))
    ledger = run_sweep(tiny(), where(tmp_path), lambda _: None)
    with progress("tiny <", 2, Console(force_jupyter=True)) as report:
        report(ledger.records[0])
        report(replace(ledger.records[0], status="failed"))
    assert [update for _, update in shown] == [False, True, True]
    assert "2/2 runs, 0 diverged, 1 failed" in shown[-1][0]["text/plain"]
    assert '<progress max="2" value="2"></progress> tiny &lt;: 2/2 runs' in shown[-1][0]["text/html"]


def test_a_terminal_shows_a_live_bar(tmp_path: Path) -> None:
    from io import StringIO

    from rich.console import Console

    from experiments.engine.progress import progress

    ledger, out = run_sweep(tiny(), where(tmp_path), lambda _: None), StringIO()
    with progress("tiny", 2, Console(file=out, force_terminal=True, force_jupyter=False, width=120)) as report:
        report(replace(ledger.records[0], status="diverged"))
    assert "1/2" in out.getvalue()
    assert "1 diverged, 0 failed" in out.getvalue()


def test_the_estimate_comes_from_records_and_else_from_arithmetic(tmp_path: Path) -> None:
    from experiments.engine.cost import cost, estimates

    def at(batch: int, lr: float = 0.05, **recipe: float) -> Training:
        return replace(cell, recipe=replace(cell.recipe, lr=lr, batch_size=batch, **recipe))  # type: ignore[arg-type]

    def done(run: Training, seconds: float) -> records.Record:
        return replace(record, key=run.key, provenance={**record.provenance, "seconds": seconds})

    cell, record = tiny().cells[0], run_sweep(tiny(), where(tmp_path), lambda _: None).records[0]
    assert isinstance(cell, Training)
    assert at(16, epochs=6).effort("cpu") == pytest.approx(2 * at(16).effort("cpu"))
    assert at(16).effort("cuda") < at(16).effort("cpu")
    known = at(16, tiny().rates[0])
    asked, sweep = [known, at(16, epochs=6)], tiny()
    whole = possible(sweep)
    bare = list(estimates(whole, asked, [], "cpu"))
    assert bare == [run.effort("cpu") for run in asked]
    assert list(estimates(whole, asked, [done(known, 2.0), done(known, 4.0)], "cpu")) == pytest.approx([3.0, 6.0])
    assert cost(tiny(seeds=3), where(tmp_path), asked[:1], tmp_path)[1] == "from 4 recorded runs"
    seconds, basis = cost(tiny(seeds=3), where(tmp_path / "empty", workers=2), asked, tmp_path)
    assert seconds == max(sum(bare) / 2, *bare)
    assert "by a rule of thumb: nothing is recorded on such a device" in basis


def test_no_run_is_begun_when_time_is_up_and_the_rest_is_done_later(tmp_path: Path) -> None:
    from experiments.engine.dispatch import OutOfTime

    ends: list[records.Record] = []
    with pytest.raises(OutOfTime, match="2 runs were not begun"):
        run_sweep(tiny(), where(tmp_path, until=time.monotonic() - 1), ends.append)
    assert ends == []
    run_sweep(tiny(), where(tmp_path), ends.append)
    assert len(ends) == 4


def test_the_runs_under_way_when_time_is_up_are_recorded(tmp_path: Path) -> None:
    from experiments.engine.dispatch import OutOfTime

    ends: list[records.Record] = []
    long = replace(tiny(), rates=(0.01, 0.02, 0.03, 0.05))
    at = where(tmp_path, until=time.monotonic() + 0.05)  # a run takes longer, and a start as long as it takes
    with pytest.raises(OutOfTime, match=r"[1234] runs were not begun"):
        run_sweep(long, at, ends.append)
    assert len(ends) < 4
    assert len(records.read(records.path_of(tmp_path, "tiny")).records) == len(ends)


def test_all_configs_go_on_where_the_time_was_up_in_a_folder_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(configs, "names", lambda: ["tiny"])
    monkeypatch.setattr(configs, "sweep", lambda name, profile: tiny())
    folder = tmp_path / "lent"
    options = ("run", "all", "--results", str(folder), "--workers", "1", "--device", "cpu", "--minutes")
    code, text = invoke(*options, "0")
    assert (code, text) == (
        0,
        "time is up: tiny and what follows it were not begun; the same command goes on from there",
    )
    assert not folder.exists()
    run_sweep(tiny(seeds=1), where(folder), lambda _: None)
    code, text = invoke(*options, "5")
    assert code == 0
    assert "tiny, smoke: 1 runs left" in text
    assert len(records.read(records.path_of(folder, "tiny")).records) == 4
    assert "all recorded" in invoke(*options, "5")[1]


def test_status_counts_done_missing_and_failed_to_the_whole_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from experiments import configs
    from experiments.obtain import rows

    monkeypatch.setattr(configs, "names", lambda: ["tiny"])
    monkeypatch.setattr(configs, "sweep", lambda name, profile: tiny(seeds=3))
    ledger = run_sweep(tiny(), where(tmp_path / "smoke"), lambda _: None)
    last = ledger.records[-1]
    records.append(ledger.path, replace(last, status="failed", numerics=0))
    records.append(ledger.path, replace(last, key="of a run that the sweep has no more"))
    row, warning = next(rows(tmp_path))
    assert row[:7] == ("tiny", "smoke", "3", "1", "1", "1", "2")
    assert float(row[8]) >= 0  # hours
    assert not warning


def test_energy_is_noted_where_the_driver_reports_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter((100.0, 103.5))
    monkeypatch.setattr(runner, "energy_j", lambda device: next(readings))
    assert drain(runner._job(tiny().search()[0], "tiny", "smoke", torch.device("cpu"))).provenance["energy_j"] == 3.5
    monkeypatch.setattr(runner, "energy_j", lambda device: None)
    assert "energy_j" not in drain(runner._job(tiny().search()[0], "t", "smoke", torch.device("cpu"))).provenance


def test_ctrl_c_keeps_finished_runs_and_the_next_start_resumes(tmp_path: Path) -> None:
    arguments = ("run", "batch_size", "--results", str(tmp_path), "--workers", "2", "--device", "cpu")
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments", *arguments],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        # A test that was itself started in the background of a shell would hand on that Ctrl-C is ignored.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    path = records.path_of(tmp_path, "batch_size")
    deadline = time.monotonic() + 120
    while (not path.exists() or path.read_bytes().count(b"\n") < 2) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers, too
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130, output
    assert "interrupted: finished runs are recorded" in output
    assert "Traceback" not in output
    kept = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(kept) >= 2
    assert all(record["status"] in ("ok", "diverged") for record in kept)
    code, text = invoke(*arguments, "--dry-run")
    assert code == 0
    assert f"{all_runs() - len(kept)} runs left" in text


def test_data_that_cannot_be_had_is_said_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from experiments.tasks import data

    monkeypatch.setenv("NFNETS_LITE_DATA", str(tmp_path))
    monkeypatch.setattr(data, "ROOT", tmp_path)
    code, text = invoke("run", "batch_size", "--profile", "small", "--results", str(tmp_path / "results"))
    assert code == 2
    assert "python -m data_scripts cifar10" in text
    code, text = invoke("run", "batch_size", "--profile", "paper", "--results", str(tmp_path / "results"))
    assert code == 2
    assert "data set 'imagenet' is not known" in text
    assert not list((tmp_path / "results").glob("*.jsonl"))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_a_worker_keeps_the_memory_of_a_step_for_the_next() -> None:
    # It takes a dozen steps until the heap settles: what else asks for memory may cut a freed block up.
    steps = """
import resource, sys, torch
from experiments.engine.workers import start_worker
if sys.argv[1] == "kept":
    start_worker()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.empty(2**24).fill_(1.0)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print([faults() for _ in range(8)][-1])
"""
    found = {
        way: int(subprocess.run([sys.executable, "-c", steps, way], check=True, capture_output=True, text=True).stdout)
        for way in ("kept", "as it is")
    }
    assert found["kept"] < found["as it is"] / 10


def test_thresholds_are_searched_with_rates_in_short_trainings(tmp_path: Path) -> None:
    cell = clipped(tiny().cells[0])
    longer = replace(cell, recipe=replace(cell.recipe, epochs=4))
    grid = Grid((0.05,), (0.01, 0.16))
    sweep = Sweep("tiny", (cell, longer), grids=(grid, grid), search_epochs=1.0)
    assert len(sweep.search()) == 2  # both lengths share their search
    study = Study(sweep, run_sweep(sweep, where(tmp_path), lambda _: None))
    search, final = study.search, study.final
    assert {r.config["recipe"]["epochs"] for r in search} == {1.0}
    assert {r.config["recipe"]["epochs"] for r in final} == {3, 4}
    best = max(search, key=lambda r: r.metrics["accuracy"])
    assert {r.config["recipe"]["clip"]["factor"] for r in final} == {best.config["recipe"]["clip"]["factor"]}


def test_a_grid_is_widened_until_the_best_setting_lies_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def steps(run: Training, device: torch.device) -> Generator[None, None, Outcome]:
        yield
        assert run.recipe.clip is not None
        far = abs(log2(run.recipe.lr / 8.0)) + abs(log2(run.recipe.clip.factor / 0.01))  # octaves from the best
        return Outcome("ok", "", {"accuracy": 1 - far / 100})

    monkeypatch.setattr(Training, "steps", steps)
    cell = clipped(tiny().cells[0])
    sweep = Sweep("tiny", (cell,), grids=(Grid((1.0, 2.0, 4.0), (0.01, 0.04)),), widenings=3)
    ledger = run_sweep(sweep, where(tmp_path), lambda _: None)
    assert Study(sweep, ledger).grid(cell) == Grid((1.0, 2.0, 4.0, 8.0, 16.0), (0.0025, 0.01, 0.04))
    assert Study(sweep, ledger).setting(cell) == Setting(8.0, 0.01)
    assert {(r.config["recipe"]["lr"], r.seed) for r in Study(sweep, ledger).final} == {(8.0, 0), (8.0, 1), (8.0, 2)}
    once = replace(sweep, widenings=1)
    assert Study(once, ledger).setting(cell) == Setting(8.0, 0.01)
    assert Study(once, ledger).grid(cell).rates == (1.0, 2.0, 4.0, 8.0)


def clipped(cell: Run) -> Training:
    assert isinstance(cell, Training)
    return replace(cell, recipe=replace(cell.recipe, clip=Clip()))


def test_grids_of_unequal_size_are_refused() -> None:
    (cell,) = tiny().cells
    with pytest.raises(ValueError, match="grids of sweep 'tiny' have 2, 1 settings for 2 cells"):
        Sweep("tiny", (cell, cell), grids=(Grid((0.1, 0.2)), Grid((0.1,))))


def test_a_threshold_for_what_does_not_clip_is_refused() -> None:
    with pytest.raises(ValueError, match=r"threshold=0.1, but 'nf' does not clip; use None"):
        tiny().cells[0].at(Setting(0.1, 0.1))
