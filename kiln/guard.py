"""The guard for a base's own packages: taking stock before and after each layer, and what follows.

Owns what counts as a change of a protected package. Each Python of the tree that sees one of the base's must
go on seeing that version, whoever brings another and wherever it lies: in its place, before it in the
search, or in a virtual environment that sees the system's packages. What such a one doesn't see is its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from kiln import cause, constraints, inventory, pythonenv
from kiln.constraints import Handed, Pin
from kiln.inventory import APT, PYTHON, Inventory, Package
from kiln.manifest import AptLayer, CopyLayer, Layer, PipLayer, RunLayer, UvLayer
from kiln.protection import Protection, normal
from kiln.pythonenv import Environment
from kiln.record import PackageChange

_PIP_REFUSES = re.compile(r"The user requested \(constraint\) ([A-Za-z0-9._-]+)")
_UV_REFUSES = "No solution found when resolving dependencies"


@dataclass(frozen=True)
class Broken:
    """A protected package that isn't any more as the base has it: `before` there, `after` now, '' for gone.

    `place` is where that version lies, '' for apt's; `why` what brought it, '' where that can't be told. With
    `after` as `before`, what lies at `place` needs another than it sees.
    """

    kind: str
    name: str
    before: str
    after: str
    place: str
    why: str = ""

    def __str__(self) -> str:
        place = f" in {self.place}" if self.after and self.place else ""
        now = f"{self.after or 'gone'} after the layer{place}"
        if self.after == self.before:
            now = f"which {self.place} sees too"
        return f"{self.name}: {self.before} in the base, {now}" + (f"; {self.why}" if self.why else "")

    @property
    def step(self) -> str:
        return f"{self.name} {self.before}" + (
            "" if self.after == self.before else f" -> {self.after or 'gone'}"
        )


@dataclass(frozen=True)
class Guard:
    """The stock of a base, and what of it is protected: `named` are the names in its constraint files."""

    base: Inventory
    protection: Protection
    named: frozenset[str] = frozenset()

    def protects(self, package: Package) -> bool:
        named = package.kind == PYTHON and normal(package.name) in self.named
        return named or self.protection.covers(package.name)

    @cached_property
    def held(self) -> tuple[Package, ...]:
        """The base's packages that layers must leave as they are."""
        return tuple(
            package
            for package in self.base.packages
            if self.protects(package) and not self.protection.allows(package.name)
        )

    def pins(self, environment: Environment) -> tuple[Pin, ...]:
        """The held versions that a Python sees."""
        found = []
        for name, copies in _by_name(self.held, PYTHON).items():
            if first := _seen(copies, environment):
                rank = environment.rank(first[0].place) or 0
                found.append(Pin(name, first[0].version, environment.venv and rank >= pythonenv.OUTSIDE))
        return tuple(found)

    def hand(
        self, layer: Layer, tree: Path, environ: Mapping[str, str], manifests: Path, folder: Path
    ) -> Handed:
        """What pip or uv gets to leave the base's packages as they are; see `kiln.constraints`.

        `environ` is what the layer would see without, `folder` a private one, in which files are made.
        """
        environment = _target(layer, tree, environ.get("PATH", ""))
        if environment is None:
            return Handed()
        pins = self.pins(environment)
        if isinstance(layer, PipLayer):
            allowed = frozenset(map(normal, self.protection.allow))
            return constraints.for_pip(pins, allowed, tree, environ, folder)
        names = {normal(each.name) for each in cause.asked(layer, manifests)}
        return constraints.for_uv(pins, names, environ, folder)

    def changes(self, before: Inventory, after: Inventory) -> tuple[PackageChange, ...]:
        """What a layer added, removed and changed, by kind, name and place."""
        old, new = _by_key(before), _by_key(after)
        differ = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
        protected = [each for each in self.base.packages if self.protects(each)]
        leave = {(each.kind, each.name) for each in protected if self.protection.allows(each.name)}
        return tuple(
            PackageChange(*key, old.get(key, ""), new.get(key, ""), allowed=key[:2] in leave)
            for key in differ
        )

    def broken(
        self, layer: Layer, tree: Path, before: Inventory, after: Inventory, manifests: Path
    ) -> tuple[Broken, ...]:
        """The held packages that `tree` hasn't got any more as the base has them, each once."""
        fresh = frozenset(set(after.packages) - set(before.packages))
        found = [
            *self._broken_apt(layer, tree, after),
            *self._broken_python(layer, tree, after, fresh, manifests),
            *self._unmet(layer, tree, after, manifests),
        ]
        first: dict[tuple[str, str, str], Broken] = {}
        for each in found:
            first.setdefault((each.kind, each.name, each.step), each)
        return tuple(first.values())

    def _broken_apt(self, layer: Layer, tree: Path, after: Inventory) -> list[Broken]:
        there = {package.key: package for package in after.of(APT)}
        found = []
        for package in (each for each in self.held if each.kind == APT):
            now = there.get(package.key)
            if now is None or now.version != package.version:
                why = _apt_cause(package.name, layer, tree)
                version = now.version if now else ""
                found.append(Broken(APT, package.name, package.version, version, "", why))
        return found

    def _broken_python(
        self, layer: Layer, tree: Path, after: Inventory, fresh: frozenset[Package], manifests: Path
    ) -> list[Broken]:
        there, held = _by_name(after.packages, PYTHON), _by_name(self.held, PYTHON)
        places = {each.place for each in (*after.of(PYTHON), *self.held) if normal(each.name) in held}
        whose = {place: pythonenv.of_folder(tree, place) for place in places}
        found = []
        for name, copies in held.items():
            now = there.get(name, [])
            for environment in sorted({whose[each.place] for each in (*copies, *now)}):
                had, has = _seen(copies, environment), _seen(now, environment)
                if had and _versions(had) != _versions(has):
                    why = cause.of_python(
                        name,
                        had[0].version,
                        cause.asked(layer, manifests),
                        _view(there, environment),
                        [each for each in fresh if environment.rank(each.place) is not None],
                        environment.version,
                    )
                    place = (has or had)[0].place
                    why = why or _unknown(layer)
                    found.append(Broken(PYTHON, name, _versions(had), _versions(has), place, why))
        return found

    def _unmet(self, layer: Layer, tree: Path, after: Inventory, manifests: Path) -> list[Broken]:
        """What uv was told to leave to the system, and what it installed needs at another version."""
        if not isinstance(layer, UvLayer) or layer.venv is None:
            return []
        environment = pythonenv.in_venv(tree, layer.venv, None, system=False)
        there = _view(_by_name(after.packages, PYTHON), environment)
        wanted = cause.asked(layer, manifests)
        found = []
        for pin in (each for each in self.pins(environment) if each.outside):
            if why := cause.of_refusal(pin.name, pin.version, wanted, there, environment.version):
                found.append(Broken(PYTHON, pin.name, pin.version, pin.version, environment.prefix, why))
        return found


def of_base(tree: Path, protection: Protection) -> Guard:
    """Take stock of a base. A tree without dpkg or Python has nothing of it to guard."""
    return Guard(inventory.take(tree), protection, constraints.names(tree))


def refused(pins: Sequence[Pin], output: str) -> tuple[Pin, ...]:
    """The pins because of which pip or uv found no solution, by what it said."""
    if _UV_REFUSES in output:
        return tuple(
            pin for pin in pins if re.search(rf"(?<![\w.-]){re.escape(str(pin))}(?![\w+]|\.\d)", output)
        )
    named = set(map(normal, _PIP_REFUSES.findall(output)))
    return tuple(pin for pin in pins if pin.name in named)


def _target(layer: Layer, tree: Path, path: str) -> Environment | None:
    """The environment into which a layer installs; None where there is no Python yet, and for other kinds."""
    if isinstance(layer, PipLayer):
        return pythonenv.of_command(tree, "python3", path) or pythonenv.of_command(tree, "python", path)
    if not isinstance(layer, UvLayer):
        return None
    base = pythonenv.of_command(tree, layer.python, path)
    return (
        pythonenv.in_venv(tree, layer.venv, base, system=layer.system_site_packages) if layer.venv else base
    )


def _by_key(stock: Inventory) -> dict[tuple[str, str, str], str]:
    """The version at each key; several, where remains of an older one lie beside."""
    found: dict[tuple[str, str, str], str] = {}
    for package in stock.packages:
        found[package.key] = ", ".join(filter(None, (found.get(package.key, ""), package.version)))
    return found


def _by_name(packages: Sequence[Package], kind: str) -> dict[str, list[Package]]:
    found: dict[str, list[Package]] = {}
    for package in packages:
        if package.kind == kind:
            found.setdefault(normal(package.name), []).append(package)
    return found


def _seen(copies: Sequence[Package], environment: Environment) -> list[Package]:
    """Of the copies of one package those in the first folder in which a Python finds it."""
    ranked = [(rank, each) for each in copies if (rank := environment.rank(each.place)) is not None]
    first = min((rank for rank, _ in ranked), default=0)
    return [each for rank, each in ranked if rank == first]


def _view(packages: Mapping[str, Sequence[Package]], environment: Environment) -> dict[str, Package]:
    """The copy of each package that a Python finds."""
    return {name: found[0] for name, copies in packages.items() if (found := _seen(copies, environment))}


def _versions(packages: Sequence[Package]) -> str:
    return ", ".join(sorted({package.version for package in packages}))


def _apt_cause(name: str, layer: Layer, tree: Path) -> str:
    said = cause.of_apt(name, layer, inventory.depends(tree)) if isinstance(layer, AptLayer) else ""
    return said or _unknown(layer)


def _unknown(layer: Layer) -> str:
    """The cause, where no requirement tells it."""
    if isinstance(layer, RunLayer):
        return f"the layer's script{f' {layer.file}' if layer.file else ''} did it"
    if isinstance(layer, CopyLayer):
        return "the layer's files brought it"
    return "a package of apt brought it" if isinstance(layer, AptLayer) else ""
