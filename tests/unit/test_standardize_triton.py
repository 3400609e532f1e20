"""The kernels that standardise weights: on the CPU by Triton's interpreter, in a process of its own; on a GPU."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from kernel_builds import machine_code, needs_triton, run_interpreted
from torch import Tensor

from nfnets_lite import ScaledStdConv2d, standardize_triton
from nfnets_lite.standardize import standardize_weight
from nfnets_lite.standardize_ways import by_the_formula

# Rows that one program holds at once, longer ones, a single unit, and a fan-in of 1, of which nothing is left.
SHAPES = [(8, 4, 3, 3), (5, 27), (2, 5000), (1, 6, 1, 1), (6, 1, 1, 1), (3, 2, 5)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
EPS = 1e-4
FLOORS = [1e-2, 1e-3, EPS, 1e-5, 1e-6, 1e-8]  # of some of them one over the square of the root is another number
Make = Callable[[Tensor, Tensor | None, float, float], Tensor]


def make_weight(shape: tuple[int, ...], device: str = "cpu", dtype: torch.dtype = torch.float32) -> Tensor:
    """Filters whose mean is not 0, one of them below the floor."""
    generator = torch.Generator().manual_seed(len(shape))
    weight = torch.randn(shape, generator=generator) * 0.05 + 0.3
    weight[-1] *= 1e-5
    return weight.to(device, dtype)


def results(
    make: Make, weight: Tensor, gain: Tensor | None, factor: float, digits: torch.dtype, eps: float
) -> list[Tensor]:
    """The standardised weight and the gradients of a weighted sum, on the CPU in float32."""
    w = weight.detach().clone().requires_grad_()
    g = None if gain is None else gain.detach().clone().requires_grad_()
    made = make(w, g, eps, factor)
    probe = torch.arange(made.numel()).cos().to(digits).view(made.shape).to(made)
    wanted = [x for x in (w, g) if x is not None]
    return [x.detach().float().cpu() for x in (made, *torch.autograd.grad(made, wanted, probe))]


def formula(weight: Tensor, gain: Tensor | None, eps: float, factor: float) -> Tensor:
    return by_the_formula(weight, gain, eps, 0, factor)


def assert_alike(make: Make, weight: Tensor, gain: Tensor | None, factor: float, eps: float = EPS) -> None:
    """As the formula in float64; `weight` may have fewer digits: what they lose is in both."""
    found = results(make, weight, gain, factor, weight.dtype, eps)
    twins = [None if x is None else x.detach().cpu().double() for x in (weight, gain)]
    expected = results(formula, *twins, factor, weight.dtype, eps)
    place = 3e-6 if weight.dtype == torch.float32 else 2 * torch.finfo(weight.dtype).eps
    for mine, theirs in zip(found, expected, strict=True):
        # By unit: at the floor gradients are a hundred times those of the others.
        mine, theirs = (x.reshape(len(weight), -1) for x in (mine, theirs))
        size = theirs.abs().amax(1, keepdim=True).clamp(min=1e-2)
        torch.testing.assert_close(mine / size, theirs / size, rtol=0, atol=place)


def check_in_the_interpreter() -> None:
    """Run by the process that the test below starts."""
    for dtype in DTYPES:
        for shape in SHAPES:
            weight = make_weight(shape, dtype=dtype)
            assert standardize_triton.takes(weight)
            for gain in (None, torch.linspace(0.5, 2.0, shape[0])):
                assert_alike(standardize_triton.standardize, weight, gain, 1.7)
    check_floors("cpu")
    check_layouts("cpu")
    check_second_derivatives("cpu")
    with torch.inference_mode():
        assert standardize_triton.works(torch.device("cpu"))


def check_floors(device: str) -> None:
    """At the floor nothing goes through the sum of squares, whatever the floor is."""
    for eps in FLOORS:
        weight = make_weight((5, 27), device)
        weight[-2:] = torch.linspace(-1, 1, 27, device=device) * (eps / 27) ** 0.5  # a third of the floor
        assert_alike(standardize_triton.standardize, weight, None, 1.7, eps)


def check_layouts(device: str) -> None:
    """Channels last gives channels last, and takes a gradient in any order."""
    weight = make_weight((8, 4, 3, 3), device).to(memory_format=torch.channels_last).requires_grad_()
    made = standardize_triton.standardize(weight, None, EPS, 1.0)
    assert made.is_contiguous(memory_format=torch.channels_last)
    plain = formula(weight, None, EPS, 1.0)
    torch.testing.assert_close(made, plain, rtol=1e-5, atol=1e-6)
    probe = torch.arange(made.numel(), dtype=torch.float32, device=device).cos().view(made.shape)
    (found,), (expected,) = (torch.autograd.grad(x, weight, probe) for x in (made, plain))
    torch.testing.assert_close(found[:-1], expected[:-1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[-1], expected[-1], rtol=1e-4, atol=1e-3)


def check_second_derivatives(device: str) -> None:
    weight, gain = make_weight((3, 2, 2, 1), device), torch.tensor([0.5, 1.0, 2.0], device=device)
    seconds = []
    for make in (standardize_triton.standardize, formula):
        w, g = weight.clone().requires_grad_(), gain.clone().requires_grad_()
        first = torch.autograd.grad(make(w, g, EPS, 1.0).pow(3).sum(), (w, g), create_graph=True)
        seconds.append(torch.autograd.grad(sum(x.pow(2).sum() for x in first), (w, g)))
    for mine, theirs in zip(*seconds):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)


@needs_triton
def test_kernels_give_what_the_formula_gives_in_the_interpreter() -> None:
    run_interpreted(__file__)


@needs_triton
@pytest.mark.parametrize("capability", [80, 90])
def test_kernels_are_built_for_gpus_that_are_not_here(
    capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    types = dict.fromkeys(("means", "roots", "gain", "d_gain"), "*fp32")
    types |= {"length": "i32", "factor": "fp32", "eps": "fp32"}
    for kernel in (standardize_triton._make, standardize_triton._go_back):
        for dtype, block in (("fp32", 2048), ("bf16", 64), ("fp16", 1)):
            tensors = dict.fromkeys(("weight", "made", "grad", "d_weight"), f"*{dtype}")
            assert machine_code(kernel, types | tensors, {"HAS_GAIN": True, "BLOCK": block}, capability)


def test_what_the_kernels_do_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standardize_triton, "triton", True)
    x = torch.randn(8, 8)
    assert standardize_triton.takes(x)
    for other in (x.T, x[:, ::2], x.double(), x[:1].expand(8, 8)):
        assert not standardize_triton.takes(other)
    monkeypatch.setattr(standardize_triton, "triton", None)
    assert not standardize_triton.takes(x)


def test_where_a_kernel_fails_the_formula_is_taken_and_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standardize_triton, "_FOUND", {})
    device = torch.device("cpu")
    monkeypatch.setattr(standardize_triton, "is_capturing", lambda device: True)
    assert not standardize_triton.works(device)
    assert not standardize_triton._FOUND  # a captured graph says nothing about the kernels
    monkeypatch.setattr(standardize_triton, "is_capturing", lambda device: False)
    monkeypatch.setattr(standardize_triton, "_difference", lambda device: "numbers differ by 1.0e+00")
    with pytest.warns(UserWarning, match="without a kernel on cpu, slower .numbers differ"):
        assert not standardize_triton.works(device)
    assert not standardize_triton.works(device)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gpu_weights_and_gradients(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    assert standardize_triton.works(torch.empty(1, device="cuda").device)
    weight = make_weight(shape, "cuda", dtype)
    for gain in (None, torch.linspace(0.5, 2.0, shape[0], device="cuda")):
        assert_alike(
            lambda w, g, eps, factor: standardize_weight(w, g, eps=eps, factor=factor), weight, gain, factor=1.7
        )


@pytest.mark.gpu
def test_gpu_floors_layouts_and_second_derivatives() -> None:
    check_floors("cuda")
    check_layouts("cuda")
    check_second_derivatives("cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
def test_gpu_layer_is_the_cpu_layer(compiled: bool) -> None:
    torch.manual_seed(0)
    layer, x = ScaledStdConv2d(16, 32, 3, padding="same"), torch.randn(4, 16, 9, 9)
    layer(x).pow(2).sum().backward()
    expected = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    layer.cuda()
    (torch.compile(layer) if compiled else layer)(x.cuda()).pow(2).sum().backward()
    for parameter, grad in zip(layer.parameters(), expected):
        torch.testing.assert_close(parameter.grad.cpu(), grad, rtol=1e-2, atol=1e-2 * float(grad.abs().max()))


@pytest.mark.gpu
def test_gpu_capture_in_a_graph() -> None:
    weight = make_weight((8, 4, 3, 3), "cuda")
    expected = standardize_weight(weight)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = standardize_weight(weight)
    graph.replay()
    torch.testing.assert_close(made, expected)


if __name__ == "__main__":
    check_in_the_interpreter()
