"""Activations, depth-wise convolutions, collapse, finer rates: the sweeps ask what their configs say."""

from itertools import pairwise

import pytest
from torch import nn

from experiments import configs
from experiments.profiles import PROFILES
from nfnets_lite import ScaledStdConv2d, create_model

each_profile = pytest.mark.parametrize("profile", PROFILES)


@each_profile
def test_activations_differ_in_nothing_else(profile: str) -> None:
    sweep = configs.sweep("activations", profile)
    by_method: dict[str, list[dict[str, object]]] = {}
    for cell in sweep.cells:
        resolved = {**cell.resolved, "model": {**cell.resolved["model"], "activation": ""}}
        by_method.setdefault(cell.method, []).append(resolved)
    assert {method: len(cells) for method, cells in by_method.items()} == {"nf_agc": 3, "bn": 3}
    assert all(other == cells[0] for cells in by_method.values() for other in cells)
    assert len({cell.key for cell in sweep.cells}) == 6


@each_profile
def test_depth_wise_networks_share_their_shape_and_budget(profile: str) -> None:
    sweep = configs.sweep("depthwise", profile)
    three = {cell.method: cell for cell in sweep.cells[:3]}
    assert len({(cell.recipe, cell.data) for cell in three.values()}) == 1
    assert len({tuple(cell.model.blocks()) for cell in sweep.cells}) == 1
    assert all(block.groups == block.inner for block in sweep.cells[0].model.blocks())
    standardised = {}
    for method, cell in three.items():
        convs = [layer for layer in create_model(cell.model).modules() if isinstance(layer, nn.Conv2d)]
        standardised[method] = {isinstance(layer, ScaledStdConv2d): layer.groups for layer in convs}.keys()
        depth_wise = {isinstance(layer, ScaledStdConv2d) for layer in convs if layer.groups > 1}
        assert depth_wise == {method == "mobilenet_ws"}
    assert {method: set(kinds) for method, kinds in standardised.items()} == {
        "mobilenet_bn": {False},
        "mobilenet_ws": {True},
        "mobilenet_ws_dense": {False, True},
    }
    augments = [cell.recipe.augment for cell in sweep.cells[3:]]
    if profile in ("small", "paper"):
        assert [(a.randaugment, a.mixup, a.cutmix) for a in augments] == [(5.0, 0.0, 0.0), (5.0, 0.2, 1.0)]
    else:
        assert not augments


@each_profile
def test_collapse_halves_the_rate_and_takes_those_of_other_sweeps(profile: str) -> None:
    sweep = configs.sweep("collapse", profile)
    usual, halved, *augmented = sweep.cells
    assert halved == usual.at_rate(usual.recipe.lr / 2)
    assert sweep.rates == ()
    assert len(sweep.seeds) == 5
    regularized = {cell.method: cell for cell in configs.sweep("regularization", profile).cells}
    clipped = regularized["nf_agc:none"]
    for cell in augmented:
        assert (cell.data, cell.recipe.lr, cell.recipe.batch_size) == (
            clipped.data,
            clipped.recipe.lr,
            clipped.recipe.batch_size,
        )
        assert (cell.recipe.clip is not None) == cell.method.startswith("nf_agc")
        assert (cell.recipe.augment.randaugment > 0) == cell.method.endswith("randaugment")
    assert len(augmented) == (4 if "nf_agc:randaugment" in regularized else 0)


@each_profile
def test_finer_rates_are_those_of_the_batch_size_sweep_and_more(profile: str) -> None:
    finer, whole = configs.sweep("rate_grid", profile), configs.sweep("batch_size", profile)
    assert {cell.method for cell in finer.cells} == {"bn", "nf", "nf_agc"}
    assert set(finer.cells) <= set(whole.cells)
    assert {cell.recipe.batch_size for cell in finer.cells} == {max(c.recipe.batch_size for c in whole.cells)}
    assert set(whole.rates) <= set(finer.rates)
    assert all(right == 2 * left for left, right in pairwise(finer.rates))
    assert (finer.seeds, finer.search_seeds) == (whole.seeds, whole.search_seeds)
