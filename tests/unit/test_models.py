"""Models as data: names, overrides, shapes at awkward sizes, starts, stochastic depth, errors."""

import json
from copy import deepcopy
from dataclasses import FrozenInstanceError, asdict, replace
from itertools import product
from math import prod
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import nfnets_lite as nf
from nfnets_lite import create_model, list_models
from nfnets_lite.conv import ScaledStdConv2d, WSConv2d
from nfnets_lite.macs import count_macs
from nfnets_lite.models import METHODS, RESOLUTIONS, RegNetSpec, ResNet, ResNetSpec, model_spec
from nfnets_lite.models.parts import CentringBias, SqueezeExcite, StochasticDepth, norm_name
from nfnets_lite.models.residual import joins
from nfnets_lite.models.resnet import Block
from nfnets_lite.norm import NORMS, set_progress
from nfnets_lite.roles import parameter_roles

SMALL = {"depth": (1, 1, 1, 1), "num_classes": 5}
FAMILIES = {
    "resnet50": {"width": 0.25},
    "se_resnet50": {"width": 0.25},
    "nf_resnet50": {"width": 0.25},
    "se_nf_resnet50": {"width": 0.25},
    "skipinit_resnet50": {"width": 0.25},
    "fixup_resnet50": {"width": 0.25},
    "nfnet_f0": {"width": (32, 64, 96, 96), "group_width": 8},
    "nf_regnet_b0": {"width": 0.5},
}


def small(name: str, **overrides: object) -> ResNet:
    return create_model(name, **{**SMALL, **FAMILIES[name], **overrides})  # type: ignore[arg-type]


def blocks(model: ResNet) -> list[Block]:
    return [block for block in model.blocks if isinstance(block, Block)]


def test_every_name_builds() -> None:
    names = list_models()
    assert len(names) == 6 + 6 * 5 + 16 + 6 + 1
    with torch.device("meta"):
        for name in names:
            if name.endswith(("50", "f0", "f0_plus", "b0", "b5", "t8")):  # the rest differ in depth and width alone
                assert create_model(name).spec == model_spec(name)
    assert set(RESOLUTIONS) <= set(names)


@pytest.mark.parametrize("name", FAMILIES)
def test_any_size_from_33_px(name: str) -> None:
    model = small(name).train()
    for size in ((33, 33), (37, 50), (64, 33)):
        out = model(torch.randn(2, 3, *size))
        assert out.shape == (2, 5)
        assert bool(out.isfinite().all())
    out.sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


def test_twins_share_their_shape() -> None:
    for name in ("nf_resnet50", "nfnet_f0", "nf_regnet_b0"):
        with torch.device("meta"):
            ours, twin = create_model(name), create_model(name, method="bn")
        assert twin.spec.blocks() == ours.spec.blocks()
        assert count_macs(ours, 64) == count_macs(twin, 64)
        assert any(isinstance(m, nn.BatchNorm2d) for m in twin.modules())
        assert not any(hasattr(m, "gain") for m in twin.modules())
        assert all(m.bias is None for m in twin.modules() if isinstance(m, nn.Conv2d))


def test_widths_follow_their_rules() -> None:
    half = model_spec("nfnet_f0", width=0.5, group_width=64)
    assert (half.width, half.stem_channels, half.head_channels) == ((128, 256, 768, 768), 128, 1536)
    given = model_spec("nfnet_f0", width=[64, 96, 160, 160], group_width=16)
    assert (given.stem_channels, given.head_channels) == (32, 320)
    assert model_spec("nf_resnet50", width=0.5).stem_channels == 32
    plus = model_spec("nfnet_f0_plus").blocks()[0]
    assert (plus.inner, plus.groups) == (128, 1)  # 192 is rounded down to whole groups of 128
    regnet = model_spec("nf_regnet_b2")
    assert (regnet.stem_channels, regnet.width, regnet.head_channels) == (42, (42, 84, 174, 366), 1064)
    assert model_spec("nf_regnet_b2", width=1 / 0.75).width == (56, 112, 232, 488)


def test_overrides_reach_the_layers() -> None:
    model = small(
        "nf_resnet50", alpha=0.5, skip_gain=0.3, stochastic_depth=0.4, dropout=0.1, activation="silu", se_ratio=0.5
    )
    last = blocks(model)[-1]
    assert last.join.branch == 0.5
    assert float(last.skip_gain.detach()) == pytest.approx(0.3)  # type: ignore[union-attr]
    assert last.drop.rate == pytest.approx(0.4 * 3 / 4)
    gate = last.branch[-1]
    assert isinstance(gate, SqueezeExcite)
    assert (gate.reduce.out_features, gate.scale) == (256, 2.0)
    assert isinstance(model.dropout, nn.Dropout)
    assert model.dropout.p == 0.1
    assert model.final.act.name == "silu"


def test_defaults_are_the_references() -> None:
    specs = {name: model_spec(name) for name in list_models()}
    assert {s.stochastic_depth for n, s in specs.items() if n.startswith("nfnet_f")} == {0.25}
    assert {s.stochastic_depth for n, s in specs.items() if n.startswith(("nf_re", "se_nf_"))} == {0.1}
    assert {s.stochastic_depth for n, s in specs.items() if n.startswith(("resnet", "se_resnet", "cifar"))} == {0.0}
    assert specs["se_resnet50"].se_scale == 1.0
    assert specs["se_nf_resnet50"].se_scale == 2.0
    assert specs["nf_resnet288"].depth == (24, 24, 24, 24)
    assert specs["nfnet_f7"].depth == (8, 16, 48, 24)


def test_stochastic_depth_drops_whole_examples_undivided() -> None:
    torch.manual_seed(0)
    drop, x = StochasticDepth(0.3), torch.ones(10_000, 2, 1, 1)
    out = drop(x)
    assert set(out.unique().tolist()) == {0.0, 1.0}
    assert bool((out[:, 0] == out[:, 1]).all())
    assert float(out.mean()) == pytest.approx(0.7, abs=0.02)
    assert drop.eval()(x) is x


def test_a_dropped_branch_leaves_the_shortcut() -> None:
    model = small("nf_resnet50", stochastic_depth=0.99, skip_gain=1.0).double()
    block = blocks(model)[3]
    block.drop.rate = 1.0
    x = torch.randn(4, 256, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(block.train()(x), block.shortcut(block.enter(x)), rtol=1e-12, atol=1e-12)


def test_training_mode_equals_evaluation_without_its_noise() -> None:
    for name in ("nfnet_f0", "nf_regnet_b0", "fixup_resnet50"):
        model, x = small(name, stochastic_depth=0.0, dropout=0.0), torch.randn(2, 3, 40, 33)
        torch.testing.assert_close(model.train()(x), model.eval()(x), rtol=0, atol=0)


def test_signal_at_the_start_keeps_its_scale() -> None:
    """With the skip gains at 1, the branches of a fresh NF-ResNet keep about unit variance, without any norm.

    NFNets do not on white noise: the 2x2 average of their shortcuts quarters the variance of uncorrelated neighbours.
    """
    torch.manual_seed(0)
    model, seen = small("nf_resnet50", skip_gain=1.0).eval(), []
    for block in blocks(model):
        block.branch.register_forward_hook(lambda _m, _i, out: seen.append(float(out.detach().var())))
    model(torch.randn(4, 3, 96, 96))
    assert all(0.5 < variance < 2 for variance in seen)


def test_fixup_starts_where_its_paper_says() -> None:
    torch.manual_seed(0)
    model = small("fixup_resnet50", width=0.5, depth=(4, 4, 4, 4))
    assert torch.count_nonzero(model.classifier.weight) == 0
    for block in blocks(model):
        first, second, last = (layer for layer in block.branch if isinstance(layer, nn.Conv2d))
        assert torch.count_nonzero(last.weight) == 0
        assert float(block.skip_gain.detach()) == 1.0  # type: ignore[union-attr]
        for conv in (first, second):
            expected = (2 / (conv.out_channels * conv.weight[0, 0].numel())) ** 0.5 * 16**-0.25
            assert float(conv.weight.detach().std()) == pytest.approx(expected, rel=0.1)
    assert all(layer.bias is None for layer in model.modules() if isinstance(layer, nn.Conv2d))
    scalars = [name for name, p in model.named_parameters() if p.ndim == 0]
    assert len(scalars) == 16 * 7 + 2  # six biases and a multiplier per block; one bias in the stem, one in the head


def test_fixup_without_the_branches_is_its_shortcuts() -> None:
    model, x = create_model("cifar_resnet8", method="fixup").eval(), torch.randn(2, 16, 8, 8)
    torch.testing.assert_close(model.blocks[0](x), x.relu())


def test_skipinit_has_biases_everywhere_and_starts_at_the_shortcut() -> None:
    model = small("skipinit_resnet50")
    assert all(layer.bias is not None for layer in model.modules() if isinstance(layer, nn.Conv2d))
    assert all(float(block.skip_gain.detach()) == 0 for block in blocks(model))  # type: ignore[union-attr]


def test_rescale_weighs_every_branch_alike() -> None:
    found = joins("rescale", (3, 4, 6, 3), 0.2, 0.0)
    betas = [join.branch * join.start for join in found]
    assert all(join.skip**2 + beta**2 == pytest.approx(1) for join, beta in zip(found, betas))
    reaches = [beta * prod(join.skip for join in found[i + 1 :]) for i, beta in enumerate(betas)]
    assert [r**2 for r in reaches] == pytest.approx([1 / 31] * 16)
    assert prod(join.skip for join in found) ** 2 == pytest.approx(15 / 31)
    assert {join.branch for join in found} == {0.25}  # constant: what differs is in the starts


def test_rescale_starts_where_its_code_says() -> None:
    torch.manual_seed(0)
    model = create_model("resnet50", method="rescale", width=0.5, depth=(2, 2, 2, 2), num_classes=100)
    for k, block in enumerate(blocks(model), start=8):
        convs = [layer for layer in block.branch if isinstance(layer, nn.Conv2d)]
        for conv in convs:
            expected = (2 / conv.weight[0].numel()) ** 0.5 * (8 / k) ** (1 / 6)
            assert float(conv.weight.detach().std()) == pytest.approx(expected, rel=0.05)
        assert float(block.skip_gain.detach()) == 1.0  # type: ignore[union-attr]
        if block.transition:
            bias, conv = block.shortcut  # type: ignore[misc]
            assert isinstance(bias, CentringBias)
            assert float(conv.weight.detach().std()) == pytest.approx(conv.in_channels**-0.5, rel=0.05)
    assert float(model.classifier.weight.detach().std()) == pytest.approx(1024**-0.5, rel=0.05)
    assert all(layer.bias is None for layer in model.modules() if isinstance(layer, nn.Conv2d))
    # One in front of every convolution of a branch and of a shortcut, one behind the stem, one in front of the pooling.
    assert sum(isinstance(layer, CentringBias) for layer in model.modules()) == 8 * 3 + 4 + 2


def test_rescale_without_its_branches_is_its_shortcuts() -> None:
    model = create_model("cifar_resnet8", method="rescale").eval()
    for block, skip in zip(blocks(model), (2 / 3, 3 / 4, 4 / 5)):
        nn.init.zeros_(block.skip_gain)  # type: ignore[arg-type]
        x = torch.randn(2, block.branch[1].in_channels, 8, 8)
        expected = block.shortcut(x.relu()) * skip**0.5
        torch.testing.assert_close(block(x), expected)


def test_rescales_formula_alone_is_rescale_without_its_biases_and_multipliers() -> None:
    whole = create_model("cifar_resnet8", method="rescale").eval()
    bare = create_model(replace(whole.spec, residual="rescale_formula")).eval()
    own = {key.split(".")[-1] for key in bare.state_dict()}
    assert own == {"weight", "bias"}
    assert not any(isinstance(layer, CentringBias) for layer in bare.modules())
    convs = [[layer for layer in model.modules() if isinstance(layer, nn.Conv2d)] for model in (whole, bare)]
    for theirs, ours in zip(*convs, strict=True):
        assert not ours.bias.any()
        assert float(ours.weight.detach().std()) == pytest.approx(float(theirs.weight.detach().std()), rel=0.2)
        with torch.no_grad():
            ours.weight.copy_(theirs.weight)
    bare.classifier.load_state_dict(whole.classifier.state_dict())
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(bare(x), whole(x))  # the biases have seen no batch, and the multipliers start at 1


def test_a_centring_bias_takes_the_mean_of_eight_batches_and_no_more() -> None:
    torch.manual_seed(0)
    layer = CentringBias(3)
    nn.init.normal_(layer.bias)
    batches, bias = torch.randn(10, 4, 3, 5, 5) + torch.tensor([1.0, -2.0, 0.0])[:, None, None], layer.bias.detach()
    layer.eval()(batches[0])
    assert float(layer.count) == 0
    for step, x in enumerate(batches.unbind()):
        mean = batches[: min(step + 1, 8)].mean((0, 1, 3, 4))
        expected = x + (bias * (0.01 if step < 8 else 1.0) - mean)[:, None, None]
        torch.testing.assert_close(layer.train()(x), expected, rtol=1e-5, atol=1e-5)
    assert float(layer.count) == 8
    torch.testing.assert_close(layer.eval()(x), expected)
    layer.train()(torch.full_like(x, torch.inf))
    assert bool(layer.mean.isfinite().all())
    assert layer(x.bfloat16()).dtype == torch.bfloat16


def test_rescale_couples_examples_in_its_first_steps_only() -> None:
    torch.manual_seed(0)
    model = create_model("cifar_resnet8", method="rescale", width=(4, 4, 4), stem_width=4).train()
    x = torch.randn(4, 3, 8, 8)

    def moves() -> bool:
        return not torch.equal(model(x)[0], model(torch.cat((x[:1], x[1:] + 1)))[0])

    assert moves()
    for _ in range(6):
        model(x)
    assert not moves()
    torch.testing.assert_close(model(x), model.eval()(x), rtol=0, atol=0)


# --- every method

CHOSEN = [
    *("bn", "bn_act_first", "ghost_bn", "sync_bn", "brn", "gn", "gn_ws", "ln", "ln2d", "in", "frn"),
    *("evonorm_b0", "evonorm_s0", "bcn", "bcn_ws", "pn", "un", "prepbn", "ibn_a", "ibn_b", "adabn", "dyt", "derf"),
    *("none", "half", "skipinit", "fixup", "rescale", "nf"),
]
OPTIONS = {"ghost_bn": {"size": 4}}


def tiny(method: str, **overrides: object) -> ResNet:
    torch.manual_seed(0)
    size = {"width": (8, 8, 16), "stem_width": 8, "in_channels": 1, "norm_options": OPTIONS.get(method, ())}
    return create_model("cifar_resnet8", method=method, **{**size, **overrides})  # type: ignore[arg-type]


def test_methods_are_those_of_the_book() -> None:
    assert list(METHODS) == CHOSEN
    assert {choices["norm"] for choices in METHODS.values()} == set(NORMS)
    assert all(METHODS[method].keys() - {"se_scale"} == METHODS["bn"].keys() for method in CHOSEN)


@pytest.mark.parametrize("method", CHOSEN)
def test_every_method_trains_and_evaluates(method: str) -> None:
    model = tiny(method, skip_gain=0.5).train()
    x, y = torch.randn(8, 1, 12, 12), torch.arange(8)
    groups = [p for p, _ in parameter_roles(model).values()]
    assert len(groups) == len(list(model.parameters()))
    optimizer, losses, moved = torch.optim.SGD(groups, lr=0.02), [], set()
    for step in range(3):
        set_progress(model, step / 2)
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert bool(parameter.grad.isfinite().all()), name
            moved |= {name} if bool(parameter.grad.any()) else set()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] or method == "prepbn"  # which turns into another function meanwhile
    assert moved == {name for name, _ in model.named_parameters()}
    with torch.autocast("cpu", torch.bfloat16):
        assert bool(model(x).isfinite().all())
    model.eval()
    twin = create_model(model.spec).eval()
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        out = model(x)
        assert torch.equal(twin(x), out)
        torch.testing.assert_close(model(x[:1]), out[:1], rtol=1e-4, atol=1e-5)  # no batch in evaluation
        with torch.autocast("cpu", torch.bfloat16):
            assert bool(model(x).isfinite().all())


@pytest.mark.parametrize("norm", [norm for norm in NORMS if norm != "none"])
def test_every_norm_goes_with_every_convolution_and_branch(norm: str) -> None:
    x = torch.randn(4, 1, 12, 12)
    for conv, residual in product(("plain", "ws", "scaled_ws"), ("plain", "half", "skipinit", "nf")):
        options = {"size": 4} if norm == "ghost_batch" else ()
        model = tiny("bn", norm=norm, norm_options=options, conv=conv, residual=residual, skip_gain=0.5).train()
        out = model(x)
        out.square().sum().backward()
        assert bool(out.isfinite().all())
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
        assert bool(model.eval()(x).isfinite().all())


def test_the_convolution_follows_its_name() -> None:
    kinds = {"gn": nn.Conv2d, "gn_ws": WSConv2d, "bcn_ws": WSConv2d, "nf": ScaledStdConv2d}
    for method, kind in kinds.items():
        convs = [layer for layer in tiny(method).modules() if isinstance(layer, nn.Conv2d)]
        assert all(isinstance(layer, kind) for layer in convs)
        assert all((layer.bias is None) == (method != "nf") for layer in convs)


def test_depth_wise_convolutions_may_be_left_plain() -> None:
    shape = {"branch": (1, 3, 1), "bottleneck": 4.0, "group_width": 1, "width": (8, 8, 16)}
    for conv, kind in (("scaled_ws", ScaledStdConv2d), ("scaled_ws_dense", nn.Conv2d)):
        torch.manual_seed(0)
        model = create_model("cifar_resnet8", method="nf", conv=conv, skip_gain=0.5, **shape).double()
        convs = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
        depth_wise = [layer for layer in convs if layer.groups > 1]
        assert [layer.groups for layer in depth_wise] == [32, 32, 64]
        for layer in convs:
            standardised = isinstance(layer, ScaledStdConv2d)
            assert standardised == (layer.groups == 1 or kind is ScaledStdConv2d)
            assert layer.bias is not None
            if not standardised:
                assert float(layer.weight.detach().square().mean()) == pytest.approx(1 / 9, rel=0.2)
        # Factors that went into weights give what they give as factors: a hook keeps each activation whole.
        x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
        out = model(x)
        for layer in model.modules():
            layer.register_forward_hook(lambda *_: None)
        torch.testing.assert_close(model(x), out)
    grouped = create_model("cifar_resnet8", method="nf", conv="scaled_ws_dense", **{**shape, "group_width": 4})
    assert all(isinstance(layer, ScaledStdConv2d) for layer in grouped.modules() if isinstance(layer, nn.Conv2d))


def test_act_first_turns_the_order_round_and_keeps_the_names() -> None:
    usual, turned = tiny("bn"), tiny("bn_act_first")
    assert list(usual.state_dict()) == list(turned.state_dict())
    for model, order in ((usual, ["norm", "act"]), (turned, ["act", "norm"])):
        places = [model.final, *(b.enter for b in blocks(model)), *(b.branch[1] for b in blocks(model))]
        assert all([name for name, _ in place.named_children()] == order for place in places)
    x = torch.randn(4, 8, 6, 6)
    torch.testing.assert_close(blocks(turned)[0].enter(x), F.batch_norm(x.relu(), None, None, training=True))


def test_a_norm_that_activates_has_no_activation_behind_it() -> None:
    for method, name in (("frn", "identity"), ("evonorm_s0", "identity"), ("gn", "relu")):
        model = tiny(method)
        assert {b.branch[1].act.name for b in blocks(model)} == {name}
        assert model.final.act.name == name
    x = torch.randn(2, 8, 6, 6) - 5
    enter = blocks(tiny("frn"))[0].enter
    nn.init.constant_(enter.norm.threshold, -1.0)
    assert float(enter(x).detach().min()) == -1.0  # a ReLU would have cut it at 0


def test_pooling_never_follows_an_instance_norm() -> None:
    """Its channels have one mean for all images: nothing would be left to tell them apart by."""
    torch.manual_seed(0)
    model = tiny("in").eval()
    assert isinstance(model.final.norm, nn.Identity)
    assert isinstance(blocks(model)[-1].enter.norm, nn.InstanceNorm2d)
    out = model(torch.randn(16, 1, 12, 12))
    assert float(out.detach().std(0).max()) > 1e-3


def test_ibn_norms_stand_at_the_places_of_their_paper() -> None:
    four = {"depth": (2, 1, 1, 2), "width": (8, 8, 8, 8), "strides": (1, 2, 1, 1)}
    for method, kind in (("ibn_a", "IBNa"), ("ibn_b", "InstanceNorm2d")):
        model = tiny(method, **four)
        names = {name for name, layer in model.named_modules() if type(layer).__name__ == kind}
        first = {f"blocks.{i}.branch.1.norm" for i in range(4)}  # behind the first convolution, not in the last stage
        after = {f"blocks.{i}.enter.norm" for i in (0, 2, 3)}  # what the stem and the first two stages give
        assert names == (first if method == "ibn_a" else after)
        others = [layer for name, layer in model.named_modules() if name.endswith(".norm") and name not in names]
        assert {type(layer).__name__ for layer in others} == {"BatchNorm2d"}
        assert len(others) + len(names) == 6 * 2 + 1


@pytest.mark.parametrize(
    ("norm", "stages", "expected"),
    [
        ("ibn_a", 4, {(stage, block, 1) for stage in (0, 1, 2) for block in (0, 1)}),
        ("ibn_a", 3, {(stage, block, 1) for stage in (0, 1) for block in (0, 1)}),
        ("ibn_a", 1, set()),
        ("ibn_b", 4, {(0, 0, 0), (1, 0, 0), (2, 0, 0)}),
        ("ibn_b", 3, {(0, 0, 0), (1, 0, 0), (2, 0, 0)}),
        ("ibn_b", 1, {(0, 0, 0)}),
    ],
)
def test_ibn_norms_of_bottlenecks_have_stage_block_and_place(
    norm: str, stages: int, expected: set[tuple[int, int, int]]
) -> None:
    spec = ResNetSpec(depth=(2,) * stages, width=(8,) * stages, strides=(1,) * stages, norm=norm)
    at = {(plan.stage, plan.index, place): norm_name(spec, plan, place) for plan in spec.blocks() for place in range(3)}
    assert set(at.values()) <= {norm, "batch"}
    assert {key for key, name in at.items() if name == norm} == expected


def test_norm_options_are_plain_hashable_data() -> None:
    given = model_spec("cifar_resnet8", method="brn", norm_options={"r_max": 2.0, "d_max": 4.0})
    assert given.norm_options == (("d_max", 4.0), ("r_max", 2.0))
    again = ResNetSpec(**json.loads(json.dumps(asdict(given))))
    assert again == given
    assert len({given, again}) == 1
    norm = create_model(given).final.norm
    assert (norm.r_max, norm.d_max) == (2.0, 4.0)
    assert given.with_method("gn").norm_options == ()
    assert create_model("cifar_resnet8", method="gn", norm_options={"groups": 2}).final.norm.num_groups == 2


def test_a_method_is_its_own_whatever_it_replaces() -> None:
    for first, second in product(("bn_act_first", "gn_ws", "rescale", "nf", "ghost_bn"), CHOSEN):
        spec = model_spec(model_spec("cifar_resnet8", method=first), method=second)
        assert replace(spec, se_scale=2.0) == model_spec("cifar_resnet8", method=second)


def test_regnet_block_is_the_authors() -> None:
    block = blocks(create_model("nf_regnet_b0"))[1]
    kinds = [type(layer).__name__ for layer in block.branch]
    assert kinds == [
        "ScaledStdConv2d",
        "Sequential",
        "ScaledStdConv2d",
        "SqueezeExcite",
        "Sequential",
        "ScaledStdConv2d",
    ]
    assert block.branch[2].groups == 80 // 8  # 2.25 * 36 = 81, rounded down
    assert block.branch[3].reduce.out_features == 40
    assert block.pool_shortcut
    assert isinstance(model_spec("nf_regnet_b0", method="bn"), RegNetSpec)


def test_a_spec_is_frozen_hashable_and_takes_lists() -> None:
    spec = model_spec("nfnet_f0", depth=[1, 1, 1, 1])
    assert hash(spec) == hash(replace(spec))
    with pytest.raises(FrozenInstanceError):
        spec.alpha = 1.0  # type: ignore[misc]
    assert create_model(spec, num_classes=7, width=0.5, group_width=64).classifier.out_features == 7


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: create_model("nfnet_f9"), r"model 'nfnet_f9' is not known; use one of .*nfnet_f0"),
        (lambda: create_model("nfnet_f0", activation="swish"), r"activation='swish' is not known; use one of .*silu"),
        (lambda: create_model("nfnet_f0", activation="glu"), r"activation='glu' is not known"),
        (lambda: create_model("nfnet_f0", method="bm"), r"method='bm' is not known; use one of bn"),
        (lambda: create_model("nfnet_f0", widht=2), r"override 'widht' is not a field of the spec; use one of depth"),
        (
            lambda: create_model("nfnet_f0", group_width=256),
            r"group_width=256 exceeds the inner width 128 .*use at most",
        ),
        (lambda: create_model("nfnet_f0", width=0.5), r"group_width=128 exceeds the inner width 64"),
        (
            lambda: create_model("cifar_resnet8", method="nf", group_width=7),
            r"group_width=7 makes 9 groups of the inner width 63 .* must divide its 32 to 64 channels",
        ),
        (
            lambda: create_model("cifar_resnet8", branch=(1, 3), bottleneck=0.5, group_width=5),
            r"group_width=5 makes 3 groups of the inner width 15 .* must divide its 16 to 32 channels",
        ),
        (lambda: create_model("nfnet_f0", depth=(1, 2)), r"must have one entry per stage"),
        (
            lambda: create_model("nfnet_f0", depth=(1, 0, 1, 1)),
            r"depth\[1\]=0 must be a whole number of at least 1",
        ),
        (lambda: create_model("nfnet_f0", num_classes=-1), r"num_classes=-1 must be a whole number of at least 0"),
        (lambda: create_model("nfnet_f0", stochastic_depth=1.0), r"stochastic_depth=1.0 must be a rate in \[0, 1\)"),
        (lambda: create_model("nfnet_f0", branch=(1, "sse", 3)), r"branch=.* must hold kernel sizes"),
        (lambda: ResNetSpec(residual="fixup"), r"residual='fixup' .*norm='batch'.*use norm='none'"),
        (lambda: ResNetSpec(residual="sum"), r"residual='sum' is not known; use one of fixup"),
        (
            lambda: ResNetSpec(residual="rescale"),
            r"residual='rescale' has data-dependent.*norm='batch'.*use norm='none'",
        ),
        (
            lambda: ResNetSpec(residual="rescale", norm="none", conv="scaled_ws"),
            r"starts its convolutions at scales that conv='scaled_ws' undoes; use conv='plain'",
        ),
        (lambda: ResNetSpec(conv="ws", norm="none"), r"conv='ws' .*use a norm, such as norm='group', or conv='scaled"),
        (lambda: ResNetSpec(act_first=True, norm="none"), r"act_first=True .*norm='none' is none; use norm='batch'"),
        (lambda: ResNetSpec(act_first=True, norm="frn"), r"norm='frn' activates by itself; use act_first=False"),
        (lambda: ResNetSpec(norm="group", norm_options={"size": 4}), r"option 'size' of norm='group' is not known"),
        (lambda: ResNetSpec(norm="group", norm_options={"groups": 7}), r"groups=7 does not divide channels=256"),
        (lambda: ResNetSpec(norm_options=3), r"norm_options=3 must be a mapping, such as \{'groups': 4\}"),
        (lambda: ResNetSpec(norm_options={"eps": [1]}), r"'eps': \[1\]; a name with a number.*plain data"),
    ],
)
def test_errors_name_the_way_out(call: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()  # type: ignore[operator]


def test_inputs_that_do_not_fit_are_refused() -> None:
    model = small("nf_resnet50")
    with pytest.raises(ValueError, match=r"expected \(N, 3, H, W\)"):
        model(torch.zeros(1, 4, 64, 64))
    with pytest.raises(ValueError, match=r"input is 64x16 px; .*at least 17 px a side"):
        model(torch.zeros(1, 3, 64, 16))
    assert model(torch.zeros(1, 3, 17, 17)).shape == (1, 5)
    assert create_model("cifar_resnet8")(torch.zeros(2, 3, 8, 8)).shape == (2, 10)
    model.stem[0] = ScaledStdConv2d(1, model.stem[0].out_channels, 7, stride=2, padding="same")
    assert model(torch.zeros(1, 1, 40, 40)).shape == (1, 5)
    with pytest.raises(ValueError, match=r"expected \(N, 1, H, W\): this model's stem takes 1 channels"):
        model(torch.zeros(1, 3, 40, 40))


@pytest.mark.parametrize("name", ["nf_resnet50", "vit_tiny"])
def test_features_and_another_classifier_on_top_of_them(name: str) -> None:
    torch.manual_seed(0)
    model = small(name).eval() if name == "nf_resnet50" else create_model(name).eval()
    x = torch.randn(2, 3, 32, 32)
    features = model.forward_features(x)
    pooled = features.mean((2, 3)) if features.ndim == 4 else features.mean(1)
    torch.testing.assert_close(model.forward_head(features, pre_logits=True), pooled)
    torch.testing.assert_close(model.classifier(pooled), model(x))
    model.double().reset_classifier(100)
    assert (model.spec.num_classes, model.get_classifier().weight.dtype) == (100, torch.float64)
    assert float(model.classifier.weight.std()) == pytest.approx(0.01 if name == "nf_resnet50" else 0.02, rel=0.1)
    assert torch.equal(model.classifier.bias, torch.zeros_like(model.classifier.bias))
    torch.testing.assert_close(model.forward_features(x.double()).float(), features)
    assert parameter_roles(model)["classifier.weight"][1].kind == "classifier"
    with pytest.raises(ValueError, match="num_classes=-1"):
        model.reset_classifier(-1)
    model.reset_classifier(0)
    torch.testing.assert_close(model(x.double()).float(), pooled)
    model.reset_classifier(3)
    assert model(x.double()).shape == (2, 3)


def test_only_nf_doubles_the_gates() -> None:
    twin = model_spec("nfnet_f0", method="bn")
    assert (model_spec("nfnet_f0").se_scale, twin.se_scale, model_spec(twin, method="nf").se_scale) == (2.0, 1.0, 2.0)


def test_counting_touches_nothing() -> None:
    model = create_model("cifar_resnet8").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    # stem, then two 3x3 a block (the first strided) and a 1x1 shortcut in two transitions, classifier
    stem, first = 32 * 32 * 16 * 27, 2 * 32 * 32 * 16 * 144
    second = 16 * 16 * 32 * (144 + 288 + 16)
    third = 8 * 8 * 64 * (288 + 576 + 32)
    assert count_macs(model, 32) == stem + first + second + third + 640
    assert count_macs(model, (32, 16)) == (stem + first + second + third) // 2 + 640
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert (
        count_macs(nn.Conv2d(4, 2, 1), 3, in_channels=4)
        == count_macs(nn.DataParallel(nn.Conv2d(4, 2, 1)), 3, in_channels=4)
        == 72
    )
    assert count_macs(nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), 3, in_channels=4) == 9 * 4 * 3 * 4


@pytest.mark.parametrize(
    ("name", "argument", "hint"),
    [
        ("nfnet_f0", {"in_chans": 1}, r"in_channels=1"),
        ("nfnet_f0", {"pretrained": True}, r"load_pretrained\('nfnet_f0', source='deepmind'\)"),
        ("nfnet_f0", {"drop_rate": 0.1}, r"dropout=0\.2"),
        ("nfnet_f0", {"drop_path_rate": 0.1}, r"stochastic_depth=0\.1"),
        ("nfnet_f0", {"features_only": True}, r"model\.forward_stages\(x\).*model\.spec\.stages"),
        ("nfnet_f0", {"out_indices": (1, 2)}, r"model\.forward_stages\(x\)"),
        ("nfnet_f0", {"global_pool": ""}, r"forward_features\(x\)"),
        ("vit_tiny", {"img_size": 64}, r"image_size=32"),
        ("nfnet_f0", {"widht": 0.5, "dropuot": 0.1}, r"Did you mean dropout\?"),
        ("dm_nfnet_f0", {}, r"is nfnet_f0 here, and load_pretrained\('nfnet_f0'"),
        ("dm_nfnet_f3.dm_in1k", {}, r"timm's dm_nfnet_f3 is nfnet_f3 here"),
        ("eca_nfnet_l0", {}, r"a network of timm's own"),
        ("nf_resnet50.ra2_in1k", {}, r"called 'nf_resnet50' here, without hub and tag"),
        ("hf_hub:timm/dm_nfnet_f0.dm_in1k", {}, r"timm's dm_nfnet_f0 is nfnet_f0 here"),
        ("NFNet-F0", {}, r"called 'nfnet_f0' here"),
        ("nfnet_f0", {"pretrained_cfg": {}}, r"load_pretrained\('nfnet_f0', source='deepmind'\)"),
        ("nfnet_f0", {"attn_layer": "se"}, r"se_ratio=0\.5"),
        ("nfnet_f9", {}, r"Did you mean 'nfnet_f"),
    ],
)
def test_timms_words_and_misspellings_are_answered_with_ours(name: str, argument: dict[str, Any], hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        create_model(name, **argument)


def test_names_of_other_packages_are_answered_with_ours() -> None:
    for name, hint in (
        ("AGC", "attach_agc"),
        ("adaptive_clip_grad", "adaptive_clip_grad_"),
        ("replace_conv", "convert"),
    ):
        with pytest.raises(AttributeError, match=rf"no attribute '{name}'\. Use {hint}\("):
            getattr(nf, name)
    with pytest.raises(AttributeError, match=r"no attribute 'nothing_like_it'$"):
        nf.nothing_like_it  # noqa: B018
    assert nf.list_models("nf_resnet*0") == ["nf_resnet200", "nf_resnet50"]


def test_what_the_hints_name_works() -> None:
    net = create_model("cifar_resnet8", method="nf", in_channels=1, dropout=0.2, stochastic_depth=0.1, num_classes=0)
    assert net(torch.zeros(2, 1, 32, 32)).shape == (2, 64)
    assert [x.shape[1] for x in net.forward_stages(torch.zeros(2, 1, 32, 32))] == [16, 32, 64]
    net(torch.randn(2, 1, 32, 32)).sum().backward()
    nf.adaptive_clip_grad_(net)
    assert all(role.kind != "classifier" for _, role in parameter_roles(net).values())


EVERY_KIND = ("cifar_resnet8", "nf_resnet50", "se_resnet50", "fixup_resnet50", "nfnet_f0", "nf_regnet_b0", "vit_tiny")


@pytest.mark.parametrize("name", EVERY_KIND)
def test_every_family_gives_a_map_for_each_stage(name: str) -> None:
    torch.manual_seed(0)
    small = {} if name == "vit_tiny" else {"width": 0.25, "group_width": None}
    shallow = {"depth": (1, 2, 1, 1)} if len(model_spec(name).stages) == 4 else {}
    model = create_model(name, num_classes=0, **small, **shallow).eval()
    side = 32 if name == "vit_tiny" else 64
    x = torch.randn(2, 3, side, side)
    maps = model.forward_stages(x)
    assert [m.shape for m in maps] == [(2, c, side // stride, side // stride) for c, stride in model.spec.stages]
    last = (
        maps[-1].flatten(2).transpose(1, 2) if name == "vit_tiny" else getattr(model, "head", nn.Identity())(maps[-1])
    )
    torch.testing.assert_close(model.final(last), model.forward_features(x))
    torch.testing.assert_close(model.forward_head(model.forward_features(x)), model(x))


@pytest.mark.parametrize("name", ["nf_resnet50", "vit_tiny"])
def test_checkpointing_gives_the_same_gradients_and_keeps_less(name: str) -> None:
    torch.manual_seed(0)
    small = {} if name == "vit_tiny" else {"width": 0.125, "stochastic_depth": 0.5, "skip_gain": 1.0}
    model, x = create_model(name, **small), torch.randn(4, 3, 32, 32)

    def gradients() -> tuple[int, list[torch.Tensor]]:
        kept = 0

        def count(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal kept
            kept += tensor.numel()
            return tensor

        torch.manual_seed(1)  # the same blocks are dropped
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = model(x).logsumexp(1).mean()
        model.zero_grad()
        loss.backward()
        return kept, [p.grad.clone() for p in model.parameters()]

    kept, expected = gradients()
    model.set_grad_checkpointing()
    kept_less, found = gradients()
    assert kept_less < kept / 2
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    model.set_grad_checkpointing(False)
    assert gradients()[0] == kept


@pytest.mark.parametrize("method", ["bn", "brn", "pn", "un", "bcn", "rescale", "nf", "torch"])
def test_checkpointing_leaves_gradients_and_buffers_as_they_are_without_it(method: str) -> None:
    torch.manual_seed(0)
    plain = create_model("cifar_resnet8", method="bn" if method == "torch" else method)
    if method == "torch":  # an average over all batches, whose count is a buffer
        blocks(plain)[1].branch.append(nn.BatchNorm2d(32, momentum=None))
    again, batches = deepcopy(plain), torch.randn(3, 16, 3, 16, 16)
    again.set_grad_checkpointing()
    for update in range(3):
        for model in (plain, again):
            model.zero_grad()
            set_progress(model, 0.5)
            torch.manual_seed(update)
            model(batches[update]).logsumexp(1).mean().backward()
            both = [model(batches[update - i]).logsumexp(1).mean() for i in (1, 2)]
            both[0].backward(retain_graph=True)
            (both[0] + both[1]).backward()
        for ours, theirs in zip(again.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad)
        for (name, ours), theirs in zip(again.named_buffers(), plain.buffers(), strict=True):
            torch.testing.assert_close(ours, theirs, msg=name)
    torch.testing.assert_close(again.eval()(batches[0]), plain.eval()(batches[0]))


def test_a_model_without_classes_has_the_start_of_one_with_classes() -> None:
    for method in ("nf", "fixup", "rescale"):
        torch.manual_seed(0)
        whole = create_model("cifar_resnet8", method=method)
        torch.manual_seed(0)
        state = create_model("cifar_resnet8", method=method, num_classes=0).state_dict()
        assert state.keys() == whole.state_dict().keys() - {"classifier.weight", "classifier.bias"}


NAN = float("nan")
NUMBERS = [
    *(("alpha", value, "a finite number above 0") for value in (NAN, "0.2", 0.0, None)),
    *(("skip_gain", value, "a finite number") for value in (NAN, "1", None)),
    *(("num_classes", value, "a whole number of at least 0") for value in ("10", None, True, 2.5, -1)),
    *(("depth", value, "a tuple with one whole number per stage") for value in (3, None, ())),
    ("depth", ("1", 1, 1), "a whole number of at least 1"),
    *(("width", value, "a finite number above 0") for value in (NAN, -1.0)),
]


@pytest.mark.parametrize(("name", "value", "accepted"), NUMBERS)
def test_numbers_of_a_spec_are_checked(name: str, value: Any, accepted: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}.*=.* must be {accepted}"):
        create_model("cifar_resnet8", **{name: value})


@pytest.mark.parametrize("name", ["cifar_resnet8", "vit_tiny"])
def test_a_classifier_that_cannot_be_built_changes_nothing(name: str) -> None:
    model = create_model(name)
    before = model.spec, model.classifier
    for number in (2.5, "10", None, True):
        with pytest.raises(ValueError, match=r"num_classes=.* must be a whole number of at least 0"):
            model.reset_classifier(number)
    assert (model.spec, model.classifier) == before


@pytest.mark.parametrize("name", [None, ResNetSpec, nn.ReLU()])
def test_a_model_has_a_name_or_a_specification(name: Any) -> None:
    with pytest.raises(TypeError, match=r"name=.* must be a name of list_models\(\), or a ResNetSpec"):
        create_model(name)


@pytest.mark.parametrize("size", [(3, 224, 224), None, 32.0, (32,)])
def test_an_image_size_is_one_side_or_two(size: Any) -> None:
    with pytest.raises(ValueError, match=r"image_size=.* must be one side, or \(height, width\)"):
        count_macs("cifar_resnet8", size)


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("weights", "DEFAULT", "load_pretrained"),
        ("layers", (1, 1), "called depth"),
        ("replace_stride_with_dilation", (False, True), "pass strides"),
        ("norm_type", "group", "called norm"),
        ("activation", "swish", "called silu here"),
    ],
)
def test_words_of_torchvision_and_timm_get_a_hint(name: str, value: Any, hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        create_model("cifar_resnet8", **{name: value})
