"""Hints in error messages: what names and arguments of timm and torchvision are called here."""

import re
from collections.abc import Collection
from difflib import get_close_matches

_FEATURES = "model.forward_stages(x) returns a map for each stage; model.spec.stages has their channels and strides"
_WEIGHTS = "Use nfnets_lite.load_pretrained('nfnet_f0', source='deepmind') in place of create_model"
_STRIDES = "There is no dilation: pass strides, one per stage, such as strides=(1, 2, 2, 1)"
_NORM = "It is called norm here: norm='group', with norm_options={'groups': 8}"
_ARGUMENTS = {
    "weights": _WEIGHTS,
    "layers": "It is called depth here, blocks of each stage: depth=(3, 4, 6, 3)",
    "replace_stride_with_dilation": _STRIDES,
    "norm_type": _NORM,
    "swish": "It is called silu here",
    "pretrained": _WEIGHTS,
    "pretrained_cfg": _WEIGHTS,
    "in_chans": "It is called in_channels here: in_channels=1",
    "drop_rate": "It is called dropout here: dropout=0.2",
    "drop_path_rate": "It is called stochastic_depth here: stochastic_depth=0.1",
    "features_only": f"Leave it out: {_FEATURES}",
    "out_indices": f"Leave it out and choose from the list: {_FEATURES}",
    "output_stride": _STRIDES,
    "global_pool": "Networks always average over positions; without pooling, call model.forward_features(x)",
    "act_layer": "It is called activation here: activation='silu'",
    "norm_layer": _NORM,
    "attn_layer": "There is squeeze-excite: se_ratio=0.5",
    "img_size": "Convolutional networks take any size; vit_tiny has image_size=32",
    "checkpoint_path": "Build the model, then call nfnets_lite.load_pretrained(model, path)",
    "scriptable": "Leave it out: networks are compiled with torch.compile(model)",
    "exportable": "Leave it out: networks are exported with torch.export.export(model, (x,))",
}
_NAMES = {
    "AGC": "attach_agc(optimizer, model)",
    "SGD_AGC": "attach_agc(torch.optim.SGD(param_groups(model), lr=0.1), model)",
    "adaptive_clip_grad": "adaptive_clip_grad_(model, clip_factor=0.01)",
    "param_groups_weight_decay": "param_groups(model, weight_decay=2e-5)",
    "replace_conv": "convert(model, batch)",
    "replace_batchnorm": "convert(model, batch)",
    "ScaledStdConv2dSame": "ScaledStdConv2d(..., padding='same')",
    "METHODS": "nfnets_lite.models.METHODS",
    "WeightAverage": "nfnets_lite.averaging.WeightAverage",
    "ModelEmaV2": "nfnets_lite.averaging.WeightAverage",
    "ModelEmaV3": "nfnets_lite.averaging.WeightAverage",
    "SAM": "nfnets_lite.sam.ascended",
    "NORMS": "nfnets_lite.norm.NORMS",
}


def name_hint(name: str) -> str:
    """Hint for a name that `nfnets_lite` lacks: where it is, or what replaces it; empty if unknown.

    Examples
    --------
    >>> name_hint("AGC")
    '. Use attach_agc(optimizer, model)'
    """
    return f". Use {_NAMES[name]}" if name in _NAMES else ""


def argument_hint(name: str, known: Collection[str]) -> str:
    """Hint for an unknown argument or choice: what to write instead; empty if no known name is similar.

    Examples
    --------
    >>> argument_hint("in_chans", ["in_channels"])
    '. It is called in_channels here: in_channels=1'
    """
    if name in _ARGUMENTS:
        return f". {_ARGUMENTS[name]}"
    near = get_close_matches(name, known, 1)
    return f". Did you mean {near[0]}?" if near else ""


def model_hint(name: str, known: Collection[str]) -> str:
    """Hint for an unknown model: what it is called here; empty if no known name is similar.

    Examples
    --------
    >>> model_hint("dm_nfnet_f0.dm_in1k", ["nfnet_f0"])
    ". timm's dm_nfnet_f0 is nfnet_f0 here, and load_pretrained('nfnet_f0', source='deepmind') has its weights"
    """
    plain = name.rpartition("/")[2].partition(".")[0].lower().replace("-", "_")  # without timm's hub and weights' tag
    ours = plain.removeprefix("dm_")
    if plain.startswith("dm_nfnet_") and ours in known:
        weights = f"load_pretrained({ours!r}, source='deepmind') has its weights"
        return f". timm's {plain} is {ours} here, and {weights}"
    if re.match(r"(eca_|ecaresnet|nf_ecaresnet|nfnet_l|nf_seresnet)", plain):
        return ". It is a network of timm's own; describe it by a ResNetSpec of your own"
    if plain in known:
        return f". It is called {plain!r} here, without hub and tag of weights, and its parameters are random"
    near = get_close_matches(plain, known, 3)
    return f". Did you mean {' or '.join(map(repr, near))}?" if near else ""
