"""Every public object says what it does, what it takes in the order in which it takes it, what it raises, and how."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import nfnets_lite as nf
from nfnets_lite.norm import NORMS

REFERENCE = Path(__file__).resolve().parents[2] / "book" / "reference"
MODULES = (
    *("activations", "adapt", "agc", "averaging", "conv", "convert", "fold", "macs", "models", "norm"),
    *("norm.variance_constancy", "optim", "pretrained", "pretrained.download", "roles", "sam", "signal"),
    *("standardize", "clip_report"),
)
ORDER = ["Parameters", "Attributes", "Returns", "Yields", "Raises", "Notes", "Examples"]
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


@dataclass(frozen=True)
class Doc:
    """A docstring in numpydoc's form, taken apart."""

    text: str
    headings: list[str]
    sections: dict[str, list[str]]

    def entries(self, section: str) -> list[list[str]]:
        """Names that a section lists, those of one entry together: a line at the margin, up to the colon."""
        lines = [line for line in self.sections.get(section, []) if line and not line[0].isspace()]
        return [[name.strip().lstrip("*") for name in line.split(" : ")[0].split(",")] for line in lines]

    def described(self) -> set[str]:
        """Parameters and attributes that it has an entry for, or names in backticks."""
        listed = {name for section in ("Parameters", "Attributes") for entry in self.entries(section) for name in entry}
        return listed | set(re.findall(r"`(\w+)`", self.text))

    def references(self, public: dict[str, Any]) -> Iterator[str]:
        """Public objects that the text names in backticks."""
        for word in re.findall(r"(?<!`)`([\w.]+)(?:\(\))?`(?!`)", self.text):
            leaf = word.rpartition(".")[2]
            if leaf in public:
                yield leaf


def take_apart(value: object) -> Doc:
    lines = inspect.cleandoc(getattr(value, "__doc__", None) or "").splitlines()
    heads = [i for i, line in enumerate(lines[1:]) if re.fullmatch(r"-{3,}", line)]
    sections = {lines[i]: lines[i + 2 : end] for i, end in zip(heads, [*heads[1:], len(lines)])}
    return Doc("\n".join(lines), [lines[i] for i in heads], sections)


def parameters_of(value: Any) -> list[str]:
    names = list(inspect.signature(value).parameters.values())
    return [p.name for p in names if p.name not in ("self", "args", "kwargs")]


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


def described(value: Any, public: dict[str, Any], seen: frozenset[str] = frozenset()) -> set[str]:
    """Parameters described in a docstring, or in that of an object which it names, torch's own among them."""
    doc = take_apart(value)
    found = doc.described()
    for name in re.findall(r"torch\.nn\.(\w+)", doc.text):
        found |= set(inspect.signature(getattr(torch.nn, name)).parameters)
    for name in set(doc.references(public)) - seen:
        found |= described(public[name], public, seen | {name})
    return found


def faults(value: Any, public: dict[str, Any]) -> list[str]:
    """What is wrong with an object's docstring, in words; empty if nothing is."""
    doc = take_apart(value)
    if not doc.text:
        return ["there is no docstring"]
    found = list(_faults_of_form(doc))
    others = [take_apart(public[other]) for other in doc.references(public) if public[other] is not value]

    attributes = _is_data(value) and "Parameters" not in doc.sections
    listed, wanted = doc.entries("Attributes" if attributes else "Parameters"), parameters_of(value)
    unknown = {name for entry in listed for name in entry} - accepted_by(value) - {"..."}
    if not attributes or unknown - set(dir(value)):
        found += [f"lists {name!r}, which is no parameter" for name in sorted(unknown)]
    for names in ([entry[0] for entry in listed], *listed):
        ours = [name for name in names if name in wanted]
        if ours != sorted(ours, key=wanted.index):
            found.append(f"lists parameters in another order than the signature: {', '.join(ours)}")
    silent = [name for name in wanted if name not in described(value, public)]
    # The summary describes an only parameter; nobody makes an exception of ours but we.
    if silent and len(wanted) > 1 and not (inspect.isclass(value) and issubclass(value, Exception)):
        found.append(f"not described, here or in an object that the text names: {', '.join(silent)}")

    told = " ".join(doc.sections.get("Raises", []) + [line for o in others for line in o.sections.get("Raises", [])])
    found += [f"raises {error} and does not say so" for error in sorted(raised_by(value)) if error not in told]
    silent_on_value = not {"Returns", "Yields"} & set(doc.headings) and not _summary_is_the_value(doc)
    if "Parameters" in doc.sections and _returns_something(value) and silent_on_value:
        found.append("does not say what it returns")
    if ">>>" not in doc.text and not _is_data(value) and not any(">>>" in other.text for other in others):
        found.append("no example, and none in an object that the text names")
    if value in NORMS.values() and not SOURCE.search(doc.text) and not any(SOURCE.search(o.text) for o in others):
        found.append("names no source")
    return found


def _faults_of_form(doc: Doc) -> Iterator[str]:
    first, *rest = doc.text.splitlines()
    if not first.endswith((".", ":")) or len(first) > 120:
        yield "the first line is not one sentence that ends in a full stop"
    if rest and rest[0]:
        yield "the first line is not followed by an empty one"
    known = [heading for heading in doc.headings if heading in ORDER]
    yield from (f"{heading!r} is no section" for heading in doc.headings if heading not in ORDER)
    if known != sorted(known, key=ORDER.index) or len(known) != len(set(known)):
        yield f"sections are not in order: {', '.join(known)}"
    lines = doc.text.splitlines()
    for heading in known:
        if len(lines[lines.index(heading) + 1]) != len(heading):
            yield f"the line under {heading!r} is not as long as it"


def _is_data(value: Any) -> bool:
    """Made by a function and read: its fields need a description, it needs no example."""
    return is_dataclass(value) or (inspect.isclass(value) and issubclass(value, (tuple, Exception)))


def _returns_something(value: Any) -> bool:
    return inspect.isfunction(value) and inspect.signature(value).return_annotation not in (None, "None")


def _summary_is_the_value(doc: Doc) -> bool:
    """A summary such as `Gain that keeps ...` or `A normalisation layer for ...`: a thing, not something to do."""
    first = doc.text.split()[0].lower()
    return first not in VERBS


VERBS = {"load", "measure", "clip", "have", "tell", "write", "probe", "make", "give", "compute", "return", "count"}


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_docstring(name: str) -> None:
    found = faults(PUBLIC[name], PUBLIC)
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


def _sum(a: int, b: int) -> int:
    """Sum of two numbers.

    Parameters
    ----------
    a, b : int

    Raises
    ------
    ValueError
        If one is negative.

    Examples
    --------
    >>> _sum(1, 2)
    3
    """
    if a < 0 or b < 0:
        raise ValueError("negative")
    return a + b


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("", "", None),
        ("numbers.", "numbers", "full stop"),
        ("numbers.\n", "numbers.\n    And more.", "not followed by an empty one"),
        ("a, b : int", "a : int", "not described, here or in an object that the text names: b"),
        ("a, b : int", "b, a : int", "another order"),
        ("a, b : int", "a, b, c : int", "'c', which is no parameter"),
        ("ValueError", "TypeError", "raises ValueError"),
        (">>> ", "", "no example"),
        ("Raises\n    ------", "Errors\n    ------", "'Errors' is no section"),
        ("Raises\n    ------", "Raises\n    ---", "not as long"),
        ("Examples\n    --------", "Parameters\n    ----------", "not in order"),
        ("Sum of", "Return the sum of", "what it returns"),
    ],
)
def test_a_fault_is_found(old: str, new: str, fault: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    text = _sum.__doc__ or ""
    assert old in text
    monkeypatch.setattr(_sum, "__doc__", text.replace(old, new, 1) if fault else text)
    found = "\n".join(faults(_sum, {}))
    assert fault in found if fault else not found
