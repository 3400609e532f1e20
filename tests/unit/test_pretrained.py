"""Weights in and out: the authors' trees, timm's state dicts, our own files, and the download."""

import base64
import hashlib
import io
import os
import pickle
import re
import subprocess
import sys
import threading
from argparse import Namespace
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import nfnets_lite.pretrained as pretrained
from nfnets_lite import create_model
from nfnets_lite.models import ResNet
from nfnets_lite.pretrained import WeightsMismatch, load_pretrained, save_pretrained
from nfnets_lite.pretrained.download import crc32c, download
from nfnets_lite.pretrained.names import slots
from nfnets_lite.pretrained.tree import read_tree
from tests.parity import golden

Tree = dict[str, dict[str, np.ndarray]]


def tiny(**overrides: Any) -> ResNet:
    shape = {"width": (64, 96, 160, 160), "depth": (1, 2, 2, 1), "group_width": 16, "num_classes": 10}
    return create_model("nfnet_f0", **{**shape, **overrides}).eval()


@pytest.fixture(scope="module")
def meta() -> dict[str, Any]:
    return golden.load("nfnet_tiny_64")[0]


@pytest.fixture
def tree(meta: dict[str, Any]) -> Tree:
    """The golden network's parameters, as the authors' framework stores them."""
    modules: Tree = {}
    for entry in meta["params"]:
        value = golden.value(entry["kind"], entry["name"], entry["shape"])
        if value.ndim == 4:
            value = value.transpose(2, 3, 1, 0)
        elif value.ndim == 2:
            value = value.T
        assert list(value.shape) == entry["haiku_shape"]
        modules.setdefault(entry["haiku_module"], {})[entry["haiku_leaf"]] = np.array(value, order="C")
    return modules


def dump(tree: Any, path: Path, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(tree, protocol=protocol))
    return path


def timm_state(model: ResNet) -> dict[str, torch.Tensor]:
    """A model's parameters under timm's names, in timm's shapes: gains (O, 1, 1, 1), squeeze-excite as 1x1."""
    state = {}
    for slot in slots(model):
        value = slot.parameter.detach()
        if slot.timm.endswith(".gain"):
            value = value[:, None, None, None]
        elif ".attn_last." in slot.timm and value.ndim == 2:
            value = value[:, :, None, None]
        state[slot.timm] = value.clone()
    return state


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


# --- the authors' trees


def test_a_tree_gives_the_authors_logits(tree: Tree, meta: dict[str, Any], tmp_path: Path) -> None:
    model = load_pretrained(tiny().double(), dump(tree, tmp_path / "tiny.npz"))
    expected = golden.load("nfnet_tiny_64")[1]["logits"]
    with torch.no_grad():
        logits = model(torch.from_numpy(golden.image(meta["input_shape"])).double()).numpy()
    assert golden.worst(logits, expected) < 1e-9


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol_is_read(tree: Tree, tmp_path: Path, protocol: int) -> None:
    first = load_pretrained(tiny(), dump(tree, tmp_path / "4.npz"))
    assert equal(load_pretrained(tiny(), dump(tree, tmp_path / "other.pkl", protocol)), first)


def test_a_numpy_archive_of_plain_arrays_is_read(tree: Tree, tmp_path: Path) -> None:
    expected = load_pretrained(tiny(), dump(tree, tmp_path / "tree.npz"))
    np.savez(tmp_path / "plain.npz", **{f"{m}/{leaf}": a for m, leaves in tree.items() for leaf, a in leaves.items()})
    assert equal(load_pretrained(tiny(), tmp_path / "plain.npz"), expected)
    np.savez(tmp_path / "object.npz", np.array(tree, dtype=object))
    with pytest.raises(ValueError, match=r"path='.*object\.npz'.*Object arrays cannot be loaded"):
        load_pretrained(tiny(), tmp_path / "object.npz")


def dill_pickle(array: np.ndarray, old: bool) -> bytes:
    """One array as dill 0.3 (`old`) and 0.4 write it: by names of dill's own, which must not be imported."""
    make, args, state = array.__reduce__()
    buffer = io.BytesIO()

    class Named:
        def __init__(self, module: str, name: str, *arguments: Any) -> None:
            self.call = module, name, arguments

    class Writer(pickle._Pickler):  # the Python one, whose opcodes can be written by hand
        def save(self, obj: Any, save_persistent_id: bool = True) -> None:
            if isinstance(obj, Named):
                module, name, arguments = obj.call
                self.write(f"c{module}\n{name}\n".encode())
                self.save(arguments)
                self.write(b"R")
            elif obj is make:
                self.write(b"cnumpy.core.multiarray\n_reconstruct\n")
            else:
                super().save(obj, save_persistent_id)

    if old:
        module = Named("dill._dill", "_import_module", "numpy.core._multiarray_umath")
        reconstruct: Any = Named("dill._dill", "_get_attr", module, "_reconstruct")
    else:
        reconstruct = make
    writer = Writer(buffer, protocol=3)
    writer.dump({"Net/~/a": {"w": Named("dill._dill", "_create_array", reconstruct, args, state, None)}})
    return buffer.getvalue()


@pytest.mark.parametrize("old", [False, True])
def test_trees_written_by_dill_are_read_without_it(tmp_path: Path, old: bool) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    (tmp_path / "a.npz").write_bytes(dill_pickle(array, old))
    read = read_tree(tmp_path / "a.npz")
    assert list(read) == ["a/w"]
    np.testing.assert_array_equal(read["a/w"].numpy(), array)


class Evil:
    def __init__(self, function: Any, *args: Any) -> None:
        self.made = function, args

    def __reduce__(self) -> Any:
        return self.made


@pytest.mark.parametrize(
    ("evil", "name"),
    [
        (Evil(os.system, "touch ran"), r"posix.system|nt.system"),
        (Evil(eval, "1"), "builtins.eval"),
        (Evil(subprocess.run, ["touch", "ran"]), "subprocess.run"),
        (Evil(getattr, "text", "upper"), "builtins.getattr"),
    ],
)
def test_a_pickle_that_asks_for_code_is_refused(evil: Evil, name: str, tmp_path: Path) -> None:
    with pytest.raises(pickle.UnpicklingError, match=rf"asks for ({name}); a parameter tree needs arrays"):
        load_pretrained(tiny(), dump({"NFNet/~/a": {"w": evil}}, tmp_path / "evil.npz"))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"NFNet/~/a": {"w": "text"}}, r"has a str at '/NFNet/~/a/w'"),
        ({"NFNet/~/a": {"w": np.arange(3)}}, r"has an array of int64 at"),
        ({"A/~/a": {"w": np.ones(1)}, "B/~/a": {"w": np.ones(1)}}, r"holds 2 networks \['A', 'B'\]"),
    ],
)
def test_what_is_no_tree_of_arrays_is_refused(bad: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load_pretrained(tiny(), dump(bad, tmp_path / "bad.npz"))


# --- every tensor accounted for


def test_mismatches_are_all_listed_and_nothing_is_changed(tree: Tree, tmp_path: Path) -> None:
    del tree["NFNet/~/nf_block_1/~/conv1b"]["gain"]
    tree["NFNet/~/nf_block_1/~/conv9"] = {"w": np.ones((1, 1, 2, 3), np.float32)}
    tree["NFNet/~/linear"]["b"] = np.ones(7, np.float32)
    model = tiny()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(WeightsMismatch) as caught:
        load_pretrained(model, dump(tree, tmp_path / "tree.npz"))
    error = caught.value
    assert error.unmatched == ("nf_block_1/conv9/w",)
    assert error.missing == ("nf_block_1/conv1b/gain",)
    assert error.misshapen == ("linear/b (7,) for (10,)",)
    for name in (*error.unmatched, *error.missing, *error.misshapen, "1 unmatched", "1 missing", "1 misshapen"):
        assert name in str(error)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ["nf_resnet50", "se_nf_resnet50", "nf_regnet_b0", "nfnet_f0", "nfnet_f1"])
def test_slots_name_every_parameter_once(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name)
    found = slots(model)
    assert sorted(slot.name for slot in found) == sorted(name for name, _ in model.named_parameters())
    for names in ([slot.haiku for slot in found], [slot.timm for slot in found]):
        assert len(set(names)) == len(names)


def test_models_that_nobody_published_are_refused(tree: Tree, tmp_path: Path) -> None:
    path = dump(tree, tmp_path / "tree.npz")
    for model, message in (
        (create_model("cifar_resnet8"), "ResNet that the authors published no parameters for"),
        (create_model("cifar_resnet8", method="nf"), "2 convolutions in a branch"),
        (nn.Linear(2, 2), "Linear that the authors"),
    ):
        with pytest.raises(ValueError, match=message):
            load_pretrained(model, path)


# --- state dicts


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_timm_state_dicts_are_read(suffix: str, tmp_path: Path) -> None:
    source, path = tiny(), tmp_path / f"dm_nfnet{suffix}"
    nn.init.normal_(source.blocks[0].skip_gain)
    state = timm_state(source)
    if suffix == ".pth":
        torch.save({"state_dict": state, "epoch": 3}, path)
    else:
        pytest.importorskip("safetensors.torch").save_file(state, path)
    assert equal(load_pretrained(tiny(), path), source)


def test_timm_names_are_those_of_its_dm_nfnet_f0() -> None:
    """Facts of timm 1.0.31: first, last and a transition block's names; 233 tensors in all."""
    with torch.device("meta"):
        names = {slot.timm for slot in slots(create_model("nfnet_f0"))}
    block = {f"conv{i}.{leaf}" for i in ("1", "2", "2b", "3") for leaf in ("weight", "bias", "gain")}
    block |= {f"downsample.conv.{leaf}" for leaf in ("weight", "bias", "gain")} | {"skipinit_gain"}
    block |= {f"attn_last.fc{i}.{leaf}" for i in (1, 2) for leaf in ("weight", "bias")}
    assert {name.removeprefix("stages.3.0.") for name in names if name.startswith("stages.3.0.")} == block
    assert {
        "stem.conv1.weight",
        "stem.conv4.gain",
        "final_conv.gain",
        "head.fc.bias",
        "stages.2.5.conv2b.gain",
    } <= names
    assert len(names) == 233


@pytest.mark.parametrize(
    ("extra", "dropped"),
    [
        ({}, ".skipinit_gain"),
        ({"stem.conv.weight": torch.ones(1)}, "stem.conv1"),
        ({"stages.0.0.attn_last.conv.weight": torch.ones(1, 1, 5)}, "attn_last.fc"),
        ({"stages.0.0.attn.fc1.weight": torch.ones(1)}, "attn_last"),
        ({}, "final_conv"),
    ],
)
def test_other_timm_networks_are_refused(extra: Any, dropped: str, tmp_path: Path) -> None:
    state = {name: value for name, value in timm_state(tiny()).items() if dropped not in name} | extra
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"holds another network.*dm_nfnet_\* are the authors'"):
        load_pretrained(tiny(), tmp_path / "other.pth")


@pytest.mark.parametrize("name", ["cifar_resnet8", "nfnet"])
def test_our_own_files_round_trip(name: str, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    make = tiny if name == "nfnet" else lambda: create_model(name)  # with batch norm's buffers
    model, path = make(), tmp_path / "own.safetensors"
    save_pretrained(model, path)
    assert equal(load_pretrained(make(), path), model)
    with pytest.raises(WeightsMismatch, match=r"misshapen: classifier.weight \(10, \d+\) for \(7, \d+\)"):
        load_pretrained(tiny(num_classes=7) if name == "nfnet" else create_model(name, num_classes=7), path)


def test_a_model_of_ones_own_may_have_timms_names(tmp_path: Path) -> None:
    model = nn.ModuleDict({"stages": nn.Linear(2, 2)})
    torch.save(model.state_dict(), tmp_path / "own.pth")
    fresh = nn.ModuleDict({"stages": nn.Linear(2, 2)})
    assert equal(load_pretrained(fresh, tmp_path / "own.pth"), model)
    with torch.device("meta"):
        nowhere = nn.ModuleDict({"stages": nn.Linear(2, 2)})
    with pytest.raises(ValueError, match=r"is on the meta device.*model\.to_empty\(device='cpu'\)"):
        load_pretrained(nowhere, tmp_path / "own.pth")


def prefixed(prefix: str) -> Any:
    return lambda model: {f"{prefix}{name}": tensor for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize(
    "wrapped",
    [
        prefixed("module."),
        prefixed("_orig_mod."),
        prefixed("module._orig_mod."),
        prefixed("model."),
        lambda model: {"model": model.state_dict(), "optimizer": {"state": {}, "param_groups": []}, "epoch": 3},
        lambda model: {"epoch": 3, "state_dict": prefixed("net.")(model), "callbacks": {}},
        lambda model: {"model": prefixed("module.")(tiny(num_classes=3)), "ema": prefixed("module.")(model)},
        lambda model: {"model": {f"module.{name}": tensor for name, tensor in timm_state(model).items()}},
        lambda model: {"model_ema": AveragedModel(model).state_dict(), "epoch": 3},
        lambda model: {"checkpoint": {"model": model.state_dict(), "epoch": 3}},
        lambda model: {"state_dict": model.state_dict(), "args": Namespace(lr=0.1)},
        lambda model: {"model": model.state_dict(), "optimizer": {"state": {0: torch.ones(2), 1: torch.ones(3)}}},
    ],
    ids=[
        *("module", "compiled", "both", "lightning", "entry", "entry and prefix", "the entry that fits", "timm"),
        *("averaged", "nested", "timm's training script", "numbered tensors"),
    ],
)
def test_what_training_puts_around_a_state_dict_is_taken_off(wrapped: Any, tmp_path: Path) -> None:
    model = tiny()
    for name in ("wrapped.pth", "last.ckpt", "checkpoint-3.pth.tar"):
        torch.save(wrapped(model), tmp_path / name)
        assert equal(load_pretrained(tiny(), str(tmp_path / name)), model)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz", ".pkl"])
def test_a_file_that_is_not_whole_is_named(suffix: str, tree: Tree, tmp_path: Path) -> None:
    path = tmp_path / f"net{suffix}"
    if suffix == ".safetensors":
        pytest.importorskip("safetensors.torch").save_file(tiny().state_dict(), path)
    elif suffix == ".npz":
        np.savez(path, **{f"{m}/{leaf}": a for m, leaves in tree.items() for leaf, a in leaves.items()})
    elif suffix == ".pkl":
        dump(tree, path)
    else:
        torch.save(tiny().state_dict(), path)
    whole = path.read_bytes()
    for content in (b"", b"version https://git-lfs.github.com/spec/v1", whole[:-2000], whole[:9]):
        path.write_bytes(content)
        said = rf"path='.*net\{suffix}' is not a whole \{suffix} file of weights: \S.*again, under.*; a small file"
        with pytest.raises(ValueError, match=said):
            load_pretrained(tiny(), path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        load_pretrained(tiny(), path)


@pytest.mark.parametrize("suffix", [".pth", ".bin", ".safetensors", ".npz"])
def test_a_file_of_another_kind_is_shown_by_its_start_and_no_advice_is_given_to_trust_it(
    suffix: str, tmp_path: Path
) -> None:
    path, header = tmp_path / f"net{suffix}", b'\x40\0\0\0\0\0\0\0{"stem.weight":'  # of a file of safetensors
    for content in (b"<html>404 not found</html>", b"<!DOCTYPE html>\n<html>", header, b"Entry not found"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"begins with {re.escape(repr(content[:20]))}\. Download") as refusal:
            load_pretrained(tiny(), path)
        assert not re.search("weights_only|too early", str(refusal.value))
        assert len(str(refusal.value).replace(str(path), "")) < 320


@pytest.mark.parametrize("extra", [{"count": 3}, torch.ones(1)])
def test_a_model_with_extra_state_is_refused(extra: Any, tmp_path: Path) -> None:
    class Counting(nn.Linear):
        def get_extra_state(self) -> Any:
            return extra

    model = nn.Sequential(Counting(2, 2))
    torch.save(model.state_dict(), tmp_path / "net.pth")
    for call in (lambda path: load_pretrained(model, path), lambda path: save_pretrained(model, f"{path}.safetensors")):
        with pytest.raises(ValueError, match=r"Sequential has extra state.*: 0\._extra_state\. Save.*load_state_dict"):
            call(tmp_path / "net.pth")


def test_a_model_with_shared_weights_is_saved(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    tied = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
    tied[1].weight = tied[0].weight
    save_pretrained(tied, tmp_path / "tied.safetensors")
    other = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
    other[1].weight = other[0].weight
    assert equal(load_pretrained(other, tmp_path / "tied.safetensors"), tied)


def test_a_model_inside_an_average_is_filled_and_saved(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    model, average = tiny(), AveragedModel(tiny())
    save_pretrained(AveragedModel(model), tmp_path / "average.safetensors")
    assert load_pretrained(average, tmp_path / "average.safetensors") is average
    assert equal(average.module, model)


def test_a_compiled_model_and_one_with_a_compiled_part_load_and_save(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    model, part = tiny(), tiny()
    part.blocks[0].branch = torch.compile(part.blocks[0].branch)
    save_pretrained(torch.compile(model), tmp_path / "whole.safetensors")
    assert load_pretrained(compiled := torch.compile(tiny()), tmp_path / "whole.safetensors") is compiled
    assert equal(load_pretrained(part, tmp_path / "whole.safetensors"), model)
    torch.save(part.state_dict(), tmp_path / "part.pth")
    assert equal(compiled, model)
    assert equal(load_pretrained(tiny(), tmp_path / "part.pth"), model)


def test_what_was_taken_off_is_said_where_the_rest_does_not_fit(tmp_path: Path) -> None:
    model, path = tiny(), tmp_path / "wrapped.pth"
    torch.save({"model": prefixed("module.")(model) | {"temperature": torch.ones(1)}}, path)
    said = (
        r"fit the model, read from its entry 'model' and without the prefix 'module\.' of its names; 1 unmatched: temp"
    )
    with pytest.raises(WeightsMismatch, match=said):
        load_pretrained(tiny(), path)
    torch.save({"student": model.state_dict(), "teacher": model.state_dict()}, path)
    with pytest.raises(ValueError, match=r"several state dicts that fit: 'student', 'teacher'\. Save the one"):
        load_pretrained(tiny(), path)
    torch.save({"ema": {"student": model.state_dict(), "teacher": model.state_dict()}}, path)
    with pytest.raises(ValueError, match=r"torch\.load\(path\)\['ema'\]\['teacher'\], 'one\.pth'\)"):
        load_pretrained(tiny(), path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(ValueError, match=r"holds no state dict: a mapping of names to tensors is needed, or an entry"):
        load_pretrained(tiny(), path)


@pytest.mark.parametrize("names", [*permutations(("state_dict", "state_dict_ema", "model"), 2)])
@pytest.mark.parametrize("form", [prefixed("module."), timm_state], ids=["own", "timm"])
def test_of_several_entries_that_fit_none_is_chosen(names: tuple[str, str], form: Any, tmp_path: Path) -> None:
    path, model = tmp_path / "checkpoint.pth.tar", tiny()
    torch.save({"epoch": 1, **{name: form(tiny()) for name in names}, "args": Namespace(lr=0.1)}, path)
    said = rf"several state dicts that fit: '{names[0]}', '{names[1]}'\. Save.*torch\.load\(path\)\['{names[1]}'\]"
    with pytest.raises(ValueError, match=said):
        load_pretrained(tiny(), path)
    torch.save({names[0]: form(tiny(num_classes=3)), names[1]: form(model)}, path)
    assert equal(load_pretrained(tiny(), path), model)


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    torch.save(tiny(), tmp_path / "whole.pth")
    for call, error, message in (
        (lambda: load_pretrained(tiny()), ValueError, r"path=None and source=None: give one of them"),
        (lambda: load_pretrained(tiny(), source="deepmind"), ValueError, r"takes a model's name"),
        (lambda: load_pretrained("nfnet_f0", source="timm"), ValueError, r"source='timm'.*'deepmind'"),
        (lambda: load_pretrained("nfnet_f7", source="deepmind"), ValueError, r"'nfnet_f7' has no published weights"),
        (lambda: load_pretrained(tiny(), "weights.h5"), ValueError, r"ends in '.h5'; known are .npz"),
        (
            lambda: load_pretrained(tiny(), tmp_path / "whole.pth"),
            ValueError,
            r"an object of nfnets_lite\S+ResNet, and.*weights_only=False\) and save",
        ),
        (lambda: save_pretrained(tiny(), tmp_path / "x.pth"), ValueError, r"must end in .safetensors"),
    ):
        with pytest.raises(error, match=message):
            call()


# --- the download


class Server(ThreadingHTTPServer):
    """Serves one body, with headers that a test may falsify."""

    body = b""
    headers: dict[str, str]
    requests = 0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.state("md5", "crc32c")

    def state(self, *kinds: str) -> None:
        digest = {"md5": hashlib.md5(self.body).digest(), "crc32c": crc32c(self.body).to_bytes(4, "big")}
        stated = ",".join(f"{kind}={base64.b64encode(digest[kind]).decode()}" for kind in kinds)
        self.headers = {"Content-Length": str(len(self.body)), "x-goog-hash": stated}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests += 1
        if self.path != "/F0_haiku.npz":
            self.send_error(404)
            return
        self.send_response(200)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("kinds", [("md5", "crc32c"), ("crc32c",)])
def test_download_checks_and_caches(kinds: tuple[str, ...], server: Server) -> None:
    server.body = os.urandom(100_000)
    server.state(*kinds)
    path = download("nfnet_f0", server=server.url)
    assert path.read_bytes() == server.body
    stated = path.with_name("F0_haiku.npz.sha256").read_text()
    assert stated == f"{hashlib.sha256(server.body).hexdigest()}  F0_haiku.npz\n"
    assert download("nfnet_f0", server=server.url) == path
    assert server.requests == 1
    path.write_bytes(b"damaged in the cache")
    assert download("nfnet_f0", server=server.url).read_bytes() == server.body
    assert server.requests == 2
    assert sorted(file.name for file in path.parent.iterdir()) == ["F0_haiku.npz", "F0_haiku.npz.sha256"]


@pytest.mark.parametrize(
    ("header", "value", "message"),
    [
        (
            "x-goog-hash",
            "md5=" + base64.b64encode(b"0" * 16).decode(),
            r"the md5 of the 5 bytes is .* the server stated",
        ),
        ("x-goog-hash", "crc32c=AAAAAA==", r"the crc32c of the 5 bytes is .* the server stated 00000000"),
        ("x-goog-hash", "", r"states no x-goog-hash"),
        ("Content-Length", "9", r"broke off: 5 bytes of the 9"),
    ],
)
def test_a_damaged_download_is_refused_and_not_kept(header: str, value: str, message: str, server: Server) -> None:
    server.body = b"bytes"
    server.state("md5")
    server.headers[header] = value
    with pytest.raises(ConnectionError, match=message):
        download("nfnet_f0", server=server.url)
    assert not list((Path(torch.hub.get_dir()) / "nfnets_lite").iterdir())


def test_no_network_and_no_file_say_so(server: Server) -> None:
    with pytest.raises(ConnectionError, match=r"F1_haiku.npz answered 404"):
        download("nfnet_f1", server=server.url)
    with pytest.raises(ConnectionError, match=r"cannot be reached .*no network here\? Download it elsewhere and pass"):
        download("nfnet_f0", server="http://127.0.0.1:9")


def test_load_pretrained_downloads_by_name(
    tree: Tree, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.body = dump(tree, tmp_path / "tree").read_bytes()
    server.state("md5")
    monkeypatch.setattr(pretrained, "download", lambda name: download(name, server=server.url))
    monkeypatch.setattr(pretrained, "create_model", lambda name: tiny())
    model = load_pretrained("nfnet_f0", source="deepmind")
    assert equal(model, load_pretrained(tiny(), dump(tree, tmp_path / "tree.npz")))


def test_import_downloads_nothing_and_needs_torch_alone() -> None:
    code = (
        "import sys; from importlib.abc import MetaPathFinder\n"
        "class No(MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name.split('.')[0] in ('safetensors', 'timm', 'dill'): raise ImportError(name)\n"
        "sys.meta_path.insert(0, No()); import socket; socket.socket.connect = None\n"
        "import nfnets_lite, nfnets_lite.pretrained"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


class _BytesAsObjects:
    """Pickles as an array of objects whose content is raw bytes: with NumPy's own parts, bytes become pointers."""

    def __reduce__(self) -> tuple[Any, ...]:
        make, args, state = np.zeros(1, dtype=object).__reduce__()
        return make, args, (*state[:4], b"\x41" * 8)


def test_bytes_are_never_taken_for_objects(tmp_path: Path) -> None:
    (tmp_path / "evil.npz").write_bytes(pickle.dumps({"Net/~/a": {"w": _BytesAsObjects()}}))
    with pytest.raises(pickle.UnpicklingError, match="holds an array of dtype 'O8'"):
        read_tree(tmp_path / "evil.npz")


def test_a_state_dict_in_place_of_a_path_is_refused() -> None:
    model = create_model("cifar_resnet8", method="nf")
    with pytest.raises(TypeError, match=r"path is a OrderedDict; pass a file's path, or call model.load_state_dict"):
        load_pretrained(model, model.state_dict())  # type: ignore[call-overload]
