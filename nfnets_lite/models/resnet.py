"""The residual network that a `ResNetSpec` describes: stem, blocks, head.

Axes: N batch, C channels, H W space.
"""

import torch
from torch import Tensor, nn

from nfnets_lite.models.parts import MaxPool, ScalarBias, SqueezeExcite, StochasticDepth, conv, norm_act
from nfnets_lite.models.residual import Join, joins
from nfnets_lite.models.spec import BlockSpec, ResNetSpec
from nfnets_lite.padding import avg_pool_same

__all__ = ["Block", "ResNet", "SqueezeExcite", "StochasticDepth"]


class Block(nn.Module):
    """One residual block: ``skip * shortcut + branch * gain * f(beta * act(norm(x)))``.

    The shortcut is the raw input, except in a transition (a stride, or a change of width): there a 1x1 convolution of
    the *activated* input. `branch` is a module of its own, so that a hook sees the signal before any factor.
    """

    def __init__(self, spec: ResNetSpec, plan: BlockSpec, join: Join, drop: float) -> None:
        super().__init__()
        self.join, self.transition = join, plan.stride > 1 or plan.inputs != plan.outputs
        self.enter = norm_act(spec, plan.inputs, join.beta, before=False)
        self.branch = _branch(spec, plan)
        self.pool_shortcut = spec.pooled_shortcut and plan.stride > 1
        stride = 1 if self.pool_shortcut else plan.stride
        self.shortcut = conv(spec, plan.inputs, plan.outputs, 1, stride) if self.transition else nn.Identity()
        self.drop = StochasticDepth(drop)
        self.skip_gain = None if join.gain is None else nn.Parameter(torch.tensor(float(join.gain)))
        self.shift = ScalarBias() if spec.residual == "fixup" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.enter(x)
        shortcut = out if self.join.activated_skip else x
        if self.transition:
            shortcut = self.shortcut(avg_pool_same(out) if self.pool_shortcut else out)
        out = self.branch(out)
        if self.skip_gain is not None:
            out = out * (self.skip_gain * self.join.branch)
        elif self.join.branch != 1.0:
            out = out * self.join.branch
        out = self.drop(self.shift(out))
        return out + (shortcut if self.join.skip == 1.0 else shortcut * self.join.skip)


def _branch(spec: ResNetSpec, plan: BlockSpec) -> nn.Sequential:
    order = [k for k in spec.branch if spec.se_ratio or k != "se"]
    if spec.se_ratio and "se" not in order:
        order.append("se")
    kernels = [k for k in order if isinstance(k, int)]
    branch, channels, convs = nn.Sequential(), plan.inputs, 0
    strided = next(i for i, kernel in enumerate(kernels) if kernel > 1)
    for kernel in order:
        if not isinstance(kernel, int):
            branch.append(SqueezeExcite(channels, max(1, int(channels * spec.se_ratio)), spec.se_scale))
            continue
        if convs:
            branch.append(norm_act(spec, channels))
        outputs = plan.outputs if convs == len(kernels) - 1 else plan.inner
        stride = plan.stride if convs == strided else 1
        branch.append(conv(spec, channels, outputs, kernel, stride, plan.groups if kernel > 1 else 1))
        channels, convs = outputs, convs + 1
    return branch


def _stem(spec: ResNetSpec) -> nn.Sequential:
    stems = {
        "cifar": ((3, spec.stem_channels, 1),),
        "regnet": ((3, spec.stem_channels, 2),),
        "imagenet": ((7, spec.stem_channels, 2),),
        "nfnet": ((3, 16, 2), (3, 32, 1), (3, 64, 1), (3, spec.stem_channels, 2)),
    }
    layers, channels = nn.Sequential(), spec.in_channels
    for kernel, width, stride in stems[spec.stem]:
        if len(layers):
            layers.append(norm_act(spec, channels))
        layers.append(conv(spec, channels, width, kernel, stride))
        channels = width
    if spec.residual == "fixup":
        layers.append(ScalarBias())
    if spec.stem == "imagenet":
        layers.append(MaxPool())
    return layers


class ResNet(nn.Module):
    """Images ``(N, in_channels, H, W)`` to logits ``(N, num_classes)``; built from a `ResNetSpec`.

    Parameters
    ----------
    spec : ResNetSpec

    Raises
    ------
    ValueError
        In the forward pass, for an input of another rank or channel count, or with a side below ``spec.min_size``.

    Notes
    -----
    The stem's output and the last block's are *not* activated: each block activates what it takes, and `final` what
    the head takes. Named intermediates: `nfnets_lite.signal_propagation`, or forward hooks on `stem`, ``blocks[i]``
    and ``blocks[i].branch``.

    Examples
    --------
    >>> net = ResNet(ResNetSpec(depth=(1, 1), width=(8, 16), strides=(1, 2), branch=(3, 3), bottleneck=1.0,
    ...                         stem="cifar", stem_width=8, num_classes=10).with_method("nf"))
    >>> net(torch.zeros(2, 3, 33, 20)).shape
    torch.Size([2, 10])
    """

    def __init__(self, spec: ResNetSpec) -> None:
        super().__init__()
        self.spec, fixup = spec, spec.residual == "fixup"
        self.stem = _stem(spec)
        plans = spec.blocks()
        rates = [spec.stochastic_depth * i / len(plans) for i in range(len(plans))]
        scales = joins(spec.residual, spec.depth, spec.alpha, spec.skip_gain)
        self.blocks = nn.Sequential(*(Block(spec, *args) for args in zip(plans, scales, rates)))
        channels = spec.width[-1]
        self.head: nn.Module = nn.Identity()
        if spec.head_channels is not None:
            self.head = conv(spec, channels, spec.head_channels, 1)
            channels = spec.head_channels
        self.final = norm_act(spec, channels, before=spec.head_channels is not None, after=False)
        self.dropout = nn.Sequential(nn.Dropout(spec.dropout), ScalarBias()) if fixup else nn.Dropout(spec.dropout)
        self.classifier = nn.Linear(channels, spec.num_classes)
        nn.init.normal_(self.classifier.weight, std=spec.classifier_std)
        nn.init.zeros_(self.classifier.bias)
        if fixup:
            _fixup_start(self)

    def get_classifier(self) -> nn.Linear:
        """The layer whose weight adaptive gradient clipping leaves alone."""
        return self.classifier

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.spec.in_channels:
            raise ValueError(
                f"input has shape {tuple(x.shape)}; expected (N, {self.spec.in_channels}, H, W): in_channels is "
                f"{self.spec.in_channels} in this model's spec"
            )
        if x.shape[2] < self.spec.min_size or x.shape[3] < self.spec.min_size:
            raise ValueError(
                f"input is {x.shape[2]}x{x.shape[3]} px; this model's strides need at least {self.spec.min_size} px a "
                "side. Enlarge the image, or build the model with smaller strides or stem='cifar'"
            )
        x = self.final(self.head(self.blocks(self.stem(x))))
        return self.classifier(self.dropout(x.mean((2, 3))))  # type: ignore[no-any-return]


def _fixup_start(model: ResNet) -> None:
    r"""FixUp's start (arXiv 1901.09321, section 3): each branch's last convolution and the classifier 0.

    The other convolutions are normal with He's variance over the *outgoing* connections; those of a branch with m
    convolutions in a network of L blocks are scaled by :math:`L^{-1/(2m-2)}`.
    """
    inside: dict[nn.Module, float] = {}
    for block in model.blocks:
        assert isinstance(block, Block)
        convs = [layer for layer in block.branch if isinstance(layer, nn.Conv2d)]
        inside |= {layer: len(model.blocks) ** (-0.5 / (len(convs) - 1)) for layer in convs[:-1]}
        inside[convs[-1]] = 0.0
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = layer.out_channels * layer.weight[0, 0].numel()
            nn.init.normal_(layer.weight, std=(2 / fan_out) ** 0.5 * inside.get(layer, 1.0))
    nn.init.zeros_(model.classifier.weight)
