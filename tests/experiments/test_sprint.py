"""A sprint on a borrowed machine keeps its limits, and a second one goes on."""

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.engine import sprint as sprints
from experiments.engine.sprint import LEFT, Part, parts, sprint

DEAF = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
CHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {DEAF!r}])"


def test_each_part_is_ended_at_its_limit_and_leaves_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sprints, "GRACE", 0.5)
    made = (
        Part("checks", ("-c", "print('fine')"), 60.0),
        Part("tests", ("-c", "raise SystemExit(3)"), 60.0),
        Part("sweeps", ("-c", "import sys; print(sys.argv[1])", LEFT), 60.0, resumes=True),
        Part("lacking", ("-c", ""), 60.0, needs="no_such_module"),
    )
    monkeypatch.setattr(sprints, "parts", lambda *_: made)
    assert [said.partition(" after")[0] for said, _ in sprint(1.0, "cpu", tmp_path)] == [
        "checks: through",
        "tests: failed with status 3, see tests.log,",
        "sweeps: through",
        "lacking: skipped, no_such_module is not installed",
    ]
    assert (tmp_path / "checks.log").read_text() == "fine\n"
    assert 0.5 < float((tmp_path / "sweeps.log").read_text()) <= 1.0
    # The second goes on: the checks were through, the tests were not, and sweeps always may have more to do.
    again = [said.partition(" after")[0] for said, _ in sprint(1.0, "cpu", tmp_path)]
    assert again[:3] == ["checks: done before", "tests: failed with status 3, see tests.log,", "sweeps: through"]


def test_what_does_not_heed_an_interrupt_is_killed_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sprints, "GRACE", 0.5)
    monkeypatch.setattr(sprints, "parts", lambda *_: (Part("deaf", ("-c", CHILD), 5.0), Part("late", ("-c", ""), 5.0)))
    start = time.monotonic()
    (deaf, _), (late, _) = sprint(1.0, "cpu", tmp_path)
    assert deaf.startswith("deaf: stopped at its limit after")
    assert late.startswith("late: not begun, no time is left")
    assert time.monotonic() - start < 5.0 + 0.5 + 5.0
    assert (tmp_path / "deaf.log").read_text().startswith("deaf\n")
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert DEAF not in running


def test_limits_are_in_proportion(tmp_path: Path) -> None:
    long, short = parts(14.0, "cuda", tmp_path, "gpu"), parts(7.0, "cuda", tmp_path, "gpu")
    assert [part.end for part in long] == [60.0, 180.0, 690.0, 810.0]
    assert [replace(part, end=2 * part.end) for part in short] == list(long)
    named = [line for line in (sprints.ROOT / "tests" / "gpu.args").read_text().split() if line.startswith("tests/")]
    assert named
    assert all((sprints.ROOT / path).is_file() for path in named)
    for minutes in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"minutes={minutes} must be above 0"):
            next(sprint(minutes, "cpu", tmp_path))
    with pytest.raises(ValueError, match="profile='tiny' is not known"):
        next(sprint(1.0, "cpu", tmp_path, "tiny"))


def test_a_part_that_was_through_on_one_device_runs_on_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sprints, "parts", lambda *_: (Part("checks", ("-c", ""), 60.0),))
    assert next(sprint(1.0, "cpu", tmp_path))[0].startswith("checks: through")
    assert next(sprint(1.0, "cpu", tmp_path)) == ("checks: done before", False)
    assert next(sprint(1.0, "cuda", tmp_path))[0].startswith("checks: through")
    monkeypatch.setattr(sprints, "commit", lambda: ("another", False))
    assert next(sprint(1.0, "cuda", tmp_path))[0].startswith("checks: through")


ENDED = """
import sys
from pathlib import Path
from experiments.engine import sprint as sprints
sprints.parts = lambda *_: (sprints.Part("deaf", ("-c", sys.argv[2]), 60.0),)
with sprints.ended_by_signals():
    list(sprints.sprint(1.0, "cpu", Path(sys.argv[1])))
"""


@pytest.mark.parametrize("sent", [[signal.SIGTERM], [signal.SIGHUP], [signal.SIGINT, signal.SIGINT]])
def test_a_sprint_that_is_ended_leaves_no_process_behind(tmp_path: Path, sent: list[signal.Signals]) -> None:
    deaf = DEAF + f"  # {tmp_path}"
    process = subprocess.Popen([sys.executable, "-c", ENDED, str(tmp_path), deaf], cwd=sprints.ROOT)
    log = tmp_path / "deaf.log"
    while process.poll() is None and not (log.exists() and log.read_text()):
        time.sleep(0.05)
    for number in sent:
        process.send_signal(number)
        time.sleep(0.3)
    assert process.wait(30) != 0
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert deaf not in running


@pytest.mark.slow
def test_a_rehearsal_on_a_cpu_keeps_every_limit_within_five_seconds(tmp_path: Path) -> None:
    minutes, began = 3.0, time.monotonic()
    ends = {}
    for part, (said, _) in zip(parts(minutes, "cpu", tmp_path, "smoke"), sprint(minutes, "cpu", tmp_path, "smoke")):
        ends[part.name] = time.monotonic() - began
        assert ends[part.name] < part.end + 5, said
    assert list((tmp_path / "smoke").glob("*.jsonl"))
