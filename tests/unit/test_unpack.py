"""Layers put onto a tree: what each kind of entry does, and what no image may hold."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kiln.errors import BaseError, EnvironmentMissing
from kiln.registry.tree import plain_capability
from kiln.registry.unpack import Layer, Limits, failure, unpack
from tests.registry_fixture import EPOCH, Member, compressed, folder, hardlink, layer, member, sha256, symlink

ROOT = Path(__file__).resolve().parents[2]


class Image:
    """Layers as blobs in a folder, to be unpacked to `root`."""

    def __init__(self, tmp: Path) -> None:
        self.tmp, self.root, self.layers = tmp, tmp / "root", list[Layer]()
        self.said: list[dict[str, object]] = []
        self.root.mkdir()

    def add(self, *members: Member, compression: str = "none", **rest: Any) -> Image:
        return self.add_bytes(layer(*members, **rest), compression)

    def add_bytes(self, data: bytes, compression: str = "none") -> Image:
        blob = compressed(data, compression)
        path = self.tmp / sha256(blob).removeprefix("sha256:")
        path.write_bytes(blob)
        self.layers.append(Layer(path, sha256(data)))
        return self

    def unpack(self, **limits: int) -> Path:
        unpack(self.layers, self.root, Limits(**limits), self.said.append)
        return self.root

    def refused(self, **limits: int) -> str:
        with pytest.raises(BaseError) as caught:
            self.unpack(**limits)
        return caught.value.message

    def names(self) -> list[str]:
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*"))


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return Image(tmp_path)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_a_layer_of_any_compression(image: Image, compression: str) -> None:
    big = os.urandom(3 << 20)
    image.add(folder("a"), member("a/b", b"text"), member("big", big), compression=compression).unpack()
    assert (image.root / "a/b").read_bytes() == b"text"
    assert (image.root / "big").read_bytes() == big


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_format_and_odd_names(image: Image, tar_format: int) -> None:
    long = "/".join(["d" * 90, "e" * 60]) if tar_format == tarfile.USTAR_FORMAT else "n" * 255
    names = ["ünï 日本", "two\nlines", "-rf", " space ", "back\\slash", "*", long]
    members = [member(name, name.encode()) for name in names]
    image.add(*members, tar_format=tar_format).unpack()
    for name in names:
        assert (image.root / name).read_bytes() == name.encode()


def test_names_that_are_not_utf8_keep_their_bytes(image: Image) -> None:
    image.add(member("caf\udce9"), tar_format=tarfile.GNU_FORMAT).unpack()
    assert os.listdir(os.fsencode(image.root)) == [b"caf\xe9"]


def test_modes_are_kept_and_the_owner_may_always_read(image: Image) -> None:
    image.add(
        member("su", b"x", mode=0o4755),
        member("sg", b"x", mode=0o2711),
        member("ro", b"x", mode=0o444),
        member("none", b"x", mode=0),
        member("x", b"x", mode=0o011),
        folder("tmp", mode=0o1777),
        folder("closed", mode=0),
        member("closed/in", b"x"),
    ).unpack()
    found = {name: mode(image.root / name) for name in ("su", "sg", "ro", "none", "x", "tmp", "closed")}
    # The last three as enroot's import leaves them: what the owner can't read, mksquashfs can't either.
    assert found == {
        "su": 0o4755,
        "sg": 0o2711,
        "ro": 0o444,
        "none": 0o400,
        "x": 0o511,
        "tmp": 0o1777,
        "closed": 0o700,
    }


def test_times_are_the_archives_also_of_folders_and_links(image: Image) -> None:
    image.add(folder("d", mtime=5), member("d/f", b"x", mtime=6.25), symlink("d/l", "f", mtime=7)).unpack()
    assert (image.root / "d").stat().st_mtime == 5
    assert (image.root / "d/f").stat().st_mtime == 6.25
    assert (image.root / "d/l").lstat().st_mtime == 7


def test_a_folder_without_an_entry_keeps_its_time_or_takes_its_files(image: Image) -> None:
    image.add(folder("old", mtime=5), member("new/deep/f", b"x", mtime=9))
    image.add(member("old/f", b"x", mtime=100), member("old/.wh.none")).unpack()
    assert (image.root / "old").stat().st_mtime == 5
    assert (image.root / "new").stat().st_mtime == 9 == (image.root / "new/deep").stat().st_mtime


def test_a_time_before_1970_becomes_1970(image: Image) -> None:
    image.add(member("f", mtime=-5)).unpack()
    assert (image.root / "f").stat().st_mtime == 0


def test_whiteouts_hide_lower_layers_only(image: Image) -> None:
    image.add(member("gone"), folder("dir"), member("dir/lower"), member("dir/keep"), member("back", b"1"))
    image.add(
        member(".wh.gone"),
        member("back", b"2"),
        member(".wh.back"),
        member("dir/upper"),
        member("dir/.wh.lower"),
        member("dir/.wh.never-there"),
    ).unpack()
    assert image.names() == ["back", "dir", "dir/keep", "dir/upper"]
    assert (image.root / "back").read_bytes() == b"2"


@pytest.mark.parametrize("first", [True, False])
def test_opaque_folders_wherever_the_mark_stands(image: Image, first: bool) -> None:
    image.add(folder("d"), member("d/a"), folder("d/sub"), member("d/sub/b"))
    mark, brought = member("d/.wh..wh..opq"), [folder("d/sub"), member("d/sub/c"), member("d/e")]
    image.add(folder("d"), *([mark, *brought] if first else [*brought, mark])).unpack()
    assert image.names() == ["d", "d/e", "d/sub", "d/sub/c"]


def test_a_whiteout_of_a_folder_that_the_layer_also_brings(image: Image) -> None:
    image.add(folder("d"), member("d/lower"))
    image.add(member("d/upper"), member(".wh.d")).unpack()
    assert image.names() == ["d", "d/upper"]


def test_whiteouts_in_the_lowest_layer_and_notes_of_aufs_mean_nothing(image: Image) -> None:
    image.add(member("a"), member(".wh.a"), folder(".wh..wh.plnk"), member(".wh..wh.plnk/1.2")).unpack()
    assert image.names() == ["a"]


def test_what_was_there_gives_way(image: Image) -> None:
    image.add(
        folder("dir"), member("dir/in"), member("file"), symlink("link", "dir"), folder("merged", mode=0o700)
    )
    image.add(member("merged/kept", b""))
    image.add(
        member("dir", b"now a file"), folder("file"), folder("link"), folder("merged", mode=0o711)
    ).unpack()
    assert (image.root / "dir").read_bytes() == b"now a file"
    assert (image.root / "file").is_dir()
    assert (image.root / "link").is_dir() and not (image.root / "link").is_symlink()
    assert (image.root / "merged/kept").exists() and mode(image.root / "merged") == 0o711


def test_a_file_is_replaced_not_written_through_a_hard_link(image: Image) -> None:
    image.add(member("a", b"old"), hardlink("b", "a"))
    image.add(member("a", b"new")).unpack()
    assert (image.root / "b").read_bytes() == b"old"
    assert (image.root / "a").read_bytes() == b"new"


def test_hard_links_to_files_and_links_also_of_lower_layers(image: Image) -> None:
    image.add(member("d/a", b"x"), symlink("l", "nowhere"))
    image.add(hardlink("b", "d/a"), hardlink("c", "./d/a"), hardlink("m", "l"), hardlink("b", "b")).unpack()
    inodes = {(image.root / name).stat().st_ino for name in ("d/a", "b", "c")}
    assert len(inodes) == 1
    assert os.readlink(image.root / "m") == "nowhere"


def test_links_are_never_followed_as_the_last_part(image: Image, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine")
    image.add(symlink("f", str(outside)), symlink("d", str(tmp_path)))
    image.add(member("f", b"theirs"), folder("d")).unpack()
    assert outside.read_text() == "mine"
    assert (image.root / "f").read_bytes() == b"theirs" and (image.root / "d").is_dir()


@pytest.mark.parametrize("target", ["/real", "real", "../../real", "/../real", "hop", "./"])
def test_links_of_the_same_layer_are_followed_inside_the_tree(image: Image, target: str) -> None:
    image.add(folder("real"), symlink("hop", "/real"), symlink("way", target), member("way/f", b"x")).unpack()
    assert (image.root / ("f" if target == "./" else "real/f")).read_bytes() == b"x"


def test_a_link_of_a_lower_layer_gives_way_to_a_folder(image: Image) -> None:
    """As under overlayfs, which Docker, containerd and enroot use."""
    image.add(folder("usr"), folder("usr/lib"), symlink("lib", "usr/lib"))
    image.add(member("lib/f", b"x")).unpack()
    assert image.names() == ["lib", "lib/f", "usr", "usr/lib"]


def test_nothing_below_dev_is_kept(image: Image) -> None:
    """As in enroot's import."""
    image.add(
        folder("dev"),
        member("dev/null", kind=tarfile.CHRTYPE),
        member("./dev/sda", kind=tarfile.BLKTYPE),
        symlink("dev/fd", "/proc/self/fd"),
        folder("dev/pts"),
        member("dev/pts/x"),
        member("device", b"x"),
    ).unpack()
    assert image.names() == ["dev", "device"]


def test_fifos(image: Image) -> None:
    image.add(member("pipe", kind=tarfile.FIFOTYPE, mode=0o640)).unpack()
    assert stat.S_ISFIFO((image.root / "pipe").lstat().st_mode) and mode(image.root / "pipe") == 0o640


def test_names_with_dots_and_slashes_and_the_root_itself(image: Image) -> None:
    image.add(
        folder("./", mtime=3),
        folder("./a//b/./", mode=0o710),
        member("./a//b/c", b"x"),
        folder("/", mode=0o755),
    )
    image.unpack()
    assert image.names() == ["a", "a/b", "a/b/c"]
    assert mode(image.root / "a/b") == 0o710


def test_xattrs_of_users_are_kept_others_are_not(image: Image) -> None:
    kept = {"user.note": b"v\xff", "user.overlay.opaque": b"y", "trusted.x": b"y", "security.selinux": b"z"}
    image.add(member("f", b"x", xattrs=kept)).unpack()
    names = set(os.listxattr(image.root / "f"))
    if any("not kept here" in str(said) for said in image.said):
        pytest.skip("this file system keeps no user xattrs")
    assert names & set(kept) == {"user.note"}
    assert os.getxattr(image.root / "f", "user.note") == b"v\xff"


def test_capabilities_lose_the_namespace_they_were_made_for() -> None:
    v2 = b"\x01\x00\x00\x02" + bytes(range(16))
    assert plain_capability(v2) == v2
    assert plain_capability(b"\x01\x00\x00\x03" + bytes(range(16)) + b"\xe8\x03\x00\x00") == v2


def test_the_child_as_a_program(image: Image) -> None:
    image.add(member("f", b"x")).add(member("../x"))
    with user_namespace() as prefix:
        argv = [*prefix, sys.executable, "-m", "kiln.registry.unpack", str(image.root)]
        for one in image.layers:
            argv += [str(one.path), one.diff_id]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    last = failure(done.stdout.splitlines()[-1])
    assert isinstance(last, BaseError) and "a name with .." in last.message
    assert done.returncode == BaseError.exit_code and done.stderr == ""
    assert (image.root / "f").read_bytes() == b"x"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may change its root")
def test_the_child_without_the_right_to_change_its_root(image: Image) -> None:
    one = image.add(member("f")).layers[0]
    argv = [sys.executable, "-m", "kiln.registry.unpack", str(image.root), str(one.path), one.diff_id]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert isinstance(failure(done.stdout.splitlines()[-1]), EnvironmentMissing)


@contextlib.contextmanager
def user_namespace() -> Iterator[list[str]]:
    argv = ["unshare", "--user", "--map-root-user"]
    if subprocess.run([*argv, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no user namespaces here")
    yield argv


def test_file_capabilities_in_a_user_namespace(image: Image) -> None:
    capability = b"\x01\x00\x00\x02\x00\x04" + bytes(14)
    image.add(member("ping", b"x", mode=0o755, xattrs={"security.capability": capability}))
    with user_namespace() as prefix:
        one = image.layers[0]
        argv = [
            *prefix,
            sys.executable,
            "-m",
            "kiln.registry.unpack",
            str(image.root),
            str(one.path),
            one.diff_id,
        ]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "not kept" not in done.stdout
        look = "import os,sys; print(os.getxattr(sys.argv[1], 'security.capability').hex())"
        seen = subprocess.run(
            [*prefix, sys.executable, "-c", look, str(image.root / "ping")],
            capture_output=True,
            text=True,
            check=True,
        )
        assert seen.stdout.strip() == capability.hex()


def test_against_tar_itself(image: Image, tmp_path: Path) -> None:
    """The same tree as GNU tar makes of the same archive."""
    data = layer(
        folder("usr"), folder("usr/bin"), member("usr/bin/a", b"x" * 70_000, mode=0o755, mtime=EPOCH + 0.5),
        symlink("bin", "usr/bin"), hardlink("usr/bin/b", "usr/bin/a"), member("n" * 200, b"long"),
        folder("var/tmp", mode=0o1777), member("usr/bin/" + "ü" * 100, b"u"),
    )  # fmt: skip
    other = tmp_path / "tar"
    other.mkdir()
    with io.BytesIO(data) as stream:
        subprocess.run(
            ["tar", "--delay-directory-restore", "-xpf", "-", "-C", str(other)],
            input=stream.read(),
            check=True,
        )
    image.add_bytes(data).unpack()
    assert seen(image.root) == seen(other)


def seen(root: Path) -> list[tuple[object, ...]]:
    found: list[tuple[object, ...]] = []
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        # tar gives the folder "var", which has no entry, the time at which it ran.
        when = 0 if path.name == "var" else status.st_mtime_ns
        found.append((str(path.relative_to(root)), status.st_mode, status.st_nlink, when, content))
    return found
