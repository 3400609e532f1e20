"""The residual network that a `ResNetSpec` describes: stem, blocks, head.

Axes: N batch, C channels, H W space.
"""

from dataclasses import replace
from itertools import accumulate

import torch
from torch import Tensor, nn

from nfnets_lite.models.fused import fused_block
from nfnets_lite.models.parts import (
    Blocks,
    CentringBias,
    MaxPool,
    ScalarBias,
    SqueezeExcite,
    StochasticDepth,
    conv,
    new_classifier,
    norm_act,
    norm_name,
    times,
)
from nfnets_lite.models.residual import Join, joins
from nfnets_lite.models.spec import BlockSpec, ResNetSpec
from nfnets_lite.models.starts import fixup_start, rescale_start
from nfnets_lite.padding import avg_pool_same


class Block(nn.Module):
    """One residual block: ``skip * shortcut + branch * gain * f(beta * act(norm(x)))``, or ``f(norm(act(x)))``.

    The shortcut is the raw input. In a transition (a stride, or a change of width) it is a 1x1 convolution of the
    *activated* input. `branch` is a module of its own, so that a hook sees the signal before any factor.
    """

    def __init__(self, spec: ResNetSpec, plan: BlockSpec, join: Join, drop: float) -> None:
        super().__init__()
        self.join, self.transition = join, plan.stride > 1 or plan.inputs != plan.outputs
        rescale = spec.residual == "rescale"  # its biases are on branch and shortcut, not before the two separate
        self.enter = norm_act(spec, plan.inputs, norm_name(spec, plan), join.beta, before=False, after=not rescale)
        self.branch = _branch(spec, plan)
        self.pool_shortcut = spec.pooled_shortcut and plan.stride > 1
        stride = 1 if self.pool_shortcut else plan.stride
        self.shortcut: nn.Module = nn.Identity()
        if self.transition:
            self.shortcut = conv(spec, plan.inputs, plan.outputs, 1, stride)
            if rescale:
                self.shortcut = nn.Sequential(CentringBias(plan.inputs), self.shortcut)
        self.drop = StochasticDepth(drop)
        self.skip_gain = None if join.gain is None else nn.Parameter(torch.tensor(float(join.gain)))
        self.shift: nn.Module = ScalarBias() if spec.residual == "fixup" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        fused = fused_block(self, x)
        if fused is not None:
            return fused
        out = self.enter(x)
        shortcut = out if self.join.activated_skip else x
        if self.transition:
            shortcut = self.shortcut(avg_pool_same(out) if self.pool_shortcut else out)
        gain = self.join.branch if self.skip_gain is None else self.skip_gain * self.join.branch
        branch = self.drop(self.shift(times(gain, self.branch(out))))
        return times(self.join.skip, shortcut) + branch  # type: ignore[no-any-return]


def _branch(spec: ResNetSpec, plan: BlockSpec) -> nn.Sequential:
    order = [k for k in spec.branch if spec.se_ratio or k != "se"]
    if spec.se_ratio and "se" not in order:
        order.append("se")
    kernels = [k for k in order if isinstance(k, int)]
    branch, channels, convs = nn.Sequential(), plan.inputs, 0
    strided = next(i for i, kernel in enumerate(kernels) if kernel > 1)
    if spec.residual == "rescale":
        branch.append(CentringBias(channels))
    for kernel in order:
        if not isinstance(kernel, int):
            branch.append(SqueezeExcite(channels, max(1, int(channels * spec.se_ratio)), spec.se_scale))
            continue
        if convs:
            branch.append(norm_act(spec, channels, norm_name(spec, plan, convs)))
        outputs = plan.outputs if convs == len(kernels) - 1 else plan.inner
        stride = plan.stride if convs == strided else 1
        branch.append(conv(spec, channels, outputs, kernel, stride, plan.groups if kernel > 1 else 1))
        channels, convs = outputs, convs + 1
    return branch


def _stem(spec: ResNetSpec) -> nn.Sequential:
    stems = {
        "none": (),
        "cifar": ((3, spec.stem_channels, 1),),
        "regnet": ((3, spec.stem_channels, 2),),
        "imagenet": ((7, spec.stem_channels, 2),),
        "nfnet": ((3, 16, 2), (3, 32, 1), (3, 64, 1), (3, spec.stem_channels, 2)),
    }
    layers, channels = nn.Sequential(), spec.in_channels
    for kernel, width, stride in stems[spec.stem]:
        if len(layers):
            layers.append(norm_act(spec, channels, norm_name(spec)))
        layers.append(conv(spec, channels, width, kernel, stride))
        channels = width
    if spec.residual in ("fixup", "rescale"):
        layers.append(ScalarBias() if spec.residual == "fixup" else CentringBias(channels))
    if spec.stem == "imagenet":
        layers.append(MaxPool())
    return layers


class ResNet(nn.Module):
    """The network of a `ResNetSpec`: images ``(N, in_channels, H, W)`` to logits ``(N, num_classes)``.

    Raises
    ------
    ValueError
        In the forward pass, for an input of another rank or channel count, or with a side below ``spec.min_size``.

    Notes
    -----
    Outputs of the stem and of blocks are *not* activated: each block activates its own input, and `final` activates
    the head's output. To see them, use `nfnets_lite.signal_propagation`, or forward hooks on `stem`, ``blocks[i]`` and
    ``blocks[i].branch``.

    Examples
    --------
    >>> net = ResNet(ResNetSpec(depth=(1, 1), width=(8, 16), strides=(1, 2), branch=(3, 3), bottleneck=1.0,
    ...                         stem="cifar", stem_width=8, num_classes=10).with_method("nf"))
    >>> net(torch.zeros(2, 3, 33, 20)).shape
    torch.Size([2, 10])
    """

    classifier: nn.Module

    def __init__(self, spec: ResNetSpec) -> None:
        super().__init__()
        self.spec, fixup = spec, spec.residual == "fixup"
        self.stem = _stem(spec)
        plans = spec.blocks()
        rates = [spec.stochastic_depth * i / len(plans) for i in range(len(plans))]
        scales = joins(spec.residual, spec.depth, spec.alpha, spec.skip_gain)
        blocks = [Block(spec, *args) for args in zip(plans, scales, rates)]
        self.blocks = Blocks(*blocks)
        channels = spec.width[-1]
        self.head: nn.Module = nn.Identity()
        if spec.head_channels is not None:
            self.head = conv(spec, channels, spec.head_channels, 1)
            channels = spec.head_channels
        # No instance norm before pooling: each channel would have the same mean and variance in every image.
        last = "none" if spec.norm == "instance" else norm_name(spec)
        at = {"before": spec.head_channels is not None, "after": spec.residual == "rescale"}
        self.final = norm_act(spec, channels, last, **at)
        self.dropout = nn.Sequential(nn.Dropout(spec.dropout), ScalarBias()) if fixup else nn.Dropout(spec.dropout)
        self.num_features = channels
        self.reset_classifier(spec.num_classes)
        if fixup:
            fixup_start(self, blocks, self.classifier)
        elif spec.residual.startswith("rescale"):
            rescale_start(blocks, self.classifier)

    def get_classifier(self) -> nn.Module:
        """The classifier, whose weight adaptive gradient clipping leaves alone; an identity for 0 classes."""
        return self.classifier

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier by a new one for `num_classes` classes, or by an identity for 0 classes."""
        self.spec = replace(self.spec, num_classes=num_classes)  # checks the number
        self.classifier = new_classifier(self, self.num_features, num_classes)
        if isinstance(self.classifier, nn.Linear):
            nn.init.normal_(self.classifier.weight, std=self.spec.classifier_std)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Save memory: the backward pass computes the activations inside blocks again, from the same buffers."""
        self.blocks.checkpointed = enable

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        """Output of each stage, ``(N, C, H', W')``, not activated; ``spec.stages`` has channels and strides."""
        self._check(x)
        x, maps, ends = self.stem(x), [], set(accumulate(self.spec.depth))
        for i, block in enumerate(self.blocks, 1):
            x = self.blocks.step(block, x)
            maps += [x] if i in ends else []
        return maps

    def forward_features(self, x: Tensor) -> Tensor:
        """Activated features before they are averaged over positions, ``(N, C, H', W')``."""
        self._check(x)
        return self.final(self.head(self.blocks(self.stem(x))))  # type: ignore[no-any-return]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits ``(N, num_classes)`` from the output of `forward_features`; its mean ``(N, C)`` with `pre_logits`."""
        x = self.dropout(x.mean((2, 3)))
        return x if pre_logits else self.classifier(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def _check(self, x: Tensor) -> None:
        if not isinstance(x, Tensor):  # torch.fx passes a proxy without a shape
            return
        first = next(iter(self.stem.children()), None)  # the stem's first layer may have been replaced
        channels = getattr(first, "in_channels", self.spec.in_channels)
        if x.ndim != 4 or x.shape[1] != channels:
            raise ValueError(
                f"input has shape {tuple(x.shape)}; expected (N, {channels}, H, W): this model's stem takes "
                f"{channels} channels"
            )
        if x.shape[2] < self.spec.min_size or x.shape[3] < self.spec.min_size:
            raise ValueError(
                f"input is {x.shape[2]}x{x.shape[3]} px; this model's strides need at least {self.spec.min_size} px a "
                "side. Enlarge the image, or build the model with smaller strides or stem='cifar'"
            )
