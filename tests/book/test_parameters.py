"""The parameters of a chapter: wrong ones are refused by name, before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest

from book.figures.parameters import check, check_injected
from experiments import obtain, records
from experiments.study import Study
from experiments.sweep import Sweep


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("rerun", "false", "rerun='false' must be True or False, without quotes"),
        ("rerun", 0, "rerun=0 must be True or False"),
        ("profile", "tiny", "profile='tiny' must be one of smoke, small, gpu, paper"),
        ("profile", None, "profile=None must be one of"),
        ("device", "gpu", "device='gpu' must be auto, cpu, mps, cuda or cuda:N"),
        ("device", 0, "device=0 must be auto"),
        ("results_dir", 3, "results_dir=3 must be the path of a folder as text"),
    ],
)
def test_a_wrong_value_is_refused_by_name(name: str, value: Any, said: str) -> None:
    check({"profile": "small", "rerun": False, "device": "cuda:1", "results_dir": "x", "lr": "other names pass"})
    with pytest.raises(ValueError, match=said):
        check({"profile": "small", name: value})


def test_a_name_that_no_chapter_has_is_refused() -> None:
    check_injected(["", "profil = 1", "# Parameters\nprofile = 'small'\nrerun = False\n"])
    with pytest.raises(
        ValueError, match="parameter 'profil' is not one that chapters have; use profile, rerun, device"
    ):
        check_injected(["# Parameters\nprofil = 'small'\n"])


@pytest.mark.parametrize(
    ("given", "said"), [({"rerun": "false"}, "rerun='false' must be"), ({"profil": "small"}, "'profil' is not one")]
)
def test_papermill_stops_in_the_cell_after_the_parameters(given: dict[str, str], said: str, tmp_path: Path) -> None:
    new = nbformat.v4
    cells = [
        new.new_code_cell('profile = "smoke"\nrerun = True', metadata={"tags": ["parameters"]}),
        new.new_code_cell("from book.figures import plots\n\nplots.setup()"),
        new.new_code_cell("from pathlib import Path\n\nPath('trained').touch()"),
    ]
    notebook = new.new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    nbformat.write(notebook, tmp_path / "in.ipynb")
    names = (tmp_path / "in.ipynb", tmp_path / "out.ipynb")
    with pytest.raises(papermill.PapermillExecutionError, match=said):
        papermill.execute_notebook(
            *names, parameters=given, cwd=tmp_path, kernel_name="python3", progress_bar=False, language="python"
        )
    assert not (tmp_path / "trained").exists()


def test_a_readers_notebook_leaves_the_committed_records_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    committed = tmp_path / "results" / "small" / "sam.jsonl"
    committed.parent.mkdir(parents=True)
    committed.write_text((obtain.RESULTS / "small" / "sam.jsonl").read_text().splitlines(keepends=True)[0])
    monkeypatch.setattr(obtain, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(obtain, "INTERACTIVE", tmp_path / "interactive")
    wrote: list[Path] = []

    def run_left(sweep: Sweep, where: Any, console: Any) -> Study:
        path = records.path_of(where.results, sweep.name)
        wrote.append(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write("{torn")
        return Study.read(sweep, where.results)

    monkeypatch.setattr(obtain, "run_left", run_left)
    before = committed.read_bytes()
    for _ in range(2):
        study = obtain.obtain("sam", "small", "", rerun=True, device="cpu")
        assert wrote.pop() == tmp_path / "interactive" / "small" / "sam.jsonl"
        assert len(study.ledger.records) == 1  # the committed ones are not trained again, and copied once
    assert committed.read_bytes() == before
    obtain.obtain("sam", "small", committed.parent, rerun=True, device="cpu")  # told so by name
    assert wrote == [committed]
    with pytest.raises(ValueError, match="rerun='false' must be True or False"):
        obtain.obtain("sam", "small", rerun="false")  # type: ignore[arg-type]
