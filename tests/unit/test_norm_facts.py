"""What `facts` finds out by trying, against what is known of every norm."""

import pytest
import torch

from nfnets_lite.norm import NORMS
from nfnets_lite.norm.facts import Facts, facts

BATCH = Facts(
    couples_examples=True,
    keeps_buffers=True,
    per_example_gradients=False,
    folds=True,
    same_in_training_and_evaluation=False,
)
EXAMPLE = Facts(
    couples_examples=False,
    keeps_buffers=False,
    per_example_gradients=True,
    folds=False,
    same_in_training_and_evaluation=True,
)
EXPECTED = {
    "none": Facts(False, False, True, True, True),
    "batch": BATCH,
    "sync_batch": BATCH,
    "ghost_batch": BATCH,
    "batch_renorm": BATCH,
    "group": EXAMPLE,
    "layer": EXAMPLE,
    "layer2d": EXAMPLE,
    "instance": EXAMPLE,
    "frn": EXAMPLE,
    "evonorm_b0": Facts(True, True, False, False, False),
    "evonorm_s0": EXAMPLE,
    "batch_channel": Facts(True, True, False, False, False),  # coupled by values, not by gradients
    "power": BATCH,
    "unified": BATCH,
    "prepbn": BATCH,
    "ibn_a": Facts(True, True, False, False, False),
    "ibn_b": EXAMPLE,
    "ada_batch": BATCH,
    "dyt": EXAMPLE,
    "derf": EXAMPLE,
}


@pytest.mark.parametrize("name", NORMS)
def test_facts_are_found(name: str) -> None:
    assert facts(name) == EXPECTED[name]


def test_options_reach_the_norm() -> None:
    assert facts("ghost_batch", size=1) == Facts(False, True, False, True, False)  # instance norm, with averages
    assert facts("ghost_batch", size=48).couples_examples
    assert not facts("power", groups=2).folds
    assert facts("power", warmup=0.0).same_in_training_and_evaluation
    with pytest.raises(ValueError, match="groups=3 does not divide channels=8"):
        facts("group", groups=3)


def test_probing_leaves_the_random_numbers_alone() -> None:
    torch.manual_seed(4)
    before = torch.get_rng_state()
    facts("batch")
    assert torch.equal(torch.get_rng_state(), before)
