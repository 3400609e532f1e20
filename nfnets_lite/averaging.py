"""Exponential moving average of a model's weights, with the warm-up of the decay that the NFNet authors use."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class WeightAverage:
    r"""Average of the weights over the updates so far, kept beside the model.

    .. math:: \bar w \leftarrow d_t \bar w + (1 - d_t) w, \qquad d_t = \min\left(d, \frac{1 + t}{10 + t}\right)

    Parameters
    ----------
    model : nn.Module
        Its parameters and its floating-point buffers, but for a norm's `progress`, are averaged, from their values now.
        Shard it (``fully_shard``) before. Moving it, and ``load_state_dict(assign=True)``, are seen at the next update.
    decay : float
        :math:`d`; 0.99999 is the NFNet recipe.

    Attributes
    ----------
    updates : int
        :math:`t`, the number of `update` calls so far; set it together with `averages` to resume.
    averages : dict of str to Tensor
        By the names of the model's parameters and buffers; sharded as they are, in float32 at least.

    Raises
    ------
    ValueError
        For a decay outside of [0, 1); in `update` and `applied`, for a model whose tensors have other names or shapes
        than those averaged, after ``reset_classifier`` for example.

    Notes
    -----
    ``torch.optim.swa_utils.AveragedModel`` copies the model, which a sharded model refuses, and starts from the weights
    *after* the first update, where the authors' code starts from the initial ones (and weighs them 0.1).
    With FSDP2, shard the outermost module with ``reshard_after_forward=True``: it keeps the gathered weights of an
    earlier forward pass otherwise, and `applied` goes unseen.
    NFNet (arXiv 2102.06171), appendix A.1; the warm-up is in the authors' code alone.

    Examples
    --------
    >>> net = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.zeros_(net.weight)
    >>> average = WeightAverage(net)
    >>> _ = nn.init.ones_(net.weight)
    >>> average.update()
    >>> with average.applied():
    ...     print(round(net.weight.item(), 6), net.training)
    0.9 True
    >>> net.weight.item()
    1.0
    """

    def __init__(self, model: nn.Module, decay: float = 0.99999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay} must be in [0, 1); the NFNet recipe has 0.99999")
        self.decay, self.updates = decay, 0
        self._model = model
        # A step of the average is lost in half precision: it is smaller than what such a number can change by.
        with torch.inference_mode(False):  # what is made in that mode could not be updated outside of it
            self.averages = {
                name: tensor.to(torch.promote_types(tensor.dtype, torch.float32), copy=True)
                for name, tensor in _averaged(model).items()
            }

    def decay_at(self, update: int) -> float:
        """Decay of one update, counted from 0: ``min(decay, (1 + update) / (10 + update))``."""
        return min(self.decay, (1 + update) / (10 + update))

    @torch.no_grad()
    def update(self) -> None:
        """Take the model's weights as they are now into the average; call it after each optimizer step."""
        weight = 1 - self.decay_at(self.updates)
        # One call for many tensors, but not for sharded and whole ones together.
        kinds: dict[type[Any], list[str]] = {}
        now = self._current()
        for name, tensor in now.items():
            self.averages[name] = self.averages[name].to(tensor.device)
            kinds.setdefault(type(tensor), []).append(name)
        for names in kinds.values():
            averages, current = ([of[name] for name in names] for of in (self.averages, now))
            wide = [tensor.to(average.dtype) for tensor, average in zip(current, averages)]
            torch._foreach_lerp_(averages, wide, weight)
        self.updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights inside the block, and its own again, to the bit, after it."""
        own: dict[str, Tensor] = {}
        self._swap(own)
        try:
            yield
        finally:
            self._swap(own)

    def _current(self) -> dict[str, Tensor]:
        """The model's tensors as they are now: moving or loading a model may replace them, or their memory."""
        now = _averaged(self._model)
        for name in now.keys() | self.averages.keys():
            shapes = [tuple(of[name].shape) if name in of else None for of in (self.averages, now)]
            if shapes[0] != shapes[1]:
                raise ValueError(
                    f"the average of {name!r} has shape {shapes[0]}, and the model's tensor has shape {shapes[1]} "
                    "(None: there is none); build a new WeightAverage after a change of the model"
                )
        return now

    @torch.no_grad()
    def _swap(self, own: dict[str, Tensor]) -> None:
        for name, tensor in self._current().items():
            average = self.averages[name]
            if tensor.dtype == average.dtype:
                kept = tensor.clone()  # one tensor at a time: no second copy of the model
                tensor.copy_(average)
                average.copy_(kept)
            elif name in own:
                tensor.copy_(own.pop(name))
            else:  # a narrow tensor cannot hold its average meanwhile
                own[name] = tensor.clone()
                tensor.copy_(average)


def _averaged(model: nn.Module) -> dict[str, Tensor]:
    """What is averaged of a model, by name."""
    named: list[tuple[str, Tensor]] = [*model.named_parameters(), *model.named_buffers()]
    # `progress` is where training is (see nfnets_lite.norm.set_progress), which an average would hold back.
    return {
        name: tensor.detach()
        for name, tensor in named
        if (tensor.is_floating_point() or tensor.is_complex()) and name.rpartition(".")[2] != "progress"
    }
