"""What is done to a container's tree after its layers: what the manifest declares, and the broom.

Owns /etc/environment, /etc/rc and /etc/fstab of the finished tree, and the removal of what the build
itself brought. Works on the tree from outside, which is a foreign one: every path is resolved in it.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from kiln import debootstrap, files, imageedit, imageformat
from kiln.errors import ManifestError
from kiln.layerrun import IDENTITY
from kiln.plan import Plan

BUILD_FOLDER = "/run/kiln"


def finish(plan: Plan, rootfs: Path, state: Path) -> None:
    """Make the tree what the image is to hold. Raises `ManifestError` where the base can't take it."""
    restore_identity(rootfs, state)
    declare(plan, rootfs)
    sweep(plan, rootfs)


def restore_identity(rootfs: Path, state: Path) -> None:
    """Put the users' files as the last layer left them: each start of enroot's rewrites them."""
    for name in IDENTITY:
        saved, here = state / "identity" / name, files.inside(rootfs, name)
        if saved.is_symlink():
            here.unlink(missing_ok=True)
            here.symlink_to(os.readlink(saved))
        elif saved.is_file():
            files.write_atomic(here, saved.read_bytes(), stat.S_IMODE(saved.stat().st_mode))
        else:
            here.unlink(missing_ok=True)


def declare(plan: Plan, rootfs: Path) -> None:
    """Environment, entrypoint and mounts, over what the base says of each."""
    manifest = plan.manifest
    if plan.base.resolved:
        # The tree may have been made for another image, whose base has another name. Where a folder or
        # archive lies on this machine is nobody's business: what the manifest says of it is enough.
        origin = plan.base.base.text if plan.base.local else plan.base.resolved.uri
        imageformat.restate_origin(rootfs, origin)
    before = (files.read_inside(rootfs, "/etc/environment") or b"").decode("utf-8", "surrogateescape")
    if manifest.env:
        text = imageedit.with_variables(
            before, imageedit.expand(manifest.env, imageformat.parse_environment(before))
        )
        _write(rootfs, "/etc/environment", text)
    if manifest.fstab:
        fstab = (files.read_inside(rootfs, "/etc/fstab") or b"").decode("utf-8", "surrogateescape")
        _write(rootfs, "/etc/fstab", fstab + "".join(f"{line}\n" for line in manifest.fstab))
    if any(value is not None for value in (manifest.workdir, manifest.entrypoint, manifest.command)):
        rc = (files.read_inside(rootfs, "/etc/rc") or b"").decode("utf-8", "surrogateescape")
        changed = imageedit.with_start(rc, manifest.workdir, manifest.entrypoint, manifest.command)
        if changed is None:
            raise ManifestError(
                f"the /etc/rc of {plan.base.base.text} is not one of enroot's: it can't be changed in part",
                "give workdir, entrypoint and command, all three",
            )
        _write(rootfs, "/etc/rc", changed)
    if manifest.workdir:
        files.make_folder(files.inside(rootfs, manifest.workdir, follow_last=True))


def sweep(plan: Plan, rootfs: Path) -> None:
    """Remove what the build put there for itself."""
    folder = files.inside(rootfs, BUILD_FOLDER)
    if folder.is_dir() and not folder.is_symlink():
        files.remove_tree(folder)
    if plan.base.suite:
        debootstrap.canonical_sources(plan.base.suite, rootfs)


def _write(rootfs: Path, name: str, text: str) -> None:
    files.write_atomic(files.inside(rootfs, name), text.encode("utf-8", "surrogateescape"))
