"""Ways to a standardised weight: one kernel where one takes it, plain operations for everything else."""

import torch
from torch import Tensor

from nfnets_lite.eager import is_eager


class Kept:
    """What a layer keeps of its last standardisation in training, on a CPU: memory and statistics.

    The memory is where its next standardised weight will lie. Without it all of a step's go back to the system, which
    hands out other pages at the next step and clears each of them first: that takes longer than to standardise. The
    statistics tell adaptive clipping the norms of the weight's units. A copy of a layer keeps nothing.
    """

    def __init__(self) -> None:
        self.clear()

    def __reduce__(self) -> tuple[type["Kept"], tuple[()]]:
        return Kept, ()

    def clear(self) -> None:
        """Keep nothing: the memory is free, and the next tensor of that size takes it."""
        self._memory: Tensor | None = None
        self._measured: tuple[Tensor, int, Tensor, Tensor] | None = None

    def keep(self, weight: Tensor, made: Tensor, mean: Tensor, inverse_std: Tensor) -> None:
        """Keep the memory of what was made of a weight, and the statistics of a weight that is a parameter."""
        self._memory = made.detach()
        if weight.is_leaf:  # of another one this would keep the graph
            self._measured = weight, weight._version, mean.detach(), inverse_std.detach()

    def statistics(self, weight: Tensor) -> tuple[Tensor, Tensor] | None:
        """Mean and inverse deviation of each unit, ``(1, O)``; None if they are not of this weight as it is now.

        Like autograd it does not see what is written through ``weight.data``.
        """
        if self._measured is None:
            return None
        measured, version, mean, inverse_std = self._measured
        return (mean, inverse_std) if measured is weight and version == weight._version else None


def standardized(
    weight: Tensor, gain: Tensor | None, eps: float, unit_dim: int, factor: float, kept: Kept | None = None
) -> Tensor:
    """`nfnets_lite.standardize.standardize_weight` of checked arguments; `kept` is what the calling layer keeps."""
    made: Tensor | None = None
    if is_eager(weight):
        if kept is not None:
            kept.clear()
        if unit_dim == 0 and weight.device.type == "cpu":
            made = by_group_norm(weight, gain, eps, factor, kept)
        elif unit_dim == 0 and weight.device.type == "cuda":
            made = by_kernel(weight, gain, eps, factor)
    return by_the_formula(weight, gain, eps, unit_dim, factor) if made is None else made


def by_the_formula(weight: Tensor, gain: Tensor | None, eps: float, unit_dim: int, factor: float) -> Tensor:
    """Plain operations, whatever the device, and however often it is differentiated."""
    w = _wide(weight)
    over = [d for d in range(w.ndim) if d != unit_dim % w.ndim]
    centred = w - w.mean(over, keepdim=True)
    scale = (centred * centred).sum(over, keepdim=True).clamp(min=eps).rsqrt()
    if gain is not None:
        shape = [1] * w.ndim
        shape[unit_dim] = w.shape[unit_dim]
        scale = scale * gain.to(w.dtype).reshape(shape)
    return (centred * (scale if factor == 1.0 else scale * factor)).to(weight.dtype)


def by_kernel(weight: Tensor, gain: Tensor | None, eps: float, factor: float) -> Tensor | None:
    """The formula by one kernel of ours, and one in the backward pass; None for what they do not take."""
    from nfnets_lite import standardize_triton  # not at the top: it imports triton

    if not standardize_triton.takes(weight) or not standardize_triton.works(weight.device):
        return None
    return standardize_triton.standardize(weight, gain, eps, factor)


def by_group_norm(
    weight: Tensor, gain: Tensor | None, eps: float, factor: float, kept: Kept | None = None
) -> Tensor | None:
    """The formula by one kernel of torch, and one in the backward pass.

    None where the floor under the variance is reached, or where a unit's numbers are not one piece of memory.
    """
    w, units, fan_in = _wide(weight), len(weight), weight.shape[1:].numel()
    order: list[int] | None = None
    if not w.is_contiguous():  # channels last: a unit's numbers in another order, which no statistic notices
        order = [0, *sorted(range(1, w.ndim), key=w.stride, reverse=True)]
        w = w.permute(order)
        if not w.is_contiguous():
            return None
    to_norm = factor * fan_in**-0.5
    scale = w.new_full((units,), to_norm) if gain is None else gain.to(w.dtype) * to_norm
    # The kernel adds its epsilon to the variance: far below what the floor lets pass, it is lost in rounding.
    little = 1e-16 * eps / fan_in
    # It takes a weight as it is where its strides cannot pass for channels last, as those of 1x1 kernels can: no views.
    plain = w.stride(-1) == 1 and w.stride(1) * w.shape[1] == fan_in
    rows = w if plain else w.view(1, units, fan_in)
    made, mean, inverse_std = torch.native_group_norm(rows, scale, None, 1, units, fan_in, units, little)
    reached = not inverse_std.amax().item() * eps**0.5 <= fan_in**0.5  # also by what is not a number
    if reached:
        return None
    if kept is not None and made.requires_grad:
        kept.keep(weight, made, mean, inverse_std)
    made = (made if plain else made.view(w.shape)).to(weight.dtype)
    return made if order is None else made.permute([order.index(d) for d in range(w.ndim)])


def _wide(weight: Tensor) -> Tensor:
    return weight if weight.dtype in (torch.float32, torch.float64) else weight.float()
