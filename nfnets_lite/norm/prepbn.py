"""PRepBN: layer norm that turns into a foldable batch norm during training."""

import torch
from torch import Tensor, nn

from nfnets_lite.norm.batch import BatchNorm2d
from nfnets_lite.norm.group import LayerNorm2d, layer

_LAYERS = {"layer2d": LayerNorm2d, "layer": layer}


class PRepBN(nn.Module):
    r"""Progressive re-parameterised batch norm: from layer norm to batch norm with a skip.

    .. math:: y = g\, \mathrm{LN}(x) + (1 - g)\, \mathrm{RepBN}(x), \qquad \mathrm{RepBN}(x) = \mathrm{BN}(x) + \eta x

    with g = 1 - `progress`, which falls linearly from 1 to 0, and a learnable number :math:`\eta`.

    Parameters
    ----------
    channels : int
    layer : str
        LN: "layer2d", over the channels of a position, as in transformers, or "layer", over channels and positions of
        an example.
    eps, momentum : float
        `eps` of both; `momentum` as in `torch.nn.BatchNorm2d`.

    Attributes
    ----------
    eta : Parameter
        Shape ``(1,)``, starts at 1.
    progress : Tensor
        0-d buffer, share of the training that is over; `nfnets_lite.norm.set_progress` fills it. Left at 0, the layer
        is layer norm. Set it to 1 after the last update; otherwise evaluation keeps a share of layer norm.

    Raises
    ------
    ValueError
        For another `layer`. In the forward pass in training: if a channel has one value over the batch.

    Notes
    -----
    Batch norm couples the examples, with the weight 1 - g in the output. Training costs both norms at any g. Evaluation
    uses the formula with the current g (the authors' code evaluates RepBN alone), and folds when g is 0. Guo et al.
    (arXiv 2405.11582), section 3.2.

    Examples
    --------
    >>> norm, x = PRepBN(4).eval(), torch.randn(2, 4, 3, 3)
    >>> torch.allclose(norm(x), norm.layer(x))
    True
    >>> _ = norm.progress.fill_(1.0)
    >>> scale, shift = norm.affine()  # of running statistics 0 and 1, and eta
    >>> torch.allclose(norm(x), x * scale[:, None, None] + shift[:, None, None])
    True
    """

    progress: Tensor

    def __init__(self, channels: int, layer: str = "layer2d", eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        if layer not in _LAYERS:
            raise ValueError(f"layer={layer!r} is not known; use one of {', '.join(_LAYERS)}")
        self.layer: nn.Module = _LAYERS[layer](channels, eps=eps)
        self.batch = BatchNorm2d(channels, eps=eps, momentum=momentum)
        self.eta = nn.Parameter(torch.ones(1))
        self.register_buffer("progress", torch.zeros(()))

    def affine(self) -> tuple[Tensor, Tensor]:
        """Scale and shift, each ``(C,)``, that evaluation applies once `progress` is 1; a ValueError before."""
        if self.progress < 1:
            raise ValueError(
                f"progress={float(self.progress):.6g}: evaluation still has a share of layer norm, which is no fixed "
                "map. At the end of the training call nfnets_lite.norm.set_progress(model, 1.0)"
            )
        mean, var = self.batch.running_mean, self.batch.running_var
        assert mean is not None
        assert var is not None
        scale = self.batch.weight * (var + self.batch.eps).rsqrt()
        return scale + self.eta, self.batch.bias - mean * scale

    def forward(self, x: Tensor) -> Tensor:
        # Both norms are computed at any g: g is on the device, and to read it would be to wait.
        g = 1 - self.progress
        out: Tensor = g * self.layer(x) + (1 - g) * (self.batch(x) + self.eta * x)
        return out.to(x.dtype)
