"""timm for comparisons: imported without torchvision if that does not fit this torch, and given our weights."""

import importlib
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from nfnets_lite.pretrained.names import slots

ABSENT = "torchvision"
PARTS = ("timm", "timm.models", "timm.utils")


class Missing(RuntimeError):
    """Raised if timm, or something else that a comparison needs, is missing; the message says what."""


class _Kind(type):
    def __getattr__(cls, name: str) -> Any:
        return _made(cls, name)


class Nothing(metaclass=_Kind):
    """Stands in for a class, a function or a constant of the absent package; nothing that is timed calls it."""

    def __init__(self, *_: object, **__: object) -> None: ...


class _Empty(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        return _made(self, name)


def _made(owner: object, name: str) -> type[Nothing]:
    if name.startswith("__"):  # names by which Python inspects objects
        raise AttributeError(name)
    made: type[Nothing] = types.new_class(name, (Nothing,))
    setattr(owner, name, made)  # timm looks some of them up by identity
    return made


class _StandIn(MetaPathFinder, Loader):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.split(".")[0] == ABSENT else None

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: types.ModuleType) -> None: ...


@contextmanager
def stand_in() -> Iterator[None]:
    """Make every module of torchvision importable and empty inside the block; remove the modules afterwards."""
    finder = _StandIn()
    _forget()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        _forget()


def _forget() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == ABSENT]:
        del sys.modules[name]


def load() -> Any:
    """Import timm with its ``models`` and ``utils``.

    timm imports torchvision, which nothing here needs. If torchvision is absent or built for another torch, an empty
    stand-in replaces it during the import.

    Raises
    ------
    Missing
        If timm is not installed or cannot be imported; the message gives the reason.
    """
    if find_spec("timm") is None:
        raise Missing("timm is not installed: pip install 'nfnets-lite[bench]'")
    try:
        with nullcontext() if _fits() else stand_in():
            timm, *_ = [importlib.import_module(name) for name in PARTS]
        return timm
    except Exception as error:  # of any kind: rows without timm must still be measured
        raise Missing(f"timm cannot be imported: {type(error).__name__}: {error}") from error


def _fits() -> bool:
    """Whether torchvision can be imported; one for another torch raises all sorts of errors."""
    with suppress(Exception):
        importlib.import_module(ABSENT)
        return True
    return False


def body(timm: Any, model: nn.Module) -> list[Tensor]:
    """The parameters that timm's training script clips: all but the last layer's weight and bias."""
    return list(timm.models.model_parameters(model, exclude_head=True))


def macs(model: nn.Module, side: int) -> int:
    """Multiply-adds for one image by torch's counter, for a model of any kind on the meta device."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model.eval()(torch.empty(1, 3, side, side, device="meta"))
    return int(counter.get_total_flops()) // 2


def give_weights(ours: nn.Module, theirs: nn.Module) -> None:
    """Copy the parameters of our NFNet into timm's ``dm_nfnet`` of the same shape."""
    state = theirs.state_dict()
    own = slots(ours)
    if {slot.timm for slot in own} != state.keys():
        raise ValueError("theirs is not timm's dm_nfnet of the same depth: its tensors have other names")
    with torch.no_grad():
        for slot in own:
            state[slot.timm].copy_(slot.parameter.reshape(state[slot.timm].shape))


def difference(ours: nn.Module, theirs: nn.Module, images: Tensor) -> float:
    """Largest difference of the logits over their root mean square, with timm's two deviations corrected meanwhile.

    timm adds 1e-5 to the variance of the weights and takes the erf form of GELU. With the authors' choice of both, the
    two networks are the same function: the authors' floor of 1e-4 under the sum of squares is far below that of any
    filter of a new network.
    """
    changed: list[tuple[nn.Module, str, Any]] = []
    for module in theirs.modules():
        for name, value in (("eps", 1e-12), ("act_fn", _tanh_gelu)):
            if hasattr(module, name):
                changed.append((module, name, getattr(module, name)))
                setattr(module, name, value)
    modes = [(model, model.training) for model in (ours, theirs)]
    try:
        with torch.no_grad():
            own, other = (model.eval()(images).double() for model in (ours, theirs))
    finally:
        for module, name, before in changed:
            setattr(module, name, before)
        for model, mode in modes:
            model.train(mode)
    return float((own - other).abs().max() / own.pow(2).mean().sqrt())


def _tanh_gelu(x: Tensor, inplace: bool = False) -> Tensor:
    return F.gelu(x, approximate="tanh")
