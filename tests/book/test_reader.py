"""A reader with a downloaded notebook and nothing else: its first cell fetches the rest, and every cell runs."""

from __future__ import annotations

import json
import os
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from bare_env import bare_env, run

import nfnets_lite as nf
from book.tool.dress import REPOSITORY, dressed
from book.tool.execute import read_chapter
from book.tool.layout import Book, Page

REPO = Path(__file__).resolve().parents[2]
BOOK = Book(REPO, REPO / "book", REPO / "book" / "_build")
PAGES = [page for page in BOOK.pages() if page.is_chapter]
WHERE = "import sys, experiments, nfnets_lite as nf\nprint(sys.prefix, nf.__file__, experiments.__file__)"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(5400),  # what is not recorded yet is trained
    pytest.mark.skipif(shutil.which("git") is None, reason="the first cell clones with git"),
]


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with this tree as its one release: what git has or would take, and nothing that lies about."""
    folder = tmp_path_factory.mktemp("released")
    for name in run("git", "ls-files", "-z", "-c", "-o", "--exclude-standard", cwd=REPO).split("\0"):
        if name and (REPO / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPO / name, folder / name)
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # of a hook, say
    settings = {"user.name": "t", "user.email": "t@t", "commit.gpgsign": "false", "core.hooksPath": os.devnull}
    git = ["git", *(part for setting in settings.items() for part in ("-c", "=".join(setting)))]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "release"], ["tag", f"v{nf.__version__}"]):
        run(*git, *command, cwd=folder, env=own)
    return folder


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the `book` extra brings, and what a notebook service has: pip, which builds with hatchling."""
    try:
        version("pip")  # not imported: setuptools then leaves distutils alone, and torch's compiler refuses that
    except PackageNotFoundError:
        pytest.skip("pip is not installed")
    return bare_env(tmp_path_factory.mktemp("reader"), ["nfnets-lite[book]", "pip", "hatchling"])


@pytest.fixture(scope="module")
def outside(released: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A reader's variables: the clone comes from here, pip asks no index and keeps to the pins."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "PIP_", "PYTHON"))}
    return kept | {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{released.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": REPOSITORY,
        "JUPYTER_PLATFORM_DIRS": "1",
        "JUPYTER_DATA_DIR": str(tmp_path_factory.mktemp("jupyter")),  # no kernel of this user's
        "PIP_CONSTRAINT": str(released / "constraints.txt"),
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads it as the option's value: no isolation
        "PIP_NO_INDEX": "1",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of the smoke profile, those of the last build for a start; what they lack, chapters train and share."""
    folder = tmp_path_factory.mktemp("results") / "smoke"
    built = REPO / BOOK.results_dir("smoke", rerun=True)
    if built.is_dir():
        shutil.copytree(built, folder, ignore=shutil.ignore_patterns(".*"))
    return folder


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_every_cell_runs(page: Page, python: Path, outside: dict[str, str], results: Path, tmp_path: Path) -> None:
    notebook = read_chapter(page.path)
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    made = dressed(json.loads(json.dumps(notebook)), "")
    cell = {"cell_type": "code", "id": "where", "metadata": {}, "execution_count": None, "outputs": [], "source": WHERE}
    made["cells"].append(cell)
    (tmp_path / "read.ipynb").write_text(json.dumps(made), encoding="utf-8")
    given = ["-p", "profile", "smoke", "-p", "device", "cpu", "-p", "results_dir", str(results), "-p", "rerun", "True"]
    papermill = [str(python), "-m", "papermill", "read.ipynb", "run.ipynb", "-k", "python3", "--no-progress-bar"]
    run(*papermill, *given, cwd=tmp_path, env=outside)
    cells = json.loads((tmp_path / "run.ipynb").read_text(encoding="utf-8"))["cells"]
    prefix, *modules = "".join(cells[-1]["outputs"][0]["text"]).split()
    assert Path(prefix) == python.parents[1]
    assert all(Path(module).is_relative_to(tmp_path / f"nfnets-lite-v{nf.__version__}") for module in modules), modules
