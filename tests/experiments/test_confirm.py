"""Records that changed code still gives."""

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import small_sweep
from typer.testing import CliRunner

from experiments import config, confirm, plan, provenance, records, repeat, run, sources
from experiments.config import Sweep
from experiments.engine import Where, run_sweep
from experiments.records import Record


@pytest.fixture(scope="module")
def sweep() -> Sweep:
    return small_sweep.sweep(seeds=2, epochs=1)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, sweep: Sweep) -> bytes:
    found = small_sweep.where(tmp_path_factory.mktemp("recorded"))
    run_sweep(sweep, found, lambda record: None)
    return records.path_of(found.results, "small").read_bytes()


@pytest.fixture
def where(tmp_path: Path, recorded: bytes) -> Where:
    records.path_of(tmp_path, "small").write_bytes(recorded)
    return small_sweep.where(tmp_path)


@pytest.fixture
def changed(where: Where, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code is another one than when the records were made."""
    for module in (confirm, plan):
        monkeypatch.setattr(module, "code_hash", lambda name: "another")


def ledger(where: Where) -> records.Ledger:
    return records.read(records.path_of(where.results, "small"))


def ignore(record: Record) -> None:
    pass


def test_nothing_is_repeated_where_nothing_is_stale(sweep: Sweep, where: Where) -> None:
    assert confirm.confirm(sweep, where, pytest.fail) == (0, 0)


@pytest.mark.usefixtures("changed")
def test_equal_digits_make_all_stale_records_current(sweep: Sweep, where: Where) -> None:
    before, repeated = ledger(where), list[Record]()
    assert confirm.confirm(sweep, where, repeated.append) == (2, len(before.records))
    assert sorted((r.method, r.config["recipe"]["batch_size"]) for r in repeated) == [("nf", 8), ("nf", 16)]
    after = ledger(where)
    assert [r.metrics for r in after.records] == [r.metrics for r in before.records]
    for was, now in zip(before.records, after.records):
        assert now.provenance["code"] == "another"
        assert now.provenance["confirmed"]["runs"] == 2
        assert {**now.provenance, "code": was.provenance["code"], "confirmed": 0} == {**was.provenance, "confirmed": 0}
    assert confirm.confirm(sweep, where, ignore) == (0, 0)
    assert not list(where.results.glob("*.part"))


@pytest.mark.usefixtures("changed")
@pytest.mark.parametrize("field", ["metrics", "curve"])
def test_one_digit_is_enough_to_refuse(sweep: Sweep, where: Where, field: str) -> None:
    path = records.path_of(where.results, "small")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if field == "metrics":
            line["metrics"]["loss"] = line["metrics"].get("loss", 0.0) + 1e-12
        else:
            line["curve"]["loss"] = [0.0]
    path.write_text("".join(json.dumps(line, sort_keys=True) + "\n" for line in lines))
    text = path.read_text()
    said = {"metrics": "loss", "curve": "its curve changed"}[field]
    with pytest.raises(confirm.NotConfirmed, match=said):
        confirm.confirm(sweep, where, ignore)
    assert path.read_text() == text


def test_a_run_that_ends_otherwise_differs(where: Where) -> None:
    record = ledger(where).records[0]
    assert confirm.difference(record, record) == ""
    assert "ok became diverged" in confirm.difference(replace(record, status="ok"), replace(record, status="diverged"))
    assert "became nothing" in confirm.difference(record, None)


@pytest.mark.usefixtures("changed")
def test_another_device_cannot_confirm(sweep: Sweep, where: Where, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confirm, "device_name", lambda device: "an abacus")
    with pytest.raises(ValueError, match="is an abacus, and the stale records of 'small' were made on CPU"):
        confirm.confirm(sweep, where, ignore)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This checkout's files as they are now in a repository of their own, and a commit after that with a change."""
    root = tmp_path_factory.mktemp("repository")
    try:
        listed = subprocess.run(
            ("git", "-C", str(provenance.ROOT), "ls-files", "-co", "--exclude-standard", *provenance.SOURCE[:3]),
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git checkout at hand")
    for name in listed.stdout.splitlines():
        if not name.startswith("experiments/results"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(provenance.ROOT / name, root / name)

    def git(*args: str) -> None:
        who = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org")
        subprocess.run(("git", "-C", str(root), *who, *args), check=True, capture_output=True)

    git("init", "--quiet")
    for tag in ("made", "changed"):
        git("add", "--all")
        git("commit", "--quiet", "-m", tag)
        git("tag", tag)
        with (root / "nfnets_lite" / "eager.py").open("a") as file:
            file.write("ANOTHER = 1\n")
    return root


@pytest.fixture
def elsewhere(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Sweep, Where]:
    """Stale records of another machine, whose digits are others."""
    monkeypatch.setattr(repeat, "ROOT", repository)
    sweep = config.sweep("gradient_ratios", "smoke")
    sweep = replace(sweep, cells=sweep.cells[:2]).with_seeds(1)
    where = replace(small_sweep.where(tmp_path), profile="smoke")
    path = records.path_of(tmp_path, sweep.name)
    run_sweep(sweep, where, ignore)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line["provenance"]["device"] = "CPU (an abacus)"
        line["metrics"] = {name: value + 1e-9 for name, value in line["metrics"].items()}
    path.write_text("".join(json.dumps(line, sort_keys=True) + "\n" for line in lines))
    for module in (confirm, plan):
        monkeypatch.setattr(module, "code_hash", lambda name: "another")
    return sweep, where


def test_records_of_another_machine_are_held_against_the_code_that_made_them(elsewhere: tuple[Sweep, Where]) -> None:
    sweep, where = elsewhere
    path = records.path_of(where.results, sweep.name)
    before = path.read_text()
    with pytest.raises(ValueError, match="--earlier COMMIT"):
        confirm.confirm(sweep, where, ignore)
    with pytest.raises(ValueError, match="invalid reference: nonsense"):
        confirm.confirm(sweep, where, ignore, "nonsense")
    with pytest.raises(ValueError, match=r"earlier='changed' is not the code that the record of \w+, seed 0, is of"):
        confirm.confirm(sweep, where, ignore, "changed")
    assert path.read_text() == before
    repeated, kept = confirm.confirm(sweep, where, ignore, "made")
    assert 0 < repeated <= kept == len(before.splitlines())
    for was, now in zip(map(json.loads, before.splitlines()), records.read(path).records):
        assert now.metrics == was["metrics"]
        assert now.provenance["device"] == "CPU (an abacus)"
        note = now.provenance["confirmed"]
        assert note["device"] == provenance.device_name(where.device)
        assert len(note["beside"]) == 40
    listed = subprocess.run(("git", "-C", str(repeat.ROOT), "worktree", "list"), capture_output=True, text=True)
    assert len(listed.stdout.splitlines()) == 1


def test_a_digit_that_the_code_changes_is_seen_on_another_machine_too(
    elsewhere: tuple[Sweep, Where], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, where = elsewhere
    compute = confirm.repeat

    def otherwise(*args: object) -> records.Ledger:
        found = compute(*args)  # type: ignore[arg-type]
        return replace(found, records=[replace(r, metrics={**r.metrics, "loss": 0.5}) for r in found.records])

    monkeypatch.setattr(confirm, "repeat", otherwise)
    with pytest.raises(confirm.NotConfirmed, match=r"loss .* became 0\.5"):
        confirm.confirm(sweep, where, ignore, "made")


def test_the_least_costly_run_that_ended_well_stands_for_its_method(sweep: Sweep, where: Where) -> None:
    found = ledger(where)
    _, pairs = plan.recorded(sweep, found)
    for one, record in confirm.sample(pairs):
        others = [r for other, r in pairs if other.recipe.batch_size == one.recipe.batch_size]
        assert record.status == "ok"
        assert record.provenance["seconds"] == min(r.provenance["seconds"] for r in others if r.status == "ok")


def test_each_network_and_batch_size_of_a_method_is_repeated(sweep: Sweep, where: Where) -> None:
    _, ((run, record), *_) = plan.recorded(sweep, ledger(where))
    wider = replace(record, config={**record.config, "model": {**record.config["model"], "stem_width": 32}})
    other = replace(record, method="other")
    larger = replace(record, config={**record.config, "recipe": {**record.config["recipe"], "batch_size": 999}})
    pairs = [(run, record), (run, record), (run, wider), (replace(run, method="other"), other), (run, larger)]
    assert [r for _, r in confirm.sample(pairs)] == [record, wider, other, larger]


def test_the_command_says_what_it_found(tmp_path: Path) -> None:
    said = CliRunner().invoke(run.app, ["confirm", "federated", "--results", str(tmp_path)])
    assert (said.exit_code, said.output) == (0, "federated, smoke: nothing is stale\n")
    said = CliRunner().invoke(run.app, ["confirm", "batchsize", "--results", str(tmp_path)])
    assert said.exit_code == 2
    assert "is not known" in said.output


def test_the_hash_is_asked_of_the_same_function() -> None:
    assert confirm.code_hash is plan.code_hash is sources.code_hash
