"""Multiply-adds of a network, counted layer by layer on the meta device: no memory, no arithmetic."""

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.conv import _ConvNd

from nfnets_lite.models import Spec, create_model
from nfnets_lite.roles import _inner


def count_macs(model: nn.Module | Spec | str, image_size: int | tuple[int, int], *, in_channels: int = 3) -> int:
    r"""Multiply-adds of all convolutions and linear layers for one image, each of two floating-point operations.

    .. math:: \sum_{\text{conv}} H' W' O \frac{I}{\text{groups}} K_h K_w + \sum_{\text{linear}} I O

    with the H' W' positions of a convolution's output, or of a transposed convolution's input. Products inside
    attention, biases, norms, activations, pooling and the standardisation of weights are not counted. At the *test*
    resolution, NFNet-F0 to F6 agree with every printed digit of the paper (arXiv 2102.06171, table 3, "FLOPs").

    Parameters
    ----------
    model : nn.Module, specification or str
        A network on any device (its parameters are not touched), a specification, or a name of `list_models()`.
    image_size : int or (int, int)
        Side, or height and width, in pixels.
    in_channels : int
        Channels of the image, for a network that has no `spec`.

    Raises
    ------
    ValueError
        If `image_size` is neither a side nor height and width.

    Examples
    --------
    >>> round(count_macs("nfnet_f0", 256) / 1e9, 2)
    12.38
    """
    sides = (image_size, image_size) if isinstance(image_size, int) else image_size
    if not isinstance(sides, (tuple, list)) or len(sides) != 2:
        raise ValueError(f"image_size={image_size!r} must be one side, or (height, width), without batch and channels")
    if not isinstance(model, nn.Module):
        with torch.device("meta"):
            model = create_model(model)
    model = _inner(model)  # functional_call refuses DataParallel
    channels = getattr(getattr(model, "spec", None), "in_channels", in_channels)
    total = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Linear):
            total += layer.in_features * out[0].numel()
        elif isinstance(layer, _ConvNd):  # a transposed one multiplies each input value by the filters of its group
            total += layer.weight[0].numel() * (inputs[0] if layer.transposed else out)[0].numel()

    height, width = sides
    dtype = next((p.dtype for p in model.parameters()), torch.float32)
    state = {name: tensor.to("meta") for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    modes = {module: module.training for module in model.modules()}
    handles = [module.register_forward_hook(count) for module in modes]
    try:
        model.eval()  # batch norm refuses one image of one pixel in training
        functional_call(model, state, torch.empty(1, channels, height, width, dtype=dtype, device="meta"))
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training
    return total
