"""What a manifest says of a secret that a layer may use: where the caller has it, and how the layer gets it.

Owns those keys. The secret itself is no part of a manifest, nor of any model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from kiln.document import Mistake, Model
from kiln.fields import Line, VariableName
from kiln.problems import quote


def _secret_name(text: str) -> str:
    if not re.fullmatch("[a-z0-9][a-z0-9._-]*", text):
        raise Mistake(f"{quote(text)} can't be the name of a secret", "use small letters, digits and . _ -")
    return text


def _callers_file(text: str) -> str:
    if not text.startswith(("/", "~/")) or ".." in text.split("/"):
        raise Mistake(
            f"{quote(text)} is not a path of the caller's",
            "write ~/… or an absolute path: a secret is never kept beside the manifest",
        )
    return text


class Secret(Model):
    """A secret of whoever builds. A layer has it in the file `/run/kiln/secrets/NAME`, and nowhere else."""

    model_config = ConfigDict(title="Secret")

    env: VariableName | None = Field(default=None, description="The variable of the caller that has it.")
    file: Annotated[Line, AfterValidator(_callers_file)] | None = Field(
        default=None, description="Or the file of the caller that has it: `~/.netrc`."
    )
    variable: VariableName | None = Field(
        default=None,
        description="A variable that the layer gets too: with the value of `env`, or the path of the `file`.",
    )

    @model_validator(mode="after")
    def _one_source(self) -> Secret:
        if (self.env is None) == (self.file is None):
            raise Mistake("a secret has one source", "write {env: NAME} or {file: ~/NAME}")
        return self

    @property
    def source(self) -> str:
        """Where the caller has it, in words."""
        return f"the variable {self.env}" if self.env else f"the file {self.file}"


SecretName = Annotated[str, AfterValidator(_secret_name)]
Secrets = Mapping[SecretName, Secret]
OF_A_LAYER = "Secrets of whoever builds that this layer may use, by name: see docs/clean.md."
