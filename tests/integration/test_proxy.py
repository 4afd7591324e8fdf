"""A build behind a proxy that wants a password: all goes through it, and the password shows nowhere."""

from __future__ import annotations

import base64
import os
import re
from pathlib import Path

import pytest

from tests.integration.debian import CA_MARK, SECRETS, USER, Debian


def seen_by_the_layer(debian: Debian) -> dict[str, str]:
    lines = re.findall(r"^SEEN ([^=\n]+)=(.*)$", debian.project.log("*/06-run.log"), re.MULTILINE)
    return dict(lines)


def test_every_download_goes_through_the_proxy(debian: Debian) -> None:
    asked = debian.seen["requests"]
    release = "GET http://deb.debian.org/debian/dists/bookworm/InRelease"
    # Kiln itself, mmdebstrap on the host, and apt in a layer ask for it.
    assert asked.count(release) >= 3
    for part in ("/pool/main/r/rolldice/", "CONNECT pypi.org:443", "CONNECT files.pythonhosted.org:443"):
        assert any(part in line for line in asked), part


def test_nothing_is_asked_without_the_password_that_could_be(debian: Debian) -> None:
    assert [line for line in debian.seen["refused"] if line in debian.seen["requests"]] == []


def test_layers_see_the_proxy_in_lower_and_upper_case(debian: Debian) -> None:
    seen = seen_by_the_layer(debian)
    for name in ("http_proxy", "https_proxy"):
        assert seen[name] == seen[name.upper()] == f"http://{USER}:***@{debian.seen['proxy']}"
    assert seen["no_proxy"] == seen["NO_PROXY"] == "nothing.example"


def test_layers_trust_the_sites_certificates(debian: Debian) -> None:
    seen = seen_by_the_layer(debian)
    for name in ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        assert seen[name] == "/run/kiln/ca.crt"
    assert f"CA {CA_MARK}" in debian.project.log("*/06-run.log")


def test_layers_see_the_manifests_variables_and_no_others_of_the_caller(debian: Debian) -> None:
    seen = seen_by_the_layer(debian)
    assert seen["GREETING"] == "Good day"
    assert "HOME" in seen
    assert seen["HOME"] != os.environ["HOME"] or seen["HOME"] == "/root"
    assert not {"KILN_IMAGES", "KILN_CACHE", "PYTHONDONTWRITEBYTECODE"} & set(seen)


@pytest.mark.parametrize("place", ["cache", "images", "home", "sites"])
def test_the_password_is_in_no_log_and_no_record(debian: Debian, place: str) -> None:
    words = [secret.encode() for secret in SECRETS]
    words.append(base64.b64encode(f"{USER}:{SECRETS[1]}".encode()))
    for path in (debian.project.root / place).rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert not any(word in data for word in words), path


def test_the_password_is_in_nothing_that_is_shown(debian: Debian) -> None:
    assert not any(secret in debian.done.said for secret in SECRETS)


def test_the_password_is_in_no_command_line(debian: Debian) -> None:
    outside = debian.seen["command_lines"]
    for program in ("bwrap", "mmdebstrap", "apt-get", "pip install", "uv pip install"):
        assert any(program in line for line in outside), f"{program} was never seen at work"
    inside = [line for line in debian.project.log("*/06-run.log").splitlines() if line.startswith("CMDLINE")]
    assert any("layer.sh" in line for line in inside)
    # In a log it would have been masked: the mask is looked for too.
    assert [line for line in (*outside, *inside) if any(word in line for word in (*SECRETS, "***"))] == []


def test_the_image_asks_debians_public_mirror(debian: Debian) -> None:
    sources = Path(debian.tree, "etc/apt/sources.list").read_text()
    assert re.findall(r"http\S+", sources) == [
        "http://deb.debian.org/debian",
        "http://deb.debian.org/debian",
        "http://deb.debian.org/debian-security",
    ]
