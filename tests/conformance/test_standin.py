"""The stand-in for enroot says, refuses and exits as a real one, call by call."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conformance.conftest import STANDIN, real_enroot
from tests.conftest import NO_ENROOT

OURS = re.compile(r"\[(INFO|WARN|ERROR)\]|enroot-\w+:|Usage:|mkdir:|curl:|Checksum")
CALLS = (
    "version",
    "",
    "bogus",
    "import",
    "import foo://bar",
    "import docker://Upper/CASE:1",
    "import -o good.sqsh docker://127.0.0.1:1#a/b:1",
    "import -o no/x.sqsh docker://127.0.0.1:1#a/b:1",
    "import -o n.sqsh docker://127.0.0.1:1#a/b@sha512:00",
    "import --bogus docker://127.0.0.1:1#a/b:1",
    "import -a vax -o n.sqsh docker://127.0.0.1:1#a/b:1",
    "import -o n.sqsh docker://127.0.0.1:1#a/b:1",
    "import -o n.sqsh docker://127.0.0.1:1#a/b:sha256:00",
    "create",
    "create --bogus good.sqsh",
    "create -n c good.sqsh",
    "create -n c good.sqsh",
    "create --name=d -- good.sqsh",
    "create -f -n d good.sqsh",
    "create -n e cut.sqsh",
    "create -n e head.sqsh",
    "create -n e empty.sqsh",
    "create -n e junk.sqsh",
    "create -n e missing.sqsh",
    "create -n e no/missing.sqsh",
    "create -n a/b good.sqsh",
    "list",
    "list --bogus",
    "start",
    "start --bogus c true",
    "start nosuch true",
    "start a/b true",
    "start --rc missing.rc c true",
    "start --env 1BAD=x c true",
    "start -m no/such:/mnt c true",
    "start -m 'a b:/mnt' c true",
    "start -m {here}/host:/mnt:ro c true",
    "start -m {here}/host:/missing:ro c true",
    "start -m {here}/host:/usr/bin/env/x:none:x-create=dir,bind,ro c true",
    "start -r -w c sh -c 'exit 7'",
    "start -r -w c one 'two three'",
    "start -r -w --rc run.rc c no-such-command",
    "start -r -w --rc run.rc c sh -c 'exit 3'",
    "start -r -w --rc run.rc c sh -c 'chown 33:33 /root && stat -c %u:%g /root; umask; pwd; id -u'",
    "start -r --rc run.rc c sh -c 'touch /x'",
    "start -r -w --rc run.rc -m {here}/host:/d/er:none:x-create=dir,bind,ro c sh -c 'ls /d/er; >/d/er/x'",
    "start -r -w --rc run.rc -m {here}/host/file:/deep/file:none:x-create=file,bind,rw c cat /deep/file",
    "start -r -w --rc run.rc -e A=1 -e GIVEN -e 'Q=\"q\"' -e ENROOT_X=1 c env",
    "export",
    "export --bogus c",
    "export -o x.sqsh nosuch",
    "export -o no/x.sqsh c",
    "export -o x.sqsh a/b",
    "export -o x.sqsh c",
    "export -o x.sqsh c",
    "remove",
    "remove --bogus c",
    "remove -f nosuch",
    "remove -f a/b",
    "remove c",
    "remove -f nosuch c",
    "remove -f c",
    "list",
    "digest",
    "digest foo://bar",
)


@dataclass(frozen=True)
class Side:
    """One enroot, with a folder of its own."""

    enroot: Path
    work: Path

    def prepare(self, image: Path) -> None:
        for name in ("host", "data", "cache", "config", "run", "tmp"):
            (self.work / name).mkdir(parents=True)
        (self.work / "host/file").write_text("from the host\n")
        (self.work / "run.rc").write_text('exec "$@"\n')
        shutil.copy(image, self.work / "good.sqsh")
        data = image.read_bytes()
        for name, content in (
            ("cut", data[: len(data) // 2]),
            ("head", data[:50]),
            ("empty", b""),
            ("junk", b"junk" * 999),
        ):
            (self.work / f"{name}.sqsh").write_bytes(content)

    def call(self, line: str, **more: str) -> tuple[int, list[str]]:
        """Exit code and enroot's own words, without what differs between folders and machines."""
        env = {
            "PATH": f"{self.enroot.parent}:{os.environ['PATH']}", "HOME": str(self.work), "GIVEN": "given",
            "TERM": "dumb",
            "NVIDIA_VISIBLE_DEVICES": "void", "MELLANOX_VISIBLE_DEVICES": "void", "ENROOT_LOGIN_SHELL": "no",
            **{f"ENROOT_{name.upper()}_PATH": str(self.work / folder) for name, folder in (
                ("data", "data"), ("cache", "cache"), ("config", "config"),
                ("runtime", "run"), ("temp", "tmp"),
            )},
            **more,
        }  # fmt: skip
        ended = subprocess.run(
            ["sh", "-c", f"enroot {line.format(here=self.work)}"],
            cwd=self.work, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            check=False, timeout=120,
        )  # fmt: skip
        return ended.returncode, self._normal(ended.stdout, ended.stderr)

    def _normal(self, out: str, err: str) -> list[str]:
        kept = [text for text in err.splitlines() if OURS.match(text)]
        said = out.splitlines()[:1] if out.startswith("Usage:") else sorted(out.splitlines())
        text = "\n".join([*said, *kept]).replace(str(self.work), "WORK")
        # Times, and words of curl and of a login shell that differ between versions.
        text = re.sub(r"after \d+ ms: |: Could(n't| not) connect.*|Failed to connect.*", "", text)
        return [
            part for part in text.splitlines() if not part.startswith(("SHLVL=", "_=", "PWD=", "OLDPWD="))
        ]


@pytest.fixture(scope="module")
def image(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("image") / "good.sqsh"
    subprocess.run(["mksquashfs", str(small), str(target), "-all-root", "-quiet", "-no-progress"], check=True)
    return target


@pytest.fixture(scope="module")
def sides(
    image: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> tuple[Side, Side]:
    real = real_enroot()
    if real is None:
        pytest.skip(NO_ENROOT)
    made = (
        Side(STANDIN / "enroot", tmp_path_factory.mktemp("standin")),
        Side(real, tmp_path_factory.mktemp("real")),
    )
    for side in made:
        side.prepare(image)
    return made


def test_every_call_ends_and_says_the_same(sides: tuple[Side, Side]) -> None:
    different = []
    for line in CALLS:
        standin, real = (side.call(line) for side in sides)
        if standin != real:
            different.append(f"enroot {line}\n  stand-in: {standin}\n  real:     {real}")
    assert not different, "\n".join(different)


def test_a_start_leaves_the_same_behind(sides: tuple[Side, Side]) -> None:
    left = []
    for side in sides:
        side.call("create -n left good.sqsh")
        side.call("start -r -w --rc run.rc -m {here}/host:/made/here:none:x-create=dir,bind,ro left true")
        tree = side.work / "data/left"
        left.append(
            {str(p.relative_to(tree)): oct(p.lstat().st_mode) for p in tree.rglob("*") if not skipped(p)}
        )
        side.call("remove -f left")
    assert left[0] == left[1]


def skipped(path: Path) -> bool:
    """What the password tools of the host leave, where it has them."""
    return path.name in ("shadow", "gshadow", "shadow-", "gshadow-", ".pwd.lock")
