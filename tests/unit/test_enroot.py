"""enroot's command lines, settings and words; what they do is tested in tests/conformance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kiln.errors import BaseError, EnvironmentMissing, KilnError, RuntimeFailure, SpaceError
from kiln.manifest import Mount
from kiln.run import Result
from kiln.runtime import choice, enrootcall, enrootwords, environment, gpu, mark, traces
from kiln.runtime.contract import Command, Output
from kiln.runtime.enroot import Enroot
from kiln.runtime.enrootcall import Places, Surroundings

URI = "docker://nvcr.io#nvidia/pytorch:sha256:ab"


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "containers", tmp_path / "private", tmp_path / "scratch", tmp_path / "cache")


def result(output: str, code: int = 1) -> Result:
    return Result("call enroot", ("enroot",), code, output, 0.1)


def fake_tool(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


# --- command lines -----------------------------------------------------------------------------


def test_lines() -> None:
    assert enrootcall.import_line(URI, Path("/w/x.sqsh")) == [
        "enroot",
        "import",
        "--output",
        "/w/x.sqsh",
        "--",
        URI,
    ]
    assert enrootcall.create_line(Path("/w/x.sqsh"), "c") == [
        "enroot",
        "create",
        "--name",
        "c",
        "--",
        "/w/x.sqsh",
    ]
    assert enrootcall.export_line("c", Path("/w/x.sqsh")) == [
        "enroot",
        "export",
        "--output",
        "/w/x.sqsh",
        "--",
        "c",
    ]
    assert enrootcall.remove_line("c") == ["enroot", "remove", "--force", "--", "c"]


@pytest.mark.parametrize(("root", "flags"), [(True, ["--root", "--rw"]), (False, [])])
def test_start_line(root: bool, flags: list[str]) -> None:
    command = Command(argv=("sh", "--rc", "-e"), what="try", root=root)
    line = enrootcall.start_line("c", command, Path("/w/rc"), ["A"], ["/s:/t:none:x-create=dir,rbind,ro"])
    assert line == [
        "enroot", "start", *flags, "--rc", "/w/rc", "--env", "A", "--mount",
        "/s:/t:none:x-create=dir,rbind,ro",
        "--", "c", "sh", "--rc", "-e",
    ]  # fmt: skip


def test_a_start_through_the_entrypoint_has_no_script() -> None:
    command = Command(argv=(), what="try", root=False, entrypoint=True)
    assert enrootcall.start_line("c", command, None, [], []) == ["enroot", "start", "--", "c"]


def test_settings_say_all_that_a_site_could_say_otherwise(places: Places) -> None:
    environ = {
        "PATH": "/bin",
        "ENROOT_ALLOW_HTTP": "y",
        "NVIDIA_VISIBLE_DEVICES": "all",
        "LD_PRELOAD": "/x.so",
        "http_proxy": "x",
    }
    env = enrootcall.settings(places, environ, ("-comp", "zstd", "-exit-on-error"), "build-1")
    assert env["ENROOT_DATA_PATH"] == str(places.containers)
    assert env["ENROOT_CACHE_PATH"] == str(places.cache)
    assert {env[f"ENROOT_{name}_PATH"] for name in ("CONFIG", "RUNTIME", "TEMP")} == {
        str(places.private / name) for name in ("config", "runtime", "tmp")
    }
    assert env["ENROOT_SQUASH_OPTIONS"] == "-comp zstd -exit-on-error"
    assert (env["NVIDIA_VISIBLE_DEVICES"], env["MELLANOX_VISIBLE_DEVICES"]) == ("void", "void")
    assert (env["ENROOT_ALLOW_HTTP"], env["ENROOT_ALLOW_SUPERUSER"], env["ENROOT_MOUNT_HOME"]) == (
        "no",
        "no",
        "no",
    )
    assert env["KILN_BUILD"] == "build-1"
    assert env["HOME"] == str(places.private / "home")
    assert int(env["ENROOT_TRANSFER_TIMEOUT"]) > 0
    assert int(env["ENROOT_TRANSFER_RETRIES"]) > 0
    assert {"LD_PRELOAD", "http_proxy"}.isdisjoint(env)


def test_settings_of_a_pull() -> None:
    site = Surroundings(
        {"https_proxy": "http://u:p@proxy:1", "HTTPS_PROXY": "http://u:p@proxy:1"}, Path("/ca.crt")
    )
    env = enrootcall.pull_settings(site, "/home/me", ("-comp", "zstd"), http=True)
    assert env == {
        "ENROOT_SQUASH_OPTIONS": "-comp zstd", "HOME": "/home/me", "ENROOT_ALLOW_HTTP": "yes",
        "https_proxy": "http://u:p@proxy:1", "HTTPS_PROXY": "http://u:p@proxy:1",
        "SSL_CERT_FILE": "/ca.crt", "CURL_CA_BUNDLE": "/ca.crt",
    }  # fmt: skip
    assert "ENROOT_ALLOW_HTTP" not in enrootcall.pull_settings(site, "/home/me", (), http=False)


def test_folders_that_enroot_can_not_be_told(tmp_path: Path) -> None:
    for name in ("a b", "a:b"):
        places = Places(tmp_path / name, tmp_path / "p", tmp_path, tmp_path)
        with pytest.raises(EnvironmentMissing, match="blanks and colons"):
            places.check()


def test_mounts(places: Places, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "real").mkdir(parents=True)
    (tree / "link").symlink_to("/real")
    file = tmp_path / "file"
    file.write_text("")
    form = enrootcall.mount_option(places, tree, Mount(source=file, target="/link/x"))
    assert form == f"{file}:/real/x:none:x-create=file,bind,ro"
    form = enrootcall.mount_option(places, tree, Mount(source=tmp_path, target="/x", read_only=False))
    assert form == f"{tmp_path}:/x:none:x-create=dir,rbind,rw"


def test_a_source_with_blanks_goes_through_a_link(places: Places, tmp_path: Path) -> None:
    odd = tmp_path / "a b:c"
    odd.mkdir()
    source, _, rest = enrootcall.mount_option(places, tmp_path, Mount(source=odd, target="/x")).partition(":")
    assert rest == "/x:none:x-create=dir,rbind,ro"
    assert Path(source).parent == places.private / "links"
    assert Path(source).resolve() == odd
    with pytest.raises(RuntimeFailure, match="cannot mount at"):
        enrootcall.mount_option(places, tmp_path, Mount(source=odd, target="/x y"))


def test_variables_of_an_entrypoint() -> None:
    env = {"PATH": "/bin", "HOME": "/h"}
    options = enrootcall.variable_options({"A": "secret", "HOME": "/x", "LD_PRELOAD": "/p.so"}, env)
    assert options == ["A", "HOME=/x", "LD_PRELOAD=/p.so"]
    assert env == {"PATH": "/bin", "HOME": "/h", "A": "secret"}
    for name, value in (("A", "x\ny"), ("A", '"x"'), ("1A", "x")):
        with pytest.raises(RuntimeFailure, match="cannot pass"):
            enrootcall.variable_options({name: value}, {})


@pytest.mark.parametrize("name", ["", "a/b", "..", ".x", "-f", "a b", "a\n"])
def test_names(name: str) -> None:
    with pytest.raises(RuntimeFailure):
        enrootcall.checked_name(name)


def test_gpus_are_shown_where_there_are_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = Command(argv=("true",), what="try", gpu=True)
    monkeypatch.setattr(gpu, "find", lambda environ: gpu.NOTHING)
    assert enrootcall.gpu_settings(tmp_path, command, {}) == {}
    monkeypatch.setattr(gpu, "find", lambda environ: gpu.Passed(("--dev-bind",)))
    assert enrootcall.gpu_settings(tmp_path, Command(argv=("true",), what="try"), {}) == {}
    wanted = {"NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_DRIVER_CAPABILITIES": "compute,utility"}
    assert enrootcall.gpu_settings(tmp_path, command, {}) == wanted
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/environment").write_text("NVIDIA_VISIBLE_DEVICES=0,1\n")
    assert enrootcall.gpu_settings(tmp_path, command, {})["NVIDIA_VISIBLE_DEVICES"] == "0,1"


# --- words -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "numbers"), [("4.1.2\n", (4, 1, 2)), ("3.4.1-1", (3, 4, 1)), ("Usage: enroot", ()), ("", ())]
)
def test_versions(text: str, numbers: tuple[int, ...]) -> None:
    assert enrootwords.version(text) == numbers


@pytest.mark.parametrize(
    ("output", "kind", "words"),
    [
        (
            "[INFO] x\n[ERROR] URL https://h/v2 returned error code: 404 Not Found",
            BaseError,
            "only in OCI's own form",
        ),
        (
            "[INFO] Downloading 1 missing layers...\nChecksum mismatch: 7e6f",
            BaseError,
            "other bytes than sha256:7e6f",
        ),
        ("enroot-aufs2ovlfs: failed to set capabilities: x", EnvironmentMissing, "enroot-aufs2ovlfs lacks"),
        (
            "curl: (60) SSL certificate problem: self-signed",
            BaseError,
            "cannot reach nvcr.io: SSL certificate",
        ),
        ("[INFO] Authenticating with user: <anonymous>", BaseError, "wants a login"),
        ("[ERROR] URL https://a/token returned error code: 403 Forbidden", BaseError, "wants a login"),
        ("pigz: skipping: <stdin>: corrupted", BaseError, "corrupted"),
        ("tar: x: Cannot write: No space left on device", SpaceError, "disk is full"),
        ("[ERROR] Command not found: parallel", EnvironmentMissing, "needs parallel"),
    ],
)
def test_what_a_failed_pull_means(output: str, kind: type[KilnError], words: str) -> None:
    error = enrootwords.pull_failure(URI, result(output), Path("/c/.credentials"))
    assert type(error) is kind
    assert words in error.message
    assert error.hint


@pytest.mark.parametrize(
    ("output", "again"),
    [
        ("[INFO] Downloading 9 missing layers...\ncurl: (22) The requested URL returned error: 401", True),
        ("[INFO] Downloading 9 missing layers...\ncurl: (18) transfer closed with 12 bytes remaining", True),
        ("[ERROR] URL https://h returned error code: 503 Service Unavailable", True),
        ("[ERROR] URL https://h returned error code: 429 ", True),
        ("curl: (22) The requested URL returned error: 404", False),
        ("[ERROR] URL https://h returned error code: 401 Unauthorized", False),
        ("Checksum mismatch: 7e6f", False),
    ],
)
def test_when_a_pull_is_tried_again(output: str, again: bool) -> None:
    assert enrootwords.passing(output) is again


@pytest.mark.parametrize(
    ("output", "user"),
    [
        (
            "[INFO] Authenticating with user: $oauthtoken\n[INFO] Using credentials from file: x",
            "$oauthtoken",
        ),
        (
            "[INFO] Authenticating with user: me\n[ERROR] URL https://t returned error code: 401 x",
            "me",
        ),
        (
            "[INFO] Authenticating with user: me\n[INFO] Authentication succeeded\n[INFO] Downloading",
            "",
        ),
        ("[INFO] Authenticating with user: <anonymous>", ""),
        ("curl: (7) Failed to connect", ""),
    ],
)
def test_whose_login_was_refused(output: str, user: str) -> None:
    assert enrootwords.refused_user(output) == user


def test_another_architecture_is_no_warning_here() -> None:
    said = result("[WARN] Image architecture doesn't match the requested one: arm64 != amd64", 0)
    with pytest.raises(BaseError, match="arm64 != amd64"):
        enrootwords.check_architecture(URI, said)


def test_a_usage_is_never_shown_as_the_reason() -> None:
    assert "does not understand" in enrootwords.words(result("Usage: enroot start [options]\n\n  Options:\n"))


# --- the rest ----------------------------------------------------------------------------------


def test_old_versions_are_refused(places: Places, tmp_path: Path) -> None:
    fake_tool(tmp_path / "bin", "enroot", "echo 3.3.1")
    fake_tool(tmp_path / "bin", "mksquashfs", "echo mksquashfs version 4.6.1")
    places.private.mkdir()
    with pytest.raises(EnvironmentMissing, match=r"3\.3\.1 is too old"):
        Enroot(places, {"PATH": str(tmp_path / "bin")}).version()
    fake_tool(tmp_path / "bin", "enroot", "echo 3.4.0")
    assert Enroot(places, {"PATH": str(tmp_path / "bin")}).version() == "3.4.0"


@pytest.mark.parametrize(
    ("said", "known"),
    [("echo mksquashfs version 4.5.1", True), ("echo version 4.3", False), ("echo -exit-on-error", True)],
)
def test_the_strict_option_is_added_where_it_is_known(
    places: Places, tmp_path: Path, said: str, known: bool
) -> None:
    fake_tool(tmp_path / "bin", "mksquashfs", said)
    fake_tool(tmp_path / "bin", "enroot", 'echo "$ENROOT_SQUASH_OPTIONS"')
    places.private.mkdir()
    shown: Any = Enroot(places, {"PATH": str(tmp_path / "bin")}).list()
    assert ("-exit-on-error" in shown[0]) is known


@pytest.mark.parametrize(
    ("wanted", "tools", "chosen"),
    [
        ("auto", ("enroot", "bwrap"), "enroot"),
        ("auto", ("bwrap",), "embedded"),
        ("embedded", ("enroot", "bwrap"), "embedded"),
    ],
)
def test_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str, tools: tuple[str, ...], chosen: str
) -> None:
    monkeypatch.setattr("kiln.run.HOST_PATH", str(tmp_path))
    for tool in tools:
        fake_tool(tmp_path, tool, "true")
    assert choice.resolve(wanted, {"PATH": str(tmp_path)}) == chosen


def test_a_runtime_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kiln.run.HOST_PATH", str(tmp_path))
    for wanted in ("enroot", "embedded", "auto"):
        with pytest.raises(EnvironmentMissing):
            choice.resolve(wanted, {"PATH": str(tmp_path)})


def test_shell_text_keeps_any_value() -> None:
    text = environment.shell_text({"A": "it's\n$HOME `x` \"\udcff", "UID": "1", "bad-name": "x"})
    assert text == b"export A='it'\"'\"'s\n$HOME `x` \"\xff'\n"


def test_the_mark_is_seen_and_not_shown() -> None:
    lines: list[str] = []
    listener = mark.Listener(Output(on_line=lines.append))
    for line in ("before", listener.word, "after"):
        listener(line)
    assert lines == ["before", "after"]
    assert listener.heard
    ended = listener.without(result(f"before\n{listener.word}\nafter", -9))
    assert (ended.output, ended.returncode) == ("before\nafter", 137)


@pytest.mark.parametrize("name", ["etc", ".lock", "etc/passwd", "etc/apt/apt.conf.d/enroot"])
def test_a_tree_with_a_way_out_is_refused(tmp_path: Path, name: str) -> None:
    tree = tmp_path / "tree"
    (tree / name).parent.mkdir(parents=True)
    traces.guard(tree)
    (tree / name).symlink_to(tmp_path / "outside")
    with pytest.raises(RuntimeFailure, match=f"/{name} "):
        traces.guard(tree)


def test_what_was_there_before_stays(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with traces.taken_away(tmp_path, ["/mine", "/made/deep", "/filled/deep"]):
        for name in ("made/deep", "filled/deep", "dev", "proc"):
            (tmp_path / name).mkdir(parents=True)
            (tmp_path / name).chmod(0o700)
        (tmp_path / "filled/by the command").write_text("x")
        (tmp_path / ".lock").touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["filled", "mine"]
