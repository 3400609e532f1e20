"""Scaled weight standardisation on a GPU: one kernel forward and one backward, where plain operations start 25."""

import warnings
from typing import Any

import torch
from torch import Tensor

from nfnets_lite.agc_triton import DTYPES, LONGEST, in_rows, is_capturing, tl, triton
from nfnets_lite.standardize_ways import by_the_formula

_FOUND: dict[torch.device, bool] = {}


def takes(weight: Tensor) -> bool:
    """Whether the kernels can standardise this weight: its dtype, and each unit's numbers in one piece of memory.

    Examples
    --------
    >>> takes(torch.zeros(8, 4, 3, 3)) == (triton is not None)
    True
    >>> takes(torch.zeros(8, 4, 3, 3, dtype=torch.float64))
    False
    """
    return triton is not None and weight.dtype in DTYPES and in_rows(weight, 0)


if triton is not None:

    @triton.jit  # type: ignore[untyped-decorator]
    def _make(  # type: ignore[no-untyped-def]
        weight, gain, made, means, roots, length, factor, eps, HAS_GAIN: tl.constexpr, BLOCK: tl.constexpr
    ):
        """Standardise one unit; keeps its mean and one over the root of its sum of squares, floored."""
        row = tl.program_id(0)
        start = row.to(tl.int64) * length
        total = tl.zeros([BLOCK], tl.float32)
        for at in range(0, length, BLOCK):
            place = at + tl.arange(0, BLOCK)
            total += tl.load(weight + start + place, mask=place < length, other=0.0).to(tl.float32)
        mean = tl.sum(total, 0) / length
        squares = tl.zeros([BLOCK], tl.float32)
        for at in range(0, length, BLOCK):
            place = at + tl.arange(0, BLOCK)
            w = tl.load(weight + start + place, mask=place < length, other=0.0).to(tl.float32)
            centred = tl.where(place < length, w - mean, 0.0)
            squares += centred * centred
        square = tl.sum(squares, 0)
        root = tl.div_rn(1.0, tl.sqrt_rn(tl.where(square < eps, eps, square)))  # a NaN stays one
        scale = root * factor
        if HAS_GAIN:
            scale *= tl.load(gain + row).to(tl.float32)
        for at in range(0, length, BLOCK):
            place = at + tl.arange(0, BLOCK)
            w = tl.load(weight + start + place, mask=place < length, other=0.0).to(tl.float32)
            tl.store(made + start + place, ((w - mean) * scale).to(made.dtype.element_ty), mask=place < length)
        tl.store(means + row, mean)
        tl.store(roots + row, root)

    @triton.jit  # type: ignore[untyped-decorator]
    def _go_back(  # type: ignore[no-untyped-def]
        grad, weight, gain, means, roots, d_weight, d_gain, length, factor, eps,
        HAS_GAIN: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        """One unit's gradients: what is left of it beside a constant and beside the unit itself, scaled."""
        row = tl.program_id(0)
        start = row.to(tl.int64) * length
        mean, root = tl.load(means + row), tl.load(roots + row)
        total = tl.zeros([BLOCK], tl.float32)
        along = tl.zeros([BLOCK], tl.float32)
        for at in range(0, length, BLOCK):
            place = at + tl.arange(0, BLOCK)
            g = tl.load(grad + start + place, mask=place < length, other=0.0).to(tl.float32)
            w = tl.load(weight + start + place, mask=place < length, other=0.0).to(tl.float32)
            total += g
            along += g * (w - mean) * root
        shared, projection = tl.sum(total, 0) / length, tl.sum(along, 0)
        scale = root * factor
        if HAS_GAIN:
            tl.store(d_gain + row, projection * factor)
            scale *= tl.load(gain + row).to(tl.float32)
        # At the floor the divisor is a constant: nothing goes through the sum of squares. It is told by the very number
        # that the forward pass makes there: any other way to say so is false of some eps, by rounding.
        inner = tl.where(root >= tl.div_rn(1.0, tl.sqrt_rn(eps)), 0.0, projection * root)
        for at in range(0, length, BLOCK):
            place = at + tl.arange(0, BLOCK)
            g = tl.load(grad + start + place, mask=place < length, other=0.0).to(tl.float32)
            w = tl.load(weight + start + place, mask=place < length, other=0.0).to(tl.float32)
            found = (g - shared - (w - mean) * inner) * scale
            tl.store(d_weight + start + place, found.to(d_weight.dtype.element_ty), mask=place < length)


def standardize(weight: Tensor, gain: Tensor | None, eps: float, factor: float) -> Tensor:
    """`nfnets_lite.standardize.standardize_weight` of what the kernels take, on a device where they work."""
    made: Tensor = _Standardize.apply(weight, gain, eps, factor)  # type: ignore[no-untyped-call]
    return made


class _Standardize(torch.autograd.Function):
    """Keeps a mean and a root for each unit; a gradient of its gradient goes through the formula."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, gain: Tensor | None, eps: float, factor: float) -> Tensor:
        made, length = torch.empty_like(weight), weight[0].numel()
        means, roots = torch.empty(2, len(weight), device=weight.device).unbind()
        given = roots if gain is None else gain.contiguous()
        with torch.cuda.device_of(weight):  # type: ignore[no-untyped-call]
            _make[(len(weight),)](
                weight, given, made, means, roots, length, factor, eps, gain is not None, _block(length)
            )
        ctx.save_for_backward(weight, gain, means, roots)
        ctx.eps, ctx.factor = eps, factor
        return made

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        weight, gain, means, roots = ctx.saved_tensors
        if torch.is_grad_enabled():  # a gradient of this is wanted
            return *_formula_again(grad, weight, gain, ctx.eps, ctx.factor), None, None
        if any(a != b for a, b, n in zip(grad.stride(), weight.stride(), weight.shape) if n > 1):
            grad = torch.empty_like(weight, dtype=grad.dtype).copy_(grad)
        d_weight, d_gain, length = torch.empty_like(weight), torch.empty_like(roots), weight[0].numel()
        given = roots if gain is None else gain.contiguous()
        with torch.cuda.device_of(weight):  # type: ignore[no-untyped-call]
            _go_back[(len(weight),)](
                grad, weight, given, means, roots, d_weight, d_gain, length, ctx.factor, ctx.eps,
                gain is not None, _block(length),
            )  # fmt: skip
        return d_weight, None if gain is None else d_gain.to(gain.dtype), None, None


def _block(length: int) -> int:
    return int(min(LONGEST, triton.next_power_of_2(length)))


def _formula_again(
    grad: Tensor, weight: Tensor, gain: Tensor | None, eps: float, factor: float
) -> tuple[Tensor | None, Tensor | None]:
    wanted = [x for x in (weight, gain) if x is not None and x.requires_grad]
    made = by_the_formula(weight, gain, eps, 0, factor)
    found = iter(torch.autograd.grad(made, wanted, grad, create_graph=True))
    d_weight, d_gain = (next(found) if x is not None and x.requires_grad else None for x in (weight, gain))
    return d_weight, d_gain


def works(device: torch.device) -> bool:
    """Whether the kernels can be built for a device and are right there; whoever asks first waits for it."""
    if device not in _FOUND:
        if is_capturing(device):  # nothing can be looked at now
            return False
        _FOUND[device] = False  # for the formula, below
        try:  # it wants a C compiler and a GPU that is not too old, and says so in many ways
            with torch.inference_mode(False), torch.enable_grad():  # whoever asks may want no gradients
                said = _difference(device)
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
        _FOUND[device] = not said
        if said:
            warnings.warn(f"weights are standardised without a kernel on {device}, slower ({said})", stacklevel=2)
    return _FOUND[device]


def _difference(device: torch.device) -> str:
    weight = torch.tensor([[1.0, 2.0, 4.0, -3.0], [1e-4, 0.0, 0.0, 0.0]], device=device).requires_grad_()
    gain = torch.tensor([1.5, 0.5], device=device).requires_grad_()
    probe = torch.arange(8.0, device=device).view(2, 4).cos()
    results = []
    for made in (standardize(weight, gain, 1e-4, 2.0), by_the_formula(weight, gain, 1e-4, 0, 2.0)):
        d_weight, d_gain = torch.autograd.grad(made, (weight, gain), probe)
        results.append(torch.cat([made.detach(), d_weight, d_gain[:, None]], dim=1))
    apart = float(((results[0] - results[1]).abs() / results[1].abs().clamp(min=1e-3)).max())
    return "" if apart < 1e-3 else f"numbers differ by {apart:.1e}"
