"""Whether an NVIDIA driver runs an image's CUDA. Pure; what is compared is handed in.

What an image needs it says in its environment, as nvidia-container-toolkit reads it:

    NVIDIA_REQUIRE_CUDA   alternatives with spaces between, each of conditions with commas between:
                          `cuda>=12.8 brand=tesla,driver>=535,driver<536`; `cuda` is what the driver runs.
                          NVIDIA_REQUIRE_DRIVER is read in the same way, and must hold as well
    CUDA_VERSION          the CUDA in the image; NGC's say no more than `cuda>=9.0` in the other one
    _CUDA_COMPAT_PATH     where an image of NGC has the libraries for older drivers

Owns that grammar, and what of NVIDIA's rules of compatibility decides; their numbers are in data/cuda.yaml.
https://docs.nvidia.com/deploy/cuda-compatibility/
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import yaml

TABLE = Path(__file__).parent / "data/cuda.yaml"
FITS, FORWARD, TOO_OLD, UNKNOWN = "fits", "fits with limits", "too old", "not checked"
NO_CUDA = "no CUDA"
LABEL = "com.nvidia.cuda.version"
Version = tuple[int, ...]
CONDITION = re.compile(r"(cuda|driver|arch|brand)(>=|<=|!=|=|<|>)([A-Za-z0-9.]+)")
COMPARE: Mapping[str, Callable[[Version, Version], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "<": operator.lt,
    ">": operator.gt,
}
# What NVML calls the GPUs of data centres, older and newer ones.
DATA_CENTRE = ("tesla", "nvidia", "unknown")


@dataclass(frozen=True)
class Needs:
    """What an image says: the `cuda` in it, '' for none; `requirements` as above, of which all must hold.

    `compat`: whether it has libraries for older drivers.
    """

    cuda: str = ""
    requirements: tuple[str, ...] = ()
    compat: bool = False


@dataclass(frozen=True)
class Verdict:
    """Whether a driver will do: `state` is one of those above, `reason` says it with the numbers."""

    state: str
    reason: str


@dataclass(frozen=True)
class Table:
    """NVIDIA's numbers: the driver of each CUDA and of each major one, branches, NGC's images."""

    drivers: Mapping[Version, Version]
    majors: Mapping[int, Version]
    forward: frozenset[int]
    images: Mapping[str, Mapping[str, str]]

    def cuda_of(self, driver: Version) -> Version:
        """The newest CUDA that a driver runs by itself; () for one older than the table."""
        return max((cuda for cuda, least in self.drivers.items() if driver >= least), default=())


def table(path: Path = TABLE) -> Table:
    data = yaml.safe_load(path.read_text())
    return Table(
        {version(cuda): version(str(least)) for cuda, least in data["drivers"].items()},
        {int(major): version(least) for major, least in data["majors"].items()},
        frozenset(data["forward"]),
        data["images"],
    )


def version(text: str) -> Version:
    """The numbers of a version, up to the first part that is none."""
    return tuple(int(part) for part in takewhile(str.isdecimal, text.split(".")))


def needs(environment: Mapping[str, str], labels: Mapping[str, str]) -> Needs:
    """What an image's variables, and the labels of older ones, say."""
    cuda = version(environment.get("CUDA_VERSION", "") or labels.get(LABEL, ""))[:2]
    ignored = environment.get("NVIDIA_DISABLE_REQUIRE", "").lower() in ("1", "true", "yes", "on")
    said = [environment.get(f"NVIDIA_REQUIRE_{name}", "") for name in ("CUDA", "DRIVER")]
    requirements = () if ignored else tuple(each for each in said if each.strip())
    return Needs(_dotted(cuda), requirements, bool(environment.get("_CUDA_COMPAT_PATH")))


def judge(wanted: Needs, driver: str, known: Table) -> Verdict:
    """Whether the driver of version `driver`, '' for an unknown one, will do."""
    if not wanted.cuda and not wanted.requirements:
        return Verdict(NO_CUDA, "it says nothing of CUDA")
    if not driver:
        return Verdict(UNKNOWN, f"{_said(wanted)}; no driver here, and none in the site profile ('driver:')")
    have = version(driver)
    runs = known.cuda_of(have)
    told = f"driver {driver} runs CUDA {_dotted(runs) or 'of before 9.0'}"
    try:
        unmet = [each for each in wanted.requirements if not _satisfied(each, have, runs)]
        if unmet:
            return Verdict(TOO_OLD, f"{told}, and it wants {_first(unmet[0])}")
    except ValueError as error:
        return Verdict(UNKNOWN, str(error))
    cuda = version(wanted.cuda)
    if not cuda or cuda <= runs:
        return Verdict(FITS, f"{told}; {_said(wanted)}")
    return _newer(wanted, cuda, have, told, known)


def _newer(wanted: Needs, cuda: Version, have: Version, told: str, known: Table) -> Verdict:
    """For an image with a newer CUDA than the driver's own."""
    if cuda[0] > max(known.drivers)[0] or cuda < min(known.drivers):
        return Verdict(UNKNOWN, f"{_said(wanted)}, which this Kiln doesn't know")
    if have >= known.majors.get(cuda[0], (10_000,)):
        limits = f"CUDA {cuda[0]}'s minor version compatibility: what is compiled at run time may fail"
        return Verdict(FORWARD, f"{told}, {_said(wanted)}: {limits}")
    # An image's own list of older drivers says the same as having the libraries.
    if have[0] in known.forward and (wanted.compat or "driver" in " ".join(wanted.requirements)):
        limits = "by forward compatibility, with libraries of its own, on data centre GPUs alone"
        return Verdict(FORWARD, f"{told}, {_said(wanted)}: {limits}")
    return Verdict(TOO_OLD, f"{told}, and {_said(wanted)}")


def fitting(image: str, driver: str, known: Table) -> list[str]:
    """The tags of an image, by its registry and repository, whose CUDA a driver runs; the newest first."""
    have = version(driver)
    tags = known.images.get(image, {})
    return [tag for tag in sorted(tags, reverse=True) if _runs(version(tags[tag]), have, known)]


def _runs(cuda: Version, have: Version, known: Table) -> bool:
    return cuda <= known.cuda_of(have) or have >= known.majors.get(cuda[0], (10_000,))


def _satisfied(requirement: str, driver: Version, cuda: Version) -> bool:
    """Whether one of the alternatives holds. Raises `ValueError` for what isn't the grammar."""
    alternatives = [
        [_holds(condition, driver, cuda) for condition in alternative.split(",")]
        for alternative in requirement.split()
    ]
    return not alternatives or any(all(alternative) for alternative in alternatives)


def _holds(condition: str, driver: Version, cuda: Version) -> bool:
    match = CONDITION.fullmatch(condition)
    if not match:
        raise ValueError(f"its NVIDIA_REQUIRE_CUDA can't be read: {condition!r}")
    name, sign, value = match.groups()
    if name == "brand":
        return (value.lower() in DATA_CENTRE) == (sign != "!=")
    if name == "arch":
        return True  # a GPU's, which a driver's version says nothing of
    have, wanted = {"driver": driver, "cuda": cuda}[name], version(value)
    if sign in ("=", "!="):
        return (have[: len(wanted)] == wanted) == (sign == "=")
    return COMPARE[sign](have, wanted)


def _said(wanted: Needs) -> str:
    return f"it has CUDA {wanted.cuda}" if wanted.cuda else f"it wants {_first(wanted.requirements[0])}"


def _first(requirement: str) -> str:
    """The first alternative: the rest are other brands and older branches."""
    return (requirement.split() or [""])[0]


def _dotted(numbers: Version) -> str:
    return ".".join(map(str, numbers))
