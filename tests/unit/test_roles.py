"""Roles by module type: which axis is a unit, what is clipped, what is decayed."""

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm
from torch.optim.swa_utils import AveragedModel

from nfnets_lite import adaptive_clip_grad_, attach_agc, create_model, param_groups
from nfnets_lite.averaging import WeightAverage
from nfnets_lite.clip_report import agc_report
from nfnets_lite.conv import ScaledStdConv1d, ScaledStdConv2d, ScaledStdConv3d, ScaledStdConvTranspose2d
from nfnets_lite.roles import parameter_roles


def role_of(module: nn.Module, name: str, **kwargs: object) -> tuple[str, int | None, bool, bool, int]:
    role = parameter_roles(module, classifier=None, **kwargs)[name][1]  # type: ignore[arg-type]
    return role.kind, role.unit_dim, role.clip, role.decay, role.groups


@pytest.mark.parametrize(
    ("module", "name", "unit_dim", "groups"),
    [
        (nn.Conv1d(4, 6, 3), "weight", 0, 1),
        (nn.Conv2d(4, 6, 3, groups=2), "weight", 0, 1),
        (nn.Conv3d(4, 6, 3), "weight", 0, 1),
        (ScaledStdConv1d(4, 6, 3), "weight", 0, 1),
        (ScaledStdConv2d(4, 6, 3), "weight", 0, 1),
        (ScaledStdConv3d(4, 6, 3), "weight", 0, 1),
        (nn.ConvTranspose1d(4, 6, 3), "weight", 1, 1),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), "weight", 1, 2),
        (nn.ConvTranspose3d(4, 6, 3), "weight", 1, 1),
        (ScaledStdConvTranspose2d(4, 6, 3), "weight", 1, 1),
        (nn.ConvTranspose2d(4, 1, 1), "weight", None, 1),
        (nn.Conv2d(4, 1, 1), "weight", None, 1),
        (nn.Linear(4, 6), "weight", 0, 1),
        (nn.Bilinear(2, 3, 4), "weight", 0, 1),
        (nn.Embedding(5, 3), "weight", 0, 1),
        (nn.EmbeddingBag(5, 3), "weight", 0, 1),
        (nn.MultiheadAttention(4, 2), "in_proj_weight", 0, 1),
        (nn.MultiheadAttention(4, 2), "out_proj.weight", 0, 1),
        (nn.MultiheadAttention(4, 2, kdim=3, vdim=5), "k_proj_weight", 0, 1),
        (nn.LSTM(3, 4), "weight_hh_l0", 0, 1),
        (nn.GRUCell(3, 4), "weight_ih", 0, 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else str(value),
)
def test_weights_have_the_axis_of_their_type(module: nn.Module, name: str, unit_dim: int | None, groups: int) -> None:
    assert role_of(module, name) == ("weight", unit_dim, True, True, groups)


@pytest.mark.parametrize(
    ("module", "name", "kind"),
    [
        (nn.Conv2d(4, 6, 3), "bias", "bias"),
        (ScaledStdConv2d(4, 6, 3), "gain", "gain"),
        (nn.MultiheadAttention(4, 2), "in_proj_bias", "bias"),
        (nn.MultiheadAttention(4, 2, add_bias_kv=True), "bias_k", "bias"),
        (nn.BatchNorm2d(4), "weight", "gain"),
        (nn.GroupNorm(2, 4), "bias", "bias"),
        (nn.LayerNorm((3, 4)), "weight", "gain"),
        (nn.RMSNorm(4), "weight", "gain"),
        (nn.PReLU(3), "weight", "gain"),
        (nn.LSTM(3, 4), "bias_hh_l0", "bias"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else str(value),
)
def test_vectors_are_one_unit_and_not_decayed(module: nn.Module, name: str, kind: str) -> None:
    assert role_of(module, name) == (kind, None, True, False, 1)


def test_a_wrapper_that_shortens_the_names_of_its_parameters() -> None:
    name = "_checkpoint_wrapped_module.weight"
    assert role_of(checkpoint_wrapper(nn.Conv2d(4, 6, 3)), name) == ("weight", 0, True, True, 1)


def test_the_reference_groups_on_a_network_with_every_part() -> None:
    """Gains, biases, skip gains clipped only; the classifier's weight decayed only; all else both."""
    with torch.device("meta"):
        model = create_model("nfnet_f0")
    roles = {name: role for name, (_, role) in parameter_roles(model).items()}
    assert len(roles) == 233
    for name, role in roles.items():
        leaf = name.rpartition(".")[2]
        expected = (leaf != "weight", leaf == "weight") if name.startswith("classifier") else (True, leaf == "weight")
        assert (role.clip, role.decay) == expected, name
        assert role.unit_dim == (0 if leaf == "weight" else None), name
    decayed, plain = param_groups(model, 2e-5)
    assert {group["weight_decay"] for group in (decayed, plain)} == {2e-5, 0.0}
    assert len(decayed["params"]) == sum(role.decay for role in roles.values())
    assert "233 parameters: 232 clipped, 82 decayed" in agc_report(model)


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.ones(3, 3, 2, 4))
        self.scale = nn.Parameter(torch.ones(2, 4))


def test_unknown_parameters_are_all_named_with_the_way_out() -> None:
    message = r"not known of: 0.kernel \(3, 3, 2, 4\) of a Odd; 0.scale \(2, 4\) of a Odd.*agc_unit_dims"
    with pytest.raises(ValueError, match=message):
        parameter_roles(nn.Sequential(Odd()))
    assert role_of(Odd(), "kernel", strict=False)[0] == "unknown"


def test_declared_axes_are_taken_on_class_and_instance() -> None:
    odd = Odd()
    odd.agc_unit_dims = {"kernel": -1, "scale": None}
    assert role_of(odd, "kernel") == ("weight", 3, True, True, 1)
    assert role_of(odd, "scale") == ("gain", None, True, False, 1)
    by_class = type("ByClass", (Odd,), {"agc_unit_dims": {"kernel": 2, "scale": 0}})()
    assert role_of(by_class, "kernel")[1] == 2
    odd.agc_unit_dims = {"kernel": 4}
    with pytest.raises(ValueError, match=r"declares 4 for parameter 'kernel' of shape \(3, 3, 2, 4\); give one of"):
        parameter_roles(odd)


def test_parametrised_weights_have_the_roles_of_what_they_make() -> None:
    net = nn.Sequential(
        weight_norm(nn.Conv2d(3, 4, 3)),
        spectral_norm(nn.Conv2d(4, 4, 3)),
        weight_norm(nn.ConvTranspose2d(4, 6, 3, groups=2), dim=1),
        orthogonal(nn.Linear(4, 4)),
        weight_norm(nn.Linear(4, 1)),
    )
    weights = {"0": (0, 1), "1": (0, 1), "2": (1, 2), "3": (0, 1), "4": (None, 1)}
    roles = parameter_roles(net, classifier=net[4])
    for name, (parameter, role) in roles.items():
        layer, leaf = name.split(".", 1)
        if leaf.endswith(("original", "original1")):
            assert (role.unit_dim, role.groups) == weights[layer], name
            assert role.decay
            assert role.clip == (layer != "4")
        elif leaf.endswith("original0"):
            assert role.kind == "gain", name
        else:
            assert role.kind == "bias", name
        parameter.grad = torch.ones_like(parameter)
    assert float(adaptive_clip_grad_(net, 1e-6, classifier=net[4])) == 1.0
    assert list(parameter_roles(spectral_norm(nn.Conv2d(4, 4, 3)), classifier=None)) == [
        "bias",
        "parametrizations.weight.original",
    ]


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
def test_the_older_weight_norm_has_the_same_roles() -> None:
    old, new = nn.utils.weight_norm, weight_norm
    for make in (lambda: nn.Conv2d(3, 4, 3), lambda: nn.Linear(4, 1), lambda: nn.ConvTranspose2d(4, 6, 3, groups=2)):
        dim = int(isinstance(make(), nn.ConvTranspose2d))
        roles = [parameter_roles(norm(make(), dim=dim), classifier=None) for norm in (old, new)]
        found = [{parameter.shape: role for parameter, role in each.values()} for each in roles]
        assert found[0] == found[1]


def test_flattened_weights_are_refused() -> None:
    conv = nn.Conv2d(2, 3, 3)
    conv.weight = nn.Parameter(conv.weight.detach().flatten())
    with pytest.raises(ValueError, match=r"'weight' has shape \(54,\).*Conv2d: it was flattened.*fully_shard"):
        parameter_roles(conv)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.frozen, self.fc = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.fc.weight = self.body.weight
        self.frozen.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x))


def test_shared_parameters_are_listed_once_and_frozen_ones_not() -> None:
    assert list(parameter_roles(Tied(), classifier=None)) == ["body.weight", "body.bias", "fc.bias"]


def test_the_classifier_must_be_found_or_named() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"classifier='auto' needs Sequential.get_classifier\(\).*\(0, 1\)"):
        parameter_roles(net)
    with pytest.raises(ValueError, match="is not a module of the model"):
        parameter_roles(net, classifier=nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"classifier='fc' must be 'auto', None or a layer"):
        parameter_roles(net, classifier="fc")  # type: ignore[arg-type]
    assert not parameter_roles(net, classifier=net[1])["1.weight"][1].clip
    assert parameter_roles(nn.Conv2d(2, 2, 1))["weight"][1].clip  # no linear layer: nothing to ask for


def clipped(model: nn.Module, classifier: Any = "auto") -> set[str]:
    return {name for name, (_, role) in parameter_roles(model, classifier=classifier).items() if role.clip}


def test_a_container_stands_for_the_one_weight_in_it() -> None:
    head = nn.Sequential(nn.LayerNorm((4, 2)), nn.Dropout(), nn.Linear(4, 2))
    net = nn.Sequential(nn.Linear(4, 4), head, nn.ModuleDict({"logits": nn.Linear(4, 2)}))
    net.get_classifier = lambda: net[1]
    every = {name for name, _ in net.named_parameters()}
    assert clipped(net) == clipped(net, net[1]) == every - {"1.2.weight"}
    assert clipped(net, net[2]) == every - {"2.logits.weight"}
    assert clipped(net, [net[1], net[2]]) == every - {"1.2.weight", "2.logits.weight"}
    net.get_classifier = lambda: (net[0], net[2])  # two heads, as timm's distilled networks have
    assert clipped(net) == every - {"0.weight", "2.logits.weight"}
    net.get_classifier = lambda: net[1][1]  # nothing to exempt, as of a network without a head
    assert clipped(net) == every
    with pytest.raises(ValueError, match=r"classifier=Sequential holds several layers with a weight \(0, 1\.2, 2\."):
        parameter_roles(net, classifier=net)


def test_a_tied_classifier_is_exempt_wherever_its_weight_stands_first() -> None:
    net = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9))
    net[1].weight = net[0].weight
    assert clipped(net, net[1]) == {"1.bias"}


def test_a_classifier_that_declares_its_axes_is_exempt_but_for_its_gains() -> None:
    class Cosine(nn.Module):
        agc_unit_dims: ClassVar = {"kernel": 1, "scale": None}

        def __init__(self) -> None:
            super().__init__()
            self.kernel, self.scale = nn.Parameter(torch.ones(4, 2)), nn.Parameter(torch.ones(1, 2))

    net = nn.Sequential(Cosine())
    assert clipped(net, net[0]) == {"0.scale"}
    assert parameter_roles(net, classifier=net[0])["0.kernel"][1].unit_dim == 1


@pytest.mark.parametrize(
    "wrap",
    [nn.DataParallel, AveragedModel, lambda model: torch.compile(model, backend="eager")],
    ids=["parallel", "averaged", "compiled"],
)
def test_the_classifier_is_found_inside_of_wrappers(wrap: Any) -> None:
    roles = parameter_roles(wrap(create_model("cifar_resnet8", method="nf")))
    assert [name.rpartition(".classifier.")[2] for name, (_, r) in roles.items() if r.kind == "classifier"] == [
        "weight"
    ]


@pytest.mark.parametrize(
    "call",
    [
        parameter_roles,
        param_groups,
        agc_report,
        WeightAverage,
        lambda parameters: attach_agc(torch.optim.SGD(nn.Linear(2, 2).parameters(), 0.1), parameters),
    ],
)
def test_parameters_in_place_of_a_model_are_refused(call: Any) -> None:
    with pytest.raises(TypeError, match="model is a generator; pass the model itself"):
        call(nn.Linear(2, 2).parameters())


def test_a_classifier_is_a_module() -> None:
    net = nn.Linear(2, 3)
    for classifier, shown in ((net.weight, "a Parameter"), (True, "True"), ([net.weight], "a Parameter")):
        with pytest.raises(ValueError, match=f"classifier={shown} is not a module of the model; pass one of its"):
            parameter_roles(net, classifier=classifier)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [float("nan"), -0.1, "1e-4", None, True, float("inf")])
def test_weight_decay_is_checked(value: Any) -> None:
    with pytest.raises(ValueError, match=rf"weight_decay={value!r} must be a finite number of at least 0"):
        param_groups(nn.Linear(2, 2), value)
