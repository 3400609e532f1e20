"""The variance constancy loss: a penalty on changes of variances, in the place of a norm."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import activation as torch_activations

from nfnets_lite.activations import ScaledActivation
from nfnets_lite.norm.common import at_least_float32

_SMALLEST = 1e-3  # lower bound of the learned offsets, which keeps the denominator above 0


class VarianceConstancy(nn.Module):
    r"""Loss term that penalises changes of each unit's variance between two small batches.

    .. math:: L = \sum_{l} \frac{1}{|l|} \sum_{u \in l}
              \left(1 - \frac{\mathrm{var}_a(u)}{\mathrm{var}_b(u) + b_u}\right)^2

    over layers l and their units u, the values of an example before an activation. Sub-batches a and b are the first
    and the second `size` examples of the batch, with unbiased variances; :math:`b_u` is learned, starts at 1 and is at
    least 0.001.

    Parameters
    ----------
    model : nn.Module
        It gets forward hooks, which `remove` takes off.
    example : Tensor
        An input of one example or more; one pass in evaluation mode finds the shapes.
    size : int
        Examples of a sub-batch; the authors use 5.
    layers : iterable of nn.Module, optional
        Modules whose *inputs* are penalised. By default the model's activations: `ScaledActivation` and torch's.

    Attributes
    ----------
    offsets : nn.ParameterList
        :math:`b_u`, one tensor per layer, of the shape of one example. Add ``constancy.parameters()`` to the optimizer,
        without weight decay.

    Raises
    ------
    ValueError
        If `size` is below 2, or there is nothing to hook. In the model's forward pass in training: for a batch of fewer
        than two times `size` examples.
    RuntimeError
        From `loss`, if no forward pass in training mode came before it.

    Notes
    -----
    It couples the examples of the sub-batches in the gradient only; the model's outputs do not change. It costs one
    parameter per unit, and hardly any time. A network with norms does not need it. Littwin and Wolf (NeurIPS 2018,
    arXiv 1811.08764), section 2; the sum over layers is from their code.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ELU(), nn.Linear(3, 1))
    >>> constancy = VarianceConstancy(net, torch.zeros(1, 2))
    >>> [tuple(offset.shape) for offset in constancy.offsets]
    [(3,)]
    >>> (net(torch.randn(16, 2)).mean() + 0.01 * constancy.loss()).backward()
    """

    def __init__(
        self, model: nn.Module, example: Tensor, size: int = 5, layers: Iterable[nn.Module] | None = None
    ) -> None:
        super().__init__()
        if size < 2:
            raise ValueError(f"size={size} must be at least 2 examples, to have a variance; the authors use 5")
        self.size = size
        hooked = [module for module in model.modules() if _activates(module)] if layers is None else list(layers)
        inputs = _first_inputs(model, hooked, example)
        if not inputs:
            raise ValueError(
                f"model: {type(model).__name__} runs no activation that is a module, so nothing can be hooked; pass "
                "layers=, the modules whose inputs are to have constant variances"
            )
        self.offsets = nn.ParameterList([nn.Parameter(torch.ones_like(x)) for x in inputs])
        self._inputs: list[Tensor] = []
        self._handles = [model.register_forward_pre_hook(self._begin)]
        self._handles += [module.register_forward_pre_hook(self._keep) for module in hooked]

    def _begin(self, _model: nn.Module, _args: Any) -> None:
        self._inputs.clear()

    def _keep(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if module.training and torch.is_grad_enabled():
            if len(args[0]) < 2 * self.size:
                raise ValueError(
                    f"the batch has {len(args[0])} examples; two sub-batches of size={self.size} need "
                    f"{2 * self.size}. Use larger batches (and drop an epoch's last, short one), or a smaller size"
                )
            self._inputs.append(args[0][: 2 * self.size])

    def loss(self) -> Tensor:
        """Loss term of the model's last forward pass in training mode, 0-d; multiply it by a weight and add it."""
        if not self._inputs:
            raise RuntimeError("loss() needs a forward pass of the model before, in training mode and with gradients")
        terms = [self._term(x, offset) for x, offset in zip(self._inputs, self.offsets)]
        self._inputs.clear()
        return torch.stack(terms).sum()

    def _term(self, x: Tensor, offset: Tensor) -> Tensor:
        var_a, var_b = (part.var(0) for part in torch.split(at_least_float32(x), self.size))
        term: Tensor = (1 - var_a / (var_b + offset.clamp(min=_SMALLEST))).square().mean()
        return term

    def remove(self) -> None:
        """Take the hooks off the model again."""
        for handle in self._handles:
            handle.remove()
        self._inputs.clear()


@torch.no_grad()
def _first_inputs(model: nn.Module, layers: Iterable[nn.Module], example: Tensor) -> list[Tensor]:
    """What each layer gets for the first example, from a pass in evaluation mode that leaves the model as it was."""
    found: list[Tensor] = []
    modes = [(module, module.training) for module in model.modules()]
    handles = [
        layer.register_forward_pre_hook(lambda _, args: found.append(at_least_float32(args[0][0]))) for layer in layers
    ]
    try:
        model.eval()(example)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    return found


def _activates(module: nn.Module) -> bool:
    if isinstance(module, ScaledActivation):
        return module.name != "identity"  # it stands behind a norm that activates by itself
    known = type(module).__module__ == torch_activations.__name__
    return known and not isinstance(module, (nn.MultiheadAttention, nn.Softmax, nn.LogSoftmax, nn.Softmax2d))
