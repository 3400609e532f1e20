"""The rule language of `claims.yaml`: a condition says what is measured, on which runs, and the bound to meet.

A condition compares records, or computes a number. It compares the records that `plus` and `minus` select. A selection
is a mapping from dotted paths into the record to values (``method: bn`` may be written ``bn``); a list of selections is
added up. The effect is the sum of the means of `plus` minus the sum of the means of `minus`. With ``ratio: true`` it is
the geometric mean of `plus` over that of `minus`. Without `minus` it is the level of `plus`. `where` holds what all
selections share. A value is

- a literal, ``null`` (no value), or a list of literals, over which a seed's runs are averaged;
- ``smallest`` or ``largest`` of the values present, ``any`` (some value), ``mean`` (average over all values);
- ``best`` or ``worst``, by the mean test accuracy (in `plus` and `minus` only);
- ``each`` (in `where` only): one finding for every value present.

`measure` is a metric, a dotted path, one of `SHARES`, or several of these with ``/`` or ``-`` between them, from left
to right; accuracies are in per cent. With `range` the measure is judged over the values of a path: see `Range`. A
computed condition names a function of `experiments.claims.computed` in `compute` and its argument in `of`.

`SHARES` are 1 or 0 for a run, so that their mean is a share of runs. ``diverged``: the loss became not a number.
``failed_to_train``: the run diverged, or ended within two points of chance accuracy. ``loss_falls``: the last loss is
below 0.9 of the first loss and of the loss of guessing. It says that training began, not that the network is good.

The bound (`experiments.claims.bounds`) is one of `at_least`, `below`, `between` and `expected` with its `tolerance` (a
number, or ``5 %`` of the expected number). `expected` may be a mapping of arguments to numbers, with one finding for
each. `partly` is a weaker bound beside `at_least` or `below`: a condition that meets only the weaker one holds in part.
A `guard` must hold for "reproduced"; beside that it counts only in Holm's correction.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from experiments.claims.bounds import Bound, parse_bound
from experiments.claims.computed import COMPUTED

OPERATORS = ("smallest", "largest", "any", "mean", "best", "worst", "each")
ROOTS = ("method", "seed", "status", "sweep", "profile", "config", "metrics", "provenance")
BOUNDS = ("at_least", "below", "between", "expected")
TAKES = ("largest", "best", "width")
SHARES = ("diverged", "failed_to_train", "loss_falls")
CLIPPED = {
    "body": "clipping all but the classifier's weight", "all": "clipping everything",
    "early": "clipping only the earlier half", "late": "clipping only the later half",
}  # fmt: skip
COUNTED = {"size": "images per statistic", "epochs": "epochs", "depth": "blocks"}  # in words, behind their number

Selection = Mapping[str, Any]


@dataclass(frozen=True)
class Range:
    """A number about the usable values of the path `of`: those whose measure is within `within` points of the best.

    `take` is ``largest`` or ``best``, for the base-2 logarithm of the largest usable or of the best value (octaves), or
    ``width``, for the width of the usable values in octaves. With `across`, a value has to be usable at every value of
    these paths.
    """

    of: str
    take: str
    within: float = 0.0
    across: tuple[str, ...] = ()


@dataclass(frozen=True)
class Condition:
    """One condition of a claim; the module's docstring explains its fields."""

    name: str
    bound: Bound
    guard: bool = False
    measure: str = "accuracy"
    where: Selection = field(default_factory=dict)
    plus: tuple[Selection, ...] = ()
    minus: tuple[Selection, ...] = ()
    ratio: bool = False
    range: Range | None = None
    compute: str = ""
    of: str = ""

    @property
    def wanted(self) -> str:
        """The bound; of test accuracies also what is compared, which other conditions say in their names.

        A sum of differences is written as a difference of differences.
        """
        if self.measure in SHARES and not self.minus:
            return f"share of runs: {self.bound.text}"
        if self.compute or self.range is not None or self.measure != "accuracy":
            return self.bound.text
        plus, minus = [_shown(s) for s in self.plus], [_shown(s) for s in self.minus]
        if len(plus) == len(minus) == 2 and (gap := _gap(self.plus, self.minus)):
            compared = gap
        elif len(plus) == len(minus) == 2:
            compared = f"({plus[0]} minus {minus[0]}) minus ({minus[1]} minus {plus[1]})"
        else:
            sides = [" plus ".join(side) for side in (plus, minus) if side]
            compared = (" over " if self.ratio else " minus ").join(sides)
        return f"{compared}: {self.bound.text}"


def parse(entry: Mapping[str, Any], *, precondition: bool = False) -> list[Condition]:
    """The conditions of one entry of the file; an entry has several only if `expected` is a mapping.

    A `precondition` is one of `experiments.claims.regimes`, which may be without `plus`.
    """
    given = dict(entry)
    name = given.get("name", "")
    if not name:
        raise ValueError(f"a condition has no name: {given}")
    known = {f.name for f in fields(Condition)} - {"bound"} | {*BOUNDS, "tolerance", "partly"}
    if unknown := sorted(given.keys() - known):
        raise ValueError(f"condition {name!r} has unknown fields {', '.join(unknown)}; use {', '.join(sorted(known))}")
    if len(bounds := [key for key in BOUNDS if key in given]) != 1:
        raise ValueError(f"condition {name!r} has {len(bounds)} bounds; give it one of {', '.join(BOUNDS)}")
    if bool(given.get("compute")) == ("plus" in given) and not precondition:
        raise ValueError(f"condition {name!r} needs either `plus`, to compare records, or `compute`")
    if given.get("compute", "") not in ("", *COMPUTED):
        raise ValueError(f"condition {name!r}: {given['compute']!r} is not computed; use one of {', '.join(COMPUTED)}")
    expected = given.get("expected")
    if isinstance(expected, Mapping):
        each = [given | {"expected": value, "of": of, "name": f"{name}: {of}"} for of, value in expected.items()]
        return [condition for one in each for condition in parse(one)]
    limits = {key: given.pop(key) for key in (*BOUNDS, "tolerance", "partly") if key in given}
    given["bound"] = replace(parse_bound(name, **limits), null=1.0 if given.get("ratio") else 0.0)
    for side in ("plus", "minus"):
        found = given.get(side, [])
        given[side] = tuple(_selection(name, s) for s in (found if isinstance(found, list) else [found]))
    given["where"] = _selection(name, given.get("where", {}), each=True)
    if "range" in given:
        given["range"] = _range(name, given["range"])
    if given.get("ratio") and (len(given["plus"]), len(given["minus"])) != (1, 1):
        raise ValueError(f"condition {name!r} is a ratio; give it one selection in `plus` and one in `minus`")
    if given.get("measure") in SHARES and ("range" in given or len(given["plus"]) > 1 or len(given["minus"]) > 1):
        raise ValueError(f"condition {name!r} measures a share; compare the runs of at most two selections")
    return [Condition(**given)]


def _selection(name: str, given: Any, *, each: bool = False) -> Selection:
    selection = {"method": given} if isinstance(given, str) else dict(given)
    refused = ("best", "worst") if each else ("each",)
    for path, value in selection.items():
        if path.partition(".")[0] not in ROOTS:
            raise ValueError(f"condition {name!r}: path {path!r} must start with one of {', '.join(ROOTS)}")
        if value in refused:
            place = "`plus` and `minus`" if each else "`where`"
            raise ValueError(f"condition {name!r}: {path}: {value} can stand in {place} only")
    return selection


def _range(name: str, given: Mapping[str, Any]) -> Range:
    try:
        found = Range(**{**given, "across": tuple(given.get("across", ()))})
    except TypeError as error:
        known = ", ".join(f.name for f in fields(Range))
        raise ValueError(f"condition {name!r}: range={dict(given)} needs of and take, of {known}") from error
    if found.take not in TAKES:
        raise ValueError(f"condition {name!r}: take={found.take!r} is not known; use one of {', '.join(TAKES)}")
    return found


def _shown(selection: Selection) -> str:
    """A selection in words, the method as the records name it."""
    parts = [_detail(path.rpartition(".")[2], value) for path, value in selection.items() if path != "method"]
    method, details = str(selection.get("method", "")), ", ".join(parts)
    if not method:
        return f"({details})" if len(parts) > 1 else details
    return f"{method} ({details})" if details else method


def _gap(plus: Sequence[Selection], minus: Sequence[Selection]) -> str:
    """A difference of two methods in one setting, minus that in another setting; empty for other sums."""
    here, there = (selection.get("method") for selection in (plus[0], minus[0]))
    if (minus[1].get("method"), plus[1].get("method")) != (here, there) or not (here and there):
        return ""
    (first, beside), (last, other) = (
        [_shown({path: value for path, value in s.items() if path != "method"}) for s in pair]
        for pair in ((plus[0], minus[0]), (minus[1], plus[1]))
    )
    same = first and last and (first, last) == (beside, other)
    return f"{here} minus {there}, with the {first} minus with the {last}" if same else ""


def _detail(name: str, value: Any) -> str:
    """The last part of a path with its value, in words."""
    if name == "layers" and value in CLIPPED:
        return CLIPPED[value]
    written = f"{value:g}" if isinstance(value, float) else str(value).replace("_", " ")
    if name == "norm":
        return f"{written} norm"
    if name in COUNTED:
        many = {"largest": "most", "smallest": "fewest"}.get(str(value), f"{written} number of")
        return f"{many if value in OPERATORS else written} {COUNTED[name]}"
    return f"{written} {_words(name)}" if value in OPERATORS else f"{_words(name)} {written}"


def _words(path: str) -> str:
    """The last part of a path in words."""
    name = path.rpartition(".")[2]
    return {"lr": "learning rate", "factor": "threshold"}.get(name, name.replace("_", " "))
