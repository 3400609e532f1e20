"""The four scales. A profile changes numbers only, never the branch that the code takes."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Profile:
    """One scale of the whole book.

    Attributes
    ----------
    where : str
        Data, machine and budget, in words.
    rerun : bool
        Whether building the book trains (True) or reads the committed records (False), unless RERUN says otherwise.
    """

    where: str
    rerun: bool


PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        "smoke": Profile("scikit-learn's digits, 2 CPU cores, 8 minutes for the whole book", rerun=True),
        "small": Profile("CIFAR-10, all of it or a part, and Fashion-MNIST; 2 CPU cores, about 27 hours", rerun=False),
        "gpu": Profile("all of CIFAR-10, one modern GPU, about 90 minutes on an H200 by arithmetic", rerun=False),
        "paper": Profile("ImageNet, the paper's recipe, many GPUs", rerun=False),
    }
)


def check(profile: str) -> str:
    """Return the name if it is a profile; otherwise raise a ValueError that lists the profiles."""
    if profile not in PROFILES:
        raise ValueError(f"profile={profile!r} is not known; use one of {', '.join(PROFILES)}")
    return profile
