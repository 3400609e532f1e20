import json
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from scipy import stats

from experiments import records
from experiments.records import Record
from experiments.records.ledger import fcntl


def record(key: str = "k", seed: int = 0, status: str = "ok", accuracy: float = 0.5, method: str = "bn") -> Record:
    config = {"model": {"num_classes": 10}, "split": "test", "recipe": {"batch_size": 8, "lr": 0.1}}
    metrics = {"accuracy": accuracy} if status == "ok" else {}
    return Record("s", "smoke", method, key, seed, status, "", config, metrics, {}, {"device": "d"}, 1)


def test_round_trip_and_last_wins(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    first, again, other = record(accuracy=0.1), record(accuracy=0.2), record(seed=1)
    for one in (first, again, other):
        records.append(path, one)
    ledger = records.read(path)
    assert ledger.records == (again, other)
    assert ledger.of("k", 0) == again
    assert ledger.of("k", 5) is None
    assert not ledger.torn


def test_a_rewrite_keeps_the_last_record_of_each_run(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    first, again, other = record(accuracy=0.1), record(accuracy=0.2), record(seed=1)
    for one in (first, again, other):
        records.append(path, one)
    records.rewrite(path)
    assert path.read_bytes() == again.line() + other.line()
    records.rewrite(path, lambda one: replace(one, sweep="t"))
    assert path.read_bytes() == replace(again, sweep="t").line() + replace(other, sweep="t").line()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(fcntl is None, reason="no file locks here")
def test_an_append_that_waits_for_a_rewrite_goes_to_the_new_file(tmp_path: Path) -> None:
    path, under_way = tmp_path / "s.jsonl", Event()
    records.append(path, record(seed=0))

    def slowly(one: Record) -> Record:
        under_way.set()
        time.sleep(0.3)  # the append below opens the old file and waits for its lock
        return one

    with ThreadPoolExecutor() as pool:
        rewriting = pool.submit(records.rewrite, path, slowly)
        assert under_way.wait(10)
        records.append(path, record(seed=1))
        rewriting.result()
    assert [r.seed for r in records.read(path).records] == [0, 1]


def test_missing_file_is_empty(tmp_path: Path) -> None:
    assert records.read(tmp_path / "none.jsonl").records == ()


@pytest.mark.parametrize("cut", [1, 20, 150])
def test_torn_last_line_is_reported_and_cut_off_by_the_next_append(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "s.jsonl"
    records.append(path, record(seed=0))
    records.append(path, record(seed=1))
    path.write_bytes(path.read_bytes()[:-cut])
    ledger = records.read(path)
    assert [r.seed for r in ledger.records] == [0]
    assert "torn" in ledger.torn
    assert str(path) in ledger.torn
    records.append(path, record(seed=1))
    healed = records.read(path)
    assert [r.seed for r in healed.records] == [0, 1]
    assert not healed.torn


def test_a_file_that_is_one_torn_line_starts_over(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    path.write_bytes(b'{"sweep": "s"')
    records.append(path, record())
    assert records.read(path).records == (record(),)


@pytest.mark.parametrize("line", [b"not json", b'{"sweep": "s"}', b'{"unknown": 1}', b"[1]"])
def test_a_corrupt_line_in_the_middle_is_an_error_that_names_it(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "s.jsonl"
    path.write_bytes(record().line() + line + b"\n" + record(seed=1).line())
    with pytest.raises(ValueError, match=r"s\.jsonl, line 2 is not a record"):
        records.read(path)


def test_nan_is_never_written() -> None:
    with pytest.raises(ValueError, match="JSON"):
        replace(record(), metrics={"accuracy": float("nan")}).line()


def test_one_line_a_record() -> None:
    line = replace(record(), reason="two\nlines").line()
    assert line.count(b"\n") == 1
    assert json.loads(line)["reason"] == "two\nlines"


def test_estimate_against_scipy() -> None:
    values = np.random.default_rng(0).normal(70, 3, size=7)
    ours = records.estimate(list(values))
    low, high = stats.t.interval(0.95, len(values) - 1, loc=values.mean(), scale=stats.sem(values))
    assert (ours.low, ours.high) == pytest.approx((low, high), rel=1e-12)
    assert f"{records.estimate([1.0, 2.0, 3.0])}" == "2.0\u00a0±\u00a02.5"


def test_one_seed_is_marked_as_one_seed() -> None:
    one = records.estimate([71.23])
    assert (one.low, one.high, one.count) == (None, None, 1)
    assert str(one) == "71.2†"
    with pytest.raises(ValueError, match="values is empty"):
        records.estimate([])


def test_a_diverged_run_counts_as_chance_and_a_failed_one_not_at_all() -> None:
    found = [record(accuracy=0.9), record(seed=1, status="diverged"), record(seed=2, status="failed")]
    (group,) = records.aggregate(found, by=lambda r: r.method).values()
    assert group.mean == pytest.approx(50.0)
    assert (group.count, group.diverged, group.failed) == (2, 1, 0)


@pytest.mark.parametrize(("accuracy", "counted", "failed"), [(0.12, 10.0, 1), (0.05, 10.0, 1), (0.121, 12.1, 0)])
def test_a_run_within_two_points_of_chance_counts_as_chance(accuracy: float, counted: float, failed: int) -> None:
    (group,) = records.aggregate([record(accuracy=accuracy)], by=lambda r: r.method).values()
    assert group.mean == pytest.approx(counted)
    assert (group.diverged, group.failed) == (0, failed)


def test_an_interval_with_unequal_sides_shows_both_ends() -> None:
    assert f"{records.Estimate(2.0, 1.0, 4.0, 3):.2g}" == "2 (1 to 4)"


def test_paired_difference_against_scipy() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.uniform(0.4, 0.9, 6), rng.uniform(0.4, 0.9, 6)
    plus = [record(seed=i, accuracy=x) for i, x in enumerate(a)]
    minus = [record(seed=i, accuracy=x) for i, x in reversed(list(enumerate(b)))]
    ours = records.paired_difference(plus, [*minus, record(seed=99)])
    expected = stats.ttest_rel(100 * a, 100 * b).confidence_interval(0.95)
    assert (ours.low, ours.high) == pytest.approx((expected.low, expected.high), rel=1e-9)
    with pytest.raises(ValueError, match="share no seed"):
        records.paired_difference(plus, [record(seed=50)])


def test_no_write_permission_is_said_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PermissionError, match=r"nothing was trained\. Pass --results"):
        records.check_writable(tmp_path / "file" / "results")
    records.check_writable(tmp_path / "new" / "results")


def test_a_newer_schema_is_said_and_not_guessed_at(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    newer = replace(record(seed=1), schema=7).line()
    for line in (newer, newer.replace(b'"config"', b'"colour": "red", "config"')):
        path.write_bytes(record().line() + line)
        with pytest.raises(ValueError, match=r"s\.jsonl, line 2 has schema=7; this code reads up to 2.*update"):
            records.read(path)


def test_a_torn_line_run_together_with_the_next_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    for cut in (1, 5, 60, len(record().line()) - 2):
        path.write_bytes(record().line()[:cut] + record(seed=1).line())
        with pytest.raises(ValueError, match="line 1 is not a record"):
            records.read(path)


def test_a_record_that_was_read_is_the_record_that_was_written(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    odd = replace(record(), method='a "quoted" name, \u00e9', reason='", "schema": 9, "seed": 9, {"config": {')
    for one in (odd, record(seed=1)):
        records.append(path, one)
    read = records.read(path).records
    assert read == (odd, record(seed=1))
    again = records.read(path).records
    assert pickle.loads(pickle.dumps(again[1])) == record(seed=1)
    assert replace(records.read(path).records[1], seed=5) == record(seed=5)
    assert records.read(path).records[1].line() == record(seed=1).line()
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = read[0].nothing  # type: ignore[attr-defined]


def test_a_line_of_schema_1_has_numerics_0(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    fields = {name: value for name, value in json.loads(record().line()).items() if name != "numerics"}
    path.write_text(json.dumps(fields | {"schema": 1}, sort_keys=True) + "\n")
    (found,) = records.read(path).records
    assert (found.numerics, found.schema, found.metrics) == (0, 1, {"accuracy": 0.5})


def test_damage_inside_a_line_is_said_when_it_is_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    path.write_bytes(record().line().replace(b'"accuracy": 0.5', b'"accuracy": 0.#'))
    (found,) = records.read(path).records
    with pytest.raises(ValueError, match="key k, seed 0, is damaged"):
        _ = found.metrics


def test_a_hundred_thousand_records_are_read_in_half_the_time_of_decoding_them(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    curve = {"loss": [1.2345] * 20, "update": list(range(20))}
    lines = [replace(record(f"{i // 5:016x}", seed=i % 5), curve=curve).line() for i in range(100_000)]
    path.write_bytes(b"".join(lines))
    clock = time.process_time()
    found = records.read(path).records
    reading = time.process_time() - clock
    assert len(found) == 100_000
    assert found[-1].metrics == {"accuracy": 0.5}
    clock = time.process_time()
    decoded = [json.loads(line) for line in lines[::4]]  # kept, as a reader of all of them would
    assert reading < 0.5 * 4 * (time.process_time() - clock)  # a ratio, since machines differ and are shared
    assert len(decoded) == 25_000
