"""Adaptive clipping as users call it: by hand, attached to an optimizer, scaled, accumulated, distributed."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from nfnets_lite import ScaledStdConv2d, adaptive_clip_grad_
from nfnets_lite.agc import AdaptiveClip, unitwise_norm
from nfnets_lite.clip_report import agc_report
from nfnets_lite.conv import ScaledStdConvTranspose2d
from nfnets_lite.optim import attach_agc, param_groups
from nfnets_lite.roles import parameter_roles

STEPS = 4


class Net(nn.Module):
    """Every role: standardised convolutions of three kinds, a linear layer, gains, a scalar, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = ScaledStdConv2d(3, 8, 3, padding=1)
        self.up = ScaledStdConvTranspose2d(8, 8, 2, stride=2, groups=2)
        self.down = nn.ConvTranspose2d(8, 4, 1)
        self.gate = nn.Linear(4, 4)
        self.skip_gain = nn.Parameter(torch.tensor(0.1))
        self.fc = nn.Linear(4, 5)

    def get_classifier(self) -> nn.Module:
        return self.fc

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(torch.relu(self.up(torch.relu(self.conv(x))))).mean((2, 3))
        return self.fc(x + self.skip_gain * torch.relu(self.gate(x)))


def make_net() -> Net:
    torch.manual_seed(0)
    return Net()


def batch(step: int, size: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(size, 3, 6, 6, generator=generator), torch.arange(size) % 5


def loss_of(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(x), y) * 30  # large enough that most units are clipped


def sgd(model: nn.Module, **kwargs: Any) -> torch.optim.SGD:
    return torch.optim.SGD(param_groups(model, 1e-3), lr=0.1, momentum=0.9, nesterov=True, **kwargs)


def by_hand(steps: int = STEPS) -> Net:
    """What every other way of clipping must give: clip, then step."""
    model = make_net()
    optimizer = sgd(model)
    for step in range(steps):
        optimizer.zero_grad()
        loss_of(model, *batch(step)).backward()
        assert 0 < float(adaptive_clip_grad_(model, 0.02)) < 1
        optimizer.step()
    return model


def assert_same(model: nn.Module, expected: nn.Module, atol: float = 0.0) -> None:
    for (name, mine), theirs in zip(model.named_parameters(), expected.parameters()):
        torch.testing.assert_close(mine.detach(), theirs.detach(), rtol=0, atol=atol, msg=name)


# --- attached to an optimizer


def plain_loop(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range = range(STEPS)) -> None:
    for step in steps:
        optimizer.zero_grad()
        loss_of(model, *batch(step)).backward()
        optimizer.step()


def closure_loop(model: nn.Module, optimizer: torch.optim.Optimizer, as_keyword: bool) -> None:
    for step in range(STEPS):

        def closure(step: int = step) -> Tensor:
            optimizer.zero_grad()
            loss = loss_of(model, *batch(step))
            loss.backward()
            return loss

        loss = optimizer.step(closure=closure) if as_keyword else optimizer.step(closure)
        assert float(loss.detach()) > 0


def accumulating_loop(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for step in range(STEPS):
        optimizer.zero_grad()
        x, y = batch(step)
        for half in (slice(0, 2), slice(2, 4)):
            (loss_of(model, x[half], y[half]) / 2).backward()
        optimizer.step()


@pytest.mark.parametrize(
    "loop",
    [
        plain_loop,
        lambda model, optimizer: closure_loop(model, optimizer, True),
        lambda model, optimizer: closure_loop(model, optimizer, False),
        accumulating_loop,
    ],
    ids=["plain", "closure keyword", "closure", "accumulation"],
)
def test_attached_clipping_equals_clipping_by_hand(loop: Callable[[nn.Module, torch.optim.Optimizer], None]) -> None:
    model = make_net()
    optimizer = sgd(model)
    agc = attach_agc(optimizer, model, 0.02)
    assert agc.fraction.isnan()
    loop(model, optimizer)
    assert_same(model, by_hand(), atol=1e-6 if loop is accumulating_loop else 0)
    assert 0 < float(agc.fraction) < 1


def test_attached_clipping_survives_a_scheduler_and_a_state_dict_round_trip() -> None:
    model = make_net()
    optimizer = sgd(model)
    attach_agc(optimizer, model, 0.02)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    plain_loop(model, optimizer, range(2))
    scheduler.step()
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), scheduler.state_dict()))
    plain_loop(model, optimizer, range(9, 11))  # elsewhere, and back
    for thing, state in zip((model, optimizer, scheduler), saved):
        thing.load_state_dict(state)
    plain_loop(model, optimizer, range(2, STEPS))
    assert_same(model, by_hand())


def test_remove_takes_the_clipping_off() -> None:
    model, free = make_net(), make_net()
    optimizer = sgd(model)
    attach_agc(optimizer, model, 0.02).remove()
    plain_loop(model, optimizer)
    plain_loop(free, sgd(free))
    assert_same(model, free)


def test_a_second_clipping_of_one_optimizer_is_refused_until_the_first_is_removed() -> None:
    model = make_net()
    optimizer = sgd(model)
    first = attach_agc(optimizer, model, 1e-4)
    for again in (optimizer, Wrapper(optimizer, "optimizer")):
        with pytest.raises(ValueError, match=r"attach_agc was called before with this SGD.*remove\(\) on what"):
            attach_agc(again, model, 0.02)
    first.remove()
    attach_agc(optimizer, model, 0.02)
    plain_loop(model, optimizer)
    assert_same(model, by_hand())


def test_one_optimizer_of_two_models_and_two_optimizers_of_one_model_are_clipped_as_apart() -> None:
    pair, halves = nn.ModuleList([make_net(), make_net()]), make_net()
    joint = torch.optim.SGD(pair.parameters(), lr=0.1)
    attach_agc(joint, pair, 0.02, classifier=[net.get_classifier() for net in pair])
    parameters = list(halves.parameters())
    parts = [torch.optim.SGD(part, lr=0.1) for part in (parameters[::2], parameters[1::2])]
    for part in parts:
        attach_agc(part, halves, 0.02)
    alone = make_net()
    optimizer = torch.optim.SGD(alone.parameters(), lr=0.1)
    attach_agc(optimizer, alone, 0.02)
    for net in (*pair, halves, alone):
        loss_of(net, *batch(0)).backward()
    for each in (joint, *parts, optimizer):
        each.step()
    for net in (*pair, halves):
        assert_same(net, alone)


def test_a_group_added_later_and_a_layer_thawed_later_are_clipped() -> None:
    model = make_net()
    model.gate.requires_grad_(False)
    optimizer = torch.optim.SGD(model.conv.parameters(), lr=0.1)
    attach_agc(optimizer, model, 0.02)
    optimizer.add_param_group({"params": [*model.gate.parameters(), *model.fc.parameters()]})
    model.gate.requires_grad_(True)
    x, y = batch(0)
    (loss_of(model, x, y) * 100).backward()
    optimizer.step()
    for name in ("conv", "gate"):
        weight = model.get_submodule(name).weight.detach()
        grad = model.get_submodule(name).weight.grad
        assert float(unitwise_norm(grad).max()) < 0.02 * float(unitwise_norm(weight).max()) * 1.1
    assert float(model.down.weight.grad.norm()) > 1  # the optimizer does not hold it, so it is left alone


def test_a_step_without_any_gradient_is_passed_over() -> None:
    model = make_net()
    optimizer = sgd(model)
    agc = attach_agc(optimizer, model)
    optimizer.step()
    assert agc.fraction.isnan()


def test_an_optimizer_of_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"optimizer steps on 13 parameters that are not in model"):
        attach_agc(sgd(make_net()), make_net())


class Wrapper(torch.optim.Optimizer):
    """As Accelerate and timm wrap an optimizer: torch's constructor is not called, so torch runs no hooks in `step`."""

    def __init__(self, optimizer: torch.optim.Optimizer, name: str) -> None:
        setattr(self, name, optimizer)
        self.param_groups, self._optimizer_step_pre_hooks = optimizer.param_groups, {}
        self.inner = optimizer

    def step(self, closure: Any = None) -> Any:
        return self.inner.step(closure)


def test_a_wrapped_optimizer_clips_or_is_refused() -> None:
    model = make_net()
    optimizer = Wrapper(sgd(model), "optimizer")
    agc = attach_agc(optimizer, model)
    loss_of(model, *batch(0)).backward()
    optimizer.step()
    assert 0 < float(agc.fraction) <= 1
    with pytest.raises(ValueError, match=r"step of this Wrapper runs no hooks.*attach to the optimizer inside it"):
        attach_agc(Wrapper(sgd(model), "_base_optimizer"), model)


@pytest.mark.parametrize("closed", [False, True])
def test_the_fraction_is_the_same_where_a_step_calls_its_parents(closed: bool) -> None:
    class Own(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            return super().step(closure)

    fractions = []
    for kind in (torch.optim.SGD, Own):
        model = make_net()
        optimizer = kind(model.parameters(), lr=0.1)
        agc = attach_agc(optimizer, model)
        for step in range(2):

            def closure(model: nn.Module = model, step: int = step) -> Tensor:
                model.zero_grad()
                loss_of(model, *batch(step)).backward()
                return torch.zeros(())

            optimizer.step(closure) if closed else (closure(), optimizer.step())
            fractions.append(float(agc.fraction))
    assert fractions[:2] == fractions[2:]


# --- loss scaling


@pytest.mark.parametrize("fused", [False, True])
def test_grad_scaler_gives_the_unscaled_update(fused: bool) -> None:
    model = make_net()
    optimizer = sgd(model, fused=fused)
    attach_agc(optimizer, model, 0.02)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14)
    for step in range(STEPS):
        optimizer.zero_grad()
        scaler.scale(loss_of(model, *batch(step))).backward()
        if fused:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
    assert_same(model, by_hand(), atol=1e-6)


def test_a_fused_step_on_scaled_gradients_is_refused() -> None:
    model = make_net()
    optimizer = sgd(model, fused=True)
    attach_agc(optimizer, model)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(loss_of(model, *batch(0))).backward()
    with pytest.raises(ValueError, match=r"still scaled, by 1024.*Call scaler.unscale_\(optimizer\) before"):
        scaler.step(optimizer)


def test_clipping_by_hand_between_unscaling_and_the_step() -> None:
    model = make_net()
    optimizer = sgd(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14)
    for step in range(STEPS):
        optimizer.zero_grad()
        scaler.scale(loss_of(model, *batch(step))).backward()
        scaler.unscale_(optimizer)
        adaptive_clip_grad_(model, 0.02)
        scaler.step(optimizer)
        scaler.update()
    assert_same(model, by_hand(), atol=1e-6)


# --- what is clipped, and what is refused


def test_units_of_a_grouped_transposed_convolution_are_its_output_channels() -> None:
    model = nn.ConvTranspose2d(6, 4, 3, groups=2, bias=False)
    model.weight.grad = torch.randn(model.weight.shape)
    before = model.weight.grad.clone()
    fraction = adaptive_clip_grad_(model, 0.3)
    clipped = 0
    for group in range(2):
        rows = slice(3 * group, 3 * group + 3)
        for channel in range(2):
            unit = before[rows, channel]
            bound = 0.3 * model.weight.detach()[rows, channel].norm()
            expected = unit * min(1.0, float(bound / unit.norm()))
            clipped += int(unit.norm() > bound)
            torch.testing.assert_close(model.weight.grad[rows, channel], expected)
    assert float(fraction) == clipped / 4


@pytest.mark.parametrize("copies", [1, 3])
def test_each_number_can_be_a_unit(copies: int) -> None:
    class Scale(nn.Module):
        agc_unit_dims = {"values": 0}  # noqa: RUF012

        def __init__(self) -> None:
            super().__init__()
            self.values = nn.Parameter(torch.tensor([1.0, -2.0, 0.0]))

    scales = nn.ModuleList(Scale() for _ in range(copies))
    for scale in scales:
        scale.values.grad = torch.tensor([-1.0, 0.01, 1.0])
    assert float(adaptive_clip_grad_(scales, 0.01, eps=1e-3, classifier=None)) == pytest.approx(2 / 3)
    for scale in scales:
        torch.testing.assert_close(scale.values.grad, torch.tensor([-0.01, 0.01, 1e-5]))


def test_classifier_weight_is_exempt_and_its_bias_is_not() -> None:
    model = make_net()
    loss_of(model, *batch(0)).backward()
    before = {name: p.grad.clone() for name, p in model.named_parameters()}
    adaptive_clip_grad_(model, 1e-4)
    changed = {name for name, p in model.named_parameters() if not torch.equal(p.grad, before[name])}
    assert set(before) - changed == {"fc.weight"}


def test_nan_stays_visible_and_confined_to_its_unit() -> None:
    weight = nn.Parameter(torch.ones(3, 4))
    weight.grad = torch.ones(3, 4)
    weight.grad[1, 2] = float("nan")
    adaptive_clip_grad_(weight)
    assert weight.grad[1, 2].isnan()
    assert torch.equal(weight.grad[1, [0, 1, 3]], torch.ones(3))
    torch.testing.assert_close(weight.grad[[0, 2]], torch.full((2, 4), 0.01))


def test_low_precision_gradients_are_measured_in_float32() -> None:
    weight = nn.Parameter(torch.full((1, 4096), 1.0, dtype=torch.bfloat16))
    weight.grad = torch.full_like(weight, 100.0)
    adaptive_clip_grad_([weight])
    torch.testing.assert_close(weight.grad.float(), torch.full((1, 4096), 0.01), rtol=4e-3, atol=0)


@pytest.mark.parametrize("name", ["clip_factor", "eps"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), "0.01", True, None])
def test_factors_must_be_positive(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{name}={value!r} must be a finite number above 0"):
        adaptive_clip_grad_(nn.Parameter(torch.ones(2)), **{name: value})


def test_a_classifier_is_named_for_a_model_only() -> None:
    net = nn.Linear(2, 2)
    for given in (net.parameters(), parameter_roles(net, classifier=None)):
        with pytest.raises(ValueError, match="classifier= needs the model as first argument; pass the model"):
            AdaptiveClip(given, classifier=net)


def test_an_optimizer_is_no_parameters() -> None:
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), 0.1)
    with pytest.raises(TypeError, match="parameters holds a SGD; pass a model"):
        adaptive_clip_grad_(optimizer)  # type: ignore[arg-type]


def test_without_trainable_parameters_nothing_is_clipped() -> None:
    net = nn.Linear(2, 2).requires_grad_(False)
    for given in (net, list(net.parameters()), []):
        with pytest.raises(ValueError, match="all are frozen, or an empty list was passed"):
            adaptive_clip_grad_(given, classifier=None)


def test_gradients_that_cannot_be_clipped_are_refused() -> None:
    embedding = nn.Embedding(4, 3, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match=r"shape \(4, 3\) is sparse.*sparse=False"):
        adaptive_clip_grad_(embedding)
    with pytest.raises(ValueError, match=r"none of the 12 to be clipped has a gradient; call this after"):
        adaptive_clip_grad_(make_net())
    with pytest.raises(TypeError, match=r"holds a tuple; pass a model, parameter_roles\(model\), tensors or one"):
        AdaptiveClip(make_net().named_parameters())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"holds a dict; pass a model"):
        AdaptiveClip(sgd(make_net()).param_groups)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"holds a str; pass a model"):
        AdaptiveClip({"kernel": "weight"})  # type: ignore[dict-item]


def test_missing_gradients_are_passed_over() -> None:
    used, unused = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    used.grad = torch.ones(2, 2)
    assert float(adaptive_clip_grad_([used, unused])) == 1.0
    assert unused.grad is None


def test_report_lists_every_parameter_with_its_verdicts() -> None:
    model = make_net()
    model.odd = nn.Module()
    model.odd.kernel = nn.Parameter(torch.ones(2, 3))
    lines = agc_report(model).splitlines()
    cells = {line.split()[0]: " ".join(line.split()) for line in lines[1:-1]}
    assert set(cells) == {name for name, _ in model.named_parameters()}
    assert cells["skip_gain"] == "skip_gain () gain whole yes no"
    assert cells["up.weight"] == "up.weight (8, 4, 2, 2) weight 1 in 2 groups yes yes"
    assert cells["fc.weight"] == "fc.weight (5, 4) classifier 0 no yes"
    assert cells["odd.kernel"] == "odd.kernel (2, 3) unknown declare it ? ?"
    assert lines[-1] == "14 parameters: 12 clipped, 5 decayed"


# --- distributed


def _two_processes(rank: int, folder: str) -> None:
    """DDP and FSDP2 on halves of each batch; rank 0 saves what they arrive at."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    mine = slice(2 * rank, 2 * rank + 2)

    def steps(wrapped: nn.Module, replicated: list[Tensor]) -> float:
        optimizer = sgd(wrapped)
        agc = attach_agc(optimizer, wrapped, 0.02)
        for step in range(STEPS):
            optimizer.zero_grad()
            x, y = batch(step)
            loss_of(wrapped, x[mine], y[mine]).backward()
            for parameter in replicated:
                torch.distributed.all_reduce(parameter.grad.div_(2))
            optimizer.step()
        return float(agc.fraction)

    ddp = make_net()
    fractions = [steps(DistributedDataParallel(ddp), [])]
    sharded = make_net()
    scalars = [p for p in sharded.parameters() if p.ndim == 0]  # FSDP2 shards no 0-d parameter
    fully_shard(sharded.up)
    fully_shard(sharded, ignored_params=set(scalars))
    fractions.append(steps(sharded, scalars))
    full = {name: p.full_tensor() if hasattr(p, "full_tensor") else p for name, p in sharded.named_parameters()}
    if rank == 0:
        torch.save({"ddp": dict(ddp.named_parameters()), "fsdp": full, "fractions": fractions}, f"{folder}/result.pt")
    torch.distributed.destroy_process_group()


def test_ddp_and_fsdp2_take_the_steps_of_one_process(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_two_processes, (str(tmp_path),), nprocs=2)
    result = torch.load(tmp_path / "result.pt")
    model = make_net()
    optimizer = sgd(model)
    agc = attach_agc(optimizer, model, 0.02)
    plain_loop(model, optimizer)
    assert result["fractions"] == [pytest.approx(float(agc.fraction))] * 2
    for name, parameter in model.named_parameters():
        for way in ("ddp", "fsdp"):
            torch.testing.assert_close(
                result[way][name].detach(), parameter.detach(), rtol=0, atol=2e-6, msg=f"{way} {name}"
            )
