"""Conversion of networks that the package has never seen: variance, training, folding, export, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign import NETWORKS, LayerNorm2d, UNet, basic, conv_norm, resnet
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F
from torch.nn.utils import prune

import nfnets_lite as nf
from nfnets_lite.conv import _Standardized
from nfnets_lite.convert.graph import channel_moments
from nfnets_lite.convert.layers import BranchScale, ChannelAffine
from nfnets_lite.models.parts import StochasticDepth

BRANCHES = {"ResNet-18": 8, "ResNet-50": 16, "MobileNetV2": 6, "DenseNet": 0, "ConvNeXt": 6, "U-Net": 0, "detector": 6}
NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)

each_network = pytest.mark.parametrize("name", NETWORKS)


def images(n: int = 128) -> Tensor:
    """Blobs: normal noise with some extent, as images have it."""
    return F.interpolate(torch.randn(n, 1, 4, 4), scale_factor=2, mode="bilinear")


def call(model: nn.Module, x: Tensor) -> Tensor:
    return model(list(x) if hasattr(model, "lateral") else x)  # type: ignore[no-any-return]


def made(name: str, **options: Any) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model, x = NETWORKS[name](), images()
    return model, nf.convert(model, lambda net: call(net, x), **options)


def stage_variances(model: Any, x: Tensor) -> list[float]:
    found: list[float] = []
    hooks = [
        s.register_forward_hook(lambda _m, _i, y: found.append(float(y.var((0, 2, 3)).mean()))) for s in model.stages
    ]
    with torch.no_grad():
        call(model, x)
    for hook in hooks:
        hook.remove()
    return found


@each_network
def test_the_norms_are_gone_and_each_stage_ends_with_variance_one(name: str) -> None:
    model, report = made(name)
    assert not [m for m in model.modules() if isinstance(m, NORMS)]
    assert all(1 / 2 < v < 2 for v in stage_variances(model, images()))  # not the images that it was set on
    assert sum("BranchScale" in row[2] for row in report.rows) == BRANCHES[name]
    left = [row[0] for row in report.rows if row[2] == "left"]
    assert all(layer.startswith(("lateral", "smooth", "fc")) for layer in left)
    assert all(isinstance(model.get_submodule(layer), nn.Conv2d) for layer in left)


@each_network
def test_a_converted_network_trains_folds_and_exports(name: str) -> None:
    model, _ = made(name)
    assert all(module.training for module in model.modules())
    x, y = images(32), torch.randint(10, (32,))
    optimizer = torch.optim.SGD(nf.param_groups(model, weight_decay=5e-4), lr=0.05, momentum=0.9)
    nf.attach_agc(optimizer, model, 0.1, classifier=model.get_submodule("fc"))
    losses = []
    for _ in range(15):
        loss = F.cross_entropy(call(model, x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    model.eval()
    folded = nf.fold(model)
    assert not [m for m in folded.modules() if isinstance(m, _Standardized)]
    assert torch.allclose(call(folded, x), call(model, x), atol=1e-4)
    args: Any = (list(x),) if hasattr(model, "lateral") else (x,)
    assert torch.allclose(torch.export.export(model, args).module()(*args), model(*args), atol=1e-4)


def test_each_channel_of_a_convolution_starts_as_behind_its_norm() -> None:
    torch.manual_seed(0)
    x = images()
    model = nn.Sequential(conv_norm(1, 8, 3), conv_norm(8, 8, 3, act=None), nn.Flatten())
    before = model[0](x)
    nf.convert(model, x)
    gain = nf.gain_of(torch.relu)  # the ReLU behind takes the variance of gain ** 2 back to 1
    assert torch.allclose(model[0][0](x).mean((0, 2, 3)), torch.zeros(8), atol=1e-4)
    assert torch.allclose(model[0][0](x).std((0, 2, 3)), torch.full((8,), gain), rtol=1e-2)
    assert torch.allclose(model(x).unflatten(1, (8, -1)).std((0, 2)), torch.ones(8), rtol=1e-2)
    assert before.shape == model[0](x).shape


ACTIVATIONS: dict[str, tuple[Callable[[], Callable[[Tensor], Tensor]], Callable[[Tensor], Tensor]]] = {
    "relu": (lambda: F.relu, F.relu),
    "relu in place": (lambda: nn.ReLU(inplace=True), F.relu),
    "relu6": (lambda: F.relu6, F.relu6),
    "selu": (lambda: F.selu, F.selu),
    "celu": (lambda: nn.CELU(0.5), nn.CELU(0.5)),
    "elu": (lambda: nn.ELU(2.0), nn.ELU(2.0)),
    "leaky relu": (lambda: partial(F.leaky_relu, negative_slope=0.2), partial(F.leaky_relu, negative_slope=0.2)),
    "randomised relu": (nn.RReLU, nn.RReLU().eval()),
    "mish": (lambda: F.mish, F.mish),
    "mish by hand": (lambda: lambda z: z * torch.tanh(F.softplus(z)), F.mish),
    "hardswish": (lambda: F.hardswish, F.hardswish),
    "silu by hand": (lambda: lambda z: z * torch.sigmoid(z), F.silu),
    "gelu": (lambda: nn.GELU("tanh"), nn.GELU("tanh")),
    "softplus": (lambda: nn.Softplus(2.0), nn.Softplus(2.0)),
    "softsign": (lambda: F.softsign, F.softsign),
    "log-sigmoid": (lambda: F.logsigmoid, F.logsigmoid),
    "shrink": (lambda: nn.Softshrink(0.3), nn.Softshrink(0.3)),
    "tanh": (lambda: torch.tanh, torch.tanh),
    "tanh-shrink": (lambda: F.tanhshrink, F.tanhshrink),
    "clamp": (lambda: lambda z: z.clamp(min=0), F.relu),
    "clamp of both sides": (lambda: lambda z: z.clamp(-1, 2), lambda z: z.clamp(-1, 2)),
    "maximum": (lambda: lambda z: torch.maximum(z, torch.zeros(())), F.relu),
    "prelu": (lambda: nn.PReLU(8), partial(F.leaky_relu, negative_slope=0.25)),
    "pooling first": (lambda: lambda z: F.relu(F.max_pool2d(z, 2)), F.relu),
    "shifted inside a product": (lambda: lambda z: z * F.relu6(z + 3) / 6, F.relu6),
    "a gate": (lambda: torch.sigmoid, lambda z: z),
    "a sum first": (lambda: lambda z: F.elu(z + 0, 3.0), lambda z: F.elu(z, 3.0)),
    "a factor": (lambda: lambda z: z * torch.full((), 0.5), lambda z: z),
}


class Followed(nn.Module):
    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_the_gain_is_that_of_the_activation_that_follows(kind: str) -> None:
    torch.manual_seed(0)
    make, function = ACTIVATIONS[kind]
    model, x, gain = Followed(make()), images(16), nf.gain_of(function)
    report = nf.convert(model, x)
    assert f"a norm follows, gain {gain:.2f}" in str(report)
    assert torch.allclose(model.conv(x).std((0, 2, 3)), torch.full((8,), gain), rtol=0.02)


def test_new_parameters_are_frozen_where_the_old_ones_were() -> None:
    for keep in (False, True):
        model = nn.Sequential(*(conv_norm(a, 8, 3) for a in (1, 8, 8)))
        model[0].requires_grad_(False)
        model[1][0].requires_grad_(False)
        nf.convert(model, images(16), keep_weights=keep)
        trainable = [{name for name, p in part.named_parameters() if p.requires_grad} for part in model]
        assert trainable == [set(), {"0.gain", "0.bias"}, {"0.weight", "0.gain", "0.bias"}]


@pytest.mark.parametrize("scale", [{"alpha": 0.3}, {"skip_gain": 0.5}])
@pytest.mark.parametrize("without", [{"keep_weights": True}, {"ends": []}])
def test_a_factor_for_branches_that_get_none_is_refused(scale: dict[str, Any], without: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"^{next(iter(scale))}=0\..*{next(iter(without))}=.*name the ends"):
        nf.convert(resnet(basic, (1,), (8,)), images(16), **scale, **without)
    nf.convert(resnet(basic, (1,), (8,)), images(16), **scale, ends=["branch.1.1"], keep_weights=True)


@pytest.mark.parametrize(
    "wrap", [nn.utils.spectral_norm, nn.utils.weight_norm, lambda conv: prune.random_unstructured(conv, "weight", 0.5)]
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
def test_a_convolution_whose_weight_a_hook_computes_is_left(wrap: Callable[..., nn.Module]) -> None:
    model = nn.Sequential(wrap(nn.Conv2d(1, 8, 3)), nn.BatchNorm2d(8), nn.ReLU())
    rows = nf.convert(model, images(16)).rows
    assert [row[2] for row in rows] == ["left", "ChannelAffine"]
    assert re.match("a hook makes its weight; torch.nn.utils has remove_weight_norm.*, prune.remove", rows[0][3])


@pytest.mark.parametrize("keep", [False, True])
def test_the_memory_format_of_weights_is_kept(keep: bool) -> None:
    model = nn.Sequential(conv_norm(1, 8, 3), conv_norm(8, 8, 1), conv_norm(8, 8, 3)).to(
        memory_format=torch.channels_last
    )
    strides = [part[0].weight.stride() for part in model]
    nf.convert(model, images(16), keep_weights=keep)
    assert [part[0].weight.stride() for part in model] == strides


def test_weights_that_are_kept_give_each_channel_what_its_norm_gave_it() -> None:
    torch.manual_seed(0)
    x = images()
    model = resnet(basic, (2, 2), (8, 16))
    for _ in range(20):  # statistics, and affine parameters, that are not at their start
        model(images())
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
    model.eval()
    places = ["stem.1", "stages.0.1.branch.1.1", "stages.1.0.shortcut.1", "stages.1.1.branch.1.1"]

    def moments() -> list[Tensor]:
        found: list[Tensor] = []
        watch = [model.get_submodule(place) for place in places]
        hooks = [m.register_forward_hook(lambda _m, _i, y: found.extend(channel_moments(y.detach(), 1))) for m in watch]
        model(x)
        for hook in hooks:
            hook.remove()
        return found

    before, weight = moments(), model.stem[0].weight.clone()
    report = nf.convert(model, x, keep_weights=True)
    assert torch.equal(model.stem[0].weight, weight)
    assert not [m for m in model.modules() if isinstance(m, (BranchScale, *NORMS))]
    assert str(report).endswith("kept: fine-tune them")
    assert all(torch.allclose(new, old, atol=1e-3) for new, old in zip(moments(), before))


def test_a_network_without_zero_mean_filters_to_lose_is_reproduced_exactly() -> None:
    torch.manual_seed(0)
    x = images()
    model = nn.Sequential(conv_norm(1, 8, 3), nn.Flatten(), nn.Linear(512, 10))
    with torch.no_grad():
        model[0][0].weight -= model[0][0].weight.mean((1, 2, 3), keepdim=True)
    model(x)
    model.eval()
    old = model(x)
    nf.convert(model, x, keep_weights=True)
    assert torch.allclose(model(x), old, atol=1e-5)


def test_a_dry_run_changes_nothing_and_reports_the_same() -> None:
    torch.manual_seed(0)
    model, x = resnet(basic, (1, 1), (8, 16)), images()
    before, modules = deepcopy(model.state_dict()), list(model.modules())
    report = nf.convert(model, x, dry_run=True)
    assert list(model.modules()) == modules
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in modules)
    assert report.rows == nf.convert(model, x).rows
    assert "to replace, 0 left, 2 ends of branches scaled; " in str(report)


@pytest.mark.parametrize("dry_run", [True, False])
def test_lazy_layers_are_refused_before_the_batch_gives_them_a_shape(dry_run: bool) -> None:
    model = nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d(), nn.ReLU())
    with pytest.raises(ValueError, match=r"Sequential has lazy layers.*call it once on a batch"):
        nf.convert(model, images(), dry_run=dry_run)
    assert isinstance(model[0], nn.LazyConv2d)


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        *(("alpha", value, "a finite number above 0") for value in (float("nan"), "0.2", 0.0, -1)),
        *(("skip_gain", value, "a finite number") for value in (float("inf"), "1", None)),
        *(("ends", value, "names of modules, or 'auto'") for value in (None, 2, [3], [""])),
        *(("leave", value, "names of modules") for value in (None, [nn.ReLU()], [""])),
    ],
)
def test_an_argument_out_of_range_is_named(name: str, value: Any, accepted: str) -> None:
    model = conv_norm(1, 8, 3)
    with pytest.raises(ValueError, match=rf"^{re.escape(f'{name}={value!r} must be {accepted}')}$"):
        nf.convert(model, images(), **{name: value})
    assert isinstance(model[1], nn.BatchNorm2d)


def test_ends_can_be_named_and_depthwise_and_parts_be_left() -> None:
    torch.manual_seed(0)
    model = resnet(basic, (2,), (8,))
    nf.convert(model, images(), ends=["stages.0.1.branch.1.1"], alpha=0.3, skip_gain=0.5)
    (scale,) = [m for m in model.modules() if isinstance(m, BranchScale)]
    assert (scale, scale.alpha, scale.gain.item()) == (model.get_submodule("stages.0.1.branch.1.1"), 0.3, 0.5)

    model = resnet(basic, (2, 2), (8, 16))
    nf.convert(model, images())
    assert {m.alpha for m in model.modules() if isinstance(m, BranchScale)} == {0.5}  # four branches

    model = NETWORKS["MobileNetV2"]()
    nf.convert(model, images(), depthwise=False)
    found = {m.groups > 1: type(m).__name__ for m in model.modules() if isinstance(m, nn.Conv2d)}
    assert found == {True: "Conv2d", False: "ScaledStdConv2d"}
    assert [m for m in model.modules() if isinstance(m, ChannelAffine)]  # behind the depth-wise ones

    model = NETWORKS["ResNet-18"]()
    nf.convert(model, images(), leave=["stages.3"])
    kept = {name.rpartition(".stages.3")[0] or name for name, m in model.named_modules() if isinstance(m, NORMS)}
    assert kept
    assert all(name.startswith("stages.3") for name in kept)
    with pytest.raises(ValueError, match=r"ends=\['bn9'\] must name norms.*called once with one tensor.*, such as \['"):
        nf.convert(NETWORKS["ResNet-18"](), images(), ends=["bn9"])
    with pytest.raises(ValueError, match=r"leave=\['head'\]"):
        nf.convert(NETWORKS["ResNet-18"](), images(), leave=["head"])


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.conv = conv_norm(1, 8, 3), nn.Conv2d(8, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(self.conv(self.first(x)), None, None, training=True)


class Activating(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x))


class NormAct(nn.BatchNorm2d):
    """As timm has it: norm and activation in one layer."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))  # type: ignore[no-any-return]


def test_a_norm_that_holds_an_activation_is_taken_apart() -> None:
    torch.manual_seed(0)
    model, plain = (
        nn.Sequential(nn.Conv2d(1, 8, 3), norm(8), *act, nn.Conv2d(8, 8, 3), norm(8), *act)
        for norm, act in ((NormAct, ()), (nn.BatchNorm2d, (nn.ReLU(),)))
    )
    names = list(model.state_dict())
    report = nf.convert(model, images(), dry_run=True)
    assert list(model.state_dict()) == names
    assert [row[0] for row in report.rows] == ["0", "1", "2", "3"]  # and not "1.norm", which the model does not have
    nf.convert(model, images(), leave=["3"])
    assert isinstance(model[3], NormAct)
    assert isinstance(model[1].act, nn.ReLU)
    assert [row[2] for row in report.rows] == [row[2] for row in nf.convert(plain, images()).rows]
    assert torch.allclose(model[1](model[0](x := images())).var(), plain[2](plain[0](x)).var(), rtol=0.2)


@pytest.mark.parametrize("end", ["bn3", "1.bn3"])
def test_a_norm_that_holds_an_activation_ends_a_branch_by_its_name(end: str) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn3 = nn.Conv2d(8, 8, 3, padding=1), NormAct(8)
            self.bn3.act = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return x + self.bn3(self.conv(x))  # type: ignore[no-any-return]

    rows = nf.convert(nn.Sequential(conv_norm(1, 8, 3), Block()), images(), ends=[end]).rows
    assert [row[0] for row in rows if "BranchScale" in row[2]] == ["1.bn3"]


class Dropped(nn.Module):
    """A residual block as timm writes it, with a module at the end that returns its input in evaluation."""

    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.branch, self.drop_path = conv_norm(8, 8, 3), last

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.drop_path(self.branch(x)))


@pytest.mark.parametrize("last", [nn.Dropout(0.1), nn.Identity(), StochasticDepth(0.1)])
def test_an_end_that_returns_its_input_is_refused_with_the_layer_before_it(last: nn.Module) -> None:
    model = nn.Sequential(conv_norm(1, 8, 3), Dropped(last), Dropped(deepcopy(last)))
    with pytest.raises(ValueError, match=r"'1\.drop_path' returns its input in evaluation, so name '1\.branch\.2'$"):
        nf.convert(model, images(), ends=["drop_path"])
    report = nf.convert(model, images(), ends=["branch.2"])
    assert sum("BranchScale" in row[2] for row in report.rows) == 2


def test_the_name_of_a_model_in_its_place_is_refused() -> None:
    with pytest.raises(TypeError, match=r"model is a str; pass the model itself, an nn\.Module"):
        nf.convert("resnet50", images())  # type: ignore[arg-type]


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = conv_norm(1, 8, 3), conv_norm(8, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.again(self.first(x)))  # type: ignore[no-any-return]


class Auxiliary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.aux = conv_norm(1, 8, 3), conv_norm(8, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.aux(self.first(x)) if self.training else self.first(x)  # type: ignore[no-any-return]


def tied() -> nn.Module:
    model = nn.Sequential(conv_norm(1, 8, 3), conv_norm(8, 8, 3), conv_norm(8, 8, 3))
    model[2][0].weight = model[1][0].weight
    return model


class Attended(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x[:, 0])  # type: ignore[no-any-return]


class InAList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = conv_norm(1, 8, 3), conv_norm(8, 8, 3)
        self.layers = [self.first, self.again[0]]

    def forward(self, x: Tensor) -> Tensor:
        return self.again[1](self.layers[1](self.layers[0](x)))  # type: ignore[no-any-return]


class Reading(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = conv_norm(1, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) + self.first[1].eps  # type: ignore[no-any-return]


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "functional": (Functional, "NativeBatchNormBackward0 without a layer"),
    "activating": (lambda: nn.Sequential(nn.Conv2d(1, 8, 3), Activating(8)), "'1' is a Activating, which activates"),
    "shared": (Twice, "'again.1' is called 2 times"),
    "unreached": (Auxiliary, "does not reach 'aux.1'"),
    "tied": (tied, "'1.0' shares its weights"),
    "in a list": (InAList, "its forward pass calls the old 'again.0', from a list"),
    "read": (Reading, "has no attribute 'eps'. Change the forward pass that needs the layer"),
    "attention": (lambda: Attended(), "has no attribute 'eps'.*name the layer in `leave`"),
    "scripted": (lambda: torch.jit.script(conv_norm(1, 8, 3)), "is scripted.*as it was before torch.jit"),
    "no norm": (lambda: nn.Sequential(nn.Conv2d(1, 8, 3)), "holds no norm"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_converted_is_refused_and_left_as_it_was(kind: str) -> None:
    make, said = REFUSED[kind]
    model = make()
    modules, state = list(model.named_modules()), deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=said):
        nf.convert(model, images())
    assert list(model.named_modules()) == modules
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


def test_a_network_without_memory_is_refused() -> None:
    with pytest.raises(ValueError, match=r"on the meta device.*model\.to_empty"):
        nf.convert(conv_norm(1, 8, 3).to("meta"), images())


def test_a_network_with_a_scripted_part_is_converted_around_it() -> None:
    model = nn.Sequential(conv_norm(1, 8, 3), torch.jit.script(nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU())))
    nf.convert(model, images())
    assert isinstance(model[0][1], nn.Identity)


def test_a_network_that_is_distributed_already_is_refused(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(conv_norm(1, 8, 3))
        with pytest.raises(ValueError, match=r"DistributedDataParallel, or sharded.*then wrap"):
            nf.convert(model, images())
        sharded = fully_shard(conv_norm(1, 8, 3), mesh=init_device_mesh("cpu", (1,)))
        with pytest.raises(ValueError, match="sharded"):
            nf.convert(sharded, images())
    finally:
        torch.distributed.destroy_process_group()


def test_a_part_that_would_be_refused_can_be_left() -> None:
    model = Auxiliary()
    nf.convert(model, images(), leave=["aux"])
    assert isinstance(model.aux[1], nn.BatchNorm2d)
    assert isinstance(model.first[1], nn.Identity)


class Head(nn.Module):
    """A part that is left, whose inputs or outputs are more than a tensor; its norm is a function."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.layer = kind, nn.Conv2d(16, 8, 1)

    def forward(self, x: Any, skip: Any = None) -> Any:
        y = F.instance_norm(self.layer(torch.cat(x if skip is None else [x, skip], 1)))
        return {"maps": [y]} if self.kind == "a dictionary out" else y


@dataclass
class Output:
    maps: Tensor


class Headed(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.stem, self.block, self.side = conv_norm(1, 8, 3), basic(8, 8, 1), conv_norm(8, 8, 3)
        self.head = Head(kind)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        pair = self.side(x), self.block(x)
        y = self.head(*pair) if self.kind == "two inputs" else self.head(pair)
        y = y["maps"][0] if isinstance(y, dict) else y
        return Output(y) if self.kind == "an object as output" else y


@pytest.mark.parametrize("kind", ["a tuple in", "two inputs", "a dictionary out", "an object as output"])
def test_a_part_that_is_left_may_take_and_give_anything(kind: str) -> None:
    report = nf.convert(Headed(kind), images(), leave=["head"])
    becomes = {row[0]: row[2] for row in report.rows}
    assert becomes["block.branch.1.1"] == "BranchScale"
    assert becomes["head.layer"] == "left"


@pytest.mark.parametrize("run", [lambda net: [net(images())][1:], lambda net: Output(net(images()))])
def test_the_end_of_a_branch_is_found_whatever_the_function_returns(run: Any) -> None:
    report = nf.convert(nn.Sequential(conv_norm(1, 8, 3), basic(8, 8, 1)), run)
    assert report.rows[-1][2] == "BranchScale"


def test_a_batch_that_fails_halfway_leaves_the_model_as_it_was() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        conv_norm(1, 8, 3), nn.AdaptiveAvgPool2d(1), conv_norm(8, 8, 1), nn.Flatten(), nn.Linear(8, 2)
    )
    modules, state = list(model.named_modules()), deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="standard deviation of 0"):
        nf.convert(model, images(1).expand(4, -1, -1, -1))  # one image four times: nothing varies behind the pooling
    assert list(model.named_modules()) == modules
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    with pytest.raises(TypeError, match="batch is a list"):
        nf.convert(model, list(images()))  # type: ignore[arg-type]


class FrozenBatchNorm2d(nn.Module):
    """As torchvision has it: no parameters, and no relation to torch's norms."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.1), ("running_var", 2.0)):
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, x: Tensor) -> Tensor:
        w, b, m, v = (t.reshape(1, -1, 1, 1) for t in (self.weight, self.bias, self.running_mean, self.running_var))
        scale = w * (v + 1e-5).rsqrt()
        return x * scale + (b - m * scale)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "norm", [FrozenBatchNorm2d, nn.SyncBatchNorm, LayerNorm2d, nn.InstanceNorm2d, nn.LazyBatchNorm2d]
)
def test_norms_of_other_kinds_are_replaced(norm: Callable[..., nn.Module]) -> None:
    torch.manual_seed(0)
    layer = norm() if norm is nn.LazyBatchNorm2d else norm(8)
    model, x = nn.Sequential(nn.Conv2d(1, 8, 3), layer, nn.ReLU(), nn.Conv2d(8, 8, 3)), images()
    if norm is nn.LazyBatchNorm2d:
        model(x)
    report = nf.convert(model, x)
    assert [row[2] for row in report.rows] == ["ScaledStdConv2d", "Identity", "left"]


class TokenNorm(nn.LayerNorm):
    """As timm has it: over the last axis, in a forward pass of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class ChannelNorm(nn.LayerNorm):
    """A norm over the channels, axis 1, written out."""

    def forward(self, x: Tensor) -> Tensor:
        var, mean = torch.var_mean(x, 1, keepdim=True)
        return (x - mean) * (var + self.eps).rsqrt() * self.weight[:, None, None] + self.bias[:, None, None]


@pytest.mark.parametrize(("channels", "width"), [(8, 9), (8, 8), (9, 8)])
@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm, TokenNorm])
def test_a_norm_of_another_axis_is_not_joined_to_a_convolution(
    norm: Callable[..., nn.Module], axes: int, channels: int, width: int
) -> None:
    torch.manual_seed(0)
    layer = norm(width) if norm is TokenNorm else norm([8, width][-axes:])
    model = nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), layer, nn.GELU(), nn.Conv2d(channels, 8, 3))
    report = nf.convert(model, x := torch.randn(64, 1, 8, width))
    assert [row[2:] for row in report.rows][:2] == [
        ("ScaledStdConv2d", "a norm follows, gain 1.00"), ("ChannelAffine", "joins no convolution, gain 1.70")
    ]  # fmt: skip
    axis = -1 if norm is TokenNorm else -axes
    for part, along, expected in ((model[:1], 1, 1.0), (model[:2], axis, 1.7)):
        mean, std = channel_moments(part(x).detach(), along)
        torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-5, rtol=0)
        torch.testing.assert_close(std, torch.full_like(std, expected), atol=0.01, rtol=0)


@pytest.mark.parametrize("tokens", [5, 6])
def test_the_axis_of_a_derived_layer_norm_is_found(tokens: int) -> None:
    model: Any = nn.Sequential(nn.Linear(12, 6), TokenNorm(6), nn.GELU(), nn.Linear(6, 6))
    nf.convert(model, torch.randn(8, tokens, 12))
    assert (len(model[1].gain), model[1].axis) == (6, -1)
    for norm in (ChannelNorm, LayerNorm2d):
        model = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), norm(6), nn.GELU(), nn.Conv2d(6, 6, 1))
        assert nf.convert(model, torch.randn(8, 1, 7, tokens)).rows[1][2:] == ("Identity", "joins 0")


@pytest.mark.parametrize(
    "within",
    [
        nullcontext, torch.inference_mode, torch.no_grad, lambda: torch.device("meta"),
        lambda: torch.autocast("cpu", torch.bfloat16),
    ],
    ids=["nothing", "inference mode", "no_grad", "another device", "autocast"],
)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_parameters_are_made_where_and_as_the_old_ones_whatever_the_mode(within: Any, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layers = conv_norm(1, 8, 3), nn.InstanceNorm2d(8), conv_norm(8, 8, 3), nn.LayerNorm(8)
    model, x = nn.Sequential(*layers).to(dtype), images(16).to(dtype)
    with within():
        nf.convert(model, x.clone(), ends="2.1")
    assert sum(isinstance(m, (BranchScale, ChannelAffine)) for m in model.modules()) == 3
    assert all(p.dtype == dtype and p.device.type == "cpu" and not p.is_inference() for p in model.parameters())
    model(x).sum().backward()


@pytest.mark.parametrize(
    "compiled", [torch.compile, lambda model: model.compile() or model], ids=["outside", "in place"]
)
def test_a_compiled_network_is_converted_as_the_one_inside(compiled: Any) -> None:
    torch.manual_seed(0)
    plain, rows = resnet(basic, (2, 2), (8, 16)), nf.convert(compiled(resnet(basic, (2, 2), (8, 16))), images()).rows
    assert [row[2] for row in rows] == [row[2] for row in nf.convert(plain, images()).rows]


def test_a_converted_network_is_traced_by_fx() -> None:
    torch.manual_seed(0)
    for make in (UNet, NETWORKS["ConvNeXt"]):
        model, x = make().eval(), images(4)
        nf.convert(model, images())
        torch.testing.assert_close(torch.fx.symbolic_trace(model)(x), model(x))


def test_frozen_layers_are_seen_and_stay_frozen_where_they_are_left() -> None:
    torch.manual_seed(0)
    model = resnet(basic, (2, 2), (8, 16)).requires_grad_(False)
    report = nf.convert(model, images(), leave=["stem"])
    assert sum("BranchScale" in row[2] for row in report.rows) == 4
    assert not any(p.requires_grad for p in (*model.stem.parameters(), *model.fc.parameters()))


class Parallel(nn.Module):
    """Two branches of one stream, and the ways to write their sum."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.enter = form, nn.BatchNorm2d(8)
        self.a, self.b = (nn.Sequential(conv_norm(8, 8, 3), nn.ReLU(), conv_norm(8, 8, 3)) for _ in range(2))
        self.side = nn.Conv2d(8, 8, 1) if form == "transition" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if self.form == "in turn":  # not parallel: b reads the sum
            x = x + self.a(x)
            return x + self.b(x)  # type: ignore[no-any-return]
        z = self.enter(x) if self.form == "one norm" else x
        if self.form == "branches first":
            return x + (self.a(z) + self.b(z))  # type: ignore[no-any-return]
        if self.form == "in place":
            out = self.a(z)
            out += self.b(z)
            out += x
            return out  # type: ignore[no-any-return]
        return self.side(x) + self.a(z) + self.b(z)  # type: ignore[no-any-return]


@pytest.mark.parametrize("form", ["chain", "branches first", "in place", "transition", "one norm", "in turn"])
def test_parallel_branches_end_apart(form: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(conv_norm(1, 8, 3), Parallel(form), Parallel(form))
    if form != "one norm":
        for block in model[1:]:
            block.enter = nn.Identity()
    report = nf.convert(model, x := images())
    ends = [row[0] for row in report.rows if "BranchScale" in row[2]]
    assert ends == ["1.a.2.1", "1.b.2.1", "2.a.2.1", "2.b.2.1"]
    if form != "transition":  # its shortcut is no norm's, and has a variance of its own
        assert float(model(x).var((0, 2, 3)).mean()) == pytest.approx(2.0, rel=0.2)


def test_a_squeeze_excite_gate_does_not_hide_the_end_of_a_branch() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(conv_norm(8, 8, 3), conv_norm(8, 8, 3, act=None))
            self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 1))

        def forward(self, x: Tensor) -> Tensor:
            y = self.body(x)
            return F.relu(x + y * torch.sigmoid(self.gate(y)))

    model = nn.Sequential(conv_norm(1, 8, 3), Gated(), conv_norm(8, 8, 3))
    rows = {name: (becomes, why) for name, _, becomes, why in nf.convert(model, images()).rows}
    assert rows["1.body.1.1"] == ("BranchScale", "joins 1.body.1.0, ends a branch")
    assert rows["1.gate.1"] == rows["1.gate.3"] == ("left", "no norm follows")


class Windowed(nn.Module):
    """Attention as torchvision's Swin has it: its weights are in linear layers that are never called."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.bias = nn.Parameter(torch.zeros(16, 16))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = F.linear(x, self.qkv.weight, self.qkv.bias).chunk(3, -1)
        shares = (q @ k.mT + self.bias).softmax(-1)
        return F.linear(shares @ v, self.proj.weight, self.proj.bias)


class Encoder(nn.Module):
    """A transformer: positions, then blocks whose norms come first, or last as in the second version of Swin."""

    def __init__(self, attention: Callable[[], nn.Module], last: bool = False) -> None:
        super().__init__()
        self.patches, self.positions, self.fc = nn.Conv2d(1, 8, 2, 2), nn.Embedding(16, 8), nn.Linear(8, 10)
        self.attn = nn.ModuleList(attention() for _ in range(2))
        self.mlp = nn.ModuleList(nn.Sequential(nn.Linear(8, 16), nn.ReLU(True), nn.Linear(16, 8)) for _ in range(2))
        self.norms, self.last = nn.ModuleList(nn.LayerNorm(8) for _ in range(5)), last

    def forward(self, x: Tensor) -> Tensor:
        x = self.norms[4](self.patches(x).flatten(2).mT + self.positions(torch.arange(16)))
        for part, norm in zip((self.attn[0], self.mlp[0], self.attn[1], self.mlp[1]), self.norms):
            x = x + (norm(part(x)) if self.last else part(norm(x)))
        return self.fc(x.mean(1))  # type: ignore[no-any-return]


class MultiHead(nn.Module):
    """Attention as torchvision's ViT has it: a module with three inputs and two outputs, then dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.dropout = nn.MultiheadAttention(8, 2, batch_first=True), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.inner(x, x, x, need_weights=False)[0])  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("attention", "last", "ends"),
    [
        (lambda: Windowed(8), False, ["attn.0", "attn.1", "mlp.0.2", "mlp.1.2"]),
        (MultiHead, False, ["attn.0.dropout", "attn.1.dropout", "mlp.0.2", "mlp.1.2"]),
        (lambda: Windowed(8), True, ["norms.0", "norms.1", "norms.2", "norms.3"]),
    ],
    ids=["functional attention", "multi-head attention", "norms last"],
)
def test_branches_of_a_transformer_end_in_the_modules_that_compute_attention(
    attention: Callable[[], nn.Module], last: bool, ends: list[str]
) -> None:
    torch.manual_seed(0)
    model, x = Encoder(attention, last), images()
    report = nf.convert(model, x)
    assert [row[0] for row in report.rows if "BranchScale" in row[2]] == ends
    assert {m.alpha for m in model.modules() if isinstance(m, BranchScale)} == {0.5}
    model(x).sum().backward()
    assert all(m.gain.grad is not None for m in model.modules() if isinstance(m, BranchScale))
    named = nf.convert(Encoder(attention, last), x, ends=ends)
    assert named.rows == report.rows


def test_an_end_that_is_called_from_a_list_is_refused() -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.fc = nn.BatchNorm1d(8), nn.Linear(8, 8)
            self.layers = [self.fc]

        def forward(self, x: Tensor) -> Tensor:
            return x + self.layers[0](self.norm(x))  # type: ignore[no-any-return]

    with pytest.raises(ValueError, match=r"calls the old '1\.fc', from a list"):
        nf.convert(nn.Sequential(nn.Linear(4, 8), Hidden()), torch.randn(32, 4))


def test_a_part_of_a_branch_may_be_left() -> None:
    model: Any = nn.Sequential(conv_norm(1, 8, 3), basic(8, 8, 1))
    model[1].branch[1].append(nn.Sequential(nn.Conv2d(8, 8, 1), nn.Sigmoid()))
    report = nf.convert(model, images(), leave=["1.branch.1.2"])
    assert not [row for row in report.rows if "BranchScale" in row[2]]


def test_transposed_convolutions_in_a_u_net() -> None:
    torch.manual_seed(0)
    model = UNet()
    report = nf.convert(model, images())
    assert {row[2] for row in report.rows if row[1] == "ConvTranspose2d"} == {"ScaledStdConvTranspose2d"}
    assert model.grow[0][0].unit_dim == 1


@pytest.mark.parametrize("name", ["resnet10t", "densenet121", "convnext_atto", "mobilenetv2_035"])
def test_timm(name: str) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model, x = timm.create_model(name), F.interpolate(torch.randn(4, 3, 8, 8), scale_factor=8, mode="bilinear")
    report = nf.convert(model, x)
    assert not [m for m in model.modules() if isinstance(m, NORMS)]
    left = [row for row in report.rows if row[2] == "left"]
    assert all(".mlp.fc1" in row[0] and row[3] == "no norm follows" for row in left)  # ConvNeXt's 1x1 convolutions
    assert model(x).isfinite().all()
