"""The file of a lock, `manifests/NAME.lock`: one package a line, sorted, committed beside its manifest.

Owns its form and its checksums. What is in it is `kiln.locked`'s. A text that is made by this module is the
only one that is taken: what is changed by hand is refused, with its place.

    format, name, architecture, env, guard
    made_from    the checksum of what it was made from: `Lock.inputs`
    checksum     of everything else in the file; base and layers have one each, so that a change has a place
    base         text, label, digest, platform_digest, epoch; sources and packages of one made from a mirror
    layers       number, kind, inputs (what the manifest says, files by digest), locked (lines of `Locked`)
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PlainValidator, WithJsonSchema, model_validator

from kiln import document, files
from kiln.document import Mistake, Model, Number, wanted
from kiln.errors import LockError, ManifestError
from kiln.fields import Line, refuse_newer
from kiln.locked import Lock, Locked, LockedBase, LockedLayer, checksum, without_login
from kiln.problems import quote, shown
from kiln.yamltree import Items, Plain, Table, Text, parse, read

FORMAT = 1
# A line has 250 bytes or so; a large image has a thousand packages.
SIZE_LIMIT = 4 << 20

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_SCHEMES = ("http://", "https://", "file:/")
_WORDS_OF_YAML = ("true", "false", "yes", "no", "on", "off", "null", "y", "n")


def path_of(manifests: Path, name: str) -> Path:
    return manifests / f"{name}.lock"


# --- writing -----------------------------------------------------------------------------------


def render(lock: Lock) -> str:
    """The text of a lock: the same for the same lock."""
    name = lock.name
    lines = [
        f"# What 'invoke lock {name}' found for {name}.yaml. Change that file and lock it again: what is",
        "# changed here is refused.",
        f"format: {FORMAT}",
        f"name: {name}",
        f"architecture: {lock.architecture}",
        f"made_from: {lock.made_from}",
        f"checksum: {lock.checksum}",
        *_mapping("env", lock.env, ""),
        *_mapping("guard", lock.guard, ""),
        "base:",
        *_block(lock.base.to_data(), "  "),
        "layers:" if lock.layers else "layers: []",
    ]
    for layer in lock.layers:
        first, *rest = _block(layer.to_data(), "    ")
        lines += ["  - " + first.lstrip(), *rest]
    return "\n".join(lines) + "\n"


def _block(data: Mapping[str, Any], indent: str) -> Iterator[str]:
    for name, value in data.items():
        if isinstance(value, Mapping):
            yield from _mapping(name, value, indent)
        elif name == "locked":
            yield f"{indent}locked:" if value else f"{indent}locked: []"
            yield from (f"{indent}  - {line}" for line in value)
        else:
            yield f"{indent}{name}: {_flow(value)}"
    yield f"{indent}checksum: {checksum(data)}"


def _mapping(name: str, values: Mapping[str, Any], indent: str) -> Iterator[str]:
    yield f"{indent}{name}:" if values else f"{indent}{name}: {{}}"
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _mapping(key, value, indent + "  ")
        else:
            yield f"{indent}  {_flow(key)}: {_flow(value)}"


def _flow(value: object) -> str:
    """JSON, which YAML takes; plain words and digests without quotes."""
    text = value if isinstance(value, str) else ""
    word = _WORD.fullmatch(text) and text.lower() not in _WORDS_OF_YAML
    return text if word or _DIGEST.fullmatch(text) else json.dumps(value, ensure_ascii=False)


def write(lock: Lock) -> None:
    """Raises `StoreError` or `SpaceError` where the manifests' folder can't be written."""
    files.write_atomic(lock.path, render(lock).encode("utf-8", "surrogateescape"))


# --- reading -----------------------------------------------------------------------------------


def _plain(value: object) -> Any:
    """What YAML read, as JSON would have it."""
    if isinstance(value, Table):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, Items):
        return [_plain(each) for each in value]
    if isinstance(value, Plain) and value.value is not None:
        return value.value
    if isinstance(value, str):
        return str(value)
    raise wanted("text", value)


def _plain_mapping(value: object) -> dict[str, Any]:
    if not isinstance(value, Table):
        raise wanted("a mapping", value)
    return {str(key): _plain(each) for key, each in value.items()}


def _text_mapping(value: object) -> dict[str, str]:
    return {
        name: each if isinstance(each, str) else str(each) for name, each in _plain_mapping(value).items()
    }


def parse_line(text: object) -> Locked:
    """A package from its line: NAME VERSION PLACE SIZE sha256:HEX URL. Raises `Mistake`."""
    words = text.split(" ") if isinstance(text, str) else []
    if len(words) != 6 or not all(words):
        raise Mistake("NAME VERSION PLACE SIZE sha256:… URL is wanted here")
    name, version, place, size, digest, url = map(str, words)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9+._-]*", name) or not re.fullmatch(r"[a-z0-9-]+", place):
        raise Mistake(f"{quote(name)} ({quote(place)}) is not a package")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+:~_!-]*", version):
        raise Mistake(f"{quote(version)} is not a version")
    if not re.fullmatch(r"0|[1-9][0-9]{0,14}", size) or not _DIGEST.fullmatch(digest):
        raise Mistake("a size in bytes and sha256: with 64 hexadecimal digits are wanted here")
    if not url.startswith(_SCHEMES) or url != without_login(url):
        raise Mistake(f"{quote(url)} is not an address without a login")
    line = text.span.line if isinstance(text, Text) else 0
    return Locked(name, version, place, int(size), digest.removeprefix("sha256:"), url, line)


def _digest(value: object) -> str:
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise Mistake("sha256: and 64 hexadecimal digits are wanted here")
    return str(value)


def _source(text: str) -> str:
    if text != without_login(text):
        raise Mistake("this source has an address with a login")
    return text


_Source = Annotated[Line, AfterValidator(_source)]
_Digest = Annotated[str, PlainValidator(_digest), WithJsonSchema({"type": "string"})]
_Locked = Annotated[Locked, PlainValidator(parse_line), WithJsonSchema({"type": "string"})]
_Inputs = Annotated[dict[str, Any], PlainValidator(_plain_mapping), WithJsonSchema({"type": "object"})]
_Texts = Annotated[dict[str, str], PlainValidator(_text_mapping), WithJsonSchema({"type": "object"})]


class _BaseModel(Model):
    text: Line
    label: Line
    digest: _Digest
    platform_digest: _Digest
    epoch: Number
    sources: tuple[_Source, ...] = ()
    locked: tuple[_Locked, ...] = ()
    checksum: _Digest


class _LayerModel(Model):
    number: Annotated[Number, Field(ge=1)]
    kind: Line
    inputs: _Inputs
    locked: tuple[_Locked, ...] = ()
    checksum: _Digest


class _LockModel(Model):
    format: Number
    name: Line
    architecture: Line
    made_from: _Digest
    checksum: _Digest
    env: _Texts
    guard: _Inputs
    base: _BaseModel
    layers: tuple[_LayerModel, ...]

    @model_validator(mode="before")
    @classmethod
    def _known_format(cls, data: object) -> object:
        return refuse_newer(data, FORMAT)


def load(manifests: Path, name: str) -> Lock | None:
    """The lock of an image, None where there is none.

    Raises `LockError` for one that can't be read, is of a newer Kiln, or isn't as it was written.
    """
    path = path_of(manifests, name)
    if not path.exists():
        return None
    try:
        model = document.load(path, _LockModel, limit=SIZE_LIMIT)
    except ManifestError as error:
        raise LockError(error.message, _hint(path), error.details) from error
    base = model.base
    lock = Lock(
        path,
        model.name,
        model.architecture,
        model.env,
        model.guard,
        LockedBase(
            base.text, base.label, base.digest, base.platform_digest, base.epoch, base.sources, base.locked
        ),
        tuple(LockedLayer(each.number, each.kind, each.inputs, each.locked) for each in model.layers),
    )
    _refuse_changed(lock, model)
    return lock


def _refuse_changed(lock: Lock, model: _LockModel) -> None:
    """A checksum fits all that it is of, or somebody changed one of the two."""
    found = [(lock.base.to_data(), model.base.checksum)]
    found += [(mine.to_data(), its.checksum) for mine, its in zip(lock.layers, model.layers, strict=True)]
    wrong = [number for number, (data, said) in enumerate(found) if checksum(data) != said]
    ordered = [each.number for each in lock.layers] == list(range(1, len(lock.layers) + 1))
    whole = model.checksum == lock.checksum and model.made_from == lock.made_from and ordered
    if not wrong and whole and lock.name == lock.path.stem:
        return
    details = [f"{shown(lock.path)}:{line}: {what}" for line, what in _places(lock, wrong)]
    raise LockError(f"{shown(lock.path)} was changed by hand", _hint(lock.path), details)


def _places(lock: Lock, wrong: Sequence[int]) -> Iterator[tuple[int, str]]:
    """Line and words for each block that isn't as it was written: 0 is the base, others are layers."""
    top = parse(read(lock.path, SIZE_LIMIT)).value
    blocks = _blocks(top)
    for number in wrong:
        what = f"layer {number} ({lock.layers[number - 1].kind})" if number else "the base"
        yield blocks[number].span.line, f"{what} isn't as it was locked"
    if not wrong:
        yield 1, "a line before 'base:', or the order or number of the layers, isn't as it was locked"


def _blocks(top: object) -> list[Table]:
    layers = top.get("layers") if isinstance(top, Table) else None
    base = top.get("base") if isinstance(top, Table) else None
    found = [base, *(layers if isinstance(layers, Items) else [])]
    return [each for each in found if isinstance(each, Table)]


def _hint(path: Path) -> str:
    return f"take it back (git checkout {shown(path)}), or make it anew: invoke lock {path.stem}"
