"""Speed of the engine beside ordinary training (a loader, an eager step, one run after another), on the same runs.

The runs are a slice of the batch-size sweep: of smoke on a CPU, and of gpu on a GPU, at a small and at a large batch.
Their speeds are compared only if both ways train equally well. The report in `experiments/results/bench/` says how it
was measured.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any
from unittest.mock import patch

import torch
from rich.console import Console
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import nfnets_lite as nf
from experiments import records
from experiments.bench.races import SLICES, Slice
from experiments.engine import STREAMS, Where, backend_for, default_workers, resolve_device, run_sweep
from experiments.engine.dispatch import dispatch
from experiments.engine.journal import Journal
from experiments.engine.pool import Backend
from experiments.records import Record
from experiments.records.provenance import provenance
from experiments.records.statistics import Estimate, estimate
from experiments.sweep import Outcome, Run, Sweep, drain
from experiments.tasks.data import load
from experiments.tasks.descent import rate_at
from experiments.tasks.training import Training

OUT = Path(__file__).resolve().parents[1] / "results" / "bench" / "engine.json"
REPEATS = 3
NOISE = 0.05
TINY = 40


def ways(device: torch.device) -> dict[str, int]:
    """Number of threads of each ordinary way, 0 for torch's default; one thread is best for small networks."""
    return {"ordinary": 0, "ordinary, 1 thread": 1} if device.type == "cpu" else {"ordinary": 0}


def ordinary(run: Training, device: torch.device) -> float:
    """Train one run as training code is usually written; return the accuracy on the run's images."""
    torch.manual_seed(run.seed)
    splits, recipe = load(run.data, device), run.recipe
    train_set, test_set = (
        TensorDataset(splits[name].images.cpu(), splits[name].labels.cpu()) for name in ("train", run.split)
    )
    loader = DataLoader(train_set, recipe.batch_size, shuffle=True)
    model = nf.create_model(run.model).to(device)
    optimizer = torch.optim.SGD(
        model.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=True
    )
    epochs = round(recipe.epochs)
    updates = epochs * len(loader)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: rate_at(min(i, updates), updates, recipe) / recipe.lr
    )
    for _ in range(epochs):
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=recipe.autocast):
                loss = F.cross_entropy(model(images), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            if recipe.clip is not None:
                nf.adaptive_clip_grad_(model, recipe.clip.factor)
            optimizer.step()
            schedule.step()
            loss.item()
    model.eval()
    correct = 0
    with torch.no_grad():
        for images, labels in DataLoader(test_set, 1000):
            correct += int((model(images.to(device)).argmax(1) == labels.to(device)).sum())
    return correct / len(test_set)


def side_by_side(race: Slice, device: torch.device, say: Callable[[str], None]) -> dict[str, Any]:
    """Runs per minute of every way; the ways take turns, so that other load on the machine slows all of them."""
    workers, default = default_workers(device), torch.get_num_threads()
    rates: dict[str, list[float]] = {way: [] for way in ("engine", *ways(device))}
    accuracies: dict[str, list[float]] = {way: [] for way in rates}
    sweep = Sweep("bench", tuple(race.runs(0)), (race.rate,), (1000,), tuple(range(100, 100 + workers)))
    with tempfile.TemporaryDirectory() as folder:
        streams = STREAMS if device.type == "cuda" else 1  # as `run` has it
        where = Where(race.profile, Path(folder), device, workers, streams=streams)
        backend = backend_for(sweep, where, workers)
        work = (backend, Path(folder) / "bench.jsonl")
        # One short run for each worker: start-up costs, which a sweep pays once; the ordinary way paid by its import.
        short = [replace(r, recipe=replace(r.recipe, epochs=0.1)) for r in race.runs(0)[:1] * workers]
        clock = time.perf_counter()
        _recorded([replace(r, seed=i) for i, r in enumerate(short)], *work)
        startup = time.perf_counter() - clock
        ordinary(replace(short[0], recipe=replace(short[0].recipe, epochs=1.0)), device)
        for seed in range(REPEATS):
            clock = time.perf_counter()
            found = _recorded(race.runs(seed), *work)
            rates["engine"].append(60 * len(found) / (time.perf_counter() - clock))
            accuracies["engine"] += [records.accuracy(r) / 100 for r in found]
            for way, threads in ways(device).items():
                torch.set_num_threads(threads or default)
                clock = time.perf_counter()
                accuracies[way] += [ordinary(run, device) for run in race.runs(seed)]
                rates[way].append(60 * len(found) / (time.perf_counter() - clock))
            torch.set_num_threads(default)
            say(
                f"repeat {seed + 1}: " + ", ".join(f"{way} {each[-1]:.1f}" for way, each in rates.items()) + " runs/min"
            )
        backend.close(now=False)
    means = {way: fmean(values) for way, values in accuracies.items()}
    if max(means.values()) - min(means.values()) > NOISE or min(means.values()) < race.floor:
        raise RuntimeError(f"the ways do not train equally well, so their speeds do not compare: accuracies {means}")
    ratios = {way: estimate([e / o for e, o in zip(rates["engine"], rates[way])]) for way in ways(device)}
    return {"runs_per_minute": rates, "ratios": ratios, "accuracy": means, "startup_s": startup, "workers": workers}


def _recorded(todo: Sequence[Run], backend: Backend, path: Path) -> list[Record]:
    def lost(run: Run, reason: str, seconds: float) -> Record:
        raise RuntimeError(f"a worker died: {reason}")

    with Journal(path) as journal:
        return list(dispatch(todo, backend, journal, lost))


def overhead_ms(device: torch.device) -> Estimate:
    """Milliseconds that the engine adds to the bare training of a run, measured on tiny runs in this process."""
    spent: list[float] = []
    steps = Training.steps

    def timed(run: Training, on: torch.device) -> Generator[None, None, Outcome]:
        clock = time.perf_counter()
        outcome = drain(steps(run, on))
        spent.append(time.perf_counter() - clock)
        yield
        return outcome

    race = SLICES["cpu"]["smoke sweep"]
    tiny = tuple(replace(r, recipe=replace(r.recipe, epochs=0.05)) for r in race.runs(0)[:1])
    ends: list[float] = []
    with tempfile.TemporaryDirectory() as folder, patch.object(Training, "steps", timed):
        sweep = Sweep("overhead", tiny, (race.rate,), (1000,), tuple(range(TINY)))
        start = time.perf_counter()
        run_sweep(sweep, Where("smoke", Path(folder), device, 1), lambda _: ends.append(time.perf_counter()))
    # The first run also pays costs that occur once: reading the commit, loading the data.
    whole = [b - a for a, b in zip([start, *ends], ends)]
    return estimate([1000 * (w - s) for w, s in zip(whole[1:], spent[1:])])


def main(device_name: str, console: Console) -> None:
    """Measure all slices and the overhead, print the results and write them to a file."""
    device = resolve_device(device_name)

    def say(text: str) -> None:
        console.print(text, highlight=False)

    slices = {}
    for name, race in SLICES["cuda" if device.type == "cuda" else "cpu"].items():
        say(f"{name}:")
        found = side_by_side(race, device, say)
        for way, rates in found["runs_per_minute"].items():
            say(f"{way}: {estimate(rates)} runs/min, accuracy {found['accuracy'][way]:.3f}")
        for way, ratio in found["ratios"].items():
            say(f"engine / {way}: {ratio:.2f} (95 % interval over {ratio.count} repeats)")
        say(f"{found['workers']} worker(s), {found['startup_s']:.1f} s once to start them")
        slices[name] = found | {"ratios": {way: vars(r) for way, r in found["ratios"].items()}, "slice": asdict(race)}
    overhead = overhead_ms(device)
    say(f"overhead {overhead:.1f} ms a run")
    whole = {
        "slices": slices,
        "overhead_ms": vars(overhead),
        "cores": os.cpu_count(),
        "threads_ordinary": torch.get_num_threads(),
        "load": os.getloadavg(),
        "provenance": provenance(device),
        "start": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    target = OUT.with_stem(f"{OUT.stem}-{device.type}")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    say(f"written to {target.name} in {target.parent.name}/")
