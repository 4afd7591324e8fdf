"""Bases made from a Debian or Ubuntu mirror: `debootstrap:SUITE`, by mmdebstrap.

Owns where a suite's parts lie, what pins them (the digests of their signed InRelease files) and
mmdebstrap's command line. mmdebstrap checks the signatures against the archive's keyring.
"""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kiln import files
from kiln.errors import BaseError
from kiln.layercommand import SCRIPTS
from kiln.runtime.contract import Output
from kiln.runtime.sandbox import SCRATCH, as_root

# Debian's comes with Kiln (debian-archive-keyring 2023.3+deb12u2): Ubuntu 22.04 has one older than bookworm.
KEYRINGS = {
    "debian": Path(__file__).parent / "keyrings/debian-archive-keyring.gpg",
    "ubuntu": Path("/usr/share/keyrings/ubuntu-archive-keyring.gpg"),
}
PUBLIC = {"debian": "http://deb.debian.org/debian", "ubuntu": "http://archive.ubuntu.com/ubuntu"}
COMPONENTS = {"debian": "main", "ubuntu": "main universe"}
VARIANT = "apt"
TIME_LIMIT_SECONDS = 1800.0
DATE = re.compile(rb"^Date: (.+)$", re.MULTILINE)

Fetch = Callable[[str], "bytes | None"]
"""The contents at a URL, or None where the server says that there is nothing."""


@dataclass(frozen=True)
class Suite:
    """A suite as its mirror has it now. `sources` are lines of sources.list; `epoch` Unix seconds.

    `archives` is a folder with all packages of its tree, where these are locked: then no mirror is asked.
    """

    name: str
    mirror: str
    public: str
    keyring: Path
    sources: tuple[str, ...]
    digest: str
    epoch: int
    archives: Path | None = None

    @property
    def public_sources(self) -> tuple[str, ...]:
        """Its sources at the public mirror, whatever mirror the site has."""
        return tuple(line.replace(self.mirror, self.public) for line in self.sources)


def pinned(
    name: str, public_sources: Sequence[str], digest: str, epoch: int, mirrors: Mapping[str, str]
) -> Suite:
    """A suite as it was found before; asks nobody. Raises `BaseError` for sources that aren't known."""
    for distribution, public in PUBLIC.items():
        mirror = mirrors.get(distribution, public).rstrip("/")
        if public_sources and public_sources[0].split()[1:2] == [public]:
            sources = tuple(line.replace(public, mirror) for line in public_sources)
            return Suite(name, mirror, public, KEYRINGS[distribution], sources, digest, epoch)
    raise BaseError(f"the suite '{name}' was locked on a mirror that this Kiln doesn't know", "lock it again")


def find(name: str, mirrors: Mapping[str, str], fetch: Fetch) -> Suite:
    """Look a suite up: Debian's mirror first, then Ubuntu's, each with its updates and security parts.

    Raises `BaseError` for a suite that neither has.
    """
    for distribution in ("debian", "ubuntu"):
        mirror = mirrors.get(distribution, PUBLIC[distribution]).rstrip("/")
        release = fetch(_release(mirror, name))
        if release is not None:
            return _suite(name, distribution, mirror, release, fetch)
    asked = " nor ".join(mirrors.get(distribution, PUBLIC[distribution]) for distribution in PUBLIC)
    raise BaseError(
        f"no suite '{name}' on {asked}", "write a suite such as bookworm or noble: base: debootstrap:bookworm"
    )


def _suite(name: str, distribution: str, mirror: str, release: bytes, fetch: Fetch) -> Suite:
    security = mirror + "-security" if distribution == "debian" else mirror
    parts = [(mirror, name, release)]
    for place, part in ((mirror, f"{name}-updates"), (security, f"{name}-security")):
        if (text := fetch(_release(place, part))) is not None:
            parts.append((place, part, text))
    components = COMPONENTS[distribution]
    digest = hashlib.sha256(VARIANT.encode())
    for _, _, text in parts:
        digest.update(hashlib.sha256(text).digest())
    return Suite(
        name,
        mirror,
        PUBLIC[distribution],
        KEYRINGS[distribution],
        tuple(f"deb {place} {part} {components}" for place, part, _ in parts),
        f"sha256:{digest.hexdigest()}",
        max(_date(text) for _, _, text in parts),
    )


def _release(mirror: str, suite: str) -> str:
    return f"{mirror}/dists/{suite}/InRelease"


def _date(release: bytes) -> int:
    """The time at which an InRelease file says it was made."""
    match = DATE.search(release)
    parsed = email.utils.parsedate_tz(match[1].decode("ascii", "replace")) if match else None
    if parsed is None:
        raise BaseError(
            "the mirror's InRelease file has no Date; is it a Debian mirror?",
            "set another mirror in the site",
        )
    return int(email.utils.mktime_tz(parsed))


def make(suite: Suite, tree: Path, env: Mapping[str, str], output: Output) -> None:
    """Make the suite's tree in the new folder `tree`. `env` reaches mmdebstrap and apt (proxies, CA)."""
    tree.mkdir(parents=True)
    tree.chmod(0o755)
    if suite.archives:
        index(suite, suite.archives, env, output)
    elif not suite.keyring.exists():
        raise BaseError(
            f"{suite.keyring} is missing: the mirror's signatures can't be checked",
            "on Ubuntu: apt-get install ubuntu-keyring; elsewhere copy that file from an Ubuntu machine",
        )
    argv = [
        "mmdebstrap",
        "--mode=root",
        # Mounting devpts needs gid 5, which isn't mapped; start-stop-daemon has nothing to start.
        "--skip=chroot/mount,chroot/start-stop-daemon,check/qemu",
        f"--variant={VARIANT}",
        '--aptopt=APT::Sandbox::User "root"',
        # A tree that a power cut damages is made again: dpkg need not wait for the disk.
        "--dpkgopt=force-unsafe-io",
        f"--keyring={suite.keyring}",
        "--include=ca-certificates",
        suite.name,
        str(tree),
        *((f"deb [trusted=yes] copy:{suite.archives} ./",) if suite.archives else suite.sources),
    ]
    # mmdebstrap writes SOURCE_DATE_EPOCH into what it makes.
    inside = {**env, "SOURCE_DATE_EPOCH": str(suite.epoch), "TMPDIR": SCRATCH}
    what = f"make {suite.name} from {suite.mirror}"
    result = as_root(argv, what=what, writable=[tree], env=inside, timeout=TIME_LIMIT_SECONDS, output=output)
    if result.returncode != 0:
        raise BaseError(
            f"mmdebstrap failed: {result.outcome()}", "look at the mirror and the proxy", result.tail(15)
        )
    _forget_this_run(tree)
    if suite.archives:
        # As mmdebstrap writes them.
        lines = "\n".join(f"{line}\n" for line in suite.sources)
        files.write_atomic(files.inside(tree, "/etc/apt/sources.list"), lines.encode())
    canonical_sources(suite, tree)


def index(suite: Suite, archives: Path, env: Mapping[str, str], output: Output) -> None:
    """Make a folder of archives a mirror that apt reads, with what mmdebstrap asks of a suite."""
    argv = ["sh", str(SCRIPTS / "repository.sh"), str(archives), suite.name]
    what = f"make a mirror of the locked packages of {suite.name}"
    inside = {**env, "TMPDIR": SCRATCH}
    result = as_root(
        argv, what=what, writable=[archives], env=inside, timeout=TIME_LIMIT_SECONDS, output=output
    )
    if result.returncode != 0:
        raise BaseError(f"{what}: {result.outcome()}", "look at the cache's disk", result.tail(15))


def _forget_this_run(tree: Path) -> None:
    """Take out what mmdebstrap leaves of the caller: its options, and the host's name and resolver."""
    options = ("etc/apt/apt.conf.d/99mmdebstrap", "etc/dpkg/dpkg.cfg.d/99mmdebstrap")
    for name in (*options, "etc/resolv.conf", "etc/hostname"):
        (tree / name).unlink(missing_ok=True)


@contextlib.contextmanager
def site_sources(suite: Suite, tree: Path) -> Iterator[None]:
    """Have apt ask the site's mirror in the block; after it, what is kept names the public one."""
    _replace(tree, suite.public, suite.mirror)
    try:
        yield
    finally:
        canonical_sources(suite, tree)


def canonical_sources(suite: Suite, tree: Path) -> None:
    """Make the tree ask the public mirror: the site's may be reached from there alone, with its password."""
    _replace(tree, suite.mirror, suite.public)


def _replace(tree: Path, before: str, after: str) -> None:
    path = tree / "etc/apt/sources.list"
    text = files.read_inside(tree, "/etc/apt/sources.list")
    if text is not None and before != after and not path.is_symlink():
        files.write_atomic(path, text.replace(before.encode(), after.encode()))
