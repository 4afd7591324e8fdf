"""Everything that can go wrong for a person, each with an id, a hint and an exit code.

Owns the catalogue of failures. Raises nothing, prints nothing, exits nowhere: `kiln.tasks` turns
a `KilnError` into a message and an exit code at the edge. A traceback means a bug in Kiln.
"""

from __future__ import annotations

from collections.abc import Sequence


class KilnError(Exception):
    """A failure that a person can do something about.

    `message` names the thing and the place, `hint` the next command to type (or ""), and
    `details` holds further lines (the end of a log, a list of findings), printed as they are.
    """

    id = "error"
    exit_code = 1
    meaning = "an unexpected failure of Kiln itself"

    def __init__(self, message: str, hint: str = "", details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = tuple(details)


class UsageError(KilnError):
    id = "usage"
    exit_code = 2
    meaning = "the command line can't be understood, or names something that does not exist"


class ManifestError(KilnError):
    id = "manifest"
    exit_code = 3
    meaning = "a manifest or a site profile has mistakes"


class EnvironmentMissing(KilnError):
    id = "environment"
    exit_code = 4
    meaning = "this machine lacks a tool, a right or a kernel feature that the work needs"


class BaseError(KilnError):
    id = "base"
    exit_code = 5
    meaning = "the base can't be found, fetched or trusted (registry, digest, layer contents)"


class LayerError(KilnError):
    id = "layer"
    exit_code = 6
    meaning = "a layer's own commands failed or ran past their time limit"


class RuntimeFailure(KilnError):
    id = "runtime"
    exit_code = 7
    meaning = "enroot, the embedded runtime or a tool of theirs failed, not the layer's commands"


class SpaceError(KilnError):
    id = "space"
    exit_code = 8
    meaning = "a disk is full, or too small for the work"


class ExportError(KilnError):
    id = "export"
    exit_code = 9
    meaning = "the .sqsh file could not be written, or is damaged"


class SmokeFailure(KilnError):
    id = "smoke"
    exit_code = 10
    meaning = "a required smoke hook failed in the finished image"


class StoreError(KilnError):
    id = "store"
    exit_code = 11
    meaning = "the images folder is missing, read-only or damaged, or lacks what was asked for"


class BusyError(KilnError):
    id = "busy"
    exit_code = 12
    meaning = "somebody else holds what is needed, for longer than the limit"


class GuardError(KilnError):
    id = "guard"
    exit_code = 13
    meaning = "a layer would change a package that its base protects"


class LockError(KilnError):
    id = "lock"
    exit_code = 14
    meaning = "a lock is missing, changed by hand or out of date, or what it names is gone or has other bytes"


class AuditError(KilnError):
    id = "audit"
    exit_code = 15
    meaning = "the finished image, or what a layer left, holds what doesn't belong into an image"


class VerifyError(KilnError):
    id = "verify"
    exit_code = 16
    meaning = "an image is not what its record or signature says, or needs a newer driver than the site has"


class RevokedError(KilnError):
    id = "revoked"
    exit_code = 17
    meaning = "an image is revoked, or built on one that is: nobody is to use it any more"


class NetworkError(KilnError):
    id = "network"
    exit_code = 18
    meaning = "a web server of images can't be reached, fails, or broke off: running it again may do"


class ImagesFailed(KilnError):
    id = "images"
    exit_code = 19
    meaning = "of several images some were not built: they failed, or are blocked by one that did"


class Due(KilnError):
    id = "due"
    exit_code = 20
    meaning = "`outdated` found images that are due"


class NotKnown(KilnError):
    id = "not-known"
    exit_code = 21
    meaning = "`outdated` found nothing due, but could not ask everybody"


class SchedulerError(KilnError):
    id = "scheduler"
    exit_code = 22
    meaning = "the batch scheduler does not answer, or refuses what is asked of it"


class JobFailure(KilnError):
    """`code` is the exit code of what ran in the job, where that says more than this one's own."""

    id = "job"
    exit_code = 23
    meaning = "a job was ended by its scheduler (time, memory, node, cancelled), or vanished"

    def __init__(self, message: str, hint: str = "", details: Sequence[str] = (), code: int = 0) -> None:
        super().__init__(message, hint, details)
        self.exit_code = code or self.exit_code


class BlockedError(KilnError):
    id = "blocked"
    exit_code = 24
    meaning = "a job never ran: one that it waits for failed"


class Interrupted(KilnError):
    """SIGINT, SIGTERM or SIGHUP arrived: `signal_number` decides the exit code, 128 + n."""

    id = "interrupted"
    exit_code = 130
    meaning = "stopped by a signal (128 + its number: 130 Ctrl-C, 143 SIGTERM); nothing was published"

    def __init__(self, message: str, signal_number: int, hint: str = "") -> None:
        super().__init__(message, hint)
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number


def catalogue() -> list[type[KilnError]]:
    """Every kind of failure, ordered by exit code, for the table in README and docs."""
    return sorted([KilnError, *KilnError.__subclasses__()], key=lambda kind: kind.exit_code)
