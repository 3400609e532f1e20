import pytest

from experiments import configs
from experiments.profiles import PROFILES
from experiments.tasks.training import Training, updates_of


@pytest.mark.parametrize("name", configs.names())
def test_contract_and_every_profile(name: str) -> None:
    assert set(configs.contract(name)) == {"Question", "Paper", "Command", "Cost", "Expected"}
    for profile in PROFILES:
        sweep = configs.sweep(name, profile)
        assert sweep.name == name
        assert not set(sweep.search_seeds) & set(sweep.seeds), "a final seed was searched on"
        assert len(sweep.seeds) >= 3


def test_batch_size_sweep_is_as_wide_as_promised() -> None:
    for profile in PROFILES:
        sweep = configs.sweep("batch_size", profile)
        halves = {half: [c for c in sweep.cells if (c.recipe.updates is None) == half] for half in (True, False)}
        for equal_epochs, cells in halves.items():
            sizes = {cell.recipe.batch_size for cell in cells}
            assert len(sizes) >= (4 if equal_epochs else 2)
            assert {(cell.method.removesuffix(":updates"), cell.recipe.batch_size) for cell in cells} == {
                (method, size) for method in ("bn", "gn", "nf", "nf_agc") for size in sizes
            }
        assert len({cell.recipe.updates for cell in halves[False]}) == 1
        assert len({cell.key for cell in sweep.cells}) == len(sweep.cells)
        assert len(sweep.search()) == len(sweep.cells) * len(sweep.rates) * len(sweep.search_seeds)


def test_equal_updates_are_those_of_one_batch_size_at_equal_epochs() -> None:
    for profile in ("smoke", "small", "gpu"):
        cells = [cell for cell in configs.sweep("batch_size", profile).cells if isinstance(cell, Training)]
        others = {cell.recipe.batch_size for cell in cells if cell.recipe.updates is not None}
        wanted = {cell.recipe.updates for cell in cells} - {None}
        epochs = [cell for cell in cells if cell.recipe.updates is None]
        shared = {c.recipe.batch_size for c in epochs if updates_of(c.recipe, c.data.train or 0) in wanted}
        assert len(shared) == 1
        assert not shared & others, "a run would be made twice"


@pytest.mark.parametrize("profile", ["smoke", "small", "gpu"])
def test_batch_range_shares_searches_and_the_updates_of_one_batch_size(profile: str) -> None:
    sweep, scale = configs.sweep("batch_range", profile), configs.module("batch_range").SCALES[profile]
    cells = [cell for cell in sweep.cells if isinstance(cell, Training)]
    searched = {(cell.base, cell.recipe.batch_size) for cell in cells}
    assert len(sweep.search()) == 9 * len(searched)
    assert {cell.recipe.batch_size for cell in cells if not cell.variant} == set(scale.sizes)
    anchor = next(c.recipe for c in cells if c.recipe.batch_size == scale.anchor and not c.variant)
    equal = {updates_of(c.recipe, c.data.train or 0) for c in cells if c.variant}
    assert equal == {updates_of(anchor, cells[0].data.train or 0)}
    assert profile == "smoke" or min(updates_of(c.recipe, c.data.train or 0) for c in cells) >= 200


def test_depth_scaling_reaches_a_thousand_layers_with_every_method() -> None:
    for profile in PROFILES:
        cells = [cell for cell in configs.sweep("depth_scaling", profile).cells if isinstance(cell, Training)]
        depths = sorted({sum(cell.model.depth) for cell in cells})
        assert 2 * depths[-1] + 2 >= (50 if profile == "smoke" else 998)
        for depth in depths:
            here = [cell for cell in cells if sum(cell.model.depth) == depth]
            assert [cell.method for cell in here] == list(configs.module("depth_scaling").METHODS)
            assert len({(cell.data, cell.recipe) for cell in here}) == 1, (
                "methods at one depth differ in more than that"
            )
            start = {cell.method: cell.model.skip_gain for cell in here}
            assert start["skipinit"] == 0
            assert start["skipinit_sqrt"] == pytest.approx(depth**-0.5)


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(ValueError, match=r"config 'batchsize' is not known; use one of .*batch_size"):
        configs.sweep("batchsize", "smoke")
    with pytest.raises(ValueError, match=r"profile='tiny' is not known; use one of smoke, small, gpu, paper"):
        configs.sweep("batch_size", "tiny")
    with pytest.raises(ValueError, match="seeds=0"):
        configs.sweep("batch_size", "smoke").with_seeds(0)


def test_a_missing_contract_field_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configs.module("batch_size"), "__doc__", "Title\n\nQuestion: why?\nPaper: none\n")
    with pytest.raises(ValueError, match="lacks Command, Cost, Expected"):
        configs.contract("batch_size")
