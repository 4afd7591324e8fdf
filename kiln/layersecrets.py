"""Secrets of the caller's, lent to one layer: read, handed in as files and variables, and taken back.

Owns where they come from and where they lie meanwhile: files of mode 0600 in the build's private folder,
gone when the layer ends, also when the build is kept. They are no part of a key, a record or a command line.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kiln import files
from kiln.errors import UsageError
from kiln.layercommand import INSIDE
from kiln.manifest import Layer, Mount
from kiln.plan import PlannedLayer
from kiln.secretsource import Secret
from kiln.workspace import Workspace

FOLDER = "secrets"
LARGEST = 1 << 20
SHORTEST = 8  # characters: shorter ones can't be told from other text in a log or an image


@dataclass(frozen=True)
class Lent:
    """What a layer gets of its secrets; `values` by their names, for masking and searching."""

    mounts: tuple[Mount, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    values: Mapping[str, str] = field(default_factory=dict, repr=False)


def declared(layer: Layer) -> Mapping[str, Secret]:
    return getattr(layer, "secrets", {})


def check(layers: Sequence[PlannedLayer], environ: Mapping[str, str]) -> None:
    """Raise `UsageError` with all that is missing of the secrets of layers that have to run."""
    missing = []
    for item in layers:
        for name, secret in declared(item.layer).items() if item.lookup.entry is None else ():
            try:
                read(name, secret, environ)
            except UsageError as error:
                missing.append(f"layer {item.number} ({item.title}): {error.message}; {error.hint}")
    if missing:
        raise UsageError(
            "secrets that layers need are missing"
            if len(missing) > 1
            else "a secret that a layer needs is missing",
            "give them to this build; 'secrets:' in the manifest says where each comes from",
            missing,
        )


def read(name: str, secret: Secret, environ: Mapping[str, str]) -> str:
    """The secret's text. Raises `UsageError` where the caller doesn't have it, or it is of no use."""
    value = environ.get(secret.env or "", "") if secret.env else _of_file(name, secret, environ)
    hint = f"type: export {secret.env}=…" if secret.env else f"look at: ls -l {secret.file}"
    if not value.strip():
        state = "is not set" if secret.env and secret.env not in environ else "is empty"
        raise UsageError(f"secret {name}: {secret.source} {state}", hint)
    if len(value.strip()) < SHORTEST:
        raise UsageError(
            f"secret {name}: {secret.source} has fewer than {SHORTEST} characters, which can't be masked",
            hint,
        )
    return value


def _of_file(name: str, secret: Secret, environ: Mapping[str, str]) -> str:
    text = secret.file or ""
    path = Path(environ.get("HOME", "/"), text[2:]) if text.startswith("~/") else Path(text)
    try:
        with path.open("rb") as stream:
            data = stream.read(LARGEST + 1)
    except OSError as error:
        raise UsageError(
            f"secret {name}: {secret.source} can't be read: {error.strerror}", f"look at: ls -l {path}"
        ) from None
    try:
        value = data.decode()
    except UnicodeDecodeError:
        value = "\0"
    if "\0" in value or len(data) > LARGEST:
        raise UsageError(
            f"secret {name}: {secret.source} is not text of at most 1 MiB", f"look at: file {path}"
        )
    return value


@contextlib.contextmanager
def lent(layer: Layer, environ: Mapping[str, str], private: Workspace) -> Iterator[Lent]:
    """The layer's secrets, there until the block ends. Raises `UsageError` for one that is missing.

    The container's /tmp is emptied then, for the next layer would see what this one left in it.
    """
    secrets = declared(layer)
    if not secrets:
        yield Lent()
        return
    folder = private.path / FOLDER
    values = {name: read(name, secret, environ) for name, secret in secrets.items()}
    mounts, env = [], {}
    try:
        with files.translated(folder):
            folder.mkdir(mode=0o700)
        for name, secret in secrets.items():
            files.write_atomic(folder / name, values[name].encode("utf-8", "surrogateescape"), 0o600)
            inside = f"{INSIDE}/secrets/{name}"
            mounts.append(Mount(source=folder / name, target=inside))
            if secret.variable:
                env[secret.variable] = values[name] if secret.env else inside
        yield Lent(tuple(mounts), env, values)
    finally:
        files.remove_tree(folder)
        for path in private.scratch.iterdir():
            files.remove_tree(path)
