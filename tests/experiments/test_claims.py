from dataclasses import replace

import pytest

from experiments import claims
from experiments.records import Record


def final(method: str, size: int, accuracies: list[float]) -> list[Record]:
    config = {"model": {"num_classes": 10}, "split": "test", "recipe": {"batch_size": size}}
    return [
        Record("batch_size", "gpu", method, f"{method}{size}", seed, "ok", "", config, {"accuracy": a}, {}, {})
        for seed, a in enumerate(accuracies)
    ]


def sweep(nf: float, agc: float, small: float = 0.901, noise: float = 0.001) -> list[Record]:
    """BN at 0.9 everywhere; NF and NF + AGC as given at batch 4096, 0.9 and `small` at batch 64."""
    wiggle = [-noise, 0.0, noise, 0.5 * noise, -0.5 * noise]
    cells = {("bn", 4096): 0.9, ("nf", 4096): nf, ("nf_agc", 4096): agc}
    cells |= {("bn", 64): 0.9, ("nf", 64): 0.9, ("nf_agc", 64): small}
    return [
        record
        for i, ((method, size), mean) in enumerate(cells.items())
        for record in final(method, size, [mean + w * (-1) ** i * (1 + i) for w in wiggle])
    ]


@pytest.mark.parametrize(
    ("records", "verdict"),
    [
        (sweep(nf=0.85, agc=0.90), "reproduced"),
        (sweep(nf=0.85, agc=0.88), "partly"),
        (sweep(nf=0.898, agc=0.899), "partly"),  # level with BN, but clipping was not needed
        (sweep(nf=0.85, agc=0.84), "not reproduced"),
        (sweep(nf=0.85, agc=0.90, small=0.95), "partly"),  # the guard: clipping helps at the small batch as well
        (sweep(nf=0.85, agc=0.90, noise=0.2), "undecided"),
        ([], "not tested"),
    ],
)
def test_every_verdict(records: list[Record], verdict: str) -> None:
    assert claims.judge("NF-8", records, "gpu").verdict == verdict


def test_one_seed_decides_nothing() -> None:
    one = [r for r in sweep(nf=0.5, agc=0.9) if r.seed == 0]
    assert claims.judge("NF-8", one, "gpu").verdict == "undecided"


def test_search_runs_are_never_judged() -> None:
    searched = [replace(r, config={**r.config, "split": "validation"}) for r in sweep(nf=0.85, agc=0.9)]
    assert claims.judge("NF-8", searched, "gpu").verdict == "not tested"


def test_a_small_profile_says_so() -> None:
    assert "smoke scale only" in claims.judge("NF-8", sweep(0.85, 0.9), "smoke").scale
    assert claims.judge("NF-8", sweep(0.85, 0.9), "gpu").scale == ""


def test_unknown_claim_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"claim 'NF-99' is not known; use one of NF-8"):
        claims.judge("NF-99", [], "smoke")


def test_claims_name_configs_that_exist() -> None:
    from experiments import config

    for claim in claims.claims().values():
        assert claim.config in config.names()
        for condition in claim.conditions:
            assert ("at_least" in condition) != ("below" in condition)
