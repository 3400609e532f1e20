"""CIFAR-10 in minutes, with batch norm or without any norm: one file to copy and to change.

    python examples/cifar10.py cifar-10-batches-py --method nf --epochs 8

The folder holds CIFAR-10's Python version. Three parts follow airbench (arXiv 2404.00498): a fixed first layer that
whitens patches, mirroring that alternates from epoch to epoch, and the mean of the outputs for mirror images.
"""

import argparse
import pickle
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

import nfnets_lite as nf
from nfnets_lite.averaging import WeightAverage


@dataclass(frozen=True)
class Recipe:
    """Settings of one training."""

    method: str = "nf"  # or "bn", "gn_ws", ...: nfnets_lite.models.METHODS
    width: tuple[int, ...] = (32, 128, 128)
    epochs: int = 8
    batch_size: int = 256
    lr: float = 0.5
    clip: float = 0.08  # threshold of adaptive clipping; 0: no clipping
    optimizer: str = "sgd"  # or "muon": updates of filters are made orthogonal, and have their own learning rate
    filter_lr: float = 0.02
    weight_decay: float = 5e-4
    label_smoothing: float = 0.2
    average: float = 0.97  # decay of the averaged weights


class Net(nn.Module):
    """Outputs of whitening filters and their negatives, then three residual blocks of two convolutions."""

    def __init__(self, images: Tensor, recipe: Recipe, classes: int) -> None:
        super().__init__()
        self.register_buffer("filters", filters := whitening(images))
        self.body = nf.create_model(
            "cifar_resnet8", method=recipe.method, width=recipe.width, strides=(2, 2, 2), stem="none",
            in_channels=2 * len(filters), stem_width=2 * len(filters), pooled_shortcut=True, activation="gelu",
            alpha=1.0, skip_gain=1.0, num_classes=classes,
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.filters)
        return self.body(torch.cat([x, -x], 1))


def whitening(images: Tensor, side: int = 2) -> Tensor:
    """Filters whose outputs on patches of `images` are uncorrelated and have variance 1."""
    patches = F.unfold(images[:5000].cpu(), side).transpose(1, 2).reshape(-1, images.shape[1] * side**2)
    variance, vectors = torch.linalg.eigh(patches.T.cov().double())
    return (vectors / (variance + 5e-4).sqrt()).T.reshape(-1, images.shape[1], side, side).to(images)


def augmented(images: Tensor, mirrored: Tensor, pad: int = 2) -> Tensor:
    """The images, mirrored where `mirrored` is true, and shifted at random by up to `pad` pixels."""
    n, channels, height, width = images.shape
    images = F.pad(torch.where(mirrored[:, None, None, None], images.flip(3), images), (pad,) * 4, mode="reflect")
    down, right = torch.randint(2 * pad + 1, (2, n, 1, 1, 1)).to(images.device)
    rows, columns = (torch.arange(size, device=images.device) for size in (height, width))
    images = images.gather(2, (down + rows[:, None]).expand(n, channels, height, width + 2 * pad))
    return images.gather(3, (right + columns).expand(n, channels, height, width))


def matrices(net: Net) -> list[nn.Parameter]:
    """Each convolution as a matrix with one row per filter: a view of its weight and gradient in channels last."""
    views = []
    for conv in (p for p in net.parameters() if p.dim() == 4):
        conv.grad = torch.zeros_like(conv)
        views.append(nn.Parameter(conv.detach().permute(0, 2, 3, 1).flatten(1)))
        views[-1].grad = conv.grad.permute(0, 2, 3, 1).flatten(1)
    return views


def optimizers(net: Net, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """SGD for all parameters, or Muon for filters and SGD for all others."""
    sgd = {"lr": recipe.lr, "momentum": 0.9, "nesterov": True}
    if recipe.optimizer == "sgd":
        return [torch.optim.SGD(nf.param_groups(net, recipe.weight_decay), **sgd)]  # gains and biases do not decay
    muon = torch.optim.Muon(matrices(net), lr=recipe.filter_lr, weight_decay=0.0, momentum=0.9)
    return [muon, torch.optim.SGD([p for p in net.parameters() if p.dim() != 4], **sgd)]


def train(net: Net, average: WeightAverage, recipe: Recipe, images: Tensor, labels: Tensor, make=optimizers):
    """Train on images of mean 0 and variance 1; after each epoch, yield the last loss and fraction of clipped units."""
    clip = nf.AdaptiveClip(net, recipe.clip, classifier=net.body.classifier) if recipe.clip else (lambda: 0.0)
    total = recipe.epochs * (per_epoch := len(images) // recipe.batch_size)
    parts = make(net, recipe)
    schedules = [LambdaLR(part, lambda u: min((u + 1) / (0.2 * total), (1 - u / total) / 0.8)) for part in parts]
    mirrored = torch.rand(len(images)) < 0.5
    for epoch in range(recipe.epochs):
        for chosen in torch.randperm(len(images)).split(recipe.batch_size)[:per_epoch]:
            x = augmented(images[chosen], (mirrored[chosen] ^ bool(epoch % 2)).to(images.device))
            with torch.autocast(images.device.type, torch.bfloat16):
                logits = net.train()(x.contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(logits.float(), labels[chosen], label_smoothing=recipe.label_smoothing)
            net.zero_grad(set_to_none=False)
            loss.backward()
            clipped = clip()
            for stepped in (*parts, *schedules):
                stepped.step()
            average.update()
        yield loss.item(), float(clipped)


def accuracy(net: Net, images: Tensor, labels: Tensor) -> float:
    """Fraction of images classified correctly by the mean output for an image and its mirror image."""
    net.eval()
    with torch.no_grad(), torch.autocast(images.device.type, torch.bfloat16):
        found = torch.cat([(net(x) + net(x.flip(3))).argmax(1) for x in images.split(1000)])
    return float((found == labels).float().mean())


def load(folder: Path, *names: str) -> tuple[Tensor, Tensor]:
    """Images of mean 0 and variance 1 in each channel, and labels. Unpickle only files that you trust."""
    batches = [pickle.loads((folder / name).read_bytes(), encoding="latin1") for name in names]
    images = torch.cat([torch.from_numpy(b["data"]) for b in batches]).reshape(-1, 3, 32, 32) / 255
    mean, std = torch.tensor([[0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]])[:, :, None, None]
    return (images - mean) / std, torch.cat([torch.tensor(b["labels"]) for b in batches])


def main() -> None:
    """Train, then measure the test accuracy of the averaged weights, once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for name in ("method", "epochs", "lr", "clip", "optimizer"):
        parser.add_argument(f"--{name}", type=type(getattr(Recipe, name)), default=getattr(Recipe, name))
    options = vars(parser.parse_args())
    folder, device = options.pop("folder"), "cuda" if torch.cuda.is_available() else "cpu"
    images, labels = load(folder, *(f"data_batch_{i}" for i in range(1, 6)))
    net = Net(images, recipe := Recipe(**options), 10).to(device, memory_format=torch.channels_last)
    average = WeightAverage(net, recipe.average)
    for loss, clipped in train(net, average, recipe, images.to(device), labels.to(device)):
        print(f"loss {loss:.3f}, {100 * clipped:.1f} % of units clipped", flush=True)
    images, labels = load(folder, "test_batch")
    with average.applied():
        print(f"test accuracy {100 * accuracy(net, images.to(device), labels.to(device)):.2f} %")


if __name__ == "__main__":
    main()
