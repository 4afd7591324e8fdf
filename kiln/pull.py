"""Taking an image: from the store or a web server to a folder of the user's, and into enroot.

Owns what is said and refused before anything is brought.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiln import driver, drivergate, hardware, transfer, verify
from kiln.context import Context
from kiln.errors import EnvironmentMissing, RevokedError, RuntimeFailure, VerifyError
from kiln.files import free_bytes
from kiln.hardware import Hardware
from kiln.offers import Offer, Place
from kiln.record import Record
from kiln.run import CommandFailed, host_environment, run
from kiln.runtime.enrootcall import create_line
from kiln.store import SIGNATURE
from kiln.ui import size_text
from kiln.workspace import JOB_VARIABLES

CREATE_SECONDS = 3600.0
DATA_PATH = "ENROOT_DATA_PATH"
# A user's own enroot, as a shell has it.
KEPT = ("ENROOT_", "XDG_", "NVIDIA_", "TMPDIR", "USER", "LOGNAME")


@dataclass(frozen=True)
class Pulled:
    """Where the image is now; `brought` says if it had to be fetched, `container` names what was created.

    `signed` says by whom, '' where no signature was checked.
    """

    offer: Offer
    path: Path
    brought: bool
    signed: str
    warnings: tuple[str, ...]
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
            "signed": self.signed,
            "container": self.container,
            "warnings": list(self.warnings),
            **self.offer.standing.to_data(),
        }


def pull(context: Context, place: Place, reference: str, folder: Path, *, create: bool) -> Pulled:
    """Have the image in `folder`, verified.

    Raises `RevokedError`, `VerifyError`, `StoreError`, `SpaceError`, `BusyError`, `NetworkError`.
    """
    offer, ui = place.find(reference), context.ui
    name = f"{offer.name} {offer.version}"
    if offer.standing.refused:
        raise RevokedError(
            f"{name} can't be pulled: it is {offer.standing.refused}", "see what else there is: invoke list"
        )
    signed = _signed(context, offer)
    said = tuple(warnings(offer, context, hardware.find(context.environ)))
    for text in said:
        ui.warn(text)
    folder = folder.expanduser().absolute()
    with ui.step(f"pull {name} from {offer.place}") as step:
        step.note(f"{size_text(offer.record.size)}; {folder} has {size_text(free_bytes(folder))} free")
        brought = transfer.bring(offer.wanted, offer.source, folder, step.note, step.progress)
        seal = f", signed {signed}" if signed else ""
        step.outcome = f"sha256 verified{seal}" if brought else f"is there already, unchanged{seal}"
    path = folder / offer.record.file
    container = _create(context, offer.name, path) if create else ""
    return Pulled(offer, path, brought, signed, said, container)


def _signed(context: Context, offer: Offer) -> str:
    """By whom the record is signed, as `by NAME`; '' where nobody has to have signed it."""
    file = f"{offer.name}-{offer.version}.{SIGNATURE}"
    site = context.site.signing
    found = verify.judge(file, offer.text, offer.signature, offer.record.built, site, context.environ)
    if found.state == verify.BAD:
        raise VerifyError(
            f"{offer.name} {offer.version} is not pulled: {found.name}: {found.detail}",
            "tell whoever keeps the images; the site profile says who may sign: docs/record.md",
        )
    return found.detail if found.state == verify.GOOD else ""


def warnings(offer: Offer, context: Context, here: Hardware) -> Iterator[str]:
    """What is to be known of an image before it is started on this node."""
    name = f"{offer.name} {offer.version}"
    if offer.standing.text:
        yield f"{name}: {offer.standing.text}"
    verdict = drivergate.of_node(offer.record, context.site, here)
    if verdict.state == driver.TOO_OLD:
        yield f"{name} would not run here: {verdict.reason}"
    elif verdict.state == driver.FORWARD:
        yield f"{name}: {verdict.reason}"
    untested = sorted(set(here.gpus) - tested(offer.record))
    if untested:
        seen = ", ".join(sorted(tested(offer.record)))
        yield f"{name} was not tested on {', '.join(untested)}, only on {seen or 'a node without GPUs'}"


def tested(record: Record) -> set[str]:
    """The models of GPUs on which a smoke hook has passed."""
    ran = [result.hardware for result in record.smoke if result.state == "passed" and result.hardware]
    return {model for each in ran for model in each.gpus}


def _create(context: Context, name: str, path: Path) -> str:
    """Have enroot make the container, where the caller's shell would; in a job that is the job's place."""
    kept = {key: value for key, value in context.environ.items() if key.startswith(KEPT)}
    place, in_job = context.site.containers, any(name in context.environ for name in JOB_VARIABLES)
    if DATA_PATH not in kept and in_job and place and place.is_dir():
        kept[DATA_PATH] = str(place)
    env = {**kept, **host_environment(os.environ)}
    with context.ui.step(f"enroot create {name}") as step:
        if DATA_PATH in kept:
            step.note(f"in {kept[DATA_PATH]}")
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
                [line for line in error.result.tail(5) if line != said],
            ) from error
    return name
