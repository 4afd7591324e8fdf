"""Requests that don't arrive at once. `Fake`, a registry that misbehaves on order, serves other tests too."""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import pytest

from kiln.errors import BaseError
from kiln.registry.client import Client, Network
from kiln.registry.credentials import Credentials
from kiln.registry.proxy import choose_proxy, without_login
from kiln.registry.reference import Reference
from kiln.registry.transport import Transport, retry_after, server_words
from tests.registry_fixture import sha256

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@dataclass(frozen=True)
class Reply:
    """An answer. `cut`: close the connection after so many bytes. `until`: wait for it before the body."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    ranges: bool = True
    until: Event | None = None


@dataclass(frozen=True)
class Request:
    path: str
    headers: Mapping[str, str]


Answer = Reply | Callable[[Request], Reply]


class Fake:
    """A registry in this process. Each path has its answers in order; the last one stays."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Answer]] = {}
        self.requests: list[Request] = []
        self.host = ""

    def on(self, path: str, *answers: Answer) -> Fake:
        self.answers[path] = list(answers)
        return self

    def answer(self, request: Request) -> Reply:
        self.requests.append(request)
        waiting = self.answers.get(request.path.partition("?")[0]) or [
            Reply(404, errors("NOT_FOUND", "unknown"))
        ]
        found = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        return found if isinstance(found, Reply) else found(request)

    def seen(self, path: str) -> list[Request]:
        return [request for request in self.requests if request.path.startswith(path)]

    def blob(self, data: bytes) -> str:
        self.on(f"/v2/some/image/blobs/{sha256(data)}", Reply(body=data))
        return f"/v2/some/image/blobs/{sha256(data)}"

    def image(self, *layers: bytes, tag: str = "1.0", architecture: str = "amd64") -> dict[str, object]:
        """An image under `tag`; returns its manifest."""
        ids = [sha256(b"plain " + data) for data in layers]
        config = {"architecture": architecture, "os": "linux", "rootfs": {"type": "layers", "diff_ids": ids}}
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": self._descriptor(
                json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"
            ),
            "layers": [self._descriptor(data, "application/vnd.oci.image.layer.v1.tar") for data in layers],
        }
        self.manifest(tag, manifest)
        return manifest

    def manifest(self, tag: str, manifest: Mapping[str, object]) -> dict[str, object]:
        """Serve a manifest by tag and by digest; returns its descriptor."""
        data, media_type = json.dumps(manifest).encode(), str(manifest.get("mediaType", ""))
        reply = Reply(body=data, headers={"Content-Type": media_type, "Docker-Content-Digest": sha256(data)})
        self.on(f"/v2/some/image/manifests/{tag}", reply).on(
            f"/v2/some/image/manifests/{sha256(data)}", reply
        )
        return {"mediaType": media_type, "digest": sha256(data), "size": len(data)}

    def _descriptor(self, data: bytes, media_type: str) -> dict[str, object]:
        self.blob(data)
        return {"mediaType": media_type, "digest": sha256(data), "size": len(data)}


def errors(code: str, message: str) -> bytes:
    return json.dumps({"errors": [{"code": code, "message": message}]}).encode()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Otherwise each answer waits 40 ms for the client to confirm its headers.
    disable_nagle_algorithm = True
    fake: Fake

    def do_GET(self) -> None:
        reply = self.fake.answer(Request(self.path, dict(self.headers)))
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        ranged = asked if reply.ranges and reply.status == 200 else None
        start, end = (int(ranged[1]), int(ranged[2]) + 1) if ranged else (0, len(reply.body))
        body, status = reply.body[start:end], 206 if ranged else reply.status
        self.send_response(status)
        part = {"Content-Range": f"bytes {start}-{end - 1}/{len(reply.body)}"} if ranged else {}
        for key, value in {"Content-Length": str(len(body)), **part, **reply.headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.flush()
        if reply.until:
            reply.until.wait(20)
        with contextlib.suppress(OSError):
            self.wfile.write(body if reply.cut is None else body[: reply.cut])
            self.wfile.flush()
        self.close_connection = reply.cut is not None or self.close_connection

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def serving() -> Iterator[Fake]:
    fake = Fake()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("H", (Handler,), {"fake": fake}))
    server.daemon_threads, server.block_on_close = True, False
    fake.host = f"127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def fake() -> Iterator[Fake]:
    with serving() as running:
        yield running


class Bench:
    """A client of the fake that doesn't really wait, and what it said."""

    def __init__(
        self, fake: Fake, tmp: Path, credentials: Credentials | None = None, **network: object
    ) -> None:
        self.blobs, self.said, self.waits = tmp / "blobs", list[str](), list[float]()
        self.name = Reference(fake.host, "some/image", "1.0")
        self.credentials = credentials or Credentials(tmp / ".credentials")
        chosen = Network(**{"read_seconds": 5.0, **network})  # type: ignore[arg-type]
        self.client = Client(chosen, self.credentials, notify=self.said.append, wait=self._wait)

    def _wait(self, stop: Event, seconds: float) -> bool:
        self.waits.append(seconds)
        return stop.is_set()

    def refused(self) -> BaseError:
        with pytest.raises(BaseError) as caught:
            self.client.resolve(self.name, "amd64")
        return caught.value


@pytest.fixture
def bench(fake: Fake, tmp_path: Path) -> Bench:
    return Bench(fake, tmp_path)


MANIFEST = "/v2/some/image/manifests/1.0"


def test_too_many_requests_are_waited_for_as_asked(fake: Fake, bench: Bench) -> None:
    fake.image(b"layer")
    fake.answers[MANIFEST].insert(0, Reply(429, errors("TOOMANYREQUESTS", "slow down"), {"Retry-After": "7"}))
    assert bench.client.resolve(bench.name, "amd64").layers
    assert bench.waits == [7.0]
    assert "429 Too Many Requests: TOOMANYREQUESTS: slow down; trying again in 7 s" in bench.said[0]


def test_too_many_requests_for_too_long(fake: Fake, bench: Bench) -> None:
    fake.on(MANIFEST, Reply(429, headers={"Retry-After": "86400"}))
    error = bench.refused()
    assert "takes no more requests" in error.message and "86400 s" in error.message
    assert "what is downloaded is kept" in error.hint and bench.waits == []


def test_a_failing_server_is_asked_five_times_and_named(fake: Fake, bench: Bench) -> None:
    fake.on(MANIFEST, Reply(503, b"<html>sorry</html>"))
    error = bench.refused()
    assert error.message == f"{fake.host} fails: 503 Service Unavailable"
    assert len(fake.seen(MANIFEST)) == 5
    # Longer each time, each with some chance so that many clients don't come back at once.
    assert [round(wait) for wait in bench.waits] == pytest.approx([1, 2, 4, 8], abs=2)


def test_a_server_error_that_passes(fake: Fake, bench: Bench) -> None:
    fake.image(b"layer")
    fake.answers[MANIFEST][:0] = [Reply(500), Reply(502)]
    assert bench.client.resolve(bench.name, "amd64")


def test_a_registry_that_is_down(bench: Bench) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        bench.name = Reference(f"127.0.0.1:{unused.getsockname()[1]}", "some/image", "1.0")
        error = bench.refused()
    assert error.message == f"cannot reach {bench.name.registry}: Connection refused"
    assert "curl" in error.hint


def test_a_proxy_is_named_without_its_password(fake: Fake, tmp_path: Path) -> None:
    bench = Bench(fake, tmp_path, proxies={"http": "http://me:s3cret@127.0.0.1:9"})
    error = bench.refused()
    assert "through the proxy http://127.0.0.1:9: " in error.message
    assert "s3cret" not in error.message + error.hint + "".join(bench.said)


def test_a_name_that_does_not_resolve(bench: Bench) -> None:
    bench.name = Reference("registry.invalid", "some/image", "1.0")
    assert bench.refused().message.startswith("cannot reach registry.invalid: ")


def test_a_server_that_says_nothing(fake: Fake, tmp_path: Path) -> None:
    release = Event()
    fake.on(MANIFEST, Reply(body=b"{}", until=release))
    bench = Bench(fake, tmp_path, read_seconds=0.05)
    assert "cut each time" in bench.refused().message
    assert "no data within the time limit" in bench.said[0]
    release.set()


def test_a_cut_manifest_is_asked_for_again(fake: Fake, bench: Bench) -> None:
    fake.image(b"layer")
    whole = fake.answers[MANIFEST][0]
    assert isinstance(whole, Reply)
    fake.answers[MANIFEST].insert(0, Reply(body=whole.body, cut=20))
    assert bench.client.resolve(bench.name, "amd64")
    assert "the connection was cut" in bench.said[0]


def test_no_certificate_no_connection(fake: Fake, tmp_path: Path) -> None:
    bench = Bench(fake, tmp_path)
    client = Client(Network(), bench.credentials, mirrors={fake.host: f"https://{fake.host}"})
    with pytest.raises(BaseError, match=r"no trusted connection to 127\.0\.0\.1.*built-in list"):
        client.resolve(bench.name, "amd64")


@pytest.mark.parametrize("location", ["http://{host}/stored?sig=s3cret", "/stored?sig=s3cret"])
def test_redirects_are_followed(fake: Fake, bench: Bench, location: str) -> None:
    manifest = fake.image(b"layer")
    assert manifest
    moved = fake.answers[MANIFEST][0]
    fake.on("/stored", moved).on(MANIFEST, Reply(307, headers={"Location": location.format(host=fake.host)}))
    assert bench.client.resolve(bench.name, "amd64")


def test_redirects_without_end(fake: Fake, bench: Bench) -> None:
    fake.on(MANIFEST, Reply(302, headers={"Location": MANIFEST}))
    assert "redirects without end" in bench.refused().message


def test_the_environment_and_netrc_have_no_say(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password s3cret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    fake.image(b"layer")
    assert Bench(fake, tmp_path).client.resolve(Reference(fake.host, "some/image", "1.0"), "amd64")
    assert all("Authorization" not in request.headers for request in fake.requests)


def test_what_servers_say_is_made_fit_for_a_terminal() -> None:
    assert server_words(errors("DENIED", "go\x1b[31m away\n now")) == "DENIED: go [31m away now"
    assert server_words(b"<html>") == "" == server_words(b"{}")
    assert len(server_words(b"x" * 9999)) == 300


def test_hidden_texts_are_not_repeated() -> None:
    transport = Transport(Network(), lambda text: None)
    transport.hide("s3cret")
    assert transport.said(401, b"bad key s3cret") == "401 Unauthorized: bad key ***"


def test_retry_after_in_both_forms() -> None:
    assert retry_after("12", 0.0) == 12.0
    assert retry_after("Thu, 01 Jan 1970 00:01:00 GMT", 15.0) == 45.0
    assert retry_after("Thu, 01 Jan 1970 00:01:00 GMT", 100.0) == 0.0
    assert retry_after("soon", 0.0) is None and retry_after("", 0.0) is None


PROXIES = {
    "http": "http://p:1",
    "https": "http://p:2",
    "no_proxy": "localhost, .site.org,10.104.0.0/21,h:5000",
}


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("https://nvcr.io/v2/", "http://p:2"),
        ("http://nvcr.io/v2/", "http://p:1"),
        ("https://localhost:5000/", None),
        ("https://a.site.org/", None),
        ("https://site.org/", None),
        ("https://website.org/", "http://p:2"),
        ("https://10.104.4.1/", None),
        ("https://10.105.4.1/", "http://p:2"),
        ("https://h:5000/", None),
        ("https://h:5001/", "http://p:2"),
    ],
)
def test_which_proxy(url: str, proxy: str | None) -> None:
    assert choose_proxy(url, PROXIES) == proxy


def test_no_proxy_for_anybody_and_no_login_in_messages() -> None:
    assert choose_proxy("https://x/", {"https": "http://p", "no_proxy": "*"}) is None
    assert without_login("http://me:pw@p:1") == "http://p:1"
