"""A table of what adaptive clipping and weight decay do to each parameter."""

from torch import nn

from nfnets_lite.roles import Classifier, parameter_roles


def agc_report(model: nn.Module, *, classifier: Classifier = "auto") -> str:
    """Table of every trainable parameter's role and unit axis, and of whether it is clipped and decayed.

    Nothing is clipped. A parameter of unknown role, which `adaptive_clip_grad_` would refuse, is listed as unknown.
    `parameter_roles` returns the same as data.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    >>> print(agc_report(net, classifier=net[2]))
    parameter  shape         role        unit axis  clipped  decayed
    0.weight   (4, 3, 3, 3)  weight      0          yes      yes
    0.bias     (4,)          bias        whole      yes      no
    2.weight   (2, 4)        classifier  0          no       yes
    2.bias     (2,)          bias        whole      yes      no
    4 parameters: 3 clipped, 2 decayed
    """
    lines = [("parameter", "shape", "role", "unit axis", "clipped", "decayed")]
    found = parameter_roles(model, classifier=classifier, strict=False)
    for name, (parameter, role) in found.items():
        axis = "whole" if role.unit_dim is None else str(role.unit_dim)
        axis = axis if role.groups == 1 else f"{axis} in {role.groups} groups"
        verdicts = (axis, "yes" if role.clip else "no", "yes" if role.decay else "no")
        verdicts = ("declare it", "?", "?") if role.kind == "unknown" else verdicts
        lines.append((name, str(tuple(parameter.shape)), role.kind, *verdicts))
    widths = [max(map(len, column)) for column in zip(*lines)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
    clipped, decayed = (sum(getattr(role, what) for _, role in found.values()) for what in ("clip", "decay"))
    return "\n".join([*table, f"{len(found)} parameters: {clipped} clipped, {decayed} decayed"])
