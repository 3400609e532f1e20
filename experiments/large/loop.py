"""The training loop of one large run: resume, update, log, checkpoint, evaluate."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from experiments.large import augment, checkpoint
from experiments.large.folder import IGNORED, Folder, Groups, TestImages, TrainImages, scan
from experiments.large.large_run import LargeRun, Layout
from experiments.large.log import Log
from experiments.large.trainer import Batch, Trainer
from experiments.large.world import World


@dataclass(frozen=True)
class Result:
    """Outcome of a run: status ``"ok"``, ``"diverged"`` or ``"stopped"``, metrics, and the logged losses."""

    status: str
    reason: str
    metrics: dict[str, float]
    curve: dict[str, list[float]]


def on_folder(run: LargeRun, data: Path) -> LargeRun:
    """The run with the numbers of images and classes of a folder, from which steps and classifier follow."""
    train = scan(data, "train")
    scan(data, "val", train.classes)
    return replace(run, model=replace(run.model, num_classes=len(train.classes)), images=len(train))


def fit(run: LargeRun, data: Path, out: Path, layout: Layout, at: World) -> Result:
    """Train from the newest checkpoint in `out` to the end, to `layout.stop_after` or to a loss that is not finite.

    Pass `run` through `on_folder` first. All random numbers come from ``run.seed`` and the position in the run; the
    state of torch's global generator is restored.
    """
    with torch.random.fork_rng(devices=[at.device] if at.device.type == "cuda" else []):
        return _fit(run, data, out, layout, at)


def _fit(run: LargeRun, data: Path, out: Path, layout: Layout, at: World) -> Result:
    train, val = scan(data, "train"), scan(data, "val")
    trainer = Trainer(run, layout, at)
    state = (run, trainer.model, trainer.optimizer, trainer.average, at)
    start = checkpoint.load(out / "checkpoints", *state)
    stop = run.steps if layout.stop_after is None else min(run.steps, layout.stop_after)
    log = Log(out / "log.jsonl", start, at)
    trainer.model.train()
    pending: list[tuple[Tensor, Tensor]] = []
    for step, batches in enumerate(_batches(run, train, layout, at, start, stop), start):
        pending.append(trainer.update(step, batches))
        done = step + 1
        due = done % layout.checkpoint_every == 0 or done == stop
        if due or done % layout.log_every == 0:
            loss, clipped = at.mean(torch.stack([torch.stack(pair) for pair in pending]).mean(0)).tolist()
            rate = trainer.optimizer.param_groups[0]["lr"]
            log.write(done, loss, rate, clipped, len(pending) * run.recipe.batch_size)
            pending.clear()
            if not isfinite(loss):
                reason = f"loss {loss} at update {done} of {run.steps}, or up to {layout.log_every} before"
                return Result("diverged", reason, {"updates": done}, log.curve())
        if due:
            checkpoint.save(out / "checkpoints", done, *state)
    if stop < run.steps:
        return Result("stopped", f"after update {stop} of {run.steps}", {"updates": stop}, log.curve())
    metrics = {"updates": float(run.steps)}
    if log.lines:
        metrics["train_loss"] = log.lines[-1]["loss"]
    with trainer.average.applied():
        metrics |= evaluate(trainer.model, run, val, layout, at)
    raw = evaluate(trainer.model, run, val, layout, at)
    metrics |= {f"{name}_last_weights": value for name, value in raw.items()}
    if not isfinite(metrics["loss"]):
        return Result("diverged", f"loss {metrics['loss']} on the val images", metrics, log.curve())
    return Result("ok", "", metrics, log.curve())


def _batches(run: LargeRun, train: Folder, layout: Layout, at: World, start: int, stop: int) -> Iterator[list[Batch]]:
    """This process's part of each update, as groups of decoded images."""
    images = TrainImages(train, run.size.train, run.seed)
    each = 2 if run.augment.mix else 1
    order = Groups(start, stop, each * run.recipe.batch_size, each * layout.micro, at.rank, at.size)
    pin = at.device.type == "cuda"
    loader = DataLoader(images, batch_sampler=order, num_workers=layout.workers, pin_memory=pin)
    groups, count = iter(loader), layout.accumulation(run.recipe.batch_size, at.size)
    for _ in range(start, stop):
        yield [tuple(next(groups)) for _ in range(count)]


@torch.no_grad()
def evaluate(model: nn.Module, run: LargeRun, val: Folder, layout: Layout, at: World) -> dict[str, float]:
    """Accuracy (in [0, 1]) and mean cross entropy (nats) over a folder, shared among the processes."""
    images, count = TestImages(val, run.size.test), len(val)
    # All processes need the same number of passes, because a sharded model gathers its weights in each pass.
    passes = -(-count // (at.size * layout.micro))
    begin = at.rank * passes * layout.micro
    order = [list(range(begin + i * layout.micro, begin + (i + 1) * layout.micro)) for i in range(passes)]
    totals = torch.zeros(2, dtype=torch.float64)
    was = model.training
    model.eval()
    for x, labels in DataLoader(images, batch_sampler=order, num_workers=layout.workers):
        x = augment.normalize(x.to(at.device).float() / 255)
        with torch.autocast(at.device.type, torch.bfloat16, enabled=run.recipe.autocast):
            logits = model(x).float().cpu()
        loss = F.cross_entropy(logits, labels, reduction="sum", ignore_index=IGNORED)
        totals += torch.stack(((logits.argmax(1) == labels).sum(), loss)).double()
    model.train(was)
    correct, loss = (at.sum(totals.to(at.device)) / count).tolist()
    return {"accuracy": correct, "loss": loss}
