"""One layer of a manifest -> the packages that it will install, asked in the base's tree.

Owns the questions for each kind of layer, and what of earlier layers and of an earlier lock they hold on to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kiln import buildneeds, layercommand, lockedfiles, resolved
from kiln.errors import LockError
from kiln.layercommand import UV_INSIDE, LayerCommand, flag
from kiln.locked import BUILD, SOURCE, TOOL, WHEEL, Locked
from kiln.lockedfiles import LockedFiles
from kiln.lockrun import HINT, PINS, Failed, Tree, script
from kiln.manifest import AptLayer, Layer, Mount, PipLayer, UvLayer
from kiln.ui import Step

SYSTEM = ""
"""The environment of pip, and of uv without a venv."""
ASKED_AT_ONCE = 8
DEEPEST_BUILD = 5
INSTALLED = (WHEEL, SOURCE)
TOGETHER = "it must go with the versions that earlier layers install: put what it needs into one layer"


@dataclass(frozen=True)
class Question:
    """A layer to resolve.

    `below` are the packages that earlier layers put into the same environment, `kept` those of an earlier
    lock, which are preferred.
    """

    title: str
    layer: Layer
    below: tuple[Locked, ...] = ()
    kept: tuple[Locked, ...] = ()


@dataclass(frozen=True)
class Resolver:
    """Asks in `tree`, and for files at the indexes."""

    tree: Tree
    files: LockedFiles

    def base(self, step: Step) -> tuple[Locked, ...]:
        """Every package of a base that was made from a mirror. Raises `LockError`."""
        self.tree.ask("the base", script("apt-lock", "installed"), step, timeout=600)
        found = resolved.apt(self.tree.said().decode("utf-8", "replace"), self._public)
        known = {f"{each.name}={each.version}" for each in found}
        gone = [each for each in self.tree.said("installed").decode().split() if each not in known]
        if gone:
            raise LockError(
                f"{len(gone)} packages of the base are no longer at its mirror: {gone[0]}",
                f"the mirror has changed meanwhile: invoke lock {self.files.lock.name} --update base",
            )
        return found

    def layer(self, question: Question, step: Step) -> tuple[Locked, ...]:
        """The packages of a layer, sorted. Raises `LockError`."""
        if isinstance(question.layer, AptLayer):
            return self._apt(question, question.layer, step)
        if isinstance(question.layer, PipLayer):
            return self._python(question, question.layer, self._pip(question, question.layer, step), step)
        if isinstance(question.layer, UvLayer):
            return self._python(question, question.layer, self._uv(question, question.layer, step), step)
        return ()

    def _apt(self, question: Question, layer: AptLayer, step: Step) -> tuple[Locked, ...]:
        arguments = (flag(layer.upgrade), flag(layer.recommends), *layer.packages)
        self.tree.ask(question.title, script("apt-lock", *arguments), step, timeout=float(layer.timeout))
        return resolved.apt(self.tree.said().decode("utf-8", "replace"), self._public)

    def _pip(self, question: Question, layer: PipLayer, step: Step) -> tuple[Locked, ...]:
        made = self._command(layer)
        upgrade, *arguments = made.argv[2:]
        self._preferring(question, replace(made, argv=_script("pip-lock", upgrade)), arguments, step, "pip")
        tool, found = self.tree.said("tool"), self.tree.said()
        tools = resolved.pip(tool, self._public, TOOL) if tool else ()
        return (*tools, *self._new(question, resolved.pip(found, self._public) if found else ()))

    def _uv(self, question: Question, layer: UvLayer, step: Step) -> tuple[Locked, ...]:
        made = self._command(layer)
        venv, site, python, *arguments = made.argv[2:]
        begin = replace(made, argv=_script("uv-lock", venv, site, python))
        self._preferring(question, begin, arguments, step, "")
        said = self.tree.said()
        below = {each.name: each.version for each in question.below}
        changed = resolved.uv(said) if said else {}
        self._refuse_other(question, changed)
        pins = _pins(
            {name: version for name, version in changed.items() if below.get(name) != version}, layer
        )
        return self._files(question, layer, pins, step, dependencies=False) if pins else ()

    def _preferring(
        self, question: Question, made: LayerCommand, arguments: Sequence[str], step: Step, cache: str
    ) -> None:
        """Ask with the versions that an earlier lock has; where these don't fit any more, without."""
        below = _exact(question.below) if arguments else []
        kept = _exact(question.kept) if arguments else []
        asked = (*arguments, *(["--"] if below and "--" not in arguments else []), *below)

        def ask(*options: str) -> None:
            argv = (*made.argv, *options, *asked)
            timeout, hint = float(question.layer.timeout), TOGETHER if below else HINT
            self.tree.ask(
                question.title,
                replace(made, argv=argv),
                step,
                timeout=timeout,
                layer=question.layer,
                pins=kept,
                cache=cache,
                hint=hint,
            )

        if kept:
            try:
                ask("-c", PINS)
                return
            except Failed:
                step.note("the versions of the lock as it is don't fit any more; looking for others")
        ask()

    def _new(self, question: Question, found: Sequence[Locked]) -> tuple[Locked, ...]:
        """What this layer brings, beside what is below it."""
        self._refuse_other(question, {each.name: each.version for each in found})
        below = {each.name for each in question.below}
        return tuple(each for each in found if each.name not in below)

    def _refuse_other(self, question: Question, found: Mapping[str, str]) -> None:
        for each in question.below:
            if each.place in INSTALLED and found.get(each.name, each.version) != each.version:
                raise LockError(
                    f"{question.title} needs {each.name} {found[each.name]}, an earlier layer installs"
                    f" {each.version}",
                    "put both into one layer",
                )

    def _python(
        self, question: Question, layer: PipLayer | UvLayer, found: Sequence[Locked], step: Step
    ) -> tuple[Locked, ...]:
        """With sizes, and with what sources are built with."""
        found = self._sized(found)
        needed: tuple[Locked, ...] = ()
        sources = [each for each in found if each.place == SOURCE]
        for _ in range(DEEPEST_BUILD):
            if not sources:
                break
            self.files.fetch(sources, step.progress)
            wants = {want for each in sources for want in buildneeds.of(self.files.path(each), each)}
            if not wants:
                break
            more = self._sized(self._files(question, layer, sorted(wants), step, dependencies=True))
            known = {each.sha256 for each in (*found, *needed)}
            new = [replace(each, place=BUILD) for each in more if each.sha256 not in known]
            sources = [each for each in new if not each.url.partition("?")[0].endswith(".whl")]
            needed += tuple(new)
        return tuple(sorted((*found, *needed)))

    def _files(
        self,
        question: Question,
        layer: PipLayer | UvLayer,
        pins: Sequence[str],
        step: Step,
        *,
        dependencies: bool,
    ) -> tuple[Locked, ...]:
        venv, python = (layer.venv or "", layer.python) if isinstance(layer, UvLayer) else ("", "python3")
        made = script(
            "uv-files",
            venv,
            python,
            flag(dependencies),
            mounts=[Mount(source=self.tree.context.uv, target=UV_INSIDE)],
            env=layercommand.indexes(layer, "UV_"),
        )
        self.tree.ask(question.title, made, step, timeout=float(layer.timeout), pins=pins)
        return resolved.pylock(self.tree.said(), self.tree.said("tags"), self._public)

    def _sized(self, found: Sequence[Locked]) -> tuple[Locked, ...]:
        """The indexes tell the sizes that pip and uv don't."""
        with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
            return tuple(pool.map(self._with_size, found))

    def _with_size(self, package: Locked) -> Locked:
        return package if package.size else replace(package, size=self.files.size_of(package.url))

    def _command(self, layer: PipLayer | UvLayer) -> LayerCommand:
        return layercommand.command(layer, self.tree.context.manifests, self.tree.context.uv)

    def _public(self, url: str) -> str:
        return lockedfiles.public(url, self.files.site.mirrors)


def _exact(packages: Sequence[Locked]) -> list[str]:
    return [f"{each.name}=={each.version}" for each in packages if each.place in INSTALLED]


def _script(name: str, *arguments: str) -> tuple[str, ...]:
    return layercommand.script(name, *arguments)


def _pins(changed: Mapping[str, str], layer: PipLayer | UvLayer) -> list[str]:
    """Exact versions, or the addresses that the manifest names."""
    direct = {
        str(canonicalize_name(each.name)): each.url for each in map(Requirement, layer.packages) if each.url
    }
    return [
        f"{name} @ {direct[name]}" if name in direct else f"{name}=={version}"
        for name, version in sorted(changed.items())
    ]
