"""A report of what adaptive clipping does to each parameter."""

from dataclasses import dataclass

from torch import nn

from nfnets_lite.roles import Classifier, Role, parameter_roles


@dataclass(frozen=True)
class AgcRow:
    """One parameter in an `AgcReport`.

    Parameters
    ----------
    name : str
        As in ``named_parameters``.
    shape : tuple of int
    role : Role
        Unit axis, clipped or not, decayed or not.
    """

    name: str
    shape: tuple[int, ...]
    role: Role


@dataclass(frozen=True)
class AgcReport:
    """What clipping and decay would do to each parameter; ``print`` it for the table."""

    rows: tuple[AgcRow, ...]

    def __str__(self) -> str:
        lines = [("parameter", "shape", "role", "unit axis", "clipped", "decayed")]
        for row in self.rows:
            role = row.role
            axis = "whole" if role.unit_dim is None else str(role.unit_dim)
            axis = axis if role.groups == 1 else f"{axis} in {role.groups} groups"
            verdicts = ("yes" if role.clip else "no", "yes" if role.decay else "no")
            known = role.kind != "unknown"
            lines.append(
                (row.name, str(row.shape), role.kind, *((axis, *verdicts) if known else ("declare it", "?", "?")))
            )
        widths = [max(map(len, column)) for column in zip(*lines)]
        table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
        clipped, decayed = (sum(getattr(row.role, what) for row in self.rows) for what in ("clip", "decay"))
        return "\n".join([*table, f"{len(self.rows)} parameters: {clipped} clipped, {decayed} decayed"])


def agc_report(model: nn.Module, *, classifier: Classifier = "auto") -> AgcReport:
    """Report of every trainable parameter's role and unit axis, and of whether it is clipped and decayed.

    Nothing is clipped. A parameter of unknown role, which `adaptive_clip_grad_` would refuse, is listed as unknown.

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
    roles = parameter_roles(model, classifier=classifier, strict=False)
    return AgcReport(tuple(AgcRow(name, tuple(p.shape), role) for name, (p, role) in roles.items()))
