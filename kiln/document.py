"""A YAML file -> a validated model, with every mistake at once.

Owns the meeting of `kiln.yamltree` (where things are written) and pydantic (what they must be): the base
class of all models that come from YAML, and what a person is told in place of pydantic's words. Must not
know any particular model.

How a mistake finds its place: every value from the file carries its span, and pydantic hands back the
very value that it refused. A validator says more than one thing, or points elsewhere, with
`Reading.report` or with `Mistake(at=...)`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails, core_schema

from kiln.errors import ManifestError
from kiln.problems import Problem, Span, did_you_mean, near, quote, render, shown
from kiln.yamltree import SIZE_LIMIT, Items, Plain, Table, Text, parse, read

M = TypeVar("M", bound="Model")
R = TypeVar("R", bound="Reading")


class Mistake(ManifestError, ValueError):
    """What a validator raises: what is wrong with a value, and what to write instead.

    A ValueError so that pydantic collects it; a ManifestError so that it is also a proper message
    when the same check is used on something that isn't in a file. `at` is another value to point at.
    """

    def __init__(self, message: str, hint: str = "", at: object = None) -> None:
        super().__init__(message, hint)
        self.at = at


@dataclass
class Reading:
    """What validators need to know of the reading they are part of, and where they leave mistakes.

    `text` is the file's, as it was read.
    """

    problems: list[Problem] = field(default_factory=list)
    text: str = ""

    def report(self, at: object, text: str, hint: str = "") -> None:
        """Note a mistake at a value or key from the file, and go on."""
        self.problems.append(Problem(span_of(at) or Span(1, 1), text, hint))


def reading(info: ValidationInfo, kind: type[R]) -> R | None:
    """The reading that a validator is part of; None when a model is made in Python."""
    return info.context if isinstance(info.context, kind) else None


class Model(BaseModel):
    """A frozen model whose unknown keys are reported each at its own place."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _report_unknown_keys(cls, data: object, info: ValidationInfo) -> object:
        seen = reading(info, Reading)
        if not isinstance(data, Table) or seen is None:
            return data
        known = [spec.alias or name for name, spec in cls.model_fields.items()]
        kept = {key: value for key, value in data.items() if key in known}
        for key, value in data.items():
            if key in known:
                continue
            seen.report(key, f"unknown key {quote(key)}", did_you_mean(key, known))
            # A misspelt key's value is still worth checking, and its right name isn't missing.
            kept.setdefault(near(key, known) or key, value)
        return Table({key: value for key, value in kept.items() if key in known}, data.span)


@dataclass(frozen=True, eq=False)
class ShortForm:
    """Another way to write a value: `expand` turns it into the long one, `schema` tells editors of it.

    Used in `Annotated`. `expand` returns what isn't in the short form as it is, and may raise `Mistake`.
    """

    expand: Callable[[object], object]
    schema: Sequence[JsonSchemaValue]

    def _expand(self, value: object) -> object:
        result, span = self.expand(value), span_of(value)
        if span and type(result) is dict:
            return Table(result, span)
        return result

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._expand, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"anyOf": [*self.schema, handler(schema)]}


@dataclass(frozen=True, eq=False)
class Parsed:
    """A value that is written as text: `parse(text, info)` makes it, and raises `Mistake`.

    Used in `Annotated`. `kind` is the value's class, for values that are made in Python.
    """

    parse: Callable[[str, ValidationInfo], object]
    kind: type
    schema: JsonSchemaValue = field(default_factory=dict)

    def _make(self, value: object, info: ValidationInfo) -> object:
        if isinstance(value, self.kind) and not isinstance(value, str):
            return value
        if not isinstance(value, str):
            raise wanted("text", value)
        return self.parse(str(value), info)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(self._make)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"type": "string", **self.schema}


def _whole_number(value: object) -> object:
    if isinstance(value, Plain) and value.kind == "int" and value.value is not None:
        return value.value
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise wanted("a whole number", value)


def _true_or_false(value: object) -> object:
    if isinstance(value, Plain) and value.kind == "bool":
        return value.value
    if isinstance(value, bool):
        return value
    raise wanted("true or false", value)


# A field of a model is a Number or a Switch, never a bare int or bool: pydantic would take "1" and 1.0 too.
Number = Annotated[int, BeforeValidator(_whole_number)]
Switch = Annotated[bool, BeforeValidator(_true_or_false)]


# --- reading -----------------------------------------------------------------------------------


def load(
    path: Path, model: type[M], seen: Reading | None = None, hint: str = "", limit: int = SIZE_LIMIT
) -> M:
    """Read a YAML file of at most `limit` bytes into a model.

    Raises one ManifestError with all the file's mistakes in its details, rendered with their lines;
    `hint` says where the reader finds what is right.
    """
    seen = seen or Reading()
    seen.text = read(path, limit)
    tree = parse(seen.text)
    result = None if tree.value is None else _validate(tree.value, model, seen)
    formal = {problem.span for problem in tree.problems}
    # What isn't read at all (an alias, say) is no second mistake for being of the wrong kind.
    problems = tree.problems + [problem for problem in seen.problems if problem.span not in formal]
    if result is None or problems:
        count = len(set(problems))
        message = f"{shown(path)} has {count} mistakes" if count > 1 else f"{shown(path)} has a mistake"
        raise ManifestError(message, hint, render(shown(path), tree.lines, problems))
    return result


def _validate(value: object, model: type[M], seen: Reading) -> M | None:
    if not isinstance(value, Table):
        seen.report(value, "the file must be a mapping", "begin its lines with 'key: value'")
        return None
    try:
        return model.model_validate(value, context=seen)
    except ValidationError as error:
        for details in error.errors(include_url=False):
            mistake = _mistake(details)
            seen.report(details["input"] if mistake.at is None else mistake.at, mistake.message, mistake.hint)
        return None


def span_of(value: object) -> Span | None:
    """Where a value from a file is written; None for any other value."""
    return value.span if isinstance(value, (Text, Plain, Items, Table)) else None


# --- words -------------------------------------------------------------------------------------


def wanted(what: str, value: object) -> Mistake:
    """The mistake of a value that is of the wrong kind; `what` is "text", "a list", "a whole number", ..."""
    if not isinstance(value, Plain):
        hint = f"write a list: [{value}]" if what == "a list" and isinstance(value, Text) else ""
        return Mistake(f"{what} is wanted here, not {_described(value)}", hint)
    if value.kind == "null" and not value.raw:
        return Mistake("a value is missing here", "write one, or remove the line")
    if what == "text":
        return Mistake(f"{value.raw} is read as {value.reading}, not as text", f"quote it: '{value.raw}'")
    read_as = f", which is read as {value.reading}" if value.reading.startswith("the") else ""
    return Mistake(f"{what} is wanted here, not {value.raw}{read_as}")


def _described(value: object) -> str:
    if isinstance(value, str):
        return f"the text {quote(value)}"
    if isinstance(value, Sequence):
        return "a list"
    return "a mapping" if isinstance(value, dict) else "this"


_WANTED = {
    "string_type": "text",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
}


def _mistake(details: ErrorDetails) -> Mistake:
    """A person's words for one of pydantic's errors."""
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    error = context.get("error")
    if isinstance(error, Mistake):
        return error
    if kind == "missing":
        return Mistake(f"the key {quote(str(details['loc'][-1]))} is missing", "add it")
    if kind in _WANTED:
        return wanted(_WANTED[kind], value)
    if kind == "literal_error":
        return _not_a_choice(value, str(context["expected"]))
    if bound := context.get("ge", context.get("le")):
        return Mistake(f"the number must be at {'least' if 'ge' in context else 'most'} {bound}")
    return Mistake("this value doesn't belong here")


def _not_a_choice(value: object, expected: str) -> Mistake:
    if not isinstance(value, Text):
        return wanted("text", value)
    choices = expected.replace(" or ", ", ").replace("'", "").split(", ")
    return Mistake(f"{quote(value)} is not known here", did_you_mean(value, choices))


# --- for editors -------------------------------------------------------------------------------


def schema(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema of a model, short forms included, for editors and for `kiln.reference`."""
    result: dict[str, Any] = _tidy(model.model_json_schema(by_alias=True))
    # What yaml-language-server reads best.
    return {"$schema": "http://json-schema.org/draft-07/schema#", **result}


def _tidy(node: Any) -> Any:
    """Without null (no field takes it: a key that isn't wanted is left out) and without made-up titles."""
    if isinstance(node, list):
        return [_tidy(item) for item in node if item != {"type": "null"}]
    if not isinstance(node, dict):
        return node
    tidy = {key: _tidy(value) for key, value in node.items() if not (key == "default" and value is None)}
    for name, field_schema in tidy.get("properties", {}).items():
        tidy["properties"][name] = {key: value for key, value in field_schema.items() if key != "title"}
    choices = tidy.get("anyOf", ())
    if len(choices) == 1:
        del tidy["anyOf"]
        tidy = {**choices[0], **tidy}
    return tidy
