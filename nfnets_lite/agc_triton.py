"""Adaptive clipping by one kernel for tensors of all shapes: each unit finds its rows by a table of addresses."""

import warnings
from functools import cache
from importlib import import_module
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

triton: Any
tl: Any
try:  # it comes with torch where torch comes with CUDA; by name, so that mypy says the same with it and without
    triton, tl = import_module("triton"), import_module("triton.language")
except ImportError:
    triton = tl = None

DTYPES = {torch.float32, torch.bfloat16, torch.float16}
LONGEST = 2048  # numbers of a row that a program holds at once
# Tables that captured CUDA graphs read at every replay, and where they copy them from. Nothing tells when such a graph
# is gone, so they stay.
_CAPTURED: list[tuple[Tensor, ...]] = []


def takes(parameter: Tensor, grad: Tensor, unit_dim: int | None) -> bool:
    """Whether the kernel can clip this gradient: plain tensors in memory without gaps, unit behind unit.

    Examples
    --------
    >>> weight = torch.zeros(8, 4, 3, 3)
    >>> takes(weight.to(memory_format=torch.channels_last), weight, 0) == (triton is not None)
    True
    """
    if triton is None or type(grad) is not Tensor or type(parameter) not in (Tensor, nn.Parameter):
        return False
    alike = grad.shape == parameter.shape and grad.device == parameter.device
    known = {grad.dtype, parameter.dtype} <= DTYPES and 0 < grad.numel() < 2**31
    return alike and known and in_rows(grad, unit_dim) and in_rows(parameter, unit_dim)


def in_rows(x: Tensor, unit_dim: int | None) -> bool:
    """Whether memory holds the units of a tensor one after the other, without gaps."""
    dense = 1
    for stride, size in sorted((stride, size) for stride, size in zip(x.stride(), x.shape) if size > 1):
        if stride != dense:
            return False
        dense *= size
    return unit_dim is None or x.shape[unit_dim] == 1 or x.stride(unit_dim) * x.shape[unit_dim] == dense


if triton is not None:

    @triton.jit  # type: ignore[untyped-decorator]
    def _clip_row(  # type: ignore[no-untyped-def]
        lengths, firsts, owners, addresses, above, clip_factor, eps,
        W: tl.constexpr, G: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        """Measure one unit's weight and gradient, and multiply the latter if it is above its bound."""
        row = tl.program_id(0)
        owner = tl.load(owners + row)
        length = tl.load(lengths + owner)
        start = (row - tl.load(firsts + owner)).to(tl.int64) * length
        weight = tl.load(addresses + 2 * owner).to(tl.pointer_type(W)) + start
        grad = tl.load(addresses + 2 * owner + 1).to(tl.pointer_type(G)) + start
        squares_w = tl.zeros([BLOCK], tl.float32)
        squares_g = tl.zeros([BLOCK], tl.float32)
        for at in range(0, length, BLOCK):
            place = at + tl.arange(0, BLOCK)
            w = tl.load(weight + place, mask=place < length, other=0.0).to(tl.float32)
            g = tl.load(grad + place, mask=place < length, other=0.0).to(tl.float32)
            squares_w += w * w
            squares_g += g * g
        norm_w = tl.sqrt_rn(tl.sum(squares_w, 0))
        norm_g = tl.sqrt_rn(tl.sum(squares_g, 0))
        bound = tl.where(norm_w < eps, eps, norm_w) * clip_factor  # a NaN stays one, which tl.maximum would not promise
        is_above = norm_g > bound
        tl.store(above + row, is_above.to(tl.int32))
        if is_above:
            factor = tl.div_rn(bound, tl.maximum(norm_g, 1e-6))
            for at in range(0, length, BLOCK):
                place = at + tl.arange(0, BLOCK)
                g = tl.load(grad + place, mask=place < length, other=0.0).to(tl.float32)
                tl.store(grad + place, (g * factor).to(G), mask=place < length)


class Rows:
    """Gradients of one device and one pair of dtypes, each of which the kernel `takes`.

    Parameters
    ----------
    parameters : list of Tensor
    unit_dims : list of int or None
        The unit axis of each; None: it is one unit.
    """

    def __init__(self, parameters: list[Tensor], unit_dims: list[int | None]) -> None:
        self._parameters = parameters
        self._counts = [1 if dim is None else p.shape[dim] for p, dim in zip(parameters, unit_dims)]
        self._lengths = [p.numel() // count for p, count in zip(parameters, self._counts)]
        self._addresses: list[int] = []
        self._tables: tuple[Tensor, ...] = ()
        self._spare: tuple[Tensor, Tensor] | None = None  # a table on the host and one on the device, for a capture

    def ready(self, grads: list[Tensor]) -> bool:
        """Bring the table of addresses up to date; False if that cannot be, and they must be clipped otherwise."""
        device = grads[0].device
        with torch.cuda.device_of(grads[0]):  # type: ignore[no-untyped-call]
            capturing = is_capturing(device)
            addresses = [x.data_ptr() for pair in zip(self._parameters, grads) for x in pair]
            if addresses != self._addresses:
                if capturing:
                    return self._sent_by_the_graph(addresses)
                if not works(device):
                    return False
                self.upload(addresses, device)
            if capturing:
                _CAPTURED.append(self._tables)
            elif self._spare is None:  # while it can be had: a capture allocates no memory of the host
                here = torch.empty(len(addresses), dtype=torch.int64, pin_memory=device.type == "cuda")
                self._spare = here, torch.empty(len(addresses), dtype=torch.int64, device=device)
        return True

    def _sent_by_the_graph(self, addresses: list[int]) -> bool:
        """While a graph is captured: have it copy a new table at each replay, from memory that is its own from now on.

        Gradients are new memory in a capture, so this is how the step of a training gets here. False where no table
        is spare, since none was clipped outside of a capture before.
        """
        if self._spare is None:
            return False
        (here, there), self._spare = self._spare, None
        here.copy_(torch.tensor(addresses))
        there.copy_(here, non_blocking=True)
        self._tables = (*self._tables[:3], there)
        self._addresses = []  # nothing has been copied yet: a call outside of the graph sends its own
        _CAPTURED.append((*self._tables, here))
        return True

    def upload(self, addresses: list[int], device: torch.device) -> None:
        """Put the addresses of each parameter and its gradient on the device, behind the work that it has."""
        if not self._tables:
            firsts = list(accumulate(self._counts, initial=0))[:-1]
            owners = torch.arange(len(firsts)).repeat_interleave(torch.tensor(self._counts))
            self._tables = tuple(_to(device, values, torch.int32) for values in (self._lengths, firsts, owners))
        # New memory each time: a kernel or a captured graph may be to read the old.
        self._tables = (*self._tables[:3], _to(device, addresses, torch.int64))
        self._addresses = addresses

    def clip_(self, grads: list[Tensor], clip_factor: float, eps: float) -> tuple[Tensor, int]:
        """Clip in place, once `ready`; returns how many units were above their bounds, and how many there are."""
        above = torch.empty(sum(self._counts), dtype=torch.int32, device=grads[0].device)
        dtypes = [getattr(tl, str(x.dtype).removeprefix("torch.")) for x in (self._parameters[0], grads[0])]
        block = min(LONGEST, triton.next_power_of_2(max(self._lengths)))
        with torch.cuda.device_of(grads[0]):  # type: ignore[no-untyped-call]
            _clip_row[(len(above),)](*self._tables, above, float(clip_factor), float(eps), *dtypes, block)
        torch.autograd.graph.increment_version(grads)  # so that a backward pass that kept one refuses it
        return above.sum(), len(above)


def is_capturing(device: torch.device) -> bool:
    """Whether what is started now goes into a CUDA graph: nothing can be waited for, looked at or copied from here."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _to(device: torch.device, values: list[int] | Tensor, dtype: torch.dtype) -> Tensor:
    host = torch.as_tensor(values, dtype=dtype)
    return (host.pin_memory() if device.type == "cuda" else host).to(device, non_blocking=True)


@cache
def works(device: torch.device) -> bool:
    """Whether the kernel can be built for a device and is right there; the first to ask waits for it."""
    weight, grad = torch.ones(2, 4, device=device), torch.tensor([[1.0] * 4, [1e-3] * 4], device=device)
    rows = Rows([weight], [0])
    try:  # it wants a C compiler and a GPU that is not too old, and says so in many ways
        rows.upload([weight.data_ptr(), grad.data_ptr()], device)
        above = int(rows.clip_([grad], 0.01, 1e-3)[0])
        found = "" if above == 1 and 0.0099 < float(grad[0, 0]) < 0.0101 else f"it gave {grad.tolist()}"
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
    if found:
        warnings.warn(f"adaptive clipping does without its kernel on {device}, which is slower ({found})", stacklevel=2)
    return not found
