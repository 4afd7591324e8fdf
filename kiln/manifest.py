"""What an image is: `manifests/NAME.yaml` as a frozen model.

Owns the manifest's keys and finding manifests. Must not resolve, fetch or build anything: the only thing
that is looked at besides the file itself is whether the files it names are there. The layers' models
are in `kiln.steps`, bases in `kiln.base`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from kiln import document
from kiln.base import Base, parse_base
from kiln.document import Mistake, Model, Number, Parsed, ShortForm, Switch, reading, span_of, wanted
from kiln.errors import ManifestError, UsageError
from kiln.fields import (
    HostMount,
    ImagePath,
    Line,
    Mount,
    Seconds,
    VariableName,
    VariableValue,
    one_line,
    refuse_newer,
)
from kiln.problems import did_you_mean, quote, shown
from kiln.protection import Protection
from kiln.resources import Jobs
from kiln.sourcefiles import ManifestReading
from kiln.steps import AptLayer, CopyItem, CopyLayer, Layer, Layers, PipLayer, RunLayer, UvLayer
from kiln.yamltree import Items, Plain, Table, parse, read

__all__ = [
    "AptLayer",
    "Base",
    "CopyItem",
    "CopyLayer",
    "Layer",
    "Manifest",
    "Mount",
    "PipLayer",
    "RunLayer",
    "SmokeTest",
    "UvLayer",
    "find",
    "layer_place",
    "load",
    "names",
    "parse_base",
]

FORMAT = 1
HINT = "docs/manifest.md describes every key"

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


# --- smoke hooks -------------------------------------------------------------------------------


def _hook_name(text: str, info: ValidationInfo) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", text):
        raise Mistake(f"{quote(text)} is not a smoke hook", "write the name of a file in hooks/")
    seen = reading(info, ManifestReading)
    if seen and seen.hooks is not None and text not in seen.hooks:
        raise Mistake(f"there is no smoke hook {quote(text)}", did_you_mean(text, seen.hooks))
    return text


def _arguments(value: object) -> object:
    return (value,) if isinstance(value, (str, Plain)) else value


def _expand_smoke(value: object) -> object:
    if isinstance(value, str):
        return {"hook": value}
    if isinstance(value, (list, Plain)):
        raise wanted("the name of a smoke hook", value)
    if isinstance(value, dict) and len(value) == 1 and not set(value) & set(SmokeTest.model_fields):
        [(hook, arguments)] = value.items()
        return {"hook": hook, "args": arguments}
    return value


class SmokeTest(Model):
    """A smoke hook, run in the finished image.

    Short forms: `gpu-visible` for one without arguments; `commands: [rolldice 1d6, git --version]` for one
    with arguments (a single text is a single argument).
    """

    model_config = ConfigDict(title="Smoke test")

    hook: Annotated[str, AfterValidator(_hook_name)] = Field(description="The name of a file in `hooks/`.")
    args: Annotated[tuple[Line, ...], ShortForm(_arguments, [{"type": "string"}])] = Field(
        default=(), description="What it is given."
    )
    required: Switch = Field(default=True, description="Whether the image is unfit when it fails.")
    timeout: Seconds | None = Field(
        default=None, description="The longest it may take, in place of the hook's own."
    )


_HOOK_SCHEMA = {"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]*$"}
_HOOK_ARGS_SCHEMA = {
    "type": "object",
    "minProperties": 1,
    "maxProperties": 1,
    "additionalProperties": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
}


# --- fields ------------------------------------------------------------------------------------


def _own_name(text: str, info: ValidationInfo) -> str:
    if not _NAME.fullmatch(text):
        raise Mistake(f"{quote(text)} can't be a name", "use small letters, digits and . _ -")
    seen = reading(info, ManifestReading)
    if seen and text != seen.name:
        raise Mistake(
            f"the name {quote(text)} differs from the file's", f"write {seen.name}, or rename the file"
        )
    return text


def _plain_folder(text: str) -> str:
    # enroot's /etc/rc has it in double quotes, where a shell reads more than a path into these.
    if re.search(r'[$`"\\]', text):
        raise Mistake(f"{quote(text)} has a character that a shell would read", 'leave out $ ` " and \\')
    return text


def _fstab_line(text: str) -> str:
    if not 2 <= len(one_line(text).split()) <= 6 or text.lstrip().startswith("#"):
        raise Mistake(f"{quote(text)} is not a line of fstab", "write SOURCE TARGET [TYPE [OPTIONS [0 [0]]]]")
    return text


ImageName = Annotated[
    str, AfterValidator(_own_name), WithJsonSchema({"type": "string", "pattern": f"^{_NAME.pattern}$"})
]
ParsedBase = Annotated[Base, Parsed(lambda text, _info: parse_base(text), Base)]
FstabLine = Annotated[str, AfterValidator(_fstab_line)]
Smoke = Annotated[SmokeTest, ShortForm(_expand_smoke, [_HOOK_SCHEMA, _HOOK_ARGS_SCHEMA])]


class Manifest(Model):
    """What an image is made of, and how it is tested.

    One image is one file, `manifests/NAME.yaml`. What it copies or runs is beside it, in the same folder.

    ```yaml
    # yaml-language-server: $schema=../docs/manifest.schema.json
    format: 1
    name: geo
    description: PyTorch with geopandas, for the course on satellite images
    maintainer: geo@example.org
    base: nvcr.io/nvidia/pytorch:25.04-py3
    env:
      GDAL_CACHEMAX: "2048"
      PATH: /opt/geo/bin:${PATH}
    layers:
      - apt: [gdal-bin, rolldice]
      - pip: ["geopandas>=1", rasterio]
      - uv:
          venv: /opt/geo/venv
          packages: [pystac-client]
          timeout: 10m
      - copy: {geo/tiles.py: /opt/geo/bin/tiles}
      - run: |
          gdalinfo --version
          tiles --check
    smoke:
      - gpu-visible
      - commands: [rolldice 1d6, tiles --version]
      - {hook: fp8, required: false}
    ```
    """

    model_config = ConfigDict(title="Manifest")

    format: Annotated[Number, WithJsonSchema({"const": FORMAT})] = Field(
        description="The version of this format: `1`. A Kiln that knows only older ones says so."
    )
    name: ImageName = Field(description="The image's name: the file's, without `.yaml`.")
    description: Line = Field(
        default="", description="What the image is for, in a line: `kiln list` and the catalog show it."
    )
    maintainer: Line = Field(default="", description="Whom to ask: a name, an address.")
    base: ParsedBase = Field(
        description="What the image is made from: `nvcr.io/nvidia/pytorch:25.04-py3` or any reference to"
        " a registry, with a tag or a digest or both; `image:NAME[:VERSION]`, another of our images;"
        " `oci:FOLDER[:REF]`, `docker-archive:FILE`, `sqsh:FILE`, relative to the manifest;"
        " `debootstrap:SUITE`, made from a mirror of Debian or Ubuntu."
    )
    env: Mapping[VariableName, VariableValue] = Field(
        default={},
        description="Variables that the image sets. `${NAME}` is one that the base or an earlier line sets.",
    )
    workdir: Annotated[ImagePath, AfterValidator(_plain_folder)] | None = Field(
        default=None, description="The folder in which the image starts."
    )
    entrypoint: tuple[str, ...] | None = Field(
        default=None,
        description="What the image starts, in place of the base's: a list of words, not a line of shell.",
    )
    command: tuple[str, ...] | None = Field(
        default=None, description="What it starts with when nothing else is asked for: a list of words."
    )
    fstab: tuple[FstabLine, ...] = Field(
        default=(),
        description="Mounts that the image asks for at each start: lines of enroot's `/etc/fstab`.",
    )
    mounts: tuple[HostMount, ...] = Field(
        default=(),
        description="Files and folders of the machine that layers see, and that don't stay in the image:"
        " `SOURCE:TARGET`, read-only, or `SOURCE:TARGET:rw`.",
    )
    layers: Layers = Field(default=(), description="The steps that make the image, in order.")
    guard: Protection = Field(
        default=Protection(), description="Which packages of the base layers must leave as they are."
    )
    smoke: tuple[Smoke, ...] = Field(default=(), description="How the finished image is tested, in order.")

    jobs: Jobs = Field(default=Jobs(), description="What the jobs of this image ask a scheduler for.")
    allow_setuid: tuple[ImagePath, ...] = Field(
        default=(),
        description="Files with a setuid or setgid bit that layers may add; any other stops the build.",
    )

    _folder: Path = PrivateAttr(default=Path())
    _text: str = PrivateAttr(default="")

    @property
    def text(self) -> str:
        """The file's text, as it was read."""
        return self._text

    @property
    def folder(self) -> Path:
        """The folder that the manifest's relative paths start from."""
        return self._folder

    def model_post_init(self, context: object) -> None:
        if isinstance(context, ManifestReading):
            self._folder, self._text = context.folder, context.text

    @model_validator(mode="before")
    @classmethod
    def _known_format(cls, data: object) -> object:
        return refuse_newer(data, FORMAT)


# --- finding and reading -----------------------------------------------------------------------


def names(manifests_dir: Path) -> list[str]:
    """The names of all manifests in a folder, sorted; none where there is no such folder."""
    if not manifests_dir.is_dir():
        return []
    return sorted(path.stem for path in manifests_dir.glob("*.yaml") if _NAME.fullmatch(path.stem))


def find(manifests_dir: Path, name: str) -> Path:
    """The path of an image's manifest; UsageError, with what is most like it, where there is none."""
    known = names(manifests_dir)
    if name in known:
        return manifests_dir / f"{name}.yaml"
    message = f"there is no manifest {quote(name)} in {shown(manifests_dir)}"
    raise UsageError(message, did_you_mean(name, known) or f"write one: {shown(manifests_dir)}/NAME.yaml")


def load(path: Path, hooks: Collection[str] | None = None) -> Manifest:
    """Read a manifest; ManifestError has all its mistakes. `hooks` are the smoke hooks that there are."""
    known = None if hooks is None else frozenset(hooks)
    seen = ManifestReading(folder=path.parent, name=path.stem, hooks=known)
    return document.load(path, Manifest, seen, HINT)


def layer_place(path: Path, number: int) -> str:
    """Where layer `number`, counted from 1, is written: FILE:LINE, or FILE where it isn't there any more."""
    with contextlib.suppress(ManifestError):
        value = parse(read(path)).value
        layers = value.get("layers") if isinstance(value, Table) else None
        if isinstance(layers, Items) and number <= len(layers) and (span := span_of(layers[number - 1])):
            return f"{shown(path)}:{span.line}"
    return shown(path)
