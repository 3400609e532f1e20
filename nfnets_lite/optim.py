"""What an optimizer needs to know of a model."""

from typing import Any

from torch import nn

from nfnets_lite.roles import parameter_roles


def param_groups(model: nn.Module, weight_decay: float = 2e-5, *, classifier: Any = None) -> list[dict[str, Any]]:
    """Optimizer groups by role: weights are decayed, gains, biases and scalars are not.

    Parameters
    ----------
    model : nn.Module
    weight_decay : float
        Coefficient of the L2 term for the decayed group; 2e-5 is the NFNet recipe.
    classifier : nn.Module, None or "auto"
        The classifier's weight is decayed like any other, so it need not be named here.

    Returns
    -------
    list of dict
        Two groups, ``{"params": [...], "weight_decay": ...}``; an empty one is left out.

    Examples
    --------
    >>> import torch
    >>> torch.optim.SGD(param_groups(nn.Linear(4, 2), 1e-4), lr=0.1).param_groups[1]["weight_decay"]
    0.0
    """
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for parameter, role in parameter_roles(model, classifier=classifier).values():
        (decayed if role.decay else plain).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
