"""Logins and tokens: who is asked, what is sent where, what happens when it is refused."""

from __future__ import annotations

import base64
import json
import os
import stat
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from kiln.errors import BaseError
from kiln.registry.auth import Challenge, parse_challenge
from kiln.registry.credentials import Credentials, Login, Secret, load
from tests.unit.test_registry_transport import (
    MANIFEST,
    Answer,
    Bench,
    Fake,
    Reply,
    Request,
    errors,
    fake,
    serving,
)

__all__ = ["fake"]

KEY = "s3cret-key"


def challenge(fake: Fake, realm: str = "/token", extra: str = "") -> Reply:
    scope = "repository:some/image:pull"
    value = f'Bearer realm="http://{fake.host}{realm}",service="the registry",scope="{scope}"{extra}'
    return Reply(401, errors("UNAUTHORIZED", "authentication required"), {"WWW-Authenticate": value})


def guard(fake: Fake, accepted: set[str]) -> None:
    """From now on all but tokens' requests want one of the tokens in `accepted`."""
    for path, answers in fake.answers.items():
        if path.startswith("/v2/"):
            fake.on(path, _guarded(fake, answers[0], accepted))


def _guarded(fake: Fake, answer: Answer, accepted: set[str]) -> Answer:
    def look(request: Request) -> Reply:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        assert isinstance(answer, Reply)
        # NGC names another realm to a token that has expired, which refuses anonymous renewal.
        return answer if token in accepted else challenge(fake, "/token" if not token else "/trap")

    return look


def token(name: str) -> Reply:
    return Reply(body=json.dumps({"token": name}).encode())


def logged_in(fake: Fake, tmp_path: Path) -> Bench:
    login = Login("$oauthtoken", Secret(KEY), f"{tmp_path}/.credentials:3")
    return Bench(fake, tmp_path, Credentials(tmp_path / ".credentials", {"127.0.0.1": login}))


def test_anonymous_pulls(fake: Fake, tmp_path: Path) -> None:
    fake.image(b"layer")
    guard(fake, {"good"})
    fake.on("/token", token("good"))
    bench = Bench(fake, tmp_path)
    bench.client.pull(bench.client.resolve(bench.name, "amd64"), bench.blobs)
    asked = fake.seen("/token")
    assert len(asked) == 1 and "Authorization" not in asked[0].headers
    query = parse_qs(urlsplit(asked[0].path).query)
    assert query == {"service": ["the registry"], "scope": ["repository:some/image:pull"]}


def test_a_login_goes_to_the_realm_and_nowhere_else(fake: Fake, tmp_path: Path) -> None:
    fake.image(b"layer")
    guard(fake, {"good"})
    fake.on("/token", token("good"))
    bench = logged_in(fake, tmp_path)
    assert bench.client.resolve(bench.name, "amd64")
    basic = "Basic " + base64.b64encode(f"$oauthtoken:{KEY}".encode()).decode()
    sent = {request.headers.get("Authorization") for request in fake.seen("/v2/")}
    assert fake.seen("/token")[0].headers["Authorization"] == basic
    assert sent == {None, "Bearer good"}


def test_an_expired_login_is_told_and_done_without(fake: Fake, tmp_path: Path) -> None:
    fake.image(b"layer")
    guard(fake, {"anonymous"})
    fake.on("/token", Reply(401, errors("UNAUTHORIZED", f"key {KEY} has expired")), token("anonymous"))
    bench = logged_in(fake, tmp_path)
    assert bench.client.resolve(bench.name, "amd64")
    assert len(bench.said) == 1
    assert f"refused the login in {tmp_path}/.credentials:3" in bench.said[0]
    assert "key *** has expired" in bench.said[0] and "Going on without it" in bench.said[0]


def test_a_login_that_the_registry_itself_refuses(fake: Fake, tmp_path: Path) -> None:
    fake.image(b"layer")
    guard(fake, {"anonymous"})
    fake.on("/token", token("useless"), token("anonymous"))
    assert logged_in(fake, tmp_path).client.resolve(Bench(fake, tmp_path).name, "amd64")


def test_neither_the_login_nor_anybody(fake: Fake, tmp_path: Path) -> None:
    fake.on(MANIFEST, challenge(fake)).on("/token", Reply(401, errors("UNAUTHORIZED", "no")))
    bench = logged_in(fake, tmp_path)
    error = bench.refused()
    assert "gives no leave to pull some/image: 401 Unauthorized" in error.message
    assert "the login in" in error.message
    assert error.hint.startswith(f"renew the key in {tmp_path}/.credentials")
    assert KEY not in error.message + error.hint + "".join(bench.said)


def test_no_login_at_all(fake: Fake, tmp_path: Path) -> None:
    fake.on(MANIFEST, challenge(fake)).on("/token", token("useless"))
    error = Bench(fake, tmp_path).refused()
    assert "no leave" in error.message
    entry = "machine 127.0.0.1 login USER password KEY"
    assert error.hint == f"check the name, or add this line to {tmp_path}/.credentials (mode 600): {entry}"


def test_an_expired_token_is_renewed_at_the_first_realm(fake: Fake, tmp_path: Path) -> None:
    fake.image(b"layer one", b"layer two")
    accepted = {"first"}
    guard(fake, accepted)
    fake.on("/token", token("first"), token("second")).on("/trap", Reply(401))
    bench = Bench(fake, tmp_path)
    resolved = bench.client.resolve(bench.name, "amd64")
    accepted.clear()
    accepted.add("second")
    assert len(bench.client.pull(resolved, bench.blobs)) == 2
    assert [request.headers.get("Authorization") for request in fake.seen("/token")] == [None, None]
    assert fake.seen("/trap") == [] and bench.said == []


def test_many_threads_renew_a_token_once(fake: Fake, tmp_path: Path) -> None:
    fake.image(*(b"layer %d" % number for number in range(8)))
    accepted = {"first"}
    guard(fake, accepted)
    fake.on("/token", token("first"), token("second"), token("third"))
    bench = Bench(fake, tmp_path)
    resolved = bench.client.resolve(bench.name, "amd64")
    accepted.add("second")
    accepted.remove("first")
    bench.client.pull(resolved, bench.blobs, jobs=8)
    assert len(fake.seen("/token")) == 2


def test_basic_logins(fake: Fake, tmp_path: Path) -> None:
    fake.image(b"layer")
    whole, wants = fake.answers[MANIFEST][0], Reply(401, headers={"WWW-Authenticate": 'Basic realm="x"'})
    fake.on(MANIFEST, lambda request: whole if "Authorization" in request.headers else wants)  # type: ignore[arg-type,return-value]
    assert logged_in(fake, tmp_path).client.resolve(Bench(fake, tmp_path).name, "amd64")
    assert "no leave" in Bench(fake, tmp_path).refused().message


def test_redirected_blobs_see_no_token(fake: Fake, tmp_path: Path) -> None:
    with serving() as storage:
        fake.image(b"layer")
        resolved = Bench(fake, tmp_path).client.resolve(Bench(fake, tmp_path).name, "amd64")
        path = fake.blob(b"layer")
        storage.on("/bucket", Reply(body=b"layer"))
        fake.on(path, Reply(307, headers={"Location": f"http://{storage.host}/bucket?X-Sig=s3cret"}))
        guard(fake, {"good"})
        fake.on("/token", token("good"))
        bench = Bench(fake, tmp_path)
        bench.client.pull(resolved, bench.blobs)
        assert fake.seen(path)[-1].headers["Authorization"] == "Bearer good"
        assert "Authorization" not in storage.requests[0].headers
        storage.on("/bucket", Reply(403, b"<xml/>"))
        with pytest.raises(BaseError) as caught:
            bench.client.pull(resolved, tmp_path / "more")
        assert "s3cret" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize("body", [b"{}", b"[]", b"<html>", b'{"token": "two words"}', b'{"token": 5}'])
def test_what_is_no_token(fake: Fake, tmp_path: Path, body: bytes) -> None:
    fake.on(MANIFEST, challenge(fake)).on("/token", Reply(body=body))
    assert "gave no token" in Bench(fake, tmp_path).refused().message


def test_a_registry_that_does_not_say_how_to_log_in(fake: Fake, tmp_path: Path) -> None:
    fake.on(MANIFEST, Reply(401))
    assert "doesn't say how" in Bench(fake, tmp_path).refused().message


def test_challenges() -> None:
    assert parse_challenge('Bearer realm="https://a/b?c=d,e",service="s"') == Challenge(
        "bearer", "https://a/b?c=d,e", "s"
    )
    assert parse_challenge('Basic realm="x", Bearer realm="https://y",scope=z') == Challenge(
        "bearer", "https://y", "", "z"
    )
    assert parse_challenge('basic realm="x"') == Challenge("basic", "x")
    assert parse_challenge("") is None and parse_challenge("Negotiate") is None


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_the_credentials_file(tmp_path: Path) -> None:
    text = """
# a comment
machine nvcr.io login $oauthtoken password abc$def
  machine host:5000 login me password "two words"
machine env.io login me password ${MY_KEY}
machine nvcr.io login other password second
"""
    found = load(write(tmp_path / "c", text), {"MY_KEY": "from-env"})
    login = found.find("nvcr.io")
    assert login is not None and (login.user, login.password.reveal()) == ("$oauthtoken", "abc$def")
    assert login.place == f"{tmp_path}/c:3"
    for hosts, password in {
        ("authn.nvidia.com",): "abc$def",
        ("host:5000",): "two words",
        ("env.io:443",): "from-env",
        ("unknown", "env.io"): "from-env",
    }.items():
        login = found.find(*hosts)
        assert login is not None and login.password.reveal() == password
    assert found.find("host") is None and found.find("nvcr.io.evil.org") is None


def test_passwords_do_not_show(tmp_path: Path) -> None:
    found = load(write(tmp_path / "c", f"machine a login b password {KEY}\n"), {})
    assert KEY not in repr(found) and KEY not in f"{found.find('a')}"


@pytest.mark.parametrize("password", ["$(cat key)", "$(cat", "$`id`", "${A:-b}", "$A$B", "$"])
def test_shell_is_not_run(tmp_path: Path, password: str) -> None:
    with pytest.raises(BaseError, match="runs no shell") as caught:
        load(write(tmp_path / "c", f"machine a login b password {password}\n"), {"A": "x"})
    assert caught.value.message.startswith(f"{tmp_path}/c:1: ")


def test_a_variable_that_is_not_set(tmp_path: Path) -> None:
    with pytest.raises(BaseError, match=r"\$NGC_KEY, which is not set"):
        load(write(tmp_path / "c", "machine a login b password $NGC_KEY\n"), {})


def test_a_line_that_is_no_entry_is_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(BaseError, match="not an entry") as caught:
        load(write(tmp_path / "c", f"\nmachine a password {KEY}\n"), {})
    assert ":2" in caught.value.message and KEY not in caught.value.message + caught.value.hint


def test_a_file_that_others_may_read(tmp_path: Path) -> None:
    with pytest.raises(BaseError, match="mode 0644") as caught:
        load(write(tmp_path / "c", "", 0o644), {})
    assert caught.value.hint == f"type: chmod 600 {tmp_path}/c"


def test_no_file_and_what_is_none(tmp_path: Path) -> None:
    assert load(tmp_path / "none", {}).logins == {}
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    with pytest.raises(BaseError, match="not a regular file"):
        load(tmp_path / "pipe", {})


def test_a_file_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "c", "")
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(BaseError, match="not to you"):
        load(path, {})
