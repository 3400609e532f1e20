"""The claims of `claims.yaml` as data, each with the rule that decides it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from experiments import configs
from experiments.claims.regimes import named, precondition
from experiments.claims.rules import Condition, parse
from experiments.profiles import PROFILES

CLAIMS = Path(__file__).with_name("claims.yaml")


@dataclass(frozen=True)
class Claim:
    """A claim of a paper: its statement and source, and the conditions that decide it.

    Attributes
    ----------
    paper, setting : str
        The paper's numbers, and the data and training that they come from.
    second_hand : str
        Numbers that others report about the paper, or that were not checked against it. No rule rests on them.
    configs : tuple of str
        The configs whose records are judged; empty if the conditions are computed or no config tests the claim.
    verdict_from : str
        The smallest profile from which a verdict counts.
    chapter : str
        The chapter of the book about the claim.
    regime : tuple of Condition
        What the runs must have reached before the conditions say anything; see `experiments.claims.regimes`.
    why : str
        Why the claim is out of reach here; empty if it is not.
    note : str
        Where the rule deviates from the claim or from the paper's experiment.
    """

    id: str
    statement: str
    source: str
    paper: str
    verdict_from: str
    second_hand: str = ""
    setting: str = ""
    chapter: str = ""
    configs: tuple[str, ...] = ()
    regime: tuple[Condition, ...] = ()
    conditions: tuple[Condition, ...] = ()
    why: str = ""
    note: str = ""


@cache
def claims() -> dict[str, Claim]:
    """All claims by id, in the order of the file."""
    return load(CLAIMS.read_text(encoding="utf-8"))


def load(text: str) -> dict[str, Claim]:
    """The claims of a YAML text; a ValueError names a claim that has an unknown field or config, or no rule."""
    found: dict[str, Claim] = {}
    given = yaml.safe_load(text)
    regimes = named(given.get("regimes", {}))
    for entry in given["claims"]:
        name = entry.get("id", "")
        try:
            if not name or name in found:
                raise ValueError("its id is missing" if not name else "its id is given twice")
            found[name] = _claim(entry, regimes)
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"claim {name or entry!r}: {error}") from error
    return found


def _claim(entry: Mapping[str, Any], regimes: Mapping[str, Mapping[str, Any]]) -> Claim:
    given = dict(entry)
    known = {"config", *(f.name for f in fields(Claim))} - {"configs"}
    if unknown := sorted(given.keys() - known):
        raise ValueError(f"unknown fields {', '.join(unknown)}; use {', '.join(sorted(known))}")
    names = given.pop("config", [])
    given["configs"] = (names,) if isinstance(names, str) else tuple(names)
    known_configs = configs.names()
    for name in given["configs"]:
        if name not in known_configs:
            raise ValueError(f"config {name!r} is not known; use one of {', '.join(known_configs)}")
    given["conditions"] = tuple(c for condition in given.get("conditions", []) for c in parse(condition))
    given["regime"] = tuple(precondition(one, regimes) for one in given.get("regime", []))
    if not given["conditions"] and not given.get("why"):
        raise ValueError("has no rule: give it conditions, or say in `why` why it is out of reach")
    if given.get("verdict_from") not in PROFILES:
        raise ValueError(f"verdict_from={given.get('verdict_from')!r} is no profile; use one of {', '.join(PROFILES)}")
    return Claim(**given)
