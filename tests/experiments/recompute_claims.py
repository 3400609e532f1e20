"""Every condition of every claim once more, from the raw JSON lines: NumPy and SciPy, and none of this project's code.

``python tests/experiments/recompute_claims.py experiments/results/small`` prints a word for each claim. The rules are
read from `claims.yaml`; how they are understood is written here a second time, from the text of
`experiments.claims.rules` and `experiments.claims.regimes`. Numbers that are computed and not recorded are taken as
given.
"""

from __future__ import annotations

import json
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy import stats

ROOT = Path(__file__).resolve().parents[2]
Row = dict[str, Any]
Interval = Callable[[float], "tuple[float, float] | None"]
Given = Mapping[tuple[str, str], float]
ALPHA = 0.05
BITS = ("diverged", "failed_to_train", "loss_falls")


def rows_of(path: Path, runs: Collection[tuple[str, int]] | None = None) -> list[Row]:
    """The last line of each run that is done; with `runs`, of these alone, and none where one of them is missing."""
    found = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            found[row["key"], row["seed"]] = row
    if runs is not None:
        found = {run: found[run] for run in runs if run in found}
        if len(found) < len(runs) or any(row["status"] == "failed" for row in found.values()):
            return []
    return [row for row in found.values() if row["status"] != "failed"]


# What stands in a row, and what is measured on it


def dig(row: Row, path: str) -> Any:
    """What stands at a dotted path."""
    here: Any = row
    for name in path.split("."):
        if isinstance(here, list):
            here = {pair[0]: pair[1] for pair in here if isinstance(pair, list)}
        here = here.get(name) if isinstance(here, dict) else None
    if isinstance(here, list) and not any(isinstance(item, (str, list, dict)) for item in here):
        return sum(here)
    return here


def fate(row: Row) -> tuple[bool, bool, float | None]:
    """Whether a run diverged, whether it diverged or failed to train, and the accuracy of guessing."""
    classes = dig(row, "config.model.num_classes") or dig(row, "config.classes")
    guess = 1 / classes if classes else None
    lost = row["status"] == "diverged"
    near = (
        not lost
        and guess is not None
        and row["config"]["kind"] != "leakprobe"
        and row["metrics"].get("accuracy", 1) <= guess + 0.02
    )
    return lost, lost or near, guess


def number(row: Row, expression: str) -> float:
    """A measure of one row; a KeyError where it is not there."""
    tokens = expression.split()
    total = operand(row, tokens[0])
    for sign, name in zip(tokens[1::2], tokens[2::2]):
        total = total / operand(row, name) if sign == "/" else total - operand(row, name)
    return total


def operand(row: Row, name: str) -> float:
    lost, hopeless, guess = fate(row)
    if name in BITS:
        if name == "loss_falls":
            if lost:
                return 0.0
            first, last = row["metrics"]["initial_loss"], row["metrics"]["train_loss"]
            return float(last < 0.9 * min(first, math.log(1 / guess) if guess else first))
        return float(lost if name == "diverged" else hopeless)
    if name in ("accuracy", "train_accuracy") and hopeless:
        return 100 * (guess or 0)
    if name.endswith("accuracy") and lost:
        return 100 * (guess or 0)
    if name.endswith("loss") and hopeless and guess:
        return math.log(1 / guess)
    value = dig(row, name if "." in name else f"metrics.{name}")
    if value is None:
        raise KeyError(f"{name} of {row['method']}, seed {row['seed']}")
    return float(100 * value if name.endswith("accuracy") else value)


# Selections


def select(rows: Sequence[Row], wanted: Mapping[str, Any]) -> list[Row]:
    """The rows that a selection asks for."""
    kept = list(rows)
    for path, value in wanted.items():
        if isinstance(value, list):
            kept = [row for row in kept if dig(row, path) in value]
        elif value in ("any", "each", "smallest", "largest"):
            kept = [row for row in kept if dig(row, path) is not None]
        elif value not in ("mean", "best", "worst"):
            kept = [row for row in kept if dig(row, path) == value]
    # Ends are those of the rows that all other parts of the selection leave, found for all paths before any is applied.
    ends = {p: (min if v == "smallest" else max) for p, v in wanted.items() if v in ("smallest", "largest")}
    if kept:
        limits = {path: end(dig(row, path) for row in kept) for path, end in ends.items()}
        kept = [row for row in kept if all(dig(row, path) == limit for path, limit in limits.items())]
    for word, end in (("best", max), ("worst", min)):
        paths = [path for path, value in wanted.items() if value == word]
        if paths and kept:
            groups = defaultdict(list)
            for row in kept:
                groups[json.dumps([dig(row, path) for path in paths])].append(row)
            kept = end(groups.values(), key=lambda group: float(np.mean([number(row, "accuracy") for row in group])))
    return kept


def named(selection: Any) -> dict[str, Any]:
    return {"method": selection} if isinstance(selection, str) else dict(selection)


def spots(where: Mapping[str, Any], rows: Sequence[Row]) -> list[list[Row]]:
    """The rows that a condition speaks of: one list, or one for each value that it asks for."""
    wanted = {"config.split": "test", **where}
    kept = select(rows, wanted)
    paths = [path for path, value in wanted.items() if value == "each"]
    if not paths:
        return [kept]
    groups = defaultdict(list)
    for row in kept:
        groups[tuple(dig(row, path) for path in paths)].append(row)
    return [groups[key] for key in sorted(groups)] or [[]]


def octaves(span: Mapping[str, Any], table: Mapping[tuple[Any, ...], float]) -> float:
    """What a range comes to; the keys of the table are the value, and the settings that it goes across."""
    usable = []
    for setting in {key[1:] for key in table}:
        here = {key[0]: accuracy for key, accuracy in table.items() if key[1:] == setting and key[0] is not None}
        slack = 0.0 if span["take"] == "best" else span.get("within", 0.0)
        usable.append({value for value, accuracy in here.items() if accuracy >= max(here.values()) - slack})
    common = set.intersection(*usable)
    if not common:
        return -2.0
    if span["take"] == "width":
        return float(np.log2(max(common)) - np.log2(min(common)))
    return float(np.log2(max(common) if span["take"] == "largest" else min(common)))


def per_seed(condition: Mapping[str, Any], selection: Mapping[str, Any], rows: Sequence[Row]) -> dict[int, float]:
    """The measure of a selection, seed by seed."""
    kept, span = select(rows, selection), condition.get("range")
    expression, found = condition.get("measure", "accuracy"), {}
    for seed in sorted({row["seed"] for row in kept}):
        mine = [row for row in kept if row["seed"] == seed]
        values = [number(row, expression) for row in mine]
        if span:
            keys = [tuple(dig(row, path) for path in (span["of"], *span.get("across", ()))) for row in mine]
            found[seed] = octaves(span, dict(zip(keys, values)))
        else:
            found[seed] = float(np.mean(values))
    return found


# Intervals


def effect_of(condition: Mapping[str, Any], rows: Sequence[Row], every: Sequence[Row]) -> tuple[float, Interval] | None:
    """The effect of a condition and its interval at a level; None where one of its cells has no rows."""
    sides = []
    for sign, name in ((1.0, "plus"), (-1.0, "minus")):
        given = condition.get(name, [])
        sides += [(sign, named(one)) for one in (given if isinstance(given, list) else [given])]
    cells: list[tuple[float, dict[int, float], list[Row]]] = []
    for sign, one in sides:
        twin = next((i for i, (_, other) in enumerate(sides[: len(cells)]) if other == one), None)
        if twin is not None and (same := cells[twin])[0] * sign > 0:
            cells[twin] = (same[0] + sign, same[1], same[2])
            cells.append((0.0, {}, []))
        else:
            cells.append((sign, per_seed(condition, one, rows), select(rows, one)))
    cells = [cell for cell in cells if cell[0]]
    if not all(seeds for _, seeds, _ in cells):
        return None
    expression = condition.get("measure", "accuracy")
    if expression in BITS:
        return shares([[number(row, expression) for row in used] for _, _, used in cells])
    used = [row for _, _, mine in cells for row in mine]
    factors, samples = np.array([factor for factor, _, _ in cells]), [seeds for _, seeds, _ in cells]
    if condition.get("ratio"):
        samples = [{seed: float(np.log(value)) for seed, value in seeds.items()} for seeds in samples]
    common = sorted(set.intersection(*map(set, samples)))
    if len(samples) > 1 and common and pairing(expression, used, every) < 0.8:
        samples = [{seed: float(sum(f * cell[seed] for f, cell in zip(factors, samples))) for seed in common}]
        factors = np.array([1.0])
    center, width = spread(factors, [np.array(list(seeds.values())) for seeds in samples])
    if not condition.get("ratio"):
        return center, lambda level: (center - (w := width(level)), center + w) if width(level) is not None else None
    return (
        math.exp(center),
        lambda level: (
            (math.exp(center - (w := width(level))), math.exp(center + w)) if width(level) is not None else None
        ),
    )


def spread(factors: np.ndarray, samples: Sequence[np.ndarray]) -> tuple[float, Callable[[float], Any]]:
    """A sum of means, and half of its interval by level."""
    center = float(sum(f * sample.mean() for f, sample in zip(factors, samples)))
    sizes = np.array([len(sample) for sample in samples])
    if sizes.min() < 2:
        return center, lambda level: None
    variances = np.array([sample.var(ddof=1) for sample in samples])
    weights = factors**2 / sizes
    alike = len(samples) > 1 and sizes.min() >= 3
    alike = alike and len(set(variances > 0)) == 1  # a sample without spread is pooled with its like only
    if alike and variances.any():
        with np.errstate(all="ignore"):
            alike = not stats.levene(*samples, center="mean").pvalue < ALPHA
    if alike:
        freedom = float((sizes - 1).sum())
        error = math.sqrt((variances * (sizes - 1)).sum() / freedom * weights.sum())
    else:
        parts = weights * variances
        below = (parts**2 / (sizes - 1)).sum()
        error, freedom = math.sqrt(parts.sum()), parts.sum() ** 2 / below if below else 1.0
    return center, lambda level: error and float(-stats.t.isf((1 + level) / 2, freedom)) * error


def shares(sides: Sequence[Sequence[float]]) -> tuple[float, Interval]:
    """A share of runs with Wilson's interval, or the difference of two with Newcombe's."""
    tests = [stats.binomtest(round(sum(side)), len(side)) for side in sides]
    parts = [test.statistic for test in tests]

    def interval(level: float) -> tuple[float, float]:
        ends = [test.proportion_ci(level, "wilson") for test in tests]
        if len(ends) == 1:
            return float(ends[0].low), float(ends[0].high)
        down = math.hypot(parts[0] - ends[0].low, ends[1].high - parts[1])
        up = math.hypot(ends[0].high - parts[0], parts[1] - ends[1].low)
        return parts[0] - parts[1] - down, parts[0] - parts[1] + up

    return parts[0] - (parts[1] if len(parts) > 1 else 0), interval


def pairing(expression: str, used: Sequence[Row], every: Sequence[Row]) -> float:
    """Variance of paired differences over that of independent ones, pair by pair of the cells of a sweep."""
    kinds = {(row["sweep"], row["config"]["split"]) for row in used}
    cells: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    for row in every:
        if (row["sweep"], row["config"]["split"]) in kinds:
            try:
                cells[row["sweep"], row["key"]][row["seed"]] = number(row, expression)
            except KeyError:
                continue
    most = max(len(cell) for cell in cells.values())
    whole = [cell for cell in cells.values() if len(cell) == most]
    seeds = sorted(set.intersection(*map(set, whole)))
    if len(seeds) < 3 or len(whole) < 2:
        return 1.0
    table = np.array([[cell[seed] for seed in seeds] for cell in whole])
    first, second = np.triu_indices(len(table), 1)
    apart = (table[first].var(1, ddof=1) + table[second].var(1, ddof=1)).sum()
    return float((table[first] - table[second]).var(1, ddof=1).sum() / apart) if apart else 1.0


# Bounds and words


def limits(condition: Mapping[str, Any]) -> tuple[float, float, bool]:
    """Both ends of a bound, and whether the upper one is excluded."""
    if "at_least" in condition:
        return condition["at_least"], math.inf, False
    if "below" in condition:
        return -math.inf, condition["below"], True
    if "between" in condition:
        return condition["between"][0], condition["between"][1], False
    middle, slack = condition["expected"], condition.get("tolerance", 0)
    slack = abs(middle) * float(slack.strip(" %")) / 100 if isinstance(slack, str) else slack
    return middle - slack, middle + slack, False


def outcome(condition: Mapping[str, Any], mean: float, ends: tuple[float, float] | None) -> str:
    """What an effect with an interval comes to."""
    if ends is None:
        return "undecided"
    word = held(condition, mean, ends)
    if word != "holds" and "partly" in condition:
        side = "at_least" if "at_least" in condition else "below"
        weaker = {**condition, side: condition["partly"]}
        if held(weaker, mean, ends) == "holds":
            return "in part"
    return word


def held(condition: Mapping[str, Any], mean: float, ends: tuple[float, float]) -> str:
    nothing = 1.0 if condition.get("ratio") else 0.0
    lowest, highest, strict = limits(condition)
    low, high = ends
    if "at_least" in condition:
        if mean >= lowest and (low > nothing if lowest > nothing else low >= lowest):
            return "holds"
        return "fails" if high < lowest else "undecided"
    if low >= lowest and (high < highest if strict else high <= highest):
        return "holds"
    return "fails" if high < lowest or (low >= highest if strict else low > highest) else "undecided"


def together(open_: list[tuple[Mapping[str, Any], float, Interval]]) -> list[tuple[str, tuple[float, float] | None]]:
    """Words and intervals of the conditions of a claim, by Holm's procedure on the error at which each is decided."""

    def word(i: int, error: float) -> str:
        condition, mean, interval = open_[i]
        return outcome(condition, mean, interval(1 - error))

    errors = {}
    for i, (_, _, interval) in enumerate(open_):
        if interval(0.95) is None:
            continue
        low, high = 1e-12, ALPHA
        if word(i, high) == "undecided":
            errors[i] = 1.0
            continue
        for _ in range(50):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if word(i, middle) == "undecided" else (low, middle)
        errors[i] = high
    level = dict.fromkeys(range(len(open_)), ALPHA)
    left = sorted(errors, key=errors.__getitem__)
    while left:
        share = ALPHA / len(left)
        level |= dict.fromkeys(left, share)
        rest = [i for i in left if errors[i] > share * (1 + 1e-9)]
        if len(rest) == len(left):
            break
        left = rest
    return [(word(i, level[i]), open_[i][2](1 - level[i])) for i in range(len(open_))]


def judge(claim: Mapping[str, Any], regimes: Mapping[str, Any], rows: Sequence[Row], given: Given) -> Row:
    """The word on a claim, and every number that it rests on."""
    flat = []
    for condition in claim.get("conditions", []):
        expected = condition.get("expected")
        if isinstance(expected, dict):
            flat += [{**condition, "expected": value, "of": of} for of, value in expected.items()]
        else:
            flat.append(condition)
    found: list[Row] = []
    open_ = []
    for condition in flat:
        if "compute" in condition:
            value = given.get((condition["compute"], condition.get("of", "")))
            ends = None if value is None else (value, value)
            word = "not tested" if value is None else outcome(condition, value, ends)
            found.append({"condition": condition, "mean": value, "ends": ends, "word": word, "rows": []})
            continue
        for here in spots(condition.get("where", {}), rows):
            effect = effect_of(condition, here, rows)
            entry: Row = {"condition": condition, "mean": None, "ends": None, "word": "not tested", "rows": []}
            if effect is not None:
                sides = [condition.get("plus", []), condition.get("minus", [])]
                picks = [one for side in sides for one in (side if isinstance(side, list) else [side])]
                entry |= {"mean": effect[0], "rows": [row for one in picks for row in select(here, named(one))]}
                open_.append((len(found), (condition, *effect)))
            found.append(entry)
    for (at, _), (word, ends) in zip(open_, together([one for _, one in open_])):
        found[at] |= {"word": word, "ends": ends}
    gates = [gate(line, regimes, found, rows) for line in claim.get("regime", [])]
    return {"word": word_of(claim, found, gates), "findings": found, "regime": gates}


def word_of(claim: Mapping[str, Any], found: Sequence[Row], gates: Sequence[Row]) -> str:
    main = [one for one in found if not one["condition"].get("guard")]
    if all(one["mean"] is None for one in main):
        return "out of reach" if claim.get("why") else "not tested"
    if not all(one["met"] for one in gates):
        return "regime not reached"
    if any(one["mean"] is None for one in found):
        return "undecided"
    words = [one["word"] for one in main]
    if all(one["word"] == "holds" for one in found):
        return "reproduced"
    if "holds" in words or "in part" in words:
        return "partly"
    return "undecided" if "undecided" in words else "not reproduced"


def gate(line: Any, regimes: Mapping[str, Any], found: Sequence[Row], rows: Sequence[Row]) -> Row:
    """One precondition: the worst value among its cells, and whether all of them meet its bound."""
    entry = {"as": line} if isinstance(line, str) else line
    entry = {**regimes.get(entry.get("as"), {}), **entry}
    expression, values = entry.get("measure", "accuracy"), []
    lowest, highest, _ = limits(entry)
    if expression.startswith("half_width"):
        for one in found:
            if one["word"] == "undecided" and one["ends"] is not None:
                half = (one["ends"][1] - one["ends"][0]) / 2
                low, high, _ = limits(one["condition"])
                asked = (high - low) / 2 if math.isfinite(high - low) else abs(low if math.isfinite(low) else high)
                if expression == "half_width":
                    values.append(half)
                elif asked:
                    values.append(half / asked)
    else:
        pool = rows if "plus" in entry else [row for one in found for row in one["rows"]]
        wanted = {"config.split": "test", **entry.get("where", {}), **named(entry.get("plus", {}))}
        cells: dict[str, dict[int, float]] = defaultdict(dict)
        for row in select(pool, wanted):
            if expression == "at_grid_end":
                if (end := at_grid_end(row, rows)) is not None:
                    cells[row["sweep"] + row["key"]][row["seed"]] = end
            elif row["status"] != "diverged" or expression in BITS or "accuracy" in expression or has(row, expression):
                cells[row["sweep"] + row["key"]][row["seed"]] = number(row, expression)
        values = [float(np.mean(list(cell.values()))) for cell in cells.values()]
    off = [max(0.0, lowest - value, value - highest) for value in values]
    if not values:
        return {"value": None, "met": expression.startswith("half_width")}
    return {"value": values[int(np.argmax(off))], "met": max(off) == 0}


def has(row: Row, expression: str) -> bool:
    return all(dig(row, name if "." in name else f"metrics.{name}") is not None for name in expression.split()[::2])


def at_grid_end(row: Row, rows: Sequence[Row]) -> float | None:
    """Whether the rate or the threshold of a run is an end of what was searched for its cell."""

    def shared(one: Row, *but: str) -> tuple[Any, ...]:
        config, recipe = one["config"], one["config"]["recipe"]
        clip = recipe.get("clip")
        return (
            one["sweep"], one["method"], {k: v for k, v in config.items() if k not in ("split", "recipe")},
            {k: v for k, v in recipe.items() if k not in ("lr", "filter_lr", "clip", *but)},
            {k: v for k, v in clip.items() if k != "factor"} if isinstance(clip, dict) else bool(clip),
        )  # fmt: skip

    searched = [one for one in rows if one["config"]["split"] == "validation" and one["method"] == row["method"]]
    tried = [one for one in searched if shared(one) == shared(row)]
    if not tried:  # a search of another length may serve
        tried = [one for one in searched if shared(one, "epochs", "updates") == shared(row, "epochs", "updates")]
    if not tried:
        return None
    for path in ("config.recipe.lr", "config.recipe.filter_lr", "config.recipe.clip.factor", "config.recipe.clip"):
        values = {value for one in tried if isinstance(value := dig(one, path), (int, float))}
        if len(values) > 1 and (dig(row, path) == min(values) or dig(row, path) == max(values)):
            return 1.0
    return 0.0


def recompute(
    folder: Path,
    given: Given,
    runs: Callable[[str], Collection[tuple[str, int]] | None] = lambda name: None,
    only: Collection[str] = (),
) -> dict[str, Row]:
    """Every claim, or only some, by the records of one folder."""
    text = yaml.safe_load((ROOT / "experiments" / "claims" / "claims.yaml").read_text(encoding="utf-8"))
    files: dict[str, list[Row]] = {}
    found = {}
    for claim in [one for one in text["claims"] if not only or one["id"] in only]:
        configs = claim.get("config", [])
        names = [configs] if isinstance(configs, str) else configs
        for name in names:
            files.setdefault(name, rows_of(folder / f"{name}.jsonl", runs(name)))
        found[claim["id"]] = judge(claim, text["regimes"], [row for name in names for row in files[name]], given)
    return found


if __name__ == "__main__":
    for name, judged in recompute(Path(sys.argv[1]), {}).items():
        computed = any("compute" in one["condition"] for one in judged["findings"])
        print(f"{name}: {judged['word']}{', its computed numbers left out' if computed else ''}")
