"""The work that is measured: a base of 2 GB and more than 70,000 files, and two layers on top of it.

The base is made from packages, as a person would make it, one gzip layer a step:

    1  Debian with Python, by mmdebstrap         4  scientific Python
    2  a compiler                                5  a small Python package
    3  PyTorch's CPU build

It is made once, and stays in the registry for later runs. The tag `first` is that image; `second` differs in
layer 5, as when a base is published anew; `size2` and `size4` hold two and four times the files, so that
growth can be seen.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import shutil
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import changes, network
from benchmarks.changes import Snapshot
from benchmarks.network import INSIDE, Network
from benchmarks.registry import Registry
from kiln import files
from kiln.errors import EnvironmentMissing
from kiln.run import host_environment, run

NAME = "bench/base"
FIRST, SECOND, LATEST = "first", "second", "latest"
SIZES = (1, 2, 4)
SUITE, MIRROR = "bookworm", "http://deb.debian.org/debian"
DEBIAN = ("ca-certificates", "python3", "python3-pip", "python3-dev")
COMPILER = ("build-essential", "gfortran", "cmake", "ninja-build", "pkg-config")
TORCH = "torch==2.13.0"
SCIENCE = (
    "numpy", "scipy", "pandas", "scikit-learn", "matplotlib", "jupyterlab", "notebook", "statsmodels",
    "scikit-image", "bokeh", "dask", "distributed", "xarray", "seaborn", "plotly",
)  # fmt: skip
SMALL, SMALL_ANEW = "tabulate==0.9.0", "tabulate==0.8.10"
# As in Debian's own images: what a power cut damages is never used, so dpkg need not wait for the disk.
DPKG = "etc/dpkg/dpkg.cfg.d/docker-apt-speedup"
LIMIT_SECONDS = 3600.0
FREE_BYTES = 40_000_000_000
# Debian 12 has Python 3.11, whatever this machine has.
WHEELS = ("--python-version", "3.11", "--platform", "manylinux_2_28_x86_64", "--only-binary=:all:")


@dataclass(frozen=True)
class Work:
    """What is built: a reference to the base, and the packages of the two layers."""

    base: str
    apt: tuple[str, ...] = ("git", "jq", "less", "openssh-client", "tmux", "htop")
    pip: tuple[str, ...] = ("transformers", "accelerate")

    def first_changed(self) -> Work:
        return replace(self, apt=(*self.apt, "tree"))

    def last_changed(self) -> Work:
        return replace(self, pip=(*self.pip, "einops"))


@dataclass(frozen=True)
class Maker:
    """Makes the base in the new folder `folder`. `environ` is the caller's, `say` takes progress."""

    folder: Path
    root: Path
    environ: Mapping[str, str]
    say: Callable[[str], None]

    @property
    def tree(self) -> Path:
        return self.folder / "tree"

    def make(self, registry: Registry) -> None:
        """Put the images `first` and `second` into the registry, unless they are there."""
        if {FIRST, SECOND} <= set(registry.tags(NAME)):
            return
        self.say("making the base, once: this takes some minutes")
        if files.free_bytes(self.folder) < FREE_BYTES:
            raise EnvironmentMissing(
                f"{self.folder} has less than {FREE_BYTES / 1e9:.0f} GB free",
                "choose another folder: invoke bench --folder",
            )
        wheel = self._torch()
        inside = network.of(self.root, self.environ)
        layers = [self._step("Debian", lambda: self._debian(inside))]
        layers.append(self._step("compiler", lambda: self._apt(COMPILER)))
        layers.append(self._step("PyTorch", lambda: self._pip(f"{INSIDE}/{wheel.name}")))
        layers.append(self._step("scientific Python", lambda: self._pip(*SCIENCE)))
        below = changes.snapshot(self.tree)
        for tag, package in ((FIRST, SMALL), (SECOND, SMALL_ANEW)):
            last = self._step(package, functools.partial(self._pip, package), below)
            registry.push(NAME, tag, [*layers, last])
        self._check_size()

    def _torch(self) -> Path:
        """PyTorch's wheel, from wherever pip is told to look on this machine."""
        pip = ["python3", "-m", "pip", "download", "--quiet", "--no-deps", *WHEELS]
        folder = self.folder / "wheels"
        env = {**self.environ, **host_environment(self.environ)}
        argv = [*pip, "--dest", str(folder), TORCH]
        run(argv, what="download PyTorch", env=env, timeout=LIMIT_SECONDS)
        [wheel] = folder.iterdir()
        if "+cpu" not in wheel.name:
            raise EnvironmentMissing(
                f"pip finds {wheel.name}, which is not the CPU build",
                "set PIP_EXTRA_INDEX_URL to PyTorch's index of CPU builds, or PIP_FIND_LINKS to a folder",
            )
        return wheel

    def _step(self, title: str, work: Callable[[], None], below: Snapshot | None = None) -> Path:
        """Do `work` in the tree; the layer that leads to the outcome from `below`, or from what was there."""
        before = below or (changes.snapshot(self.tree) if self.tree.exists() else {})
        work()
        after = changes.snapshot(self.tree)
        target = self.folder / f"{title.replace(' ', '-')}.tar.gz"
        count = changes.pack(self.tree, before, after, target, self.environ)
        self.say(f"base: {title}, {count:,} entries, {target.stat().st_size / 1e6:,.0f} MB")
        return target

    def _debian(self, inside: Network) -> None:
        argv = ["mmdebstrap", "--mode=root", "--variant=apt", "--dpkgopt=force-unsafe-io"]
        argv += [f"--include={','.join(DEBIAN)}", SUITE, str(self.tree), MIRROR]
        env = {**host_environment(self.environ), **inside.variables}
        run(argv, what=f"make {SUITE}", env=env, timeout=LIMIT_SECONDS)
        (self.tree / DPKG).write_text("force-unsafe-io\n")
        for name in ("resolv.conf", "hosts"):
            shutil.copyfile(f"/etc/{name}", self.tree / "etc" / name)
        inside.write(self.tree / INSIDE.strip("/"))
        for wheel in (self.folder / "wheels").iterdir():
            shutil.copy(wheel, self.tree / INSIDE.strip("/"))

    def _apt(self, packages: tuple[str, ...]) -> None:
        self._inside("apt.sh", *packages)

    def _pip(self, *packages: str) -> None:
        self._inside("pip.sh", *packages)

    def _inside(self, script: str, *arguments: str) -> None:
        """Run one of the network's scripts in the tree, with a /proc of its own."""
        argv = ["unshare", "--mount", "--pid", "--fork", f"--mount-proc={self.tree}/proc"]
        argv += ["chroot", str(self.tree), "sh", f"{INSIDE}/{script}", *arguments]
        env = {**host_environment({}), "HOME": "/root", "LANG": "C.UTF-8"}
        run(argv, what=f"run {script} in the base", env=env, timeout=LIMIT_SECONDS)

    def _check_size(self) -> None:
        found = changes.snapshot(self.tree)
        size = sum((self.tree / path).lstat().st_size for path in found)
        self.say(f"base: {len(found):,} files and folders, {size / 1e9:.1f} GB")
        if len(found) < 70_000 or size < 2_000_000_000:
            raise EnvironmentMissing(
                f"the base came out too small: {len(found):,} entries, {size / 1e9:.1f} GB",
                "add packages to benchmarks/stack.py",
            )


def grow(registry: Registry, storage: Path, folder: Path, say: Callable[[str], None]) -> None:
    """Put the images `size1`, `size2` and `size4` into the registry, unless they are there.

    Each further share is a copy of the whole base below /opt, every file of it a little different, so that
    no tool can take two for one. `storage` is the registry's folder.
    """
    if {f"size{size}" for size in SIZES} <= set(registry.tags(NAME)):
        return
    layers = [_blob(storage, digest) for digest, _ in registry.layers(NAME, FIRST)]
    copies: list[Path] = []
    for size in SIZES:
        while len(copies) < size - 1:
            say(f"base: making copy {len(copies) + 1} of {SIZES[-1] - 1} of its files")
            copies.append(_copy(layers, folder / f"copy{len(copies)}.tar.gz", len(copies)))
        registry.push(NAME, f"size{size}", [*layers, *copies])


def _blob(storage: Path, digest: str) -> Path:
    return storage / f"docker/registry/v2/blobs/sha256/{digest[:2]}/{digest}/data"


def _copy(layers: list[Path], target: Path, number: int) -> Path:
    seen: set[str] = set()
    with gzip.open(target, "wb", compresslevel=1) as out, tarfile.open(fileobj=out, mode="w|") as archive:
        # From the top down: what an upper layer brought hides what lies below.
        for path in reversed(layers):
            _copy_layer(path, archive, f"opt/copy{number}", seen)
    return target


def _copy_layer(path: Path, archive: tarfile.TarFile, prefix: str, seen: set[str]) -> None:
    with gzip.open(path) as packed, tarfile.open(fileobj=packed, mode="r|") as layer:
        for entry in layer:
            name = entry.name
            if name in seen or changes.WHITEOUT in name or not _copied(entry):
                continue
            seen.add(name)
            data = layer.extractfile(entry) if entry.isreg() else None
            entry.name = f"{prefix}/{name}"
            if entry.islnk():
                entry.linkname = f"{prefix}/{entry.linkname}"
            if data is None:
                archive.addfile(entry)
                continue
            entry.size += len(prefix)
            archive.addfile(entry, io.BytesIO(data.read() + prefix.encode()))


def _copied(entry: tarfile.TarInfo) -> bool:
    return entry.isreg() or entry.isdir() or entry.issym() or entry.islnk()


@contextlib.contextmanager
def private_folder(parent: Path, name: str) -> Iterator[Path]:
    """A new folder below `parent`, gone after the block with all that is in it."""
    folder = parent / name
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        files.remove_tree(folder)
