"""Finding a suite: which mirror, which parts, what pins it."""

from __future__ import annotations

import pytest

from kiln import debootstrap
from kiln.errors import BaseError

DEBIAN, UBUNTU = debootstrap.PUBLIC["debian"], debootstrap.PUBLIC["ubuntu"]


def release(date: str = "Sat, 06 Sep 2025 12:00:00 UTC") -> bytes:
    return f"Origin: Debian\nDate: {date}\nSHA256:\n".encode()


def test_a_suite_with_all_its_parts() -> None:
    there = {
        f"{DEBIAN}/dists/bookworm/InRelease": release(),
        f"{DEBIAN}/dists/bookworm-updates/InRelease": release("Sat, 06 Sep 2025 13:00:00 UTC"),
        f"{DEBIAN}-security/dists/bookworm-security/InRelease": release(),
    }
    suite = debootstrap.find("bookworm", {}, there.get)
    assert [line.removeprefix("deb ") for line in suite.sources] == [
        f"{DEBIAN} bookworm main",
        f"{DEBIAN} bookworm-updates main",
        f"{DEBIAN}-security bookworm-security main",
    ]
    assert suite.epoch == 1757163600
    moved = {**there, f"{DEBIAN}/dists/bookworm/InRelease": release("Sun, 07 Sep 2025 12:00:00 UTC")}
    assert debootstrap.find("bookworm", {}, moved.get).digest != suite.digest


def test_a_suite_without_parts_and_of_the_other_distribution() -> None:
    there = {f"{UBUNTU}/dists/noble/InRelease": release()}
    suite = debootstrap.find("noble", {}, there.get)
    assert len(suite.sources) == 1
    assert suite.keyring.name == "ubuntu-archive-keyring.gpg"
    assert suite.sources[0].endswith("noble main universe")


def test_a_sites_mirror_is_asked_in_place_of_the_public_one() -> None:
    asked = []

    def fetch(url: str) -> bytes | None:
        asked.append(url)
        return release() if url == "http://mirror.example/debian/dists/sid/InRelease" else None

    suite = debootstrap.find("sid", {"debian": "http://mirror.example/debian/"}, fetch)
    assert suite.mirror == "http://mirror.example/debian"
    assert all(url.startswith("http://mirror.example/") for url in asked)


def test_an_unknown_suite_names_both_mirrors() -> None:
    with pytest.raises(BaseError, match=f"no suite 'bookwurm' on {DEBIAN} nor {UBUNTU}"):
        debootstrap.find("bookwurm", {}, lambda url: None)


@pytest.mark.parametrize("text", [b"", b"<html>a login page</html>", b"Date: yesterday\n", b"Date: \xff\n"])
def test_a_page_that_is_no_release_is_told(text: bytes) -> None:
    with pytest.raises(BaseError, match="has no Date"):
        debootstrap.find("bookworm", {}, lambda url: text)
