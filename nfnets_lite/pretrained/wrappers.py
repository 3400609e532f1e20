"""Find the state dict in what training scripts save: entries of a checkpoint, prefixes of names, wrapping modules."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

_COUNTS = {"n_averaged"}  # of AveragedModel: the number of its updates
# Names of modules that torch puts around parts of a model.
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


def bare(name: str) -> str:
    """A tensor's name without the modules that torch wraps around parts.

    Examples
    --------
    >>> bare("blocks.0.branch._orig_mod.1.weight")
    'blocks.0.branch.1.weight'
    """
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def entries_of(path: Path, content: Any) -> dict[str, Mapping[str, Tensor]]:
    """The state dicts in a file, by the key of their entry, which is ``""`` if the whole file is one.

    Raises
    ------
    ValueError
        If there is none.
    """
    found = dict(_states("", content))
    if not found:
        raise ValueError(
            f"path={str(path)!r} holds no state dict: a mapping of names to tensors is needed, or an entry with one"
        )
    return found


def _states(key: str, content: Any) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    if isinstance(content, Mapping) and content:
        if all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()):
            yield key, content
        else:
            for name, value in content.items():
                yield from _states(f"{key}.{name}".lstrip("."), value)


def unprefixed(state: Mapping[str, Tensor], own: Collection[str]) -> tuple[dict[str, Tensor], str]:
    """A state dict without the prefix in front of the model's names, or timm's, and that prefix, which may be empty.

    Examples
    --------
    >>> import torch
    >>> unprefixed({"module.head.weight": torch.ones(1)}, ["head.weight"])[1]
    'module.'
    """
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
