"""Telling people of a rebuild: a mail, or a POST with a plain JSON body.

Owns how both are sent. An address of a webhook may be a secret by itself: messages have its host alone.
"""

from __future__ import annotations

import json
import smtplib
import socket
from collections.abc import Mapping, Sequence
from email.message import EmailMessage
from typing import Any

import requests

from kiln.errors import BaseError
from kiln.registry.proxy import choose_proxy
from kiln.registry.transport import host_of, reason
from kiln.site import Site

SECONDS = 20.0


def post(site: Site, report: Mapping[str, Any]) -> None:
    """Send a report to the site's webhook. Raises `BaseError` where it isn't taken."""
    url = site.rebuild.webhook
    proxies = {"http": site.proxies.http, "https": site.proxies.https, "no_proxy": site.proxies.no}
    proxy = choose_proxy(url, {name: value for name, value in proxies.items() if value})
    session = requests.Session()
    session.trust_env = False
    try:
        with session.post(
            url,
            data=json.dumps(report, ensure_ascii=False).encode(),
            headers={"Content-Type": "application/json"},
            proxies={"http": proxy, "https": proxy} if proxy else {},
            timeout=SECONDS,
            verify=str(site.ca_bundle) if site.ca_bundle else True,
            allow_redirects=False,
        ) as answer:
            status = answer.status_code
    except requests.RequestException as error:
        raise BaseError(f"the webhook at {host_of(url)} was not reached: {reason(error)}") from None
    if not 200 <= status < 300:
        raise BaseError(f"the webhook at {host_of(url)} answers {status}", "look at 'rebuild: webhook'")


def mail(site: Site, subject: str, lines: Sequence[str]) -> None:
    """Send a mail to those whom the site names. Raises `BaseError` where it isn't taken for all."""
    message = EmailMessage()
    message["Subject"], message["From"] = subject, f"kiln@{socket.getfqdn()}"
    message["To"] = ", ".join(site.rebuild.mail)
    message.set_content("\n".join(lines) + "\n")
    where = site.rebuild.mail_server
    host, _, port = where.partition(":")
    try:
        with smtplib.SMTP(host, int(port or 25), timeout=SECONDS) as server:
            refused = server.send_message(message)
    except smtplib.SMTPRecipientsRefused as error:
        refused = error.recipients
    except (OSError, smtplib.SMTPException, ValueError) as error:
        raise BaseError(f"no mail was sent by {where}: {error}", "look at 'rebuild: mail_server'") from error
    if refused:
        to = "; ".join(
            f"{each}: {code} {why.decode(errors='replace')!r}" for each, (code, why) in refused.items()
        )
        raise BaseError(f"{where} takes no mail to {to}", "look at 'rebuild: mail'")
