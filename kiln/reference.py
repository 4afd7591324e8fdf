"""The reference of a file's keys, as Markdown, from the JSON Schema of its model.

Owns the page's form; its words are the models' own docstrings and descriptions. Writes nothing: a test
holds the page in docs/ against what is made here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from kiln.document import schema

JsonSchema = dict[str, Any]

_SIMPLE = {"string": "text", "integer": "whole number", "boolean": "`true` or `false`"}


def reference(model: type[BaseModel]) -> str:
    """The page for one kind of file."""
    root = schema(model)
    definitions: dict[str, JsonSchema] = root.get("$defs", {})
    parts = [
        f"# {root['title']} reference",
        "Made from the models in `kiln/` by `kiln.reference`: change it there.",
    ]
    parts += _section(root, definitions)
    for name in _in_order(root, definitions):
        parts.append(f"## {definitions[name]['title']}")
        parts += _section(definitions[name], definitions)
    return "\n\n".join(parts) + "\n"


def _section(section: JsonSchema, definitions: dict[str, JsonSchema]) -> Iterator[str]:
    if text := section.get("description"):
        yield text
    rows = ["| key | what is written | when left out | meaning |", "|---|---|---|---|"]
    required = section.get("required", ())
    for name, field in section.get("properties", {}).items():
        left_out = "**required**" if name in required else _default(field.get("default"))
        cells = (f"`{name}`", _words(field, definitions), left_out, field.get("description", ""))
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    yield "\n".join(rows)


def _default(value: object) -> str:
    if not isinstance(value, (str, int)) or value == "":
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _words(field: JsonSchema, definitions: dict[str, JsonSchema]) -> str:
    """What may be written at a key, in a few words."""
    if "$ref" in field:
        title = definitions[_target(field)]["title"]
        return f"[{title}](#{re.sub(r'[^a-z0-9 -]', '', title.lower()).replace(' ', '-')})"
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_words(choice, definitions) for choice in field["anyOf"]))
    if "const" in field or "enum" in field:
        return " or ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    return _words_for_type(field, definitions)


def _words_for_type(field: JsonSchema, definitions: dict[str, JsonSchema]) -> str:
    if "properties" in field:
        return "`{" + ", ".join(f"{name}: …" for name in field["properties"]) + "}`"
    if field["type"] in _SIMPLE:
        return _SIMPLE[field["type"]]
    inner = _words(field["items" if field["type"] == "array" else "additionalProperties"], definitions)
    inner = f"({inner})" if " or " in inner and "`true`" not in inner else inner
    return f"list of {inner}" if field["type"] == "array" else f"mapping of names to {inner}"


def _target(field: JsonSchema) -> str:
    return str(field["$ref"]).rpartition("/")[2]


def _in_order(root: JsonSchema, definitions: dict[str, JsonSchema]) -> list[str]:
    """The names of the definitions, in the order in which a reader meets them."""
    found: list[str] = []

    def visit(node: object) -> None:
        if isinstance(node, list):
            for item in node:
                visit(item)
        if not isinstance(node, dict):
            return
        if "$ref" in node and _target(node) not in found:
            found.append(_target(node))
            visit(definitions[_target(node)])
        for value in node.values():
            visit(value)

    visit(root.get("properties"))
    return found
