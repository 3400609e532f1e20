"""Read the tensors of a file of weights, whatever its format and whatever wraps its state dict."""

import re
from argparse import Namespace
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from nfnets_lite.pretrained.names import is_dm_nfnet
from nfnets_lite.pretrained.tree import damaged, read_tree

_TREES, _STATES = (".npz", ".pkl", ".pickle", ".dill"), (".pth", ".pt", ".bin", ".ckpt", ".tar")
_COUNTS = {"n_averaged"}  # of AveragedModel: the number of its updates
# Names of modules that torch puts around parts of a model.
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


def read(path: Path, own: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], str, str]:
    """Tensors by the file's names, whose names they are (``"tree"``, ``"timm"`` or ``"own"``), and what was removed."""
    suffix = path.suffix.lower()
    if suffix in _TREES:
        return read_tree(path), "tree", ""
    if suffix not in (".safetensors", *_STATES):
        raise ValueError(
            f"path={str(path)!r} ends in {suffix!r}; known are {', '.join((*_TREES, '.safetensors', *_STATES))}"
        )
    entries = dict(_entries("", _of_safetensors(path) if suffix == ".safetensors" else _of_torch(path)))
    if not entries:
        raise ValueError(
            f"path={str(path)!r} holds no state dict: a mapping of names to tensors is needed, or an entry with one"
        )
    states = {key: _unprefixed(state, own) for key, state in entries.items()}
    fitting = [key for key, (state, _) in states.items() if _fits(state, own)]
    if len(fitting) > 1:
        keys = "".join(f"[{key!r}]" for key in fitting[-1].split("."))
        raise ValueError(
            f"path={str(path)!r} holds several state dicts that fit: {', '.join(map(repr, fitting))}. Save the one "
            f"that you want by itself, and load that file: torch.save(torch.load(path){keys}, 'one.pth')"
        )
    # Where none fits, the error speaks of the likeliest.
    choice = max(fitting or states, key=lambda key: (len(states[key][0].keys() & own.keys()), len(states[key][0])))
    state, prefix = states[choice]
    removed = [f"from its entry {choice!r}"] * bool(choice)
    removed += [f"without the prefix {prefix!r} of its names"] * bool(prefix)
    timm = state.keys() != own.keys() and any(name.startswith("stages.") for name in state)
    if timm and not is_dm_nfnet(state):
        raise ValueError(
            f"path={str(path)!r} holds another network, one of timm's own. Of timm's normalizer-free models the "
            "dm_nfnet_* are the authors'; the nfnet_*, eca_nfnet_*, nf_resnet* and nf_regnet_* differ from theirs"
        )
    return state, "timm" if timm else "own", " and ".join(removed)


def _of_torch(path: Path) -> Any:
    """The content of a file of `torch.save`, if it holds only tensors, containers and a script's arguments."""
    try:
        with torch.serialization.safe_globals([Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, EOFError, RuntimeError) as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        if named is None:
            raise damaged(path, error) from error
        raise ValueError(
            f"path={str(path)!r} holds an object of {named[1]}, and loading objects can run code. If you trust the "
            "file, open it with torch.load(path, weights_only=False) and save its state dict alone"
        ) from error


def _of_safetensors(path: Path) -> Any:
    load_file = safetensors_of(path).load_file
    try:
        return load_file(path)
    except OSError:  # no such file
        raise
    except Exception as error:
        raise damaged(path, error) from error


def safetensors_of(path: Path) -> Any:
    """The module `safetensors.torch`; an ImportError that names the file without it."""
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError(f"path={str(path)!r} is a safetensors file; pip install safetensors") from error
    return safetensors.torch


def bare(name: str) -> str:
    """A tensor's name without the modules that torch wraps around parts: ``"branch._orig_mod.1"`` is "branch.1"."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _fits(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has the names and shapes of the model's own, or is a dm_nfnet of as many numbers each."""
    if is_dm_nfnet(state):
        return sorted(map(Tensor.numel, state.values())) == sorted(map(Tensor.numel, own.values()))
    return {name: x.shape for name, x in state.items()} == {name: x.shape for name, x in own.items()}


def _entries(key: str, content: Any) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """The state dicts in a file's content, by the key of their entry, which is ``""`` if all of it is one."""
    if isinstance(content, Mapping) and content:
        if all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()):
            yield key, content
        else:
            for name, value in content.items():
                yield from _entries(f"{key}.{name}".lstrip("."), value)


def _unprefixed(state: Mapping[str, Tensor], own: Collection[str]) -> tuple[dict[str, Tensor], str]:
    """A state dict without the prefix in front of the model's names, or timm's, and that prefix, which may be empty."""
    named = {bare(name): tensor for name, tensor in state.items() if name not in _COUNTS}
    if len(named) < len(state.keys() - _COUNTS):  # two names would become one
        named = dict(state)
    first = next(iter(own), "")
    prefixes = ["", *(name.removesuffix(first) for name in named if first and name.endswith(f".{first}"))]

    def matched(prefix: str) -> int:
        return sum(name.startswith(prefix) and name.removeprefix(prefix) in own for name in named)

    prefix = max(prefixes, key=matched)
    if not matched(prefix):  # none of the model's names: perhaps timm's
        prefix = next((name.partition("stages.")[0] for name in named if ".stages." in name), "")
    return {name.removeprefix(prefix): tensor for name, tensor in named.items()}, prefix
