"""What a chapter costs is said before it starts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from book.tool.build import Request, plan
from book.tool.layout import Book
from book.tool.prices import price, price_of_config
from experiments import configs
from experiments.profiles import PROFILES

REPO = Path(__file__).resolve().parents[2]
BOOK = Book(REPO, REPO / "book", REPO / "book" / "_build")


@pytest.mark.parametrize("name", configs.names())
def test_every_config_says_it_for_every_profile(name: str) -> None:
    for profile in PROFILES:
        said = price_of_config(BOOK, name, profile)
        assert re.fullmatch(r"(\d+ (s|minutes?|hours|days)|hours|days|weeks|months)( on 2 cores)?", said), (
            profile,
            said,
        )


def test_a_chapter_says_what_each_of_its_configs_costs() -> None:
    for request, prices in [
        (
            Request("gpu", True, chapters=("small_batches",)),
            ["statistics_batch", "two_modes", "few_images"],
        ),
        (Request("gpu", False, chapters=("small_batches",)), []),  # records are read at no cost
    ]:
        _, (job,) = plan(BOOK, request, PROFILES)
        said = [part.split()[0] for part in price(BOOK, job).split(", ") if part]
        assert said == prices
    _, (guide,) = plan(BOOK, Request(chapters=("agc_recipes",)), PROFILES)
    assert price(BOOK, guide) == "15 s"
