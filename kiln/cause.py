"""Why a layer brought a package: the chain of requirements from what the layer asks for.

Owns the search and its words; knows nothing of what may change. What a run or copy layer does can't be
looked into: there the packages that it left are asked alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from packaging.markers import UndefinedComparison, UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion

from kiln import constraints
from kiln.inventory import Package
from kiln.manifest import AptLayer, Layer, PipLayer, UvLayer
from kiln.protection import normal

Chain = Sequence[Requirement]
"""The first is what the layer asks for, each other one a requirement of the one before."""


def asked(layer: Layer, folder: Path) -> list[Requirement]:
    """What a pip or uv layer asks for itself; `folder` is the manifest's."""
    if not isinstance(layer, PipLayer | UvLayer):
        return []
    texts = [
        *layer.packages,
        *(line for name in layer.requirements for line in constraints.lines(folder, name)),
    ]
    return [found for text in texts if (found := _parsed(text))]


def _parsed(text: str) -> Requirement | None:
    try:
        return Requirement(text)
    except InvalidRequirement:
        return None


def requirements(package: Package, extras: Iterable[str] = (), python: str = "") -> Iterator[Requirement]:
    """What a package requires, with these extras, on Python `python` ('' for whatever it is)."""
    known = {"python_version": python, "python_full_version": f"{python}.0"} if "." in python else {}
    for text in package.requires:
        found = _parsed(text)
        if found and any(_holds(found, {**known, "extra": extra}) for extra in ("", *extras)):
            yield found


def _holds(requirement: Requirement, known: dict[str, str]) -> bool:
    """Whether its marker holds here; one that compares what can't be compared may."""
    try:
        return requirement.marker is None or requirement.marker.evaluate(known)
    except (UndefinedComparison, UndefinedEnvironmentName, InvalidVersion):
        return True


def refuses(requirement: Requirement, version: str) -> bool:
    """Whether another version than this one is required."""
    try:
        return not requirement.specifier.contains(version, prereleases=True)
    except InvalidVersion:
        return True


def of_refusal(
    name: str, version: str, wanted: Sequence[Requirement], there: Mapping[str, Package], python: str
) -> str:
    """What refuses `name` at `version`, in words; '' where nothing that the layer asks for does.

    `wanted` is what the layer asks for, `there` the packages that its Python sees, by name.
    """
    return _words(_chain(name, version, wanted, there, python), there)


def of_python(
    name: str,
    version: str,
    wanted: Sequence[Requirement],
    there: Mapping[str, Package],
    fresh: Collection[Package],
    python: str,
) -> str:
    """Why `name` isn't at `version` any more, in words; '' where no requirement says so.

    As `of_refusal`; else any requirement of it; else one of the packages that are `fresh`.
    """
    said = of_refusal(name, version, wanted, there, python)
    said = said or _words(_chain(name, "", wanted, there, python), there)
    for package in sorted(fresh) if not said else ():
        for found in requirements(package, (), python):
            if normal(found.name) == name and refuses(found, version):
                return f"{package.name} {package.version} requires {_short(found)}"
    return said


def _chain(
    name: str, refused: str, wanted: Sequence[Requirement], there: Mapping[str, Package], python: str
) -> Chain:
    """The shortest chain to a requirement of `name` that refuses a version, or to any where that is ''."""
    pending = deque[list[Requirement]]([each] for each in wanted)
    seen = set[tuple[str, frozenset[str]]]()
    while pending:
        chain = pending.popleft()
        last = chain[-1]
        if normal(last.name) == name and (not refused or refuses(last, refused)):
            return chain
        node = (normal(last.name), frozenset(last.extras))
        if node not in seen and (package := there.get(node[0])):
            pending.extend([*chain, each] for each in requirements(package, last.extras, python))
        seen.add(node)
    return ()


def _words(chain: Chain, there: Mapping[str, Package]) -> str:
    said = [f"the layer asks for {_short(each)}" for each in chain[:1]]
    for one, other in pairwise(chain):
        package = there[normal(one.name)]
        said.append(f"{package.name} {package.version} requires {_short(other)}")
    return ", ".join(reversed(said))


def _short(requirement: Requirement) -> str:
    """Without its marker, which holds."""
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}{requirement.specifier}"


def of_apt(name: str, layer: AptLayer, depends: Mapping[str, Sequence[str]]) -> str:
    """Why an apt layer changed a package; `depends` are the packages' dependencies by their names."""
    pending = deque([package.partition("=")[0].partition(":")[0]] for package in layer.packages)
    seen = set[str]()
    while pending:
        chain = pending.popleft()
        if chain[-1] == name:
            first = f"the layer asks for {chain[0]}"
            needs = [f"{one} depends on {other}" for one, other in pairwise(chain)]
            return ", ".join(reversed([first, *needs]))
        if chain[-1] not in seen:
            pending.extend([*chain, each] for each in depends.get(chain[-1], ()))
        seen.add(chain[-1])
    return "the layer says 'upgrade: true'" if layer.upgrade else ""
