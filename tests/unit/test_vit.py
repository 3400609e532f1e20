"""The vision transformer: its arithmetic against another formula, every norm in it, roles, refusals."""

import json
from dataclasses import asdict

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nfnets_lite import adaptive_clip_grad_, create_model, list_models
from nfnets_lite.models import METHODS, VisionTransformer, ViTSpec, model_spec
from nfnets_lite.models.vit_spec import VIT_METHODS
from nfnets_lite.norm import NORMS, set_progress
from nfnets_lite.roles import parameter_roles

DIGITS = {"image_size": 8, "patch": 2, "dim": 16, "depth": 2, "heads": 2, "in_channels": 1}
OPTIONS = {"ghost_bn": {"size": 4}}


def tiny(method: str | None = None, **overrides: object) -> VisionTransformer:
    torch.manual_seed(0)
    options = {"norm_options": OPTIONS[method]} if method in OPTIONS else {}
    return create_model("vit_tiny", method=method, **{**DIGITS, **options, **overrides})  # type: ignore[arg-type]


def test_the_name_is_the_usual_tiny_shape() -> None:
    spec = model_spec("vit_tiny")
    assert "vit_tiny" in list_models()
    assert (spec.dim, spec.depth, spec.heads, spec.patch, spec.tokens) == (192, 12, 3, 4, 64)
    with torch.device("meta"):
        model = create_model("vit_tiny", num_classes=10)
    # Twelve blocks of 12 dim^2 + 13 dim, patches, positions, last norm, classifier.
    expected = 12 * (12 * 192**2 + 13 * 192) + (48 + 1) * 192 + 64 * 192 + 2 * 192 + 193 * 10
    assert sum(p.numel() for p in model.parameters()) == expected


def test_forward_is_the_formula() -> None:
    model = tiny().double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    patches = torch.stack([x[:, 0, i : i + 2, j : j + 2].flatten(1) for i in (0, 2, 4, 6) for j in (0, 2, 4, 6)], 1)
    tokens = patches @ model.embed.weight.flatten(1).T + model.embed.bias + model.position

    def normed(tokens: Tensor, norm: nn.Module) -> Tensor:
        return F.layer_norm(tokens, (16,), norm.norm.weight, norm.norm.bias, norm.norm.eps)

    for block in model.blocks:
        heads = (normed(tokens, block.enter) @ block.attention.qkv.weight.T + block.attention.qkv.bias).split(8, dim=2)
        mixed = []
        for head in range(2):
            q, k, v = heads[head], heads[2 + head], heads[4 + head]
            mixed.append(torch.softmax(q @ k.mT / 8**0.5, -1) @ v)
        tokens = tokens + torch.cat(mixed, 2) @ block.attention.out.weight.T + block.attention.out.bias
        first, _, second = block.mlp
        hidden = F.gelu(normed(tokens, block.between) @ first.weight.T + first.bias)
        tokens = tokens + hidden @ second.weight.T + second.bias
    expected = normed(tokens, model.final).mean(1) @ model.classifier.weight.T + model.classifier.bias
    torch.testing.assert_close(model(x), expected, rtol=1e-9, atol=1e-9)


def test_the_methods_are_those_that_are_a_norm_alone() -> None:
    assert set(VIT_METHODS) == {
        *("bn", "ghost_bn", "sync_bn", "brn", "gn", "ln", "ln2d", "in", "bcn", "pn", "un", "prepbn", "adabn"),
        *("dyt", "derf", "none"),
    }
    for method in VIT_METHODS:
        assert ViTSpec().with_method(method).norm == METHODS[method]["norm"]
    assert {METHODS[method]["norm"] for method in VIT_METHODS} < set(NORMS)


@pytest.mark.parametrize("method", VIT_METHODS)
def test_every_method_trains_and_evaluates(method: str) -> None:
    model = tiny(method).train()
    x, y = torch.randn(8, 1, 8, 8), torch.arange(8)
    parameters = [p for p, _ in parameter_roles(model).values()]
    assert len(parameters) == len(list(model.parameters()))
    optimizer, losses, moved = torch.optim.Adam(parameters, lr=1e-3), [], set()
    for step in range(3):
        set_progress(model, step / 2)
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert bool(parameter.grad.isfinite().all()), name
            moved |= {name} if bool(parameter.grad.any()) else set()
        adaptive_clip_grad_(model, 0.1)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] or method == "prepbn"  # which turns into another function meanwhile
    assert moved == {name for name, _ in model.named_parameters()}
    model.eval()
    with torch.no_grad():
        out = model(x)
        torch.testing.assert_close(model(x[:1]), out[:1], rtol=1e-4, atol=1e-5)  # no batch in evaluation
        with torch.autocast("cpu", torch.bfloat16):
            assert bool(model(x).isfinite().all())


def test_images_can_be_told_apart_behind_an_instance_norm() -> None:
    model = tiny("in").eval()
    assert isinstance(model.final, nn.Identity)
    assert float(model(torch.randn(16, 1, 8, 8)).detach().std(0).max()) > 1e-3


def test_every_parameter_has_a_role() -> None:
    roles = {name: role for name, (_, role) in parameter_roles(tiny()).items()}
    for name, role in roles.items():
        weight = name.endswith("weight") and "norm" not in name
        assert role.decay == weight, name
        assert role.clip == (name != "classifier.weight"), name
        assert role.unit_dim == (0 if weight else None), name
    assert roles["position"].kind == "gain"


def test_a_spec_is_plain_data() -> None:
    spec = model_spec("vit_tiny", method="dyt", norm_options={"alpha": 0.8}, image_size=8, patch=2)
    again = ViTSpec(**json.loads(json.dumps(asdict(spec))))
    assert again == spec
    assert len({again, spec}) == 1
    assert create_model(spec, dim=6, depth=1, heads=3)(torch.zeros(1, 3, 8, 8)).shape == (1, 10)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: create_model("vit_tiny", method="nf"), r"method='nf' needs a residual network's.*use one of bn"),
        (lambda: create_model("vit_tiny", method="frn"), r"method='frn' needs a residual network's"),
        (lambda: create_model("vit_tiny", method="bm"), r"method='bm' is not known; for a vision transformer use"),
        (lambda: create_model("vit_tiny", norm="ibn_a"), r"norm='ibn_a' activates, or stands at places of a ResNet"),
        (lambda: create_model("vit_tiny", norm="bm"), r"norm='bm' is not known; for a vision transformer use one of"),
        (lambda: create_model("vit_tiny", width=0.5), r"width=0.5 scales the stages of a ResNet; .* has dim=192"),
        (lambda: create_model("vit_tiny", branch=(3,)), r"override 'branch' is not a field .*use one of image_size"),
        (lambda: ViTSpec(patch=5), r"patch=5 does not divide image_size=32; use a divisor"),
        (lambda: ViTSpec(heads=5), r"heads=5 does not divide dim=192"),
        (lambda: ViTSpec(depth=0), r"depth=0 must be a whole number of at least 1"),
        (lambda: ViTSpec(dropout=1.0), r"dropout=1.0 must be a rate in \[0, 1\)"),
        (lambda: ViTSpec(norm_options={"groups": 2}), r"option 'groups' of norm='layer2d' is not known"),
        (lambda: tiny()(torch.zeros(1, 1, 16, 16)), r"input has shape \(1, 1, 16, 16\); expected \(N, 1, 8, 8\)"),
    ],
)
def test_errors_name_the_way_out(call: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()  # type: ignore[operator]
