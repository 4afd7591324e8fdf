"""Files and folders beside a manifest: what a layer may name, checked while the manifest is read.

Owns the rule that a manifest uses nothing outside its own folder. Must not copy or read anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ValidationInfo

from kiln.document import Mistake, Reading, reading
from kiln.fields import one_line
from kiln.problems import quote, shown


@dataclass
class ManifestReading(Reading):
    """What the checks of a manifest need to know: where it is, and which smoke hooks there are."""

    folder: Path = Path()
    name: str = ""
    hooks: frozenset[str] | None = None


def source_path(text: str, info: ValidationInfo) -> str:
    """A file or folder beside the manifest; it must exist, and not lead out of the manifest's folder."""
    one_line(text)
    if text.startswith(("/", "~")):
        raise Mistake(
            f"{quote(text)} is outside the manifest's folder",
            "name a file beside the manifest, without '/' in front",
        )
    seen = reading(info, ManifestReading)
    if seen is None:
        return text
    try:
        _check_place(seen.folder, text)
    except (OSError, RuntimeError):  # a name too long, a link to itself, a folder that isn't ours
        raise Mistake(f"{quote(text)} can't be looked at", "is it a file beside the manifest?") from None
    return text


def _check_place(folder: Path, text: str) -> None:
    top = folder.resolve()
    path = (top / text).resolve()
    if path == top:
        raise Mistake("this is the manifests' own folder", "name one file or folder in it")
    if top not in path.parents:
        raise Mistake(f"{quote(text)} leads out of the manifest's folder", "copy it beside the manifest")
    if not (path.is_file() or path.is_dir()):
        raise Mistake(f"there is no {quote(text)} beside the manifest", f"looked for {shown(folder / text)}")


def source_file(text: str, info: ValidationInfo) -> str:
    seen = reading(info, ManifestReading)
    if seen and (seen.folder / source_path(text, info)).is_dir():
        raise Mistake(f"{quote(text)} is a folder", "name a file")
    return text


SourcePath = Annotated[str, AfterValidator(source_path)]
SourceFile = Annotated[str, AfterValidator(source_file)]
