"""Images of layers that note in a diary outside that they ran, and layers that do what overlays make hard."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.integration import trees
from tests.integration.namespaces import on_overlay
from tests.integration.project import Done, Project

DIARY = "/mnt/diary"
# Folders removed and made again, moved, and become files; hard links, modes, capabilities, links. No file
# of two names is changed in place by a later layer: an overlay then keeps the other name as it was.
HARD = (
    """\
mkdir -p /data/opaque/deep /data/gone /data/moved /data/closed
echo 1 > /data/opaque/deep/old; echo 2 > /data/gone/file
for each in 1 2 3; do echo $each > /data/moved/$each; done
echo 3 > /data/kept; ln /data/kept /data/linked; ln -s ../kept /data/link
echo 4 > /data/closed/file; chmod 0 /data/closed/file; chmod 2750 /data/closed
cp /bin/cat /data/able; setcap cap_net_raw+ep /data/able; cp /bin/cat /data/su; chmod 4755 /data/su""",
    """\
rm -r /data/opaque /data/gone; mkdir /data/opaque; echo new > /data/opaque/new; chmod 711 /data/opaque
mv /data/moved /data/renamed; rm /data/link; ln -s kept /data/link; mkdir /data/closed/more
rm /data/linked; ln /data/kept '/data/odd \u00e9 name'""",
    """\
chmod 700 /data/able; ln /data/opaque/new /data/second; rm /data/renamed/2; mkdir /data/gone
rm -r /data/closed/more; chmod 400 /data/closed/file
touch -d 2001-01-01 /data/closed /data/opaque; ln /data/su /data/su2""",
    """\
rm -r /data/renamed; echo file > /data/renamed; rm /data/second; rm -r /data/gone; ln -s /etc /data/gone
mkdir /data/opaque/deep; echo back > /data/opaque/deep/old; setcap cap_net_bind_service+ep /data/able""",
)

# What is set on purpose, as a manifest says it.
SETUID = ("/data/su", "/data/su2")


@dataclass(frozen=True)
class Layered:
    """A project, and the folder of its layers' diary."""

    project: Project
    diary: Path

    def manifest(self, name: str, scripts: Sequence[object], **more: Any) -> str:
        """An image; a layer that is given as text runs it and notes its number, counted from 1."""
        layers = [
            {"run": f"{each}\necho {number} >> {DIARY}/ran"} if isinstance(each, str) else each
            for number, each in enumerate(scripts, 1)
        ]
        return self.project.manifest(name, layers, mounts=[f"{self.diary}:{DIARY}:rw"], **more)

    def ran(self) -> list[str]:
        """What was noted since the last time."""
        path = self.diary / "ran"
        words = path.read_text().split() if path.exists() else []
        path.unlink(missing_ok=True)
        return words

    def build(self, name: str, *args: str, **more: Any) -> Path:
        """Build an image, which must work; the published file."""
        return self.project.store.image(name, self.project.build(name, *args, **more).version)

    def say(self, name: str, *args: str, **more: Any) -> Done:
        """Build an image, which must work; what a person saw."""
        return self.project.run("build", name, *args, **more).expect(0)

    def current(self, name: str) -> Path:
        return self.project.store.find(name).path

    def unpublish(self, name: str) -> None:
        shutil.rmtree(self.project.images / name)

    def trees(self, kind: str, node: Path | None = None) -> list[Path]:
        """The folders of the entries of a kind in the local tier, in the order in which they were made."""
        folder = (node or self.project.cache / "v1") / "trees"
        return sorted(folder.glob(f"*/{kind}s/*"), key=lambda path: (path / "entry.json").stat().st_mtime_ns)

    def plain(self, name: str, env: Mapping[str, str] | None = None, *args: str) -> Path:
        """The image as a build gives it that can't keep layers; its cache and images are its own."""
        place = self.project.root / "plain"
        own = {"KILN_CACHE": str(place / "cache"), **(env or {})}
        images = place / f"images-{len(list(place.glob('images-*')))}"
        done = self.project.run(
            "build", name, "--images", str(images), *args, env=own, within=on_overlay(place / "cache")
        )
        done.expect(0)
        assert "the store" not in done.err
        [image] = images.glob(f"{name}/{name}-*.sqsh")
        return image

    def assert_right(self, name: str) -> None:
        """Whether the current image is the same as one whose layers all ran, kept or not."""
        built = self.current(name)
        trees.assert_same(built, self.build(name, "--no-cache"))
        trees.assert_same(built, self.plain(name))
        self.ran()
