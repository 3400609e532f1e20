"""Load and save weights: the authors' parameter trees, timm's dm_nfnet state dicts, and our own safetensors files."""

from os import PathLike
from pathlib import Path
from typing import TypeVar, overload

import torch
from torch import Tensor, nn

from nfnets_lite.models import ResNet, create_model
from nfnets_lite.pretrained.download import download
from nfnets_lite.pretrained.files import bare, read, safetensors_of
from nfnets_lite.pretrained.names import slots
from nfnets_lite.roles import _inner

_LISTED = 20
_Model = TypeVar("_Model", bound=nn.Module)


class WeightsMismatch(ValueError):
    """A file and a model do not fit; nothing was changed.

    Attributes
    ----------
    unmatched, missing, misshapen : tuple of str
        Names in the file of all tensors that only the file has, that only the model has, and that differ in shape. The
        message lists the first few of each.
    """

    def __init__(
        self, path: Path, removed: str, unmatched: tuple[str, ...], missing: tuple[str, ...], misshapen: tuple[str, ...]
    ) -> None:
        self.unmatched, self.missing, self.misshapen = unmatched, missing, misshapen
        parts = [f"path={str(path)!r} does not fit the model{f', read {removed}' if removed else ''}"]
        for what, found in (("unmatched", unmatched), ("missing", missing), ("misshapen", misshapen)):
            if found:
                more = f", and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
                parts.append(f"{len(found)} {what}: {', '.join(found[:_LISTED])}{more}")
        parts.append(
            "build the model that the file holds (for another number of classes: load, then "
            "model.reset_classifier(num_classes))"
        )
        super().__init__("; ".join(parts))


@overload
def load_pretrained(model: str, path: str | Path | None = None, *, source: str | None = None) -> ResNet: ...
@overload
def load_pretrained(model: _Model, path: str | Path, *, source: None = None) -> _Model: ...
def load_pretrained(model: nn.Module | str, path: str | Path | None = None, *, source: str | None = None) -> nn.Module:
    """Load published or saved weights into a model; every tensor of the file and of the model must match.

    Parameters
    ----------
    model : nn.Module or str
        The model to fill, in place, or the name of a model to build.
    path : str or Path, optional
        ``.npz``, ``.pkl``: a parameter tree as the authors publish it (needs NumPy). No code in it is run.
        ``.safetensors`` (needs safetensors) or ``.pth``, ``.pt``, ``.bin``, ``.ckpt``, ``.tar``: a state dict, of this
        package or of timm's ``dm_nfnet_*``. It may be an entry of a checkpoint, such as ``{"model": ..., "epoch": 3}``,
        and its names may have a prefix, such as ``module.``, ``_orig_mod.`` or ``model.``.
    source : str, optional
        ``"deepmind"`` instead of a path: the authors' file for ``model="nfnet_f0"`` to ``"nfnet_f6"`` is downloaded
        once, and checked (see `nfnets_lite.pretrained.download`).

    Returns
    -------
    nn.Module
        The filled model, in its previous mode. It may be compiled or data-parallel.

    Raises
    ------
    WeightsMismatch
        Lists every tensor that is unmatched, missing or misshapen; the model is then unchanged.
    ValueError
        For a kind of file that is not known, a file that is cut off or holds other objects than tensors, or the
        state dict of another timm network. Also for a checkpoint of which several entries fit, and a model that is on
        the meta device or has extra state. A changed byte of a tensor is noticed in a NumPy archive only.
    TypeError
        If `path` is not a path, but a state dict for instance.
    ConnectionError
        If a download fails.

    Notes
    -----
    The authors' networks take RGB images in [0, 1], minus the channels' means (0.485, 0.456, 0.406) and divided by
    their standard deviations (0.229, 0.224, 0.225). For 5 classes of your own, call ``model.reset_classifier(5)`` then.

    timm's ``dm_nfnet_*`` weights are the authors', but timm computes another function with them (it adds 1e-5 to the
    weights' variance and uses the erf GELU). Here they give the authors' logits.

    Examples
    --------
    >>> import tempfile
    >>> net = create_model("cifar_resnet8", method="nf")
    >>> path = Path(tempfile.mkdtemp()) / "net.pth"
    >>> torch.save(net.state_dict(), path)
    >>> load_pretrained(net, path) is net
    True
    """
    if (path is None) == (source is None):
        raise ValueError(f"path={path!r} and source={source!r}: give one of them, a file or source='deepmind'")
    if source is not None:
        if source != "deepmind" or not isinstance(model, str):
            raise ValueError(
                f"source={source!r} with model={model if isinstance(model, str) else type(model).__name__!r}: the "
                "known source is 'deepmind', and it takes a model's name, 'nfnet_f0' to 'nfnet_f6'"
            )
        path = download(model)
    if not isinstance(path, (str, PathLike)):
        raise TypeError(
            f"path is a {type(path).__name__}; pass a file's path, or call model.load_state_dict(state_dict)"
        )
    path = Path(path).expanduser()
    given = create_model(model) if isinstance(model, str) else model
    network, own = _inner(given), _state(given)
    if any(tensor.is_meta for tensor in own.values()):
        raise ValueError(
            f"model={type(network).__name__} is on the meta device, where nothing can be copied to; give it memory "
            "first: model.to_empty(device='cpu')"
        )
    found, kind, removed = read(path, own)
    expected = own
    if kind != "own":
        expected = {slot.haiku if kind == "tree" else slot.timm: slot.parameter for slot in slots(network)}
    ours = {name: _as_ours(tensor, kind, expected.get(name)) for name, tensor in found.items()}
    unmatched = tuple(name for name in ours if name not in expected)
    missing = tuple(name for name in expected if name not in ours)
    misshapen = tuple(
        f"{name} {tuple(ours[name].shape)} for {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in ours and ours[name].shape != tensor.shape
    )
    if unmatched or missing or misshapen:
        raise WeightsMismatch(path, removed, unmatched, missing, misshapen)
    with torch.no_grad():
        for name, tensor in expected.items():
            tensor.copy_(ours[name])
    return given


def save_pretrained(model: nn.Module, path: str | Path) -> None:
    """Write a model's state dict as safetensors, which `load_pretrained` reads back.

    The names of a compiled or data-parallel model are those of the model inside it.

    Raises
    ------
    ValueError
        If `path` does not end in ``.safetensors``, or the model has extra state (``get_extra_state``).
    ImportError
        Without the safetensors package.

    Examples
    --------
    >>> import tempfile
    >>> from nfnets_lite import create_model
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_pretrained(create_model("cifar_resnet8", method="nf"), f"{folder}/net.safetensors")
    ...     _ = load_pretrained(create_model("cifar_resnet8", method="nf"), f"{folder}/net.safetensors")
    """
    path = Path(path).expanduser()
    if path.suffix != ".safetensors":
        raise ValueError(f"path={str(path)!r} must end in .safetensors, by which load_pretrained knows the format")
    # Copied: safetensors refuses weights that are shared.
    state = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in _state(model).items()}
    safetensors_of(path).save_file(state, path, metadata={"format": "pt", "library": "nfnets_lite"})


def _state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of the model inside wrappers; a ValueError if it holds more than parameters and buffers."""
    state = _inner(model).state_dict()
    if extra := [name for name in state if name.rpartition(".")[2] == "_extra_state"]:
        raise ValueError(
            f"model={type(model).__name__} has extra state, which is neither parameter nor buffer: {', '.join(extra)}. "
            "Save and load it with torch: torch.save(model.state_dict(), path), model.load_state_dict(torch.load(path))"
        )
    return {bare(name): tensor for name, tensor in state.items()}


def _as_ours(tensor: Tensor, kind: str, target: Tensor | None) -> Tensor:
    """The tensor in this package's layout: OIHW and (out, in), gains as vectors."""
    if kind == "tree":  # HWIO and (in, out)
        return tensor.permute(3, 2, 0, 1) if tensor.ndim == 4 else tensor.t() if tensor.ndim == 2 else tensor
    if kind == "timm" and target is not None and set(tensor.shape[target.ndim :]) == {1}:
        return tensor.flatten(max(target.ndim - 1, 0))  # (O, 1, 1, 1) gains, 1x1 convolutions for linear layers
    return tensor
