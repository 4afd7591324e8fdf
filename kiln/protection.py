"""Which packages of its base an image's layers must leave as they are: a list, and what a manifest adds.

Owns the list, and what a manifest may say of it. What counts as a change is `kiln.guard`'s.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import Annotated, Any

from packaging.utils import canonicalize_name
from pydantic import AfterValidator, ConfigDict, Field, model_validator

from kiln.document import Mistake, Model
from kiln.problems import quote

# Layers made by another format are made anew: raise it with every change of the list, or of what is a change.
FORMAT = 1
# What NVIDIA builds itself for its images. Its triton has been named pytorch-triton too.
BUILT_IN = (
    "torch",
    "torchvision",
    "triton",
    "pytorch-triton",
    "transformer-engine",
    "flash-attn",
    "nvidia-*",
    "libnccl*",
    "cuda-*",
)


def normal(name: str) -> str:
    """A package's name, or a pattern for names, in the one form in which they are compared."""
    return canonicalize_name(name)


def _pattern(text: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9*?][A-Za-z0-9._+*?-]*", text):
        return text
    raise Mistake(f"{quote(text)} is not a package's name or a pattern", _hint(text, "NAME, or NAME-*"))


def _name(text: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", text):
        return text
    if re.search(r"[*?]", text):
        raise Mistake(f"{quote(text)} is a pattern", "name each package that layers may change")
    raise Mistake(f"{quote(text)} is not a package's name", _hint(text, "NAME"))


def _hint(text: str, wanted: str) -> str:
    name = re.match(r"([A-Za-z0-9][A-Za-z0-9._+-]*)\s*(\[|[=<>~!])", text)
    return f"leave the version out: {name[1]}" if name else f"write {wanted}"


class Protection(Model):
    """Packages of the base, Python's and apt's, that layers must leave as they are.

    Always protected are those that the base's constraint file names, and `torch`, `torchvision`, `triton`,
    `pytorch-triton`, `transformer-engine`, `flash-attn`, `nvidia-*`, `libnccl*`, `cuda-*`. See docs/guard.md.
    """

    model_config = ConfigDict(title="Guard")

    protect: tuple[Annotated[str, AfterValidator(_pattern)], ...] = Field(
        default=(), description="Further packages to protect: names, or patterns such as `rapids-*`."
    )
    allow: tuple[Annotated[str, AfterValidator(_name)], ...] = Field(
        default=(), description="Protected packages that layers may change or remove all the same."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Protection:
        if both := sorted(set(map(normal, self.protect)) & set(map(normal, self.allow))):
            raise Mistake(f"{quote(both[0])} is in both 'protect' and 'allow'", "remove it from one of them")
        return self

    def covers(self, name: str) -> bool:
        """Whether a name is on the list or the manifest's own."""
        return any(fnmatchcase(normal(name), normal(pattern)) for pattern in (*BUILT_IN, *self.protect))

    def allows(self, name: str) -> bool:
        return normal(name) in map(normal, self.allow)

    def inputs(self) -> dict[str, Any]:
        """What decides of it, for the keys of layers; where a manifest says nothing, only the list counts."""
        said = {"protect": self.protect, "allow": self.allow}
        return {
            "format": FORMAT,
            **{key: sorted(set(map(normal, names))) for key, names in said.items() if names},
        }
