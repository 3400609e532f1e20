"""data_scripts: what is refused, what is verified, what is written. Never touches the network."""

import hashlib
import io
import lzma
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from email.message import Message
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import data_scripts
from data_scripts import conversion, fetch, parse, sources, store
from data_scripts.__main__ import app

ROOT = Path(__file__).resolve().parents[2]
PER_BATCH = 4


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **_: object) -> None:
        pytest.fail(f"a test reached for the network: {args}")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with the published files (cifar10/, fashion_mnist/), or a skip."""
    given = os.environ.get("NFNETS_LITE_DATA")
    tried = [Path(given)] if given else [ROOT.parent / "shared" / "data"]
    for folder in tried:
        if (folder / "cifar10" / "data_batch_1.xz").exists() or (folder / "cifar10" / "data_batch_1").exists():
            return folder
    pytest.skip(f"no published CIFAR-10 batches in {tried[0] / 'cifar10'}; set NFNETS_LITE_DATA to a folder with them")


# --- a small CIFAR-10, written as Python 2 wrote it, with sums of its own


def py2_batch(images: np.ndarray, labels: list[int]) -> bytes:
    """A protocol-2 pickle of a batch in which bytes are Python 2 strings, which Python 3 cannot write."""
    numbers = b"".join(b"J" + struct.pack("<i", label) for label in labels)
    shape = b"".join(b"J" + struct.pack("<i", size) for size in images.shape)
    raw = b"T" + struct.pack("<i", images.nbytes) + images.tobytes()
    dtype = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR(K\x01("
        + shape + b"t" + dtype + b"\x89" + raw + b"tb"
    )  # fmt: skip
    return b"\x80\x02}(U\x06labels](" + numbers + b"eU\x04data" + array + b"u."


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def tar_gz(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Registers a CIFAR-10 of six four-image batches; returns the folder of its published files."""
    rng = np.random.default_rng(0)
    spec = sources.SOURCES["cifar10"]
    contents = {
        file.name: py2_batch(rng.integers(0, 256, (PER_BATCH, 3072), np.uint8), rng.integers(0, 10, PER_BATCH).tolist())
        for file in spec.train + spec.test
    }
    contents["batches.meta"] = pickle.dumps({"label_names": list(spec.classes)}, protocol=2)
    archive = tar_gz({f"{spec.folder}/{name}": content for name, content in contents.items()})
    raw = tmp_path / "raw"
    raw.mkdir()
    for name, content in contents.items():
        (raw / name).write_bytes(content)
    published = {name: sources.Published(name, md5(content)) for name, content in contents.items()}
    small = replace(
        spec,
        train=tuple(published[file.name] for file in spec.train),
        test=tuple(published[file.name] for file in spec.test),
        meta=published["batches.meta"],
        archive=sources.Published("cifar-10-python.tar.gz", md5(archive)),
        counts={"train": 5 * PER_BATCH, "test": PER_BATCH},
        sha256={},
    )
    monkeypatch.setitem(sources.SOURCES, "cifar10", small)
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "cifar-10-python.tar.gz").write_bytes(archive)
    return raw


@pytest.fixture
def unparsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails the test if anything is parsed or extracted."""

    def fail(*_: object) -> None:
        pytest.fail("reached a parser")

    monkeypatch.setitem(parse.READERS, "cifar", fail)
    monkeypatch.setattr(parse, "cifar_classes", fail)
    monkeypatch.setattr(conversion, "extract", fail)


def all_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("chosen", [True, False], ids=["by the variable", "by --out"])
def test_the_command_writes_where_data_are_read(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: bool
) -> None:
    from experiments.tasks import data

    monkeypatch.setenv("HOME", str(tmp_path))  # what make hands over in quotes, no shell has expanded
    monkeypatch.setenv("NFNETS_LITE_DATA", "~/x")
    out = [] if chosen else ["--out", "~/y"]
    result = CliRunner().invoke(app, ["cifar10", "--from", f"~/{tiny.name}", *out])
    assert result.exit_code == 0, result.output
    folder = tmp_path / ("x" if chosen else "y") / "cifar10"
    assert (folder / "train_images.npy").is_file()
    monkeypatch.setattr(data, "ROOT", tmp_path)
    assert data.converted("cifar10") == (folder if chosen else None)
    assert len(data_scripts.read("cifar10", folder.parent)["test_labels"]) == PER_BATCH
    if chosen:
        assert len(data_scripts.read("cifar10")["test_labels"]) == PER_BATCH
        assert len(data._published("cifar10")["train_labels"]) == 5 * PER_BATCH


def test_a_link_that_leads_nowhere_is_said(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to("gone")
    result = CliRunner().invoke(app, ["cifar10", "--from", str(tiny), "--out", str(tmp_path / "data")])
    assert result.exit_code == 1
    assert f"{tmp_path / 'data'} is a link to gone, which does not exist; make that folder" in result.output


# --- hostile files


def test_what_has_another_sum_is_never_unpickled(tiny: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"

    class Payload:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
            return exec, (f"open({str(made)!r}, 'w').close()",)

    content = pickle.dumps({"data": Payload()})
    pickle.loads(content)
    assert made.exists(), "the payload must work where nothing refuses it"
    made.unlink()
    for name in ("data_batch_1", "test_batch", "batches.meta"):
        kept = (tiny / name).read_bytes()
        (tiny / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}.*MD5"):
            data_scripts.convert("cifar10", tiny, tmp_path / "out")
        (tiny / name).write_bytes(kept)
    assert not made.exists()


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    "hostile",
    [
        _member("../escaped"),
        _member("set/../../escaped"),
        _member("set/data", tarfile.SYMTYPE, "/etc/passwd"),
        _member("set/data", tarfile.SYMTYPE, "../../escaped"),
        _member("set/data", tarfile.LNKTYPE, "../escaped"),
        _member("set/data", tarfile.CHRTYPE),
    ],
    ids=lambda member: f"{member.name}-{member.type.decode()}-{member.linkname}",
)
def test_archive_that_leaves_its_folder_is_refused(tmp_path: Path, hostile: tarfile.TarInfo) -> None:
    buffer, inside = io.BytesIO(), tmp_path / "inside"
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.addfile(hostile)
    buffer.seek(0)
    inside.mkdir()
    with pytest.raises(tarfile.FilterError):
        conversion.extract(buffer, inside, {hostile.name})
    assert [path.name for path in tmp_path.rglob("*")] == ["inside"]


def test_only_expected_regular_files_are_extracted(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for member in (_member("set/wanted"), _member("set/other"), _member("set/link", tarfile.SYMTYPE, "wanted")):
            tar.addfile(member)
    buffer.seek(0)
    conversion.extract(buffer, tmp_path, {"set/wanted", "set/link"})
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["wanted"]


# --- published files: sums first


@pytest.mark.usefixtures("unparsed")
@pytest.mark.parametrize("place", ["raw", "archive"])
def test_wrong_sum_is_named_and_nothing_is_parsed(tiny: Path, tmp_path: Path, place: str) -> None:
    path = {"raw": tiny / "data_batch_3", "archive": tmp_path / "archive" / "cifar-10-python.tar.gz"}[place]
    expected = md5(path.read_bytes())
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(ValueError, match=f"{path.name}.*{md5(path.read_bytes())}.*{expected}.*fetch it again"):
        data_scripts.convert("cifar10", tmp_path / place, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.usefixtures("unparsed")
def test_truncated_xz_is_named(tiny: Path, tmp_path: Path) -> None:
    path = tiny / "data_batch_2"
    (tiny / "data_batch_2.xz").write_bytes(lzma.compress(path.read_bytes())[:-20])
    path.unlink()
    with pytest.raises(ValueError, match=r"data_batch_2\.xz is damaged or truncated"):
        data_scripts.convert("cifar10", tiny, tmp_path / "out")


def test_missing_batches_are_listed_with_the_folders_searched(tiny: Path, tmp_path: Path) -> None:
    (tiny / "data_batch_2").unlink()
    (tiny / "test_batch").unlink()
    with pytest.raises(FileNotFoundError, match=r"data_batch_2, test_batch not found.*cifar-10-python\.tar\.gz.*raw"):
        data_scripts.convert("cifar10", tiny, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"absent is not a folder"):
        data_scripts.convert("cifar10", tmp_path / "absent", tmp_path / "out")


def test_class_names_are_those_of_the_meta_file(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = sources.SOURCES["cifar10"]
    monkeypatch.setitem(sources.SOURCES, "cifar10", replace(spec, classes=spec.classes[::-1]))
    with pytest.raises(ValueError, match=r"batches\.meta has the classes"):
        data_scripts.convert("cifar10", tiny, tmp_path / "out")


def test_counts_and_labels_are_checked(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = sources.SOURCES["cifar10"]
    monkeypatch.setitem(sources.SOURCES, "cifar10", replace(spec, counts={"train": 21, "test": PER_BATCH}))
    with pytest.raises(ValueError, match=r"train has 20 images.*expected 21"):
        data_scripts.convert("cifar10", tiny, tmp_path / "out")


# --- conversion


def test_plain_xz_and_archive_give_identical_bytes(tiny: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed" / "cifar10"
    packed.mkdir(parents=True)
    for path in tiny.iterdir():
        (packed / f"{path.name}.xz").write_bytes(lzma.compress(path.read_bytes()))
    places = {"plain": tiny, "xz": packed.parent, "archive": tmp_path / "archive"}
    results = {key: all_bytes(data_scripts.convert("cifar10", place, tmp_path / key)) for key, place in places.items()}
    assert results["plain"] == results["xz"] == results["archive"]
    assert set(results["plain"]) == {f"{key}.npy" for key in store.KEYS} | {"SHA256SUMS"}


def test_arrays_have_the_documented_form(tiny: Path, tmp_path: Path) -> None:
    data_scripts.convert("cifar10", tiny, tmp_path)
    arrays = data_scripts.read("cifar10", tmp_path)
    assert tuple(arrays) == ("train_images", "train_labels", "test_images", "test_labels")
    assert arrays["train_images"].shape == (5 * PER_BATCH, 3, 32, 32)
    assert arrays["test_labels"].shape == (PER_BATCH,)
    assert all(array.dtype == np.uint8 and array.flags.c_contiguous for array in arrays.values())
    second = pickle.loads((tiny / "data_batch_2").read_bytes(), encoding="latin1")
    np.testing.assert_array_equal(arrays["train_images"][PER_BATCH, 1, 2], second["data"][0, 1024 + 64 :][:32])
    assert arrays["train_labels"][PER_BATCH] == second["labels"][0]


def test_second_call_verifies_and_does_nothing(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = data_scripts.convert("cifar10", tiny, tmp_path / "out")
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    monkeypatch.setattr(conversion, "_find", lambda *_: pytest.fail("worked again"))
    assert data_scripts.convert("cifar10", None, tmp_path / "out") == folder
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert "nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize("renames_done", range(5))
@pytest.mark.parametrize("pinned", [False, True])
def test_interrupted_conversion_never_looks_complete(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames_done: int, pinned: bool
) -> None:
    folder = data_scripts.convert("cifar10", tiny, tmp_path / "out")
    good = all_bytes(folder)
    if pinned:
        pins = {name: hashlib.sha256(content).hexdigest() for name, content in good.items() if name.endswith(".npy")}
        monkeypatch.setitem(sources.SOURCES, "cifar10", replace(sources.SOURCES["cifar10"], sha256=pins))
    for path in folder.glob("*.npy"):  # damaged files under the names and sums of good ones
        path.write_bytes(good[path.name][:-1])
    calls: list[Path] = []

    def interrupted(source: Path, target: Path) -> None:
        if len(calls) == renames_done:
            raise KeyboardInterrupt
        calls.append(target)
        shutil.move(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            data_scripts.convert("cifar10", tiny, tmp_path / "out")
    if pinned and renames_done == 4:  # all four arrays are in place and their sums are known without SHA256SUMS
        data_scripts.read("cifar10", tmp_path / "out")
    else:
        with pytest.raises((FileNotFoundError, ValueError), match=r"python -m data_scripts cifar10"):
            data_scripts.read("cifar10", tmp_path / "out")
        data_scripts.convert("cifar10", tiny, tmp_path / "out")
        assert all_bytes(folder) == good
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["cifar10"]


def test_result_without_the_pinned_sums_is_not_kept(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pins = {f"{key}.npy": "0" * 64 for key in store.KEYS}
    monkeypatch.setitem(sources.SOURCES, "cifar10", replace(sources.SOURCES["cifar10"], sha256=pins))
    with pytest.raises(ValueError, match=r"converted files have SHA-256"):
        data_scripts.convert("cifar10", tiny, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


# --- reading


def test_missing_folder_names_itself_and_the_command(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        data_scripts.read("fashion_mnist", tmp_path)
    message = str(caught.value)
    assert str(tmp_path / "fashion_mnist") in message
    assert f"python -m data_scripts fashion_mnist --out {tmp_path}" in message
    assert "--from DIR" in message


@pytest.mark.parametrize("damage", [lambda raw: raw[:-7], lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]), lambda _: b""])
def test_damaged_array_is_named_with_both_sums_and_not_loaded(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[bytes], bytes]
) -> None:
    path = data_scripts.convert("cifar10", tiny, tmp_path) / "train_images.npy"
    good = path.read_bytes()
    path.write_bytes(damage(good))
    sums = [hashlib.sha256(content).hexdigest() for content in (path.read_bytes(), good)]
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("loaded before the sum was checked"))
    with pytest.raises(ValueError, match=f"train_images.npy.*{sums[0]}.*expected {sums[1]}.*python -m data_scripts"):
        data_scripts.read("cifar10", tmp_path)


@pytest.mark.parametrize("name", ["test_labels.npy", "SHA256SUMS"])
def test_missing_file_is_named(tiny: Path, tmp_path: Path, name: str) -> None:
    (data_scripts.convert("cifar10", tiny, tmp_path) / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing.*python -m data_scripts cifar10"):
        data_scripts.read("cifar10", tmp_path)


@pytest.mark.parametrize("function", [data_scripts.read, data_scripts.convert])
def test_unknown_name_lists_the_known(function: Callable[[str], object]) -> None:
    with pytest.raises(ValueError, match=r"name='mnist'.*cifar10, cifar100, fashion_mnist"):
        function("mnist")


# --- command line


def test_cli_unknown_name_exits_2_before_any_work(tiny: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["cifar10", "imagenet", "--from", str(tiny), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "imagenet" in result.output
    assert all(name in result.output for name in data_scripts.NAMES)
    assert not (tmp_path / "out").exists()


def test_cli_converts_what_it_can_and_fails_at_the_end(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["fashion_mnist", "cifar10", "--from", str(tiny), "--out", str(out)])
    assert result.exit_code == 1
    assert "error: fashion_mnist: " in result.output
    assert "train-images-idx3-ubyte.gz" in result.output
    assert len(data_scripts.read("cifar10", out)["train_labels"]) == 5 * PER_BATCH
    assert CliRunner().invoke(app, ["cifar10", "--out", str(out)]).exit_code == 0


def test_module_runs_as_a_command() -> None:
    command = [sys.executable, "-m", "data_scripts", "nonsense"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2
    assert "cifar10, cifar100, fashion_mnist" in result.stderr


# --- download, from openers that stand in for the network


def serve(monkeypatch: pytest.MonkeyPatch, answer: bytes | Exception) -> list[str]:
    asked: list[str] = []

    def urlopen(url: str, timeout: float) -> io.BytesIO:
        assert 0 < timeout <= 60
        asked.append(url)
        if isinstance(answer, Exception):
            raise answer
        return io.BytesIO(answer)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return asked


URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"


def test_download_gives_what_files_at_hand_give(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = serve(monkeypatch, (tmp_path / "archive" / "cifar-10-python.tar.gz").read_bytes())
    fetched = data_scripts.convert("cifar10", None, tmp_path / "fetched")
    assert asked == [URL]
    assert all_bytes(fetched) == all_bytes(data_scripts.convert("cifar10", tiny, tmp_path / "at_hand"))
    assert [path.name for path in (tmp_path / "fetched").iterdir()] == ["cifar10"]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (urllib.error.URLError("Name or service not known"), "no network: Name or service not known"),
        (urllib.error.HTTPError(URL, 503, "Unavailable", Message(), None), "answered 503 Unavailable"),
        (TimeoutError("timed out"), "broke off after 0 bytes: timed out"),
    ],
)
def test_no_network_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Exception, message: str
) -> None:
    serve(monkeypatch, answer)
    result = CliRunner().invoke(app, ["cifar10", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert message in result.output
    assert f"download {URL} elsewhere and pass --from DIR" in result.output
    assert all(word in result.output for word in ("CIFAR-10", "terms", "Krizhevsky", "170 MB published"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("tiny", "unparsed")
@pytest.mark.parametrize(
    ("limit", "value", "message"),
    [("MAX_BYTES", 10, "more than the 10 bytes"), ("MAX_SECONDS", -1.0, "not finished in"), (None, None, "its MD5 is")],
)
def test_download_is_limited_and_summed_before_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str | None, value: float | None, message: str
) -> None:
    serve(monkeypatch, b"not the published archive")
    if limit:
        monkeypatch.setattr(fetch, limit, value)
    with pytest.raises((ValueError, ConnectionError), match=message):
        data_scripts.convert("cifar10", None, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


# --- the table, and the real files


@pytest.mark.parametrize("name", data_scripts.NAMES)
def test_table_is_consistent(name: str) -> None:
    spec = data_scripts.SOURCES[name]
    assert spec.name == name
    assert len(set(spec.classes)) == len(spec.classes) == (100 if name == "cifar100" else 10)
    assert spec.format in parse.READERS
    assert all(len(file.md5) == 32 for file in (*spec.train, *spec.test, *spec.downloads))
    assert set(spec.sha256) == (set() if name == "cifar100" else {f"{key}.npy" for key in store.KEYS})
    readme = (ROOT / "data_scripts" / "README.md").read_text(encoding="utf-8")
    assert all(value in readme for value in spec.sha256.values())


def test_cifar100_gives_fine_labels_and_names() -> None:
    images = np.zeros((2, 3072), np.uint8)
    batch = pickle.dumps({"data": images, "coarse_labels": [1, 2], "fine_labels": [70, 99]}, protocol=3)
    assert parse.cifar([batch, batch])[1].tolist() == [70, 99, 70, 99]
    meta = pickle.dumps({"coarse_label_names": ["c"], "fine_label_names": ["a", "b"]}, protocol=2)
    assert parse.cifar_classes(meta) == ("a", "b")


def test_idx_with_another_header_is_refused() -> None:
    with pytest.raises(ValueError, match="not an IDX file"):
        parse._idx_array(struct.pack(">II", 0x00000D01, 1) + b"\0" * 4)


@pytest.fixture(scope="session")
def converted() -> Iterator[Path]:
    """A folder for real arrays that goes when the session ends: pytest would keep 700 MB of three sessions."""
    with tempfile.TemporaryDirectory(prefix="data_scripts-") as folder:
        yield Path(folder)


# First images of each split, from the published label lists; the pinned SHA-256 sums are checked on the way.
@pytest.mark.parametrize(
    ("name", "shape", "first", "first_test"),
    [
        ("cifar10", (3, 32, 32), [6, 9, 9, 4, 1, 1, 2, 7, 8, 3], [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]),
        ("fashion_mnist", (1, 28, 28), [9, 0, 0, 3, 0, 2, 7, 2, 5, 5], [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]),
    ],
)
def test_real_data(
    real_data: Path, converted: Path, name: str, shape: tuple[int, int, int], first: list[int], first_test: list[int]
) -> None:
    if not (real_data / name).is_dir():
        pytest.skip(f"{real_data} has no {name}/")
    data_scripts.convert(name, real_data, converted)
    arrays = data_scripts.read(name, converted)
    for split, first_labels in (("train", first), ("test", first_test)):
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        count = data_scripts.SOURCES[name].counts[split]
        assert images.shape == (count, *shape)
        assert np.bincount(labels).tolist() == [count // 10] * 10
        assert labels[:10].tolist() == first_labels
    if name == "cifar10":  # means over the training images that the literature prints, per channel
        means = arrays["train_images"].mean(axis=(0, 2, 3)) / 255
        np.testing.assert_allclose(means, [0.4914, 0.4822, 0.4465], atol=5e-5)
