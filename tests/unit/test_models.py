"""Models as data: names, overrides, shapes at awkward sizes, starts, stochastic depth, errors."""

from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from torch import nn

from nfnets_lite import create_model, list_models
from nfnets_lite.macs import count_macs
from nfnets_lite.models import RESOLUTIONS, RegNetSpec, ResNet, ResNetSpec, model_spec
from nfnets_lite.models.parts import SqueezeExcite, StochasticDepth
from nfnets_lite.models.resnet import Block

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
    assert len(names) == 6 + 6 * 5 + 16 + 6
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
    torch.testing.assert_close(block.train()(x), block.shortcut(block.enter(x)), rtol=0, atol=0)


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
        (lambda: create_model("nfnet_f0", depth=(1, 2)), r"must have one entry per stage"),
        (lambda: create_model("nfnet_f0", depth=(1, 0, 1, 1)), r"depth=\(1, 0, 1, 1\) must be at least 1"),
        (lambda: create_model("nfnet_f0", num_classes=0), r"num_classes=0 must be at least 1"),
        (lambda: create_model("nfnet_f0", stochastic_depth=1.0), r"stochastic_depth=1.0 must be a rate in \[0, 1\)"),
        (lambda: create_model("nfnet_f0", branch=(1, "sse", 3)), r"branch=.* must hold kernel sizes"),
        (lambda: ResNetSpec(residual="fixup"), r"residual='fixup' .*norm='batch'.*use norm='none'"),
        (lambda: ResNetSpec(residual="sum"), r"residual='sum' is not known; use one of fixup"),
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
    assert count_macs(nn.Conv2d(4, 2, 1), 3, in_channels=4) == 72
