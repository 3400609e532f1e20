"""What a standardised layer keeps from one training step to the next, and what adaptive clipping makes of it."""

import copy
import io
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from nfnets_lite import agc_groups, agc_norms
from nfnets_lite.agc import AdaptiveClip
from nfnets_lite.conv import ScaledStdConv2d, ScaledStdConvTranspose2d
from nfnets_lite.standardize_ways import by_group_norm, by_the_formula


def made(layer: ScaledStdConv2d) -> Tensor:
    """The weight that convolves, in training."""
    return layer.effective_weight()


def memory(layer: ScaledStdConv2d) -> int | None:
    kept = layer.kept._memory
    return None if kept is None else kept.data_ptr()


def test_training_keeps_the_memory_and_evaluation_gives_it_back() -> None:
    layer = ScaledStdConv2d(4, 6, 3)
    assert memory(layer) is None
    weight = made(layer)
    assert memory(layer) == weight.data_ptr()
    again = made(layer)  # while the first is still in use
    assert memory(layer) == again.data_ptr() != weight.data_ptr()
    assert torch.equal(weight, again)
    with torch.no_grad():
        made(layer)
    assert memory(layer) is None
    assert layer.kept.statistics(layer.weight) is None


@pytest.mark.parametrize("way", ["copy", "save"])
def test_a_copy_keeps_nothing(way: str) -> None:
    layer = ScaledStdConv2d(4, 6, 3)
    made(layer)
    if way == "copy":
        twin = copy.deepcopy(layer)
    else:
        torch.save(layer, file := io.BytesIO())
        twin = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
    assert memory(twin) is None
    assert memory(layer) is not None
    assert layer.state_dict().keys() == twin.state_dict().keys() == {"weight", "bias", "gain"}
    assert torch.equal(made(twin), made(layer))


def test_nothing_of_the_graph_is_kept() -> None:
    """Neither that of the layer nor, where its weight is computed, that of the weight."""
    layer = ScaledStdConv2d(4, 6, 3)
    made(layer)
    _, _, *statistics = layer.kept._measured
    assert not any(x.requires_grad for x in (layer.kept._memory, *statistics))
    nn.utils.parametrizations.orthogonal(layer)
    made(layer)
    assert memory(layer) is not None
    assert layer.kept._measured is None


def test_what_is_kept_is_not_used_for_another_weight() -> None:
    layer = ScaledStdConv2d(4, 6, 3)
    made(layer)
    mean, inverse_std = layer.kept.statistics(layer.weight)
    std, found = torch.std_mean(layer.weight.flatten(1), 1, correction=0)
    torch.testing.assert_close(mean, found[None])
    torch.testing.assert_close(inverse_std, 1 / std[None])
    with torch.no_grad():
        layer.weight.mul_(2)
    assert layer.kept.statistics(layer.weight) is None
    made(layer)
    layer.weight = nn.Parameter(layer.weight.detach().clone())
    assert layer.kept.statistics(layer.weight) is None


def test_two_passes_before_one_backward_pass() -> None:
    """The weights differ between them: each graph has its own."""
    torch.manual_seed(0)
    layer, x = ScaledStdConv2d(4, 6, 3, bias=False), torch.randn(2, 4, 5, 5)
    first = layer(x)
    expected = torch.autograd.grad(first.square().sum(), layer.weight, retain_graph=True)[0]
    old = layer.weight.detach().clone()
    layer.weight.data = old * torch.linspace(0.5, 2, 6)[:, None, None, None]
    layer(x).sum().backward()
    layer.weight.data = old
    found = torch.autograd.grad(first.square().sum(), layer.weight)[0]
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "shape",
    [
        (5, 3, 3, 3),
        (5, 7, 1, 1),
        (5, 1, 3, 3),
        (5, 1, 1, 4),
        (5, 1, 4, 1),
        (1, 4, 3, 3),
        (5, 4, 3),
        (5, 4),
        (5, 2, 1, 2, 3),
    ],
    ids=str,
)
@pytest.mark.parametrize("strides", range(3))
def test_the_fast_way_reads_every_order_of_memory(shape: tuple[int, ...], strides: int) -> None:
    """Sides of 1 may have any stride, and what passes for channels last is read in another order by torch's kernel."""
    torch.manual_seed(0)
    weight, gain, probe = torch.randn(shape), torch.rand(shape[0]), torch.randn(shape)
    layout = {4: torch.channels_last, 5: torch.channels_last_3d}.get(len(shape), torch.contiguous_format)
    if strides:
        weight = weight.to(memory_format=layout)
    if strides == 2:  # as torch makes them of a contiguous tensor whose sides of 1 are moved
        weight = weight.contiguous().as_strided(
            shape, [1 if side == 1 else s for side, s in zip(shape, weight.stride())]
        )
    for to_probe in (probe, probe.to(memory_format=layout)):
        results = []
        for way in (by_group_norm, by_the_formula):
            w, g = weight.clone(memory_format=torch.preserve_format).requires_grad_(), gain.clone().requires_grad_()
            assert w.stride() == weight.stride() or strides == 2
            args = (w, g, 1e-4, 1.0) if way is by_group_norm else (w, g, 1e-4, 0, 1.0)
            y = way(*args)
            assert y is not None
            results.append((y.detach(), *torch.autograd.grad(y, (w, g), to_probe)))
        torch.testing.assert_close(*results, atol=1e-5, rtol=1e-4)


class Net(nn.Module):
    """Standardised weights that are large and small, one that stays at the floor, one not standardised on axis 0."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convs = nn.ModuleList(ScaledStdConv2d(64, 64, 5) for _ in range(3))
        self.small = nn.ModuleList(ScaledStdConv2d(4, 4, 3) for _ in range(2))
        self.up = ScaledStdConvTranspose2d(64, 64, 5)
        with torch.no_grad():
            self.convs[1].weight[3] = 0.25  # constant: the formula's case
            self.convs[2].weight.add_(5.0)  # a mean far above the deviation
        self.layers = [*self.convs, *self.small, self.up]

    def forward(self) -> None:
        for layer in self.layers:
            layer.effective_weight()


def give_grads(clip: AdaptiveClip, closeness: float) -> None:
    """Unit norms around their bounds: a few above, a few below, by a relative `closeness`; most far below."""
    generator = torch.Generator().manual_seed(1)
    for (p, role), sign in zip(clip.units, itertools.cycle([1.0, -1.0])):
        grad = torch.randn(p.shape, generator=generator)
        axes = [d for d in range(p.ndim) if d != role.unit_dim]
        norm = torch.linalg.vector_norm(p.detach(), dim=axes, keepdim=True).clamp(min=clip.eps)
        own = torch.linalg.vector_norm(grad, dim=axes, keepdim=True)
        times = torch.where(torch.rand(norm.shape, generator=generator) < 0.02, 1 + sign * closeness, 1e-3)
        p.grad = (grad * norm / own * clip.clip_factor * times).to(p.dtype)


def both_ways(model: Net, closeness: float) -> tuple[AdaptiveClip, list[Tensor], float]:
    """Clip with what the layers keep; without it, the gradients and the fraction must be the same to the last bit."""
    clip, measuring = AdaptiveClip(model, classifier=None), AdaptiveClip(model, classifier=None)
    measuring._kept = {}
    give_grads(clip, closeness)
    before = [p.grad.clone() for p, _ in clip.units]
    expected = measuring(), [p.grad.clone() for p, _ in clip.units]
    for (p, _), grad in zip(clip.units, before):
        p.grad.copy_(grad)
    fraction = clip()
    torch.testing.assert_close((fraction, [p.grad for p, _ in clip.units]), expected, rtol=0, atol=0, equal_nan=True)
    return clip, before, float(fraction)


@pytest.mark.parametrize("closeness", [0.5, 1e-2, 1e-3, 1e-4, 1e-6, 0.0])
def test_clipping_by_what_the_layers_keep_is_the_same_to_the_last_bit(closeness: float) -> None:
    model = Net()
    model()
    clip, _, fraction = both_ways(model, closeness)
    assert 0 < fraction < 0.1 or closeness == 0
    behind = clip._plan.bundles[0].standardized
    assert [id(w) for w in behind.weights] == [id(conv.weight) for conv in model.convs]
    found = [kept.statistics(w) is not None for kept, w in zip(behind.kept, behind.weights)]
    assert found == [True, False, True]


@pytest.mark.parametrize("change", ["step", "nothing", "evaluation"])
def test_weights_that_moved_are_measured(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In between somebody may take a step, as sharpness-aware minimisation does, or evaluate."""
    model = Net()
    model()
    if change == "step":
        with torch.no_grad():
            model.convs[0].weight.mul_(0.01)
    elif change == "evaluation":
        with torch.no_grad():
            model()
    clip, _, _ = both_ways(model, 0.5)
    read = reads(monkeypatch)
    give_grads(clip, 0.5)
    for p, _ in clip.units:
        p.grad.mul_(1e-3)
    assert float(clip()) == 0
    wanted = {"step": [True, True, False], "nothing": [False, True, False], "evaluation": [True, True, True]}[change]
    assert [conv.weight.data_ptr() in read for conv in model.convs] == wanted


def reads(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Where what is measured lies in memory."""
    seen: set[int] = set()
    measure: Callable[..., Tensor] = agc_norms.norm_over

    def noted(axes: list[int] | None, x: Tensor, **options: bool) -> Tensor:
        seen.add(x.data_ptr())
        return measure(axes, x, **options)

    monkeypatch.setattr(agc_norms, "norm_over", noted)
    return seen


def test_gradients_that_are_not_numbers_stay_visible() -> None:
    model = Net()
    model()
    clip, before, _ = both_ways(model, 0.5)
    clip.units[0][0].grad.copy_(before[0])
    clip.units[0][0].grad[5, 0, 0, 0] = float("nan")
    clip()
    assert clip.units[0][0].grad[5].isnan().any()
    assert not clip.units[0][0].grad[:5].isnan().any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_in_other_precisions_too(dtype: torch.dtype) -> None:
    model = Net().to(dtype)
    model()
    both_ways(model, 1e-2)


def test_below_the_bound_for_large_weights_everything_is_measured() -> None:
    layer = ScaledStdConv2d(agc_groups.LARGE // 64, 64, 1)
    layer.effective_weight()
    clip = AdaptiveClip(layer, classifier=None)
    give_grads(clip, 0.5)
    clip()
    assert clip._plan.bundles[0].standardized is None


def test_compiled_clipping_measures_everything_and_gives_the_same() -> None:
    model = Net()
    model()
    clip, before, _ = both_ways(model, 1e-2)
    expected = [p.grad.clone() for p, _ in clip.units]
    for (p, _), grad in zip(clip.units, before):
        p.grad = grad
    torch.compiler.reset()
    torch.compile(lambda: clip(), backend="eager", fullgraph=True)()
    torch.testing.assert_close([p.grad for p, _ in clip.units], expected, rtol=0, atol=0)


def test_training_takes_the_same_steps_whether_norms_are_known_or_measured() -> None:
    """To the last bit: losses and fractions of a few updates, and the weights after them."""
    runs = []
    for known in (True, False):
        torch.manual_seed(0)
        convs = ScaledStdConv2d(3, 64, 3), nn.ReLU(), ScaledStdConv2d(64, 128, 3)
        model = nn.Sequential(*convs, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 5))
        clip = AdaptiveClip(model, 0.05, classifier=model[-1])
        if not known:
            clip._kept = {}
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
        x, labels = torch.randn(8, 3, 9, 9), torch.arange(8) % 5
        seen: list[float] = []
        for _ in range(6):
            loss = nn.functional.cross_entropy(model(x), labels)
            optimizer.zero_grad()
            loss.backward()
            assert model[2].kept.statistics(model[2].weight) is not None
            assert len(clip._kept) == (2 if known else 0)
            seen += [loss.item(), float(clip())]
            optimizer.step()
        runs.append((seen, [p.detach() for p in model.parameters()]))
    assert any(0 < fraction < 1 for fraction in runs[0][0][1::2])
    torch.testing.assert_close(*runs, rtol=0, atol=0)
