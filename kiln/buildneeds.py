"""What a Python source distribution is built with: the `requires` of its pyproject.toml (PEP 518).

Owns reading it from an archive that is not to be trusted: nothing is unpacked, nothing run. What a build
backend asks for beyond that is known only to a build.
"""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from kiln.errors import LockError
from kiln.locked import Locked

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = "pyproject.toml"
LARGEST = 4 << 20
DEFAULT = ("setuptools>=40.8.0", "wheel")
"""What pip takes for a project that says nothing."""


def of(archive: Path, package: Locked) -> tuple[str, ...]:
    """The requirements that a source is built with. Raises `LockError` for an archive that can't be read."""
    try:
        text = _project(archive)
        table: Any = tomllib.loads(text.decode()).get("build-system") if text is not None else None
        if table is None:
            return DEFAULT
        found = tuple(str(each) for each in table["requires"])
        for each in found:
            Requirement(each)
        return found
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, InvalidRequirement) as error:
        raise _unreadable(package, error) from error
    except (tarfile.TarError, zipfile.BadZipFile) as error:
        raise _unreadable(package, error) from error


def _unreadable(package: Locked, error: Exception) -> LockError:
    return LockError(
        f"the source of {package.title} can't be read: {error}", f"look at it, or name a wheel: {package.url}"
    )


def _project(archive: Path) -> bytes | None:
    """The text of the pyproject.toml in an archive's one folder."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            names = [name for name in opened.namelist() if _is_project(name)]
            return opened.open(names[0]).read(LARGEST) if names else None
    with tarfile.open(archive) as opened_tar:
        for member in opened_tar:
            if member.isfile() and _is_project(member.name):
                stream = opened_tar.extractfile(member)
                return stream.read(LARGEST) if stream else None
    return None


def _is_project(name: str) -> bool:
    return name.removeprefix("./").split("/")[1:] == [PROJECT]
