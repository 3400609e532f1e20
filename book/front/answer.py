"""The answer and the table of situations on the first page and in the README, from the committed verdicts."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import yaml

from experiments import claims
from experiments.claims import Claim, Verdict
from experiments.obtain import RESULTS

SITUATIONS = Path(__file__).resolve().parents[1] / "situations.yaml"
Link = Callable[[Claim], str]

# Answers to the question of the book by a claim's verdict; "" stands for all verdicts that do not settle it.
SAID = {
    "BD-1": {
        "reproduced": "Not for accuracy, given time: in our small network on CIFAR-10, a normalizer-free network with "
        "adaptive gradient clipping ends within a point of batch norm if it trains long enough",
        "not reproduced": "For accuracy, yes: a normalizer-free network with adaptive gradient clipping stays below "
        "batch norm even in the longest training measured",
        "": "Not settled yet: the trainings recorded so far do not decide whether a normalizer-free network reaches "
        "batch norm's accuracy",
    },
    "NF-8": {
        "reproduced": "At every batch size measured, clipping keeps a normalizer-free network level with batch norm",
        "not reproduced": "Clipping does not keep a normalizer-free network level with batch norm at large batch sizes",
        "": "It is open whether a normalizer-free network with gradient clipping matches batch norm at large batch "
        "sizes",
    },
}


def answer(verdicts: Sequence[Verdict], link: Link) -> str:
    """Three sentences that answer the book's question, the first two with the verdict behind them."""
    found = {v.claim.id: v for v in verdicts}
    trained = [v for v in verdicts if v.tested and v.seeds]
    small = sum(v.verdict == "regime not reached" for v in trained)
    said = [(found[name], words.get(found[name].verdict, words[""])) for name, words in SAID.items()]
    return " ".join(
        [
            *(f"{text} ({link(v.claim)}: *{v.verdict}*)." for v, text in said),
            f"Of the {len(trained)} claims tested by runs, {small} are not judged: their runs miss a precondition.",
        ]
    )


def situations(verdicts: Sequence[Verdict], link: Link, measured: Mapping[str, str]) -> str:
    """A table in Markdown: the situation, what to use, the verdicts behind this advice, and the limits of evidence.

    A name in braces in the limits is replaced by the sentence of that name in `measured`.
    """
    found = {v.claim.id: v for v in verdicts}
    header = ["your situation", "what to use", "evidence here", "limits of this evidence"]
    rows = [[s["situation"], s["do"], evidence(s, found, link), s["stops"].format_map(measured)] for s in read()]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])


def read() -> list[Mapping[str, str]]:
    """The situations of `situations.yaml`."""
    found: list[Mapping[str, str]] = yaml.safe_load(SITUATIONS.read_text(encoding="utf-8"))
    return found


def evidence(situation: Mapping[str, str], found: Mapping[str, Verdict], link: Link) -> str:
    """The verdicts on the claims of one situation, as links in one line; each that does not count yet says so."""
    named = [found[name] for name in situation["claims"]]
    return ", ".join(f"{link(v.claim)} *{v.verdict}*{f' ({v.scale})' if v.scale else ''}" for v in named) or "none"


def committed() -> list[Verdict]:
    """The verdicts from the committed records, each at the largest profile recorded."""
    return claims.verdicts(RESULTS)


def in_book(claim: Claim) -> str:
    """A claim's id as a link of the book."""
    return f"{{doc}}`{claim.id} <chapters/{claim.chapter or 'verdicts'}>`"


def in_repository(claim: Claim) -> str:
    """A claim's id as a link of the README."""
    return f"[{claim.id}](book/chapters/{claim.chapter or 'verdicts'}.md)"
