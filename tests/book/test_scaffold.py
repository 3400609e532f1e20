"""A new experiment runs as it comes: its config, its chapter by papermill, its test."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from book.scaffold.__main__ import scaffold

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("nfnets_lite", "experiments", "book", "data_scripts")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The sources without what is built and recorded."""
    leave = shutil.ignore_patterns("__pycache__", "_build", "results")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=leave)
    (tmp_path / "tests" / "experiments").mkdir(parents=True)
    shutil.copyfile(ROOT / "constraints.txt", tmp_path / "constraints.txt")
    return tmp_path


def test_a_new_experiment_runs_as_it_comes(copy: Path) -> None:
    made = scaffold("label_noise", copy)
    assert [path.name for path in made] == ["label_noise.py", "label_noise.md", "test_label_noise.py", "_toc.yml"]
    assert re.findall(r"(?m)^## (.+)$", made[1].read_text())[0] == "Finding"  # as test_chapters asks of each chapter
    assert "      - file: chapters/label_noise\n  - caption: Verdicts\n" in made[-1].read_text()

    def done(*command: str) -> str:
        found = subprocess.run(
            [sys.executable, *command], cwd=copy, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert found.returncode == 0, found.stdout
        return found.stdout

    done("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/experiments/test_label_noise.py")
    assert "label_noise: ok" in done("-m", "book.tool.build", "--chapter", "label_noise", "--execute-only")
    assert importlib.util.find_spec("ruff") is not None
    done("-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml"), *(str(path) for path in made[:3:2]))
    done("-m", "ruff", "format", "--check", "--config", str(ROOT / "pyproject.toml"), *map(str, made[:3:2]))


@pytest.mark.parametrize("name", ["", "Label", "2nd", "batch_size", "class", "a-b", "label noise"])
def test_bad_names_are_refused_and_nothing_is_written(copy: Path, name: str) -> None:
    before = sorted(copy.rglob("*.py"))
    with pytest.raises(ValueError, match="NAME="):
        scaffold(name, copy)
    assert sorted(copy.rglob("*.py")) == before
