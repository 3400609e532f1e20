"""Read the tensors of a file of weights, whatever its format and whatever wraps its state dict."""

import re
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from nfnets_lite.pretrained.names import other_timm_network
from nfnets_lite.pretrained.tree import read_tree
from nfnets_lite.pretrained.wrappers import entries_of, unprefixed

_TREES, _STATES = (".npz", ".pkl", ".pickle", ".dill"), (".pth", ".pt", ".bin", ".ckpt", ".tar")


def read(path: Path, own: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], str, str]:
    """Tensors by the file's names, whose names they are (``"tree"``, ``"timm"`` or ``"own"``), and what was removed."""
    suffix = path.suffix.lower()
    if suffix in _TREES:
        return read_tree(path), "tree", ""
    if suffix == ".safetensors":
        entries = entries_of(path, safetensors_of(path).load_file(path))
    elif suffix in _STATES:
        entries = entries_of(path, _tensors(path))
    else:
        raise ValueError(
            f"path={str(path)!r} ends in {suffix!r}; known are {', '.join((*_TREES, '.safetensors', *_STATES))}"
        )
    read = {key: unprefixed(state, own) for key, state in entries.items()}
    fitting = [key for key, (state, _) in read.items() if _shapes(state) == _shapes(own)]
    if len(fitting) > 1 and "state_dict" not in fitting:
        keys = "".join(f"[{key!r}]" for key in fitting[0].split("."))
        raise ValueError(
            f"path={str(path)!r} holds several state dicts that fit: {', '.join(map(repr, fitting))}. Save "
            f"the one that you want by itself: torch.save(torch.load(path){keys}, 'one.pth')"
        )
    likely = fitting or sorted(read, key=lambda key: -len(read[key][0].keys() & own.keys()))
    choice = "state_dict" if "state_dict" in likely else likely[0]
    state, prefix = read[choice]
    taken_off = " and ".join(
        [f"from its entry {choice!r}"] * bool(choice) + [f"without the prefix {prefix!r} of its names"] * bool(prefix)
    )
    if state.keys() == own.keys() or not any(name.startswith("stages.") for name in state):
        return state, "own", taken_off
    differences = other_timm_network(state.keys())
    if differences:
        raise ValueError(
            f"path={str(path)!r} holds another network, one of timm's own: {'; '.join(differences)}. Of "
            "timm's normalizer-free models the dm_nfnet_* are the authors'"
        )
    return state, "timm", taken_off


def _tensors(path: Path) -> Any:
    """The content of a file of `torch.save`, if it holds only tensors, containers and a script's arguments."""
    try:
        with torch.serialization.safe_globals([Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, EOFError, RuntimeError) as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        if named is None:
            said = next(iter(str(error).splitlines()), "it is empty")
            raise ValueError(
                f"path={str(path)!r} is not a whole file of torch.save: {said}. Download or save it again; a small "
                "file of text is Git LFS's pointer to the weights"
            ) from error
        raise ValueError(
            f"path={str(path)!r} holds an object of {named[1]}, and loading objects can run code. If you trust the "
            "file, open it with torch.load(path, weights_only=False) and save its state dict alone"
        ) from error


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}


def safetensors_of(path: Path) -> Any:
    """The module `safetensors.torch`; an ImportError that names the file without it."""
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError(f"path={str(path)!r} is a safetensors file; pip install safetensors") from error
    return safetensors.torch
