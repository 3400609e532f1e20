"""The kernel that clips many tensors at once: on the CPU by Triton's interpreter, in a process of its own; on a GPU."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from kernel_builds import machine_code, needs_triton, run_interpreted
from torch import Tensor, nn

from nfnets_lite import agc_groups, agc_triton
from nfnets_lite.agc import AdaptiveClip, unitwise_norm
from nfnets_lite.roles import Role

ROOT = Path(__file__).resolve().parents[2]
SHAPES = [((8, 4, 3, 3), 0), ((8, 4, 3, 3), 0), ((16,), None), ((), None), ((2, 5000), 0), ((5, 27), 0), ((3, 1), None)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
FACTOR, EPS = 0.01, 1e-3


def make_clip(device: str = "cpu", dtype: torch.dtype = torch.float32) -> AdaptiveClip:
    """Long rows and short ones, vectors, a scalar, and memory in another order than the axes."""
    torch.manual_seed(0)
    clip = AdaptiveClip([], FACTOR, EPS)
    for shape, unit_dim in SHAPES:
        parameter = nn.Parameter(torch.randn(shape).to(device, dtype))
        clip.units.append((parameter, Role("weight", unit_dim, clip=True, decay=True)))
    clip.units[0][0].data = clip.units[0][0].data.to(memory_format=torch.channels_last)
    return clip


def new_grads(clip: AdaptiveClip, share: float, seed: int = 0, dtype: torch.dtype | None = None) -> None:
    """Gradients in new memory; of all units none, every other one, or all are above their bounds."""
    generator = torch.Generator().manual_seed(seed)
    for parameter, role in clip.units:
        grad = torch.randn(parameter.shape, generator=generator)
        weight, norm = (unitwise_norm(x, role.unit_dim) for x in (parameter.detach().cpu().float(), grad))
        odd = torch.arange(norm.numel()).view(norm.shape) % 2 == 0
        times = {0.0: torch.tensor(0.5), 0.5: torch.where(odd, 2.0, 0.5), 1.0: torch.tensor(2.0)}[share]
        parameter.grad = None
        if dtype is not None:
            parameter.grad_dtype = dtype
        parameter.grad = (grad * times * FACTOR * weight.clamp(min=EPS) / norm).to(
            parameter.device, dtype or parameter.dtype
        )


def grads_of(clip: AdaptiveClip) -> list[Tensor]:
    return [p.grad for p, _ in clip.units if p.grad is not None]


def by_other_means(clip: AdaptiveClip) -> tuple[float, list[Tensor]]:
    """What a CPU makes of copies: the fraction and the gradients."""
    twin = AdaptiveClip([], clip.clip_factor, clip.eps)
    for parameter, role in clip.units:
        copy = parameter.detach().cpu().clone().requires_grad_()
        if parameter.grad is not None:
            copy.grad_dtype = parameter.grad.dtype
            copy.grad = parameter.grad.cpu().clone()
        twin.units.append((copy, role))
    return float(twin()), grads_of(twin)


def assert_close(found: list[Tensor], expected: list[Tensor], *, cuts: bool = False) -> None:
    """To 1e-6, or the last place of a shorter number; `cuts`: that the interpreter cuts off where others round."""
    for mine, theirs in zip(found, expected, strict=True):
        place = torch.finfo(mine.dtype).eps * (2 if cuts else 1)
        torch.testing.assert_close(mine.cpu(), theirs, rtol=max(1e-6, place), atol=1e-12, equal_nan=True)


def assert_clips_like_a_cpu(clip: AdaptiveClip, *, cuts: bool = False) -> None:
    fraction, expected = by_other_means(clip)
    assert float(clip()) == pytest.approx(fraction)
    assert_close(grads_of(clip), expected, cuts=cuts)


def kernels(clip: AdaptiveClip) -> int:
    """How many bundles of gradients the kernel clips."""
    assert clip._plan is not None
    return sum(bundle.rows is not None and bool(bundle.rows._tables) for bundle in clip._plan.bundles)


def check_in_the_interpreter() -> None:
    """Run by the process that the test below starts."""
    agc_groups._for_a_kernel = lambda p, g, role: (p.dtype, g.dtype) if agc_triton.takes(p, g, role.unit_dim) else None
    for dtype, of_grads in [*zip(DTYPES, DTYPES), *pairwise(DTYPES)]:
        clip = make_clip(dtype=dtype)
        for seed, share in enumerate([0.0, 0.5, 0.5, 1.0]):
            new_grads(clip, share, seed, of_grads)
            if seed == 2:
                clip.units[0][0].grad.view(-1)[5] = float("nan")
                clip.units[1][0].data[3] = float("nan")
                clip.units[4][0].grad[1, 4000] = float("inf")
                clip.units[5][0].grad = None
            versions = [grad._version for grad in grads_of(clip)]
            assert_clips_like_a_cpu(clip, cuts=True)
            assert kernels(clip) == 1
            assert all(grad._version > version for grad, version in zip(grads_of(clip), versions))
    while_a_graph_is_captured(make_clip())


def while_a_graph_is_captured(clip: AdaptiveClip) -> None:
    """The graph copies a table that is its own; one that is current, it reads; what it copies and reads is kept."""
    tables = []
    for seed, (capturing, kept) in enumerate([(True, 0), (False, 0), (True, 1), (True, 1), (False, 1), (True, 2)]):
        agc_triton.is_capturing = lambda device, answer=capturing: answer
        if seed < 5:
            old = grads_of(clip)  # kept, so that the next have other addresses
            new_grads(clip, 0.5, seed)
        else:
            torch._foreach_mul_(grads_of(clip), 3.0)
        assert_clips_like_a_cpu(clip)
        assert len(agc_triton._CAPTURED) == kept
        tables.append(clip._plan.bundles[0].rows._tables)
    assert tables[0] == ()  # nothing was ready before the first call outside of a capture
    assert tables[2] is tables[3]  # nor was a second table, which the gradients' other addresses ask for
    sent, current = agc_triton._CAPTURED
    assert current is tables[4] is tables[5]
    assert sent[3] is tables[2][3]
    assert len({table.data_ptr() for table in (tables[1][3], sent[3], sent[4], current[3])}) == 4
    assert torch.equal(sent[3], sent[4])  # the later calls wrote to neither
    assert len(old) == len(grads_of(clip))


@needs_triton
def test_kernel_gives_what_the_cpu_gives_in_the_interpreter() -> None:
    run_interpreted(__file__)


@needs_triton
@pytest.mark.parametrize("capability", [80, 90])
def test_kernel_is_built_for_gpus_that_are_not_here(
    capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    types = dict.fromkeys(("lengths", "firsts", "owners", "above"), "*i32")
    types |= {"addresses": "*i64", "clip_factor": "fp32", "eps": "fp32"}
    tl = agc_triton.tl
    for weight, grad, block in ((tl.float32, tl.float32, 2048), (tl.bfloat16, tl.float32, 64)):
        assert machine_code(agc_triton._clip_row, types, {"W": weight, "G": grad, "BLOCK": block}, capability)


def test_what_the_kernel_does_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agc_triton, "triton", True)
    x = torch.randn(8, 8)
    assert agc_triton.takes(x, x, 0)
    assert not agc_triton.takes(x, x, 1)
    assert not agc_triton.takes(x, x.T.contiguous().T, 0)
    assert not agc_triton.takes(x[:4], x, 0)
    for other in (x.T, x[:, ::2], x[:1].expand(8, 8), x.double(), x[:0]):
        assert not agc_triton.takes(other, other, 0)


def test_a_cpu_needs_no_triton() -> None:
    program = (
        "import sys, torch, nfnets_lite; sys.modules['triton'] = None; w = torch.ones(2, 4, requires_grad=True); "
        "w.sum().backward(); nfnets_lite.adaptive_clip_grad_(w); print('nfnets_lite.agc_triton' in sys.modules); "
        "from nfnets_lite import agc_triton; print(agc_triton.takes(w, w.grad, 0))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("of_grads", DTYPES)
def test_gpu_none_half_and_all(dtype: torch.dtype, of_grads: torch.dtype) -> None:
    clip = make_clip("cuda", dtype)
    for seed, share in enumerate([0.0, 0.5, 1.0, 0.5]):
        old = grads_of(clip)  # kept, so that the next have other addresses
        new_grads(clip, share, seed, of_grads)
        assert_clips_like_a_cpu(clip)
        assert kernels(clip) == 1
        del old


@pytest.mark.gpu
def test_gpu_gradients_come_go_and_change_their_layout() -> None:
    clip = make_clip("cuda")
    clip.units.append((nn.Parameter(torch.randn(6, 4, 3, 3, device="cuda")), Role("weight", 1, clip=True, decay=True)))
    clip.units.append((nn.Parameter(torch.randn(6, 4, device="cuda").double()), clip.units[0][1]))
    for seed in range(6):
        new_grads(clip, 0.5, seed)
        if seed in (1, 2, 4):
            clip.units[seed][0].grad = None
        if seed in (3, 4):
            weight = clip.units[5][0]
            weight.grad = weight.grad.T.contiguous().T
        if seed == 5:
            clip.units[1][0].data = clip.units[1][0].data.to(memory_format=torch.channels_last)
        assert_clips_like_a_cpu(clip)
        assert kernels(clip) == 1


@pytest.mark.gpu
def test_gpu_clips_without_triton_and_where_the_kernel_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agc_triton, "works", lambda device: False)
    clip = make_clip("cuda")
    new_grads(clip, 0.5)
    assert_clips_like_a_cpu(clip)
    assert kernels(clip) == 0
    monkeypatch.setattr(agc_triton, "triton", None)
    clip = make_clip("cuda")
    new_grads(clip, 0.5)
    assert_clips_like_a_cpu(clip)
    assert [bundle.rows for bundle in clip._plan.bundles] == [None]


@pytest.mark.gpu
@pytest.mark.parametrize("current", [True, False], ids=["table is current", "table is not"])
def test_gpu_capture_in_a_graph(current: bool) -> None:
    clip, other = make_clip("cuda"), make_clip("cuda")
    new_grads(clip, 0.5)
    clip()
    before = grads_of(clip)  # kept, so that the next have other addresses
    if not current:
        new_grads(clip, 0.5)
    static = grads_of(clip)
    graph, kept = torch.cuda.CUDAGraph(), len(agc_triton._CAPTURED)
    with torch.cuda.graph(graph):
        fraction = clip()
    assert len(agc_triton._CAPTURED) == kept + 1  # by the kernel
    for seed, share in enumerate([1.0, 0.0, 0.5]):
        new_grads(other, share, seed)
        torch._foreach_copy_(static, grads_of(other))
        expected, gradients = by_other_means(other)
        graph.replay()
        assert float(fraction) == pytest.approx(expected)
        assert_close(static, gradients)
        new_grads(clip, 1.0, seed)  # an eager call between has a table of its own
        clip()
    assert len(before) == len(static)


if __name__ == "__main__":
    check_in_the_interpreter()
