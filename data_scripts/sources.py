"""The data sets: which files are published where, under which terms, and the sums that identify them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

_REPOSITORY = Path(__file__).resolve().parent.parent


def data_root() -> Path:
    """Folder of the data sets, for writing and reading: ``$NFNETS_LITE_DATA``, or the repository's ``data/``."""
    return Path(os.environ.get("NFNETS_LITE_DATA") or _REPOSITORY / "data").expanduser()


@dataclass(frozen=True)
class Published:
    """A file as its publisher serves it: its name, and the MD5 of its bytes."""

    name: str
    md5: str


@dataclass(frozen=True)
class Source:
    """One data set: `train` and `test` are the files that are parsed, in order; `archive`, if any, holds them."""

    name: str
    title: str
    home: str
    terms: str
    citation: str
    base_url: str
    download_bytes: int
    format: str  # a key of parse.READERS
    classes: tuple[str, ...]
    shape: tuple[int, int, int]  # channels, height, width
    counts: Mapping[str, int]
    train: tuple[Published, ...]
    test: tuple[Published, ...]
    archive: Published | None = None
    folder: str = ""  # the folder inside the archive
    meta: Published | None = None  # the file of the class names, which are checked if the file is there
    # SHA-256 of each converted file. Empty if the real files were never converted here: then SHA256SUMS is used.
    sha256: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def downloads(self) -> tuple[Published, ...]:
        """The files to fetch: the archive, or all files if they are published one by one."""
        return (self.archive,) if self.archive else self.train + self.test

    @property
    def urls(self) -> str:
        """Addresses of the published files, for messages."""
        return ", ".join(self.base_url + file.name for file in self.downloads)

    def describe(self) -> str:
        """The text that is printed before any work: terms, citation and sizes."""
        images = sum(self.counts.values())
        channels, height, width = self.shape
        converted = images * (channels * height * width + 1)
        return (
            f"{self.title}: {images:,} images of {channels} x {height} x {width}, {len(self.classes)} classes\n"
            f"  home      {self.home}\n  terms     {self.terms}\n  citation  {self.citation}\n"
            f"  size      {self.download_bytes / 1e6:.0f} MB published, {converted / 1e6:.0f} MB converted"
        )


def lookup(name: str) -> Source:
    """The source called `name`, or a ValueError that lists the known names."""
    if name not in SOURCES:
        raise ValueError(f"name={name!r} is not a data set known here; use one of: {', '.join(SOURCES)}")
    return SOURCES[name]


_CIFAR_TERMS = (
    "no licence is stated by the publisher, who asks for the citation below; the images come from the web by way of "
    "80 Million Tiny Images (withdrawn in 2020) and their rights are not cleared: research use with citation is usual"
)
_CIFAR_CITATION = (
    "A. Krizhevsky. Learning Multiple Layers of Features from Tiny Images. Technical report, University of Toronto, "
    "2009."
)

_CIFAR100_CLASSES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
    man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
    pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
    skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
    tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
_FASHION_CLASSES = "T-shirt/top, Trouser, Pullover, Dress, Coat, Sandal, Shirt, Sneaker, Bag, Ankle boot"

_CIFAR10 = Source(
    name="cifar10",
    title="CIFAR-10",
    home="https://www.cs.toronto.edu/~kriz/cifar.html",
    terms=_CIFAR_TERMS,
    citation=_CIFAR_CITATION,
    base_url="https://www.cs.toronto.edu/~kriz/",
    download_bytes=170_498_071,
    format="cifar",
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    shape=(3, 32, 32),
    counts=MappingProxyType({"train": 50_000, "test": 10_000}),
    train=(
        Published("data_batch_1", "c99cafc152244af753f735de768cd75f"),
        Published("data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"),
        Published("data_batch_3", "54ebc095f3ab1f0389bbae665268c751"),
        Published("data_batch_4", "634d18415352ddfa80567beed471001a"),
        Published("data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"),
    ),
    test=(Published("test_batch", "40351d587109b95175f43aff81a1287e"),),
    archive=Published("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),
    folder="cifar-10-batches-py",
    meta=Published("batches.meta", "5ff9c542aee3614f3951f8cda6e48888"),
    sha256=MappingProxyType(
        {
            "train_images.npy": "cca17af9c1cff570c8c91fdb9f8bfc450d62dc4ff73ba6fb849b2b49e0c668f2",
            "train_labels.npy": "fad921ba16b0efeebb54393d1351545d1fe1a357f6f81324c821e3e11b956c70",
            "test_images.npy": "efbfa3b24c4f91c6febe8a57d87b6448f2c1226d8b2aa24d14db1eea85ad46c6",
            "test_labels.npy": "19004b019bd095265b4ce6637c9ff979c66abcbc8e658a665f791b487cdea5eb",
        }
    ),
)

_CIFAR100 = Source(
    name="cifar100",
    title="CIFAR-100 (fine labels)",
    home="https://www.cs.toronto.edu/~kriz/cifar.html",
    terms=_CIFAR_TERMS,
    citation=_CIFAR_CITATION,
    base_url="https://www.cs.toronto.edu/~kriz/",
    download_bytes=169_001_437,
    format="cifar",
    classes=tuple(_CIFAR100_CLASSES.split()),
    shape=(3, 32, 32),
    counts=MappingProxyType({"train": 50_000, "test": 10_000}),
    train=(Published("train", "16019d7e3df5f24257cddd939b257f8d"),),
    test=(Published("test", "f0ef6b0ae62326f3e7ffdfab6717acfc"),),
    archive=Published("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"),
    folder="cifar-100-python",
    meta=Published("meta", "7973b15100ade9c7d40fb424638fde48"),
)

_FASHION_MNIST = Source(
    name="fashion_mnist",
    title="Fashion-MNIST",
    home="https://github.com/zalandoresearch/fashion-mnist",
    terms="MIT licence, Copyright (c) 2017 Zalando SE, https://tech.zalando.com",
    citation="H. Xiao, K. Rasul, R. Vollgraf. Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning "
    "Algorithms. arXiv:1708.07747, 2017.",
    # The publisher offers no https address: the MD5 sums and the SHA-256 sums below protect the files.
    base_url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    download_bytes=30_878_645,
    format="idx",
    classes=tuple(_FASHION_CLASSES.split(", ")),
    shape=(1, 28, 28),
    counts=MappingProxyType({"train": 60_000, "test": 10_000}),
    train=(
        Published("train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
        Published("train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe"),
    ),
    test=(
        Published("t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79"),
        Published("t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310"),
    ),
    sha256=MappingProxyType(
        {
            "train_images.npy": "4d6d54d7b7f1d1146412ac0d5ebfad200214b8dbc262a70b79e84877afef3279",
            "train_labels.npy": "efa44c2e191352e6f338f69c404dcc5c8c636ff9c237875b7fbf289f568c064c",
            "test_images.npy": "4cdcdb7b44ef667e143916344990c85c236bee299a09d137df3050c35ba6eb91",
            "test_labels.npy": "dc8f8f1192c27394f85487043710db3a9b18d51be2c3bca478bf94dfff9dd146",
        }
    ),
)

SOURCES = {source.name: source for source in (_CIFAR10, _CIFAR100, _FASHION_MNIST)}
NAMES = tuple(SOURCES)
