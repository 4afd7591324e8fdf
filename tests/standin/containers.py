# ruff: noqa: T201
"""The stand-in's create, export, remove and list: squashfs-tools and folders."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.standin.common import container, fail, info, new_file, open_up, real, remove_all, tool, usage
from tests.standin.registry import squash


def is_image(path: Path) -> bool:
    argv = ["unsquashfs", "-s", str(path)]
    return path.is_file() and subprocess.run(argv, check=False, capture_output=True).returncode == 0


def do_create(options: dict[str, list[str]], arguments: list[str]) -> None:
    if len(arguments) != 1:
        usage("create")
    image = real(arguments[0])
    if not image.is_file():
        fail(f"No such file or directory: {image}")
    if not is_image(image):
        fail(f"Invalid image format: {image}")
    tree = container(options.get("name", [image.name.removesuffix(".sqsh")])[-1], must=False)
    new_file(tree, force="force" in options)
    info("Extracting squashfs filesystem...")
    tool("unsquashfs", "-no-progress", "-user-xattrs", "-d", str(tree), str(image))
    open_up(tree)


def do_export(options: dict[str, list[str]], arguments: list[str]) -> None:
    if len(arguments) != 1:
        usage("export")
    tree = container(arguments[0])
    target = real(options.get("output", [f"{tree.name}.sqsh"])[-1])
    new_file(target, force="force" in options)
    left_out = [str(path) for path in [*tree.glob("dev/*"), *tree.glob(".lock")]]
    for parent, folders, names in os.walk(tree):
        for name in [*folders, *names]:
            path = Path(parent, name)
            if path.is_symlink() or path.stat().st_mode & 0o7777:
                continue
            if name in folders or path.stat().st_size == 0:
                left_out.append(str(path))
    info("Creating squashfs filesystem...")
    squash(tree, target, left_out)


def do_remove(options: dict[str, list[str]], arguments: list[str]) -> None:
    if not arguments:
        usage("remove")
    for name in arguments:
        tree = container(name)
        if "force" not in options:
            print(f"Do you really want to delete {tree}? [y/N] ", end="", file=sys.stderr)
            answer = sys.stdin.readline()
            if not answer:
                sys.exit(1)
            if answer.strip() not in ("y", "Y"):
                continue
        remove_all(tree)


def do_list(options: dict[str, list[str]], arguments: list[str]) -> None:
    if "fancy" in options:
        print("NAME  PID  COMM  STATE  STARTED  TIME  MNTNS  USERNS  COMMAND")
    for path in sorted(Path(os.environ["ENROOT_DATA_PATH"]).iterdir()):
        print(path.name)
