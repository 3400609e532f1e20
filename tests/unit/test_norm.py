"""Norms against their formulas, forward and backward, and what all of them promise: dtypes, layouts, one example.

The formulas of the norms with unusual statistics are in test_norm_approximate, test_norm_estimates, test_norm_mixed.
"""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from nfnets_lite.adapt import alpha_bn
from nfnets_lite.norm import NORMS, create_norm, inference_affine, progress_setter, set_progress
from nfnets_lite.norm.common import whole_groups
from nfnets_lite.roles import parameter_roles

C = 8
SMALL: dict[str, dict[str, Any]] = {"ghost_batch": {"size": 2}}  # options that suit batches of 4
AVERAGING = ("batch", "sync_batch", "ghost_batch", "batch_renorm", "evonorm_b0", "ada_batch")
APART = ("batch_channel", "power", "unified")  # their training has a backward pass that is no derivative
every = pytest.mark.parametrize("name", NORMS)
modes = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])


def make(name: str, *, progress: float = 0.0, dtype: torch.dtype = torch.float64, **options: Any) -> nn.Module:
    """A norm whose parameters and running statistics are not where they start."""
    torch.manual_seed(0)
    norm = create_norm(name, C, **{**SMALL.get(name, {}), **options}).to(dtype)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.add_(0.5 * torch.rand_like(parameter) + 0.1)
    set_progress(norm, progress)
    for _ in range(2):
        norm((2 * inputs(seed=5).to(dtype) + 1).requires_grad_()).sum().backward()
    norm.zero_grad()
    return norm


def inputs(*shape: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape or (4, C, 3, 2), dtype=torch.float64, generator=generator) + 0.5


# --- the formulas, once more


def standard(x: Tensor, over: tuple[int, ...]) -> Tensor:
    mean = x.mean(over, keepdim=True)
    return (x - mean) / ((x - mean).square().mean(over, keepdim=True) + 1e-5).sqrt()


def affine(norm: Any, x: Tensor) -> Tensor:
    return norm.weight.reshape(1, -1, 1, 1) * x + norm.bias.reshape(1, -1, 1, 1)


def batch(norm: Any, x: Tensor) -> Tensor:
    if norm.training:
        return affine(norm, standard(x, (0, 2, 3)))
    mean, var = (value.reshape(1, -1, 1, 1) for value in (norm.running_mean, norm.running_var))
    return affine(norm, (x - mean) / (var + 1e-5).sqrt())


def ghost_batch(norm: Any, x: Tensor) -> Tensor:
    return torch.cat([batch(norm, x[:2]), batch(norm, x[2:])])


def batch_renorm(norm: Any, x: Tensor, r_max: float = 1.0, d_max: float = 0.0) -> Tensor:
    mean, std = (value.reshape(1, -1, 1, 1) for value in (norm.running_mean, norm.running_std))
    if not norm.training:
        return affine(norm, (x - mean) / std)
    own = x.detach()
    own_std = ((own - own.mean((0, 2, 3), keepdim=True)).square().mean((0, 2, 3), keepdim=True) + 1e-5).sqrt()
    r = (own_std / std).clamp(1 / r_max, r_max)
    d = ((own.mean((0, 2, 3), keepdim=True) - mean) / std).clamp(-d_max, d_max)
    return affine(norm, standard(x, (0, 2, 3)) * r + d)


def group(norm: Any, x: Tensor) -> Tensor:
    return affine(norm, torch.cat([standard(part, (1, 2, 3)) for part in x.split(4, dim=1)], dim=1))


def frn(norm: Any, x: Tensor) -> Tensor:
    divided = x / (x.square().mean((2, 3), keepdim=True) + 1e-6).sqrt()
    threshold = norm.threshold.reshape(1, -1, 1, 1)
    return torch.relu(affine(norm, divided) - threshold) + threshold


def evonorm_b0(norm: Any, x: Tensor) -> Tensor:
    own = (x.var((2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
    batch_var = x.var((0, 2, 3), correction=0) if norm.training else norm.running_var
    batch_std = (batch_var.reshape(1, -1, 1, 1) + 1e-5).sqrt()
    bent = norm.slope.reshape(1, -1, 1, 1) * x + own
    return affine(norm, torch.where(batch_std > bent, x / batch_std, x / bent))


def evonorm_s0(norm: Any, x: Tensor) -> Tensor:
    gated = x / (1 + torch.exp(-norm.slope.reshape(1, -1, 1, 1) * x))
    parts = zip(gated.split(4, dim=1), x.split(4, dim=1))
    return affine(norm, torch.cat([g / (p.var((1, 2, 3), False, True) + 1e-5).sqrt() for g, p in parts], dim=1))


FORMULAS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "none": lambda norm, x: x,
    "batch": batch,
    "sync_batch": batch,
    "ghost_batch": ghost_batch,
    "batch_renorm": batch_renorm,
    "group": group,
    "layer": lambda norm, x: affine(norm, standard(x, (1, 2, 3))),
    "layer2d": lambda norm, x: affine(norm, standard(x, (1,))),
    "instance": lambda norm, x: affine(norm, standard(x, (2, 3))),
    "frn": frn,
    "evonorm_b0": evonorm_b0,
    "evonorm_s0": evonorm_s0,
}


@modes
@pytest.mark.parametrize("name", FORMULAS)
def test_forward_is_the_formula(name: str, training: bool) -> None:
    norm, x = make(name).train(training), inputs()
    expected = FORMULAS[name](norm, x)
    torch.testing.assert_close(norm(x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "training"), [(name, mode) for name in NORMS for mode in (True, False) if not mode or name not in APART]
)
def test_backward_is_the_derivative(name: str, training: bool) -> None:
    norm = make(name, progress=0.5 if name == "prepbn" else 0.0).train(training)
    parameters = {key: value.detach().clone().requires_grad_() for key, value in norm.named_parameters()}
    buffers = dict(norm.named_buffers())

    def forward(x: Tensor, *values: Tensor) -> Any:
        state = {**dict(zip(parameters, values)), **{key: value.clone() for key, value in buffers.items()}}
        return functional_call(norm, state, (x,))

    assert torch.autograd.gradcheck(forward, (inputs(4, C, 2, 1).requires_grad_(), *parameters.values()))


# --- running statistics, schedules, equivalences


@pytest.mark.parametrize("momentum", [0.3, None])
@pytest.mark.parametrize("size", [1, 2])
def test_ghost_batches_are_batches_one_after_the_other(size: int, momentum: float | None) -> None:
    ghost, plain, x = make("ghost_batch", size=size, momentum=momentum), make("batch", momentum=momentum), inputs()
    plain.load_state_dict(ghost.state_dict())
    for _ in range(2):
        assert torch.equal(ghost(x), torch.cat([plain(part) for part in x.split(size)]))
    for key, value in plain.state_dict().items():
        assert torch.equal(ghost.state_dict()[key], value)
    assert torch.equal(ghost.eval()(x[:3]), plain.eval()(x[:3]))  # any batch will do in evaluation


@pytest.mark.parametrize("name", ["batch", "ghost_batch", "ada_batch"])
def test_statistics_can_be_taken_again_by_torchs_own_means(name: str) -> None:
    net, batches = nn.Sequential(make(name)), [inputs(seed=k) + k for k in range(3)]
    torch.optim.swa_utils.update_bn(batches, net)
    parts = [part for batch in batches for part in batch.split(2 if name == "ghost_batch" else 4)]
    torch.testing.assert_close(net[0].running_mean, torch.stack([p.mean((0, 2, 3)) for p in parts]).mean(0))
    torch.testing.assert_close(net[0].running_var, torch.stack([p.var((0, 2, 3)) for p in parts]).mean(0))


def test_renormalisation_moves_its_averages_of_mean_and_deviation() -> None:
    norm, x = make("batch_renorm", momentum=0.2), inputs()
    before = copy.deepcopy(norm)
    norm(x)
    std = (x.var((0, 2, 3), correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(norm.running_mean, 0.8 * before.running_mean + 0.2 * x.mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_std, 0.8 * before.running_std + 0.2 * std)


@pytest.mark.parametrize(
    ("progress", "r_max", "d_max"),
    [
        (0.0, 1.0, 0.0),
        (5 / 160, 1.0, 0.0),
        (15 / 160, 1 + 0.1 * 10 / 35, 0.1 * 10 / 20),
        (0.25, 1.1, 0.1),
        (1, 1.1, 0.1),
    ],
)
def test_renormalisation_opens_its_bounds_with_progress(progress: float, r_max: float, d_max: float) -> None:
    norm = make("batch_renorm", progress=progress, r_max=1.1, d_max=0.1)
    x, y = inputs().requires_grad_(), inputs().requires_grad_()
    before = copy.deepcopy(norm)
    out, expected = norm(x), batch_renorm(before, y, r_max, d_max)
    torch.testing.assert_close(out, expected)
    # r and d are constants of the backward pass.
    (weights := inputs(*x.shape, seed=3)).mul(out).sum().backward()
    weights.mul(expected).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)
    torch.testing.assert_close(norm.weight.grad, before.weight.grad)


def test_renormalisation_inside_its_bounds_trains_as_it_evaluates() -> None:
    norm, x = make("batch_renorm", progress=1.0, r_max=1e6, d_max=1e6), inputs()
    evaluated = norm.eval()(x)
    torch.testing.assert_close(norm.train()(x), evaluated)


@pytest.mark.parametrize("name", AVERAGING)
def test_running_statistics_arrive_at_the_batchs_own(name: str) -> None:
    norm, x = make(name), inputs(2, C, 40, 40)
    for _ in range(200):
        trained = norm(x)
    torch.testing.assert_close(norm.eval()(x), trained, rtol=0, atol=2e-3)  # torch's variance is the unbiased one


def test_synchronised_batch_norm_runs_on_the_cpu_among_processes() -> None:
    norm, plain, x = make("sync_batch"), make("batch"), inputs()
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        assert torch.equal(norm(x), plain(x))
        with pytest.raises(ValueError, match="expected input tensor to be on"):
            nn.SyncBatchNorm(C).double()(x)
    finally:
        torch.distributed.destroy_process_group()


def test_set_progress_fills_every_schedule_and_nothing_else() -> None:
    net = nn.Sequential(make("batch"), nn.Sequential(make("batch_renorm")))
    set_progress(net, 0.25)
    assert float(net[1][0].progress) == 0.25
    set_progress(net, torch.tensor(0.75))
    assert float(net[1][0].progress) == 0.75
    tell = progress_setter(net)
    tell(0.5)
    assert float(net[1][0].progress) == 0.5
    net.half()  # replaces the buffers, as a move to another device does
    tell(0.25)
    assert float(net[1][0].progress) == 0.25
    set_progress(nn.Linear(1, 1), 1.0)
    with pytest.raises(ValueError, match=r"fraction=1\.5 must be in \[0, 1\]"):
        set_progress(net, 1.5)


@every
def test_inference_affine_is_evaluation_where_there_is_one(name: str) -> None:
    norm = make(name, progress=1.0).eval()
    found = inference_affine(norm)
    if found is not None:
        scale, shift = (value.reshape(1, -1, 1, 1) for value in found)
        torch.testing.assert_close(norm(inputs()), inputs() * scale + shift)


def test_inference_affine_of_torchs_own_layers() -> None:
    assert inference_affine(nn.BatchNorm2d(3, track_running_stats=False)) is None
    assert inference_affine(nn.InstanceNorm2d(3, track_running_stats=True)) is None
    scale, shift = inference_affine(nn.BatchNorm1d(3, affine=False, eps=0.0)) or (None, None)
    assert torch.equal(scale, torch.ones(3))
    assert torch.equal(shift, torch.zeros(3))


def test_a_class_that_adds_to_batch_norm_has_no_such_map() -> None:
    class Activated(nn.BatchNorm2d):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input).relu()

    class Named(nn.BatchNorm2d):
        def extra_repr(self) -> str:
            return "named"

    assert inference_affine(Activated(3)) is None
    assert inference_affine(Named(3)) is not None
    with pytest.raises(
        ValueError, match=r"Sequential holds Activated, whose own forward computes more than batch norm"
    ):
        alpha_bn(nn.Sequential(Activated(3), Named(3)), 1.0)


# --- what every norm promises


@every
@pytest.mark.parametrize("shape", [(4, C, 5, 3), (4, C, 7, 1)], ids=["map", "tokens"])
def test_every_norm_keeps_the_shape_and_passes_gradients(name: str, shape: tuple[int, ...]) -> None:
    norm, x = create_norm(name, C, **SMALL.get(name, {})), inputs(*shape).float().requires_grad_()
    y = norm(x)
    assert y.shape == x.shape
    y.square().sum().backward()
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())
    assert float(x.grad.abs().max()) > 0


@every
def test_state_dicts_hold_everything(name: str) -> None:
    norm, fresh, x = make(name, progress=0.4), create_norm(name, C, **SMALL.get(name, {})).double(), inputs()
    fresh.load_state_dict(norm.state_dict())
    assert torch.equal(fresh.eval()(x), norm.eval()(x))
    assert torch.equal(fresh.train()(x), norm.train()(x))
    assert fresh.state_dict().keys() == norm.state_dict().keys()
    assert all(torch.equal(value, norm.state_dict()[key]) for key, value in fresh.state_dict().items())


@every
@modes
def test_bfloat16_under_autocast_is_near_float32(name: str, training: bool) -> None:
    norm = make(name, progress=0.5, dtype=torch.float32).train(training)
    x = inputs().bfloat16().requires_grad_()
    expected = copy.deepcopy(norm)(x.detach().float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = norm(x)
    torch.testing.assert_close(y.float(), expected, rtol=2**-7, atol=2**-7)
    y.float().square().sum().backward()
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())
    assert all(value.dtype in (torch.float32, torch.int64) for value in norm.state_dict().values())


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_norm_in_half_precision_trains_near_float32(name: str, dtype: torch.dtype) -> None:
    whole = make(name, progress=0.5, dtype=torch.float32)
    narrow, x = copy.deepcopy(whole).to(dtype), inputs().float()
    for _ in range(2):
        y = narrow(x.to(dtype).requires_grad_())
        torch.testing.assert_close(y.float(), whole(x), rtol=0.02, atol=0.04)
        y.float().square().sum().backward()
    assert all(value.dtype in (dtype, torch.int64) for value in narrow.state_dict().values())
    torch.testing.assert_close(narrow.eval()(x.to(dtype)).float(), whole.eval()(x), rtol=0.02, atol=0.04)


@every
def test_one_example_is_enough_where_a_channel_has_several_positions(name: str) -> None:
    norm, x = make(name, **({"size": 1} if name == "ghost_batch" else {})), inputs(1, C, 4, 4)
    for training in (True, False):
        assert bool(norm.train(training)(x).isfinite().all())


@pytest.mark.parametrize("name", [*AVERAGING, "batch_channel", "prepbn", "instance", "ibn_a", "ibn_b"])
def test_one_value_per_channel_is_refused(name: str) -> None:
    norm = make(name, **({"size": 1} if name == "ghost_batch" else {}))
    with pytest.raises(ValueError, match=r"input has shape \(1, [48], 1, 1\).*one value has none.*'group', 'layer'"):
        norm(inputs(1, C, 1, 1))
    if name not in ("instance", "ibn_a", "ibn_b"):
        assert bool(norm.eval()(inputs(1, C, 1, 1)).isfinite().all())


@every
@modes
def test_a_constant_channel_gives_finite_values_and_gradients(name: str, training: bool) -> None:
    for value in (0.0, 3.0):
        norm, x = make(name, dtype=torch.float32).train(training), inputs().float()
        x[:, 0] = value
        x.requires_grad_()
        y = norm(x)
        y.square().sum().backward()
        assert all(bool(t.isfinite().all()) for t in (y, x.grad, *(p.grad for p in norm.parameters())))


@every
def test_channels_last_gives_the_same(name: str) -> None:
    norm, x = make(name), inputs()
    twin = copy.deepcopy(norm)
    y, x = x.clone(memory_format=torch.channels_last).requires_grad_(), x.requires_grad_()
    out, expected = twin(y), norm(x)
    torch.testing.assert_close(out, expected)
    for result in (out, expected):
        result.mul(inputs(seed=3)).sum().backward()
    torch.testing.assert_close(y.grad, x.grad)
    torch.testing.assert_close(dict(twin.named_buffers()), dict(norm.named_buffers()))


@every
def test_an_input_in_channels_last_need_not_ask_for_gradients(name: str) -> None:
    """The first layer of a network, or the first behind frozen ones: torch's group norm dies here on a CPU."""
    norm, x = make(name), inputs()
    if not list(norm.parameters()):
        pytest.skip("has nothing to train")
    twin = copy.deepcopy(norm)
    for module, given in ((norm, x), (twin, x.contiguous(memory_format=torch.channels_last))):
        module(given).mul(inputs(seed=3)).sum().backward()
    for p, q in zip(norm.parameters(), twin.parameters()):
        torch.testing.assert_close(q.grad, p.grad)


@pytest.mark.parametrize("name", ["group", "layer"])
def test_in_half_precision_channels_last_gives_the_same_and_stays(name: str) -> None:
    norm, x = create_norm(name, C), inputs().bfloat16()
    y = x.clone(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out, expected = norm(y), norm(x.requires_grad_())
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out, expected)
    for result in (out, expected):
        result.mul(inputs(seed=3)).sum().backward()
    torch.testing.assert_close(y.grad, x.grad)


@every
def test_parameters_are_gains_and_biases(name: str) -> None:
    roles = {key: role.kind for key, (_, role) in parameter_roles(create_norm(name, C), classifier=None).items()}
    assert set(roles.values()) <= {"gain", "bias"}
    assert all((kind == "bias") == key.endswith("bias") for key, kind in roles.items())


@every
def test_nothing_is_read_back_from_the_device(name: str) -> None:
    # A fake tensor has no values: .item(), or Python's if on a tensor, raises, as it would under a CUDA graph.
    norm = create_norm(name, C, **SMALL.get(name, {}))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        x = mode.from_tensor(inputs().float())
        for training in (True, False):
            assert norm.train(training)(x).shape == x.shape


# --- names, options, bad input


def test_activating_norms_say_so() -> None:
    assert {name for name in NORMS if getattr(create_norm(name, C), "activates", False)} == {
        *("frn", "evonorm_b0", "evonorm_s0")
    }


def test_printing_a_norm_shows_its_channels_and_options() -> None:
    assert repr(create_norm("power", 4, warmup=0.0)) == "PowerNorm(4, alpha=0.9, warmup=0.0, eps=1e-05, groups=None)"
    assert repr(create_norm("dyt", 4)) == "DyT(4)"


def test_unknown_names_and_options_list_the_known() -> None:
    with pytest.raises(ValueError, match=r"norm='batchnorm' is not known; use one of none, batch"):
        create_norm("batchnorm", 8)
    with pytest.raises(ValueError, match=r"option 'size' of norm='group' is not known; it takes groups, eps"):
        create_norm("group", 8, size=4)
    with pytest.raises(ValueError, match=r"option 'eps' of norm='none' is not known; it takes none"):
        create_norm("none", 8, eps=1e-5)
    with pytest.raises(ValueError, match="channels=0 must be a whole number of at least 1"):
        create_norm("batch", 0)


def test_default_groups_have_four_channels_where_they_can() -> None:
    found = {channels: whole_groups(channels, None) for channels in (2048, 256, 96, 64, 48, 12, 10, 8, 7, 4, 3, 1)}
    assert found == {2048: 32, 256: 32, 96: 24, 64: 16, 48: 12, 12: 3, 10: 2, 8: 2, 7: 1, 4: 1, 3: 1, 1: 1}


@pytest.mark.parametrize("name", ["group", "evonorm_s0"])
def test_groups_must_divide_the_channels(name: str) -> None:
    with pytest.raises(
        ValueError, match=r"groups=5 does not divide channels=12; use one of 1, 2, 3, 4, 6, 12, or None"
    ):
        create_norm(name, 12, groups=5)
    with pytest.raises(ValueError, match="groups=0 does not divide"):
        create_norm(name, 12, groups=0)


def test_ghost_sizes_must_divide_the_batch() -> None:
    x = inputs()
    with pytest.raises(ValueError, match=r"size=32 is larger than the batch of 4 examples; use a size .*\(1, 2, 4\)"):
        create_norm("ghost_batch", C)(x)
    with pytest.raises(ValueError, match=r"size=3 does not divide the batch of 4 .*drop an epoch's last"):
        create_norm("ghost_batch", C, size=3)(x)
    with pytest.raises(ValueError, match="size=0 must be at least 1"):
        create_norm("ghost_batch", C, size=0)


@pytest.mark.parametrize("name", ["batch", "ghost_batch"])
def test_four_axes_are_needed(name: str) -> None:
    with pytest.raises(ValueError, match=r"input has shape \(4, 8\); .*BatchNorm2d needs 4 axes"):
        create_norm(name, C)(torch.zeros(4, C))


def test_renormalisations_bounds_are_checked() -> None:
    with pytest.raises(ValueError, match=r"r_max=0\.5 must be at least 1 and d_max=5\.0 at least 0"):
        create_norm("batch_renorm", C, r_max=0.5)


@pytest.mark.parametrize(
    ("option", "value"),
    [*(("eps", value) for value in (float("nan"), -1.0, "1e-5", None)), ("momentum", float("nan")), ("momentum", "1")],
)
def test_numbers_of_a_norm_are_checked(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{option}={value!r} must be a finite number of at least 0"):
        create_norm("ghost_batch", 4, **{option: value})
