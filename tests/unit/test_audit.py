"""The rules for what may be in an image: each finds what it should, and lets the image's own be."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import pytest

from kiln import audit, imagerules, logins, record
from kiln.audit import Audit
from kiln.baseline import Baseline, Seen, nothing, of_tree, snapshot
from kiln.errors import AuditError
from kiln.imagerules import Builder
from kiln.listing import Entry, Listing
from kiln.manifest import layer_place
from kiln.origin import Origins
from kiln.record import ERROR, WARNING, Finding
from kiln.run import host_environment, run
from kiln.squashfs import arguments
from tests.unit.conftest import RECORD

PASSWD = "root:x:0:0:root:/root:/bin/bash\nalice:x:1000:1000::/home/alice:/bin/bash\n"
GROUP = "root:x:0:\nalice:x:1000:\n"
NAMES = {"/etc/passwd": frozenset(("root", "alice")), "/etc/group": frozenset(("root", "alice"))}
BUILDER = Builder("/home/bob", "node7")
KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n"


def image(
    *entries: Entry,
    texts: Mapping[str, str] | None = None,
    base: Baseline = nothing,
    allow: frozenset[str] = frozenset(),
) -> imagerules.Image:
    own = {"/etc/passwd": PASSWD, "/etc/group": GROUP, **(texts or {})}
    files = (file(path, len(text)) for path, text in own.items())
    here = {entry.path: entry for entry in (*files, *entries)}
    parents = {str(parent) for path in here for parent in PurePosixPath(path).parents}
    found = {**{path: folder(path) for path in sorted(parents)}, **here}
    encoded = {path: text.encode() for path, text in own.items()}
    return imagerules.Image(Listing(found), encoded, base, NAMES, BUILDER, allow)


def file(path: str, size: int = 5, mode: int = 0o644, uid: int = 0) -> Entry:
    return Entry(path, "-", mode, uid, uid, size)


def folder(path: str, mode: int = 0o755) -> Entry:
    return Entry(path, "d", mode, 0, 0, 3)


def link(path: str, target: str) -> Entry:
    return Entry(path, "l", 0o777, 0, 0, len(target), target)


def base(*entries: Entry) -> Baseline:
    kinds = {"d": stat.S_IFDIR, "-": stat.S_IFREG, "l": stat.S_IFLNK}
    return {entry.path: Seen(kinds[entry.kind] | entry.mode, entry.size) for entry in entries}.get


def errors(judged: imagerules.Image) -> list[str]:
    return [finding.path for finding in imagerules.judge(judged) if finding.severity == ERROR]


def warned(judged: imagerules.Image) -> list[str]:
    return [finding.path for finding in imagerules.judge(judged) if finding.severity == WARNING]


def test_a_clean_image_has_no_findings() -> None:
    clean = image(
        folder("/tmp", 0o1777),
        folder("/var/crash", 0o3777),
        folder("/home/alice"),
        file("/etc/shadow", mode=0),
        file("/usr/bin/git", mode=0o755),
        link("/usr/bin/python", "gone"),
        file("/root/.bash_history", size=0),
        file("/usr/local/cuda/lib64/stubs/libcuda.so", size=1000),
        texts={
            "/root/.npmrc": "registry=https://example.org\n",
            "/etc/pip.conf": "[global]\nindex-url = https://$USER:$TOKEN@example.org/simple\n",
            "/root/.ssh/config": "Host x\n",
            "/opt/venv/pyvenv.cfg": "home = /usr/bin\n",
            "/root/.docker/config.json": '{"credsStore": "pass"}',
        },
    )
    assert imagerules.judge(clean) == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/root/.netrc", "machine api.wandb.ai login user password abc\n"),
        ("/home/alice/.git-credentials", "https://a:b@example.org\n"),
        ("/root/.pypirc", "[pypi]\npassword = abc\n"),
        ("/root/.npmrc", "//registry.npmjs.org/:_authToken=abc\n"),
        ("/root/.docker/config.json", '{"auths": {"nvcr.io": {"auth": "abc"}}}'),
        ("/root/.config/enroot/.credentials", "machine nvcr.io login $oauthtoken password abc\n"),
        ("/root/.aws/credentials", "[default]\n"),
        ("/root/.cache/huggingface/token", "hf_abc"),
        ("/data/cache/huggingface/stored_tokens", "[x]\nhf_token = hf_abc\n"),
        ("/root/.config/wandb/settings", "[default]\napi_key = abc\n"),
        ("/root/.ssh/id_ed25519", KEY),
        ("/home/alice/.ssh/odd-name", KEY),
        ("/etc/ssh/ssh_host_rsa_key", KEY),
        ("/etc/pip.conf", "[global]\nindex-url = https://user:abc@example.org/simple\n"),
        ("/etc/apt/sources.list.d/x.list", "deb https://user:abc@example.org/debian x main\n"),
        ("/workspace/repo/.git/config", "url = https://oauth2:abc@example.org/x.git\n"),
        ("/srv/.bash_history", "export TOKEN=abc\n"),
        ("/root/.python_history", "import os\n"),
    ],
)
def test_logins_keys_and_histories_are_errors_unless_the_base_brought_them(path: str, text: str) -> None:
    assert errors(image(texts={path: text})) == [path]
    brought = image(texts={path: text}, base=base(file(path, len(text))))
    assert (errors(brought), warned(brought)) == ([], [path])
    replaced = image(texts={path: text}, base=base(file(path, 1)))
    assert errors(replaced) == [path]


def test_people_and_hosts_in_ssh_files_are_warnings() -> None:
    assert warned(image(file("/root/.ssh/known_hosts"))) == ["/root/.ssh/known_hosts"]


def test_setuid_is_compared_to_the_base_and_can_be_allowed() -> None:
    su, agent = file("/usr/bin/su", mode=0o4755), file("/usr/bin/ssh-agent", mode=0o2755)
    assert errors(image(su, agent)) == ["/usr/bin/su", "/usr/bin/ssh-agent"]
    assert errors(image(su, agent, base=base(su))) == ["/usr/bin/ssh-agent"]
    assert errors(
        image(su, agent, base=base(file("/usr/bin/su", mode=0o755)), allow=frozenset((agent.path,)))
    ) == ["/usr/bin/su"]
    assert errors(image(folder("/var/mail", 0o2775))) == []


def test_what_anybody_may_write_and_nobody_may_read() -> None:
    open_folder, closed = folder("/opt/data", 0o777), file("/opt/closed", mode=0)
    open_file, sticky = file("/opt/x", mode=0o666), folder("/opt/drop", 0o1777)
    found = image(open_folder, closed, open_file, sticky, file("/tmp/x", mode=0o666))
    assert errors(found) == ["/opt/data", "/opt/closed", "/opt/x"]
    uvs = image(file("/opt/venv/.lock", 0, 0o666), texts={"/opt/venv/pyvenv.cfg": ""})
    assert errors(uvs) == []
    assert errors(image(file("/opt/.lock", 0, 0o666))) == ["/opt/.lock"]
    of_base = base(open_folder, closed, open_file)
    assert errors(image(open_folder, closed, open_file, base=of_base)) == []


def test_what_belongs_to_somebody_is_an_error() -> None:
    assert errors(image(file("/opt/x", uid=1000))) == ["/opt/x"]


def test_names_that_no_layer_left_are_errors() -> None:
    told = imagerules.judge(image(texts={"/etc/passwd": f"bob:x:1001:1001::/home/bob:/bin/sh\n{PASSWD}"}))
    assert [(each.path, "'bob'" in each.cause) for each in told] == [("/etc/passwd", True)]
    closed = Entry("/etc/group", "-", 0o600, 0, 0, len(GROUP))
    assert errors(image(closed)) == ["/etc/group"]


def test_the_builders_home_and_host_are_errors_unless_they_are_the_images() -> None:
    assert errors(image(folder("/home/bob"))) == ["/home/bob"]
    assert errors(image(folder("/home/bob"), base=base(folder("/home/bob")))) == []
    assert errors(image(texts={"/etc/hostname": "node7\n"})) == ["/etc/hostname"]
    assert errors(image(folder("/run/kiln/state"))) == ["/run/kiln"]


def test_stand_ins_of_a_driver_and_marks_of_the_entrypoint() -> None:
    stub = file("/usr/lib/x86_64-linux-gnu/libcuda.so.570.86.15", size=0)
    smi, mark = file("/usr/bin/nvidia-smi", size=0), file("/opt/nvidia/entrypoint.d/50-gpu.checked", size=0)
    real = file("/usr/local/cuda/compat/libcuda.so.570.1", size=99)
    assert errors(image(stub, smi, mark, real)) == [stub.path, smi.path, mark.path]
    assert errors(image(stub, smi, mark, base=base(stub, smi, mark))) == []


def test_environments_whose_python_is_elsewhere() -> None:
    cfg = {"/opt/venv/pyvenv.cfg": "home = /run/kiln/python/bin\nversion = 3.11\n"}
    leads = link("/opt/venv/bin/python", "/run/kiln/python/bin/python3")
    assert errors(image(leads, texts=cfg)) == ["/opt/venv/pyvenv.cfg", "/opt/venv/bin/python"]
    there = (folder("/run/kiln/python/bin"), file("/run/kiln/python/bin/python3"))
    leads_on = link("/opt/venv/bin/python3", "python")
    own = [path for path in errors(image(leads, leads_on, *there, texts=cfg)) if path.startswith("/opt")]
    assert own == []


def test_package_caches_elsewhere_are_warnings() -> None:
    cache = folder("/workspace/.cache/pip")
    assert warned(image(cache)) == [cache.path]
    assert warned(image(cache, base=base(cache))) == []


def test_every_kind_of_login_is_found_by_its_path() -> None:
    for login in logins.LOGINS:
        path = f"/root/{login.tail.replace('*', 'x')}"
        assert login in logins.candidates(path), path


def test_rules_are_quick_on_a_large_image() -> None:
    entries = [
        file(f"/usr/lib/python3/package-{number % 400}/module_{number}.py") for number in range(82_000)
    ]
    large = image(*entries)
    started = time.process_time()
    list(imagerules.wanted(large.listing))
    assert imagerules.judge(large) == []
    assert time.process_time() - started < 3


# --- told with their places ---------------------------------------------------------------------

MANIFEST = """\
format: 1
name: x
base: debootstrap:bookworm

layers:
  - apt: [git]
  # a comment
  - run: |
      echo token > /root/.netrc
  - copy: {a: /opt/a}
"""


@pytest.fixture
def origins(tmp_path: Path) -> Origins:
    for place in ("base/etc", "1/usr/bin", "2/root", "3/opt"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "base/etc/pip.conf").touch()
    (tmp_path / "2/root/.netrc").touch()
    (tmp_path / "x.yaml").write_text(MANIFEST)
    trees = [of_tree(tmp_path / name) for name in ("base", "1", "2", "3")]
    return Origins(tmp_path / "x.yaml", ["apt git", "run echo", "copy a"], trees)


def test_the_layer_and_its_line_are_named(origins: Origins) -> None:
    places = [layer_place(origins.manifest, number).rpartition(":")[2] for number in (1, 2, 3)]
    assert places == ["6", "8", "10"]
    assert origins.of("/root/.netrc") == f"layer 2 (run echo), {origins.manifest}:8"
    assert origins.of("/etc/pip.conf") == "the base"
    assert origins.of("/nowhere") == ""


def test_a_manifest_that_is_gone_has_no_lines(origins: Origins) -> None:
    origins.manifest.unlink()
    assert origins.of("/root/.netrc") == f"layer 2 (run echo), {origins.manifest}"


def test_a_real_image_is_audited_and_told(tmp_path: Path, origins: Origins) -> None:
    tree = tmp_path / "2"
    (tree / "etc").mkdir()
    (tree / "etc/passwd").write_text(PASSWD)
    (tree / "root/.netrc").write_text("machine x login y password z\n")
    (tree / "root/.netrc").chmod(0o600)
    (tree / "su").touch()
    (tree / "su").chmod(0o4755)
    (tree / "root/.ssh").mkdir()
    (tree / "root/.ssh/known_hosts").write_text("host")
    env = host_environment(os.environ)
    packed = tmp_path / "x.sqsh"
    run(["mksquashfs", str(tree), str(packed), *arguments(())], what="pack", env=env, timeout=60)
    against = Audit(nothing, NAMES, BUILDER, origins, frozenset())
    found = against.findings(packed, tmp_path, env)
    assert [(each.severity, each.path) for each in found] == [
        (ERROR, "/root/.netrc"),
        (ERROR, "/su"),
        (WARNING, "/root/.ssh/known_hosts"),
    ]
    with pytest.raises(AuditError) as caught:
        audit.check("x", found)
    assert "the image of x holds 2 things" in caught.value.message
    assert f"left by layer 2 (run echo), {origins.manifest}:8" in "\n".join(caught.value.details)
    assert caught.value.details[0].startswith("error    /root/.netrc: logins of hosts")
    audit.check("x", [each for each in found if each.severity == WARNING])


def test_findings_are_kept_in_the_record(tmp_path: Path) -> None:
    finding = Finding(WARNING, "/root/.ssh/known_hosts", "it names people or hosts", "rm it", "layer 2")
    written = dataclasses.replace(RECORD, findings=(finding,))
    (tmp_path / "x.json").write_text(written.to_json())
    assert record.read(tmp_path / "x.json") == written
    older = {name: value for name, value in json.loads(written.to_json()).items() if name != "findings"}
    (tmp_path / "old.json").write_text(json.dumps(older))
    assert record.read(tmp_path / "old.json") == RECORD


def test_many_of_a_kind_are_told_in_part(origins: Origins) -> None:
    against = Audit(nothing, NAMES, BUILDER, origins, frozenset())
    told = against.told(
        Finding(ERROR, f"/opt/{number:03}", "anybody may write to it") for number in range(300)
    )
    assert len(told) == audit.MOST_OF_A_KIND + 1
    assert "(and 279 more like it)" in told[-1].cause


def test_what_the_base_had_is_remembered_and_looked_up(tmp_path: Path) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/su").write_text("four")
    (tmp_path / "usr/bin/su").chmod(0o4755)
    (tmp_path / "bin").symlink_to("/usr/bin")
    for look in (of_tree(tmp_path), snapshot(tmp_path)):
        assert look("/usr/bin/su") == Seen(stat.S_IFREG | 0o4755, 4)
        assert look("/bin/su") is None
        assert look("/usr/bin/none") is None
