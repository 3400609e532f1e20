import ast
from pathlib import Path

import pytest

from experiments import sources


def test_the_hash_covers_what_computes_and_nothing_else() -> None:
    files = {
        path.relative_to(sources.ROOT).as_posix() for path in sources.computing_files("experiments.tasks.training")
    }
    assert {"experiments/tasks/training.py", "experiments/tasks/data.py", "nfnets_lite/models/resnet.py"} <= files
    assert {"nfnets_lite/agc.py", "nfnets_lite/standardize.py", "nfnets_lite/norm/__init__.py"} <= files
    assert not files & {
        "experiments/engine.py",
        "nfnets_lite/fold.py",
        "nfnets_lite/signal.py",
        "nfnets_lite/__init__.py",
    }


def test_it_changes_with_a_file_it_covers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {
        "experiments/tasks/training.py": "from nfnets_lite.a import f\nimport json\n",
        "experiments/tasks/signals.py": "x = 1\n",
        "nfnets_lite/a.py": "from nfnets_lite.sub import b\n",
        "nfnets_lite/sub/__init__.py": "",
        "nfnets_lite/sub/b.py": "x = 1\n",
        "nfnets_lite/other.py": "x = 1\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    hashed = sources.code_hash.__wrapped__
    before, other = hashed("experiments.tasks.training"), hashed("experiments.tasks.signals")
    (tmp_path / "nfnets_lite/other.py").write_text("x = 2\n")
    assert hashed("experiments.tasks.training") == before
    (tmp_path / "nfnets_lite/sub/b.py").write_text("x = 2\n")
    assert hashed("experiments.tasks.training") != before
    assert hashed("experiments.tasks.signals") == other


def test_words_do_not_count_and_code_does() -> None:
    code = "class A:\n    x = 1\n\n    def f(self):\n        return '# no comment'\n"
    worded = (
        '"""A module."""\n\nclass A:\n    """A class.\n\n    Of two paragraphs.\n    """\n\n    x = 1  # one\n'
        "    def f(self):\n        # why\n        return '# no comment'\n"
    )
    assert sources.without_words(worded) == sources.without_words(code)
    assert sources.without_words(code.replace("x = 1", "x = 2")) != sources.without_words(code)
    assert sources.without_words(code.replace("# no", "## no")) != sources.without_words(code)


def test_what_is_left_is_the_same_program() -> None:
    class WithoutDocstrings(ast.NodeTransformer):
        def generic_visit(self, node: ast.AST) -> ast.AST:
            super().generic_visit(node)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
                node.body = node.body[1:]
            return node

    for path in sources.computing_files("experiments.tasks.training"):
        source = path.read_text()
        if any(isinstance(n, ast.ClassDef) and len(n.body) == 1 for n in ast.walk(ast.parse(source))):
            continue  # a class of a docstring alone is no program without it, only a text to compare
        left, whole = ast.parse(sources.without_words(source)), WithoutDocstrings().visit(ast.parse(source))
        assert ast.dump(left) == ast.dump(whole), path
