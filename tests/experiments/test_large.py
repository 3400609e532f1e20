"""One large run: recipe, folder, augmentation, loop; two processes against one, resumed against uninterrupted.

Run by torchrun, this file is the two processes: it trains the cases below and leaves their checkpoints and metrics.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partialmethod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from typer.testing import CliRunner

from experiments import records
from experiments.large import augment, checkpoint, imagenet
from experiments.large.__main__ import app, record
from experiments.large.augment import draws, mix, prepare
from experiments.large.folder import Groups, TrainImages, random_crop, scan, squash_and_crop
from experiments.large.forecast import plan
from experiments.large.imagenet import NAMES, config, with_sam
from experiments.large.large_run import Augment, LargeRecipe, LargeRun, Layout, rate_at
from experiments.large.loop import Result, fit, on_folder
from experiments.large.randaugment import OPERATIONS, rand_augment
from experiments.large.trainer import Trainer
from experiments.large.world import World, world
from experiments.profiles import PROFILES

ROOT = Path(__file__).resolve().parents[2]
ALONE = World(0, 1, torch.device("cpu"))
LAYOUT = Layout(micro=4, workers=0, device="cpu", checkpoint_every=2, log_every=1)
# Parameters, and multiply-adds (G) at the training resolution.
PAPER = {
    "nfnet_f0": (71_489_284, 6.98), "nfnet_f1": (132_634_256, 17.44), "nfnet_f2": (193_779_228, 33.14),
    "nfnet_f3": (254_924_200, 67.94), "nfnet_f4": (316_069_172, 121.12), "nfnet_f5": (377_214_144, 169.50),
    "nfnet_f6": (438_359_116, 228.29),
}  # fmt: skip
COLOURS = ((200, 60, 60), (60, 200, 60), (60, 60, 200))


def make_folder(root: Path, train: int = 8, val: int = 3) -> Path:
    """Three classes of noise around a colour each, 40 px, jpg and png."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for label, colour in enumerate(COLOURS):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(rng.normal(colour, 40, (40, 44, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.{'png' if i % 2 else 'JPEG'}")
    return root


def run_on(data: Path) -> LargeRun:
    """Four updates of one block a stage, in float32 and at a high rate, so that a difference would show."""
    run = on_folder(config("nfnet_f0", "smoke"), data)
    recipe = replace(run.recipe, epochs=2.7, rate=8.0, autocast=False, decay=0.9)
    return replace(run, recipe=recipe, model=replace(run.model, depth=(1, 1, 1, 1)))


FSDP = replace(LAYOUT, shard="fsdp")
CASES: dict[str, tuple[Layout, bool]] = {"ddp": (LAYOUT, False), "fsdp": (FSDP, False)}
SAM_CASES: dict[str, tuple[Layout, bool]] = {"ddp_sam": (LAYOUT, True), "fsdp_sam": (FSDP, True)}


def train_case(name: str, data: Path, out: Path, at: World) -> Result:
    layout, sam = (CASES | SAM_CASES)[name]
    run = with_sam(run_on(data)) if sam else run_on(data)
    return fit(run, data, out, layout, at)


def two_processes(data: Path, out: Path, sam: bool) -> None:
    """What each of the two processes does; process 0 writes down the metrics."""
    torch.set_num_threads(1)
    with world("cpu") as at:
        metrics = {name: train_case(name, data, out / name, at).metrics for name in (SAM_CASES if sam else CASES)}
        if not sam:
            run, resumed = run_on(data), out / "resumed"
            fit(run, data, resumed, replace(LAYOUT, stop_after=2), at)
            metrics["resumed"] = fit(run, data, resumed, LAYOUT, at).metrics
        if at.rank == 0:
            (out / "metrics.json").write_text(json.dumps(metrics))


def torchrun(*args: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *args)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def twice(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return start_two(data, tmp_path_factory.mktemp("two"), "plain")


def start_two(data: Path, out: Path, what: str) -> Path:
    done = torchrun(__file__, str(data), str(out), what)
    assert done.returncode == 0, done.stderr
    return out


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()]


def weights(run: LargeRun, out: Path) -> dict[str, Tensor]:
    """Weights, momentum and average of the last checkpoint, whoever wrote it, read by one process."""
    trainer = Trainer(run, LAYOUT, ALONE)
    step = checkpoint.load(out / "checkpoints", run, trainer.model, trainer.optimizer, trainer.average, ALONE)
    assert step == run.steps
    state = checkpoint._state(trainer.model, trainer.optimizer, trainer.average)
    return {f"{kind}/{name}": tensor for kind, tensors in state.items() for name, tensor in tensors.items()}


def assert_as_one_process(out: Path, name: str, data: Path, alone: Path) -> None:
    """Losses, metrics, and the checkpoint, against the same run on one process, where one unit of rounding differs."""
    run = with_sam(run_on(data)) if "sam" in name else run_on(data)
    result = fit(run, data, alone, LAYOUT, ALONE)
    np.testing.assert_allclose(losses(out / name), losses(alone), rtol=1e-4)
    metrics = json.loads((out / "metrics.json").read_text())[name]
    assert metrics == pytest.approx(result.metrics, rel=1e-3)
    expected = weights(run, alone)
    for key, tensor in weights(run, out / name).items():
        torch.testing.assert_close(
            tensor, expected[key], rtol=1e-3, atol=1e-4, msg=lambda text, key=key: f"{key}: {text}"
        )
    start = Trainer(run, LAYOUT, ALONE).model.named_parameters()
    assert max(float((expected[f"model/{key}"] - p.detach()).abs().max()) for key, p in start) > 1e-2


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_as_one(twice: Path, data: Path, tmp_path: Path, name: str) -> None:
    assert_as_one_process(twice, name, data, tmp_path)


@pytest.mark.slow
def test_two_processes_train_as_one_with_sam(data: Path, tmp_path: Path) -> None:
    out = start_two(data, tmp_path, "sam")
    for name in SAM_CASES:
        assert_as_one_process(out, name, data, tmp_path / f"alone_{name}")


def test_resumed_on_two_processes_is_uninterrupted_to_the_bit(twice: Path) -> None:
    metrics = json.loads((twice / "metrics.json").read_text())
    assert losses(twice / "resumed") == losses(twice / "ddp")
    assert metrics["resumed"] == metrics["ddp"]


def test_resumed_on_one_process_is_uninterrupted_to_the_bit(data: Path, tmp_path: Path) -> None:
    run = with_sam(run_on(data))
    whole = fit(run, data, tmp_path / "whole", LAYOUT, ALONE)
    stopped = fit(run, data, tmp_path / "parts", replace(LAYOUT, stop_after=2), ALONE)
    assert (stopped.status, stopped.metrics) == ("stopped", {"updates": 2})
    with (tmp_path / "parts" / "log.jsonl").open("a") as log:
        log.write('{"update": 3, "lo')  # torn by a kill
    resumed = fit(run, data, tmp_path / "parts", replace(LAYOUT, workers=1), ALONE)
    assert resumed == whole
    one, other = weights(run, tmp_path / "whole"), weights(run, tmp_path / "parts")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_accumulated_gradients_are_those_of_one_batch(data: Path) -> None:
    run = run_on(data)
    run = replace(run, model=replace(run.model, dropout=0.0, stochastic_depth=0.0, skip_gain=1.0))
    grads, found = [], []
    for micro in (16, 8, 4):
        trainer = Trainer(run, replace(LAYOUT, micro=micro), ALONE)
        images = TrainImages(scan(data, "train"), run.size.train, run.seed)
        items = [images[k] for k in range(32)]
        x, y = torch.stack([image for image, _ in items]), torch.tensor([label for _, label in items])
        ready = trainer._prepared(0, list(zip(x.split(2 * micro), y.split(2 * micro))))
        found.append(float(trainer._backward(0, ready)))
        grads.append(torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]))
    assert found[1:] == pytest.approx([found[0]] * 2, rel=1e-5)
    for grad in grads[1:]:
        torch.testing.assert_close(grad, grads[0], rtol=1e-3, atol=1e-6)


def test_a_checkpoint_killed_in_the_middle_is_none(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = dcp.save

    def killed(state: Any, *, checkpoint_id: Path, no_dist: bool) -> None:
        if "00000004" in checkpoint_id.name:
            (checkpoint_id / "half.distcp").write_bytes(b"half")
            raise KeyboardInterrupt
        real(state, checkpoint_id=checkpoint_id, no_dist=no_dist)

    monkeypatch.setattr(dcp, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        fit(run_on(data), data, tmp_path, LAYOUT, ALONE)
    assert [path.name for path in checkpoint.complete(tmp_path / "checkpoints")] == ["step-00000002"]
    monkeypatch.undo()
    assert fit(run_on(data), data, tmp_path, LAYOUT, ALONE).status == "ok"
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000002", "step-00000004"]
    other = replace(run_on(data), seed=1)
    with pytest.raises(ValueError, match=r"belongs to another run .* choose another --out"):
        fit(other, data, tmp_path, LAYOUT, ALONE)


def test_divergence_is_recorded(data: Path, tmp_path: Path) -> None:
    run = run_on(data)
    run = replace(run, recipe=replace(run.recipe, rate=1e30, clip_factor=None))
    result = fit(run, data, tmp_path, LAYOUT, ALONE)
    assert result.status == "diverged"
    assert result.reason.startswith("loss nan at update")
    assert result.curve["loss"][-1] is None
    line = record(run, result, ALONE, "2026-01-01T00:00:00Z", 1.0).line()
    assert json.loads(line)["status"] == "diverged"


def test_command_line_end_to_end_on_two_processes(data: Path, tmp_path: Path) -> None:
    options = ("--profile=smoke", "--micro=8", "--workers=1", "--device=cpu", "--log-every=1", "--checkpoint-every=2")
    done = torchrun("-m", "experiments.large", "nfnet_f0", "--data", str(data), "--out", str(tmp_path), *options)
    assert done.returncode == 0, done.stderr
    [line] = (tmp_path / "nfnet_f0.jsonl").read_text().splitlines()
    found = records.Record(**json.loads(line))
    assert (found.status, found.provenance["processes"], found.metrics["updates"]) == ("ok", 2, 3)
    assert len(losses(tmp_path)) == 3
    assert 0 <= found.metrics["accuracy"] <= 1
    assert done.stdout.count("GPU-hours") == 1


@pytest.mark.slow
def test_killed_at_any_moment_and_started_again_is_uninterrupted(data: Path, tmp_path: Path) -> None:
    options = ("--profile=smoke", "--micro=8", "--workers=1", "--device=cpu", "--log-every=1", "--checkpoint-every=1")
    command = [sys.executable, "-m", "experiments.large", "nfnet_f0", f"--data={data}", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*command, f"--out={tmp_path / 'whole'}"], cwd=ROOT, env=environment, check=True)
    out, kills = tmp_path / "killed", 0
    for wait in (0.0, 0.1, 0.4):  # after the first update that was logged since the start
        before = len(losses(out)) if out.exists() else 0
        process = subprocess.Popen([*command, f"--out={out}"], cwd=ROOT, env=environment, stdout=subprocess.PIPE)
        assert process.stdout is not None
        while b"update=" not in process.stdout.readline() and process.poll() is None:
            pass
        time.sleep(wait)
        kills += process.poll() is None
        process.kill()
        process.wait()
        assert len(losses(out)) >= before
    subprocess.run([*command, f"--out={out}"], cwd=ROOT, env=environment, check=True)
    assert kills
    assert losses(out) == losses(tmp_path / "whole")


@pytest.mark.slow
def test_compiled_blocks_train_the_same(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Capture without code generation: with it the same losses come out after some minutes of compiling.
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend="aot_eager"))
    run = run_on(data)
    run = replace(run, model=replace(run.model, dropout=0.0, stochastic_depth=0.0))
    plain = fit(run, data, tmp_path / "plain", LAYOUT, ALONE)
    compiled = fit(run, data, tmp_path / "compiled", replace(LAYOUT, compile=True), ALONE)
    assert compiled.curve["loss"] == pytest.approx(plain.curve["loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["nfnet_f9"], "config 'nfnet_f9' is not known; use one of nfnet_f0"),
        (["nfnet_f0"], "--data is missing"),
        (["nfnet_f0", "--plan", "--shard", "zero"], "shard='zero' is not known; use ddp"),
        (["nfnet_f0", "--plan", "--micro", "60"], "batch_size=4096 is not a whole number of times micro=60 x 1"),
        (["nfnet_f0", "--data", "nowhere"], "has no folder 'train'; expected nowhere/train/<class>"),
        (["nfnet_f0", "--processes", "8"], "is for --plan; torchrun sets the number"),
        (["nfnet_f0", "--plan", "--utilisation", "2"], "utilisation=2.0 must be in"),
    ],
)
def test_command_line_errors(arguments: list[str], match: str) -> None:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert match in done.stderr


def test_fsdp_without_torchrun_says_what_to_do(data: Path) -> None:
    with pytest.raises(ValueError, match="start it with torchrun"):
        Trainer(run_on(data), FSDP, ALONE)


@pytest.mark.parametrize("name", [NAMES[0], *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[1:])])
def test_plan_of_the_paper_profile(name: str) -> None:
    result = CliRunner().invoke(app, [name, "--plan", "--micro", "32"])
    assert result.exit_code == 0, result.output
    parameters, macs = PAPER[name]
    assert f"{parameters:,} parameters" in result.stdout
    assert f"{macs:.2f} G forward x 3 x images" in result.stdout
    assert "112,602 updates of 4096 = 1 process(es) x 128 x 32; warm-up 1563.9, peak rate 1.6" in result.stdout
    assert plan(with_sam(config(name)), LAYOUT).passes == pytest.approx(3.6)


def test_plan_divides_the_work_and_the_state() -> None:
    result = CliRunner().invoke(app, ["nfnet_f1", "--plan", "--processes", "8", "--shard", "fsdp", "--sam"])
    assert "4096 = 8 process(es) x 8 x 64" in result.stdout
    assert "17.44 G forward x 3.6 x images = 2.9e+19" in result.stdout
    assert "0.2 for weights, gradients, momentum and average" in result.stdout


def test_config_docstring_keeps_the_contract() -> None:
    for field in ("Question", "Paper", "Command", "Cost", "Expected"):
        assert re.search(rf"^{field}: \w", imagenet.__doc__ or "", re.MULTILINE), field


def test_every_config_builds_at_every_profile() -> None:
    for profile in PROFILES:
        runs = [config(name, profile) for name in NAMES]
        assert len({run.key for run in runs}) == len(NAMES)
        assert replace(runs[0], seed=1, name="other").key == runs[0].key
        assert with_sam(runs[0]).key != runs[0].key
        assert all(run.recipe.batch_size % 16 == 0 for run in runs)


def test_paper_recipe_is_the_sheet() -> None:
    runs = [config(name) for name in NAMES]
    assert [run.augment.magnitude for run in runs] == [5, 10, 10, 15, 15, 15, 15]
    assert [run.model.dropout for run in runs] == [0.2, 0.3, 0.4, 0.4, 0.5, 0.5, 0.5]
    for run in runs:
        assert run.model.stochastic_depth == 0.25
        assert run.recipe == LargeRecipe()
        assert (run.augment.cutout, run.augment.translate, run.augment.layers) == (40, 100, 4)
    parameters = Trainer(replace(config("nfnet_f0", "smoke")), LAYOUT, ALONE).optimizer.param_groups
    assert sorted({group["weight_decay"] for group in parameters}) == [0.0, 2e-5]
    assert all(group["nesterov"] and group["momentum"] == 0.9 for group in parameters)


def test_learning_rates_are_the_authors() -> None:
    assets = ROOT / "tests" / "parity" / "assets"
    about = json.loads((assets / "ops_a.json").read_text())["lr_schedules"]
    run = config("nfnet_f0")
    with np.load(assets / "ops_a.npz") as arrays:
        ours = [rate_at(step, run.steps, run.warmup, run.peak) for step in arrays["lr_f0_imagenet_step"]]
        # The authors' warm-up length, 1563.92..., was rounded to float32.
        np.testing.assert_allclose(ours, arrays["lr_f0_imagenet"], rtol=1e-6, atol=1e-12)
        for name, case in about.items():
            shape = (case["num_steps"], case["warmup_steps"], case["max_val"], case["start_val"], case["min_val"])
            ours = [rate_at(step, *shape) for step in arrays[f"lr_{name}_step"]]
            np.testing.assert_allclose(ours, arrays[f"lr_{name}"], rtol=1e-12, atol=1e-15)


# Folder


def test_folder_errors_name_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no folder 'train'; .* Point --data"):
        scan(tmp_path, "train")
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match="has no class folders; expected"):
        scan(tmp_path, "train")
    data = make_folder(tmp_path / "data", 1, 1)
    (data / "val" / "class2").rename(data / "val" / "klass2")
    with pytest.raises(ValueError, match=r"only in val \['klass2'\] \(1\), only in train \['class2'\] \(1\)"):
        on_folder(config("nfnet_f0", "smoke"), data)
    (data / "train" / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty has no images; accepted are \.jpg"):
        scan(data, "train")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_image_is_named(tmp_path: Path, workers: int) -> None:
    data = make_folder(tmp_path / "data", 2, 1)
    whole = (data / "train" / "class1" / "0.JPEG").read_bytes()
    (data / "train" / "class1" / "0.JPEG").write_bytes(whole[: len(whole) // 2])
    run = on_folder(config("nfnet_f0", "smoke"), data)
    with pytest.raises(ValueError, match=r"class1/0\.JPEG cannot be decoded .* replace the file"):
        fit(run, data, tmp_path / "out", replace(LAYOUT, workers=workers), ALONE)


def test_each_pass_has_every_image_once_whoever_asks(data: Path) -> None:
    images = TrainImages(scan(data, "train"), 32, seed=0)
    count = len(images.folder)
    passes = [[images[k] for k in range(epoch * count, (epoch + 1) * count)] for epoch in (0, 1)]
    labels = [[label for _, label in items] for items in passes]
    assert labels[0] != labels[1]
    assert sorted(labels[0]) == sorted(labels[1]) == sorted(images.folder.labels.tolist())
    assert torch.equal(images[5][0], passes[0][5][0])
    whole = [k for group in Groups(3, 5, 24, 4, 0, 1) for k in group]
    parts = [list(Groups(3, 5, 24, 4, rank, 3)) for rank in range(3)]
    assert whole == list(range(72, 120))
    assert sorted(k for part in parts for group in part for k in group) == whole
    assert [len(Groups(3, 5, 24, 4, rank, 3)) for rank in range(3)] == [len(part) for part in parts] == [4] * 3


def test_evaluation_squashes_the_whole_image_and_crops_its_centre() -> None:
    ramp = np.broadcast_to(np.linspace(0, 255, 256, dtype=np.float32)[None, :, None], (64, 256, 3))
    found = np.asarray(squash_and_crop(Image.fromarray(ramp.astype(np.uint8)), 96))
    assert found.shape == (96, 96, 3)
    expected = 255 * ((np.arange(96) + 16 + 0.5) * 2 - 0.5) / 255
    np.testing.assert_allclose(found[:, :, 0], np.broadcast_to(expected, (96, 96)), atol=1.0)


def test_crops_are_within_the_stated_bounds() -> None:
    # Each pixel says where it came from: x in red, y in green.
    x, y = np.meshgrid(np.arange(0, 240), np.arange(0, 200))
    image = Image.fromarray(np.stack((x, y, 0 * x), 2).astype(np.uint8))
    rng, flips = np.random.default_rng(0), 0
    for _ in range(50):
        crop = np.asarray(random_crop(image, 64, rng)).astype(float)
        width, height = np.ptp(crop[32, :, 0]) * 64 / 63, np.ptp(crop[:, 32, 1]) * 64 / 63
        assert 0.06 < width * height / (200 * 240) < 1.02
        assert 0.7 < width / height < 1.43
        flips += crop[32, 0, 0] > crop[32, -1, 0]
    assert 15 < flips < 35


# Augmentation


def batch(count: int, side: int = 24) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)
    return images, torch.arange(count) % 5


def test_augmentation_is_the_same_however_the_batch_is_split() -> None:
    (images, labels), what = batch(32), Augment(magnitude=15, cutout=7, translate=10)
    u = draws(what, 0, 7, 16)
    whole, targets = prepare(images, labels, u, what, 5)
    for size in (2, 4):
        parts = [
            prepare(images[2 * i : 2 * (i + size)], labels[2 * i : 2 * (i + size)], u[i : i + size], what, 5, i)
            for i in range(0, 16, size)
        ]
        torch.testing.assert_close(torch.cat([x for x, _ in parts]), whole, rtol=0, atol=0)
        torch.testing.assert_close(torch.cat([t for _, t in parts]), targets, rtol=0, atol=0)
    assert whole.shape == (16, 3, 24, 24)
    raw = whole * torch.tensor(augment.STD)[:, None, None] + torch.tensor(augment.MEAN)[:, None, None]
    assert raw.min() > -1e-5
    assert raw.max() < 1 + 1e-5
    levels = raw * 255
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-2)
    assert not torch.equal(draws(what, 0, 8, 16), u)
    assert not torch.equal(draws(what, 1, 7, 16), u)


def test_mixed_labels_are_the_shares_of_the_pixels() -> None:
    first, second = torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32)
    x = torch.cat((first, second)).repeat(400, 1, 1, 1)
    targets = torch.eye(2).repeat(400, 1)
    u = draws(Augment(), 0, 0, 400)
    mixed, labels = mix(x, targets, u, 0.2)
    torch.testing.assert_close(mixed.mean((1, 2, 3)), labels[:, 1], rtol=0, atol=1e-5)
    torch.testing.assert_close(labels.sum(1), torch.ones(400), rtol=0, atol=1e-6)
    mixup, cutmix = mixed[0::2], mixed[1::2]
    assert bool((mixup == mixup[:, :1, :1, :1]).all())
    assert bool(((cutmix == 0) | (cutmix == 1)).all())
    # Beta(0.2, 0.2) has variance 1 / (4 * 1.4); CutMix's patch loses at the border, so it is below one half.
    assert float(labels[0::2, 0].var()) == pytest.approx(1 / 5.6, abs=0.03)
    assert 0.25 < float(labels[1::2, 0].mean()) < 0.45


def of_pillow(name: str, image: Image.Image, strength: float) -> Image.Image:
    factor = 1.8 * strength + 0.1
    operations: dict[str, Callable[[], Image.Image]] = {
        "auto_contrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "invert": lambda: ImageOps.invert(image),
        "posterize": lambda: ImageOps.posterize(image, int(4 * strength)),
        "solarize": lambda: ImageOps.solarize(image, int(256 * strength)),
        "color": lambda: ImageEnhance.Color(image).enhance(factor),
        "contrast": lambda: ImageEnhance.Contrast(image).enhance(factor),
        "brightness": lambda: ImageEnhance.Brightness(image).enhance(factor),
        "sharpness": lambda: ImageEnhance.Sharpness(image).enhance(factor),
    }
    return operations[name]()


def one_operation(x: Tensor, name: str, what: Augment, sign: float = 0.9, place: float = 0.5) -> Tensor:
    """Images in [0, 255] after one operation of RandAugment."""
    u = torch.full((len(x), 4), place, dtype=torch.float64)
    u[:, 0], u[:, 1] = (OPERATIONS.index(name) + 0.5) / len(OPERATIONS), sign
    return rand_augment(x / 255, u, replace(what, layers=1)) * 255


# Pillow takes no threshold of solarize above 256, which it is at magnitude 15: the identity, tested below.
PILLOW = [name for name in OPERATIONS[5:-1] if name != "solarize_add"]


@pytest.mark.parametrize(("name", "magnitude"), [(n, m) for n in PILLOW for m in (5, 15) if (n, m) != ("solarize", 15)])
def test_colour_operations_are_pillows(name: str, magnitude: float) -> None:
    images = (batch(4)[0].float() * 0.6 + 30).floor()
    found = one_operation(images, name, Augment(magnitude=magnitude))
    for ours, source in zip(found, images):
        picture = Image.fromarray(source.permute(1, 2, 0).numpy().astype(np.uint8))
        expected = np.asarray(of_pillow(name, picture, magnitude / 10)).astype(float)
        difference = np.abs(ours.permute(1, 2, 0).numpy() - expected)
        # The levels differ by rounding, times the factor of the enhancement; Pillow's mean grey is rounded, too.
        assert difference.max() <= 3.0
        assert difference.mean() <= 1.0


def test_operations_that_are_our_own() -> None:
    x = batch(2, 40)[0].float()
    assert torch.equal(one_operation(x, "solarize", Augment(magnitude=15)).round(), x)
    added = one_operation(x, "solarize_add", Augment(magnitude=5)).round()
    assert torch.equal(added, torch.where(x < 128, x + 55, x))
    grey = one_operation(x, "cutout", Augment(magnitude=5, cutout=20)).round()
    expected = x.clone()
    expected[:, :, 10:30, 10:30] = 128
    assert torch.equal(grey, expected)


def test_warps_move_the_picture_and_fill_with_grey() -> None:
    x, what = batch(2, 40)[0].float(), Augment(magnitude=5, translate=20)
    right = one_operation(x, "translate_x", what).round()
    assert torch.equal(right[..., 10:], x[..., :30])
    assert bool((right[..., :10] == 128).all())
    up = one_operation(x, "translate_y", what, sign=0.1).round()
    assert torch.equal(up[:, :, :30], x[:, :, 10:])
    assert bool((up[:, :, 30:] == 128).all())
    quarter = one_operation(x, "rotate", Augment(magnitude=30)).round()  # 3 x 30 degrees
    back = one_operation(quarter, "rotate", Augment(magnitude=30), sign=0.1).round()
    same = [(quarter == torch.rot90(x, turns, (2, 3))).float().mean() for turns in (1, 3)]
    assert max(same) > 0.95
    assert (back == x).float().mean() > 0.95
    sheared = one_operation(x, "shear_x", Augment(magnitude=10)).round()
    assert torch.equal(sheared[:, :, 0], x[:, :, 0])
    assert torch.equal(sheared[:, :, 20, 6:], x[:, :, 20, :-6])


if __name__ == "__main__":
    two_processes(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "sam")
