"""Which source files a recorded number depends on, found by following imports, and their hash."""

import ast
import hashlib
import io
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What only schedules, stores, judges or draws may change without making a record stale, and so may the parts of the
# package that a kind of run does not import.
FOLLOWED = ("nfnets_lite", "experiments.tasks", "experiments.large")


@cache
def code_hash(module: str) -> str:
    """Hash of the source that computes the runs whose class is in a module: a record with another one is stale."""
    digest = hashlib.sha256()
    for path in computing_files(module):
        code = without_words(path.read_text(encoding="utf-8"))
        digest.update(f"{path.relative_to(ROOT).as_posix()}\0{code}\0".encode())
    return digest.hexdigest()[:16]


def without_words(source: str) -> str:
    """A module's source without its docstrings, comments and empty lines: what a better word cannot change.

    Examples
    --------
    >>> without_words("x = 1  # one")
    'x = 1'
    """
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            words = node.body[0]
            lines[words.lineno - 1 : words.end_lineno] = [""] * ((words.end_lineno or words.lineno) - words.lineno + 1)
    return "\n".join(line.rstrip() for line in lines if line.strip())


def computing_files(module: str) -> list[Path]:
    """The module's file and every file of the package and of the tasks that it imports, directly or through others."""
    found: set[Path] = set()
    todo = [ROOT / f"{module.replace('.', '/')}.py"]
    while todo:
        path = todo.pop()
        if path not in found:
            found.add(path)
            todo += [ROOT / file for name in _imports(path) if (file := _file(name))]
    return sorted(found)


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)  # a name may be a submodule


def _file(module: str) -> str | None:
    """The module's file; None for other packages, for names that are no modules, and for the package's re-exports."""
    if module in FOLLOWED or not module.startswith(tuple(f"{name}." for name in FOLLOWED)):
        return None
    path = module.replace(".", "/")
    return next((file for file in (f"{path}.py", f"{path}/__init__.py") if (ROOT / file).is_file()), None)
