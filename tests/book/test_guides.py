"""The guides run to their end, show what they say, and their swap works on networks that the package has never seen."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nfnets_lite as nf
from book.tool.execute import execute, parameter_names, read_chapter
from book.tool.layout import Book, Job, Page, front_matter

REPO = Path(__file__).resolve().parents[2]
GUIDES = sorted((REPO / "book" / "guides").glob("*.md"))
LONGEST = 20  # lines of a block that a reader is to copy

each_guide = pytest.mark.parametrize("path", GUIDES, ids=[path.stem for path in GUIDES])


def code_cells(path: Path) -> list[Any]:
    return [cell for cell in read_chapter(path).cells if cell.cell_type == "code"]


@each_guide
def test_form(path: Path) -> None:
    kernel = front_matter(path).get("kernelspec", {})
    assert (kernel.get("name"), kernel.get("language")) == ("python3", "python")
    notebook = read_chapter(path)
    assert parameter_names(notebook, path.stem) == ["profile", "rerun", "device", "results_dir"]
    assert not any(cell.get("outputs") for cell in notebook.cells)
    titles = [line for cell in notebook.cells if cell.cell_type == "markdown" for line in cell.source.splitlines()]
    assert sum(line.startswith("# ") for line in titles) == 1


@each_guide
def test_every_block_can_be_copied(path: Path) -> None:
    shown = [cell for cell in code_cells(path) if "hide-input" not in cell.metadata.get("tags", [])]
    long = [cell.source for cell in shown if len(cell.source.splitlines()) > LONGEST]
    assert not long, long[0]
    own = [line for cell in code_cells(path) for line in cell.source.splitlines() if re.match(r"(from|import) ", line)]
    assert not [line for line in own if line.split()[1].split(".")[0] in ("book", "experiments")]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], str]:
    """Everything that a guide prints, executed as the book's build does it, once."""
    out = tmp_path_factory.mktemp("guides")

    @cache
    def run(path: Path) -> str:
        book = Book(REPO, REPO / "book", out)
        page = Page(f"guides/{path.stem}", path, is_chapter=True)
        given = {"profile": "smoke", "rerun": True, "device": "cpu", "results_dir": ""}
        execute(book, Job(page, "smoke", given, {}, ""), timeout=0, stream=False)
        notebook = nbformat.read(book.executed(page, "smoke"), as_version=4)
        shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        assert not [output for output in shown if output.get("name") == "stderr"]
        return "".join(output.get("text", "") for output in shown)

    return run


@pytest.mark.slow  # the build executes the guides, too; what they show is asked here
@each_guide
def test_it_runs_and_shows_its_mistakes(path: Path, outputs: Callable[[Path], str]) -> None:
    shown = outputs(path)
    assert shown.count("refused:") >= 3
    assert str(REPO) not in shown


@pytest.mark.slow
def test_recipes_agree_with_the_plain_loop_and_mistakes_do_not(outputs: Callable[[Path], str]) -> None:
    rows = re.findall(r"^(.+?) +norm \S+, +(\S+) % away$", outputs(_guide("agc")), re.M)
    away = {name: float(value) for name, value in rows}
    right = {name: value for name, value in away.items() if not name.startswith("mistake")}
    assert len(right) >= 7
    assert len(away) - len(right) >= 5
    assert right.pop("bfloat16") < 15
    assert max(right.values()) < 0.01, right
    assert min(value for name, value in away.items() if name not in right and name != "bfloat16") > 0.5, away


@pytest.mark.slow
def test_the_swapped_network_trains(outputs: Callable[[Path], str]) -> None:
    shown = outputs(_guide("replace"))
    table = shown[shown.index("last loss") :].splitlines()[1:6]
    losses = {line[:26].strip(): float(line[26:].split()[0]) for line in table}
    assert table[4].startswith("replaced, clipped")
    assert "nan" not in table[4]
    assert losses["replaced"] < 1 < losses["norm taken out"]
    accuracy = {name: float(value) for name, value in re.findall(r"^(\w+): .*?test +(\d+\.\d) %$", shown, re.M)}
    assert accuracy["folded"] == accuracy["trained"] > 80
    assert accuracy["swapped"] < 50


@pytest.mark.slow
def test_facts_are_probed_for_every_norm(outputs: Callable[[Path], str]) -> None:
    from nfnets_lite.norm import NORMS

    shown = outputs(_guide("norms"))
    assert all(re.search(rf"^{name} +(yes|\.)", shown, re.M) for name in NORMS)


def _guide(start: str) -> Path:
    return next(path for path in GUIDES if path.stem.startswith(start))


@pytest.fixture(scope="module")
def swap() -> Callable[..., nn.Module]:
    """`replace_norms`, from the guide's own cells, which need torch and the package alone."""
    space: dict[str, Any] = {}
    for cell in code_cells(_guide("replace")):
        if "swap" in cell.metadata.get("tags", []):
            exec(cell.source, space)
    function: Callable[..., nn.Module] = space["replace_norms"]
    return function


class Bottleneck(nn.Module):
    """As detection backbones have it, with in-place activations."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        inner = outputs // 4
        self.conv1, self.bn1 = nn.Conv2d(inputs, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = nn.Conv2d(inner, inner, 3, stride, 1, groups=2, bias=False), nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.down: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.down = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(y)))))
        return F.relu(y + self.down(x))


class Backbone(nn.Module):
    def __init__(self, depth: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        widths = (16, 32, 64, 64)
        self.stages = nn.ModuleList(
            nn.Sequential(Bottleneck(a, b, 2), *(Bottleneck(b, b, 1) for _ in range(depth - 1)))
            for a, b in pairwise(widths)
        )
        self.last = nn.Linear(64, 4)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.last(x.mean((2, 3)))  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """The way down of a U-Net, and one step up by a transposed convolution, grouped."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 8, 16, 32)
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(nn.Conv2d(a, b, 3, padding="same", bias=False), nn.BatchNorm2d(b), nn.ReLU()),
                *(nn.Conv2d(b, b, 3, padding=1, padding_mode="reflect"), nn.GroupNorm(4, b), nn.ReLU()),
            )
            for a, b in pairwise(widths)
        )
        grow = nn.ConvTranspose2d(32, 16, 3, stride=2, padding=1, output_padding=1, groups=2)
        self.stages.append(nn.Sequential(grow, nn.InstanceNorm2d(16), nn.ReLU()))
        self.last = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        for i, stage in enumerate(self.stages):
            x = stage(F.max_pool2d(x, 2) if i in (1, 2) else x)
        return self.last(x.mean((2, 3)))  # type: ignore[no-any-return]


def stage_variances(model: nn.Module, x: Tensor) -> list[float]:
    found: list[float] = []
    stages = model.get_submodule("stages").children()
    hooks = [s.register_forward_hook(lambda _m, _i, y: found.append(float(y.var((0, 2, 3)).mean()))) for s in stages]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return found


CASES = {"resnet": (Backbone, ("bn3",)), "unet": (Encoder, ())}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("skip_gain", [0.0, 1.0])
def test_swap_keeps_the_variance_and_trains(swap: Callable[..., nn.Module], case: str, skip_gain: float) -> None:
    make, ends = CASES[case]
    torch.manual_seed(0)
    x, y = torch.randn(32, 3, 32, 32), torch.randint(4, (32,))
    model = swap(make(), x, ends=ends, skip_gain=skip_gain)
    norms = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.GroupNorm)
    assert not [m for m in model.modules() if isinstance(m, norms)]
    assert not [m for m in model.modules() if type(m) in (nn.Conv2d, nn.ConvTranspose2d)]
    fresh = torch.randn(32, 3, 32, 32)  # not the images that the constants were measured on
    first, *_, last = stage_variances(model, fresh)
    assert 1 / 4 < last / first < 4

    optimizer = torch.optim.SGD(nf.param_groups(model, weight_decay=5e-4), lr=0.1, momentum=0.9)
    nf.attach_agc(optimizer, model, classifier=model.get_submodule("last"))
    losses = []
    for _ in range(8):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(value == value for value in losses)
    assert losses[-1] < losses[0]


def test_norms_taken_out_do_not_keep_it() -> None:
    torch.manual_seed(0)
    model = Backbone()
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            model.set_submodule(path, nn.Identity())
    first, *_, last = stage_variances(model, torch.randn(32, 3, 32, 32))
    assert not 1 / 4 < last / first < 4


def test_a_transposed_convolution_gets_the_constant_that_its_stride_takes(swap: Callable[..., nn.Module]) -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 16, 8, 8)
    model = swap(nn.Sequential(nn.ConvTranspose2d(16, 16, 4, stride=2, padding=1), nn.BatchNorm2d(16)), x)
    assert float(model(torch.randn(64, 16, 8, 8)).detach().var()) == pytest.approx(1, rel=0.1)
    assert float(model.get_buffer("1.factor")) == pytest.approx(2, rel=0.1)


def test_swap_refuses_an_end_that_is_not_there(swap: Callable[..., nn.Module]) -> None:
    with pytest.raises(ValueError, match="bn9"):
        swap(Backbone(1), torch.randn(4, 3, 32, 32), ends=("bn9",))


def test_swap_leaves_no_hook_and_its_constants_are_saved(swap: Callable[..., nn.Module]) -> None:
    torch.manual_seed(0)
    x = torch.randn(16, 3, 32, 32)
    model = swap(Backbone(1), x, ends=("bn3",), skip_gain=1.0)
    before = model(x)
    model(100 * x)
    assert torch.equal(model(x), before)
    other = swap(Backbone(1), 5 * torch.randn(16, 3, 32, 32), ends=("bn3",))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), before)
