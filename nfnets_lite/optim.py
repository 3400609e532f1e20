"""Optimizers of a model: weight decay by role, and adaptive clipping at every step."""

from typing import Any

import torch
from torch import nn

from nfnets_lite._checks import check_model, check_number
from nfnets_lite.agc import AdaptiveClip
from nfnets_lite.roles import Classifier, parameter_roles


def param_groups(model: nn.Module, weight_decay: float = 2e-5) -> list[dict[str, Any]]:
    """Parameter groups of `model` for an optimizer: weights are decayed; gains, biases and scalars are not.

    The groups are ``{"params": [...], "weight_decay": ...}``, the first with `weight_decay`, the coefficient of the L2
    term (2e-5 is the NFNet recipe), the second with 0. An empty group is left out. Frozen parameters are in neither:
    add them with ``optimizer.add_param_group`` when you thaw them.

    Examples
    --------
    >>> torch.optim.SGD(param_groups(nn.Linear(4, 2), 1e-4), lr=0.1).param_groups[1]["weight_decay"]
    0.0
    """
    check_number("weight_decay", weight_decay, least=0)
    roles = parameter_roles(model, classifier=None).values()
    decayed, plain = ([p for p, role in roles if role.decay == decay] for decay in (True, False))
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


class AttachedClip:
    """Adaptive clipping inside an optimizer's ``step``, with the clipped fraction of units; made by `attach_agc`."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, model: nn.Module, clip_factor: float, eps: float, classifier: Classifier
    ) -> None:
        check_model("model", model)
        self.fraction = torch.tensor(float("nan"))
        self._model = model
        while not getattr(getattr(type(optimizer), "step", None), "hooked", False):
            inner = getattr(optimizer, "optimizer", None)  # as Accelerate and Lightning call it
            if not isinstance(inner, torch.optim.Optimizer):
                raise ValueError(
                    f"optimizer: the step of this {type(optimizer).__name__} runs no hooks, so nothing would be "
                    "clipped; attach to the optimizer inside it, before it is wrapped"
                )
            optimizer = inner
        attached = (getattr(hook, "__self__", None) for hook in optimizer._optimizer_step_pre_hooks.values())
        if any(isinstance(each, AttachedClip) for each in attached):
            raise ValueError(
                f"optimizer: attach_agc was called before with this {type(optimizer).__name__}, which would be clipped "
                "twice; call remove() on what that call returned, or build the optimizer anew"
            )
        self._clip = AdaptiveClip(model, clip_factor, eps, classifier=classifier)
        self._stepped(optimizer)
        self._stepping = False
        before, after = optimizer.register_step_pre_hook, optimizer.register_step_post_hook
        self._handles = before(self._before_step), after(self._after_step)

    def remove(self) -> None:
        """Take the clipping off the optimizer again."""
        for handle in self._handles:
            handle.remove()

    def _stepped(self, optimizer: torch.optim.Optimizer) -> set[int]:
        """Identities of the optimizer's parameters: perhaps only some of the model's, but no others."""
        stepped = {id(p): p for group in optimizer.param_groups for p in group["params"]}
        foreign = stepped.keys() - {id(p) for p in self._model.parameters()}
        if foreign:
            raise ValueError(
                f"optimizer steps on {len(foreign)} parameters that are not in model, of shapes "
                f"{[tuple(p.shape) for i, p in stepped.items() if i in foreign][:3]}. Build the optimizer after the "
                "model was copied or sharded, got a new head, or was loaded with assign=True. If a loss has parameters "
                "too, pass a module that holds all of them, such as nn.ModuleList([model, loss])"
            )
        return set(stepped)

    def _before_step(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            before = self.fraction
            self._run(optimizer)
            if self._stepping:  # a step that calls its parent's runs the hooks again, on gradients clipped already
                self.fraction = torch.maximum(before, self.fraction)
            self._stepping = True
            return None
        if getattr(closure, "clips", None) is self:
            return None

        # The gradients of this step do not exist yet: the closure computes them, perhaps more than once.
        def clipped_closure() -> Any:
            loss = closure()
            self._run(optimizer)
            return loss

        clipped_closure.clips = self  # type: ignore[attr-defined]
        if len(args) > 1:
            return (args[0], clipped_closure, *args[2:]), kwargs
        return args, {**kwargs, "closure": clipped_closure}

    def _after_step(self, *_: Any) -> None:
        self._stepping = False

    def _run(self, optimizer: torch.optim.Optimizer) -> None:
        # Set by a GradScaler for a fused optimizer, which divides by it after this hook, unless that was done before.
        scale = getattr(optimizer, "grad_scale", None)
        if scale is not None:
            raise ValueError(
                f"optimizer: the gradients are still scaled, by {float(scale):g}, because this fused "
                f"{type(optimizer).__name__} unscales inside its step, after clipping. Call scaler.unscale_(optimizer) "
                "before scaler.step(optimizer)"
            )
        stepped = self._stepped(optimizer)
        units = [(p, role) for p, role in self._clip._current_units() if id(p) in stepped and p.grad is not None]
        if units:
            self.fraction = self._clip._clip_units(units)


def attach_agc(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    clip_factor: float = 0.01,
    eps: float = 1e-3,
    *,
    classifier: Classifier = "auto",
) -> AttachedClip:
    """Clip the model's gradients at the start of every ``optimizer.step``, as `adaptive_clip_grad_` does.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        An optimizer of torch, or derived from torch's class, of some or all parameters of the model. The wrappers of
        Accelerate and Lightning are seen through. Only the optimizer's parameters are clipped.
    model, clip_factor, eps, classifier
        As in `adaptive_clip_grad_`.

    Returns
    -------
    AttachedClip
        Its ``fraction``, 0-d, is the fraction of units clipped at the last step, NaN before the first. ``remove()``
        ends the clipping.

    Raises
    ------
    ValueError
        Now, or at a later step, if the optimizer holds parameters that the model does not, or if the gradients are
        still multiplied by a loss scale. Also for a wrapper that runs no hooks, and a second call before ``remove()``.

    Notes
    -----
    The clipping is not part of the state dict, and a copied or pickled optimizer loses it: attach it again.
    Accumulation: call ``step`` after the last ``backward``; the summed gradient is clipped, once.
    Loss scaling (float16): ``scaler.step(optimizer)`` unscales before it steps, so nothing needs to change. Fused
    optimizers unscale *inside* their step: call ``scaler.unscale_(optimizer)`` before it.
    DDP and FSDP2 (``fully_shard``, before the optimizer is built) clip as one process does. FSDP2 shards no 0-d
    parameter: pass the skip gains as its ``ignored_params`` and average their gradients before ``step``.

    Examples
    --------
    >>> net = nn.Linear(4, 2)
    >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    >>> agc = attach_agc(optimizer, net, classifier=None)
    >>> _ = net(torch.ones(1, 4)).sum().backward()
    >>> optimizer.step()
    >>> float(agc.fraction)
    1.0
    """
    return AttachedClip(optimizer, model, clip_factor, eps, classifier)
