"""Every public object says what it does, what it takes in the order in which it takes it, what it raises, and how."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from numpydoc.docscrape import get_doc_object
from numpydoc.validate import validate

import nfnets_lite as nf
from nfnets_lite.norm import NORMS

REFERENCE = Path(__file__).resolve().parents[2] / "book" / "reference"
MODULES = (
    *("activations", "adapt", "agc", "averaging", "conv", "convert", "fold", "macs", "models", "norm", "norm.facts"),
    *("norm.variance_constancy", "optim", "pretrained", "pretrained.download", "roles", "sam", "signal"),
    *("standardize", "clip_report"),
)
# Checks of numpydoc that do not hold here. Optional: SA01, ES01. Ours below are wider: PR01, PR02, RT01, EX01.
# One entry may describe several parameters, and name an object that says more: PR04, PR07, PR08. A summary may be a
# noun phrase, whose first word may end in s: SS05.
NOT_ASKED = {"SA01", "ES01", "PR01", "PR02", "RT01", "EX01", "PR04", "PR07", "PR08", "SS05"}
SOURCE = re.compile(r"arXiv\s\d{4}\.\d{5}|\((?:ICLR|ICML|NeurIPS|CVPR|ECCV) (?:19|20)\d\d|Not in the papers")
INTERNAL = {"crc32c"}  # in a public module, but for its neighbours only


def _public() -> dict[str, Any]:
    """Functions and classes by the name under which the reference lists them."""
    found: dict[str, Any] = {}
    for name in MODULES:
        module = importlib.import_module(f"nfnets_lite.{name}")
        for leaf in getattr(module, "__all__", None) or vars(module):
            value = getattr(module, leaf)
            own = hasattr(module, "__all__") or getattr(value, "__module__", "") == module.__name__
            if own and not leaf.startswith("_") and leaf not in INTERNAL and _is_documentable(value):
                found.setdefault(leaf, value)
    return found | {value.__name__: value for value in NORMS.values() if value.__name__ != "<lambda>"}


def _is_documentable(value: object) -> bool:
    return inspect.isclass(value) or inspect.isfunction(value)


PUBLIC = _public()


def text_of(value: object) -> str:
    return inspect.cleandoc(getattr(value, "__doc__", None) or "")


def named(value: object) -> Iterator[str]:
    """Public objects that a docstring names in backticks."""
    for word in re.findall(r"(?<!`)`([\w.]+)(?:\(\))?`(?!`)", text_of(value)):
        if (leaf := word.rpartition(".")[2]) in PUBLIC and PUBLIC[leaf] is not value:
            yield leaf


def listed(value: object, *sections: str) -> set[str]:
    """Names that these sections have entries for."""
    doc = get_doc_object(value)
    entries = [entry for section in sections for entry in doc[section]]
    return {name.strip().lstrip("*") for entry in entries for name in entry.name.split(",")}


def described(value: Any, seen: frozenset[str] = frozenset()) -> set[str]:
    """Parameters described in a docstring, or in that of an object which it names, torch's own among them."""
    found = listed(value, "Parameters", "Attributes") | set(re.findall(r"`(\w+)`", text_of(value)))
    for name in re.findall(r"torch\.nn\.(\w+)", text_of(value)):
        found |= set(inspect.signature(getattr(torch.nn, name)).parameters)
    for name in set(named(value)) - seen:
        found |= described(PUBLIC[name], seen | {name})
    return found


def accepted_by(value: Any) -> set[str]:
    """Names that a call may use: its own, and those that a constructor hands on to the classes it derives from."""
    found = set(inspect.signature(value).parameters)
    for base in inspect.getmro(value) if inspect.isclass(value) else ():
        if "__init__" in vars(base):
            found |= set(inspect.signature(base.__init__).parameters)
    return found


def raised_by(value: Any) -> set[str]:
    """Exceptions that the function, or the class's constructor, raises in its own lines."""
    places = [vars(value).get(name) for name in ("__init__", "__post_init__")] if inspect.isclass(value) else [value]
    found = set()
    for place in filter(None, places):
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(place))))
        except (OSError, TypeError):  # a dataclass's own constructor has no source
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
                found.add(node.exc.func.id)
    return found


def faults(value: Any) -> list[str]:
    """What is wrong with a docstring: by numpydoc, and by our own rules on what an object that it names may say."""
    checks = validate(f"{value.__module__}.{value.__qualname__}")["errors"]
    found = [f"{code} {message}" for code, message in checks if code not in NOT_ASKED]
    texts = [text_of(value), *(text_of(PUBLIC[name]) for name in named(value))]

    unknown = listed(value, "Parameters") - accepted_by(value) - {"..."}
    found += [f"lists {name!r}, which is no parameter" for name in sorted(unknown)]
    wanted = {name for name in inspect.signature(value).parameters if name not in ("self", "args", "kwargs")}
    # The summary describes an only parameter; nobody makes an exception of ours but we.
    if len(wanted) > 1 and not (inspect.isclass(value) and issubclass(value, Exception)):
        found += [f"does not describe {name}" for name in sorted(wanted - described(value))]
    found += [f"raises {error} and does not say so" for error in sorted(raised_by(value)) if error not in str(texts)]
    if ">>>" not in str(texts) and not _is_data(value):
        found.append("no example, and none in an object that the text names")
    if value in NORMS.values() and not any(map(SOURCE.search, texts)):
        found.append("names no source")
    return found


def _is_data(value: Any) -> bool:
    """Made by a function and read: its fields need a description, it needs no example."""
    return is_dataclass(value) or (inspect.isclass(value) and issubclass(value, (tuple, Exception)))


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_docstring(name: str) -> None:
    found = faults(PUBLIC[name])
    assert not found, "\n".join(found)


def test_every_public_name_is_looked_at() -> None:
    assert {name for name in nf.__all__ if _is_documentable(getattr(nf, name))} <= set(PUBLIC)


def test_the_reference_lists_every_public_object_once() -> None:
    pages = "".join(path.read_text() for path in sorted(REFERENCE.glob("*.md")))
    listed = re.findall(r"^\.\. auto(?:function|class|exception):: ([\w.]+)$", pages, re.M)
    values = []
    for path in listed:
        module, _, leaf = path.rpartition(".")
        values.append(getattr(importlib.import_module(module), leaf))
    assert len(values) == len(set(values))
    missing = [name for name, value in PUBLIC.items() if value not in values]
    assert not missing, missing


def half(number: int, digits: int) -> float:
    """Halve a number.

    Parameters
    ----------
    number : int
        What is halved.
    digits : int
        Digits to keep.

    Raises
    ------
    ValueError
        If it is odd.

    Examples
    --------
    >>> half(2, 0)
    1.0
    """
    if number % 2:
        raise ValueError("odd")
    return round(number / 2, digits)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("", "", None),
        ("a number.", "a number", "SS03"),
        ("    digits : int\n        Digits to keep.\n", "", "does not describe digits"),
        ("digits : int", "digit : int", "lists 'digit', which is no parameter"),
        ("ValueError", "TypeError", "raises ValueError"),
        (">>> ", "", "no example"),
        ("Examples\n    --------", "Parameters\n    ----------", "section"),
    ],
)
def test_a_fault_is_found(old: str, new: str, fault: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    text = half.__doc__ or ""
    assert old in text
    monkeypatch.setattr(half, "__doc__", text.replace(old, new, 1) if fault else text)
    if fault == "section":
        with pytest.raises(ValueError, match="appears twice"):
            faults(half)
    else:
        found = "\n".join(faults(half))
        assert fault in found if fault else not found
