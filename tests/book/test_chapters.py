"""What every chapter of the book must be, for the build and for a reader who opens it as a notebook."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

from book.tool.execute import parameter_names, read_chapter
from book.tool.layout import Book, front_matter

REPO = Path(__file__).resolve().parents[2]
BOOK = Book(REPO, REPO / "book", REPO / "book" / "_build")
CHAPTERS = sorted((REPO / "book" / "chapters").glob("*.md"))
DEFAULTS = 'profile = "smoke"\nrerun = True\ndevice = "auto"\nresults_dir = ""'

LISTS = ("atlas", "what_we_learned")

each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=[path.stem for path in CHAPTERS])


@each_chapter
def test_kernel(path: Path) -> None:
    kernel = front_matter(path).get("kernelspec", {})
    assert (kernel.get("name"), kernel.get("language")) == ("python3", "python")


@each_chapter
def test_parameters_cell(path: Path) -> None:
    nb = read_chapter(path)
    assert parameter_names(nb, path.stem) == ["profile", "rerun", "device", "results_dir"]
    source = next(cell.source for cell in nb.cells if cell.cell_type == "code")
    code = [line.split("  #")[0].rstrip() for line in source.splitlines() if line.strip() and line[0] != "#"]
    assert "\n".join(code) == DEFAULTS


@each_chapter
def test_no_stored_output(path: Path) -> None:
    assert not any(cell.get("outputs") for cell in read_chapter(path).cells)


@each_chapter
def test_what_it_imports_of_ours_is_there(path: Path) -> None:
    code = "\n".join(cell.source for cell in read_chapter(path).cells if cell.cell_type == "code")
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in (
            "book",
            "experiments",
            "nfnets_lite",
        ):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")  # a submodule, or an error that names it


@each_chapter
def test_the_code_it_shows_is_there(path: Path) -> None:
    shown = re.findall(r"```{literalinclude} /(\S+)\n(?::(?!pyobject).*\n)*:pyobject: (\S+)", path.read_text())
    for file, name in shown:
        scope: list[ast.stmt] = ast.parse((REPO / file).read_text()).body
        for part in name.split("."):
            named = [node for node in scope if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == part]
            assert named, f"{file} has no {name}"
            scope = named[0].body


@each_chapter
def test_it_begins_with_its_finding(path: Path) -> None:
    if path.stem in LISTS:
        pytest.skip("a list, whose parts begin with theirs")
    assert re.findall(r"(?m)^## (.+)$", path.read_text())[0] == "Finding"


@each_chapter
def test_one_title(path: Path) -> None:
    text = "\n".join(cell.source for cell in read_chapter(path).cells if cell.cell_type == "markdown")
    assert sum(line.startswith("# ") for line in text.splitlines()) == 1


def test_toc_and_chapters_agree() -> None:
    if not CHAPTERS:
        pytest.skip("no chapter is written yet")
    assert {page.name for page in BOOK.pages() if page.is_chapter} >= {path.stem for path in CHAPTERS}


@each_chapter
def test_its_head_names_the_configs_it_trains(path: Path) -> None:
    trained: set[str] = set()
    for node in ast.walk(ast.parse("\n".join(c.source for c in read_chapter(path).cells if c.cell_type == "code"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "obtain":
            trained |= {arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)}
        if (
            isinstance(node, ast.Assign)
            and ast.unparse(node.targets[0]) == "NAMES"
            and isinstance(node.value, ast.Tuple)
        ):
            trained |= {name.value for name in node.value.elts if isinstance(name, ast.Constant)}
    assert set(front_matter(path).get("configs", [])) == trained
