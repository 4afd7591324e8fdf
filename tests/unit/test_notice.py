"""Mails that a real SMTP server takes, or doesn't."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

import pytest
import yaml
from aiosmtpd.smtp import SMTP, Envelope, Session

from kiln import notice
from kiln import site as sites
from kiln.errors import BaseError
from kiln.site import Site

LINES = ["left  failed  layer 1 failed: 'naïve'", "." * 3, "x" * 2000]


class Box:
    """Keeps what comes, but for those whom it doesn't know."""

    def __init__(self) -> None:
        self.came: list[Envelope] = []

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.startswith("nobody"):
            return "550 5.1.1 there is\x1b[2J no such user here"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.came.append(envelope)
        return "250 OK"


@pytest.fixture
def box() -> Box:
    return Box()


@pytest.fixture
def server(box: Box) -> Iterator[str]:
    """A server's address."""
    loop = asyncio.new_event_loop()
    listening = loop.run_until_complete(loop.create_server(lambda: SMTP(box, loop=loop), "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    listening.close()
    loop.close()


def site(folder: Path, server: str, *to: str) -> Site:
    (folder / "sites").mkdir()
    rebuild = {"mail": list(to), "mail_server": server}
    text = yaml.safe_dump({"format": 1, "name": "told", "images": "images", "cache": "c", "rebuild": rebuild})
    (folder / "sites/told.yaml").write_text(text)
    return sites.load("told", folder, {})


def test_a_mail_is_delivered_as_it_was_written(tmp_path: Path, server: str, box: Box) -> None:
    notice.mail(site(tmp_path, server, "ops@example.org", "ml@example.org"), "kiln: 1 failed", LINES)
    [came] = box.came
    assert came.rcpt_tos == ["ops@example.org", "ml@example.org"]
    assert isinstance(came.content, bytes)
    message = message_from_bytes(came.content, policy=policy.default)
    assert isinstance(message, EmailMessage)
    assert message["Subject"] == "kiln: 1 failed"
    assert message.get_content().splitlines() == LINES


def test_one_whom_the_server_does_not_know_keeps_it_from_nobody_else(
    tmp_path: Path, server: str, box: Box
) -> None:
    with pytest.raises(
        BaseError, match=r"takes no mail to nobody@example\.org: 550 '5\.1\.1 there is\\x1b\[2J no such user"
    ):
        notice.mail(site(tmp_path, server, "nobody@example.org", "ops@example.org"), "kiln", LINES)
    assert [came.rcpt_tos for came in box.came] == [["ops@example.org"]]


def test_nobody_whom_the_server_knows(tmp_path: Path, server: str, box: Box) -> None:
    with pytest.raises(
        BaseError, match=r"takes no mail to nobody@example\.org: 550 '5\.1\.1 there is\\x1b\[2J no such user"
    ):
        notice.mail(site(tmp_path, server, "nobody@example.org"), "kiln", LINES)
    assert not box.came


def test_a_server_that_never_greets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notice, "SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(BaseError, match=f"no mail was sent by {where}: .*timed out"):
            notice.mail(site(tmp_path, where, "ops@example.org"), "kiln", LINES)
