"""Methods by name, each a combination of norm, convolution and residual rule, and checks of such combinations."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from nfnets_lite.norm import create_norm

PLAIN: Mapping[str, Any] = MappingProxyType(
    {
        "norm": "batch", "norm_options": (), "conv": "plain", "residual": "plain", "act_first": False,
        "activation_gain": False,
    }
)  # fmt: skip


def _method(norm: str = "none", **choices: Any) -> Mapping[str, Any]:
    return MappingProxyType({**PLAIN, "norm": norm, **choices})


METHODS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "bn": _method("batch"),
        "bn_act_first": _method("batch", act_first=True),
        "ghost_bn": _method("ghost_batch"),
        "sync_bn": _method("sync_batch"),
        "brn": _method("batch_renorm"),
        "gn": _method("group"),
        "gn_ws": _method("group", conv="ws"),
        "ln": _method("layer"),
        "ln2d": _method("layer2d"),
        "in": _method("instance"),
        "frn": _method("frn"),
        "evonorm_b0": _method("evonorm_b0"),
        "evonorm_s0": _method("evonorm_s0"),
        "bcn": _method("batch_channel"),
        "bcn_ws": _method("batch_channel", conv="ws"),
        "pn": _method("power"),
        "un": _method("unified"),
        "prepbn": _method("prepbn"),
        "ibn_a": _method("ibn_a"),
        "ibn_b": _method("ibn_b"),
        "adabn": _method("ada_batch"),
        "dyt": _method("dyt"),
        "derf": _method("derf"),
        "none": _method(),
        "half": _method(residual="half"),
        "skipinit": _method(residual="skipinit"),
        "fixup": _method(residual="fixup"),
        "rescale": _method(residual="rescale"),
        # The mean of a squeeze-excite gate is near 1/2. A network without norms doubles it, to keep the scale.
        "nf": _method(conv="scaled_ws", residual="nf", activation_gain=True, se_scale=2.0),
    }
)

# These rules have biases in the norm's place, and initial scales of weights that standardisation would undo.
_OWN_START = {
    "fixup": "has scalar biases",
    "rescale": "has data-dependent biases",
    "rescale_formula": "has convolutions' biases",
}


def plain_options(options: Any) -> tuple[tuple[str, Any], ...]:
    """Options of a norm as a sorted tuple of pairs, hashable, from a mapping or from pairs (as JSON gives them).

    Examples
    --------
    >>> plain_options({"r_max": 3.0, "d_max": 5.0})
    (('d_max', 5.0), ('r_max', 3.0))
    """
    try:
        given = dict(options)
    except (TypeError, ValueError):
        raise ValueError(f"norm_options={options!r} must be a mapping, such as {{'groups': 4}}, or pairs") from None
    for name, value in given.items():
        if not isinstance(name, str) or not isinstance(value, (bool, int, float, str, type(None))):
            raise ValueError(
                f"norm_options={options!r} has {name!r}: {value!r}; a name with a number, a string, a truth value or "
                "None is needed, because the spec is plain data"
            )
    return tuple(sorted(given.items()))


def check_choices(
    norm: str, options: tuple[tuple[str, Any], ...], conv: str, residual: str, act_first: bool, channels: int
) -> None:
    """Refuse choices that undo each other, and options that a norm of `channels` channels does not take."""
    if residual in _OWN_START and norm != "none":
        raise ValueError(f"residual={residual!r} {_OWN_START[residual]} where norm={norm!r} would sit; use norm='none'")
    if residual in _OWN_START and conv != "plain":
        raise ValueError(
            f"residual={residual!r} starts its convolutions at scales that conv={conv!r} undoes; use conv='plain', or "
            "residual='nf' with conv='scaled_ws'"
        )
    if conv == "ws" and norm == "none":
        raise ValueError(
            "conv='ws' has filters of standard deviation 1, whose outputs grow with the root of the fan-in, and "
            "norm='none' does not scale them back; use a norm, such as norm='group', or conv='scaled_ws'"
        )
    if act_first and norm == "none":
        raise ValueError(
            "act_first=True puts the norm behind the activation, and norm='none' is none; use norm='batch'"
        )
    if options or act_first:
        built = create_norm(norm, channels, **dict(options))  # refuses options that it does not take
        if act_first and getattr(built, "activates", False):
            raise ValueError(
                f"act_first=True puts an activation in front of the norm, but norm={norm!r} activates by itself; use "
                "act_first=False"
            )
