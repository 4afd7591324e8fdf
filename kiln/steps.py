"""The layers of a manifest: models of apt, pip, uv, copy and run, in their short and long forms.

Owns what each kind of layer may say. Must not know how a layer is run: that is `kiln.layercommand`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, ConfigDict, Field, GetCoreSchemaHandler, model_validator
from pydantic_core import CoreSchema, core_schema

from kiln.document import Mistake, Model, ShortForm, Switch, span_of, wanted
from kiln.fields import ImagePath, PublicUrl, Seconds
from kiln.packagenames import DebianPackage, PythonRequirement
from kiln.problems import Span, quote
from kiln.secretsource import OF_A_LAYER, Secrets
from kiln.sourcefiles import SourceFile, SourcePath
from kiln.yamltree import Plain, Table

DEFAULT_TIMEOUT = 3600  # seconds
Timeout = Annotated[Seconds, Field(description="The longest it may take: seconds, or `90s`, `30m`, `2h`.")]

_LONGEST_TITLE = 40  # characters


def octal_mode(text: str) -> str:
    if not re.fullmatch(r"0?[0-7]{3}|[1-7][0-7]{3}", text):
        raise Mistake(f"{quote(text)} is not a mode", "write it in octal, quoted: '0755'")
    return text.rjust(4, "0")


# --- layers ------------------------------------------------------------------------------------


class _Step(Model):
    kind: ClassVar[str]

    @property
    def title(self) -> str:
        """A few words for progress lines."""
        return self.kind

    def _titled(self, things: tuple[str, ...]) -> str:
        more = f" +{len(things) - 2}" if len(things) > 2 else ""
        words = f"{self.kind} {' '.join(things[:2])}"
        return (words if len(words) <= _LONGEST_TITLE else words[: _LONGEST_TITLE - 1] + "…") + more


class AptLayer(_Step):
    """Packages of Debian or Ubuntu, from the base's own sources. Lists and archives are not left behind.

    Short form: `apt: [git, rolldice]`.
    """

    model_config = ConfigDict(title="Layer: apt")
    kind = "apt"

    packages: tuple[DebianPackage, ...] = Field(
        default=(), description="What to install: `NAME`, `NAME:ARCH` or `NAME=VERSION`."
    )
    upgrade: Switch = Field(default=False, description="First bring all of the base's packages up to date.")
    recommends: Switch = Field(default=False, description="Also install what the packages recommend.")
    secrets: Secrets = Field(default={}, description=OF_A_LAYER)
    timeout: Timeout = DEFAULT_TIMEOUT

    @model_validator(mode="after")
    def _not_empty(self) -> AptLayer:
        if not self.packages and not self.upgrade:
            raise Mistake("this layer does nothing", "name packages, or write 'upgrade: true'")
        return self

    @property
    def title(self) -> str:
        return self._titled((*self.packages, *(["upgrade"] if self.upgrade else [])))


class _PythonStep(_Step):
    packages: tuple[PythonRequirement, ...] = Field(
        default=(), description="What to install: `NAME`, `NAME[EXTRA]`, `NAME>=VERSION`, `NAME @ https://…`."
    )
    requirements: tuple[SourceFile, ...] = Field(
        default=(), description="Files of requirements beside the manifest, read as pip reads them."
    )
    index_url: PublicUrl | None = Field(
        default=None,
        description="The package index, in place of the site's. Without a login: the site profile has those.",
    )
    extra_index_urls: tuple[PublicUrl, ...] = Field(default=(), description="Further package indexes.")

    @property
    def title(self) -> str:
        return self._titled((*self.packages, *self.requirements))


class PipLayer(_PythonStep):
    """Python packages by pip, into the system's Python. The base's constraint file is respected.

    Short form: `pip: [geopandas, "torch>=2"]`.
    """

    model_config = ConfigDict(title="Layer: pip")
    kind = "pip"

    upgrade_pip: Switch = Field(default=False, description="First bring pip itself up to date.")
    secrets: Secrets = Field(default={}, description=OF_A_LAYER)
    timeout: Timeout = DEFAULT_TIMEOUT

    @model_validator(mode="after")
    def _not_empty(self) -> PipLayer:
        if not self.packages and not self.requirements and not self.upgrade_pip:
            raise Mistake("this layer does nothing", "name packages or requirements")
        return self


class UvLayer(_PythonStep):
    """Python packages by uv: into a virtual environment, or into the system. The image need not have uv.

    Short form, into the system: `uv: [geopandas, "torch>=2"]`.
    """

    model_config = ConfigDict(title="Layer: uv")
    kind = "uv"

    venv: ImagePath | None = Field(
        default=None,
        description="Where the virtual environment is or shall be made; without it: the system's Python.",
    )
    system_site_packages: Switch = Field(
        default=False, description="A new environment also sees the system's packages."
    )
    python: str = Field(
        default="python3", description="The Python of a new environment: a command of the image."
    )
    secrets: Secrets = Field(default={}, description=OF_A_LAYER)
    timeout: Timeout = DEFAULT_TIMEOUT

    @model_validator(mode="after")
    def _consistent(self) -> UvLayer:
        if not re.fullmatch(r"[A-Za-z0-9/][A-Za-z0-9._/+-]*", self.python):
            raise Mistake(
                f"{quote(self.python)} is not a command", "write one as python3 or /usr/bin/python3.12"
            )
        if self.system_site_packages and self.venv is None:
            raise Mistake(
                "system_site_packages is for a virtual environment", "add 'venv: /opt/venv', or remove it"
            )
        if not self.packages and not self.requirements and self.venv is None:
            raise Mistake("this layer does nothing", "name packages or requirements")
        return self


class CopyItem(Model):
    """One file or folder, and where its copy goes."""

    model_config = ConfigDict(title="Item of a copy layer")

    source: SourcePath = Field(alias="from", description="A file or folder beside the manifest.")
    target: ImagePath = Field(
        alias="to", description="Its path in the image; one that ends in `/` is the folder to copy it into."
    )
    mode: Annotated[str, AfterValidator(octal_mode)] | None = Field(
        default=None,
        description="Its permissions, octal and quoted: `'0755'`. Without it: only the run bit is kept.",
    )


class CopyLayer(_Step):
    """Files and folders from beside the manifest. Everything belongs to root.

    Short forms: `copy: {greet.py: /usr/local/bin/greet}`; `copy: {from: greet.py, to: /usr/local/bin/greet,
    mode: '0755'}`; a list of such.
    """

    model_config = ConfigDict(title="Layer: copy")
    kind = "copy"

    items: tuple[CopyItem, ...] = Field(description="What is copied.")
    timeout: Timeout = DEFAULT_TIMEOUT

    @model_validator(mode="after")
    def _not_empty(self) -> CopyLayer:
        if not self.items:
            raise Mistake("this layer does nothing", "write SOURCE: /TARGET")
        return self

    @property
    def title(self) -> str:
        return self._titled(tuple(item.source for item in self.items))


class RunLayer(_Step):
    """A script, run by `bash -euo pipefail` as root. Kiln can't look into it: use other kinds where they fit.

    Short form: `run: echo hello`, or a longer text after `run: |`.
    """

    model_config = ConfigDict(title="Layer: run")
    kind = "run"

    script: str | None = Field(default=None, description="The script's text.")
    file: SourceFile | None = Field(default=None, description="Or a file beside the manifest that has it.")
    secrets: Secrets = Field(default={}, description=OF_A_LAYER)
    timeout: Timeout = DEFAULT_TIMEOUT

    @model_validator(mode="after")
    def _one_script(self) -> RunLayer:
        if self.file and self.script is not None:
            raise Mistake("this layer has both 'script' and 'file'", "keep one of them")
        if not self.file and not (self.script or "").strip():
            raise Mistake("this script is empty", "write one, or remove the layer")
        return self

    @property
    def title(self) -> str:
        lines = [line.strip() for line in (self.script or "").splitlines()]
        said = [line for line in lines if line and not line.startswith("#")]
        return self._titled((self.file or "".join(said[:1]) or "script",))


Layer = AptLayer | PipLayer | UvLayer | CopyLayer | RunLayer


# --- short forms -------------------------------------------------------------------------------


def _expand_packages(value: object) -> object:
    if isinstance(value, (list, tuple)):
        return {"packages": value}
    if isinstance(value, (str, Plain)):
        raise wanted("a list", value)
    return value


def _expand_run(value: object) -> object:
    if isinstance(value, str):
        return {"script": value}
    if isinstance(value, (list, Plain)):
        raise wanted("text", value)
    return value


def _expand_copy(value: object) -> object:
    if isinstance(value, dict) and "items" in value:
        return value
    pieces = value if isinstance(value, (list, tuple)) else [value]
    return {"items": [item for piece in pieces for item in _copy_items(piece)]}


def _copy_items(piece: object) -> list[object]:
    if not isinstance(piece, dict):
        at = piece if span_of(piece) else None
        raise Mistake("SOURCE: /TARGET is wanted here", "or {from: SOURCE, to: /TARGET, mode: '0755'}", at)
    if {"from", "to"} & set(piece):
        return [piece]
    return [
        Table({"from": source, "to": target}, span_of(source) or Span(1, 1))
        for source, target in piece.items()
    ]


_PACKAGES_SCHEMA = {"type": "array", "items": {"type": "string"}, "minItems": 1}
_COPY_SCHEMA = {
    "type": "object",
    "additionalProperties": {"type": "string", "pattern": "^/"},
    "minProperties": 1,
}
_COPY_ITEM_SCHEMA = {
    "type": "object",
    "properties": {"from": {"type": "string"}, "to": {"type": "string"}, "mode": {"type": "string"}},
    "required": ["from", "to"],
    "additionalProperties": False,
}
_COPY_LIST_SCHEMA = {"type": "array", "items": {"anyOf": [_COPY_ITEM_SCHEMA, _COPY_SCHEMA]}, "minItems": 1}
_LIST_OF_PACKAGES = ShortForm(_expand_packages, [_PACKAGES_SCHEMA])


class LayerItem(Model):
    """One item of `layers`: a mapping with one key, the layer's kind."""

    model_config = ConfigDict(title="Layer", json_schema_extra={"minProperties": 1, "maxProperties": 1})

    apt: Annotated[AptLayer, _LIST_OF_PACKAGES] | None = Field(
        default=None, description="Packages of Debian or Ubuntu."
    )
    pip: Annotated[PipLayer, _LIST_OF_PACKAGES] | None = Field(
        default=None, description="Python packages, by pip."
    )
    uv: Annotated[UvLayer, _LIST_OF_PACKAGES] | None = Field(
        default=None, description="Python packages, by uv."
    )
    copy_: (
        Annotated[CopyLayer, ShortForm(_expand_copy, [_COPY_SCHEMA, _COPY_ITEM_SCHEMA, _COPY_LIST_SCHEMA])]
        | None
    ) = Field(default=None, alias="copy", description="Files and folders from beside the manifest.")
    run: Annotated[RunLayer, ShortForm(_expand_run, [{"type": "string", "minLength": 1}])] | None = Field(
        default=None, description="A script."
    )

    @model_validator(mode="before")
    @classmethod
    def _one_key(cls, data: object) -> object:
        if not isinstance(data, dict):
            hint = (
                f"give it its content: {data}: …" if isinstance(data, str) else "write 'apt: [git]', for one"
            )
            raise Mistake("a layer is a mapping with one key, its kind", hint)
        if len(data) != 1:
            names = ", ".join(quote(key) for key in data)
            raise Mistake(
                f"a layer has one key, its kind; this one has {names or 'none'}",
                "indent a layer's own keys below its kind; begin each layer with '- '",
            )
        return data

    @property
    def layer(self) -> Layer | None:
        """The one layer; None where its kind was misspelt, which has been reported."""
        return self.apt or self.pip or self.uv or self.copy_ or self.run


def _layers(items: tuple[LayerItem, ...]) -> tuple[Layer, ...]:
    return tuple(item.layer for item in items if item.layer is not None)


class _OneKeyEach:
    """In the file each layer is a mapping with one key; in the model it is the layer itself."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(
            _layers, handler.generate_schema(tuple[LayerItem, ...])
        )


Layers = Annotated[tuple[Layer, ...], _OneKeyEach()]
