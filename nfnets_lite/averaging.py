"""Exponential moving average of a model's weights, with the decay warm-up of the NFNet authors."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nfnets_lite._checks import check_model


class WeightAverage:
    r"""Exponential moving average of a model's weights, kept beside the model.

    .. math:: \bar w \leftarrow d_t \bar w + (1 - d_t) w, \qquad d_t = \min\left(d, \frac{1 + t}{10 + t}\right)

    Parameters
    ----------
    model : nn.Module
        Its parameters and floating-point buffers, except a norm's `progress`, are averaged, from their current values
        on. Shard it (``fully_shard``) before. It may be moved, or loaded with ``assign=True``, afterwards.
    decay : float
        :math:`d`; 0.99999 is the NFNet recipe.

    Attributes
    ----------
    updates : int
        :math:`t`, the number of `update` calls so far; set it together with `averages` to resume.
    averages : dict of str to Tensor
        By the name of the parameter or buffer; sharded as it is, in at least float32.

    Raises
    ------
    ValueError
        If `decay` is outside [0, 1). In `update` and `applied`: if names or shapes of the model's tensors have changed,
        for example by ``reset_classifier``.
    RuntimeError
        If `update` is called inside the block of `applied`.

    Notes
    -----
    NFNet (arXiv 2102.06171), appendix A.1; the warm-up is in the authors' code only. The average starts from the
    initial weights, and that of ``torch.optim.swa_utils.AveragedModel`` from the weights *after* the first update.
    With FSDP2, shard the outermost module with ``reshard_after_forward=True``. Otherwise it keeps the weights gathered
    in an earlier forward pass, and `applied` has no effect.

    Examples
    --------
    >>> net = nn.PReLU(init=0.0)
    >>> average = WeightAverage(net)
    >>> _ = nn.init.ones_(net.weight)
    >>> average.update()
    >>> with average.applied():
    ...     print(round(net.weight.item(), 6))
    0.9
    >>> net.weight.item()
    1.0
    """

    _applied = False  # whether the model has the averaged weights

    def __init__(self, model: nn.Module, decay: float = 0.99999) -> None:
        check_model("model", model)
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay} must be in [0, 1); the NFNet recipe has 0.99999")
        self.decay, self.updates = decay, 0
        self._model = model
        # At least float32: half precision would round a step of the average to nothing.
        with torch.inference_mode(False):  # a tensor made in inference mode cannot be updated outside of it
            self.averages = {
                name: tensor.to(torch.promote_types(tensor.dtype, torch.float32), copy=True)
                for name, tensor in _averaged(model).items()
            }

    @torch.no_grad()
    def update(self) -> None:
        """Add the model's current weights to the average; call it after each optimizer step."""
        if self._applied:
            raise RuntimeError("update() inside applied() would average the average; leave the block first")
        weight = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        # One call for many tensors; sharded and ordinary tensors cannot share a call.
        kinds: dict[type[Any], tuple[list[Tensor], list[Tensor]]] = {}
        for name, tensor in self._current().items():
            average = self.averages[name] = self.averages[name].to(tensor.device)
            averages, current = kinds.setdefault(type(tensor), ([], []))
            averages.append(average)
            current.append(tensor.to(average.dtype))
        for averages, current in kinds.values():
            torch._foreach_lerp_(averages, current, weight)
        self.updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model the averaged weights inside the block, and its own weights back, exactly, after it."""
        own = {name: tensor.clone() for name, tensor in self._current().items()}
        self._set(self.averages)
        before, self._applied = self._applied, True  # a block may be inside another one
        try:
            yield
        finally:
            self._applied = before
            self._set(own)

    def _current(self) -> dict[str, Tensor]:
        """The model's current tensors, by name: moving or loading a model may have replaced them."""
        now = _averaged(self._model)
        for name in now.keys() | self.averages.keys():
            shapes = [tuple(of[name].shape) if name in of else None for of in (self.averages, now)]
            if shapes[0] != shapes[1]:
                raise ValueError(
                    f"the average of {name!r} has shape {shapes[0]}, and the model's tensor has shape {shapes[1]} "
                    "(None: it does not exist); build a new WeightAverage after a change of the model"
                )
        return now

    @torch.no_grad()
    def _set(self, values: dict[str, Tensor]) -> None:
        for name, tensor in self._current().items():
            tensor.copy_(values[name])


def _averaged(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a model that are averaged, by name."""
    # `progress` is the elapsed share of the training (nfnets_lite.norm.set_progress), which an average would delay.
    return {
        name: tensor.detach()
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
        if (tensor.is_floating_point() or tensor.is_complex()) and name.rpartition(".")[2] != "progress"
    }
