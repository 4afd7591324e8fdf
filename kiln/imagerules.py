"""What may not be in an image that others run: the rules, each over the listing of the exported file.

Owns what is looked for, how bad it is, and the words for cause and remedy. What the base brought itself is
no fault of a layer's: modes of the base's are left alone, its logins are warnings. Reads and runs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from kiln import logins
from kiln.baseline import Baseline
from kiln.listing import FILE, FOLDER, LINK, Entry, Listing
from kiln.record import ERROR, WARNING, Finding

KILNS_OWN = "/run/kiln"
TEMPORARY = ("/tmp", "/var/tmp", "/dev", "/proc", "/sys", "/run/lock", "/var/lock")
# Red Hat's have no mode at all; root reads them all the same.
CLOSED = frozenset(("/etc/shadow", "/etc/gshadow", "/etc/shadow-", "/etc/gshadow-"))
SETUID, STICKY, ANYBODY_WRITES, PERMISSIONS = 0o6000, 0o1000, 0o002, 0o777
NAMES_MODE = 0o644
# What enroot's hook, or a container started with GPUs, mounts from the driver.
DRIVER = re.compile(
    r"(lib(cuda|cudadebugger|nvcuvid|nvoptix|vdpau_nvidia|(GLX|EGL|GLESv1_CM|GLESv2)_nvidia|nvidia-[\w-]+)\.so"
    r"[.\d]*|nvidia-(smi|debugdump|persistenced|modprobe|cuda-mps-(control|server)))"
)
CACHES = ("/.cache/pip", "/.cache/uv", "/.cache/conda", "/var/cache/apt/archives/partial/")


@dataclass(frozen=True)
class Builder:
    """Who builds, and on what; none of it is the image's."""

    home: str
    host: str


@dataclass(frozen=True)
class Image:
    """What is judged: `texts` are the files that were read, `names` the users and groups as layers left them.

    `names` has the names in `/etc/passwd` and `/etc/group`, by path.
    """

    listing: Listing
    texts: Mapping[str, bytes]
    base: Baseline
    names: Mapping[str, frozenset[str]]
    builder: Builder
    allow_setuid: frozenset[str] = frozenset()

    def had_mode(self, entry: Entry) -> bool:
        """Whether the base had the same kind of thing there, with these permissions."""
        seen = self.base(entry.path)
        return seen is not None and seen.mode & 0o7777 == entry.mode

    def had(self, entry: Entry) -> bool:
        seen = self.base(entry.path)
        return seen is not None and self.had_mode(entry) and seen.size == entry.size


def wanted(listing: Listing) -> Iterator[Entry]:
    """The files that the rules want to read."""
    for entry in listing:
        name = entry.path.rpartition("/")[2]
        asked = name == "pyvenv.cfg" or any(login.says for login in logins.candidates(entry.path))
        if entry.kind == FILE and (asked or entry.path in ("/etc/passwd", "/etc/group", "/etc/hostname")):
            yield entry


def judge(image: Image) -> list[Finding]:
    return [finding for rule in RULES for finding in rule(image)]


def owners(image: Image) -> Iterator[Finding]:
    for entry in image.listing:
        if entry.uid or entry.gid:
            cause = f"it belongs to {entry.uid}:{entry.gid}, who is nobody where the image is used"
            yield Finding(ERROR, entry.path, cause, "give it to root: chown root:root " + entry.path)


def names(image: Image) -> Iterator[Finding]:
    for path, left in image.names.items():
        entry = image.listing.find(path)
        if entry is None:
            continue
        for name in sorted(listed(image.texts.get(path, b"")) - left):
            cause = f"{name!r} is none of the base's and no layer's: a start by the builder put it there"
            yield Finding(ERROR, path, cause, "this is a fault of Kiln or of the runtime: please report it")
        if entry.kind == FILE and entry.mode != NAMES_MODE:
            cause = f"its mode is {entry.mode:04o}: nobody but its owner has a name in the image"
            yield Finding(ERROR, path, cause, f"chmod 0644 {path}")


def listed(text: bytes) -> frozenset[str]:
    """The names in a text in the form of passwd(5) or group(5)."""
    lines = text.decode("utf-8", "replace").splitlines()
    return frozenset(line.partition(":")[0] for line in lines if line and not line.startswith("#"))


def builders(image: Image) -> Iterator[Finding]:
    home = image.listing.entries.get(image.builder.home)
    text = image.texts.get("/etc/passwd", b"").decode("utf-8", "replace")
    homes = {line.split(":")[5] for line in text.splitlines() if line.count(":") >= 6}
    if home and home.path not in ("/", "/root") and home.path not in homes and image.base(home.path) is None:
        cause = "the builder's home: no user of the image has it"
        yield Finding(ERROR, home.path, cause, f"rm -r {home.path}")
    said = image.texts.get("/etc/hostname", b"").decode("utf-8", "replace").strip()
    if said and said == image.builder.host:
        yield Finding(ERROR, "/etc/hostname", "the name of the host that built it", "rm /etc/hostname")
    if KILNS_OWN in image.listing.entries:
        yield Finding(ERROR, KILNS_OWN, "Kiln's own mount point", "don't write below /run/kiln")


def histories(image: Image) -> Iterator[Finding]:
    for entry in image.listing:
        if entry.path.rpartition("/")[2] in logins.HISTORIES and entry.kind == FILE and entry.size:
            severity = WARNING if image.had(entry) else ERROR
            yield Finding(severity, entry.path, "what somebody typed, or where to", f"rm {entry.path}")


def secrets(image: Image) -> Iterator[Finding]:
    for entry in image.listing:
        if entry.kind != FILE or not entry.size:
            continue
        login = next((each for each in logins.candidates(entry.path) if _says(image, entry, each)), None)
        if login and image.had(entry):
            yield Finding(WARNING, entry.path, f"{login.what}: the base brought it", f"rm {entry.path}")
        elif login:
            cause = f"{login.what}, for everybody who gets the image"
            yield Finding(
                ERROR, entry.path, cause, "don't keep it: what a layer needs to know goes into its 'secrets:'"
            )
        elif entry.path.endswith(("/.ssh/authorized_keys", "/.ssh/known_hosts")) and not image.had(entry):
            yield Finding(WARNING, entry.path, "it names people or hosts", f"rm {entry.path}")


def _says(image: Image, entry: Entry, login: logins.Login) -> bool:
    return login.says is None or login.says.search(image.texts.get(entry.path, b"")) is not None


def drivers(image: Image) -> Iterator[Finding]:
    for entry in image.listing:
        name = entry.path.rpartition("/")[2]
        empty = entry.kind == FILE and not entry.size
        if empty and DRIVER.fullmatch(name) and not image.had(entry):
            cause = "an empty stand-in for a file of a driver, which hides the real one"
            yield Finding(ERROR, entry.path, cause, "build it where no GPU is passed into layers")
        elif name.endswith(".checked") and entry.path.startswith("/opt/nvidia/") and not image.had(entry):
            cause = "the entrypoint's mark that it has looked at this machine"
            yield Finding(
                ERROR, entry.path, cause, f"don't run the entrypoint in a layer, or rm {entry.path}"
            )


def environments(image: Image) -> Iterator[Finding]:
    """Python's virtual environments: pyvenv.cfg names the folder of their Python, `bin` leads to it."""
    for entry in image.listing:
        if not entry.path.endswith("/pyvenv.cfg") or entry.kind != FILE:
            continue
        place = entry.path.removesuffix("/pyvenv.cfg")
        said = re.search(rb"(?m)^home *= *(.+?) *$", image.texts.get(entry.path, b""))
        home = said[1].decode("utf-8", "replace") if said else ""
        severity = WARNING if image.had(entry) else ERROR
        if home and image.listing.find(home) is None:
            cause = f"its Python was in {home}, which isn't in the image"
            yield Finding(severity, entry.path, cause, "make the environment with a Python of the image")
        for name in ("python", "python3"):
            link = image.listing.entries.get(f"{place}/bin/{name}")
            if link and link.kind == LINK and image.listing.find(link.path) is None:
                cause = f"it leads to {link.target}, which isn't in the image"
                yield Finding(severity, link.path, cause, "make the environment with a Python of the image")


def setuid(image: Image) -> Iterator[Finding]:
    for entry in image.listing:
        if entry.kind != FILE or not entry.mode & SETUID or image.had_mode(entry):
            continue
        if entry.path not in image.allow_setuid:
            kinds = [kind for bit, kind in ((0o4000, "setuid"), (0o2000, "setgid")) if entry.mode & bit]
            cause = f"{' and '.join(kinds)} ({entry.mode:04o}), which the base doesn't have"
            remedy = f"chmod ug-s {entry.path}, or allow it in the manifest: allow_setuid: [{entry.path}]"
            yield Finding(ERROR, entry.path, cause, remedy)


def modes(image: Image) -> Iterator[Finding]:
    for entry in image.listing:
        if entry.kind not in (FILE, FOLDER):
            continue
        if not entry.mode & PERMISSIONS and entry.path not in CLOSED and not image.had_mode(entry):
            yield Finding(
                ERROR, entry.path, "nobody may read it (mode 0000)", f"chmod or remove it: {entry.path}"
            )
        elif entry.mode & ANYBODY_WRITES and _private(image, entry) and not image.had_mode(entry):
            cause = f"anybody may write to it ({entry.mode:04o})"
            yield Finding(ERROR, entry.path, cause, f"chmod o-w {entry.path}")


def _private(image: Image, entry: Entry) -> bool:
    if entry.path.endswith("/.lock") and not entry.size:
        # uv leaves one in each environment, open to all on purpose.
        return entry.path.removesuffix(".lock") + "pyvenv.cfg" not in image.listing.entries
    temporary = any(entry.path == top or entry.path.startswith(f"{top}/") for top in TEMPORARY)
    return not temporary and not (entry.kind == FOLDER and entry.mode & STICKY)


def caches(image: Image) -> Iterator[Finding]:
    for entry in image.listing:
        kept = entry.path.endswith(CACHES) and entry.kind == FOLDER
        if (kept or entry.path.startswith(CACHES[-1])) and image.base(entry.path) is None:
            cause = "downloads of a package manager, which nobody needs again"
            yield Finding(WARNING, entry.path, cause, f"rm -r {entry.path}")


RULES: tuple[Callable[[Image], Iterator[Finding]], ...] = (
    secrets, histories, names, builders, owners, setuid, modes, drivers, environments, caches
)  # fmt: skip
