"""Keys: the digest of everything that decides what a base, a layer or an image will be.

Owns what goes into a key and what stays out of it, and tells two sets of inputs apart in words. A key
is the sha256 of canonical JSON, in hex, and is known before anything runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from kiln import files
from kiln.errors import ManifestError
from kiln.layercommand import SCRIPTS
from kiln.manifest import AptLayer, CopyLayer, Layer, Manifest, PipLayer, RunLayer, SmokeTest, UvLayer
from kiln.protection import Protection

FORMAT = 1
MOST_NAMED = 3
DECLARED = {"workdir", "entrypoint", "command", "fstab", "description", "maintainer"}


@dataclass(frozen=True)
class Key:
    """A key, and the inputs that it is the digest of."""

    digest: str
    inputs: Mapping[str, Any]


def of(inputs: Mapping[str, Any]) -> Key:
    text = files.canonical_json({"format": FORMAT, **inputs})
    return Key(hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest(), inputs)


def of_base(digest: str, made_by: str) -> Key:
    """The key of a base's tree; `made_by` names what unpacks it, since trees differ with it."""
    return of({"base": digest, "tool": made_by})


def of_layer(
    layer: Layer,
    parent: str,
    env: Mapping[str, str],
    guard: Protection,
    folder: Path,
    architecture: str,
    locked: Mapping[str, str] | None = None,
) -> Key:
    """The key of one layer on the parent's key; `env` and `guard` are the manifest's, `folder` is its.

    `locked` are the packages of a locked layer, by name: where one comes from decides nothing, so that isn't
    there. Without a lock the key is what it was before there were locks.

    Left out, since they say how to reach things and not what to install: proxies, CA, indexes and mounts of
    the site, package caches, and the time limit. The version of uv too: an update of Kiln would make
    every uv layer anew. Of secrets only the names: another token installs the same.
    """
    said = layer.model_dump(mode="json", exclude={"timeout", "secrets"})
    if names := {name: secret.variable for name, secret in getattr(layer, "secrets", {}).items()}:
        said["secrets"] = names
    return of(
        {
            "parent": parent,
            "kind": layer.kind,
            "tool": _scripts(layer.kind if locked is None else f"{layer.kind}-locked"),
            **said,
            "files": digests(layer, folder),
            # Each may refer to those before it.
            "env": [list(item) for item in env.items()],
            "architecture": architecture,
            # A layer that is taken from the store isn't compared again. The versions that pip and uv are held
            # to follow from the base and this.
            "guard": guard.inputs(),
            **({} if locked is None else {"locked": dict(locked)}),
        }
    )


def digests(layer: Layer, folder: Path) -> dict[str, str]:
    """Of the files beside the manifest that a layer reads, by their names in it; `folder` is the manifest's.

    Raises `ManifestError` for one that can't be read.
    """
    return {name: digest(folder / name) for name in _sources(layer)}


def of_image(top: str, manifest: Manifest, epoch: int, packing: Sequence[str], hooks: Path) -> Key:
    """The key of a finished image on the key of its last layer: what is declared, packed and tested.

    A hook that changed makes another image: how it was tested is part of what is published.
    """
    declared = manifest.model_dump(mode="json", include=DECLARED)
    return of(
        {
            "parent": top,
            **declared,
            "base": manifest.base.text,
            "env": [list(item) for item in manifest.env.items()],
            "epoch": epoch,
            "packing": list(packing),
            "smoke": [_smoke(test, hooks) for test in manifest.smoke],
        }
    )


def pinned(layer: Layer) -> bool:
    """Whether a layer says exactly what it installs: else time alone can change it."""
    if isinstance(layer, AptLayer):
        return not layer.upgrade and all("=" in package for package in layer.packages)
    if isinstance(layer, PipLayer | UvLayer):
        upgrade = isinstance(layer, PipLayer) and layer.upgrade_pip
        exact = all(_is_exact(Requirement(package)) for package in layer.packages)
        return exact and not upgrade and not layer.requirements
    return True


def _is_exact(requirement: Requirement) -> bool:
    versions = [each for each in requirement.specifier if each.operator in ("==", "===")]
    return bool(requirement.url) or any(not each.version.endswith("*") for each in versions)


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between two sets of inputs, in a few words; '' where nothing does.

    `before` was read from a file, and may be anything.
    """
    names = [name for name in (*now, *(key for key in before if key not in now)) if name != "parent"]
    differ = [name for name in names if before.get(name, ...) != now.get(name, ...)]
    return ", ".join(_change(name, before.get(name), now.get(name)) for name in differ)


def _change(name: str, before: Any, now: Any) -> str:
    if name == "tool":
        return "Kiln's own way of making it"
    if name == "env" and _are_pairs(before) and _are_pairs(now):
        if sorted(before) == sorted(now):
            return "the order of env"
        before, now = dict(before), dict(now)
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = [key for key in dict.fromkeys((*before, *now)) if before.get(key, ...) != now.get(key, ...)]
        return f"{name} {_few(keys)}"
    if isinstance(before, list) and isinstance(now, list) and all(isinstance(x, str) for x in before + now):
        added = [f"+{item}" for item in now if item not in before]
        removed = [f"-{item}" for item in before if item not in now]
        return f"{name} {_few(added + removed)}" if added or removed else f"the order of {name}"
    return name


def _are_pairs(value: Any) -> bool:
    pairs = value if isinstance(value, list) else [None]
    return all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(item, str) for item in pair)
        for pair in pairs
    )


def _few(things: Sequence[str]) -> str:
    more = f" and {len(things) - MOST_NAMED} more" if len(things) > MOST_NAMED else ""
    return " ".join(things[:MOST_NAMED]) + more


def _scripts(kind: str) -> str:
    """The digest of Kiln's scripts that run a layer of this kind."""
    own = {"run": [], "pip": ["pip.sh", "compile.py"], "apt-locked": ["apt-locked.sh", "repository.sh"]}
    own["pip-locked"] = ["pip-locked.sh", "compile.py"]
    names = ["rc", "layer.sh", *own.get(kind, [f"{kind}.sh"])]
    return hashlib.sha256(b"".join((SCRIPTS / name).read_bytes() for name in names)).hexdigest()


def _sources(layer: Layer) -> list[str]:
    """The files beside the manifest that a layer reads."""
    if isinstance(layer, CopyLayer):
        return [item.source for item in layer.items]
    if isinstance(layer, RunLayer):
        return [layer.file] if layer.file else []
    return list(layer.requirements) if isinstance(layer, PipLayer | UvLayer) else []


def digest(path: Path) -> str:
    """That of a file or folder; of what a link leads to: that is what a layer gets to see."""
    try:
        return files.sha256_path(path.resolve())
    except (OSError, RuntimeError) as error:
        raise ManifestError(f"{path} can't be read: {error}", f"look at: ls -l {path}") from error


def _smoke(test: SmokeTest, hooks: Path) -> Mapping[str, Any]:
    return {**test.model_dump(mode="json"), "hook": test.hook, "digest": digest(hooks / test.hook)}
