"""Taking an image: from the store or a web server to a folder of the user's, and into enroot.

Owns what is said and refused before anything is brought.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiln import transfer
from kiln.context import Context
from kiln.errors import EnvironmentMissing, RuntimeFailure, StoreError
from kiln.files import free_bytes
from kiln.offers import Offer, Place
from kiln.run import CommandFailed, host_environment, run
from kiln.runtime.enrootcall import create_line
from kiln.ui import size_text

CREATE_SECONDS = 3600.0
# A user's own enroot, as a shell has it: which folder containers go to is the site's or the job's matter.
KEPT = ("ENROOT_", "XDG_", "NVIDIA_", "TMPDIR", "USER", "LOGNAME")


@dataclass(frozen=True)
class Pulled:
    """Where the image is now; `brought` says if it had to be fetched, `container` names what was created."""

    offer: Offer
    path: Path
    brought: bool
    container: str = ""

    def to_data(self) -> dict[str, Any]:
        return {
            "name": self.offer.name,
            "version": self.offer.version,
            "from": self.offer.place,
            "path": str(self.path),
            "size": self.offer.record.size,
            "digest": self.offer.record.digest,
            "brought": self.brought,
            "container": self.container,
            "warnings": list(self.offer.warnings),
        }


def pull(context: Context, place: Place, reference: str, folder: Path, *, create: bool) -> Pulled:
    """Have the image in `folder`, verified. Raises `StoreError`, `SpaceError`, `BusyError`, `BaseError`."""
    offer, ui = place.find(reference), context.ui
    name = f"{offer.name} {offer.version}"
    if offer.refused:
        raise StoreError(
            f"{name} can't be pulled: it is {offer.refused}", "see what else there is: invoke list"
        )
    for text in offer.warnings:
        ui.warn(f"{name}: {text}")
    folder = folder.expanduser().absolute()
    title = f"pull {name} from {offer.place}"
    with ui.step(title) as step:
        step.note(f"{size_text(offer.record.size)}; {folder} has {size_text(free_bytes(folder))} free")
        brought = transfer.bring(offer.wanted, offer.source, folder, step.note, step.progress)
        step.outcome = "verified" if brought else "is there already, unchanged"
    path = folder / offer.record.file
    return Pulled(offer, path, brought, _create(context, offer.name, path) if create else "")


def _create(context: Context, name: str, path: Path) -> str:
    kept = {key: value for key, value in context.environ.items() if key.startswith(KEPT)}
    env = {**kept, **host_environment(os.environ)}
    with context.ui.step(f"enroot create {name}") as step:
        try:
            line = create_line(path, name)
            run(line, what=f"create {name}", env=env, timeout=CREATE_SECONDS, on_line=step.line)
        except EnvironmentMissing as error:
            raise EnvironmentMissing(f"enroot isn't installed here; {path} is there", error.hint) from error
        except CommandFailed as error:
            said = (error.result.tail(1) or [error.result.outcome()])[0]
            raise RuntimeFailure(
                f"enroot could not create {name}: {said}",
                f"if it is there already: enroot remove {name}; the image is at {path}",
                error.result.tail(5),
            ) from error
    return name
