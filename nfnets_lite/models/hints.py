"""What timm's names and arguments are called here, for the errors of `create_model`."""

import re
from collections.abc import Collection
from difflib import get_close_matches

_FEATURES = "model.forward_stages(x) returns a map for each stage; model.spec.stages has their channels and strides"
_ARGUMENTS = {
    "pretrained": "Use nfnets_lite.load_pretrained('nfnet_f0', source='deepmind') in place of create_model",
    "in_chans": "It is called in_channels here: in_channels=1",
    "drop_rate": "It is called dropout here: dropout=0.2",
    "drop_path_rate": "It is called stochastic_depth here: stochastic_depth=0.1",
    "features_only": f"Leave it out: {_FEATURES}",
    "out_indices": f"Leave it out and choose from the list: {_FEATURES}",
    "output_stride": "There is no dilation: pass strides, one per stage, such as strides=(1, 2, 2, 1)",
    "global_pool": "Networks always average over positions; without pooling, call model.forward_features(x)",
    "act_layer": "It is called activation here: activation='silu'",
    "norm_layer": "It is called norm here: norm='group', with norm_options={'groups': 8}",
    "img_size": "Convolutional networks take any size; vit_tiny has image_size=32",
    "checkpoint_path": "Build the model, then call nfnets_lite.load_pretrained(model, path)",
    "scriptable": "Leave it out: networks are compiled with torch.compile(model)",
    "exportable": "Leave it out: networks are exported with torch.export.export(model, (x,))",
}


def argument_hint(name: str, known: Collection[str]) -> str:
    """What to write in place of an argument that is not known; empty if nothing is near.

    Examples
    --------
    >>> argument_hint("in_chans", ["in_channels"])
    'It is called in_channels here: in_channels=1'
    """
    near = get_close_matches(name, known, 1)
    return _ARGUMENTS.get(name) or (f"Did you mean {near[0]}?" if near else "")


def model_hint(name: str, known: Collection[str]) -> str:
    """What a model of another package is called here; empty if nothing is near.

    Examples
    --------
    >>> model_hint("dm_nfnet_f0.dm_in1k", ["nfnet_f0"])
    "timm's dm_nfnet_f0 is nfnet_f0 here, and load_pretrained('nfnet_f0', source='deepmind') has its weights"
    """
    plain = name.partition(".")[0]  # timm's tag of the weights
    ours = plain.removeprefix("dm_")
    if plain.startswith("dm_nfnet_") and ours in known:
        weights = f"load_pretrained({ours!r}, source='deepmind') has its weights"
        return f"timm's {plain} is {ours} here, and {weights}"
    if re.match(r"(eca_|ecaresnet|nf_ecaresnet|nfnet_l|nf_seresnet)", plain):
        return "It is a network of timm's own; its specification here is yours to write: ResNetSpec"
    if plain != name and plain in known:
        return f"Names have no tag of weights here: {plain!r}, with fresh parameters"
    near = get_close_matches(plain, known, 3)
    return f"Did you mean {' or '.join(map(repr, near))}?" if near else ""
