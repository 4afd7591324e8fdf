"""Signatures by the real ssh-keygen: good ones, and each way in which one is not."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from kiln import signature
from kiln.errors import EnvironmentMissing, VerifyError

pytestmark = pytest.mark.skipif(
    not shutil.which("ssh-keygen"), reason="NO ssh-keygen HERE: no signature tested"
)

DATA = b'{"digest": "sha256:1"}\n'
NOW = "2026-01-02T03:04:05Z"


def key(path: Path, passphrase: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", "of a test", "-f", str(path)]
    subprocess.run(argv, check=True)
    return path


def allow(path: Path, mine: Path, options: str = 'namespaces="kiln"', who: str = "curator@site") -> Path:
    kind, public = mine.with_suffix(".pub").read_text().split()[:2]
    with path.open("a") as stream:
        stream.write(f"{who} {options} {kind} {public}\n")
    return path


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    return key(tmp_path / "mine")


@pytest.fixture
def allowed(tmp_path: Path, mine: Path) -> Path:
    return allow(tmp_path / "allowed", mine)


def test_a_good_signature_names_its_signer(mine: Path, allowed: Path) -> None:
    signed = signature.sign(DATA, mine, os.environ)
    assert signed.startswith(b"-----BEGIN SSH SIGNATURE-----")
    assert signature.signer(DATA, signed, allowed, NOW, os.environ) == "curator@site"


def test_one_line_with_several_names(tmp_path: Path, mine: Path) -> None:
    allowed = allow(tmp_path / "several", mine, who="a@site,b@site")
    signed = signature.sign(DATA, mine, os.environ)
    assert signature.signer(DATA, signed, allowed, NOW, os.environ) == "a@site"


def test_other_bytes(mine: Path, allowed: Path) -> None:
    signed = signature.sign(DATA, mine, os.environ)
    with pytest.raises(VerifyError, match="by curator@site is not good: Signature verification failed"):
        signature.signer(DATA + b" ", signed, allowed, NOW, os.environ)


def test_another_key(tmp_path: Path, allowed: Path) -> None:
    signed = signature.sign(DATA, key(tmp_path / "other"), os.environ)
    with pytest.raises(
        VerifyError, match=r"it is signed by the key SHA256:\S+, which .*/allowed doesn't have"
    ):
        signature.signer(DATA, signed, allowed, NOW, os.environ)


def test_a_signature_for_another_purpose(tmp_path: Path, mine: Path, allowed: Path) -> None:
    (tmp_path / "message").write_bytes(DATA)
    subprocess.run(
        ["ssh-keygen", "-q", "-Y", "sign", "-f", mine, "-n", "git", tmp_path / "message"], check=True
    )
    with pytest.raises(VerifyError, match="namespace does not match"):
        signature.signer(DATA, (tmp_path / "message.sig").read_bytes(), allowed, NOW, os.environ)


def test_a_key_that_may_sign_other_things_only(tmp_path: Path, mine: Path) -> None:
    allowed = allow(tmp_path / "others", mine, 'namespaces="git"')
    with pytest.raises(VerifyError, match='not permitted for use in signature namespace "kiln"'):
        signature.signer(DATA, signature.sign(DATA, mine, os.environ), allowed, NOW, os.environ)


def test_a_key_that_was_ended_is_good_for_what_it_signed_before(tmp_path: Path, mine: Path) -> None:
    allowed = allow(tmp_path / "ended", mine, 'namespaces="kiln",valid-before="20260301"')
    signed = signature.sign(DATA, mine, os.environ)
    assert signature.signer(DATA, signed, allowed, NOW, os.environ) == "curator@site"
    with pytest.raises(VerifyError) as caught:
        signature.signer(DATA, signed, allowed, "2026-03-02T00:00:00Z", os.environ)
    assert "expired" in "\n".join(caught.value.details)


def test_what_is_no_signature(allowed: Path) -> None:
    with pytest.raises(VerifyError, match="the signature is damaged"):
        signature.signer(DATA, b"gar\0bage", allowed, NOW, os.environ)


def test_a_missing_file_of_signers(tmp_path: Path, mine: Path) -> None:
    with pytest.raises(VerifyError, match=r"there is no file .*/nobody"):
        signature.signer(DATA, signature.sign(DATA, mine, os.environ), tmp_path / "nobody", NOW, os.environ)


def test_keys_that_cannot_sign_without_asking(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentMissing, match=r"cannot sign with .*/none"):
        signature.sign(DATA, tmp_path / "none", {})
    with pytest.raises(EnvironmentMissing, match="passphrase"):
        signature.sign(DATA, key(tmp_path / "locked", "a passphrase"), {})
    wide = key(tmp_path / "wide")
    wide.chmod(0o644)
    with pytest.raises(EnvironmentMissing, match=r"cannot sign with .*/wide: Permissions 0644"):
        signature.sign(DATA, wide, {})


def test_a_key_in_an_agent(tmp_path: Path, mine: Path, allowed: Path) -> None:
    if not shutil.which("ssh-agent"):
        pytest.skip("NO ssh-agent HERE")
    socket = tmp_path / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.PIPE, text=True) as agent:
        try:
            assert agent.stdout and agent.stdout.readline()
            environ = {**os.environ, "SSH_AUTH_SOCK": str(socket)}
            subprocess.run(["ssh-add", "-q", mine], env=environ, check=True)
            mine.unlink()
            signed = signature.sign(DATA, mine.with_suffix(".pub"), environ)
        finally:
            agent.terminate()
    assert signature.signer(DATA, signed, allowed, NOW, os.environ) == "curator@site"
