"""Faster ways to the same numbers: equal to the formula, and off wherever somebody could see the difference."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from nfnets_lite import create_model
from nfnets_lite.activations import ScaledActivation
from nfnets_lite.conv import ScaledStdConv2d
from nfnets_lite.models import ResNet
from nfnets_lite.models.resnet import Block
from nfnets_lite.standardize import standardize_weight


def formula(weight: Tensor, gain: Tensor, eps: float = 1e-4) -> Tensor:
    """Standardised units, an operation after the other, in float64."""
    over = tuple(range(1, weight.ndim))
    var, mean = torch.var_mean(weight.double(), over, correction=0, keepdim=True)
    scale = (var * weight[0].numel()).clamp(min=eps).rsqrt()
    return (weight.double() - mean) * scale * gain.double().reshape(-1, *[1] * len(over))


def made_and_gradients(make: Callable[..., Tensor], weight: Tensor, gain: Tensor, probe: Tensor) -> list[Tensor]:
    w, g = (x.detach().clone(memory_format=torch.preserve_format).requires_grad_() for x in (weight, gain))
    made = make(w, g)
    return [made.detach().double(), *(x.double() for x in torch.autograd.grad(made, (w, g), probe.to(made.dtype)))]


def assert_formula(weight: Tensor, *, tolerance: float) -> None:
    gain, probe = torch.rand(len(weight), dtype=weight.dtype) + 0.5, torch.randn(weight.shape)
    found = made_and_gradients(standardize_weight, weight, gain, probe)
    for ours, expected in zip(found, made_and_gradients(formula, weight, gain, probe)):
        scale = max(float(expected.abs().max()), 1e-30)
        torch.testing.assert_close(ours / scale, expected / scale, rtol=0, atol=tolerance)


@pytest.mark.parametrize("case", ["plain", "one at the floor", "channels_last", "fan-in of 1", "slice", "transposed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_and_gradients_are_the_formulas(case: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, *((1, 1, 1) if case == "fan-in of 1" else (40, 3, 3)))
    weight = (weight * 0.05 + 0.3).to(dtype)
    if case == "one at the floor":
        weight[2] *= 1e-4
    elif case == "channels_last":
        weight = weight.to(memory_format=torch.channels_last)
    elif case == "slice":
        weight = weight[..., :2]
    elif case == "transposed":
        weight = weight.transpose(0, 1)
    assert_formula(weight, tolerance=1e-12 if dtype == torch.float64 else 5e-6)
    if case == "channels_last":
        assert standardize_weight(weight).is_contiguous(memory_format=torch.channels_last)


SHAPES = [
    *((5, 3, 3, 3), (5, 7, 1, 1), (5, 1, 3, 3), (5, 1, 1, 4), (5, 1, 4, 1)),
    *((1, 4, 3, 3), (5, 4, 3), (5, 4), (5, 2, 1, 2, 3)),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("strides", range(3))
def test_every_order_of_memory_is_read(shape: tuple[int, ...], strides: int) -> None:
    """Sides of 1 may have any stride; what passes for channels last is read in another order by torch's kernel."""
    torch.manual_seed(0)
    weight = torch.randn(shape)
    if strides:
        layout = {4: torch.channels_last, 5: torch.channels_last_3d}.get(len(shape), torch.contiguous_format)
        weight = weight.to(memory_format=layout)
    if strides == 2:  # as torch makes them of a contiguous tensor whose sides of 1 are moved
        moved = [1 if side == 1 else s for side, s in zip(shape, weight.stride())]
        weight = weight.contiguous().as_strided(shape, moved)
    assert_formula(weight, tolerance=1e-5)


def test_two_passes_before_one_backward_pass() -> None:
    """The weights differ between the passes: each graph has its own."""
    torch.manual_seed(0)
    layer, x = ScaledStdConv2d(4, 6, 3, bias=False), torch.randn(2, 4, 5, 5)
    first = layer(x)
    expected = torch.autograd.grad(first.square().sum(), layer.weight, retain_graph=True)[0]
    old = layer.weight.detach().clone()
    layer.weight.data = old * torch.linspace(0.5, 2, 6)[:, None, None, None]
    layer(x).sum().backward()
    layer.weight.data = old
    assert torch.equal(torch.autograd.grad(first.square().sum(), layer.weight)[0], expected)


def test_tangents_and_maps_go_through_the_formula() -> None:
    weight, tangent = torch.randn(6, 4, 3, 3), torch.randn(6, 4, 3, 3)
    with forward_ad.dual_level():
        found = forward_ad.unpack_dual(standardize_weight(forward_ad.make_dual(weight, tangent))).tangent
    _, expected = torch.func.jvp(standardize_weight, (weight,), (tangent,))
    torch.testing.assert_close(found, expected)
    both = torch.stack([weight, tangent])
    torch.testing.assert_close(torch.vmap(standardize_weight)(both)[1], standardize_weight(tangent))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_trace_holds_for_weights_at_the_floor_too() -> None:
    weight = torch.randn(6, 4, 3, 3)
    traced = torch.jit.trace(standardize_weight, weight)
    torch.testing.assert_close(traced(1e-4 * weight), standardize_weight(1e-4 * weight))


# --- a block whose gains are multiplied into the weights behind them


def small(name: str) -> ResNet:
    torch.manual_seed(0)
    shapes = {"nfnet_f0": {"width": (32, 64, 96, 96), "group_width": 8}, "nf_regnet_b0": {"width": 0.5}}
    given = {"depth": (1, 2, 1, 1), "num_classes": 5, "skip_gain": 0.5, **shapes.get(name, {"width": 0.25})}
    return create_model(name, **given).double()  # type: ignore[arg-type]


def cifar() -> ResNet:
    torch.manual_seed(0)
    return create_model("cifar_resnet8", method="nf", width=(8, 16, 16), skip_gain=0.5).double().eval()


def blocks(model: ResNet) -> list[Block]:
    return [block for block in model.blocks if isinstance(block, Block)]


@contextmanager
def watched(model: nn.Module) -> Iterator[list[Tensor]]:
    """Hooks on all activations and branches: what they see has to be whole, so everything is computed plainly."""
    seen: list[Tensor] = []
    places = [m for m in model.modules() if isinstance(m, ScaledActivation)] + [b.branch for b in blocks(model)]
    handles = [place.register_forward_hook(lambda module, args, out: seen.append(out)) for place in places]
    yield seen
    assert len(seen) == len(places)
    for handle in handles:
        handle.remove()


def outputs_and_gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    model.zero_grad()
    out = model(x)
    out.square().sum().backward()
    return [out.detach(), *(p.grad.clone() for p in model.parameters())]


FAMILIES = [
    "nfnet_f0",
    "nf_regnet_b0",
    "se_nf_resnet50",
    "nf_resnet50",
    "fixup_resnet50",
    "skipinit_resnet50",
    "resnet50",
]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_network_gives_the_same_whether_it_is_watched_or_not(name: str) -> None:
    model, x = small(name).eval(), torch.randn(2, 3, 40, 33, dtype=torch.float64)
    found = outputs_and_gradients(model, x)
    with watched(model):
        expected = outputs_and_gradients(model, x)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("everywhere", [False, True], ids=["one hook", "a global hook"])
def test_a_hook_sees_the_whole_of_what_goes_in(everywhere: bool) -> None:
    x = torch.randn(2, 8, 6, 6, dtype=torch.float64)
    model = cifar()
    block, seen = blocks(model)[1], dict[nn.Module, Tensor]()
    whole, expected = block.enter(x), block(x)

    def look(module: nn.Module, args: tuple[Tensor, ...], _out: Tensor) -> None:
        seen[module] = args[0]

    for place in (block.branch, block.branch[0], block.shortcut):
        seen.clear()
        hook = nn.modules.module.register_module_forward_hook if everywhere else place.register_forward_hook
        handle = hook(look)
        torch.testing.assert_close(block(x), expected)
        handle.remove()
        torch.testing.assert_close(seen[place], whole)


def test_what_stands_in_a_parts_place_is_asked() -> None:
    class Double(ScaledStdConv2d):
        def effective_weight(self) -> Tensor:
            return 2 * super().effective_weight()

    model = cifar()
    block, x = blocks(model)[1], torch.randn(2, 8, 6, 6, dtype=torch.float64)
    plain, branch = block(x), block.branch
    block.shortcut.__class__ = Double
    torch.testing.assert_close(block(x) - plain, block.shortcut(block.enter(x)) / 2)
    block.shortcut.__class__ = ScaledStdConv2d
    block.shortcut.forward = lambda x: torch.zeros(())  # as accelerate replaces it
    assert not torch.allclose(block(x), plain)
    del block.shortcut.forward
    act = block.enter.act
    block.enter.act = nn.Sequential(nn.Identity(), act)
    torch.testing.assert_close(block(x), plain)

    class Wrapper(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)

    for wrapped in (Wrapper(branch), torch.compile(branch, backend="eager")):
        block.branch = wrapped
        torch.testing.assert_close(block(x), plain)
    block.branch = nn.Sequential()
    block.shortcut, block.transition = nn.Identity(), False
    torch.testing.assert_close(block(x), x + block.join.branch * 0.5 * block.enter(x))


WAYS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "make_fx": lambda model, x: make_fx(model)(x)(x),
    "jit.trace": lambda model, x: torch.jit.trace(model, x, check_trace=False)(x),
    "compile": lambda model, x: torch.compile(model, backend="aot_eager", fullgraph=True)(x),
    "export": lambda model, x: torch.export.export(model, (x,)).module()(x),
    "vmap": lambda model, x: torch.vmap(model)(x[:, None])[:, 0],
    "jvp": lambda model, x: torch.func.jvp(model, (x,), (x,))[0],
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_whatever_traces_or_maps_gets_the_same_numbers(way: str) -> None:
    torch.compiler.reset()
    model = cifar()
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    expected = model(x)
    with torch.no_grad() if way in ("make_fx", "jit.trace") else nullcontext():
        torch.testing.assert_close(WAYS[way](model, x).detach(), expected.detach())


def test_operations_are_counted_as_they_are_written() -> None:
    model, x = cifar(), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    counts = []
    for _ in range(2):
        with FlopCounterMode(display=False) as counter:
            model(x)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("grad", [False, True])
def test_gelu_is_the_tanh_form(grad: bool) -> None:
    x = torch.linspace(-9, 9, 1001).requires_grad_(grad)
    expected = F.gelu(x.detach().double(), approximate="tanh").float()
    torch.testing.assert_close(ScaledActivation("gelu", 1.0)(x).detach(), expected, rtol=1e-5, atol=1e-6)
