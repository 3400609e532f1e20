"""Families of methods, found by trying a network, against what is known of them."""

from dataclasses import replace

import matplotlib
import matplotlib.pyplot as plt
import pytest
import torch

from book.figures.families import FAMILIES, dots, family
from experiments.records import estimate
from nfnets_lite.models import model_spec

SPEC = model_spec("cifar_resnet8", width=(4, 4, 8), stem_width=4)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("bn", "across the batch"),
        ("bcn", "across the batch"),  # by values alone, not by gradients
        ("prepbn", "across the batch"),  # not at its start
        ("ibn_b", "across the batch"),  # by its other norms
        ("gn", "within an image"),
        ("ln2d", "within an image"),
        ("dyt", "element-wise"),
        ("nf", "no norm"),
        ("rescale", "no norm"),
    ],
)
def test_family(method: str, expected: str) -> None:
    assert family(SPEC.with_method(method), 12) == expected


def test_ghost_batches_of_one_image_keep_apart() -> None:
    ghost = SPEC.with_method("ghost_bn")
    assert family(replace(ghost, norm_options={"size": 1}), 12) == "within an image"
    for size in (4, 16):  # the second does not fit into the probe's usual batch
        assert family(replace(ghost, norm_options={"size": size}), 12) == "across the batch"


def test_probing_leaves_the_random_numbers_alone() -> None:
    before = torch.get_rng_state()
    family(SPEC.with_method("bn"), 12)
    assert torch.equal(torch.get_rng_state(), before)


def test_dots_are_sorted_and_open_where_a_seed_diverged() -> None:
    matplotlib.use("Agg")
    found = {"gn": estimate([80.0, 82.0, 84.0]), "bn": estimate([90.0]), "nf": estimate([50.0, 10.0, 60.0], diverged=1)}
    fig, order = dots({"gn": "within an image", "bn": "across the batch", "nf": "no norm"}, found)
    (ax,) = fig.axes
    assert order == ["bn", "gn", "nf"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["NF", "GN", "BN"]
    (hollow,) = [line for line in ax.lines if line.get_markerfacecolor() == "white"]
    assert (list(hollow.get_xdata()), list(hollow.get_ydata())) == ([40.0], [0])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [f for f in FAMILIES if f != "element-wise"]
    assert 0 <= ax.get_xlim()[0] < ax.get_xlim()[1] <= 100
    plt.close(fig)
