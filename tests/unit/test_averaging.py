"""The average of the weights: the authors' decay at each update, and their average after six steps."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nfnets_lite.averaging import WeightAverage

ASSETS = Path(__file__).parents[1] / "parity" / "assets"


def load(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    with np.load(ASSETS / f"{name}.npz") as arrays:
        return json.loads((ASSETS / f"{name}.json").read_text()), dict(arrays)


ABOUT, ARRAYS = load("ops_a")


def test_decay_is_the_authors() -> None:
    average, ours = WeightAverage(nn.PReLU(init=0.0, dtype=torch.float64), ABOUT["ema_decay"]), []
    for step in ARRAYS["ema_step"]:
        average.updates = int(step)
        average.averages["weight"].fill_(1)
        average.update()  # the weight is 0: what is left of 1 is the decay
        ours.append(average.averages["weight"].item())
    np.testing.assert_allclose(ours, ARRAYS["ema_effective_decay"], rtol=0, atol=4e-16)


def test_average_over_six_steps_is_the_authors() -> None:
    meta, data = load("sgd_agc_steps_a")
    names = list(meta["shapes"])
    # A parameter has no dots in its name, the golden ones do.
    model = nn.ParameterList([torch.from_numpy(np.asarray(data[f"param0/{name}"], np.float64)) for name in names])
    average = WeightAverage(model, meta["ema_decay"])
    for step in range(meta["steps"]):
        with torch.no_grad():
            for parameter, name in zip(model, names):
                parameter.copy_(torch.from_numpy(np.asarray(data[f"param{step + 1}/{name}"])))
        average.update()
    for ours, name in zip(average.averages.values(), names):
        np.testing.assert_allclose(ours.numpy(), data[f"ema6/{name}"], rtol=0, atol=1e-14, err_msg=name)


def test_the_model_has_the_average_inside_the_block_and_its_own_weights_after() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    average = WeightAverage(model, 0.5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model(torch.randn(8, 3))  # moves the running statistics
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    after = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    average.update()
    with average.applied():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                torch.testing.assert_close(tensor, 0.1 * before[name] + 0.9 * after[name])
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, after[name])
    with pytest.raises(ValueError, match="Expected more than 1 value"), average.applied():
        model(torch.zeros(1, 3))  # one image a batch: batch norm refuses it
    assert all(torch.equal(parameter, after[name]) for name, parameter in model.named_parameters())
    assert average.updates == 1


def test_a_decay_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"decay=1.0 must be in \[0, 1\)"):
        WeightAverage(nn.Linear(1, 1), 1.0)


def test_a_norms_progress_is_not_averaged() -> None:
    from nfnets_lite.norm import create_norm, set_progress

    norm = create_norm("prepbn", 4)
    average = WeightAverage(norm)
    set_progress(norm, 1.0)
    average.update()
    with average.applied():
        assert float(norm.progress) == 1.0


def test_weights_in_half_precision_are_averaged_in_single() -> None:
    model = nn.Linear(4, 4).bfloat16()
    nn.init.zeros_(model.weight)
    average = WeightAverage(model, 0.9999)
    average.updates = 10**6
    nn.init.ones_(model.weight)
    for _ in range(2000):
        average.update()
    expected = 1 - 0.9999**2000
    torch.testing.assert_close(average.averages["weight"], torch.full((4, 4), expected), rtol=1e-3, atol=0)
    for _ in range(2):  # and the average is not rounded by being looked at
        with average.applied():
            assert model.weight.dtype == torch.bfloat16
            torch.testing.assert_close(model.weight.float(), average.averages["weight"], rtol=2**-8, atol=0)
        assert torch.equal(model.weight, torch.ones_like(model.weight))
        torch.testing.assert_close(average.averages["weight"], torch.full((4, 4), expected), rtol=1e-3, atol=0)


def test_complex_weights_are_averaged() -> None:
    model = nn.ParameterList([torch.zeros(3, dtype=torch.complex64)])
    average = WeightAverage(model)
    nn.init.constant_(model[0], 1j)
    average.update()
    with average.applied():
        torch.testing.assert_close(model[0].detach(), torch.full((3,), 0.9j))
    assert torch.equal(model[0].detach(), torch.full((3,), 1j))


def assign(model: nn.Module) -> None:
    model.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()}, assign=True)


@pytest.mark.parametrize(
    "change",
    [
        assign,
        lambda model: model.to(memory_format=torch.channels_last),
        lambda model: model.double(),
        lambda model: model._apply(torch.clone),  # what a move to another device does to parameters and buffers
    ],
    ids=["assign", "channels_last", "double", "moved"],
)
@pytest.mark.parametrize("after", [False, True], ids=["before", "inside"])
def test_the_average_follows_tensors_that_are_replaced(change: Callable[[nn.Module], Any], after: bool) -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    average = WeightAverage(model, 0.5)
    if not after:
        change(model)
    with torch.no_grad():
        for tensor in (*model.parameters(), model[1].running_mean):
            tensor.add_(1)
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    average.update()
    with average.applied():
        if after:
            change(model)
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                expected = 0.1 * before[name] + 0.9 * own[name]
                torch.testing.assert_close(tensor, expected, check_dtype=False, rtol=1e-5, atol=1e-6)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, own[name], check_dtype=False, rtol=0, atol=0)


def test_an_average_made_in_inference_mode_is_updated_outside_of_it() -> None:
    model = nn.Linear(2, 2)
    with torch.inference_mode():
        average = WeightAverage(model, 0.0)
        average.update()
    nn.init.ones_(model.weight)
    average.update()
    assert torch.equal(average.averages["weight"], torch.ones(2, 2))


def test_a_model_that_became_another_is_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    average = WeightAverage(model)
    model[0] = nn.Linear(2, 3)
    with pytest.raises(ValueError, match=r"average of '0\.\w+' has shape .* build a new WeightAverage"):
        average.update()
    assert average.updates == 0
    model.append(nn.Linear(3, 1))
    with pytest.raises(ValueError, match="build a new WeightAverage"), average.applied():
        pass


def test_no_update_inside_applied() -> None:
    model = nn.Linear(2, 2)
    average = WeightAverage(model)
    with average.applied():
        with average.applied():
            pass
        with pytest.raises(RuntimeError, match="leave the block first"):
            average.update()
    assert average.updates == 0
    average.update()
